//! `conveyor-raft dev`: a whole cluster in one process, fed from a file.

mod cluster;
mod feed;
mod folder;
mod report;

use std::time::Duration;

use crate::cli::DevArgs;
use crate::failure::{Context, Failure};
use crate::input::Source;

use cluster::DevCluster;
use feed::{Feeder, Tally};
use folder::Folder;

/// How long the cluster may take to elect, or the slowest node to catch up.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    // Before anything is started: a mistyped name should cost no election.
    let source = args.input.as_deref().map(Source::open).transpose()?;
    let folder = Folder::open(args.dir.as_deref(), args.nodes)?;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let worked = tokio::select! {
        worked = work(&args, &folder, source) => worked,
        signal = &mut interrupted => {
            signal.context("cannot wait for Ctrl-C")?;
            return Err(Failure::new("interrupted"));
        }
    };
    let (cluster, verdict) = worked?;
    if !args.exit {
        if !args.json {
            println!("The cluster runs until Ctrl-C.");
        }
        interrupted.await.context("cannot wait for Ctrl-C")?;
    }
    cluster.shutdown().await;
    verdict
}

/// Starts, feeds and reports. The cluster is still up afterwards; the verdict says whether all was
/// well.
async fn work(
    args: &DevArgs,
    folder: &Folder,
    source: Option<Source>,
) -> Result<(DevCluster, Result<(), Failure>), Failure> {
    let cluster = DevCluster::start(folder).await?;
    cluster.wait_until_ready(PATIENCE).await?;
    let tally = match source {
        Some(source) => {
            Feeder::new(&cluster, source.size)
                .run(source.spawn()?)
                .await?
        }
        None => Tally::default(),
    };
    let last = tally.last_index.max(cluster.commit_index());
    let nodes = cluster.agree(last, PATIENCE).await?;
    let report = report::Report::new(&cluster, &tally, &nodes);
    match args.json {
        true => println!("{}", report.json()?),
        false => report.print(args.input.is_some()),
    }
    Ok((cluster, report.verdict()))
}

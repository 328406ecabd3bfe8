//! `conveyor-raft dev`: a whole cluster in one process, fed from a file.

mod cluster;
mod feed;
mod folder;
mod report;

use std::time::Duration;

use crate::cli::DevArgs;
use crate::failure::{Context, Failure};
use crate::input::Source;
use crate::output::say;

use cluster::DevCluster;
use feed::{Feeder, Tally};
use folder::Folder;
use report::Report;

/// How long the cluster may take to elect, or the slowest node to catch up.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    // Before anything is started: a mistyped name should cost no election.
    let source = args.input.as_deref().map(Source::open).transpose()?;
    let folder = Folder::open(args.dir.as_deref(), args.nodes)?;
    let cluster = DevCluster::start(&folder).await?;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let worked = tokio::select! {
        worked = work(&args, &cluster, source) => worked,
        signal = &mut interrupted => {
            let failure = signal.err().map_or(Failure::new("interrupted"), Failure::from);
            Err(failure)
        }
    };
    let mut waited = Ok(());
    if let Ok(report) = &worked {
        waited = stay(&args, report, interrupted).await;
    }
    // The nodes close before the folder goes, whatever happened.
    cluster.shutdown().await;
    waited.and(worked?.verdict())
}

async fn work(
    args: &DevArgs,
    cluster: &DevCluster,
    source: Option<Source>,
) -> Result<Report, Failure> {
    cluster.wait_until_ready(PATIENCE).await?;
    let tally = match source {
        Some(source) => {
            let size = source.size;
            Feeder::new(cluster, size).run(source.spawn()?).await?
        }
        None => Tally::default(),
    };
    let last = tally.last_index.max(cluster.commit_index());
    let nodes = cluster.agree(last, PATIENCE).await?;
    let report = Report::new(cluster, &tally, &nodes);
    match args.json {
        true => say!("{}", report.json()?),
        false => report.print(args.input.is_some()),
    }
    Ok(report)
}

async fn stay(
    args: &DevArgs,
    report: &Report,
    interrupted: impl Future<Output = std::io::Result<()>>,
) -> Result<(), Failure> {
    if args.exit {
        return Ok(());
    }
    if !args.json {
        if let Err(failure) = report.verdict() {
            eprintln!("error: {failure}");
        }
        say!("The cluster runs until Ctrl-C.");
    }
    interrupted.await.context("cannot wait for Ctrl-C")
}

#[cfg(test)]
mod tests;

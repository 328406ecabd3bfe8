//! Whole clusters beside each other: conveyor-raft with everything real (mapped logs with sync,
//! QUIC with mutual TLS), on the RAM file system and on the disk, and there once more with a state machine
//! that only counts, and openraft in memory with a call in place of a network. The sides take turns in one run; ratios within each round are what counts.
//! Writes `docs/benchmarks/cluster.md` and its plots, unless told to run once (`--test`).

#[path = "../../../common/mod.rs"]
mod common;

mod closed;
mod counting;
mod openraft_cluster;
mod openraft_store;
mod plot;
mod table;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use closed::{Came, Propose, run};
use common::bed::{Bed, Load};
use common::medium::{Medium, media};
use counting::Counting;
use openraft_cluster::OpenraftCluster;
use table::Row;
use tokio::runtime::{Builder, Runtime};

const CLIENTS: [usize; 4] = [1, 64, 1024, 4096];
const ROUNDS: usize = 7;
const SPAN: Duration = Duration::from_millis(500);
/// Workers of its servers' runtime in openraft's own minimal benchmark.
const OPENRAFT_WORKERS: usize = 16;

impl Propose for Load {
    async fn propose(&self, client: usize) {
        Load::propose(self, &self.sources[client]).await;
    }
}

/// Openraft, and how many proposals it answered.
struct Openraft {
    cluster: OpenraftCluster,
    answered: AtomicU64,
}

impl Propose for Openraft {
    async fn propose(&self, _: usize) {
        self.cluster.propose().await;
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// One side; the first is what the others are measured against.
enum Side {
    Ours(&'static str, Bed),
    Counting(&'static str, Arc<Counting>),
    Openraft(&'static str, Arc<Openraft>),
}

impl Side {
    fn name(&self) -> &'static str {
        match self {
            Self::Ours(name, _) | Self::Counting(name, _) | Self::Openraft(name, _) => name,
        }
    }

    async fn run(&self, clients: usize, span: Duration) -> Came {
        match self {
            Self::Ours(_, bed) => run(&bed.load, clients, span).await,
            Self::Counting(_, cluster) => run(cluster, clients, span).await,
            Self::Openraft(_, cluster) => run(cluster, clients, span).await,
        }
    }

    /// Fails unless every node has everything that was answered.
    async fn finish(self) {
        match self {
            Self::Ours(_, bed) => bed.finish().await,
            Self::Counting(_, cluster) => {
                let cluster = Arc::into_inner(cluster).expect("every task has ended");
                cluster.finish().await;
            }
            Self::Openraft(_, cluster) => {
                let cluster = Arc::into_inner(cluster).expect("every task has ended");
                let answered = cluster.answered.into_inner();
                cluster.cluster.verify_and_stop(answered).await;
            }
        }
    }
}

async fn openraft(servers: &Runtime, name: &'static str, payload: usize) -> Side {
    let payload = Bytes::from(vec![0x5a; payload]);
    let started = servers.spawn(OpenraftCluster::start(payload));
    let cluster = started.await.expect("openraft starts");
    let answered = AtomicU64::new(0);
    Side::Openraft(name, Arc::new(Openraft { cluster, answered }))
}

async fn sides(servers: &Runtime, [ram, disk]: &[Medium; 2], clients: usize) -> Vec<Side> {
    vec![
        Side::Ours(
            "conveyor-raft, RAM file system",
            Bed::start(ram, 3, clients).await,
        ),
        Side::Ours("conveyor-raft, disk", Bed::start(disk, 3, clients).await),
        Side::Counting(
            "conveyor-raft, RAM file system, counting",
            Arc::new(Counting::start(ram).await),
        ),
        openraft(servers, "openraft, in memory, 128 B", 128).await,
        openraft(servers, "openraft, in memory, empty", 0).await,
    ]
}

/// All sides in turns at one number of clients.
async fn measure(
    servers: &Runtime,
    media: &[Medium; 2],
    clients: usize,
    rounds: usize,
) -> Vec<Row> {
    let sides = sides(servers, media, clients).await;
    let mut came: Vec<Vec<Came>> = sides.iter().map(|_| Vec::new()).collect();
    for side in &sides {
        side.run(clients, SPAN).await;
    }
    for round in 0..rounds {
        for nth in 0..sides.len() {
            // No side always comes after the same one.
            let nth = (nth + round) % sides.len();
            came[nth].push(sides[nth].run(clients, SPAN).await);
        }
    }
    let rows = sides.iter().zip(&came);
    let rows = rows.map(|(side, of_side)| Row::new(side.name(), clients, of_side, &came[0]));
    let rows: Vec<Row> = rows.collect();
    for side in sides {
        side.finish().await;
    }
    rows
}

fn main() {
    let short = common::log::short();
    let workers = |count| {
        Builder::new_multi_thread()
            .worker_threads(count)
            .enable_all()
            .build()
    };
    let servers = workers(OPENRAFT_WORKERS).expect("a runtime");
    let clients = workers(2).expect("a runtime");
    let (media, rounds) = (media(), if short { 1 } else { ROUNDS });
    let mut rows = Vec::new();
    for count in CLIENTS {
        let of_count = clients.block_on(measure(&servers, &media, count, rounds));
        of_count.iter().for_each(|row| println!("{row}"));
        rows.extend(of_count);
    }
    if short {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks");
    std::fs::create_dir_all(&folder).expect("the folder of the results");
    plot::throughput(&folder.join("cluster-throughput.svg"), &rows).expect("plotted");
    plot::latency(&folder.join("cluster-latency.svg"), &rows).expect("plotted");
    let text = table::page(&rows, &media);
    std::fs::write(folder.join("cluster.md"), text).expect("written");
    println!("written: docs/benchmarks/cluster.md and its two plots");
}

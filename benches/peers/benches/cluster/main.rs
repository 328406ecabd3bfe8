//! Whole clusters beside each other: conveyor-raft with everything real (mapped logs with sync,
//! QUIC with mutual TLS), on the RAM file system and on the disk, and there once more with a state machine
//! that only counts; openraft in memory with a call in place of a network, and over TCP with logs that sync;
//! hashicorp/raft and etcd where they are installed. The sides take turns in one run; ratios within each
//! round are what counts. Writes `docs/benchmarks/cluster.md` and its plots, unless told to run once (`--test`).

#[path = "../../../common/mod.rs"]
mod common;

mod closed;
mod counting;
mod etcd;
mod etcd_client;
mod hashicorp;
mod openraft_cluster;
mod openraft_serve;
mod openraft_store;
mod openraft_synced;
mod openraft_tcp;
mod plot;
mod sides;
mod table;

use std::path::Path;

use closed::Came;
use common::medium::{Medium, media};
use sides::{Others, Side};
use table::{Row, Surroundings};
use tokio::runtime::{Builder, Runtime};

const CLIENTS: [usize; 4] = [1, 64, 1024, 4096];
const ROUNDS: usize = 5;
/// Workers of its servers' runtime in openraft's own minimal benchmark.
const OPENRAFT_WORKERS: usize = 16;

/// All sides in turns at one number of clients.
async fn measure(
    servers: &Runtime,
    media: &[Medium; 2],
    others: &Others,
    clients: usize,
    rounds: usize,
) -> Vec<Row> {
    let mut sides: Vec<Side> = sides::start(servers, media, others, clients).await;
    let mut came: Vec<Vec<Came>> = sides.iter().map(|_| Vec::new()).collect();
    for side in &mut sides {
        side.run(clients).await;
    }
    for round in 0..rounds {
        for nth in 0..sides.len() {
            // No side always comes after the same one.
            let nth = (nth + round) % sides.len();
            came[nth].push(sides[nth].run(clients).await);
        }
    }
    let rows = sides.iter().zip(&came);
    // Against ours on the same medium.
    let ours = |side: &Side| &came[usize::from(side.disk)];
    let rows = rows.map(|(side, of_side)| Row::new(side.name, clients, of_side, ours(side)));
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
    let others = Others::look();
    others.skipped().iter().for_each(|line| eprintln!("{line}"));
    let before = Surroundings::look(&media);
    let mut rows = Vec::new();
    for count in CLIENTS {
        let of_count = clients.block_on(measure(&servers, &media, &others, count, rounds));
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
    let text = table::page(&rows, &others, [&before, &Surroundings::look(&media)]);
    std::fs::write(folder.join("cluster.md"), text).expect("written");
    println!("written: docs/benchmarks/cluster.md and its two plots");
}

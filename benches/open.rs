//! Starting a node again, a cluster of one, on the RAM file system and the disk; files in the page cache.
//!
//! * `open/{ram,disk}/log`: its log has 64 MiB of commands of 128 bytes and there is no snapshot. Until it
//!   has started, which is when the log is read and checked.
//! * `open/{ram,disk}/replay`: the same, and then from when it leads until it has applied all of them. The
//!   election between is the timeout, and left out.
//! * `open/{ram,disk}/snapshot`: a snapshot of a state of 64 MiB, and nothing behind it. Until it has started,
//!   which is when the state is restored.
//!
//! The log alone, and without a node: `wal_open` in `benches/wal.rs`.

mod common;

use std::time::{Duration, Instant};

use common::load::{FIRST_OFFSET, command, source};
use common::log::short;
use common::medium::{Medium, media};
use common::tuning::Tuning;
use common::{BenchCluster, fill};
use conveyor_raft::snapshot::SnapshotOptions;
use conveyor_raft::{LogIndex, RouterStateMachine};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);
const COMMAND: usize = 128;

fn bytes() -> usize {
    if short() { 1 << 20 } else { 64 << 20 }
}

/// A place where a node has run.
struct Bed {
    cluster: BenchCluster,
    last: LogIndex,
}

impl Bed {
    async fn start(medium: &Medium, what: &str) -> Self {
        let tuning = Tuning {
            snapshots: SnapshotOptions {
                every_entries: 0,
                every_bytes: 0,
                keep_tail_entries: 0,
                keep_tail_bytes: 0,
                ..SnapshotOptions::default()
            },
            ..Tuning::default()
        };
        let machine = RouterStateMachine::new;
        let cluster = BenchCluster::start_tuned(&medium.folder(), 1, machine, tuning).await;
        let leader = cluster.leader().await;
        if what == "snapshot" {
            fill::state(&leader, bytes()).await;
            let taken = leader.take_snapshot(PATIENCE).await;
            taken.expect("a snapshot in time");
        } else {
            let source = source(0);
            let offsets = FIRST_OFFSET..FIRST_OFFSET + (bytes() / COMMAND) as u64;
            let commands = offsets.map(|offset| command(source.clone(), offset));
            fill::all(&leader, commands).await;
        }
        let last = leader.applied_index();
        leader.shutdown().await;
        Self { cluster, last }
    }

    async fn open(&self, what: &str) -> Duration {
        let start = Instant::now();
        let node = self.cluster.start_node(1, RouterStateMachine::new()).await;
        let mut took = start.elapsed();
        if what == "replay" {
            while !node.is_leader() {
                assert!(start.elapsed() < PATIENCE, "no leader");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let leads = Instant::now();
            let applied = node.wait_applied(self.last, PATIENCE).await;
            applied.expect("everything is applied");
            took += leads.elapsed();
        }
        if what == "snapshot" {
            assert!(node.applied_index() >= self.last);
        }
        // Shown by the driver, once it runs.
        while node.status().last.index < self.last {
            assert!(start.elapsed() < PATIENCE, "the log ends early");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.shutdown().await;
        took
    }
}

fn open(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("open");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(bytes() as u64));
    for medium in media() {
        for what in ["log", "replay", "snapshot"] {
            let mut bed = None;
            group.bench_function(BenchmarkId::new(medium.name, what), |bencher| {
                let bed = bed.get_or_insert_with(|| runtime.block_on(Bed::start(&medium, what)));
                bencher.iter_custom(|count| {
                    (0..count).map(|_| runtime.block_on(bed.open(what))).sum()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);

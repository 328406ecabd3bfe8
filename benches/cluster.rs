//! Committed commands per second of a real three-node cluster in one process.
//!
//! `cluster_commit/{ram,disk}/N`: N tasks, each with exactly one `propose` of a 128-byte command
//! outstanding; no batch call, no barrier. An element is a proposal that returned applied. On the
//! RAM file system every sync call is issued but the medium keeps nothing: the whole software path,
//! not durability.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::BenchCluster;
use common::load::{FIRST_OFFSET, command, source};
use common::medium::{Medium, media};
use conveyor_raft::RaftNode;
use conveyor_raft::state_machine::Outcome;
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const CLIENTS: [usize; 3] = [1, 64, 1024];

/// What the tasks share. A source belongs to one task, so its offsets rise and each is applied.
struct Load {
    leader: RaftNode,
    sources: Vec<String>,
    next_offset: AtomicU64,
    applied: AtomicU64,
    /// Index of the first and of the last proposal applied.
    first: AtomicU64,
    last: AtomicU64,
}

impl Load {
    async fn propose(&self, source: &str) {
        let offset = self.next_offset.fetch_add(1, Ordering::Relaxed);
        let response = self
            .leader
            .propose(command(source.to_owned(), offset))
            .await;
        let response = response.expect("the leader keeps leading and takes every command");
        let applied = matches!(response.outcome, Outcome::Applied(_));
        assert!(applied, "{response:?}");
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.first.fetch_min(response.index, Ordering::Relaxed);
        self.last.fetch_max(response.index, Ordering::Relaxed);
    }
}

/// `count` proposals over as many tasks as there are sources, each waiting for its answer before
/// it takes the next.
async fn run(load: &Arc<Load>, count: u64) -> Duration {
    let left = Arc::new(AtomicU64::new(count));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for nth in 0..load.sources.len() {
        let (load, left) = (Arc::clone(load), Arc::clone(&left));
        tasks.spawn(async move {
            let take = || {
                let less = |left: u64| left.checked_sub(1);
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            };
            while take().is_ok() {
                load.propose(&load.sources[nth]).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task fails");
    }
    start.elapsed()
}

/// A cluster under one benchmark's load. Criterion calls a benchmark's closure for every sample;
/// the cluster lives for all of them, so that none measures cold logs and new connections.
struct Bed {
    cluster: BenchCluster,
    load: Arc<Load>,
}

impl Bed {
    async fn start(medium: &Medium, clients: usize) -> Self {
        let cluster = BenchCluster::start(&medium.folder(), 3).await;
        let leader = cluster.leader().await;
        let load = Arc::new(Load {
            leader,
            sources: (0..clients).map(source).collect(),
            next_offset: AtomicU64::new(FIRST_OFFSET),
            applied: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
        });
        // Every source is known before the clock starts: all samples do the same work.
        for source in &load.sources {
            load.propose(source).await;
        }
        Self { cluster, load }
    }

    /// Every entry since the first proposal is one that returned applied, and every node has it.
    async fn finish(self) {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let (first, last) = (read(&self.load.first), read(&self.load.last));
        let applied = read(&self.load.applied);
        assert_eq!(last + 1 - first, applied, "entries and answers");
        let sources = self.load.sources.len();
        self.cluster.verify_and_stop(last, sources).await;
    }
}

fn cluster_commit(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("cluster_commit");
    group
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(8));
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(1));
    for medium in media() {
        for clients in CLIENTS {
            // Started by the first sample, so that a list or a filter starts nothing.
            let mut bed = None;
            let id = BenchmarkId::new(medium.name, clients);
            group.bench_function(id, |bencher| {
                let bed = bed.get_or_insert_with(|| runtime.block_on(Bed::start(&medium, clients)));
                bencher.iter_custom(|count| runtime.block_on(run(&bed.load, count)));
            });
            if let Some(bed) = bed {
                runtime.block_on(bed.finish());
                medium.print_floor();
            }
        }
    }
    group.finish();
}

criterion_group!(benches, cluster_commit);
criterion_main!(benches);

//! A real cluster under a closed loop: N tasks, each with exactly one proposal outstanding.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conveyor_raft::RaftNode;
use conveyor_raft::state_machine::Outcome;
use tokio::task::JoinSet;

use super::BenchCluster;
use super::load::{FIRST_OFFSET, command, source};
use super::medium::Medium;

/// What the tasks share. A source belongs to one task, so its offsets rise and each is applied.
pub(crate) struct Load {
    pub(crate) leader: RaftNode,
    pub(crate) sources: Vec<String>,
    next_offset: AtomicU64,
    applied: AtomicU64,
    /// Index of the first and of the last proposal applied.
    first: AtomicU64,
    last: AtomicU64,
}

impl Load {
    pub(crate) async fn propose(&self, source: &str) {
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
pub(crate) async fn run(load: &Arc<Load>, count: u64) -> Duration {
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
pub(crate) struct Bed {
    pub(crate) cluster: BenchCluster,
    pub(crate) load: Arc<Load>,
}

impl Bed {
    pub(crate) async fn start(medium: &Medium, size: u64, clients: usize) -> Self {
        let cluster = BenchCluster::start(&medium.folder(), size).await;
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
    pub(crate) async fn finish(self) {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let (first, last) = (read(&self.load.first), read(&self.load.last));
        let applied = read(&self.load.applied);
        assert_eq!(last + 1 - first, applied, "entries and answers");
        let sources = self.load.sources.len();
        self.cluster.verify_and_stop(last, sources).await;
    }
}

//! A real cluster under a closed loop: N tasks, each with exactly one proposal outstanding.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conveyor_raft::node::{Place, ProposeOptions};
use conveyor_raft::state_machine::{Outcome, RouterResponse};
use conveyor_raft::{RaftNode, RouterCommand, RouterState, RouterStateMachine};
use tokio::task::JoinSet;

use super::BenchCluster;
use super::load::{Commands, FIRST_OFFSET};
use super::medium::Medium;
use super::tuning::Tuning;

/// What the tasks share. A source belongs to one task, so its offsets rise and each is applied.
pub(crate) struct Load {
    pub(crate) leader: RaftNode,
    pub(crate) sources: Vec<String>,
    commands: Commands,
    next_offset: AtomicU64,
    applied: AtomicU64,
    /// Index of the first and of the last proposal applied.
    first: AtomicU64,
    last: AtomicU64,
}

impl Load {
    pub(crate) async fn propose(&self, source: &str) {
        self.propose_command(self.next(source)).await;
    }

    async fn propose_command(&self, command: RouterCommand) {
        let response = self.leader.propose(command).await;
        self.count(&response.expect("the leader keeps leading and takes every command"));
    }

    /// The next command of a source.
    fn next(&self, source: &str) -> RouterCommand {
        let offset = self.next_offset.fetch_add(1, Ordering::Relaxed);
        self.commands.command(source, offset)
    }

    fn count(&self, response: &RouterResponse) {
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

/// `count` batches of so many commands through one pipeline, each answered in full before the next.
pub(crate) async fn run_batches(load: &Load, batch: u64, count: u64) -> Duration {
    let (pipeline, mut outcomes) = load.leader.pipeline();
    let start = Instant::now();
    for _ in 0..count {
        for ticket in 0..batch {
            let place = Place {
                ticket,
                ..Place::default()
            };
            let command = load.next(&load.sources[0]);
            pipeline.submit(place, &command, ProposeOptions::default());
        }
        let mut came = Vec::with_capacity(batch as usize);
        while came.len() < batch as usize {
            outcomes.receive(&mut came, batch as usize).await;
        }
        for (_, outcome) in came {
            load.count(&outcome.expect("the leader keeps leading and takes every command"));
        }
    }
    start.elapsed()
}

/// Proposals a second of each load in turns of about `span`, by round.
pub(crate) async fn rates(loads: &[&Arc<Load>], rounds: usize, span: Duration) -> Vec<Vec<f64>> {
    let mut counts = Vec::new();
    for load in loads {
        let warm = 8 * load.sources.len() as u64;
        run(load, warm).await;
        let took = run(load, warm).await.as_secs_f64();
        counts.push((warm as f64 * span.as_secs_f64() / took).max(1.0) as u64);
    }
    let mut rates = vec![Vec::new(); loads.len()];
    for round in 0..rounds {
        for nth in 0..loads.len() {
            // None always comes after the same one.
            let nth = (nth + round) % loads.len();
            let took = run(loads[nth], counts[nth]).await.as_secs_f64();
            rates[nth].push(counts[nth] as f64 / took);
            // A first guess from few commands is far off.
            counts[nth] = (counts[nth] as f64 * span.as_secs_f64() / took).max(1.0) as u64;
        }
    }
    rates
}

/// A cluster under one benchmark's load. Criterion calls a benchmark's closure for every sample;
/// the cluster lives for all of them, so that none measures cold logs and new connections.
pub(crate) struct Bed {
    pub(crate) cluster: BenchCluster,
    pub(crate) load: Arc<Load>,
}

impl Bed {
    pub(crate) async fn start(medium: &Medium, size: u64, clients: usize) -> Self {
        let tuning = Tuning::default();
        Self::start_tuned(medium, size, clients, Commands::Usual, tuning).await
    }

    pub(crate) async fn start_tuned(
        medium: &Medium,
        size: u64,
        clients: usize,
        commands: Commands,
        tuning: Tuning,
    ) -> Self {
        let machine = RouterStateMachine::new;
        let cluster = BenchCluster::start_tuned(&medium.folder(), size, machine, tuning).await;
        let leader = cluster.leader().await;
        let load = Arc::new(Load {
            leader,
            sources: (0..clients).map(|task| commands.source(task)).collect(),
            commands,
            next_offset: AtomicU64::new(FIRST_OFFSET),
            applied: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
        });
        // Every source is known before the clock starts: all samples do the same work.
        for source in &load.sources {
            if let Some(founding) = commands.founding(source) {
                load.propose_command(founding).await;
            }
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
        let (commands, sources) = (self.load.commands, self.load.sources.len());
        let check = |view: &RouterState| commands.check(view, sources);
        self.cluster.verify_with_and_stop(last, check).await;
    }
}

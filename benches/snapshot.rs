//! Snapshots of a router state of 64 MiB in a real cluster of three in one process.
//!
//! * `snapshot/{ram,disk}/take`: the leader writes one, at no limited rate. It is looked every 5 ms whether it
//!   is there.
//! * `snapshot/{ram,disk}/install`: a follower that has just started, and lacks entries that the leader let
//!   go of, is sent one; until its state is that one.
//!
//! After all, or alone with `-- ratios`: what callers wait for their commands while snapshots are taken one
//! after the other and while one is sent, at the default rates, in turns with neither.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::log::short;
use common::medium::{Medium, media};
use common::ratios::{self, quartiles};
use common::tuning::Tuning;
use common::{BenchCluster, fill};
use conveyor_raft::snapshot::SnapshotOptions;
use conveyor_raft::{NodeId, RaftNode, RouterCommand, RouterStateMachine};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);
const CALLERS: usize = 64;
const ROUNDS: usize = 7;
const SPAN: Duration = Duration::from_secs(1);

fn state_bytes() -> usize {
    if short() { 1 << 20 } else { 64 << 20 }
}

/// Snapshots are taken when a bench says so, and the log keeps nothing behind them.
fn on_demand(options: SnapshotOptions) -> Tuning {
    Tuning {
        snapshots: SnapshotOptions {
            every_entries: 0,
            every_bytes: 0,
            keep_tail_entries: 0,
            keep_tail_bytes: 0,
            keep_for_peers_entries: 0,
            ..options
        },
        ..Tuning::default()
    }
}

fn without_limits() -> SnapshotOptions {
    SnapshotOptions {
        write_bytes_per_second: 1 << 40,
        send_bytes_per_second: 1 << 40,
        ..SnapshotOptions::default()
    }
}

/// A cluster with such a state.
struct Bed {
    cluster: BenchCluster,
    leader: RaftNode,
    follower: NodeId,
}

impl Bed {
    async fn start(medium: &Medium, options: SnapshotOptions) -> Self {
        let (machine, tuning) = (RouterStateMachine::new, on_demand(options));
        let cluster = BenchCluster::start_tuned(&medium.folder(), 3, machine, tuning).await;
        let leader = cluster.leader().await;
        fill::state(&leader, state_bytes()).await;
        let follower = leader.id() % 3 + 1;
        Self {
            cluster,
            leader,
            follower,
        }
    }

    fn follower(&self) -> &RaftNode {
        &self.cluster.nodes[self.follower as usize - 1]
    }

    async fn take(&self) -> Duration {
        // Otherwise the last one would do.
        self.write().await;
        let start = Instant::now();
        let taken = self.leader.take_snapshot(PATIENCE).await;
        taken.expect("a snapshot in time");
        start.elapsed()
    }

    async fn write(&self) {
        let written = self.leader.propose(RouterCommand::Noop).await;
        written.expect("the leader takes every command");
    }

    /// Stops the follower until the leader has let go of what it lacks, and starts it.
    async fn leave_behind(&mut self) {
        self.follower().shutdown().await;
        self.take().await;
        let log_start = async |node: &RaftNode| node.status().log_start.index;
        let begun = Instant::now();
        let lacks = self.follower().applied_index();
        while log_start(&self.leader).await <= lacks {
            assert!(begun.elapsed() < PATIENCE, "the log is not compacted");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let machine = RouterStateMachine::new();
        let started = self.cluster.start_node(self.follower, machine).await;
        self.cluster.nodes[self.follower as usize - 1] = started;
    }

    async fn installed(&self) -> Duration {
        let start = Instant::now();
        while self.follower().status().snapshots.installed == 0 {
            assert!(start.elapsed() < PATIENCE, "it is not installed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        start.elapsed()
    }

    async fn install(&mut self) -> Duration {
        self.leave_behind().await;
        self.installed().await
    }

    async fn finish(self) {
        self.write().await;
        let (last, records) = (self.leader.applied_index(), state_bytes() / fill::RECORD);
        let check = |view: &conveyor_raft::RouterState| assert_eq!(view.pipelines.len(), records);
        self.cluster.verify_with_and_stop(last, check).await;
    }
}

fn snapshot(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("snapshot");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(state_bytes() as u64));
    for medium in media() {
        let mut bed = None;
        for what in ["take", "install"] {
            group.bench_function(BenchmarkId::new(medium.name, what), |bencher| {
                let bed = bed
                    .get_or_insert_with(|| runtime.block_on(Bed::start(&medium, without_limits())));
                bencher.iter_custom(|count| {
                    let mut took = Duration::ZERO;
                    for _ in 0..count {
                        took += match what {
                            "take" => runtime.block_on(bed.take()),
                            _ => runtime.block_on(bed.install()),
                        };
                    }
                    took
                });
            });
        }
        if let Some(bed) = bed {
            runtime.block_on(bed.finish());
        }
    }
    group.finish();
}

/// Callers that each send the next command when the last one is applied.
struct Callers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Duration>>>,
}

impl Callers {
    fn start(leader: &RaftNode) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..CALLERS).map(|caller| {
            let (leader, stop) = (leader.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut took = Vec::new();
                let id = format!("mask-{caller}");
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let update = RouterCommand::register_service(&*id, "transform", "10.0.1.5:80");
                    leader.propose(update).await.expect("applied");
                    took.push(start.elapsed());
                }
                took
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
        }
    }

    /// The median and the slowest hundredth, microseconds.
    async fn end(self) -> [f64; 2] {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.expect("no proposal fails"));
        }
        all.sort_unstable();
        [all.len() / 2, all.len() * 99 / 100].map(|nth| all[nth].as_secs_f64() * 1e6)
    }
}

async fn one_round(bed: &mut Bed) -> ([[f64; 2]; 3], usize) {
    let callers = Callers::start(&bed.leader);
    tokio::time::sleep(SPAN).await;
    let neither = callers.end().await;
    let callers = Callers::start(&bed.leader);
    let (begun, mut taken) = (Instant::now(), 0);
    while begun.elapsed() < SPAN {
        bed.take().await;
        taken += 1;
    }
    let taking = callers.end().await;
    bed.leave_behind().await;
    let callers = Callers::start(&bed.leader);
    bed.installed().await;
    ([neither, taking, callers.end().await], taken)
}

async fn print_ratios() {
    for medium in media() {
        let mut bed = Bed::start(&medium, SnapshotOptions::default()).await;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(one_round(&mut bed).await);
        }
        bed.finish().await;
        let taken: usize = rounds.iter().map(|(_, taken)| taken).sum();
        println!("{}: {taken} snapshots taken in {ROUNDS} spans", medium.name);
        for (nth, name) in ["neither", "taking", "sending"].into_iter().enumerate() {
            let of = |part: usize| {
                let all = rounds.iter().map(|(times, _)| times[nth][part]);
                quartiles(all.collect())[1]
            };
            let slower = rounds.iter().map(|(times, _)| times[nth][1] / times[0][1]);
            let [low, ratio, high] = quartiles(slower.collect());
            println!(
                "{:<4} {name:<8} p50 {:>7.0} us, p99 {:>7.0} us x{ratio:.2} ({low:.2} to {high:.2})",
                medium.name,
                of(0),
                of(1),
            );
        }
    }
}

criterion_group!(benches, snapshot);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    if ratios::wanted() && !short() {
        Runtime::new().expect("a runtime").block_on(print_ratios());
    }
}

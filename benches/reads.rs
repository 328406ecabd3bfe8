//! Reads per second at the leader of a real cluster of three in one process, on the RAM file system.
//!
//! `reads/{local,lease,linearizable}/N`: N tasks, each with one read outstanding; `reads/state`: one task
//! calls [`RaftNode::state`]; `reads/arc_clone`: what no read can do without. An element is a read.
//! Meanwhile nobody writes. After all, or alone with `-- ratios`, they take turns with each other and with
//! writes, and their ratios are printed.

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::bed::{Bed, run};
use common::load::Commands;
use common::log::short;
use common::medium::media;
use common::ratios::{self, quartiles};
use common::tuning::Tuning;
use conveyor_raft::{RaftNode, ReadConsistency};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const READS: [(&str, ReadConsistency); 3] = [
    ("local", ReadConsistency::Local),
    ("lease", ReadConsistency::Lease),
    ("linearizable", ReadConsistency::Linearizable),
];
const TASKS: [usize; 3] = [1, 64, 1024];
const ROUNDS: usize = 15;
const SPAN: Duration = Duration::from_millis(300);
/// How far members' clocks may run apart, millionths.
const DRIFT_PPM: u32 = 1000;

async fn start() -> Bed {
    let [ram, _] = media();
    let tuning = Tuning {
        lease_drift_ppm: Some(DRIFT_PPM),
        ..Tuning::default()
    };
    let clients = TASKS[TASKS.len() - 1];
    Bed::start_tuned(&ram, 3, clients, Commands::Usual, tuning).await
}

/// `count` reads over so many tasks. Each reflects what was applied before the first.
async fn read(node: &RaftNode, consistency: ReadConsistency, tasks: usize, count: u64) -> Duration {
    let written = node.applied_index();
    let each = |task: u64| count / tasks as u64 + u64::from(task < count % tasks as u64);
    let mut all = JoinSet::new();
    let start = Instant::now();
    for task in 0..tasks as u64 {
        let (node, reads) = (node.clone(), each(task));
        all.spawn(async move {
            for _ in 0..reads {
                let applied = node.read(consistency).await.expect("the leader answers");
                assert!(applied.id.index >= written);
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.expect("no task fails");
    }
    start.elapsed()
}

async fn states(node: &RaftNode, count: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        black_box(node.state().await);
    }
    start.elapsed()
}

fn arc_clones(node: &RaftNode, count: u64) -> Duration {
    let applied = node.applied();
    let start = Instant::now();
    for _ in 0..count {
        black_box(Arc::clone(black_box(&applied)));
    }
    start.elapsed()
}

fn reads(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("reads");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(1));
    let mut bed = None;
    for name in ["arc_clone", "state"] {
        group.bench_function(name, |bencher| {
            let bed = bed.get_or_insert_with(|| runtime.block_on(start()));
            let node = &bed.load.leader;
            bencher.iter_custom(|count| match name {
                "state" => runtime.block_on(states(node, count)),
                _ => arc_clones(node, count),
            });
        });
    }
    for (name, consistency) in READS {
        for tasks in TASKS {
            group.bench_function(BenchmarkId::new(name, tasks), |bencher| {
                let bed = bed.get_or_insert_with(|| runtime.block_on(start()));
                let node = &bed.load.leader;
                bencher
                    .iter_custom(|count| runtime.block_on(read(node, consistency, tasks, count)));
            });
        }
    }
    group.finish();
    if let Some(bed) = bed {
        runtime.block_on(bed.finish());
    }
}

/// What takes turns.
#[derive(Clone, Copy)]
enum Turn {
    ArcClones,
    States,
    Reads(ReadConsistency, usize),
    Writes,
}

async fn turn(bed: &Bed, turn: Turn, count: u64) -> Duration {
    match turn {
        Turn::ArcClones => arc_clones(&bed.load.leader, count),
        Turn::States => states(&bed.load.leader, count).await,
        Turn::Reads(consistency, tasks) => read(&bed.load.leader, consistency, tasks, count).await,
        Turn::Writes => run(&bed.load, count).await,
    }
}

async fn print_ratios() {
    let bed = start().await;
    let mut turns = vec![
        ("arc clone".to_owned(), Turn::ArcClones),
        ("state".to_owned(), Turn::States),
        ("writes/1024".to_owned(), Turn::Writes),
    ];
    for (name, consistency) in READS {
        let of = |tasks| (format!("{name}/{tasks}"), Turn::Reads(consistency, tasks));
        turns.extend(TASKS.map(of));
    }
    let mut counts = vec![2048.0; turns.len()];
    let mut rates = vec![Vec::new(); turns.len()];
    for round in 0..=ROUNDS {
        for nth in 0..turns.len() {
            let nth = (nth + round) % turns.len();
            let count = counts[nth] as u64;
            let took = turn(&bed, turns[nth].1, count).await.as_secs_f64();
            let rate = count as f64 / took;
            counts[nth] = rate * SPAN.as_secs_f64();
            // The first round says how many make a span.
            if round > 0 {
                rates[nth].push(rate);
            }
        }
    }
    for (nth, (name, _)) in turns.iter().enumerate() {
        let against = |other: usize| {
            let ratios = rates[nth].iter().zip(&rates[other]).map(|(it, of)| it / of);
            let [low, ratio, high] = quartiles(ratios.collect());
            format!("x{ratio:.3} ({low:.3} to {high:.3})")
        };
        let [_, rate, _] = quartiles(rates[nth].clone());
        println!(
            "{name:>18} {rate:>12.0}/s {nanos:>8.0} ns, of arc clones {clones}, of writes {writes}",
            nanos = 1e9 / rate,
            clones = against(0),
            writes = against(2),
        );
    }
    bed.finish().await;
}

criterion_group!(benches, reads);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    if ratios::wanted() && !short() {
        Runtime::new().expect("a runtime").block_on(print_ratios());
    }
}

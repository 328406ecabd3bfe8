//! The same groups of entries appended to each log, synced on the disk and unsynced on the RAM
//! file system: `peers_{mem,sync}/SIDE/N`. At the end, or alone with `-- ratios`, all take turns
//! and their ratios to conveyor-raft's log are printed.

#[path = "../../common/log.rs"]
mod log;
#[path = "../../common/medium.rs"]
mod medium;
#[path = "../../common/ratios.rs"]
mod ratios;
#[path = "../src/sides.rs"]
mod sides;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use log::{Group, SIZES, run};
use medium::media;
use ratios::Named;
use sides::SIDES;

/// Unsynced first: walrus-rust takes its first schedule for all of the process, and would else
/// sync each write of a batch on its own.
const RUNS: [(&str, bool); 2] = [("mem", false), ("sync", true)];

fn peers(criterion: &mut Criterion) {
    let folders = media().map(|medium| medium.folder());
    for ((title, sync), folder) in RUNS.into_iter().zip(&folders) {
        let mut group = criterion.benchmark_group(format!("peers_{title}"));
        group
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        for size in SIZES {
            let batch = Group::new(size);
            group.throughput(Throughput::Elements(batch.len() as u64));
            for (name, make) in SIDES {
                let mut side = None;
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    let side = side.get_or_insert_with(|| make(folder, sync));
                    bencher.iter_custom(|count| run(&mut **side, &batch, count).wall);
                });
            }
        }
        group.finish();
    }
}

/// Sides that a look with strace found not to sync each group, from `./run`.
fn unsynced() -> Vec<String> {
    let told = std::env::var("PEERS_UNSYNCED").unwrap_or_default();
    told.split_whitespace().map(str::to_owned).collect()
}

fn print_ratios() {
    let folders = media().map(|medium| medium.folder());
    let marked = unsynced();
    for ((title, sync), folder) in RUNS.into_iter().zip(&folders) {
        for size in SIZES {
            let sides = SIDES.map(|(name, make)| {
                let lies = sync && marked.iter().any(|it| it == name);
                Named {
                    name: format!("{name}{}", if lies { " (DOES NOT SYNC)" } else { "" }),
                    side: make(folder, sync),
                }
            });
            ratios::compare(
                title,
                &Group::new(size),
                &mut sides.into_iter().collect::<Vec<_>>(),
            );
        }
    }
}

criterion_group!(benches, peers);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    if ratios::wanted() {
        print_ratios();
    }
}

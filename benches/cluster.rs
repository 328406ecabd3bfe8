//! Committed commands per second of a real cluster in one process.
//!
//! `cluster_commit/{ram,disk}/N`: three nodes; N tasks, each with exactly one `propose` of a 128-byte
//! command outstanding; no batch call, no barrier. An element is a proposal that returned applied. On the
//! RAM file system every sync call is issued but the medium keeps nothing: the whole software path,
//! not durability. Beside it, each by itself what is varied:
//! * `cluster_payload/{ram,disk}/BYTES`: the command's size. 64 tasks, and 8 for the largest, 1 MiB. Up to
//!   128 bytes it is an offset, beyond it a pipeline's configuration.
//! * `cluster_nodes/ram/N`: how many nodes there are, for 64 tasks.
//! * `cluster_batch/ram/N`: N commands at a time through one pipeline, each time answered in full.
//!
//! With `-- mtu`, alone: clusters at Ethernet's MTU and at the loopback's in turns, and their ratio.

mod common;

use std::time::Duration;

use common::bed::{Bed, rates, run, run_batches};
use common::load::Commands;
use common::log::short;
use common::medium::{Medium, media};
use common::ratios::quartiles;
use common::tuning::{ETHERNET_MTU, Tuning};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group,
};
use tokio::runtime::Runtime;

const CLIENTS: [usize; 4] = [1, 64, 1024, 4096];
const PAYLOADS: [usize; 5] = [16, 128, 1024, 16_384, 1 << 20];
const NODES: [u64; 4] = [1, 3, 5, 7];
const BATCHES: [u64; 3] = [1, 16, 256];
/// How many tasks where something else is varied.
const TASKS: usize = 64;
const ROUNDS: usize = 7;
const SPAN: Duration = Duration::from_millis(500);

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
                let bed =
                    bed.get_or_insert_with(|| runtime.block_on(Bed::start(&medium, 3, clients)));
                bencher.iter_custom(|count| runtime.block_on(run(&bed.load, count)));
            });
            finish(&runtime, &medium, bed);
        }
    }
    group.finish();
}

fn finish(runtime: &Runtime, medium: &Medium, bed: Option<Bed>) {
    if let Some(bed) = bed {
        runtime.block_on(bed.finish());
        medium.print_floor();
    }
}

fn sweep<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    group
}

fn cluster_payload(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = sweep(criterion, "cluster_payload");
    for medium in media() {
        for bytes in PAYLOADS {
            // 64 MiB under way is as much as a leader takes.
            let tasks = if bytes < 1 << 20 { TASKS } else { 8 };
            let (elements, bytes) = (1, bytes as u64);
            group.throughput(Throughput::ElementsAndBytes { elements, bytes });
            let mut bed = None;
            group.bench_function(BenchmarkId::new(medium.name, bytes), |bencher| {
                let bed = bed.get_or_insert_with(|| {
                    let commands = Commands::of(bytes as usize);
                    let tuning = Tuning::default();
                    let bed = Bed::start_tuned(&medium, 3, tasks, commands, tuning);
                    runtime.block_on(bed)
                });
                bencher.iter_custom(|count| runtime.block_on(run(&bed.load, count)));
            });
            finish(&runtime, &medium, bed);
        }
    }
    group.finish();
}

fn cluster_nodes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let [ram, _] = media();
    let mut group = sweep(criterion, "cluster_nodes");
    group.throughput(Throughput::Elements(1));
    for nodes in NODES {
        let mut bed = None;
        group.bench_function(BenchmarkId::new(ram.name, nodes), |bencher| {
            let bed = bed.get_or_insert_with(|| runtime.block_on(Bed::start(&ram, nodes, TASKS)));
            bencher.iter_custom(|count| runtime.block_on(run(&bed.load, count)));
        });
        finish(&runtime, &ram, bed);
    }
    group.finish();
}

fn cluster_batch(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let [ram, _] = media();
    let mut group = sweep(criterion, "cluster_batch");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch));
        let mut bed = None;
        group.bench_function(BenchmarkId::new(ram.name, batch), |bencher| {
            let bed = bed.get_or_insert_with(|| runtime.block_on(Bed::start(&ram, 3, 1)));
            bencher.iter_custom(|count| runtime.block_on(run_batches(&bed.load, batch, count)));
        });
        finish(&runtime, &ram, bed);
    }
    group.finish();
}

/// Goals are ratios; here both sides meet the same disturbances.
async fn print_mtus() {
    let [ram, _] = media();
    let rounds = if short() { 1 } else { ROUNDS };
    for clients in CLIENTS {
        let start = async |mtu| {
            let tuning = Tuning {
                mtu,
                ..Tuning::default()
            };
            Bed::start_tuned(&ram, 3, clients, Commands::Usual, tuning).await
        };
        let beds = [start(None).await, start(Some(ETHERNET_MTU)).await];
        let rates = rates(&beds.each_ref().map(|bed| &bed.load), rounds, SPAN).await;
        let ratios = rates[1]
            .iter()
            .zip(&rates[0])
            .map(|(one, other)| one / other);
        let [low, ratio, high] = quartiles(ratios.collect());
        let [loopback, ethernet] = [0, 1].map(|nth| quartiles(rates[nth].clone())[1]);
        for bed in beds {
            bed.finish().await;
        }
        println!(
            "{clients:>5} clients: MTU of the loopback {loopback:>8.0}/s, {ETHERNET_MTU} {ethernet:>8.0}/s x{ratio:.2} ({low:.2} to {high:.2})"
        );
    }
}

criterion_group!(
    benches,
    cluster_commit,
    cluster_payload,
    cluster_nodes,
    cluster_batch
);

fn main() {
    if std::env::args().any(|arg| arg == "mtu") {
        let runtime = Runtime::new().expect("a runtime");
        return runtime.block_on(print_mtus());
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}

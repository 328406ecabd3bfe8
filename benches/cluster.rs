//! Committed commands per second of a real three-node cluster in one process.
//!
//! `cluster_commit/{ram,disk}/N`: N tasks, each with exactly one `propose` of a 128-byte command
//! outstanding; no batch call, no barrier. An element is a proposal that returned applied. On the
//! RAM file system every sync call is issued but the medium keeps nothing: the whole software path,
//! not durability.

mod common;

use std::time::Duration;

use common::bed::{Bed, run};
use common::medium::media;
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use tokio::runtime::Runtime;

const CLIENTS: [usize; 4] = [1, 64, 1024, 4096];

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

//! What the router's state machine takes from a command's bytes, as they come out of the log, to its
//! response, by kind of command. After each batch the state is shown to readers, as a node does, and
//! the one shown before is dropped.

mod common;

use std::hint::black_box;

use common::router::{KINDS, Router};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(Router::BATCH));
    let router = std::cell::RefCell::new(Router::new());
    for kind in KINDS {
        group.bench_function(kind, |bencher| {
            bencher.iter_batched(
                || router.borrow_mut().batch(kind),
                |batch| black_box(router.borrow_mut().apply(&batch)),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, apply);
criterion_main!(benches);

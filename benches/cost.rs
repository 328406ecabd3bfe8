//! What one committed command costs a real three-node cluster in one process, all three nodes and
//! the clients together: heap allocations, context switches, calls that read or write, bytes to
//! storage and bytes between the nodes. `cargo bench --bench cost` prints a line for each medium and
//! number of clients.

mod common;

use std::alloc::System;
use std::fs;

use common::bed::{Bed, run};
use common::medium::media;
use conveyor_raft::RaftNode;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NAMES: [&str; 9] = [
    "allocations",
    "B allocated",
    "waits",
    "preemptions",
    "reads",
    "writes",
    "B to storage",
    "B between nodes",
    "datagrams",
];

/// The sum of `name` in a file of lines "name: number".
fn field(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let numbers = lines.filter_map(|rest| rest.trim_start_matches(':').trim().parse::<u64>().ok());
    numbers.sum()
}

/// Of all threads that there are.
fn of_threads(name: &str) -> u64 {
    let threads = fs::read_dir("/proc/self/task").expect("the list of threads");
    let status = threads.flatten().map(|thread| thread.path().join("status"));
    let texts = status.filter_map(|file| fs::read_to_string(file).ok());
    texts.map(|text| field(&text, name)).sum()
}

/// All counters, as they are now.
fn counters(nodes: &[RaftNode]) -> [u64; NAMES.len()] {
    let io = fs::read_to_string("/proc/self/io").expect("what this process read and wrote");
    let links = nodes.iter().flat_map(RaftNode::transport_stats);
    let (bytes, datagrams) = links.fold((0, 0), |(bytes, datagrams), link| {
        (bytes + link.bytes_sent, datagrams + link.datagrams_sent)
    });
    let heap = ALLOCATOR.stats();
    [
        (heap.allocations + heap.reallocations) as u64,
        heap.bytes_allocated as u64,
        of_threads("voluntary_ctxt_switches"),
        of_threads("nonvoluntary_ctxt_switches"),
        field(&io, "syscr"),
        field(&io, "syscw"),
        field(&io, "write_bytes"),
        bytes,
        datagrams,
    ]
}

fn main() {
    let short = common::log::short();
    let runtime = Runtime::new().expect("a runtime");
    println!(
        "{:>16} {}",
        "per command",
        NAMES.map(|name| format!("{name:>16}")).concat()
    );
    for medium in media() {
        for (clients, commands) in [(1, 5_000), (64, 100_000), (1024, 300_000)] {
            let commands = if short { 10 * clients as u64 } else { commands };
            let bed = runtime.block_on(Bed::start(&medium, 3, clients));
            runtime.block_on(run(&bed.load, commands / 5));
            let before = counters(&bed.cluster.nodes);
            runtime.block_on(run(&bed.load, commands));
            let after = counters(&bed.cluster.nodes);
            let cost = std::array::from_fn::<_, { NAMES.len() }, _>(|nth| {
                (after[nth] - before[nth]) as f64 / commands as f64
            });
            let figures = cost.map(|it| format!("{it:>16.3}")).concat();
            println!("{:>16} {figures}", format!("{}/{clients}", medium.name));
            runtime.block_on(bed.finish());
        }
    }
}

//! What is slow holds up nobody else and takes bounded memory.

use super::bed::Bed;
use crate::types::{Micros, NodeId};
use crate::wal::SyncPolicy;

const MILLI: Micros = 1000;
const SECOND: Micros = 1_000_000;
const MIB: usize = 1 << 20;

fn led(mut bed: Bed) -> (Bed, NodeId) {
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    (bed, leader)
}

#[test]
fn h2_a_state_machine_a_hundred_times_slower_has_a_bounded_backlog() {
    let (mut bed, leader) = led(Bed::new(1, SyncPolicy::Sync));
    // One command comes in a millisecond, and one piece of work of up to 4 MiB is done in 400.
    bed.node_mut(leader).apply_pace = 400 * MILLI;
    let large = "x".repeat(MIB);
    let (count, mut largest) = (60, 0);
    for _ in 0..count {
        drop(bed.propose(leader, &large));
        bed.run(MILLI, |_| false);
        largest = largest.max(bed.node(leader).backlog());
    }
    let applied = |bed: &Bed| bed.node(leader).shared.applied_index();
    let last = bed.node(leader).shared.brief().last.index;
    let commit = bed.node(leader).shared.commit_index();
    assert_eq!(commit, last, "the log goes on without it");
    let behind = last - applied(&bed);
    assert!(behind > 50, "it is slow: {behind} to go");
    let all = bed.run(60 * SECOND, |bed| {
        largest = largest.max(bed.node(leader).backlog());
        applied(bed) == last
    });
    assert!(all, "{} of {last} applied", applied(&bed));
    assert_eq!(bed.applied(leader).len(), count, "each of them once");
    assert!(largest <= 36 * MIB, "{largest} bytes waited");
    assert!(largest >= 28 * MIB, "the bound was never met: {largest}");
}

/// The commit latency of each of many commands, one after another, of three nodes of which one may
/// be slower than the others.
fn latencies(slow_pace: Micros) -> Vec<Micros> {
    let (mut bed, leader) = led(Bed::new(3, SyncPolicy::Sync));
    for node in 1..=3 {
        bed.node_mut(node).pace = MILLI;
    }
    bed.node_mut(leader % 3 + 1).pace = slow_pace;
    let mut times: Vec<Micros> = Vec::new();
    for nth in 0..400 {
        bed.run(1 + nth * 37 % MILLI, |_| false);
        let start = bed.now;
        let mut answer = bed.propose(leader, "x");
        let done = bed.run(SECOND, |_| answer.try_recv().is_ok());
        assert!(done, "command {nth} is not committed within a second");
        times.push(bed.now - start);
    }
    assert_eq!(bed.leader(), Some(leader));
    times.sort_unstable();
    times
}

#[test]
fn h4_one_slow_peer_costs_the_others_little() {
    let (healthy, slow) = (latencies(MILLI), latencies(100 * MILLI));
    for share in [50, 90, 99] {
        let at = healthy.len() * share / 100;
        let (healthy, slow) = (healthy[at], slow[at]);
        eprintln!("{share} % within {healthy} us, with a slow peer {slow} us");
        assert!(
            slow * 10 <= healthy * 12,
            "{share} %: {slow} us instead of {healthy} us"
        );
    }
}

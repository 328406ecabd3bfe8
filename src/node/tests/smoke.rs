//! Three drivers, cores and logs found a cluster, replicate, lose a leader and agree again.

use super::bed::{Answer, Bed};
use crate::config::limits;
use crate::error::ProposeError;
use crate::types::NodeId;
use crate::wal::{Crash, SyncPolicy};

const SECOND: u64 = 1_000_000;

fn answered(answer: &mut Answer) -> Option<Result<usize, ProposeError>> {
    answer.try_recv().ok()
}

fn commit(bed: &mut Bed, command: &str) {
    assert!(
        bed.run(5 * SECOND, |bed| bed.leader().is_some()),
        "a leader within 5 s"
    );
    let leader = bed.leader().expect("a leader");
    let mut answer = bed.propose(leader, command);
    let mut outcome = None;
    bed.run(5 * SECOND, |_| {
        outcome = outcome.take().or_else(|| answered(&mut answer));
        outcome.is_some()
    });
    outcome.expect("answered").expect("applied");
}

fn all_have(bed: &Bed, nodes: &[NodeId], commands: &[&str]) -> bool {
    nodes.iter().all(|node| bed.applied(*node) == commands)
}

#[test]
fn three_drivers_in_one_thread_and_virtual_time() {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    commit(&mut bed, "a");
    commit(&mut bed, "b");
    assert!(bed.run(SECOND, |bed| all_have(bed, &[1, 2, 3], &["a", "b"])));

    let old = bed.leader().expect("a leader");
    bed.hub.isolate(old, true);
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != old).collect();
    let elsewhere = |bed: &Bed| bed.leader().is_some_and(|leader| leader != old);
    assert!(bed.run(2 * SECOND, elsewhere), "the others elect a leader");
    commit(&mut bed, "c");
    assert!(bed.run(SECOND, |bed| all_have(bed, &others, &["a", "b", "c"])));
    bed.hub.isolate(old, false);
    assert!(bed.run(2 * SECOND, |bed| all_have(
        bed,
        &[1, 2, 3],
        &["a", "b", "c"]
    )));
}

/// Three acknowledged commands, a power cut of all disks, a fourth command: does anyone miss one?
fn keeps_what_it_acknowledged(sync: SyncPolicy) -> bool {
    let mut bed = Bed::new(3, sync);
    for command in ["a", "b", "c"] {
        commit(&mut bed, command);
    }
    (1..=3).for_each(|node| bed.crash(node, Crash::PowerCut));
    (1..=3).for_each(|node| bed.start(node));
    commit(&mut bed, "d");
    bed.run(SECOND, |bed| {
        all_have(bed, &[1, 2, 3], &["a", "b", "c", "d"])
    })
}

#[test]
fn all_killed_at_once_and_restarted_have_everything_acknowledged() {
    assert!(keeps_what_it_acknowledged(SyncPolicy::Sync));
    assert!(
        !keeps_what_it_acknowledged(SyncPolicy::UnsafeNoSync),
        "the check must bite"
    );
}

#[test]
fn a_cluster_of_one_serves() {
    let mut bed = Bed::new(1, SyncPolicy::Sync);
    commit(&mut bed, "a");
    bed.crash(1, Crash::PowerCut);
    bed.start(1);
    commit(&mut bed, "b");
    assert_eq!(bed.applied(1), ["a", "b"]);
}

#[test]
fn e8_a_wiped_directory_neither_votes_nor_counts() {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    commit(&mut bed, "a");
    assert!(bed.run(SECOND, |bed| all_have(bed, &[1, 2, 3], &["a"])));
    let leader = bed.leader().expect("a leader");
    let wiped = leader % 3 + 1;
    let third = wiped % 3 + 1;
    bed.crash(wiped, Crash::PowerCut);
    bed.disks[wiped as usize - 1] = crate::wal::MemoryDisk::new();
    bed.start(wiped);
    // With the wiped one as its only companion, the leader has no quorum.
    bed.nodes[third as usize - 1] = None;
    let mut answer = bed.propose(leader, "b");
    bed.run(3 * SECOND, |_| false);
    assert!(matches!(
        answered(&mut answer),
        Some(Err(ProposeError::Unknown { .. }))
    ));
    assert_eq!(
        bed.leader(),
        None,
        "nobody leads with a vote that does not count"
    );
    assert!(bed.applied(wiped).is_empty());
    bed.start(third);
    commit(&mut bed, "c");
}

#[test]
fn g2_a_panic_in_apply_quarantines_the_replica_and_says_where() {
    let mut bed = Bed::new(1, SyncPolicy::Sync);
    commit(&mut bed, "a");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut answer = bed.propose(1, "panic");
    let mut outcome = None;
    bed.run(SECOND, |_| {
        outcome = outcome.take().or_else(|| answered(&mut answer));
        outcome.is_some()
    });
    std::panic::set_hook(hook);
    assert!(
        matches!(outcome, Some(Err(ProposeError::Unknown { index: 4, .. }))),
        "{outcome:?}"
    );
    bed.run(SECOND, |_| false);
    let failure = bed
        .node(1)
        .shared
        .brief()
        .failure
        .clone()
        .expect("a failure");
    assert!(
        failure.contains("entry 4") && failure.contains("told to"),
        "{failure}"
    );
    assert_eq!(bed.applied(1), ["a"]);
}

#[test]
fn h3_more_small_entries_than_fit_a_frame_go_in_several() {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    commit(&mut bed, "a");
    let leader = bed.leader().expect("a leader");
    let count = limits::MAX_FRAME_ENTRIES as usize + 1000;
    let answers: Vec<Answer> = (0..count).map(|_| bed.propose(leader, "x")).collect();
    let applied = |bed: &Bed| (1..=3).all(|node| bed.applied(node).len() == count + 1);
    assert!(bed.run(5 * SECOND, applied), "every node has them");
    for mut answer in answers {
        assert!(matches!(answered(&mut answer), Some(Ok(_))));
    }
}

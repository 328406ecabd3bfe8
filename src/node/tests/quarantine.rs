//! A command that no state machine can apply, and how the cluster gets past it (hazard G2).

use super::bed::{Answer, Bed};
use super::members::change;
use crate::core::Change;
use crate::error::{ChangeError, ProposeError};
use crate::types::{LogIndex, NodeId};
use crate::wal::{Crash, SyncPolicy};

const SECOND: u64 = 1_000_000;
const ALL: [NodeId; 3] = [1, 2, 3];

type Outcome = Result<usize, ProposeError>;

fn led(mut bed: Bed) -> (Bed, NodeId) {
    assert!(bed.run(10 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    (bed, leader)
}

fn outcome(bed: &mut Bed, answer: &mut Answer) -> Option<Outcome> {
    let mut outcome = None;
    bed.run(5 * SECOND, |_| {
        outcome = outcome.take().or_else(|| answer.try_recv().ok());
        outcome.is_some()
    });
    outcome
}

fn commit(bed: &mut Bed, leader: NodeId, command: &str) {
    let mut answer = bed.propose(leader, command);
    let outcome = outcome(bed, &mut answer);
    assert!(matches!(outcome, Some(Ok(_))), "{outcome:?}");
}

fn failure(bed: &Bed, node: NodeId) -> Option<String> {
    bed.node(node).shared.brief().failure.clone()
}

/// Proposes what makes state machines panic, until those of `nodes` have stopped. Its index.
fn poison(bed: &mut Bed, leader: NodeId, nodes: &[NodeId]) -> LogIndex {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut answer = bed.propose(leader, "panic");
    let outcome = outcome(bed, &mut answer);
    let stopped = |bed: &Bed| nodes.iter().all(|node| failure(bed, *node).is_some());
    let all = bed.run(5 * SECOND, stopped);
    std::panic::set_hook(hook);
    assert!(all, "all have stopped");
    match outcome {
        Some(Err(ProposeError::Unknown { index, .. })) => index,
        other => panic!("its outcome is unknown: {other:?}"),
    }
}

/// An operator tries until it is through.
fn skip(bed: &mut Bed, index: LogIndex) {
    for _ in 0..20 {
        let leader = bed.leader();
        let done = leader.and_then(|leader| change(bed, leader, Change::Skip(index)));
        match done {
            Some(Ok(_)) => return,
            _ => bed.run(SECOND / 2, |_| false),
        };
    }
    panic!("the entry is not skipped");
}

fn equal(bed: &Bed, nodes: &[NodeId], commands: &[&str]) -> bool {
    let first = bed.node(nodes[0]).shared.applied();
    nodes.iter().all(|node| {
        let shown = bed.node(*node).shared.applied();
        *shown.view == commands && (shown.id, shown.digest) == (first.id, first.digest)
    })
}

fn restart(bed: &mut Bed, nodes: &[NodeId]) {
    nodes
        .iter()
        .for_each(|node| bed.crash(*node, Crash::PowerCut));
    nodes.iter().for_each(|node| bed.start(*node));
}

#[test]
fn g2_a_poisoned_command_is_skipped_by_consensus_and_all_go_on() {
    let (mut bed, leader) = led(Bed::new(3, SyncPolicy::Sync));
    commit(&mut bed, leader, "a");
    let index = poison(&mut bed, leader, &ALL);

    // Restarted without more, they come to the same entry and stop again.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    restart(&mut bed, &ALL);
    let stopped = |bed: &Bed| ALL.iter().all(|node| failure(bed, *node).is_some());
    let again = bed.run(20 * SECOND, stopped);
    std::panic::set_hook(hook);
    assert!(again);

    for node in ALL {
        assert_eq!(bed.node(node).shared.brief().stopped_at, Some(index));
    }

    // They keep a leader, which serves nothing.
    let (mut bed, leader) = led(bed);
    let mut refused = bed.propose(leader, "b");
    let refused = outcome(&mut bed, &mut refused);
    assert!(matches!(refused, Some(Err(ProposeError::Failed(_)))));
    let other = change(&mut bed, leader, Change::Skip(index - 1));
    assert!(
        matches!(other, Some(Err(ChangeError::Invalid(_)))),
        "{other:?}"
    );
    let member = change(&mut bed, leader, Change::Demote(leader));
    assert_eq!(member, Some(Err(ChangeError::Stopped)));

    skip(&mut bed, index);
    bed.run(SECOND, |_| false);
    for node in ALL {
        let why = failure(&bed, node).expect("until it is restarted");
        assert!(why.contains("skips by now: restart"), "{why}");
    }
    restart(&mut bed, &ALL);
    let (mut bed, leader) = led(bed);
    commit(&mut bed, leader, "b");
    assert!(bed.run(SECOND, |bed| equal(bed, &ALL, &["a", "b"])));
    assert!(ALL.iter().all(|node| failure(&bed, *node).is_none()));
    assert_eq!(bed.node(leader).shared.brief().stopped_at, None);
    restart(&mut bed, &[leader]);
    assert!(bed.run(10 * SECOND, |bed| equal(bed, &ALL, &["a", "b"])));
}

#[test]
fn g2_who_was_away_skips_it_too() {
    let (mut bed, leader) = led(Bed::new(3, SyncPolicy::Sync));
    commit(&mut bed, leader, "a");
    let away = leader % 3 + 1;
    bed.hub.isolate(away, true);
    let here: Vec<NodeId> = ALL.into_iter().filter(|node| *node != away).collect();
    let index = poison(&mut bed, leader, &here);
    skip(&mut bed, index);
    restart(&mut bed, &here);
    bed.run(5 * SECOND, |_| false);
    let leads = here.iter().copied().find(|node| {
        let brief = bed.node(*node).shared.brief();
        brief.role == crate::core::RaftRole::Leader
    });
    commit(&mut bed, leads.expect("one of two leads"), "b");
    bed.hub.isolate(away, false);
    assert!(bed.run(10 * SECOND, |bed| equal(bed, &ALL, &["a", "b"])));
    assert!(failure(&bed, away).is_none());
}

#[test]
fn g2_what_a_majority_can_apply_is_not_skipped() {
    let (mut bed, leader) = led(Bed::new(3, SyncPolicy::Sync));
    commit(&mut bed, leader, "a");
    let index = bed.node(leader).shared.applied().id.index;
    let refused = change(&mut bed, leader, Change::Skip(index));
    assert!(
        matches!(refused, Some(Err(ChangeError::Invalid(_)))),
        "{refused:?}"
    );
    commit(&mut bed, leader, "b");
    assert!(bed.run(SECOND, |bed| equal(bed, &ALL, &["a", "b"])));
}

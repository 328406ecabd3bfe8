//! Leadership goes to the voter that is preferred, and to none that is not fit.

use std::sync::Arc;

use super::super::{Change, Configuration, Event, Input, Message, TimeoutNow};
use super::bed::T_MAX;
use super::script::{Script, beat_reply, image, matched, voters};
use crate::core::HandOverError;
use crate::types::{Micros, NodeId};

const NOBODY: [NodeId; 0] = [];

/// Node 1 of three leads term 3 with these priorities, and all have its log.
fn leading(priorities: [u32; 3]) -> Script {
    let mut configuration = Configuration::clone(&voters(3));
    for (voter, priority) in configuration.incoming.iter_mut().zip(priorities) {
        voter.priority = priority;
    }
    let mut image = image(3, &[1, 2], 2);
    image.configurations = vec![(1, Arc::new(configuration))];
    let mut one = Script::open(1, &image);
    one.connect(2, 7);
    one.connect(3, 7);
    one.lead(2);
    one.durable(one.writes().last().expect("the no-op").id);
    one.settle();
    acked(&mut one, 2);
    acked(&mut one, 3);
    one
}

fn acked(one: &mut Script, node: NodeId) {
    let append = *one.appends_to(node).last().expect("an append");
    let last = one.core.last().index;
    one.tell(node, Message::AppendAck(matched(node, append, last)));
    one.settle();
}

/// Goes on for so long, heartbeats being answered by these.
fn go_on(one: &mut Script, long: Micros, answering: &[NodeId]) {
    let end = one.now + long;
    while one.now < end && one.core.is_leader() {
        for node in answering {
            one.tell(*node, Message::HeartbeatReply(beat_reply(*node, 3, 7)));
        }
        one.time_out();
        one.settle();
    }
}

/// Who was told to campaign, and how often.
fn urged(one: &Script) -> Vec<NodeId> {
    let urged = |(to, message, _): &(NodeId, Message, _)| {
        matches!(message, Message::TimeoutNow(TimeoutNow { .. })).then_some(*to)
    };
    one.sends().iter().filter_map(urged).collect()
}

/// Whether a hand-over was begun and came to nothing.
fn tried(one: &Script) -> bool {
    let failed = |event: &Event| matches!(event, Event::HandOverFailed { .. });
    one.events().iter().any(failed)
}

#[test]
fn a_leader_hands_over_to_the_highest_priority_that_has_been_fit_for_a_while() {
    let mut one = leading([1, 2, 3]);
    go_on(&mut one, 9 * T_MAX, &[2, 3]);
    assert_eq!(urged(&one), NOBODY, "not at once");
    go_on(&mut one, T_MAX + T_MAX / 2, &[2, 3]);
    assert_eq!(urged(&one).first(), Some(&3));
    assert!(!urged(&one).contains(&2));
}

#[test]
fn who_is_not_preferred_or_not_fit_is_left_alone() {
    for priorities in [[0, 0, 0], [2, 2, 1], [2, 1, 2]] {
        let mut one = leading(priorities);
        go_on(&mut one, 30 * T_MAX, &[2, 3]);
        assert_eq!(urged(&one), NOBODY, "{priorities:?}");
    }
    let mut silent = leading([0, 0, 1]);
    go_on(&mut silent, 30 * T_MAX, &[2]);
    assert_eq!(urged(&silent), NOBODY, "it does not answer");
    assert!(!tried(&silent), "nor is it asked to");

    let mut behind = leading([0, 0, 1]);
    behind.feed(Input::Propose { count: 1 });
    behind.durable(behind.writes().last().expect("a write").id);
    behind.settle();
    acked(&mut behind, 2);
    assert_eq!(behind.core.commit(), behind.core.last().index);
    go_on(&mut behind, 30 * T_MAX, &[2, 3]);
    assert!(!tried(&behind), "it lacks what is committed");
}

#[test]
fn who_becomes_the_preferred_has_to_be_fit_for_as_long() {
    let mut one = leading([0, 1, 2]);
    go_on(&mut one, 7 * T_MAX, &[2]);
    go_on(&mut one, 7 * T_MAX, &[2, 3]);
    assert_eq!(urged(&one), NOBODY, "neither was the best for long enough");
    go_on(&mut one, 5 * T_MAX, &[2, 3]);
    assert_eq!(urged(&one).first(), Some(&3));
}

#[test]
fn nobody_is_preferred_while_members_change() {
    let mut one = leading([0, 0, 1]);
    one.feed(Input::Change {
        expected: None,
        changes: vec![Change::Demote(2)],
    });
    one.settle();
    go_on(&mut one, 30 * T_MAX, &[2, 3]);
    assert!(!tried(&one) && !one.core.is_handing_over() && urged(&one) == NOBODY);
}

#[test]
fn after_a_failed_attempt_the_next_one_waits_longer() {
    let mut one = leading([0, 0, 1]);
    let mut failed_at = Vec::new();
    let end = one.now + 100 * T_MAX;
    while one.now < end {
        let before = one.events().len();
        go_on(&mut one, 1, &[2, 3]);
        let why = HandOverError::TimedOut;
        if one.events()[before..].contains(&Event::HandOverFailed { why }) {
            failed_at.push(one.now);
        }
    }
    assert!(
        one.core.is_leader() && failed_at.len() == 3,
        "{failed_at:?}"
    );
    let waited = [failed_at[1] - failed_at[0], failed_at[2] - failed_at[1]];
    assert!(
        waited[0] >= 20 * T_MAX && waited[1] >= 40 * T_MAX,
        "{waited:?}"
    );
}

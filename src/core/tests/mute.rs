//! A leader that is heard and cannot replicate (hazard B12).

use super::super::{AppendAck, AppendStatus, Event, Input, Message, RaftRole};
use super::bed::T_MAX;
use super::script::{Script, beat_reply, matched};
use crate::types::{LogId, Micros, NodeId};

/// Node 1 of three leads term 3; its log and both others' are equal.
fn leading() -> Script {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.connect(2, 7);
    one.connect(3, 7);
    one.lead(2);
    one.durable(one.writes().last().expect("the no-op").id);
    one.settle();
    for node in [2, 3] {
        let append = *one.appends_to(node).last().expect("an append");
        one.tell(node, Message::AppendAck(matched(node, append, 3)));
        one.settle();
    }
    assert_eq!(one.core.commit(), 3);
    one
}

fn propose(one: &mut Script) {
    one.feed(Input::Propose { count: 1 });
    one.durable(one.writes().last().expect("a write").id);
    one.settle();
}

/// Goes on for so long, every heartbeat being answered, and what `answer` makes of each append.
fn go_on(one: &mut Script, long: Micros, answer: impl Fn(&mut Script)) {
    let end = one.now + long;
    while one.now < end && one.core.is_leader() {
        for node in [2, 3] {
            one.tell(node, Message::HeartbeatReply(beat_reply(node, 3, 7)));
        }
        one.time_out();
        one.settle();
        answer(one);
    }
}

fn busy(one: &mut Script, node: NodeId) {
    let append = *one.appends_to(node).last().expect("an append");
    let ack = AppendAck {
        status: AppendStatus::Busy,
        ..matched(node, append, 0)
    };
    one.tell(node, Message::AppendAck(ack));
}

#[test]
fn b12_a_leader_that_heartbeats_and_cannot_replicate_steps_down() {
    let mut one = leading();
    let begun = one.now;
    propose(&mut one);
    go_on(&mut one, 9 * T_MAX, |_| ());
    assert!(one.core.is_leader(), "not at once");
    go_on(&mut one, 2 * T_MAX, |_| ());
    assert!(!one.core.is_leader() && one.now >= begun + 10 * T_MAX);
    let why = "no quorum answers what it replicates";
    assert!(one.events().contains(&Event::SteppedDown { term: 3, why }));
    // Others come first.
    let stepped_down = one.now;
    assert_eq!(one.core.deadline(), stepped_down + 2 * T_MAX);
    one.time_out();
    assert_eq!(one.core.role(), RaftRole::PreCandidate, "but it may again");
}

#[test]
fn b12_one_follower_that_answers_is_enough() {
    let mut one = leading();
    propose(&mut one);
    go_on(&mut one, 30 * T_MAX, |one| busy(one, 2));
    assert!(one.core.is_leader());
    assert!(one.core.commit() < one.core.last().index);
}

#[test]
fn b12_what_gets_through_slowly_is_no_silence() {
    let mut one = leading();
    propose(&mut one);
    go_on(&mut one, 30 * T_MAX, |one| {
        one.feed(Input::GetsThrough { node: 2, epoch: 7 });
    });
    assert!(one.core.is_leader());
    // What another stream carries says nothing, and what did get through not for ever.
    go_on(&mut one, 11 * T_MAX, |one| {
        one.feed(Input::GetsThrough { node: 2, epoch: 6 });
    });
    assert!(!one.core.is_leader());
}

#[test]
fn b12_a_leader_with_nothing_to_replicate_leads_on() {
    let mut one = leading();
    go_on(&mut one, 30 * T_MAX, |_| ());
    assert!(one.core.is_leader());
    // And silence counts from when there was something to answer.
    propose(&mut one);
    go_on(&mut one, 9 * T_MAX, |_| ());
    assert!(one.core.is_leader());
}

/// Its answers would wait for the disk, which is no fault of the leader's.
#[test]
fn b12_a_follower_whose_disk_stalls_says_that_it_is_busy() {
    let mut two = Script::new(2, 3, &[1, 2], 2);
    two.append(1, 3, LogId::new(2, 2), &[3], 2);
    let (ack, after) = two.last_ack();
    assert_eq!(ack.status, AppendStatus::Matched);
    let write = after.expect("it waits for the write");
    two.feed(Input::DiskStalls(true));
    for terms in [&[3][..], &[3, 3]] {
        two.append(1, 3, LogId::new(2, 2), terms, 2);
        let (ack, after) = two.last_ack();
        assert_eq!((ack.status, ack.match_index), (AppendStatus::Busy, 0));
        assert!(after.is_none_or(|after| after < write), "{after:?}");
    }
    assert_eq!(two.terms(), [1, 2, 3], "nothing more is taken");
    two.append(1, 3, LogId::new(1, 1), &[2], 2);
    assert_eq!(
        two.last_ack().0.status,
        AppendStatus::Matched,
        "that is durable"
    );
    two.durable(write);
    two.feed(Input::DiskStalls(false));
    two.append(1, 3, LogId::new(2, 2), &[3, 3], 2);
    assert_eq!(two.last_ack().0.match_index, 4);
}

//! Handing leadership over, by its hazard ids.

use super::super::{Event, Input, Message, RaftRole, TimeoutNow, TimeoutNowReply, VoteReason};
use super::bed::{Bed, HEARTBEAT, MS, T_MAX, incarnation};
use super::script::{Script, beat_reply, heartbeat, matched, replica, request};
use super::seeds::leader;
use crate::core::HandOverError;
use crate::types::{LogId, NodeId};

/// Node 1 of three leads term 3, and node 2 has all of its log.
fn leading() -> Script {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.connect(2, 7);
    one.connect(3, 7);
    one.lead(2);
    one.durable(one.writes().last().expect("the no-op").id);
    one.settle();
    acked(&mut one, 2);
    one
}

fn acked(one: &mut Script, node: NodeId) {
    let append = *one.appends_to(node).last().expect("an append");
    let last = one.core.last().index;
    one.tell(node, Message::AppendAck(matched(node, append, last)));
    one.settle();
}

fn urged(one: &Script) -> Vec<(NodeId, TimeoutNow)> {
    let sends = one.sends();
    let urge = |(to, message, _): &(NodeId, Message, _)| match message {
        Message::TimeoutNow(urge) => Some((*to, *urge)),
        _ => None,
    };
    sends.iter().filter_map(urge).collect()
}

fn failures(one: &Script) -> Vec<HandOverError> {
    let why = |event: Event| match event {
        Event::HandOverFailed { why } => Some(why),
        _ => None,
    };
    one.events().into_iter().filter_map(why).collect()
}

fn urge(target: NodeId, last: LogId) -> Message {
    Message::TimeoutNow(TimeoutNow {
        term: 3,
        target: incarnation(target, 1),
        last,
    })
}

#[test]
fn a12_a_target_is_urged_once_it_has_the_whole_log_and_again_if_that_is_lost() {
    let mut one = leading();
    let last = one.core.last();
    one.feed(Input::HandOver { to: Some(3) });
    one.settle();
    assert_eq!(urged(&one), [], "node 3 lacks the no-op");
    assert!(one.core.is_handing_over());
    acked(&mut one, 3);
    let sent = TimeoutNow {
        term: 3,
        target: incarnation(3, 1),
        last,
    };
    assert_eq!(urged(&one), [(3, sent)]);
    one.settle();
    assert_eq!(urged(&one).len(), 1, "once");
    one.now += HEARTBEAT;
    one.feed(Input::Tick);
    assert_eq!(urged(&one).len(), 2, "and with each heartbeat");
}

#[test]
fn a12_a_hand_over_ends_after_an_election_timeout_or_a_refusal() {
    let mut one = leading();
    one.feed(Input::HandOver { to: Some(2) });
    let refused = TimeoutNowReply {
        term: 3,
        incarnation: incarnation(2, 1),
        accepted: false,
    };
    one.tell(3, Message::TimeoutNowReply(refused));
    assert_eq!(failures(&one), [], "node 3 was not asked");
    one.tell(2, Message::TimeoutNowReply(refused));
    assert_eq!(failures(&one), [HandOverError::Refused]);
    assert!(!one.core.is_handing_over());

    one.feed(Input::HandOver { to: Some(2) });
    one.feed(Input::HandOver { to: Some(2) });
    let end = one.now + T_MAX;
    while one.now < end {
        one.tell(2, Message::HeartbeatReply(beat_reply(2, 3, 7)));
        one.time_out();
    }
    let expected = [
        HandOverError::Refused,
        HandOverError::UnderWay,
        HandOverError::TimedOut,
    ];
    assert_eq!(failures(&one), expected);
    assert!(one.core.is_leader(), "it leads on");
}

#[test]
fn a12_only_another_voter_that_answers_is_a_target() {
    let mut one = leading();
    for to in [Some(1), Some(9)] {
        one.feed(Input::HandOver { to });
    }
    one.now += T_MAX;
    one.feed(Input::HandOver { to: None });
    assert_eq!(failures(&one), [HandOverError::NoTarget; 3]);
    let mut two = Script::new(2, 3, &[1, 2], 2);
    two.feed(Input::HandOver { to: None });
    assert_eq!(failures(&two), [HandOverError::NotLeader]);
}

#[test]
fn a12_a_target_campaigns_only_with_the_expected_last_entry_and_for_its_leader() {
    let last = LogId::new(2, 2);
    let follower = || {
        let mut two = Script::new(2, 3, &[1, 2], 2);
        two.tell(1, Message::Heartbeat(heartbeat(3, 0)));
        two
    };
    let role = |two: &mut Script, from: NodeId, message: Message| {
        two.tell(from, message);
        two.core.role()
    };
    for wrong in [
        urge(2, LogId::new(3, 3)),
        urge(2, LogId::new(2, 1)),
        urge(3, last),
    ] {
        let mut two = follower();
        assert_eq!(role(&mut two, 1, wrong), RaftRole::Follower);
        let reply = two.sends().last().map(|(_, message, _)| *message);
        let refused = matches!(reply, Some(Message::TimeoutNowReply(reply)) if !reply.accepted);
        assert!(refused, "{reply:?}");
    }
    assert_eq!(role(&mut follower(), 3, urge(2, last)), RaftRole::Follower);
    let mut two = follower();
    assert_eq!(role(&mut two, 1, urge(2, last)), RaftRole::Candidate);
    assert_eq!(two.core.term(), 4);
    assert!(two.last_request().transfer, "it says why it asks");
    let round = two.last_request().round;
    assert_eq!(role(&mut two, 1, urge(2, last)), RaftRole::Candidate);
    assert_eq!(two.last_request().round, round, "said twice, done once");
}

#[test]
fn a12_a_voter_that_hears_its_leader_votes_when_that_hands_over() {
    let mut three = Script::new(3, 3, &[1, 2], 2);
    three.tell(1, Message::Heartbeat(heartbeat(3, 0)));
    let mut vote = request(2, 4, LogId::new(2, 2));
    three.tell(2, Message::Vote(vote));
    assert_eq!(three.last_vote_reply().0.reason, VoteReason::Sticky);
    vote.transfer = true;
    three.tell(2, Message::Vote(vote));
    assert!(three.last_vote_reply().0.granted);
    assert_eq!(three.core.hard_state().voted_for, replica(2));
}

#[test]
fn a_hand_over_takes_less_than_a_heartbeat() {
    for seed in 0..20 {
        let mut bed = Bed::blank(seed, 3);
        bed.run_for(5_000 * MS);
        let first = leader(&bed).expect("a leader");
        let to = bed.ids().find(|node| *node != first).expect("another");
        bed.feed(first, Input::HandOver { to: Some(to) }, None);
        let took_over = bed.run_while(HEARTBEAT, |bed| bed.core(to).is_leader());
        assert!(took_over, "seed {seed}");
        assert_eq!(bed.node(first).hand_overs_failed, []);
    }
}

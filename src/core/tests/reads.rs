//! Linearizable reads and leases, by their hazard ids.

use super::super::{Event, Input, Message, Output, ReadIndex, ReadIndexReply};
use super::bed::{HEARTBEAT, T_MAX, T_MIN, incarnation};
use super::script::{Script, beat_reply, matched, replica};
use crate::types::{LogIndex, Micros, NodeId, Term};

impl Script {
    /// Answers to reads on this node: attempt and index.
    fn reads(&self) -> Vec<(u64, LogIndex)> {
        let read = |output: &Output| match output {
            Output::ReadReady { id, index } => Some((*id, *index)),
            _ => None,
        };
        self.out.iter().filter_map(read).collect()
    }

    fn read(&mut self, id: u64) {
        self.feed(Input::Read { id });
        self.settle();
    }

    /// The newest round of reads that heartbeats to `node` carried.
    fn round(&self, node: NodeId) -> u64 {
        let sends = self.sends();
        let mut beats = sends.iter().filter_map(|(to, message, _)| match message {
            Message::Heartbeat(beat) if *to == node => Some(beat.read_id),
            _ => None,
        });
        beats.next_back().unwrap_or_default()
    }

    /// `node` answers the heartbeat of a round, sent at `sent_at`.
    fn beat_answered(&mut self, node: NodeId, read_id: u64, sent_at: Micros) {
        let mut reply = beat_reply(node, self.core.term(), 7);
        (reply.read_id, reply.sent_at) = (read_id, sent_at);
        self.tell(node, Message::HeartbeatReply(reply));
    }

    /// `node` acknowledges all that it was sent.
    fn acked(&mut self, node: NodeId) {
        let append = *self.appends_to(node).last().expect("an append");
        let last = self.core.last().index;
        self.tell(node, Message::AppendAck(matched(node, append, last)));
        self.settle();
    }
}

/// Node 1 of three leads term 3 and has committed its no-op, entry 3.
fn settled() -> Script {
    let mut one = fresh();
    one.acked(2);
    assert_eq!(one.core.commit(), 3);
    one
}

/// The same, before anybody has the no-op.
fn fresh() -> Script {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.connect(2, 7);
    one.connect(3, 7);
    one.lead(2);
    let write = one.writes().last().expect("the no-op").id;
    one.durable(write);
    one.settle();
    one
}

fn ask(term: Term, id: u64) -> Message {
    Message::ReadIndex(ReadIndex {
        term,
        incarnation: incarnation(2, 1),
        id,
    })
}

fn replies(one: &Script) -> Vec<(NodeId, ReadIndexReply)> {
    let sends = one.sends();
    let reply = |(to, message, _): &(NodeId, Message, _)| match message {
        Message::ReadIndexReply(reply) => Some((*to, *reply)),
        _ => None,
    };
    sends.iter().filter_map(reply).collect()
}

#[test]
fn f1_a_read_waits_for_an_entry_of_the_term() {
    let mut one = fresh();
    one.read(1);
    let round = one.round(2);
    one.beat_answered(2, round, one.now);
    one.beat_answered(3, round + 1, one.now);
    assert_eq!(one.reads(), [], "it does not know what is committed");
    one.acked(2);
    one.beat_answered(2, one.round(2), one.now);
    assert_eq!(one.reads(), [(1, 3)]);
}

#[test]
fn f2_only_a_round_that_began_after_a_read_confirms_it() {
    let mut one = settled();
    one.read(1);
    let first = one.round(2);
    // The second read comes while the first one's round is under way.
    one.read(2);
    assert_eq!(one.round(2), first, "one round at a time");
    one.beat_answered(2, first, one.now);
    one.settle();
    assert_eq!(one.reads(), [(1, 3)]);
    assert!(one.round(2) > first, "the second round begins by itself");
    one.beat_answered(3, first, one.now);
    assert_eq!(
        one.reads().len(),
        1,
        "an answer to the first says nothing of it"
    );
    one.beat_answered(3, one.round(3), one.now);
    assert_eq!(one.reads(), [(1, 3), (2, 3)]);
}

#[test]
fn f2_answers_of_another_term_or_epoch_confirm_nothing() {
    let mut one = settled();
    one.read(1);
    let round = one.round(2);
    for (term, epoch) in [(2, 7), (3, 8)] {
        let mut reply = beat_reply(2, term, epoch);
        reply.read_id = round;
        one.tell(2, Message::HeartbeatReply(reply));
    }
    let mut reply = beat_reply(2, 3, 7);
    (reply.read_id, reply.incarnation) = (round, incarnation(2, 9));
    one.tell(2, Message::HeartbeatReply(reply));
    assert_eq!(one.reads(), []);
    one.beat_answered(2, round, one.now);
    assert_eq!(one.reads(), [(1, 3)]);
}

#[test]
fn f2_reads_end_with_leadership() {
    let mut one = settled();
    one.read(1);
    let round = one.round(2);
    one.tell(2, ask(3, 9));
    one.settle();
    one.tell(3, Message::Heartbeat(super::script::heartbeat(4, 0)));
    assert!(!one.core.is_leader());
    let refused = ReadIndexReply {
        term: 3,
        id: 9,
        index: None,
    };
    assert_eq!(replies(&one), [(2, refused)], "who asked from afar is told");
    one.beat_answered(2, round, one.now);
    assert_eq!(one.reads(), []);
}

#[test]
fn a_follower_asks_its_leader_and_believes_no_other() {
    let mut leader = settled();
    leader.tell(2, ask(3, 5));
    leader.settle();
    assert_eq!(replies(&leader), [], "not before a quorum confirms");
    leader.beat_answered(3, leader.round(3), leader.now);
    let answer = ReadIndexReply {
        term: 3,
        id: 5,
        index: Some(3),
    };
    assert_eq!(replies(&leader), [(2, answer)]);
    // Of another term, of nobody in the configuration, from another life.
    leader.tell(2, ask(2, 6));
    leader.tell_as(replica(9), ask(3, 7));
    let mut stranger = replica(2);
    stranger.incarnation = incarnation(2, 9);
    leader.tell_as(stranger, ask(3, 8));
    leader.settle();
    leader.beat_answered(3, leader.round(3) + 1, leader.now);
    let refused = ReadIndexReply {
        id: 6,
        index: None,
        ..answer
    };
    assert_eq!(replies(&leader)[1..], [(2, refused)]);

    let mut two = Script::new(2, 3, &[1, 2], 3);
    two.read(4);
    assert_eq!(two.sends().len(), 0, "nobody to ask");
    two.tell(1, Message::Heartbeat(super::script::heartbeat(3, 0)));
    two.read(5);
    let Some((1, Message::ReadIndex(asked), _)) = two.sends().last().copied() else {
        panic!("the leader is asked");
    };
    assert_eq!((asked.term, asked.id), (3, 5));
    two.tell(3, Message::ReadIndexReply(answer));
    let older = ReadIndexReply { term: 2, ..answer };
    two.tell(1, Message::ReadIndexReply(older));
    assert_eq!(two.reads(), []);
    two.tell(1, Message::ReadIndexReply(answer));
    assert_eq!(two.reads(), [(5, 3)]);
}

#[test]
fn a9_a_lease_counts_from_when_the_heartbeat_was_sent() {
    let mut one = settled();
    assert_eq!(one.core.lease(), None, "nobody has promised anything");
    let sent_at = one.now;
    one.now += HEARTBEAT;
    one.beat_answered(2, 0, sent_at);
    let drift = T_MIN / 1000;
    assert_eq!(one.core.lease(), Some(sent_at + T_MIN - drift));
    one.beat_answered(2, 0, sent_at - HEARTBEAT);
    assert_eq!(
        one.core.lease(),
        Some(sent_at + T_MIN - drift),
        "never shorter"
    );
    one.beat_answered(3, 0, one.now + T_MAX);
    let most = one.now + T_MIN - drift;
    assert_eq!(one.core.lease(), Some(most), "nor from a time to come");
}

#[test]
fn a9_a_lease_ends_with_leadership_and_with_an_attempt_to_hand_over() {
    let mut one = settled();
    one.acked(3);
    one.beat_answered(2, 0, one.now);
    assert!(one.core.lease().is_some());
    let mut deposed = Script {
        core: one.core.clone(),
        now: one.now,
        out: Vec::new(),
    };
    deposed.tell(3, Message::Heartbeat(super::script::heartbeat(4, 0)));
    assert_eq!(deposed.core.lease(), None);

    one.feed(Input::HandOver { to: Some(3) });
    assert_eq!(one.core.lease(), None);
    one.now += T_MAX;
    one.beat_answered(2, 0, one.now);
    one.beat_answered(3, 0, one.now);
    one.feed(Input::Tick);
    let failed = |event: &Event| matches!(event, Event::HandOverFailed { .. });
    assert!(one.events().iter().any(failed), "the attempt is over");
    assert!(one.core.is_leader());
    assert_eq!(one.core.lease(), None, "for the rest of the term");
}

#[test]
fn a9_leases_are_off_by_default_and_need_an_entry_of_the_term() {
    let mut one = fresh();
    one.beat_answered(2, 0, one.now);
    assert_eq!(one.core.lease(), None, "what is committed is not known yet");
    one.acked(2);
    assert!(one.core.lease().is_some());
    let settings = super::super::Settings {
        lease_drift_ppm: None,
        ..super::bed::settings(1)
    };
    let image = super::script::image(1, &[1, 2], 2);
    let mut alone = Script::with_settings(1, &image, settings);
    alone.time_out();
    alone.durable(alone.writes().last().expect("its vote").id);
    alone.durable(alone.writes().last().expect("its no-op").id);
    alone.settle();
    assert!(alone.core.is_leader());
    assert_eq!(alone.core.lease(), None);
    alone.read(1);
    assert_eq!(
        alone.reads(),
        [(1, 3)],
        "the only voter needs nobody's word"
    );
}

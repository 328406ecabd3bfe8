//! Digests of states, compared by a leader, by their hazard id.

use super::super::{Event, Input, Message};
use super::bed::T_MAX;
use super::script::{Script, beat_reply, grant, heartbeat};
use crate::types::{LogIndex, NodeId};

/// Node 1 leads, and all others are connected.
fn leading(count: usize) -> Script {
    let mut one = Script::new(1, count, &[1, 2], 2);
    (2..=count as NodeId).for_each(|node| one.connect(node, 7));
    one.time_out();
    for granted in [Message::PreVoteReply, Message::VoteReply] {
        let asked = one.last_request();
        for voter in 2..=1 + count as NodeId / 2 {
            one.tell(voter, granted(grant(voter, asked)));
        }
        if let Some(vote) = one.writes().last() {
            one.durable(vote.id);
        }
    }
    assert!(one.core.is_leader());
    one
}

impl Script {
    fn has(&mut self, index: LogIndex, digest: u128) {
        self.feed(Input::Digest { index, digest });
    }

    /// `node` answers a heartbeat, and tells the digest of its state.
    fn says(&mut self, node: NodeId, index: LogIndex, digest: u128) {
        let mut reply = beat_reply(node, self.core.term(), 7);
        (reply.digest_index, reply.digest) = (index, digest);
        self.tell(node, Message::HeartbeatReply(reply));
    }

    /// What the newest heartbeat to `node` says of a quorum.
    fn agreed(&mut self, node: NodeId) -> (LogIndex, u128) {
        self.now = self.core.deadline();
        self.feed(Input::Tick);
        let sends = self.sends();
        let mut beats = sends.iter().filter_map(|(to, message, _)| match message {
            Message::Heartbeat(beat) if *to == node => Some((beat.digest_index, beat.digest)),
            _ => None,
        });
        beats.next_back().expect("a heartbeat")
    }

    fn told_of_a_difference(&self) -> usize {
        let events = self.events();
        let differ = |event: &&Event| matches!(event, Event::StatesDiffer { .. });
        events.iter().filter(differ).count()
    }
}

#[test]
fn g1_what_a_quorum_has_is_told_and_the_odd_one_stops() {
    let mut one = leading(3);
    one.has(64, 5);
    assert_eq!(one.agreed(2), (0, 0), "one voter is no quorum");
    one.says(3, 64, 6);
    one.says(2, 64, 5);
    assert_eq!(one.agreed(3), (64, 5));
    assert!(!one.core.failed());

    let mut three = Script::new(3, 3, &[1, 2], 2);
    three.has(32, 1);
    three.has(64, 6);
    let mut beat = heartbeat(3, 0);
    (beat.digest_index, beat.digest) = (32, 1);
    three.tell(1, Message::Heartbeat(beat));
    assert!(!three.core.failed());
    (beat.digest_index, beat.digest) = (64, 5);
    three.tell(1, Message::Heartbeat(beat));
    let (index, own, agreed) = (64, 6, 5);
    let diverged = Event::Diverged { index, own, agreed };
    assert!(three.events().contains(&diverged));
    assert!(three.core.failed());
}

#[test]
fn g1_who_applies_later_finds_out_then() {
    let mut three = Script::new(3, 3, &[1, 2], 2);
    let mut beat = heartbeat(3, 0);
    (beat.digest_index, beat.digest) = (64, 5);
    three.tell(1, Message::Heartbeat(beat));
    (beat.digest_index, beat.digest) = (128, 9);
    three.tell(1, Message::Heartbeat(beat));
    three.has(32, 1);
    assert!(!three.core.failed());
    three.has(64, 6);
    assert!(three.core.failed());
}

#[test]
fn g1_a_leader_that_is_the_odd_one_stops_itself_and_nobody_else() {
    let mut one = leading(5);
    one.has(64, 6);
    one.says(2, 64, 5);
    one.says(3, 64, 5);
    assert_eq!(one.agreed(4), (0, 0), "two of five are no quorum");
    assert!(!one.core.failed());
    one.says(4, 64, 5);
    assert!(one.core.failed());
    assert!(!one.core.is_leader());
}

#[test]
fn g1_two_that_differ_are_told_of_and_nobody_stops() {
    let mut one = leading(3);
    one.has(64, 5);
    one.says(2, 64, 6);
    assert_eq!(one.agreed(2), (0, 0));
    assert_eq!(one.told_of_a_difference(), 0, "the third may yet decide");
    for _ in 0..2 {
        let end = one.now + T_MAX;
        while one.now <= end {
            one.says(2, 64, 6);
            one.agreed(2);
        }
        assert_eq!(one.told_of_a_difference(), 1);
    }
    assert!(one.core.is_leader() && !one.core.failed());
    one.says(3, 64, 5);
    assert_eq!(one.agreed(2), (64, 5));
    assert!(!one.core.failed());
}

/// What was said by another life, or in another term, says nothing.
#[test]
fn g1_only_members_of_this_term_count() {
    let mut one = leading(3);
    one.has(64, 6);
    let mut late = beat_reply(2, one.core.term() - 1, 7);
    (late.digest_index, late.digest) = (64, 5);
    one.tell(2, Message::HeartbeatReply(late));
    let mut stranger = beat_reply(4, one.core.term(), 7);
    (stranger.digest_index, stranger.digest) = (64, 5);
    one.tell(4, Message::HeartbeatReply(stranger));
    one.says(3, 64, 5);
    assert!(!one.core.failed());
    one.says(2, 64, 5);
    assert!(one.core.failed());
}

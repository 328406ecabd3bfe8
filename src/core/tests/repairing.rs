//! Replicas whose log lost entries and was repaired (hazard C5).

use super::super::{
    AppendStatus, Class, Event, FoundingList, HandOverError, Input, Message, Output, PeerHello,
    RaftCore, RaftRole, ReadIndexReply, Recovered, ReplicaState, TimeoutNow, VoteReason,
};
use super::bed::{HEARTBEAT, T_MAX, incarnation, settings};
use super::script::{Script, beat_reply, heartbeat, image, matched, replica, request};
use crate::types::{LogId, LogIndex, NodeId, Term, WriteId};

/// Node 2 of three in term 3, whose log was repaired and ends with entry 2 of term 2.
fn damaged(floor: LogId) -> Script {
    let recovered = Recovered {
        repairing: Some(floor),
        ..image(3, &[1, 2], 3).recovered()
    };
    let list = FoundingList::default();
    Script {
        core: RaftCore::new(replica(2), settings(2), recovered, list, 0),
        now: T_MAX,
        out: Vec::new(),
    }
}

impl Script {
    fn repairs(&self) -> Vec<(WriteId, Option<LogId>)> {
        let repair = |output: &Output| match output {
            Output::Repair { id, floor } => Some((*id, *floor)),
            _ => None,
        };
        self.out.iter().filter_map(repair).collect()
    }

    /// The leader sends its log on, from entry 3 of term 3, and what it has of `classes`.
    fn led(&mut self, leader: NodeId, term: Term, classes: &[Class]) {
        for class in classes {
            match class {
                Class::Data => self.append(leader, term, LogId::new(2, 2), &[term], 0),
                _ => self.tell(leader, Message::Heartbeat(heartbeat(term, 0))),
            }
        }
    }

    /// Asks as attempt `id`, and is answered.
    fn asks(&mut self, id: u64, leader: NodeId, index: LogIndex) {
        self.feed(Input::Read { id });
        let reply = ReadIndexReply {
            term: self.core.term(),
            id,
            index: Some(index),
        };
        self.tell(leader, Message::ReadIndexReply(reply));
        self.settle();
    }

    /// A peer whose log is under repair comes up, on a stream of this class.
    fn connect_damaged(&mut self, node: NodeId, class: Class, epoch: u64) {
        self.feed(Input::PeerUp {
            peer: replica(node),
            class,
            epoch,
            hello: PeerHello {
                repairing: true,
                ..PeerHello::default()
            },
        });
    }

    /// `node` acknowledges all that it was sent, in this state.
    fn acked_as(&mut self, node: NodeId, state: ReplicaState) {
        let append = *self.appends_to(node).last().expect("an append");
        let mut ack = matched(node, append, self.core.last().index);
        ack.state = state;
        self.tell(node, Message::AppendAck(ack));
        self.settle();
    }

    fn beat_as(&mut self, node: NodeId, epoch: u64, state: ReplicaState) {
        let mut reply = beat_reply(node, self.core.term(), epoch);
        (reply.state, reply.read_id, reply.sent_at) = (state, u64::MAX, self.now);
        self.tell(node, Message::HeartbeatReply(reply));
        self.settle();
    }
}

#[test]
fn c5_under_repair_it_neither_votes_nor_campaigns() {
    let mut two = damaged(LogId::default());
    let before = two.core.hard_state();
    let newest = LogId::new(9, 9);
    for message in [
        Message::PreVote(request(1, 4, newest)),
        Message::Vote(request(1, 4, newest)),
    ] {
        two.tell(1, message);
        let (reply, _) = two.last_vote_reply();
        assert!(!reply.granted);
        assert_eq!(reply.reason, VoteReason::NoVoter);
        assert_eq!((reply.state, reply.term), (ReplicaState::Repairing, 3));
    }
    for _ in 0..3 {
        two.time_out();
        assert_eq!(two.core.role(), RaftRole::Follower);
    }
    two.led(1, 3, &[Class::Data, Class::Control]);
    two.tell(
        1,
        Message::TimeoutNow(TimeoutNow {
            term: 3,
            target: incarnation(2, 1),
            last: two.core.last(),
        }),
    );
    let Some((_, Message::TimeoutNowReply(reply), _)) = two.sends().last().copied() else {
        panic!("it answers");
    };
    assert!(!reply.accepted);
    assert_eq!(two.core.hard_state(), before, "no vote, no term");
    let advised = |event: &Event| matches!(event, Event::Advice(text) if text.contains("repair"));
    assert!(two.events().iter().any(advised), "somebody has to know");
}

/// Node 1 leads three in term 3; node 2 is up, its log under repair.
fn leading_beside_a_damaged() -> Script {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.connect(3, 7);
    for class in [Class::Control, Class::Data] {
        one.connect_damaged(2, class, 7);
    }
    one.lead(3);
    one.durable(one.writes().last().expect("the no-op").id);
    one.settle();
    one
}

#[test]
fn c5_a_leader_counts_nothing_of_who_is_under_repair() {
    let mut one = leading_beside_a_damaged();
    one.feed(Input::Read { id: 1 });
    one.acked_as(2, ReplicaState::Repairing);
    one.beat_as(2, 7, ReplicaState::Repairing);
    assert_eq!(one.core.match_of(2), 3, "it is sent the log like anybody");
    assert_eq!(one.core.commit(), 0, "and that commits nothing");
    assert_eq!(one.core.lease(), None);
    one.feed(Input::HandOver { to: Some(2) });
    let why = HandOverError::NoTarget;
    assert!(one.events().contains(&Event::HandOverFailed { why }));

    one.acked_as(3, ReplicaState::Member);
    assert_eq!(one.core.commit(), 3);
    one.beat_as(2, 7, ReplicaState::Repairing);
    let read = |output: &Output| matches!(output, Output::ReadReady { .. });
    assert!(!one.out.iter().any(read), "its word confirms no read");
    assert_eq!(one.core.lease(), None, "nor gives it a lease");

    one.beat_as(2, 7, ReplicaState::Member);
    assert!(one.out.iter().any(read), "afterwards it counts");
    assert!(one.core.lease().is_some());
}

#[test]
fn c5_who_is_under_repair_keeps_no_leader_in_office() {
    let mut one = leading_beside_a_damaged();
    for _ in 0..2 * T_MAX / HEARTBEAT {
        one.now += HEARTBEAT;
        one.feed(Input::Tick);
        if one.core.is_leader() {
            one.beat_as(2, 7, ReplicaState::Repairing);
        }
    }
    assert!(!one.core.is_leader(), "nobody else answers");
}

#[test]
fn c5_what_was_acknowledged_before_a_repair_is_forgotten() {
    let mut one = Script::new(1, 5, &[1, 2], 2);
    for node in 2..=5 {
        one.connect(node, 7);
    }
    one.time_out();
    let asked = one.last_request();
    for node in [2, 3] {
        one.tell(
            node,
            Message::PreVoteReply(super::script::grant(node, asked)),
        );
    }
    one.durable(one.writes().last().expect("the own vote").id);
    let asked = one.last_request();
    for node in [2, 3] {
        one.tell(node, Message::VoteReply(super::script::grant(node, asked)));
    }
    one.durable(one.writes().last().expect("the no-op").id);
    one.settle();
    one.acked_as(2, ReplicaState::Member);
    assert_eq!((one.core.match_of(2), one.core.commit()), (3, 0));
    one.connect_damaged(2, Class::Data, 8);
    assert_eq!(one.core.match_of(2), 0);
    one.acked_as(3, ReplicaState::Member);
    assert_eq!(one.core.commit(), 0, "two of five hold it");
    one.acked_as(4, ReplicaState::Member);
    assert_eq!(one.core.commit(), 3);
}

/// Damaged again before its repair had ended, it has lost what it told the same leader meanwhile.
#[test]
fn c5_one_that_is_repaired_twice_is_sent_what_it_lost_the_second_time() {
    let mut one = leading_beside_a_damaged();
    one.acked_as(2, ReplicaState::Repairing);
    assert_eq!(one.core.match_of(2), 3);
    one.connect_damaged(2, Class::Data, 8);
    one.settle();
    let probe = *one.appends_to(2).last().expect("a probe");
    let mut ack = matched(2, probe, 0);
    (ack.status, ack.state) = (AppendStatus::Conflict, ReplicaState::Repairing);
    ack.conflict = LogId::new(1, 1);
    one.tell(2, Message::AppendAck(ack));
    one.settle();
    let next = *one.appends_to(2).last().expect("another probe");
    assert_eq!((next.epoch, next.prev), (8, LogId::new(1, 1)));
}

#[test]
fn c5_a_vote_of_who_is_under_repair_elects_nobody() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.connect(2, 7);
    let _ = one.campaign(3);
    one.durable(one.writes().last().expect("the own vote").id);
    let mut reply = super::script::grant(2, one.last_request());
    (reply.granted, reply.reason) = (false, VoteReason::NoVoter);
    reply.state = ReplicaState::Repairing;
    one.tell(2, Message::VoteReply(reply));
    assert_eq!(one.core.role(), RaftRole::Candidate);
    let advised = |event: &Event| matches!(event, Event::Advice(_));
    assert!(!one.events().iter().any(advised), "nobody was removed");
}

#[test]
fn c5_the_floor_is_durable_before_it_is_used_and_so_is_the_end() {
    let mut two = damaged(LogId::default());
    two.led(1, 3, &[Class::Data, Class::Control]);
    two.durable(two.writes().last().expect("entry 3").id);
    two.asks(9, 1, 3);
    let floor = LogId::new(3, 3);
    let [(kept, Some(said))] = two.repairs()[..] else {
        panic!("the floor is kept: {:?}", two.repairs());
    };
    assert_eq!(said, floor);
    two.settle();
    assert_eq!(two.repairs().len(), 1, "not before it is durable");
    two.durable(kept);
    two.settle();
    let [_, (end, None)] = two.repairs()[..] else {
        panic!("the end is kept: {:?}", two.repairs());
    };
    two.now += 2 * T_MAX;
    let asked = request(3, 4, LogId::new(3, 3));
    two.tell(3, Message::PreVote(asked));
    assert!(!two.last_vote_reply().0.granted, "not before that is");
    two.led(1, 3, &[Class::Data]);
    assert_eq!(two.last_ack().0.state, ReplicaState::Repairing);
    two.durable(end);
    two.led(1, 3, &[Class::Data]);
    assert_eq!(two.last_ack().0.state, ReplicaState::Member);
    two.now += 2 * T_MAX;
    two.tell(3, Message::PreVote(asked));
    assert!(two.last_vote_reply().0.granted);
}

#[test]
fn c5_a_repair_ends_only_with_everything_up_to_the_floor_on_the_disk() {
    let mut two = damaged(LogId::default());
    two.led(1, 3, &[Class::Data, Class::Control]);
    two.asks(9, 1, 4);
    let entry_3 = two.writes().last().expect("entry 3").id;
    let (kept, _) = two.repairs()[0];
    two.durable(kept.max(entry_3));
    two.settle();
    assert_eq!(two.repairs().len(), 1, "entry 4 is not here");
    two.append(1, 3, LogId::new(3, 3), &[3], 0);
    two.settle();
    assert_eq!(two.repairs().len(), 1, "nor durable");
    two.durable(two.writes().last().expect("entry 4").id);
    two.settle();
    assert_eq!(two.repairs().len(), 2);
}

#[test]
fn c5_only_a_leader_that_knows_of_the_repair_says_where_it_ends() {
    for classes in [&[][..], &[Class::Data], &[Class::Control]] {
        let mut two = damaged(LogId::default());
        two.led(1, 3, classes);
        two.asks(9, 1, 3);
        assert_eq!(two.repairs(), [], "{classes:?}");
        two.led(1, 3, &[Class::Data, Class::Control]);
        let reply = ReadIndexReply {
            term: 3,
            id: 9,
            index: Some(3),
        };
        two.tell(1, Message::ReadIndexReply(reply));
        assert_eq!(two.repairs(), [], "{classes:?}: asked too early");
        two.asks(10, 1, 3);
        assert_eq!(two.repairs().len(), 1, "{classes:?}");
    }
    let mut two = damaged(LogId::default());
    two.led(1, 3, &[Class::Data, Class::Control]);
    two.led(3, 4, &[Class::Control]);
    two.asks(9, 3, 3);
    assert_eq!(two.repairs(), [], "the next leader does not know yet");
    two.led(3, 4, &[Class::Data]);
    two.asks(10, 3, 3);
    assert_eq!(two.repairs()[0].1, Some(LogId::new(4, 3)));
}

#[test]
fn c5_a_restart_goes_on_from_the_floor_that_was_kept() {
    let mut short = damaged(LogId::new(3, 3));
    short.led(1, 3, &[Class::Control]);
    short.settle();
    assert_eq!(short.repairs(), []);
    assert!(!short.core.seeks_floor());
    let mut whole = damaged(LogId::new(2, 2));
    whole.settle();
    assert_eq!(whole.repairs().len(), 1, "all that it lacked is there");
}

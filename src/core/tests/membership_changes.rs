//! Changes of members from their proposal to their end, by their hazard ids.

use std::sync::Arc;

use super::super::{
    AppendSource, Change, Class, Configuration, Event, Input, MemberInfo, Message, PeerHello,
    RaftRole, VoteReason,
};
use super::bed::{T_MAX, T_MIN, incarnation};
use super::disk::Image;
use super::script::{Script, beat_reply, image, matched, replica, request, voters};
use crate::core::ChangeError;
use crate::types::{LogId, LogIndex, NodeId, ReplicaId};

/// The second life of a node.
fn reborn(node: NodeId) -> ReplicaId {
    ReplicaId::new(node, incarnation(node, 2))
}

fn info(replica: ReplicaId) -> MemberInfo {
    MemberInfo {
        replica,
        ..MemberInfo::default()
    }
}

fn nodes(members: &[MemberInfo]) -> Vec<NodeId> {
    members.iter().map(|member| member.replica.node).collect()
}

impl Script {
    fn change(&mut self, changes: Vec<Change>) {
        let expected = None;
        self.feed(Input::Change { expected, changes });
        self.settle();
    }

    fn refusals(&self) -> Vec<ChangeError> {
        let why = |event: Event| match event {
            Event::ChangeRefused { why } => Some(why),
            _ => None,
        };
        self.events().into_iter().filter_map(why).collect()
    }

    /// Connected to nodes 2 and 3, it leads; its no-op is durable here only.
    fn lead_connected(&mut self) {
        self.connect(2, 7);
        self.connect(3, 7);
        self.now += 2 * T_MAX;
        self.lead(2);
        self.sync();
    }

    /// Everything written becomes durable.
    fn sync(&mut self) {
        if let Some(write) = self.writes().last().map(|write| write.id) {
            self.durable(write);
        }
        self.settle();
    }

    /// `who` acknowledges the newest append.
    fn takes_as(&mut self, who: ReplicaId) {
        let append = *self.appends_to(who.node).last().expect("an append");
        let upto = append.prev.index + u64::from(append.count);
        let mut ack = matched(who.node, append, upto);
        ack.incarnation = who.incarnation;
        self.tell_as(who, Message::AppendAck(ack));
        self.settle();
    }

    fn takes(&mut self, node: NodeId) {
        self.takes_as(replica(node));
    }

    fn current(&self) -> Configuration {
        self.core
            .configuration()
            .expect("a member")
            .as_ref()
            .clone()
    }

    fn is_joint(&self) -> bool {
        !self.current().outgoing.is_empty()
    }

    /// Voters in force, and the old ones beside them.
    fn voters(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let current = self.current();
        (nodes(&current.incoming), nodes(&current.outgoing))
    }

    fn connect_as(&mut self, peer: ReplicaId, epoch: u64) {
        for class in [Class::Control, Class::Data] {
            let hello = PeerHello::default();
            self.feed(Input::PeerUp {
                peer,
                class,
                epoch,
                hello,
            });
        }
        self.settle();
    }

    /// `node` and the own disk take what is under way, until no change is.
    fn finish(&mut self, helpers: &[NodeId]) {
        for _ in 0..4 {
            self.sync();
            for node in helpers {
                if self.core.match_of(*node) < self.core.last().index {
                    self.takes(*node);
                }
            }
        }
        assert_eq!(self.core.commit(), self.core.last().index);
    }
}

/// Node 1 of three leads term 3 and has committed its no-op, entry 3.
fn leading() -> Script {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.lead_connected();
    one.takes(2);
    one.takes(3);
    assert_eq!(one.core.commit(), 3);
    one
}

#[test]
fn e1_voters_change_by_a_joint_configuration_which_both_majorities_commit() {
    let mut one = leading();
    one.change(vec![Change::Demote(2), Change::Demote(3)]);
    assert_eq!(one.voters(), (vec![1], vec![1, 2, 3]), "in force at once");
    one.sync();
    assert_eq!(one.core.commit(), 3, "a majority of the new voters alone");
    one.takes(2);
    assert_eq!(one.core.commit(), 4, "and one of the old");
    assert_eq!(one.voters(), (vec![1], vec![]), "left by itself");
    one.sync();
    assert_eq!(one.core.commit(), 5, "the new voters decide alone");
    assert_eq!(nodes(&one.current().learners), [2, 3]);
}

#[test]
fn c8_a_leader_without_room_changes_no_members_and_ends_a_change_later() {
    let mut one = leading();
    one.feed(Input::NoRoom(true));
    one.change(vec![Change::Demote(3)]);
    assert_eq!(one.refusals(), [ChangeError::NoRoom]);
    one.feed(Input::NoRoom(false));
    one.change(vec![Change::Demote(3)]);
    one.feed(Input::NoRoom(true));
    one.finish(&[2, 3]);
    assert!(one.core.is_leader() && one.is_joint(), "there is no room");
    one.feed(Input::NoRoom(false));
    one.finish(&[2, 3]);
    assert!(!one.is_joint());
}

#[test]
fn c8_a_configuration_that_the_reserve_cannot_take_is_refused() {
    let mut one = leading();
    let long = |node: NodeId| MemberInfo {
        client_endpoint: "x".repeat(512),
        ..info(replica(node))
    };
    let many = (4..100).map(|node| Change::AddLearner(long(node)));
    one.change(many.collect());
    let refused = one.refusals();
    assert!(
        matches!(refused[..], [ChangeError::Invalid(why)] if why.contains("too large")),
        "{refused:?}"
    );
}

#[test]
fn e1_a_change_that_leaves_the_voters_alone_is_not_joint() {
    let mut one = leading();
    let moved = MemberInfo {
        peer_address: "elsewhere:1".to_owned(),
        ..info(replica(2))
    };
    one.change(vec![
        Change::AddLearner(info(replica(4))),
        Change::Update(moved),
    ]);
    assert_eq!(one.voters(), (vec![1, 2, 3], vec![]));
    assert_eq!(nodes(&one.current().learners), [4]);
    let told = one.current().member(2).map(|it| it.peer_address.clone());
    assert_eq!(told.as_deref(), Some("elsewhere:1"));
}

#[test]
fn e1_no_change_before_an_entry_of_the_term_is_committed() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.append(3, 2, LogId::new(2, 2), &[], 2);
    assert_eq!(one.core.commit(), 2, "the members are settled");
    one.lead_connected();
    one.change(vec![Change::Remove(3)]);
    assert_eq!(one.refusals(), [ChangeError::Busy]);
    assert_eq!(one.core.last(), LogId::new(3, 3), "nothing was appended");
    one.takes(2);
    one.change(vec![Change::Remove(3)]);
    assert!(one.is_joint());
}

#[test]
fn e3_one_change_at_a_time() {
    let mut one = leading();
    one.change(vec![Change::Remove(3)]);
    let mut busy = 0;
    for done in ["appended", "joint and committed"] {
        one.change(vec![Change::AddLearner(info(replica(4)))]);
        busy += 1;
        assert_eq!(one.refusals(), vec![ChangeError::Busy; busy], "{done}");
        one.sync();
        one.takes(2);
    }
    one.sync();
    assert_eq!(one.core.commit(), 5);
    one.change(vec![Change::AddLearner(info(replica(4)))]);
    assert_eq!(one.refusals().len(), busy, "the one before is through");
    let mut other = leading();
    other.feed(Input::HandOver { to: Some(2) });
    other.change(vec![Change::Remove(3)]);
    assert_eq!(other.refusals(), [ChangeError::Busy], "leadership moves");
}

#[test]
fn e3_a_change_is_for_the_members_it_was_meant_for() {
    let mut one = leading();
    let mut ask = |expected: LogIndex, node: NodeId| {
        one.feed(Input::Change {
            expected: Some(expected),
            changes: vec![Change::AddLearner(info(replica(node)))],
        });
        one.finish(&[2, 3]);
        one.refusals()
    };
    assert_eq!(ask(1, 4), []);
    assert_eq!(ask(1, 5), [ChangeError::Changed { now: 4 }]);
    assert_eq!(ask(4, 5).len(), 1);
    assert_eq!(nodes(&one.current().learners), [4, 5]);
    let mut two = Script::new(2, 3, &[1, 2], 2);
    two.change(vec![Change::Remove(3)]);
    assert_eq!(two.refusals(), [ChangeError::NotLeader]);
}

#[test]
fn e3_a_new_leader_finishes_what_another_began() {
    let mut log = image(3, &[1, 2], 2);
    let joint = Configuration {
        incoming: [1, 2].map(|node| info(replica(node))).to_vec(),
        outgoing: voters(3).incoming.clone(),
        ..Configuration::default()
    };
    log.configurations.push((2, Arc::new(joint)));
    let mut one = Script::open(1, &log);
    one.lead_connected();
    assert_eq!(one.core.last().index, 3, "not before it is committed");
    one.takes(2);
    assert_eq!(one.voters(), (vec![1, 2], vec![]));
    let write = one.writes().pop().expect("the end of the change");
    assert!(matches!(
        write.append,
        AppendSource::Configuration { index: 4, .. }
    ));
}

#[test]
fn e5_a_leader_that_is_removed_does_not_count_itself_and_goes_when_that_is_committed() {
    let mut one = leading();
    one.change(vec![Change::Remove(1)]);
    one.sync();
    one.takes(2);
    assert_eq!(one.core.commit(), 3, "of the new voters only one has it");
    one.takes(3);
    assert_eq!(one.voters(), (vec![2, 3], vec![]));
    one.sync();
    one.takes(3);
    assert_eq!(one.core.commit(), 4, "its own disk does not count");
    assert!(one.core.is_leader(), "it sees its removal through");
    assert!(one.sends().iter().all(|(_, message, _)| !is_urge(message)));
    one.takes(2);
    assert_eq!(one.core.commit(), 5);
    assert_eq!(one.core.role(), RaftRole::Follower);
    let urged: Vec<_> = one
        .sends()
        .into_iter()
        .filter(|it| is_urge(&it.1))
        .collect();
    assert_eq!(urged.len(), 1, "and names its successor: {urged:?}");
    one.out.clear();
    for _ in 0..20 {
        one.time_out();
    }
    assert_eq!(one.sends(), [], "it never campaigns again");
}

fn is_urge(message: &Message) -> bool {
    matches!(message, Message::TimeoutNow(_))
}

/// Node 2 of three, whose log says in entry 3 that node 1 is gone.
fn removed_one(committed: bool) -> Script {
    let mut log = image(3, &[1, 2, 2], 2);
    let without = Configuration {
        incoming: [2, 3].map(|node| info(replica(node))).to_vec(),
        tombstones: vec![replica(1)],
        ..Configuration::default()
    };
    log.configurations.push((3, Arc::new(without)));
    let mut two = Script::open(2, &log);
    let commit = if committed { 3 } else { 2 };
    two.append(3, 2, LogId::new(2, 3), &[], commit);
    two.now += 2 * T_MAX;
    two
}

#[test]
fn e6_a_removed_replica_gets_no_vote_and_is_told_so() {
    let mut two = removed_one(true);
    let asked = request(1, 9, LogId::new(8, 8));
    for message in [Message::PreVote(asked), Message::Vote(asked)] {
        two.tell(1, message);
        let reply = two.last_vote_reply().0;
        assert_eq!((reply.granted, reply.reason), (false, VoteReason::NoVoter));
    }
    assert_eq!(two.core.term(), 2, "its term disturbs nobody");
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.time_out();
    let asked = one.last_request();
    let mut told = super::script::reject(2, asked, 2);
    told.reason = VoteReason::NoVoter;
    one.tell(2, Message::PreVoteReply(told));
    let advice = |event: &Event| matches!(event, Event::Advice(text) if text.contains("removed"));
    assert!(one.events().iter().any(advice));
}

#[test]
fn e6_a_node_that_waited_to_be_added_still_says_later_that_it_was_removed() {
    let mut four = Script::open(4, &Image::default());
    four.connect(1, 7);
    four.time_out();
    let advice = |four: &Script| {
        let text = |event: Event| match event {
            Event::Advice(text) => Some(text),
            _ => None,
        };
        four.events()
            .into_iter()
            .filter_map(text)
            .collect::<Vec<_>>()
    };
    assert!(advice(&four)[0].contains("blank"));
    for _ in 0..3 {
        let mut told = super::script::reject(1, request(4, 1, LogId::default()), 0);
        told.reason = VoteReason::NoVoter;
        four.tell(1, Message::PreVoteReply(told));
    }
    assert_eq!(advice(&four).len(), 2, "each once");
    assert!(advice(&four)[1].contains("removed"));
}

/// Found by the simulator (L1, seed 6000329): a voter refused its vote for the sake of a removal
/// that was not committed, the two others could not win without it, and nobody ever led again.
#[test]
fn e6_only_a_committed_removal_costs_a_vote() {
    let mut two = removed_one(false);
    let asked = request(1, 9, LogId::new(8, 8));
    for message in [Message::PreVote(asked), Message::Vote(asked)] {
        two.tell(1, message);
        assert!(two.last_vote_reply().0.granted);
    }
}

#[test]
fn e6_answers_of_a_removed_replica_are_inert() {
    let mut one = leading();
    one.change(vec![Change::Remove(3)]);
    one.sync();
    let late = *one.appends_to(3).last().expect("the joint configuration");
    one.takes(2);
    one.sync();
    one.takes(2);
    assert_eq!((one.core.commit(), one.is_joint()), (5, false));
    one.tell(3, Message::AppendAck(matched(3, late, 4)));
    assert_eq!(one.core.match_of(3), 3, "its ack is late");
    let start = one.now;
    while one.core.is_leader() && one.now < start + 3 * T_MAX {
        one.time_out();
        one.tell(3, Message::HeartbeatReply(beat_reply(3, 3, 7)));
    }
    assert!(!one.core.is_leader(), "nor does it keep a leader");
}

#[test]
fn e7_a_learner_votes_once_it_has_caught_up() {
    let mut one = leading();
    one.change(vec![Change::AddVoter(info(replica(4)))]);
    one.finish(&[2, 3]);
    assert_eq!(nodes(&one.current().learners), [4]);
    assert_eq!(one.voters(), (vec![1, 2, 3], vec![]), "it has nothing yet");
    one.connect(4, 7);
    one.settle();
    one.feed(Input::Propose { count: 1 });
    one.takes(4);
    one.finish(&[2, 3]);
    assert!(!one.is_joint(), "it lacks what came meanwhile");
    one.now += T_MIN + 1;
    one.takes(4);
    assert!(!one.is_joint(), "and took too long for that");
    one.settle();
    assert_eq!(one.voters(), (vec![1, 2, 3, 4], vec![1, 2, 3]));
    assert!(one.current().promotions.is_empty() && one.current().learners.is_empty());
}

#[test]
fn e7_a_learner_out_of_reach_holds_up_nothing() {
    let mut one = leading();
    one.change(vec![Change::AddVoter(info(replica(4)))]);
    one.feed(Input::Propose { count: 1 });
    one.finish(&[2, 3]);
    one.change(vec![Change::AddVoter(info(replica(5)))]);
    one.finish(&[2, 3]);
    one.change(vec![Change::Remove(4)]);
    one.finish(&[2, 3]);
    assert_eq!(one.refusals(), []);
    assert_eq!(nodes(&one.current().learners), [5]);
    assert_eq!(one.current().tombstones, [replica(4)]);
}

#[test]
fn e8_a_replacement_takes_the_place_of_the_old_life_as_another_voter() {
    let mut one = leading();
    let new = info(reborn(3));
    one.change(vec![Change::Replace { old: 3, new }]);
    one.finish(&[2]);
    assert!(one.current().is_voter(replica(3)), "until the new one can");
    one.connect_as(reborn(3), 8);
    one.takes_as(reborn(3));
    one.takes_as(reborn(3));
    one.settle();
    let (old, new) = (replica(3), reborn(3));
    let joint = one.current();
    assert_eq!(joint.outgoing, voters(3).incoming);
    assert!(joint.incoming.iter().any(|one| one.replica == new));
    assert!(joint.incoming.iter().all(|one| one.replica != old));
    one.sync();
    one.takes_as(new);
    assert!(one.is_joint(), "the new life does not count as the old");
    one.takes(2);
    assert!(!one.is_joint());
    assert_eq!(one.current().tombstones, [old]);
}

#[test]
fn e9_changes_that_make_no_sense_are_refused_and_leave_no_trace() {
    let mut one = leading();
    let gone = replica(4);
    one.change(vec![Change::AddLearner(info(gone))]);
    one.finish(&[2, 3]);
    one.change(vec![Change::Remove(4)]);
    one.finish(&[2, 3]);
    let last = one.core.last();
    let removed = "that directory was removed and never comes back; use an empty one";
    let taken = "there is a member of that number already; replace takes its place";
    let all = |change: fn(NodeId) -> Change| (1..=3).map(change).collect();
    let cases: Vec<(Vec<Change>, &str)> = vec![
        (all(Change::Remove), "no voter"),
        (all(Change::Demote), "no voter"),
        (vec![Change::Remove(9)], "there is no such member"),
        (vec![Change::Demote(9)], "there is no such voter"),
        (vec![Change::Promote(2)], "there is no such learner"),
        (vec![Change::AddLearner(info(gone))], removed),
        (vec![Change::AddVoter(info(reborn(2)))], taken),
        (
            vec![Change::Replace {
                old: 2,
                new: info(gone),
            }],
            removed,
        ),
        (
            vec![Change::Replace {
                old: 2,
                new: info(replica(2)),
            }],
            "that directory is a member already",
        ),
        (
            vec![Change::Replace {
                old: 9,
                new: info(reborn(9)),
            }],
            "there is no such voter",
        ),
        (
            vec![Change::Update(info(reborn(2)))],
            "there is no such member in that life",
        ),
        (
            vec![Change::AddLearner(info(ReplicaId::default()))],
            "a member without id or incarnation",
        ),
        // One wish that fails is enough.
        (
            vec![Change::Remove(3), Change::Remove(9)],
            "there is no such member",
        ),
    ];
    for (changes, why) in cases {
        one.out.clear();
        one.change(changes.clone());
        let refused = [ChangeError::Invalid(why)];
        assert_eq!(one.refusals(), refused, "{changes:?}");
        assert_eq!((one.core.last(), one.writes().len()), (last, 0));
    }
    one.out.clear();
    one.change(vec![Change::AddLearner(info(reborn(4)))]);
    assert_eq!(one.refusals(), [], "another directory of that number may");
}

/// It would be in the log, and neither followers nor a restart could read it.
#[test]
fn e9_members_that_could_not_be_read_back_are_refused() {
    let mut one = leading();
    let far = MemberInfo {
        peer_address: "a".repeat(513),
        ..info(replica(5))
    };
    one.change(vec![Change::AddLearner(far)]);
    let many = (5..=1029).map(|node| Change::AddLearner(info(replica(node))));
    one.change(many.collect());
    let why = ["an address over 512 bytes", "more than 1024 members"];
    assert_eq!(one.refusals(), why.map(ChangeError::Invalid));
    assert_eq!(one.core.last().index, 3, "nothing was appended");
}

#[test]
fn e9_a_second_life_that_is_promoted_takes_the_place_of_the_first() {
    let mut one = leading();
    let new = info(reborn(3));
    one.change(vec![Change::Replace { old: 3, new }]);
    one.finish(&[2]);
    // It is on its way in already; who promotes it beside that must not make it a fourth voter.
    one.change(vec![Change::Promote(3)]);
    one.finish(&[2]);
    one.connect_as(reborn(3), 8);
    one.takes_as(reborn(3));
    one.takes_as(reborn(3));
    one.finish(&[2]);
    let current = one.current();
    assert!(current.is_voter(reborn(3)) && !current.is_voter(replica(3)));
    assert_eq!(current.check(), Ok(()));
    assert_eq!(one.refusals(), []);
}

#[test]
fn e9_what_the_leader_would_go_on_to_by_itself_makes_sense_too() {
    let mut one = leading();
    let new = info(reborn(2));
    one.change(vec![Change::Replace { old: 3, new }]);
    let why = "a member of that number votes already; replace takes its place";
    assert_eq!(one.refusals(), [ChangeError::Invalid(why)]);
    assert_eq!(one.core.last().index, 3, "nothing was appended");
}

//! Proposals that a node which does not lead passes on: drivers, without a network of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::bed::{Answer, Bed, Journal};
use crate::error::{ProposeError, SessionRefusal};
use crate::network::{Forward, ForwardReply, NetworkEvent};
use crate::network::{ForwardOutcome, Forwarded};
use crate::node::envelope::InSession;
use crate::node::line::Line;
use crate::node::pipeline::Pipelined;
use crate::node::shared::encode;
use crate::node::system::SystemEntry;
use crate::node::waiters::Reply;
use crate::types::{EntryKind, LogIndex, NodeId, ReplicaId};
use crate::wal::{Crash, SyncPolicy};

const SECOND: u64 = 1_000_000;

impl Bed {
    fn ask(&self, to: NodeId, command: &str) -> Answer {
        self.ask_in(to, None, command)
    }

    fn ask_in(&self, to: NodeId, at: Option<InSession>, command: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let payload = encode::<Journal>(at, &command.to_owned()).expect("a command");
        self.pass_on(to, EntryKind::Command, payload, reply.into());
        answer
    }

    fn ask_for_session(&self, to: NodeId) -> oneshot::Receiver<Result<LogIndex, ProposeError>> {
        let (reply, answer) = oneshot::channel();
        let payload = SystemEntry::OpenSession.encode();
        self.pass_on(to, EntryKind::System, payload, Reply::System(reply));
        answer
    }

    /// As if a node had passed this on.
    fn hand_in(&self, to: NodeId, kind: EntryKind, payload: Bytes) -> oneshot::Receiver<Forwarded> {
        let (told, answer) = oneshot::channel();
        let forward = Forward {
            term: 1,
            kind,
            payload,
            patience: std::time::Duration::from_secs(5),
            line: None,
            waits: false,
            reply: ForwardReply::new(move |answer| drop(told.send(answer))),
        };
        let from = ReplicaId::new(9, Default::default());
        let event = NetworkEvent::Forward { from, forward };
        let inbox = &self.node(to).shared.inbox;
        inbox.put(|lanes| lanes.network.push(event));
        answer
    }

    fn follower_of(&self, leader: NodeId) -> NodeId {
        (1..=3).find(|node| *node != leader).expect("of three")
    }
}

fn started() -> (Bed, NodeId, NodeId) {
    let mut bed = Bed::new(3, SyncPolicy::default());
    let leader = bed.leader_soon();
    let follower = bed.follower_of(leader);
    // It hears who leads.
    bed.run(SECOND, |bed| {
        bed.node(follower).shared.brief().leader == Some(leader)
    });
    (bed, leader, follower)
}

#[test]
fn f3_a_follower_passes_on_and_tells_the_answer() {
    let (mut bed, leader, follower) = started();
    let mut answer = bed.ask(follower, "one");
    assert_eq!(bed.settle(&mut answer), Ok(1));
    let mut answer = bed.ask(leader, "two");
    assert_eq!(
        bed.settle(&mut answer),
        Ok(2),
        "who leads passes nothing on"
    );
    let mut answer = bed.propose(follower, "three");
    let refused = bed.settle(&mut answer).expect_err("nobody asked for it");
    assert!(
        matches!(&refused, ProposeError::NotLeader(hint) if hint.node == Some(leader)),
        "{refused}"
    );
    assert_eq!(bed.applied(leader), ["one", "two"]);
}

#[test]
fn f4_sessions_work_through_a_follower() {
    let (mut bed, leader, follower) = started();
    let mut opened = bed.ask_for_session(follower);
    let session = bed.settle(&mut opened).expect("opened");
    let at = |seq, floor| InSession {
        session,
        seq,
        floor,
    };
    let third = (1..=3).find(|node| ![leader, follower].contains(node));
    for node in [follower, third.expect("of three"), leader] {
        let mut answer = bed.ask_in(node, Some(at(1, 1)), "one");
        assert_eq!(bed.settle(&mut answer), Ok(1), "the first answer at {node}");
    }
    assert_eq!(bed.applied(leader), ["one"]);
    let refused = |bed: &mut Bed, at| {
        let mut answer = bed.ask_in(follower, Some(at), "no");
        match bed.settle(&mut answer) {
            Err(ProposeError::Session(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    };
    let far = SessionRefusal::TooFarAhead {
        floor: 1,
        window: 256,
    };
    assert_eq!(refused(&mut bed, at(257, 1)), far);
    let mut answer = bed.ask_in(follower, Some(at(5, 5)), "five");
    assert_eq!(bed.settle(&mut answer), Ok(2));
    let stale = SessionRefusal::Stale { floor: 5 };
    assert_eq!(refused(&mut bed, at(4, 4)), stale);
    let other = InSession {
        session: session + 99,
        ..at(1, 1)
    };
    assert_eq!(refused(&mut bed, other), SessionRefusal::Expired);
}

#[test]
fn f3_who_does_not_lead_refuses_and_passes_nothing_on() {
    let (mut bed, leader, follower) = started();
    let payload = encode::<Journal>(None, &"one".to_owned()).expect("a command");
    let mut told = bed.hand_in(follower, EntryKind::Command, payload);
    match bed.settle(&mut told) {
        Ok(ForwardOutcome::NotLeader { leader: hint, .. }) => assert_eq!(hint, leader),
        other => panic!("{other:?}"),
    }
    bed.run(SECOND, |_| false);
    assert!(bed.applied(leader).is_empty());
}

#[test]
fn f3_a_change_of_leader_in_between_leaves_it_unknown_and_applies_it_at_most_once() {
    let (mut bed, leader, follower) = started();
    let mut before = bed.ask(follower, "before");
    assert_eq!(bed.settle(&mut before), Ok(1));
    // It gets as far as the leader's log, and no further.
    bed.node_mut(leader).disk_stalls = true;
    for other in (1..=3).filter(|node| *node != leader) {
        bed.node_mut(other).disk_stalls = true;
    }
    let mut answer = bed.ask(follower, "between");
    bed.run(SECOND / 50, |_| false);
    bed.hub.isolate(leader, true);
    for other in (1..=3).filter(|node| *node != leader) {
        bed.node_mut(other).disk_stalls = false;
    }
    let elsewhere = |bed: &Bed| bed.leader().is_some_and(|other| other != leader);
    assert!(bed.run(10 * SECOND, elsewhere));
    bed.hub.isolate(leader, false);
    bed.node_mut(leader).disk_stalls = false;
    let told = bed.settle(&mut answer).expect_err("nobody can know");
    assert!(matches!(told, ProposeError::Unknown { .. }), "{told}");
    bed.run(SECOND, |_| false);
    let now = bed.leader_soon();
    let applied = bed.applied(now);
    let times = applied.iter().filter(|it| *it == "between").count();
    assert!(times <= 1, "{applied:?}");
}

#[test]
fn g2_what_no_replica_could_read_is_not_let_into_the_log() {
    let (mut bed, leader, _) = started();
    let sealed = |command: &[u8]| Bytes::from([&[1, 0], command].concat());
    let large = sealed(&vec![b'x'; crate::config::limits::MAX_COMMAND]);
    for (kind, payload) in [
        (EntryKind::Command, sealed(&[0xff, 0xfe])),
        (EntryKind::Command, Bytes::from_static(&[9, 0, b'a'])),
        (EntryKind::Command, Bytes::new()),
        (EntryKind::Command, large),
        (EntryKind::System, Bytes::from_static(&[1, 9])),
        (EntryKind::System, Bytes::new()),
        (EntryKind::Configuration, Bytes::from_static(b"x")),
        (EntryKind::Noop, Bytes::new()),
    ] {
        let mut told = bed.hand_in(leader, kind, payload);
        let told = bed.settle(&mut told);
        assert!(
            matches!(told, Ok(ForwardOutcome::Invalid { .. })),
            "{told:?}"
        );
    }
    let mut told = bed.hand_in(leader, EntryKind::Command, sealed(b"fine"));
    let told = bed.settle(&mut told);
    assert!(
        matches!(told, Ok(ForwardOutcome::Applied { .. })),
        "{told:?}"
    );
    assert_eq!(bed.applied(leader), ["fine"]);
}

#[test]
fn f5_a_proposal_is_answered_when_the_leader_cannot_be_reached() {
    let (mut bed, leader, follower) = started();
    bed.hub.isolate(leader, true);
    let mut answer = bed.ask(follower, "lost");
    let told = bed.settle(&mut answer).expect_err("there is no way");
    assert!(
        matches!(&told, ProposeError::NotLeader(hint) if hint.node == Some(leader)),
        "{told}"
    );
}

type Outcomes = BTreeMap<u64, Result<usize, ProposeError>>;

/// Commands in one line, and unordered ones, proposed at one node.
struct Lined {
    line: Arc<Line>,
    sender: mpsc::UnboundedSender<(u64, Result<usize, ProposeError>)>,
    receiver: mpsc::UnboundedReceiver<(u64, Result<usize, ProposeError>)>,
    outcomes: Outcomes,
}

impl Lined {
    fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            line: Arc::default(),
            sender,
            receiver,
            outcomes: Outcomes::new(),
        }
    }

    fn ask(&self, bed: &Bed, to: NodeId, ticket: u64, payload: Bytes, ordered: bool) {
        let line = ordered.then_some(&self.line);
        let reply = Reply::Pipelined(Pipelined::new(ticket, self.sender.clone(), line));
        bed.pass_on(to, EntryKind::Command, payload, reply);
    }

    fn command(&self, bed: &Bed, to: NodeId, ticket: u64) {
        let payload = encode::<Journal>(None, &format!("c{ticket}")).expect("a command");
        self.ask(bed, to, ticket, payload, true);
    }

    fn known(&mut self) -> &Outcomes {
        while let Ok((ticket, outcome)) = self.receiver.try_recv() {
            let before = self.outcomes.insert(ticket, outcome);
            assert!(before.is_none(), "number {ticket} is answered twice");
        }
        &self.outcomes
    }

    /// Of those below `end` that entered the log.
    fn appended(&self) -> Vec<u64> {
        let appended = self.outcomes.iter().filter(|(_, it)| it.is_ok());
        appended.map(|(ticket, _)| *ticket).collect()
    }
}

#[test]
fn f3_what_is_passed_on_in_a_line_keeps_its_order_and_stops_at_a_refusal() {
    let (mut bed, leader, follower) = started();
    let mut lined = Lined::new();
    for ticket in 0..50 {
        lined.command(&bed, follower, ticket);
    }
    // What the leader cannot read, in the midst of what it can: all are on their way at once.
    let broken = Bytes::from_static(&[1, 0, 0xff, 0xfe]);
    lined.ask(&bed, follower, 50, broken, true);
    for ticket in 51..60 {
        lined.command(&bed, follower, ticket);
    }
    let apart = encode::<Journal>(None, &"apart".to_owned()).expect("a command");
    lined.ask(&bed, follower, 60, apart, false);
    bed.run(SECOND, |_| false);
    assert_eq!(lined.known().len(), 61);
    let all: Vec<_> = (0..50).chain([60]).collect();
    assert_eq!(lined.appended(), all, "{:?}", lined.outcomes);
    let invalid = &lined.outcomes[&50];
    assert!(
        matches!(invalid, Err(ProposeError::Invalid(_))),
        "{invalid:?}"
    );
    for ticket in 51..60 {
        assert_eq!(lined.outcomes[&ticket], Err(ProposeError::Overtaking));
    }
    let mut expected: Vec<_> = (0..50).map(|ticket| format!("c{ticket}")).collect();
    expected.push("apart".to_owned());
    assert_eq!(bed.applied(leader), expected);
}

#[test]
fn f3_nothing_is_appended_behind_what_was_lost_on_the_way() {
    let (mut bed, leader, follower) = started();
    let mut lined = Lined::new();
    lined.command(&bed, follower, 0);
    bed.run(SECOND, |_| false);
    bed.hub.isolate(leader, true);
    lined.command(&bed, follower, 1);
    bed.run(SECOND / 50, |_| false);
    bed.hub.isolate(leader, false);
    lined.command(&bed, follower, 2);
    bed.run(5 * SECOND, |_| false);
    lined.known();
    assert_eq!(lined.appended(), [0], "{:?}", lined.outcomes);
    assert_eq!(lined.outcomes[&2], Err(ProposeError::Overtaking));
}

#[test]
fn f3_a_line_goes_on_at_the_next_leader_once_all_before_has_its_answer() {
    let (mut bed, leader, follower) = started();
    let mut lined = Lined::new();
    for ticket in 0..3 {
        lined.command(&bed, follower, ticket);
    }
    bed.run(SECOND, |_| false);
    let third = (1..=3).find(|node| ![leader, follower].contains(node));
    bed.hand_over(leader, third);
    let heard = |bed: &Bed| bed.node(follower).shared.brief().leader == third;
    assert!(bed.run(10 * SECOND, heard));
    for ticket in 3..6 {
        lined.command(&bed, follower, ticket);
    }
    bed.run(SECOND, |_| false);
    bed.hand_over(third.expect("of three"), Some(follower));
    assert!(bed.run(10 * SECOND, |bed| bed.leader() == Some(follower)));
    bed.run(SECOND, |_| false);
    for ticket in 6..9 {
        lined.command(&bed, follower, ticket);
    }
    bed.run(SECOND, |_| false);
    lined.known();
    assert_eq!(
        lined.appended(),
        Vec::from_iter(0..9),
        "{:?}",
        lined.outcomes
    );
    let expected: Vec<_> = (0..9).map(|ticket| format!("c{ticket}")).collect();
    assert_eq!(bed.applied(follower), expected);
}

#[test]
fn f3_nothing_is_appended_behind_what_nobody_knows_of() {
    let (mut bed, leader, follower) = started();
    let mut lined = Lined::new();
    for node in 1..=3 {
        bed.node_mut(node).disk_stalls = true;
    }
    lined.command(&bed, follower, 0);
    bed.run(SECOND / 50, |_| false);
    assert!(lined.known().is_empty(), "it is under way");
    bed.crash(leader, Crash::Kill);
    for node in (1..=3).filter(|node| *node != leader) {
        bed.node_mut(node).disk_stalls = false;
    }
    let elsewhere = |bed: &Bed| bed.leader().is_some_and(|other| other != leader);
    assert!(bed.run(10 * SECOND, elsewhere));
    bed.run(SECOND, |_| false);
    lined.command(&bed, follower, 1);
    bed.run(SECOND, |_| false);
    lined.known();
    let unknown = ProposeError::Unknown { index: 0, term: 0 };
    assert_eq!(lined.outcomes.get(&0), Some(&Err(unknown)));
    assert_eq!(lined.outcomes[&1], Err(ProposeError::Overtaking));
}

#[test]
fn f3_what_is_refused_at_once_refuses_nothing_before_it() {
    let (mut bed, _, follower) = started();
    let mut lined = Lined::new();
    lined.command(&bed, follower, 0);
    lined.command(&bed, follower, 1);
    // Refused before the driver has seen those two, as a command that cannot be encoded is.
    let mut refused = Pipelined::<usize>::new(2, lined.sender.clone(), Some(&lined.line));
    refused.send(Err(ProposeError::Deadline));
    bed.run(SECOND, |_| false);
    lined.known();
    assert_eq!(lined.appended(), [0, 1], "{:?}", lined.outcomes);
}

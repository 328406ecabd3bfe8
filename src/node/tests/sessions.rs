//! Commands in sessions, through drivers, crashes and snapshots.

use std::sync::Arc;

use bytes::Bytes;

use super::bed::{Answer, Bed, Journal};
use crate::config::limits;
use crate::error::{ProposeError, SessionRefusal};
use crate::node::envelope::InSession;
use crate::node::replica_state::{FrozenReplica, ReplicaState};
use crate::node::shared::encode;
use crate::node::system::SystemEntry;
use crate::node::waiters::Outcome;
use crate::snapshot::{SnapshotFolder, SnapshotHead};
use crate::state_machine::{Changes, RouterCommand, RouterStateMachine, StateMachine};
use crate::types::{Entry, EntryKind, LogId, LogIndex, NodeId};
use crate::wal::{Crash, MemoryDisk, SyncPolicy};

const SECOND: u64 = 1_000_000;

fn at(session: LogIndex, seq: u64) -> InSession {
    InSession {
        session,
        seq,
        floor: 1,
    }
}

impl Bed {
    pub(super) fn settle<T>(&mut self, answer: &mut tokio::sync::oneshot::Receiver<T>) -> T {
        let mut told = None;
        self.run(10 * SECOND, |_| {
            told = answer.try_recv().ok();
            told.is_some()
        });
        told.expect("it is answered")
    }

    pub(super) fn leader_soon(&mut self) -> NodeId {
        assert!(self.run(10 * SECOND, |bed| bed.leader().is_some()));
        self.leader().expect("there is one")
    }

    /// Sends it until it is answered.
    fn send(&mut self, at: InSession, command: &str) -> Result<usize, ProposeError> {
        loop {
            let leader = self.leader_soon();
            let mut answer: Answer = self.propose_in(leader, at, command);
            match self.settle(&mut answer) {
                Err(ProposeError::NotLeader(_) | ProposeError::Unknown { .. }) => {}
                told => return told,
            }
        }
    }
}

#[test]
fn f4_a_command_sent_again_after_a_change_of_leader_and_a_power_cut_is_applied_once() {
    let mut bed = Bed::new(3, SyncPolicy::default());
    let leader = bed.leader_soon();
    let mut opened = bed.open_session(leader);
    let session = bed.settle(&mut opened).expect("it leads");
    assert_eq!(bed.send(at(session, 1), "one"), Ok(1));
    assert_eq!(bed.send(at(session, 2), "two"), Ok(2));
    bed.crash(leader, Crash::PowerCut);
    assert!(bed.run(10 * SECOND, |bed| {
        bed.leader().is_some_and(|other| other != leader)
    }));
    assert_eq!(bed.send(at(session, 1), "one"), Ok(1), "the first answer");
    for node in (1..=3).filter(|node| *node != leader) {
        bed.crash(node, Crash::PowerCut);
    }
    (1..=3).for_each(|node| bed.start(node));
    assert_eq!(bed.send(at(session, 2), "two"), Ok(2), "from the log");
    assert_eq!(bed.send(at(session, 3), "three"), Ok(3));
    let expired = ProposeError::Session(SessionRefusal::Expired);
    assert_eq!(bed.send(at(session + 99, 1), "no"), Err(expired));
    let leader = bed.leader_soon();
    assert_eq!(bed.applied(leader), ["one", "two", "three"]);
}

/// A replica's state, and the next entries.
struct Replica<S> {
    state: ReplicaState<S>,
    index: LogIndex,
    time_us: u64,
}

impl<S: StateMachine> Replica<S> {
    fn new(machine: S) -> Self {
        Self {
            state: ReplicaState::new(machine),
            index: 0,
            time_us: 0,
        }
    }

    fn apply(&mut self, kind: EntryKind, payload: Bytes) -> Result<Outcome<S::Response>, String> {
        self.index += 1;
        let entry = Entry {
            id: LogId::new(1, self.index),
            kind,
            time_us: self.time_us + 1,
            payload,
        };
        let outcome = self
            .state
            .apply(&entry, self.time_us, &mut Changes::unheard());
        self.time_us += 1;
        outcome
    }

    fn command(&mut self, at: InSession, command: &S::Command) -> Option<S::Response> {
        let payload = encode::<S>(Some(at), command).expect("a command");
        match self.apply(EntryKind::Command, payload).expect("readable") {
            Outcome::Response(response) => Some(response),
            Outcome::Done | Outcome::Refused(_) => None,
        }
    }

    fn open(&mut self) -> LogIndex {
        let payload = SystemEntry::OpenSession.encode();
        let opened = self.apply(EntryKind::System, payload);
        assert!(matches!(opened, Ok(Outcome::Done)));
        self.index
    }
}

#[test]
fn f4_sessions_go_through_a_snapshot_with_the_state() {
    let mut one = Replica::new(RouterStateMachine::new());
    let session = one.open();
    let service = |id: &str| RouterCommand::register_service(id, "t", "10.0.0.1:1");
    let first = one.command(at(session, 1), &service("a"));
    let first = first.expect("it is applied");
    assert!(!first.duplicate);
    let folder = SnapshotFolder::new(&Arc::new(MemoryDisk::new()));
    let last = LogId::new(1, one.index);
    let head = SnapshotHead {
        last,
        digest: one.state.digest(),
        session_bytes: one.state.sessions.encoded_len(),
        configuration: (1, vec![1]),
        ..SnapshotHead::default()
    };
    let frozen = Box::new(FrozenReplica {
        sessions: one.state.sessions.clone(),
        machine: one.state.machine.freeze(),
    });
    folder
        .write(&head, frozen, &mut |_| Ok(()))
        .expect("written");
    folder.name_written(last).expect("named");
    let mut other = Replica::new(RouterStateMachine::new());
    let mut file = folder.open(last).expect("whole");
    assert_eq!(other.state.restore(&mut file), Ok(Ok(())));
    (other.index, other.time_us) = (one.index, one.time_us);
    for replica in [&mut one, &mut other] {
        let again = replica.command(at(session, 1), &service("a"));
        let again = again.expect("it is remembered");
        assert_eq!((again.duplicate, again.index), (true, first.index));
        let next = replica.command(at(session, 2), &service("b"));
        assert!(!next.expect("it is applied").duplicate);
    }
    assert_eq!(one.state.digest(), other.state.digest());
    assert_ne!(one.state.digest(), one.state.machine.digest());
}

#[test]
fn f4_without_sessions_digest_and_snapshot_are_those_of_the_machine() {
    let mut one = Replica::new(RouterStateMachine::new());
    let session = one.open();
    assert_ne!(one.state.digest(), one.state.machine.digest());
    let close = SystemEntry::CloseSession(session).encode();
    assert!(matches!(
        one.apply(EntryKind::System, close.clone()),
        Ok(Outcome::Done)
    ));
    assert!(matches!(
        one.apply(EntryKind::System, close),
        Ok(Outcome::Refused(_))
    ));
    assert_eq!(one.state.digest(), one.state.machine.digest());
    assert_eq!(one.state.sessions.encode(), Vec::<u8>::new());
}

#[test]
fn f4_a_session_that_is_kept_is_the_same_on_every_replica() {
    let (mut kept, mut quiet) = (
        Replica::new(RouterStateMachine::new()),
        Replica::new(RouterStateMachine::new()),
    );
    let session = kept.open();
    quiet.open();
    let keep = SystemEntry::KeepAlive(session).encode();
    let half = limits::SESSION_IDLE_US / 2 + SECOND;
    for _ in 0..4 {
        kept.time_us += half;
        let told = kept.apply(EntryKind::System, keep.clone());
        assert!(matches!(told, Ok(Outcome::Done)));
    }
    quiet.time_us += 2 * half;
    let told = quiet.apply(EntryKind::System, keep);
    let expired = ProposeError::Session(SessionRefusal::Expired);
    assert!(matches!(told, Ok(Outcome::Refused(why)) if why == expired));
    let service = RouterCommand::register_service("a", "t", "10.0.0.1:1");
    assert!(kept.command(at(session, 1), &service).is_some());
    assert!(quiet.command(at(session, 1), &service).is_none());
}

#[test]
fn j2_a_system_entry_of_a_newer_release_stops_the_replica_there() {
    let mut one = Replica::new(Journal::default());
    for unknown in [&[1, 9][..], &[2, 1], &[1, 200, 5]] {
        let payload = Bytes::copy_from_slice(unknown);
        let why = one.apply(EntryKind::System, payload).err();
        let why = why.expect("nobody knows what it is");
        assert!(why.contains("written by a newer release"), "{why}");
    }
}

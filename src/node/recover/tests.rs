//! Directories of real nodes and some made by hand, and what is recovered from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{NewCluster, RecoverError, Survivor};
use crate::core::{Configuration, MemberInfo};
use crate::quic::certs::{self, GeneratedCerts};
use crate::snapshot::{SnapshotFolder, SnapshotHead, SnapshotOptions};
use crate::types::{ClusterId, EntryKind, Incarnation, LogId, LogIndex, NodeId, ReplicaId};
use crate::wal::{
    Append, DirReader, EventSink, LogIdentity, LogOptions, LogStorage, MappedDir, NewEntry, Write,
    verify,
};
use crate::{Cluster, RaftConfig, RaftNode, RouterCommand, RouterStateMachine, StateMachine};

struct Place {
    dir: tempfile::TempDir,
    certs: GeneratedCerts,
}

fn certificates() -> GeneratedCerts {
    certs::generate("recovery", &[1, 2], &[]).expect("certificates")
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a folder"),
            certs: certificates(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn start(&self, name: &str, certs: &GeneratedCerts) -> RaftNode {
        let credentials = certs.credentials(1).expect("credentials");
        let cluster = Cluster::single(self.path(name), credentials);
        let snapshots = SnapshotOptions {
            every_entries: 30,
            times_last: 0,
            keep_tail_entries: 5,
            ..SnapshotOptions::default()
        };
        let builder = RaftNode::builder(RaftConfig::default()).snapshots(snapshots);
        let node = builder.start(RouterStateMachine::new(), cluster).await;
        let node = node.expect("starts");
        while !node.is_leader() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        node
    }

    /// A directory with so many services, and the digest of its state.
    async fn filled(&self, name: &str, services: u32) -> u128 {
        let node = self.start(name, &self.certs).await;
        for number in 0..services {
            let service = format!("mask-{number}");
            let command = RouterCommand::register_service(service, "transform", "10.0.1.5:8081");
            node.propose(command).await.expect("applied");
        }
        // It is written beside the commands: on a busy machine perhaps after the last of them.
        while services > 50 && node.status().snapshot.is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (_, digest) = node.digest().await;
        node.shutdown().await;
        digest
    }
}

fn survivor(dir: &Path) -> Result<Survivor<RouterStateMachine>, RecoverError> {
    Survivor::read(dir, RouterStateMachine::new())
}

fn refusal(dir: &Path) -> String {
    survivor(dir).expect_err("refused").to_string()
}

fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("directory").map(|entry| {
        let entry = entry.expect("entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, fs::read(entry.path()).expect("readable"))
    });
    entries.collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for (name, bytes) in bytes(from) {
        fs::write(to.join(name), bytes).expect("written");
    }
}

#[tokio::test]
async fn j4_the_state_is_the_old_one_and_the_old_directory_as_it_was() {
    // Without a snapshot, and with one and entries behind it.
    for services in [10, 100] {
        let place = Place::new();
        let (old, new) = (place.path("old"), place.path("new"));
        let digest = place.filled("old", services).await;
        let before = bytes(&old);
        let found = survivor(&old).expect("whole");
        let plan = found.plan().clone();
        assert_eq!(plan.digest, digest, "of {services}");
        assert_eq!(plan.snapshot.is_some(), services > 50, "{plan:?}");
        let log = verify(&DirReader::open(&old).expect("opens"), false).expect("whole");
        assert_eq!((plan.last, plan.log_last), (log.last, log.last));
        assert!(plan.superseded().is_none() && !plan.repaired, "{plan:?}");
        assert_eq!(plan.members.1.len(), 1);

        let certs = certificates();
        let cluster = NewCluster::new(certs.ca.cluster(), 1);
        let me = found.found(&new, &cluster).expect("recovered");
        assert!(bytes(&old) == before, "the old directory is changed");
        assert!(!place.path("new.partial").exists());
        assert_ne!(me.incarnation, plan.replica.incarnation);
        let made = verify(&DirReader::open(&new).expect("opens"), false).expect("whole");
        assert_eq!(
            (made.cluster, made.incarnation),
            (certs.ca.cluster(), me.incarnation)
        );
        assert_eq!((made.start, made.last), (plan.last, plan.last));
        assert!(made.hard_state.term >= plan.term);

        let node = place.start("new", &certs).await;
        let state = node.state().await;
        assert_eq!(state.services.len(), services as usize);
        node.propose(RouterCommand::Noop).await.expect("applied");
        assert!(node.applied_index() > plan.last.index);
        node.shutdown().await;
    }
}

#[tokio::test]
async fn j4_what_is_in_use_damaged_blank_or_no_log_is_refused() {
    let place = Place::new();
    let old = place.path("old");
    place.filled("old", 10).await;
    let damaged = place.path("damaged");
    copy(&old, &damaged);

    let node = place.start("old", &place.certs).await;
    assert!(refusal(&old).contains("in use"));
    node.shutdown().await;
    let held = survivor(&old).expect("free again");
    assert!(
        refusal(&old).contains("in use"),
        "a survivor holds the lock"
    );
    drop(held);

    let segment = damaged.join("seg-0000000000000001.wal");
    let mut all = fs::read(&segment).expect("readable");
    all[8192 + 2 * 4096 + 100] ^= 4;
    fs::write(&segment, all).expect("written");
    let before = bytes(&damaged);
    let said = refusal(&damaged);
    assert!(
        said.contains("wal repair") && !said.contains("replace"),
        "{said}"
    );
    assert!(bytes(&damaged) == before);

    assert!(refusal(&place.path("nothing")).contains("nothing"));
    assert!(!place.path("nothing").exists());
    let credentials = certificates().credentials(1).expect("credentials");
    let waits = Cluster::joining(
        place.path("blank"),
        credentials,
        ([127, 0, 0, 1], 0).into(),
        [],
    );
    let node = RaftNode::new(RaftConfig::default(), RouterStateMachine::new(), waits).await;
    node.expect("starts").shutdown().await;
    assert!(refusal(&place.path("blank")).contains("never a member"));
}

#[tokio::test]
async fn j1_the_old_id_and_directories_that_are_there_are_refused() {
    let place = Place::new();
    let old = place.path("old");
    place.filled("old", 3).await;
    let cluster = NewCluster::new(ClusterId([9; 16]), 1);
    let check = |into: &str, cluster: &NewCluster| {
        let found = survivor(&old).expect("whole");
        let before = bytes(&old);
        let said = found.found(place.path(into), cluster).expect_err(into);
        assert!(bytes(&old) == before, "{into}");
        said
    };
    let same = NewCluster::new(place.certs.ca.cluster(), 1);
    let said = check("new", &same);
    assert!(matches!(said, RecoverError::SameCluster(_)), "{said}");
    let nobody = NewCluster::new(ClusterId([9; 16]), 0);
    assert!(matches!(check("new", &nobody), RecoverError::Nobody));
    assert!(matches!(
        check("old/new", &cluster),
        RecoverError::Within(_)
    ));
    fs::create_dir(place.path("there")).expect("a folder");
    assert!(matches!(check("there", &cluster), RecoverError::Exists(_)));
    // As a crash leaves it.
    fs::create_dir(place.path("new.partial")).expect("a folder");
    for name in ["new", "new/"] {
        assert!(matches!(check(name, &cluster), RecoverError::Exists(_)));
    }
    assert!(matches!(check("no/new", &cluster), RecoverError::Io { .. }));
    let long = NewCluster {
        peer_address: Some("a".repeat(1000)),
        ..cluster
    };
    assert!(matches!(check("other", &long), RecoverError::Member(_)));
    assert!(!place.path("other").exists() && !place.path("other.partial").exists());
}

/// A log with these entries of term 1, and a snapshot of a blank state at `snapshot`.
fn by_hand(dir: &Path, entries: &[NewEntry], snapshot: Option<LogId>) {
    let (sender, events) = std::sync::mpsc::channel();
    let sink: EventSink = Arc::new(move |event| _ = sender.send(event));
    let options = LogOptions {
        segment_bytes: 8 << 20,
        ..LogOptions::default()
    };
    let medium = MappedDir::open(dir, sink, &options).expect("a directory");
    let identity = LogIdentity {
        cluster: ClusterId([1; 16]),
        node: 7,
    };
    let mut log = LogStorage::open(medium, identity, options).expect("opens");
    let founder = log.incarnation();
    log.write(Write {
        id: 1,
        now: 0,
        hard_state: None,
        genesis: Some(founder),
        truncate_from: None,
        append: Append::Entries {
            first: 1,
            term: 1,
            entries,
        },
    })
    .expect("room");
    let durable = |log: &mut LogStorage<MappedDir>| {
        log.pump();
        let event = events.recv_timeout(Duration::from_secs(20)).expect("event");
        log.handle(event).expect("no failure") == Some(1)
    };
    while !durable(&mut log) {}
    if let Some(last) = snapshot {
        let head = SnapshotHead {
            cluster: identity.cluster,
            genesis: founder,
            last,
            digest: RouterStateMachine::new().digest(),
            configuration: (1, members(&[])),
            ..SnapshotHead::default()
        };
        let folder = SnapshotFolder::new(log.files());
        let blank = RouterStateMachine::new().freeze();
        let written = folder.write(&head, blank, &mut |_| Ok(()));
        written.expect("written");
        folder.name_written(last).expect("named");
    }
    log.close().expect("closes");
}

fn members(skipped: &[LogIndex]) -> Vec<u8> {
    let member = |node: NodeId| MemberInfo {
        replica: ReplicaId::new(node, Incarnation([node as u8; 16])),
        peer_address: format!("host-{node}:1"),
        ..MemberInfo::default()
    };
    Configuration {
        incoming: [7, 8, 9].map(member).into(),
        skipped: skipped.to_vec(),
        ..Configuration::default()
    }
    .encode()
}

fn entry(kind: EntryKind, payload: Vec<u8>) -> NewEntry {
    NewEntry {
        kind,
        time_us: 5,
        payload: payload.into(),
    }
}

/// Entry 3 is one that no state machine can apply.
fn poisoned() -> Vec<NewEntry> {
    vec![
        entry(EntryKind::Configuration, members(&[])),
        entry(EntryKind::Noop, Vec::new()),
        entry(EntryKind::Command, vec![0xff; 9]),
    ]
}

#[test]
fn j4_what_was_skipped_stays_so_and_what_nobody_committed_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let (bad, good) = (dir.path().join("bad"), dir.path().join("good"));
    by_hand(&bad, &poisoned(), None);
    let said = refusal(&bad);
    assert!(said.contains("cannot apply entry 3"), "{said}");

    let mut entries = poisoned();
    entries.push(entry(EntryKind::Configuration, members(&[3])));
    by_hand(&good, &entries, None);
    let found = survivor(&good).expect("entry 3 is skipped");
    let plan = found.plan();
    assert_eq!((plan.last, &plan.skipped), (LogId::new(1, 4), &vec![3]));
    assert_eq!(
        plan.uncertain(),
        Some((1, 4)),
        "none is known to be committed"
    );
    assert_eq!((plan.members.0, plan.members.1.len()), (4, 3));

    // The new one has one member, with the address of the old one, and skips nothing.
    let new = dir.path().join("new");
    let cluster = NewCluster::new(ClusterId([2; 16]), 7);
    let me = found.found(&new, &cluster).expect("recovered");
    let again = survivor(&new).expect("whole");
    let (index, members) = &again.plan().members;
    assert_eq!((*index, members.len()), (4, 1));
    assert_eq!(
        (members[0].replica, &*members[0].peer_address),
        (me, "host-7:1")
    );
    assert!(again.plan().skipped.is_empty() && again.plan().uncertain().is_none());
}

#[test]
fn j4_a_newer_snapshot_counts_more_than_the_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let none = || entry(EntryKind::Noop, Vec::new());
    let entries = [
        entry(EntryKind::Configuration, members(&[])),
        none(),
        none(),
    ];
    for (nth, last, superseded) in [
        // Within the log; behind its end; and where the log holds an entry of another term.
        (0, LogId::new(1, 2), None),
        (1, LogId::new(2, 9), None),
        (2, LogId::new(2, 2), Some((3, 3))),
    ] {
        let old = dir.path().join(format!("{nth}"));
        by_hand(&old, &entries, Some(last));
        let found = survivor(&old).expect("whole");
        let plan = found.plan();
        let end = if nth == 0 { LogId::new(1, 3) } else { last };
        assert_eq!((plan.snapshot, plan.last), (Some(last), end));
        assert_eq!(plan.committed, last.index);
        assert_eq!(plan.superseded(), superseded);
    }
}

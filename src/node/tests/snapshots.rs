//! A node whose log begins behind a snapshot.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::bed::{Bed, Journal};
use crate::node::replica_state::FrozenReplica;
use crate::node::sessions::Sessions;
use crate::snapshot::{SnapshotFolder, SnapshotHead};
use crate::state_machine::StateMachine;
use crate::types::{ClusterId, LogId};
use crate::wal::{
    Crash, LogIdentity, LogOptions, LogStorage, MediumEvent, Memory, MemoryDisk, SyncPolicy,
};

const SECOND: u64 = 1_000_000;

/// Puts a snapshot on the disk and lets the log begin behind it, as installing one does.
fn install(disk: &MemoryDisk, head: &SnapshotHead) {
    let folder = SnapshotFolder::new(&Arc::new(disk.clone()));
    let frozen = FrozenReplica {
        sessions: Sessions::default(),
        machine: Journal::default().freeze(),
    };
    let written = folder.write(head, Box::new(frozen), &mut |_| Ok(()));
    written.expect("written");
    folder.name_written(head.last).expect("named");
    folder.sync_names().expect("synced");
    let events: Arc<Mutex<VecDeque<MediumEvent>>> = Arc::default();
    let sink = Arc::clone(&events);
    let medium = Memory::new(
        disk,
        Arc::new(move |event| sink.lock().expect("lock").push_back(event)),
    );
    let identity = LogIdentity {
        cluster: ClusterId([7; 16]),
        node: 1,
    };
    let options = LogOptions {
        segment_bytes: 8 << 20,
        ..LogOptions::default()
    };
    let mut log = LogStorage::open(medium, identity, options).expect("the log opens");
    let settle = |log: &mut LogStorage<Memory>| {
        log.pump();
        while let Some(event) = { events.lock().expect("lock").pop_front() } {
            log.handle(event).expect("no failure");
            log.pump();
        }
    };
    settle(&mut log);
    log.install_snapshot(1, 0, head.last).expect("installed");
    settle(&mut log);
    log.close().expect("closes");
}

#[test]
fn g1_a_leader_whose_log_is_empty_behind_a_snapshot_goes_on_from_its_time() {
    let mut bed = Bed::new(1, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.node(1).shared.applied_index() >= 2));
    let core = bed.node(1).driver.core();
    let (index, configuration) = core.configurations().last().expect("its own");
    // Later than this node's clock will be.
    let time_us = 1_000_000_000 + 3_600 * SECOND;
    let head = SnapshotHead {
        cluster: ClusterId([7; 16]),
        genesis: core.genesis(),
        last: LogId::new(core.term(), 50),
        time_us,
        configuration: (*index, configuration.encode()),
        ..SnapshotHead::default()
    };
    bed.crash(1, Crash::PowerCut);
    install(&bed.disks[0], &head);
    bed.start(1);
    assert!(bed.run(5 * SECOND, |bed| bed.node(1).shared.applied_index() > 50));
    let applied = bed.node(1).shared.applied();
    assert!(
        applied.time_us > time_us,
        "log time fell to {}",
        applied.time_us
    );
}

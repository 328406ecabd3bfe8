//! What goes in comes out.

use super::harness::*;
use crate::types::LogId;
use crate::wal::{Append, Crash, MemoryDisk};

#[test]
fn appended_is_readable_at_once_and_durable_later() {
    let disk = MemoryDisk::new();
    let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
    stepper.run_all();
    rig.settle();
    let id = rig.append(1, &[0, 1, 100]);
    assert_eq!(
        rig.ids(),
        [LogId::new(1, 1), LogId::new(1, 2), LogId::new(1, 3)]
    );
    rig.log.pump();
    assert_eq!((rig.durable, rig.log.durable()), (0, 0));
    assert_eq!(rig.log.oldest_unsynced(), Some(id));
    stepper.run_all();
    assert_eq!(rig.settle(), id);
    assert_eq!((rig.log.durable(), rig.log.oldest_unsynced()), (3, None));
}

#[test]
fn a_closed_log_opens_as_it_was() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    for round in 0..60 {
        let id = rig.append(1 + round / 20, &[3, 700, 2000]);
        if round % 3 == 0 {
            assert_eq!(rig.settle(), id);
        }
    }
    rig.settle();
    let before = rig.read_all();
    let (runs, extent) = (rig.log.term_runs(), rig.log.extent());
    assert!(extent.0 > 1, "several segments");
    rig.try_write(Some(state(9, 2)), None, Append::None)
        .expect("written");
    rig.log.close().expect("closes");
    disk.crash(Crash::PowerCut);
    let rig = open(&disk);
    assert_eq!(rig.read_all(), before);
    assert_eq!(rig.log.term_runs(), runs);
    assert_eq!(rig.log.hard_state(), state(9, 2));
    assert_eq!(rig.log.extent().0, extent.0, "goes on in the same segment");
}

#[test]
fn an_acknowledged_entry_survives_a_power_cut() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    for _ in 0..40 {
        rig.append_durably(1, &[500, 4000]);
    }
    let before = rig.read_all();
    drop(rig);
    disk.crash(Crash::PowerCut);
    for _ in 0..2 {
        let rig = open(&disk);
        assert_eq!(rig.read_all(), before);
        drop(rig);
        disk.crash(Crash::PowerCut);
    }
}

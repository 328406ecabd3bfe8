//! Syncs that fail, disks that fill up, and recoveries that are cut off.

use super::harness::*;
use crate::types::{Entry, Incarnation, LogId};
use crate::wal::memory::{Stepper, SyncFault};
use crate::wal::{
    Append, Crash, Lane, LogOptions, Memory, MemoryDisk, OpenError, Write, WriteError,
};

const FAULTS: [SyncFault; 3] = [SyncFault::Keep, SyncFault::Revert, SyncFault::Late];

/// Entries that are durable, then entries whose sync fails.
fn after_failed_sync(fault: SyncFault, nth: u64) -> (MemoryDisk, Vec<Entry>, Vec<Entry>) {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(1, &[10, 20, 30]);
    rig.try_write(Some(state(2, 1)), None, Append::None)
        .expect("written");
    rig.settle();
    let durable = rig.read_all();
    disk.fail_sync(nth, fault);
    let mut failed = None;
    for _ in 0..4 {
        rig.try_write(Some(state(3 + nth, 2)), None, Append::None)
            .expect("written");
        rig.append(3 + nth, &[40, 50]);
        if let Err(failure) = rig.try_settle() {
            failed = Some(failure);
            break;
        }
    }
    let failure = failed.expect("the sync fails");
    assert!(
        failure.to_string().contains("restart the node"),
        "{failure}"
    );
    // Final: nothing is taken or tried any more, and every later event says so.
    assert!(rig.log.poisoned().is_some());
    let syncs = disk.syncs();
    let refused = rig.try_write(None, None, Append::None);
    assert!(matches!(refused, Err(WriteError::Poisoned(_))));
    rig.log.pump();
    assert_eq!(disk.syncs(), syncs, "a failed sync is never tried again");
    let all = rig.read_all();
    drop(rig);
    (disk, durable, all)
}

#[test]
fn c2_a_failed_sync_poisons_and_what_it_covered_is_written_anew() {
    for fault in FAULTS {
        for nth in 0..3 {
            let (disk, durable, written) = after_failed_sync(fault, nth);
            disk.crash(Crash::Kill);
            let rig = open(&disk);
            let (found, hard) = (rig.read_all(), rig.log.hard_state());
            assert!(found.starts_with(&durable), "{fault:?} {nth}");
            assert!(written.starts_with(&found), "{fault:?} {nth}");
            drop(rig);
            // What the restarted log reported now counts: it must survive a power cut.
            disk.crash(Crash::PowerCut);
            let rig = open(&disk);
            assert_eq!(rig.read_all(), found, "{fault:?} {nth}");
            assert_eq!(rig.log.hard_state(), hard, "{fault:?} {nth}");
        }
    }
}

#[test]
fn a_failed_sync_then_a_power_cut_loses_nothing_acknowledged() {
    for fault in FAULTS {
        for nth in 0..3 {
            let (disk, durable, _) = after_failed_sync(fault, nth);
            disk.crash(Crash::PowerCut);
            match try_open(&disk, small()) {
                Ok(rig) => {
                    assert!(rig.read_all().starts_with(&durable), "{fault:?} {nth}");
                    assert!(rig.log.hard_state().term >= 2);
                }
                Err(OpenError::Corrupt(_)) if fault == SyncFault::Late => {}
                Err(error) => panic!("{fault:?} {nth}: {error}"),
            }
        }
    }
}

/// A sync that lost its pages reported success, and the error came with the next one. What was
/// acknowledged in between is only in the page cache; the restart has to write it anew.
#[test]
fn c2_what_a_late_error_lost_is_written_anew_after_the_restart() {
    for nth in 0..6 {
        let disk = MemoryDisk::new();
        let mut rig = open(&disk);
        rig.append_durably(1, &[10, 20, 30]);
        rig.append_durably(1, &[40]);
        disk.fail_sync(nth, SyncFault::Late);
        let (mut acknowledged, mut vote) = (rig.read_all(), rig.log.hard_state());
        for term in 2.. {
            rig.try_write(Some(state(term, 2)), None, Append::None)
                .expect("written");
            let id = rig.append(term, &[40, 50]);
            match rig.try_settle() {
                Ok(durable) => {
                    assert_eq!(durable, id);
                    (acknowledged, vote) = (rig.read_all(), rig.log.hard_state());
                }
                Err(_) => break,
            }
        }
        drop(rig);
        disk.crash(Crash::Kill);
        assert!(disk.deceives(), "sync {nth}");
        let rig = open(&disk);
        let (found, hard) = (rig.read_all(), rig.log.hard_state());
        assert!(found.starts_with(&acknowledged), "sync {nth}");
        assert!(hard.term >= vote.term);
        drop(rig);
        assert!(!disk.deceives(), "sync {nth}: all of it was written anew");
        disk.crash(Crash::PowerCut);
        let rig = open(&disk);
        assert_eq!((rig.read_all(), rig.log.hard_state()), (found, hard));
    }
}

/// A log with a durable part, an unsynced part, a truncation, and several segments.
fn unclean_ground() -> (MemoryDisk, Vec<Entry>) {
    let disk = MemoryDisk::new();
    let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
    stepper.run_all();
    rig.settle();
    for _ in 0..30 {
        rig.append(1, &[3000, 2000]);
        rig.drain(&stepper);
    }
    let list = entries(55, &[100, 200]);
    let append = Append::Entries {
        first: 55,
        term: 2,
        entries: &list,
    };
    rig.try_write(None, Some(55), append).expect("written");
    rig.drain(&stepper);
    rig.append(2, &[7, 8, 9]);
    rig.log.pump();
    let all = rig.read_all();
    drop(rig);
    (disk, all)
}

#[test]
fn recovery_cut_off_at_every_step_comes_to_the_same() {
    for first_crash in [Crash::Kill, Crash::Subset(5)] {
        let (ground, all) = unclean_ground();
        ground.crash(first_crash);
        let whole = ground.fork();
        let before = whole.operations();
        let expected = open(&whole).read_all();
        assert!(all.starts_with(&expected) && expected.len() >= 56);
        let steps = whole.operations() - before;
        assert!(steps > 10, "recovery does something");
        for step in 0..steps {
            for crash in [
                Crash::Kill,
                Crash::PowerCut,
                Crash::Subset(step),
                Crash::Subset(step + 99),
            ] {
                let disk = ground.fork();
                disk.fail_after(step);
                drop(try_open(&disk, small()));
                disk.crash(crash);
                let rig = try_open(&disk, small());
                let rig = rig.unwrap_or_else(|error| panic!("step {step}, {crash:?}: {error}"));
                let found = rig.read_all();
                // Entries that only the page cache held are still unacknowledged until an open
                // has returned; a power cut may take them.
                assert!(
                    all.starts_with(&found) && found.len() >= 56,
                    "step {step}, {crash:?}"
                );
                if crash == Crash::Kill {
                    assert_eq!(found, expected, "step {step}");
                }
            }
        }
    }
}

#[test]
fn a_crash_loop_does_not_eat_the_disk() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(1, &[100; 10]);
    drop(rig);
    for _ in 0..10 {
        disk.crash(Crash::Kill);
        drop(open(&disk));
    }
    let files = disk.image();
    assert!(files.len() <= 7, "{:?}", files.keys());
}

#[test]
fn c8_a_full_disk_is_an_error_and_goes_away_with_room() {
    let disk = MemoryDisk::new();
    disk.set_quota(Some(400 << 10));
    let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
    let mut refused = false;
    for _ in 0..300 {
        let (first, list) = (
            rig.log.last().index + 1,
            entries(rig.log.last().index + 1, &[4000]),
        );
        let append = Append::Entries {
            first,
            term: 1,
            entries: &list,
        };
        match rig.try_write(None, None, append) {
            Ok(_) => {}
            Err(WriteError::NoRoom { .. }) => refused = true,
            Err(error) => panic!("{error}"),
        }
        rig.log.pump();
        for lane in [Lane::Sync, Lane::Prepare, Lane::Warm] {
            stepper.run(lane);
        }
        rig.settle();
        if refused {
            break;
        }
    }
    assert!(refused && rig.log.disk_full());
    assert!(rig.log.poisoned().is_none());
    // Votes go on: META has its room.
    rig.try_write(Some(state(5, 2)), None, Append::None)
        .expect("no room is needed");
    assert_eq!(drain_syncs(&mut rig, &stepper), rig.next);
    let before = rig.read_all();
    disk.set_quota(None);
    rig.drain(&stepper);
    assert!(!rig.log.disk_full());
    rig.append(5, &[8000, 8000, 8000]);
    rig.drain(&stepper);
    assert_eq!(rig.read_all().len(), before.len() + 3);
    assert!(rig.log.counters().disk_full > 0);
    drop(rig);
    disk.crash(Crash::PowerCut);
    assert_eq!(open(&disk).read_all().len(), before.len() + 3);
}

fn drain_syncs(rig: &mut Rig<Memory>, stepper: &Stepper) -> u64 {
    while {
        rig.settle();
        stepper.run(Lane::Sync)
    } {}
    rig.durable
}

#[test]
fn a_disk_too_full_to_open_is_refused_and_nothing_is_damaged() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(1, &[100; 10]);
    let before = rig.read_all();
    drop(rig);
    disk.crash(Crash::PowerCut);
    // With the segment that was prepared it opens all the same; without it there is no room.
    let full = disk.fork();
    full.set_quota(Some(1));
    assert_eq!(open(&full).read_all(), before);
    let mut image = disk.image();
    image.remove("seg-0000000000000002.wal").expect("prepared");
    let disk = MemoryDisk::from_image(&image);
    disk.set_quota(Some(1));
    let refused = try_open(&disk, small()).err();
    let refused = refused.expect("refused");
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
    disk.set_quota(None);
    assert_eq!(open(&disk).read_all(), before);
}

#[test]
fn a3_an_entry_of_a_newer_term_holds_that_term() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.try_write(Some(state(4, 2)), None, Append::None)
        .expect("written");
    rig.append_durably(6, &[1]);
    drop(rig);
    disk.crash(Crash::PowerCut);
    let rig = open(&disk);
    let hard = rig.log.hard_state();
    assert_eq!((hard.term, hard.voted_for.node), (6, 0));
    assert_eq!(rig.log.last(), LogId::new(6, 1));
}

/// Found by the model: the term that only an entry held was forgotten when that entry went.
#[test]
fn s9_a_term_that_an_entry_held_stays_when_the_entry_is_truncated() {
    for crash in (0..40).map(Crash::Subset).chain([Crash::PowerCut]) {
        for steps in 0..4 {
            let disk = MemoryDisk::new();
            let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
            rig.append(4, &[1]);
            rig.append(6, &[2]);
            rig.drain(&stepper);
            let append = Append::Entries {
                first: 2,
                term: 4,
                entries: &entries(2, &[3]),
            };
            rig.try_write(None, Some(2), append).expect("written");
            rig.settle();
            for _ in 0..steps {
                stepper.run(Lane::Sync);
                rig.settle();
            }
            drop(rig);
            disk.crash(crash);
            let rig = open(&disk);
            assert_eq!(rig.log.hard_state().term, 6, "{crash:?} {steps}");
            assert!(steps < 3 || rig.log.last() == LogId::new(4, 2));
        }
    }
}

#[test]
fn a_vote_is_durable_in_both_slots_before_it_is_reported() {
    let disk = MemoryDisk::new();
    let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
    stepper.run_all();
    rig.settle();
    rig.try_write(Some(state(4, 2)), None, Append::None)
        .expect("written");
    rig.log.pump();
    assert_eq!(rig.settle(), 0);
    stepper.run(Lane::Sync);
    assert_eq!(rig.settle(), 1);
    drop(rig);
    disk.crash(Crash::PowerCut);
    let image = disk.image();
    for slot in [0, 64 << 10] {
        let mut damaged = image.clone();
        let meta = damaged.get_mut("META").expect("there");
        meta[slot + 70] ^= 1;
        let rig = open(&MemoryDisk::from_image(&damaged));
        assert_eq!(rig.log.hard_state(), state(4, 2));
    }
}

/// Found by the simulator: after a kill in the middle of a founding the entry was there and the
/// founder's name was not, so nobody could go on with it.
#[test]
fn e10_the_first_entry_is_never_there_without_its_founder() {
    let founder = Incarnation([9; 16]);
    let crashes = (0..40).map(Crash::Subset);
    for crash in crashes.chain([Crash::Kill, Crash::PowerCut]) {
        let mut seen = Vec::new();
        for steps in 0..4 {
            let disk = MemoryDisk::new();
            let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
            rig.drain(&stepper);
            let entries = entries(1, &[100]);
            rig.log
                .write(Write {
                    id: 1,
                    now: 1,
                    hard_state: Some(state(1, 0)),
                    genesis: Some(founder),
                    truncate_from: None,
                    append: Append::Entries {
                        first: 1,
                        term: 1,
                        entries: &entries,
                    },
                })
                .expect("written");
            rig.settle();
            for _ in 0..steps {
                stepper.run(Lane::Sync);
                rig.settle();
            }
            let durable = rig.durable == 1;
            drop(rig);
            disk.crash(crash);
            let rig = open(&disk);
            let (last, genesis) = (rig.log.last().index, rig.log.genesis());
            assert!(
                last == 0 || genesis == founder,
                "{crash:?} after {steps} steps"
            );
            assert!(last == 1 || !durable, "{crash:?} after {steps} steps");
            seen.push((last, genesis == founder));
        }
        assert_eq!(seen.last(), Some(&(1, true)), "in the end it is there");
    }
}

/// Found by the simulator: where the place of a truncation could not be read, the entries that were
/// to go stayed in the index, were read again, and were applied.
#[test]
fn b11_a_truncation_whose_place_cannot_be_read_still_truncates() {
    let cold = LogOptions {
        hot_bytes: 0,
        ..small()
    };
    for from in [2, 3, 40, 63, 64] {
        let disk = MemoryDisk::new();
        let mut rig = try_open(&disk, cold.clone()).expect("opens");
        rig.append_durably(1, &[100; 64]);
        for _ in 0..60 {
            rig.append_durably(1, &[4000]);
        }
        disk.fail_read(0);
        let entries = entries(from, &[50; 3]);
        let append = Append::Entries {
            first: from,
            term: 2,
            entries: &entries,
        };
        rig.try_write(Some(state(2, 1)), Some(from), append)
            .expect("written");
        rig.settle();
        let terms = rig.ids().into_iter().map(|id| id.term);
        let expected = (1..from).map(|_| 1).chain([2, 2, 2]);
        assert!(terms.eq(expected), "after {from}: {:?}", rig.ids());
        assert!(rig.log.extent().1 < 1 << 20, "bytes of what is there");
        drop(rig);
        disk.crash(Crash::Kill);
        let rig = try_open(&disk, cold.clone()).expect("opens");
        assert_eq!(rig.log.last(), LogId::new(2, from + 2));
    }
}

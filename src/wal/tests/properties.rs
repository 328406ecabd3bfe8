//! Properties of the log that no other test is named after; `docs/wal-format.md` has the whole table.

use super::harness::*;
use crate::wal::memory::Stepper;
use crate::wal::{Append, Crash, Lane, LogOptions, Memory, MemoryDisk};

#[test]
fn p2_one_sync_is_in_flight_and_the_next_takes_all_that_gathered() {
    let disk = MemoryDisk::new();
    let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
    rig.drain(&stepper);
    let first = rig.append(1, &[10]);
    rig.log.pump();
    let before = rig.log.counters().syncs;
    let mut last = first;
    for _ in 0..20 {
        last = rig.append(1, &[100, 200]);
        rig.log.pump();
        assert_eq!(stepper.pending(Lane::Sync), 1, "one sync is in flight");
    }
    assert!(stepper.run(Lane::Sync));
    assert_eq!(rig.settle(), first, "only what was there when it began");
    assert!(stepper.run(Lane::Sync));
    assert_eq!(rig.settle(), last, "all that gathered, no timer");
    assert_eq!(rig.log.counters().syncs, before + 2);
}

#[test]
fn p4_reads_are_the_same_bytes_in_memory_and_not_copies() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append(1, &[1000; 5]);
    let read = |rig: &Rig<_>| rig.log.read(1, 5, usize::MAX).expect("readable").runs;
    let (one, two) = (read(&rig), read(&rig));
    assert_eq!(one[0].as_ptr(), two[0].as_ptr());
    rig.settle();
    assert_eq!(read(&rig)[0].as_ptr(), one[0].as_ptr(), "synced in place");
}

/// Three closed batches are unsynced, and the power goes when only some of them had been written
/// back: a later one that survives alone is no evidence that the earlier ones were durable.
#[test]
fn c3_of_unsynced_batches_only_a_later_one_survived_is_torn() {
    let options = LogOptions {
        max_entry_bytes: 4 << 10,
        early_close_bytes: 8 << 10,
        ready_window_bytes: 128 << 10,
        ..small()
    };
    let disk = MemoryDisk::new();
    let (mut rig, stepper) = open_stepped(&disk, options.clone()).expect("opens");
    rig.append(1, &[100]);
    rig.drain(&stepper);
    let durable = rig.read_all();
    // Each is closed early by its size.
    rig.append(1, &[4000; 9]);
    rig.log.pump();
    let all = rig.read_all();
    assert!(rig.log.counters().batches >= 4);
    drop(rig);
    let cached = disk.image();
    disk.crash(Crash::PowerCut);
    let synced = disk.image();
    let (name, now) = cached
        .iter()
        .find(|(name, now)| *now != &synced[*name] && name.starts_with("seg-"))
        .expect("dirty");
    let magic = crate::wal::layout::BATCH_MAGIC.to_le_bytes();
    let begins = |at: &usize| now[*at..*at + 4] == magic && synced[name][*at..*at + 4] != magic;
    let starts: Vec<usize> = (8192..now.len()).step_by(4096).filter(begins).collect();
    assert!(starts.len() >= 3, "{starts:?}");
    for survivors in 0..1_u32 << starts.len() {
        let mut image = synced.clone();
        let mut whole = 0;
        for (nth, &at) in starts.iter().enumerate() {
            let end = starts.get(nth + 1).copied().unwrap_or(now.len());
            if survivors >> nth & 1 == 1 {
                image.get_mut(name).expect("there")[at..end].copy_from_slice(&now[at..end]);
                whole += usize::from(whole == nth);
            }
        }
        let disk = MemoryDisk::from_image(&image);
        disk.crash(Crash::PowerCut);
        let found = try_open(&disk, options.clone())
            .expect("torn is not corrupt")
            .read_all();
        assert!(found.starts_with(&durable) && all.starts_with(&found));
        assert_eq!(found.len() > durable.len(), whole > 0, "{survivors:b}");
    }
}

#[test]
fn c5_commit_ahead_of_the_own_disk_is_no_evidence_against_it() {
    for seed in 0..40 {
        let disk = MemoryDisk::new();
        let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
        rig.append(1, &[10, 20]);
        rig.drain(&stepper);
        // The others have more than this disk; HINT is refreshed with the mark.
        rig.log.note_commit(4);
        rig.log.tick(5_000_000);
        rig.drain(&stepper);
        rig.append(1, &[30, 40]);
        rig.log.pump();
        drop(rig);
        disk.crash(Crash::Subset(seed));
        let rig = try_open(&disk, small()).expect("no evidence");
        assert!(rig.log.last().index >= 2);
    }
}

/// `kill -9` in the middle of a batch: its header is open, and what was stored of its body is there.
#[test]
fn c3_killed_inside_a_body_and_while_recovering_from_that() {
    let disk = MemoryDisk::new();
    let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
    rig.append(1, &[100]);
    rig.drain(&stepper);
    let durable = rig.read_all();
    rig.append(1, &[3000; 3]);
    drop(rig);
    disk.crash(Crash::Kill);
    let steps = {
        let whole = disk.fork();
        let before = whole.operations();
        assert_eq!(open(&whole).read_all(), durable);
        whole.operations() - before
    };
    for step in 0..steps {
        let again = disk.fork();
        again.fail_after(step);
        drop(try_open(&again, small()));
        again.crash(Crash::Kill);
        assert_eq!(open(&again).read_all(), durable, "step {step}");
    }
}

/// A log whose files were used before, up to jobs that rotate and carry several batches.
fn before_a_long_job() -> (MemoryDisk, Rig<Memory>, Stepper) {
    let disk = MemoryDisk::new();
    disk.set_through(true);
    let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
    for _ in 0..60 {
        rig.append(1, &[5000; 3]);
        rig.drain(&stepper);
        rig.log.compact(rig.log.last()).expect("its entry");
        rig.drain(&stepper);
    }
    assert!(rig.log.counters().segments_recycled > 2);
    for _ in 0..5 {
        rig.append(1, &[7000, 5000, 5000]);
        rig.log.pump();
        while stepper.run(Lane::Prepare) || stepper.run(Lane::Warm) {}
        rig.settle();
    }
    (disk, rig, stepper)
}

/// Killed between any two pages of what goes to the file: a batch that is not all there is torn,
/// never damaged, though the page cache lives on and an earlier life's batches stand in the file.
#[test]
fn c3_killed_while_batches_are_written_through() {
    let mut whole = false;
    let mut cut = 0;
    while !whole {
        let (disk, mut rig, stepper) = before_a_long_job();
        disk.fail_after(cut);
        rig.log.pump();
        while stepper.run(Lane::Sync) && rig.try_settle().is_ok() {
            rig.log.pump();
        }
        whole = rig.log.poisoned().is_none();
        let (promised, all) = (rig.log.durable(), rig.log.last().index);
        drop(rig);
        disk.crash(Crash::Kill);
        let rig = try_open(&disk, small());
        let rig = rig.unwrap_or_else(|error| panic!("cut after {cut}: {error}"));
        let last = rig.log.last().index;
        assert!((promised..=all).contains(&last), "cut after {cut}");
        assert!(!whole || last == all);
        cut += 1;
    }
    assert!(cut > 20, "{cut} places");
}

#[test]
fn p6_after_a_failure_nothing_is_taken_synced_or_reported() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(1, &[10]);
    disk.fail_sync(0, crate::wal::SyncFault::Keep);
    rig.append(1, &[20]);
    rig.try_settle().expect_err("the sync fails");
    let (syncs, durable) = (disk.syncs(), rig.log.durable());
    assert!(
        rig.try_write(Some(state(9, 1)), None, Append::None)
            .is_err()
    );
    rig.log.pump();
    rig.log.tick(9_000_000);
    rig.log.pump();
    assert_eq!((disk.syncs(), rig.log.durable()), (syncs, durable));
    assert!(rig.log.compact(rig.log.last()).is_err());
    assert!(rig.log.close().is_err(), "and it is not closed cleanly");
}

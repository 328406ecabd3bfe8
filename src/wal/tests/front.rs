//! The front of the log: compaction, recycling, snapshots.

use std::sync::Arc;

use super::harness::*;
use crate::types::{Entry, LogId};
use crate::wal::map::Mapping;
use crate::wal::{Append, Crash, Lane, LogOptions, Memory, MemoryDisk, ReadError};

fn filled(disk: &MemoryDisk, options: LogOptions) -> Rig<Memory> {
    let mut rig = try_open(disk, options).expect("opens");
    for _ in 0..60 {
        rig.append_durably(1, &[4000, 4000]);
    }
    assert!(rig.log.extent().0 >= 4);
    rig
}

#[test]
fn compaction_frees_whole_segments_and_they_are_used_again() {
    let disk = MemoryDisk::new();
    let mut rig = filled(&disk, small());
    let all = rig.read_all();
    let segments = rig.log.extent().0;
    rig.log
        .compact(LogId::new(1, 70))
        .expect("an entry of the log");
    assert_eq!(
        (rig.log.first_index(), rig.log.snapshot()),
        (71, LogId::new(1, 70))
    );
    assert!(matches!(
        rig.log.read(70, 70, 1),
        Err(ReadError::Compacted { first: 71, .. })
    ));
    assert_eq!(rig.read_all(), all[70..]);
    assert_eq!(rig.log.term(70), Some(1));
    assert_eq!(rig.log.term(69), None);
    rig.settle();
    assert!(rig.log.extent().0 < segments);
    let files = disk.syncs();
    for _ in 0..60 {
        rig.append_durably(2, &[4000, 4000]);
    }
    assert!(disk.syncs() > files);
    assert!(rig.log.counters().segments_recycled > 0);
    let found = rig.read_all();
    drop(rig);
    for crash in [Crash::PowerCut, Crash::Kill] {
        disk.crash(crash);
        let rig = open(&disk);
        assert_eq!(rig.read_all(), found);
        assert_eq!(rig.log.snapshot(), LogId::new(1, 70));
    }
    assert!(rig_refuses_unknown(&disk));
}

fn rig_refuses_unknown(disk: &MemoryDisk) -> bool {
    let mut rig = open(disk);
    let beyond = LogId::new(2, rig.log.last().index + 1);
    let other_term = LogId::new(9, 100);
    let refused = [beyond, other_term].map(|start| rig.log.compact(start).is_err());
    rig.log.compact(LogId::new(1, 3)).is_ok() && refused == [true, true]
}

#[test]
fn pinned_bytes_do_not_change_when_their_segment_goes() {
    let disk = MemoryDisk::new();
    let mut rig = filled(&disk, small());
    let pinned = rig.log.read(60, 118, usize::MAX).expect("readable").runs;
    let copies: Vec<_> = pinned.iter().map(|run| run.to_vec()).collect();
    rig.log
        .compact(LogId::new(1, 119))
        .expect("an entry of the log");
    rig.settle();
    for _ in 0..120 {
        rig.append_durably(2, &[4000, 4000]);
    }
    assert_eq!(pinned, copies);
}

#[test]
fn c7_a_recycled_segment_shows_nothing_of_its_old_life() {
    let disk = MemoryDisk::new();
    let mut rig = filled(&disk, small());
    rig.log
        .compact(LogId::new(1, 110))
        .expect("an entry of the log");
    rig.settle();
    let mut torn = 0;
    for round in 0..40 {
        // The same shape as in the old life, torn at every sector.
        let id = rig.append(2, &[4000, 4000]);
        let before = rig.read_all();
        if round % 2 == 0 {
            assert_eq!(rig.settle(), id);
        }
        drop(rig);
        disk.crash(Crash::Subset(round));
        rig = open(&disk);
        let found = rig.read_all();
        assert!(before.starts_with(&found));
        torn += u32::from(found.len() < before.len());
        if round % 2 == 0 {
            assert_eq!(found, before);
        }
    }
    assert!(torn > 0);
}

#[test]
fn c7_a_segment_in_a_kept_mapping_shows_nothing_of_its_old_life() {
    let options = || LogOptions {
        hot_bytes: u64::MAX,
        ..small()
    };
    let mut torn = 0;
    for seed in 0..16 {
        let disk = MemoryDisk::new();
        let mut rig = filled(&disk, options());
        rig.log
            .compact(LogId::new(1, 110))
            .expect("an entry of the log");
        rig.settle();
        assert!(!rig.log.pool.is_empty());
        assert!(rig.log.pool.iter().all(|free| free.map.is_some()));
        let recycled = rig.log.counters().segments_recycled;
        // The same shape as in the old life; the last write is not synced, and torn at any sector.
        for _ in 0..45 + seed {
            rig.append_durably(2, &[4000, 4000]);
        }
        let durable = rig.read_all().len();
        rig.append(2, &[4000, 4000]);
        let before = rig.read_all();
        assert!(rig.log.counters().segments_recycled >= recycled + 2);
        drop(rig);
        disk.crash(Crash::Subset(seed));
        let found = try_open(&disk, options()).expect("opens").read_all();
        assert!(before.starts_with(&found) && found.len() >= durable);
        torn += u32::from(found.len() < before.len());
    }
    assert!(torn > 0);
}

#[test]
fn c7_a_kept_mapping_shows_nothing_of_its_old_life_and_is_kept_only_by_its_sole_holder() {
    let map = Mapping::anonymous(3 * 4096).expect("memory");
    let mut writer = map.writer(0, 0).expect("the first");
    writer.put(0, &[7; 8192]);
    writer.publish(8192);
    let held = map.run(0..4096).expect("published");
    assert!(Arc::clone(&map).renew().is_err(), "a writer is left");
    drop(writer);
    assert!(Arc::clone(&map).renew().is_err(), "it has two holders");
    let one = map.run(4096..8192).expect("published");
    assert!(map.renew().is_err(), "bytes of it are held");
    assert_eq!(held, one, "and stay");

    let map = Mapping::anonymous(3 * 4096).expect("memory");
    let mut writer = map.writer(0, 0).expect("the first");
    writer.put(0, &[7; 8192]);
    writer.publish(8192);
    drop(writer);
    let map = map.renew().expect("nobody else holds it");
    assert!(map.bytes(0..1).is_none(), "shown before it has a writer");
    let mut writer = map.writer(4096, 4096).expect("one of its own");
    assert!(map.bytes(4096..4097).is_none(), "shown before it is stored");
    writer.put(4096, &[8; 16]);
    writer.publish(4112);
    assert_eq!(map.bytes(4096..4112), Some(&[8; 16][..]));
    assert!(map.bytes(4096..4113).is_none() && map.bytes(0..16).is_none());
}

fn install(rig: &mut Rig<Memory>, start: LogId) {
    rig.next += 1;
    rig.log
        .install_snapshot(rig.next, 0, start)
        .expect("installed");
}

#[test]
fn d1_a_snapshot_ahead_of_the_log_begins_it_anew() {
    let disk = MemoryDisk::new();
    let mut rig = filled(&disk, small());
    install(&mut rig, LogId::new(7, 1000));
    assert_eq!(
        (rig.log.first_index(), rig.log.last()),
        (1001, LogId::new(7, 1000))
    );
    assert!(rig.log.term_runs().is_empty());
    assert_eq!(rig.settle(), rig.next);
    assert_eq!(rig.log.extent().0, 1, "the old log is gone");
    drop(rig);
    disk.crash(Crash::PowerCut);
    let mut rig = open(&disk);
    assert_eq!(
        (rig.log.snapshot(), rig.log.last()),
        (LogId::new(7, 1000), LogId::new(7, 1000))
    );
    rig.append_durably(8, &[1, 2, 3]);
    let found = rig.read_all();
    assert_eq!(found[0].id, LogId::new(8, 1001));
    drop(rig);
    disk.crash(Crash::Kill);
    assert_eq!(open(&disk).read_all(), found);
}

/// Found by the model: what follows a log start in the same term had no term.
#[test]
fn d1_entries_of_the_snapshots_own_term_have_a_term() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.settle();
    install(&mut rig, LogId::new(7, 1000));
    rig.append_durably(7, &[1, 2, 3]);
    assert_eq!(rig.log.term_runs(), [LogId::new(7, 1001)]);
    assert_eq!(rig.log.term(1002), Some(7));
    // The same where a snapshot covers exactly what the log holds.
    rig.log.compact(LogId::new(7, 1003)).expect("the last one");
    rig.append_durably(7, &[4]);
    assert_eq!(rig.log.term_runs(), [LogId::new(7, 1004)]);
    rig.try_write(None, Some(1004), Append::None)
        .expect("written");
    assert_eq!(rig.log.last(), LogId::new(7, 1003));
}

#[test]
fn a_snapshot_within_the_log_keeps_the_rest() {
    let disk = MemoryDisk::new();
    let mut rig = filled(&disk, small());
    let all = rig.read_all();
    install(&mut rig, LogId::new(1, 100));
    assert_eq!(rig.settle(), rig.next);
    assert_eq!(rig.read_all(), all[100..]);
    // The same index in another term: what the log holds is another history.
    install(&mut rig, LogId::new(3, 110));
    assert_eq!(rig.log.last(), LogId::new(3, 110));
    rig.settle();
    drop(rig);
    disk.crash(Crash::PowerCut);
    assert_eq!(open(&disk).log.last(), LogId::new(3, 110));
}

#[test]
fn an_install_crashed_at_every_step_is_there_or_not() {
    for start in [LogId::new(7, 1000), LogId::new(7, 40), LogId::new(1, 40)] {
        let ground = MemoryDisk::new();
        let mut rig = filled(&ground, small());
        let all = rig.read_all();
        rig.append(1, &[5]);
        drop(rig);
        ground.crash(Crash::PowerCut);
        let steps = {
            let disk = ground.fork();
            let mut rig = open(&disk);
            rig.settle();
            let before = disk.operations();
            install(&mut rig, start);
            rig.settle();
            disk.operations() - before
        };
        for step in 0..=steps {
            for crash in [Crash::PowerCut, Crash::Subset(step), Crash::Kill] {
                let disk = ground.fork();
                let mut rig = open(&disk);
                rig.settle();
                disk.fail_after(step);
                install(&mut rig, start);
                let done = rig.try_settle().is_ok();
                drop(rig);
                disk.crash(crash);
                after_install(
                    &disk,
                    start,
                    &all,
                    done,
                    &format!("{start} {step} {crash:?}"),
                );
            }
        }
    }
}

/// Found by the model: a truncation that reached back to the entry before the first segment left, and
/// a log start at what replaced that entry: the whole log was taken for another history's.
#[test]
fn d1_a_log_start_that_replaced_what_the_first_segment_follows_keeps_the_log() {
    for crash in [Crash::Kill, Crash::PowerCut] {
        let disk = MemoryDisk::new();
        let mut rig = open(&disk);
        while rig.log.extent().0 < 2 {
            rig.append_durably(1, &[4000]);
        }
        let before = rig.log.last().index - 1;
        let append = Append::Entries {
            first: before,
            term: 2,
            entries: &entries(before, &[5; 3]),
        };
        rig.try_write(None, Some(before), append).expect("written");
        rig.settle();
        rig.log
            .compact(LogId::new(2, before))
            .expect("an entry of the log");
        rig.append_durably(2, &[6]);
        let rest = rig.read_all();
        assert_eq!(rest.len(), 3);
        drop(rig);
        disk.crash(crash);
        assert_eq!(open(&disk).read_all(), rest);
    }
}

/// Found by the model: with more than one segment still to be synced, their files went before the
/// new log began: the log failed, and a crash there left one that was refused.
#[test]
fn d1_an_install_over_several_unsynced_segments_keeps_them_until_the_new_log_begins() {
    let start = LogId::new(7, 1000);
    for steps in 0..12 {
        let disk = MemoryDisk::new();
        let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
        rig.drain(&stepper);
        rig.append(1, &[2000; 10]);
        rig.drain(&stepper);
        let durable = rig.read_all();
        for _ in 0..40 {
            rig.append(2, &[8000]);
            rig.settle();
            while stepper.run(Lane::Prepare) || stepper.run(Lane::Warm) {
                rig.settle();
            }
        }
        assert!(rig.log.extent().0 >= 3);
        install(&mut rig, start);
        for _ in 0..steps {
            rig.settle();
            stepper.run(Lane::Sync);
            while stepper.run(Lane::Prepare) || stepper.run(Lane::Warm) {}
        }
        rig.settle();
        let done = rig.durable == rig.next;
        assert!(done || steps < 8, "in the end it is there");
        drop(rig);
        disk.crash(Crash::Kill);
        let rig = try_open(&disk, small()).unwrap_or_else(|error| panic!("{steps}: {error}"));
        if rig.log.snapshot() == start {
            assert_eq!(rig.log.last(), start);
        } else {
            assert!(!done && rig.read_all().starts_with(&durable));
        }
    }
}

fn after_install(disk: &MemoryDisk, start: LogId, all: &[Entry], done: bool, what: &str) {
    let mut rig = try_open(disk, small()).unwrap_or_else(|error| panic!("{what}: {error}"));
    if rig.log.snapshot() == start {
        let rest: &[Entry] = if start.term == 1 { &all[40..] } else { &[] };
        assert_eq!(rig.read_all(), rest, "{what}");
    } else {
        assert!(!done, "{what}: lost");
        assert_eq!(rig.read_all(), all, "{what}");
    }
    let next = rig.append(9, &[1]);
    assert_eq!(rig.settle(), next, "{what}");
}

#[test]
fn damage_below_the_snapshot_is_stepped_over() {
    let disk = MemoryDisk::new();
    let options = LogOptions {
        pool_segments: 0,
        ..small()
    };
    let mut rig = try_open(&disk, options.clone()).expect("opens");
    for _ in 0..8 {
        rig.append_durably(1, &[4000, 4000]);
    }
    rig.log
        .compact(LogId::new(1, 8))
        .expect("an entry of the log");
    rig.settle();
    let rest = rig.read_all();
    rig.try_write(None, None, Append::None).expect("written");
    drop(rig);
    disk.crash(Crash::PowerCut);
    let mut image = disk.image();
    let bytes = image.get_mut("seg-0000000000000001.wal").expect("there");
    bytes[8192 + 500] ^= 1;
    bytes[8192 + 12288 + 500] ^= 1;
    for _ in 0..2 {
        let disk = MemoryDisk::from_image(&image);
        let rig = try_open(&disk, options.clone()).expect("opens");
        assert_eq!(rig.read_all(), rest);
        drop(rig);
        disk.crash(Crash::PowerCut);
        let rig = try_open(&disk, options.clone()).expect("opens again");
        assert_eq!(rig.read_all(), rest);
        // Closer to what is needed: refused.
        let bytes = image.get_mut("seg-0000000000000001.wal").expect("there");
        bytes[8192 + 3 * 12288 + 500] ^= 0;
    }
    let bytes = image.get_mut("seg-0000000000000001.wal").expect("there");
    bytes[8192 + 5 * 12288 + 500] ^= 1;
    assert!(try_open(&MemoryDisk::from_image(&image), options).is_err());
}

#[test]
fn c4_damage_below_the_snapshot_in_an_older_segment_breaks_no_link_to_what_follows_it() {
    let disk = MemoryDisk::new();
    let mut rig = try_open(&disk, small()).expect("opens");
    for _ in 0..8 {
        rig.append_durably(1, &[4000, 4000]);
    }
    let start = LogId::new(1, 8);
    rig.log.compact(start).expect("an entry of the log");
    rig.settle();
    drop(rig);
    disk.crash(Crash::PowerCut);
    // What is not proven goes to a second segment; here that is the last batch.
    let mut rig = try_open(&disk, small()).expect("opens");
    assert_eq!(rig.log.extent().0, 2);
    rig.append_durably(1, &[10]);
    let rest = rig.read_all();
    drop(rig);
    disk.crash(Crash::PowerCut);
    let mut image = disk.image();
    let bytes = image.get_mut("seg-0000000000000001.wal").expect("there");
    bytes[8192 + 500] ^= 1;
    let disk = MemoryDisk::from_image(&image);
    for life in 0..4 {
        let rig = try_open(&disk, small()).expect("opens");
        assert_eq!(rig.log.snapshot(), start, "life {life}");
        assert_eq!(rig.read_all(), rest, "life {life}");
        drop(rig);
        disk.crash(Crash::PowerCut);
    }
}

/// To unmap a segment takes milliseconds, which whoever appends shall not wait for.
#[test]
fn cold_segments_are_unmapped_on_a_lane() {
    let options = LogOptions {
        hot_bytes: 0,
        ..small()
    };
    let (mut rig, stepper) = open_stepped(&MemoryDisk::new(), options).expect("opens");
    rig.drain(&stepper);
    // The disk of this test holds one, the task another.
    let holders = |rig: &Rig<Memory>| {
        let cold = rig.log.segments.iter().filter(|one| one.map.is_none());
        cold.map(|one| one.pinned.strong_count()).max()
    };
    let mut handed_over = 0;
    for _ in 0..60 {
        rig.append(1, &[4000, 4000]);
        handed_over += u32::from(holders(&rig) == Some(2));
        rig.drain(&stepper);
        assert!(holders(&rig).is_none_or(|count| count == 1));
    }
    assert!(handed_over >= 2);
}

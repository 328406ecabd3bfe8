//! What goes in comes out.

use super::harness::*;
use crate::entry::{EntryBatch, frame_len};
use crate::types::{EntryKind, LogId};
use crate::wal::memory::Random;
use crate::wal::{Append, Crash, Lane, LogOptions, MemoryDisk, ReadError, WriteError};

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

#[test]
fn reads_keep_to_their_budget_and_give_at_least_one() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    for _ in 0..10 {
        rig.append(1, &[50; 90]);
        rig.settle();
    }
    let frame = 32 + 56;
    for first in [1, 2, 33, 64, 90, 91, 500] {
        for budget in [0, 1, frame, frame + 1, 10 * frame, 100 * frame, usize::MAX] {
            let read = rig.log.read(first, 900, budget).expect("readable");
            let count = read.last + 1 - first;
            assert_eq!(read.bytes as u64, count * frame as u64);
            let wanted = (budget / frame).clamp(1, 901 - first as usize);
            assert_eq!(count as usize, wanted, "from {first} within {budget}");
        }
        let read = rig
            .log
            .read(first, first + 3, usize::MAX)
            .expect("readable");
        assert_eq!(read.last, first + 3);
    }
    let none = rig.log.read(5, 4, 100).expect("nothing is asked for");
    assert_eq!((none.last, none.bytes, none.runs.len()), (4, 0, 0));
    assert!(matches!(
        rig.log.read(0, 1, 1),
        Err(ReadError::Compacted { .. })
    ));
    assert!(matches!(
        rig.log.read(901, 901, 1),
        Err(ReadError::Beyond { .. })
    ));
}

#[test]
fn frames_are_stored_as_they_came_wherever_they_are_cut() {
    let mut random = Random(3);
    let source = MemoryDisk::new();
    let mut leader = open(&source);
    leader.append(2, &[0, 1, 7, 8, 9, 2000, 3]);
    leader.append(5, &[100, 8000]);
    let whole = leader
        .log
        .read(1, 9, usize::MAX)
        .expect("readable")
        .runs
        .concat();
    for _ in 0..20 {
        let mut rest = bytes::Bytes::from(whole.clone());
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let len = (random.below(400) as usize + 1).min(rest.len());
            chunks.push(rest.split_to(len));
        }
        let batch = EntryBatch::verify(chunks, LogId::default(), 9, 8 << 10).expect("valid");
        let disk = MemoryDisk::new();
        let mut follower = open(&disk);
        follower
            .try_write(None, None, Append::Frames(&batch))
            .expect("written");
        follower.settle();
        let stored = follower
            .log
            .read(1, 9, usize::MAX)
            .expect("readable")
            .runs
            .concat();
        assert_eq!(stored, whole);
        assert_eq!(
            follower.log.term_runs(),
            [LogId::new(2, 1), LogId::new(5, 8)]
        );
        drop(follower);
        disk.crash(Crash::PowerCut);
        let stored = open(&disk)
            .log
            .read(1, 9, usize::MAX)
            .expect("readable")
            .runs
            .concat();
        assert_eq!(stored, whole);
    }
}

#[test]
fn what_does_not_continue_the_log_is_refused_and_changes_nothing() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(3, &[1, 2, 3]);
    let before = rig.read_all();
    let list = entries(4, &[5]);
    let entries_at = |first, term| Append::Entries {
        first,
        term,
        entries: &list,
    };
    let order = |result| matches!(result, Err(WriteError::OutOfOrder { .. }));
    let vote = Some(state(7, 1));
    assert!(order(rig.try_write(vote, None, entries_at(5, 3))), "a gap");
    assert!(
        order(rig.try_write(vote, None, entries_at(3, 3))),
        "no truncation"
    );
    assert!(
        order(rig.try_write(vote, None, entries_at(4, 2))),
        "an older term"
    );
    assert!(
        order(rig.try_write(vote, Some(2), entries_at(4, 3))),
        "a gap after truncation"
    );
    assert!(
        order(rig.try_write(vote, Some(0), entries_at(1, 3))),
        "below the start"
    );
    let large = entries(4, &[8193]);
    let append = Append::Entries {
        first: 4,
        term: 3,
        entries: &large,
    };
    let refused = rig.try_write(vote, None, append);
    assert!(matches!(
        refused,
        Err(WriteError::TooLarge { len: 8193, .. })
    ));
    assert_eq!(rig.read_all(), before);
    assert_ne!(rig.log.hard_state().term, 7);
}

#[test]
fn whatever_is_ready_can_be_written_and_more_is_refused_whole() {
    let mut random = Random(11);
    for _ in 0..8 {
        let disk = MemoryDisk::new();
        let (mut rig, stepper) = open_stepped(&disk, small()).expect("opens");
        for _ in 0..random.below(6) {
            stepper.run_all();
            rig.settle();
        }
        for _ in 0..25 {
            // The reserve is larger than these segments: look behind it.
            let ready = rig.log.room();
            let mut lens = Vec::new();
            let mut sum = 0;
            loop {
                let len = random.below(8 << 10) as usize;
                if sum + frame_len(len) > ready {
                    break;
                }
                sum += frame_len(len);
                lens.push(len);
            }
            if !lens.is_empty() {
                rig.append(1, &lens);
            }
            let before = (rig.log.last(), rig.log.counters());
            let (first, more) = (before.0.index + 1, vec![8 << 10; 24]);
            let list = entries(first, &more);
            let append = Append::Entries {
                first,
                term: 1,
                entries: &list,
            };
            let refused = rig.try_write(Some(state(9, 9)), None, append);
            assert!(matches!(refused, Err(WriteError::NoRoom { .. })));
            assert_eq!((rig.log.last(), rig.log.counters()), before);
            rig.settle();
            for lane in [Lane::Sync, Lane::Prepare, Lane::Warm] {
                if random.below(2) == 0 {
                    stepper.run(lane);
                }
            }
            rig.settle();
        }
        assert_eq!(rig.log.hard_state().voted_for.node, 0);
        rig.drain(&stepper);
        let before = rig.read_all();
        drop(rig);
        disk.crash(Crash::PowerCut);
        assert_eq!(open(&disk).read_all(), before);
    }
}

#[test]
fn a_reserve_is_kept_for_what_must_always_fit() {
    let disk = MemoryDisk::new();
    let options = LogOptions {
        segment_bytes: 8 << 20,
        ..LogOptions::default()
    };
    let (mut rig, stepper) = open_stepped(&disk, options).expect("opens");
    let lens = vec![1000; rig.log.ready_bytes() / frame_len(1000)];
    rig.append(1, &lens);
    assert!(
        rig.log.ready_bytes() < 64 << 10,
        "only what was set aside for padding"
    );
    for _ in 0..8 {
        rig.append(1, &[4000]);
        rig.log.pump();
        stepper.run(Lane::Sync);
        rig.settle();
    }
}

#[test]
fn truncation_drops_the_suffix_from_index_terms_and_reads() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(1, &[10; 50]);
    for _ in 0..15 {
        rig.append_durably(2, &[3000; 4]);
    }
    let segments = rig.log.extent().0;
    assert!(segments > 1);
    let pinned = rig.log.read(40, 60, usize::MAX).expect("readable").runs;
    let copies: Vec<_> = pinned.iter().map(|run| run.to_vec()).collect();
    let kept = rig.read_all()[..44].to_vec();
    // Back into the first segment, without a new entry.
    let id = rig
        .try_write(None, Some(45), Append::None)
        .expect("written");
    assert_eq!((rig.log.last(), rig.log.durable()), (LogId::new(1, 44), 44));
    assert_eq!(rig.log.last_time_us(), 440);
    assert_eq!(rig.settle(), id);
    assert_eq!(rig.read_all(), kept);
    rig.append_durably(3, &[5, 6]);
    assert_eq!(rig.log.term_runs(), [LogId::new(1, 1), LogId::new(3, 45)]);
    let found = rig.read_all();
    drop(rig);
    for crash in [Crash::Kill, Crash::PowerCut] {
        disk.crash(crash);
        let rig = open(&disk);
        assert_eq!(rig.read_all(), found);
        assert_eq!(rig.log.term_runs(), [LogId::new(1, 1), LogId::new(3, 45)]);
    }
    assert_eq!(pinned, copies, "published bytes never change");
}

#[test]
fn configurations_come_back_without_those_truncated() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    for index in 1..=30 {
        let mut list = entries(index, &[20]);
        if index % 3 == 0 {
            list[0].kind = EntryKind::Configuration;
        }
        let append = Append::Entries {
            first: index,
            term: 1,
            entries: &list,
        };
        rig.try_write(None, None, append).expect("written");
    }
    rig.try_write(None, Some(20), Append::None)
        .expect("written");
    rig.settle();
    rig.log.compact(LogId::new(1, 4)).expect("there");
    rig.settle();
    drop(rig);
    disk.crash(Crash::PowerCut);
    let rig = open(&disk);
    let indexes: Vec<_> = rig
        .log
        .configurations()
        .iter()
        .map(|entry| entry.id.index)
        .collect();
    assert_eq!(indexes, [6, 9, 12, 15, 18]);
    assert_eq!(rig.log.configurations()[0].payload, payload(6, 20));
}

#[test]
fn a_mark_narrows_what_is_in_doubt() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(1, &[10, 20]);
    let batches = rig.log.counters().batches;
    rig.log.tick(500_000);
    rig.settle();
    assert_eq!(rig.log.counters().batches, batches, "not idle yet");
    for _ in 0..3 {
        rig.log.tick(2_000_000);
        rig.settle();
    }
    assert_eq!(rig.log.counters().batches, batches + 1, "once");
    drop(rig);
    disk.crash(Crash::PowerCut);
    // The entries are proven now: nothing but the mark is copied, the segment stays.
    assert_eq!(open(&disk).log.extent().0, 2);
}

#[test]
fn a9_the_largest_election_timeout_told_is_kept() {
    let disk = MemoryDisk::new();
    let told = |ms| {
        let options = LogOptions {
            election_timeout_min_ms: ms,
            ..small()
        };
        let rig = try_open(&disk, options).expect("opens");
        rig.log.told_election_timeout_ms()
    };
    assert_eq!(
        (told(150), told(1000), told(100), told(100)),
        (0, 150, 1000, 1000)
    );
}

#[test]
fn meta_seq_rises_with_every_update_and_open() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    let (incarnation, key) = (rig.log.incarnation(), rig.log.reset_key());
    let first = rig.log.meta_seq();
    rig.try_write(Some(state(1, 1)), None, Append::None)
        .expect("written");
    rig.settle();
    let second = rig.log.meta_seq();
    drop(rig);
    disk.crash(Crash::PowerCut);
    let rig = open(&disk);
    assert!(first < second && second < rig.log.meta_seq());
    assert_eq!(
        (rig.log.incarnation(), rig.log.reset_key()),
        (incarnation, key)
    );
    assert!(!incarnation.is_none() && key != [0; 32]);
    let other = open(&MemoryDisk::new());
    assert_ne!(other.log.incarnation(), incarnation);
}

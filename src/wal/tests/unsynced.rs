//! What was not synced is there after a power cut or it is not: every name, every page, every
//! sector of a page.

use super::harness::*;
use crate::types::{Entry, HardState, LogId, LogIndex};
use crate::wal::{Append, Crash, Lane, LogOptions, MemoryDisk};

/// What somebody was told, and what may be found beyond it.
#[derive(Default)]
struct Known {
    /// Reported durable up to here.
    durable: LogIndex,
    written: Vec<LogId>,
}

/// Fills segments, frees those in front and uses their files again, until the disk gives up.
fn fill_free_and_reuse(disk: &MemoryDisk) -> Known {
    let mut known = Known::default();
    let Ok(mut rig) = try_open(disk, small()) else {
        return known;
    };
    for round in 1..=40_u64 {
        let first = rig.log.last().index + 1;
        let entries = entries(first, &[8000; 2]);
        let append = Append::Entries {
            first,
            term: round,
            entries: &entries,
        };
        if rig.try_write(None, None, append).is_err() {
            break;
        }
        known
            .written
            .extend([first, first + 1].map(|index| LogId::new(round, index)));
        if rig.try_settle().is_err() {
            break;
        }
        known.durable = rig.log.last().index;
        let front = LogId::new(round - 1, first - 1);
        if round % 16 == 0 && (rig.log.compact(front).is_err() || rig.try_settle().is_err()) {
            break;
        }
    }
    known
}

fn check_names(disk: &MemoryDisk, known: &Known) -> Result<(), String> {
    let rig = try_open(disk, small()).map_err(|error| format!("refused: {error}"))?;
    let all = rig.read_all();
    let whole = |entry: &Entry| entry.payload == payload(entry.id.index, entry.payload.len());
    let ids = all
        .iter()
        .map(|entry| known.written.get(entry.id.index as usize - 1));
    if !all.iter().all(whole) || !ids.eq(all.iter().map(|entry| Some(&entry.id))) {
        return Err("it holds what was never written".to_owned());
    }
    let last = rig.log.last().index;
    if last < known.durable {
        return Err(format!("it ends at {last} of {}", known.durable));
    }
    Ok(())
}

#[test]
fn c6_a_crash_between_a_change_of_names_and_its_sync_loses_nothing() {
    let whole = MemoryDisk::new();
    let known = fill_free_and_reuse(&whole);
    assert_eq!(known.durable, 80, "the work ends");
    assert!(whole.image().keys().any(|name| name.starts_with("pool-")));
    for step in 0..whole.operations() {
        let disk = MemoryDisk::new();
        disk.fail_after(step);
        let known = fill_free_and_reuse(&disk);
        for crash in [Crash::PowerCut, Crash::Subset(step), Crash::Subset(!step)] {
            let found = disk.fork();
            found.crash(crash);
            if let Err(why) = check_names(&found, &known) {
                panic!("after {step} operations, {crash:?}: {why}");
            }
        }
    }
}

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A disk before and after everything unsynced was written back, and what it may show.
struct Cut {
    synced: Image,
    cached: Image,
    dirty: Vec<(String, usize)>,
    durable: Vec<Entry>,
    written: Vec<Entry>,
    votes: Vec<HardState>,
}

fn tiny() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        early_close_bytes: 16 << 10,
        pool_segments: 0,
        ..small()
    }
}

/// The power goes after so many operations of the disk, in writes of three terms: each of them
/// synced before the next, or all at once.
fn cut_after(operations: u64, at_once: bool) -> Cut {
    let batches: [&[usize]; 3] = [&[3000, 50], &[10, 8000, 500], &[6000, 7000]];
    let disk = MemoryDisk::new();
    let (mut rig, stepper) = open_stepped(&disk, tiny()).expect("opens");
    rig.append(1, &[100, 2000]);
    rig.drain(&stepper);
    let (mut durable, mut votes) = (rig.read_all(), vec![rig.log.hard_state()]);
    disk.fail_after(operations);
    for (lens, term) in batches.iter().zip(2..) {
        votes.push(state(term, term));
        let vote = rig.try_write(votes.last().copied(), None, Append::None);
        if vote.is_err() {
            break;
        }
        rig.append(term, lens);
        rig.log.pump();
        let written = rig.read_all();
        if !at_once || term == 4 {
            while stepper.run(Lane::Sync) {}
        }
        match rig.try_settle() {
            Ok(done) if done == rig.next => {
                durable = written;
                votes.drain(..votes.len() - 1);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let written = rig.read_all();
    drop(rig);
    let cached = disk.image();
    disk.crash(Crash::PowerCut);
    let synced = disk.image();
    let dirty = dirty_pages(&synced, &cached);
    Cut {
        synced,
        cached,
        dirty,
        durable,
        written,
        votes,
    }
}

fn dirty_pages(synced: &Image, cached: &Image) -> Vec<(String, usize)> {
    assert!(synced.keys().eq(cached.keys()), "no name is on its way");
    let mut dirty = Vec::new();
    for (name, bytes) in cached {
        let pages = bytes.chunks(PAGE).zip(synced[name].chunks(PAGE));
        let differ = pages.enumerate().filter(|(_, (now, old))| now != old);
        dirty.extend(differ.map(|(page, _)| (name.clone(), page)));
    }
    dirty
}

impl Cut {
    /// What a power cut leaves if of each dirty page these sectors had been written back.
    fn check(&self, sectors: impl Fn(usize) -> u8) {
        let mut image = self.synced.clone();
        for (nth, (name, page)) in self.dirty.iter().enumerate() {
            let mask = sectors(nth);
            for sector in (0..8).filter(|sector| mask >> sector & 1 == 1) {
                let at = page * PAGE + sector * SECTOR;
                let end = (at + SECTOR).min(self.cached[name].len());
                if let Some(to) = image.get_mut(name).and_then(|file| file.get_mut(at..end)) {
                    to.copy_from_slice(&self.cached[name][at..end]);
                }
            }
        }
        let disk = MemoryDisk::from_image(&image);
        disk.crash(Crash::PowerCut); // another boot: the page cache proves nothing
        let masks: Vec<u8> = (0..self.dirty.len()).map(sectors).collect();
        let rig = try_open(&disk, tiny());
        let rig = rig.unwrap_or_else(|error| panic!("{masks:x?}: refused: {error}"));
        let found = rig.read_all();
        let within = self.written.starts_with(&found) && found.starts_with(&self.durable);
        let ids = rig.ids();
        assert!(within, "{masks:x?} of {:?}: found {ids:?}", self.dirty);
        let hard = rig.log.hard_state();
        // An entry of a later term holds that term, without a vote (hazard A3).
        let by_entry = found.last().is_some_and(|entry| entry.id.term == hard.term);
        let voted = self.votes.contains(&hard) || by_entry && hard.voted_for.node == 0;
        assert!(voted, "{masks:x?}: {hard:?} of {:?}", self.votes);
    }
}

#[test]
fn c9_any_subset_of_unsynced_pages_and_sectors_recovers() {
    let cuts = |at_once| (0..12).map(move |operations| cut_after(operations, at_once));
    let mut most = 0;
    for cut in cuts(false).chain(cuts(true)) {
        let count = cut.dirty.len();
        most = most.max(count);
        assert!(count <= 8, "{count} dirty pages are too many to try all");
        for subset in 0..1_u32 << count {
            cut.check(|nth| if subset >> nth & 1 == 1 { u8::MAX } else { 0 });
        }
    }
    assert_eq!(most, 8);
    // META and three pages, each torn in every way while the others are all there or all not.
    let cut = cut_after(6, false);
    assert_eq!(cut.dirty.len(), 4, "{:?}", cut.dirty);
    for torn in 0..4 {
        for sectors in 1..u8::MAX {
            for others in [0, u8::MAX] {
                cut.check(|nth| if nth == torn { sectors } else { others });
            }
        }
    }
}

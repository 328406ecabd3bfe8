//! What is really on a disk: read back as a node would that starts after a power cut.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::oracle::Oracle;
use super::session_model::{Part, part};
use crate::entry::entries;
use crate::snapshot::SnapshotFolder;
use crate::types::{ClusterId, HardState, LogId, LogIndex, Micros, NodeId, Term};
use crate::wal::{LogIdentity, LogOptions, LogStorage, Medium, Memory, MemoryDisk};

/// One entry: the hash covers it and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) term: Term,
    pub(crate) hash: u64,
    pub(crate) time_us: Micros,
    /// Hash of the payload, if it is a command; in a session, of the command alone.
    pub(crate) command: Option<u64>,
    pub(crate) part: Part,
}

/// A whole log. The entry with index 1 is the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain(Vec<Item>);

impl Chain {
    pub(crate) fn last(&self) -> LogIndex {
        self.0.len() as LogIndex
    }

    pub(crate) fn at(&self, index: LogIndex) -> Option<&Item> {
        self.0.get((index as usize).checked_sub(1)?)
    }

    pub(crate) fn hash_at(&self, index: LogIndex) -> Option<u64> {
        self.at(index).map(|item| item.hash)
    }

    /// These entries, with their places.
    pub(crate) fn part(&self, range: RangeInclusive<LogIndex>) -> Vec<(LogIndex, Item)> {
        range
            .filter_map(|index| Some((index, *self.at(index)?)))
            .collect()
    }

    /// Drops what comes after this entry.
    pub(crate) fn cut(&mut self, last: LogIndex) {
        self.0.truncate(last as usize);
    }

    pub(crate) fn push(&mut self, item: Item) {
        self.0.push(item);
    }

    /// Whether something before the log's start is not known from earlier.
    pub(crate) fn lacks(&self, start: LogId) -> bool {
        start.index > 0 && self.at(start.index).map(|item| item.term) != Some(start.term)
    }

    /// These are the entries before the log's start.
    pub(crate) fn begin_with(&mut self, items: Vec<Item>) {
        self.0 = items;
    }

    /// Takes over what changed in `log` since the last time. Returns the first index that is new.
    pub(crate) fn follow<M: Medium>(&mut self, log: &LogStorage<M>) -> Result<LogIndex, String> {
        let last = log.last().index;
        // Terms never fall along a log, so where the runs of terms agree nothing was dropped.
        let runs = log.term_runs();
        let mut nth = runs.len();
        let mut keep = self.last().min(last);
        while keep > log.snapshot().index {
            while nth > 0 && runs.get(nth - 1).is_some_and(|run| run.index > keep) {
                nth -= 1;
            }
            let term = nth.checked_sub(1).and_then(|nth| runs.get(nth));
            if term.map(|run| run.term) == self.at(keep).map(|item| item.term) {
                break;
            }
            keep -= 1;
        }
        self.0.truncate(keep as usize);
        self.extend(log, last)?;
        Ok(keep + 1)
    }

    fn extend<M: Medium>(&mut self, log: &LogStorage<M>, last: LogIndex) -> Result<(), String> {
        while self.last() < last {
            let read = log.read(self.last() + 1, last, 1 << 20);
            let read = read.map_err(|error| format!("a log cannot be read: {error}"))?;
            for entry in read.runs.into_iter().flat_map(entries) {
                let entry = entry.map_err(|error| format!("a log holds a bad entry: {error}"))?;
                if entry.id.index != self.last() + 1 {
                    return Err(format!("entry {} follows {}", entry.id.index, self.last()));
                }
                let before = self.hash_at(self.last()).unwrap_or_default();
                let payload = xxhash_rust::xxh3::xxh3_64(&entry.payload);
                let (part, command) = part(&entry);
                let place = [
                    before,
                    entry.id.term,
                    entry.time_us,
                    entry.kind as u64,
                    payload,
                ];
                let place: Vec<u8> = place.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.push(Item {
                    term: entry.id.term,
                    hash: xxhash_rust::xxh3::xxh3_64(&place),
                    time_us: entry.time_us,
                    command,
                    part,
                });
            }
        }
        Ok(())
    }
}

/// What a power cut now would leave of a replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) hard: HardState,
    pub(crate) chain: Chain,
    /// The log is under repair.
    pub(crate) repairing: bool,
}

impl Image {
    /// Whether something of `before` is gone: entries, or term and vote.
    pub(crate) fn lacks_of(&self, before: &Self) -> bool {
        let last = before.chain.last();
        let (now, then) = (self.hard, before.hard);
        let forgot = now.term < then.term || now.term == then.term && now != then;
        self.chain.hash_at(last) != before.chain.hash_at(last) || forgot
    }

    /// Whether something is here that `before` does not have.
    pub(crate) fn exceeds(&self, before: &Self) -> bool {
        let last = self.chain.last();
        self.chain.hash_at(last) != before.chain.hash_at(last) || self.hard.term > before.hard.term
    }
}

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(crate) fn identity(node: NodeId) -> LogIdentity {
    LogIdentity {
        cluster: CLUSTER,
        node,
    }
}

/// Small segments, so that some hundred entries rotate them, and little stays mapped. What is
/// ready must hold two of the largest entries beyond the reserve, or proposals wait for ever.
pub(crate) fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes: 256 << 10,
        max_entry_bytes: 8 << 10,
        early_close_bytes: 32 << 10,
        ready_window_bytes: 224 << 10,
        hot_bytes: 200 << 10,
        ..LogOptions::default()
    }
}

/// The log that a power cut now would leave.
fn after_power_cut(disk: &MemoryDisk, node: NodeId) -> Result<LogStorage<Memory>, String> {
    // Nothing is prepared for a log that nobody writes to.
    let medium = Memory::stepped(&disk.after_power_cut(), Arc::new(|_| {}));
    let log = LogStorage::open_checked(medium, identity(node), log_options());
    log.map_err(|error| format!("S20: what is durable does not open: {error}"))
}

/// Reads what is durable on `disk`, which may be in use.
pub(crate) fn durable(disk: &MemoryDisk, node: NodeId, oracle: &Oracle) -> Result<Image, String> {
    let log = after_power_cut(disk, node)?;
    let mut image = Image {
        hard: log.hard_state(),
        repairing: log.repairing().is_some(),
        ..Image::default()
    };
    let start = log.snapshot();
    if image.chain.lacks(start) {
        image.chain.begin_with(oracle.prefix(start)?);
    }
    image.chain.follow(&log)?;
    check_snapshot(&log, oracle)?;
    Ok(image)
}

/// S18: whether what is durable on `disk` is a place to start from without these snapshots.
pub(crate) fn starts_without(
    disk: &MemoryDisk,
    node: NodeId,
    removed: &[LogId],
) -> Result<(), String> {
    let log = after_power_cut(disk, node)?;
    let folder = SnapshotFolder::new(log.files());
    for last in removed {
        // One that is gone already is missed by nobody.
        let _ = folder.remove(*last);
    }
    let fits = |last: LogId| log.term(last.index) == Some(last.term);
    let chosen = folder.choose(log.snapshot(), fits, |_| Ok(()));
    chosen.map(|_| ()).map_err(|why| format!("S18: {why}"))
}

/// S18: what a node would start from says what the cluster applied, and covers the log's start.
fn check_snapshot(log: &LogStorage<Memory>, oracle: &Oracle) -> Result<(), String> {
    let fits = |last: LogId| log.term(last.index) == Some(last.term);
    let mut head = None;
    let chosen = SnapshotFolder::new(log.files()).choose(log.snapshot(), fits, |mut file| {
        let read = std::io::copy(&mut file, &mut std::io::sink());
        read.map_err(|error| error.to_string())?;
        if !file.is_read() {
            return Err("it does not end where its state does".to_owned());
        }
        head = Some(file.head);
        Ok(())
    });
    chosen.map_err(|why| format!("S18: {why}"))?;
    head.map_or(Ok(()), |head| oracle.snapshot(&head))
}

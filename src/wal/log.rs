//! [`LogStorage`]: what is in the log, and what can be asked of it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::flush::Flight;
use super::index::SegmentIndex;
use super::layout::MetaSlot;
use super::map::Mapping;
use super::medium::{Files, Medium};
use super::prepare::{Free, Order, Prepared};
use super::room::Disk;
use super::tail::{Chain, Tail};
use super::trim::Trim;
use super::{LogCounters, LogOptions};
use crate::entry::frame_len;
use crate::types::{Entry, HardState, Incarnation, LogId, LogIndex, Micros, WriteId};

/// One live segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u64,
    pub(crate) name: String,
    pub(crate) size: u32,
    /// The last entry before this segment.
    pub(crate) base: LogId,
    /// While it is hot.
    pub(crate) map: Option<Arc<Mapping>>,
    /// Whether readers still hold bytes after it has cooled down.
    pub(crate) pinned: Weak<Mapping>,
    pub(crate) index: SegmentIndex,
}

impl Segment {
    pub(crate) fn mapped(seq: u64, name: String, base: LogId, map: &Arc<Mapping>) -> Self {
        Self {
            seq,
            name,
            size: map.len() as u32,
            base,
            map: Some(Arc::clone(map)),
            pinned: Arc::downgrade(map),
            index: SegmentIndex::default(),
        }
    }
}

/// The log of one replica: entries, term, vote and log start.
///
/// A synchronous struct for one owner. Nothing here waits for the disk but [`open`](Self::open),
/// [`close`](Self::close) and reads of cold segments: [`write`](Self::write) copies into memory
/// that was made ready before, [`pump`](Self::pump) hands work to the medium's lanes, and
/// [`handle`](Self::handle) takes what comes back. Dropping it without `close` is like killing the
/// process.
pub struct LogStorage<M: Medium> {
    pub(super) medium: M,
    pub(super) files: Arc<M::Files>,
    pub(super) options: LogOptions,
    pub(super) meta: MetaSlot,
    /// META as it is differs from META as it is on disk or in flight.
    pub(super) meta_dirty: bool,
    /// The founder was named and is not durable: the entries of that write wait for it.
    pub(super) founding: bool,
    /// All live segments, oldest first; never empty.
    pub(super) segments: VecDeque<Segment>,
    /// Those with bytes that are not yet durable, and the current one; never empty.
    pub(super) tails: VecDeque<Tail>,
    pub(super) next: Option<Prepared>,
    pub(super) order: Option<Order>,
    /// Free segment files of the right size.
    pub(super) pool: Vec<Free>,
    /// Segment files that are no longer needed once META says so.
    pub(super) trim: Trim,
    pub(super) next_seq: u64,
    pub(super) chain: Chain,
    /// Room for the checksums of the open batch, used again and again.
    pub(super) crcs: Vec<u8>,
    /// (term, first index) of each run of equal terms.
    pub(super) runs: Vec<LogId>,
    pub(super) last: LogId,
    pub(super) last_time_us: Micros,
    pub(super) recovered_configurations: Vec<Entry>,
    pub(super) flight: Option<Flight>,
    pub(super) flights: u64,
    pub(super) newest_write: WriteId,
    pub(super) durable_write: WriteId,
    /// Highest index known durable.
    pub(super) durable: LogIndex,
    /// Writes that are not yet durable, and when they came.
    pub(super) ages: VecDeque<(WriteId, Micros)>,
    pub(super) since_hint: u64,
    pub(super) last_write_at: Micros,
    /// A mark was written since the last write.
    pub(super) idle_marked: bool,
    pub(super) told_timeout_ms: u32,
    pub(super) disk_full: bool,
    pub(super) disk: Disk,
    pub(super) poison: Option<String>,
    pub(super) counters: LogCounters,
}

impl<M: Medium> LogStorage<M> {
    /// The files of its directory, where snapshots have their place too.
    pub(crate) fn files(&self) -> &Arc<M::Files> {
        &self.files
    }

    /// Whether [`install_snapshot`](Self::install_snapshot) finds room now.
    pub(crate) fn can_install(&self) -> bool {
        self.next.is_some()
    }

    /// This replica's incarnation: random, drawn when the directory was made.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.meta.log_id)
    }

    /// The founder's incarnation; none while the replica is blank.
    pub fn genesis(&self) -> Incarnation {
        Incarnation(self.meta.genesis)
    }

    /// How often META was updated. Told to peers, so that they notice a directory that was set
    /// back to an old copy (hazard E11).
    pub fn meta_seq(&self) -> u64 {
        self.meta.seq.get()
    }

    /// Term and vote as last written, durable or not.
    pub fn hard_state(&self) -> HardState {
        self.meta.hard_state()
    }

    /// The position before the first entry: what a snapshot covers, or 0.0.
    pub fn snapshot(&self) -> LogId {
        self.meta.start()
    }

    /// The first index that can be read.
    pub fn first_index(&self) -> LogIndex {
        self.meta.start_index.get() + 1
    }

    /// The last entry, or the log start when there is none.
    pub fn last(&self) -> LogId {
        self.last
    }

    /// Log time of the last entry.
    pub fn last_time_us(&self) -> Micros {
        self.last_time_us
    }

    /// For each run of equal terms, its term and first index.
    pub fn term_runs(&self) -> Vec<LogId> {
        self.runs.clone()
    }

    /// The term of an entry, or of the log start; `None` outside of the log.
    pub fn term(&self, index: LogIndex) -> Option<u64> {
        let start = self.snapshot();
        if index == start.index {
            return Some(start.term);
        }
        if index < start.index || index > self.last.index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        Some(self.runs.get(after.checked_sub(1)?)?.term)
    }

    /// Entries of kind configuration that were in the log when it was opened, in order.
    pub fn configurations(&self) -> Vec<Entry> {
        self.recovered_configurations.clone()
    }

    /// A random key of this directory that never leaves it, for secrets derived from it.
    pub fn reset_key(&self) -> [u8; 32] {
        self.meta.reset_key
    }

    /// The largest election timeout, milliseconds, that any earlier start of this replica told to
    /// others: until it has passed, a leader may hold a lease on this replica's word (hazard A9).
    pub fn told_election_timeout_ms(&self) -> u32 {
        self.told_timeout_ms
    }

    /// The highest index that is durable here.
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// When the oldest write that is not yet durable was made, by the `now` given with it.
    pub fn oldest_unsynced(&self) -> Option<Micros> {
        self.ages.front().map(|age| age.1)
    }

    /// Whether a sync job is in flight.
    pub fn syncing(&self) -> bool {
        self.flight.is_some()
    }

    /// Why the log takes nothing more, if it has failed.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// Whether the last try to make a segment met a full disk. It is tried again by itself.
    pub fn disk_full(&self) -> bool {
        self.disk_full
    }

    /// How long it took to write and sync the log data whose event [`handle`](Self::handle) took last;
    /// once, and none if that was no such event.
    pub fn take_sync_time(&mut self) -> Option<Duration> {
        self.disk.sync_took.take()
    }

    /// Whether the disk is full and what is left of the log's own room does not hold any entry: the
    /// largest would be refused.
    pub fn refuses_entries(&self) -> bool {
        self.disk_full && self.ready_bytes() < frame_len(self.options.max_entry_bytes)
    }

    /// What the log has done.
    pub fn counters(&self) -> LogCounters {
        self.counters
    }

    /// Tells the log what is committed. It only serves as evidence at a later recovery; it may be
    /// told late or not at all.
    pub fn note_commit(&mut self, commit: LogIndex) {
        self.chain.commit = self.chain.commit.max(commit);
    }

    /// Bytes of memory that the index takes.
    pub fn index_memory(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| segment.index.memory())
            .sum()
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Live segments, and bytes of entry frames in them.
    pub fn extent(&self) -> (usize, u64) {
        let bytes = self
            .segments
            .iter()
            .map(|segment| segment.index.frame_bytes());
        (self.segments.len(), bytes.sum())
    }

    pub(super) fn take_segment_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    pub(super) fn io_error(&self, what: &str) -> impl FnOnce(io::Error) -> String + use<M> {
        let what = format!("{what} in {}", self.files.place());
        move |error| format!("{what}: {error}")
    }
}

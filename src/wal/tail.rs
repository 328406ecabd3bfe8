//! The end of the log: batches opened, filled and closed, segments sealed and followed.

use std::time::Duration;

use zerocopy::IntoBytes;

use super::layout::{
    BATCH_HEADER, BatchFacts, BatchHeader, BatchKind, Lsn, SegmentHeader, SegmentStart,
};
use super::log::{LogStorage, Segment};
use super::map::Writer;
use super::medium::{Event, Files, Lane, Medium, MediumEvent};
use super::prepare::Prepared;
use crate::entry::EntryHeader;
use crate::types::{LogIndex, Micros, WriteId};

/// How long after the last write a log counts as idle, microseconds.
const IDLE: Micros = 1_000_000;

/// A segment that is being written, or whose end is not yet durable.
pub(crate) struct Tail {
    pub(crate) seq: u64,
    pub(crate) name: String,
    pub(crate) writer: Writer,
    pub(crate) unit: u32,
    pub(crate) size: u32,
    /// Where the next byte goes.
    pub(crate) at: u32,
    /// End of the last closed batch.
    pub(crate) closed: u32,
    /// Durable up to here.
    pub(crate) synced: u32,
    /// Writable without a fault up to here.
    pub(crate) warm: u32,
    pub(crate) warming: bool,
    /// The segment header, until the segment before it is durable.
    pub(crate) head: Option<SegmentHeader>,
    pub(crate) open: Option<OpenBatch>,
    pub(crate) sealed: bool,
    /// The last write that lies wholly at or before this segment's closed end.
    pub(crate) id: WriteId,
    /// The last index likewise.
    pub(crate) last: LogIndex,
}

pub(crate) struct OpenBatch {
    at: u32,
    first: LogIndex,
    truncates: bool,
    count: u32,
    /// The entries' checksums: hashed at once when the batch is closed, which is several times
    /// faster than four bytes at a time.
    crcs: Vec<u8>,
}

impl OpenBatch {
    fn body_start(&self) -> u32 {
        self.at + BATCH_HEADER as u32
    }
}

impl Tail {
    /// The end of what entries may use: the seal has a unit of its own.
    pub(crate) fn limit(&self) -> u32 {
        self.size - self.unit
    }

    fn open_fits(&self, len: usize, early_close: usize) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let body = (self.at - open.body_start()) as usize;
            body < early_close && self.at as usize + len <= self.limit() as usize
        })
    }

    fn new_fits(&self, len: usize) -> bool {
        self.at as usize + BATCH_HEADER + len <= self.limit() as usize
    }
}

/// What runs on over all batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) secret: [u8; 16],
    pub(crate) log_id: [u8; 16],
    /// Number of the last closed batch.
    pub(crate) batch_seq: u64,
    /// Checksum of its header.
    pub(crate) batch_crc: u32,
    /// Everything below this is durable.
    pub(crate) durable: Lsn,
    /// The `synced_upto` of the last closed batch.
    pub(crate) marked: Lsn,
    /// What the node says is committed.
    pub(crate) commit: LogIndex,
}

impl<M: Medium> LogStorage<M> {
    fn tail(&mut self) -> &mut Tail {
        // A log is built with one tail, and the last one is never taken away.
        self.tails.back_mut().expect("a log has a tail")
    }

    /// Opens a batch in the current segment; the caller has seen that it fits.
    fn open_batch(&mut self, truncates: bool) {
        let first = self.last.index + 1;
        let mut crcs = std::mem::take(&mut self.crcs);
        crcs.clear();
        let tail = self.tail();
        let at = tail.at;
        tail.writer.open_header(at as usize);
        tail.at = at + BATCH_HEADER as u32;
        let start = tail.at;
        tail.open = Some(OpenBatch {
            at,
            first,
            truncates,
            count: 0,
            crcs,
        });
        if let Some(segment) = self.segments.back_mut() {
            segment.index.open_piece(first, start);
        }
    }

    /// Makes sure that a batch can be opened. To be called while `last` is still what the batches
    /// so far add up to: a seal and the next segment's header state it.
    pub(super) fn make_truncation_place(&mut self) {
        self.close_batch();
        if !self.tail().new_fits(0) {
            self.rotate();
        }
    }

    /// Begins the batch that drops everything after `last`.
    pub(super) fn open_truncation(&mut self) {
        self.open_batch(true);
    }

    /// Makes sure that a frame of `len` bytes can be put at the end of an open batch.
    #[inline]
    pub(super) fn make_place(&mut self, len: usize) {
        let early_close = self.options.early_close_bytes;
        if self.tail().open_fits(len, early_close) {
            return;
        }
        self.close_batch();
        if !self.tail().new_fits(len) {
            self.rotate();
        }
        self.open_batch(false);
    }

    /// Puts one frame at the end of the open batch. `fill` is called with the writer and the place
    /// of the frame, and must put all of it there.
    #[inline]
    pub(super) fn put_frame(
        &mut self,
        header: &EntryHeader,
        fill: impl FnOnce(&mut Writer, usize),
    ) {
        let (id, len) = (header.id(), header.frame_len() as u32);
        let tail = self.tail();
        let at = tail.at;
        fill(&mut tail.writer, at as usize);
        tail.at = at + len;
        if let Some(open) = &mut tail.open {
            open.count += 1;
            open.crcs.extend_from_slice(&header.crc().to_le_bytes());
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.index.push(id.index, at, len);
        }
        if self.runs.last().is_none_or(|run| run.term != id.term) {
            self.runs.push(id);
        }
        self.last = id;
        self.last_time_us = header.time_us();
        self.counters.entries += 1;
        self.counters.entry_bytes += u64::from(len);
    }

    /// Shows what was put to readers.
    pub(super) fn publish(&mut self) {
        let tail = self.tail();
        tail.writer.publish(tail.at as usize);
    }

    /// Closes the open batch, if there is one. A unit handed to a sync is never stored to again,
    /// so the next batch begins at the next unit.
    pub(super) fn close_batch(&mut self) {
        let Some(open) = self.tail().open.take() else {
            return;
        };
        if open.count == 0
            && let Some(segment) = self.segments.back_mut()
        {
            segment.index.drop_empty_piece();
        }
        let facts = BatchFacts {
            batch_seq: self.chain.batch_seq + 1,
            synced_upto: self.chain.durable,
            first_index: open.first,
            commit_hint: self.chain.commit,
            body_len: self.tail().at - open.body_start(),
            entry_count: open.count,
            body_crc: crc32fast::hash(&open.crcs),
            kind: BatchKind::Entries,
            truncates: open.truncates,
        };
        self.crcs = open.crcs;
        self.finish_batch(open.at, &facts);
    }

    /// A batch without a body.
    pub(super) fn put_bare_batch(&mut self, kind: BatchKind) {
        let facts = BatchFacts {
            batch_seq: self.chain.batch_seq + 1,
            synced_upto: self.chain.durable,
            first_index: self.last.index + 1,
            commit_hint: self.chain.commit,
            body_len: 0,
            entry_count: 0,
            body_crc: 0,
            kind,
            truncates: false,
        };
        let tail = self.tail();
        let at = tail.at;
        tail.writer.open_header(at as usize);
        tail.at += BATCH_HEADER as u32;
        self.finish_batch(at, &facts);
    }

    fn finish_batch(&mut self, at: u32, facts: &BatchFacts) {
        let secret = self.chain.secret;
        let last = self.last.index;
        let tail = self.tail();
        let header = BatchHeader::seal(facts, Lsn::new(tail.seq, at), &secret);
        let mut bytes = [0; BATCH_HEADER];
        bytes.copy_from_slice(header.as_bytes());
        let end = tail.at.next_multiple_of(tail.unit);
        let padding = u64::from(end - tail.at);
        tail.writer.close_header(&bytes, end as usize);
        (tail.at, tail.closed, tail.last) = (end, end, last);
        self.chain.batch_seq = facts.batch_seq;
        self.chain.batch_crc = header.crc();
        self.chain.marked = facts.synced_upto;
        self.counters.batches += 1;
        self.counters.padding_bytes += padding;
    }

    /// Seals the current segment and goes on in the next. Its header waits until the seal is
    /// durable: a valid successor is proof that everything before it was synced.
    fn rotate(&mut self) {
        self.close_batch();
        let Some(next) = self.next.take() else {
            // `write` has checked the room: this cannot be reached without a segment at hand.
            unreachable!("room was checked before");
        };
        let prev_segment = self.tail().seq;
        let prev_end = self.seal();
        let start = SegmentStart {
            reset: false,
            unit: self.files.unit(),
            log_id: self.chain.log_id,
            seq: next.seq,
            size: next.map.len() as u64,
            first_batch_seq: self.chain.batch_seq + 1,
            prev_segment,
            prev_end,
            prev_last: self.last,
            prev_batch_crc: self.chain.batch_crc,
            synced_upto: prev_end,
        };
        self.follow(next, &start);
        self.cool_down();
    }

    /// Ends the current segment; returns where.
    pub(super) fn seal(&mut self) -> Lsn {
        self.close_batch();
        self.put_bare_batch(BatchKind::Seal);
        let tail = self.tail();
        tail.sealed = true;
        let (end, unused) = (Lsn::new(tail.seq, tail.closed), tail.size - tail.closed);
        self.counters.padding_bytes += u64::from(unused);
        end
    }

    /// For an idle log: once a second has passed since the last write and everything is durable,
    /// writes a batch that says so, once. After a crash, fewer bytes are then in doubt. Costs one
    /// sync; takes effect with the next [`pump`](Self::pump).
    pub fn tick(&mut self, now: Micros) {
        self.look_at_room(now);
        let idle = now.saturating_sub(self.last_write_at) >= IDLE;
        if !idle || self.idle_marked || self.poison.is_some() || self.unsynced() {
            return;
        }
        let tail = self.tail();
        let fits = tail.new_fits(0) && tail.at < tail.warm;
        if fits && tail.head.is_none() {
            self.put_bare_batch(BatchKind::Mark);
            self.since_hint = u64::MAX >> 1;
        }
        self.idle_marked = true;
    }

    /// Makes a prepared segment the tail.
    pub(super) fn follow(&mut self, next: Prepared, start: &SegmentStart) {
        let data = 2 * start.unit;
        let Some(writer) = next.map.writer(data as usize, data as usize) else {
            unreachable!("a prepared segment has no writer yet");
        };
        self.segments.push_back(Segment::mapped(
            next.seq,
            next.name.clone(),
            start.prev_last,
            &next.map,
        ));
        self.tails.push_back(Tail {
            seq: next.seq,
            name: next.name,
            writer,
            unit: start.unit,
            size: start.size as u32,
            at: data,
            closed: data,
            synced: data,
            warm: next.warm,
            warming: false,
            head: Some(SegmentHeader::new(start)),
            open: None,
            sealed: false,
            id: 0,
            last: self.last.index,
        });
    }

    /// Unmaps what is beyond `hot_bytes`; readers that still hold bytes keep theirs. On a lane: to
    /// give back a segment's pages takes milliseconds.
    fn cool_down(&mut self) {
        let (mut hot, mut cold) = (0, Vec::new());
        let oldest_tail = self.tails.front().map_or(0, |tail| tail.seq);
        for segment in self.segments.iter_mut().rev() {
            if hot > self.options.hot_bytes && segment.seq < oldest_tail {
                cold.extend(segment.map.take());
            }
            hot += u64::from(segment.size);
        }
        if !cold.is_empty() {
            let task = move || {
                drop(cold);
                MediumEvent(Event::Unmapped)
            };
            self.medium
                .submit(Lane::Prepare, Duration::ZERO, Box::new(task));
        }
    }
}

//! What the log is asked to write.

use bytes::Bytes;
use zerocopy::IntoBytes;

use super::WriteError;
use super::index::LOOSE;
use super::log::LogStorage;
use super::medium::{Files, Medium};
use super::options::{OWN_ENTRIES, RESERVE};
use crate::entry::{EntryBatch, EntryHeader, FRAME_HEADER, frame_len};
use crate::types::{
    EntryKind, HardState, Incarnation, LogId, LogIndex, MAX_TERM, Micros, Term, WriteId,
};

/// One write. Hard state and genesis go into META, which is durable before the entries are; then
/// the truncation; then the entries.
#[derive(Debug)]
pub struct Write<'a> {
    /// Rises by one with each write; the completion of a write covers all before it.
    pub id: WriteId,
    /// The monotonic clock, for the age of what is not yet durable.
    pub now: Micros,
    /// New term or vote.
    pub hard_state: Option<HardState>,
    /// The founder's incarnation, once.
    pub genesis: Option<Incarnation>,
    /// Drops this index and everything after it (Raft paper, section 5.3: a follower's log gives
    /// way to the leader's). Beyond the end it does nothing.
    pub truncate_from: Option<LogIndex>,
    /// What to append.
    pub append: Append<'a>,
}

/// Entries to append.
#[derive(Clone, Copy, Debug)]
pub enum Append<'a> {
    /// Nothing.
    None,
    /// The leader's own: the frames are built in place.
    Entries {
        /// Index of the first.
        first: LogIndex,
        /// Their term.
        term: Term,
        /// The entries. A time below that of the entry before is raised to it.
        entries: &'a [NewEntry],
    },
    /// A follower's: frames that were verified when they came in, copied as they are.
    Frames(&'a EntryBatch),
}

/// An entry that the leader appends.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// What the payload is.
    pub kind: EntryKind,
    /// The leader's log clock.
    pub time_us: Micros,
    /// The payload.
    pub payload: Bytes,
}

impl Write<'_> {
    /// Frame bytes to append, and the largest payload among them.
    fn measure(&self) -> (usize, usize) {
        match self.append {
            Append::None => (0, 0),
            Append::Entries { entries, .. } => entries.iter().fold((0, 0), |(sum, max), entry| {
                let len = entry.payload.len();
                (sum + frame_len(len), max.max(len))
            }),
            // Verified against the node's limit when they came in; the frame bounds the payload.
            Append::Frames(batch) => (batch.len(), 0),
        }
    }

    /// Position of the first entry, if there is any.
    fn first(&self) -> Option<LogId> {
        match self.append {
            Append::Entries {
                first,
                term,
                entries,
            } if !entries.is_empty() => Some(LogId::new(term, first)),
            Append::Frames(batch) if !batch.is_empty() => {
                let term = batch.terms().first().map_or(0, |run| run.term);
                Some(LogId::new(term, batch.first()))
            }
            _ => None,
        }
    }
}

impl<M: Medium> LogStorage<M> {
    /// Takes one write: it can be read when this returns, and is durable when
    /// [`handle`](Self::handle) has returned its id or a later one. Only copies into memory.
    ///
    /// # Errors
    /// [`WriteError`]; nothing of the write was done then.
    pub fn write(&mut self, write: Write<'_>) -> Result<(), WriteError> {
        let cut = self.check(&write)?;
        if let Some(state) = write.hard_state {
            self.meta.set_hard_state(state);
            self.meta_dirty = true;
        }
        if let Some(genesis) = write.genesis {
            self.meta.genesis = genesis.0;
            (self.meta_dirty, self.founding) = (true, true);
        }
        if let Some(from) = cut {
            self.make_truncation_place();
            self.cut_suffix(from);
            self.open_truncation();
        }
        match write.append {
            Append::None => {}
            Append::Entries { term, entries, .. } => self.append_entries(term, entries),
            Append::Frames(batch) => self.append_frames(batch),
        }
        self.note_term();
        self.publish();
        self.note_write(write.id, write.now);
        Ok(())
    }

    pub(super) fn note_write(&mut self, id: WriteId, now: Micros) {
        self.newest_write = id;
        if let Some(tail) = self.tails.back_mut() {
            tail.id = id;
        }
        self.ages.push_back((id, now));
        self.last_write_at = now;
        self.idle_marked = false;
    }

    /// Bytes of entry frames (32 + payload, rounded up to 8, each) that can be appended right now
    /// without waiting. A reserve for a no-op or a configuration comes on top. Grows when an event
    /// of the medium was handled.
    pub fn ready_bytes(&self) -> usize {
        self.room().saturating_sub(RESERVE)
    }

    /// Whether a no-op and a configuration fit right now: the reserve behind
    /// [`ready_bytes`](Self::ready_bytes) is there, or enough of it.
    pub fn has_reserve(&self) -> bool {
        self.room() >= OWN_ENTRIES
    }

    /// What is certain to fit, however it falls into batches and segments.
    pub(super) fn room(&self) -> usize {
        let Some(tail) = self.tails.back() else {
            return 0;
        };
        let end = tail.warm.min(tail.limit());
        let here = self
            .options
            .usable(end.saturating_sub(tail.at) as usize, tail.unit);
        match &self.next {
            Some(next) if tail.warm >= tail.limit() => {
                let unit = self.files.unit();
                let end = next.warm.min((next.map.len() as u32).saturating_sub(unit));
                let there = self
                    .options
                    .usable(end.saturating_sub(2 * unit) as usize, unit);
                // An entry that no longer fits here leaves the rest of this segment empty.
                let waste = frame_len(self.options.max_entry_bytes);
                (here + there).saturating_sub(waste)
            }
            _ => here,
        }
    }

    /// Refuses what cannot be done; returns where to truncate, if anywhere.
    fn check(&self, write: &Write<'_>) -> Result<Option<LogIndex>, WriteError> {
        if let Some(why) = &self.poison {
            return Err(WriteError::Poisoned(why.clone()));
        }
        let cut = write.truncate_from.filter(|&from| from <= self.last.index);
        let (needed, largest) = write.measure();
        let limit = self.options.max_entry_bytes;
        if largest > limit {
            return Err(WriteError::TooLarge {
                len: largest,
                limit,
            });
        }
        self.check_order(write, cut)?;
        let ready = self.room();
        if (cut.is_some() || needed > 0) && needed.max(1) > ready {
            return Err(WriteError::NoRoom { needed, ready });
        }
        Ok(cut)
    }

    fn check_order(&self, write: &Write<'_>, cut: Option<LogIndex>) -> Result<(), WriteError> {
        let out_of_order = |at: LogId, wanted: String| WriteError::OutOfOrder {
            first: at.index,
            term: at.term,
            wanted,
        };
        let start = self.snapshot().index;
        if let Some(from) = cut.filter(|&from| from <= start) {
            let wanted = format!("a truncation above the log start at {start}");
            return Err(out_of_order(LogId::new(0, from), wanted));
        }
        let end = cut.map_or(self.last.index, |from| from - 1);
        let end = LogId::new(self.term(end).unwrap_or(0), end);
        match write.first() {
            Some(first)
                if first.index != end.index + 1
                    || first.term < end.term
                    || first.term > MAX_TERM =>
            {
                Err(out_of_order(first, format!("what follows {end}")))
            }
            _ => Ok(()),
        }
    }

    /// An entry of a term holds that term as well as META does, with no vote. The core has written
    /// the term before; where it has not, META goes with the entry.
    pub(super) fn note_term(&mut self) {
        if self.last.term > self.meta.term.get() {
            // Acknowledged with the entry, so it must outlive a truncation of the entry.
            self.meta_dirty = true;
            self.meta.set_hard_state(HardState {
                term: self.last.term,
                ..HardState::default()
            });
        }
    }

    fn append_entries(&mut self, term: Term, entries: &[NewEntry]) {
        for entry in entries {
            let payload = &entry.payload[..];
            let id = LogId::new(term, self.last.index + 1);
            let time_us = entry.time_us.max(self.last_time_us);
            let header = EntryHeader::seal(id, entry.kind, time_us, payload);
            self.make_place(header.frame_len());
            self.put_frame(&header, |writer, at| {
                writer.put_frame(at, &zerocopy::transmute!(header), payload);
            });
        }
    }

    /// The very bytes that came in, cut anywhere into chunks.
    fn append_frames(&mut self, batch: &EntryBatch) {
        let mut source = Chunks {
            chunks: batch.chunks(),
            at: 0,
        };
        for _ in 0..batch.count() {
            let mut header = [0; FRAME_HEADER];
            let mut filled = 0;
            source.take(FRAME_HEADER, |piece| {
                header[filled..filled + piece.len()].copy_from_slice(piece);
                filled += piece.len();
            });
            let header: EntryHeader = zerocopy::transmute!(header);
            let body = header.frame_len() - FRAME_HEADER;
            self.make_place(header.frame_len());
            self.put_frame(&header, |writer, at| {
                writer.put(at, header.as_bytes());
                let mut at = at + FRAME_HEADER;
                source.take(body, |piece| {
                    writer.put(at, piece);
                    at += piece.len();
                });
            });
        }
    }

    /// Drops `from` and everything after it from what can be read. The bytes stay where they are:
    /// readers may hold them, and the batch that says so is yet to be written.
    fn cut_suffix(&mut self, from: LogIndex) {
        for nth in (0..self.segments.len()).rev() {
            let at = self.offset_of(nth, from);
            let Some(segment) = self.segments.get_mut(nth) else {
                continue;
            };
            match segment.index.range() {
                Some((first, _)) if first < from => {
                    // A place that cannot be read must not keep what is to go.
                    segment.index.truncate(from, at.unwrap_or(LOOSE));
                    break;
                }
                Some(_) => segment.index.truncate(from, 0),
                None => {}
            }
        }
        let keep = self.runs.partition_point(|run| run.index < from);
        self.runs.truncate(keep);
        let index = from - 1;
        self.last = LogId::new(self.term(index).unwrap_or(0), index);
        // Log time must never fall. Where that of the new end cannot be read, the one of the old
        // end, which is no earlier, does as well.
        if let Ok(Some(time_us)) = self.time_of(index) {
            self.last_time_us = time_us;
        }
        self.durable = self.durable.min(index);
        if let Some(flight) = &mut self.flight {
            flight.last = flight.last.min(index);
        }
        for tail in &mut self.tails {
            tail.last = tail.last.min(index);
        }
    }
}

/// Walks chunks whose edges fall anywhere.
struct Chunks<'a> {
    chunks: &'a [Bytes],
    at: usize,
}

impl Chunks<'_> {
    fn take(&mut self, mut len: usize, mut each: impl FnMut(&[u8])) {
        while len > 0 {
            let Some((chunk, rest)) = self.chunks.split_first() else {
                return;
            };
            let piece = (chunk.len() - self.at).min(len);
            each(&chunk[self.at..self.at + piece]);
            self.at += piece;
            len -= piece;
            if self.at == chunk.len() {
                (self.chunks, self.at) = (rest, 0);
            }
        }
    }
}

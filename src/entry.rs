//! The entry frame: the same bytes on the wire and on disk.
//!
//! ```text
//! off size field
//!   0    4 crc-32 over [4 .. 32 + len)
//!   4    4 len of the payload
//!   8    8 index
//!  16    6 term
//!  22    1 kind
//!  23    1 flags, 0
//!  24    8 log time, microseconds
//!  32  len payload, then zeros up to a multiple of 8
//! ```
//! Integers are little-endian. The leader computes the checksum once; every other node verifies it
//! and stores the very same bytes, so damage on the leader is caught and never checksummed anew.

use bytes::{Bytes, BytesMut};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::types::{Entry, EntryKind, LogId, LogIndex, MAX_TERM, Micros, Term};

/// Bytes of a frame before its payload.
pub const FRAME_HEADER: usize = 32;

/// Payloads of up to this many bytes are checksummed together with their header.
const SHORT: usize = 128;

/// The fixed part of an entry frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EntryHeader {
    crc: U32,
    len: U32,
    index: U64,
    term: [u8; 6],
    kind: u8,
    flags: u8,
    time_us: U64,
}

const _: () = assert!(size_of::<EntryHeader>() == FRAME_HEADER);

/// Bytes of the whole frame of an entry with `payload_len` bytes of payload.
pub const fn frame_len(payload_len: usize) -> usize {
    FRAME_HEADER + payload_len.next_multiple_of(8)
}

/// Why bytes are not the entry frames that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is longer than allowed.
    #[error("an entry of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// What the header says.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The bytes end inside a frame, or after it there are some left.
    #[error("the frame's length does not fit the bytes around it")]
    Length,
    /// The checksum does not match.
    #[error("the checksum of entry {index} does not match")]
    Checksum {
        /// What the (damaged) header says.
        index: LogIndex,
    },
    /// Padding or flags are not zero.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A kind this version does not know.
    #[error("unknown entry kind {0}: written by a newer version")]
    UnknownKind(u8),
    /// Index, term or time do not continue the entry before.
    #[error("the entry does not continue the one before it")]
    Order,
}

impl EntryHeader {
    /// The header of an entry, checksum included.
    pub fn seal(id: LogId, kind: EntryKind, time_us: Micros, payload: &[u8]) -> Self {
        debug_assert!(id.term <= MAX_TERM);
        let mut term = [0; 6];
        term.copy_from_slice(&id.term.to_le_bytes()[..6]);
        let mut header = Self {
            crc: U32::ZERO,
            len: U32::new(payload.len() as u32),
            index: U64::new(id.index),
            term,
            kind: kind as u8,
            flags: 0,
            time_us: U64::new(time_us),
        };
        header.crc = U32::new(header.crc_with(payload));
        header
    }

    /// The checksum over all of this header but the checksum itself, and the payload.
    fn crc_with(&self, payload: &[u8]) -> u32 {
        let head = &self.as_bytes()[4..];
        if payload.len() > SHORT {
            let mut crc = crc32fast::Hasher::new();
            crc.update(head);
            crc.update(payload);
            return crc.finalize();
        }
        // One call for both: what a call costs beside the bytes is most of it for a small command.
        let mut bytes = [0; FRAME_HEADER - 4 + SHORT];
        let (of_head, rest) = bytes.split_at_mut(head.len());
        of_head.copy_from_slice(head);
        rest[..payload.len()].copy_from_slice(payload);
        crc32fast::hash(&bytes[..head.len() + payload.len()])
    }

    /// Position of the entry.
    pub fn id(&self) -> LogId {
        let mut term = [0; 8];
        term[..6].copy_from_slice(&self.term);
        LogId::new(Term::from_le_bytes(term), self.index.get())
    }

    /// Payload bytes.
    pub fn payload_len(&self) -> usize {
        self.len.get() as usize
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> usize {
        frame_len(self.payload_len())
    }

    /// The stored checksum; batches are checksummed over these.
    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    /// Log time.
    pub fn time_us(&self) -> Micros {
        self.time_us.get()
    }

    /// The kind, or the unknown number.
    pub fn kind(&self) -> Result<EntryKind, FrameError> {
        EntryKind::from_u8(self.kind).ok_or(FrameError::UnknownKind(self.kind))
    }

    fn checked(&self, limit: usize) -> Result<(), FrameError> {
        let len = self.payload_len();
        if len > limit {
            return Err(FrameError::TooLarge { len, limit });
        }
        Ok(())
    }
}

/// Verifies the first frame of `bytes` and returns its header; the frame takes
/// [`EntryHeader::frame_len`] bytes.
///
/// # Errors
/// Anything of [`FrameError`] but `Order`: continuity is for the caller, who knows what came before.
pub fn verify_frame(bytes: &[u8], limit: usize) -> Result<EntryHeader, FrameError> {
    let (header, rest) = EntryHeader::read_from_prefix(bytes).map_err(|_| FrameError::Length)?;
    header.checked(limit)?;
    let len = header.payload_len();
    let padded = len.next_multiple_of(8);
    if rest.len() < padded {
        return Err(FrameError::Length);
    }
    if crc32fast::hash(&bytes[4..FRAME_HEADER + len]) != header.crc() {
        return Err(FrameError::Checksum {
            index: header.index.get(),
        });
    }
    if rest[len..padded].iter().any(|&byte| byte != 0) || header.flags != 0 {
        return Err(FrameError::Reserved);
    }
    header.kind()?;
    Ok(header)
}

/// The entries of a run: contiguous whole frames that were verified when they were written or
/// received. Only their structure is checked again, so that a wrong slice ends as an error.
pub fn entries(run: Bytes) -> impl Iterator<Item = Result<Entry, FrameError>> {
    let mut rest = run;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let next = split_entry(&mut rest);
        if next.is_err() {
            rest.clear();
        }
        Some(next)
    })
}

fn split_entry(rest: &mut Bytes) -> Result<Entry, FrameError> {
    let (header, _) = EntryHeader::read_from_prefix(rest).map_err(|_| FrameError::Length)?;
    let len = header.payload_len();
    if rest.len() < header.frame_len() {
        return Err(FrameError::Length);
    }
    let mut frame = rest.split_to(header.frame_len());
    frame.truncate(FRAME_HEADER + len);
    let payload = frame.split_off(FRAME_HEADER);
    Ok(Entry {
        id: header.id(),
        kind: header.kind()?,
        time_us: header.time_us(),
        payload,
    })
}

/// Builds the frame of one entry in memory (founding, tests; the log builds frames in place).
pub fn frame(id: LogId, kind: EntryKind, time_us: Micros, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::zeroed(frame_len(payload.len()));
    bytes[..FRAME_HEADER].copy_from_slice(EntryHeader::seal(id, kind, time_us, payload).as_bytes());
    bytes[FRAME_HEADER..FRAME_HEADER + payload.len()].copy_from_slice(payload);
    bytes.freeze()
}

/// Verified entries in the chunks in which they came from the network (edges anywhere), with what
/// the core needs to know of them. Nothing of the payloads is decoded.
#[derive(Clone, Debug, Default)]
pub struct EntryBatch {
    chunks: Vec<Bytes>,
    bytes: usize,
    first: LogIndex,
    count: u32,
    terms: Vec<LogId>,
    last_time_us: Micros,
    configurations: Vec<Entry>,
}

impl EntryBatch {
    /// Verifies `count` entries that follow `prev`, spread over `chunks` with no byte left over.
    ///
    /// # Errors
    /// The first thing wrong with them, see [`FrameError`].
    pub fn verify(
        chunks: Vec<Bytes>,
        prev: LogId,
        count: u32,
        max_entry: usize,
    ) -> Result<Self, FrameError> {
        let bytes = chunks.iter().map(Bytes::len).sum();
        let mut batch = Self {
            bytes,
            first: prev.index + 1,
            count,
            ..Self::default()
        };
        let mut cursor = Cursor {
            chunks: &chunks,
            at: 0,
        };
        let (mut last, mut left) = (prev, bytes);
        for _ in 0..count {
            let (header, payload) = cursor.frame(&mut left, max_entry)?;
            let id = header.id();
            let in_order = id.index == last.index + 1
                && id.term >= last.term
                && header.time_us() >= batch.last_time_us;
            if !in_order {
                return Err(FrameError::Order);
            }
            batch.note(&header, payload)?;
            last = id;
        }
        if left != 0 {
            return Err(FrameError::Length);
        }
        batch.chunks = chunks;
        Ok(batch)
    }

    fn note(&mut self, header: &EntryHeader, payload: Option<Bytes>) -> Result<(), FrameError> {
        let id = header.id();
        if self.terms.last().is_none_or(|run| run.term != id.term) {
            self.terms.push(id);
        }
        self.last_time_us = header.time_us();
        if let Some(payload) = payload {
            let (kind, time_us) = (header.kind()?, header.time_us());
            self.configurations.push(Entry {
                id,
                kind,
                time_us,
                payload,
            });
        }
        Ok(())
    }

    /// Without the entries below `from`, which must be within the batch or one past its end.
    pub fn suffix(mut self, from: LogIndex) -> Self {
        let skip = from.saturating_sub(self.first).min(u64::from(self.count)) as u32;
        if skip == 0 {
            return self;
        }
        let mut cursor = Cursor {
            chunks: &self.chunks,
            at: 0,
        };
        let mut cut = 0;
        for _ in 0..skip {
            let header = cursor.header();
            let body = header.frame_len() - FRAME_HEADER;
            cursor.take(body, |_| ());
            cut += header.frame_len();
        }
        self.bytes -= cut;
        drop_front(&mut self.chunks, cut);
        let first = self.first + u64::from(skip);
        self.first = first;
        self.count -= skip;
        let running = self.terms.iter().rposition(|run| run.index <= first);
        if let Some(running) = running {
            self.terms.drain(..running);
            self.terms[0].index = first;
        }
        self.configurations.retain(|entry| entry.id.index >= first);
        self
    }

    /// The chunks, in order; together they are whole frames.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Bytes of all frames.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Index of the first entry.
    pub fn first(&self) -> LogIndex {
        self.first
    }

    /// How many entries.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Index of the last entry; `first - 1` when empty.
    pub fn last_index(&self) -> LogIndex {
        self.first + u64::from(self.count) - 1
    }

    /// For each run of equal terms, its term and first index.
    pub fn terms(&self) -> &[LogId] {
        &self.terms
    }

    /// Log time of the last entry.
    pub fn last_time_us(&self) -> Micros {
        self.last_time_us
    }

    /// The entries of kind [`EntryKind::Configuration`] among them.
    pub fn configurations(&self) -> &[Entry] {
        &self.configurations
    }
}

fn drop_front(chunks: &mut Vec<Bytes>, mut cut: usize) {
    let whole = chunks.iter().take_while(|chunk| {
        let fits = chunk.len() <= cut;
        if fits {
            cut -= chunk.len();
        }
        fits
    });
    let whole = whole.count();
    chunks.drain(..whole);
    if cut > 0 {
        chunks[0] = chunks[0].slice(cut..);
    }
}

/// Walks chunks whose edges fall anywhere. Callers have checked that the bytes are there.
struct Cursor<'a> {
    chunks: &'a [Bytes],
    at: usize,
}

impl Cursor<'_> {
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

    fn header(&mut self) -> EntryHeader {
        let mut bytes = [0; FRAME_HEADER];
        let mut filled = 0;
        self.take(FRAME_HEADER, |piece| {
            bytes[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
        zerocopy::transmute!(bytes)
    }

    /// One frame, in the order of checks: length before use, checksum, padding, kind. The payload
    /// comes back only where the core needs it.
    fn frame(
        &mut self,
        left: &mut usize,
        limit: usize,
    ) -> Result<(EntryHeader, Option<Bytes>), FrameError> {
        if *left < FRAME_HEADER {
            return Err(FrameError::Length);
        }
        let header = self.header();
        header.checked(limit)?;
        *left = left
            .checked_sub(header.frame_len())
            .ok_or(FrameError::Length)?;
        let len = header.payload_len();
        let keep = header.kind == EntryKind::Configuration as u8;
        let mut payload = BytesMut::new();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header.as_bytes()[4..]);
        self.take(len, |piece| {
            crc.update(piece);
            if keep {
                payload.extend_from_slice(piece);
            }
        });
        if crc.finalize() != header.crc() {
            return Err(FrameError::Checksum {
                index: header.index.get(),
            });
        }
        let mut clean = header.flags == 0;
        self.take(len.next_multiple_of(8) - len, |piece| {
            clean &= piece.iter().all(|&byte| byte == 0);
        });
        if !clean {
            return Err(FrameError::Reserved);
        }
        header.kind()?;
        Ok((header, keep.then(|| payload.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn sample() -> Bytes {
        let mut all = BytesMut::new();
        let payloads: [&[u8]; 4] = [b"", b"abc", b"configuration", b"12345678"];
        for (nth, payload) in payloads.into_iter().enumerate() {
            let id = LogId::new(2 + nth as u64 / 2, 5 + nth as u64);
            let kind = [
                EntryKind::Noop,
                EntryKind::Command,
                EntryKind::Configuration,
            ][nth % 3];
            all.extend_from_slice(&frame(id, kind, 100 + nth as u64, payload));
        }
        all.freeze()
    }

    fn verify(chunks: Vec<Bytes>) -> Result<EntryBatch, FrameError> {
        EntryBatch::verify(chunks, LogId::new(1, 4), 4, LIMIT)
    }

    #[test]
    fn j2_an_entry_of_an_unknown_kind_is_refused_not_skipped() {
        let id = LogId::new(3, 7);
        for kind in (0..=u8::MAX).filter(|kind| EntryKind::from_u8(*kind).is_none()) {
            let mut bytes = frame(id, EntryKind::Command, 9, b"from a newer release").to_vec();
            bytes[22] = kind;
            let crc = crc32fast::hash(&bytes[4..FRAME_HEADER + 20]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            let unknown = FrameError::UnknownKind(kind);
            assert_eq!(verify_frame(&bytes, bytes.len()).err(), Some(unknown));
            let chunk = vec![Bytes::from(bytes.clone())];
            let batch = EntryBatch::verify(chunk, LogId::new(3, 6), 1, 100);
            assert_eq!(batch.err(), Some(unknown));
            let mut read = entries(Bytes::from(bytes));
            assert_eq!(read.next(), Some(Err(unknown)));
        }
    }

    #[test]
    fn a_batch_is_the_same_wherever_its_chunks_are_cut() {
        let all = sample();
        let whole = verify(vec![all.clone()]).expect("valid");
        assert_eq!(whole.terms(), [LogId::new(2, 5), LogId::new(3, 7)]);
        assert_eq!(whole.configurations()[0].payload, "configuration");
        for cut in 1..all.len() {
            let parts = verify(vec![all.slice(..cut), all.slice(cut..)]).expect("valid");
            assert_eq!(parts.terms(), whole.terms());
            assert_eq!(parts.configurations(), whole.configurations());
            for from in 5..=9 {
                let tail = parts.clone().suffix(from);
                let bytes: Vec<u8> = tail.chunks().concat();
                let skip = all.len() - bytes.len();
                assert_eq!(bytes, all[skip..]);
                assert_eq!((tail.first(), tail.count()), (from, (9 - from) as u32));
                if from < 9 {
                    let term = if from < 7 { 2 } else { 3 };
                    assert_eq!(tail.terms()[0], LogId::new(term, from));
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let all = sample();
        for bit in 0..all.len() * 8 {
            let mut bytes = all.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            verify(vec![bytes.into()]).expect_err("damaged");
        }
    }

    #[test]
    fn order_and_length_are_checked() {
        let all = sample();
        let wrong_prev = EntryBatch::verify(vec![all.clone()], LogId::new(1, 3), 4, LIMIT);
        assert_eq!(wrong_prev.unwrap_err(), FrameError::Order);
        let later_prev = EntryBatch::verify(vec![all.clone()], LogId::new(3, 4), 4, LIMIT);
        assert_eq!(later_prev.unwrap_err(), FrameError::Order);
        let short = EntryBatch::verify(vec![all.clone()], LogId::new(1, 4), 3, LIMIT);
        assert_eq!(short.unwrap_err(), FrameError::Length);
        for cut in 0..all.len() {
            verify(vec![all.slice(..cut)]).expect_err("cut off");
        }
        let limited = EntryBatch::verify(vec![all], LogId::new(1, 4), 4, 8);
        assert_eq!(
            limited.unwrap_err(),
            FrameError::TooLarge { len: 13, limit: 8 }
        );
    }

    #[test]
    fn a_run_gives_its_entries_back() {
        let read: Vec<Entry> = entries(sample()).collect::<Result<_, _>>().expect("valid");
        assert_eq!(read.len(), 4);
        assert_eq!(read[1].payload, "abc");
        assert_eq!(read[3].id, LogId::new(3, 8));
        let header = verify_frame(&sample(), LIMIT).expect("valid");
        assert_eq!(header.frame_len(), 32);
    }
}

//! Reading: runs of whole frames, without a copy while they are hot.

use std::ops::Range;

use bytes::Bytes;
use zerocopy::FromBytes;

use super::ReadError;
use super::index::{Piece, SegmentIndex};
use super::log::{LogStorage, Segment};
use super::medium::{Files, Medium};
use crate::entry::{EntryHeader, FRAME_HEADER, verify_frame};
use crate::types::{LogIndex, Micros};

/// Largest run handed out, unless a single entry is larger.
const RUN_BYTES: usize = 256 << 10;

/// Entries as they lie in the log.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// Whole frames each, in order. Kept alive by whoever holds them.
    pub runs: Vec<Bytes>,
    /// Index of the last entry; one below the first asked for if there is none.
    pub last: LogIndex,
    /// Bytes of all runs.
    pub bytes: usize,
}

/// A place in a segment: which entry begins there.
#[derive(Clone, Copy)]
struct Place {
    index: LogIndex,
    at: u32,
}

impl<M: Medium> LogStorage<M> {
    /// Reads entries `first..=last`, as many as fit into `max_bytes`, but at least one.
    ///
    /// Hot segments give bytes of the mapping, cold ones are read from their files (which may
    /// block) and checked.
    ///
    /// # Errors
    /// [`ReadError`], also for entries that were never written or are compacted away.
    pub fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        max_bytes: usize,
    ) -> Result<Runs, ReadError> {
        let mut found = Runs {
            last: first.saturating_sub(1),
            ..Runs::default()
        };
        if first > last {
            return Ok(found);
        }
        if first < self.first_index() {
            return Err(ReadError::Compacted {
                wanted: first,
                first: self.first_index(),
            });
        }
        if last > self.last.index {
            return Err(ReadError::Beyond {
                wanted: last,
                last: self.last.index,
            });
        }
        while found.last < last && (found.bytes < max_bytes || found.bytes == 0) {
            let left = max_bytes - found.bytes;
            let Some((run, upto)) = self.next_run(found.last + 1, last, left, found.bytes == 0)?
            else {
                break;
            };
            found.bytes += run.len();
            found.last = upto;
            found.runs.push(run);
        }
        Ok(found)
    }

    /// One run from `index` on, of at most `left` bytes; one entry in any case if `must`.
    fn next_run(
        &self,
        index: LogIndex,
        last: LogIndex,
        left: usize,
        must: bool,
    ) -> Result<Option<(Bytes, LogIndex)>, ReadError> {
        let missing = || ReadError::Beyond {
            wanted: index,
            last: self.last.index,
        };
        let segment = self.segment_of(index).ok_or_else(missing)?;
        let (piece, near) = seek(segment, index).ok_or_else(missing)?;
        let begin = self.walk(segment, &piece, near, |place, _| place.index < index)?;
        let cap = begin.at.saturating_add(left.min(RUN_BYTES) as u32);
        let end = if piece.last() <= last && piece.end <= cap {
            Place {
                index: piece.last() + 1,
                at: piece.end,
            }
        } else {
            // What was cut off may lie behind the piece, and look like a part of it.
            let last = last.min(piece.last());
            let near = self.near_end(segment, &piece, begin, last, cap);
            let fits = |place: Place, next: u32| place.index <= last && next <= cap;
            self.walk(segment, &piece, near, fits)?
        };
        let end = match (end.at > begin.at, must) {
            (true, _) => end,
            (false, false) => return Ok(None),
            (false, true) => self.walk(segment, &piece, begin, |place, _| place.at == begin.at)?,
        };
        let span = begin.at as usize..end.at as usize;
        let run = self.bytes_of(segment, span, begin.index)?;
        Ok(Some((run, end.index - 1)))
    }

    /// The nearest place known before the end of the run that starts at `begin`.
    fn near_end(
        &self,
        segment: &Segment,
        piece: &Piece,
        begin: Place,
        last: LogIndex,
        cap: u32,
    ) -> Place {
        let (index, at) = segment.index.last_mark_below(piece, cap);
        let by_bytes = Place { index, at };
        let by_index = seek(segment, last.min(piece.last())).map(|(_, place)| place);
        let near = match by_index {
            Some(place) if place.index < by_bytes.index => place,
            _ => by_bytes,
        };
        if near.index < begin.index {
            begin
        } else {
            near
        }
    }

    /// Steps from frame to frame within `piece` while `go(place, end of its frame)` says so.
    fn walk(
        &self,
        segment: &Segment,
        piece: &Piece,
        from: Place,
        go: impl Fn(Place, u32) -> bool,
    ) -> Result<Place, ReadError> {
        let mut place = from;
        while place.at < piece.end {
            let header = self.header_at(segment, place)?;
            let next = place.at as u64 + header.frame_len() as u64;
            if header.id().index != place.index || next > u64::from(piece.end) {
                return Err(self.damaged(segment, place));
            }
            if !go(place, next as u32) {
                break;
            }
            place = Place {
                index: place.index + 1,
                at: next as u32,
            };
        }
        Ok(place)
    }

    fn header_at(&self, segment: &Segment, place: Place) -> Result<EntryHeader, ReadError> {
        let at = place.at as usize;
        let span = at..at + FRAME_HEADER;
        if let Some(map) = &segment.map {
            let bytes = map.bytes(span).unwrap_or_default();
            return EntryHeader::read_from_bytes(bytes).map_err(|_| self.damaged(segment, place));
        }
        let mut bytes = [0; FRAME_HEADER];
        self.read_cold(segment, at, &mut bytes)?;
        Ok(zerocopy::transmute!(bytes))
    }

    fn bytes_of(
        &self,
        segment: &Segment,
        span: Range<usize>,
        first: LogIndex,
    ) -> Result<Bytes, ReadError> {
        let place = Place {
            index: first,
            at: span.start as u32,
        };
        if let Some(map) = &segment.map {
            return map.run(span).ok_or_else(|| self.damaged(segment, place));
        }
        let mut bytes = vec![0; span.len()];
        self.read_cold(segment, span.start, &mut bytes)?;
        // What was evicted and read again may have rotted meanwhile (hazard C9).
        let mut place = place;
        while let Some(rest) = bytes.get(place.at as usize - span.start..)
            && !rest.is_empty()
        {
            match verify_frame(rest, rest.len()) {
                Ok(header) if header.id().index == place.index => {
                    place.index += 1;
                    place.at += header.frame_len() as u32;
                }
                _ => return Err(self.damaged(segment, place)),
            }
        }
        Ok(bytes.into())
    }

    fn read_cold(&self, segment: &Segment, at: usize, buf: &mut [u8]) -> Result<(), ReadError> {
        let read = self.files.read(&segment.name, at as u64, buf);
        read.map_err(|source| ReadError::Io {
            file: self.file(segment),
            source,
        })
    }

    fn damaged(&self, segment: &Segment, place: Place) -> ReadError {
        ReadError::Damaged {
            file: self.file(segment),
            offset: u64::from(place.at),
            index: place.index,
        }
    }

    fn file(&self, segment: &Segment) -> String {
        format!("{} in {}", segment.name, self.files.place())
    }

    fn segment_of(&self, index: LogIndex) -> Option<&Segment> {
        let holds = |segment: &&Segment| {
            let range = segment.index.range();
            range.is_some_and(|(first, last)| (first..=last).contains(&index))
        };
        self.segments.iter().rev().find(holds)
    }

    /// Where in segment number `nth` the frame of `index` begins, if it is there.
    pub(super) fn offset_of(&self, nth: usize, index: LogIndex) -> Option<u32> {
        let segment = self.segments.get(nth)?;
        let (piece, near) = seek(segment, index)?;
        let place = self.walk(segment, &piece, near, |place, _| place.index < index);
        place.ok().map(|place| place.at)
    }

    /// Where in segment number `nth` the frame of `index` ends, if it is there.
    pub(super) fn end_of(&self, nth: usize, index: LogIndex) -> Option<u32> {
        let segment = self.segments.get(nth)?;
        let (piece, near) = seek(segment, index)?;
        let place = self.walk(segment, &piece, near, |place, _| place.index <= index);
        place.ok().map(|place| place.at)
    }

    /// The log time of an entry; `None` if the log does not hold it.
    pub(super) fn time_of(&self, index: LogIndex) -> Result<Option<Micros>, ReadError> {
        let Some(segment) = self.segment_of(index) else {
            return Ok(None);
        };
        let Some((piece, near)) = seek(segment, index) else {
            return Ok(None);
        };
        let place = self.walk(segment, &piece, near, |place, _| place.index < index)?;
        let header = self.header_at(segment, place)?;
        Ok(Some(header.time_us()))
    }
}

fn seek(segment: &Segment, index: LogIndex) -> Option<(Piece, Place)> {
    let (piece, near, at) = segment.index.seek(index)?;
    debug_assert!(SegmentIndex::span(&piece).contains(&(at as usize)));
    Some((piece, Place { index: near, at }))
}

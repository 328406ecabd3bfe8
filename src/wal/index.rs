//! From log index to place: what each segment holds.
//!
//! Per batch 24 bytes and per 32 entries 4 bytes. A place is found by the batch, then the nearest
//! mark, then at most 31 steps from frame to frame.

use std::ops::Range;

use crate::types::LogIndex;

/// Entries between marks.
const STRIDE: u64 = 32;

/// The end of a piece that was truncated where its frames were not at hand.
pub(crate) const LOOSE: u32 = u32::MAX;

/// The entries of one batch, or what truncation left of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) first: LogIndex,
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) count: u32,
}

impl Piece {
    pub(crate) fn last(&self) -> LogIndex {
        self.first + u64::from(self.count) - 1
    }
}

/// Where the entries of one segment are. Its indexes are contiguous.
#[derive(Clone, Debug, Default)]
pub(crate) struct SegmentIndex {
    pieces: Vec<Piece>,
    mark_first: LogIndex,
    marks: Vec<u32>,
}

impl SegmentIndex {
    /// First and last index, if there is any entry.
    pub(crate) fn range(&self) -> Option<(LogIndex, LogIndex)> {
        Some((self.pieces.first()?.first, self.pieces.last()?.last()))
    }

    /// Begins a batch whose first frame will be at `start`.
    pub(crate) fn open_piece(&mut self, first: LogIndex, start: u32) {
        self.pieces.push(Piece {
            first,
            start,
            end: start,
            count: 0,
        });
    }

    /// The batch turned out to hold no entry.
    pub(crate) fn drop_empty_piece(&mut self) {
        if self.pieces.last().is_some_and(|piece| piece.count == 0) {
            self.pieces.pop();
        }
    }

    /// Adds the next entry to the open batch.
    #[inline]
    pub(crate) fn push(&mut self, index: LogIndex, at: u32, len: u32) {
        if let Some(piece) = self.pieces.last_mut() {
            piece.end = at + len;
            piece.count += 1;
        }
        if index.is_multiple_of(STRIDE) {
            if self.marks.is_empty() {
                self.mark_first = index;
            }
            self.marks.push(at);
        }
    }

    /// The piece that holds `index`, and the nearest place known at or before it within that
    /// piece: (piece, index there, offset).
    pub(crate) fn seek(&self, index: LogIndex) -> Option<(Piece, LogIndex, u32)> {
        let nth = self.pieces.partition_point(|piece| piece.first <= index);
        let piece = *self.pieces.get(nth.checked_sub(1)?)?;
        if piece.count == 0 || index > piece.last() {
            return None;
        }
        let marked = index / STRIDE * STRIDE;
        let nth = marked.checked_sub(self.mark_first).map(|gap| gap / STRIDE);
        let mark = nth.and_then(|nth| self.marks.get(nth as usize));
        match mark {
            Some(&at) if marked >= piece.first => Some((piece, marked, at)),
            _ => Some((piece, piece.first, piece.start)),
        }
    }

    /// The last place known in `piece` at or below offset `limit`: (index, offset).
    pub(crate) fn last_mark_below(&self, piece: &Piece, limit: u32) -> (LogIndex, u32) {
        let first_mark = piece.first.next_multiple_of(STRIDE);
        let nth = first_mark
            .checked_sub(self.mark_first)
            .map(|gap| (gap / STRIDE) as usize);
        let in_piece = piece
            .last()
            .checked_sub(first_mark)
            .map_or(0, |gap| gap / STRIDE + 1);
        let marks = nth.and_then(|nth| self.marks.get(nth..nth + in_piece as usize));
        let marks = marks.unwrap_or_default();
        match marks.partition_point(|&at| at <= limit).checked_sub(1) {
            Some(below) => (first_mark + below as u64 * STRIDE, marks[below]),
            None => (piece.first, piece.start),
        }
    }

    /// Drops `from` and everything after it; `at` finds the offset of `from` in its piece.
    pub(crate) fn truncate(&mut self, from: LogIndex, at: u32) {
        let keep = self.pieces.partition_point(|piece| piece.first < from);
        self.pieces.truncate(keep);
        if let Some(piece) = self.pieces.last_mut()
            && piece.last() >= from
        {
            piece.count = (from - piece.first) as u32;
            piece.end = at;
        }
        let kept = from.saturating_sub(self.mark_first).div_ceil(STRIDE);
        self.marks.truncate(kept as usize);
    }

    /// The last indexes of pieces whose end is [`LOOSE`].
    pub(crate) fn loose(&self) -> Vec<LogIndex> {
        let loose = self.pieces.iter().filter(|piece| piece.end == LOOSE);
        loose.map(Piece::last).collect()
    }

    /// Says where the piece that ends with `last` ends.
    pub(crate) fn fasten(&mut self, last: LogIndex, at: u32) {
        let found = self
            .pieces
            .iter_mut()
            .find(|piece| piece.end == LOOSE && piece.last() == last);
        if let Some(piece) = found {
            piece.end = at;
        }
    }

    /// Bytes of memory that this takes.
    pub(crate) fn memory(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>() + self.marks.capacity() * size_of::<u32>()
    }

    /// Bytes of the frames between two offsets' pieces, for tests and retention.
    pub(crate) fn frame_bytes(&self) -> u64 {
        let known = self.pieces.iter().filter(|piece| piece.end != LOOSE);
        known.map(|piece| u64::from(piece.end - piece.start)).sum()
    }

    /// Byte range of a piece.
    pub(crate) fn span(piece: &Piece) -> Range<usize> {
        piece.start as usize..piece.end as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> SegmentIndex {
        let mut index = SegmentIndex::default();
        let mut at = 8192;
        for (first, count) in [(10, 5), (15, 100), (115, 1)] {
            index.open_piece(first, at);
            for nth in 0..count {
                index.push(first + nth, at, 40);
                at += 40;
            }
            at = at.next_multiple_of(4096) + 64;
        }
        index
    }

    fn offset_of(index: &SegmentIndex, wanted: LogIndex) -> Option<u32> {
        let (piece, at_index, at) = index.seek(wanted)?;
        let offset = at + (wanted - at_index) as u32 * 40;
        (offset < piece.end).then_some(offset)
    }

    #[test]
    fn every_entry_is_found_and_nothing_else() {
        let index = filled();
        assert_eq!(index.range(), Some((10, 115)));
        assert_eq!(offset_of(&index, 10), Some(8192));
        assert_eq!(offset_of(&index, 14), Some(8192 + 160));
        for wanted in 15..115 {
            let second = 12288 + 64;
            assert_eq!(
                offset_of(&index, wanted),
                Some(second + (wanted as u32 - 15) * 40)
            );
        }
        assert_eq!(offset_of(&index, 9), None);
        assert_eq!(offset_of(&index, 116), None);
    }

    #[test]
    fn truncation_at_every_place_keeps_exactly_the_rest() {
        for from in 10..=116 {
            let mut index = filled();
            let at = offset_of(&index, from).unwrap_or(0);
            index.truncate(from, at);
            for wanted in 9..120 {
                let expected = offset_of(&filled(), wanted).filter(|_| wanted < from);
                assert_eq!(offset_of(&index, wanted), expected, "{wanted} after {from}");
            }
            index.open_piece(from, 60_000);
            for nth in 0..70 {
                index.push(from + nth, 60_000 + nth as u32 * 40, 40);
            }
            for nth in 0..70 {
                assert_eq!(
                    offset_of(&index, from + nth),
                    Some(60_000 + nth as u32 * 40)
                );
            }
        }
    }

    #[test]
    fn the_mark_below_an_offset() {
        let index = filled();
        let (piece, _, _) = index.seek(50).expect("there");
        assert_eq!(
            index.last_mark_below(&piece, piece.start),
            (15, piece.start)
        );
        let at = piece.start + (64 - 15) * 40;
        assert_eq!(index.last_mark_below(&piece, at + 39), (64, at));
        assert_eq!(
            index.last_mark_below(&piece, at - 1),
            (32, piece.start + 17 * 40)
        );
        assert!(index.memory() > 0);
        assert_eq!(index.frame_bytes(), 106 * 40);
    }
}

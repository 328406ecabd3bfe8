//! How bytes stored into a mapping get into the file, where the mapping is not the file itself.
//!
//! Whoever finds the page cache after the process was killed must be able to tell what was whole
//! from what was not. So batches are written in order, each body before its header, and the segment
//! header, which makes the segment part of the log, after all of them. The header of a batch is 64
//! bytes within one page on both sides: such a write is never cut short, so a header in the file
//! says that its body is there too. Until then an earlier life's bytes stand in its place, and those
//! name another segment number.

use std::io;
use std::ops::Range;

use zerocopy::FromBytes;

use super::layout::{BATCH_HEADER, BatchHeader};
use super::map::Mapping;

/// Hands the final bytes of `range`, which begins at a batch or at the segment header and ends at
/// the end of a batch, to `put`, piece by piece.
///
/// # Errors
/// What `put` returns, or if the range is not made of closed batches.
pub(super) fn write_through(
    map: &Mapping,
    range: Range<usize>,
    mut put: impl FnMut(usize, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let data = map.data();
    let mut at = range.start.max(data);
    while at < range.end {
        let end = batch_end(map, at, data / 2)?;
        if end > range.end {
            return Err(not_closed());
        }
        put(at + BATCH_HEADER, closed(map, at + BATCH_HEADER..end)?)?;
        put(at, closed(map, at..at + BATCH_HEADER)?)?;
        at = end;
    }
    if range.start < data {
        put(0, closed(map, 0..data)?)?;
    }
    Ok(())
}

/// Where the batch at `at` ends, padding included: data begin behind two units.
fn batch_end(map: &Mapping, at: usize, unit: usize) -> io::Result<usize> {
    let bytes = closed(map, at..at + BATCH_HEADER)?;
    let header = BatchHeader::read_from_bytes(bytes).map_err(|_| not_closed())?;
    let body = header.body_len.get() as usize;
    Ok((at + BATCH_HEADER + body).next_multiple_of(unit.max(1)))
}

fn closed(map: &Mapping, range: Range<usize>) -> io::Result<&[u8]> {
    map.final_bytes(range).ok_or_else(not_closed)
}

fn not_closed() -> io::Error {
    io::Error::other("bytes to be written are not those of closed batches")
}

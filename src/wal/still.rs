//! A log that no process has open, read without opening it: nothing in its directory is changed.

use bytes::Bytes;

use super::OpenError;
use super::judge::Recovered;
use super::layout::MetaSlot;
use super::medium::Files;
use super::scan::{Live, Reader};
use super::verify::{Verified, add_pending, describe, end_of, survey};
use crate::entry::{EntryHeader, FRAME_HEADER, entries, verify_frame};
use crate::types::{Entry, Incarnation, LogIndex, Term};

/// See the module. Hold the directory's lock as long as this lives.
pub(crate) struct StillLog<'a, F> {
    files: &'a F,
    meta: MetaSlot,
    recovered: Recovered,
    /// What opening would find.
    pub(crate) verified: Verified,
}

impl<'a, F: Files> StillLog<'a, F> {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// What opening would return: the log would be refused.
    pub(crate) fn read(files: &'a F) -> Result<Self, OpenError> {
        let (meta, listing, judge) = survey(files, false)?;
        let mut recovered = judge.examine(&listing)?;
        let end = end_of(&meta, &recovered);
        add_pending(files, &mut recovered)?;
        Ok(Self {
            verified: describe(&meta, &listing, &recovered, end),
            files,
            meta,
            recovered,
        })
    }

    /// The founder's incarnation; none while the replica is blank.
    pub(crate) fn genesis(&self) -> Incarnation {
        Incarnation(self.meta.genesis)
    }

    /// The term of an entry, or of the log start; `None` outside of the log.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        let start = self.verified.start;
        if index <= start.index {
            return (index == start.index).then_some(start.term);
        }
        self.recovered.replay.term(index)
    }

    /// The entries of kind configuration behind the log start, in order.
    pub(crate) fn configurations(&self) -> impl Iterator<Item = &Entry> {
        let start = self.verified.start.index;
        let all = self.recovered.replay.configurations.iter();
        all.filter(move |entry| entry.id.index > start)
    }

    /// Hands out every entry behind `after`, in order, up to the last.
    ///
    /// # Errors
    /// What cannot be read, or what `each` says.
    pub(crate) fn entries_after(
        &self,
        after: LogIndex,
        mut each: impl FnMut(Entry) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut last = after.max(self.verified.start.index);
        let segments = self.recovered.chain.iter();
        for (live, index) in segments.zip(&self.recovered.replay.indexes) {
            let mut reader = Reader::new(self.files, &live.name, live.size);
            while let Some((piece, near, mut at)) = index.seek(last + 1) {
                for index in near..=piece.last() {
                    let frame = frame_at(&mut reader, live, index, at)?;
                    at += frame.len() as u32;
                    if index > last {
                        for entry in entries(frame) {
                            each(entry.map_err(|error| error.to_string())?)?;
                        }
                    }
                }
                last = piece.last();
            }
        }
        let end = self.verified.last.index;
        if last < end {
            return Err(format!("entries {}..={end} cannot be found", last + 1));
        }
        Ok(())
    }
}

/// The whole frame of entry `index`, which begins at `at`; checked once more.
fn frame_at<F: Files>(
    reader: &mut Reader<'_, F>,
    live: &Live,
    index: LogIndex,
    at: u32,
) -> Result<Bytes, String> {
    let place = || format!("entry {index} in {} at {at}", live.name);
    let wrong = |why: String| format!("{}: {why}", place());
    let cut = || format!("{}: the segment ends", place());
    let read = |error: OpenError| wrong(error.to_string());
    let at = at as usize;
    let head = reader.bytes(at..at + FRAME_HEADER).map_err(read)?;
    let head = head.ok_or_else(cut)?;
    let (head, _) = zerocopy::FromBytes::read_from_prefix(head).map_err(|_| cut())?;
    let head: EntryHeader = head;
    let frame = reader.bytes(at..at + head.frame_len()).map_err(read)?;
    let frame = frame.ok_or_else(cut)?;
    let checked = verify_frame(frame, frame.len()).map_err(|error| wrong(error.to_string()))?;
    if checked.id().index != index {
        return Err(wrong(format!("{} stands there", checked.id())));
    }
    Ok(Bytes::copy_from_slice(frame))
}

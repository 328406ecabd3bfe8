//! The front of the log: segments that a snapshot has made superfluous.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::LogFailure;
use super::layout::{Lsn, SegmentStart, parse_name, pool_name};
use super::log::{LogStorage, Segment};
use super::medium::{Event, Files, Lane, Medium, MediumEvent};
use super::prepare::Free;
use crate::types::{LogId, Micros, WriteId};

/// Segments on their way out.
#[derive(Debug, Default)]
pub(crate) struct Trim {
    /// No longer part of the log, but META does not say so durably.
    waiting: Vec<Segment>,
    /// In META's update that is in flight or to come.
    pub(crate) in_meta: bool,
    /// The segment with RESET whose header is not durable: until then the old segments are the log.
    pub(crate) reset: Option<u64>,
}

/// What became of them.
pub(crate) struct Trimmed {
    /// The files that may be used again.
    pooled: Vec<Free>,
}

/// Removes or sets aside the files of segments that nobody reads any more.
fn discard<F: Files>(files: &F, reuse: Vec<Free>, remove: Vec<Free>) -> io::Result<Trimmed> {
    let mut pooled = Vec::new();
    for free in reuse {
        let Some(seq) = parse_name(&free.name, "seg-") else {
            continue;
        };
        let name = pool_name(seq);
        files.rename(&free.name, &name)?;
        // Its pages need not be mapped one by one again.
        let map = free.map.and_then(|map| files.renew(&name, map));
        pooled.push(Free { name, map });
    }
    for free in remove {
        files.remove(&free.name)?;
        // Unmapped here, off the path of appends: that takes a while.
        drop(free.map);
    }
    files.sync_dir()?;
    Ok(Trimmed { pooled })
}

impl<M: Medium> LogStorage<M> {
    /// Moves the log start up to `start`, an entry of this log: a snapshot covers everything up to
    /// it (Raft paper, section 7). Entries up to it can no longer be read; whole segments below it
    /// go once META says so. A start at or below the present one does nothing.
    ///
    /// Takes effect with the next [`pump`](Self::pump).
    ///
    /// # Errors
    /// If `start` is not an entry of this log.
    pub fn compact(&mut self, start: LogId) -> Result<(), super::WriteError> {
        if let Some(why) = &self.poison {
            return Err(super::WriteError::Poisoned(why.clone()));
        }
        if start.index <= self.snapshot().index {
            return Ok(());
        }
        if self.term(start.index) != Some(start.term) {
            return Err(super::WriteError::OutOfOrder {
                first: start.index,
                term: start.term,
                wanted: format!("an entry of this log, which ends at {}", self.last),
            });
        }
        self.meta.set_start(start);
        self.meta_dirty = true;
        self.trim.in_meta = false;
        self.drop_runs_below(start);
        // The entry after a segment must be covered up to the start of the next one: a later
        // truncation may have reached back into it.
        while self.segments.len() > 1
            && self
                .segments
                .get(1)
                .is_some_and(|next| next.base.index <= start.index)
            && self
                .segments
                .front()
                .is_some_and(|first| !self.is_tail(first.seq))
        {
            let Some(segment) = self.segments.pop_front() else {
                break;
            };
            self.trim.waiting.push(segment);
        }
        Ok(())
    }

    /// Begins the log anew behind a snapshot that was received and is durable (Raft paper, figure
    /// 13): everything in the log goes, unless it holds the snapshot's last entry; then only what
    /// the snapshot covers does. Counts as a write: durable when [`handle`](Self::handle) has
    /// returned `id`.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`](super::WriteError::NoRoom) while the next segment is not ready.
    pub fn install_snapshot(
        &mut self,
        id: WriteId,
        now: Micros,
        start: LogId,
    ) -> Result<(), super::WriteError> {
        let held = self.term(start.index) == Some(start.term);
        if held || start.index <= self.snapshot().index {
            self.compact(start)?;
        } else {
            self.begin_anew(start)?;
        }
        self.note_write(id, now);
        Ok(())
    }

    fn begin_anew(&mut self, start: LogId) -> Result<(), super::WriteError> {
        if let Some(why) = &self.poison {
            return Err(super::WriteError::Poisoned(why.clone()));
        }
        let Some(next) = self.next.take() else {
            return Err(super::WriteError::NoRoom {
                needed: 0,
                ready: 0,
            });
        };
        // META goes with the seal's job, the new segment's header with the one after: no crash
        // sees a log that begins behind a snapshot which META does not know.
        let prev_end = self.seal();
        self.meta.set_start(start);
        self.meta_dirty = true;
        self.trim.in_meta = false;
        self.trim.waiting.extend(self.segments.drain(..));
        self.runs.clear();
        (self.last, self.durable) = (start, start.index);
        if let Some(flight) = &mut self.flight {
            flight.last = start.index;
        }
        for tail in &mut self.tails {
            tail.last = start.index;
        }
        self.note_term();
        let header = SegmentStart {
            reset: true,
            unit: self.files.unit(),
            log_id: self.chain.log_id,
            seq: next.seq,
            size: next.map.len() as u64,
            first_batch_seq: self.chain.batch_seq + 1,
            prev_segment: 0,
            prev_end: Lsn::default(),
            prev_last: start,
            prev_batch_crc: 0,
            synced_upto: prev_end,
        };
        self.trim.reset = Some(next.seq);
        self.chain.batch_crc = 0;
        self.follow(next, &header);
        if let Some(tail) = self.tails.back_mut() {
            // Its header is to be written even before there is a batch.
            tail.synced = 0;
        }
        Ok(())
    }

    fn is_tail(&self, seq: u64) -> bool {
        self.tails.iter().any(|tail| tail.seq == seq)
    }

    pub(super) fn drop_runs_below(&mut self, start: LogId) {
        let gone = self.runs.partition_point(|run| run.index <= start.index);
        let Some(running) = gone.checked_sub(1) else {
            return;
        };
        self.runs.drain(..running);
        if let Some(first) = self.runs.first_mut() {
            first.index = start.index + 1;
        }
        if self.last.index <= start.index {
            self.runs.clear();
        } else if let [first, second, ..] = self.runs[..]
            && second.index <= first.index
        {
            self.runs.remove(0);
        }
    }

    /// A job that brought META, or a segment's header, is durable: what is no longer needed can go.
    pub(super) fn start_durable(&mut self, segment: Option<u64>) {
        if segment.is_some() && segment == self.trim.reset {
            self.trim.reset = None;
        }
        let needed = !self.trim.in_meta || self.trim.reset.is_some();
        if self.trim.waiting.is_empty() || needed {
            return;
        }
        let (mut reuse, mut remove) = (Vec::new(), Vec::new());
        for segment in self.trim.waiting.drain(..) {
            let Segment {
                name,
                map,
                pinned,
                size,
                ..
            } = segment;
            // Used again only when nobody reads it: who still reads published bytes keeps them as they
            // are, the file just loses its name.
            let sole = pinned.upgrade().is_none_or(|map| !map.is_read());
            let room = self.pool.len() + reuse.len() < self.options.pool_segments;
            if sole && room && u64::from(size) == self.options.segment_bytes {
                reuse.push(Free { name, map });
            } else {
                remove.push(Free { name, map });
            }
        }
        let files = Arc::clone(&self.files);
        let task = move || MediumEvent(Event::Trimmed(discard(&*files, reuse, remove)));
        self.medium
            .submit(Lane::Prepare, Duration::ZERO, Box::new(task));
    }

    pub(super) fn trimmed(&mut self, result: io::Result<Trimmed>) -> Result<(), LogFailure> {
        match result {
            Ok(trimmed) => {
                self.pool.extend(trimmed.pooled);
                Ok(())
            }
            Err(error) => {
                let why = self.io_error("removing old segments")(error);
                Err(self.fail(why))
            }
        }
    }
}

//! The sync engine: one job in flight, everything that gathers meanwhile goes with the next.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::layout::{HINT_FILE, HintRecord, Lsn, META_SLOT};
use super::log::LogStorage;
use super::map::Mapping;
use super::medium::{Event, Files, Lane, Medium, MediumEvent};
use super::options::SyncPolicy;
use super::{LogFailure, meta};
use crate::types::{LogIndex, WriteId};

/// Refresh HINT after this many synced bytes, and in any case on a mark and at a rotation.
const HINT_EVERY: u64 = 1 << 20;

/// The result of one job.
#[derive(Debug)]
pub(crate) struct FlushDone {
    number: u64,
    /// How long it took.
    took: Duration,
    result: Result<(), String>,
}

/// One job: META first, so that no entry that rests on a term is durable before it, then the log.
struct Job<F> {
    files: Arc<F>,
    policy: SyncPolicy,
    // Boxed, both: most jobs have neither, and a job is moved several times on its way to a lane.
    meta: Option<Box<[u8; META_SLOT]>>,
    range: Option<(String, Arc<Mapping>, Range<usize>)>,
    hint: Option<Box<[u8; META_SLOT]>>,
}

impl<F: Files> Job<F> {
    fn run(&self) -> Result<(), String> {
        let sync = self.policy == SyncPolicy::Sync;
        if let Some(meta) = &self.meta {
            meta::write_both(&*self.files, &meta[..], sync)
                .map_err(|error| format!("META: {error}"))?;
        }
        if let Some((name, map, range)) = &self.range {
            let written = self.files.write_map(name, map, range.clone());
            written.map_err(|error| format!("writing {name}: {error}"))?;
            if sync {
                let synced = self.files.sync_map(name, map, range.clone());
                synced.map_err(|error| format!("syncing {name}: {error}"))?;
            }
        }
        if let Some(hint) = &self.hint {
            // Only a lower bound: an older or torn one is as good.
            let _ = self.files.write(HINT_FILE, 0, &hint[..]);
        }
        Ok(())
    }
}

/// What the job in flight covers.
#[derive(Debug)]
pub(crate) struct Flight {
    number: u64,
    id: WriteId,
    /// Highest index that is durable when it returns.
    pub(crate) last: LogIndex,
    /// The segment and how far into it.
    upto: Option<(u64, u32)>,
    bytes: u64,
    meta: bool,
    outcome: Arc<OnceLock<Result<(), String>>>,
}

impl<M: Medium> LogStorage<M> {
    /// Whether there is anything that is not yet durable.
    pub(super) fn unsynced(&self) -> bool {
        let open = self
            .tails
            .iter()
            .any(|tail| tail.closed > tail.synced || tail.open.is_some());
        open || self.meta_dirty || self.newest_write > self.durable_write
    }

    /// Hands what has gathered to the sync lane, unless a job is in flight. Call it at the end of
    /// every step; it also keeps the memory ahead ready.
    pub fn pump(&mut self) {
        if self.poison.is_some() {
            return;
        }
        self.order_segment(Duration::ZERO);
        self.order_pages();
        if self.flight.is_none() && self.unsynced() {
            let (flight, job) = self.next_job();
            let (number, outcome) = (flight.number, Arc::clone(&flight.outcome));
            self.flight = Some(flight);
            let task = move || {
                let begun = Instant::now();
                let result = job.run();
                let took = begun.elapsed();
                let _ = outcome.set(result.clone());
                let done = FlushDone {
                    number,
                    took,
                    result,
                };
                MediumEvent(Event::Flushed(done))
            };
            self.medium
                .submit(Lane::Sync, Duration::ZERO, Box::new(task));
        }
    }

    fn next_job(&mut self) -> (Flight, Job<M::Files>) {
        if std::mem::take(&mut self.founding) {
            return self.founding_job();
        }
        self.close_batch();
        self.flights += 1;
        let meta = std::mem::take(&mut self.meta_dirty).then(|| Box::new(self.next_meta()));
        let only = self.tails.len() == 1;
        let (id, last) = match self.tails.front() {
            Some(front) if !only => (front.id, front.last),
            _ => (self.newest_write, self.last.index),
        };
        let mut flight = Flight {
            number: self.flights,
            id,
            last,
            upto: None,
            bytes: 0,
            meta: meta.is_some(),
            outcome: Arc::default(),
        };
        let mut range = None;
        if let Some(front) = self.tails.front_mut()
            && front.closed > front.synced
        {
            let mut from = front.synced;
            if let Some(head) = front.head.take() {
                front.writer.put_head(front.unit as usize, head.as_bytes());
                from = 0;
            }
            let span = from as usize..front.closed as usize;
            flight.upto = Some((front.seq, front.closed));
            flight.bytes = span.len() as u64;
            range = Some((front.name.clone(), Arc::clone(front.writer.map()), span));
        }
        let job = Job {
            files: Arc::clone(&self.files),
            policy: self.options.sync,
            meta,
            range,
            hint: self.next_hint(),
        };
        (flight, job)
    }

    /// META alone, the batch stays open: a first entry that outlives a crash without its founder's
    /// name could be completed by nobody (hazard E10).
    fn founding_job(&mut self) -> (Flight, Job<M::Files>) {
        self.flights += 1;
        self.meta_dirty = false;
        let flight = Flight {
            number: self.flights,
            id: self.durable_write,
            last: self.durable,
            upto: None,
            bytes: 0,
            meta: true,
            outcome: Arc::default(),
        };
        let job = Job {
            files: Arc::clone(&self.files),
            policy: self.options.sync,
            meta: Some(Box::new(self.next_meta())),
            range: None,
            hint: None,
        };
        (flight, job)
    }

    /// What is durable before this job, when it is time to write that down.
    fn next_hint(&mut self) -> Option<Box<[u8; META_SLOT]>> {
        if self.options.sync != SyncPolicy::Sync || self.since_hint < HINT_EVERY {
            return None;
        }
        self.since_hint = 0;
        let commit = self.chain.commit.min(self.durable);
        let hint = HintRecord::new(self.chain.log_id, self.chain.durable, commit, false);
        Some(Box::new(hint.to_bytes()))
    }

    /// Takes an event of the medium. `Some(id)`: that write and all before it are durable.
    ///
    /// # Errors
    /// If the log failed, now or earlier. That is final.
    pub fn handle(&mut self, event: MediumEvent) -> Result<Option<WriteId>, LogFailure> {
        if let Some(why) = &self.poison {
            return Err(LogFailure(why.clone()));
        }
        match event.0 {
            Event::Flushed(done) => {
                self.disk.sync_took = self.sync_time(&done);
                self.flushed(done)
            }
            Event::Prepared(result) => self.prepared(result).map(|()| None),
            Event::Warmed(done) => {
                self.warmed(&done);
                Ok(None)
            }
            Event::Trimmed(result) => self.trimmed(result).map(|()| None),
            Event::Room(found) => {
                self.looked_at_room(found);
                Ok(None)
            }
            Event::Unmapped => Ok(None),
        }
    }

    /// How long a job took that has synced log data.
    fn sync_time(&self, done: &FlushDone) -> Option<Duration> {
        let flight = self.flight.as_ref()?;
        let covers = flight.number == done.number && flight.upto.is_some();
        let synced = self.options.sync == SyncPolicy::Sync && done.result.is_ok();
        (covers && synced).then_some(done.took)
    }

    fn flushed(&mut self, done: FlushDone) -> Result<Option<WriteId>, LogFailure> {
        if self
            .flight
            .as_ref()
            .is_none_or(|flight| flight.number != done.number)
        {
            return Ok(None);
        }
        match done.result {
            Ok(()) => Ok(self.land()),
            Err(why) => Err(self.fail(why)),
        }
    }

    /// The job in flight has succeeded.
    fn land(&mut self) -> Option<WriteId> {
        let flight = self.flight.take()?;
        if flight.meta {
            self.counters.meta_updates += 1;
        }
        if let Some((seq, upto)) = flight.upto {
            self.chain.durable = Lsn::new(seq, upto);
            if let Some(tail) = self.tails.iter_mut().find(|tail| tail.seq == seq) {
                tail.synced = upto;
            }
            if self.options.sync == SyncPolicy::Sync {
                self.counters.syncs += 1;
                self.counters.synced_bytes += flight.bytes;
                self.since_hint = self.since_hint.saturating_add(flight.bytes);
            }
        }
        self.start_durable(flight.upto.map(|upto| upto.0));
        let ended = |tail: &super::tail::Tail| tail.sealed && tail.synced == tail.closed;
        if self.tails.len() > 1 && self.tails.front().is_some_and(ended) {
            self.tails.pop_front();
            self.since_hint = HINT_EVERY;
        }
        self.durable = flight.last;
        if flight.id <= self.durable_write {
            return None;
        }
        self.durable_write = flight.id;
        while self.ages.front().is_some_and(|age| age.0 <= flight.id) {
            self.ages.pop_front();
        }
        Some(flight.id)
    }

    /// The log is done for: no write, no sync, nothing is tried again. HINT gets a mark, best
    /// effort, so that the page cache is not trusted after a restart.
    pub(super) fn fail(&mut self, why: String) -> LogFailure {
        tracing::error!(%why, place = self.files.place(), "the log has failed");
        let hint = HintRecord::new(self.chain.log_id, self.chain.durable, 0, true);
        let _ = self.files.write(HINT_FILE, 0, &hint.to_bytes());
        self.poison = Some(why.clone());
        LogFailure(why)
    }

    /// Syncs everything and marks the log as closed cleanly, so that the next open goes on in the
    /// same segment. Blocks.
    ///
    /// # Errors
    /// If the log failed, now or earlier.
    pub fn close(mut self) -> Result<(), LogFailure> {
        self.medium.stop();
        if let Some(why) = &self.poison {
            return Err(LogFailure(why.clone()));
        }
        if let Some(flight) = &self.flight {
            match flight.outcome.get() {
                Some(Ok(())) => _ = self.land(),
                Some(Err(why)) => {
                    let why = why.clone();
                    return Err(self.fail(why));
                }
                None => return Err(self.fail("a sync was dropped".to_owned())),
            }
        }
        while self.unsynced() {
            self.flush_here()?;
        }
        let Some(tail) = self.tails.back() else {
            return Ok(());
        };
        // A segment whose header is not written yet is not part of the log: it has no batch.
        let end = if tail.head.is_some() {
            0
        } else {
            Lsn::new(tail.seq, tail.closed).0
        };
        self.meta.clean_end = end.into();
        self.meta_dirty = true;
        self.flush_here()
    }

    fn flush_here(&mut self) -> Result<(), LogFailure> {
        let (flight, job) = self.next_job();
        self.flight = Some(flight);
        match job.run() {
            Ok(()) => {
                self.land();
                Ok(())
            }
            Err(why) => Err(self.fail(why)),
        }
    }
}

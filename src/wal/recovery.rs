//! Opening a log: what is in it, what was torn off, and what is damaged.
//!
//! Nothing is changed before the damage is classified, and every step can be cut off: the next
//! open starts over and comes to the same result.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::index::SegmentIndex;
use super::judge::{Judge, Recovered};
use super::layout::{HintRecord, Lsn, META_FILE, MetaSlot, pool_name};
use super::log::{LogStorage, Segment};
use super::medium::{Files, Medium};
use super::options::{LogIdentity, LogOptions};
use super::prepare::Free;
use super::rewrite::{self, NewTail};
use super::room::Disk;
use super::scan::{self, Batch, Listing, Live, Reader, Replay};
use super::tail::Chain;
use super::trim::Trim;
use super::{LogCounters, OpenError, ReadError, meta};
use crate::types::{Entry, HardState, Incarnation, LogId};

/// What is known before the segments are read.
pub(super) struct Ground<'a, F> {
    pub(super) files: &'a F,
    pub(super) options: &'a LogOptions,
    pub(super) meta: MetaSlot,
    pub(super) next_seq: u64,
    pub(super) pool: Vec<String>,
}

impl<M: Medium> LogStorage<M> {
    /// Opens the log over `medium`, or makes a new one where there is none. Blocks until recovery
    /// is done and durable.
    ///
    /// # Errors
    /// [`OpenError`]; its text says what to do. Nothing was truncated then.
    pub fn open(medium: M, identity: LogIdentity, options: LogOptions) -> Result<Self, OpenError> {
        options.validate()?;
        Self::open_checked(medium, identity, options)
    }

    /// The same with sizes that only tests use.
    pub(crate) fn open_checked(
        medium: M,
        identity: LogIdentity,
        options: LogOptions,
    ) -> Result<Self, OpenError> {
        options.validate_sizes()?;
        let files = Arc::clone(medium.files());
        let meta = open_meta(&*files, identity)?;
        let judge = Judge::new(&*files, meta, options.distrust_page_cache);
        let listing = scan::list(&*files, &meta.log_id)?;
        let mut recovered = judge.examine(&listing)?;
        if let Some(torn) = &recovered.torn {
            tracing::warn!(
                place = files.place(),
                bytes = torn.bytes,
                what = torn.what,
                "torn tail dropped"
            );
        }
        let mut ground = Ground {
            files: &*files,
            options: &options,
            next_seq: meta.next_segment.get().max(listing.highest + 1),
            pool: usable_pool(&listing, options.segment_bytes),
            meta,
        };
        ground.reuse_dead(&listing)?;
        let tail = ground.settle_tail(&mut recovered)?;
        let told = ground.finish_meta(&recovered)?;
        ground.sweep(&listing, &recovered, &tail)?;
        let Ground {
            meta,
            next_seq,
            pool,
            ..
        } = ground;
        let opened = Opened {
            meta,
            next_seq,
            pool,
            told,
        };
        let mut log = Self::assemble(medium, options, opened, recovered, tail)?;
        log.fasten_loose_ends();
        log.order_segment(Duration::ZERO);
        log.order_pages();
        Ok(log)
    }

    fn assemble(
        medium: M,
        options: LogOptions,
        opened: Opened,
        recovered: Recovered,
        tail: NewTail,
    ) -> Result<Self, OpenError> {
        let files = Arc::clone(medium.files());
        let (meta, start) = (opened.meta, opened.meta.start());
        let Recovered {
            chain,
            mut replay,
            cursor,
            ..
        } = recovered;
        let indexes = std::mem::take(&mut replay.indexes);
        let segments = segments_of(chain, indexes, &tail, start);
        let last = std::cmp::max_by_key(start, replay.last, |id| id.index);
        let above = |entry: &Entry| entry.id.index > start.index;
        replay.configurations.retain(above);
        let chain = Chain {
            secret: meta.secret,
            log_id: meta.log_id,
            batch_seq: cursor.next_seq - 1,
            batch_crc: cursor.crc,
            durable: tail.durable,
            marked: cursor.synced_upto,
            commit: replay.commit,
        };
        let mut log = Self {
            files,
            medium,
            options,
            meta,
            meta_dirty: false,
            founding: false,
            segments,
            next: None,
            order: None,
            pool: opened.pool.into_iter().map(Free::unmapped).collect(),
            trim: Trim::default(),
            next_seq: opened.next_seq,
            chain,
            tails: VecDeque::from([tail.tail]),
            crcs: Vec::new(),
            runs: replay.runs,
            last,
            last_time_us: 0,
            recovered_configurations: replay.configurations,
            flight: None,
            flights: 0,
            newest_write: 0,
            durable_write: 0,
            durable: last.index,
            ages: VecDeque::new(),
            since_hint: 0,
            last_write_at: 0,
            idle_marked: true,
            told_timeout_ms: opened.told,
            disk_full: false,
            disk: Disk::default(),
            poison: None,
            counters: LogCounters::default(),
        };
        log.drop_runs_below(start);
        // A leader that does not know it could stamp an entry with an earlier time.
        let last_time = log.time_of(last.index);
        log.last_time_us = last_time.map_err(unreadable)?.unwrap_or(0);
        Ok(log)
    }

    /// Where truncations cut into a batch, finds the place.
    fn fasten_loose_ends(&mut self) {
        for nth in 0..self.segments.len() {
            let loose = self.segments.get(nth).map(|segment| segment.index.loose());
            for last in loose.unwrap_or_default() {
                let at = self.end_of(nth, last);
                if let (Some(at), Some(segment)) = (at, self.segments.get_mut(nth)) {
                    segment.index.fasten(last, at);
                }
            }
        }
    }
}

fn unreadable(error: ReadError) -> OpenError {
    OpenError::io("the time of the last entry")(std::io::Error::other(error))
}

struct Opened {
    meta: MetaSlot,
    next_seq: u64,
    pool: Vec<String>,
    told: u32,
}

/// The live segments as they are kept in memory; the one that is written on is mapped.
fn segments_of(
    chain: Vec<Live>,
    indexes: Vec<SegmentIndex>,
    tail: &NewTail,
    start: LogId,
) -> VecDeque<Segment> {
    let mut segments: VecDeque<Segment> = VecDeque::new();
    for (live, index) in chain.into_iter().zip(indexes) {
        segments.push_back(Segment {
            seq: live.seq,
            name: live.name,
            size: live.size,
            base: live.header.prev_last(),
            map: None,
            pinned: Weak::new(),
            index,
        });
    }
    let map = tail.tail.writer.map();
    match segments.back_mut() {
        Some(segment) => {
            segment.map = Some(Arc::clone(map));
            segment.pinned = Arc::downgrade(map);
        }
        None => {
            let name = tail.tail.name.clone();
            segments.push_back(Segment::mapped(tail.tail.seq, name, start, map));
        }
    }
    segments
}

/// Reads META and settles it on disk, or makes it for a directory that has none and no segments.
fn open_meta<F: Files>(files: &F, identity: LogIdentity) -> Result<MetaSlot, OpenError> {
    let io = |source| OpenError::Io {
        what: format!("META in {}", files.place()),
        source,
    };
    let names = files.list().map_err(io)?;
    let has_log = names.iter().any(|name| scan::is_segment(name));
    let trouble = if names.iter().any(|name| name == META_FILE) {
        let found = meta::read(files)?;
        if let Some(slot) = found.newest {
            check_owner(files, &slot, identity)?;
            meta::settle(files, &found).map_err(io)?;
            return Ok(slot);
        }
        found.trouble
    } else {
        "the file is missing".to_owned()
    };
    if has_log {
        return Err(OpenError::MetaDamaged {
            file: format!("META in {}", files.place()),
            why: trouble,
        });
    }
    let mut incarnation = Incarnation::NONE;
    files.random(&mut incarnation.0).map_err(io)?;
    let mut slot = MetaSlot::fresh(incarnation, identity.cluster, identity.node);
    files.random(&mut slot.secret).map_err(io)?;
    files.random(&mut slot.reset_key).map_err(io)?;
    slot.seq = 1.into();
    meta::create(files, &slot).map_err(io)?;
    Ok(slot)
}

fn check_owner<F: Files>(
    files: &F,
    slot: &MetaSlot,
    identity: LogIdentity,
) -> Result<(), OpenError> {
    if slot.cluster == identity.cluster.0 && slot.node.get() == identity.node {
        return Ok(());
    }
    Err(OpenError::WrongOwner {
        directory: files.place(),
        node: slot.node.get(),
        cluster: crate::types::ClusterId(slot.cluster),
    })
}

fn usable_pool(listing: &Listing, size: u64) -> Vec<String> {
    let right = listing.pool.iter().filter(|free| free.1 == size);
    right.map(|free| free.0.clone()).collect()
}

impl<F: Files> Ground<'_, F> {
    /// Adds batches of the last segment to the replay.
    pub(super) fn replay_last(
        &self,
        live: &Live,
        batches: &[Batch],
        replay: &mut Replay,
    ) -> Result<(), OpenError> {
        let mut reader = Reader::new(self.files, &live.name, live.size);
        for batch in batches {
            if let Some(body) = reader.bytes(batch.body())? {
                replay.add(batch, body);
            }
        }
        Ok(())
    }

    /// Segments that were prepared and never became part of the log are free: nothing in them is
    /// valid under another number.
    fn reuse_dead(&mut self, listing: &Listing) -> Result<(), OpenError> {
        for (_, name) in &listing.dead {
            let size = self.files.size(name).map_err(OpenError::io(name.clone()))?;
            if size == self.options.segment_bytes {
                self.pool.push(name.clone());
            }
        }
        Ok(())
    }

    /// Makes the segment that the log goes on in, and everything in it durable.
    fn settle_tail(&mut self, recovered: &mut Recovered) -> Result<NewTail, OpenError> {
        let clean = Lsn(self.meta.clean_end.get());
        if let Some(live) = recovered.chain.last().cloned() {
            let end = Lsn::new(live.seq, recovered.end);
            let batches = std::mem::take(&mut recovered.pending);
            let tail = if end == clean && live.header.unit.get() == self.files.unit() {
                self.replay_last(&live, &batches, &mut recovered.replay)?;
                rewrite::resume(self, &live, recovered.end, recovered.replay.last)?
            } else {
                rewrite::copy_unproven(self, recovered, &batches)?
            };
            if self.start_is_known(recovered) {
                return Ok(tail);
            }
        } else if self.meta.start() == LogId::default() {
            return rewrite::first_segment(self);
        }
        rewrite::reset(self, recovered)
    }

    /// Whether the log holds the entry at its start, or follows it. If not, the snapshot does not
    /// fit the log, and the log has to go.
    pub(super) fn start_is_known(&self, recovered: &Recovered) -> bool {
        let start = self.meta.start();
        recovered.replay.term(start.index) == Some(start.term)
            || recovered
                .chain
                .first()
                .is_some_and(|first| first.header.prev_last() == start)
    }

    /// One update of META: who opens, that the log is not clean any more, and the largest election
    /// timeout told. Returns the largest told before.
    fn finish_meta(&mut self, recovered: &Recovered) -> Result<u32, OpenError> {
        let told = self.meta.election_timeout_ms.get();
        let newest_term = recovered.replay.last.term;
        if newest_term > self.meta.term.get() {
            // An entry proves its term; the vote in it, if there was one, was never answered for.
            self.meta.set_hard_state(HardState {
                term: newest_term,
                ..HardState::default()
            });
        }
        self.meta.clean_end = 0.into();
        self.meta.boot_id = self.files.boot_id().unwrap_or_default();
        self.meta.next_segment = self.next_seq.into();
        self.meta.election_timeout_ms = told.max(self.options.election_timeout_min_ms).into();
        self.meta.seq = (self.meta.seq.get() + 1).into();
        let io = OpenError::io(format!("writing META in {}", self.files.place()));
        meta::write_both(self.files, &self.meta.to_bytes(), true).map_err(io)?;
        Ok(told)
    }

    /// Removes files that are not part of the log. A crash loop must not eat a segment a round.
    fn sweep(
        &mut self,
        listing: &Listing,
        recovered: &Recovered,
        tail: &NewTail,
    ) -> Result<(), OpenError> {
        let keep =
            |seq: u64| recovered.chain.iter().any(|live| live.seq == seq) || tail.tail.seq == seq;
        let io = |name: &str| OpenError::io(format!("removing {name} in {}", self.files.place()));
        for live in listing.live.iter().filter(|live| !keep(live.seq)) {
            self.files.remove(&live.name).map_err(io(&live.name))?;
        }
        let dead = listing.dead.iter().map(|(_, name)| name);
        let pooled = listing.pool.iter().map(|(name, _)| name);
        let mut free = Vec::new();
        for name in dead.chain(pooled) {
            // The one that became the tail has another name now.
            let Some(seq) = scan::number(name).filter(|_| self.files.size(name).is_ok()) else {
                continue;
            };
            if free.len() >= self.options.pool_segments || !self.pool.contains(name) {
                self.files.remove(name).map_err(io(name))?;
                continue;
            }
            let pool = pool_name(seq);
            if *name != pool {
                self.files.rename(name, &pool).map_err(io(name))?;
            }
            free.push(pool);
        }
        self.pool = free;
        self.files.sync_dir().map_err(io("old segments"))?;
        let commit = recovered.replay.commit.min(recovered.replay.last.index);
        let hint = HintRecord::new(self.meta.log_id, tail.durable, commit, false);
        // Clears the mark of an earlier failure; now everything that counts was written anew.
        let _ = self
            .files
            .write(super::layout::HINT_FILE, 0, &hint.to_bytes());
        Ok(())
    }
}

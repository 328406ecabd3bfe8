//! Repair of a log that is refused as corrupt: the whole part before the damage is kept, and META
//! says from then on that the log is under repair.
//!
//! A replica with such a log has forgotten entries that it may have acknowledged. So it must not
//! vote, campaign or count before it holds everything that was ever committed with its help, which
//! is what the floor in META is for.
//!
//! Order, each step durable before the next: copies of what stays in place and loses its meaning;
//! META with the flag; the files behind the damage set aside, newest first; a new segment behind
//! the kept part, whose header is the commit point, as in recovery. Before the flag the log is
//! refused as before. After it, it is refused, or opens as one under repair.

use super::judge::Recovered;
use super::layout::{BATCH_HEADER, BatchHeader, HINT_FILE, META_FILE, MetaSlot, pool_name};
use super::log::LogStorage;
use super::medium::{Files, Medium};
use super::recovery::Ground;
use super::rewrite;
use super::scan::{self, Listing, Reader};
use super::verify::{add_pending, survey};
use super::{Damage, LogOptions, OpenError, RepairError, WriteError, meta};
use crate::entry::verify_frame;
use crate::types::{HardState, LogId, LogIndex, Micros, Term, WriteId};

/// What a repair would keep and what it would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairPlan {
    /// Why the log is refused.
    pub damage: Damage,
    /// The last entry that is kept, or the log start.
    pub kept: LogId,
    /// The last index that anything names; above what is kept, all up to it is lost.
    pub lost_upto: LogIndex,
    /// Lowest and highest term among lost entries that can still be read.
    pub lost_terms: Option<(Term, Term)>,
    /// Lost entries that can still be read, and bytes of their batches. They are in the backup.
    pub readable: (u64, u64),
    /// The highest index known to have been committed, from HINT and the batches.
    pub commit: LogIndex,
    /// Files that are set aside under another name.
    pub set_aside: Vec<String>,
    /// Files of which a copy is kept, since they stay in use.
    pub copied: Vec<String>,
}

impl RepairPlan {
    /// The indexes that are lost, as far as anything names them.
    pub fn lost(&self) -> Option<(LogIndex, LogIndex)> {
        let first = self.kept.index + 1;
        (self.lost_upto >= first).then_some((first, self.lost_upto))
    }

    /// Whether entries are lost that are known to have been committed.
    pub fn loses_committed(&self) -> bool {
        self.commit > self.kept.index
    }
}

/// Says what [`repair`] would do. Changes nothing.
///
/// # Errors
/// If the log opens, or is refused for another reason than damage of its entries: without a valid
/// META, or where a file cannot be read, there is nothing to keep.
pub fn plan_repair<F: Files>(files: &F) -> Result<RepairPlan, RepairError> {
    Ok(Damaged::find(files)?.plan)
}

/// Repairs a log as planned. What is set aside and copied keeps its name behind
/// `repair-<stamp>-`, in the same directory. The caller holds the directory's lock.
///
/// # Errors
/// As [`plan_repair`]; also if the log is not as it was planned for, or the operating system
/// refuses something. The log is then refused as before, or is under repair.
pub fn repair<F: Files>(files: &F, plan: &RepairPlan, stamp: &str) -> Result<(), RepairError> {
    let damaged = Damaged::find(files)?;
    let prefix = format!("repair-{stamp}-");
    let names = files.list().map_err(io(files, "reading names"))?;
    if damaged.plan != *plan || names.iter().any(|name| name.starts_with(&prefix)) {
        return Err(RepairError::Changed(files.place()));
    }
    for name in &plan.copied {
        copy(files, name, &format!("{prefix}{name}"))?;
    }
    files.sync_dir().map_err(io(files, "copying"))?;
    Ok(damaged.rebuild(files, &prefix)?)
}

fn io<F: Files>(files: &F, what: &str) -> impl FnOnce(std::io::Error) -> OpenError + use<F> {
    OpenError::io(format!("{what} in {}", files.place()))
}

fn copy<F: Files>(files: &F, from: &str, to: &str) -> Result<(), OpenError> {
    const PIECE: u64 = 1 << 20;
    let failed = || io(files, &format!("copying {from} to {to}"));
    let size = files.size(from).map_err(failed())?;
    // HINT may be empty: it is never synced for its own sake.
    files.write(to, 0, &[]).map_err(failed())?;
    let mut at = 0;
    while at < size {
        let mut piece = vec![0; PIECE.min(size - at) as usize];
        files.read(from, at, &mut piece).map_err(failed())?;
        files.write(to, at, &piece).map_err(failed())?;
        at += piece.len() as u64;
    }
    files.sync(to).map_err(failed())
}

/// A log that was found damaged, and what can be kept of it.
struct Damaged {
    meta: MetaSlot,
    listing: Listing,
    kept: Recovered,
    next_seq: u64,
    plan: RepairPlan,
}

impl Damaged {
    fn find<F: Files>(files: &F) -> Result<Self, RepairError> {
        let (meta, listing, judge) = survey(files, false)?;
        let damage = match judge.examine(&listing) {
            Ok(_) => return Err(RepairError::NotNeeded(files.place())),
            Err(OpenError::Corrupt(damage)) => *damage,
            Err(error) => return Err(error.into()),
        };
        let kept = judge.prefix(&listing)?;
        let reached = judge.reached();
        let mut replayed = judge.prefix(&listing)?;
        add_pending(files, &mut replayed)?;
        let mut last = std::cmp::max_by_key(meta.start(), replayed.replay.last, |id| id.index);
        if replayed.replay.term(meta.start_index.get()) != Some(meta.start_term.get()) {
            // It does not reach the log start, which is then all that is kept.
            last = meta.start();
        }
        let losses = Losses::count(files, &meta, &listing, &kept)?;
        let hinted = judge.hinted_commit();
        let named = [damage.last.unwrap_or(0), hinted, losses.last, last.index];
        let mut copied: Vec<String> = kept.chain.last().iter().map(|it| it.name.clone()).collect();
        copied.push(META_FILE.to_owned());
        if files.size(HINT_FILE).is_ok() {
            copied.push(HINT_FILE.to_owned());
        }
        let plan = RepairPlan {
            damage,
            kept: last,
            lost_upto: named.into_iter().max().unwrap_or(0),
            lost_terms: losses.terms,
            readable: (losses.entries, losses.bytes),
            commit: hinted.max(losses.commit).max(replayed.replay.commit),
            set_aside: losses.files,
            copied,
        };
        let next_seq = meta.next_segment.get().max(listing.highest + 1);
        Ok(Self {
            // Above all that HINT names, so that nothing there speaks against the new segment.
            next_seq: next_seq.max(reached.segment() + 1),
            meta,
            listing,
            kept,
            plan,
        })
    }

    /// Everything from the flag in META on.
    fn rebuild<F: Files>(mut self, files: &F, prefix: &str) -> Result<(), OpenError> {
        let options = LogOptions {
            segment_bytes: self.segment_bytes(),
            ..LogOptions::default()
        };
        let free = self.free_file(files, options.segment_bytes)?;
        self.mark(files)?;
        for name in self.plan.set_aside.iter().rev() {
            files.sync(name).map_err(io(files, name))?;
            let aside = format!("{prefix}{name}");
            files.rename(name, &aside).map_err(io(files, name))?;
            files.sync_dir().map_err(io(files, name))?;
        }
        let mut ground = Ground {
            files,
            options: &options,
            meta: self.meta,
            next_seq: self.next_seq,
            pool: vec![free],
        };
        let batches = std::mem::take(&mut self.kept.pending);
        if let Some(last) = self.kept.chain.last().cloned() {
            rewrite::move_unproven(&mut ground, &last, &mut self.kept, &batches)?;
            if ground.start_is_known(&self.kept) {
                return Ok(());
            }
        }
        rewrite::write_reset(&mut ground, &mut self.kept)?;
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        let newest = self.listing.live.last().map(|live| u64::from(live.size));
        newest.unwrap_or(LogOptions::default().segment_bytes)
    }

    /// Room for the new segment, before anything is changed: a full disk must not stop it half way.
    fn free_file<F: Files>(&mut self, files: &F, size: u64) -> Result<String, OpenError> {
        if let Some((name, _)) = self.listing.pool.iter().find(|free| free.1 == size) {
            return Ok(name.clone());
        }
        let name = pool_name(self.next_seq);
        self.next_seq += 1;
        files
            .allocate(&name, size)
            .map_err(io(files, "making a segment"))?;
        files.sync_dir().map_err(io(files, "making a segment"))?;
        Ok(name)
    }

    /// META with the flag, in both slots. The floor is not known yet: whatever it was before, more
    /// is lost now.
    fn mark<F: Files>(&mut self, files: &F) -> Result<(), OpenError> {
        let failed = || io(files, "writing META");
        let found = meta::read(files)?;
        meta::settle(files, &found).map_err(failed())?;
        let seen = self.plan.lost_terms.map_or(0, |terms| terms.1);
        if seen > self.meta.term.get() {
            // An entry proves its term, also one that is lost.
            self.meta.set_hard_state(HardState {
                term: seen,
                ..HardState::default()
            });
        }
        self.meta.set_repairing(Some(LogId::default()));
        self.meta.clean_end = 0.into();
        // The new segment, and one that the next open makes if this is cut off.
        self.meta.next_segment = (self.next_seq + 2).into();
        self.meta.seq = (self.meta.seq.get() + 1).into();
        meta::write_both(files, &self.meta.to_bytes(), true).map_err(failed())
    }
}

/// What lies behind the part that is kept.
#[derive(Default)]
struct Losses {
    last: LogIndex,
    commit: LogIndex,
    terms: Option<(Term, Term)>,
    entries: u64,
    bytes: u64,
    files: Vec<String>,
}

impl Losses {
    fn count<F: Files>(
        files: &F,
        meta: &MetaSlot,
        listing: &Listing,
        kept: &Recovered,
    ) -> Result<Self, OpenError> {
        let mut losses = Self::default();
        let mut lost: Vec<(u64, String)> = Vec::new();
        let newest = kept.chain.last().map_or(0, |live| live.seq);
        for live in listing.live.iter().filter(|live| live.seq > newest) {
            losses.last = losses.last.max(live.header.prev_last_index.get());
            lost.push((live.seq, live.name.clone()));
        }
        for misfit in &listing.misfits {
            losses.files.push(misfit.name.clone());
        }
        for dead in &listing.dead {
            let mut found = Self::default();
            found.read(files, meta, &dead.1, dead.0, 0)?;
            if found.bytes > 0 {
                lost.push(dead.clone());
            }
        }
        if let Some(last) = kept.chain.last() {
            losses.read(files, meta, &last.name, last.seq, kept.end)?;
        }
        lost.sort_unstable();
        for (seq, name) in lost {
            losses.read(files, meta, &name, seq, 0)?;
            losses.files.push(name);
        }
        Ok(losses)
    }

    /// Adds the whole batches in a file from `at` on.
    fn read<F: Files>(
        &mut self,
        files: &F,
        meta: &MetaSlot,
        name: &str,
        seq: u64,
        mut at: u32,
    ) -> Result<(), OpenError> {
        let size = files.size(name).map_err(io(files, name))?.min(1 << 31) as u32;
        let shape = (seq, size, files.unit());
        while let Some(batch) = scan::next_header(files, name, shape, at, &meta.secret)? {
            let mut reader = Reader::new(files, name, size);
            if let Some(body) = reader.bytes(batch.body())? {
                self.add(&batch.header, body);
            }
            at = batch.at + files.unit();
        }
        Ok(())
    }

    fn add(&mut self, header: &BatchHeader, body: &[u8]) {
        self.commit = self.commit.max(header.commit_hint.get());
        self.bytes += (BATCH_HEADER + body.len()) as u64;
        let mut rest = body;
        while let Ok(entry) = verify_frame(rest, rest.len()) {
            let id = entry.id();
            self.entries += 1;
            self.last = self.last.max(id.index);
            let (low, high) = self.terms.unwrap_or((id.term, id.term));
            self.terms = Some((low.min(id.term), high.max(id.term)));
            rest = rest.get(entry.frame_len()..).unwrap_or_default();
        }
    }
}

impl<M: Medium> LogStorage<M> {
    /// Whether the log lost entries and was repaired, and the floor up to which it must hold
    /// everything before the replica may vote and count again: 0.0 while that is not known.
    pub fn repairing(&self) -> Option<LogId> {
        self.meta.repairing().then(|| self.meta.repair_floor())
    }

    /// Keeps the floor of a repair. It is durable when write `id` is; see
    /// [`write`](Self::write) for `id` and `now`.
    ///
    /// # Errors
    /// If the log failed or is not under repair. Nothing was done then.
    pub fn set_repair_floor(
        &mut self,
        id: WriteId,
        now: Micros,
        floor: LogId,
    ) -> Result<(), WriteError> {
        self.under_repair()?;
        self.meta.set_repairing(Some(floor));
        self.meta_dirty = true;
        self.note_write(id, now);
        Ok(())
    }

    /// Ends a repair: the log holds everything up to its floor, durably. Durable when write `id`
    /// is.
    ///
    /// # Errors
    /// If the log failed, is not under repair, or does not hold the floor durably. Nothing was done
    /// then.
    pub fn end_repair(&mut self, id: WriteId, now: Micros) -> Result<(), WriteError> {
        let floor = self.under_repair()?;
        let covered = floor.index < self.snapshot().index;
        let held = covered || self.term(floor.index) == Some(floor.term);
        if floor.index == 0 || !held || self.durable < floor.index {
            let why = format!(
                "it cannot end: the log is durable up to {}, and the floor is {floor}",
                self.durable
            );
            return Err(WriteError::Repair(why));
        }
        self.meta.set_repairing(None);
        self.meta_dirty = true;
        self.note_write(id, now);
        Ok(())
    }

    fn under_repair(&self) -> Result<LogId, WriteError> {
        if let Some(why) = &self.poison {
            return Err(WriteError::Poisoned(why.clone()));
        }
        let none = || WriteError::Repair("the log is not under repair".to_owned());
        self.repairing().ok_or_else(none)
    }
}

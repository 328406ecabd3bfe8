//! What is in a log, what was torn off, and what is damaged. Reads and judges; changes nothing.
//!
//! Opening, `verify` and repair all rest on this one judgement.

use super::layout::{HintRecord, Lsn, MetaSlot, segment_name};
use super::medium::Files;
use super::scan::{self, Batch, Beyond, Cursor, Listing, Live, Missing, Reader, Replay};
use super::{Damage, OpenError, hint};
use crate::types::LogId;

/// Judges the files of a directory by what META and HINT say.
pub(super) struct Judge<'a, F> {
    files: &'a F,
    meta: MetaSlot,
    hint: Option<HintRecord>,
    boot_id: Option<[u8; 16]>,
    distrust_page_cache: bool,
}

/// The log as it was found.
pub(super) struct Recovered {
    pub(super) chain: Vec<Live>,
    pub(super) replay: Replay,
    /// Where the sequence of batches stands at the end.
    pub(super) cursor: Cursor,
    /// The whole batches of the last segment that the replay does not hold yet.
    pub(super) pending: Vec<Batch>,
    /// End of the last whole batch of the last segment.
    pub(super) end: u32,
    /// Part of the chain was damaged and is not needed.
    pub(super) skipped: bool,
    /// What was begun behind the end and never acknowledged.
    pub(super) torn: Option<Torn>,
    /// HINT says that the log failed: no earlier sync counts as proof.
    pub(super) poisoned: bool,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Torn {
    /// Bytes up to the end of the last batch of which something is left.
    pub(super) bytes: u32,
    /// What is wrong with the first one.
    pub(super) what: String,
}

impl<'a, F: Files> Judge<'a, F> {
    /// Reads HINT. Do this before listing the files: of a log in use, what HINT says is then older
    /// than what is found.
    pub(super) fn new(files: &'a F, meta: MetaSlot, distrust_page_cache: bool) -> Self {
        Self {
            files,
            hint: hint::read(files, &meta.log_id),
            boot_id: files.boot_id(),
            meta,
            distrust_page_cache,
        }
    }

    /// Reads all segments.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] if anything is missing that was proven durable.
    pub(super) fn examine(&self, listing: &Listing) -> Result<Recovered, OpenError> {
        if let Some(misfit) = listing.misfits.first() {
            return Err(OpenError::Corrupt(Box::new(misfit.damage.clone())));
        }
        let chain = scan::chain(listing, self.meta.start());
        let chain = chain.map_err(|missing| self.missing_link(&missing))?;
        self.check_dead(listing, &chain)?;
        let mut recovered = self.begin(&chain);
        for (nth, live) in chain.iter().enumerate() {
            recovered.replay.next_segment();
            match chain.get(nth + 1) {
                Some(next) => self.read_sealed(live, next, &mut recovered)?,
                None => self.read_last(live, &mut recovered)?,
            }
        }
        recovered.chain = chain;
        self.check_commit(&recovered)?;
        Ok(recovered)
    }

    /// The longest part of the log, from its start on, that is whole: what a repair can keep of a
    /// log that [`examine`](Self::examine) refuses.
    pub(super) fn prefix(&self, listing: &Listing) -> Result<Recovered, OpenError> {
        let mut chain = self.unbroken(listing);
        let mut tried = self.begin(&chain);
        let mut whole = 0;
        while let (Some(live), Some(next)) = (chain.get(whole), chain.get(whole + 1)) {
            tried.replay.next_segment();
            match self.read_sealed(live, next, &mut tried) {
                Ok(()) => whole += 1,
                Err(OpenError::Corrupt(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let until = chain.get(whole + 1).map(|next| next.header.prev_end_lsn);
        chain.truncate(whole + 1);
        let mut recovered = self.begin(&chain);
        for (nth, live) in chain.iter().enumerate() {
            recovered.replay.next_segment();
            match chain.get(nth + 1) {
                Some(next) => self.read_sealed(live, next, &mut recovered)?,
                None => {
                    let until = until.map_or(live.size, |end| Lsn(end.get()).offset());
                    recovered.enter_last(live);
                    self.read_batches(live, until, &mut recovered)?;
                }
            }
        }
        recovered.chain = chain;
        Ok(recovered)
    }

    /// The newest chain that lacks no link: without the segments from the missing one on.
    fn unbroken(&self, listing: &Listing) -> Vec<Live> {
        let mut listing = listing.clone();
        loop {
            match scan::chain(&listing, self.meta.start()) {
                Ok(chain) => return chain,
                Err(missing) => listing.live.retain(|live| live.seq < missing.wanted),
            }
        }
    }

    /// How far anything says that the log reached.
    pub(super) fn reached(&self) -> Lsn {
        let hinted = Lsn(self.hint.map_or(0, |hint| hint.durable.get()));
        hinted.max(Lsn(self.meta.clean_end.get()))
    }

    /// What HINT says was committed and durable here.
    pub(super) fn hinted_commit(&self) -> u64 {
        self.hint.map_or(0, |hint| hint.commit.get())
    }

    fn begin(&self, chain: &[Live]) -> Recovered {
        let start = self.meta.start();
        let base = chain
            .first()
            .map_or(start, |first| first.header.prev_last());
        Recovered {
            replay: Replay::begin(base),
            cursor: Cursor {
                next_seq: 1,
                last: start,
                crc: 0,
                synced_upto: Lsn::default(),
            },
            pending: Vec::new(),
            end: 0,
            skipped: false,
            torn: None,
            poisoned: self.poisoned(),
            chain: Vec::new(),
        }
    }

    fn missing_link(&self, missing: &Missing) -> OpenError {
        OpenError::Corrupt(Box::new(Damage {
            file: format!("{} in {}", segment_name(missing.wanted), self.files.place()),
            offset: 0,
            first: self.meta.start().index + 1,
            last: Some(missing.last),
            what: "the segment is missing or has no valid header".to_owned(),
            evidence: format!("segment {:x} says that it follows", missing.by),
        }))
    }

    /// What was committed with this replica's help and durable here cannot be missing (hazard C5).
    fn check_commit(&self, recovered: &Recovered) -> Result<(), OpenError> {
        let last = recovered.cursor.last.index.max(self.meta.start().index);
        let commit = self.hinted_commit();
        // A log under repair has lost some, which is why it neither votes nor counts.
        if commit <= last || self.meta.repairing() {
            return Ok(());
        }
        Err(OpenError::Corrupt(Box::new(Damage {
            file: self.files.place(),
            offset: 0,
            first: last + 1,
            last: Some(commit),
            what: format!("the log ends at index {last}"),
            evidence: format!("HINT says that everything up to {commit} was committed and durable"),
        })))
    }

    /// A segment that another one follows holds exactly what that one says.
    fn read_sealed(
        &self,
        live: &Live,
        next: &Live,
        recovered: &mut Recovered,
    ) -> Result<(), OpenError> {
        let until = Lsn(next.header.prev_end_lsn.get());
        let mut cursor = Cursor::at_start_of(&live.header);
        let mut reader = Reader::new(self.files, &live.name, live.size);
        let mut at = live.data();
        let evidence = || format!("segment {:x} follows and says so", next.seq);
        while at < until.offset() {
            let found = scan::read_batch(&mut reader, live, at, &self.meta.secret, &mut cursor)?;
            let batch = match found {
                Ok(batch) => batch,
                Err(what) => match self.skip_covered(live, at, &mut cursor, recovered)? {
                    Some(later) => {
                        at = later;
                        continue;
                    }
                    None => {
                        let (first, last) = (cursor.last.index + 1, next.header.prev_last_index);
                        let last = Some(last.get());
                        let damage = self.damage(live, at, first, last, what, evidence());
                        return Err(OpenError::Corrupt(Box::new(damage)));
                    }
                },
            };
            if let Some(body) = reader.bytes(batch.body())? {
                recovered.replay.add(&batch, body);
            }
            at = scan::next_at(live, &batch);
        }
        let same = at == until.offset()
            && cursor.next_seq == next.header.first_batch_seq.get()
            && recovered.replay.last == next.header.prev_last()
            && cursor.crc == next.header.prev_batch_crc.get();
        if !same {
            let what = format!("it ends with {}, not as expected", recovered.replay.last);
            let (first, last) = (cursor.last.index + 1, next.header.prev_last_index.get());
            let damage = self.damage(live, at, first, Some(last), what, evidence());
            return Err(OpenError::Corrupt(Box::new(damage)));
        }
        Ok(())
    }

    /// The last segment: batch by batch up to the first bad place, which is then judged.
    fn read_last(&self, live: &Live, recovered: &mut Recovered) -> Result<(), OpenError> {
        recovered.enter_last(live);
        let mut judged = None;
        loop {
            let what = self.read_batches(live, live.size, recovered)?;
            match self.judge(live, recovered, what)? {
                // A log in use grows while it is read: only bytes read after the evidence count.
                Err(_) if judged != Some(recovered.end) => judged = Some(recovered.end),
                Err(damage) => return Err(OpenError::Corrupt(Box::new(damage))),
                Ok(torn) => {
                    recovered.torn = torn;
                    return Ok(());
                }
            }
        }
    }

    /// Goes on from where the log ends so far to the first bad place, or to `until`. Returns what
    /// ended it.
    fn read_batches(
        &self,
        live: &Live,
        until: u32,
        recovered: &mut Recovered,
    ) -> Result<String, OpenError> {
        let mut reader = Reader::new(self.files, &live.name, live.size);
        let (mut at, mut cursor) = (recovered.end, recovered.cursor);
        let mut what = "the segment ends".to_owned();
        while at < until {
            match scan::read_batch(&mut reader, live, at, &self.meta.secret, &mut cursor)? {
                Ok(batch) => {
                    at = scan::next_at(live, &batch);
                    recovered.pending.push(batch);
                }
                Err(why) => match self.skip_covered(live, at, &mut cursor, recovered)? {
                    Some(later) => at = later,
                    None => {
                        what = why;
                        break;
                    }
                },
            }
        }
        recovered.end = at;
        recovered.cursor = cursor;
        Ok(what)
    }

    /// Damage of which every entry is covered by the snapshot is stepped over: the log goes on with
    /// the first whole batch behind it, if that one begins at or below the first index needed.
    fn skip_covered(
        &self,
        live: &Live,
        at: u32,
        cursor: &mut Cursor,
        recovered: &mut Recovered,
    ) -> Result<Option<u32>, OpenError> {
        let start = self.meta.start().index;
        if cursor.last.index >= start {
            return Ok(None);
        }
        let shape = (live.seq, live.size, live.header.unit.get());
        let beyond = scan::look_ahead(self.files, &live.name, shape, at, &self.meta.secret)?;
        let first = |batch: &Batch| batch.header.first_index.get();
        let Some(later) = beyond.valid.filter(|batch| first(batch) <= start + 1) else {
            return Ok(None);
        };
        tracing::warn!(
            file = live.name,
            offset = at,
            "damage below the snapshot stepped over"
        );
        cursor.next_seq = later.header.batch_seq.get();
        let before = first(&later).saturating_sub(1);
        let known = before == start;
        cursor.last = if known {
            self.meta.start()
        } else {
            LogId::new(0, before)
        };
        recovered.replay.step_over(cursor.last);
        recovered.pending.clear();
        recovered.skipped = true;
        Ok(Some(later.at))
    }

    /// Torn, or damaged? Torn is what nothing proves to have been durable.
    fn judge(
        &self,
        live: &Live,
        recovered: &Recovered,
        what: String,
    ) -> Result<Result<Option<Torn>, Damage>, OpenError> {
        let at = recovered.end;
        let place = Lsn::new(live.seq, at);
        let shape = (live.seq, live.size, live.header.unit.get());
        let secret = &self.meta.secret;
        let beyond = scan::look_ahead(self.files, &live.name, shape, at, secret)?;
        let Some(evidence) = self.evidence(place, &beyond) else {
            let torn = beyond.valid.is_some() || beyond.closed_here;
            return Ok(Ok(torn.then(|| Torn {
                bytes: beyond.until.saturating_sub(at),
                what,
            })));
        };
        let first = recovered.cursor.last.index + 1;
        Ok(Err(self.damage(
            live,
            at,
            first,
            beyond.last,
            what,
            evidence,
        )))
    }

    fn poisoned(&self) -> bool {
        self.hint.is_some_and(|hint| hint.poisoned.get() != 0)
    }

    fn evidence(&self, place: Lsn, beyond: &Beyond) -> Option<String> {
        if beyond.synced_upto > place {
            let upto = beyond.synced_upto;
            return Some(format!(
                "a later batch says that everything up to {upto} was durable"
            ));
        }
        let hint = self.hint.map(|hint| Lsn(hint.durable.get()));
        if let Some(upto) = hint.filter(|&upto| upto > place) {
            return Some(format!(
                "HINT says that everything up to {upto} was durable"
            ));
        }
        let clean = Lsn(self.meta.clean_end.get());
        if clean > place {
            return Some(format!("the log was closed cleanly at {clean}"));
        }
        let same_boot = self.boot_id.is_some_and(|boot| boot == self.meta.boot_id);
        let trusted = same_boot && !self.poisoned() && !self.distrust_page_cache;
        (trusted && (beyond.closed_here || beyond.valid.is_some())).then(|| {
            "the machine was not restarted since, so the page cache should hold all of it (this \
             is the only evidence: if a disk error was logged, open once with \
             distrust_page_cache set, or restart the machine)"
                .to_owned()
        })
    }

    /// A file without a header of its own must not hold anything that says it had one.
    fn check_dead(&self, listing: &Listing, chain: &[Live]) -> Result<(), OpenError> {
        let last = chain.last().map_or(0, |live| live.seq);
        for (seq, name) in listing.dead.iter().filter(|dead| dead.0 > last) {
            let size = self.files.size(name).map_err(OpenError::io(name.clone()))?;
            let unit = self.files.unit();
            let shape = (*seq, size.min(1 << 31) as u32, unit);
            let beyond = scan::look_ahead(self.files, name, shape, 0, &self.meta.secret)?;
            let begin = Lsn::new(*seq, 0);
            if beyond.synced_upto > begin || self.reached() > begin {
                return Err(OpenError::Corrupt(Box::new(Damage {
                    file: format!("{name} in {}", self.files.place()),
                    offset: 0,
                    first: beyond.valid.map_or(0, |it| it.header.first_index.get()),
                    last: beyond.last,
                    what: "neither copy of its header is valid".to_owned(),
                    evidence: "something says that batches in it were durable".to_owned(),
                })));
            }
        }
        let named = self.reached();
        if named.segment() > listing.highest && named.offset() > 0 {
            return Err(OpenError::Corrupt(Box::new(Damage {
                file: format!(
                    "{} in {}",
                    segment_name(named.segment()),
                    self.files.place()
                ),
                offset: 0,
                first: self.meta.start().index + 1,
                last: None,
                what: "the segment is missing".to_owned(),
                evidence: format!("META or HINT says that the log reached {named}"),
            })));
        }
        Ok(())
    }

    fn damage(
        &self,
        live: &Live,
        at: u32,
        first: u64,
        last: Option<u64>,
        what: String,
        evidence: String,
    ) -> Damage {
        Damage {
            file: format!("{} in {}", live.name, self.files.place()),
            offset: u64::from(at),
            first,
            last,
            what,
            evidence,
        }
    }
}

impl Recovered {
    fn enter_last(&mut self, live: &Live) {
        self.cursor = Cursor::at_start_of(&live.header);
        self.end = live.data();
    }
}

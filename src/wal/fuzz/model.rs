//! Random work on a log, crashed and failed in every way, against a plain list of entries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::draw::Draw;
use super::states::{Found, State, States, payload};
use crate::entry::{self, EntryBatch};
use crate::types::{ClusterId, EntryKind, HardState, Incarnation, LogId, ReplicaId, WriteId};
use crate::wal::memory::{Stepper, SyncFault};
use crate::wal::{
    Append, Crash, Lane, LogIdentity, LogOptions, LogStorage, MediumEvent, Memory, MemoryDisk,
    NewEntry, OpenError, ReadError, SyncPolicy, Write, WriteError,
};

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId([7; 16]),
    node: 3,
};
const LANES: [Lane; 3] = [Lane::Sync, Lane::Prepare, Lane::Warm];
const FAULTS: [SyncFault; 3] = [SyncFault::Keep, SyncFault::Revert, SyncFault::Late];
const FOUNDER: Incarnation = Incarnation([9; 16]);
const MAX_ENTRY: usize = 8 << 10;
/// Opening fails this often at most when faults were planted.
const TRIES: u32 = 6;

fn options(draw: &mut Draw<'_>, sync: SyncPolicy) -> LogOptions {
    LogOptions {
        segment_bytes: 128 << 10,
        max_entry_bytes: MAX_ENTRY,
        early_close_bytes: 16 << 10,
        ready_window_bytes: 64 << 10,
        hot_bytes: [256 << 10, 0][draw.below(2) as usize],
        pool_segments: [2, 0][draw.below(2) as usize],
        sync,
        ..LogOptions::default()
    }
}

type Queue = Arc<Mutex<VecDeque<MediumEvent>>>;

/// A log in use.
pub(super) struct Rig {
    pub(super) log: LogStorage<Memory>,
    stepper: Stepper,
    events: Queue,
}

pub(super) fn open(disk: &MemoryDisk, options: &LogOptions) -> Result<Rig, OpenError> {
    let events = Queue::default();
    let queue = Arc::clone(&events);
    let sink = Arc::new(move |event| {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(event);
    });
    let medium = Memory::stepped(disk, sink);
    let stepper = medium.stepper();
    let log = LogStorage::open_checked(medium, IDENTITY, options.clone())?;
    Ok(Rig {
        log,
        stepper,
        events,
    })
}

impl Rig {
    /// Runs all tasks and what they lead to; for a disk without faults.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        loop {
            self.log.pump();
            self.stepper.run_all();
            let mut queue = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(event) = queue.pop_front() else {
                return Ok(());
            };
            drop(queue);
            self.log.handle(event).map_err(|error| error.to_string())?;
        }
    }
}

/// One replica's disk through several lives of its process.
struct Model<'a> {
    draw: Draw<'a>,
    disk: MemoryDisk,
    options: LogOptions,
    states: States,
    next: WriteId,
    /// Bytes that readers hold, and what they were.
    pinned: Vec<(Bytes, Vec<u8>)>,
}

/// Runs the work that `bytes` say; `through`: over mappings that are copies of their files.
///
/// # Errors
/// What the log promises and did not keep.
pub(super) fn run(bytes: &[u8], sync: SyncPolicy, through: bool) -> Result<(), String> {
    let mut draw = Draw::new(bytes);
    let options = options(&mut draw, sync);
    let mut model = Model {
        draw,
        disk: MemoryDisk::seeded(1),
        options,
        states: States::default(),
        next: 0,
        pinned: Vec::new(),
    };
    model.disk.set_through(through);
    let mut rig = open(&model.disk, &model.options).map_err(|error| error.to_string())?;
    for life in 0.. {
        model
            .live(rig)
            .map_err(|why| format!("life {life}: {why}"))?;
        match model
            .recover()
            .map_err(|why| format!("after life {life}: {why}"))?
        {
            Some(next) if !model.draw.is_done() => rig = next,
            _ => break,
        }
    }
    Ok(())
}

impl Model<'_> {
    /// Steps until the process ends, cleanly or not.
    fn live(&mut self, mut rig: Rig) -> Result<(), String> {
        self.next = 0;
        for _ in 0..self.draw.below(160) {
            if self.draw.is_done() {
                break;
            }
            self.act(&mut rig)?;
            if self.draw.below(2) == 0 {
                rig.log.pump();
            }
            let lanes = self.draw.byte();
            for (nth, lane) in LANES.into_iter().enumerate() {
                if lanes >> (2 * nth) & 3 > 0 {
                    rig.stepper.run(lane);
                }
            }
            self.deliver(&mut rig)?;
        }
        self.check_pinned()?;
        if self.draw.below(4) == 0 && rig.log.poisoned().is_none() && rig.log.close().is_ok() {
            self.states.acknowledge_all();
        }
        Ok(())
    }

    fn act(&mut self, rig: &mut Rig) -> Result<(), String> {
        match self.draw.below(24) {
            0..=8 => self.append(rig),
            9 | 10 => self.vote(rig),
            11 => self.compact(rig),
            12 => self.install(rig),
            13 | 14 => self.read(rig),
            15 => {
                rig.log.tick(self.next + self.draw.below(4) * 1_000_000);
                Ok(())
            }
            16 => {
                let last = rig.log.last().index;
                let commit = self.draw.below(last + 1);
                self.states.commit = self.states.commit.max(commit);
                rig.log.note_commit(commit);
                Ok(())
            }
            17 if self.draw.one_in(3) => {
                let kind = FAULTS[self.draw.below(3) as usize];
                self.disk.fail_sync(self.draw.below(8), kind);
                Ok(())
            }
            18 => {
                let room = 300 + 100 * self.draw.below(8);
                self.disk
                    .set_quota(self.draw.one_in(2).then_some(room << 10));
                Ok(())
            }
            19 if self.draw.one_in(3) => {
                self.disk.fail_read(self.draw.below(4));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn deliver(&mut self, rig: &mut Rig) -> Result<(), String> {
        loop {
            let mut queue = rig.events.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(event) = queue.pop_front() else {
                return Ok(());
            };
            drop(queue);
            match rig.log.handle(event) {
                Ok(Some(id)) => self.states.acknowledge(id)?,
                Ok(None) => {}
                Err(_) if rig.log.poisoned().is_some() => {}
                Err(failure) => return Err(format!("failed and not poisoned: {failure}")),
            }
        }
    }

    /// Hands one write to the log. Whether it was taken.
    fn write(&mut self, rig: &mut Rig, write: Write<'_>) -> Result<bool, String> {
        let poisoned = rig.log.poisoned().is_some();
        match rig.log.write(write) {
            Ok(()) if !poisoned => {
                self.next += 1;
                Ok(true)
            }
            Err(WriteError::NoRoom { .. }) if !poisoned => Ok(false),
            Err(WriteError::Poisoned(_)) if poisoned => Ok(false),
            other => Err(format!("a write to a log, poisoned {poisoned}: {other:?}")),
        }
    }

    fn append(&mut self, rig: &mut Rig) -> Result<(), String> {
        let mut state = self.states.current();
        let founding = state == State::default() && self.draw.one_in(2);
        let (mut cut, mut room) = (None, state.entries.len());
        if self.draw.one_in(4) && !founding {
            let least = self.states.commit.saturating_sub(state.start.index) as usize;
            let most = room.saturating_sub(least).min(8) as u64;
            room -= self.draw.below(most + 1) as usize;
            cut = Some(state.start.index + room as u64 + 1);
            state.entries.truncate(room);
        }
        state.kept = room;
        let count = if founding { 1 } else { self.draw.below(10) };
        let (new, term, framed) = self.draw_entries(state.last(), count);
        if cut.is_none() && new.is_empty() {
            return Ok(());
        }
        let vote = self.draw.one_in(5).then(|| self.next_vote(&state, term));
        let hard_state = if founding {
            Some(HardState {
                term,
                ..HardState::default()
            })
        } else {
            vote
        };
        let genesis = founding.then_some(FOUNDER);
        state.entries.extend(&new);
        state.hold_terms(hard_state);
        state.genesis = genesis.unwrap_or(state.genesis);
        let list = own(&new);
        let batch = if framed {
            frames(&new, &mut self.draw)?
        } else {
            EntryBatch::default()
        };
        let append = match (framed, new.first()) {
            (true, _) => Append::Frames(&batch),
            (false, Some(first)) => Append::Entries {
                first: first.0.index,
                term,
                entries: &list,
            },
            (false, None) => Append::None,
        };
        let id = self.next + 1;
        let write = Write {
            id,
            now: id,
            hard_state,
            genesis,
            truncate_from: cut,
            append,
        };
        if self.write(rig, write)? {
            self.states.push(id, state);
        }
        Ok(())
    }

    /// New entries after `last`, the term of the writer, and whether they come as a leader's frames.
    fn draw_entries(&mut self, mut last: LogId, count: u64) -> (Vec<(LogId, usize)>, u64, bool) {
        let mut new = Vec::new();
        let mut term = last.term.max(1) + self.draw.below(6) / 5;
        for _ in 0..count {
            let size = match self.draw.below(8) {
                0 => 0,
                7 => self.draw.below(MAX_ENTRY as u64 + 1),
                _ => self.draw.below(700),
            };
            last = LogId::new(term, last.index + 1);
            new.push((last, size as usize));
        }
        let framed = self.draw.one_in(2) && !new.is_empty();
        if framed && self.draw.one_in(3) {
            // The leader's own history: several terms in one append.
            let middle = new.len() / 2;
            term += 1;
            new.iter_mut()
                .skip(middle)
                .for_each(|entry| entry.0.term = term);
        }
        (new, term, framed)
    }

    fn next_vote(&mut self, state: &State, term: u64) -> HardState {
        let node = self.draw.below(4);
        HardState {
            term: state.hard.term.max(term) + u64::from(node == 3),
            voted_for: ReplicaId::new(node, Incarnation([node as u8; 16])),
        }
    }

    fn vote(&mut self, rig: &mut Rig) -> Result<(), String> {
        let mut state = self.states.current();
        let vote = self.next_vote(&state, 1);
        state.kept = state.entries.len();
        state.hold_terms(Some(vote));
        let id = self.next + 1;
        let write = Write {
            id,
            now: id,
            hard_state: Some(vote),
            genesis: None,
            truncate_from: None,
            append: Append::None,
        };
        if self.write(rig, write)? {
            self.states.push(id, state);
        }
        Ok(())
    }

    /// Up to an entry that is durable and stays, as a snapshot would.
    fn compact(&mut self, rig: &mut Rig) -> Result<(), String> {
        let common = self.states.common();
        if common.is_empty() || rig.log.poisoned().is_some() {
            return Ok(());
        }
        let start = common[self.draw.below(common.len() as u64) as usize];
        let done = rig.log.compact(start);
        done.map_err(|error| format!("compaction to {start}: {error}"))?;
        self.states.starts_at(self.next + 1, start);
        Ok(())
    }

    /// A snapshot from the leader: of what the log holds, ahead of it, or of another history.
    fn install(&mut self, rig: &mut Rig) -> Result<(), String> {
        let mut state = self.states.current();
        let last = state.last();
        let ahead = LogId::new(
            last.term + self.draw.below(2),
            last.index + 1 + self.draw.below(40),
        );
        let uncommitted = last.index > self.states.commit.max(state.start.index);
        let start = match self.draw.below(3) {
            0 if !state.entries.is_empty() => {
                state.entries[self.draw.below(state.entries.len() as u64) as usize].0
            }
            1 if uncommitted => LogId::new(last.term + 1, last.index),
            _ => ahead,
        };
        if start.term == 0 {
            return Ok(());
        }
        let id = self.next + 1;
        match rig.log.install_snapshot(id, id, start) {
            Ok(()) => self.next = id,
            Err(WriteError::NoRoom { .. }) if rig.log.poisoned().is_none() => return Ok(()),
            Err(WriteError::Poisoned(_)) if rig.log.poisoned().is_some() => return Ok(()),
            Err(error) => return Err(format!("installing {start}: {error}")),
        }
        state = state.from(start);
        state.kept = state.entries.len();
        state.hold_terms(None);
        self.states.push(id, state);
        self.states.starts_at(id, start);
        Ok(())
    }

    fn read(&mut self, rig: &Rig) -> Result<(), String> {
        let state = self.states.current();
        if state.entries.is_empty() {
            return Ok(());
        }
        let nth = self.draw.below(state.entries.len() as u64) as usize;
        let first = state.entries[nth].0.index;
        let runs = match rig
            .log
            .read(first, state.last().index, self.draw.word() as usize)
        {
            Ok(read) => read.runs,
            Err(ReadError::Io { .. }) => return Ok(()),
            Err(error) => return Err(format!("reading {first}: {error}")),
        };
        let mut expected = state.entries[nth..].iter();
        for run in runs {
            for found in entry::entries(run.clone()) {
                let found = found.map_err(|error| error.to_string())?;
                let same = expected.next().is_some_and(|(id, len)| {
                    found.id == *id && found.payload == payload(*id, *len)
                });
                if !same {
                    return Err(format!("{} was read where it is not", found.id));
                }
            }
            if self.pinned.len() < 6 {
                self.pinned.push((run.clone(), run.to_vec()));
            }
        }
        Ok(())
    }

    fn check_pinned(&mut self) -> Result<(), String> {
        if self.pinned.iter().any(|(bytes, copy)| bytes != copy) {
            return Err("bytes that a reader holds have changed".to_owned());
        }
        if self.pinned.len() >= 6 {
            self.pinned.clear();
        }
        Ok(())
    }

    /// Crashes the disk. False: a sync had lied, and now what it lost is gone.
    fn crash(&mut self) -> bool {
        let kind = match self.draw.below(4) {
            0 => Crash::Kill,
            1 => Crash::PowerCut,
            _ => Crash::Subset(self.draw.word()),
        };
        let sound = kind == Crash::Kill || !self.disk.deceives();
        self.disk.crash(kind);
        sound
    }

    /// Crashes and opens, with recoveries that are themselves cut off or meet faults. `None`: a sync
    /// had lied, so nothing more can be said of this disk.
    fn recover(&mut self) -> Result<Option<Rig>, String> {
        let mut sound = self.crash();
        let troubles = self.draw.below(4).saturating_sub(1);
        for _ in 0..troubles {
            match self.draw.below(5) {
                0 => self
                    .disk
                    .fail_sync(self.draw.below(12), FAULTS[self.draw.below(3) as usize]),
                1 => self.disk.fail_read(self.draw.below(12)),
                2 => self.disk.set_quota(Some(self.draw.below(900) << 10)),
                _ => self.disk.fail_after(self.draw.below(40)),
            }
            match open(&self.disk, &self.options) {
                Ok(rig) if sound => self.settle_on(&rig)?,
                Ok(_) | Err(OpenError::Io { .. }) => {}
                Err(_) if !sound => return Ok(None),
                Err(error) => return Err(format!("refused: {error}")),
            }
            self.disk.set_quota(None);
            sound &= self.crash();
        }
        self.disk.set_quota(None);
        for _ in 0..TRIES {
            match open(&self.disk, &self.options) {
                Ok(rig) if sound => {
                    self.settle_on(&rig)?;
                    return Ok(Some(rig));
                }
                Ok(_) => return Ok(None),
                // A late report of an error that came before.
                Err(OpenError::Io { .. }) => self.disk.crash(Crash::Kill),
                Err(_) if !sound => return Ok(None),
                Err(error) => return Err(format!("refused: {error}")),
            }
        }
        Err("the disk is sound again and the log does not open".to_owned())
    }

    /// What an open has reported is durable from now on.
    fn settle_on(&mut self, rig: &Rig) -> Result<(), String> {
        // One that was planted and not met.
        self.disk.fail_read(u64::MAX);
        let found = Found::read(&rig.log)?;
        self.states.settle_on(found)
    }
}

fn kind_of(id: LogId) -> EntryKind {
    match id.index % 11 {
        0 => EntryKind::Configuration,
        5 => EntryKind::Noop,
        _ => EntryKind::Command,
    }
}

fn own(new: &[(LogId, usize)]) -> Vec<NewEntry> {
    let entry = |&(id, len): &(LogId, usize)| NewEntry {
        kind: kind_of(id),
        time_us: id.index * 10,
        payload: payload(id, len),
    };
    new.iter().map(entry).collect()
}

/// As they come from a leader: whole frames in chunks cut anywhere.
fn frames(new: &[(LogId, usize)], draw: &mut Draw<'_>) -> Result<EntryBatch, String> {
    let mut bytes = Vec::new();
    for &(id, len) in new {
        bytes.extend_from_slice(&entry::frame(
            id,
            kind_of(id),
            id.index * 10,
            &payload(id, len),
        ));
    }
    let mut rest = Bytes::from(bytes);
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let len = (draw.below(2000) as usize + 1).min(rest.len());
        chunks.push(rest.split_to(len));
    }
    let first = new.first().map_or(LogId::default(), |entry| entry.0);
    let prev = LogId::new(first.term, first.index - 1);
    EntryBatch::verify(chunks, prev, new.len() as u32, MAX_ENTRY).map_err(|error| error.to_string())
}

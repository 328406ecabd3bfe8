//! A small log over a memory disk, and a model of what it must hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::entry;
use crate::types::{
    ClusterId, Entry, EntryKind, HardState, Incarnation, LogId, LogIndex, ReplicaId, WriteId,
};
use crate::wal::memory::Stepper;
use crate::wal::{
    Append, Lane, LogFailure, LogIdentity, LogOptions, LogStorage, Medium, MediumEvent, Memory,
    MemoryDisk, NewEntry, OpenError, Write, WriteError,
};

pub(super) type Events = Arc<Mutex<VecDeque<MediumEvent>>>;

pub(super) const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId([7; 16]),
    node: 3,
};

/// Segments of 128 KiB, so that a few entries rotate them.
pub(super) fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 128 << 10,
        max_entry_bytes: 8 << 10,
        early_close_bytes: 16 << 10,
        ready_window_bytes: 64 << 10,
        hot_bytes: 256 << 10,
        ..LogOptions::default()
    }
}

/// Segments of 64 KiB, none kept for reuse.
pub(super) fn tiny() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        max_entry_bytes: 2 << 10,
        early_close_bytes: 32 << 10,
        ready_window_bytes: 64 << 10,
        pool_segments: 0,
        ..LogOptions::default()
    }
}

/// All files of a directory.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

pub(super) struct Rig<M: Medium> {
    pub(super) log: LogStorage<M>,
    pub(super) events: Events,
    pub(super) durable: WriteId,
    pub(super) next: WriteId,
}

pub(super) fn open_stepped(
    disk: &MemoryDisk,
    options: LogOptions,
) -> Result<(Rig<Memory>, Stepper), OpenError> {
    let events = Events::default();
    let queue = Arc::clone(&events);
    let sink = Arc::new(move |event| queue.lock().expect("lock").push_back(event));
    let medium = Memory::stepped(disk, sink);
    let stepper = medium.stepper();
    let log = LogStorage::open_checked(medium, IDENTITY, options)?;
    Ok((Rig::over(log, events), stepper))
}

pub(super) fn try_open(disk: &MemoryDisk, options: LogOptions) -> Result<Rig<Memory>, OpenError> {
    let events = Events::default();
    let queue = Arc::clone(&events);
    let sink = Arc::new(move |event| queue.lock().expect("lock").push_back(event));
    let log = LogStorage::open_checked(Memory::new(disk, sink), IDENTITY, options)?;
    Ok(Rig::over(log, events))
}

pub(super) fn open(disk: &MemoryDisk) -> Rig<Memory> {
    try_open(disk, small()).expect("opens")
}

pub(super) fn payload(index: LogIndex, len: usize) -> Bytes {
    let byte = |nth: usize| (index as usize).wrapping_mul(31).wrapping_add(nth * 7) as u8;
    (0..len).map(byte).collect::<Vec<u8>>().into()
}

pub(super) fn entries(first: LogIndex, lens: &[usize]) -> Vec<NewEntry> {
    let entry = |(nth, &len): (usize, &usize)| NewEntry {
        kind: EntryKind::Command,
        time_us: (first + nth as u64) * 10,
        payload: payload(first + nth as u64, len),
    };
    lens.iter().enumerate().map(entry).collect()
}

pub(super) fn state(term: u64, node: u64) -> HardState {
    HardState {
        term,
        voted_for: ReplicaId::new(node, Incarnation([node as u8; 16])),
    }
}

impl<M: Medium> Rig<M> {
    pub(super) fn over(log: LogStorage<M>, events: Events) -> Self {
        Self {
            log,
            events,
            durable: 0,
            next: 0,
        }
    }

    pub(super) fn try_write(
        &mut self,
        hard_state: Option<HardState>,
        truncate_from: Option<LogIndex>,
        append: Append<'_>,
    ) -> Result<WriteId, WriteError> {
        self.next += 1;
        self.log.write(Write {
            id: self.next,
            now: self.next,
            hard_state,
            genesis: None,
            truncate_from,
            append,
        })?;
        Ok(self.next)
    }

    /// Appends entries of these payload sizes at the end.
    pub(super) fn append(&mut self, term: u64, lens: &[usize]) -> WriteId {
        let first = self.log.last().index + 1;
        let entries = entries(first, lens);
        let append = Append::Entries {
            first,
            term,
            entries: &entries,
        };
        self.try_write(None, None, append).expect("written")
    }

    pub(super) fn try_settle(&mut self) -> Result<WriteId, LogFailure> {
        loop {
            self.log.pump();
            let event = self.events.lock().expect("lock").pop_front();
            let Some(event) = event else {
                return Ok(self.durable);
            };
            if let Some(id) = self.log.handle(event)? {
                assert!(id > self.durable, "completions rise");
                self.durable = id;
            }
        }
    }

    /// Pumps until nothing is left to do; for media without threads.
    pub(super) fn settle(&mut self) -> WriteId {
        self.try_settle().expect("no failure")
    }

    /// Runs all tasks and what they lead to.
    pub(super) fn drain(&mut self, stepper: &Stepper) -> WriteId {
        loop {
            self.settle();
            let lanes = [Lane::Sync, Lane::Prepare, Lane::Warm];
            if !lanes.map(|lane| stepper.run(lane)).contains(&true) {
                return self.durable;
            }
        }
    }

    pub(super) fn append_durably(&mut self, term: u64, lens: &[usize]) {
        let id = self.append(term, lens);
        assert_eq!(self.settle(), id);
    }

    pub(super) fn read_all(&self) -> Vec<Entry> {
        let (first, last) = (self.log.first_index(), self.log.last().index);
        let mut found = Vec::new();
        let mut next = first;
        while next <= last {
            let runs = self.log.read(next, last, 10_000).expect("readable");
            assert!(runs.last >= next);
            for run in runs.runs {
                for entry in entry::entries(run) {
                    found.push(entry.expect("whole"));
                }
            }
            next = runs.last + 1;
        }
        let indexes = found.iter().map(|entry| entry.id.index);
        assert!(indexes.eq(first..=last), "contiguous");
        found
    }

    pub(super) fn ids(&self) -> Vec<LogId> {
        self.read_all().into_iter().map(|entry| entry.id).collect()
    }
}

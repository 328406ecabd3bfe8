//! The log under measurement and the raw work it is measured against, each as a [`Side`] that
//! appends the same groups of entries.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::types::{ClusterId, EntryKind, LogId, LogIndex, WriteId};
use conveyor_raft::wal::{
    Append, EventSink, Lane, LogIdentity, LogOptions, LogStorage, MappedDir, Medium, MediumEvent,
    NewEntry, SyncPolicy, Task, Write, WriteError, WriteMode,
};
use tempfile::TempDir;

/// Payload sizes.
pub(crate) const SIZES: [usize; 4] = [16, 128, 1024, 16384];
/// A log drops its front when this much was appended since it last did, so that files are used
/// again as under a node that takes snapshots.
pub(crate) const KEEP: usize = 48 << 20;
const TERM: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(60);

/// What is appended, and synced, at once: 64 entries, as 64 clients with one proposal outstanding
/// each make it; 8 of the largest size (128 KiB).
pub(crate) struct Group {
    pub(crate) size: usize,
    pub(crate) entries: Vec<NewEntry>,
    /// All payloads one after the other.
    pub(crate) bytes: Vec<u8>,
}

impl Group {
    pub(crate) fn new(size: usize) -> Self {
        let len = if size > 4096 { 8 } else { 64 };
        // Nothing a compressor could use (splitmix64).
        let mut state = size as u64;
        let mut word = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        let mut payload = || {
            let words = (0..size.div_ceil(8)).map(|_| word());
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            Bytes::from(bytes).slice(..size)
        };
        let entries: Vec<_> = (0..len)
            .map(|_| NewEntry {
                kind: EntryKind::Command,
                time_us: 1,
                payload: payload(),
            })
            .collect();
        let bytes = entries.iter().flat_map(|it| it.payload.to_vec()).collect();
        Self {
            size,
            entries,
            bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Something that appends groups.
pub(crate) trait Side {
    /// Appends one group; on return it is as durable as this side was made to be.
    fn append(&mut self, group: &Group);

    /// Gives room back; called now and then, outside of the clock.
    fn tidy(&mut self) {}
}

/// What some groups took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) wall: Duration,
    /// Processor time of all threads of this process: what is left of the figure when others keep
    /// the machine busy.
    pub(crate) cpu: Duration,
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time of `count` groups.
pub(crate) fn run(side: &mut dyn Side, group: &Group, count: u64) -> Took {
    let slice = (KEEP / group.bytes.len()) as u64;
    let (mut left, mut took) = (count, Took::default());
    while left > 0 {
        let now = left.min(slice);
        let (start, cpu) = (Instant::now(), cpu_time());
        (0..now).for_each(|_| side.append(group));
        took.wall += start.elapsed();
        took.cpu += cpu_time() - cpu;
        left -= now;
        if left > 0 {
            side.tidy();
        }
    }
    side.tidy();
    took
}

/// [`MappedDir`] with everything on the caller's thread.
pub(crate) struct Inline {
    dir: MappedDir,
    sink: EventSink,
}

impl Inline {
    /// A directory whose events go to `sink`.
    pub(crate) fn open(dir: &Path, sink: EventSink, options: &LogOptions) -> Self {
        let dir = MappedDir::open(dir, Arc::clone(&sink), options);
        Self {
            dir: dir.expect("the directory opens"),
            sink,
        }
    }
}

impl Medium for Inline {
    type Files = <MappedDir as Medium>::Files;

    fn files(&self) -> &Arc<Self::Files> {
        self.dir.files()
    }

    fn submit(&mut self, _: Lane, _: Duration, task: Task) {
        (self.sink)(task());
    }

    fn stop(&mut self) {
        self.dir.stop();
    }
}

/// Whether each benchmark is only to be run once, to show that it works (`--test`).
pub(crate) fn short() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// What a log here is opened with: what a node takes by default.
pub(crate) fn options(sync: SyncPolicy) -> LogOptions {
    let segment_bytes = LogOptions::default().segment_bytes;
    LogOptions {
        sync,
        segment_bytes: if short() { 16 << 20 } else { segment_bytes },
        ..LogOptions::default()
    }
}

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId([7; 16]),
    node: 1,
};

/// A log and its owner's loop.
pub(crate) struct OwnLog<M: Medium = MappedDir> {
    pub(crate) log: LogStorage<M>,
    events: Receiver<MediumEvent>,
    next: WriteId,
    durable: WriteId,
    /// Bytes of log, padding included, that were written when it was last compacted.
    compacted_at: u64,
    compacts: bool,
    /// Returns as soon as the group before is durable.
    piped: bool,
    synced: bool,
    dir: Option<TempDir>,
}

impl OwnLog {
    /// A new log in a folder of its own, which goes with it.
    pub(crate) fn new(folder: &Path, sync: SyncPolicy) -> Self {
        Self::with(folder, options(sync))
    }

    /// The same, storing to the files themselves and made durable by `msync`.
    pub(crate) fn mapped(folder: &Path) -> Self {
        let options = LogOptions {
            write_mode: WriteMode::Mapped,
            ..options(SyncPolicy::Sync)
        };
        Self::with(folder, options)
    }

    /// Its syncs are on the caller's thread.
    pub(crate) fn inline(folder: &Path, sync: SyncPolicy) -> Self {
        let dir = tempfile::tempdir_in(folder).expect("a folder");
        let (sink, events) = sink();
        let options = options(sync);
        let medium = MappedDir::open(dir.path(), sink, &options).expect("the directory opens");
        let mut own = Self::over(medium.with_syncs_on_caller(), events, options);
        own.dir = Some(dir);
        own
    }

    fn with(folder: &Path, options: LogOptions) -> Self {
        let dir = tempfile::tempdir_in(folder).expect("a folder");
        let mut own = Self::open(dir.path(), options);
        own.dir = Some(dir);
        own
    }

    pub(crate) fn open(dir: &Path, options: LogOptions) -> Self {
        let (sink, events) = sink();
        let medium = MappedDir::open(dir, sink, &options).expect("the directory opens");
        Self::over(medium, events, options)
    }
}

/// Unsynced, and each segment ready to its end when it is made, so that nothing but appends is left
/// to do.
pub(crate) fn single_threaded_options(segment_bytes: u64) -> LogOptions {
    LogOptions {
        ready_window_bytes: segment_bytes as usize,
        segment_bytes,
        ..options(SyncPolicy::UnsafeNoSync)
    }
}

impl OwnLog<Inline> {
    /// Everything on the caller's thread, see [`single_threaded_options`].
    pub(crate) fn single_threaded(folder: &Path) -> Self {
        let options = single_threaded_options(512 << 20);
        let dir = tempfile::tempdir_in(folder).expect("a folder");
        let (sink, events) = sink();
        let medium = Inline::open(dir.path(), sink, &options);
        let mut own = Self::over(medium, events, options);
        own.dir = Some(dir);
        own
    }
}

fn sink() -> (EventSink, Receiver<MediumEvent>) {
    let (sender, events) = channel();
    (Arc::new(move |event| _ = sender.send(event)), events)
}

impl<M: Medium> OwnLog<M> {
    fn over(medium: M, events: Receiver<MediumEvent>, options: LogOptions) -> Self {
        let synced = options.sync == SyncPolicy::Sync;
        Self {
            log: LogStorage::open(medium, IDENTITY, options).expect("the log opens"),
            events,
            next: 0,
            durable: 0,
            compacted_at: 0,
            compacts: true,
            piped: false,
            synced,
            dir: None,
        }
    }

    /// Keeps everything.
    pub(crate) fn without_compaction(mut self) -> Self {
        self.compacts = false;
        self
    }

    /// While one group is being synced, the next is written; each still has a sync of its own.
    pub(crate) fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    fn take(&mut self, event: MediumEvent) {
        if let Some(id) = self.log.handle(event).expect("the log does not fail") {
            self.durable = id;
        }
    }

    fn wait_event(&mut self) {
        let event = self.events.recv_timeout(PATIENCE);
        self.take(event.expect("an event in time"));
    }

    fn write(&mut self, entries: &[NewEntry]) {
        loop {
            let write = Write {
                id: self.next + 1,
                now: 0,
                hard_state: None,
                genesis: None,
                truncate_from: None,
                append: Append::Entries {
                    first: self.log.last().index + 1,
                    term: TERM,
                    entries,
                },
            };
            match self.log.write(write) {
                Ok(()) => break,
                Err(WriteError::NoRoom { .. }) => {
                    self.log.pump();
                    self.wait_event();
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.next += 1;
    }

    fn wait_durable(&mut self, id: WriteId) {
        while self.durable < id {
            self.wait_event();
            if self.durable < id {
                self.log.pump();
            }
        }
    }

    fn compact(&mut self) {
        let counters = self.log.counters();
        let written = counters.entry_bytes + counters.padding_bytes;
        let durable: LogIndex = self.log.durable();
        if self.compacts && written - self.compacted_at >= KEEP as u64 && durable > 0 {
            self.compacted_at = written;
            let start = LogId::new(TERM, durable);
            self.log.compact(start).expect("an entry of this log");
        }
    }

    /// Everything written is durable, and the directory is marked as closed cleanly.
    pub(crate) fn close(self) {
        self.log.close().expect("closes");
    }
}

impl<M: Medium> Side for OwnLog<M> {
    fn append(&mut self, group: &Group) {
        self.write(&group.entries);
        if self.piped && self.synced {
            self.wait_durable(self.next - 1);
        }
        self.compact();
        self.log.pump();
        if self.synced && !self.piped {
            self.wait_durable(self.next);
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
    }
}

/// Copies each payload into memory and takes its CRC-32.
pub(crate) struct MemoryFloor {
    memory: Vec<u8>,
    at: usize,
}

impl MemoryFloor {
    /// As much memory as the log's segments in rotation have, touched before.
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0x5a; 256 << 20],
            at: 0,
        }
    }
}

impl Side for MemoryFloor {
    fn append(&mut self, group: &Group) {
        if self.at + group.bytes.len() > self.memory.len() {
            self.at = 0;
        }
        for entry in &group.entries {
            let payload = &entry.payload[..];
            black_box(crc32fast::hash(payload));
            self.memory[self.at..self.at + payload.len()].copy_from_slice(payload);
            self.at += payload.len();
        }
    }
}

/// Writes the payloads of a group with one `pwrite` to blocks the file has already; then
/// `fdatasync` or a CRC-32 of each, as set.
pub(crate) struct FileFloor {
    file: File,
    at: u64,
    sync: bool,
}

const FLOOR_FILE: u64 = 64 << 20;

impl FileFloor {
    pub(crate) fn new(folder: &Path, sync: bool) -> Self {
        let file = tempfile::tempfile_in(folder).expect("a file");
        let piece = vec![0x5a; 1 << 20];
        for nth in 0..FLOOR_FILE >> 20 {
            file.write_all_at(&piece, nth << 20).expect("written");
        }
        file.sync_all().expect("synced");
        Self { file, at: 0, sync }
    }
}

impl Side for FileFloor {
    fn append(&mut self, group: &Group) {
        if self.at + group.bytes.len() as u64 > FLOOR_FILE {
            self.at = 0;
        }
        if !self.sync {
            for entry in &group.entries {
                black_box(crc32fast::hash(&entry.payload));
            }
        }
        self.file
            .write_all_at(&group.bytes, self.at)
            .expect("written");
        self.at += group.bytes.len() as u64;
        if self.sync {
            self.file.sync_data().expect("synced");
        }
    }
}

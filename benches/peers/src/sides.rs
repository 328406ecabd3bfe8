//! The other logs, each doing the same work as ours: append one group of entries and, where the
//! run asks for it, return only when it is durable.
//!
//! Each is set up at its best: no compression, no waiting for further writers, files large enough,
//! payloads shared instead of copied where its interface allows it. Giving room back is not timed.
#![allow(dead_code, reason = "the bench and the program use a part of it each")]

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use okaywal::{LogVoid, WriteAheadLog};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Engine, LogBatch, MessageExt, ReadableSize};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::{Decode, Encode};
use raft_log::{RaftLog, Types};
use tempfile::TempDir;
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use crate::log::{FileFloor, Group, MemoryFloor, OwnLog, Side};
use conveyor_raft::wal::SyncPolicy;

/// Makes a side in `folder`, synced or not.
pub(crate) type Make = fn(folder: &Path, sync: bool) -> Box<dyn Side>;

pub(crate) const SIDES: [(&str, Make); 7] = [
    ("conveyor-raft", |folder, sync| {
        Box::new(OwnLog::new(folder, policy(sync)))
    }),
    // As all others here do it: the caller waits within the call for the sync.
    ("conveyor-raft-inline", |folder, sync| {
        Box::new(OwnLog::inline(folder, policy(sync)))
    }),
    ("floor", |folder, sync| {
        if sync {
            Box::new(FileFloor::new(folder, true))
        } else {
            Box::new(MemoryFloor::new())
        }
    }),
    ("raft-engine", |folder, sync| {
        Box::new(RaftEngine::new(folder, sync))
    }),
    ("raft-log", |folder, sync| {
        Box::new(RaftLogSide::new(folder, sync))
    }),
    ("okaywal", |folder, sync| Box::new(Okay::new(folder, sync))),
    ("walrus-rust", |folder, sync| {
        Box::new(WalrusSide::new(folder, sync))
    }),
];

fn policy(sync: bool) -> SyncPolicy {
    if sync {
        SyncPolicy::Sync
    } else {
        SyncPolicy::UnsafeNoSync
    }
}

fn folder_in(folder: &Path) -> TempDir {
    tempfile::tempdir_in(folder).expect("a folder")
}

fn text(dir: &TempDir) -> String {
    dir.path().display().to_string()
}

/// TiKV's. Entries are protobuf messages that must know their index; here it is the first eight
/// bytes of the payload.
struct RaftEngine {
    engine: Engine,
    batch: LogBatch,
    entries: Vec<BytesValue>,
    size: usize,
    last: u64,
    sync: bool,
    _dir: TempDir,
}

#[derive(Clone)]
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let (first, _) = entry.value.split_at(8);
        u64::from_le_bytes(first.try_into().expect("eight bytes"))
    }
}

const REGION: u64 = 1;

impl RaftEngine {
    fn new(folder: &Path, sync: bool) -> Self {
        let dir = folder_in(folder);
        let config = raft_engine::Config {
            dir: text(&dir),
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(64),
            purge_threshold: ReadableSize::mb(192),
            ..raft_engine::Config::default()
        };
        Self {
            engine: Engine::open(config).expect("raft-engine opens"),
            batch: LogBatch::default(),
            entries: Vec::new(),
            size: 0,
            last: 0,
            sync,
            _dir: dir,
        }
    }
}

impl Side for RaftEngine {
    fn append(&mut self, group: &Group) {
        if self.size != group.size || self.entries.len() != group.len() {
            self.size = group.size;
            let message = |payload: &Bytes| {
                let mut message = BytesValue::new();
                message.set_value(payload.to_vec());
                message
            };
            self.entries = group
                .entries
                .iter()
                .map(|it| message(&it.payload))
                .collect();
        }
        for entry in &mut self.entries {
            self.last += 1;
            entry.value[..8].copy_from_slice(&self.last.to_le_bytes());
        }
        self.batch
            .add_entries::<Indexed>(REGION, &self.entries)
            .expect("added");
        self.engine
            .write(&mut self.batch, self.sync)
            .expect("written");
    }

    fn tidy(&mut self) {
        self.engine.compact_to(REGION, self.last);
        self.engine.purge_expired_files().expect("purged");
    }
}

/// Databend's.
struct RaftLogSide {
    log: RaftLog<Shape>,
    last: u64,
    sync: bool,
    _dir: TempDir,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shape;

#[derive(Clone, Debug)]
struct Payload(Bytes);

impl Encode for Payload {
    fn encode<W: Write>(&self, mut to: W) -> io::Result<usize> {
        to.write_all(&(self.0.len() as u32).to_be_bytes())?;
        to.write_all(&self.0)?;
        Ok(4 + self.0.len())
    }
}

impl Decode for Payload {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let mut len = [0; 4];
        from.read_exact(&mut len)?;
        let mut bytes = vec![0; u32::from_be_bytes(len) as usize];
        from.read_exact(&mut bytes)?;
        Ok(Self(bytes.into()))
    }
}

impl Types for Shape {
    type LogId = (u64, u64);
    type LogPayload = Payload;
    type Vote = (u64, u64);
    type UserData = String;
    type Callback = std::sync::mpsc::SyncSender<io::Result<()>>;

    fn log_index(id: &(u64, u64)) -> u64 {
        id.1
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.0.len() as u64
    }
}

impl RaftLogSide {
    fn new(folder: &Path, sync: bool) -> Self {
        let dir = folder_in(folder);
        let mut config = raft_log::Config::new(text(&dir));
        config.wal.chunk_max_size = Some(64 << 20);
        config.wal.chunk_max_records = Some(4 << 20);
        // It would wait for other writers, of whom there are none.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        Self {
            log: RaftLog::open(Arc::new(config)).expect("raft-log opens"),
            last: 0,
            sync,
            _dir: dir,
        }
    }

    fn flush(&mut self) {
        let (done, flushed) = sync_channel(1);
        self.log.flush(true, Some(done)).expect("handed over");
        flushed.recv().expect("an answer").expect("flushed");
    }
}

impl Side for RaftLogSide {
    fn append(&mut self, group: &Group) {
        let first = self.last + 1;
        let entries = group.entries.iter().zip(first..);
        let entries = entries.map(|(entry, index)| ((1, index), Payload(entry.payload.clone())));
        self.log.append(entries).expect("appended");
        self.last += group.len() as u64;
        if self.sync {
            self.flush();
        } else {
            self.log.flush(false, None).expect("handed over");
        }
    }

    fn tidy(&mut self) {
        self.log.purge((1, self.last)).expect("purged");
        self.flush();
    }
}

/// A group is one atomic entry with a chunk for each of ours. It cannot be told not to sync.
struct Okay {
    log: WriteAheadLog,
    _dir: TempDir,
}

impl Okay {
    fn new(folder: &Path, _: bool) -> Self {
        let dir = folder_in(folder);
        let config = okaywal::Configuration::default_for(dir.path())
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(60 << 20)
            .buffer_bytes(256 << 10);
        Self {
            log: config.open(LogVoid).expect("okaywal opens"),
            _dir: dir,
        }
    }
}

impl Side for Okay {
    fn append(&mut self, group: &Group) {
        let mut writer = self.log.begin_entry().expect("begun");
        for entry in &group.entries {
            writer.write_chunk(&entry.payload).expect("written");
        }
        writer.commit().expect("committed");
    }
}

/// A batch is synced whatever its schedule says, so unsynced groups go entry by entry.
struct WalrusSide {
    log: Option<Walrus>,
    since: usize,
    sync: bool,
    dir: TempDir,
    made: u64,
}

const TOPIC: &str = "log";
/// It keeps what nobody has read: a new one takes over after so much.
const WALRUS_KEEP: usize = 400 << 20;

impl WalrusSide {
    fn new(folder: &Path, sync: bool) -> Self {
        let quiet = std::env::var_os("WALRUS_QUIET").is_some();
        assert!(
            quiet,
            "walrus-rust prints at every append; set WALRUS_QUIET=1"
        );
        let dir = folder_in(folder);
        let mut side = Self {
            log: None,
            since: 0,
            sync,
            dir,
            made: 0,
        };
        side.renew();
        side
    }

    /// What it deletes it keeps open, so its files are emptied by hand.
    fn renew(&mut self) {
        self.log = None;
        empty(self.dir.path());
        // Its folder is below the current one, unless the environment names one for all.
        std::env::set_current_dir(self.dir.path()).expect("entered");
        let schedule = if self.sync {
            FsyncSchedule::SyncEach
        } else {
            FsyncSchedule::NoFsync
        };
        let reads = ReadConsistency::AtLeastOnce {
            persist_every: 1 << 20,
        };
        self.made += 1;
        let key = format!("bench-{}", self.made);
        let log = Walrus::with_consistency_and_schedule_for_key(&key, reads, schedule);
        self.log = Some(log.expect("walrus opens"));
        self.since = 0;
    }
}

fn empty(dir: &Path) {
    for found in std::fs::read_dir(dir).expect("readable") {
        let path = found.expect("an entry").path();
        if path.is_dir() {
            empty(&path);
            let _ = std::fs::remove_dir(&path);
        } else {
            let file = std::fs::File::options().write(true).open(&path);
            let _ = file.and_then(|file| file.set_len(0));
            let _ = std::fs::remove_file(&path);
        }
    }
}

impl Side for WalrusSide {
    fn append(&mut self, group: &Group) {
        let log = self.log.as_ref().expect("there is one");
        self.since += group.bytes.len() + 64 * group.len();
        if self.sync {
            let batch: Vec<&[u8]> = group.entries.iter().map(|it| &it.payload[..]).collect();
            log.batch_append_for_topic(TOPIC, &batch).expect("appended");
            return;
        }
        for entry in &group.entries {
            log.append_for_topic(TOPIC, &entry.payload)
                .expect("appended");
        }
    }

    fn tidy(&mut self) {
        if self.since > WALRUS_KEEP {
            self.renew();
        }
    }
}

impl Drop for WalrusSide {
    fn drop(&mut self) {
        self.log = None;
        let _ = std::env::set_current_dir("/");
        empty(self.dir.path());
    }
}

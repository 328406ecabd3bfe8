//! A log for openraft that syncs: what is appended together is written and synced together, on a thread of
//! its own, while openraft goes on. It does as little as a log can that could be read again: a length
//! and a CRC-32 for each entry, into a file that was filled beforehand, so that a sync carries no change of
//! its size, and that is written anew from its front once it is full. Entries are read from memory.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::RangeBounds;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use openraft::OptionalSend;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{RaftLogReader, RaftTypeConfig};
use serde::Serialize;
use tokio::sync::oneshot;

use super::openraft_store::{Log, Types};

/// Bytes of a node's file.
const FILE: u64 = 16 << 20;

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What is to be durable, and what is told then.
struct Job {
    bytes: Vec<u8>,
    done: Done,
}

/// The log of a node.
#[derive(Clone)]
pub(crate) struct SyncedLog {
    kept: Log,
    jobs: Sender<Job>,
}

impl SyncedLog {
    /// A new one in a file of the folder.
    pub(crate) fn create(folder: &Path, node: u64) -> io::Result<Self> {
        let file = File::create_new(folder.join(format!("node-{node}.log")))?;
        let zeros = vec![0; 1 << 20];
        (0..FILE)
            .step_by(zeros.len())
            .try_for_each(|at| file.write_all_at(&zeros, at))?;
        file.sync_all()?;
        let (jobs, taken) = channel();
        thread::spawn(move || keep_writing(&file, &taken));
        let kept = Log::default();
        Ok(Self { kept, jobs })
    }

    fn write(&self, bytes: Vec<u8>, done: Done) -> io::Result<()> {
        let sent = self.jobs.send(Job { bytes, done });
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes all that waits, syncs it, and says so, until the log is gone.
fn keep_writing(file: &File, jobs: &Receiver<Job>) {
    let (mut at, mut bytes, mut done) = (0, Vec::new(), Vec::new());
    while let Ok(first) = jobs.recv() {
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            bytes.extend_from_slice(&job.bytes);
            done.push(job.done);
        }
        let length = bytes.len() as u64;
        if at + length > FILE {
            at = 0;
        }
        let written = file
            .write_all_at(&bytes, at)
            .and_then(|()| file.sync_data());
        at += length;
        bytes.clear();
        for tell in done.drain(..) {
            tell(written.as_ref().copied().map_err(|it| it.kind().into()));
        }
    }
}

/// Adds a record: length, CRC-32, value.
fn record(bytes: Vec<u8>, value: &impl Serialize) -> io::Result<Vec<u8>> {
    let head = bytes.len();
    let mut bytes = bytes;
    bytes.extend_from_slice(&[0; 8]);
    let mut bytes = postcard::to_extend(value, bytes).map_err(io::Error::other)?;
    let body = head + 8;
    let length = u32::try_from(bytes.len() - body).map_err(io::Error::other)?;
    let sum = crc32fast::hash(&bytes[body..]);
    bytes[head..head + 4].copy_from_slice(&length.to_le_bytes());
    bytes[head + 4..body].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

impl RaftLogReader<Types> for SyncedLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        self.kept.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<<Types as RaftTypeConfig>::Vote>> {
        self.kept.read_vote().await
    }
}

impl RaftLogStorage<Types> for SyncedLog {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        self.kept.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Log {
        self.kept.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        // Nobody hears it only when the node is gone.
        let done: Done = Box::new(|result| drop(tell.send(result)));
        self.write(record(Vec::new(), vote)?, done)?;
        told.await.map_err(io::Error::other)??;
        self.kept.save_vote(vote).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let bytes = entries.iter().try_fold(Vec::new(), record)?;
        self.kept.keep(entries);
        self.write(bytes, Box::new(|result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        self.kept.truncate_after(last).await
    }

    async fn purge(&mut self, last: LogIdOf<Types>) -> io::Result<()> {
        self.kept.purge(last).await
    }
}

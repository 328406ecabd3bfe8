//! The seam under the log: files, mapped regions, and lanes for work that blocks.
//!
//! Everything that the log does to the outside goes through [`Files`]; when it does it goes
//! through [`Medium`]. So the whole log, its sync engine and its recovery included, runs unchanged
//! over real files with threads and over memory in a single-threaded test.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::flush::FlushDone;
use super::map::Mapping;
use super::prepare::{Prepared, Warmed};
use super::room::DiskRoom;
use super::trim::Trimmed;

/// The files of one log directory. Names are plain file names. All calls may block.
pub trait Files: Send + Sync + 'static {
    /// Where this is, for messages.
    fn place(&self) -> String;
    /// The unit of writing, bytes: at least 4096, the page size and the device's physical block.
    fn unit(&self) -> u32;
    /// The kernel's boot id; `None` if it cannot be known, which then equals nothing.
    fn boot_id(&self) -> Option<[u8; 16]>;
    /// All file names.
    fn list(&self) -> io::Result<Vec<String>>;
    /// The size of a file, bytes.
    fn size(&self, name: &str) -> io::Result<u64>;
    /// Fills `buf` from `offset` on (`pread`).
    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes at `offset` (`pwrite`), making the file if it is not there.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's bytes and size durable (`fdatasync`).
    fn sync(&self, name: &str) -> io::Result<()>;
    /// Makes a new file of `len` zeros, really written and synced, so that a store into its
    /// mapping can never meet a full disk (hazard C8). Its name is durable after `sync_dir`.
    fn allocate(&self, name: &str, len: u64) -> io::Result<()>;
    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable (`fsync` of the directory).
    fn sync_dir(&self) -> io::Result<()>;
    /// Maps a whole file.
    fn map(&self, name: &str) -> io::Result<Arc<Mapping>>;
    /// Readies the mapping of a file for the file's next life; `None`, and it goes with its last
    /// holder, if somebody else still holds it.
    fn renew(&self, _name: &str, mapping: Arc<Mapping>) -> Option<Arc<Mapping>> {
        mapping.renew().ok()
    }
    /// Sees to it that a range of closed batches is in the file that was mapped, where storing into
    /// the mapping does not do that: see [`WriteMode`](super::WriteMode).
    fn write_map(&self, name: &str, mapping: &Mapping, range: Range<usize>) -> io::Result<()>;
    /// Makes a range of a mapping durable, once it is in the file (`msync` or `fdatasync`).
    fn sync_map(&self, name: &str, mapping: &Mapping, range: Range<usize>) -> io::Result<()>;
    /// Makes the pages of a range writable without a fault later on. Only a matter of speed.
    fn warm(&self, mapping: &Mapping, range: Range<usize>) -> io::Result<()>;
    /// Whether [`disk_room`](Self::disk_room) is worth asking; a constant, so that a log in memory,
    /// whose every task is a step of a simulation, has no task for it.
    const TELLS_ROOM: bool = false;
    /// How much room the file system has; `None` if that cannot be told.
    fn disk_room(&self) -> Option<DiskRoom> {
        None
    }
    /// Fills `bytes` with randomness for the identity of a new directory. Only a simulation, which
    /// must be repeatable, takes it from elsewhere than the operating system.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}

/// Work that blocks, run on one of the medium's lanes.
pub type Task = Box<dyn FnOnce() -> MediumEvent + Send>;

/// Takes the events of a medium. It may be called from the medium's threads, or from within
/// [`LogStorage::pump`](super::LogStorage::pump) on the caller's own; it must not block and must
/// not call the log.
pub type EventSink = Arc<dyn Fn(MediumEvent) + Send + Sync>;

/// Which tasks a task queues behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// META updates and syncs: what acknowledgements wait for.
    Sync,
    /// New segments, removal of old ones: slow, nobody waits.
    Prepare,
    /// Pages made writable ahead of the append position: short, soon needed.
    Warm,
}

/// Files and lanes.
pub trait Medium: Send + 'static {
    /// Its files.
    type Files: Files;

    /// The files, shared with tasks.
    fn files(&self) -> &Arc<Self::Files>;

    /// Runs `task` on `lane`, after `delay`, and hands its event to the sink.
    fn submit(&mut self, lane: Lane, delay: Duration, task: Task);

    /// Stops the lanes: finishes the sync lane's tasks, drops those of the others that have not
    /// begun, and returns when nothing runs any more.
    fn stop(&mut self);
}

/// What became of a task. Hand it to [`LogStorage::handle`](super::LogStorage::handle).
pub struct MediumEvent(pub(super) Event);

pub(super) enum Event {
    Flushed(FlushDone),
    Prepared(Result<Prepared, io::Error>),
    Warmed(Warmed),
    Trimmed(Result<Trimmed, io::Error>),
    Room(Option<DiskRoom>),
    Unmapped,
}

impl fmt::Debug for MediumEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Event::Flushed(_) => "Flushed",
            Event::Prepared(_) => "Prepared",
            Event::Warmed(_) => "Warmed",
            Event::Trimmed(_) => "Trimmed",
            Event::Room(_) => "Room",
            Event::Unmapped => "Unmapped",
        })
    }
}

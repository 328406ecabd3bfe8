//! The snapshots of one replica, beside its log: names, order of steps, and which one to start from.
//!
//! A snapshot gets its name only when it is whole and synced, and its name is synced before anybody
//! relies on it: before the log lets go of what it stands for, and before a leader is told that it
//! is there. What a crash leaves behind never has such a name.

use std::io;
use std::sync::Arc;

use super::file::{self, Pace, SnapshotFile, SnapshotHead, SnapshotSum};
use crate::state_machine::Frozen;
use crate::types::{LogId, Micros};
use crate::wal::Files;

const PREFIX: &str = "snap-";
/// What is being written here.
const WRITING: &str = "snap-writing.partial";
pub(super) const RECEIVING: &str = "snap-receiving-";
const PARTIAL: &str = ".partial";

/// The file name of the snapshot that ends with this entry.
pub(crate) fn name_of(last: LogId) -> String {
    format!("{PREFIX}{:016x}-{:012x}", last.index, last.term)
}

fn last_of(name: &str) -> Option<LogId> {
    let (index, term) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let last = LogId::new(number(term)?, number(index)?);
    (name_of(last) == name).then_some(last)
}

/// The name of a snapshot that is being received.
pub(super) fn partial_of(id: u128) -> String {
    format!("{RECEIVING}{id:032x}{PARTIAL}")
}

/// A snapshot that is on disk for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredSnapshot {
    pub(crate) last: LogId,
    /// Log time at its last entry, which the log itself may not hold.
    pub(crate) time_us: Micros,
    pub(crate) sum: SnapshotSum,
}

/// The files of snapshots among those of a log.
#[derive(Debug)]
pub(crate) struct SnapshotFolder<F> {
    files: Arc<F>,
}

impl<F> Clone for SnapshotFolder<F> {
    fn clone(&self) -> Self {
        let files = Arc::clone(&self.files);
        Self { files }
    }
}

impl<F: Files> SnapshotFolder<F> {
    pub(crate) fn new(files: &Arc<F>) -> Self {
        let files = Arc::clone(files);
        Self { files }
    }

    pub(crate) fn files(&self) -> &Arc<F> {
        &self.files
    }

    /// All snapshots by name, newest first.
    pub(crate) fn list(&self) -> io::Result<Vec<LogId>> {
        let names = self.files.list()?;
        let mut all: Vec<_> = names.iter().filter_map(|name| last_of(name)).collect();
        all.sort_by_key(|last| std::cmp::Reverse(last.index));
        Ok(all)
    }

    /// Removes what a crash left half written. What was being received stays: the transfer goes on.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        match self.files.remove(WRITING) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The first step of a new snapshot: everything is written, nothing synced.
    ///
    /// # Errors
    /// Those of the files and of the state; then nothing is left behind, as far as that is possible.
    pub(crate) fn write(
        &self,
        head: &SnapshotHead,
        state: Box<dyn Frozen>,
        pace: &mut Pace,
    ) -> io::Result<SnapshotSum> {
        self.sweep()?;
        let written = file::write(&*self.files, WRITING, head, state, pace);
        written.inspect_err(|_| {
            let _ = self.files.remove(WRITING);
        })
    }

    /// The second: what was written is synced.
    pub(crate) fn sync_written(&self) -> io::Result<()> {
        self.files.sync(WRITING)
    }

    /// The third: it gets its name.
    pub(crate) fn name_written(&self, last: LogId) -> io::Result<()> {
        self.files.rename(WRITING, &name_of(last))
    }

    /// The fourth: the name is synced. From now on it can be relied on.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        self.files.sync_dir()
    }

    /// Removes all that are older than this one.
    pub(crate) fn remove_older(&self, than: LogId) -> io::Result<()> {
        let mut gone = self.list()?;
        gone.retain(|last| last.index < than.index);
        gone.iter().try_for_each(|last| self.remove(*last))
    }

    /// Removes one.
    pub(crate) fn remove(&self, last: LogId) -> io::Result<()> {
        self.files.remove(&name_of(last))
    }

    /// Reads a part of one.
    pub(crate) fn read(&self, last: LogId, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.files.read(&name_of(last), offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Opens one for reading.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub(crate) fn open(&self, last: LogId) -> Result<SnapshotFile<F>, String> {
        let file = SnapshotFile::open(&self.files, &name_of(last))?;
        if file.head.last != last {
            return Err(format!("it holds {} by its head", file.head.last));
        }
        Ok(file)
    }

    /// Its length and hash, as it is on disk now.
    pub(crate) fn sum(&self, last: LogId) -> io::Result<SnapshotSum> {
        file::sum(&*self.files, &name_of(last))
    }

    /// The snapshot to start from: the newest that `restore` takes. `fits` says whether the log goes
    /// on from it; those that do not fit were received and never put in place, or superseded.
    /// `needed`: the log begins after an entry, so there must be one.
    ///
    /// # Errors
    /// If there is none and one is needed; the text says what to do.
    pub(crate) fn choose(
        &self,
        start: LogId,
        fits: impl Fn(LogId) -> bool,
        restore: impl FnMut(SnapshotFile<F>) -> Result<(), String>,
    ) -> Result<Option<StoredSnapshot>, String> {
        let swept = self.sweep();
        swept.map_err(|error| format!("reading the snapshots: {error}"))?;
        self.pick(start, fits, restore)
    }

    /// The same without a change to the folder.
    pub(crate) fn pick(
        &self,
        start: LogId,
        fits: impl Fn(LogId) -> bool,
        mut restore: impl FnMut(SnapshotFile<F>) -> Result<(), String>,
    ) -> Result<Option<StoredSnapshot>, String> {
        let io = |error: io::Error| format!("reading the snapshots: {error}");
        let mut troubles = Vec::new();
        for last in self.list().map_err(io)? {
            if last.index < start.index || !fits(last) {
                troubles.push(format!("{}: the log does not go on from it", name_of(last)));
                continue;
            }
            let restored = self.open(last).and_then(|file| {
                let time_us = file.head.time_us;
                restore(file).map(|()| time_us)
            });
            match restored {
                Ok(time_us) => {
                    let sum = self.sum(last).map_err(io)?;
                    return Ok(Some(StoredSnapshot { last, time_us, sum }));
                }
                Err(why) => {
                    tracing::error!(snapshot = name_of(last), why, "a snapshot is damaged");
                    troubles.push(format!("{}: {why}", name_of(last)));
                }
            }
        }
        if start == LogId::default() {
            return Ok(None);
        }
        if troubles.is_empty() {
            troubles.push("there is none".to_owned());
        }
        Err(format!(
            "the log in {} begins after entry {}, and no snapshot that covers it can be used ({}): \
             the state cannot be rebuilt here. Set this directory aside and replace the node, or \
             put the snapshot file back",
            self.files.place(),
            start.index,
            troubles.join("; ")
        ))
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;

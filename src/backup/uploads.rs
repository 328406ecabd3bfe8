//! Uploads that broke off: what came of them is kept for a while, so that their callers can go on.
//!
//! They are kept by the process alone. Each has a file of its own in the directory, under the name that
//! nobody reads, and goes with the process or at the next start.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};

use super::id::SnapshotId;
use super::pace::Job;
use super::pack::BackupLimits;
use super::store::{Listed, PARTIAL, SnapshotError, SnapshotStore};
use super::verify::invalid;
use super::write::{Partial, Sum};

/// Uploads that are kept at a time; one more pushes out the one that broke off first.
const KEPT: usize = 4;
/// Uploads of which it is remembered that they came to their end.
const FINISHED: usize = 16;
const BUFFER: usize = 256 << 10;

/// What a directory knows of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// What was announced.
    pub sum: Sum,
    /// Bytes that are there: where to go on.
    pub received: u64,
    /// It is being taken in just now.
    pub under_way: bool,
    /// It has come to its end, and this is the backup.
    pub finished: Option<Listed>,
}

/// All of one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploads(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    kept: BTreeMap<SnapshotId, Kept>,
    under_way: BTreeMap<SnapshotId, Sum>,
    finished: VecDeque<(SnapshotId, Sum, Listed)>,
}

#[derive(Debug)]
struct Kept {
    arrived: Arrived,
    since: Instant,
}

/// What has come of a file so far. File, hash and length are of the same bytes between two calls.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) partial: Partial,
    expected: Sum,
    hash: Hash,
    len: u64,
}

/// Has `Debug`, which the hash has too, but for its bytes.
struct Hash(Context);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash")
    }
}

impl Arrived {
    fn new(partial: Partial, expected: Sum) -> Self {
        Self {
            partial,
            expected,
            hash: Hash(Context::new(&SHA256)),
            len: 0,
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.partial.file
    }

    /// Writes what comes, which has to be the rest of what was announced.
    pub(super) fn take(&mut self, input: &mut dyn Read, job: &Job) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let got = input.read(&mut buffer)?;
            let piece = buffer.get(..got).unwrap_or_default();
            if got == 0 {
                break;
            }
            if self.len + got as u64 > self.expected.len {
                return Err(invalid("more came than was announced"));
            }
            (&self.partial.file).write_all(piece)?;
            self.hash.0.update(piece);
            self.len += got as u64;
            job.step(got)?;
        }
        // The hash goes on being one of everything that came, whatever becomes of this end.
        let sha256 = self.hash.0.clone().finish();
        if self.len != self.expected.len || sha256.as_ref() != self.expected.sha256 {
            return Err(invalid("what came is not what was announced"));
        }
        self.file().sync_all()
    }
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of `id` gives way to something else.
    pub(super) fn forget(&self, id: &SnapshotId) -> bool {
        let mut known = self.lock();
        known.finished.retain(|(finished, ..)| finished != id);
        known.kept.remove(id).is_some()
    }
}

impl SnapshotStore {
    /// What is known of the upload of a name; none if nothing is.
    pub fn upload(&self, id: &SnapshotId) -> Option<Upload> {
        self.forget_old_uploads();
        let known = self.uploads.lock();
        if let Some(kept) = known.kept.get(id) {
            return Some(Upload {
                sum: kept.arrived.expected,
                received: kept.arrived.len,
                under_way: false,
                finished: None,
            });
        }
        if let Some(sum) = known.under_way.get(id) {
            return Some(Upload {
                sum: *sum,
                received: 0,
                under_way: true,
                finished: None,
            });
        }
        let finished = known.finished.iter().find(|(finished, ..)| finished == id);
        finished.map(|(_, sum, listed)| Upload {
            sum: *sum,
            received: sum.len,
            under_way: false,
            finished: Some(listed.clone()),
        })
    }

    /// Removes the uploads that broke off longer ago than they are kept
    /// ([`BackupLimits::keep_uploads`](super::BackupLimits::keep_uploads)); every call that has to do with
    /// uploads does so too.
    pub fn forget_old_uploads(&self) {
        let keep = self.limits().keep_uploads;
        let mut known = self.uploads.lock();
        known.kept.retain(|_, kept| kept.since.elapsed() < keep);
    }

    /// A place for what comes: a new one, or that which it goes on from.
    pub(super) fn place(
        &self,
        id: &SnapshotId,
        from: u64,
        expected: Sum,
    ) -> Result<(Arrived, UnderWay), SnapshotError> {
        self.forget_old_uploads();
        let under_way = self.under_way(id, expected)?;
        let arrived = match from {
            0 => Arrived::new(self.begin(id, PARTIAL)?, expected),
            _ => self.go_on(id, from, expected)?,
        };
        Ok((arrived, under_way))
    }

    fn go_on(&self, id: &SnapshotId, from: u64, expected: Sum) -> Result<Arrived, SnapshotError> {
        let mut known = self.uploads.lock();
        let why = match known.kept.get(id).map(|kept| &kept.arrived) {
            None => "nothing of it is kept; begin at 0".to_owned(),
            Some(kept) if kept.expected != expected => {
                "what is kept of it is of another file; begin at 0, or use another id".to_owned()
            }
            Some(kept) if kept.len != from => {
                format!(
                    "{} bytes of it are kept, and that many come before",
                    kept.len
                )
            }
            Some(kept) => match kept.file().metadata() {
                Ok(metadata) if metadata.len() == kept.len => String::new(),
                _ => {
                    known.kept.remove(id);
                    "what was kept of it is damaged; begin at 0".to_owned()
                }
            },
        };
        match known.kept.remove(id) {
            Some(kept) if why.is_empty() => Ok(kept.arrived),
            other => {
                known.kept.extend(other.map(|kept| (id.clone(), kept)));
                Err(SnapshotError::NotGoneOn {
                    id: id.clone(),
                    why,
                })
            }
        }
    }

    fn under_way(&self, id: &SnapshotId, expected: Sum) -> Result<UnderWay, SnapshotError> {
        let mut known = self.uploads.lock();
        if known.under_way.contains_key(id) {
            return Err(SnapshotError::Exists(id.clone()));
        }
        known.under_way.insert(id.clone(), expected);
        Ok(UnderWay {
            id: id.clone(),
            expected,
            uploads: self.uploads.clone(),
            let_go: false,
        })
    }
}

/// Holds a name while a file comes in under it; let go of when this is dropped.
pub(super) struct UnderWay {
    id: SnapshotId,
    expected: Sum,
    uploads: Uploads,
    let_go: bool,
}

impl UnderWay {
    /// What came stays for a while. The name is free in the same moment, for whoever goes on.
    pub(super) fn broke_off(mut self, arrived: Arrived, limits: BackupLimits) {
        if arrived.len == 0 || limits.keep_uploads == Duration::ZERO {
            return drop(arrived);
        }
        let kept = Kept {
            arrived,
            since: Instant::now(),
        };
        let uploads = self.uploads.clone();
        let mut known = uploads.lock();
        self.let_go = known.under_way.remove(&self.id).is_some();
        known.kept.insert(self.id.clone(), kept);
        known.hold_limits(limits.max_bytes);
    }

    /// It came to its end.
    pub(super) fn finished(self, arrived: Arrived, listed: &Listed) {
        drop(arrived);
        let uploads = self.uploads.clone();
        let mut known = uploads.lock();
        known.finished.retain(|(id, ..)| *id != self.id);
        let finished = (self.id.clone(), self.expected, listed.clone());
        known.finished.push_back(finished);
        while known.finished.len() > FINISHED {
            known.finished.pop_front();
        }
        drop(known);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.let_go {
            self.uploads.lock().under_way.remove(&self.id);
        }
    }
}

impl Known {
    fn hold_limits(&mut self, max_bytes: u64) {
        let bytes = |kept: &BTreeMap<SnapshotId, Kept>| -> u64 {
            kept.values().map(|kept| kept.arrived.len).sum()
        };
        while self.kept.len() > KEPT || bytes(&self.kept) > max_bytes {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.since);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            self.kept.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[path = "uploads_tests.rs"]
mod tests;

//! The directory of snapshots.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::digest::{Context, SHA256};
use rustix::fs::OFlags;

use super::format::{HEAD_LEN, Head, SnapshotInfo};
use super::id::SnapshotId;
use super::pack::{BackupLimits, Compression};
use super::uploads::Uploads;
use super::verify::{Verified, verify};
use crate::state_machine::StateMachine;

pub(super) const SUFFIX: &str = ".snapshot";
pub(super) const PARTIAL: &str = ".partial";
pub(super) const PACKING: &str = ".packing";
const BUFFER: usize = 256 << 10;

/// Why an operation on snapshots failed. What was on disk before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no snapshot of this name.
    #[error("there is no snapshot {0}; list them to see their names")]
    NotFound(SnapshotId),
    /// There is one of this name, or one is being written.
    #[error("snapshot {0} exists already; choose another id or delete it first")]
    Exists(SnapshotId),
    /// The file is not what was written.
    #[error("snapshot {id} is damaged: {why}; delete it and make a new one")]
    Damaged {
        /// Which.
        id: SnapshotId,
        /// What is wrong.
        why: String,
    },
    /// An upload does not go on from what came of it before.
    #[error("the upload of snapshot {id} cannot go on there: {why}")]
    NotGoneOn {
        /// Which.
        id: SnapshotId,
        /// What is there, and what to do.
        why: String,
    },
    /// It exceeds a limit.
    #[error("snapshot {id} is refused: {why}")]
    TooLarge {
        /// Which.
        id: SnapshotId,
        /// Which limit.
        why: String,
    },
    /// Nobody waited for it any more.
    #[error("snapshot {0}: nobody waits for it any more")]
    Cancelled(SnapshotId),
    /// The disk is full.
    #[error("the disk of {dir} is full; free some space or delete snapshots, then try again")]
    Full {
        /// The directory of snapshots.
        dir: PathBuf,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// What could not be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file with the name of a snapshot that holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its name.
    pub id: SnapshotId,
    /// What is wrong.
    pub why: String,
}

/// A snapshot in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: SnapshotId,
    /// Bytes of its file.
    pub size: u64,
    /// What it holds.
    pub info: SnapshotInfo,
    /// How its state is compressed.
    pub compression: Compression,
}

/// What is in a directory of snapshots, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The snapshots.
    pub whole: Vec<Listed>,
    /// The files that only look like one.
    pub damaged: Vec<Damaged>,
}

/// A directory of snapshots.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    dir: PathBuf,
    limits: BackupLimits,
    pub(super) uploads: Uploads,
}

impl SnapshotStore {
    /// Opens the directory, making it if needed, and removes what a crash left half written.
    ///
    /// # Errors
    /// If it cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>, limits: BackupLimits) -> Result<Self, SnapshotError> {
        let store = Self {
            dir: dir.into(),
            limits,
            uploads: Uploads::default(),
        };
        fs::create_dir_all(&store.dir).map_err(|error| store.fail(&store.dir, error))?;
        for name in store.names()? {
            if name.ends_with(PARTIAL) || name.ends_with(PACKING) {
                let path = store.dir.join(&name);
                fs::remove_file(&path).map_err(|error| store.fail(&path, error))?;
            }
        }
        Ok(store)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The limits that it was opened with.
    pub fn limits(&self) -> BackupLimits {
        self.limits
    }

    /// All snapshots. Only the heads are read.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Listing, SnapshotError> {
        let mut list = Listing::default();
        for name in self.names()? {
            let Some(Ok(id)) = name.strip_suffix(SUFFIX).map(str::parse::<SnapshotId>) else {
                continue;
            };
            match self.open_file(&id) {
                Ok((_, head, size)) => list.whole.push(Listed {
                    id,
                    size,
                    info: head.info(),
                    compression: head.body().compression,
                }),
                // Deleted since the directory was read.
                Err(SnapshotError::NotFound(_)) => {}
                Err(SnapshotError::Damaged { id, why }) => {
                    list.damaged.push(Damaged { id, why });
                }
                Err(error) => list.damaged.push(Damaged {
                    id,
                    why: error.to_string(),
                }),
            }
        }
        list.whole.sort_by(|a, b| a.id.cmp(&b.id));
        list.damaged.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(list)
    }

    /// Opens a snapshot for reading, after its whole content was verified.
    ///
    /// # Errors
    /// If there is none of this name, or it is damaged.
    pub fn read(&self, id: &SnapshotId) -> Result<SnapshotReader, SnapshotError> {
        let (mut file, head, size) = self.open_file(id)?;
        let path = self.path(id, SUFFIX);
        let (crc, sha256) = hash_file(&mut file).map_err(|error| self.fail(&path, error))?;
        if crc != head.body().crc {
            return Err(SnapshotError::Damaged {
                id: id.clone(),
                why: "the checksum of its content does not match".to_owned(),
            });
        }
        Ok(SnapshotReader {
            file,
            size,
            sha256,
            info: head.info(),
        })
    }

    /// Reads a snapshot into `machine`, which is new, and checks everything.
    ///
    /// # Errors
    /// If there is none of this name, or it fails a check.
    pub fn verify<S: StateMachine>(
        &self,
        id: &SnapshotId,
        machine: S,
    ) -> Result<Verified<S>, SnapshotError> {
        let (mut file, _, _) = self.open_file(id)?;
        let verified = file.seek(SeekFrom::Start(0)).and_then(|_| {
            let mut input = io::BufReader::with_capacity(BUFFER, file);
            verify(&mut input, machine, self.limits)
        });
        verified.map_err(|error| self.explain(id, &self.path(id, SUFFIX), error))
    }

    /// When a snapshot's file was written.
    ///
    /// # Errors
    /// If there is none of this name, or the file system does not say.
    pub fn written(&self, id: &SnapshotId) -> Result<SystemTime, SnapshotError> {
        let path = self.path(id, SUFFIX);
        let written = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified());
        written.map_err(|error| self.explain(id, &path, error))
    }

    /// Removes a snapshot, and what is kept of an upload of this name. Who is reading it reads on
    /// undisturbed.
    ///
    /// # Errors
    /// If there is none of this name, or the file system refuses.
    pub fn delete(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        let path = self.path(id, SUFFIX);
        let kept = self.uploads.forget(id);
        match fs::remove_file(&path) {
            Ok(()) => self.sync_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound && kept => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SnapshotError::NotFound(id.clone()))
            }
            Err(error) => Err(self.fail(&path, error)),
        }
    }

    fn open_file(&self, id: &SnapshotId) -> Result<(File, Head, u64), SnapshotError> {
        let path = self.path(id, SUFFIX);
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => SnapshotError::NotFound(id.clone()),
            _ => self.fail(&path, error),
        };
        let damaged = |why: String| SnapshotError::Damaged {
            id: id.clone(),
            why,
        };
        // A symbolic link put here could name any file of the machine.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(damaged("it is no file".to_owned()));
        }
        let mut head = [0; HEAD_LEN];
        file.read_exact(&mut head)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => damaged("it is cut short".to_owned()),
                _ => fail(error),
            })?;
        let head = Head::open(&head).map_err(damaged)?;
        if head.body().len.checked_add(HEAD_LEN as u64) != Some(metadata.len()) {
            return Err(damaged("its length is not what its head says".to_owned()));
        }
        Ok((file, head, metadata.len()))
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let entries = fs::read_dir(&self.dir).map_err(|error| self.fail(&self.dir, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.fail(&self.dir, error))?;
            // What is not UTF-8 is none of ours.
            names.extend(entry.file_name().into_string().ok());
        }
        Ok(names)
    }

    pub(super) fn path(&self, id: &SnapshotId, suffix: &str) -> PathBuf {
        self.dir.join(format!("{id}{suffix}"))
    }

    pub(super) fn sync_dir(&self) -> Result<(), SnapshotError> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| self.fail(&self.dir, error))
    }

    /// What a failed step means for whoever asked.
    pub(super) fn explain(&self, id: &SnapshotId, path: &Path, error: io::Error) -> SnapshotError {
        let id = id.clone();
        match error.kind() {
            io::ErrorKind::AlreadyExists => SnapshotError::Exists(id),
            io::ErrorKind::NotFound => SnapshotError::NotFound(id),
            io::ErrorKind::ConnectionAborted => SnapshotError::Cancelled(id),
            io::ErrorKind::InvalidData => SnapshotError::Damaged {
                id,
                why: error.to_string(),
            },
            io::ErrorKind::FileTooLarge => SnapshotError::TooLarge {
                id,
                why: error.to_string(),
            },
            _ => self.fail(path, error),
        }
    }

    fn fail(&self, path: &Path, source: io::Error) -> SnapshotError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SnapshotError::Full {
                dir: self.dir.clone(),
            },
            _ => SnapshotError::Io {
                path: path.to_owned(),
                source,
            },
        }
    }
}

/// A verified snapshot, open for reading.
#[derive(Debug)]
pub struct SnapshotReader {
    file: File,
    size: u64,
    sha256: [u8; 32],
    info: SnapshotInfo,
}

impl SnapshotReader {
    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the whole file.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// What it holds.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// Up to `len` bytes of the file from `offset`; fewer only at its end.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn chunk(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(offset))?;
        let left = self.size.saturating_sub(offset).min(len as u64);
        let mut chunk = Vec::with_capacity(left as usize);
        (&mut self.file).take(left).read_to_end(&mut chunk)?;
        Ok(chunk)
    }
}

/// Checksum of what follows the head, and SHA-256 of everything.
fn hash_file(file: &mut File) -> io::Result<(u32, [u8; 32])> {
    file.seek(SeekFrom::Start(0))?;
    let mut head = [0; HEAD_LEN];
    file.read_exact(&mut head)?;
    let mut whole = Context::new(&SHA256);
    whole.update(&head);
    let mut body = crc32fast::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                let piece = buffer.get(..n).unwrap_or_default();
                whole.update(piece);
                body.update(piece);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(whole.finish().as_ref());
    Ok((body.finalize(), sha256))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

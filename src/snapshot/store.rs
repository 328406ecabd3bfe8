//! The directory of snapshots.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use rustix::fs::OFlags;
use zerocopy::IntoBytes;

use crate::state_machine::Frozen;

use super::format::{HEAD_LEN, Head, SnapshotInfo};
use super::id::SnapshotId;

const SUFFIX: &str = ".snapshot";
const PARTIAL: &str = ".partial";
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
}

impl SnapshotStore {
    /// Opens the directory, making it if needed, and removes what a crash left half written.
    ///
    /// # Errors
    /// If it cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        let store = Self { dir: dir.into() };
        fs::create_dir_all(&store.dir).map_err(|error| store.fail(&store.dir, error))?;
        for name in store.names()? {
            if name.ends_with(PARTIAL) {
                let path = store.dir.join(&name);
                fs::remove_file(&path).map_err(|error| store.fail(&path, error))?;
            }
        }
        Ok(store)
    }

    /// Writes a snapshot and returns it once it is on disk for certain.
    ///
    /// `check` reads back what was written and says what it holds, or why that is wrong: a backup
    /// that cannot be restored is none, and now is the time to learn it.
    ///
    /// # Errors
    /// If the name is taken, the disk refuses, or `check` does; then nothing is left behind.
    pub fn create(
        &self,
        id: &SnapshotId,
        state: Box<dyn Frozen>,
        check: impl FnOnce(&mut dyn Read) -> Result<SnapshotInfo, String>,
    ) -> Result<Listed, SnapshotError> {
        let (partial, path) = (self.path(id, PARTIAL), self.path(id, SUFFIX));
        if path.exists() {
            return Err(SnapshotError::Exists(id.clone()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(SnapshotError::Exists(id.clone()));
            }
            Err(error) => return Err(self.fail(&partial, error)),
        };
        let written = write_file(file, state, check).and_then(|done| {
            // A hard link refuses to replace what another call put there meanwhile; a rename
            // would not.
            fs::hard_link(&partial, &path)?;
            Ok(done)
        });
        let removed = fs::remove_file(&partial);
        match written {
            Ok((size, info)) => {
                removed.map_err(|error| self.fail(&partial, error))?;
                self.sync_dir()?;
                let id = id.clone();
                Ok(Listed { id, size, info })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(SnapshotError::Exists(id.clone()))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(SnapshotError::Damaged {
                    id: id.clone(),
                    why: error.to_string(),
                })
            }
            Err(error) => Err(self.fail(&partial, error)),
        }
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
        if crc != head.body_crc() {
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

    /// Removes a snapshot. Who is reading it reads on undisturbed.
    ///
    /// # Errors
    /// If there is none of this name, or the file system refuses.
    pub fn delete(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        let path = self.path(id, SUFFIX);
        match fs::remove_file(&path) {
            Ok(()) => self.sync_dir(),
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
        if head.body_len().checked_add(HEAD_LEN as u64) != Some(metadata.len()) {
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

    fn path(&self, id: &SnapshotId, suffix: &str) -> PathBuf {
        self.dir.join(format!("{id}{suffix}"))
    }

    fn sync_dir(&self) -> Result<(), SnapshotError> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| self.fail(&self.dir, error))
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

    /// A reader over the state as the state machine wrote it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn into_state(mut self) -> io::Result<impl Read> {
        self.file.seek(SeekFrom::Start(HEAD_LEN as u64))?;
        Ok(io::BufReader::with_capacity(BUFFER, self.file))
    }
}

fn write_file(
    mut file: File,
    state: Box<dyn Frozen>,
    check: impl FnOnce(&mut dyn Read) -> Result<SnapshotInfo, String>,
) -> io::Result<(u64, SnapshotInfo)> {
    file.write_all(&[0; HEAD_LEN])?;
    let mut body = Checked {
        out: BufWriter::with_capacity(BUFFER, file),
        crc: crc32fast::Hasher::new(),
        len: 0,
    };
    state.write(&mut body)?;
    body.out.flush()?;
    let Checked { out, crc, len } = body;
    let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(HEAD_LEN as u64))?;
    let mut written = io::BufReader::with_capacity(BUFFER, &file);
    let info =
        check(&mut written).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(Head::seal(&info, len, crc.finalize()).as_bytes())?;
    file.sync_all()?;
    Ok((len + HEAD_LEN as u64, info))
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

struct Checked<W> {
    out: W,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.crc.update(bytes.get(..n).unwrap_or_default());
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

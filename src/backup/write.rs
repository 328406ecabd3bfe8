//! What comes into the directory: a state of this node, or a file that a client has.
//!
//! Both are written under a name that nobody reads, synced, read back whole, and only then named.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zerocopy::IntoBytes;

use super::format::{Body, HEAD_LEN, Head, SnapshotInfo};
use super::id::SnapshotId;
use super::pace::Job;
use super::pack::{BackupLimits, Compression, compress, decompress, unwrap};
use super::store::{Listed, PACKING, PARTIAL, SUFFIX, SnapshotError, SnapshotStore};
use super::verify::{Verified, invalid, verify};
use crate::state_machine::{Frozen, StateMachine};

const BUFFER: usize = 256 << 10;

/// What is known of a file before it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Its bytes.
    pub len: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

impl SnapshotStore {
    /// Writes a snapshot and returns it once it is on disk for certain.
    ///
    /// `check` reads back what was written and says what it holds, or why that is wrong: a backup
    /// that cannot be restored is none, and now is the time to learn it. A state that shrinks so much
    /// that reading it back would be refused stays as it is.
    ///
    /// # Errors
    /// If the name is taken, the disk refuses, the job is cancelled, or `check` refuses; then nothing
    /// is left behind.
    pub fn create(
        &self,
        id: &SnapshotId,
        state: Box<dyn Frozen>,
        how: Compression,
        job: &Job,
        check: impl FnOnce(&mut dyn Read) -> Result<SnapshotInfo, String>,
    ) -> Result<Listed, SnapshotError> {
        let plain = self.begin(id, PARTIAL)?;
        let limits = self.limits();
        let (info, body) = write_state(&plain.file, state, job, limits, check)
            .map_err(|error| self.explain(id, &plain.path, error))?;
        if how == Compression::None {
            return self.name(id, plain, (info, body), job);
        }
        let packed = self.begin(id, PACKING)?;
        let smaller = pack(&plain.file, &packed.file, (&info, &body), how, job)
            .map_err(|error| self.explain(id, &packed.path, error))?;
        match limits.allow(smaller.state_len, smaller.len) {
            Ok(()) => self.name(id, packed, (info, smaller), job),
            Err(_) => self.name(id, plain, (info, body), job),
        }
    }

    /// Takes a file of a snapshot, which may have been compressed whole, and returns it once it is on
    /// disk for certain and everything in it was checked with `machine`, which is new.
    ///
    /// `from` is where `input` begins in the file: 0, or what [`upload`](Self::upload) says of a file that
    /// began to come before. What came before of another file of this name is never gone on from.
    ///
    /// # Errors
    /// If the name is taken, the disk refuses, the file is not what it should be, or `from` is not where
    /// what is kept of this very file ends; then nothing of this call is left behind. If it broke off
    /// ([`Cancelled`](SnapshotError::Cancelled)), what came is kept for a while, within bounds.
    pub fn receive<S: StateMachine>(
        &self,
        id: &SnapshotId,
        (from, input): (u64, &mut dyn Read),
        expected: Sum,
        job: &Job,
        machine: S,
    ) -> Result<(Listed, Verified<S>), SnapshotError> {
        let limits = self.limits();
        let path = self.path(id, PARTIAL);
        limits
            .allow(expected.len, expected.len)
            .map_err(|error| self.explain(id, &path, error))?;
        let (mut arrived, under_way) = self.place(id, from, expected)?;
        let taken = arrived.take(input, job);
        let taken = taken.map_err(|error| self.explain(id, &path, error));
        let taken = taken.and_then(|()| self.take_up(id, arrived.file(), job, machine));
        match &taken {
            Ok((listed, _)) => under_way.finished(arrived, listed),
            Err(SnapshotError::Cancelled(_)) => under_way.broke_off(arrived, limits),
            // Whoever begins anew when the name is free must find no file of this one.
            Err(_) => drop(arrived),
        }
        taken
    }

    /// Checks a file that has come whole, and gives it its name.
    fn take_up<S: StateMachine>(
        &self,
        id: &SnapshotId,
        arrived: &File,
        job: &Job,
        machine: S,
    ) -> Result<(Listed, Verified<S>), SnapshotError> {
        let (limits, path) = (self.limits(), self.path(id, PARTIAL));
        let explain = |error| self.explain(id, &path, error);
        let (how, plain) = unwrap(rewound(arrived).map_err(explain)?, limits).map_err(explain)?;
        let verified = match how {
            Compression::None => {
                drop(plain);
                let verified = check(arrived, machine, limits).map_err(explain)?;
                self.publish(id, &path, job)?;
                verified
            }
            _ => {
                let unpacked = self.begin(id, PACKING)?;
                copy(plain, &unpacked.file, job).map_err(explain)?;
                let verified = check(&unpacked.file, machine, limits).map_err(explain)?;
                self.publish(id, &unpacked.path, job)?;
                verified
            }
        };
        self.sync_dir()?;
        let listed = Listed {
            id: id.clone(),
            size: verified.size,
            info: verified.info.clone(),
            compression: verified.compression,
        };
        Ok((listed, verified))
    }

    pub(super) fn begin(&self, id: &SnapshotId, suffix: &str) -> Result<Partial, SnapshotError> {
        if self.path(id, SUFFIX).symlink_metadata().is_ok() {
            return Err(SnapshotError::Exists(id.clone()));
        }
        if suffix == PARTIAL {
            // What is kept of an upload gives way to whatever begins under its name.
            self.uploads.forget(id);
        }
        let path = self.path(id, suffix);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match file {
            Ok(file) => Ok(Partial { file, path }),
            Err(error) => Err(self.explain(id, &path, error)),
        }
    }

    /// Seals the head and gives the file its name.
    fn name(
        &self,
        id: &SnapshotId,
        partial: Partial,
        (info, body): (SnapshotInfo, Body),
        job: &Job,
    ) -> Result<Listed, SnapshotError> {
        let mut file = &partial.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(Head::seal(&info, &body).as_bytes()))
            .and_then(|()| file.sync_all())
            .map_err(|error| self.explain(id, &partial.path, error))?;
        self.publish(id, &partial.path, job)?;
        drop(partial);
        self.sync_dir()?;
        Ok(Listed {
            id: id.clone(),
            size: HEAD_LEN as u64 + body.len,
            info,
            compression: body.compression,
        })
    }

    /// Gives the file at `path` its name. Its directory is still to be synced.
    fn publish(&self, id: &SnapshotId, path: &Path, job: &Job) -> Result<(), SnapshotError> {
        // Checks take a while, and whoever went away meanwhile expects nothing of it.
        job.step(0).map_err(|error| self.explain(id, path, error))?;
        // A hard link refuses to replace what another call put there meanwhile; a rename would not.
        fs::hard_link(path, self.path(id, SUFFIX)).map_err(|error| self.explain(id, path, error))
    }
}

/// A file that is not named yet; removed when this is dropped.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: File,
    path: PathBuf,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // What stays is removed when the directory is opened again.
        let _ = fs::remove_file(&self.path);
    }
}

fn rewound(mut file: &File) -> io::Result<&File> {
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn body_of(mut file: &File) -> io::Result<&File> {
    file.seek(SeekFrom::Start(HEAD_LEN as u64))?;
    Ok(file)
}

fn write_state(
    mut file: &File,
    state: Box<dyn Frozen>,
    job: &Job,
    limits: BackupLimits,
    check: impl FnOnce(&mut dyn Read) -> Result<SnapshotInfo, String>,
) -> io::Result<(SnapshotInfo, Body)> {
    file.write_all(&[0; HEAD_LEN])?;
    let mut out = Checked::new(BufWriter::with_capacity(BUFFER, file), job);
    state.write(&mut out)?;
    out.flush()?;
    limits.allow(out.len, out.len)?;
    let body = Body {
        compression: Compression::None,
        len: out.len,
        state_len: out.len,
        crc: out.crc.finalize(),
    };
    let info = check(&mut BufReader::with_capacity(BUFFER, body_of(file)?)).map_err(invalid)?;
    Ok((info, body))
}

/// Writes the same snapshot anew, compressed, and reads it back.
fn pack(
    from: &File,
    mut into: &File,
    (info, plain): (&SnapshotInfo, &Body),
    how: Compression,
    job: &Job,
) -> io::Result<Body> {
    into.write_all(&[0; HEAD_LEN])?;
    let mut out = Checked::new(BufWriter::with_capacity(BUFFER, into), job);
    let mut state = BufReader::with_capacity(BUFFER, body_of(from)?);
    compress(how, &mut state, &mut out)?;
    out.flush()?;
    let body = Body {
        compression: how,
        len: out.len,
        state_len: plain.state_len,
        crc: out.crc.finalize(),
    };
    let unbounded = BackupLimits {
        max_bytes: u64::MAX,
        max_ratio: u64::MAX,
        ..BackupLimits::default()
    };
    let packed = BufReader::with_capacity(BUFFER, body_of(into)?);
    let mut again = Checked::new(io::sink(), job);
    io::copy(&mut decompress(how, packed, unbounded)?, &mut again)?;
    match (again.len, again.crc.finalize()) == (plain.state_len, plain.crc) {
        true => Ok(body),
        false => Err(invalid(format!(
            "what was compressed at index {} does not become what it was",
            info.applied.index
        ))),
    }
}

fn copy(mut from: impl Read, file: &File, job: &Job) -> io::Result<()> {
    let mut out = Checked::new(BufWriter::with_capacity(BUFFER, file), job);
    io::copy(&mut from, &mut out)?;
    out.flush()?;
    file.sync_all()
}

fn check<S: StateMachine>(
    file: &File,
    machine: S,
    limits: BackupLimits,
) -> io::Result<Verified<S>> {
    let mut input = BufReader::with_capacity(BUFFER, rewound(file)?);
    verify(&mut input, machine, limits)
}

/// Counts, sums up and paces what is written.
struct Checked<'a, W> {
    out: W,
    job: &'a Job,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<'a, W> Checked<'a, W> {
    fn new(out: W, job: &'a Job) -> Self {
        Self {
            out,
            job,
            crc: crc32fast::Hasher::new(),
            len: 0,
        }
    }
}

impl<W: Write> Write for Checked<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.crc.update(bytes.get(..n).unwrap_or_default());
        self.len += n as u64;
        self.job.step(n)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;

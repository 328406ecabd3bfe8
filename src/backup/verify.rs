//! Reading a backup whole, into a state machine that nobody uses: what passes can be restored.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::format::{HEAD_LEN, Head, SnapshotInfo};
use super::pack::{BackupLimits, Compression, decompress, unwrap};
use crate::core::FEATURES;
use crate::state_machine::{RestoreError, StateMachine};

/// A backup that passed every check.
#[derive(Debug)]
pub struct Verified<S> {
    /// What it holds.
    pub info: SnapshotInfo,
    /// How its state is compressed.
    pub compression: Compression,
    /// Bytes of its file, as a directory of backups has it.
    pub size: u64,
    /// The state.
    pub machine: S,
}

/// Reads a backup from a file, which may have been compressed whole, into `machine`, which is new.
///
/// # Errors
/// `InvalidData` if it is damaged, `FileTooLarge` if it exceeds the limits, else those of the file.
pub fn verify_file<S: StateMachine>(
    path: &Path,
    machine: S,
    limits: BackupLimits,
) -> io::Result<Verified<S>> {
    let (_, mut plain) = unwrap(File::open(path)?, limits)?;
    verify(&mut plain, machine, limits)
}

/// Reads a backup into `machine`, which is new.
///
/// # Errors
/// As [`verify_file`].
pub fn verify<S: StateMachine>(
    input: &mut dyn Read,
    mut machine: S,
    limits: BackupLimits,
) -> io::Result<Verified<S>> {
    let mut head = [0; HEAD_LEN];
    input.read_exact(&mut head).map_err(cut_short)?;
    let head = Head::open(&head).map_err(invalid)?;
    let (info, body) = (head.info(), head.body());
    if info.feature_level > FEATURES.1 {
        return Err(invalid(format!(
            "its cluster was at feature level {}, this program knows {}: use a newer one",
            info.feature_level, FEATURES.1
        )));
    }
    limits.allow(body.state_len, body.len)?;
    let mut packed = Hashed::new((&mut *input).take(body.len));
    let mut state = Hashed::new(decompress(body.compression, &mut packed, limits)?);
    let restored = machine.restore(&mut state);
    let rest = match &restored {
        Ok(()) => io::copy(&mut state, &mut io::sink()),
        Err(_) => Ok(0),
    };
    let state_len = state.len;
    drop(state);
    let drained = io::copy(&mut packed, &mut io::sink());
    // What is not what was written is called that, whatever the state machine made of it.
    if drained.is_ok() && (packed.len != body.len || packed.crc.finalize() != body.crc) {
        return Err(invalid("the checksum of its content does not match"));
    }
    restored.map_err(|error| match error {
        RestoreError::Io(error) => error,
        RestoreError::Invalid(why) => invalid(why),
    })?;
    if rest? > 0 || state_len != body.state_len || input.read(&mut [0])? > 0 {
        return Err(invalid("bytes are left over after its state"));
    }
    if machine.digest() != info.digest {
        return Err(invalid("its state has another digest than it says"));
    }
    Ok(Verified {
        info,
        compression: body.compression,
        size: HEAD_LEN as u64 + body.len,
        machine,
    })
}

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

pub(super) fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it is cut short"),
        _ => error,
    }
}

/// Counts and sums up what is read.
struct Hashed<R> {
    input: R,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<R> Hashed<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            crc: crc32fast::Hasher::new(),
            len: 0,
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(out)?;
        self.crc.update(out.get(..got).unwrap_or_default());
        self.len += got as u64;
        Ok(got)
    }
}

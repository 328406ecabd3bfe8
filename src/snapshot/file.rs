//! The snapshot of a replica: the file that stands for the front of its log.
//!
//! ```text
//! off size field
//!   0    8 magic "cnvyreps"
//!   8    4 format version
//!  12    4 bytes of the head, sections included: a multiple of 8
//!  16   16 cluster id
//!  32   16 genesis: the founder's incarnation
//!  48    8 index of the entry applied last
//!  56    8 its term
//!  64    8 its log time, microseconds
//!  72   16 digest of the state
//!  88    8 index of the configuration in force there
//!  96    4 sections
//! 100    4 crc-32 of the head without this field
//! 104      sections: kind u32, bytes u32, the bytes, zeros up to a multiple of 8
//!          the state, in chunks: bytes u32 (1 to 64 KiB), crc-32 of them u32, the bytes
//!          end: 0 u32, crc-32 of all chunks' bytes u32
//! ```
//! Integers are little-endian. Section 1 is the configuration, as in its log entry. Section 2 is a
//! u64: so many bytes of the state are the sessions of clients, which come first; it is left out
//! where there are none. The hash of a
//! file is SHA-256 over all of it; the first half names it between peers, so that the same state
//! written twice is the same snapshot.

use std::io::{self, Read, Write};

use ring::digest::{Context, SHA256};
use zerocopy::byteorder::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::state_machine::Frozen;
use crate::types::{ClusterId, Incarnation, LogId, LogIndex, Micros};
use crate::wal::Files;

/// The version of the file format that is written; others are refused.
pub(crate) const REPLICA_FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"cnvyreps";
const FIXED: usize = 104;
const CRC_AT: usize = 100;
const CHUNK: usize = 64 << 10;
const CHUNK_HEAD: usize = 8;
/// A configuration of a thousand members with the longest addresses.
const MAX_HEAD: usize = 4 << 20;
const CONFIGURATION: u32 = 1;
const SESSIONS: u32 = 2;
/// Read at once where a whole file is gone through.
const STRIDE: usize = 256 << 10;

/// What a snapshot says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    pub(crate) cluster: ClusterId,
    pub(crate) genesis: Incarnation,
    /// The entry applied last.
    pub(crate) last: LogId,
    pub(crate) time_us: Micros,
    pub(crate) digest: u128,
    /// Bytes of the sessions, before the machine's.
    pub(crate) session_bytes: u64,
    /// The configuration in force there, as in its entry, and the entry's index.
    pub(crate) configuration: (LogIndex, Vec<u8>),
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    head_len: U32,
    cluster: [u8; 16],
    genesis: [u8; 16],
    index: U64,
    term: U64,
    time_us: U64,
    digest: U128,
    configuration_index: U64,
    sections: U32,
    crc: U32,
}

const _: () = assert!(size_of::<Fixed>() == FIXED && FIXED.is_multiple_of(8));

impl SnapshotHead {
    fn encode(&self) -> Vec<u8> {
        let (configuration_index, payload) = &self.configuration;
        let mut head = vec![0; FIXED];
        put_section(&mut head, CONFIGURATION, payload);
        let has_sessions = self.session_bytes > 0;
        if has_sessions {
            put_section(&mut head, SESSIONS, &self.session_bytes.to_le_bytes());
        }
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(REPLICA_FORMAT),
            head_len: U32::new(head.len() as u32),
            cluster: self.cluster.0,
            genesis: self.genesis.0,
            index: U64::new(self.last.index),
            term: U64::new(self.last.term),
            time_us: U64::new(self.time_us),
            digest: U128::new(self.digest),
            configuration_index: U64::new(*configuration_index),
            sections: U32::new(1 + u32::from(has_sessions)),
            crc: U32::ZERO,
        };
        head[..FIXED].copy_from_slice(fixed.as_bytes());
        let crc = crc_of(&head);
        head[CRC_AT..FIXED].copy_from_slice(&crc.to_le_bytes());
        head
    }

    fn decode(head: &[u8]) -> Result<Self, String> {
        let (fixed, mut sections) = Fixed::read_from_prefix(head).map_err(|_| cut_off())?;
        if fixed.crc.get() != crc_of(head) {
            return Err("the checksum of its head does not match".to_owned());
        }
        let (mut configuration, mut session_bytes) = (None, 0);
        for _ in 0..fixed.sections.get() {
            let (kind, rest) = sections.split_first_chunk().ok_or_else(cut_off)?;
            let (len, rest) = rest.split_first_chunk().ok_or_else(cut_off)?;
            let len = u32::from_le_bytes(*len) as usize;
            let (body, rest) = rest.split_at_checked(len).ok_or_else(cut_off)?;
            let pad = len.next_multiple_of(8) - len;
            sections = rest.get(pad..).ok_or_else(cut_off)?;
            match u32::from_le_bytes(*kind) {
                CONFIGURATION => configuration = Some(body.to_vec()),
                SESSIONS => {
                    let bytes = body.try_into().map_err(|_| cut_off())?;
                    session_bytes = u64::from_le_bytes(bytes);
                }
                other => {
                    return Err(format!(
                        "it has a section of kind {other}, which this release cannot read"
                    ));
                }
            }
        }
        let configuration = configuration.ok_or("it holds no configuration")?;
        Ok(Self {
            cluster: ClusterId(fixed.cluster),
            genesis: Incarnation(fixed.genesis),
            last: LogId::new(fixed.term.get(), fixed.index.get()),
            time_us: fixed.time_us.get(),
            digest: fixed.digest.get(),
            session_bytes,
            configuration: (fixed.configuration_index.get(), configuration),
        })
    }
}

fn put_section(head: &mut Vec<u8>, kind: u32, body: &[u8]) {
    head.extend_from_slice(&kind.to_le_bytes());
    head.extend_from_slice(&(body.len() as u32).to_le_bytes());
    head.extend_from_slice(body);
    head.resize(head.len().next_multiple_of(8), 0);
}

fn cut_off() -> String {
    "its head is cut off".to_owned()
}

/// Over the head without the field that holds it.
fn crc_of(head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head.get(..CRC_AT).unwrap_or_default());
    crc.update(head.get(FIXED..).unwrap_or_default());
    crc.finalize()
}

/// A file as a whole: its length and its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotSum {
    pub(crate) len: u64,
    pub(crate) hash: [u8; 32],
}

impl SnapshotSum {
    /// What names the snapshot between peers.
    pub(crate) fn id(&self) -> u128 {
        let (half, _) = self.hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
        u128::from_le_bytes(*half)
    }
}

/// Told how much of a file was written, piece by piece: holds the writer up, or ends it by an error.
pub(crate) type Pace = dyn FnMut(usize) -> io::Result<()> + Send;

/// Writes head and state to the new file `name`. Nothing is synced.
///
/// # Errors
/// Those of the files, of the state and of `pace`.
pub(crate) fn write<F: Files>(
    files: &F,
    name: &str,
    head: &SnapshotHead,
    state: Box<dyn Frozen>,
    pace: &mut Pace,
) -> io::Result<SnapshotSum> {
    let mut out = ChunkWriter {
        files,
        name,
        pace,
        at: 0,
        whole: Context::new(&SHA256),
        body: Vec::with_capacity(CHUNK),
        all: crc32fast::Hasher::new(),
    };
    out.put(&head.encode())?;
    state.write(&mut out)?;
    out.finish()
}

struct ChunkWriter<'a, F> {
    files: &'a F,
    name: &'a str,
    pace: &'a mut Pace,
    at: u64,
    whole: Context,
    body: Vec<u8>,
    all: crc32fast::Hasher,
}

impl<F: Files> ChunkWriter<'_, F> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.files.write(self.name, self.at, bytes)?;
        self.whole.update(bytes);
        self.at += bytes.len() as u64;
        (self.pace)(bytes.len())
    }

    fn chunk(&mut self) -> io::Result<()> {
        let body = std::mem::take(&mut self.body);
        self.all.update(&body);
        let mut framed = Vec::with_capacity(CHUNK_HEAD + body.len());
        framed.extend_from_slice(&(body.len() as u32).to_le_bytes());
        framed.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        framed.extend_from_slice(&body);
        self.put(&framed)?;
        self.body = body;
        self.body.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<SnapshotSum> {
        if !self.body.is_empty() {
            self.chunk()?;
        }
        let mut end = [0; CHUNK_HEAD];
        let all = std::mem::take(&mut self.all).finalize();
        end[4..].copy_from_slice(&all.to_le_bytes());
        self.put(&end)?;
        Ok(SnapshotSum {
            len: self.at,
            hash: finished(self.whole),
        })
    }
}

impl<F: Files> Write for ChunkWriter<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(CHUNK - self.body.len());
        self.body
            .extend_from_slice(bytes.get(..fits).unwrap_or_default());
        if self.body.len() == CHUNK {
            self.chunk()?;
        }
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn finished(whole: Context) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(whole.finish().as_ref());
    hash
}

/// Length and hash of a file.
///
/// # Errors
/// Those of the files.
pub(crate) fn sum<F: Files>(files: &F, name: &str) -> io::Result<SnapshotSum> {
    let len = files.size(name)?;
    let mut whole = Context::new(&SHA256);
    let mut buffer = vec![0; STRIDE];
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(STRIDE as u64) as usize;
        let buffer = buffer.get_mut(..piece).unwrap_or_default();
        files.read(name, at, buffer)?;
        whole.update(buffer);
        at += piece as u64;
    }
    let hash = finished(whole);
    Ok(SnapshotSum { len, hash })
}

/// A snapshot open for reading: its head, and the state through [`Read`]. Nothing of the state is
/// given out before its chunk's checksum was verified.
pub(crate) struct SnapshotFile<F> {
    files: std::sync::Arc<F>,
    name: String,
    pub(crate) head: SnapshotHead,
    len: u64,
    at: u64,
    body: Vec<u8>,
    given: usize,
    all: crc32fast::Hasher,
    ended: bool,
}

impl<F: Files> SnapshotFile<F> {
    /// Opens `name` and reads its head.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub(crate) fn open(files: &std::sync::Arc<F>, name: &str) -> Result<Self, String> {
        let io = |error: io::Error| error.to_string();
        let len = files.size(name).map_err(io)?;
        if len < (FIXED + CHUNK_HEAD) as u64 {
            return Err("it is cut short".to_owned());
        }
        let mut fixed = [0; FIXED];
        files.read(name, 0, &mut fixed).map_err(io)?;
        let fixed: Fixed = zerocopy::transmute!(fixed);
        if fixed.magic != MAGIC {
            return Err("it is no snapshot".to_owned());
        }
        if fixed.version.get() != REPLICA_FORMAT {
            return Err(format!(
                "its format version is {}, this program reads {REPLICA_FORMAT}",
                fixed.version
            ));
        }
        let head_len = fixed.head_len.get() as usize;
        if !(FIXED..=MAX_HEAD).contains(&head_len) || head_len as u64 > len {
            return Err("the length of its head is wrong".to_owned());
        }
        let mut head = vec![0; head_len];
        files.read(name, 0, &mut head).map_err(io)?;
        Ok(Self {
            files: std::sync::Arc::clone(files),
            name: name.to_owned(),
            head: SnapshotHead::decode(&head)?,
            len,
            at: head_len as u64,
            body: Vec::new(),
            given: 0,
            all: crc32fast::Hasher::new(),
            ended: false,
        })
    }

    /// Whether all of it was read and nothing follows.
    pub(crate) fn is_read(&self) -> bool {
        self.ended && self.at == self.len && self.given == self.body.len()
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut head = [0; CHUNK_HEAD];
        self.files.read(&self.name, self.at, &mut head)?;
        self.at += CHUNK_HEAD as u64;
        let [a, b, c, d, e, f, g, h] = head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let crc = u32::from_le_bytes([e, f, g, h]);
        self.given = 0;
        self.body.clear();
        if len == 0 {
            self.ended = true;
            let all = std::mem::take(&mut self.all).finalize();
            return if all == crc { Ok(()) } else { Err(damaged()) };
        }
        if len > CHUNK {
            return Err(damaged());
        }
        self.body.resize(len, 0);
        self.files.read(&self.name, self.at, &mut self.body)?;
        self.at += len as u64;
        if crc32fast::hash(&self.body) != crc {
            return Err(damaged());
        }
        self.all.update(&self.body);
        Ok(())
    }
}

fn damaged() -> io::Error {
    let why = "the checksum of a snapshot's chunk does not match";
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<F: Files> Read for SnapshotFile<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.body.len() && !self.ended {
            self.fill()?;
        }
        let rest = self.body.get(self.given..).unwrap_or_default();
        let now = rest.len().min(out.len());
        let (to, from) = (out.get_mut(..now), rest.get(..now));
        if let (Some(to), Some(from)) = (to, from) {
            to.copy_from_slice(from);
        }
        self.given += now;
        Ok(now)
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;

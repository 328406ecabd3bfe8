//! The head of a snapshot file.
//!
//! ```text
//! off size field
//!   0    8 magic "cnvysnap"
//!   8    4 format version
//!  12    4 compression of the body: 0 none, 1 gzip, 2 zstd
//!  16   16 cluster id
//!  32    8 index of the entry applied last
//!  40    8 its term
//!  48    8 its log time, microseconds
//!  56   16 digest of the state
//!  72    8 sidecars
//!  80    8 groups
//!  88    8 bytes of the body
//!  96    8 bytes of the state, which the body is when it is decompressed
//! 104    4 feature level of the cluster
//! 108    4 0
//! 112    4 crc-32 of the body
//! 116    4 crc-32 of the bytes before
//! 120      body: the state as the state machine writes it
//! ```
//! Integers are little-endian. Nothing follows the body. Whoever compresses such a file whole makes
//! nothing else of it: what is read back is told by its first bytes.

use zerocopy::byteorder::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::pack::Compression;
use crate::types::{ClusterId, LogId, Micros};

/// The version of the file format that is written; others are refused.
pub const FORMAT_VERSION: u32 = 2;

pub(super) const HEAD_LEN: usize = 120;
const MAGIC: [u8; 8] = *b"cnvysnap";
const CRC_FROM: usize = 116;

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The cluster it was made in.
    pub cluster: ClusterId,
    /// The entry applied last.
    pub applied: LogId,
    /// Its log time, microseconds.
    pub time_us: Micros,
    /// Digest of the state.
    pub digest: u128,
    /// Sidecars in the state.
    pub sidecars: u64,
    /// Groups in the state.
    pub groups: u64,
    /// What the cluster's members had to understand.
    pub feature_level: u32,
}

/// The body of a snapshot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) compression: Compression,
    /// Bytes in the file.
    pub(super) len: u64,
    /// Bytes of the state.
    pub(super) state_len: u64,
    /// CRC-32 of the bytes in the file.
    pub(super) crc: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Head {
    magic: [u8; 8],
    version: U32,
    compression: U32,
    cluster: [u8; 16],
    index: U64,
    term: U64,
    time_us: U64,
    digest: U128,
    sidecars: U64,
    groups: U64,
    body_len: U64,
    state_len: U64,
    feature_level: U32,
    zero: U32,
    body_crc: U32,
    head_crc: U32,
}

const _: () = assert!(size_of::<Head>() == HEAD_LEN);

impl Head {
    pub(super) fn seal(info: &SnapshotInfo, body: &Body) -> Self {
        let mut head = Self {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            compression: U32::new(number(body.compression)),
            cluster: info.cluster.0,
            index: U64::new(info.applied.index),
            term: U64::new(info.applied.term),
            time_us: U64::new(info.time_us),
            digest: U128::new(info.digest),
            sidecars: U64::new(info.sidecars),
            groups: U64::new(info.groups),
            body_len: U64::new(body.len),
            state_len: U64::new(body.state_len),
            feature_level: U32::new(info.feature_level),
            zero: U32::ZERO,
            body_crc: U32::new(body.crc),
            head_crc: U32::ZERO,
        };
        head.head_crc = U32::new(head.crc());
        head
    }

    fn crc(&self) -> u32 {
        crc32fast::hash(&self.as_bytes()[..CRC_FROM])
    }

    /// # Errors
    /// What is wrong with the bytes, as a sentence.
    pub(super) fn open(bytes: &[u8; HEAD_LEN]) -> Result<Self, String> {
        let head = Self::read_from_bytes(bytes).map_err(|_| "the head is incomplete".to_owned())?;
        if head.magic != MAGIC {
            return Err("it is no snapshot".to_owned());
        }
        if head.head_crc.get() != head.crc() {
            return Err("the checksum of its head does not match".to_owned());
        }
        if head.version.get() != FORMAT_VERSION {
            return Err(format!(
                "its format version is {}, this program reads {FORMAT_VERSION}",
                head.version
            ));
        }
        if head.zero.get() != 0 || compression(head.compression.get()).is_none() {
            return Err("it is compressed in a way that this program does not know".to_owned());
        }
        Ok(head)
    }

    pub(super) fn body(&self) -> Body {
        Body {
            compression: compression(self.compression.get()).unwrap_or_default(),
            len: self.body_len.get(),
            state_len: self.state_len.get(),
            crc: self.body_crc.get(),
        }
    }

    pub(super) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            cluster: ClusterId(self.cluster),
            applied: LogId::new(self.term.get(), self.index.get()),
            time_us: self.time_us.get(),
            digest: self.digest.get(),
            sidecars: self.sidecars.get(),
            groups: self.groups.get(),
            feature_level: self.feature_level.get(),
        }
    }
}

fn number(how: Compression) -> u32 {
    match how {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Zstd => 2,
    }
}

fn compression(number: u32) -> Option<Compression> {
    [Compression::None, Compression::Gzip, Compression::Zstd]
        .into_iter()
        .find(|how| self::number(*how) == number)
}

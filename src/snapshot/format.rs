//! The head of a snapshot file.
//!
//! ```text
//! off size field
//!   0    8 magic "cnvysnap"
//!   8    4 format version
//!  12    4 0
//!  16   16 cluster id
//!  32    8 index of the entry applied last
//!  40    8 its term
//!  48    8 its log time, microseconds
//!  56   16 digest of the state
//!  72    8 sidecars
//!  80    8 groups
//!  88    8 bytes of the body
//!  96    4 crc-32 of the body
//! 100    4 crc-32 of the bytes before
//! 104      body: the state as the state machine writes it
//! ```
//! Integers are little-endian.

use zerocopy::byteorder::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::types::{ClusterId, LogId, Micros};

/// The version of the file format that is written; others are refused.
pub const FORMAT_VERSION: u32 = 1;

pub(super) const HEAD_LEN: usize = 104;
const MAGIC: [u8; 8] = *b"cnvysnap";
const CRC_FROM: usize = 100;

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
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Head {
    magic: [u8; 8],
    version: U32,
    zero: U32,
    cluster: [u8; 16],
    index: U64,
    term: U64,
    time_us: U64,
    digest: U128,
    sidecars: U64,
    groups: U64,
    body_len: U64,
    body_crc: U32,
    head_crc: U32,
}

const _: () = assert!(size_of::<Head>() == HEAD_LEN);

impl Head {
    pub(super) fn seal(info: &SnapshotInfo, body_len: u64, body_crc: u32) -> Self {
        let mut head = Self {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            zero: U32::ZERO,
            cluster: info.cluster.0,
            index: U64::new(info.applied.index),
            term: U64::new(info.applied.term),
            time_us: U64::new(info.time_us),
            digest: U128::new(info.digest),
            sidecars: U64::new(info.sidecars),
            groups: U64::new(info.groups),
            body_len: U64::new(body_len),
            body_crc: U32::new(body_crc),
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
        if head.version.get() != FORMAT_VERSION || head.zero.get() != 0 {
            return Err(format!(
                "its format version is {}, this program reads {FORMAT_VERSION}",
                head.version
            ));
        }
        Ok(head)
    }

    pub(super) fn body_len(&self) -> u64 {
        self.body_len.get()
    }

    pub(super) fn body_crc(&self) -> u32 {
        self.body_crc.get()
    }

    pub(super) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            cluster: ClusterId(self.cluster),
            applied: LogId::new(self.term.get(), self.index.get()),
            time_us: self.time_us.get(),
            digest: self.digest.get(),
            sidecars: self.sidecars.get(),
            groups: self.groups.get(),
        }
    }
}

//! The bytes of META, HINT, segment headers and batch headers. Little-endian throughout.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::types::{ClusterId, HardState, Incarnation, LogId, LogIndex, ReplicaId};

/// Format version of all files of a log.
pub(crate) const VERSION: u16 = 1;
pub(crate) const META_FILE: &str = "META";
pub(crate) const HINT_FILE: &str = "HINT";
pub(crate) const LOCK_FILE: &str = "LOCK";

const META_MAGIC: [u8; 8] = *b"cnvrMETA";
const SEGMENT_MAGIC: [u8; 8] = *b"cnvrSEGM";
const HINT_MAGIC: [u8; 8] = *b"cnvrHINT";
/// First bytes of a closed batch.
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"cnvB");

/// Distance of META's two slots: no unit of writing is larger, so that none touches both.
pub(crate) const META_STRIDE: u64 = 64 << 10;
/// Bytes of META written at once for a slot.
pub(crate) const META_SLOT: usize = 4096;
/// Bytes of a batch header.
pub(crate) const BATCH_HEADER: usize = 64;
/// Smallest unit of writing.
pub(crate) const MIN_UNIT: u32 = 4096;
/// Largest unit of writing.
pub(crate) const MAX_UNIT: u32 = 64 << 10;

/// A place in the log's bytes: segment number and offset. Never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    pub(crate) const fn new(segment: u64, offset: u32) -> Self {
        Self(segment << 32 | offset as u64)
    }

    pub(crate) const fn segment(self) -> u64 {
        self.0 >> 32
    }

    pub(crate) const fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}:{}", self.segment(), self.offset())
    }
}

pub(crate) fn segment_name(seq: u64) -> String {
    format!("seg-{seq:016x}.wal")
}

pub(crate) fn pool_name(seq: u64) -> String {
    format!("pool-{seq:016x}.wal")
}

/// The number in a segment's or pool file's name.
pub(crate) fn parse_name(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".wal")?;
    let canonical = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let seq = u64::from_str_radix(digits, 16).ok()?;
    (canonical && seq >> 32 == 0).then_some(seq)
}

/// META's flag that the log lost entries which may have been acknowledged.
const META_REPAIRING: u32 = 1;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct MetaSlot {
    magic: [u8; 8],
    crc: U32,
    version: U16,
    reserved: U16,
    pub(crate) log_id: [u8; 16],
    pub(crate) cluster: [u8; 16],
    pub(crate) node: U64,
    pub(crate) seq: U64,
    pub(crate) term: U64,
    pub(crate) voted_node: U64,
    pub(crate) voted_incarnation: [u8; 16],
    pub(crate) start_index: U64,
    pub(crate) start_term: U64,
    pub(crate) next_segment: U64,
    pub(crate) repair_index: U64,
    pub(crate) repair_term: U64,
    pub(crate) boot_id: [u8; 16],
    pub(crate) clean_end: U64,
    pub(crate) secret: [u8; 16],
    pub(crate) genesis: [u8; 16],
    pub(crate) election_timeout_ms: U32,
    pub(crate) flags: U32,
    spare: [u8; 8],
    pub(crate) reset_key: [u8; 32],
    spare_too: [u8; 16],
}

const _: () = assert!(size_of::<MetaSlot>() == 256);

/// What a slot of META, or another small checksummed record, holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<T> {
    Valid(T),
    /// Valid but for its version.
    Newer(u16),
    Damaged,
}

impl MetaSlot {
    pub(crate) fn fresh(log_id: Incarnation, cluster: ClusterId, node: u64) -> Self {
        let mut slot = Self::new_zeroed_slot();
        slot.log_id = log_id.0;
        slot.cluster = cluster.0;
        slot.node = U64::new(node);
        slot.next_segment = U64::new(1);
        slot
    }

    fn new_zeroed_slot() -> Self {
        let mut slot: Self = zerocopy::FromZeros::new_zeroed();
        slot.magic = META_MAGIC;
        slot.version = U16::new(VERSION);
        slot
    }

    /// The bytes of a whole slot, checksum included.
    pub(crate) fn to_bytes(self) -> [u8; META_SLOT] {
        let mut sealed = self;
        sealed.crc = U32::new(crc32fast::hash(&self.as_bytes()[12..]));
        let mut bytes = [0; META_SLOT];
        bytes[..size_of::<Self>()].copy_from_slice(sealed.as_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Record<Self> {
        let Ok((slot, _)) = Self::read_from_prefix(bytes) else {
            return Record::Damaged;
        };
        let whole =
            slot.magic == META_MAGIC && slot.crc.get() == crc32fast::hash(&slot.as_bytes()[12..]);
        match (whole, slot.version.get()) {
            (false, _) => Record::Damaged,
            (true, VERSION) => Record::Valid(slot),
            (true, version) => Record::Newer(version),
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState {
            term: self.term.get(),
            voted_for: ReplicaId::new(self.voted_node.get(), Incarnation(self.voted_incarnation)),
        }
    }

    pub(crate) fn set_hard_state(&mut self, state: HardState) {
        self.term = U64::new(state.term);
        self.voted_node = U64::new(state.voted_for.node);
        self.voted_incarnation = state.voted_for.incarnation.0;
    }

    pub(crate) fn repairing(&self) -> bool {
        self.flags.get() & META_REPAIRING != 0
    }

    /// Sets or clears the flag, with the floor that the repair ends at: 0.0 while it is not known.
    pub(crate) fn set_repairing(&mut self, floor: Option<LogId>) {
        let others = self.flags.get() & !META_REPAIRING;
        let flag = if floor.is_some() { META_REPAIRING } else { 0 };
        self.flags = U32::new(others | flag);
        let floor = floor.unwrap_or_default();
        self.repair_index = U64::new(floor.index);
        self.repair_term = U64::new(floor.term);
    }

    pub(crate) fn repair_floor(&self) -> LogId {
        LogId::new(self.repair_term.get(), self.repair_index.get())
    }

    pub(crate) fn start(&self) -> LogId {
        LogId::new(self.start_term.get(), self.start_index.get())
    }

    pub(crate) fn set_start(&mut self, start: LogId) {
        self.start_index = U64::new(start.index);
        self.start_term = U64::new(start.term);
    }
}

/// Lower bounds of things that never fall, and whether the log failed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct HintRecord {
    magic: [u8; 8],
    crc: U32,
    version: U16,
    pub(crate) poisoned: U16,
    pub(crate) log_id: [u8; 16],
    pub(crate) durable: U64,
    pub(crate) commit: U64,
    spare: [u8; 16],
}

const _: () = assert!(size_of::<HintRecord>() == 64);

impl HintRecord {
    pub(crate) fn new(log_id: [u8; 16], durable: Lsn, commit: LogIndex, poisoned: bool) -> Self {
        Self {
            magic: HINT_MAGIC,
            crc: U32::ZERO,
            version: U16::new(VERSION),
            poisoned: U16::new(u16::from(poisoned)),
            log_id,
            durable: U64::new(durable.0),
            commit: U64::new(commit),
            spare: [0; 16],
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; META_SLOT] {
        let mut sealed = self;
        sealed.crc = U32::new(crc32fast::hash(&self.as_bytes()[12..]));
        let mut bytes = [0; META_SLOT];
        bytes[..size_of::<Self>()].copy_from_slice(sealed.as_bytes());
        bytes
    }

    /// A hint that is not whole, or another log's, is no hint.
    pub(crate) fn parse(bytes: &[u8], log_id: &[u8; 16]) -> Option<Self> {
        let (hint, _) = Self::read_from_prefix(bytes).ok()?;
        let whole = hint.magic == HINT_MAGIC
            && hint.version.get() == VERSION
            && hint.crc.get() == crc32fast::hash(&hint.as_bytes()[12..]);
        (whole && hint.log_id == *log_id).then_some(hint)
    }
}

/// The segment's flag that everything before it is void.
pub(crate) const SEGMENT_RESET: u16 = 1;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    magic: [u8; 8],
    crc: U32,
    version: U16,
    pub(crate) flags: U16,
    pub(crate) unit: U32,
    reserved: U32,
    pub(crate) log_id: [u8; 16],
    pub(crate) segment_seq: U64,
    pub(crate) segment_size: U64,
    pub(crate) base_index: U64,
    pub(crate) first_batch_seq: U64,
    pub(crate) prev_segment_seq: U64,
    pub(crate) prev_end_lsn: U64,
    pub(crate) prev_last_index: U64,
    pub(crate) prev_last_term: U64,
    pub(crate) prev_batch_crc: U32,
    reserved_too: U32,
    pub(crate) synced_upto: U64,
    spare: U64,
}

const _: () = assert!(size_of::<SegmentHeader>() == 128);

/// What a segment header says beside its own constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentStart {
    pub(crate) reset: bool,
    pub(crate) unit: u32,
    pub(crate) log_id: [u8; 16],
    pub(crate) seq: u64,
    pub(crate) size: u64,
    pub(crate) first_batch_seq: u64,
    pub(crate) prev_segment: u64,
    pub(crate) prev_end: Lsn,
    pub(crate) prev_last: LogId,
    pub(crate) prev_batch_crc: u32,
    pub(crate) synced_upto: Lsn,
}

impl SegmentHeader {
    pub(crate) fn new(start: &SegmentStart) -> Self {
        let mut header = Self {
            magic: SEGMENT_MAGIC,
            crc: U32::ZERO,
            version: U16::new(VERSION),
            flags: U16::new(if start.reset { SEGMENT_RESET } else { 0 }),
            unit: U32::new(start.unit),
            reserved: U32::ZERO,
            log_id: start.log_id,
            segment_seq: U64::new(start.seq),
            segment_size: U64::new(start.size),
            base_index: U64::new(start.prev_last.index + 1),
            first_batch_seq: U64::new(start.first_batch_seq),
            prev_segment_seq: U64::new(start.prev_segment),
            prev_end_lsn: U64::new(start.prev_end.0),
            prev_last_index: U64::new(start.prev_last.index),
            prev_last_term: U64::new(start.prev_last.term),
            prev_batch_crc: U32::new(start.prev_batch_crc),
            reserved_too: U32::ZERO,
            synced_upto: U64::new(start.synced_upto.0),
            spare: U64::ZERO,
        };
        header.crc = U32::new(crc32fast::hash(&header.as_bytes()[12..]));
        header
    }

    pub(crate) fn parse(bytes: &[u8]) -> Record<Self> {
        let Ok((header, _)) = Self::read_from_prefix(bytes) else {
            return Record::Damaged;
        };
        let whole = header.magic == SEGMENT_MAGIC
            && header.crc.get() == crc32fast::hash(&header.as_bytes()[12..]);
        let unit = header.unit.get();
        let sane = unit.is_power_of_two() && (MIN_UNIT..=MAX_UNIT).contains(&unit);
        match (whole && sane, header.version.get()) {
            (true, VERSION) => Record::Valid(header),
            (true, version) => Record::Newer(version),
            (false, _) => Record::Damaged,
        }
    }

    pub(crate) fn reset(&self) -> bool {
        self.flags.get() & SEGMENT_RESET != 0
    }

    pub(crate) fn prev_last(&self) -> LogId {
        LogId::new(self.prev_last_term.get(), self.prev_last_index.get())
    }

    /// Where batches begin: behind both copies of this header.
    pub(crate) fn data_start(&self) -> u32 {
        2 * self.unit.get()
    }
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BatchKind {
    /// Entries, or with none of them a truncation.
    Entries = 0,
    /// Says what is durable, nothing more.
    Mark = 1,
    /// Ends a segment.
    Seal = 2,
}

impl BatchKind {
    pub(crate) fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Entries),
            1 => Some(Self::Mark),
            2 => Some(Self::Seal),
            _ => None,
        }
    }
}

/// The batch's flag that it drops a suffix first.
pub(crate) const BATCH_TRUNCATES: u8 = 1;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BatchHeader {
    magic: U32,
    crc: U32,
    pub(crate) segment_seq: U64,
    pub(crate) batch_seq: U64,
    pub(crate) synced_upto: U64,
    pub(crate) first_index: U64,
    pub(crate) commit_hint: U64,
    pub(crate) body_len: U32,
    pub(crate) entry_count: U32,
    pub(crate) body_crc: U32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    reserved: U16,
}

const _: () = assert!(size_of::<BatchHeader>() == BATCH_HEADER);

/// What a batch header says beside its own constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFacts {
    pub(crate) batch_seq: u64,
    pub(crate) synced_upto: Lsn,
    pub(crate) first_index: LogIndex,
    pub(crate) commit_hint: LogIndex,
    pub(crate) body_len: u32,
    pub(crate) entry_count: u32,
    pub(crate) body_crc: u32,
    pub(crate) kind: BatchKind,
    pub(crate) truncates: bool,
}

impl BatchHeader {
    /// A header at `at`, sealed with the log's secret: neither an old life of the segment, nor a
    /// misplaced write, nor a payload made to look like a header has the same checksum.
    pub(crate) fn seal(facts: &BatchFacts, at: Lsn, secret: &[u8; 16]) -> Self {
        let mut header = Self {
            magic: U32::new(BATCH_MAGIC),
            crc: U32::ZERO,
            segment_seq: U64::new(at.segment()),
            batch_seq: U64::new(facts.batch_seq),
            synced_upto: U64::new(facts.synced_upto.0),
            first_index: U64::new(facts.first_index),
            commit_hint: U64::new(facts.commit_hint),
            body_len: U32::new(facts.body_len),
            entry_count: U32::new(facts.entry_count),
            body_crc: U32::new(facts.body_crc),
            kind: facts.kind as u8,
            flags: if facts.truncates { BATCH_TRUNCATES } else { 0 },
            reserved: U16::ZERO,
        };
        header.crc = U32::new(header.seeded_crc(at, secret));
        header
    }

    /// The header at `at`, if it is one of this log and was written for this very place.
    pub(crate) fn parse(bytes: &[u8], at: Lsn, secret: &[u8; 16]) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        let valid = header.magic.get() == BATCH_MAGIC
            && header.segment_seq.get() == at.segment()
            && header.crc.get() == header.seeded_crc(at, secret);
        valid.then_some(header)
    }

    fn seeded_crc(&self, at: Lsn, secret: &[u8; 16]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(secret);
        crc.update(&at.0.to_le_bytes());
        crc.update(&self.as_bytes()[8..]);
        crc.finalize()
    }

    pub(crate) fn crc(&self) -> u32 {
        self.crc.get()
    }

    pub(crate) fn kind(&self) -> Option<BatchKind> {
        BatchKind::from_u8(self.kind)
    }

    pub(crate) fn truncates(&self) -> bool {
        self.flags & BATCH_TRUNCATES != 0
    }

    pub(crate) fn synced_upto(&self) -> Lsn {
        Lsn(self.synced_upto.get())
    }
}

/// Whether these first bytes of a batch look like those of one that was closed in segment `seq`,
/// whatever its checksum says.
pub(crate) fn looks_closed(bytes: &[u8], seq: u64) -> bool {
    bytes.get(..4) == Some(&BATCH_MAGIC.to_le_bytes())
        && bytes.get(8..16) == Some(&seq.to_le_bytes())
}

//! The write-ahead log: a segmented, memory-mapped, append-only log of Raft entries, and a small
//! META file for term, vote and log start.
//!
//! Entries are stored exactly as they travel: a follower writes the very bytes, checksum included,
//! that the leader wrote. [`LogStorage`] is a synchronous struct over a small seam ([`Medium`]):
//! files, mapped regions, and lanes on which blocking work runs. [`MappedDir`] is the real thing;
//! [`Memory`] keeps a cache image and a durable image, so that a test can crash it.
//!
//! What the log promises:
//!
//! * A write is reported durable only after the sync that covers it has returned.
//! * One sync is in flight at a time; everything that gathered meanwhile goes with the next one.
//! * What is appended can be read at once, as [`bytes::Bytes`] over the mapping, without a copy.
//! * The first error of a sync or a file operation is final: the log is poisoned, nothing is
//!   retried, and after a restart everything beyond the last proven sync is written anew.
//! * A torn tail that was never acknowledged is dropped; damage below anything proven durable is
//!   refused with its evidence, never truncated.
//!
//! The byte layouts are drawn in `docs/wal-format.md`.

mod error;
mod flush;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub mod fuzz;
mod hint;
mod index;
mod inspect;
mod judge;
mod lanes;
mod layout;
mod log;
mod map;
mod mapped;
mod medium;
mod memory;
mod meta;
mod options;
mod prepare;
mod published;
mod read;
mod readonly;
mod recovery;
mod repair;
mod rewrite;
mod room;
mod scan;
mod still;
mod sync;
mod tail;
mod through;
mod trim;
mod verify;
mod write;

#[cfg(test)]
mod tests;

pub use error::{Damage, LogFailure, OpenError, ReadError, RepairError, WriteError};
pub use inspect::{
    BatchItem, EntryItem, HeaderItem, HintItem, Item, MetaItem, SegmentItem, StopItem, inspect,
};
pub use log::LogStorage;
pub use map::Mapping;
pub use mapped::{DirFiles, MappedDir};

pub use medium::{EventSink, Files, Lane, Medium, MediumEvent, Task};
pub use memory::{Crash, Memory, MemoryDisk, Stepper, SyncFault};
pub use options::{LogCounters, LogIdentity, LogOptions, SyncPolicy, WriteMode};
pub use read::Runs;
pub use readonly::DirReader;
pub use repair::{RepairPlan, plan_repair, repair};
pub use room::DiskRoom;
pub(crate) use still::StillLog;
pub use verify::{LogEnd, Verified, VerifiedSegment, verify};
pub use write::{Append, NewEntry, Write};

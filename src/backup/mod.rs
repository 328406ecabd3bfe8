//! Backups: files that hold a state, one per snapshot, and what is restored from them.
//!
//! A file appears under its name, a [`SnapshotId`], only when it is whole, synced and was read back; what
//! a crash leaves behind is removed when the directory is opened again. `format` draws the bytes, `store`
//! is the directory, `write` what comes into it, `pack` has the compression, `verify` the checks, and
//! [`Verified::found`] makes another cluster of a backup. Calls here block: run them on a thread that may.
//!
//! A backup holds the state and nothing of its cluster but the id: no log, no members, no sessions. What is
//! restored from it is another cluster, so that its history and the old one's never meet (hazard J1).

mod automatic;
mod format;
mod id;
mod pace;
mod pack;
mod restore;
mod store;
mod uploads;
mod verify;
mod write;

pub use automatic::{Automatic, outdated};
pub use format::{FORMAT_VERSION, SnapshotInfo};
pub use id::{SnapshotId, SnapshotIdError};
pub use pace::{CancelOnDrop, Job};
pub use pack::{BackupLimits, Compression};
pub use restore::{RestoreError, Waiting, restored_directory, take_up};
pub use store::{Damaged, Listed, Listing, SnapshotError, SnapshotReader, SnapshotStore};
pub use uploads::Upload;
pub use verify::{Verified, verify, verify_file};
pub use write::Sum;

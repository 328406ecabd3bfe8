//! Backups on disk: one file per snapshot, checksummed, named by a [`SnapshotId`].
//!
//! A file appears under its name only when it is whole and synced; what a crash leaves behind ends
//! in `.partial` and is removed when the directory is opened again. Calls here block: run them on a
//! thread that may.

mod format;
mod id;
mod store;

pub use format::{FORMAT_VERSION, SnapshotInfo};
pub use id::{SnapshotId, SnapshotIdError};
pub use store::{Damaged, Listed, Listing, SnapshotError, SnapshotReader, SnapshotStore};

//! Files that hold a state: backups, and the snapshots of a replica.
//!
//! # Backups
//! One file per snapshot, checksummed, named by a [`SnapshotId`]. A file appears under its name only
//! when it is whole and synced; what a crash leaves behind ends in `.partial` and is removed when the
//! directory is opened again. Calls here block: run them on a thread that may.
//!
//! # Snapshots of a replica
//! They stand for the front of its log, beside which they are kept and through whose files they are
//! written, so that a simulation can crash them too. `file` draws the bytes, `folder` has the order
//! of steps, `partial` what comes from a peer.

mod file;
mod folder;
mod format;
mod id;
mod options;
mod partial;
mod store;

pub(crate) use file::{Pace, REPLICA_FORMAT, SnapshotFile, SnapshotHead, SnapshotSum};
pub(crate) use folder::{SnapshotFolder, StoredSnapshot};
pub use format::{FORMAT_VERSION, SnapshotInfo};
pub use id::{SnapshotId, SnapshotIdError};
pub use options::SnapshotOptions;
pub(crate) use partial::{Offered, Receiver, Taken};
pub use store::{Damaged, Listed, Listing, SnapshotError, SnapshotReader, SnapshotStore};

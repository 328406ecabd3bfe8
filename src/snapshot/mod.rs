//! Snapshots of a replica.
//!
//! They stand for the front of its log, beside which they are kept and through whose files they are
//! written, so that a simulation can crash them too. `file` draws the bytes, `folder` has the order
//! of steps, `partial` what comes from a peer.

mod file;
mod folder;
mod options;
mod partial;

pub(crate) use file::{Pace, REPLICA_FORMAT, SnapshotFile, SnapshotHead, SnapshotSum};
pub(crate) use folder::{SnapshotFolder, StoredSnapshot};
pub use options::SnapshotOptions;
pub(crate) use partial::{Offered, Receiver, Taken};

//! Another cluster out of a backup.
//!
//! A node that belongs to a cluster keeps its state: the new cluster begins in a directory of its own,
//! [`Verified::found`]. A node that waits with an empty directory (`join = true`) may be asked to become
//! the first member: what it is to become is made whole beside its data directory, under
//! [`restored_directory`], and [`take_up`] puts it in place while no node runs there. A crash at any
//! point leaves either the empty node or the whole one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::verify::Verified;
use crate::node::recover::{NewCluster, RecoverError, SavedState, Survivor};
use crate::state_machine::StateMachine;
use crate::types::ReplicaId;

/// Why a backup cannot be restored, or a restored directory not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The new directory cannot be made.
    #[error(transparent)]
    Found(#[from] RecoverError),
    /// The directory that would be replaced holds something.
    #[error(
        "{} is a restored directory that waits to replace {}, which is not blank: move one of them \
         away", .restored.display(), .data_dir.display()
    )]
    NotBlank {
        /// What was restored.
        restored: PathBuf,
        /// What is in its place.
        data_dir: PathBuf,
    },
    /// The file system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What could not be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A blank node that a backup may be restored on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// `host:port` at which other nodes will reach it.
    pub peer_address: String,
    /// Where clients will reach it.
    pub client_endpoint: String,
}

impl<S: StateMachine> Verified<S> {
    /// Whether [`found`](Self::found) would begin. Changes nothing.
    ///
    /// # Errors
    /// If the cluster is the backup's own, or something is in the way.
    pub fn check(&self, into: &Path, new: &NewCluster) -> Result<(), RestoreError> {
        Ok(new.check(self.info.cluster, into)?)
    }

    /// Makes `into`, the data directory of another cluster with one member, from the backup.
    ///
    /// # Errors
    /// As [`check`](Self::check), or if the directory cannot be written.
    pub fn found(self, into: &Path, new: &NewCluster) -> Result<ReplicaId, RestoreError> {
        let saved = SavedState {
            machine: self.machine,
            cluster: self.info.cluster,
            last: self.info.applied,
            time_us: self.info.time_us,
            feature_level: self.info.feature_level,
        };
        Ok(saved.found(into, new)?)
    }
}

/// Where a directory is made that is to replace the blank one at `data_dir`.
pub fn restored_directory(data_dir: &Path) -> PathBuf {
    beside(data_dir, "restored")
}

/// Puts a restored directory, if there is one, in the place of the blank one at `data_dir`, which is
/// kept under another name. No node may run there. `machine` is new and not used any further.
///
/// # Errors
/// If the directory there is not blank, is in use, or the file system refuses.
pub fn take_up<S: StateMachine>(data_dir: &Path, machine: S) -> Result<bool, RestoreError> {
    let restored = restored_directory(data_dir);
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path, source }
    };
    if !restored.try_exists().map_err(io(&restored))? {
        return Ok(false);
    }
    if data_dir.try_exists().map_err(io(data_dir))? {
        match Survivor::read(data_dir, machine) {
            Err(RecoverError::Blank { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let data_dir = data_dir.to_owned();
                return Err(RestoreError::NotBlank { restored, data_dir });
            }
        }
        let kept = beside(data_dir, "blank");
        if kept.try_exists().map_err(io(&kept))? {
            // It never held more than the name of a replica that never took part in anything.
            fs::remove_dir_all(&kept).map_err(io(&kept))?;
        }
        fs::rename(data_dir, &kept).map_err(io(data_dir))?;
    }
    fs::rename(&restored, data_dir).map_err(io(&restored))?;
    let parent = match data_dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(io(parent))?;
    Ok(true)
}

fn beside(path: &Path, what: &str) -> PathBuf {
    // Without a slash at its end.
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

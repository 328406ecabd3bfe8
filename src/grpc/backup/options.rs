//! What can be set.

use std::path::PathBuf;

use crate::backup::{Automatic, BackupLimits, Waiting};

/// Settings of the service `Backup`.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Where backups are kept; made if needed.
    pub dir: PathBuf,
    /// Bounds.
    pub limits: BackupLimits,
    /// When the node makes one by itself; never by default. Only where [`serve`](super::super::serve)
    /// serves it.
    pub automatic: Option<Automatic>,
    /// What a restore needs to know of this node. Without it backups are restored offline only.
    pub waiting: Option<Waiting>,
}

impl BackupOptions {
    /// The defaults with this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            limits: BackupLimits::default(),
            automatic: None,
            waiting: None,
        }
    }
}

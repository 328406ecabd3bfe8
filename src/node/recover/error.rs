//! Why a cluster cannot be recovered from a directory.

use std::io;
use std::path::PathBuf;

use crate::types::ClusterId;
use crate::wal::{Damage, OpenError};

/// Why not; the text says what to do. The old directory is as it was, and no new one is there.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The log cannot be read: in use, not there, or of another version.
    #[error(transparent)]
    Open(OpenError),
    /// Something in the log that was durable is damaged.
    #[error(
        "{} is damaged at offset {}: {}; entry {} and those after it cannot be read. Nothing was \
         changed. Recover from another member's directory if there is one; or copy this one, keep the \
         whole part of the copy with `conveyor-raft wal repair`, and recover from that: what is behind \
         the damage is lost then",
        .0.file, .0.offset, .0.what, .0.first
    )]
    Damaged(Box<Damage>),
    /// It was never a member.
    #[error("{directory} holds no state: it was never a member of a cluster")]
    Blank {
        /// The directory.
        directory: String,
    },
    /// The state cannot be rebuilt.
    #[error("{0}")]
    State(String),
    /// The new id is the old one.
    #[error(
        "the new cluster's id is that of the old one, {0}: members of the old one could talk to it. \
         Make new certificates with `conveyor-raft certs init`"
    )]
    SameCluster(ClusterId),
    /// Node 0 is nobody.
    #[error("a node's number is at least 1")]
    Nobody,
    /// Something is in the way.
    #[error("{} exists, and nothing is ever overwritten: name another directory, or move it away", .0.display())]
    Exists(PathBuf),
    /// The new directory would be inside the old one.
    #[error("{} is within the old directory, which is not to be changed", .0.display())]
    Within(PathBuf),
    /// An address of the new member cannot be kept.
    #[error("the new member: {0}")]
    Member(String),
    /// The new log failed.
    #[error("the new log cannot be written: {0}")]
    Log(String),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        source: io::Error,
    },
}

impl RecoverError {
    pub(super) fn of(error: OpenError) -> Self {
        match error {
            OpenError::Corrupt(damage) => Self::Damaged(damage),
            other => Self::Open(other),
        }
    }

    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

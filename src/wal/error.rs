//! What can go wrong with the log, one small enum per operation.

use std::fmt;
use std::io;

use crate::config::ConfigError;
use crate::types::{ClusterId, LogIndex, NodeId};

/// Why a log was not opened. Nothing was truncated.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another process (or another node of this one) has the directory open.
    #[error(
        "{directory} is in use by another process; stop that one, or give this node a directory of its own"
    )]
    Locked {
        /// The directory.
        directory: String,
    },
    /// The file system is none that the log's promises were shown on.
    #[error(
        "{directory} is on {found}; use ext4, XFS or tmpfs, or set allow_unsupported_fs and accept that a full disk may kill the process"
    )]
    UnsupportedFileSystem {
        /// The directory.
        directory: String,
        /// What statfs says.
        found: String,
    },
    /// The directory belongs to someone else.
    #[error(
        "{directory} belongs to node {node} of cluster {cluster}; give this node its own directory"
    )]
    WrongOwner {
        /// The directory.
        directory: String,
        /// Whose it is.
        node: NodeId,
        /// In which cluster.
        cluster: ClusterId,
    },
    /// There is no log to look at. (Opening would make one.)
    #[error("{directory} holds no log")]
    NoLog {
        /// The directory.
        directory: String,
    },
    /// Neither slot of META is valid although there are segments: term and vote are lost, and peers
    /// cannot tell them.
    #[error(
        "{file} is damaged ({why}): this replica's term and vote cannot be repaired from its peers; move the directory away, start the node with an empty one and let the leader `replace` it"
    )]
    MetaDamaged {
        /// The file.
        file: String,
        /// What is wrong with its slots.
        why: String,
    },
    /// Something that was proven durable is damaged.
    #[error(transparent)]
    Corrupt(Box<Damage>),
    /// The files were written by a version that this one does not know.
    #[error("{file} has format version {found}, this program knows {known}; use the newer program")]
    Version {
        /// The file.
        file: String,
        /// What it says.
        found: u16,
        /// What is known.
        known: u16,
    },
    /// The operating system refused something. Reading errors are never taken for a torn tail.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and on which file.
        what: String,
        /// What came back.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Damage of something durable: where it is and how that is known. All an operator needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it the first bad byte may be.
    pub offset: u64,
    /// The first index that cannot be read.
    pub first: LogIndex,
    /// The last index known to have been there, if anything says so.
    pub last: Option<LogIndex>,
    /// What is wrong there.
    pub what: String,
    /// Why this is damage and not a torn tail.
    pub evidence: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is damaged at offset {}: {}. Lost from here: index {}",
            self.file, self.offset, self.what, self.first
        )?;
        match self.last {
            Some(last) => write!(f, " to {last} at least")?,
            None => write!(f, " and on")?,
        }
        write!(
            f,
            ". Evidence that this was durable: {}. Nothing was changed. Look at it with \
             `conveyor-raft wal verify` and `wal dump`; then move the directory away, start the \
             node with an empty one and let the leader `replace` it",
            self.evidence
        )
    }
}

impl std::error::Error for Damage {}

/// Why a log was not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It opens: there is nothing to repair.
    #[error("the log in {0} is not refused as corrupt: it opens as it is, and nothing was changed")]
    NotNeeded(String),
    /// The log is not what it was when the repair was planned.
    #[error("the log in {0} is not as it was when this was planned; nothing was changed")]
    Changed(String),
    /// It is refused for a reason that a repair does not cure.
    #[error(transparent)]
    Refused(#[from] OpenError),
}

/// Why a write was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Memory for it is not ready. Nothing was done; try again after the next event.
    #[error("the log has {ready} bytes ready and the write takes {needed}; try again in a moment")]
    NoRoom {
        /// What the write takes, bytes.
        needed: usize,
        /// What is ready, the reserve included.
        ready: usize,
    },
    /// An entry is over the limit. Nothing was done.
    #[error("an entry of {len} bytes is over the log's limit of {limit}")]
    TooLarge {
        /// Its payload, bytes.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The write does not continue the log. Nothing was done.
    #[error("the write starts at index {first} in term {term}, the log wants {wanted}")]
    OutOfOrder {
        /// Where it starts.
        first: LogIndex,
        /// In which term.
        term: u64,
        /// What would fit.
        wanted: String,
    },
    /// A repair does not go on like this. Nothing was done.
    #[error("the log's repair: {0}")]
    Repair(String),
    /// The log failed earlier and takes nothing more.
    #[error("the log has failed and takes nothing more until the node is restarted: {0}")]
    Poisoned(String),
}

/// The log failed. This is final: restart the node once the cause is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has failed: {0}; restart the node once the cause is gone")]
pub struct LogFailure(pub(crate) String);

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// They are older than the log.
    #[error("index {wanted} was compacted away; the log starts at {first}")]
    Compacted {
        /// What was asked for.
        wanted: LogIndex,
        /// The first index there is.
        first: LogIndex,
    },
    /// They are not written yet.
    #[error("index {wanted} is beyond the end of the log at {last}")]
    Beyond {
        /// What was asked for.
        wanted: LogIndex,
        /// The last index there is.
        last: LogIndex,
    },
    /// They are there but damaged.
    #[error(
        "{file} is damaged at offset {offset} (index {index}); restart the node to have the log checked"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// Which entry.
        index: LogIndex,
    },
    /// The operating system could not read the file.
    #[error("reading {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What came back.
        source: io::Error,
    },
}

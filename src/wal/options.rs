//! What can be set, and what is counted.

use super::layout::{BATCH_HEADER, MIN_UNIT};
use crate::config::{ConfigError, limits};
use crate::entry::frame_len;
use crate::types::{ClusterId, NodeId};

const MIB: u64 = 1 << 20;

/// What stays ready beyond what [`LogStorage::ready_bytes`](super::LogStorage::ready_bytes) shows,
/// so that a no-op or a configuration always fits.
pub(crate) const RESERVE: usize = 64 << 10;
/// What a no-op and the largest configuration take, in a batch each.
pub(crate) const OWN_ENTRIES: usize = limits::MAX_CONFIGURATION + (8 << 10);
const _: () = assert!(OWN_ENTRIES < RESERVE);

/// Whose log this is; checked against META, so that a directory never serves another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster, as in the node's certificate.
    pub cluster: ClusterId,
    /// The node's number.
    pub node: NodeId,
}

/// Whether a write is made durable before it is reported so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Every report waits for the sync that covers it.
    #[default]
    Sync,
    /// Nothing is ever synced and everything is reported at once. A crash loses acknowledged
    /// entries and votes, and the cluster may then hold two histories: for measurements only.
    UnsafeNoSync,
}

/// How what is stored into the mapping of a segment gets into its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// [`Mapped`](Self::Mapped) on a RAM file system and where nothing is synced,
    /// [`Through`](Self::Through) elsewhere: each is the faster one there.
    #[default]
    Auto,
    /// The mapping is the file; `msync` makes it durable. On a disk each page that was written back
    /// costs a fault when it is made writable again.
    Mapped,
    /// The mapping holds the process's own copy of each page that was stored to; the sync lane
    /// writes closed batches to the file and makes them durable by `fdatasync`. These copies take
    /// memory: `hot_bytes`, and four segments at most beside it.
    Through,
}

impl WriteMode {
    pub(crate) fn is_through(self, ram: bool, sync: SyncPolicy) -> bool {
        match self {
            Self::Auto => !ram && sync == SyncPolicy::Sync,
            Self::Mapped => false,
            Self::Through => true,
        }
    }
}

/// Settings of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a new segment file, bytes: a multiple of 1 MiB, 8 MiB to 2 GiB, more than twice the
    /// largest entry. Default 64 MiB.
    pub segment_bytes: u64,
    /// Largest payload of an entry, bytes. Default [`limits::MAX_ENTRY`].
    pub max_entry_bytes: usize,
    /// A batch that gathers while a sync runs is closed at this many bytes. Default 4 MiB.
    pub early_close_bytes: usize,
    /// How much memory ahead of the append position is made writable in advance, bytes. Default
    /// 8 MiB; at least twice the largest entry.
    pub ready_window_bytes: usize,
    /// How many of the newest bytes stay mapped; older segments are read with `pread`. Default
    /// 128 MiB.
    pub hot_bytes: u64,
    /// Free segment files that are kept for reuse. Default 2.
    pub pool_segments: usize,
    /// The election timeout that this node tells others, milliseconds; the largest one ever told
    /// is kept in META (hazard A9). Default 0: none told.
    pub election_timeout_min_ms: u32,
    /// Opens directories on file systems other than ext4, XFS and tmpfs too. There a full disk or
    /// a copy-on-write failure may kill the process by SIGBUS. Default false.
    pub allow_unsupported_fs: bool,
    /// Takes a damaged tail for a torn one where nothing but the survival of the page cache (same
    /// boot of the kernel) says otherwise. Default false: such a tail is refused.
    pub distrust_page_cache: bool,
    /// Durability. Default [`SyncPolicy::Sync`].
    pub sync: SyncPolicy,
    /// How bytes get into the files. Default [`WriteMode::Auto`]. A directory can be opened with
    /// another one each time.
    pub write_mode: WriteMode,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * MIB,
            max_entry_bytes: limits::MAX_ENTRY,
            early_close_bytes: 4 << 20,
            ready_window_bytes: 8 << 20,
            hot_bytes: 128 * MIB,
            pool_segments: 2,
            election_timeout_min_ms: 0,
            allow_unsupported_fs: false,
            distrust_page_cache: false,
            sync: SyncPolicy::Sync,
            write_mode: WriteMode::Auto,
        }
    }
}

impl LogOptions {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// Names the first setting that cannot work, and what would.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let size = self.segment_bytes;
        if !size.is_multiple_of(MIB) || !(8 * MIB..=2048 * MIB).contains(&size) {
            let why = "must be a multiple of 1 MiB from 8 MiB to 2 GiB";
            return Err(ConfigError::new("segment_bytes", why));
        }
        self.validate_sizes()?;
        let frame = frame_len(self.max_entry_bytes);
        if self.usable(self.ready_window_bytes, MIN_UNIT) < 2 * (frame + RESERVE) {
            let least = 2 * (frame + RESERVE);
            let why = format!("must leave {least} bytes after headers and padding; raise it");
            return Err(ConfigError::new("ready_window_bytes", why));
        }
        Ok(())
    }

    /// Of so much memory, what is left for frames after headers and padding, however they fall
    /// into batches.
    pub(crate) fn usable(&self, bytes: usize, unit: u32) -> usize {
        let batches = bytes / self.early_close_bytes + 3;
        bytes.saturating_sub(batches * (unit as usize + BATCH_HEADER))
    }

    /// What must hold for any segment size, those of tests included.
    pub(crate) fn validate_sizes(&self) -> Result<(), ConfigError> {
        let frame = frame_len(self.max_entry_bytes) as u64;
        if self.max_entry_bytes == 0 || self.segment_bytes <= 2 * frame {
            let why = format!("must be from 1 to under half of segment_bytes ({frame} of it now)");
            return Err(ConfigError::new("max_entry_bytes", why));
        }
        if self.early_close_bytes < 4096 || self.early_close_bytes > 1 << 30 {
            let why = "must be from 4096 bytes to 1 GiB";
            return Err(ConfigError::new("early_close_bytes", why));
        }
        if (self.usable(self.ready_window_bytes, MIN_UNIT) as u64) < 2 * frame {
            let why = "must hold two of the largest entries after headers and padding";
            return Err(ConfigError::new("ready_window_bytes", why));
        }
        Ok(())
    }
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Syncs of log data that returned without error.
    pub syncs: u64,
    /// Bytes that they covered, padding included.
    pub synced_bytes: u64,
    /// Updates of META, each two slots written and synced.
    pub meta_updates: u64,
    /// Entries appended.
    pub entries: u64,
    /// Bytes of their frames.
    pub entry_bytes: u64,
    /// Batches closed.
    pub batches: u64,
    /// Bytes lost to padding at the end of batches and segments.
    pub padding_bytes: u64,
    /// Segments made ready.
    pub segments_prepared: u64,
    /// Of those, how many were free ones used again.
    pub segments_recycled: u64,
    /// Preparations that failed for want of disk space.
    pub disk_full: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_through_where_that_is_faster() {
        let auto = |ram, sync| WriteMode::Auto.is_through(ram, sync);
        assert!(auto(false, SyncPolicy::Sync));
        assert!(!auto(false, SyncPolicy::UnsafeNoSync));
        assert!(!auto(true, SyncPolicy::Sync));
        for ram in [false, true] {
            assert!(WriteMode::Through.is_through(ram, SyncPolicy::UnsafeNoSync));
            assert!(!WriteMode::Mapped.is_through(ram, SyncPolicy::Sync));
        }
    }

    #[test]
    fn defaults_are_valid_and_contradictions_are_named() {
        let ok = LogOptions::default();
        assert_eq!(ok.validate(), Ok(()));
        let key = |options: LogOptions| options.validate().expect_err("refused").key;
        let small = LogOptions {
            segment_bytes: 4 * MIB,
            ..ok.clone()
        };
        assert_eq!(key(small), "segment_bytes");
        let entry = LogOptions {
            max_entry_bytes: 40 << 20,
            ..ok.clone()
        };
        assert_eq!(key(entry), "max_entry_bytes");
        let window = LogOptions {
            ready_window_bytes: 1 << 20,
            ..ok
        };
        assert_eq!(key(window), "ready_window_bytes");
    }
}

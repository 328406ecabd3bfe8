//! When snapshots are taken, and how they travel.

use crate::config::{ConfigError, limits};

const MIB: u64 = 1 << 20;

/// Settings of a replica's snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// One is taken once so many entries were applied since the last. 0: not by entries. Default
    /// 100,000.
    pub every_entries: u64,
    /// Or once the entries applied since the last take so many bytes. 0: not by bytes. Default
    /// 64 MiB.
    pub every_bytes: u64,
    /// But not before the entries since the last one take so many times the bytes of its file, so that a
    /// large state is not written out over and over; the log grows to that. 0: at once. Default 4.
    pub times_last: u32,
    /// Behind a snapshot the log keeps at most so many entries for peers that are a little behind.
    /// Default 10,000.
    pub keep_tail_entries: u64,
    /// And at most so many bytes of entries. Default 16 MiB.
    pub keep_tail_bytes: u64,
    /// Peers that are alive, or receive a snapshot, hold the log's start back, but not beyond so many
    /// entries behind the newest snapshot. Default 400,000.
    pub keep_for_peers_entries: u64,
    /// A snapshot is written to disk at this rate at most, bytes a second. Default 256 MiB.
    pub write_bytes_per_second: u64,
    /// Snapshots are sent at this rate at most, all peers together, bytes a second. Default 64 MiB.
    pub send_bytes_per_second: u64,
    /// In pieces of so many bytes, at most 256 KiB, which is the default.
    pub chunk_bytes: u32,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            every_entries: 100_000,
            every_bytes: 64 * MIB,
            times_last: 4,
            keep_tail_entries: 10_000,
            keep_tail_bytes: 16 * MIB,
            keep_for_peers_entries: 400_000,
            write_bytes_per_second: 256 * MIB,
            send_bytes_per_second: 64 * MIB,
            chunk_bytes: limits::MAX_SNAPSHOT_CHUNK as u32,
        }
    }
}

impl SnapshotOptions {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let most = limits::MAX_SNAPSHOT_CHUNK as u32;
        if !(512..=most).contains(&self.chunk_bytes) {
            let why = format!("must be from 512 to {most}");
            return Err(ConfigError::new("chunk_bytes", why));
        }
        for (key, rate) in [
            ("write_bytes_per_second", self.write_bytes_per_second),
            ("send_bytes_per_second", self.send_bytes_per_second),
        ] {
            if rate < MIB {
                return Err(ConfigError::new(key, "must be at least 1 MiB"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_contradictions_are_named() {
        let ok = SnapshotOptions::default();
        assert_eq!(ok.validate(), Ok(()));
        let key = |options: SnapshotOptions| options.validate().expect_err("refused").key;
        for chunk_bytes in [0, 511, 1 << 20] {
            let wrong = SnapshotOptions {
                chunk_bytes,
                ..ok.clone()
            };
            assert_eq!(key(wrong), "chunk_bytes");
        }
        let slow = SnapshotOptions {
            send_bytes_per_second: 0,
            ..ok.clone()
        };
        assert_eq!(key(slow), "send_bytes_per_second");
        let slow = SnapshotOptions {
            write_bytes_per_second: MIB - 1,
            ..ok
        };
        assert_eq!(key(slow), "write_bytes_per_second");
    }
}

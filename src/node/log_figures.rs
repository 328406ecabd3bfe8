//! Figures of the log's disk: what a sync takes, what waits for one, and what room there is.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Gauge, Histogram, describe_gauge, describe_histogram, gauge, histogram};

use crate::types::{Micros, NodeId};
use crate::wal::{DiskRoom, LogStorage, Medium};

/// Their names.
pub(crate) const LOG_NAMES: [&str; 5] = [
    "conveyor_raft_log_sync_duration_seconds",
    "conveyor_raft_log_segments",
    "conveyor_raft_log_oldest_unsynced_seconds",
    "conveyor_raft_log_disk_free_bytes",
    "conveyor_raft_log_disk_size_bytes",
];

/// A node's.
pub(crate) struct LogFigures {
    node: NodeId,
    sync: Histogram,
    segments: Gauge,
    oldest: Gauge,
    /// Free and all: not there before they are known, since 0 would be a full disk.
    room: OnceLock<[Gauge; 2]>,
}

impl LogFigures {
    pub(crate) fn new(node: NodeId) -> Self {
        let [sync, segments, oldest, free, size] = LOG_NAMES;
        describe_histogram!(sync, "seconds that a sync of log data took");
        describe_gauge!(segments, "segments of the log");
        describe_gauge!(oldest, "how long the oldest write has waited for its sync");
        describe_gauge!(free, "bytes free on the log's file system");
        describe_gauge!(size, "size of the log's file system");
        let label = node.to_string();
        Self {
            node,
            sync: histogram!(sync, "node" => label.clone()),
            segments: gauge!(segments, "node" => label.clone()),
            oldest: gauge!(oldest, "node" => label),
            room: OnceLock::new(),
        }
    }

    /// A sync came back.
    pub(crate) fn synced(&self, took: Duration) {
        self.sync.record(took.as_secs_f64());
    }

    /// Shows what is so now.
    pub(crate) fn show<M: Medium>(&self, log: &LogStorage<M>, now: Micros) {
        self.segments.set(log.segments() as f64);
        let oldest = log.oldest_unsynced().unwrap_or(now);
        self.oldest.set(now.saturating_sub(oldest) as f64 / 1e6);
        if let Some(DiskRoom { free, size }) = log.disk_room() {
            let make = || {
                let [.., free, size] = LOG_NAMES;
                [free, size].map(|name| gauge!(name, "node" => self.node.to_string()))
            };
            let [free_bytes, size_bytes] = self.room.get_or_init(make);
            free_bytes.set(free as f64);
            size_bytes.set(size as f64);
        }
    }
}

//! Figures of snapshots: what one takes, and how transfers end.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::types::{Micros, NodeId};

/// Their names.
pub(crate) const SNAPSHOT_NAMES: [&str; 3] = [
    "conveyor_raft_snapshot_duration_seconds",
    "conveyor_raft_snapshot_bytes",
    "conveyor_raft_snapshot_transfers_total",
];

/// How a transfer ended.
#[derive(Clone, Copy)]
pub(crate) enum Transfer {
    /// Whoever got it has it.
    Sent,
    /// It was not wanted any more: another leads, or the member is gone.
    GivenUp,
    /// It came in, whole and durable.
    Received,
    /// What came in is not what was offered.
    Damaged,
    /// It is of another cluster or of a newer release.
    Refused,
}

const RESULTS: [&str; 5] = ["sent", "given_up", "received", "damaged", "refused"];

/// A node's.
pub(crate) struct SnapshotFigures {
    duration: Histogram,
    bytes: Gauge,
    transfers: [Counter; RESULTS.len()],
}

impl SnapshotFigures {
    pub(crate) fn new(node: NodeId) -> Self {
        let [duration, bytes, transfers] = SNAPSHOT_NAMES;
        describe_histogram!(duration, "seconds to write a snapshot of the own state");
        describe_gauge!(bytes, "size of the newest snapshot");
        describe_counter!(transfers, "transfers of snapshots that ended");
        let node = node.to_string();
        let transfer = |result| counter!(transfers, "node" => node.clone(), "result" => result);
        Self {
            transfers: RESULTS.map(transfer),
            duration: histogram!(duration, "node" => node.clone()),
            bytes: gauge!(bytes, "node" => node.clone()),
        }
    }

    /// One of the own state is durable.
    pub(crate) fn written(&self, took: Micros) {
        self.duration.record(took as f64 / 1e6);
    }

    /// The newest takes so much; 0 if there is none.
    pub(crate) fn show(&self, bytes: u64) {
        self.bytes.set(bytes as f64);
    }

    /// A transfer has ended.
    pub(crate) fn ended(&self, how: Transfer) {
        if let Some(counter) = self.transfers.get(how as usize) {
            counter.increment(1);
        }
    }
}

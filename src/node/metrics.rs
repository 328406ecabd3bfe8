//! Figures for whoever collects them, through the `metrics` facade. See `docs/metrics.md`.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use super::driver::SnapshotCounters;
use super::events::NodeEvent;
use super::reading::ReadConsistency;
use super::status::Brief;
use crate::config::limits;
use crate::core::RaftRole;
use crate::types::{LogIndex, NodeId};
use crate::wal::LogCounters;

macro_rules! figures {
    ($($make:ident $kind:ident $field:ident, $name:literal, $about:literal;)*) => {
        /// A node's figures, at the recorder that was installed when the node was started; without
        /// one, every update is a comparison.
        pub(crate) struct Metrics { $($field: $kind,)* }

        impl Metrics {
            pub(crate) fn new(node: NodeId) -> Self {
                let node = node.to_string();
                $(figures!(@describe $make, concat!("conveyor_raft_", $name), $about);)*
                Self { $($field: $make!(concat!("conveyor_raft_", $name), "node" => node.clone()),)* }
            }

            /// Names of all of them.
            #[cfg(test)]
            pub(crate) const NAMES: &'static [&'static str] = &[$(concat!("conveyor_raft_", $name),)*];
        }
    };
    (@describe counter, $name:expr, $about:literal) => { describe_counter!($name, $about) };
    (@describe gauge, $name:expr, $about:literal) => { describe_gauge!($name, $about) };
}

figures! {
    gauge Gauge is_leader, "is_leader", "1 while this node leads";
    gauge Gauge leader, "leader", "who leads as far as this node knows, 0 = nobody";
    gauge Gauge term, "term", "current term";
    gauge Gauge commit_index, "commit_index", "highest index known committed";
    gauge Gauge applied_index, "applied_index", "highest index applied";
    gauge Gauge apply_lag, "apply_lag", "entries committed and not yet applied";
    gauge Gauge last_index, "last_index", "last index in the log";
    gauge Gauge durable_index, "durable_index", "highest own index known durable";
    gauge Gauge log_start_index, "log_start_index", "the log begins after this index";
    gauge Gauge snapshot_index, "snapshot_index", "last index of the newest snapshot, 0 = none";
    gauge Gauge configuration_index, "configuration_index", "index of the configuration in force";
    gauge Gauge members, "members", "members of the configuration in force";
    gauge Gauge uncommitted_bytes, "uncommitted_bytes", "bytes proposed here and not committed";
    gauge Gauge proposals_queued, "proposals_queued", "most proposals found waiting at once, in the last tenth of a second";
    gauge Gauge proposals_queue_limit, "proposals_queue_limit", "so many may wait; more are refused";
    gauge Gauge uncommitted_limit, "uncommitted_limit_bytes", "so many bytes may be uncommitted; more are refused";
    gauge Gauge feature_level, "feature_level", "the cluster's feature level, 0 = no configuration";
    gauge Gauge disk_stalls, "disk_stalls", "1 while a write waits longer than an election timeout";
    gauge Gauge failed, "failed", "1 once the replica has failed";
    counter Counter elections_started, "elections_started_total", "times it stood for election, in a term of its own";
    counter Counter elections_won, "elections_won_total", "times this node became leader";
    counter Counter step_downs, "step_downs_total", "times it stopped leading";
    counter Counter hand_overs, "hand_overs_total", "times another took over as was wanted";
    counter Counter hand_overs_failed, "hand_overs_failed_total", "hand-overs that came to nothing";
    counter Counter configurations, "configurations_total", "configurations that came into force";
    counter Counter changes_refused, "changes_refused_total", "changes of members that were refused";
    counter Counter joins, "joins_total", "nodes that this leader began to add by itself";
    counter Counter left_out, "joins_left_out_total", "nodes that wait and that it does not add by itself";
    counter Counter digest_mismatches, "digest_mismatches_total", "times that the states of members were seen to differ";
    counter Counter truncations, "truncations_total", "times a conflicting suffix was dropped";
    counter Counter stalls, "disk_stalls_total", "times the disk stalled";
    counter Counter advice, "advice_total", "times an operator was asked to do something";
    counter Counter snapshots_taken, "snapshots_taken_total", "snapshots taken";
    counter Counter snapshots_failed, "snapshots_failed_total", "snapshots that could not be written";
    counter Counter snapshots_installed, "snapshots_installed_total", "snapshots received and installed";
    counter Counter snapshot_chunks, "snapshot_chunks_sent_total", "snapshot chunks sent to others";
    counter Counter log_entries, "log_entries_total", "entries appended to the log";
    counter Counter log_entry_bytes, "log_entry_bytes_total", "bytes of their frames";
    counter Counter log_syncs, "log_syncs_total", "syncs of log data";
    counter Counter log_synced_bytes, "log_synced_bytes_total", "bytes that they covered, padding included";
    counter Counter log_meta_updates, "log_meta_updates_total", "updates of term and vote on disk";
    counter Counter log_disk_full, "log_disk_full_total", "segments that found no room on the disk";
}

/// Its name.
pub(crate) const BATCH_NAME: &str = "conveyor_raft_batch_entries";

/// How many proposals a leader appends together.
pub(crate) fn batches(node: NodeId) -> Histogram {
    describe_histogram!(BATCH_NAME, "proposals that were appended together");
    histogram!(BATCH_NAME, "node" => node.to_string())
}

/// Its name.
pub(crate) const BEHIND_NAME: &str = "conveyor_raft_watches_behind_total";

/// How many watches ended because they took too little.
pub(crate) fn watches_behind(node: NodeId) -> Counter {
    describe_counter!(BEHIND_NAME, "watches that ended because they were behind");
    counter!(BEHIND_NAME, "node" => node.to_string())
}

/// Figures of the applier, one each for entries that are applied together.
pub(crate) struct ApplyMetrics {
    duration: Histogram,
    entries: Histogram,
}

impl ApplyMetrics {
    pub(crate) fn new(node: NodeId) -> Self {
        let node = node.to_string();
        let (duration, entries) = (APPLY_NAMES[0], APPLY_NAMES[1]);
        describe_histogram!(
            duration,
            "seconds to apply and show entries that came together"
        );
        describe_histogram!(entries, "how many came together");
        Self {
            duration: histogram!(duration, "node" => node.clone()),
            entries: histogram!(entries, "node" => node),
        }
    }

    pub(crate) fn applied(&self, entries: u64, took: Duration) {
        self.duration.record(took.as_secs_f64());
        self.entries.record(entries as f64);
    }
}

/// Names of the applier's.
pub(crate) const APPLY_NAMES: [&str; 2] = [
    "conveyor_raft_apply_duration_seconds",
    "conveyor_raft_apply_batch_entries",
];

/// Reads through the handle, by consistency.
pub(crate) struct ReadMetrics([Counter; 4]);

/// Its name.
pub(crate) const READS_NAME: &str = "conveyor_raft_reads_total";

impl ReadMetrics {
    pub(crate) fn new(node: NodeId) -> Self {
        describe_counter!(READS_NAME, "reads with a stated consistency");
        let node = node.to_string();
        let words = ["local", "at_least", "lease", "linearizable"];
        Self(words.map(|word| counter!(READS_NAME, "node" => node.clone(), "consistency" => word)))
    }

    pub(crate) fn count(&self, consistency: ReadConsistency) {
        let nth = match consistency {
            ReadConsistency::Local => 0,
            ReadConsistency::AtLeast(_) => 1,
            ReadConsistency::Lease => 2,
            ReadConsistency::Linearizable => 3,
        };
        self.0[nth].increment(1);
    }
}

impl Metrics {
    /// Counts what happened.
    pub(crate) fn count(&self, event: &NodeEvent) {
        match event {
            NodeEvent::BecameLeader { .. } => self.elections_won.increment(1),
            NodeEvent::SteppedDown { .. } => self.step_downs.increment(1),
            NodeEvent::HandedOver { .. } => self.hand_overs.increment(1),
            NodeEvent::HandOverFailed { .. } => self.hand_overs_failed.increment(1),
            NodeEvent::Configured { .. } => self.configurations.increment(1),
            NodeEvent::ChangeRefused { .. } => self.changes_refused.increment(1),
            NodeEvent::AddedByItself { .. } => self.joins.increment(1),
            NodeEvent::LeftOut { .. } => self.left_out.increment(1),
            NodeEvent::Truncated { .. } => self.truncations.increment(1),
            NodeEvent::SnapshotFailed { .. } => self.snapshots_failed.increment(1),
            NodeEvent::DiskStalls => {
                self.stalls.increment(1);
                self.disk_stalls.set(1.0);
            }
            NodeEvent::DiskAnswers => self.disk_stalls.set(0.0),
            NodeEvent::Advice(_) => self.advice.increment(1),
            NodeEvent::Failed(_) => self.failed.set(1.0),
            // Counted where the status counts them.
            NodeEvent::SnapshotTaken { .. } | NodeEvent::SnapshotInstalled { .. } => {}
        }
    }

    /// Shows what is so now; called as often as the slow part of the status is published.
    pub(crate) fn show(&self, brief: &Brief, commit: LogIndex, applied: LogIndex) {
        let leads = brief.role == RaftRole::Leader;
        let in_force = brief.configuration.as_ref();
        let members = in_force.map_or(0, |configuration| configuration.members().count());
        let level = in_force.map_or(0, |configuration| configuration.feature_level);
        self.feature_level.set(f64::from(level));
        let (queue, bytes) = (limits::MAX_SUBMITTED, limits::MAX_UNCOMMITTED);
        self.proposals_queue_limit.set(queue as f64);
        self.uncommitted_limit.set(bytes as f64);
        self.is_leader.set(f64::from(u8::from(leads)));
        self.leader.set(brief.leader.unwrap_or_default() as f64);
        self.term.set(brief.term as f64);
        self.commit_index.set(commit as f64);
        self.applied_index.set(applied as f64);
        self.apply_lag.set(commit.saturating_sub(applied) as f64);
        self.last_index.set(brief.last.index as f64);
        self.durable_index.set(brief.durable as f64);
        self.log_start_index.set(brief.log_start.index as f64);
        let snapshot = brief.snapshot.map_or(0, |last| last.index);
        self.snapshot_index.set(snapshot as f64);
        self.configuration_index.set(brief.configured as f64);
        self.members.set(members as f64);
    }

    /// It stands for election, in a term of its own.
    pub(crate) fn stands(&self) {
        self.elections_started.increment(1);
    }

    /// The states of members differ.
    pub(crate) fn states_differ(&self) {
        self.digest_mismatches.increment(1);
    }

    /// What waits for the log, or for a majority.
    pub(crate) fn waiting(&self, proposals: usize, uncommitted: usize) {
        self.proposals_queued.set(proposals as f64);
        self.uncommitted_bytes.set(uncommitted as f64);
    }

    /// What the log and the snapshots have done since the node started.
    pub(crate) fn total(&self, log: &LogCounters, snapshots: SnapshotCounters) {
        self.snapshots_taken.absolute(snapshots.taken);
        self.snapshots_installed.absolute(snapshots.installed);
        self.snapshot_chunks.absolute(snapshots.chunks_sent);
        self.log_entries.absolute(log.entries);
        self.log_entry_bytes.absolute(log.entry_bytes);
        self.log_syncs.absolute(log.syncs);
        self.log_synced_bytes.absolute(log.synced_bytes);
        self.log_meta_updates.absolute(log.meta_updates);
        self.log_disk_full.absolute(log.disk_full);
    }
}

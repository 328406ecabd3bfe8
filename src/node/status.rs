//! What a node says of itself.

use std::sync::Arc;

use super::driver::SnapshotCounters;
use crate::core::{Configuration, PeerProgress, RaftRole};
use crate::error::LeaderHint;
use crate::quic::PeerTransport;
use crate::types::{ClusterId, LogId, LogIndex, Micros, NodeId, ReplicaId, Term};

/// One member as a node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its number.
    pub node: NodeId,
    /// Where peers reach it.
    pub address: String,
    /// Where clients reach it.
    pub client_endpoint: String,
    /// Whether a data stream to it is up.
    pub connected: bool,
    /// On the leader: its log equals the leader's up to here, durably.
    pub match_index: LogIndex,
    /// On the leader: it is sent the snapshot that ends with this entry.
    pub receives_snapshot: Option<LogIndex>,
    /// On the leader: milliseconds since its last reply.
    pub last_contact_ms: Option<u64>,
    /// The connections with it.
    pub transport: PeerTransport,
}

/// A node's view of itself and of its cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Who it is.
    pub id: ReplicaId,
    /// Which cluster's certificates it holds.
    pub cluster: ClusterId,
    /// Its role.
    pub role: RaftRole,
    /// Its term.
    pub term: Term,
    /// Who leads, as far as it knows.
    pub leader: LeaderHint,
    /// The last entry in its log.
    pub last: LogId,
    /// Highest index durable on this node.
    pub durable_index: LogIndex,
    /// Highest index known committed.
    pub commit_index: LogIndex,
    /// Highest index applied.
    pub applied_index: LogIndex,
    /// Log time of that entry, microseconds since the Unix epoch.
    pub log_time_us: Micros,
    /// The other members.
    pub peers: Vec<PeerStatus>,
    /// One line when the node waits for an operator.
    pub advice: Option<String>,
    /// Why the replica has failed, once it has.
    pub failure: Option<String>,
    /// Until when the certificates between nodes are good: `peer`, this node's own, and each CA of its
    /// bundle; seconds since the Unix epoch.
    pub certificates: Vec<(String, u64)>,
    /// How often peers were refused, or refused this node, since it started: the reason and how often.
    pub refusals: Vec<(&'static str, u64)>,
    /// Shutting down or stopped.
    pub stopping: bool,
    /// Rises with each turn of the driver, at least once a second while the node runs; one that does
    /// not hangs.
    pub turns: u64,
    /// The disk is full, and what is left of the log's own room would not take the largest entry.
    pub disk_full: bool,
    /// It is about to be shut down ([`RaftNode::leave`](super::RaftNode::leave)), and serves until then.
    pub leaving: bool,
    /// How often the log was synced since the node started.
    pub syncs: u64,
    /// The log begins after this entry.
    pub log_start: LogId,
    /// The log was damaged and repaired: until it is whole again the replica neither votes nor counts.
    pub repairing: bool,
    /// The state machine stopped at this entry, which it cannot apply.
    pub stopped_at: Option<LogIndex>,
    /// The cluster's feature level, by the configuration in force; 0 without one.
    pub feature_level: u32,
    /// The last entry that the newest snapshot on this node stands for.
    pub snapshot: Option<LogId>,
    /// What was done with snapshots.
    pub snapshots: SnapshotCounters,
}

/// What the driver publishes after a burst; the full status is made from it on demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brief {
    pub(crate) role: RaftRole,
    pub(crate) term: Term,
    pub(crate) leader: Option<NodeId>,
    pub(crate) last: LogId,
    pub(crate) durable: LogIndex,
    pub(crate) syncs: u64,
    pub(crate) log_start: LogId,
    pub(crate) repairing: bool,
    pub(crate) stopped_at: Option<LogIndex>,
    pub(crate) snapshot: Option<LogId>,
    pub(crate) snapshots: SnapshotCounters,
    pub(crate) configuration: Option<Arc<Configuration>>,
    /// Its index.
    pub(crate) configured: LogIndex,
    /// The newest configuration that is known to be committed, and its index.
    pub(crate) committed: Option<(LogIndex, Arc<Configuration>)>,
    pub(crate) peers: Vec<(NodeId, PeerProgress)>,
    pub(crate) advice: Option<String>,
    pub(crate) failure: Option<String>,
    pub(crate) stopping: bool,
    pub(crate) disk_full: bool,
}

impl Brief {
    pub(crate) fn leader_hint(&self) -> LeaderHint {
        let member = self
            .leader
            .and_then(|node| self.configuration.as_ref().and_then(|c| c.member(node)));
        LeaderHint {
            node: self.leader,
            endpoint: member
                .map(|member| member.client_endpoint.clone())
                .unwrap_or_default(),
            term: self.term,
        }
    }

    pub(crate) fn peer_statuses(&self, me: ReplicaId, now: Micros) -> Vec<PeerStatus> {
        let Some(configuration) = &self.configuration else {
            return Vec::new();
        };
        let others = configuration
            .members()
            .filter(|member| member.replica != me);
        let leading = self.role == RaftRole::Leader;
        others
            .map(|member| {
                let node = member.replica.node;
                let seen = self.peers.iter().find(|(id, _)| *id == node);
                let seen = seen.map(|(_, progress)| *progress).unwrap_or_default();
                PeerStatus {
                    node,
                    address: member.peer_address.clone(),
                    client_endpoint: member.client_endpoint.clone(),
                    connected: seen.connected,
                    match_index: if leading { seen.match_index } else { 0 },
                    receives_snapshot: seen.snapshot.filter(|_| leading),
                    last_contact_ms: leading.then(|| now.saturating_sub(seen.last_contact) / 1000),
                    ..PeerStatus::default()
                }
            })
            .collect()
    }
}

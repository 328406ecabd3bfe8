//! How far each other member is, as the leader sees it.

use std::collections::BTreeMap;

use metrics::{Gauge, describe_gauge, gauge};

use crate::core::PeerProgress;
use crate::types::{Micros, NodeId};

/// Their names.
pub(crate) const PEER_NAMES: [&str; 3] = [
    "conveyor_raft_peer_match_index",
    "conveyor_raft_peer_inflight_bytes",
    "conveyor_raft_peer_last_contact_seconds",
];

/// A node's; by the other member's number.
pub(crate) struct PeerFigures {
    node: NodeId,
    peers: BTreeMap<NodeId, [Gauge; 3]>,
}

impl PeerFigures {
    pub(crate) fn new(node: NodeId) -> Self {
        let [matched, inflight, contact] = PEER_NAMES;
        describe_gauge!(matched, "a member's log equals the leader's up to here");
        describe_gauge!(inflight, "bytes on their way to a member");
        describe_gauge!(contact, "seconds since the leader heard from a member");
        let peers = BTreeMap::new();
        Self { node, peers }
    }

    /// Shows how far they are. Of who is not among them, all is 0: nobody looks after it any more.
    pub(crate) fn show(&mut self, leads: bool, seen: &[(NodeId, PeerProgress)], now: Micros) {
        let seen = if leads { seen } else { &[] };
        for (peer, progress) in seen {
            let node = self.node;
            let gauges = self.peers.entry(*peer).or_insert_with(|| {
                PEER_NAMES.map(
                    |name| gauge!(name, "node" => node.to_string(), "peer" => peer.to_string()),
                )
            });
            let contact = now.saturating_sub(progress.last_contact) as f64 / 1e6;
            let values = [
                progress.match_index as f64,
                progress.inflight_bytes as f64,
                contact,
            ];
            gauges
                .iter()
                .zip(values)
                .for_each(|(gauge, value)| gauge.set(value));
        }
        self.peers.retain(|peer, gauges| {
            let stays = seen.iter().any(|(one, _)| one == peer);
            if !stays {
                gauges.iter().for_each(|gauge| gauge.set(0.0));
            }
            stays
        });
    }
}

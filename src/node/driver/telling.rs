//! Telling others what happened: one line of tracing, one count and one event each.

use super::Driver;
use crate::network::RaftNetwork;
use crate::node::events::NodeEvent;
use crate::state_machine::StateMachine;
use crate::wal::Medium;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn tell(&self, event: NodeEvent) {
        trace(self.shared.me.node, &event);
        self.metrics.count(&event);
        self.shared.events.send(event);
    }
}

fn trace(node: u64, event: &NodeEvent) {
    match event {
        NodeEvent::BecameLeader { term } => tracing::info!(node, term, "leads"),
        NodeEvent::SteppedDown { term, why } => tracing::info!(node, term, why, "leads no more"),
        NodeEvent::HandedOver { to } => tracing::info!(node, to, "leadership was handed over"),
        NodeEvent::HandOverFailed { why } => {
            tracing::warn!(node, %why, "leadership was not handed over");
        }
        NodeEvent::Configured {
            index,
            configuration,
        } => {
            let members = configuration.members().count();
            tracing::info!(node, index, members, "configuration");
        }
        NodeEvent::ChangeRefused { why } => {
            tracing::warn!(node, %why, "the members were not changed");
        }
        NodeEvent::AddedByItself { who, address } => {
            tracing::info!(node, %who, address, "a node that waited is added as a learner");
        }
        NodeEvent::LeftOut { who, why } => {
            tracing::warn!(node, %who, why, "a node that waits is not added by itself");
        }
        NodeEvent::Truncated { from } => {
            tracing::info!(node, from, "dropped a conflicting suffix");
        }
        NodeEvent::SnapshotTaken { last } => tracing::info!(node, %last, "snapshot taken"),
        NodeEvent::SnapshotFailed { why } => tracing::warn!(node, why, "no snapshot was taken"),
        NodeEvent::SnapshotInstalled { last } => tracing::info!(node, %last, "snapshot installed"),
        NodeEvent::DiskStalls => {
            tracing::warn!(node, "the disk has not answered for an election timeout");
        }
        NodeEvent::DiskAnswers => tracing::info!(node, "the disk answers again"),
        NodeEvent::Advice(text) => tracing::warn!(node, "{text}"),
        NodeEvent::Failed(why) => tracing::error!(node, why, "the replica has failed"),
    }
}

//! What the core tells: events, failure, and the status that others see.

use std::sync::Arc;

use super::{Cause, DUE_INTERVAL, Driver, Now, STATUS_INTERVAL};
use crate::core::{ChangeError, Event, Input, RaftRole};
use crate::network::RaftNetwork;
use crate::node::events::NodeEvent;
use crate::node::inbox::Request;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, Micros, NodeId};
use crate::wal::Medium;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn event(&mut self, now: Now, event: Event) {
        match event {
            Event::BecameLeader { term } => {
                self.next_due = now.mono + DUE_INTERVAL;
                self.handing_over = false;
                self.tell(NodeEvent::BecameLeader { term });
            }
            Event::SteppedDown { term, why } => {
                self.tell(NodeEvent::SteppedDown { term, why });
                self.shared.waiters.abandon_above(self.core.commit());
                self.uncommitted.clear();
                self.uncommitted_bytes = 0;
                self.shared.set_lease(None);
                self.reads.start_over();
                // A leader that was removed goes when that is committed: whoever asked for it is told.
                self.notice_change();
                self.change_failed(ChangeError::Unknown);
            }
            Event::ChangeRefused { why } => {
                self.tell(NodeEvent::ChangeRefused { why });
                self.change_failed(why);
            }
            Event::HandOverFailed { why } => {
                self.handing_over = false;
                self.tell(NodeEvent::HandOverFailed { why });
                self.hand_over_failed(why);
            }
            Event::Truncated { from } => {
                // Others' entries take these places, perhaps committed in this very step.
                self.shared.waiters.abandon_above(from - 1);
                self.tell(NodeEvent::Truncated { from });
            }
            Event::Configured {
                index,
                configuration,
            } => {
                if configuration
                    .members()
                    .any(|one| one.replica == self.shared.me)
                {
                    // It waited for this, if it waited for anything.
                    self.advice = None;
                }
                // Of the first one peers hear when it is durable.
                let level = configuration.feature_level;
                if !self.facts.blank && level != self.facts.needs_level {
                    self.tell_facts();
                }
                self.tell(NodeEvent::Configured {
                    index,
                    configuration,
                });
                self.dial();
            }
            Event::Advice(text) => {
                self.tell(NodeEvent::Advice(text.clone()));
                self.advice = Some(text);
            }
            Event::Diverged { index, own, agreed } => self.diverged(index, own, agreed),
            Event::StatesDiffer { index, digests } => self.states_differ(index, &digests),
            Event::Fatal(text) => self.failed(text),
        }
    }

    fn diverged(&self, index: LogIndex, own: u128, agreed: u128) {
        self.metrics.states_differ();
        let (own, agreed) = (format!("{own:032x}"), format!("{agreed:032x}"));
        let node = self.shared.me.node;
        tracing::error!(node, index, own, agreed, "its state is not the quorum's");
    }

    /// Nobody can tell who is right, and nothing that could be done by itself would be safe.
    fn states_differ(&mut self, index: LogIndex, digests: &[(NodeId, u128)]) {
        self.metrics.states_differ();
        let has = |(node, digest): &(NodeId, u128)| format!("node {node} has {digest:032x}");
        let all: Vec<_> = digests.iter().map(has).collect();
        let text = format!(
            "the states of the members differ at index {index} and no majority has the same ({}): \
             find out which is right, start another voter if one is down, and `replace` the one that \
             is wrong",
            all.join(", ")
        );
        tracing::error!(node = self.shared.me.node, "{text}");
        self.advice = Some(text);
    }

    /// The log, or a promise, is broken: take part no more (the process goes on and says why).
    pub(super) fn fail(&mut self, now: Now, reason: String) {
        if !self.core.failed() {
            self.core
                .step(now.mono, Input::Fail { reason }, &mut self.scratch);
            self.outputs.extend(self.scratch.drain(..));
        }
    }

    pub(super) fn failed(&mut self, reason: String) {
        self.tell(NodeEvent::Failed(reason.clone()));
        self.deferred.clear();
        self.shared.waiters.abandon_above(self.dispatched);
        self.failure = Some(reason);
    }

    pub(super) fn request(&mut self, now: Now, request: Request) {
        match request {
            Request::Shutdown => self.stop(now),
            Request::Snapshot(index) => self.want_snapshot(index),
            Request::Change {
                expected,
                changes,
                reply,
            } => self.change(now, expected, changes, reply),
            Request::HandOver { to, reply } => self.begin_hand_over(now, to, reply),
            Request::Fail(reason) => {
                match self.shared.stopped_at() {
                    Some(index) => self.quarantine(now, index, reason),
                    None => self.fail(now, reason),
                }
                self.step(now, Input::Tick, Cause::Other);
            }
        }
    }

    pub(super) fn publish(&mut self, now: Micros) {
        self.publish_brief(now);
        self.shared.refresh_views();
    }

    fn publish_brief(&mut self, now: Micros) {
        self.publish_lease();
        let mut brief = self.shared.brief();
        brief.role = self.core.role();
        brief.term = self.core.term();
        brief.leader = self.core.leader();
        brief.last = self.core.last();
        brief.durable = self.core.durable();
        let configuration = self.core.configuration();
        let same = match (&brief.configuration, configuration) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            brief.configuration = configuration.cloned();
            brief.configured = self.core.configured_at();
        }
        let committed = self.core.committed_configuration();
        if brief.committed.as_ref().map(|it| it.0) != committed.map(|it| it.0) {
            brief.committed = committed.cloned();
        }
        let ended = brief.failure != self.failure || brief.stopping != self.stopping;
        if now >= self.next_status || !same || ended {
            self.next_status = now + STATUS_INTERVAL;
            brief.syncs = self.log.counters().syncs;
            brief.log_start = self.core.log_start();
            brief.repairing = self.core.is_repairing();
            brief.stopped_at = self.core.quarantined();
            brief.snapshot = self.snapshots.newest();
            brief.snapshots = self.snapshots.counters();
            brief.stopping = self.stopping;
            brief.disk_full = self.log.refuses_entries();
            brief.advice.clone_from(&self.advice);
            brief.failure.clone_from(&self.failure);
            let members = configuration.into_iter().flat_map(|c| c.members());
            let nodes = members.map(|member| member.replica.node);
            let peers = nodes.filter_map(|node| Some((node, self.core.peer(node)?)));
            brief.peers.clear();
            brief.peers.extend(peers);
            let (commit, applied) = (self.core.commit(), self.core.applied());
            self.metrics.show(&brief, commit, applied);
            let (log, snapshots) = (self.log.counters(), brief.snapshots);
            self.metrics.total(&log, snapshots);
            let queued = std::mem::take(&mut self.most_queued);
            self.metrics.waiting(queued, self.uncommitted_bytes);
            self.log_figures.show(&self.log, now);
            self.snapshot_figures.show(self.snapshots.newest_bytes());
            let leads = brief.role == RaftRole::Leader;
            self.peer_figures.show(leads, &brief.peers, now);
        }
    }
}

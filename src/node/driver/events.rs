//! What the core tells: events, failure, and the status that others see.

use std::sync::Arc;

use super::{Cause, DUE_INTERVAL, Driver, Now, STATUS_INTERVAL};
use crate::core::{ChangeError, Event, Input};
use crate::network::RaftNetwork;
use crate::node::inbox::Request;
use crate::state_machine::StateMachine;
use crate::types::Micros;
use crate::wal::Medium;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn event(&mut self, now: Now, event: Event) {
        match event {
            Event::BecameLeader { term } => {
                self.next_due = now.mono + DUE_INTERVAL;
                tracing::info!(node = self.shared.me.node, term, "leads");
            }
            Event::SteppedDown { term, why } => {
                tracing::info!(node = self.shared.me.node, term, why, "leads no more");
                self.shared.waiters.abandon_above(self.core.commit());
                self.uncommitted.clear();
                self.uncommitted_bytes = 0;
                self.shared.set_lease(None);
                self.reads.start_over();
                self.change_failed(ChangeError::Unknown);
            }
            Event::ChangeRefused { why } => {
                tracing::warn!(node = self.shared.me.node, %why, "the members were not changed");
                self.change_failed(why);
            }
            Event::HandOverFailed { why } => {
                tracing::warn!(node = self.shared.me.node, %why, "leadership was not handed over");
                self.hand_over_failed(why);
            }
            Event::Truncated { from } => {
                tracing::info!(
                    node = self.shared.me.node,
                    from,
                    "dropped a conflicting suffix"
                );
            }
            Event::Configured {
                index,
                configuration,
            } => {
                let members = configuration.members().count();
                tracing::info!(node = self.shared.me.node, index, members, "configuration");
                self.dial();
            }
            Event::Advice(text) => {
                tracing::warn!(node = self.shared.me.node, "{text}");
                self.advice = Some(text);
            }
            Event::Fatal(text) => self.failed(text),
        }
    }

    /// The log, or a promise, is broken: take part no more (the process goes on and says why).
    pub(super) fn fail(&mut self, now: Now, reason: String) {
        if self.failure.is_none() {
            self.core
                .step(now.mono, Input::Fail { reason }, &mut self.scratch);
            self.outputs.extend(self.scratch.drain(..));
        }
    }

    pub(super) fn failed(&mut self, reason: String) {
        tracing::error!(node = self.shared.me.node, reason, "the replica has failed");
        self.deferred.clear();
        self.shared.waiters.abandon_above(self.dispatched);
        self.failure = Some(reason);
    }

    pub(super) fn request(&mut self, now: Now, request: Request) {
        match request {
            Request::Shutdown => self.stop(now),
            Request::Change {
                expected,
                changes,
                reply,
            } => self.change(now, expected, changes, reply),
            Request::HandOver { to, reply } => self.begin_hand_over(now, to, reply),
            Request::Fail(reason) => {
                self.fail(now, reason);
                self.step(now, Input::Tick, Cause::Other);
            }
        }
    }

    pub(super) fn publish(&mut self, now: Micros) {
        self.publish_lease();
        let mut brief = self.shared.brief();
        brief.role = self.core.role();
        brief.term = self.core.term();
        brief.leader = self.core.leader();
        brief.last = self.core.last();
        brief.durable = self.core.durable();
        brief.commit = self.core.commit();
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
        let ended = brief.failure != self.failure || brief.stopping != self.stopping;
        if now >= self.next_status || !same || ended {
            self.next_status = now + STATUS_INTERVAL;
            brief.syncs = self.log.counters().syncs;
            brief.stopping = self.stopping;
            brief.advice.clone_from(&self.advice);
            brief.failure.clone_from(&self.failure);
            let members = configuration.into_iter().flat_map(|c| c.members());
            let nodes = members.map(|member| member.replica.node);
            let peers = nodes.filter_map(|node| Some((node, self.core.peer(node)?)));
            brief.peers.clear();
            brief.peers.extend(peers);
        }
    }
}

//! An operator who looks after the nodes: has the cluster skip what no state machine can apply, and
//! starts with the next release whatever the cluster has left behind.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::faults::Fault;
use super::host::{Host, NEW, OLD};
use super::schedule::{At, Event};
use super::workload::Workload;
use super::world::World;
use crate::core::{Change, Configuration};
use crate::node::inbox::Submission;
use crate::node::waiters::Waiter;
use crate::types::{EntryKind, LogIndex, Micros, NodeId};
use crate::wal::Crash;

/// The operator looks this often.
pub(crate) const ROUNDS: Micros = 100_000;
/// What the operator is needed for.
pub(crate) const LOOKED_AFTER: [Fault; 3] = [Fault::Poison, Fault::Upgrade, Fault::Downgrade];
/// A version of the envelope around commands that no release knows.
const UNKNOWN: u8 = 0xee;

impl<W: Workload> World<W> {
    /// Somebody proposes to a leader what no state machine can apply.
    pub(crate) fn poison(&mut self, node: NodeId, draw: u64) -> bool {
        let mut payload = vec![UNKNOWN, 0];
        payload.extend_from_slice(&draw.to_le_bytes());
        let payload = Bytes::from(payload);
        let Some(host) = self.running(node).filter(|host| host.leads().is_some()) else {
            return false;
        };
        let life = host.life;
        let Some(process) = host.process.as_deref() else {
            return false;
        };
        let (reply, _) = oneshot::channel();
        let waiter = Waiter::new(reply.into(), Micros::MAX);
        let submission = Submission {
            kind: EntryKind::Command,
            payload: payload.clone(),
            waiter,
            forward: false,
        };
        process
            .shared
            .inbox
            .put(|lanes| lanes.proposals.push(submission));
        self.oracle.poisons(&payload);
        self.poke(At { node, life }, 0);
        true
    }

    /// A process is stopped and started again with another release, or will be with its next start.
    pub(crate) fn change_release(&mut self, node: NodeId, level: u32, long: Micros) -> bool {
        let Some(host) = self.host(node).filter(|host| host.knows_level != level) else {
            return false;
        };
        host.knows_level = level;
        self.crash_for(node, Crash::Kill, long);
        true
    }

    pub(crate) fn operate(&mut self) {
        self.schedule.add(self.now + ROUNDS, Event::Operate);
        self.skip();
        if self.healed {
            self.leave_nobody_behind();
        }
    }

    /// The first entry at which some state machine has stopped.
    pub(crate) fn stopped_at(&self) -> Option<LogIndex> {
        let processes = self.hosts.iter().filter_map(|host| host.process.as_deref());
        processes
            .filter_map(|process| process.driver.core().quarantined())
            .min()
    }

    fn skip(&mut self) {
        let Some(index) = self.stopped_at() else {
            return;
        };
        let skipped = self
            .oracle
            .governing()
            .is_some_and(|(_, governing)| governing.skipped.contains(&index));
        if !skipped {
            if let Some(leader) = self.leader() {
                self.ask(leader, None, Change::Skip(index));
            }
            return;
        }
        let stopped = |host: &&Host<W::Machine>| {
            let process = host.process.as_deref();
            process.is_some_and(|process| process.driver.core().quarantined() == Some(index))
        };
        let stopped: Vec<_> = self
            .hosts
            .iter()
            .filter(stopped)
            .map(|host| host.node)
            .collect();
        for node in stopped {
            self.note(|| format!("node {node} is started again, the cluster skips {index}"));
            self.crash_for(node, Crash::Kill, ROUNDS);
        }
    }

    /// A member whose release does not know what others go by is refused by them.
    fn leave_nobody_behind(&mut self) {
        let processes = self.hosts.iter().filter_map(|host| host.process.as_deref());
        let level = processes.map(|process| process.driver.core().feature_level());
        if level.max().is_none_or(|level| level <= OLD) {
            return;
        }
        for node in 1..=self.hosts.len() as NodeId {
            if self.change_release(node, NEW, ROUNDS) {
                self.note(|| format!("node {node} is started with the next release"));
            }
        }
    }

    /// Whether every member is there and its release knows a feature level.
    pub(crate) fn all_know(&self, governing: &Configuration, level: u32) -> bool {
        let knows = |host: &Host<W::Machine>| {
            let core = host.process.as_deref().map(|process| process.driver.core());
            core.is_some_and(|core| core.knows_level() >= level)
        };
        governing.members().all(|member| {
            let mut hosts = self.hosts.iter();
            hosts.any(|host| host.replica() == Some(member.replica) && knows(host))
        })
    }
}

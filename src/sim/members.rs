//! Operators at work: members are added, removed, replaced, promoted and demoted, within what leaves
//! a majority that can vote.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::faults::Fault;
use super::host::{Host, OLD};
use super::plan::Strike;
use super::schedule::At;
use super::workload::Workload;
use super::world::World;
use crate::core::{Change, Configuration, MemberInfo};
use crate::node::inbox::Request;
use crate::types::{LogIndex, NodeId, ReplicaId};

impl<W: Workload> World<W> {
    /// Asks whoever leads for a change. Whether there was anybody to ask, and something to change.
    pub(crate) fn change_members(&mut self, strike: &Strike, node: NodeId) -> Result<bool, String> {
        let Some((index, current)) = self.oracle.governing() else {
            return Ok(false);
        };
        let Some(leader) = self.leader().filter(|_| !self.change_in_flight(index)) else {
            return Ok(false);
        };
        let change = match strike.fault {
            Fault::Join => self.joining(&current, node, strike.draw),
            Fault::Replace => self.replacing(&current, node),
            Fault::Remove if self.can_spare(&current, node) => Some(Change::Remove(node)),
            Fault::Demote if self.can_spare(&current, node) => Some(Change::Demote(node)),
            Fault::Promote => {
                let learns = current.learners.iter().any(|one| one.replica.node == node);
                learns.then_some(Change::Promote(node))
            }
            _ => None,
        };
        let Some(change) = change else {
            return Ok(self.empties(&current, strike, node));
        };
        self.note(|| format!("node {leader} is asked for {change:?}"));
        let expected = strike.draw.is_multiple_of(3).then_some(index);
        self.ask(leader, expected, change);
        Ok(true)
    }

    pub(crate) fn ask(&mut self, leader: NodeId, expected: Option<LogIndex>, change: Change) {
        let Some(host) = self.host(leader) else {
            return;
        };
        let life = host.life;
        if let Some(process) = host.process.as_deref_mut() {
            process.asked_until = process.paused_until;
            let (reply, _) = oneshot::channel();
            let changes = vec![change];
            let request = Request::Change {
                expected,
                changes,
                reply,
            };
            process
                .shared
                .inbox
                .put(|lanes| lanes.requests.push(request));
        }
        self.poke(At { node: leader, life }, 0);
    }

    /// Whether a configuration beyond the governing one may still come to govern: it stands in a log,
    /// or a leader that is paused was asked for it.
    pub(crate) fn change_in_flight(&self, governing: LogIndex) -> bool {
        let (_, current) = self.oracle.governing().unwrap_or_default();
        let beyond = |host: &Host<W::Machine>| {
            let process = host.process.as_deref();
            let asked = process.is_some_and(|process| process.asked_until >= self.now);
            host.configured > governing || asked
        };
        !current.outgoing.is_empty() || self.hosts.iter().any(beyond)
    }

    /// Whether whoever leads has a change to finish. What a node outside of the governing configuration
    /// still has in its log, of a change that was lost with its leader, nobody ever asks it for.
    pub(crate) fn change_to_finish(&self, governing: LogIndex, current: &Configuration) -> bool {
        let belongs = |host: &Host<W::Machine>| {
            let replica = host.replica();
            replica.is_some_and(|who| current.members().any(|one| one.replica == who))
        };
        let mut beyond = self.hosts.iter().filter(|host| host.configured > governing);
        !current.outgoing.is_empty() || beyond.any(belongs)
    }

    /// A node outside comes in.
    fn joining(&mut self, current: &Configuration, node: NodeId, draw: u64) -> Option<Change> {
        let outside = current.member(node).is_none();
        let info = self.blank_replica(node).filter(|_| outside)?;
        if current.tombstones.contains(&info.replica) {
            return None;
        }
        Some(if draw.is_multiple_of(4) {
            Change::AddLearner(info)
        } else {
            Change::AddVoter(info)
        })
    }

    /// Another directory takes the place of one that is lost.
    fn replacing(&mut self, current: &Configuration, node: NodeId) -> Option<Change> {
        let old = current
            .incoming
            .iter()
            .find(|one| one.replica.node == node)?;
        let new = self.blank_replica(node)?;
        let known = current.members().any(|one| one.replica == new.replica);
        let fresh = new.replica != old.replica && !known;
        fresh.then_some(Change::Replace { old: node, new })
    }

    /// The running process of a blank directory.
    fn blank_replica(&mut self, node: NodeId) -> Option<MemberInfo> {
        let host = self.host(node)?;
        let (process, knows) = (host.process.as_deref()?, host.knows_level);
        process.driver.core().is_blank().then(|| MemberInfo {
            replica: process.me,
            peer_address: format!("node-{node}"),
            client_endpoint: String::new(),
            features: (OLD, knows),
            priority: 0,
        })
    }

    /// Whether a majority of those who stay has what it promised, with this voter gone.
    fn can_spare(&self, current: &Configuration, node: NodeId) -> bool {
        let is_it = |who: &ReplicaId| who.node == node;
        let voters = current.incoming.iter().map(|one| one.replica);
        let (gone, stay): (Vec<_>, Vec<_>) = voters.partition(is_it);
        let sound = stay.iter().filter(|who| self.is_sound(**who)).count();
        let before = sound + gone.iter().filter(|who| self.is_sound(**who)).count();
        let enough = |sound: usize, of: usize| sound > of / 2;
        !gone.is_empty()
            && stay.len() >= 2
            && enough(sound, stay.len())
            && enough(before, stay.len() + gone.len())
    }

    /// Whether a replica has all that it promised.
    pub(crate) fn is_sound(&self, who: ReplicaId) -> bool {
        self.hosts.iter().any(|host| {
            let whole = !host.repairing && !host.spoiled.is() && !host.is_diverged();
            host.replica() == Some(who) && whole
        })
    }

    /// Whoever was removed, and is still there, gets an empty directory some day.
    fn empties(&mut self, current: &Arc<Configuration>, strike: &Strike, node: NodeId) -> bool {
        let removed = |host: &&mut Host<W::Machine>| {
            let replica = host.replica();
            host.process.is_some() && replica.is_some_and(|who| current.tombstones.contains(&who))
        };
        if strike.fault != Fault::Join || self.host(node).filter(removed).is_none() {
            return false;
        }
        self.crash(node, crate::wal::Crash::PowerCut);
        self.retire(node, None, strike.draw);
        true
    }
}

//! The observer: what is checked after every step of a node, on what its log, its disk and its
//! messages show.

use std::sync::Arc;

use super::host::{NEW, OLD, SESSION_LIMITS, TOO_OLD};
use super::oracle::{Durable, is_promise};
use super::schedule::{At, Event};
use super::truth::{Image, starts_without};
use super::workload::Workload;
use super::world::World;
use crate::config::limits;
use crate::core::Message;
use crate::types::{LogIndex, NodeId, ReplicaId};
use crate::wal::Crash;

/// Failures that no fault of a disk excuses.
const BROKEN: [&str; 4] = ["leads term", "differs from", "too large", "the log wants"];
/// What a replica says that stops because its state is another.
const NOT_THE_QUORUMS: &str = "is not that of the quorum";
/// From so many committed entries on, disks are read back half as often, and so on: each reading
/// reads all of a log.
const LONG_LOG: LogIndex = 1_000;
/// One piece of work for the applier, or one append, may be begun below a bound and end above it.
const OVERHANG: usize = 4 << 20;

impl<W: Workload> World<W> {
    /// Everything that can be seen after a burst of a driver.
    pub(crate) fn observe(&mut self, at: At) -> Result<(), String> {
        let sent = self.wires.take_sent()?;
        if self.verbose {
            for (to, message) in &sent {
                eprintln!("{:>9} node {} -> {to} {message:?}", self.now, at.node);
            }
        }
        self.observe_log(at)?;
        self.observe_bounds(at)?;
        self.observe_cuts(at)?;
        if self.observe_failure(at)? {
            return Ok(());
        }
        self.observe_promises(at, sent)?;
        self.poll(at)
    }

    /// S18: a snapshot stands for durable entries only, and none goes that a durable log begins after
    /// (hazard D7).
    fn observe_cuts(&mut self, at: At) -> Result<(), String> {
        let Some(host) = self.host(at.node) else {
            return Ok(());
        };
        let Some(process) = host.process.as_deref() else {
            return Ok(());
        };
        let (written, removed) = process.writes_and_removes();
        let durable = process.driver.core().durable();
        if let Some(last) = written.iter().find(|last| last.index > durable) {
            return Err(format!(
                "S18: node {} writes a snapshot of {last}, which is not durable there",
                at.node
            ));
        }
        if removed.is_empty() || host.disk_faults || host.spoiled.is() {
            return Ok(());
        }
        starts_without(&host.disk, at.node, &removed)
            .map_err(|why| format!("node {} removes a snapshot: {why}", at.node))
    }

    /// A replica that has failed is started again, if it had a reason to fail.
    fn observe_failure(&mut self, at: At) -> Result<bool, String> {
        let Some(host) = self.host(at.node) else {
            return Ok(false);
        };
        let excused = host.disk_faults || host.spoiled.is();
        let Some(why) = host
            .process
            .as_deref()
            .and_then(|process| process.failure())
        else {
            return Ok(false);
        };
        let diverged = host.is_diverged();
        if diverged && why.contains(NOT_THE_QUORUMS) {
            self.diverged_found += 1;
        } else if why.contains(NOT_THE_QUORUMS) {
            return Err(format!(
                "G1: node {} stops with a right state: {why}",
                at.node
            ));
        } else if why.contains(TOO_OLD) && host.knows_level == OLD {
            // It is to be started with the release that the others run.
            if let Some(host) = self.host(at.node) {
                host.knows_level = NEW;
            }
        } else if !excused || BROKEN.iter().any(|sign| why.contains(sign)) {
            return Err(format!("node {} has failed: {why}", at.node));
        }
        let Some(host) = self.host(at.node) else {
            return Ok(false);
        };
        let crash = if host.random.chance(500) {
            Crash::Kill
        } else {
            Crash::PowerCut
        };
        self.note(|| format!("node {} has failed: {why}", at.node));
        self.poll(at)?;
        self.crash(at.node, crash);
        self.schedule.add(self.now + 300_000, Event::Start(at.node));
        Ok(true)
    }

    /// S19.
    fn observe_promises(&mut self, at: At, sent: Vec<(NodeId, Message)>) -> Result<(), String> {
        let mut promises = sent;
        promises.retain(|(_, message)| is_promise(message));
        if promises.is_empty() || !self.looks() || self.is_unreadable(at.node) {
            return Ok(());
        }
        let image = self.image(at.node)?;
        let Some(who) = self.process(at).map(|process| process.me) else {
            return Ok(());
        };
        promises
            .iter()
            .try_for_each(|(to, message)| self.oracle.promises(who, *to, message, &image))
    }

    /// Whether a disk may show nothing but a refusal.
    fn is_unreadable(&mut self, node: NodeId) -> bool {
        self.host(node).is_some_and(|host| host.spoiled.is())
    }

    /// Whether this check reads the disks.
    fn looks(&mut self) -> bool {
        self.checks += 1;
        let every = self.plan.truth_every.max(1);
        let due = self.checks >= self.next_look;
        if due {
            self.next_look = self.checks + every * (1 + self.oracle.committed() / LONG_LOG);
        }
        due
    }

    /// S3, S9, S10, and what follows from each new entry.
    pub(crate) fn observe_log(&mut self, at: At) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        let before = process.chain.last();
        let start = process.driver.log().snapshot();
        if process.chain.lacks(start) {
            let front = self.oracle.prefix(start)?;
            let Some(process) = self.process(at) else {
                return Ok(());
            };
            process.chain.begin_with(front);
        }
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        let from = process.chain.follow(process.driver.log())?;
        let (core, me) = (process.driver.core(), process.me);
        let (term, commit, last) = (core.term(), core.commit(), process.chain.last());
        let (role, leading) = (process.role(), core.is_leader());
        let (level, knows) = (core.feature_level(), core.knows_level());
        let configurations = core.configurations().to_vec();
        let seen = process.seen;
        process.seen.term = term;
        process.seen.commit = commit;
        if commit < seen.commit || term < seen.term {
            return Err(format!(
                "S9: {me} went back: {seen:?}, now {term} and {commit}"
            ));
        }
        if commit > last || core.last().index != last {
            return Err(format!(
                "S10: {me} commits {commit}, its log ends at {last}"
            ));
        }
        if level > knows {
            return Err(format!(
                "J2: {me} goes by feature level {level}, its release knows {knows}"
            ));
        }
        if leading && seen.led == term && from <= before {
            return Err(format!(
                "S3: {me} leads term {term} and has dropped entry {from} of its log"
            ));
        }
        let held = process.chain.part(from..=last);
        let committed = process.chain.part(seen.commit + 1..=commit);
        for (index, item) in &held {
            self.oracle.holds(me, *index, item)?;
        }
        for (index, item) in &committed {
            self.oracle.commits(me, term, *index, item)?;
        }
        let known = configurations.iter().filter(|(index, _)| *index <= commit);
        for (index, configuration) in known {
            self.oracle.configured(me, *index, configuration)?;
        }
        self.mark(&[self.now, at.node, term, commit, last, role as u64]);
        self.observe_configured(at);
        self.observe_repair(at)?;
        self.count_snapshots(at);
        if leading {
            self.observe_leader(at, commit > seen.commit)?;
        }
        Ok(())
    }

    fn count_snapshots(&mut self, at: At) {
        let Some(process) = self.process(at) else {
            return;
        };
        let (now, seen) = (process.driver.snapshot_counters(), process.seen.snapshots);
        process.seen.snapshots = now;
        self.snapshots.taken += now.taken - seen.taken;
        self.snapshots.installed += now.installed - seen.installed;
        if now.installed > seen.installed {
            self.note(|| format!("node {} installed a snapshot", at.node));
        }
    }

    fn observe_configured(&mut self, at: At) {
        if let Some(host) = self.host(at.node).filter(|host| host.life == at.life)
            && let Some(process) = host.process.as_deref()
        {
            let newest = process.driver.core().configurations().last();
            host.configured = newest.map_or(0, |(index, _)| *index);
        }
    }

    fn mark(&mut self, words: &[u64]) {
        for word in words {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23);
        }
    }

    /// S21: what waits in memory stays within its bounds.
    fn observe_bounds(&mut self, at: At) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        let load = process.driver.load();
        let core = process.driver.core();
        let nodes = core.configuration().into_iter().flat_map(|c| c.members());
        let inflight = nodes.filter_map(|member| core.peer(member.replica.node));
        let inflight = inflight.map(|peer| peer.inflight_bytes).max();
        let bounds = [
            ("uncommitted", load.uncommitted, limits::MAX_UNCOMMITTED),
            ("handed to the applier", load.backlog, load.most_backlog),
            ("in flight", inflight.unwrap_or(0), limits::MAX_INFLIGHT),
        ];
        for (what, bytes, most) in bounds {
            if bytes > most + OVERHANG {
                return Err(format!(
                    "S21: {} has {bytes} bytes {what}, {most} are allowed",
                    process.me
                ));
            }
        }
        Ok(())
    }

    /// S1, S2 and S5 at an election, S7 at a commit.
    fn observe_leader(&mut self, at: At, commits: bool) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        let (me, core) = (process.me, process.driver.core());
        let (term, commit) = (core.term(), core.commit());
        let configuration = core.configuration().cloned();
        let configurations = core.configurations().to_vec();
        let first_seen = process.seen.led != term;
        process.seen.led = term;
        let Some(configuration) = configuration else {
            return Err(format!("{me} leads without a configuration"));
        };
        if first_seen {
            self.note(|| format!("node {} leads term {term}", at.node));
            let Some(host) = self.hosts.get((at.node as usize).saturating_sub(1)) else {
                return Ok(());
            };
            let chain = host.process.as_deref().map(|process| &process.chain);
            let hash_at = |index| chain.and_then(|chain| chain.hash_at(index));
            if self.oracle.leads(me, term, hash_at)? {
                let durable = self.all_durable()?;
                self.oracle.elected(me, term, &configuration, &durable)?;
            }
        }
        if commits {
            self.oracle.commits_own_term(me, term, commit)?;
            self.oracle.governs(me, commit, &configurations)?;
            self.note_who_belongs();
        }
        if commits && self.looks() {
            let durable = self.all_durable()?;
            self.oracle
                .commits_durably(me, commit, &configuration, &durable)?;
        }
        Ok(())
    }

    /// Whoever took the place of a lost directory is a member like any other from now on.
    fn note_who_belongs(&mut self) {
        let Some((_, governing)) = self.oracle.governing() else {
            return;
        };
        for host in self.hosts.iter_mut().filter(|host| host.wiped) {
            if host.replica().is_some_and(|who| governing.is_voter(who)) {
                host.wiped = false;
            }
        }
    }

    pub(crate) fn observe_applied(&mut self, at: At) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        let applied = process.shared.applied();
        let (me, index) = (process.me, applied.id.index);
        if index < process.seen.applied || index > process.driver.core().commit() {
            return Err(format!(
                "S9: {me} has applied {index}, before {:?}",
                process.seen
            ));
        }
        if process.sessions() > SESSION_LIMITS.most {
            let sessions = process.sessions();
            return Err(format!("S21: {me} has {sessions} sessions"));
        }
        process.seen.applied = index;
        self.oracle.applied(me, index, applied.digest)
    }

    /// S8, when something may have been lost.
    pub(crate) fn observe_loss(&mut self) -> Result<(), String> {
        let durable = self.all_durable()?;
        self.oracle.survives(&durable)
    }

    /// What is durable on one node.
    pub(crate) fn image(&mut self, node: NodeId) -> Result<Arc<Image>, String> {
        let Some(host) = self.hosts.get_mut((node as usize).saturating_sub(1)) else {
            return Ok(Arc::default());
        };
        let me = host.process.as_ref().map(|process| process.me);
        let (image, fresh) = host
            .durable(&self.oracle)
            .map_err(|why| format!("node {node}: {why}"))?;
        if fresh {
            self.truths += 1;
            if let Some(me) = me {
                self.oracle.durable(me, &image)?;
            }
        }
        Ok(image)
    }

    fn all_durable(&mut self) -> Result<Durable, String> {
        let mut durable: Durable = self.oracle.graves().clone();
        for node in 1..=self.hosts.len() as NodeId {
            let Some(host) = self.host(node) else {
                continue;
            };
            let replica: Option<ReplicaId> = host.replica();
            // Until its repair ends it stands for what it had promised before.
            if self.host(node).is_some_and(|host| host.repairing) {
                continue;
            }
            let image = if self.is_unreadable(node) {
                None
            } else {
                Some(self.image(node)?)
            };
            if let Some(replica) = replica {
                durable.insert(replica, image);
            }
        }
        Ok(durable)
    }
}

//! A run: chaos; then a random quorum must serve while the rest is gone; then all are healed and
//! must become equal (L1, L2, L4 and L5 of the invariants). Of some seeds the leader is then made
//! mute: it heartbeats and cannot replicate (hazard B12), and another must serve.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::host::{ELECTION_MAX, Host, NEW};
use super::plan::Plan;
use super::report::{Failure, Report, SimOptions};
use super::schedule::Event;
use super::workload::Workload;
use super::world::World;
use crate::core::{Configuration, MemberInfo};
use crate::types::{Micros, NodeId};
use crate::wal::Crash;

/// What the last faults may still last: pauses, stalls, full disks, restarts.
const ECHO: Micros = 3_000_000;
/// A leader is there, and has committed something new, within this many election timeouts.
const PATIENCE: Micros = 30 * ELECTION_MAX;
/// One seed in so many ends with a mute leader.
const MUTE_EVERY: u64 = 3;
/// Terms that healing may take.
const TERMS: u64 = 20;

/// Runs one seed.
///
/// # Errors
/// The first invariant that did not hold, or the panic.
pub fn simulate<W: Workload>(workload: W, options: &SimOptions) -> Result<Report, Box<Failure>> {
    simulate_plan(workload, &Plan::draw(options))
}

/// Runs a plan, such as the script of a failure.
///
/// # Errors
/// The first invariant that did not hold, or the panic.
pub fn simulate_plan<W: Workload>(workload: W, plan: &Plan) -> Result<Report, Box<Failure>> {
    let mut world = World::new(workload, plan.clone());
    let run = catch_unwind(AssertUnwindSafe(|| world.phases()));
    let result = run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("S22: panic: {}", text.unwrap_or_default()))
    });
    let report = world.report();
    result.map(|()| report.clone()).map_err(|what| {
        Box::new(Failure {
            plan: plan.clone(),
            at_us: world.now,
            what,
            report,
            tail: world.tail.iter().cloned().collect(),
        })
    })
}

impl<W: Workload> World<W> {
    fn phases(&mut self) -> Result<(), String> {
        self.run(self.plan.chaos_us, |_| false)?;
        self.heal();
        self.finds_the_diverged()?;
        self.goes_on_behind_poison()?;
        if self.oracle.committed() > 0 {
            self.quorum_serves()?;
        }
        if self.plan.seed.is_multiple_of(MUTE_EVERY) {
            self.outlives_a_mute_leader()?;
        }
        self.all_agree()?;
        self.knows_what_all_know()?;
        self.clients.judge(&self.oracle)
    }

    fn heal(&mut self) {
        self.rates.heal();
        self.wires.set_rates(self.rates.links.clone());
        self.quiet_until = 0;
        let (now, nodes) = (self.now, self.hosts.len() as NodeId);
        for host in &mut self.hosts {
            (host.stalled_until, host.slow_until) = (0, 0);
        }
        for node in 1..=nodes {
            self.schedule.add(now + 1, Event::Start(node));
        }
        self.healed = true;
        self.note(|| "healed".to_owned());
    }

    /// G1: a member whose state is another notices, while a quorum has the right one.
    fn finds_the_diverged(&mut self) -> Result<(), String> {
        let found = |world: &Self| {
            let Some((_, governing)) = world.oracle.governing() else {
                return true;
            };
            let votes = |host: &Host<W::Machine>| {
                let replica = host.replica();
                host.is_diverged() && replica.is_some_and(|who| governing.is_voter(who))
            };
            !world.hosts.iter().any(votes)
        };
        if !found(self) && !self.run(self.now + ECHO + PATIENCE, found)? {
            return Err(format!(
                "G1: nobody notices that a state is another: {}",
                self.roles()
            ));
        }
        Ok(())
    }

    /// G2: what no state machine can apply is skipped, and those that stopped there go on.
    fn goes_on_behind_poison(&mut self) -> Result<(), String> {
        let on = |world: &Self| world.stopped_at().is_none();
        if !on(self) && !self.run(self.now + ECHO + PATIENCE, on)? {
            return Err(format!(
                "G2: nobody gets beyond an entry that cannot be applied: {}",
                self.roles()
            ));
        }
        Ok(())
    }

    /// J2: once every member's release knows a feature level, the cluster is at it.
    fn knows_what_all_know(&mut self) -> Result<(), String> {
        let raised = |world: &Self| {
            let Some((_, governing)) = world.oracle.governing() else {
                return true;
            };
            governing.feature_level == NEW || !world.all_know(&governing, NEW)
        };
        if !raised(self) && !self.run(self.now + PATIENCE, raised)? {
            return Err(format!(
                "J2: all members know feature level {NEW}, and the cluster is not at it: {}",
                self.roles()
            ));
        }
        Ok(())
    }

    fn quorum_serves(&mut self) -> Result<(), String> {
        self.finishes_changes()?;
        let Some((_, governing)) = self.oracle.governing() else {
            return Ok(());
        };
        let voters = governing.incoming.iter().map(|one| one.replica);
        let sound = voters.filter(|who| self.is_sound(*who));
        let mut serving: Vec<_> = sound.map(|who| who.node).collect();
        let majority = governing.incoming.len() / 2 + 1;
        // Losses that were bearable, then voters that were taken out: nobody is spared. Nor is anybody
        // while a learner is to vote: a majority counts it as soon as it has caught up.
        if serving.len() < majority || !governing.promotions.is_empty() {
            return Ok(());
        }
        while serving.len() > majority {
            let nth = self.chooser.below(serving.len() as u64) as usize;
            serving.swap_remove(nth);
        }
        for node in 1..=self.hosts.len() as NodeId {
            if !serving.contains(&node) {
                self.kept_down.push(node);
                self.crash(node, Crash::Kill);
            }
        }
        self.note(|| format!("only nodes {serving:?} are there"));
        self.serves("L4: a quorum")?;
        let back = std::mem::take(&mut self.kept_down);
        for node in back {
            self.schedule.add(self.now + 1, Event::Start(node));
        }
        Ok(())
    }

    /// L3: a change that is under way is finished by whoever leads, and the cluster is not joint.
    fn finishes_changes(&mut self) -> Result<(), String> {
        let settled = |world: &Self| {
            let governing = world.oracle.governing();
            governing.is_none_or(|(index, current)| !world.change_to_finish(index, &current))
        };
        if !settled(self) && !self.run(self.now + ECHO + PATIENCE, settled)? {
            return Err(format!(
                "L3: a change of members does not end: {}",
                self.roles()
            ));
        }
        Ok(())
    }

    /// A leader, and something new that is answered.
    fn serves(&mut self, who: &str) -> Result<(), String> {
        // What was under way does not count as new.
        self.run(self.now + ECHO, |_| false)?;
        let (end, acked) = (self.now + PATIENCE, self.clients.acked);
        if !self.run(end, |world| world.clients.acked > acked)? {
            return Err(format!("{who} does not serve: {}", self.roles()));
        }
        Ok(())
    }

    /// Whoever leads can do nothing but heartbeat from now on: another takes its place.
    fn outlives_a_mute_leader(&mut self) -> Result<(), String> {
        self.serves("L1: the healed cluster")?;
        let Some((_, governing)) = self.oracle.governing() else {
            return Ok(());
        };
        let voters = governing.incoming.iter().map(|one| one.replica);
        let muted = self.leader();
        let others = voters.filter(|who| Some(who.node) != muted && self.is_sound(*who));
        let enough = others.count() > governing.incoming.len() / 2;
        if let Some(node) = muted.filter(|_| enough) {
            self.mute(node, Micros::MAX);
            self.note(|| format!("node {node} leads and is mute"));
            self.serves("B12: a cluster whose leader is mute")?;
            self.wires.set_rates(self.rates.links.clone());
        }
        Ok(())
    }

    fn all_agree(&mut self) -> Result<(), String> {
        let terms = self.oracle.highest_term();
        self.serves("L1: the healed cluster")?;
        self.proposing = false;
        let end = self.now + ECHO + PATIENCE;
        if !self.run(end, |world| world.is_equal())? {
            return Err(format!(
                "L2: the nodes do not become equal: {}",
                self.roles()
            ));
        }
        let grown = self.oracle.highest_term() - terms;
        if grown > TERMS {
            return Err(format!("L5: healing took {grown} terms"));
        }
        Ok(())
    }

    /// Whether everybody has everything and nobody waits.
    fn is_equal(&self) -> bool {
        let committed = self.oracle.committed();
        let equal = |host: &Host<W::Machine>| {
            !host.repairing
                && host.process.as_deref().is_some_and(|process| {
                    process.shared.applied_index() == committed && process.chain.last() == committed
                })
        };
        let Some((_, governing)) = self.oracle.governing() else {
            return false;
        };
        let belongs = |host: &&Host<W::Machine>| {
            let replica = host.replica();
            replica.is_some_and(|who| governing.members().any(|one| one.replica == who))
        };
        let waiting = self.clients.waiting() + self.clients.sessions.waiting();
        waiting == 0 && self.hosts.iter().filter(belongs).all(equal)
    }

    fn roles(&self) -> String {
        let role = |host: &Host<W::Machine>| match host.process.as_deref() {
            None => format!("{}: down", host.node),
            Some(process) => {
                let core = process.driver.core();
                let (term, commit, last) = (core.term(), core.commit(), core.last());
                let applied = process.shared.applied_index();
                let wiped = if host.wiped { " (wiped)" } else { "" };
                let role = process.role();
                let repairing = if host.repairing { " under repair," } else { "" };
                let brief = process.shared.brief();
                let advice = brief.advice.clone().unwrap_or_default();
                let of = core
                    .configurations()
                    .last()
                    .map(|(index, of)| (*index, named(of)));
                let (index, members) = of.unwrap_or_default();
                format!(
                    "{}{wiped}:{repairing} {role:?} in term {term}, last {last}, commit {commit}, \
                     applied {applied}, members as of {index} {members} {advice}",
                    host.node
                )
            }
        };
        let roles: Vec<_> = self.hosts.iter().map(role).collect();
        format!(
            "{}; {} wait, {} in sessions",
            roles.join("; "),
            self.clients.waiting(),
            self.clients.sessions.waiting()
        )
    }
}

/// Who votes, who voted before while the change is joint, who learns; each with the head of its
/// life.
fn named(configuration: &Configuration) -> String {
    let names = |members: &[MemberInfo]| {
        let name = |one: &MemberInfo| {
            let life = one.replica.incarnation.to_string();
            format!("{}@{}", one.replica.node, life.get(..4).unwrap_or(&life))
        };
        members.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    format!(
        "[{}], before [{}], learners [{}]",
        names(&configuration.incoming),
        names(&configuration.outgoing),
        names(&configuration.learners)
    )
}

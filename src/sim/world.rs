//! The world: machines, wires, clients and the observer, moved by one event after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use super::clients::Clients;
use super::faults::{Fault, FaultCounts, Swarm};
use super::host::{Host, LANES, Process};
use super::oracle::{Durable, Oracle, is_promise};
use super::random::Random;
use super::report::{Report, SimOptions};
use super::schedule::{At, Event, Schedule};
use super::truth::Image;
use super::wires::{Packet, Wires};
use super::workload::Workload;
use crate::types::{Micros, NodeId, ReplicaId};
use crate::wal::{Crash, Lane};

/// How often streams that are down are tried.
const REDIAL: Micros = 30_000;
/// How many of the last events a failure shows.
const TAIL: usize = 40;

pub(crate) struct World<W: Workload> {
    pub(crate) options: SimOptions,
    pub(crate) workload: W,
    pub(crate) now: Micros,
    pub(crate) swarm: Swarm,
    pub(crate) hosts: Vec<Host<W::Machine>>,
    pub(crate) wires: Wires,
    pub(crate) schedule: Schedule,
    pub(crate) oracle: Oracle,
    pub(crate) clients: Clients<W>,
    pub(crate) nemesis: Random,
    pub(crate) faults: FaultCounts,
    /// Nodes that are to stay down.
    pub(crate) kept_down: Vec<NodeId>,
    pub(crate) proposing: bool,
    pub(crate) tail: VecDeque<String>,
    checks: u64,
    truths: u64,
    events: u64,
    trace: u64,
}

impl<W: Workload> World<W> {
    pub(crate) fn new(workload: W, options: SimOptions) -> Self {
        let seed = options.seed;
        let swarm = Swarm::draw(seed);
        let mut random = Random::named(seed, "nodes", 0);
        let drawn = if random.chance(300) { 5 } else { 3 };
        let nodes = options.nodes.unwrap_or(drawn) as NodeId;
        let mut world = Self {
            wires: Wires::new(seed, swarm.links.clone()),
            swarm,
            now: 1,
            hosts: (1..=nodes).map(|node| Host::new(seed, node)).collect(),
            schedule: Schedule::default(),
            oracle: Oracle::new(workload.proposes_by_itself()),
            clients: Clients::new(seed),
            nemesis: Random::named(seed, "nemesis", 0),
            faults: FaultCounts::default(),
            kept_down: Vec::new(),
            proposing: true,
            tail: VecDeque::new(),
            checks: 0,
            truths: 0,
            events: 0,
            trace: seed,
            workload,
            options,
        };
        for node in 1..=nodes {
            let at = 1 + random.below(500_000);
            world.schedule.add(at, Event::Start(node));
        }
        world.schedule.add(1, Event::Dial);
        world.schedule.add(1, Event::Client);
        world.schedule.add(1_000, Event::Nemesis);
        world
    }

    pub(crate) fn report(&self) -> Report {
        let mut faults = self.faults.clone();
        faults.add(&self.wires.faults());
        Report {
            events: self.events,
            virtual_us: self.now,
            trace: self.trace,
            faults,
            committed: self.oracle.committed(),
            proposed: self.clients.proposed,
            acked: self.clients.acked,
            unknown: self.clients.unknown,
            elections: self.oracle.elections(),
            truths: self.truths,
        }
    }

    /// Runs until `done`, at most until `end`. Whether it was done.
    pub(crate) fn run(
        &mut self,
        end: Micros,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, String> {
        while let Some((at, event)) = self.schedule.next(end) {
            self.now = at;
            self.wires.set_now(at);
            self.events += 1;
            self.handle(event)?;
            if done(self) {
                return Ok(true);
            }
        }
        self.now = end;
        Ok(done(self))
    }

    pub(crate) fn host(&mut self, node: NodeId) -> Option<&mut Host<W::Machine>> {
        self.hosts.get_mut((node as usize).checked_sub(1)?)
    }

    fn process(&mut self, at: At) -> Option<&mut Process<W::Machine>> {
        let host = self.host(at.node).filter(|host| host.life == at.life)?;
        host.process.as_deref_mut()
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(format!("{:>9} {}", self.now, what()));
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Wake(at) => self.wake(at),
            Event::Lane(at, lane) => self.lane(at, lane),
            Event::Apply(at) => self.apply(at),
            Event::Deliver(packet) => {
                self.deliver(*packet);
                Ok(())
            }
            Event::Dial => {
                self.wires.dial();
                self.flush_wires();
                self.schedule.add(self.now + REDIAL, Event::Dial);
                Ok(())
            }
            Event::Nemesis => self.strike(),
            Event::Client => self.client(),
            Event::Start(node) => self.start(node),
            Event::Room(node) => {
                self.room(node);
                Ok(())
            }
        }
    }

    // ---- processes ----

    pub(crate) fn start(&mut self, node: NodeId) -> Result<(), String> {
        let (now, nodes) = (self.now, self.hosts.len());
        if self.kept_down.contains(&node) {
            return Ok(());
        }
        let machine = self.workload.machine();
        let (wires, swarm) = (self.wires.clone(), self.swarm.clone());
        let Some(host) = self.host(node).filter(|host| host.process.is_none()) else {
            return Ok(());
        };
        let fault = host.lied || host.sync_faults || host.full_until > now;
        match host.start(now, nodes, machine, &wires, &swarm) {
            Ok(()) => self.started(node),
            // A full disk, or the late report of a lost sync: the operator tries again.
            Err(error) if fault && host.failed_starts < 20 => {
                host.failed_starts += 1;
                host.disk.crash(Crash::Kill);
                self.note(|| format!("node {node} does not start: {error}"));
                self.schedule.add(now + 200_000, Event::Start(node));
                Ok(())
            }
            Err(error) => Err(format!("S20: node {node} does not start: {error}")),
        }
    }

    fn started(&mut self, node: NodeId) -> Result<(), String> {
        let Some(host) = self.host(node) else {
            return Ok(());
        };
        let at = At {
            node,
            life: host.life,
        };
        let fast = host.process.as_ref().is_some_and(|p| p.clock_is_off());
        if fast {
            self.faults.count(Fault::ClockRate);
        }
        self.note(|| format!("node {node} starts, life {}", at.life));
        self.observe_log(at)?;
        self.poke(at, 0);
        self.work(at);
        Ok(())
    }

    pub(crate) fn crash(&mut self, node: NodeId, crash: Crash) {
        let wires = self.wires.clone();
        let Some(host) = self.host(node) else { return };
        let life = host.life;
        host.crash(crash, &wires);
        self.clients.died(node, life);
        self.note(|| format!("node {node} crashes: {crash:?}"));
    }

    /// Has the driver look, at once or when its deadline is here.
    fn poke(&mut self, at: At, delay: Micros) {
        let now = self.now;
        let Some(process) = self.process(at) else {
            return;
        };
        let wake = now + 1 + delay;
        if wake < process.wake_at || process.wake_at <= now {
            process.wake_at = wake;
            self.schedule.add(wake, Event::Wake(at));
        }
    }

    fn wake(&mut self, at: At) -> Result<(), String> {
        let now = self.now;
        let skew = self.host(at.node).map_or(0, |host| host.skew());
        let Some(process) = self.process(at).filter(|process| process.wake_at == now) else {
            return Ok(());
        };
        if process.paused_until > now {
            process.wake_at = process.paused_until;
            let until = process.paused_until;
            self.schedule.add(until, Event::Wake(at));
            return Ok(());
        }
        process.wake_at = Micros::MAX;
        process.burst(now, skew);
        let deadline = process.global(process.deadline);
        // The shell looks at its clock at least once a second.
        let wait = deadline.saturating_sub(now).clamp(1, 1_000_000);
        self.poke(at, wait - 1);
        self.flush_wires();
        self.observe(at)?;
        self.work(at);
        Ok(())
    }

    /// Sees to it that the disk and the applier go on.
    fn work(&mut self, at: At) {
        let now = self.now;
        let swarm = self.swarm.clone();
        let Some(host) = self.host(at.node).filter(|host| host.life == at.life) else {
            return;
        };
        let stalled = host.stalled_until.saturating_sub(now);
        let Some(process) = host.process.as_deref_mut() else {
            return;
        };
        let mut new = Vec::new();
        for (lane, busy) in LANES.iter().zip(0..) {
            let range = if *lane == Lane::Sync {
                &swarm.sync
            } else {
                &swarm.prepare
            };
            let pending = process.pending(*lane);
            if let Some(busy) = process.lanes_busy.get_mut(busy)
                && !*busy
                && pending
            {
                *busy = true;
                let wait = stalled + host.random.within(range);
                new.push((wait, Event::Lane(at, *lane)));
            }
        }
        if !process.applier_busy && process.has_work() {
            process.applier_busy = true;
            new.push((host.random.within(&swarm.apply), Event::Apply(at)));
        }
        for (wait, event) in new {
            self.schedule.add(now + 1 + wait, event);
        }
    }

    fn lane(&mut self, at: At, lane: Lane) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        process.run_lane(lane);
        let nth = LANES.iter().position(|other| *other == lane);
        if let Some(busy) = nth.and_then(|nth| process.lanes_busy.get_mut(nth)) {
            *busy = false;
        }
        self.work(at);
        self.poke(at, 0);
        Ok(())
    }

    fn apply(&mut self, at: At) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        process.applier_busy = false;
        process.apply();
        self.observe_applied(at)?;
        self.poll(at)?;
        self.work(at);
        self.poke(at, 0);
        Ok(())
    }

    // ---- the network ----

    fn flush_wires(&mut self) {
        for (arrives, packet) in self.wires.take_out() {
            self.schedule
                .add(arrives.max(self.now + 1), Event::Deliver(Box::new(packet)));
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let at = At {
            node: packet.to,
            life: packet.life,
        };
        if self.wires.arrives(&packet)
            && let Some(process) = self.process(at)
        {
            let event = packet.event;
            process.shared.inbox.put(|lanes| lanes.network.push(event));
            self.poke(at, 0);
        }
    }

    // ---- clients ----

    fn client(&mut self) -> Result<(), String> {
        let wait = self.clients.random().within(&self.swarm.proposals);
        self.schedule.add(self.now + 1 + wait, Event::Client);
        if !self.proposing || self.clients.waiting() >= 200 {
            return Ok(());
        }
        let nodes = self.hosts.len() as u64;
        let drawn = 1 + self.clients.random().below(nodes);
        let leads = |host: &Host<W::Machine>| Some((host.leads()?, host.node));
        let leader = self.hosts.iter().filter_map(leads).max();
        let to_anyone = self.clients.random().chance(100);
        let node = leader
            .filter(|_| !to_anyone)
            .map_or(drawn, |leader| leader.1);
        let burst = if self.clients.random().chance(50) {
            20
        } else {
            1
        };
        for _ in 0..burst {
            self.propose(node)?;
        }
        Ok(())
    }

    pub(crate) fn propose(&mut self, node: NodeId) -> Result<(), String> {
        let now = self.now;
        let Some(host) = self.hosts.get((node as usize).saturating_sub(1)) else {
            return Ok(());
        };
        let life = host.life;
        let Some(process) = host.process.as_deref() else {
            return Ok(());
        };
        let local = process.local(now);
        self.clients.propose(
            &self.workload,
            &mut self.oracle,
            &process.shared,
            life,
            local,
        )?;
        self.poke(At { node, life }, 0);
        Ok(())
    }

    fn poll(&mut self, at: At) -> Result<(), String> {
        let now = self.now;
        let Some(local) = self.process(at).map(|process| process.local(now)) else {
            return Ok(());
        };
        self.clients
            .poll(&self.workload, &mut self.oracle, at.node, local)
    }

    // ---- the observer ----

    /// Everything that can be seen after a burst of a driver.
    fn observe(&mut self, at: At) -> Result<(), String> {
        let sent = self.wires.take_sent()?;
        self.observe_log(at)?;
        let now = self.now;
        let Some(host) = self.host(at.node) else {
            return Ok(());
        };
        let excused = host.sync_faults;
        let Some(process) = host.process.as_deref() else {
            return Ok(());
        };
        if let Some(why) = process.failure() {
            let broken = ["leads term", "differs from", "too large", "the log wants"];
            if !excused || broken.iter().any(|sign| why.contains(sign)) {
                return Err(format!("node {} has failed: {why}", at.node));
            }
            self.note(|| format!("node {} has failed: {why}", at.node));
            let crash = if self.lies(at.node) {
                Crash::Kill
            } else {
                Crash::PowerCut
            };
            self.poll(at)?;
            self.crash(at.node, crash);
            self.schedule.add(now + 300_000, Event::Start(at.node));
            return Ok(());
        }
        let promises: Vec<_> = sent
            .into_iter()
            .filter(|(_, message)| is_promise(message))
            .collect();
        if !promises.is_empty() && self.looks() && !self.lies(at.node) {
            let image = self.image(at.node)?;
            let who = self
                .process(at)
                .map(|process| process.me)
                .unwrap_or_default();
            for (to, message) in &promises {
                self.oracle.promises(who, *to, message, &image)?;
            }
        }
        self.poll(at)
    }

    fn lies(&mut self, node: NodeId) -> bool {
        self.host(node).is_some_and(|host| host.lied)
    }

    /// Whether this check reads the disks.
    fn looks(&mut self) -> bool {
        self.checks += 1;
        self.checks.is_multiple_of(self.options.truth_every.max(1))
    }

    fn observe_log(&mut self, at: At) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        let from = process.chain.follow(process.driver.log())?;
        let (core, me) = (process.driver.core(), process.me);
        let (term, commit, last) = (core.term(), core.commit(), process.chain.last());
        let (role, leading) = (process.role(), core.is_leader());
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
        let items = (from..=last).chain(seen.commit + 1..=commit);
        let items: Vec<_> = items
            .filter_map(|at| Some((at, *process.chain.at(at)?)))
            .collect();
        let new = (last + 1).saturating_sub(from) as usize;
        for (nth, (index, item)) in items.into_iter().enumerate() {
            if nth < new {
                self.oracle.holds(me, index, &item)?;
            } else {
                self.oracle.commits(me, term, index, &item)?;
            }
        }
        let mark = [self.now, at.node, term, commit, last, role as u64];
        self.mark(&mark);
        if leading {
            self.observe_leader(at, commit > seen.commit)?;
        }
        Ok(())
    }

    fn mark(&mut self, words: &[u64]) {
        for word in words {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23);
        }
    }

    fn observe_leader(&mut self, at: At, commits: bool) -> Result<(), String> {
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        let (me, core) = (process.me, process.driver.core());
        let (term, commit) = (core.term(), core.commit());
        let configuration = core.configuration().cloned();
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
                Oracle::elected(me, term, &configuration, &durable)?;
            }
        }
        if commits && self.looks() {
            let durable = self.all_durable()?;
            self.oracle
                .commit_rule(me, term, commit, &configuration, &durable)?;
        }
        Ok(())
    }

    fn observe_applied(&mut self, at: At) -> Result<(), String> {
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
        process.seen.applied = index;
        self.oracle.applied(me, index, applied.digest)
    }

    /// What is durable on one node.
    pub(crate) fn image(&mut self, node: NodeId) -> Result<Arc<Image>, String> {
        let Some(host) = self.host(node) else {
            return Ok(Arc::default());
        };
        let me = host.process.as_ref().map(|process| process.me);
        let (image, fresh) = host
            .durable()
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
        let mut durable: Durable = self
            .oracle
            .graves()
            .map(|(who, image)| (who, Some(image)))
            .collect();
        for node in 1..=self.hosts.len() as NodeId {
            let Some(host) = self.host(node).filter(|host| !host.wiped) else {
                continue;
            };
            let lied = host.lied;
            let image = if lied { None } else { Some(self.image(node)?) };
            let Some(host) = self.host(node) else {
                continue;
            };
            if let Some(incarnation) = host.incarnation {
                durable.insert(ReplicaId::new(node, incarnation), image);
            }
        }
        Ok(durable)
    }
}

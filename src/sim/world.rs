//! The world: machines, wires, clients and the observer, moved by one event after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use super::clients::Clients;
use super::faults::{Fault, FaultCounts};
use super::host::{Host, LANES, NEW, OLD, Process, Spoiled, StartFault};
use super::operator::{LOOKED_AFTER, ROUNDS};
use super::oracle::Oracle;
use super::plan::{Plan, Rates, Strike};
use super::random::Random;
use super::report::Report;
use super::schedule::{At, Event, Schedule};
use super::truth::Image;
use super::wires::{Packet, Wires};
use super::workload::Workload;
use crate::node::SnapshotCounters;
use crate::types::{Micros, NodeId};
use crate::wal::{Crash, Lane};

/// How often streams that are down are tried.
const REDIAL: Micros = 30_000;
/// How many of the last events a failure shows.
const TAIL: usize = 40;

pub(crate) struct World<W: Workload> {
    pub(crate) plan: Plan,
    pub(crate) workload: W,
    pub(crate) now: Micros,
    /// How the world is at the moment: as the plan says, until it is healed.
    pub(crate) rates: Rates,
    pub(crate) hosts: Vec<Host<W::Machine>>,
    pub(crate) wires: Wires,
    pub(crate) schedule: Schedule,
    pub(crate) oracle: Oracle,
    pub(crate) clients: Clients<W>,
    /// Chooses who serves while the rest is gone.
    pub(crate) chooser: Random,
    pub(crate) faults: FaultCounts,
    /// Nodes that are to stay down.
    pub(crate) kept_down: Vec<NodeId>,
    pub(crate) proposing: bool,
    /// No client asks for anything until then.
    pub(crate) quiet_until: Micros,
    /// So many commands come at once next.
    pub(crate) surge: u64,
    pub(crate) tail: VecDeque<String>,
    /// Everything that happens is printed as it happens.
    pub(crate) verbose: bool,
    /// Checks that could have read the disks, and the next that will.
    pub(crate) checks: u64,
    pub(crate) next_look: u64,
    pub(crate) truths: u64,
    pub(crate) snapshots: SnapshotCounters,
    /// States that were made others, and replicas that found so and stopped.
    pub(crate) diverged_found: u64,
    /// Faults are over.
    pub(crate) healed: bool,
    /// Chooses between repair and an empty directory, where a log is refused.
    pub(crate) repairs: Random,
    /// Logs that were repaired, and those that got everything back.
    pub(crate) repaired: (u64, u64),
    events: u64,
    pub(crate) trace: u64,
}

impl<W: Workload> World<W> {
    pub(crate) fn new(workload: W, plan: Plan) -> Self {
        let seed = plan.seed;
        let nodes = plan.nodes as NodeId;
        let all = nodes + plan.spares as NodeId;
        let mut world = Self {
            wires: Wires::new(seed, plan.rates.links.clone()),
            rates: plan.rates.clone(),
            now: 1,
            hosts: (1..=all).map(|node| Host::new(seed, node)).collect(),
            schedule: Schedule::default(),
            oracle: Oracle::new(workload.proposes_by_itself()),
            clients: Clients::new(seed),
            chooser: Random::named(seed, "chooser", 0),
            faults: FaultCounts::default(),
            kept_down: Vec::new(),
            proposing: true,
            quiet_until: 0,
            surge: 0,
            tail: VecDeque::new(),
            verbose: std::env::var_os("CONVEYOR_SIM_TRACE").is_some(),
            checks: 0,
            next_look: 1,
            truths: 0,
            snapshots: SnapshotCounters::default(),
            diverged_found: 0,
            healed: false,
            repairs: Random::named(seed, "repairs", 0),
            repaired: (0, 0),
            events: 0,
            trace: seed,
            workload,
            plan,
        };
        for node in 1..=all {
            let at = 1 + Random::named(seed, "start", node).below(500_000);
            world.schedule.add(at, Event::Start(node));
        }
        world.schedule.add(1, Event::Dial);
        world.schedule.add(1, Event::Client);
        let looked_after = |strike: &Strike| LOOKED_AFTER.contains(&strike.fault);
        if world.plan.strikes.iter().any(looked_after) {
            world.schedule.add(ROUNDS, Event::Operate);
        }
        for strike in &world.plan.strikes {
            world.schedule.add(strike.at, Event::Strike(*strike));
        }
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
            quorum_reads: self.clients.readers.by_quorum,
            lease_reads: self.clients.readers.by_lease,
            snapshots: self.snapshots.taken,
            installs: self.snapshots.installed,
            sessions: self.oracle.session_counts().opened,
            sessions_expired: self.oracle.session_counts().expired,
            session_acked: self.clients.sessions.acked,
            session_repeats: self.oracle.session_counts().repeated,
            repairs: self.repaired.0,
            rejoined: self.repaired.1,
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

    /// Who leads, in the highest term.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |host: &Host<W::Machine>| Some((host.leads()?, host.node));
        let leader = self.hosts.iter().filter_map(leads).max();
        leader.map(|(_, node)| node)
    }

    pub(crate) fn process(&mut self, at: At) -> Option<&mut Process<W::Machine>> {
        let host = self.host(at.node).filter(|host| host.life == at.life)?;
        host.process.as_deref_mut()
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let what = what();
        if self.verbose {
            eprintln!("{:>9} {what}", self.now);
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(format!("{:>9} {what}", self.now));
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Wake(at) => self.wake(at),
            Event::Lane(at, lane) => self.lane(at, lane),
            Event::Apply(at) => self.apply(at),
            Event::Snapshot(at, nth) => self.snapshot(at, nth),
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
            Event::Strike(strike) => self.strike(&strike),
            Event::Client => self.client(),
            Event::Operate => {
                self.operate();
                Ok(())
            }
            Event::Start(node) => self.start(node),
            Event::Room(node) => {
                self.room(node);
                Ok(())
            }
        }
    }

    // ---- processes ----

    pub(crate) fn start(&mut self, node: NodeId) -> Result<(), String> {
        let (now, nodes) = (self.now, self.plan.nodes);
        if self.kept_down.contains(&node) {
            return Ok(());
        }
        let machine = self.workload.machine();
        let (wires, rates) = (self.wires.clone(), self.rates.clone());
        let Some(host) = self.host(node).filter(|host| host.process.is_none()) else {
            return Ok(());
        };
        let fault = host.spoiled.is() || host.disk_faults || host.full_until > now;
        match host.start(now, nodes, machine, &wires, &rates) {
            Ok(()) => self.started(node),
            Err(error) if (host.spoiled.is() || host.repairing) && error.is_damage() => {
                self.refuses_to_start(node, &error);
                Ok(())
            }
            Err(error @ StartFault::TooOld(_)) if host.knows_level == OLD => {
                host.knows_level = NEW;
                self.note(|| format!("node {node} does not start: {error}"));
                self.schedule.add(now + 200_000, Event::Start(node));
                Ok(())
            }
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

    /// It cannot vouch for what it had promised, and says so: that is what it must do.
    fn refuses_to_start(&mut self, node: NodeId, error: &StartFault) {
        self.note(|| format!("node {node} refuses to start: {error}"));
        let Some(host) = self.host(node) else { return };
        let before = match std::mem::take(&mut host.spoiled) {
            Spoiled::Rotted(before) => before,
            Spoiled::RottedAnywhere(before) => Some(before),
            Spoiled::Lied(_) | Spoiled::No => None,
        };
        let (before, draw) = (before.or(host.promised.take()), host.random.next());
        if !self.repair(node, error, before.as_ref()) {
            self.retire(node, before, draw);
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
        let off = host.process.as_ref().is_some_and(|p| p.clock_is_off());
        if off {
            let state = host.state();
            self.faults.count_in(Fault::ClockRate, state);
        }
        self.note(|| format!("node {node} starts, life {}", at.life));
        if let Some(who) = self.host(node).and_then(|host| host.replica()) {
            // Its state is made anew from its log.
            self.oracle.diverges(who, false);
        }
        self.observe_log(at)?;
        if self.is_less_than_it_was(at)? {
            return Ok(());
        }
        self.poke(at, 0);
        self.work(at);
        Ok(())
    }

    /// S20, for a node that starts all the same after its disk had lied or bits had flipped on it:
    /// nothing is shown that was not there. Whether something was lost, so that the replica must go.
    fn is_less_than_it_was(&mut self, at: At) -> Result<bool, String> {
        let Some(host) = self.host(at.node) else {
            return Ok(false);
        };
        let spoiled = std::mem::take(&mut host.spoiled);
        let (before, may_lack) = match &spoiled {
            Spoiled::Rotted(Some(before)) => (before, false),
            Spoiled::RottedAnywhere(before) | Spoiled::Lied(Some(before)) => (before, true),
            // The cache may be sound, and the disk not.
            Spoiled::Rotted(None) | Spoiled::Lied(None) => {
                host.spoiled = spoiled;
                return Ok(false);
            }
            Spoiled::No => return Ok(false),
        };
        let Some(process) = host.process.as_deref() else {
            return Ok(false);
        };
        let image = Image {
            hard: process.driver.core().hard_state(),
            chain: process.chain.clone(),
            repairing: false,
        };
        let lacks = image.lacks_of(before);
        if lacks && !may_lack {
            return Err(format!(
                "S20: node {} lost what was durable and starts without a word",
                at.node
            ));
        }
        let lied = matches!(spoiled, Spoiled::Lied(_));
        if !lied && image.exceeds(before) {
            return Err(format!(
                "S20: node {} shows what was never on its disk",
                at.node
            ));
        }
        if lacks {
            self.note(|| format!("node {} lacks what it had promised", at.node));
            let image = if lied { None } else { Some(Arc::clone(before)) };
            let draw = self.host(at.node).map_or(0, |host| host.random.next());
            self.crash(at.node, Crash::PowerCut);
            self.retire(at.node, image, draw);
        } else if lied {
            host.spoiled = spoiled;
        }
        Ok(lacks)
    }

    pub(crate) fn crash(&mut self, node: NodeId, crash: Crash) {
        let wires = self.wires.clone();
        let Some(host) = self.host(node) else { return };
        let life = host.life;
        let unfounded = host.process.as_deref().is_some_and(Process::founds_alone);
        host.crash(crash, &wires);
        if unfounded {
            self.oracle.forgets_founding();
        }
        self.clients.died(node, life);
        self.note(|| format!("node {node} crashes: {crash:?}"));
    }

    /// Has the driver look, at once or when its deadline is here.
    pub(crate) fn poke(&mut self, at: At, delay: Micros) {
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
        let rates = self.rates.clone();
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
                &rates.sync
            } else {
                &rates.prepare
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
            let slowness = if host.slow_until > now { 100 } else { 1 };
            let wait = host.random.within(&rates.apply) * slowness;
            new.push((wait, Event::Apply(at)));
        }
        for nth in 0..process.snapshotters_busy.len() {
            let has_work = process.writes_snapshots(nth);
            if let Some(busy) = process.snapshotters_busy.get_mut(nth)
                && !*busy
                && has_work
            {
                *busy = true;
                let wait = stalled + host.random.within(&rates.snapshots);
                new.push((wait, Event::Snapshot(at, nth)));
            }
        }
        for (wait, event) in new {
            self.schedule.add(now + 1 + wait, event);
        }
    }

    fn lane(&mut self, at: At, lane: Lane) -> Result<(), String> {
        let now = self.now;
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        if process.paused_until > now {
            let until = process.paused_until;
            self.schedule.add(until, Event::Lane(at, lane));
            return Ok(());
        }
        process.run_lane(lane);
        let nth = LANES.iter().position(|other| *other == lane);
        if let Some(busy) = nth.and_then(|nth| process.lanes_busy.get_mut(nth)) {
            *busy = false;
        }
        self.work(at);
        self.poke(at, 0);
        Ok(())
    }

    /// One step of what is done for snapshots.
    fn snapshot(&mut self, at: At, nth: usize) -> Result<(), String> {
        let now = self.now;
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        if process.paused_until > now {
            let until = process.paused_until;
            self.schedule.add(until, Event::Snapshot(at, nth));
            return Ok(());
        }
        if let Some(busy) = process.snapshotters_busy.get_mut(nth) {
            *busy = false;
        }
        process.step_snapshots(nth);
        self.work(at);
        self.poke(at, 0);
        Ok(())
    }

    fn apply(&mut self, at: At) -> Result<(), String> {
        let now = self.now;
        let Some(process) = self.process(at) else {
            return Ok(());
        };
        if process.paused_until > now {
            let until = process.paused_until;
            self.schedule.add(until, Event::Apply(at));
            return Ok(());
        }
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
        let (now, verbose) = (self.now, self.verbose);
        if self.wires.arrives(&packet)
            && let Some(process) = self.process(at)
        {
            let event = packet.event;
            if verbose {
                eprintln!("{now:>9} node {} gets {event:?}", at.node);
            }
            process.shared.inbox.put(|lanes| lanes.network.push(event));
            self.poke(at, 0);
        }
    }

    // ---- clients ----

    fn client(&mut self) -> Result<(), String> {
        let wait = self.clients.random().within(&self.rates.proposals);
        self.schedule.add(self.now + 1 + wait, Event::Client);
        if !self.proposing || self.now < self.quiet_until || self.clients.waiting() >= 200 {
            return Ok(());
        }
        self.read()?;
        self.act_in_session()?;
        let nodes = self.hosts.len() as u64;
        let drawn = 1 + self.clients.random().below(nodes);
        let to_anyone = self.clients.random().chance(100);
        let node = self.leader().filter(|_| !to_anyone).unwrap_or(drawn);
        let some = self.clients.random().chance(50);
        let burst = std::mem::take(&mut self.surge).max(if some { 20 } else { 1 });
        for _ in 0..burst {
            self.propose(node)?;
        }
        Ok(())
    }

    /// A client with a session does something at a node, if it runs.
    fn act_in_session(&mut self) -> Result<(), String> {
        let (now, leader, nodes) = (self.now, self.leader(), self.hosts.len() as u64);
        let Some(node) = self.clients.sessions.draw(nodes, leader) else {
            return Ok(());
        };
        let host = self.hosts.get(node as usize - 1);
        let Some((life, process)) =
            host.and_then(|host| Some((host.life, host.process.as_deref()?)))
        else {
            return Ok(());
        };
        let times = (now, process.local(now));
        let (workload, oracle) = (&self.workload, &mut self.oracle);
        self.clients
            .act_in_session(workload, oracle, &process.shared, life, times)?;
        self.poke(At { node, life }, 0);
        Ok(())
    }

    /// Somebody reads at a node, if it runs.
    fn read(&mut self) -> Result<(), String> {
        let (now, nodes) = (self.now, self.hosts.len() as u64);
        let Some(node) = self.clients.readers.draw(nodes) else {
            return Ok(());
        };
        let host = self.hosts.get(node as usize - 1);
        let Some((life, process)) =
            host.and_then(|host| Some((host.life, host.process.as_deref()?)))
        else {
            return Ok(());
        };
        // A process that does not run shows nothing to anybody.
        if process.paused_until > now {
            return Ok(());
        }
        let local = process.local(now);
        self.clients.read(&process.shared, life, local);
        let at = At { node, life };
        self.poke(at, 0);
        self.poll(at)
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

    pub(crate) fn poll(&mut self, at: At) -> Result<(), String> {
        let Some(local) = self.process(at).map(|process| process.looked_at) else {
            return Ok(());
        };
        self.clients
            .poll(&self.workload, &mut self.oracle, at.node, local)
    }
}

//! A machine and the process on it: the real driver, log, core and state machine of one node.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::faults::NodeState;
use super::plan::Rates;
use super::random::Random;
use super::truth::{CLUSTER, Chain, Image, durable, identity, log_options};
use super::wires::{SimNetwork, Wires};
use crate::config::RaftConfig;
use crate::core::{FoundingList, RaftCore, RaftRole, Settings};
use crate::network::{LocalFacts, PeerAddress};
use crate::node::applier::{Applier, ApplyJob};
use crate::node::driver::{Driver, Now, Parts};
use crate::node::inbox::{Inbox, Lanes, Request};
use crate::node::shared::{Clock, Shared};
use crate::node::start::{local_facts, recovered, settings};
use crate::state_machine::StateMachine;
use crate::types::{Incarnation, LogIndex, Micros, NodeId, ReplicaId, Term};
use crate::wal::{Crash, Lane, LogStorage, Memory, MemoryDisk, OpenError, Stepper};

pub(crate) const ELECTION_MAX: Micros = 300_000;
const MILLION: u128 = 1_000_000;
/// Two clocks that are off as far as plans let them be, one fast and one slow.
const LEASE_DRIFT_PPM: u32 = 45_000;
/// When the first node started, by the wall clock.
const EPOCH: Micros = 1_700_000_000_000_000;

type Jobs<S> = Arc<Mutex<VecDeque<ApplyJob<S>>>>;

/// A process.
pub(crate) struct Process<S: StateMachine> {
    pub(crate) me: ReplicaId,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) driver: Driver<S, Memory, SimNetwork>,
    applier: Applier<S>,
    /// The applier met something that it cannot apply.
    unsound: bool,
    jobs: Jobs<S>,
    stepper: Stepper,
    /// What its log holds, as far as was looked at.
    pub(crate) chain: Chain,
    /// By the process' own clock.
    pub(crate) deadline: Micros,
    pub(crate) wake_at: Micros,
    pub(crate) lanes_busy: [bool; 3],
    pub(crate) applier_busy: bool,
    pub(crate) paused_until: Micros,
    pub(crate) seen: Seen,
    started: Micros,
    /// Millionths by which its clock runs, a million for a right one.
    clock: u128,
}

/// What was last seen of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) term: Term,
    pub(crate) commit: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) led: Term,
}

/// A machine.
pub(crate) struct Host<S: StateMachine> {
    pub(crate) node: NodeId,
    pub(crate) disk: MemoryDisk,
    pub(crate) random: Random,
    pub(crate) life: u64,
    /// Of its directory, once there is one.
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) process: Option<Box<Process<S>>>,
    /// Something of its disk was made to fail in this life: the replica may give up.
    pub(crate) disk_faults: bool,
    /// What its directory has gone through for good.
    pub(crate) spoiled: Spoiled,
    pub(crate) stalled_until: Micros,
    pub(crate) full_until: Micros,
    pub(crate) slow_until: Micros,
    /// Its directory was lost; it takes no part until somebody replaces it.
    pub(crate) wiped: bool,
    /// Index of the newest configuration that was seen in its log.
    pub(crate) configured: LogIndex,
    pub(crate) failed_starts: u32,
    truth: Option<(u64, Arc<Image>)>,
    skew: Micros,
}

/// Harm to a directory that only another replica can make good.
#[derive(Clone, Debug, Default)]
pub(crate) enum Spoiled {
    #[default]
    No,
    /// A sync lied. What it left out is in the page cache only, for good; recovery cannot always
    /// tell, since a later header vouches for it, or nothing does. With what had been promised, once
    /// the process is down.
    Lied(Option<Arc<Image>>),
    /// Bits flipped where the log can show that they had been durable: it must refuse, or lack
    /// nothing of what was durable before (known if the process was down).
    Rotted(Option<Arc<Image>>),
    /// Bits flipped somewhere, while this was durable and the process was down.
    RottedAnywhere(Arc<Image>),
}

impl Spoiled {
    pub(crate) fn is(&self) -> bool {
        !matches!(self, Self::No)
    }
}

pub(crate) const LANES: [Lane; 3] = [Lane::Sync, Lane::Prepare, Lane::Warm];

impl<S: StateMachine> Host<S> {
    pub(crate) fn new(seed: u64, node: NodeId) -> Self {
        let mut random = Random::named(seed, "host", node);
        Self {
            node,
            disk: MemoryDisk::seeded(random.next()),
            life: 0,
            incarnation: None,
            process: None,
            disk_faults: false,
            spoiled: Spoiled::No,
            stalled_until: 0,
            full_until: 0,
            slow_until: 0,
            wiped: false,
            configured: 0,
            failed_starts: 0,
            truth: None,
            skew: random.below(10_000_000),
            random,
        }
    }

    /// Starts the process.
    pub(crate) fn start(
        &mut self,
        now: Micros,
        nodes: usize,
        machine: S,
        wires: &Wires,
        rates: &Rates,
    ) -> Result<(), OpenError> {
        let (id, life) = (self.node, self.life + 1);
        let inbox: Arc<Inbox<S::Response>> = Arc::default();
        let log_inbox = Arc::clone(&inbox);
        let sink = Arc::new(move |event| log_inbox.put(|lanes| lanes.log.push(event)));
        let medium = Memory::stepped(&self.disk, sink);
        let stepper = medium.stepper();
        let log = LogStorage::open_checked(medium, identity(id), log_options())?;
        self.life = life;
        self.disk_faults = false;
        self.failed_starts = 0;
        let me = ReplicaId::new(id, log.incarnation());
        self.incarnation = Some(me.incarnation);
        let facts = local_facts(&log, format!("node-{id}"), String::new());
        let network = wires.plug(me, life, facts.clone());
        let made = Made {
            me,
            nodes,
            log,
            network,
            facts,
        };
        let shared = Arc::new(Shared::new(
            me,
            CLUSTER,
            ([127, 0, 0, 1], 1).into(),
            Clock::start(),
            inbox,
            &machine,
        ));
        let jobs: Jobs<S> = Arc::default();
        let driver = made.driver(&shared, &jobs);
        self.process = Some(Box::new(Process {
            me,
            applier: Applier::new(machine, Arc::clone(&shared)),
            driver,
            shared,
            unsound: false,
            jobs,
            stepper,
            chain: Chain::default(),
            deadline: 0,
            wake_at: Micros::MAX,
            lanes_busy: [false; 3],
            applier_busy: false,
            paused_until: 0,
            seen: Seen::default(),
            started: now,
            clock: MILLION - u128::from(rates.clock_ppm)
                + u128::from(self.random.below(2 * rates.clock_ppm + 1)),
        }));
        Ok(())
    }

    /// The process dies, and perhaps the machine with it.
    pub(crate) fn crash(&mut self, crash: Crash, wires: &Wires) {
        if let (Some(process), Spoiled::Lied(before)) = (&self.process, &mut self.spoiled) {
            *before = Some(Arc::new(process.promised()));
        }
        self.process = None;
        wires.unplug(self.node);
        self.disk.crash(crash);
        self.truth = None;
    }

    /// What is durable now.
    pub(crate) fn durable(&mut self) -> Result<(Arc<Image>, bool), String> {
        let syncs = self.disk.syncs();
        if let Some((at, image)) = &self.truth
            && *at == syncs
        {
            return Ok((Arc::clone(image), false));
        }
        let image = Arc::new(durable(&self.disk, self.node)?);
        self.truth = Some((syncs, Arc::clone(&image)));
        Ok((image, true))
    }

    /// What it is doing.
    pub(crate) fn state(&self) -> NodeState {
        let Some(process) = self.process.as_deref() else {
            return NodeState::Down;
        };
        match process.driver.core().role() {
            RaftRole::Leader => NodeState::Leader,
            RaftRole::Candidate => NodeState::Candidate,
            RaftRole::PreCandidate => NodeState::PreCandidate,
            RaftRole::Follower if process.driver.core().is_blank() => NodeState::Blank,
            RaftRole::Follower => NodeState::Follower,
        }
    }

    /// The replica that its directory is.
    pub(crate) fn replica(&self) -> Option<ReplicaId> {
        Some(ReplicaId::new(self.node, self.incarnation?))
    }

    /// Whether what it had promised is gone, or may be.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.wiped || self.spoiled.is()
    }

    pub(crate) fn leads(&self) -> Option<Term> {
        let core = self.process.as_ref()?.driver.core();
        core.is_leader().then(|| core.term())
    }
}

struct Made {
    me: ReplicaId,
    nodes: usize,
    log: LogStorage<Memory>,
    network: SimNetwork,
    facts: LocalFacts,
}

impl Made {
    fn driver<S: StateMachine>(
        self,
        shared: &Arc<Shared<S>>,
        jobs: &Jobs<S>,
    ) -> Driver<S, Memory, SimNetwork> {
        let others: Vec<_> = (1..=self.nodes as NodeId)
            .filter(|other| *other != self.me.node)
            .collect();
        let founding = FoundingList {
            single: others.is_empty(),
            peer_address: self.facts.peer_address.clone(),
            others: others.clone(),
            ..FoundingList::default()
        };
        let listed = others.iter().map(|&node| PeerAddress {
            node,
            incarnation: None,
            address: format!("node-{node}"),
        });
        let listed = listed.collect();
        let config = RaftConfig {
            node_id: self.me.node,
            ..RaftConfig::default()
        };
        // A configuration that cannot be decoded was written by nobody here.
        let state = recovered(&self.log).unwrap_or_default();
        let core = RaftCore::new(
            self.me,
            simulated(settings(&config, self.me)),
            state,
            founding,
            1,
        );
        let queue = Arc::clone(jobs);
        let apply = Box::new(move |job| {
            queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(job);
        });
        Driver::new(Parts {
            core,
            log: self.log,
            network: self.network,
            apply,
            shared: Arc::clone(shared),
            facts: self.facts,
            listed,
        })
    }
}

impl<S: StateMachine> Process<S> {
    /// The process' own clock: it began with the process, and may run fast or slow.
    pub(crate) fn local(&self, now: Micros) -> Micros {
        let since = u128::from(now - self.started);
        1 + (since * self.clock / MILLION) as Micros
    }

    /// When its clock shows that.
    pub(crate) fn global(&self, local: Micros) -> Micros {
        if local == Micros::MAX {
            return Micros::MAX;
        }
        let since = u128::from(local.saturating_sub(1)) * MILLION;
        self.started + since.div_ceil(self.clock) as Micros
    }

    pub(crate) fn clock_is_off(&self) -> bool {
        self.clock.abs_diff(MILLION) > 1_000
    }

    /// Runs the driver over what came in.
    pub(crate) fn burst(&mut self, now: Micros, skew: Micros) {
        let mut lanes = Lanes::default();
        self.shared.inbox.take(&mut lanes);
        let mono = self.local(now);
        let wall = EPOCH + now + skew;
        self.deadline = self.driver.burst(Now { mono, wall }, &mut lanes);
    }

    /// Does the applier's oldest piece of work.
    pub(crate) fn apply(&mut self) {
        let job = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some(job) = job.filter(|_| !self.unsound) else {
            return;
        };
        if let Err(reason) = self.applier.run(job) {
            self.unsound = true;
            let fail = Request::Fail(reason);
            self.shared.inbox.put(|lanes| lanes.requests.push(fail));
        }
    }

    /// What it believes to be durable.
    fn promised(&self) -> Image {
        let core = self.driver.core();
        let mut chain = self.chain.clone();
        chain.cut(core.durable());
        let hard = core.hard_state();
        Image { hard, chain }
    }

    /// Whether it has made the cluster's first entry, which is not durable and which nobody else
    /// can have.
    pub(crate) fn founds_alone(&self) -> bool {
        let core = self.driver.core();
        core.genesis() == self.me.incarnation && core.last().index == 1 && core.durable() == 0
    }

    pub(crate) fn has_work(&self) -> bool {
        !self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    pub(crate) fn pending(&self, lane: Lane) -> bool {
        self.stepper.pending(lane) > 0
    }

    pub(crate) fn run_lane(&self, lane: Lane) {
        self.stepper.run(lane);
    }

    /// Why the replica has failed, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        if !self.driver.core().failed() {
            return None;
        }
        let brief = self.shared.brief();
        Some(
            brief
                .failure
                .clone()
                .unwrap_or_else(|| "no reason".to_owned()),
        )
    }

    pub(crate) fn role(&self) -> RaftRole {
        self.driver.core().role()
    }
}

impl<S: StateMachine> Host<S> {
    pub(crate) fn skew(&self) -> Micros {
        self.skew
    }
}

/// An append must fit the small logs of a simulation, as every append fits any log that
/// `LogOptions::validate` lets through. Leases are on: nothing else depends on them.
fn simulated(settings: Settings) -> Settings {
    Settings {
        max_append_bytes: 16 << 10,
        lease_drift_ppm: Some(LEASE_DRIFT_PPM),
        ..settings
    }
}

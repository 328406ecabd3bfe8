//! A machine and the process on it: the real driver, log, core and state machine of one node.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::faults::NodeState;
use super::oracle::Oracle;
use super::plan::Rates;
use super::random::Random;
use super::truth::{CLUSTER, Chain, Image, durable, identity, log_options};
use super::wires::{SimNetwork, Wires};
use crate::config::RaftConfig;
use crate::core::{FoundingList, RaftCore, RaftRole, Settings};
use crate::network::{LocalFacts, PeerAddress};
use crate::node::SnapshotCounters;
use crate::node::applier::{Applier, ApplyJob};
use crate::node::begin::{Begin, begin};
use crate::node::driver::{ApplySink, Driver, Now, Parts, SnapshotParts, SnapshotSink};
use crate::node::inbox::{Inbox, Lanes, Request};
use crate::node::replica_state::ReplicaState;
use crate::node::sessions::SessionLimits;
use crate::node::shared::{Clock, Shared};
use crate::node::snapshotter::{SnapshotJob, Snapshotter};
use crate::node::start::settings;
use crate::snapshot::{SnapshotFolder, SnapshotOptions};
use crate::state_machine::StateMachine;
use crate::types::{Incarnation, LogId, LogIndex, Micros, NodeId, ReplicaId, Term};
use crate::wal::{Crash, Lane, LogStorage, Medium, Memory, MemoryDisk, OpenError, Stepper};

pub(crate) const ELECTION_MAX: Micros = 300_000;
const MILLION: u128 = 1_000_000;
/// Two clocks that are off as far as plans let them be, one fast and one slow.
const LEASE_DRIFT_PPM: u32 = 45_000;
/// Few and short-lived, so that some are refused and some expire.
pub(crate) const SESSION_LIMITS: SessionLimits = SessionLimits {
    most: 3,
    window: 8,
    answer_bytes: 1 << 20,
    idle_us: 1_500_000,
};
/// The feature levels that releases know: the first one, and the next.
pub(crate) const OLD: u32 = 1;
pub(crate) const NEW: u32 = 2;
/// What a release says that the cluster has left behind.
pub(crate) const TOO_OLD: &str = "the cluster is at feature level";
/// Often, so that a state that diverges is found soon.
const DIGEST_EVERY: u64 = 16;
/// When the first node started, by the wall clock.
const EPOCH: Micros = 1_700_000_000_000_000;

type Jobs<S> = Queue<ApplyJob<S>>;
type Queue<T> = Arc<Mutex<VecDeque<T>>>;

fn into_queue<T: Send + 'static>(queue: &Queue<T>) -> Box<dyn FnMut(T) + Send> {
    let queue = Arc::clone(queue);
    Box::new(move |job| {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(job);
    })
}

fn take<T>(queue: &Queue<T>) -> Option<T> {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}

fn is_empty<T>(queue: &Queue<T>) -> bool {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_empty()
}

/// A process.
pub(crate) struct Process<S: StateMachine> {
    pub(crate) me: ReplicaId,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) driver: Driver<S, Memory, SimNetwork>,
    applier: Applier<S>,
    /// Its state was made another one.
    pub(crate) diverged: bool,
    jobs: Jobs<S>,
    snapshots: Queue<SnapshotJob>,
    /// For the writing of states, and for transfers.
    snapshotters: [Snapshotter<<Memory as Medium>::Files>; 2],
    stepper: Stepper,
    /// What its log holds, as far as was looked at.
    pub(crate) chain: Chain,
    /// By the process' own clock.
    pub(crate) deadline: Micros,
    pub(crate) wake_at: Micros,
    pub(crate) lanes_busy: [bool; 3],
    pub(crate) applier_busy: bool,
    pub(crate) snapshotters_busy: [bool; 2],
    pub(crate) paused_until: Micros,
    /// A change of members was asked for that it does not see before.
    pub(crate) asked_until: Micros,
    /// When its driver last ran, by its own clock: nobody is answered before it does.
    pub(crate) looked_at: Micros,
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
    pub(crate) snapshots: SnapshotCounters,
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
    /// Its log was repaired, and has not got everything back.
    pub(crate) repairing: bool,
    /// What it believed to be durable when it stopped, while bits may have flipped.
    pub(crate) promised: Option<Arc<Image>>,
    pub(crate) stalled_until: Micros,
    pub(crate) full_until: Micros,
    pub(crate) slow_until: Micros,
    /// Its directory was lost; it takes no part until somebody replaces it.
    pub(crate) wiped: bool,
    /// Index of the newest configuration that was seen in its log.
    pub(crate) configured: LogIndex,
    pub(crate) failed_starts: u32,
    /// The highest feature level that the release on it knows.
    pub(crate) knows_level: u32,
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
            repairing: false,
            promised: None,
            stalled_until: 0,
            full_until: 0,
            slow_until: 0,
            wiped: false,
            configured: 0,
            failed_starts: 0,
            knows_level: OLD,
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
    ) -> Result<(), StartFault> {
        let (id, life) = (self.node, self.life + 1);
        let inbox: Arc<Inbox<S::Response>> = Arc::default();
        let log_inbox = Arc::clone(&inbox);
        let sink = Arc::new(move |event| log_inbox.put(|lanes| lanes.log.push(event)));
        let medium = Memory::stepped(&self.disk, sink);
        let stepper = medium.stepper();
        let log = LogStorage::open_checked(medium, identity(id), log_options());
        let log = log.map_err(StartFault::Log)?;
        let mut state = ReplicaState::with_limits(machine, SESSION_LIMITS);
        let begin = begin(&log, &mut state, CLUSTER, self.knows_level);
        let begin = begin.map_err(|why| match why.contains(TOO_OLD) {
            true => StartFault::TooOld(why),
            false => StartFault::State(why),
        })?;
        self.life = life;
        self.disk_faults = false;
        self.failed_starts = 0;
        let me = ReplicaId::new(id, log.incarnation());
        self.incarnation = Some(me.incarnation);
        let facts = begin.facts(log.meta_seq(), format!("node-{id}"), String::new());
        let network = wires.plug(me, life, facts.clone());
        let made = Made {
            me,
            nodes,
            log,
            network,
            facts,
            begin,
            knows_level: self.knows_level,
        };
        let shared = made.shared(inbox, state);
        let (jobs, snapshots) = (Jobs::<S>::default(), Queue::default());
        let folder = SnapshotFolder::new(made.log.files());
        let driver = made.driver(&shared, into_queue(&jobs), into_queue(&snapshots), rates);
        self.process = Some(Box::new(Process {
            me,
            applier: Applier::new(Arc::clone(&shared)),
            driver,
            shared,
            diverged: false,
            jobs,
            snapshots,
            snapshotters: [(); 2].map(|()| Snapshotter::new(folder.clone(), Box::new(|_| Ok(())))),
            stepper,
            chain: Chain::default(),
            deadline: 0,
            wake_at: Micros::MAX,
            lanes_busy: [false; 3],
            applier_busy: false,
            snapshotters_busy: [false; 2],
            paused_until: 0,
            asked_until: 0,
            looked_at: 0,
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
        if let (Some(process), Spoiled::Rotted(None)) = (&self.process, &self.spoiled) {
            self.promised = Some(Arc::new(process.promised()));
        }
        self.process = None;
        wires.unplug(self.node);
        self.disk.crash(crash);
        self.truth = None;
    }

    /// What is durable now.
    pub(crate) fn durable(&mut self, oracle: &Oracle) -> Result<(Arc<Image>, bool), String> {
        let syncs = self.disk.syncs();
        if let Some((at, image)) = &self.truth
            && *at == syncs
        {
            return Ok((Arc::clone(image), false));
        }
        let image = Arc::new(durable(&self.disk, self.node, oracle)?);
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
        self.wiped || self.repairing || self.spoiled.is()
    }

    /// Whether its state was made another one and nobody has noticed.
    pub(crate) fn is_diverged(&self) -> bool {
        self.process
            .as_deref()
            .is_some_and(|process| process.diverged)
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
    begin: Begin,
    knows_level: u32,
}

impl Made {
    fn shared<S: StateMachine>(
        &self,
        inbox: Arc<Inbox<S::Response>>,
        state: ReplicaState<S>,
    ) -> Arc<Shared<S>> {
        let (address, clock) = (([127, 0, 0, 1], 1).into(), Clock::start());
        let begin = self.begin.at;
        let mut shared = Shared::new(self.me, CLUSTER, address, clock, inbox, state, begin);
        shared.digests.every = DIGEST_EVERY;
        Arc::new(shared)
    }

    fn driver<S: StateMachine>(
        self,
        shared: &Arc<Shared<S>>,
        apply: ApplySink<S>,
        jobs: SnapshotSink,
        rates: &Rates,
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
        let mut core = RaftCore::new(
            self.me,
            simulated(settings(&config, self.me)),
            self.begin.recovered,
            founding,
            1,
        );
        core.set_features((OLD, self.knows_level));
        Driver::new(Parts {
            core,
            log: self.log,
            network: self.network,
            apply,
            shared: Arc::clone(shared),
            facts: self.facts,
            listed,
            snapshots: SnapshotParts {
                options: snapshot_options(rates),
                stored: self.begin.stored,
                jobs,
            },
            auto_join: false,
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

    /// How many sessions its state has.
    pub(crate) fn sessions(&self) -> usize {
        self.shared.live.live().state.sessions.len()
    }

    /// Runs the driver over what came in.
    pub(crate) fn burst(&mut self, now: Micros, skew: Micros) {
        let mut lanes = Lanes::default();
        self.shared.inbox.take(&mut lanes);
        let mono = self.local(now);
        self.looked_at = mono;
        let wall = EPOCH + now + skew;
        self.deadline = self.driver.burst(Now { mono, wall }, &mut lanes);
    }

    /// Does the applier's oldest piece of work.
    pub(crate) fn apply(&mut self) {
        let Some(job) = take(&self.jobs) else {
            return;
        };
        if let Err(reason) = self.applier.run(job) {
            let fail = Request::Fail(reason);
            self.shared.inbox.put(|lanes| lanes.requests.push(fail));
        }
    }

    /// The state becomes another one, if `spoil` can do that.
    pub(crate) fn diverge(&mut self, spoil: impl FnOnce(&mut S) -> bool) -> bool {
        let diverges = spoil(&mut self.shared.live.live().state.machine);
        self.diverged |= diverges;
        diverges
    }

    /// What it believes to be durable.
    fn promised(&self) -> Image {
        let core = self.driver.core();
        let mut chain = self.chain.clone();
        chain.cut(core.durable());
        let hard = core.hard_state();
        Image {
            hard,
            chain,
            repairing: core.is_repairing(),
        }
    }

    /// Whether it has made the cluster's first entry, which is not durable and which nobody else
    /// can have.
    pub(crate) fn founds_alone(&self) -> bool {
        let core = self.driver.core();
        core.genesis() == self.me.incarnation && core.last().index == 1 && core.durable() == 0
    }

    pub(crate) fn has_work(&self) -> bool {
        !is_empty(&self.jobs)
    }

    /// Snapshots that are to be written, and those that are to be removed.
    pub(crate) fn writes_and_removes(&self) -> (Vec<LogId>, Vec<LogId>) {
        let jobs = self.snapshots.lock();
        let jobs = jobs.unwrap_or_else(PoisonError::into_inner);
        let written = jobs.iter().filter_map(|job| match job {
            SnapshotJob::Write(cut) => Some(cut.1.last),
            _ => None,
        });
        let removed = jobs.iter().filter_map(|job| match job {
            SnapshotJob::Remove(last) => Some(*last),
            _ => None,
        });
        (written.collect(), removed.collect())
    }

    /// Whether one of the two snapshotters has something to do.
    pub(crate) fn writes_snapshots(&mut self, nth: usize) -> bool {
        while let Some(job) = take(&self.snapshots) {
            let nth = usize::from(job.is_transfer());
            if let Some(snapshotter) = self.snapshotters.get_mut(nth) {
                snapshotter.push(job);
            }
        }
        self.snapshotters
            .get(nth)
            .is_some_and(|snapshotter| !snapshotter.is_idle())
    }

    /// Does its next step.
    pub(crate) fn step_snapshots(&mut self, nth: usize) {
        if let Some(snapshotter) = self.snapshotters.get_mut(nth)
            && let Some(event) = snapshotter.step()
        {
            self.shared.inbox.put(|lanes| lanes.snapshots.push(event));
        }
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

/// Why a node does not start.
#[derive(Debug)]
pub(crate) enum StartFault {
    Log(OpenError),
    /// Its log is whole, the state that it goes on from is not.
    State(String),
    /// The cluster is beyond what its release knows.
    TooOld(String),
}

impl StartFault {
    /// Whether the directory itself is harmed.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Log(error) => {
                matches!(error, OpenError::Corrupt(_) | OpenError::MetaDamaged { .. })
            }
            Self::State(_) => true,
            Self::TooOld(_) => false,
        }
    }
}

impl std::fmt::Display for StartFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::State(why) | Self::TooOld(why) => f.write_str(why),
        }
    }
}

/// Small pieces and short tails, so that transfers are cut off and take turns with appends.
fn snapshot_options(rates: &Rates) -> SnapshotOptions {
    SnapshotOptions {
        every_entries: rates.snapshot_every,
        every_bytes: 0,
        times_last: 0,
        keep_tail_entries: rates.snapshot_every / 4,
        keep_for_peers_entries: 2 * rates.snapshot_every,
        chunk_bytes: 512,
        ..SnapshotOptions::default()
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

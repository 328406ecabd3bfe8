//! Three drivers in one thread and in virtual time, over memory disks whose syncs happen when the
//! test says so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::config::RaftConfig;
use crate::core::{FEATURES, FoundingList, Message, RaftCore, RaftRole, Recovered};
use crate::error::ProposeError;
use crate::network::{
    Forward, InProcessHub, InProcessNetwork, LocalFacts, NetworkEvent, PeerAddress, RaftNetwork,
    SendOutcome,
};
use crate::node::applier::{Applier, ApplyJob};
use crate::node::begin::begin;
use crate::node::driver::{Driver, Now, Parts, SnapshotParts};
use crate::node::envelope::InSession;
use crate::node::inbox::{Inbox, Lanes, Request, Submission};
use crate::node::replica_state::ReplicaState;
use crate::node::shared::{Clock, Shared, encode};
use crate::node::start::settings;
use crate::node::system::SystemEntry;
use crate::node::waiters::{Reply, Waiter};
use crate::snapshot::SnapshotOptions;
use crate::state_machine::{ApplyContext, CommandError, Frozen, RestoreError, StateMachine};
use crate::types::{ClusterId, EntryKind, LogIndex, Micros, NodeId, ReplicaId};
use crate::wal::{
    Crash, Lane, LogIdentity, LogOptions, LogStorage, Memory, MemoryDisk, Stepper, SyncPolicy,
};

/// Whether "held" is being applied, and whether it may end. For one test.
pub(super) static BEGUN: AtomicBool = AtomicBool::new(false);
pub(super) static LET_GO: AtomicBool = AtomicBool::new(false);

/// Remembers every command. Refuses none; panics at "panic", having changed nothing, at "half" half
/// way, and at "blind" only when it is looked at.
#[derive(Clone, Default)]
pub(super) struct Journal(Vec<String>);

impl StateMachine for Journal {
    type Command = String;
    type Response = usize;
    type View = Vec<String>;

    fn encode(command: &String, out: &mut Vec<u8>) -> Result<(), CommandError> {
        out.extend_from_slice(command.as_bytes());
        Ok(())
    }

    fn decode(payload: &[u8]) -> Result<String, CommandError> {
        let text = std::str::from_utf8(payload);
        let error = |_| CommandError {
            field: "command".into(),
            why: "not UTF-8".into(),
        };
        text.map(str::to_owned).map_err(error)
    }

    fn apply(&mut self, _: &ApplyContext, command: String) -> usize {
        assert_ne!(command, "panic", "told to");
        if command == "held" {
            BEGUN.store(true, Ordering::SeqCst);
            while !LET_GO.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        let half = command == "half";
        self.0.push(command);
        assert!(!half, "told to, half way");
        self.0.len()
    }

    fn encode_response(response: &usize) -> Option<Vec<u8>> {
        Some(response.to_le_bytes().into())
    }

    fn decode_response(bytes: &[u8]) -> Option<usize> {
        bytes.try_into().ok().map(usize::from_le_bytes)
    }

    fn view(&self) -> Arc<Vec<String>> {
        assert!(!self.0.contains(&"blind".to_owned()), "told not to look");
        Arc::new(self.0.clone())
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn restore(&mut self, from: &mut dyn std::io::Read) -> Result<(), RestoreError> {
        let mut text = String::new();
        from.read_to_string(&mut text)?;
        self.0 = text.lines().map(str::to_owned).collect();
        Ok(())
    }

    fn digest(&self) -> u128 {
        self.0
            .iter()
            .map(|command| u128::from(crc32fast::hash(command.as_bytes())))
            .sum()
    }
}

impl Frozen for Journal {
    fn write(self: Box<Self>, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        out.write_all(self.0.join("\n").as_bytes())
    }
}

/// What a node sent, in order.
pub(super) type Sent = Arc<Mutex<Vec<(NodeId, Message)>>>;

/// What a node said of itself, in order.
pub(super) type Told = Arc<Mutex<Vec<LocalFacts>>>;

/// Passes everything on and remembers it.
pub(super) struct Recording {
    inner: InProcessNetwork,
    sent: Sent,
    told: Told,
}

impl RaftNetwork for Recording {
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) -> SendOutcome {
        self.sent.lock().expect("sent").push((to, *message));
        self.inner.send(to, message, body)
    }

    fn set_peers(&mut self, peers: &[PeerAddress]) {
        self.inner.set_peers(peers);
    }

    fn set_local(&mut self, facts: &LocalFacts) {
        self.told.lock().expect("told").push(facts.clone());
        self.inner.set_local(facts);
    }

    fn want_bulk(&mut self, to: NodeId, wanted: bool) {
        self.inner.want_bulk(to, wanted);
    }

    fn reopen(&mut self, to: NodeId) {
        self.inner.reopen(to);
    }

    fn forward(&mut self, to: NodeId, forward: Forward) {
        self.inner.forward(to, forward);
    }
}

/// How long a proposer waits.
const PATIENCE: Micros = 5_000_000;

pub(super) type Answer = oneshot::Receiver<Result<usize, ProposeError>>;
type Jobs = Arc<Mutex<VecDeque<ApplyJob<Journal>>>>;

pub(super) struct Node {
    pub(super) shared: Arc<Shared<Journal>>,
    pub(super) sent: Sent,
    pub(super) told: Told,
    pub(super) driver: Driver<Journal, Memory, Recording>,
    applier: Applier<Journal>,
    jobs: Jobs,
    stepper: Stepper,
    deadline: Micros,
    /// Syncs do not happen while set.
    pub(super) disk_stalls: bool,
    /// Nor is new room prepared while this is.
    pub(super) room_stalls: bool,
    /// It looks at what came in, and its disk syncs, once in so long.
    pub(super) pace: Micros,
    next_turn: Micros,
    /// Its state machine does one piece of work in so long.
    pub(super) apply_pace: Micros,
    /// And none before then.
    pub(super) next_work: Micros,
}

impl Node {
    /// Bytes of entries that wait for the state machine.
    pub(super) fn backlog(&self) -> usize {
        let bytes = |job: &ApplyJob<Journal>| match job {
            ApplyJob::Entries { runs, .. } => runs.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        self.jobs.lock().expect("jobs").iter().map(bytes).sum()
    }

    /// It is of a release that knows these feature levels from now on.
    pub(super) fn upgrade(&mut self, features: (u32, u32)) {
        self.driver.core_mut().set_features(features);
    }

    /// When something is to be done, at the latest.
    fn next_at(&self, now: Micros) -> Micros {
        let works = !self.jobs.lock().expect("jobs").is_empty();
        let work = if works { self.next_work } else { Micros::MAX };
        let turn = if self.next_turn > now {
            self.next_turn
        } else {
            Micros::MAX
        };
        self.deadline.max(self.next_turn).min(work).min(turn)
    }

    /// Does the work that is due. Whether there was any.
    fn work(&mut self, now: Micros) -> bool {
        let mut busy = false;
        while now >= self.next_work {
            let Some(job) = self.jobs.lock().expect("jobs").pop_front() else {
                break;
            };
            busy = true;
            self.next_work = now + self.apply_pace;
            if let Err(reason) = self.applier.run(job) {
                let fail = Request::Fail(reason);
                self.shared.inbox.put(|lanes| lanes.requests.push(fail));
            }
            if self.apply_pace > 0 {
                self.deadline = now; // as the wake-up of a driver that holds entries back
            }
        }
        busy
    }
}

pub(super) struct Bed {
    pub(super) now: Micros,
    pub(super) hub: InProcessHub,
    pub(super) nodes: Vec<Option<Node>>,
    pub(super) disks: Vec<MemoryDisk>,
    options: LogOptions,
}

impl Bed {
    pub(super) fn new(nodes: usize, sync: SyncPolicy) -> Self {
        let options = LogOptions {
            segment_bytes: 8 << 20,
            sync,
            ..LogOptions::default()
        };
        Self::with_options(nodes, options)
    }

    pub(super) fn with_options(nodes: usize, options: LogOptions) -> Self {
        let mut bed = Self {
            now: 1,
            hub: InProcessHub::default(),
            nodes: (0..nodes).map(|_| None).collect(),
            disks: (0..nodes).map(|_| MemoryDisk::new()).collect(),
            options,
        };
        (1..=nodes as NodeId).for_each(|node| bed.start(node));
        bed
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let inbox: Arc<Inbox<usize>> = Arc::default();
        let (log, stepper) = self.open_log(id, &inbox);
        let me = ReplicaId::new(id, log.incarnation());
        let mut state = ReplicaState::new(Journal::default());
        let begin = begin(&log, &mut state, ClusterId([7; 16]), FEATURES.1).expect("a state");
        let facts = begin.facts(0, format!("node-{id}"), String::new());
        let network = self.plug_in(me, &facts, &inbox);
        let sent = Arc::clone(&network.sent);
        let told = Arc::clone(&network.told);
        let (cluster, address) = (ClusterId([7; 16]), ([127, 0, 0, 1], 1).into());
        let shared = Shared::new(
            me,
            cluster,
            address,
            Clock::start(),
            inbox,
            &state,
            begin.at,
        );
        let shared = Arc::new(shared);
        let jobs = Jobs::default();
        let apply = {
            let jobs = Arc::clone(&jobs);
            Box::new(move |job| jobs.lock().expect("jobs").push_back(job))
        };
        let parts = Parts {
            core: self.core(me, begin.recovered),
            log,
            network,
            apply,
            shared: Arc::clone(&shared),
            facts,
            listed: self.listed(id),
            snapshots: SnapshotParts {
                options: SnapshotOptions::default(),
                stored: begin.stored,
                jobs: Box::new(drop),
            },
        };
        self.nodes[id as usize - 1] = Some(Node {
            applier: Applier::new(state, Arc::clone(&shared)),
            driver: Driver::new(parts),
            shared,
            sent,
            told,
            jobs,
            stepper,
            deadline: self.now,
            disk_stalls: false,
            room_stalls: false,
            pace: 0,
            next_turn: 0,
            apply_pace: 0,
            next_work: 0,
        });
    }

    /// Whether this release can start with what is on a disk.
    pub(super) fn begins(&self, id: NodeId) -> Result<(), String> {
        let (log, _) = self.open_log(id, &Arc::default());
        begin(
            &log,
            &mut ReplicaState::new(Journal::default()),
            ClusterId([7; 16]),
            FEATURES.1,
        )
        .map(|_| ())
    }

    fn open_log(&self, id: NodeId, inbox: &Arc<Inbox<usize>>) -> (LogStorage<Memory>, Stepper) {
        let inbox = Arc::clone(inbox);
        let sink = Arc::new(move |event| inbox.put(|lanes| lanes.log.push(event)));
        let medium = Memory::stepped(&self.disks[id as usize - 1], sink);
        let stepper = medium.stepper();
        let identity = LogIdentity {
            cluster: ClusterId([7; 16]),
            node: id,
        };
        let log = LogStorage::open(medium, identity, self.options.clone()).expect("the log opens");
        (log, stepper)
    }

    fn plug_in(&self, me: ReplicaId, facts: &LocalFacts, inbox: &Arc<Inbox<usize>>) -> Recording {
        let inbox = Arc::clone(inbox);
        let sink = Arc::new(move |events: &mut Vec<NetworkEvent>| {
            inbox.put(|lanes| lanes.network.append(events));
        });
        Recording {
            inner: self.hub.attach(me, facts.clone(), sink),
            sent: Sent::default(),
            told: Told::default(),
        }
    }

    fn listed(&self, id: NodeId) -> Vec<PeerAddress> {
        let others = (1..=self.nodes.len() as NodeId).filter(|other| *other != id);
        let address = others.map(|node| PeerAddress {
            node,
            incarnation: None,
            address: format!("node-{node}"),
        });
        address.collect()
    }

    fn core(&self, me: ReplicaId, recovered: Recovered) -> RaftCore {
        let config = RaftConfig {
            node_id: me.node,
            ..RaftConfig::default()
        };
        let listed = self.listed(me.node);
        let founding = FoundingList {
            single: listed.is_empty(),
            peer_address: format!("node-{}", me.node),
            others: listed.iter().map(|peer| peer.node).collect(),
            ..FoundingList::default()
        };
        RaftCore::new(me, settings(&config, me), recovered, founding, self.now)
    }

    /// The power goes at one node.
    pub(super) fn crash(&mut self, id: NodeId, crash: Crash) {
        self.nodes[id as usize - 1] = None;
        self.disks[id as usize - 1].crash(crash);
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes[id as usize - 1].as_ref().expect("running")
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id as usize - 1].as_mut().expect("running")
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| node.shared.brief().role == RaftRole::Leader;
        let leaders = self.nodes.iter().flatten().filter(leads);
        leaders
            .max_by_key(|node| node.shared.brief().term)
            .map(|node| node.shared.me.node)
    }

    pub(super) fn propose(&self, to: NodeId, command: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let payload = encode::<Journal>(None, &command.to_owned()).expect("a command");
        self.put(to, EntryKind::Command, payload, reply.into());
        answer
    }

    pub(super) fn propose_in(&self, to: NodeId, at: InSession, command: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let payload = encode::<Journal>(Some(at), &command.to_owned()).expect("a command");
        self.put(to, EntryKind::Command, payload, reply.into());
        answer
    }

    /// Proposes with this reply and patience.
    pub(super) fn propose_with(
        &self,
        to: NodeId,
        command: &str,
        reply: Reply<usize>,
        patience: Micros,
    ) {
        let payload = encode::<Journal>(None, &command.to_owned()).expect("a command");
        let deadline = self.now + patience;
        let waiter = Waiter { reply, deadline };
        self.submit(to, EntryKind::Command, payload, waiter, false);
    }

    pub(super) fn open_session(
        &self,
        to: NodeId,
    ) -> oneshot::Receiver<Result<LogIndex, ProposeError>> {
        let (reply, answer) = oneshot::channel();
        let payload = SystemEntry::OpenSession.encode();
        self.put(to, EntryKind::System, payload, Reply::System(reply));
        answer
    }

    fn put(&self, to: NodeId, kind: EntryKind, payload: Bytes, reply: Reply<usize>) {
        let deadline = self.now + PATIENCE;
        self.submit(to, kind, payload, Waiter { reply, deadline }, false);
    }

    /// Proposes what the node passes on if it does not lead.
    pub(super) fn pass_on(&self, to: NodeId, kind: EntryKind, payload: Bytes, reply: Reply<usize>) {
        let deadline = self.now + PATIENCE;
        self.submit(to, kind, payload, Waiter { reply, deadline }, true);
    }

    fn submit(
        &self,
        to: NodeId,
        kind: EntryKind,
        payload: Bytes,
        waiter: Waiter<usize>,
        forward: bool,
    ) {
        self.node(to).shared.inbox.put(|lanes| {
            lanes.proposals.push(Submission {
                kind,
                payload,
                waiter,
                forward,
            });
        });
    }

    /// Asks a leader to hand over.
    pub(super) fn hand_over(&self, leader: NodeId, to: Option<NodeId>) {
        let (reply, _) = oneshot::channel();
        let inbox = &self.node(leader).shared.inbox;
        inbox.put(|lanes| lanes.requests.push(Request::HandOver { to, reply }));
    }

    /// Runs until `done`, at most `limit` of virtual time. Whether it was done.
    pub(super) fn run(&mut self, limit: Micros, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end {
            let mut rounds = 0;
            while self.round() {
                if done(self) {
                    return true;
                }
                rounds += 1;
                assert!(rounds < 10_000, "this never comes to rest");
            }
            let nodes = self.nodes.iter().flatten();
            let next = nodes.map(|node| node.next_at(self.now)).min();
            self.now = next.unwrap_or(end).clamp(self.now + 1, end);
        }
        done(self)
    }

    /// Whether anything happened.
    fn round(&mut self) -> bool {
        let now = Now {
            mono: self.now,
            wall: 1_000_000_000 + self.now,
        };
        let mut busy = false;
        for node in self.nodes.iter_mut().flatten() {
            busy |= node.work(self.now);
            if self.now < node.next_turn {
                continue;
            }
            if !node.disk_stalls {
                while node.stepper.run(Lane::Sync) {}
            }
            if !node.room_stalls {
                while node.stepper.run(Lane::Prepare) || node.stepper.run(Lane::Warm) {}
            }
            let mut lanes = Lanes::default();
            node.shared.inbox.take(&mut lanes);
            if lanes.is_empty() && self.now < node.deadline {
                continue;
            }
            busy = true;
            node.deadline = node.driver.burst(now, &mut lanes);
            node.next_turn = self.now + node.pace;
            node.work(self.now);
        }
        busy
    }

    pub(super) fn applied(&self, id: NodeId) -> Vec<String> {
        self.node(id).shared.applied().view.to_vec()
    }
}

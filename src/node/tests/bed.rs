//! Three drivers in one thread and in virtual time, over memory disks whose syncs happen when the
//! test says so.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::core::{FEATURES, Message, RaftRole};
use crate::error::ProposeError;
use crate::network::{
    Forward, InProcessHub, InProcessNetwork, LocalFacts, PeerAddress, RaftNetwork, SendOutcome,
};
use crate::node::begin::begin;
use crate::node::driver::Now;
use crate::node::envelope::InSession;
use crate::node::inbox::{Inbox, Lanes, Request, Submission};
use crate::node::one_thread::{CLUSTER, OneThread, identity, log_sink};
use crate::node::replica_state::ReplicaState;
use crate::node::shared::encode;
use crate::node::system::SystemEntry;
use crate::node::waiters::{Reply, Waiter};
use crate::state_machine::{ApplyContext, CommandError, Frozen, RestoreError, StateMachine};
use crate::types::{EntryKind, LogIndex, Micros, NodeId, ReplicaId};
use crate::wal::{Crash, Lane, LogOptions, LogStorage, Memory, MemoryDisk, Stepper, SyncPolicy};

/// Whether "held" is being applied, and whether it may end. For one test.
pub(super) static BEGUN: AtomicBool = AtomicBool::new(false);
pub(super) static LET_GO: AtomicBool = AtomicBool::new(false);

/// Remembers every command, for "nap N" only after N milliseconds. Refuses none; panics at "panic", having changed nothing, at "half" half
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
        if let Some(ms) = command.strip_prefix("nap ") {
            let ms = ms.parse().expect("milliseconds");
            std::thread::sleep(std::time::Duration::from_millis(ms));
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

    fn blank_nodes(&self) -> Vec<(ReplicaId, LocalFacts)> {
        self.inner.blank_nodes()
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

pub(super) struct Node {
    node: OneThread<Journal, Memory, Recording>,
    pub(super) sent: Sent,
    pub(super) told: Told,
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

impl Deref for Node {
    type Target = OneThread<Journal, Memory, Recording>;

    fn deref(&self) -> &Self::Target {
        &self.node
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.node
    }
}

impl Node {
    /// It is of a release that knows these feature levels from now on.
    pub(super) fn upgrade(&mut self, features: (u32, u32)) {
        self.driver.core_mut().set_features(features);
    }

    /// When something is to be done, at the latest.
    fn next_at(&self, now: Micros) -> Micros {
        let works = self.has_work();
        let work = if works { self.next_work } else { Micros::MAX };
        let turn = if self.next_turn > now {
            self.next_turn
        } else {
            Micros::MAX
        };
        self.deadline.max(self.next_turn).min(work).min(turn)
    }

    /// Does the work that is due. Whether there was any.
    fn work_at(&mut self, now: Micros) -> bool {
        let mut busy = false;
        while now >= self.next_work && self.work() {
            busy = true;
            self.next_work = now + self.apply_pace;
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
    /// Nodes 1 to this one found the cluster, and are whom each node knows at first.
    founders: NodeId,
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
            founders: nodes as NodeId,
            options,
        };
        (1..=nodes as NodeId).for_each(|node| bed.start(node));
        bed
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let inbox: Arc<Inbox<usize>> = Arc::default();
        let (log, stepper) = self.open_log(id, &inbox);
        let (sent, told) = (Sent::default(), Told::default());
        let plug_in = |me, facts: &LocalFacts, sink| Recording {
            inner: self.hub.attach(me, facts.clone(), sink),
            sent: Arc::clone(&sent),
            told: Arc::clone(&told),
        };
        let place = (id, self.founders, self.now);
        let node = OneThread::start(log, Journal::default(), inbox, place, plug_in);
        self.nodes[id as usize - 1] = Some(Node {
            node: node.expect("a state"),
            sent,
            told,
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

    /// Starts one more node, which founds nothing.
    pub(super) fn start_another(&mut self) -> NodeId {
        self.nodes.push(None);
        self.disks.push(MemoryDisk::new());
        let id = self.nodes.len() as NodeId;
        self.start(id);
        id
    }

    /// Whether this release can start with what is on a disk.
    pub(super) fn begins(&self, id: NodeId) -> Result<(), String> {
        let (log, _) = self.open_log(id, &Arc::default());
        begin(
            &log,
            &mut ReplicaState::new(Journal::default()),
            CLUSTER,
            FEATURES.1,
        )
        .map(|_| ())
    }

    fn open_log(&self, id: NodeId, inbox: &Arc<Inbox<usize>>) -> (LogStorage<Memory>, Stepper) {
        let medium = Memory::stepped(&self.disks[id as usize - 1], log_sink(inbox));
        let stepper = medium.stepper();
        let log = LogStorage::open(medium, identity(id), self.options.clone());
        (log.expect("the log opens"), stepper)
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
        let waiter = Waiter::new(reply, deadline);
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
        self.submit(to, kind, payload, Waiter::new(reply, deadline), false);
    }

    /// Proposes what the node passes on if it does not lead.
    pub(super) fn pass_on(&self, to: NodeId, kind: EntryKind, payload: Bytes, reply: Reply<usize>) {
        let deadline = self.now + PATIENCE;
        self.submit(to, kind, payload, Waiter::new(reply, deadline), true);
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
            busy |= node.work_at(self.now);
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
            node.work_at(self.now);
        }
        busy
    }

    pub(super) fn applied(&self, id: NodeId) -> Vec<String> {
        self.node(id).shared.applied().view.to_vec()
    }
}

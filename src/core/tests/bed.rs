//! The test bed: real cores under a driver that keeps the contract, in virtual time.

use std::collections::{BTreeMap, VecDeque};

use super::super::random::Random;
use super::super::{Class, FoundingList, Input, PeerHello, RaftCore, Settings};
use super::disk::{Disk, Image, mix};
use super::drive::ENTRY_BYTES;
use super::ghost::Ghost;
use super::net::{Envelope, Faults, Net};
use crate::core::{ChangeError, HandOverError};
use crate::types::{Incarnation, LogIndex, Micros, NodeId, ReplicaId, Term, WriteId};

pub(super) const MS: Micros = 1_000;
pub(super) const T_MIN: Micros = 150 * MS;
pub(super) const T_MAX: Micros = 300 * MS;
pub(super) const HEARTBEAT: Micros = 50 * MS;
/// Clocks here run alike.
pub(super) const LEASE_DRIFT_PPM: u32 = 1_000;
/// A message that waits for a write.
#[derive(Debug)]
pub(super) struct Deferred {
    pub(super) after: WriteId,
    pub(super) term: Term,
    pub(super) envelope: Envelope,
    /// Hash of what the message vouches for.
    pub(super) vouches: Option<u64>,
}

/// One node: a core, its log and what its driver keeps.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: ReplicaId,
    /// `None` while it is down.
    pub(super) core: Option<RaftCore>,
    pub(super) disk: Disk,
    pub(super) life: u64,
    pub(super) frozen_until: Micros,
    /// Added to every write.
    pub(super) disk_lag: Micros,
    pub(super) advice: Vec<String>,
    pub(super) deferred: Vec<Deferred>,
    pub(super) durable_fed: WriteId,
    /// Reads that were answered: attempt and index.
    pub(super) reads: Vec<(u64, LogIndex)>,
    /// Why members were not changed.
    pub(super) changes_refused: Vec<ChangeError>,
    /// Why hand-overs failed.
    pub(super) hand_overs_failed: Vec<HandOverError>,
}

/// Something that happens at a time. Where a life is named, only in that life of the process.
#[derive(Clone, Debug)]
pub(super) enum What {
    Deliver(Envelope),
    Durable(NodeId, u64, WriteId),
    Connect(NodeId, NodeId, Class),
    Up(NodeId, u64, ReplicaId, Class, u64, PeerHello),
    Down(NodeId, u64, NodeId, Class, u64),
    Writable(NodeId, u64, NodeId, u64),
    Settle(NodeId, u64),
}

/// N cores, their logs, links and time.
pub(super) struct Bed {
    pub(super) now: Micros,
    pub(super) rng: Random,
    pub(super) seed: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) net: Net,
    pub(super) ghost: Ghost,
    pub(super) faults: Faults,
    /// Folds what happened, to compare runs.
    pub(super) trace: u64,
    pub(super) events: u64,
    /// Messages that were sent, the newest ones, for replays.
    pub(super) archive: VecDeque<Envelope>,
    queue: BTreeMap<(Micros, u64), What>,
    next_event: u64,
    pub(super) next_payload: u64,
    pub(super) verbose: bool,
}

pub(super) fn incarnation(node: NodeId, number: u64) -> Incarnation {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&node.to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    Incarnation(bytes)
}

pub(super) fn settings(seed: u64) -> Settings {
    Settings {
        election_timeout_min: T_MIN,
        election_timeout_max: T_MAX,
        heartbeat_interval: HEARTBEAT,
        max_inflight_bytes: 10 * ENTRY_BYTES,
        max_inflight_appends: 4,
        max_append_bytes: 4 * ENTRY_BYTES,
        lease_drift_ppm: Some(LEASE_DRIFT_PPM),
        seed,
    }
}

// ---- set-up and faults ----
impl Bed {
    /// Nodes 1..=images.len() with these logs, started and about to connect.
    pub(super) fn with_images(seed: u64, images: Vec<Image>) -> Self {
        let mut bed = Self::holding(seed, images);
        for node in bed.ids() {
            bed.register(node);
            bed.start(node);
        }
        bed
    }

    fn holding(seed: u64, images: Vec<Image>) -> Self {
        let nodes = images.into_iter().zip(1..).map(|(image, node)| Node {
            id: ReplicaId::new(node, incarnation(node, 1)),
            core: None,
            disk: Disk::holding(image),
            life: 0,
            frozen_until: 0,
            disk_lag: 0,
            advice: Vec::new(),
            deferred: Vec::new(),
            durable_fed: 0,
            reads: Vec::new(),
            changes_refused: Vec::new(),
            hand_overs_failed: Vec::new(),
        });
        Self {
            now: 0,
            rng: Random::new(mix(seed, 1)),
            seed,
            nodes: nodes.collect(),
            net: Net::default(),
            ghost: Ghost::default(),
            faults: Faults::NONE,
            trace: 0,
            events: 0,
            archive: VecDeque::new(),
            queue: BTreeMap::new(),
            next_event: 0,
            next_payload: 1,
            verbose: std::env::var_os("CONVEYOR_SIM_TRACE").is_some(),
        }
    }

    /// As many blank nodes, which will found a cluster.
    pub(super) fn blank(seed: u64, count: usize) -> Self {
        Self::with_images(seed, vec![Image::default(); count])
    }

    /// The same, none of them started.
    pub(super) fn dormant(seed: u64, count: usize) -> Self {
        Self::holding(seed, vec![Image::default(); count])
    }

    /// What a log held before the run is part of history too.
    fn register(&mut self, node: NodeId) {
        let state = &self.nodes[node as usize - 1];
        for (item, index) in state.disk.live.items.iter().zip(1..) {
            self.ghost.appended(state.id, index, *item);
        }
    }

    pub(super) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node as usize - 1]
    }

    pub(super) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    pub(super) fn core(&self, node: NodeId) -> &RaftCore {
        self.node(node).core.as_ref().expect("the node is up")
    }

    pub(super) fn ids(&self) -> std::ops::RangeInclusive<NodeId> {
        1..=self.nodes.len() as NodeId
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.node(node).core.is_some()
    }

    pub(super) fn chance(&mut self, of_1000: u64) -> bool {
        of_1000 > 0 && self.rng.between(0, 1000) < of_1000
    }

    pub(super) fn start(&mut self, node: NodeId) {
        let (now, seed) = (self.now, self.seed);
        let others: Vec<_> = self.ids().filter(|other| *other != node).collect();
        let state = self.node_mut(node);
        if state.core.is_some() {
            return;
        }
        state.life += 1;
        state.durable_fed = 0;
        state.frozen_until = 0;
        let list = FoundingList {
            single: others.is_empty(),
            others: others.clone(),
            ..FoundingList::default()
        };
        let settings = settings(mix(mix(seed, node), state.life));
        let recovered = state.disk.live.recovered();
        state.core = Some(RaftCore::new(state.id, settings, recovered, list, now));
        for other in others {
            self.connect_soon(node, other);
        }
    }

    pub(super) fn connect_soon(&mut self, a: NodeId, b: NodeId) {
        for class in [Class::Control, Class::Data] {
            let at = self.now + self.rng.between(0, 5 * MS);
            self.schedule(at, What::Connect(a, b, class));
        }
    }

    /// Power cut: of the writes under way a random number had made it.
    pub(super) fn crash(&mut self, node: NodeId) {
        let pending = self.node(node).disk.pending() as u64;
        let kept = self.rng.between(0, pending + 1);
        let state = self.node_mut(node);
        state.core = None;
        state.deferred.clear();
        state.disk.crash(kept as usize);
        let (id, image) = (state.id, state.disk.durable.clone());
        self.ghost.became_durable(id, &image);
        for other in self.ids() {
            self.hang_up(node, other);
        }
    }

    /// The directory is gone; what starts next under this number is another replica.
    pub(super) fn wipe(&mut self, node: NodeId) {
        if self.is_up(node) {
            self.crash(node);
        }
        let (id, image) = (self.node(node).id, self.node(node).disk.durable.clone());
        self.ghost.bury(id, &image);
        let state = self.node_mut(node);
        state.id.incarnation = incarnation(node, state.life + 2);
        state.disk = Disk::default();
    }

    /// Both connections of a pair end; each side learns it in its own time.
    pub(super) fn hang_up(&mut self, a: NodeId, b: NodeId) {
        for class in [Class::Control, Class::Data] {
            let Some(epoch) = self.net.disconnect(a, b, class) else {
                continue;
            };
            for (node, other) in [(a, b), (b, a)] {
                let (at, life) = (
                    self.now + self.rng.between(0, 20 * MS),
                    self.node(node).life,
                );
                self.schedule(at, What::Down(node, life, other, class, epoch));
            }
        }
    }

    /// Cuts both directions between the nodes of `side` and the rest.
    pub(super) fn partition(&mut self, side: &[NodeId]) {
        for a in self.ids() {
            for b in self.ids() {
                if side.contains(&a) != side.contains(&b) {
                    self.net.cut(a, b);
                }
            }
        }
    }

    pub(super) fn schedule(&mut self, at: Micros, what: What) {
        self.next_event += 1;
        self.queue.insert((at, self.next_event), what);
    }
}

// ---- time ----
impl Bed {
    /// The next thing that happens: queued, or a node's timer.
    pub(super) fn next_at(&self) -> Micros {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer = self.next_timer().map(|(at, _)| at);
        let next = [queued, timer].into_iter().flatten().min();
        next.unwrap_or(Micros::MAX).max(self.now)
    }

    fn next_timer(&self) -> Option<(Micros, NodeId)> {
        let due = |node: &Node| {
            let core = node.core.as_ref()?;
            Some((core.deadline().max(node.frozen_until), node.id.node))
        };
        self.nodes.iter().filter_map(due).min()
    }

    pub(super) fn run_until(&mut self, end: Micros) {
        while self.next_at() <= end {
            self.happen();
        }
        self.now = self.now.max(end);
    }

    pub(super) fn run_for(&mut self, time: Micros) {
        self.run_until(self.now + time);
    }

    /// Runs until `done`, at most for `time`. Whether it was.
    pub(super) fn run_while(&mut self, time: Micros, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        while !done(self) {
            if self.next_at() > end {
                self.now = end;
                return done(self);
            }
            self.happen();
        }
        true
    }

    fn happen(&mut self) {
        self.now = self.next_at();
        self.events += 1;
        let queued = self.queue.first_key_value().map(|(key, _)| *key);
        // What a frozen process finds first when it wakes, its timer or its messages.
        let before = self.seed % 2;
        match (queued, self.next_timer()) {
            (Some(key), timer) if timer.is_none_or(|(at, _)| key.0 < at + before) => {
                let what = self.queue.remove(&key).expect("just seen");
                self.occur(what);
            }
            (_, Some((_, node))) => self.tick(node),
            _ => {}
        }
    }

    fn tick(&mut self, node: NodeId) {
        self.feed(node, Input::Tick, None);
        self.settle(node);
        let deadline = self.core(node).deadline();
        assert!(
            deadline > self.now,
            "node {node}: the timer fires for ever at {deadline}"
        );
    }

    fn occur(&mut self, what: What) {
        if self.verbose {
            eprintln!("{:>9} {what:?}", self.now);
        }
        match what {
            What::Deliver(envelope) => self.deliver(envelope),
            What::Durable(node, life, id) => self.durable(node, life, id),
            What::Connect(a, b, class) => self.connect(a, b, class),
            What::Up(node, life, peer, class, epoch, hello) => {
                if self.net.epoch(node, peer.node, class) == Some(epoch) {
                    let input = Input::PeerUp {
                        peer,
                        class,
                        epoch,
                        hello,
                    };
                    self.feed_life(node, life, input);
                }
            }
            What::Down(node, life, peer, class, epoch) => {
                let input = Input::PeerDown {
                    node: peer,
                    class,
                    epoch,
                };
                self.feed_life(node, life, input);
            }
            What::Writable(node, life, to, epoch) => {
                self.feed_life(node, life, Input::Writable { node: to, epoch });
            }
            What::Settle(node, life) if self.lives(node, life) => self.settle(node),
            What::Settle(..) => {}
        }
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        self.is_up(node) && self.node(node).life == life
    }

    /// Puts off what a frozen process does not see yet.
    fn thaws(&mut self, node: NodeId, what: impl FnOnce() -> What) -> bool {
        let until = self.node(node).frozen_until;
        if until > self.now {
            self.schedule(until, what());
        }
        until <= self.now
    }

    fn feed_life(&mut self, node: NodeId, life: u64, input: Input) {
        if self.lives(node, life) {
            self.feed(node, input, None);
            self.settle_or_burst(node);
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let to = envelope.to;
        if !self.is_up(to) || !self.thaws(to, || What::Deliver(envelope.clone())) {
            return;
        }
        let input = Input::Message {
            from: envelope.from,
            message: envelope.message,
            entries: envelope.summary(),
        };
        self.feed(to, input, Some(&envelope));
        self.settle_or_burst(to);
    }

    /// Sometimes more inputs come before the burst ends.
    pub(super) fn settle_or_burst(&mut self, node: NodeId) {
        if self.chance(250) {
            let (at, life) = (self.now + self.rng.between(0, MS), self.node(node).life);
            self.schedule(at, What::Settle(node, life));
        } else {
            self.settle(node);
        }
    }

    fn durable(&mut self, node: NodeId, life: u64, id: WriteId) {
        if !self.lives(node, life) || !self.thaws(node, || What::Durable(node, life, id)) {
            return;
        }
        let state = self.node_mut(node);
        state.disk.complete(id);
        state.durable_fed = state.durable_fed.max(id);
        let (who, fed) = (state.id, state.durable_fed);
        let image = &self.nodes[node as usize - 1].disk.durable;
        self.ghost.became_durable(who, image);
        self.feed(node, Input::Durable { id }, None);
        let waiting = std::mem::take(&mut self.node_mut(node).deferred);
        let (ready, waiting) = waiting.into_iter().partition(|one| one.after <= fed);
        self.node_mut(node).deferred = waiting;
        let ready: Vec<Deferred> = ready;
        for one in ready {
            self.transmit(one.envelope, one.vouches);
        }
        self.settle_or_burst(node);
    }

    fn connect(&mut self, a: NodeId, b: NodeId, class: Class) {
        let (Some(first), Some(second)) = (&self.node(a).core, &self.node(b).core) else {
            return;
        };
        let (left, right) = (first.genesis(), second.genesis());
        let other_cluster = left != right && !left.is_none() && !right.is_none();
        let ends = [(a, hello(second)), (b, hello(first))];
        if other_cluster {
            return;
        }
        let Some(epoch) = self.net.connect(a, b, class) else {
            return;
        };
        for (node, (peer, hello)) in ends {
            let (at, life) = (self.now + self.rng.between(0, 3 * MS), self.node(node).life);
            self.schedule(at, What::Up(node, life, peer, class, epoch, hello));
        }
    }
}

fn hello(core: &RaftCore) -> (ReplicaId, PeerHello) {
    let hello = PeerHello {
        blank: core.is_blank(),
        genesis: core.genesis(),
        ..PeerHello::default()
    };
    (core.me(), hello)
}

//! The test bed: real cores under a driver that keeps the contract, in virtual time.

use std::collections::{BTreeMap, VecDeque};

use super::super::random::Random;
use super::super::{
    AppendEntries, AppendSource, AppendStatus, Class, Event, FoundStatus, FoundingList, Input,
    Message, Output, PeerHello, Persist, RaftCore, RaftRole, Settings,
};
use super::disk::{Disk, Image, Item, Write, mix};
use super::ghost::Ghost;
use super::net::{Envelope, Faults, Net};
use crate::types::{Incarnation, LogIndex, Micros, NodeId, ReplicaId, Term, WriteId};

pub(super) const MS: Micros = 1_000;
pub(super) const T_MIN: Micros = 150 * MS;
pub(super) const T_MAX: Micros = 300 * MS;
pub(super) const HEARTBEAT: Micros = 50 * MS;
/// Bytes that every entry counts for in windows.
const ENTRY_BYTES: usize = 40;

/// A message that waits for a write.
#[derive(Debug)]
struct Deferred {
    after: WriteId,
    term: Term,
    envelope: Envelope,
    /// Hash of what the message vouches for.
    vouches: Option<u64>,
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
    deferred: Vec<Deferred>,
    durable_fed: WriteId,
}

/// Something that happens at a time. Where a life is named, only in that life of the process.
#[derive(Clone, Debug)]
enum What {
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
    queue: BTreeMap<(Micros, u64), What>,
    next_event: u64,
    next_payload: u64,
    verbose: bool,
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

    fn schedule(&mut self, at: Micros, what: What) {
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
        match (queued, self.next_timer()) {
            (Some(key), timer) if timer.is_none_or(|(at, _)| key.0 <= at) => {
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
    fn settle_or_burst(&mut self, node: NodeId) {
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

// ---- the driver ----
impl Bed {
    pub(super) fn settle(&mut self, node: NodeId) {
        self.feed(node, Input::Settle, None);
    }

    /// Gives a leader `count` commands.
    pub(super) fn propose(&mut self, node: NodeId, count: u32) {
        if self.is_up(node) && self.core(node).is_leader() {
            self.feed(node, Input::Propose { count }, None);
            self.settle_or_burst(node);
        }
    }

    /// One step of one core, its outputs carried out in order, and the invariants.
    pub(super) fn feed(&mut self, node: NodeId, input: Input, beside: Option<&Envelope>) {
        let now = self.now;
        let mut outputs = VecDeque::new();
        self.step(node, input, &mut outputs);
        while let Some(output) = outputs.pop_front() {
            if self.verbose {
                eprintln!("{now:>9} node {node}: {output:?}");
            }
            self.carry_out(node, output, beside, &mut outputs);
        }
        let state = &mut self.nodes[node as usize - 1];
        let core = state.core.as_ref().expect("it was just stepped");
        let term = core.term();
        state.deferred.retain(|one| one.term == term);
        self.ghost.observe(core, state.life, &state.disk.live);
        let seen = [now, node, term, core.commit(), core.last().index];
        self.trace = seen.into_iter().fold(self.trace, mix);
    }

    fn step(&mut self, node: NodeId, input: Input, outputs: &mut VecDeque<Output>) {
        let now = self.now;
        let mut out = Vec::new();
        if let Some(core) = &mut self.node_mut(node).core {
            core.step(now, input, &mut out);
        }
        outputs.extend(out);
    }

    fn carry_out(
        &mut self,
        node: NodeId,
        output: Output,
        beside: Option<&Envelope>,
        outputs: &mut VecDeque<Output>,
    ) {
        match output {
            Output::Persist(persist) => self.persist(node, persist, beside),
            Output::Send { to, message, after } => self.send(node, to, message, after),
            Output::Replicate {
                to,
                append,
                last,
                max_bytes,
            } => {
                let sent = self.replicate(node, to, append, last, max_bytes);
                let seq = append.seq;
                self.step(node, Input::Replicated { to, seq, sent }, outputs);
            }
            Output::SendFirstEntry { to, message } => self.send_first(node, to, message),
            Output::Commit { index } => self.commit(node, index),
            Output::Event(event) => self.event(node, event),
        }
    }

    fn persist(&mut self, node: NodeId, persist: Persist, beside: Option<&Envelope>) {
        let state = &self.nodes[node as usize - 1];
        let (who, term) = (state.id, persist.term);
        let leads = self.core(node).role() == RaftRole::Leader;
        assert!(
            !leads || persist.truncate_from.is_none(),
            "S3: {who} truncates while it leads"
        );
        let live = &state.disk.live;
        let mut write = Write {
            hard: persist.hard_state,
            genesis: persist.genesis,
            truncate_from: persist.truncate_from,
            ..Write::default()
        };
        let end = persist.truncate_from.map_or(live.last(), |from| from - 1);
        let mut previous = live.hash_at(end).expect("a truncation within the log");
        let (first, new) = entries_of(&persist.append, term, &mut self.next_payload, beside);
        assert!(
            new.is_empty() || first == end + 1,
            "{who}: appends at {first}, the log ends at {end}"
        );
        for ((term, payload), index) in new.into_iter().zip(first..) {
            let item = Item::after(previous, term, payload);
            self.ghost.appended(who, index, item);
            previous = item.hash;
            write.items.push(item);
        }
        match (&persist.append, beside) {
            (
                AppendSource::Configuration {
                    index,
                    configuration,
                },
                _,
            ) => {
                write.configurations.push((*index, configuration.clone()));
            }
            (AppendSource::Message { from }, Some(beside)) => {
                let new = beside.configurations.iter().filter(|(at, _)| at >= from);
                write.configurations.extend(new.cloned());
            }
            _ => {}
        }
        let (min, max) = self.faults.disk;
        let lag = self.node(node).disk_lag;
        let at = self.now + lag + self.rng.between(min, max);
        let state = self.node_mut(node);
        state.disk.write(persist.id, write);
        let what = What::Durable(node, state.life, persist.id);
        self.schedule(at, what);
    }

    fn send(&mut self, node: NodeId, to: NodeId, message: Message, after: Option<WriteId>) {
        let state = &self.nodes[node as usize - 1];
        let envelope = Envelope::bare(state.id, to, message);
        let vouches = match message {
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => {
                state.disk.live.hash_at(ack.match_index)
            }
            _ => None,
        };
        match after.filter(|after| *after > state.durable_fed) {
            None => self.transmit(envelope, vouches),
            Some(after) => {
                let term = self.core(node).term();
                self.node_mut(node).deferred.push(Deferred {
                    after,
                    term,
                    envelope,
                    vouches,
                });
            }
        }
    }

    fn replicate(
        &mut self,
        node: NodeId,
        to: NodeId,
        mut append: AppendEntries,
        last: LogIndex,
        max_bytes: usize,
    ) -> Option<(LogIndex, usize)> {
        if self.chance(self.faults.refuse) {
            let (at, life) = (self.now + self.rng.between(0, 5 * MS), self.node(node).life);
            self.schedule(at, What::Writable(node, life, to, append.epoch));
            return None;
        }
        let first = append.prev.index + 1;
        let room = (max_bytes / ENTRY_BYTES).max(1) as u64;
        let last = last.min(append.prev.index + room);
        append.count = (last + 1).saturating_sub(first) as u32;
        let live = &self.node(node).disk.live;
        let range = first as usize - 1..append.prev.index as usize + append.count as usize;
        let items = live.items[range].to_vec();
        let within = |at: LogIndex| at >= first && at < first + u64::from(append.count);
        let configurations = live.configurations.iter().filter(|(at, _)| within(*at));
        let envelope = Envelope {
            first,
            items,
            configurations: configurations.cloned().collect(),
            ..Envelope::bare(self.node(node).id, to, Message::Append(append))
        };
        let bytes = envelope.items.len() * ENTRY_BYTES;
        self.transmit(envelope, None);
        Some((append.prev.index + u64::from(append.count), bytes))
    }

    fn send_first(&mut self, node: NodeId, to: NodeId, message: Message) {
        let state = self.node(node);
        let envelope = Envelope {
            first: 1,
            items: state.disk.live.items[..1].to_vec(),
            configurations: state.disk.live.configurations[..1].to_vec(),
            ..Envelope::bare(state.id, to, message)
        };
        self.transmit(envelope, None);
    }

    fn commit(&mut self, node: NodeId, index: LogIndex) {
        let everyone: Vec<_> = self.nodes.iter().map(|one| (one.id, &one.disk)).collect();
        let state = &self.nodes[node as usize - 1];
        let core = state.core.as_ref().expect("it just spoke");
        self.ghost.commits(core, &state.disk.live, index, &everyone);
    }

    fn event(&mut self, node: NodeId, event: Event) {
        match event {
            Event::BecameLeader { .. } => {
                let everyone: Vec<_> = self.nodes.iter().map(|one| (one.id, &one.disk)).collect();
                let state = &self.nodes[node as usize - 1];
                let core = state.core.as_ref().expect("it just spoke");
                let configuration = core.configuration().expect("a leader has one");
                let configuration = configuration.clone();
                self.ghost
                    .elected(core, &state.disk, &everyone, &configuration);
            }
            Event::Fatal(reason) => panic!("seed {}: node {node} failed: {reason}", self.seed),
            Event::Advice(text) => self.node_mut(node).advice.push(text),
            _ => {}
        }
    }
}

fn entries_of(
    source: &AppendSource,
    term: Term,
    next_payload: &mut u64,
    beside: Option<&Envelope>,
) -> (LogIndex, Vec<(Term, u64)>) {
    match source {
        AppendSource::None => (0, Vec::new()),
        AppendSource::Noop { index } => (*index, vec![(term, 0)]),
        AppendSource::Configuration { index, .. } => (*index, vec![(term, u64::MAX)]),
        AppendSource::Proposals { first, count } => {
            let start = *next_payload;
            *next_payload += u64::from(*count);
            let payloads = start..*next_payload;
            (*first, payloads.map(|payload| (term, payload)).collect())
        }
        AppendSource::Message { from } => {
            let beside = beside.expect("only a message brings entries");
            let skip = (from - beside.first) as usize;
            let items = beside.items[skip..].iter();
            (*from, items.map(|item| (item.term, item.payload)).collect())
        }
    }
}

// ---- the network ----
impl Bed {
    /// A message leaves its node: its promises must be durable (S2, S19, A3).
    fn transmit(&mut self, envelope: Envelope, vouches: Option<u64>) {
        self.check_promises(&envelope, vouches);
        let (from, to, class) = (envelope.from.node, envelope.to, envelope.message.class());
        let stale = match envelope.message {
            Message::Append(append) => self.net.epoch(from, to, class) != Some(append.epoch),
            Message::Heartbeat(beat) => self.net.epoch(from, to, class) != Some(beat.epoch),
            _ => false,
        };
        if stale || !self.net.carries(from, to, class) || self.chance(self.faults.drop) {
            return;
        }
        let copies = 1 + u64::from(self.chance(self.faults.duplicate));
        for _ in 0..copies {
            let (min, max) = self.faults.delay;
            let mut delay = self.rng.between(min, max);
            if self.chance(self.faults.reorder) {
                delay *= self.rng.between(1, 10);
            }
            self.schedule(self.now + delay, What::Deliver(envelope.clone()));
        }
    }

    fn check_promises(&self, envelope: &Envelope, vouches: Option<u64>) {
        let (who, message) = (envelope.from, &envelope.message);
        let durable = &self.node(who.node).disk.durable;
        // A pre-vote speaks of a term that nobody is in.
        let would_be = match message {
            Message::PreVote(_) => true,
            Message::PreVoteReply(reply) => reply.granted,
            _ => false,
        };
        assert!(
            would_be || durable.hard.term >= message.term(),
            "A3: {who} speaks of term {} and has only {} on disk: {message:?}",
            message.term(),
            durable.hard.term
        );
        match message {
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => assert!(
                vouches.is_some() && durable.hash_at(ack.match_index) == vouches,
                "S19: {who} acknowledges {} before it is durable",
                ack.match_index
            ),
            Message::VoteReply(reply) if reply.granted => assert!(
                durable.hard.term == reply.term && durable.hard.voted_for.node == envelope.to,
                "S2: {who} gives a vote that is not durable"
            ),
            Message::Vote(_) => assert!(
                durable.hard.voted_for == who,
                "A1: {who} asks for votes before its own is durable"
            ),
            Message::FoundReply(reply) if reply.status == FoundStatus::Stored => assert!(
                durable.last() >= 1 && !durable.genesis.is_none(),
                "E10: {who} says stored before it is"
            ),
            Message::Found(_) => {
                assert!(durable.last() >= 1, "E10: {who} offers what is not durable")
            }
            _ => {}
        }
    }
}

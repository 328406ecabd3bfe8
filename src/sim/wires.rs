//! The simulated network: streams with epochs between nodes, each link with faults of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::faults::{Fault, FaultCounts};
use super::plan::LinkRates;
use super::random::Random;
use crate::core::{Class, Message};
use crate::network::{
    Held, LocalFacts, NetworkEvent, PeerAddress, PeerFacts, RaftNetwork, SendOutcome,
};
use crate::types::{Micros, NodeId, ReplicaId};
use crate::wire::{Received, carry};

const CLASSES: [Class; 3] = [Class::Control, Class::Data, Class::Bulk];
/// How many messages are kept for being replayed.
const ARCHIVE: usize = 2_000;

/// A stream: who dialled, who answered, which class.
pub(crate) type StreamKey = (NodeId, NodeId, Class);

/// Something on its way.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) to: NodeId,
    /// The life of the receiving process that it is for.
    pub(crate) life: u64,
    /// The stream and its epoch; it is lost with them.
    stream: Option<(StreamKey, u64)>,
    pub(crate) event: NetworkEvent,
}

#[derive(Debug)]
struct Port {
    replica: ReplicaId,
    life: u64,
    facts: LocalFacts,
    dials: BTreeSet<NodeId>,
    /// To whom snapshots go.
    bulk: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Stream {
    epoch: u64,
    dialler: u64,
    peer: u64,
    /// When the last message of each direction arrives: streams keep their order.
    arrives: [Micros; 2],
}

/// Something that was sent once, between these two.
struct Archived {
    from: ReplicaId,
    to: ReplicaId,
    received: Received,
}

struct Link {
    random: Random,
    /// Links differ: one is sound, another is three times as bad as the rates say.
    factor: u64,
    cut_until: Micros,
    /// All but control is cut.
    mute_until: Micros,
    clogged_until: Micros,
}

struct State {
    seed: u64,
    now: Micros,
    rates: LinkRates,
    ports: BTreeMap<NodeId, Port>,
    streams: BTreeMap<StreamKey, Stream>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    next_epoch: u64,
    archive: VecDeque<Archived>,
    out: Vec<(Micros, Packet)>,
    sent: Vec<(NodeId, Message)>,
    faults: FaultCounts,
    broken: Option<String>,
}

/// All links. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Wires(Arc<Mutex<State>>);

impl Wires {
    pub(crate) fn new(seed: u64, rates: LinkRates) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            now: 0,
            rates,
            ports: BTreeMap::new(),
            streams: BTreeMap::new(),
            links: BTreeMap::new(),
            next_epoch: 0,
            archive: VecDeque::new(),
            out: Vec::new(),
            sent: Vec::new(),
            faults: FaultCounts::default(),
            broken: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_now(&self, now: Micros) {
        self.state().now = now;
    }

    pub(crate) fn set_rates(&self, rates: LinkRates) {
        let mut state = self.state();
        state.rates = rates;
        for link in state.links.values_mut() {
            (link.cut_until, link.mute_until, link.clogged_until) = (0, 0, 0);
        }
    }

    /// Plugs a process in.
    pub(crate) fn plug(&self, replica: ReplicaId, life: u64, facts: LocalFacts) -> SimNetwork {
        let port = Port {
            replica,
            life,
            facts,
            dials: BTreeSet::new(),
            bulk: BTreeSet::new(),
        };
        self.state().ports.insert(replica.node, port);
        SimNetwork {
            wires: self.clone(),
            me: replica,
        }
    }

    /// A process is gone; its peers learn it when they next look.
    pub(crate) fn unplug(&self, node: NodeId) {
        self.state().ports.remove(&node);
    }

    /// What was put on the wires since the last time, with its time of arrival.
    pub(crate) fn take_out(&self) -> Vec<(Micros, Packet)> {
        std::mem::take(&mut self.state().out)
    }

    /// What was sent since the last time, lost or not.
    pub(crate) fn take_sent(&self) -> Result<Vec<(NodeId, Message)>, String> {
        let mut state = self.state();
        match state.broken.take() {
            Some(broken) => Err(broken),
            None => Ok(std::mem::take(&mut state.sent)),
        }
    }

    pub(crate) fn faults(&self) -> FaultCounts {
        self.state().faults.clone()
    }

    /// Whether what a packet belongs to still exists.
    pub(crate) fn arrives(&self, packet: &Packet) -> bool {
        let mut state = self.state();
        let Some((key, epoch)) = packet.stream else {
            return true;
        };
        if state
            .streams
            .get(&key)
            .is_some_and(|stream| stream.epoch == epoch)
        {
            return true;
        }
        let message = matches!(packet.event, NetworkEvent::Message { .. });
        let rate = state.rates.stale_epoch;
        let stale = message && state.link(key.0, key.1).happens(rate);
        if stale {
            state.faults.count(Fault::StaleEpoch);
        }
        stale
    }

    /// Nothing gets from one node to the other until then.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId, until: Micros) {
        let mut state = self.state();
        let link = state.link(from, to);
        link.cut_until = link.cut_until.max(until);
    }

    /// Nothing but control gets from one node to the other until then.
    pub(crate) fn mute(&self, from: NodeId, to: NodeId, until: Micros) {
        let mut state = self.state();
        let link = state.link(from, to);
        link.mute_until = link.mute_until.max(until);
    }

    /// Everything from one node to the other waits until then.
    pub(crate) fn clog(&self, from: NodeId, to: NodeId, until: Micros) {
        let mut state = self.state();
        let link = state.link(from, to);
        link.clogged_until = link.clogged_until.max(until);
    }

    /// Ends the streams of a class between two nodes.
    pub(crate) fn reset(&self, dialler: NodeId, peer: NodeId, class: Class) {
        self.state().hang_up((dialler, peer, class));
    }

    /// Opens every stream that is wanted and possible, ends those that lead nowhere.
    pub(crate) fn dial(&self) {
        let mut state = self.state();
        state.hang_up_dead();
        let mut wanted = Vec::new();
        for (node, port) in &state.ports {
            let targets = port
                .dials
                .iter()
                .filter(|peer| state.ports.contains_key(peer));
            for peer in targets {
                let wants = |class: &Class| *class != Class::Bulk || port.bulk.contains(peer);
                let classes = CLASSES.into_iter().filter(wants);
                wanted.extend(classes.map(|class| (*node, *peer, class)));
            }
        }
        wanted.retain(|key| !state.streams.contains_key(key) && !state.is_cut(*key));
        wanted.into_iter().for_each(|key| state.open(key));
    }
}

impl Link {
    fn cut_until(&self, class: Class) -> Micros {
        let muted = if class == Class::Control {
            0
        } else {
            self.mute_until
        };
        self.cut_until.max(muted)
    }

    fn happens(&mut self, per_mille: u64) -> bool {
        self.random.chance(per_mille * self.factor)
    }
}

impl State {
    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let seed = self.seed;
        self.links.entry((from, to)).or_insert_with(|| {
            let mut random = Random::named(seed, "link", from << 32 | to);
            Link {
                factor: random.pick(&[0, 1, 1, 3]).unwrap_or(1),
                random,
                cut_until: 0,
                mute_until: 0,
                clogged_until: 0,
            }
        })
    }

    /// Whether a handshake cannot succeed: it needs both directions.
    fn is_cut(&self, (one, other, class): StreamKey) -> bool {
        let cut = |pair| {
            let link = self.links.get(&pair);
            link.is_some_and(|link| link.cut_until(class).max(link.clogged_until) > self.now)
        };
        cut((one, other)) || cut((other, one))
    }

    fn open(&mut self, key: StreamKey) {
        let (dialler, peer, class) = key;
        let (Some(from), Some(to)) = (self.ports.get(&dialler), self.ports.get(&peer)) else {
            return;
        };
        // As the transport has it: each side must know what the other goes by.
        let knows = |one: &Port, other: &Port| one.facts.knows_level >= other.facts.needs_level;
        if !knows(from, to) || !knows(to, from) {
            return;
        }
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        let (life, replica) = (from.life, to.replica);
        let facts = PeerFacts {
            facts: to.facts.clone(),
            remote: None,
        };
        let (latency, now) = (self.rates.latency.clone(), self.now);
        let at = now + 1 + self.link(dialler, peer).random.within(&latency);
        let peer_life = self.ports.get(&peer).map_or(0, |port| port.life);
        let stream = Stream {
            epoch,
            dialler: life,
            peer: peer_life,
            arrives: [at, at],
        };
        self.streams.insert(key, stream);
        let event = NetworkEvent::Up {
            peer: replica,
            class,
            epoch,
            facts,
        };
        let packet = Packet {
            to: dialler,
            life,
            stream: Some((key, epoch)),
            event,
        };
        self.out.push((at, packet));
    }

    /// Streams of processes that are gone, and at last those over links that are cut.
    fn hang_up_dead(&mut self) {
        let keys: Vec<_> = self.streams.keys().copied().collect();
        for key in keys {
            let alive = |node: NodeId, life: u64| {
                self.ports.get(&node).is_some_and(|port| port.life == life)
            };
            let stream = self.streams.get(&key);
            let dead = stream
                .is_some_and(|stream| !alive(key.0, stream.dialler) || !alive(key.1, stream.peer));
            let idle = self.is_cut(key) && self.link(key.0, key.1).random.chance(100);
            if dead || idle {
                self.hang_up(key);
            }
        }
    }

    fn hang_up(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.remove(&key) else {
            return;
        };
        let (to, node, class) = key;
        let event = NetworkEvent::Down {
            node,
            class,
            epoch: stream.epoch,
            reason: "simulated".to_owned(),
        };
        let packet = Packet {
            to,
            life: stream.dialler,
            stream: None,
            event,
        };
        self.out.push((self.now, packet));
    }

    /// Sends over a stream that exists.
    fn carry(&mut self, key: StreamKey, from: ReplicaId, to: NodeId, received: &Received) {
        let (now, rates) = (self.now, self.rates.clone());
        self.archive(from, to, received);
        let link = self.link(from.node, to);
        let (cut, clogged) = (link.cut_until(key.2) > now, link.clogged_until);
        let lost = link.happens(rates.drop);
        let long = link.happens(rates.delay);
        let twice = link.happens(rates.duplicate);
        let unordered = link.happens(rates.reorder);
        let random = &mut link.random;
        let mut at = now + 1 + random.within(&rates.latency);
        at += if long { random.below(300_000) } else { 0 };
        let again = at + random.below(50_000);
        for (fault, happened) in [
            (Fault::Drop, lost),
            (Fault::Delay, long),
            (Fault::Duplicate, twice),
            (Fault::Reorder, unordered),
        ] {
            if happened {
                self.faults.count(fault);
            }
        }
        if lost || cut {
            return;
        }
        at = at.max(clogged);
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        if let Some(arrives) = stream.arrives.get_mut(usize::from(key.0 != from.node))
            && !unordered
        {
            at = at.max(*arrives);
            *arrives = at;
        }
        let (epoch, life) = (
            stream.epoch,
            if key.0 == to {
                stream.dialler
            } else {
                stream.peer
            },
        );
        for at in std::iter::once(at).chain(twice.then_some(again)) {
            let packet = Packet {
                to,
                life,
                stream: Some((key, epoch)),
                event: message_event(from, received),
            };
            self.out.push((at, packet));
        }
    }

    /// Keeps what is sent, and now and then sends something of old once more to the same process or
    /// a later life of it. No connection would carry it: the core must not depend on that.
    fn archive(&mut self, from: ReplicaId, to: NodeId, received: &Received) {
        let Some(replica) = self.ports.get(&to).map(|port| port.replica) else {
            return;
        };
        if self.rates.replay == 0 {
            return;
        }
        if self.archive.len() == ARCHIVE {
            self.archive.pop_front();
        }
        self.archive.push_back(Archived {
            from,
            to: replica,
            received: received.clone(),
        });
        let (rate, many) = (self.rates.replay, self.archive.len() as u64);
        let link = self.link(from.node, to);
        if !link.happens(rate) {
            return;
        }
        let (nth, wait) = (link.random.below(many), link.random.below(50_000));
        let Some(old) = self.archive.get(nth as usize) else {
            return;
        };
        let port = self.ports.get(&old.to.node);
        let Some(port) = port.filter(|port| port.replica == old.to) else {
            return;
        };
        let packet = Packet {
            to: old.to.node,
            life: port.life,
            stream: None,
            event: message_event(old.from, &old.received),
        };
        self.out.push((self.now + 1 + wait, packet));
        self.faults.count(Fault::Replay);
    }

    /// Whether the queue to a peer is said to be full; then there will be room again.
    fn refuses(&mut self, key: StreamKey, epoch: u64) -> bool {
        let rate = self.rates.full;
        let link = self.link(key.0, key.1);
        if !link.happens(rate) {
            return false;
        }
        let wait = 1 + link.random.below(30_000);
        let node = key.1;
        let event = NetworkEvent::Writable { node, epoch };
        let life = self.ports.get(&key.0).map_or(0, |port| port.life);
        let packet = Packet {
            to: key.0,
            life,
            stream: None,
            event,
        };
        self.out.push((self.now + wait, packet));
        self.faults.count(Fault::Full);
        true
    }
}

fn message_event(from: ReplicaId, received: &Received) -> NetworkEvent {
    NetworkEvent::Message {
        from,
        message: received.message,
        entries: received.entries.clone(),
        chunk: received.chunk.clone(),
        held: Held::default(),
    }
}

/// One process' plug.
pub(crate) struct SimNetwork {
    wires: Wires,
    me: ReplicaId,
}

impl RaftNetwork for SimNetwork {
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) -> SendOutcome {
        let mut state = self.wires.state();
        state.sent.push((to, *message));
        let class = message.class();
        let request = !message.is_reply();
        let key = if request {
            (self.me.node, to, class)
        } else {
            (to, self.me.node, class)
        };
        let Some(epoch) = state.streams.get(&key).map(|stream| stream.epoch) else {
            return SendOutcome::Down;
        };
        let of_epoch = match message {
            Message::Append(append) => append.epoch == epoch,
            Message::Heartbeat(heartbeat) => heartbeat.epoch == epoch,
            _ => true,
        };
        if !of_epoch {
            return SendOutcome::Down;
        }
        if request && class == Class::Data && state.refuses(key, epoch) {
            return SendOutcome::Full;
        }
        match through_the_codec(message, body) {
            Ok(received) => {
                state.carry(key, self.me, to, &received);
                SendOutcome::Sent
            }
            Err(error) => {
                state.broken = Some(format!("{} sent a bad frame: {error}", self.me));
                SendOutcome::Down
            }
        }
    }

    fn set_peers(&mut self, peers: &[PeerAddress]) {
        let mut state = self.wires.state();
        let dials: BTreeSet<_> = peers.iter().map(|peer| peer.node).collect();
        let me = self.me.node;
        let streams = state.streams.keys().copied();
        let unwanted: Vec<_> = streams
            .filter(|(dialler, peer, _)| *dialler == me && !dials.contains(peer))
            .collect();
        unwanted.into_iter().for_each(|key| state.hang_up(key));
        if let Some(port) = state.ports.get_mut(&me) {
            port.dials = dials;
        }
    }

    fn set_local(&mut self, facts: &LocalFacts) {
        if let Some(port) = self.wires.state().ports.get_mut(&self.me.node) {
            port.facts = facts.clone();
        }
    }

    fn want_bulk(&mut self, to: NodeId, wanted: bool) {
        let (me, mut state) = (self.me.node, self.wires.state());
        let Some(port) = state.ports.get_mut(&me) else {
            return;
        };
        if wanted {
            port.bulk.insert(to);
        } else if port.bulk.remove(&to) {
            state.hang_up((me, to, Class::Bulk));
        }
    }

    fn reopen(&mut self, to: NodeId) {
        let key = (self.me.node, to, Class::Data);
        let mut state = self.wires.state();
        if state.streams.remove(&key).is_some() {
            state.open(key);
        }
    }
}

/// What the other node's transport makes of the bytes that this one's would send.
fn through_the_codec(message: &Message, body: &[Bytes]) -> Result<Received, String> {
    let received = carry(message, body).map_err(|error| format!("{message:?}: {error}"))?;
    match received.message == *message {
        true => Ok(received),
        false => Err(format!("{message:?} arrived as {:?}", received.message)),
    }
}

//! Nodes, links and the clock. Nothing moves unless a command says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conveyor_raft::core::{
    Class, FoundingList, Input, Message, PeerHello, RaftCore, RaftRole, Settings,
};
use conveyor_raft::types::{Incarnation, LogIndex, Micros, NodeId, ReplicaId, Term, WriteId};

use crate::check::Check;
use crate::disk::{Disk, Entry, Image};
use crate::show;

pub(crate) const MS: Micros = 1_000;
pub(crate) const T_MIN: Micros = 1_000 * MS;
pub(crate) const T_MAX: Micros = 2_000 * MS;
const HEARTBEAT: Micros = 100 * MS;
/// What an entry weighs in a leader's window.
pub(crate) const ENTRY_BYTES: usize = 100;

/// A message on its way, with the entries beside it.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: ReplicaId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
    pub(crate) first: LogIndex,
    pub(crate) entries: Vec<Entry>,
}

/// A message that waits for a write, with what the log held when it was made.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) after: WriteId,
    pub(crate) envelope: Envelope,
    pub(crate) vouches: Option<Vec<Entry>>,
}

/// What a script sees of a node between two steps.
pub(crate) type Face = (RaftRole, Term, Option<NodeId>);

pub(crate) struct Node {
    pub(crate) id: ReplicaId,
    /// `None` while it is down.
    pub(crate) core: Option<RaftCore>,
    pub(crate) disk: Disk,
    /// Its writes become durable only when the script says so.
    pub(crate) manual: bool,
    pub(crate) held: Vec<Held>,
    /// The newest write that the core knows to be durable.
    pub(crate) durable: WriteId,
    /// How far it has committed in this life.
    pub(crate) committed: LogIndex,
    pub(crate) face: Face,
    lives: u64,
}

/// See the module.
pub(crate) struct World {
    pub(crate) now: Micros,
    pub(crate) nodes: Vec<Node>,
    /// In the order of sending.
    pub(crate) way: VecDeque<Envelope>,
    pub(crate) check: Check,
    pub(crate) said: Vec<String>,
    /// Lines under the one that says what is delivered.
    pub(crate) indent: usize,
    /// Only changes are told, no messages and writes.
    pub(crate) terse: bool,
    cuts: BTreeSet<(NodeId, NodeId)>,
    up: BTreeSet<(NodeId, NodeId)>,
    epochs: BTreeMap<(NodeId, NodeId), u64>,
    max_append: usize,
}

pub(crate) fn replica(node: NodeId) -> ReplicaId {
    ReplicaId::new(node, Incarnation([node as u8; 16]))
}

impl World {
    /// Nodes with these logs, all of them down.
    pub(crate) fn new(images: Vec<Image>, max_append: usize) -> Self {
        let nodes = (1..).zip(images).map(|(node, image)| Node {
            id: replica(node),
            core: None,
            disk: Disk::holding(image),
            manual: false,
            held: Vec::new(),
            durable: 0,
            committed: 0,
            face: Face::default(),
            lives: 0,
        });
        Self {
            now: 0,
            nodes: nodes.collect(),
            way: VecDeque::new(),
            check: Check::default(),
            said: Vec::new(),
            indent: 0,
            terse: false,
            cuts: BTreeSet::new(),
            up: BTreeSet::new(),
            epochs: BTreeMap::new(),
            max_append,
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        1..=self.nodes.len() as NodeId
    }

    pub(crate) fn node(&self, node: NodeId) -> Result<&Node, String> {
        let at = node
            .checked_sub(1)
            .and_then(|at| self.nodes.get(at as usize));
        at.ok_or_else(|| format!("there is no node {node}"))
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> Result<&mut Node, String> {
        let at = node.checked_sub(1);
        let at = at.and_then(|at| self.nodes.get_mut(at as usize));
        at.ok_or_else(|| format!("there is no node {node}"))
    }

    pub(crate) fn core(&self, node: NodeId) -> Result<&RaftCore, String> {
        let core = self.node(node)?.core.as_ref();
        core.ok_or_else(|| format!("node {node} is down"))
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.core(node).is_ok()
    }

    /// A line of the result.
    pub(crate) fn say(&mut self, text: &str) {
        let indent = if self.terse { 0 } else { self.indent };
        let indent = "  ".repeat(indent);
        self.said.push(format!("{indent}{text}"));
    }

    /// One that is left out where only changes are told.
    pub(crate) fn detail(&mut self, text: &str) {
        if !self.terse {
            self.say(text);
        }
    }

    // ---- nodes ----

    pub(crate) fn start(&mut self, node: NodeId) -> Result<(), String> {
        let (now, max_append) = (self.now, self.max_append);
        let others: Vec<_> = self.ids().filter(|other| *other != node).collect();
        let state = self.node_mut(node)?;
        if state.core.is_some() {
            return Err(format!("node {node} is up"));
        }
        state.lives += 1;
        state.durable = 0;
        state.committed = 0;
        let settings = Settings {
            election_timeout_min: T_MIN,
            election_timeout_max: T_MAX,
            heartbeat_interval: HEARTBEAT,
            max_inflight_bytes: 1 << 20,
            max_inflight_appends: 4,
            max_append_bytes: max_append * ENTRY_BYTES,
            lease_drift_ppm: None,
            seed: node * 1_000 + state.lives,
        };
        let list = FoundingList {
            single: others.is_empty(),
            others,
            ..FoundingList::default()
        };
        let recovered = state.disk.live.recovered();
        let core = RaftCore::new(state.id, settings, recovered, list, now);
        state.face = (core.role(), core.term(), core.leader());
        state.core = Some(core);
        Ok(())
    }

    /// The power goes: what is not durable is lost, and so is what was on its way here.
    pub(crate) fn crash(&mut self, node: NodeId) -> Result<(), String> {
        self.core(node)?;
        let state = self.node_mut(node)?;
        let lost = show::writes(state.disk.pending());
        state.core = None;
        state.held.clear();
        state.disk.crash();
        if !lost.is_empty() {
            self.say(&format!("{node} loses {lost}"));
        }
        self.way.retain(|envelope| envelope.to != node);
        for other in self.ids() {
            self.disconnect(node, other)?;
        }
        Ok(())
    }

    // ---- streams and links ----

    /// New streams in both directions, with a new epoch; those before end.
    pub(crate) fn connect(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        self.disconnect(a, b)?;
        let pair = (a.min(b), a.max(b));
        let hellos = [self.hello(pair.0)?, self.hello(pair.1)?];
        self.up.insert(pair);
        let epoch = self.epochs.entry(pair).or_default();
        *epoch += 1;
        let epoch = *epoch;
        let [low, high] = hellos;
        for (node, other, hello) in [(pair.0, pair.1, high), (pair.1, pair.0, low)] {
            for class in [Class::Control, Class::Data] {
                let input = Input::PeerUp {
                    peer: replica(other),
                    class,
                    epoch,
                    hello: hello.clone(),
                };
                self.feed(node, input)?;
            }
        }
        Ok(())
    }

    fn hello(&self, node: NodeId) -> Result<PeerHello, String> {
        let core = self.core(node)?;
        Ok(PeerHello {
            blank: core.is_blank(),
            genesis: core.genesis(),
            ..PeerHello::default()
        })
    }

    pub(crate) fn disconnect(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        let pair = (a.min(b), a.max(b));
        if !self.up.remove(&pair) {
            return Ok(());
        }
        let epoch = self.epochs.get(&pair).copied().unwrap_or_default();
        for (node, other) in [pair, (pair.1, pair.0)] {
            for class in [Class::Control, Class::Data] {
                if self.is_up(node) {
                    let down = Input::PeerDown {
                        node: other,
                        class,
                        epoch,
                    };
                    self.feed(node, down)?;
                }
            }
        }
        Ok(())
    }

    /// Connects a node with all that are up.
    pub(crate) fn join(&mut self, node: NodeId) -> Result<(), String> {
        for other in self.ids() {
            if other != node && self.is_up(other) {
                self.connect(node, other)?;
            }
        }
        Ok(())
    }

    /// What goes this way from now on is lost, and what is on its way too.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
        self.way
            .retain(|envelope| (envelope.from.node, envelope.to) != (from, to));
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// A message leaves its node.
    pub(crate) fn transmit(
        &mut self,
        envelope: Envelope,
        vouches: Option<&[Entry]>,
    ) -> Result<(), String> {
        let (from, to) = (envelope.from.node, envelope.to);
        let durable = &self.node(from)?.disk.durable;
        self.check.leaves(&envelope, vouches, durable)?;
        let lost = self.cuts.contains(&(from, to)) || !self.is_up(to);
        let text = show::envelope(&envelope);
        self.detail(&format!("{text}{}", if lost { " (lost)" } else { "" }));
        if !lost {
            self.way.push_back(envelope);
        }
        Ok(())
    }
}

//! The small world: three real cores, their disks, and every message that was ever sent.

use std::rc::Rc;

use super::super::super::{Class, FoundingList, Input, PeerHello, RaftCore, Settings};
use super::super::bed::{HEARTBEAT, T_MAX, T_MIN, incarnation};
use super::super::disk::{Disk, Image, Item, Write};
use super::super::net::Envelope;
use super::super::script::image;
use super::fingerprint::Prints;
use crate::types::{LogIndex, Micros, NodeId, ReplicaId, Term, WriteId};

/// How many nodes there are; a slot is a node's number less one.
pub(super) const NODES: usize = 3;

/// Where a world begins: each node's log, as terms, and its durable term and vote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) terms: &'static [Term],
    pub(super) term: Term,
    pub(super) vote: NodeId,
}

/// What may happen in a world, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) start: [Start; NODES],
    /// Nobody campaigns for a later term.
    pub(super) max_term: Term,
    pub(super) proposals: u8,
    /// Power cuts in all; each node has one at most.
    pub(super) crashes: u8,
    /// Leaders that give up in their term.
    pub(super) step_downs: u8,
    /// Leaders whose patience with silent peers ends.
    pub(super) resends: u8,
    /// Pairs of nodes whose streams end and come back, once each.
    pub(super) reconnects: u8,
    /// Entries in one append.
    pub(super) append_entries: usize,
    /// Appends on their way to one peer.
    pub(super) window: usize,
    /// A leader's burst may go on: settling is a step of its own.
    pub(super) bursts: bool,
    /// Election timeouts with pre-vote messages that travel like others; 0: pre-votes are given.
    pub(super) pre_votes: u8,
}

/// How much of the bounds is used up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) proposals: u8,
    pub(super) crashes: [u8; NODES],
    pub(super) step_downs: u8,
    pub(super) resends: u8,
    /// By the node that is not of the pair.
    pub(super) reconnects: [u8; NODES],
    pub(super) timeouts: u8,
}

/// A message that was sent, with what it is identified by under every renaming of the nodes.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) envelope: Envelope,
    pub(super) prints: Prints,
}

/// A message that waits for a write.
#[derive(Clone, Debug)]
pub(super) struct Deferred {
    pub(super) after: WriteId,
    pub(super) letter: Rc<Letter>,
    /// Hash of what the message vouches for.
    pub(super) vouches: Option<u64>,
}

/// A core, its disk and what its driver keeps.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: ReplicaId,
    pub(super) core: RaftCore,
    pub(super) disk: Disk,
    pub(super) clock: Micros,
    pub(super) deferred: Vec<Deferred>,
    /// A leader's burst has not ended.
    pub(super) unsettled: bool,
}

/// What happened in a step that a run should have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Note {
    Elected,
    ElectedLater,
    ElectedLast,
    Committed,
    CommittedOlderTerm,
    Truncated,
    TruncatedWhileWriting,
    LostWrites,
    VoteRefused,
    Conflict,
    DeferredDropped,
}

/// One state. Cloning is cheap: nodes and messages are shared until they change.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) bounds: Rc<Bounds>,
    pub(super) used: Used,
    pub(super) nodes: [Rc<Node>; NODES],
    pub(super) prints: [Prints; NODES],
    /// Every message ever sent: delivered never, once or again.
    pub(super) sent: Vec<Rc<Letter>>,
    /// First leader of each term.
    pub(super) leaders: Vec<(Term, NodeId)>,
    /// By index: the entry's hash and the term in which a leader committed it first.
    pub(super) committed: Vec<(u64, Term)>,
    pub(super) broken: Option<String>,
    /// Bit set of [`Note`]s of the last step.
    pub(super) notes: u32,
}

fn settings(bounds: &Bounds) -> Settings {
    Settings {
        election_timeout_min: T_MIN,
        // Nothing is drawn: the generator is no part of a state.
        election_timeout_max: T_MIN + 1,
        heartbeat_interval: HEARTBEAT,
        max_inflight_bytes: bounds.append_entries * bounds.window,
        max_inflight_appends: bounds.window,
        max_append_bytes: bounds.append_entries,
        lease_drift_ppm: None,
        seed: 0,
    }
}

/// Later than every time that a node waits for.
pub(super) const LONG: Micros = 2 * T_MAX;

/// A core on what this disk holds.
pub(super) fn open(bounds: &Bounds, id: ReplicaId, live: &Image, now: Micros) -> RaftCore {
    let others = (1..=NODES as NodeId).filter(|node| *node != id.node);
    let list = FoundingList {
        others: others.collect(),
        ..FoundingList::default()
    };
    RaftCore::new(id, settings(bounds), live.recovered(), list, now)
}

pub(super) fn replica(slot: usize) -> ReplicaId {
    let node = slot as NodeId + 1;
    ReplicaId::new(node, incarnation(node, 1))
}

pub(super) fn slot(node: NodeId) -> usize {
    node as usize - 1
}

/// The third of three.
pub(super) fn third(a: usize, b: usize) -> usize {
    NODES - a - b
}

impl World {
    /// The founded members, all links up.
    pub(super) fn new(bounds: Bounds) -> Self {
        let node = |at: usize| {
            let start = &bounds.start[at];
            let mut image = image(NODES, start.terms, start.term);
            if start.vote > 0 {
                image.hard.voted_for = replica(slot(start.vote));
            }
            Rc::new(Node {
                id: replica(at),
                core: open(&bounds, replica(at), &image, 0),
                disk: Disk::holding(image),
                clock: 0,
                deferred: Vec::new(),
                unsettled: false,
            })
        };
        let mut world = Self {
            bounds: Rc::new(bounds),
            used: Used::default(),
            nodes: std::array::from_fn(node),
            prints: [[0; 6]; NODES],
            sent: Vec::new(),
            leaders: Vec::new(),
            committed: Vec::new(),
            broken: None,
            notes: 0,
        };
        for a in 0..NODES {
            for b in (0..NODES).filter(|b| *b != a) {
                world.link_up(a, b);
            }
        }
        (0..NODES).for_each(|at| world.reprint(at));
        world
    }

    /// The number of the connection between two nodes: another one after every end.
    pub(super) fn epoch(&self, a: usize, b: usize) -> u64 {
        let ends = self.used.crashes[a] + self.used.crashes[b];
        1 + u64::from(ends + self.used.reconnects[third(a, b)])
    }

    /// Node `at` learns that its streams to `other` are up.
    pub(super) fn link_up(&mut self, at: usize, other: usize) {
        let epoch = self.epoch(at, other);
        for class in [Class::Control, Class::Data] {
            let input = Input::PeerUp {
                peer: replica(other),
                class,
                epoch,
                hello: PeerHello::default(),
            };
            self.feed(at, input, None);
        }
    }

    pub(super) fn link_down(&mut self, at: usize, other: usize, epoch: u64) {
        for class in [Class::Control, Class::Data] {
            let node = other as NodeId + 1;
            self.feed(at, Input::PeerDown { node, class, epoch }, None);
        }
    }

    pub(super) fn node_mut(&mut self, at: usize) -> &mut Node {
        Rc::make_mut(&mut self.nodes[at])
    }

    pub(super) fn note(&mut self, note: Note) {
        self.notes |= 1 << note as usize;
    }

    /// Remembers the first thing that went wrong.
    pub(super) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(super) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }

    /// Whether a majority of the nodes' durable logs satisfy this.
    pub(super) fn durable_quorum(&self, holds: impl Fn(&Image) -> bool) -> bool {
        let held = self.nodes.iter().filter(|node| holds(&node.disk.durable));
        held.count() * 2 > NODES
    }
}

/// The entries of a write that follows `image`, and where they begin.
pub(super) fn write_of(
    image: &Image,
    truncate_from: Option<LogIndex>,
    new: impl Iterator<Item = (Term, u64)>,
) -> Write {
    let end = truncate_from.map_or(image.last(), |from| from - 1);
    let mut previous = image.hash_at(end).unwrap_or(0);
    let items = new.map(|(term, payload)| {
        let item = Item::after(previous, term, payload);
        previous = item.hash;
        item
    });
    Write {
        truncate_from,
        items: items.collect(),
        ..Write::default()
    }
}

//! Simulated links: per class and pair a connection with an epoch, per direction a cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::{Class, Configuration, EntrySummary, Message};
use super::disk::Item;
use crate::types::{LogId, LogIndex, Micros, NodeId, ReplicaId};

/// A message on its way, with the entries beside it.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) from: ReplicaId,
    pub(super) to: NodeId,
    pub(super) message: Message,
    pub(super) first: LogIndex,
    pub(super) items: Vec<Item>,
    pub(super) configurations: Vec<(LogIndex, Arc<Configuration>)>,
}

impl Envelope {
    pub(super) fn bare(from: ReplicaId, to: NodeId, message: Message) -> Self {
        Self {
            from,
            to,
            message,
            first: 0,
            items: Vec::new(),
            configurations: Vec::new(),
        }
    }

    pub(super) fn summary(&self) -> EntrySummary {
        let mut terms: Vec<LogId> = Vec::new();
        for (item, index) in self.items.iter().zip(self.first..) {
            if terms.last().is_none_or(|run| run.term != item.term) {
                terms.push(LogId::new(item.term, index));
            }
        }
        EntrySummary {
            first: self.first,
            count: self.items.len() as u32,
            terms,
            configurations: self.configurations.clone(),
            fits: true,
        }
    }
}

/// How unkind the world is. Shares are of 1000.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) drop: u64,
    pub(super) duplicate: u64,
    /// Messages that take up to ten times as long, so that others overtake them.
    pub(super) reorder: u64,
    /// Messages after which an old one comes once more, from whatever life and stream it was.
    pub(super) replay: u64,
    /// Appends that the transport refuses for want of room.
    pub(super) refuse: u64,
    pub(super) delay: (Micros, Micros),
    pub(super) disk: (Micros, Micros),
}

impl Faults {
    pub(super) const NONE: Self = Self {
        drop: 0,
        duplicate: 0,
        reorder: 0,
        replay: 0,
        refuse: 0,
        delay: (500, 2_000),
        disk: (200, 1_000),
    };
}

/// Which connections are up and which directions are cut.
#[derive(Clone, Debug, Default)]
pub(super) struct Net {
    up: BTreeMap<(NodeId, NodeId, Class), u64>,
    cut: BTreeSet<(NodeId, NodeId, Class)>,
    epochs: u64,
}

fn pair(a: NodeId, b: NodeId, class: Class) -> (NodeId, NodeId, Class) {
    (a.min(b), a.max(b), class)
}

impl Net {
    /// The new connection's epoch, unless there is one already.
    pub(super) fn connect(&mut self, a: NodeId, b: NodeId, class: Class) -> Option<u64> {
        let key = pair(a, b, class);
        if self.up.contains_key(&key) {
            return None;
        }
        self.epochs += 1;
        self.up.insert(key, self.epochs);
        Some(self.epochs)
    }

    pub(super) fn disconnect(&mut self, a: NodeId, b: NodeId, class: Class) -> Option<u64> {
        self.up.remove(&pair(a, b, class))
    }

    pub(super) fn epoch(&self, a: NodeId, b: NodeId, class: Class) -> Option<u64> {
        self.up.get(&pair(a, b, class)).copied()
    }

    /// Whether what `from` sends now reaches `to`.
    pub(super) fn carries(&self, from: NodeId, to: NodeId, class: Class) -> bool {
        self.epoch(from, to, class).is_some() && !self.cut.contains(&(from, to, class))
    }

    /// From now on nothing that `from` sends in this class reaches `to`.
    pub(super) fn cut_class(&mut self, from: NodeId, to: NodeId, class: Class) {
        self.cut.insert((from, to, class));
    }

    /// The same for both classes.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut_class(from, to, Class::Control);
        self.cut_class(from, to, Class::Data);
    }

    /// Ends all cuts.
    pub(super) fn mend(&mut self) {
        self.cut.clear();
    }
}

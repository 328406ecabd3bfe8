//! What happens next: events in the order of virtual time, and of their making within a moment.

use std::collections::BTreeMap;

use super::plan::Strike;
use super::wires::Packet;
use crate::types::{Micros, NodeId};
use crate::wal::Lane;

/// A node in one life of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) node: NodeId,
    pub(crate) life: u64,
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// The driver has something to do, or its deadline is here.
    Wake(At),
    /// The oldest task of a lane of the disk.
    Lane(At, Lane),
    /// The oldest piece of work of the applier.
    Apply(At),
    /// The next step of a snapshotter: the one that writes, or the one that transfers.
    Snapshot(At, usize),
    /// Something arrives from the network.
    Deliver(Box<Packet>),
    /// Streams that are wanted are tried.
    Dial,
    /// A fault.
    Strike(Strike),
    /// The next proposal.
    Client,
    /// A process starts.
    Start(NodeId),
    /// A full disk has room again.
    Room(NodeId),
    /// The operator looks after the nodes.
    Operate,
}

/// Events to come.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    events: BTreeMap<(Micros, u64), Event>,
    made: u64,
}

impl Schedule {
    pub(crate) fn add(&mut self, at: Micros, event: Event) {
        self.made += 1;
        self.events.insert((at, self.made), event);
    }

    /// The next event, if it is before `end`.
    pub(crate) fn next(&mut self, end: Micros) -> Option<(Micros, Event)> {
        let first = self.events.first_entry()?;
        if first.key().0 >= end {
            return None;
        }
        let ((at, _), event) = first.remove_entry();
        Some((at, event))
    }
}

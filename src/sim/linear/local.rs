//! What nodes show of their state to who reads it without asking the log.

use std::collections::BTreeMap;
use std::fmt;

use crate::types::{LogIndex, NodeId};

/// A register in the view that a node showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) node: NodeId,
    /// The view reflects so many commands of the log.
    pub(crate) place: u64,
    pub(crate) key: u64,
    pub(crate) value: u64,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            place,
            key,
            value,
        } = self;
        write!(
            f,
            "node {node} showed {value} for key {key} after command number {place}"
        )
    }
}

/// How far the processes have gone that clients looked at, and what they showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalReads {
    /// By node and life of its process: the highest index shown, and the highest place answered.
    floors: BTreeMap<(NodeId, u64), (LogIndex, u64)>,
    shown: Vec<Shown>,
}

impl LocalReads {
    pub(crate) fn shown(&self) -> &[Shown] {
        &self.shown
    }

    /// A process answered the command at this place: from now on it shows it.
    pub(crate) fn answered(&mut self, node: NodeId, life: u64, place: u64) {
        let floor = self.floors.entry((node, life)).or_default();
        floor.1 = floor.1.max(place);
    }

    /// A process showed its state at `index`, which reflects `place` commands.
    pub(crate) fn read(
        &mut self,
        node: NodeId,
        life: u64,
        index: LogIndex,
        place: u64,
    ) -> Result<(), String> {
        let (before, answered) = self.floors.entry((node, life)).or_default();
        if index < *before {
            return Err(format!(
                "S16: node {node} shows its state at {index}, it was at {before} already"
            ));
        }
        if place < *answered {
            return Err(format!(
                "S16: node {node} answered command number {answered} and shows its state after \
                 number {place}"
            ));
        }
        *before = index;
        Ok(())
    }

    /// What a register was in a view.
    pub(crate) fn saw(&mut self, shown: Shown) {
        self.shown.push(shown);
    }
}

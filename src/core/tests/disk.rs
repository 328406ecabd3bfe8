//! A simulated log: what is written, and what of it would survive a power cut.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::{Configuration, Recovered};
use crate::types::{HardState, Incarnation, LogId, LogIndex, Term, WriteId};

/// One entry as the bed knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) term: Term,
    /// Tells proposals apart; 0 for what the core makes itself.
    pub(super) payload: u64,
    /// Over this entry and all before it, so that equal hashes mean equal logs.
    pub(super) hash: u64,
}

/// Folds `value` into a running hash.
pub(super) fn mix(hash: u64, value: u64) -> u64 {
    let mut z = (hash ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Item {
    pub(super) fn after(previous: u64, term: Term, payload: u64) -> Self {
        let hash = mix(mix(previous, term), payload);
        Self {
            term,
            payload,
            hash,
        }
    }
}

/// The contents of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) hard: HardState,
    pub(super) genesis: Incarnation,
    pub(super) items: Vec<Item>,
    pub(super) configurations: Vec<(LogIndex, Arc<Configuration>)>,
}

impl Image {
    pub(super) fn last(&self) -> LogIndex {
        self.items.len() as LogIndex
    }

    pub(super) fn item(&self, index: LogIndex) -> Option<&Item> {
        self.items.get(index.checked_sub(1)? as usize)
    }

    /// The running hash at `index`; `None` beyond the end.
    pub(super) fn hash_at(&self, index: LogIndex) -> Option<u64> {
        if index == 0 {
            return Some(0);
        }
        self.item(index).map(|item| item.hash)
    }

    /// Appends an entry and returns its item.
    pub(super) fn push(&mut self, term: Term, payload: u64) -> Item {
        let previous = self.items.last().map_or(0, |item| item.hash);
        let item = Item::after(previous, term, payload);
        self.items.push(item);
        item
    }

    fn apply(&mut self, write: Write) {
        if let Some(hard) = write.hard {
            self.hard = hard;
        }
        if let Some(genesis) = write.genesis {
            self.genesis = genesis;
        }
        if let Some(from) = write.truncate_from {
            self.items.truncate(from as usize - 1);
            self.configurations.retain(|(index, _)| *index < from);
        }
        self.items.extend(write.items);
        self.configurations.extend(write.configurations);
    }

    /// What a node that opens this log tells its core.
    pub(super) fn recovered(&self) -> Recovered {
        let mut terms: Vec<LogId> = Vec::new();
        for (item, index) in self.items.iter().zip(1..) {
            if terms.last().is_none_or(|run| run.term != item.term) {
                terms.push(LogId::new(item.term, index));
            }
        }
        let last = self.items.last().map_or(LogId::default(), |item| {
            LogId::new(item.term, self.items.len() as LogIndex)
        });
        Recovered {
            hard_state: self.hard,
            told_election_timeout: 0,
            genesis: self.genesis,
            snapshot: LogId::default(),
            last,
            terms,
            configurations: self.configurations.clone(),
            repairing: None,
            stored: None,
        }
    }
}

/// One write on its way to the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Write {
    pub(super) hard: Option<HardState>,
    pub(super) genesis: Option<Incarnation>,
    pub(super) truncate_from: Option<LogIndex>,
    pub(super) items: Vec<Item>,
    pub(super) configurations: Vec<(LogIndex, Arc<Configuration>)>,
}

/// A log over a disk that loses what was not synced.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// With every write handed over.
    pub(super) live: Image,
    /// With every write proven durable.
    pub(super) durable: Image,
    pub(super) pending: VecDeque<(WriteId, Write)>,
}

impl Disk {
    pub(super) fn holding(image: Image) -> Self {
        Self {
            live: image.clone(),
            durable: image,
            pending: VecDeque::new(),
        }
    }

    pub(super) fn write(&mut self, id: WriteId, write: Write) {
        self.live.apply(write.clone());
        self.pending.push_back((id, write));
    }

    /// This write and all before it are durable.
    pub(super) fn complete(&mut self, id: WriteId) {
        while self.pending.front().is_some_and(|(write, _)| *write <= id) {
            if let Some((_, write)) = self.pending.pop_front() {
                self.durable.apply(write);
            }
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The power goes: of the writes not proven durable the first `kept` had made it all the same.
    pub(super) fn crash(&mut self, kept: usize) {
        let kept = self.pending.drain(..).take(kept);
        for (_, write) in kept {
            self.durable.apply(write);
        }
        self.live = self.durable.clone();
    }
}

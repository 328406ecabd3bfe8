//! What is counted of a peer over all its connections.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::lane::lock;
use crate::network::LinkClass;
use crate::wire::Kind;

/// Names of the kinds of frames, those of the forward class last.
pub(super) const KINDS: usize = Kind::ALL.len() + 2;
/// Place of a proposal passed on.
pub(super) const FORWARD: usize = Kind::ALL.len();
/// Place of what became of one.
pub(super) const FORWARD_REPLY: usize = FORWARD + 1;

/// The place of a kind.
pub(super) fn place(kind: Kind) -> usize {
    let place = Kind::ALL.iter().position(|&other| other == kind);
    place.unwrap_or_default()
}

/// The name of the kind in a place.
pub(super) fn kind_name(place: usize) -> &'static str {
    match Kind::ALL.get(place) {
        Some(kind) => kind.name(),
        None if place == FORWARD => "forward",
        None => "forward_reply",
    }
}

/// How far this node is with its connection of one class to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkState {
    /// None is there, and none is tried.
    #[default]
    Down = 0,
    /// The handshake is under way.
    Dialling = 1,
    /// The handshake is done, the hellos are not.
    Hello = 2,
    /// Frames flow.
    Up = 3,
}

impl LinkState {
    const fn numbered(number: u8) -> Self {
        match number {
            1 => Self::Dialling,
            2 => Self::Hello,
            3 => Self::Up,
            _ => Self::Down,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    sent: [AtomicU64; KINDS],
    received: [AtomicU64; KINDS],
    /// Connections that this node made, by class.
    connects: [AtomicU64; LinkClass::ALL.len()],
    /// Streams given up because the peer took nothing, by class, on connections of either side.
    stalls: [AtomicU64; LinkClass::ALL.len()],
    /// [`LinkState`]s by class.
    states: [AtomicU8; LinkClass::ALL.len()],
    /// How those ended.
    downs: Mutex<BTreeMap<(LinkClass, &'static str), u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            sent: [const { AtomicU64::new(0) }; KINDS],
            received: [const { AtomicU64::new(0) }; KINDS],
            connects: Default::default(),
            stalls: Default::default(),
            states: Default::default(),
            downs: Mutex::default(),
        }
    }
}

fn add(counters: &[AtomicU64], place: usize, count: u64) {
    if let Some(counter) = counters.get(place) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn read<const N: usize>(counters: &[AtomicU64; N]) -> [u64; N] {
    counters
        .each_ref()
        .map(|counter| counter.load(Ordering::Relaxed))
}

impl Tally {
    /// Frames that were taken to be sent.
    pub(super) fn sent(&self, place: usize, count: u64) {
        add(&self.sent, place, count);
    }

    pub(super) fn received(&self, place: usize, count: u64) {
        add(&self.received, place, count);
    }

    pub(super) fn connected(&self, class: LinkClass) {
        add(&self.connects, class as usize, 1);
    }

    pub(super) fn stalled(&self, class: LinkClass) {
        add(&self.stalls, class as usize, 1);
    }

    pub(super) fn is_at(&self, class: LinkClass, state: LinkState) {
        if let Some(at) = self.states.get(class as usize) {
            at.store(state as u8, Ordering::Relaxed);
        }
    }

    pub(super) fn down(&self, class: LinkClass, reason: &'static str) {
        *lock(&self.downs).entry((class, reason)).or_default() += 1;
    }

    /// Sent and received, by place.
    pub(super) fn frames(&self) -> [[u64; KINDS]; 2] {
        [read(&self.sent), read(&self.received)]
    }

    /// By class.
    pub(super) fn connects(&self) -> [u64; LinkClass::ALL.len()] {
        read(&self.connects)
    }

    /// By class.
    pub(super) fn stalls(&self) -> [u64; LinkClass::ALL.len()] {
        read(&self.stalls)
    }

    /// By class.
    pub(super) fn states(&self) -> [LinkState; LinkClass::ALL.len()] {
        let states = self.states.each_ref();
        states.map(|state| LinkState::numbered(state.load(Ordering::Relaxed)))
    }

    pub(super) fn downs(&self) -> Vec<((LinkClass, &'static str), u64)> {
        let downs = lock(&self.downs);
        downs.iter().map(|(&of, &count)| (of, count)).collect()
    }
}

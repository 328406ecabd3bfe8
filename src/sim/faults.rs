//! The kinds of faults, how often each is drawn in a run, and how often it happened.

use std::collections::BTreeMap;
use std::ops::Range;

use super::random::Random;
use crate::types::Micros;

macro_rules! faults {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($(#[$doc])* $kind,)*
        }

        impl Fault {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

faults! {
    /// A message is lost.
    Drop = "drop",
    /// A message comes twice.
    Duplicate = "duplicate",
    /// A message takes long.
    Delay = "delay",
    /// Messages overtake each other.
    Reorder = "reorder",
    /// A message of an ended stream still arrives.
    StaleEpoch = "stale-epoch",
    /// The transport's queue is full.
    Full = "full",
    /// A link delivers nothing in one direction.
    Cut = "cut",
    /// A node is cut off from all others.
    Isolate = "isolate",
    /// A link holds everything back for a while, then delivers it.
    Clog = "clog",
    /// A stream ends and another begins.
    Reset = "reset",
    /// A process does not run for a while.
    Pause = "pause",
    /// A process dies; the page cache stays.
    Kill = "kill",
    /// Only what was synced is left.
    PowerCut = "power-cut",
    /// What was synced is left, and part of the rest.
    Subset = "subset",
    /// A directory is lost for good.
    Wipe = "wipe",
    /// A sync fails; its pages stay in the cache as if clean.
    SyncKeep = "sync-keep",
    /// A sync fails; the cache shows the old bytes again.
    SyncRevert = "sync-revert",
    /// A sync succeeds wrongly; the next one says so.
    SyncLate = "sync-late",
    /// Syncs take long.
    Stall = "stall",
    /// Nothing can be allocated.
    DiskFull = "disk-full",
    /// A clock runs fast or slow.
    ClockRate = "clock-rate",
}

/// Faults by kind, with how often they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts(BTreeMap<Fault, u64>);

impl FaultCounts {
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// How often this kind happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }

    /// The kinds that never happened.
    pub fn missing(&self) -> Vec<Fault> {
        let never = |fault: &Fault| self.of(*fault) == 0;
        Fault::ALL.iter().copied().filter(never).collect()
    }
}

/// What a link does to messages, per mille.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkRates {
    pub(crate) drop: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay: u64,
    pub(crate) reorder: u64,
    pub(crate) stale_epoch: u64,
    pub(crate) full: u64,
    pub(crate) latency: Range<Micros>,
}

/// How one seed's world misbehaves (swarm testing: each seed leaves some faults out, so that none
/// hides another).
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    pub(crate) links: LinkRates,
    /// Faults that the nemesis may choose.
    pub(crate) actions: Vec<Fault>,
    pub(crate) pace: Range<Micros>,
    pub(crate) sync: Range<Micros>,
    pub(crate) prepare: Range<Micros>,
    pub(crate) apply: Range<Micros>,
    pub(crate) proposals: Range<Micros>,
    /// How far a clock may be off, parts per million.
    pub(crate) clock_ppm: u64,
}

const ACTIONS: &[Fault] = &[
    Fault::Cut,
    Fault::Isolate,
    Fault::Clog,
    Fault::Reset,
    Fault::Pause,
    Fault::Kill,
    Fault::PowerCut,
    Fault::Subset,
    Fault::Wipe,
    Fault::SyncKeep,
    Fault::SyncRevert,
    Fault::SyncLate,
    Fault::Stall,
    Fault::DiskFull,
];

impl Swarm {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut random = Random::named(seed, "swarm", 0);
        let rate = |random: &mut Random, most: u64| {
            if random.chance(500) {
                1 + random.below(most)
            } else {
                0
            }
        };
        let slow = |random: &mut Random, most: Micros| {
            let start = 10 + random.below(most / 4);
            start..start + 1 + random.below(most)
        };
        let links = LinkRates {
            drop: rate(&mut random, 100),
            duplicate: rate(&mut random, 200),
            delay: rate(&mut random, 100),
            reorder: rate(&mut random, 500),
            stale_epoch: rate(&mut random, 500),
            full: rate(&mut random, 100),
            latency: slow(&mut random, 8_000),
        };
        let actions = ACTIONS.iter().copied();
        let actions: Vec<_> = actions.filter(|_| random.chance(500)).collect();
        let pace = random.pick(&[40_000, 150_000, 600_000]).unwrap_or(150_000);
        Self {
            links,
            actions,
            pace: pace / 4..pace * 2,
            sync: slow(&mut random, 6_000),
            prepare: slow(&mut random, 40_000),
            apply: slow(&mut random, 3_000),
            proposals: slow(&mut random, 20_000),
            clock_ppm: if random.chance(500) { 20_000 } else { 0 },
        }
    }

    /// Everything works from now on.
    pub(crate) fn heal(&mut self) {
        self.links = LinkRates {
            latency: 50..1_000,
            ..LinkRates::default()
        };
        self.sync = 50..2_000;
        self.prepare = 50..5_000;
        self.apply = 10..200;
        self.actions.clear();
    }
}

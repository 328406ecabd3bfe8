//! The kinds of faults, and how often each happened to a node in which state.

use std::collections::BTreeMap;

macro_rules! names {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $kind:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $kind,)*
        }

        impl $name {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name in reports and scripts.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $text,)* }
            }

            /// The kind with this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
            }
        }
    };
}

names! {
    /// A kind of fault, or of load out of the ordinary.
    Fault {
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
        /// Something that was sent at any time before arrives again.
        Replay = "replay",
        /// The transport's queue is full.
        Full = "full",
        /// A link delivers nothing in one direction.
        Cut = "cut",
        /// A node is cut off from all others.
        Isolate = "isolate",
        /// A node's control connections work and no others do.
        Mute = "mute",
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
        /// A read of the disk fails.
        ReadError = "read-error",
        /// Bits flip in a sealed part of a log, which its successor vouches for.
        Rot = "rot",
        /// Bits flip anywhere in a directory; shows safety alone.
        RotAnywhere = "rot-anywhere",
        /// Syncs take long.
        Stall = "stall",
        /// Nothing can be allocated.
        DiskFull = "disk-full",
        /// The state machine is a hundred times slower.
        SlowApply = "slow-apply",
        /// A clock runs fast or slow.
        ClockRate = "clock-rate",
        /// A node joins, as a learner or to vote.
        Join = "join",
        /// A member is removed.
        Remove = "remove",
        /// An empty directory takes the place of a lost one.
        Replace = "replace",
        /// A learner is to vote.
        Promote = "promote",
        /// A voter becomes a learner.
        Demote = "demote",
        /// An operator hands leadership over.
        HandOver = "hand-over",
        /// A state machine's state becomes another than it should be.
        Diverge = "diverge",
        /// A command is committed that no state machine can apply.
        Poison = "poison",
        /// A process is started again with the next release.
        Upgrade = "upgrade",
        /// And with the release before.
        Downgrade = "downgrade",
        /// No client asks for anything for a while.
        Quiet = "quiet",
        /// Clients ask for much at once.
        Surge = "surge",
    }
}

names! {
    /// What a node was doing when a fault struck it.
    NodeState {
        /// Not running.
        Down = "down",
        /// Without a configuration: not founded yet, or wiped.
        Blank = "blank",
        /// Following.
        Follower = "follower",
        /// Asking whether it would win.
        PreCandidate = "pre-candidate",
        /// Asking for votes.
        Candidate = "candidate",
        /// Leading.
        Leader = "leader",
    }
}

/// Faults by kind, with how often they happened, and to nodes in which state where that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    kinds: BTreeMap<Fault, u64>,
    pairs: BTreeMap<(Fault, NodeState), u64>,
}

impl FaultCounts {
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.kinds.entry(fault).or_default() += 1;
    }

    pub(crate) fn count_in(&mut self, fault: Fault, state: NodeState) {
        self.count(fault);
        *self.pairs.entry((fault, state)).or_default() += 1;
    }

    /// How often this kind happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.kinds.get(&fault).copied().unwrap_or_default()
    }

    /// How often this kind struck a node in this state. Faults of single messages have no node.
    pub fn of_pair(&self, fault: Fault, state: NodeState) -> u64 {
        self.pairs.get(&(fault, state)).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.kinds {
            *self.kinds.entry(*fault).or_default() += count;
        }
        for (pair, count) in &other.pairs {
            *self.pairs.entry(*pair).or_default() += count;
        }
    }

    /// The kinds that never happened.
    pub fn missing(&self) -> Vec<Fault> {
        let never = |fault: &Fault| self.of(*fault) == 0;
        Fault::ALL.iter().copied().filter(never).collect()
    }
}

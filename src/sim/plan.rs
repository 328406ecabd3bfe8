//! What decides a run: a seed, how the world misbehaves all the time, and what strikes when.
//!
//! A plan is drawn from a seed before anything happens, so a strike can be taken out of it without
//! moving the others: that is how a failing run is made small.

use std::ops::Range;

use super::faults::Fault;
use super::random::Random;
use super::report::SimOptions;
use crate::types::{Micros, NodeId};

/// What links do to messages, per mille, before each link's own factor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkRates {
    pub(crate) drop: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay: u64,
    pub(crate) reorder: u64,
    pub(crate) stale_epoch: u64,
    pub(crate) replay: u64,
    pub(crate) full: u64,
    pub(crate) latency: Range<Micros>,
}

/// How the world is all the time: one seed leaves some faults out, so that none hides another
/// (swarm testing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) links: LinkRates,
    pub(crate) sync: Range<Micros>,
    pub(crate) prepare: Range<Micros>,
    pub(crate) apply: Range<Micros>,
    pub(crate) proposals: Range<Micros>,
    /// How far a clock may be off, parts per million.
    pub(crate) clock_ppm: u64,
    /// A snapshot is taken after so many entries; 0 = never.
    pub(crate) snapshot_every: u64,
    /// What a step of writing or reading one takes.
    pub(crate) snapshots: Range<Micros>,
}

/// Whom a strike hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Node(NodeId),
    /// Whoever leads then, in the highest term; node 1 if nobody does.
    Leader,
}

/// One fault at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) at: Micros,
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    /// The other end of a link: so many nodes further round.
    pub(crate) other: u64,
    pub(crate) long: Micros,
    /// What else is to be decided.
    pub(crate) draw: u64,
}

/// A run, whole. The same plan and workload give the same run, bit for bit. It prints as the script
/// that [`str::parse`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Seed of every stream of randomness.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// Nodes beyond those, which are no members at first.
    pub spares: usize,
    /// How long faults last, microseconds of virtual time.
    pub chaos_us: Micros,
    /// See [`SimOptions::truth_every`].
    pub truth_every: u64,
    pub(crate) rates: Rates,
    pub(crate) strikes: Vec<Strike>,
}

const STRIKES: &[Fault] = &[
    Fault::Cut,
    Fault::Isolate,
    Fault::Mute,
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
    Fault::ReadError,
    Fault::Rot,
    Fault::RotAnywhere,
    Fault::Stall,
    Fault::DiskFull,
    Fault::SlowApply,
    Fault::Join,
    Fault::Remove,
    Fault::Replace,
    Fault::Promote,
    Fault::Demote,
    Fault::HandOver,
    Fault::Quiet,
    Fault::Surge,
];

/// Times between strikes, more or less: from constant trouble to a cluster that gets far in between.
const PACES: [Micros; 4] = [40_000, 150_000, 600_000, 2_000_000];
/// Strikes last at most so long.
const LONGEST: Micros = 1_500_000;
/// Clients of a long run ask more rarely, or logs that nothing compacts would take all the time.
const MOST_COMMANDS: u64 = 3_000;

impl Plan {
    /// The plan of a seed.
    pub fn draw(options: &SimOptions) -> Self {
        let seed = options.seed;
        let mut random = Random::named(seed, "nodes", 0);
        let drawn = if random.chance(300) { 5 } else { 3 };
        let nodes = options.nodes.unwrap_or(drawn);
        let mut random = Random::named(seed, "swarm", 0);
        let spares = if random.chance(500) { 2 } else { 0 };
        let mut rates = Rates::draw(&mut random, options.chaos_us);
        rates.draw_snapshots(&mut Random::named(seed, "snapshots", 0));
        let mut strikes = strikes(&mut random, (nodes + spares) as u64, options.chaos_us);
        let mut random = Random::named(seed, "diverge", 0);
        if random.chance(300) {
            strikes.push(diverges(&mut random, nodes as u64, options.chaos_us));
        }
        let mut random = Random::named(seed, "poison", 0);
        if random.chance(200) {
            strikes.push(once(
                Fault::Poison,
                Target::Leader,
                &mut random,
                options.chaos_us,
            ));
        }
        let mut random = Random::named(seed, "releases", 0);
        if random.chance(300) {
            strikes.extend(releases(
                &mut random,
                (nodes + spares) as u64,
                options.chaos_us,
            ));
        }
        Self {
            seed,
            nodes,
            spares,
            chaos_us: options.chaos_us,
            truth_every: options.truth_every,
            rates,
            strikes,
        }
    }

    /// How many strikes it has.
    pub fn strikes(&self) -> usize {
        self.strikes.len()
    }
}

impl Rates {
    fn draw(random: &mut Random, chaos: Micros) -> Self {
        let links = LinkRates {
            drop: rate(random, 100),
            duplicate: rate(random, 200),
            delay: rate(random, 100),
            reorder: rate(random, 500),
            stale_epoch: rate(random, 500),
            replay: rate(random, 100),
            full: rate(random, 100),
            latency: slow(random, 8_000),
        };
        let rarest = chaos / MOST_COMMANDS;
        let proposals = slow(random, 20_000);
        Self {
            links,
            sync: slow(random, 6_000),
            prepare: slow(random, 40_000),
            apply: slow(random, 3_000),
            proposals: proposals.start.max(rarest)..proposals.end.max(rarest * 2),
            clock_ppm: if random.chance(500) { 20_000 } else { 0 },
            snapshot_every: 0,
            snapshots: 50..1_000,
        }
    }

    fn draw_snapshots(&mut self, random: &mut Random) {
        if random.chance(600) {
            self.snapshot_every = 8 << random.below(6);
            self.snapshots = slow(random, 20_000);
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
        self.snapshots = 50..1_000;
        self.proposals = 10_000..30_000;
    }
}

// What follows is drawn from streams of its own: other strikes do not depend on it.

/// Something that happens at any time, and lasts for none.
fn once(fault: Fault, target: Target, random: &mut Random, chaos: Micros) -> Strike {
    Strike {
        at: 1 + random.below(chaos.max(1)),
        fault,
        target,
        other: 1,
        long: 0,
        draw: random.next(),
    }
}

/// One state becomes another one.
fn diverges(random: &mut Random, nodes: u64, chaos: Micros) -> Strike {
    let target = if random.chance(400) {
        Target::Leader
    } else {
        Target::Node(1 + random.below(nodes))
    };
    once(Fault::Diverge, target, random, chaos)
}

/// A cluster rolls from one release to the next, node by node; some are left behind, some go back.
fn releases(random: &mut Random, nodes: u64, chaos: Micros) -> Vec<Strike> {
    let mut strikes = Vec::new();
    for node in 1..=nodes {
        if random.chance(850) {
            strikes.push(once(Fault::Upgrade, Target::Node(node), random, chaos));
        }
        if random.chance(250) {
            strikes.push(once(Fault::Downgrade, Target::Node(node), random, chaos));
        }
    }
    strikes
}

fn rate(random: &mut Random, most: u64) -> u64 {
    if random.chance(500) {
        1 + random.below(most)
    } else {
        0
    }
}

fn slow(random: &mut Random, most: Micros) -> Range<Micros> {
    let start = 10 + random.below(most / 4);
    start..start + 1 + random.below(most)
}

fn strikes(random: &mut Random, nodes: u64, chaos: Micros) -> Vec<Strike> {
    let kinds = STRIKES.iter().copied();
    let kinds: Vec<_> = kinds.filter(|_| random.chance(500)).collect();
    let pace = random.pick(&PACES).unwrap_or(150_000);
    let mut strikes = Vec::new();
    let mut at = 1_000;
    while at < chaos {
        let node = Target::Node(1 + random.below(nodes));
        let leader = random.chance(250);
        let strike = Strike {
            at,
            fault: random.pick(&kinds).unwrap_or(Fault::Reset),
            target: if leader { Target::Leader } else { node },
            other: 1 + random.below(nodes.max(2) - 1),
            // Short ones mostly, or nobody ever leads.
            long: random.below(LONGEST) >> random.below(6),
            draw: random.next(),
        };
        strikes.push(strike);
        at += 1 + random.within(&(pace / 4..pace * 2));
    }
    strikes
}

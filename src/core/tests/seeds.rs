//! Seeded runs: faults for a while, then peace, and what must then hold.
//!
//! `CONVEYOR_SIM_SEEDS=n` runs n times as many seeds, `CONVEYOR_SIM_SEED=s` only that one, and
//! `CONVEYOR_SIM_TRACE=1` prints every event.

use super::super::Class;
use super::bed::{Bed, MS, T_MAX};
use super::net::Faults;
use crate::types::{Micros, NodeId};

/// Says which seed failed, whatever failed.
pub(super) struct Named(pub(super) u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: CONVEYOR_SIM_SEED={}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn for_seeds(from: u64, count: u64, mut run: impl FnMut(u64)) {
    if let Some(seed) = number("CONVEYOR_SIM_SEED") {
        return run(seed);
    }
    let count = count * number("CONVEYOR_SIM_SEEDS").unwrap_or(1).max(1);
    for seed in from..from + count {
        let _named = Named(seed);
        run(seed);
    }
}

fn faults(bed: &mut Bed) -> Faults {
    let pick =
        |bed: &mut Bed, choices: &[u64]| choices[bed.rng.between(0, choices.len() as u64) as usize];
    Faults {
        drop: pick(bed, &[0, 0, 20, 200]),
        duplicate: pick(bed, &[0, 100, 500]),
        reorder: pick(bed, &[0, 100, 500]),
        replay: pick(bed, &[0, 0, 100]),
        refuse: pick(bed, &[0, 100, 500]),
        delay: (200, pick(bed, &[1, 5, 30]) * MS),
        disk: (100, pick(bed, &[1, 5, 100]) * MS),
    }
}

/// What the world does to the nodes.
struct Nemesis {
    wipes_left: usize,
}

impl Nemesis {
    fn strike(&mut self, bed: &mut Bed) {
        let count = bed.nodes.len() as u64;
        let node = self.target(bed);
        let other = bed.rng.between(1, count + 1);
        match bed.rng.between(0, 14) {
            0..=2 => self.toggle(bed, node),
            3 => bed
                .ids()
                .filter(|id| bed.is_up(*id))
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|id| bed.crash(id)),
            4 => bed.partition(&[node]),
            5 => bed.partition(&[node, other]),
            6 | 7 => match bed.rng.between(0, 4) {
                0 => bed.net.cut_class(node, other, Class::Control),
                1 => bed.net.cut_class(node, other, Class::Data),
                _ => bed.net.cut(node, other),
            },
            8 | 9 => bed.net.mend(),
            10 => {
                bed.hang_up(node, other);
                if node != other {
                    bed.connect_soon(node, other);
                }
            }
            11 => bed.node_mut(node).disk_lag = bed.rng.between(0, 2 * T_MAX),
            12 => bed.node_mut(node).frozen_until = bed.now + bed.rng.between(0, 3 * T_MAX),
            _ => self.wipe(bed, node),
        }
        self.revive(bed);
    }

    /// Often the leader, where it hurts.
    fn target(&self, bed: &mut Bed) -> NodeId {
        let leads = |node: &NodeId| bed.is_up(*node) && bed.core(*node).is_leader();
        let leader = bed.ids().find(leads);
        let any = bed.rng.between(1, bed.nodes.len() as u64 + 1);
        leader.filter(|_| bed.chance(500)).unwrap_or(any)
    }

    fn toggle(&mut self, bed: &mut Bed, node: NodeId) {
        if bed.is_up(node) {
            bed.crash(node);
        } else {
            bed.start(node);
        }
    }

    fn wipe(&mut self, bed: &mut Bed, node: NodeId) {
        if self.wipes_left > 0 && bed.ghost.committed() > 0 {
            self.wipes_left -= 1;
            bed.wipe(node);
            bed.start(node);
        }
    }

    /// Most of the time most are up.
    fn revive(&mut self, bed: &mut Bed) {
        for node in bed.ids() {
            if !bed.is_up(node) && bed.chance(400) {
                bed.start(node);
            }
            if bed.node(node).disk_lag > 0 && bed.chance(300) {
                bed.node_mut(node).disk_lag = 0;
            }
        }
    }
}

fn chaos(bed: &mut Bed, time: Micros) {
    let end = bed.now + time;
    let wipes_left = bed.rng.between(0, (bed.nodes.len() as u64).div_ceil(2)) as usize;
    let mut nemesis = Nemesis { wipes_left };
    let pace = [60, 150, 400][bed.rng.between(0, 3) as usize] * MS;
    let mut strike_at = bed.now;
    while bed.now < end {
        let pause = bed.rng.between(0, 40 * MS);
        bed.run_for(pause);
        for node in bed.ids() {
            let count = bed.rng.between(1, 8) as u32;
            bed.propose(node, count);
        }
        if bed.now >= strike_at {
            strike_at = bed.now + bed.rng.between(0, 2 * pace);
            nemesis.strike(bed);
        }
    }
}

pub(super) fn heal(bed: &mut Bed) {
    bed.faults = Faults::NONE;
    bed.net.mend();
    for node in bed.ids() {
        bed.node_mut(node).disk_lag = 0;
        bed.node_mut(node).frozen_until = 0;
        bed.start(node);
    }
    for a in bed.ids() {
        for b in a + 1..=bed.nodes.len() as NodeId {
            bed.connect_soon(a, b);
        }
    }
}

/// Who leads with a quorum that knows it.
pub(super) fn leader(bed: &Bed) -> Option<NodeId> {
    bed.ids().find(|node| {
        let Some(core) = bed
            .node(*node)
            .core
            .as_ref()
            .filter(|core| core.is_leader())
        else {
            return false;
        };
        let follows = |who: crate::types::ReplicaId| {
            let other = bed.node(who.node);
            other.id == who
                && other.core.as_ref().is_some_and(|other| {
                    other.leader() == Some(*node) && other.term() == core.term()
                })
        };
        core.configuration()
            .is_some_and(|configuration| configuration.is_quorum(follows))
    })
}

fn voters(bed: &Bed) -> Vec<NodeId> {
    let member = |node: &NodeId| !bed.core(*node).is_blank();
    bed.ids().filter(member).collect()
}

pub(super) fn converged(bed: &Bed) -> bool {
    let Some(leader) = leader(bed) else {
        return false;
    };
    let last = bed.core(leader).last().index;
    voters(bed).iter().all(|node| {
        let (core, disk) = (bed.core(*node), &bed.node(*node).disk);
        core.commit() == last
            && disk.durable.hash_at(last) == bed.node(leader).disk.live.hash_at(last)
            && core.last().index == last
    })
}

/// Peace: a leader, equal logs, and a fresh proposal goes through.
pub(super) fn recovers(bed: &mut Bed) {
    heal(bed);
    let elected = bed.run_while(10 * T_MAX, |bed| leader(bed).is_some());
    assert!(elected, "no leader within 10 election timeouts");
    assert!(bed.run_while(10 * T_MAX, converged), "logs stay unequal");
    let leads = leader(bed).expect("just seen");
    let before = bed.ghost.committed();
    bed.propose(leads, 1);
    let done = bed.run_while(10 * T_MAX, |bed| {
        bed.ghost.committed() > before && converged(bed)
    });
    assert!(done, "a fresh proposal does not commit");
    let term = bed.core(leads).term();
    bed.run_for(3 * T_MAX);
    assert_eq!(
        bed.core(leads).term(),
        term,
        "leadership changes without a cause"
    );
}

fn run(seed: u64) -> Bed {
    let mut bed = Bed::blank(seed, [3, 3, 3, 5, 1][(seed % 5) as usize]);
    bed.faults = faults(&mut bed);
    chaos(&mut bed, 3_000 * MS);
    recovers(&mut bed);
    bed
}

#[test]
fn s_invariants_hold_and_the_cluster_recovers_on_every_seed() {
    let (mut events, mut committed, mut elections) = (0, 0, 0);
    for_seeds(0, 300, |seed| {
        let bed = run(seed);
        events += bed.events;
        committed += bed.ghost.committed();
        elections += bed.ghost.elections();
    });
    eprintln!("{events} events, {committed} committed, {elections} elections");
}

/// One fixed conversation, and the power of one node cut after each of its events.
#[test]
fn s2_a_crash_after_every_event_breaks_no_promise() {
    for node in 1..=3 {
        for event in 0..120 {
            let _named = Named(event);
            let mut bed = Bed::blank(2, 3);
            bed.faults.disk = (3 * MS, 6 * MS);
            bed.run_while(3 * T_MAX, |bed| bed.events == event / 2);
            bed.ids().for_each(|leader| bed.propose(leader, 2));
            bed.run_while(3 * T_MAX, |bed| bed.events == event);
            bed.crash(node);
            bed.run_for(T_MAX / 3);
            bed.start(node);
            recovers(&mut bed);
        }
    }
}

#[test]
fn s23_a_seed_replays_exactly() {
    for_seeds(7, 3, |seed| assert_eq!(run(seed).trace, run(seed).trace));
}

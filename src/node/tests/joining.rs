//! Nodes that a leader adds by itself.

use super::bed::Bed;
use super::members::change;
use super::watching::drain;
use crate::core::{Change, Configuration};
use crate::node::events::{NodeEvent, NodeEvents};
use crate::types::{NodeId, ReplicaId};
use crate::wal::{Crash, MemoryDisk, SyncPolicy};

const SECOND: u64 = 1_000_000;

/// Three nodes that add who waits, if `wanted`, and their leader.
fn led(wanted: bool) -> (Bed, NodeId) {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    for node in 1..=3 {
        bed.node_mut(node).driver.set_auto_join(wanted);
    }
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    let leader = bed.leader().expect("just seen");
    (bed, leader)
}

/// What is committed as far as a node knows.
fn committed(bed: &Bed, at: NodeId) -> Configuration {
    let committed = bed.node(at).shared.brief().committed.clone();
    committed.map_or_else(Configuration::default, |(_, it)| Configuration::clone(&it))
}

fn me(bed: &Bed, node: NodeId) -> ReplicaId {
    bed.node(node).shared.me
}

fn learns(bed: &Bed, at: NodeId, who: ReplicaId) -> bool {
    let mut learners = committed(bed, at).learners.into_iter();
    learners.any(|one| one.replica == who)
}

/// What was told so far of nodes that are added, or are not.
fn told(events: &mut NodeEvents) -> Vec<NodeEvent> {
    let mut told = drain(events);
    told.retain(|event| {
        matches!(
            event,
            NodeEvent::AddedByItself { .. }
                | NodeEvent::LeftOut { .. }
                | NodeEvent::ChangeRefused { .. }
        )
    });
    told
}

/// Its power goes, and it comes back with an empty disk.
fn wipe(bed: &mut Bed, node: NodeId) {
    bed.crash(node, Crash::PowerCut);
    bed.disks[node as usize - 1] = MemoryDisk::new();
    bed.start(node);
}

#[test]
fn nodes_that_wait_become_learners_one_after_the_other_and_do_not_vote() {
    let (mut bed, leader) = led(true);
    let mut events = bed.node(leader).shared.events.listen();
    let new = [bed.start_another(), bed.start_another()];
    let whose = new.map(|node| me(&bed, node));
    let all = |bed: &Bed| whose.iter().all(|who| learns(bed, leader, *who));
    assert!(bed.run(5 * SECOND, all));
    let added = |who| {
        let address = format!("node-{who}:1");
        NodeEvent::AddedByItself {
            who: me(&bed, who),
            address,
        }
    };
    assert_eq!(told(&mut events), new.map(added));
    let caught_up = |bed: &Bed| new.iter().all(|node| !bed.applied(*node).is_empty());
    let _answer = bed.propose(leader, "for all");
    assert!(bed.run(5 * SECOND, caught_up));
    bed.run(20 * SECOND, |_| false);
    assert!(all(&bed), "nobody promoted them");
    assert_eq!(committed(&bed, leader).incoming.len(), 3);
    assert_eq!(told(&mut events), []);
}

#[test]
fn without_the_word_they_wait() {
    let (mut bed, leader) = led(false);
    bed.start_another();
    bed.run(20 * SECOND, |_| false);
    assert!(committed(&bed, leader).learners.is_empty());
}

#[test]
fn a_member_that_lost_its_disk_is_not_added_anew() {
    let (mut bed, leader) = led(true);
    let learner = bed.start_another();
    let who = me(&bed, learner);
    assert!(bed.run(5 * SECOND, |bed| learns(bed, leader, who)));
    let voter = leader % 3 + 1;
    let before = committed(&bed, leader);
    wipe(&mut bed, voter);
    wipe(&mut bed, learner);
    bed.run(20 * SECOND, |_| false);
    assert_eq!(committed(&bed, bed.leader().expect("it leads")), before);
}

#[test]
fn who_was_removed_stays_out_and_is_told_of_once() {
    let (mut bed, leader) = led(true);
    let node = bed.start_another();
    let who = me(&bed, node);
    assert!(bed.run(5 * SECOND, |bed| learns(bed, leader, who)));
    let through = change(&mut bed, leader, Change::Remove(node));
    assert!(matches!(through, Some(Ok(_))), "{through:?}");
    let mut events = bed.node(leader).shared.events.listen();
    bed.run(20 * SECOND, |_| false);
    assert_eq!(told(&mut events), [], "as it was");
    wipe(&mut bed, node);
    bed.run(20 * SECOND, |_| false);
    assert!(committed(&bed, leader).learners.is_empty());
    let told = told(&mut events);
    let wiped = me(&bed, node);
    assert!(
        matches!(&told[..], [NodeEvent::LeftOut { who, .. }] if *who == wiped),
        "{told:?}"
    );
}

#[test]
fn the_next_leader_goes_on() {
    let (mut bed, leader) = led(true);
    bed.hub.isolate(leader, true);
    let node = bed.start_another();
    let who = me(&bed, node);
    let another = |bed: &Bed| bed.leader().is_some_and(|now| now != leader);
    assert!(bed.run(5 * SECOND, another));
    let now = bed.leader().expect("just seen");
    assert!(bed.run(5 * SECOND, |bed| learns(bed, now, who)));
}

//! Partial connectivity (hazard A7): every graph of links, and what must come of it.
//!
//! A node that can reach a quorum both ways and whose log is up to date leads in the end, and then
//! stays. Where nobody can, nothing is committed and the terms stand still.

use super::bed::{Bed, T_MAX};
use super::election::led;
use super::seeds::{leader, recovers};
use crate::types::NodeId;

/// Nodes with a link both ways to a quorum, themselves counted.
fn centres(bed: &Bed, open: impl Fn(NodeId, NodeId) -> bool) -> Vec<NodeId> {
    let reaches = |a: NodeId| {
        let both = |b: &NodeId| *b == a || open(a, *b) && open(*b, a);
        bed.ids().filter(both).count() * 2 > bed.nodes.len()
    };
    bed.ids().filter(|node| reaches(*node)).collect()
}

/// Cuts what is not open, waits, and checks that leadership is stable or rightly absent.
fn check(mut bed: Bed, what: u32, open: impl Fn(NodeId, NodeId) -> bool) {
    for a in bed.ids() {
        for b in bed.ids().filter(|b| *b != a && !open(a, *b)) {
            bed.net.cut(a, b);
        }
    }
    let centres = centres(&bed, &open);
    bed.run_for(12 * T_MAX);
    let before = (leader(&bed), bed.ghost.elections());
    bed.run_for(6 * T_MAX);
    let after = (leader(&bed), bed.ghost.elections());
    if centres.is_empty() {
        assert_eq!(after.0, None, "graph {what:b}: it leads without a quorum");
        assert_eq!(before.1, after.1, "graph {what:b}");
    } else {
        let leads = after
            .0
            .unwrap_or_else(|| panic!("graph {what:b}: nobody leads"));
        assert!(centres.contains(&leads), "graph {what:b}");
        assert_eq!(before, after, "graph {what:b}: leadership changes for ever");
        let committed = bed.ghost.committed();
        bed.propose(leads, 1);
        bed.run_for(T_MAX);
        assert!(bed.ghost.committed() > committed, "graph {what:b}");
    }
    recovers(&mut bed);
}

#[test]
fn a7_every_directed_graph_on_three_nodes() {
    let ways: Vec<(NodeId, NodeId)> = (1..=3)
        .flat_map(|a| (1..=3).filter(move |b| *b != a).map(move |b| (a, b)))
        .collect();
    for graph in 0..1_u32 << ways.len() {
        check(led(u64::from(graph), 3), graph, |a, b| {
            let at = ways.iter().position(|way| *way == (a, b));
            at.is_some_and(|at| graph >> at & 1 == 1)
        });
    }
}

/// Every graph on five nodes, one of each kind: two graphs that differ only in the nodes' names
/// have the same smallest number under all renamings.
fn graphs_on_five() -> Vec<u32> {
    let edges: Vec<(usize, usize)> = (0..5)
        .flat_map(|a| (a + 1..5).map(move |b| (a, b)))
        .collect();
    let bit = |a: usize, b: usize| {
        let edge = (a.min(b), a.max(b));
        edges.iter().position(|other| *other == edge).unwrap_or(0)
    };
    let mut names = Vec::new();
    permute(&mut [0, 1, 2, 3, 4], 0, &mut names);
    let smallest = |graph: &u32| {
        names.iter().all(|name| {
            let held = edges.iter().filter(|(a, b)| graph >> bit(*a, *b) & 1 == 1);
            let renamed = held.fold(0, |all, (a, b)| all | 1 << bit(name[*a], name[*b]));
            renamed >= *graph
        })
    };
    (0..1 << edges.len()).filter(smallest).collect()
}

fn permute(names: &mut [usize; 5], at: usize, all: &mut Vec<[usize; 5]>) {
    if at == names.len() {
        return all.push(*names);
    }
    for other in at..names.len() {
        names.swap(at, other);
        permute(names, at + 1, all);
        names.swap(at, other);
    }
}

#[test]
fn a7_every_link_graph_on_five_nodes() {
    let graphs = graphs_on_five();
    assert_eq!(graphs.len(), 34);
    for graph in graphs {
        for seed in 0..3 {
            let mut edges = (1..=5).flat_map(|a| (a + 1..=5).map(move |b| (a, b)));
            let edges: Vec<(NodeId, NodeId)> = edges.by_ref().collect();
            check(led(u64::from(graph) + seed, 5), graph, |a, b| {
                let edge = (a.min(b), a.max(b));
                let at = edges.iter().position(|other| *other == edge);
                at.is_some_and(|at| graph >> at & 1 == 1)
            });
        }
    }
}

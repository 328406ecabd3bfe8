//! Releases that know different feature levels (hazard J2).

use super::bed::Bed;
use crate::core::{AppendEntries, Configuration, FEATURES, Message};
use crate::entry::{EntryBatch, frame};
use crate::network::NetworkEvent;
use crate::types::{EntryKind, LogId, NodeId};
use crate::wal::{Crash, SyncPolicy};

const SECOND: u64 = 1_000_000;

/// Nodes that lead or follow, and their leader.
fn led(nodes: usize) -> (Bed, NodeId) {
    let mut bed = Bed::new(nodes, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    (bed, leader)
}

#[test]
fn j2_a_release_that_lacks_the_level_refuses_to_start() {
    let (mut bed, leader) = led(1);
    bed.crash(leader, Crash::PowerCut);
    assert_eq!(bed.begins(leader), Ok(()));
    bed.start(leader);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.node_mut(leader).upgrade((1, FEATURES.1 + 1));
    let raised = |bed: &Bed| {
        let committed = bed.node(leader).shared.brief().committed.clone();
        committed.is_some_and(|(_, it)| it.feature_level == FEATURES.1 + 1)
    };
    assert!(bed.run(2 * SECOND, raised), "all members know the level");
    let told = bed.node(leader).told.lock().expect("told").clone();
    let newest = told.last().expect("facts");
    assert_eq!(newest.needs_level, FEATURES.1 + 1);
    bed.crash(leader, Crash::PowerCut);
    let why = bed.begins(leader).expect_err("an older release");
    assert!(
        why.contains("start this node with a release that knows level"),
        "{why}"
    );
}

#[test]
fn j2_a_configuration_of_a_newer_level_stops_who_lacks_it() {
    let (mut bed, leader) = led(3);
    let node = leader % 3 + 1;
    let brief = bed.node(leader).shared.brief().clone();
    let newer = Configuration {
        feature_level: FEATURES.1 + 1,
        ..Configuration::clone(&brief.configuration.expect("one"))
    };
    let prev = brief.last;
    let id = LogId::new(brief.term, prev.index + 1);
    let bytes = frame(id, EntryKind::Configuration, u64::MAX, &newer.encode());
    let append = AppendEntries {
        term: brief.term,
        epoch: 1,
        seq: 0,
        prev,
        commit: 0,
        sent_at: 0,
        count: 1,
    };
    let event = NetworkEvent::Message {
        from: bed.node(leader).shared.me,
        message: Message::Append(append),
        entries: EntryBatch::verify(vec![bytes], prev, 1, 1 << 20).expect("an entry"),
        chunk: Vec::new(),
        held: Default::default(),
    };
    let inbox = &bed.node(node).shared.inbox;
    inbox.put(|lanes| lanes.network.push(event));
    bed.run(SECOND, |_| false);
    let why = bed.node(node).shared.brief().failure.clone();
    let why = why.expect("it stopped");
    assert!(why.contains("feature level 2"), "{why}");
}

//! Commands of a pipeline: none overtakes another, and none is left without an outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::bed::Bed;
use crate::error::ProposeError;
use crate::node::line::Line;
use crate::node::pipeline::Pipelined;
use crate::node::waiters::Reply;
use crate::types::NodeId;
use crate::wal::{Crash, SyncPolicy};

const SECOND: u64 = 1_000_000;

type Outcomes = BTreeMap<u64, Result<usize, ProposeError>>;

fn led() -> (Bed, NodeId) {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    (bed, leader)
}

#[test]
fn after_one_that_found_no_room_in_time_nothing_of_its_line_is_appended() {
    let (mut bed, leader) = led();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let line = Arc::<Line>::default();
    let in_line = |ticket| Reply::Pipelined(Pipelined::new(ticket, sender.clone(), Some(&line)));
    // The log has no room for so much until its disk prepares more.
    bed.node_mut(leader).room_stalls = true;
    let large = "x".repeat(1 << 20);
    for ticket in 0..40 {
        let patience = if ticket == 30 { SECOND } else { 60 * SECOND };
        bed.propose_with(leader, &large, in_line(ticket), patience);
    }
    bed.run(2 * SECOND, |_| false);
    bed.propose_with(leader, "behind it", in_line(40), 60 * SECOND);
    let unordered = Reply::Pipelined(Pipelined::new(41, sender.clone(), None));
    bed.propose_with(leader, "unordered", unordered, 60 * SECOND);
    bed.node_mut(leader).room_stalls = false;
    bed.run(20 * SECOND, |_| false);
    let mut outcomes = Outcomes::new();
    while let Ok((ticket, outcome)) = receiver.try_recv() {
        assert!(outcomes.insert(ticket, outcome).is_none(), "answered twice");
    }
    assert_eq!(outcomes.len(), 42);
    assert_eq!(outcomes[&30], Err(ProposeError::Deadline));
    assert_eq!(outcomes[&40], Err(ProposeError::Overtaking));
    assert!(
        outcomes[&0].is_ok() && outcomes[&41].is_ok(),
        "{outcomes:?}"
    );
    let appended = outcomes.iter().filter(|(_, outcome)| outcome.is_ok());
    let appended: Vec<_> = appended.map(|(ticket, _)| *ticket).collect();
    let all_before: Vec<_> = (0..30).chain([41]).collect();
    assert_eq!(appended, all_before, "those before it are");
    assert_eq!(bed.applied(leader).len(), 31);
    assert!(!bed.applied(leader).contains(&"behind it".to_owned()));
}

/// It may be in the log of a leader that is none any more by the time the next one finds the new one.
#[test]
fn f3_behind_what_nobody_knows_of_nothing_of_its_line_is_appended() {
    let (mut bed, leader) = led();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let line = Arc::<Line>::default();
    let in_line = |ticket| Reply::Pipelined(Pipelined::new(ticket, sender.clone(), Some(&line)));
    for follower in (1..=3).filter(|node| *node != leader) {
        bed.node_mut(follower).disk_stalls = true;
    }
    bed.propose_with(leader, "a", in_line(0), SECOND / 10);
    bed.run(SECOND / 5, |_| false);
    let first = receiver.try_recv();
    let unknown = matches!(
        first,
        Ok((0, Err(ProposeError::Unknown { index: 1.., .. })))
    );
    assert!(unknown, "appended, and not committed in time: {first:?}");
    bed.propose_with(leader, "b", in_line(1), SECOND);
    bed.run(SECOND / 10, |_| false);
    assert_eq!(receiver.try_recv(), Ok((1, Err(ProposeError::Overtaking))));
}

#[test]
fn f5_a_node_that_comes_down_leaves_no_pipeline_without_outcomes() {
    let (mut bed, leader) = led();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let reply = Reply::Pipelined(Pipelined::new(7, sender, None));
    bed.propose_with(leader, "a", reply, SECOND);
    bed.crash(leader, Crash::Kill);
    let unknown = ProposeError::Unknown { index: 0, term: 0 };
    assert_eq!(receiver.try_recv(), Ok((7, Err(unknown))));
}

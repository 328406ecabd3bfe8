//! Nothing leaves before the sync that it waits for: the disks of this bed sync when told to.

use tokio::sync::oneshot;

use super::bed::{Answer, Bed};
use crate::config::limits;
use crate::core::{AppendStatus, Heartbeat, Message};
use crate::entry::EntryBatch;
use crate::error::ProposeError;
use crate::network::{Held, NetworkEvent};
use crate::types::{LogIndex, NodeId};
use crate::wal::{MemoryDisk, SyncPolicy};

const SECOND: u64 = 1_000_000;

struct Stalled {
    bed: Bed,
    leader: NodeId,
    answer: Answer,
    before: LogIndex,
    syncs: u64,
}

/// A healthy cluster whose disks all stop syncing, if they ever do; then a proposal comes.
fn propose_while_disks_stall(sync: SyncPolicy) -> Stalled {
    let mut bed = Bed::new(3, sync);
    assert!(bed.run(5 * SECOND, |bed| {
        bed.leader()
            .is_some_and(|leader| bed.node(leader).shared.commit_index() >= 2)
    }));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    let before = bed.node(leader).shared.brief().last.index;
    for node in 1..=3 {
        bed.node_mut(node).disk_stalls = sync == SyncPolicy::Sync;
        bed.node(node).sent.lock().expect("sent").clear();
    }
    let syncs = bed.disks.iter().map(MemoryDisk::syncs).sum();
    let answer = bed.propose(leader, "x");
    // Shorter than an election timeout, so that nothing but the proposal goes on.
    bed.run(100_000, |_| false);
    Stalled {
        bed,
        leader,
        answer,
        before,
        syncs,
    }
}

impl Stalled {
    /// What the rule forbids: a promise before any sync.
    fn promised_early(&mut self) -> bool {
        let syncs: u64 = self.bed.disks.iter().map(MemoryDisk::syncs).sum();
        let acked = (1..=3).any(|node| acks_beyond(&self.bed, node, self.before));
        syncs == self.syncs && (acked || self.answer.try_recv().is_ok())
    }
}

fn acks_beyond(bed: &Bed, node: NodeId, index: LogIndex) -> bool {
    bed.node(node)
        .sent
        .lock()
        .expect("sent")
        .iter()
        .any(|(_, message)| {
            matches!(message, Message::AppendAck(ack)
            if ack.status == AppendStatus::Matched && ack.match_index > index)
        })
}

#[test]
fn c1_no_ack_and_no_answer_before_the_sync() {
    let mut stalled = propose_while_disks_stall(SyncPolicy::Sync);
    assert!(!stalled.promised_early());
    let Stalled {
        mut bed,
        leader,
        mut answer,
        before,
        ..
    } = stalled;
    let followers = (1..=3).filter(|node| *node != leader);
    for node in followers {
        assert_eq!(
            bed.node(node).shared.brief().last.index,
            before + 1,
            "it has the entry"
        );
        // A majority without the leader's own disk is enough.
        bed.node_mut(node).disk_stalls = false;
    }
    let mut outcome = None;
    bed.run(SECOND, |_| {
        outcome = outcome.take().or_else(|| answer.try_recv().ok());
        outcome.is_some()
    });
    assert_eq!(outcome, Some(Ok(1)));
}

/// The negative control: with the sync taken out, the same check turns red.
#[test]
fn c1_the_check_bites_when_the_sync_is_taken_out() {
    assert!(propose_while_disks_stall(SyncPolicy::UnsafeNoSync).promised_early());
}

/// A newer leader may have replaced by then what it is about, and the old one still counts.
#[test]
fn b3_what_an_older_term_was_promised_is_void_in_a_newer() {
    let Stalled {
        mut bed, leader, ..
    } = propose_while_disks_stall(SyncPolicy::Sync);
    let (node, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let term = bed.node(leader).shared.brief().term + 1;
    let heartbeat = Heartbeat {
        term,
        epoch: 1,
        seq: 0,
        commit: 0,
        sent_at: 0,
        read_id: 0,
        digest_index: 0,
        digest: 0,
    };
    let event = NetworkEvent::Message {
        from: bed.node(other).shared.me,
        message: Message::Heartbeat(heartbeat),
        entries: EntryBatch::default(),
        chunk: Vec::new(),
        held: Held::default(),
    };
    let inbox = &bed.node(node).shared.inbox;
    inbox.put(|lanes| lanes.network.push(event));
    let follows = |bed: &Bed| bed.node(node).shared.brief().term == term;
    assert!(bed.run(1_000, follows));
    bed.node(node).sent.lock().expect("sent").clear();
    bed.node_mut(node).disk_stalls = false;
    bed.run(20_000, |_| false);
    let sent = bed.node(node).sent.lock().expect("sent").clone();
    assert!(!sent.is_empty(), "its disk is back");
    let old: Vec<_> = sent
        .iter()
        .filter(|(_, message)| message.term() < term)
        .collect();
    assert!(old.is_empty(), "{old:?}");
}

#[test]
fn a1_no_vote_leaves_before_it_is_durable() {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    bed.hub.isolate(leader, true);
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != leader).collect();
    for node in &others {
        bed.node_mut(*node).disk_stalls = true;
        bed.node(*node).sent.lock().expect("sent").clear();
    }
    bed.run(3 * SECOND, |_| false);
    let votes = |bed: &Bed| {
        let of = |node: &NodeId| {
            let sent = bed.node(*node).sent.lock().expect("sent").clone();
            sent.into_iter().filter(|(_, message)| {
                matches!(message, Message::Vote(_))
                    || matches!(message, Message::VoteReply(reply) if reply.granted)
            })
        };
        others.iter().flat_map(of).count()
    };
    assert_eq!(
        votes(&bed),
        0,
        "a term or vote was told before it was durable"
    );
    assert!(bed.leader().is_none_or(|who| who == leader));
    others
        .iter()
        .for_each(|node| bed.node_mut(*node).disk_stalls = false);
    assert!(bed.run(3 * SECOND, |bed| {
        bed.leader().is_some_and(|who| who != leader)
    }));
    assert!(votes(&bed) > 0);
}

/// Three nodes, one leads, and its disk stops answering.
fn leader_with_a_stalled_disk() -> (Bed, NodeId) {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    bed.node_mut(leader).disk_stalls = true;
    (bed, leader)
}

#[test]
fn c10_a_leader_whose_disk_stalls_briefly_goes_on_heartbeating_and_committing() {
    let (mut bed, leader) = leader_with_a_stalled_disk();
    let term = bed.node(leader).shared.brief().term;
    let mut answer = bed.propose(leader, "x");
    let mut outcome = None;
    bed.run(SECOND / 4, |_| {
        outcome = outcome.take().or_else(|| answer.try_recv().ok());
        false
    });
    bed.node_mut(leader).disk_stalls = false;
    bed.run(SECOND, |_| false);
    assert_eq!(outcome, Some(Ok(1)), "the majority's disks are enough");
    assert_eq!(bed.leader(), Some(leader));
    assert_eq!(
        bed.node(leader).shared.brief().term,
        term,
        "nobody missed a heartbeat"
    );
}

#[test]
fn c10_a_leader_whose_disk_stalls_for_an_election_timeout_leads_no_more() {
    let (mut bed, leader) = leader_with_a_stalled_disk();
    let mut answer = bed.propose(leader, "x");
    let another = |bed: &Bed| bed.leader().is_some_and(|who| who != leader);
    assert!(bed.run(2 * SECOND, another), "the others go on");
    assert_eq!(answer.try_recv().expect("answered"), Ok(1));
    let successor = bed.leader().expect("a leader");
    bed.propose(successor, "y");
    bed.run(3 * SECOND, |_| false);
    assert_eq!(bed.leader(), Some(successor), "it does not come back");
    bed.node_mut(leader).disk_stalls = false;
    bed.run(SECOND, |_| false);
    let applied = |node: NodeId| bed.node(node).shared.applied_index();
    assert_eq!(applied(leader), applied(successor), "but it follows");
}

#[test]
fn h1_what_is_not_committed_is_bounded_and_the_rest_is_refused() {
    const MIB: usize = 1 << 20;
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    for node in (1..=3).filter(|node| *node != leader) {
        bed.node_mut(node).disk_stalls = true;
    }
    let large = "x".repeat(MIB);
    let mut answers = Vec::new();
    for _ in 0..80 {
        answers.push(bed.propose(leader, &large));
        bed.run(5_000, |_| false);
    }
    let refused = answers
        .iter_mut()
        .filter_map(|answer| answer.try_recv().ok());
    let refused = refused.inspect(|outcome| {
        assert!(
            matches!(outcome, Err(ProposeError::Overloaded { .. })),
            "{outcome:?}"
        );
    });
    let refused = refused.count();
    let budget = limits::MAX_UNCOMMITTED / MIB;
    assert!(refused >= 80 - budget, "{refused} of 80 were refused");
    assert!(
        refused < 80 - budget / 2,
        "up to the budget, proposals are taken"
    );
}

#[test]
fn f5_what_finds_no_room_in_time_is_answered_and_certainly_not_applied() {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    bed.node_mut(leader).room_stalls = true;
    let large = "x".repeat(1 << 20);
    let mut answers: Vec<Answer> = (0..24).map(|_| bed.propose(leader, &large)).collect();
    bed.run(6 * SECOND, |_| false);
    let outcomes: Vec<_> = answers.iter_mut().map(|answer| answer.try_recv()).collect();
    let applied = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Ok(Ok(_))))
        .count();
    let late = outcomes
        .iter()
        .filter(|outcome| **outcome == Ok(Err(ProposeError::Deadline)));
    assert_eq!(applied + late.count(), 24, "{outcomes:?}");
    assert!((1..24).contains(&applied), "{applied} found room");
    assert_eq!(
        bed.applied(leader).len(),
        applied,
        "nothing else was applied"
    );
}

#[test]
fn f5_whose_time_is_over_is_answered_then_and_not_with_the_next_heartbeat() {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    // Some find no room in the log; those that did are not committed.
    bed.node_mut(leader).room_stalls = true;
    for node in 1..=3 {
        bed.node_mut(node).disk_stalls = true;
    }
    let large = "x".repeat(1 << 20);
    let (mut appended, mut waited) = (0, 0);
    for nth in 0..24 {
        let (reply, mut answer) = oneshot::channel();
        // Heartbeats are 50 ms apart.
        let patience = 1_000 + 700 * nth;
        bed.propose_with(leader, &large, reply.into(), patience);
        bed.run(patience - 500, |_| false);
        assert!(answer.try_recv().is_err(), "{nth}: its time is not over");
        bed.run(1_000, |_| false);
        let outcome = answer.try_recv().expect("its time is over");
        match outcome {
            Err(ProposeError::Unknown { .. }) => appended += 1,
            Err(ProposeError::Deadline) => waited += 1,
            other => panic!("{nth}: {other:?}"),
        }
    }
    assert!(appended > 0 && waited > 0, "{appended} and {waited}");
}

#[test]
fn e11_peers_hear_of_the_founding_only_once_it_is_durable() {
    let mut bed = Bed::new(1, SyncPolicy::Sync);
    bed.node_mut(1).disk_stalls = true;
    bed.run(SECOND, |_| false);
    assert_eq!(
        bed.node(1).shared.brief().last.index,
        1,
        "entry 1 is in the log"
    );
    let members = |bed: &Bed| {
        let told = bed.node(1).told.lock().expect("told");
        told.iter().filter(|facts| !facts.blank).count()
    };
    assert_eq!(
        members(&bed),
        0,
        "the update counter of META could be taken back by a crash"
    );
    bed.node_mut(1).disk_stalls = false;
    assert!(bed.run(SECOND, |bed| members(bed) > 0));
}

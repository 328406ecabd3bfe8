//! Snapshots: who gets one, and what putting one in place may and may not change (section 7).

use super::super::{
    AppendAck, AppendStatus, Event, FoundingList, Input, Message, Output, RaftCore, Recovered,
    SnapshotAck, SnapshotInput, SnapshotMark, SnapshotOffer, SnapshotStatus,
};
use super::bed::{T_MAX, incarnation, settings};
use super::script::{Script, image, matched, replica, voters};
use crate::types::{LogId, LogIndex, NodeId, WriteId};

const ID: u128 = 77;

fn mark(term: u64, index: LogIndex) -> SnapshotMark {
    SnapshotMark {
        last: LogId::new(term, index),
        id: ID,
    }
}

fn offer(term: u64, last: LogId) -> Message {
    Message::SnapshotOffer(SnapshotOffer {
        term,
        id: ID,
        last,
        len: 1000,
        hash: [0; 32],
        chunk: 512,
        format: 1,
    })
}

fn received(mark: SnapshotMark) -> Input {
    Input::Snapshot(SnapshotInput::Received {
        from: replica(2),
        mark,
        genesis: incarnation(1, 1),
        configuration: (4, voters(5)),
    })
}

fn restored(mark: SnapshotMark, done: bool) -> Input {
    Input::Snapshot(SnapshotInput::Restored { mark, done })
}

/// Snapshot answers, with the writes that they wait for.
fn acks(one: &Script) -> Vec<(SnapshotStatus, Option<WriteId>)> {
    let sends = one.sends();
    let acks = sends
        .iter()
        .filter_map(|(_, message, after)| match message {
            Message::SnapshotAck(ack) => Some((ack.status, *after)),
            _ => None,
        });
    acks.collect()
}

fn installs(one: &Script) -> Vec<(WriteId, LogId)> {
    let install = |output: &Output| match output {
        Output::Install { id, last } => Some((*id, *last)),
        _ => None,
    };
    one.out.iter().filter_map(install).collect()
}

fn count(one: &Script, wanted: impl Fn(&Output) -> bool) -> usize {
    one.out.iter().filter(|output| wanted(output)).count()
}

/// Follows node 2 in term 3, with three entries of its own that the leader does not have.
fn follower() -> Script {
    let mut one = Script::new(1, 3, &[1, 2, 2], 3);
    one.tell(2, offer(3, LogId::new(3, 9)));
    let taken = count(&one, |output| matches!(output, Output::TakeOffer { .. }));
    assert_eq!(taken, 1, "{:?}", one.out);
    one
}

#[test]
fn d1_while_a_snapshot_is_put_in_place_nothing_else_changes_the_log() {
    let mut one = follower();
    one.feed(received(mark(3, 9)));
    let restores = count(&one, |output| matches!(output, Output::Restore { .. }));
    assert_eq!(restores, 1);
    one.out.clear();
    one.append(2, 3, LogId::new(1, 1), &[3, 3], 3);
    one.feed(received(SnapshotMark {
        id: 78,
        ..mark(3, 12)
    }));
    one.tell(2, offer(3, LogId::new(3, 9)));
    assert_eq!((one.writes().len(), one.core.commit()), (0, 0));
    let busy = one.sends().iter().any(|(_, message, _)| {
        matches!(message, Message::AppendAck(ack) if ack.status == AppendStatus::Busy)
    });
    assert!(busy, "{:?}", one.out);
    let [(SnapshotStatus::Busy, _), (SnapshotStatus::Installing, _)] = acks(&one)[..] else {
        panic!("{:?}", one.out);
    };
    one.feed(restored(mark(3, 9), true));
    assert_eq!(installs(&one).len(), 1);
    assert_eq!(one.core.log_start(), LogId::new(3, 9));
    assert_eq!((one.core.last().index, one.core.commit()), (9, 9));
    let (id, _) = installs(&one)[0];
    assert_eq!(acks(&one)[2], (SnapshotStatus::Installed, Some(id)));
    one.append(2, 3, LogId::new(3, 9), &[3], 10);
    assert_eq!((one.core.last().index, one.core.commit()), (10, 10));
}

#[test]
fn d1_writes_from_before_do_not_vouch_for_what_follows_the_snapshot() {
    let mut one = Script::new(1, 3, &[1], 2);
    one.append(3, 2, LogId::new(1, 1), &[2, 2, 2], 0);
    let old = one.writes().last().expect("appended").id;
    one.tell(2, offer(3, LogId::new(3, 3)));
    one.feed(received(mark(3, 3)));
    one.feed(restored(mark(3, 3), true));
    let (id, _) = installs(&one)[0];
    one.append(2, 3, LogId::new(3, 3), &[3], 3);
    one.durable(old);
    assert!(one.core.durable() < 3, "{}", one.core.durable());
    one.durable(id);
    assert_eq!(one.core.durable(), 3);
}

#[test]
fn d1_a_state_machine_that_refuses_leaves_everything_as_it_was() {
    let mut one = follower();
    let before = one.terms();
    one.feed(received(mark(3, 9)));
    one.feed(restored(mark(3, 9), false));
    assert_eq!((one.terms(), installs(&one).len()), (before, 0));
    assert_eq!(
        acks(&one).last().expect("answered").0,
        SnapshotStatus::Refused
    );
    one.append(2, 3, LogId::new(1, 1), &[3], 0);
    assert_eq!(one.terms(), [1, 3], "and it follows on");
}

#[test]
fn d4_what_the_log_covers_is_not_installed() {
    for (committed, last) in [
        (3, LogId::new(2, 2)),
        (3, LogId::new(2, 3)),
        (1, LogId::new(2, 3)),
    ] {
        let mut one = Script::new(1, 3, &[1, 2, 2], 3);
        one.append(2, 3, LogId::new(2, 3), &[], committed);
        one.out.clear();
        one.tell(2, offer(3, last));
        assert_eq!(
            count(&one, |out| matches!(out, Output::TakeOffer { .. })),
            0
        );
        assert_eq!(acks(&one)[0].0, SnapshotStatus::Installed);
        assert_eq!(one.core.commit(), committed.max(last.index));
        assert_eq!(one.terms(), [1, 2, 2]);
    }
}

#[test]
fn d4_one_that_came_in_and_is_covered_by_now_is_not_installed() {
    let mut one = follower();
    one.append(2, 3, LogId::new(1, 1), &[3; 8], 9);
    one.feed(received(mark(3, 9)));
    assert_eq!(count(&one, |out| matches!(out, Output::Restore { .. })), 0);
    assert_eq!(one.core.last().index, 9);
}

#[test]
fn d4_a_snapshot_that_contradicts_what_is_committed_stops_the_replica() {
    let mut one = Script::new(1, 3, &[1, 2, 2], 3);
    one.append(2, 3, LogId::new(2, 3), &[], 3);
    one.tell(2, offer(3, LogId::new(3, 3)));
    assert!(one.core.failed());
    let fatal = one
        .events()
        .into_iter()
        .any(|event| matches!(event, Event::Fatal(_)));
    assert!(fatal && installs(&one).is_empty());
}

#[test]
fn d5_the_members_are_who_the_snapshot_says() {
    let mut one = follower();
    one.feed(received(mark(3, 9)));
    assert_eq!(one.core.configuration().expect("known").incoming.len(), 3);
    one.feed(restored(mark(3, 9), true));
    assert_eq!(one.core.configurations().to_vec(), [(4, voters(5))]);
    let told = Event::Configured {
        index: 4,
        configuration: voters(5),
    };
    assert!(one.events().contains(&told));
    // A conflict behind it falls back to no older one.
    one.append(2, 3, LogId::new(3, 9), &[3], 9);
    one.append(3, 4, LogId::new(3, 9), &[4], 9);
    assert_eq!(one.core.configuration(), Some(&voters(5)));
}

#[test]
fn d5_a_blank_node_joins_by_a_snapshot_of_its_cluster_and_no_member_by_one_of_another() {
    let list = FoundingList {
        others: vec![2, 3],
        ..FoundingList::default()
    };
    let mut blank = Script {
        core: RaftCore::new(replica(1), settings(1), Recovered::default(), list, 0),
        now: T_MAX,
        out: Vec::new(),
    };
    blank.tell(2, offer(3, LogId::new(3, 9)));
    blank.feed(received(mark(3, 9)));
    blank.feed(restored(mark(3, 9), true));
    assert_eq!(blank.core.genesis(), incarnation(1, 1));
    assert!(!blank.core.is_blank());
    let mut one = follower();
    one.feed(Input::Snapshot(SnapshotInput::Received {
        from: replica(2),
        mark: mark(3, 9),
        genesis: incarnation(9, 9),
        configuration: (4, voters(5)),
    }));
    assert_eq!(acks(&one)[0].0, SnapshotStatus::Refused);
    assert!(!one.core.is_installing());
}

#[test]
fn s15_a_snapshot_of_an_older_term_changes_nothing() {
    let mut one = Script::new(1, 3, &[1, 2], 5);
    one.tell(2, offer(4, LogId::new(4, 9)));
    assert_eq!(acks(&one)[0].0, SnapshotStatus::StaleTerm);
    assert_eq!((one.core.leader(), one.core.term()), (None, 5));
}

/// Leads term 3 over a log of eight entries that begins after the fifth, beside a stored snapshot.
fn leader() -> Script {
    let whole = image(4, &[1, 2, 2, 2, 2, 2, 2, 2], 2);
    let recovered = Recovered {
        snapshot: LogId::new(2, 5),
        terms: vec![LogId::new(2, 6)],
        stored: Some(mark(2, 6)),
        ..whole.recovered()
    };
    let list = FoundingList::default();
    let mut one = Script {
        core: RaftCore::new(replica(1), settings(1), recovered, list, 0),
        now: T_MAX,
        out: Vec::new(),
    };
    one.time_out();
    let asked = one.last_request();
    for peer in [2, 3] {
        let reply = super::script::grant(peer, asked);
        one.tell(peer, Message::PreVoteReply(reply));
    }
    let write = one.writes().last().expect("the own vote").id;
    one.durable(write);
    let asked = one.last_request();
    for peer in [2, 3] {
        one.tell(peer, Message::VoteReply(super::script::grant(peer, asked)));
    }
    assert!(one.core.is_leader());
    (2..=4).for_each(|peer| one.connect(peer, 7));
    one.settle();
    one
}

/// The peer's log ends at `last`, of term 1.
fn lacks(one: &mut Script, peer: NodeId, last: LogIndex) {
    let append = *one.appends_to(peer).last().expect("a probe");
    one.tell(
        peer,
        Message::AppendAck(AppendAck {
            status: AppendStatus::Conflict,
            conflict: LogId::new(1, last),
            match_index: 0,
            ..matched(peer, append, 3)
        }),
    );
    one.settle();
}

fn ack(one: &mut Script, peer: NodeId, status: SnapshotStatus, next_offset: u64) {
    let term = one.core.term();
    one.tell(
        peer,
        Message::SnapshotAck(SnapshotAck {
            term,
            incarnation: replica(peer).incarnation,
            id: ID,
            next_offset,
            status,
        }),
    );
}

fn offers(one: &Script) -> Vec<NodeId> {
    let offer = |output: &Output| match output {
        Output::OfferSnapshot { to, .. } => Some(*to),
        _ => None,
    };
    one.out.iter().filter_map(offer).collect()
}

#[test]
fn d6_whoever_needs_what_is_gone_gets_one_snapshot_and_then_what_follows_it() {
    let mut one = leader();
    lacks(&mut one, 2, 1);
    assert_eq!(offers(&one), [2]);
    assert_eq!(one.core.peer(2).expect("a peer").snapshot, Some(6));
    let appends = one.appends_to(2).len();
    one.feed(Input::Propose { count: 3 });
    one.settle();
    assert_eq!(one.appends_to(2).len(), appends, "nothing goes beside it");
    ack(&mut one, 2, SnapshotStatus::Receiving, 512);
    let chunk = Output::SendChunks {
        to: 2,
        id: ID,
        offset: 512,
    };
    assert_eq!(
        count(&one, |output| format!("{output:?}") == format!("{chunk:?}")),
        1
    );
    ack(&mut one, 2, SnapshotStatus::Installed, 0);
    one.settle();
    assert_eq!(one.core.peer(2).expect("a peer").match_index, 6);
    let next = one.appends_to(2).last().expect("it goes on").prev;
    assert_eq!((next, offers(&one)), (LogId::new(2, 6), vec![2]));
}

#[test]
fn d6_a_transfer_that_gets_no_answer_is_tried_again_at_leisure() {
    let mut one = leader();
    lacks(&mut one, 2, 1);
    for peer in [3, 4] {
        let append = *one.appends_to(peer).last().expect("an append");
        let last = one.core.last().index;
        one.tell(peer, Message::AppendAck(matched(peer, append, last)));
    }
    let until = one.now + 20 * T_MAX;
    while one.now < until {
        one.time_out();
        for peer in [3, 4] {
            let reply = super::script::beat_reply(peer, 3, 7);
            one.tell(peer, Message::HeartbeatReply(reply));
        }
        one.settle();
    }
    assert!(one.core.is_leader());
    let tries = offers(&one).len();
    assert!((5..=11).contains(&tries), "{tries}");
}

#[test]
fn d6_no_more_than_two_are_sent_at_a_time() {
    let mut one = leader();
    (2..=4).for_each(|peer| lacks(&mut one, peer, 1));
    assert_eq!(offers(&one), [2, 3]);
    ack(&mut one, 2, SnapshotStatus::Installed, 0);
    one.settle();
    let until = one.now + 4 * T_MAX;
    while offers(&one).len() < 3 && one.now < until {
        one.time_out();
        for peer in [2, 3] {
            let reply = super::script::beat_reply(peer, 3, 7);
            one.tell(peer, Message::HeartbeatReply(reply));
        }
        one.settle();
    }
    assert_eq!(offers(&one)[2], 4);
}

#[test]
fn d6_who_has_the_log_from_its_start_on_gets_entries() {
    let mut one = leader();
    let append = *one.appends_to(2).last().expect("a probe");
    let conflict = AppendAck {
        status: AppendStatus::Conflict,
        conflict: LogId::new(2, 5),
        match_index: 0,
        ..matched(2, append, 3)
    };
    one.tell(2, Message::AppendAck(conflict));
    one.settle();
    assert!(offers(&one).is_empty());
    assert_eq!(
        one.appends_to(2).last().expect("entries").prev,
        LogId::new(2, 5)
    );
}

#[test]
fn d3_a_snapshot_that_arrived_damaged_has_the_leader_look_at_its_own() {
    let mut one = leader();
    lacks(&mut one, 2, 1);
    ack(&mut one, 2, SnapshotStatus::Damaged, 0);
    let looks = count(&one, |output| {
        matches!(output, Output::CheckSnapshot { .. })
    });
    assert_eq!(looks, 1);
}

#[test]
fn a_compacted_log_keeps_the_configuration_in_force() {
    let mut one = leader();
    one.feed(Input::Snapshot(SnapshotInput::Stored(Some(mark(2, 8)))));
    one.feed(Input::Snapshot(SnapshotInput::Compacted(LogId::new(2, 7))));
    assert_eq!(one.core.log_start(), LogId::new(2, 7));
    assert_eq!(one.core.configuration(), Some(&voters(4)));
    assert_eq!((one.core.term_at(7), one.core.term_at(6)), (Some(2), None));
}

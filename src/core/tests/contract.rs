//! What the core owes its driver and its peers beyond the rules of the paper: what is said, to whom,
//! once or never.

use super::super::{
    AppendEntries, AppendStatus, Class, EntrySummary, Event, Found, FoundReply, FoundStatus,
    FoundingList, Input, Message, Output, RaftCore, RaftRole, Recovered, ReplicaState,
};
use super::bed::{HEARTBEAT, T_MAX, T_MIN, incarnation, settings};
use super::script::{
    PACED, Script, beat_reply, grant, heartbeat, image, matched, replica, request, summary, voters,
};
use crate::types::{LogId, LogIndex, ReplicaId, Term};

/// Leads term 3 of three nodes over this log, connected to both in epoch 7.
fn leading(terms: &[Term]) -> Script {
    let mut one = Script::new(1, 3, terms, 2);
    one.lead(2);
    one.connect(2, 7);
    one.connect(3, 7);
    one.settle();
    one
}

/// A node without a configuration that lists two others.
fn blank(node: u64) -> Script {
    let list = FoundingList {
        others: (1..=3).filter(|other| *other != node).collect(),
        ..FoundingList::default()
    };
    Script {
        core: RaftCore::new(replica(node), settings(node), Recovered::default(), list, 0),
        now: T_MAX,
        out: Vec::new(),
    }
}

/// Follows in term 3 with a log that a snapshot up to entry 5 of term 2 begins, and entries 6 and 7.
fn behind_a_snapshot() -> Script {
    let recovered = Recovered {
        snapshot: LogId::new(2, 5),
        last: LogId::new(2, 7),
        terms: vec![LogId::new(2, 6)],
        ..image(3, &[], 3).recovered()
    };
    let list = FoundingList::default();
    Script {
        core: RaftCore::new(replica(1), settings(1), recovered, list, 0),
        now: T_MAX,
        out: Vec::new(),
    }
}

fn commits(one: &Script) -> Vec<LogIndex> {
    let commit = |output: &Output| match output {
        Output::Commit { index } => Some(*index),
        _ => None,
    };
    one.out.iter().filter_map(commit).collect()
}

#[test]
fn only_a_leader_appends_proposals_and_nothing_is_no_proposal() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.feed(Input::Propose { count: 1 });
    assert_eq!((one.terms(), one.writes().len()), (vec![1, 2], 0));
    let mut one = leading(&[1, 2]);
    let writes = one.writes().len();
    one.feed(Input::Propose { count: 0 });
    assert_eq!((one.terms(), one.writes().len()), (vec![1, 2, 3], writes));
}

#[test]
fn a_commit_is_put_out_once() {
    let mut one = Script::new(1, 3, &[1], 2);
    for _ in 0..3 {
        one.append(2, 2, LogId::new(1, 1), &[2], 2);
        one.tell(2, Message::Heartbeat(heartbeat(2, 2)));
    }
    assert_eq!(commits(&one), [2]);
}

#[test]
fn b5_heartbeats_of_a_stream_are_numbered_from_zero() {
    let mut one = leading(&[1, 2]);
    for epoch in [7, 8] {
        one.connect(2, epoch);
        one.out.clear();
        for _ in 0..3 {
            one.now += HEARTBEAT;
            one.feed(Input::Tick);
        }
        let seqs = one.sends().into_iter().filter_map(|sent| match sent {
            (2, Message::Heartbeat(beat), None) => Some((beat.epoch, beat.seq)),
            _ => None,
        });
        // The first of the stream went out when it came up.
        assert!(seqs.eq((1..4).map(|seq| (epoch, seq))));
    }
}

#[test]
fn s15_an_ack_beyond_the_log_is_inert() {
    let mut one = leading(&[1, 2]);
    let append = *one.appends_to(2).last().expect("a probe");
    one.tell(2, Message::AppendAck(matched(2, append, 4)));
    assert_eq!(one.core.match_of(2), 0, "the log ends at 3");
}

#[test]
fn b10_after_a_conflict_the_place_that_may_agree_is_probed_itself() {
    for (hint, prev) in [((1, 1), (1, 1)), ((2, 2), (2, 2)), ((0, 0), (0, 0))] {
        let mut one = leading(&[1, 2]);
        let append = *one.appends_to(2).last().expect("a probe");
        let mut conflict = matched(2, append, 0);
        conflict.status = AppendStatus::Conflict;
        conflict.conflict = LogId::new(hint.0, hint.1);
        one.tell(2, Message::AppendAck(conflict));
        one.settle();
        let next = one.appends_to(2).last().expect("another probe").prev;
        assert_eq!(next, LogId::new(prev.0, prev.1));
    }
}

#[test]
fn b5_an_append_is_offered_no_more_bytes_than_its_window_has() {
    let mut settings = settings(1);
    settings.max_inflight_bytes = 250; // each append of the script counts 100
    settings.max_append_bytes = 120;
    let mut one = Script::with_settings(1, &image(3, &[1, 2], 2), settings);
    one.lead(2);
    one.connect(2, 7);
    one.settle();
    let probe = *one.appends_to(2).last().expect("a probe");
    one.tell(2, Message::AppendAck(matched(2, probe, 3)));
    one.out.clear();
    for _ in 0..3 {
        one.now += PACED;
        one.feed(Input::Propose { count: 1 });
        one.settle();
    }
    let offered = one.out.iter().filter_map(|output| match output {
        Output::Replicate {
            to: 2, max_bytes, ..
        } => Some(*max_bytes),
        _ => None,
    });
    assert_eq!(offered.collect::<Vec<_>>(), [120, 120, 50]);
}

#[test]
fn b5_one_peer_after_the_other_gets_all_that_its_window_holds() {
    let mut one = leading(&[1, 2]);
    for peer in [2, 3] {
        let probe = *one.appends_to(peer).last().expect("a probe");
        one.tell(peer, Message::AppendAck(matched(peer, probe, 3)));
    }
    one.feed(Input::Propose { count: 2 });
    let mut out = Vec::new();
    one.core.step(one.now, Input::Settle, &mut out);
    let first = out.iter().find_map(|output| match output {
        Output::Replicate { to: 2, append, .. } => Some(append.seq),
        _ => None,
    });
    out.clear();
    // Only one of the two entries fitted.
    let (to, seq) = (2, first.expect("entries 4 and 5"));
    let sent = Some((4, 100));
    one.core
        .step(one.now, Input::Replicated { to, seq, sent }, &mut out);
    let next = out.iter().filter_map(|output| match output {
        Output::Replicate { to, append, .. } => Some((*to, append.prev.index)),
        _ => None,
    });
    assert_eq!(next.collect::<Vec<_>>(), [(2, 4)], "the rest, at once");
}

#[test]
fn room_that_is_told_of_counts_for_its_stream_only() {
    for (epoch, goes_on) in [(6, false), (7, true)] {
        let mut one = leading(&[1, 2]);
        let probe = *one.appends_to(2).last().expect("a probe");
        one.tell(2, Message::AppendAck(matched(2, probe, 3)));
        one.feed(Input::Propose { count: 1 });
        let mut out = Vec::new();
        one.core.step(one.now, Input::Settle, &mut out);
        let seq = out.iter().find_map(|output| match output {
            Output::Replicate { to: 2, append, .. } => Some(append.seq),
            _ => None,
        });
        let (to, seq, sent) = (2, seq.expect("entry 4"), None);
        one.feed(Input::Replicated { to, seq, sent });
        one.out.clear();
        one.feed(Input::Writable { node: 2, epoch });
        one.settle();
        assert_eq!(one.appends_to(2).len() == 1, goes_on, "epoch {epoch}");
    }
}

#[test]
fn a5_an_append_of_an_older_term_is_answered_with_the_newer() {
    let mut one = Script::new(1, 3, &[1, 2], 4);
    one.append(2, 3, LogId::new(1, 1), &[3], 0);
    let (ack, _) = one.last_ack();
    assert_eq!((ack.status, ack.term), (AppendStatus::StaleTerm, 4));
    assert_eq!(ack.match_index, 0);
    assert_eq!((one.terms(), one.core.leader()), (vec![1, 2], None));
}

#[test]
fn e8_a_blank_node_takes_no_entries_but_a_founding_and_says_what_it_is() {
    let mut one = blank(2);
    one.append(1, 3, LogId::default(), &[3], 1);
    assert_eq!((one.core.last(), one.core.commit()), (LogId::default(), 0));
    assert!(one.core.is_blank() && !one.core.failed());
    one.tell(1, Message::Heartbeat(heartbeat(3, 1)));
    let said = one.sends().pop();
    let Some((1, Message::HeartbeatReply(reply), _)) = said else {
        panic!("expected a reply, not {said:?}");
    };
    assert_eq!(reply.state, ReplicaState::Blank);
    let mut member = Script::new(1, 3, &[1, 2], 2);
    member.append(2, 2, LogId::new(2, 2), &[], 0);
    assert_eq!(member.last_ack().0.state, ReplicaState::Member);
}

#[test]
fn e10_a_blank_node_that_joins_learns_the_founder_from_the_first_entry() {
    let mut four = blank(4);
    four.connect(1, 7);
    let append = AppendEntries {
        term: 3,
        epoch: 1,
        seq: 0,
        prev: LogId::default(),
        commit: 0,
        sent_at: 0,
        count: 2,
    };
    let entries = EntrySummary {
        configurations: vec![(1, voters(3))],
        ..summary(1, &[1, 2])
    };
    four.tell_with(replica(1), Message::Append(append), entries);
    let genesis = replica(1).incarnation;
    assert_eq!(four.core.genesis(), genesis, "the lowest first member");
    let write = four.writes().pop().expect("stored");
    assert_eq!(write.genesis, Some(genesis), "with the entries");
    assert!(!four.core.is_blank());
}

#[test]
fn b8_a_replica_that_fails_at_an_append_answers_nothing() {
    let mut one = leading(&[1, 2]);
    one.out.clear();
    one.append(3, 3, LogId::new(1, 1), &[], 0);
    assert!(one.core.failed());
    assert!(one.sends().is_empty(), "{:?}", one.sends());
}

#[test]
fn a9_a_heartbeat_reply_tells_the_smallest_election_timeout() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.feed(Input::Applied { index: 2 });
    one.feed(Input::Applied { index: 1 });
    one.tell(2, Message::Heartbeat(heartbeat(2, 0)));
    let said = one.sends().pop();
    let Some((2, Message::HeartbeatReply(reply), None)) = said else {
        panic!("expected a reply, not {said:?}");
    };
    assert_eq!(u64::from(reply.election_timeout_min_ms) * 1000, T_MIN);
    assert_eq!(reply.applied, 2, "it never falls");
}

#[test]
fn b2_what_a_snapshot_covers_agrees_by_itself() {
    for (prev, new, status, end) in [
        ((1, 3), &[2, 2, 2, 2][..], AppendStatus::Matched, 7),
        ((9, 4), &[2, 2], AppendStatus::Matched, 6),
        ((2, 5), &[2, 2, 3], AppendStatus::Matched, 8),
        ((1, 5), &[2, 2, 3], AppendStatus::Conflict, 0),
    ] {
        let mut one = behind_a_snapshot();
        one.append(2, 3, LogId::new(prev.0, prev.1), new, 0);
        let (ack, _) = one.last_ack();
        assert_eq!((ack.status, ack.match_index), (status, end), "{prev:?}");
        assert!(!one.core.failed());
        assert!(
            one.writes()
                .iter()
                .all(|write| write.truncate_from.is_none())
        );
    }
}

#[test]
fn b8_an_entry_that_contradicts_the_snapshot_stops_this_replica() {
    let mut one = behind_a_snapshot();
    one.append(2, 3, LogId::new(1, 4), &[3, 3], 0);
    assert!(one.core.failed());
    assert_eq!(one.core.last(), LogId::new(2, 7));
}

#[test]
fn a2_a_refused_candidate_takes_no_vote_and_a_repeated_one_no_write() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.tell(2, Message::Vote(request(2, 5, LogId::new(1, 1))));
    assert!(!one.last_vote_reply().0.granted, "its log is behind");
    let hard = one.core.hard_state();
    assert_eq!((hard.term, hard.voted_for), (5, ReplicaId::default()));
    one.tell(3, Message::Vote(request(3, 5, LogId::new(2, 2))));
    assert!(one.last_vote_reply().0.granted, "the vote was still free");
    let writes = one.writes().len();
    one.tell(3, Message::Vote(request(3, 5, LogId::new(2, 2))));
    assert!(one.last_vote_reply().0.granted);
    assert_eq!(one.writes().len(), writes, "it is written already");
}

#[test]
fn a_founder_looks_again_soon_and_others_at_their_election_timeout() {
    let mut founder = blank(1);
    founder.feed(Input::Tick);
    assert_eq!(founder.core.deadline(), founder.now + HEARTBEAT);
    let other = blank(2);
    assert!(other.core.deadline() >= T_MIN);
}

#[test]
fn an_early_tick_changes_nothing() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.tell(2, Message::Heartbeat(heartbeat(2, 0)));
    one.out.clear();
    let deadline = one.core.deadline();
    for now in [one.now, deadline - 1] {
        one.now = now;
        one.feed(Input::Tick);
        assert!(one.out.is_empty() && one.core.deadline() == deadline);
        assert_eq!(one.core.role(), RaftRole::Follower);
    }
    one.now = deadline;
    one.feed(Input::Tick);
    assert_eq!(one.core.role(), RaftRole::PreCandidate);
}

#[test]
fn e4_a_truncation_tells_of_a_configuration_only_if_one_is_gone() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.append(2, 3, LogId::new(1, 1), &[3], 0);
    let truncated = Event::Truncated { from: 2 };
    assert_eq!(one.events(), [truncated], "that of entry 1 stays in force");
}

#[test]
fn a_failure_ends_a_leadership_and_nothing_else() {
    let reason = || "told to".to_owned();
    let fatal = Event::Fatal(reason());
    let mut one = leading(&[1, 2]);
    one.out.clear();
    one.feed(Input::Fail { reason: reason() });
    let why = "the replica failed";
    assert_eq!(
        one.events(),
        [Event::SteppedDown { term: 3, why }, fatal.clone()]
    );
    assert_eq!(
        (one.core.role(), one.core.leader()),
        (RaftRole::Follower, None)
    );
    let mut one = Script::new(1, 3, &[1, 2], 2);
    assert!(!one.core.failed());
    one.feed(Input::Fail { reason: reason() });
    assert_eq!(one.events(), [fatal]);
    assert!(one.core.failed());
}

#[test]
fn what_is_shown_of_a_peer_is_what_is_known() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    assert_eq!(one.core.genesis(), incarnation(1, 1));
    assert_eq!(one.core.peer(2), None);
    one.lead(2);
    assert!(!one.core.peer(2).expect("known").connected);
    one.connect(2, 7);
    one.settle();
    let start = one.now;
    one.now += 5;
    let probe = *one.appends_to(2).last().expect("a probe");
    one.tell(2, Message::AppendAck(matched(2, probe, 3)));
    one.feed(Input::Propose { count: 1 });
    one.settle();
    let shown = one.core.peer(2).expect("known");
    assert_eq!((shown.connected, shown.match_index), (true, 3));
    assert_eq!((shown.inflight_bytes, shown.last_contact), (100, start + 5));
    let (node, class, epoch) = (2, Class::Data, 7);
    one.feed(Input::PeerDown { node, class, epoch });
    let shown = one.core.peer(2).expect("known");
    assert_eq!((shown.connected, shown.inflight_bytes), (false, 0));
}

#[test]
fn e10_a_founded_configuration_has_its_feature_level() {
    let list = FoundingList {
        single: true,
        peer_address: "one:1".to_owned(),
        client_endpoint: "one:2".to_owned(),
        ..FoundingList::default()
    };
    let mut one = Script {
        core: RaftCore::new(replica(1), settings(1), Recovered::default(), list, 0),
        now: T_MAX,
        out: Vec::new(),
    };
    one.time_out();
    let configuration = one.core.configuration().expect("founded");
    let member = &configuration.incoming[0];
    assert_eq!((configuration.feature_level, member.features), (1, (1, 1)));
    let addresses = (&*member.peer_address, &*member.client_endpoint);
    assert_eq!(addresses, ("one:1", "one:2"));
    assert_eq!(configuration.incoming.len(), voters(1).incoming.len());
}

#[test]
fn a6_a_grant_before_the_own_vote_is_durable_is_kept() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    let write = one.campaign(3);
    let asked = one.last_request();
    one.tell(3, Message::VoteReply(grant(3, asked)));
    assert_eq!(one.core.role(), RaftRole::Candidate);
    one.durable(write);
    assert!(one.core.is_leader());
}

#[test]
fn whoever_is_no_member_is_not_asked() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.time_out();
    for (peer, asked) in [(9, 0), (2, 1)] {
        one.out.clear();
        one.connect(peer, 7);
        assert_eq!(one.sends().len(), asked, "node {peer}");
    }
}

#[test]
fn replies_and_their_requests_are_told_apart_and_travel_in_one_class() {
    let asked = request(2, 3, LogId::new(2, 2));
    let append = *leading(&[1, 2]).appends_to(2).last().expect("a probe");
    let (term, founder, incarnation) = (3, incarnation(1, 1), incarnation(2, 1));
    let status = FoundStatus::Stored;
    let found = FoundReply {
        term,
        incarnation,
        status,
    };
    let pairs = [
        (
            Message::Append(append),
            Message::AppendAck(matched(2, append, 3)),
        ),
        (
            Message::PreVote(asked),
            Message::PreVoteReply(grant(2, asked)),
        ),
        (Message::Vote(asked), Message::VoteReply(grant(2, asked))),
        (
            Message::Heartbeat(heartbeat(3, 0)),
            Message::HeartbeatReply(beat_reply(2, 3, 7)),
        ),
        (
            Message::Found(Found { term, founder }),
            Message::FoundReply(found),
        ),
    ];
    for (nth, (request, reply)) in pairs.iter().enumerate() {
        assert_eq!((request.is_reply(), reply.is_reply()), (false, true));
        let class = if nth == 0 {
            Class::Data
        } else {
            Class::Control
        };
        assert_eq!([request.class(), reply.class()], [class; 2]);
        assert_eq!((request.term(), reply.term()), (3, 3));
    }
}

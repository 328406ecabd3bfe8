//! Rules of replication, by their hazard ids.

use super::super::{
    AppendEntries, AppendStatus, Class, EntrySummary, Event, Input, Message, Output,
};
use super::bed::{Bed, HEARTBEAT, T_MAX, T_MIN, incarnation, settings};
use super::election::led;
use super::net::Faults;
use super::script::{PACED, Script, beat_reply, heartbeat, image, matched, replica, summary};
use super::seeds::{converged, leader, recovers};
use crate::types::{LogId, LogIndex, Micros, ReplicaId, Term};

/// Commits put out so far.
fn commits(one: &Script) -> Vec<LogIndex> {
    let commit = |output: &Output| match output {
        Output::Commit { index } => Some(*index),
        _ => None,
    };
    one.out.iter().filter_map(commit).collect()
}

/// The first leader of term 3 of three nodes, over this log, connected to both in epoch 7.
fn leading(terms: &[Term]) -> Script {
    let mut one = Script::new(1, 3, terms, 2);
    one.lead(2);
    one.connect(2, 7);
    one.connect(3, 7);
    one.settle();
    one
}

fn ack(one: &mut Script, from: u64, index: LogIndex) {
    let append = *one.appends_to(from).last().expect("it was sent something");
    one.tell(from, Message::AppendAck(matched(from, append, index)));
    one.settle();
}

#[test]
fn b1_old_term_entries_are_not_committed_by_counting() {
    // Figure 8 (c): entry 2 of term 2 reaches a majority under the leader of term 3.
    let mut one = leading(&[1, 2]);
    let written = one.writes().last().expect("the no-op").id;
    one.durable(written);
    ack(&mut one, 2, 2);
    assert_eq!(one.core.match_of(2), 2);
    assert_eq!(
        commits(&one),
        [0_u64; 0],
        "a majority holds it, and figure 8 (d) may drop it"
    );
    ack(&mut one, 2, 3);
    assert_eq!(
        commits(&one),
        [3],
        "with an entry of the own term all below is safe"
    );
}

#[test]
fn b1_figure_8_with_every_order_of_leaders() {
    // S1 led term 2 and left entry 2 on S2; S5 led term 3 and left another entry 2 on itself.
    for seed in 0..30 {
        let logs: [&[Term]; 5] = [&[1, 2], &[1, 2], &[1], &[1], &[1, 3]];
        let images = logs.map(|terms| image(5, terms, 3));
        let mut bed = Bed::with_images(seed, images.to_vec());
        for _ in 0..6 {
            let node = bed.rng.between(1, 6);
            if bed.is_up(node) {
                bed.crash(node);
            }
            let pause = bed.rng.between(0, 2 * T_MAX);
            bed.run_for(pause);
            bed.start(node);
        }
        recovers(&mut bed);
    }
}

/// All logs of up to `len` entries after entry 1, terms not falling.
fn logs(len: usize) -> Vec<Vec<Term>> {
    let mut all = vec![vec![1]];
    let mut at = 0;
    while at < all.len() {
        if all[at].len() <= len {
            let last = *all[at].last().expect("never empty");
            for term in last..=3 {
                let mut longer = all[at].clone();
                longer.push(term);
                all.push(longer);
            }
        }
        at += 1;
    }
    all
}

/// The rule of figure 2, said as plainly as possible.
fn reference(log: &[Term], prev: LogId, new: &[Term]) -> Option<Vec<Term>> {
    let at = prev.index as usize;
    if at > 0 && log.get(at - 1) != Some(&prev.term) {
        return None;
    }
    let mut log = log.to_vec();
    for (offset, term) in new.iter().enumerate() {
        let place = at + offset;
        if log.get(place).is_some_and(|old| old != term) {
            log.truncate(place);
        }
        if place == log.len() {
            log.push(*term);
        }
    }
    Some(log)
}

#[test]
fn b2_truncates_only_on_a_real_conflict() {
    let all = logs(3);
    for follower in &all {
        for leader in &all {
            for prev in 0..=leader.len() {
                for end in prev..=leader.len() {
                    check_append(follower, leader, prev, end);
                }
            }
        }
    }
}

fn check_append(follower: &[Term], leader: &[Term], prev: usize, end: usize) {
    let mut one = Script::new(1, 3, follower, 3);
    let prev_term = prev.checked_sub(1).map_or(0, |at| leader[at]);
    let prev = LogId::new(prev_term, prev as LogIndex);
    let new = &leader[prev.index as usize..end];
    one.append(2, 4, prev, new, 0);
    let expected = reference(follower, prev, new);
    let (ack, after) = one.last_ack();
    let case = format!("{follower:?} gets {new:?} after {prev}");
    match &expected {
        Some(log) => {
            assert_eq!(&one.terms(), log, "{case}");
            assert_eq!(ack.status, AppendStatus::Matched, "{case}");
            assert_eq!(ack.match_index, end as LogIndex, "{case}");
        }
        None => {
            assert_eq!(one.terms(), follower, "{case}");
            assert_eq!(ack.status, AppendStatus::Conflict, "{case}");
        }
    }
    let log = expected.unwrap_or_else(|| follower.to_vec());
    let kept = follower
        .iter()
        .zip(&log)
        .take_while(|(a, b)| a == b)
        .count();
    let write = one
        .writes()
        .into_iter()
        .find(|write| write.hard_state.is_none());
    let truncated = write.as_ref().and_then(|write| write.truncate_from);
    let expected = (kept < follower.len()).then_some(kept as LogIndex + 1);
    assert_eq!(truncated, expected, "{case}");
    assert_eq!(write.is_some(), log != follower, "{case}");
    let last_write = one.writes().last().map(|write| write.id);
    assert_eq!(
        after, last_write,
        "{case}: the ack waits for the term and the entries"
    );
}

#[test]
fn b2_a_late_append_of_the_same_leader_shortens_nothing() {
    let mut one = Script::new(1, 3, &[1], 2);
    one.append(2, 3, LogId::new(1, 1), &[3, 3, 3], 0);
    one.append(2, 3, LogId::new(1, 1), &[3], 0);
    assert_eq!(one.terms(), [1, 3, 3, 3]);
    assert_eq!(
        one.last_ack().0.match_index,
        2,
        "only what was compared is vouched for"
    );
    one.append(2, 3, LogId::new(3, 3), &[], 0);
    assert_eq!(one.last_ack().0.match_index, 3);
}

#[test]
fn b3_acks_of_another_incarnation_epoch_or_term_are_inert() {
    let mut one = leading(&[1, 2]);
    let append = *one.appends_to(2).last().expect("a probe");
    let good = matched(2, append, 3);
    let mut wiped = replica(2);
    wiped.incarnation = incarnation(2, 9);
    let mut reborn = good;
    reborn.incarnation = wiped.incarnation;
    one.tell_as(wiped, Message::AppendAck(good));
    one.tell_as(wiped, Message::AppendAck(reborn));
    one.tell(2, Message::AppendAck(reborn));
    let mut stale = good;
    stale.epoch = 6;
    one.tell(2, Message::AppendAck(stale));
    let mut stale = good;
    stale.term = 2;
    one.tell(2, Message::AppendAck(stale));
    one.tell_as(
        ReplicaId::new(9, incarnation(9, 1)),
        Message::AppendAck(good),
    );
    assert_eq!(one.core.match_of(2), 0);
    one.tell(2, Message::AppendAck(good));
    assert_eq!(one.core.match_of(2), 3);
}

#[test]
fn b3_an_ack_that_answers_nothing_outstanding_is_inert() {
    let mut one = leading(&[1, 2]);
    let append = *one.appends_to(2).last().expect("a probe");
    let answer = matched(2, append, 2);
    one.tell(2, Message::AppendAck(answer));
    let mut again = answer;
    again.match_index = 3;
    one.tell(2, Message::AppendAck(again));
    assert_eq!(one.core.match_of(2), 2, "a duplicate says nothing new");
    one.connect(2, 8);
    one.settle();
    let mut old = answer;
    old.seq += 1;
    old.match_index = 3;
    one.tell(2, Message::AppendAck(old));
    assert_eq!(one.core.match_of(2), 2, "the old stream is gone");
}

#[test]
fn b5_any_order_and_duplication_is_safe() {
    for seed in 0..25 {
        let mut bed = Bed::blank(seed, 3);
        bed.faults = Faults {
            duplicate: 500,
            reorder: 500,
            drop: [0, 100][seed as usize % 2],
            delay: (200, 10_000),
            ..Faults::NONE
        };
        for _ in 0..60 {
            bed.run_for(T_MAX / 10);
            bed.ids().for_each(|node| bed.propose(node, 5));
        }
        assert!(
            bed.ghost.committed() > 30,
            "seed {seed}: {} only",
            bed.ghost.committed()
        );
        recovers(&mut bed);
    }
}

#[test]
fn b5_the_window_is_bounded_in_appends_and_bytes() {
    for (count, bytes, fit) in [(4, 400, 4), (2, 4_000, 2), (9, 250, 3), (9, 300, 3)] {
        let mut settings = settings(1);
        settings.max_inflight_appends = count;
        settings.max_inflight_bytes = bytes; // each append of the script counts 100
        let mut one = Script::with_settings(1, &image(3, &[1, 2], 2), settings);
        one.lead(2);
        one.connect(2, 7);
        one.settle();
        ack(&mut one, 2, 3);
        let before = one.appends_to(2).len();
        for _ in 0..10 {
            one.now += PACED;
            one.feed(Input::Propose { count: 1 });
            one.settle();
        }
        let sent = one.appends_to(2);
        assert_eq!(sent.len() - before, fit, "{count} appends, {bytes} bytes");
        let seqs = sent.iter().map(|append| append.seq);
        assert!(seqs.eq(0..sent.len() as u64), "+1 for every append");
        ack(&mut one, 2, 3 + fit as u64);
        assert_eq!(
            one.appends_to(2).len(),
            sent.len() + 1,
            "the rest in one append"
        );
        assert_eq!(one.core.match_of(2), 3 + fit as u64);
    }
}

/// While an append is under way entries gather until it is answered, or for a while.
#[test]
fn b5_while_an_append_is_under_way_the_next_leave_at_a_pace() {
    let mut one = leading(&[1, 2]);
    ack(&mut one, 2, 3);
    let (before, began) = (one.appends_to(2).len(), one.now);
    let propose = |one: &mut Script| {
        one.feed(Input::Propose { count: 1 });
        one.settle();
        one.appends_to(2).len() - before
    };
    let sent: Vec<usize> = (0..4).map(|_| propose(&mut one)).collect();
    assert_eq!(sent, [1, 1, 1, 1]);
    let due = one.core.deadline();
    assert!(due > began && due <= began + PACED, "{began} to {due}");
    one.now = due;
    one.feed(Input::Tick);
    one.settle();
    let last = *one.appends_to(2).last().expect("another");
    assert_eq!((one.appends_to(2).len() - before, last.prev.index), (2, 4));
    assert!(one.core.deadline() > due, "nothing waits any more");
    assert_eq!(propose(&mut one), 2, "and the next gathers again");
    one.tell(2, Message::AppendAck(matched(2, last, 7)));
    one.settle();
    assert_eq!(one.appends_to(2).len() - before, 3, "until an answer comes");
}

#[test]
fn b6_a_completion_of_overwritten_entries_does_not_vouch_for_the_new() {
    let mut one = Script::new(1, 3, &[1], 2);
    one.append(2, 2, LogId::new(1, 1), &[2, 2, 2], 0);
    let old = one.writes().last().expect("entries 2 to 4").id;
    one.append(3, 3, LogId::new(2, 2), &[3, 3], 0);
    let new = one.writes().last().expect("entries 3 and 4 again").id;
    let (ack, after) = one.last_ack();
    assert_eq!((ack.match_index, after), (4, Some(new)));
    one.durable(old);
    assert_eq!(one.core.durable(), 2, "entries 3 and 4 of term 2 are gone");
    one.append(3, 3, LogId::new(3, 3), &[3], 0);
    assert_eq!(one.last_ack().1, Some(new));
    one.durable(new);
    assert_eq!(one.core.durable(), 4);
    one.append(3, 3, LogId::new(3, 3), &[3], 0);
    assert_eq!(one.last_ack().1, None, "all of it is durable now");
    one.append(2, 4, LogId::new(2, 2), &[4], 0);
    assert_eq!(one.core.durable(), 2, "a truncation takes durability back");
}

#[test]
fn b7_the_own_disk_counts_only_when_durable() {
    let mut one = leading(&[1, 2]);
    let noop = one.writes().last().expect("the no-op").id;
    ack(&mut one, 2, 3);
    assert_eq!(commits(&one), [0_u64; 0], "one disk of three");
    one.durable(noop);
    one.settle();
    assert_eq!(commits(&one), [3]);
    one.feed(Input::Propose { count: 2 });
    one.settle();
    ack(&mut one, 2, 5);
    assert_eq!(commits(&one), [3]);
    ack(&mut one, 3, 5);
    assert_eq!(
        commits(&one),
        [3, 5],
        "two other disks are a quorum as well"
    );
}

#[test]
fn b7_a_single_voter_commits_after_its_sync() {
    let mut one = Script::new(1, 1, &[1], 2);
    one.time_out();
    let vote = one.writes().last().expect("the own vote").id;
    assert!(!one.core.is_leader());
    one.durable(vote);
    one.feed(Input::Propose { count: 3 });
    one.settle();
    assert_eq!(commits(&one), [0_u64; 0]);
    let written = one.writes().last().expect("the proposals").id;
    one.durable(written - 1);
    one.settle();
    assert_eq!(commits(&one), [2], "the no-op");
    one.durable(written);
    one.settle();
    assert_eq!(commits(&one), [2, 5]);
}

#[test]
fn b8_commit_stays_within_what_was_verified() {
    let mut one = Script::new(1, 3, &[1, 2, 2, 2], 2);
    one.tell(2, Message::Heartbeat(heartbeat(3, 4)));
    assert_eq!(
        one.core.commit(),
        0,
        "nothing compared with this leader yet"
    );
    one.append(2, 3, LogId::new(1, 1), &[2], 99);
    assert_eq!(
        one.core.commit(),
        2,
        "entries 3 and 4 may be another history"
    );
    one.tell(2, Message::Heartbeat(heartbeat(3, 99)));
    assert_eq!(one.core.commit(), 2);
    one.append(3, 4, LogId::new(2, 2), &[4], 2);
    one.tell(3, Message::Heartbeat(heartbeat(4, 3)));
    assert_eq!((one.core.commit(), one.terms()), (3, vec![1, 2, 4]));
}

#[test]
fn b8_a_leader_that_contradicts_the_committed_stops_this_replica() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.append(2, 2, LogId::new(1, 1), &[2], 2);
    assert_eq!(one.core.commit(), 2);
    one.out.clear();
    one.append(3, 3, LogId::new(1, 1), &[3], 2);
    assert!(one.core.failed());
    assert_eq!(one.terms(), [1, 2], "nothing is dropped");
    let fatal = |event: &Event| matches!(event, Event::Fatal(_));
    assert!(one.events().iter().any(fatal));
    let acks = one.sends().into_iter();
    assert_eq!(
        acks.filter(|sent| matches!(sent.1, Message::AppendAck(_)))
            .count(),
        0
    );
    one.append(3, 3, LogId::new(1, 1), &[], 2);
    assert!(one.sends().is_empty(), "it promises nothing any more");
    assert_eq!(one.core.deadline(), u64::MAX, "and wants no tick");
}

#[test]
fn b8_a_second_leader_in_a_term_stops_this_replica() {
    let mut one = leading(&[1, 2]);
    one.tell(3, Message::Heartbeat(heartbeat(3, 0)));
    assert!(one.core.failed() && !one.core.is_leader());
}

#[test]
fn b9_a_lost_probe_is_sent_again() {
    let mut one = leading(&[1, 2]);
    for again in 1..5 {
        assert_eq!(one.appends_to(2).len(), again, "one at a time");
        let sent = one.now;
        while one.appends_to(2).len() == again {
            assert!(one.now - sent <= T_MIN, "the probe is given up in time");
            one.time_out();
            for peer in [2, 3] {
                one.tell(peer, Message::HeartbeatReply(beat_reply(peer, 3, 7)));
            }
            one.settle();
        }
    }
}

#[test]
fn b9_a_window_without_answers_is_probed_again() {
    let mut one = leading(&[1, 2]);
    ack(&mut one, 2, 3);
    one.feed(Input::Propose { count: 1 });
    one.settle();
    let lost = *one.appends_to(2).last().expect("entry 4");
    let sent = one.now;
    while *one.appends_to(2).last().expect("entry 4") == lost {
        assert!(
            one.now - sent <= 2 * T_MAX,
            "the window is given up in time"
        );
        one.time_out();
        for peer in [2, 3] {
            one.tell(peer, Message::HeartbeatReply(beat_reply(peer, 3, 7)));
        }
        one.settle();
    }
    let again = one.appends_to(2).last().expect("entry 4").prev;
    assert_eq!(again, lost.prev);
}

/// Appends to node 2, and the last entry that each may have.
fn offers(one: &Script) -> Vec<(AppendEntries, LogIndex)> {
    let offer = |output: &Output| match output {
        Output::Replicate {
            to: 2,
            append,
            last,
            ..
        } => Some((*append, *last)),
        _ => None,
    };
    one.out.iter().filter_map(offer).collect()
}

/// The peer answers heartbeats and nothing else for `time`; the appends that it is sent meanwhile.
fn silence(one: &mut Script, time: Micros) -> Vec<AppendEntries> {
    let (begun, before) = (one.now, offers(one).len());
    while one.now - begun < time {
        one.time_out();
        for peer in [2, 3] {
            one.tell(peer, Message::HeartbeatReply(beat_reply(peer, 3, 7)));
        }
        one.settle();
    }
    let asked = offers(one).split_off(before);
    let bare = |(append, last): &(AppendEntries, LogIndex)| append.prev.index == *last;
    assert!(asked.iter().all(bare), "no entries: {asked:?}");
    asked.into_iter().map(|(append, _)| append).collect()
}

#[test]
fn b9_an_append_slower_than_every_timeout_is_not_sent_again_and_counts_when_it_arrives() {
    let mut one = leading(&[1, 2]);
    ack(&mut one, 2, 3);
    one.feed(Input::Propose { count: 1 });
    one.settle();
    let (slow, last) = *offers(&one).last().expect("entry 4");
    assert_eq!((slow.prev.index, last), (3, 4));
    let asked = silence(&mut one, 5 * T_MAX);
    assert!(asked.len() > 2, "{asked:?}");
    assert!(asked.iter().all(|append| append.prev == slow.prev));
    one.tell(2, Message::AppendAck(matched(2, slow, 4)));
    assert_eq!(one.core.match_of(2), 4);
    // What was asked first is answered late too; from then on entries leave again.
    one.feed(Input::Propose { count: 1 });
    one.settle();
    let before = offers(&one).len();
    one.tell(2, Message::AppendAck(matched(2, asked[0], 3)));
    one.settle();
    let next = offers(&one).split_off(before);
    assert_eq!(next.len(), 1, "{next:?}");
    assert_eq!((next[0].0.prev.index, next[0].1), (4, 5));
}

#[test]
fn b9_entries_that_were_lost_are_sent_again_once_the_peer_says_how_far_it_is() {
    let mut one = leading(&[1, 2]);
    ack(&mut one, 2, 3);
    one.feed(Input::Propose { count: 1 });
    one.settle();
    let lost = *one.appends_to(2).last().expect("entry 4");
    let asked = silence(&mut one, 2 * T_MAX);
    let newest = *asked.last().expect("asked");
    one.tell(2, Message::AppendAck(matched(2, newest, 3)));
    one.settle();
    let (again, last) = *offers(&one).last().expect("entry 4");
    assert_eq!((again.prev, last), (lost.prev, 4));
    // And what answers the lost one after all, twice, is inert by then.
    one.tell(2, Message::AppendAck(matched(2, again, 4)));
    one.tell(2, Message::AppendAck(matched(2, lost, 4)));
    assert_eq!(one.core.match_of(2), 4);
}

#[test]
fn b9_a_refused_append_is_tried_again_without_a_word_from_the_transport() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.lead(2);
    one.connect(2, 7);
    let start = one.out.len();
    let mut out = Vec::new();
    one.core.step(one.now, Input::Settle, &mut out);
    let seq = out.iter().find_map(|output| match output {
        Output::Replicate { to: 2, append, .. } => Some(append.seq),
        _ => None,
    });
    one.feed(Input::Replicated {
        to: 2,
        seq: seq.expect("a probe"),
        sent: None,
    });
    one.settle();
    assert_eq!(one.appends_to(2).len(), 0, "not at once");
    one.out.truncate(start);
    one.now += HEARTBEAT;
    one.feed(Input::Tick);
    one.settle();
    assert_eq!(one.appends_to(2).len(), 1);
}

#[test]
fn c5_a_follower_that_lost_acknowledged_entries_is_not_asked_in_a_tight_loop() {
    let mut one = leading(&[1, 2]);
    ack(&mut one, 2, 3);
    one.feed(Input::Propose { count: 1 });
    one.settle();
    let append = *one.appends_to(2).last().expect("entry 4");
    let mut lost = matched(2, append, 0);
    lost.status = AppendStatus::Conflict;
    lost.conflict = LogId::new(1, 1);
    let before = one.appends_to(2).len();
    one.tell(2, Message::AppendAck(lost));
    one.settle();
    assert_eq!(
        one.core.match_of(2),
        3,
        "what it promised is not taken back"
    );
    assert_eq!(one.appends_to(2).len(), before);
    one.now += HEARTBEAT;
    one.feed(Input::Tick);
    one.settle();
    assert_eq!(
        one.appends_to(2).len(),
        before + 1,
        "it may have been repaired"
    );
}

#[test]
fn b9_a_quiet_follower_learns_the_commit_after_a_lapse() {
    // It missed heartbeats and began to campaign; nothing new is ever appended.
    let mut one = Script::new(1, 3, &[1], 2);
    one.append(2, 3, LogId::new(1, 1), &[3, 3], 0);
    one.time_out();
    one.tell(2, Message::Heartbeat(heartbeat(3, 3)));
    assert_eq!(one.core.leader(), Some(2));
    assert_eq!(
        one.core.commit(),
        3,
        "a term has one leader: what was verified stays so"
    );
}

#[test]
fn b9_an_idle_cluster_converges_after_every_cut() {
    for seed in 0..60 {
        let mut bed = led(seed, 3);
        let leads = leader(&bed).expect("led");
        let other = 1 + leads % 3;
        let ways = [(leads, other), (other, leads)].into_iter().enumerate();
        let which = bed.rng.between(1, 16) as usize;
        for (at, (from, to)) in ways {
            for (class, bit) in [(Class::Control, 0), (Class::Data, 2)] {
                if which >> (at + bit) & 1 == 1 {
                    bed.net.cut_class(from, to, class);
                }
            }
        }
        bed.propose(leads, 4);
        let pause = bed.rng.between(0, 3 * T_MAX);
        bed.run_for(pause);
        bed.net.mend();
        let equal = bed.run_while(6 * T_MAX, converged);
        assert!(
            equal,
            "seed {seed}: the logs stay unequal without a new command"
        );
    }
}

#[test]
fn b9_a_disk_slower_than_every_timeout_makes_progress() {
    for seed in 0..10 {
        let mut bed = led(seed, 3);
        let leads = leader(&bed).expect("led");
        bed.crash(1 + leads % 3);
        let slow = 1 + (leads + 1) % 3;
        bed.node_mut(slow).disk_lag = 2 * T_MAX;
        let before = bed.ghost.committed();
        for _ in 0..100 {
            bed.run_for(T_MAX / 10);
            bed.propose(leads, 1);
        }
        assert_eq!(
            leader(&bed),
            Some(leads),
            "seed {seed}: a slow disk is no dead node"
        );
        let done = bed.ghost.committed() - before;
        assert!(
            done >= 10,
            "seed {seed}: {done} of 100 in 100 tenths of a timeout"
        );
    }
}

/// Lets a leader of `term` and a follower talk until they agree; how many conflicts that took.
fn rounds(leader: &[Term], follower: &[Term], term: Term) -> usize {
    let mut one = Script::new(1, 3, leader, term - 1);
    one.lead(3);
    let mut two = Script::new(2, 3, follower, term - 1);
    one.connect(2, 7);
    one.settle();
    let (mut conflicts, mut seen) = (0, 0);
    while one.core.match_of(2) < one.core.last().index {
        let append = *one.appends_to(2).get(seen).expect("the leader goes on");
        seen += 1;
        let range =
            append.prev.index as usize..(append.prev.index + u64::from(append.count)) as usize;
        let log = one.terms();
        two.append(1, term, append.prev, &log[range], 0);
        let (mut ack, _) = two.last_ack();
        (ack.epoch, ack.seq) = (append.epoch, append.seq);
        conflicts += usize::from(ack.status == AppendStatus::Conflict);
        assert!(conflicts < 20, "they never agree");
        one.tell(2, Message::AppendAck(ack));
        one.settle();
    }
    assert_eq!(one.terms(), two.terms());
    conflicts
}

/// Terms of which the two logs hold different entries.
fn divergent_terms(leader: &[Term], follower: &[Term]) -> usize {
    let same = leader
        .iter()
        .zip(follower)
        .take_while(|(a, b)| a == b)
        .count();
    let mut terms: Vec<_> = leader[same..].iter().chain(&follower[same..]).collect();
    terms.sort_unstable();
    terms.dedup();
    terms.len()
}

#[test]
fn b10_figure_7_agrees_within_the_divergent_terms() {
    let leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[Term]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let expected = [1, 1, 0, 0, 1, 1];
    for (follower, expected) in followers.into_iter().zip(expected) {
        let needed = rounds(&leader, follower, 8);
        assert_eq!(needed, expected, "{follower:?}");
        assert!(needed <= divergent_terms(&leader, follower), "{follower:?}");
    }
}

/// Logs of one history: an equal term at an index means equal logs up to there (log matching).
fn may_meet(a: &[Term], b: &[Term]) -> bool {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    a[same..].iter().zip(&b[same..]).all(|(a, b)| a != b)
}

#[test]
fn b10_conflicts_never_outnumber_the_divergent_terms() {
    let all = logs(5);
    for leader in &all {
        for follower in all.iter().filter(|follower| may_meet(leader, follower)) {
            let needed = rounds(leader, follower, 5);
            let bound = divergent_terms(leader, follower);
            assert!(
                needed <= bound,
                "{leader:?} {follower:?}: {needed} > {bound}"
            );
        }
    }
}

#[test]
fn b3_a_stream_that_is_down_gets_nothing() {
    let mut one = leading(&[1, 2]);
    ack(&mut one, 2, 3);
    let (node, class) = (2, Class::Data);
    for (epoch, sent) in [(6, 1), (7, 0)] {
        one.feed(Input::PeerDown { node, class, epoch });
        let before = one.appends_to(2).len();
        one.feed(Input::Propose { count: 1 });
        one.settle();
        assert_eq!(
            one.appends_to(2).len() - before,
            sent,
            "after the end of {epoch}"
        );
    }
}

#[test]
fn c8_a_full_log_takes_nothing_and_says_so() {
    let mut one = Script::new(1, 3, &[1], 2);
    let append = AppendEntries {
        term: 2,
        epoch: 1,
        seq: 0,
        prev: LogId::new(1, 1),
        commit: 2,
        sent_at: 0,
        count: 1,
    };
    let entries = EntrySummary {
        fits: false,
        ..summary(2, &[2])
    };
    one.tell_with(replica(2), Message::Append(append), entries);
    assert_eq!(one.last_ack().0.status, AppendStatus::Busy);
    assert_eq!((one.terms(), one.core.commit()), (vec![1], 0));
    assert!(one.writes().is_empty());
}

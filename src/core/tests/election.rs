//! Rules of elections, by their hazard ids.

use super::super::{Event, Input, Message, RaftRole, VoteReason};
use super::bed::{Bed, HEARTBEAT, MS, T_MAX, T_MIN};
use super::script::{Script, beat_reply, grant, heartbeat, image, reject, replica, request};
use super::seeds::{leader, recovers};
use crate::types::{LogId, NodeId, ReplicaId};

#[test]
fn a1_the_own_vote_counts_only_when_durable() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    let write = one.campaign(2);
    let asked = one.last_request();
    let after: Vec<_> = one.sends().iter().rev().take(2).map(|s| s.2).collect();
    assert_eq!(
        after,
        [Some(write); 2],
        "nobody is asked before it is durable"
    );
    one.tell(2, Message::VoteReply(grant(2, asked)));
    assert_eq!(
        one.core.role(),
        RaftRole::Candidate,
        "one durable vote of three"
    );
    one.durable(write - 1);
    assert_eq!(
        one.core.role(),
        RaftRole::Candidate,
        "an older write says nothing"
    );
    one.durable(write);
    assert!(one.core.is_leader());
}

#[test]
fn a1_a_vote_leaves_after_its_write() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.tell(2, Message::Vote(request(2, 5, LogId::new(2, 2))));
    let (reply, after) = one.last_vote_reply();
    let write = one.writes().last().expect("the vote is written").clone();
    assert!(reply.granted);
    assert_eq!(after, Some(write.id));
    assert_eq!(
        write.hard_state.map(|hard| hard.voted_for),
        Some(replica(2))
    );
}

#[test]
fn a2_same_term_step_down_keeps_the_vote() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    let write = one.campaign(3);
    one.durable(write);
    assert_eq!(one.core.term(), 3);
    one.tell(2, Message::Heartbeat(heartbeat(3, 0)));
    assert_eq!(one.core.role(), RaftRole::Follower);
    assert_eq!(one.core.hard_state().voted_for, replica(1));
    one.now += T_MAX; // out of the leader's shadow
    one.tell(3, Message::Vote(request(3, 3, LogId::new(9, 9))));
    let (reply, _) = one.last_vote_reply();
    assert_eq!(
        (reply.granted, reply.reason),
        (false, VoteReason::AlreadyVoted)
    );
}

#[test]
fn a2_a_deposed_leader_keeps_its_vote() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.lead(2);
    while one.core.is_leader() {
        assert!(one.now < 9 * T_MAX, "nobody answers it");
        one.time_out();
    }
    one.tell(3, Message::Vote(request(3, 3, LogId::new(9, 9))));
    assert!(!one.last_vote_reply().0.granted);
    assert_eq!(one.core.hard_state().voted_for, replica(1));
}

#[test]
fn a2_one_vote_per_term_and_the_same_again_for_the_same_candidate() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    for (from, granted) in [(2, true), (3, false), (2, true)] {
        one.tell(from, Message::Vote(request(from, 4, LogId::new(2, 2))));
        assert_eq!(one.last_vote_reply().0.granted, granted, "node {from}");
    }
    let mut other_life = replica(2);
    other_life.incarnation = super::bed::incarnation(2, 9);
    one.tell_as(other_life, Message::Vote(request(2, 4, LogId::new(2, 2))));
    assert!(
        !one.last_vote_reply().0.granted,
        "another life is another candidate"
    );
}

#[test]
fn a4_an_isolated_node_does_not_depose_the_leader() {
    let mut bed = led(4, 3);
    let leads = leader(&bed).expect("led");
    let term = bed.core(leads).term();
    let lonely = bed.ids().find(|node| *node != leads).expect("a follower");
    for _ in 0..10 {
        bed.partition(&[lonely]);
        bed.run_for(5 * T_MAX);
        assert_eq!(bed.core(lonely).term(), term, "a pre-vote changes no term");
        bed.propose(leads, 3);
        bed.net.mend();
        bed.run_for(2 * T_MAX);
        assert_eq!(leader(&bed), Some(leads));
        assert_eq!(bed.core(leads).term(), term);
    }
}

#[test]
fn a4_a_pre_vote_has_no_side_effects_and_needs_silence_and_the_log() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    let before = one.core.hard_state();
    for (last, granted) in [
        ((2, 2), true),
        ((2, 1), false),
        ((1, 9), false),
        ((3, 1), true),
    ] {
        let asked = request(2, 7, LogId::new(last.0, last.1));
        one.tell(2, Message::PreVote(asked));
        assert_eq!(one.last_vote_reply().0.granted, granted, "last {last:?}");
    }
    one.tell(3, Message::Heartbeat(heartbeat(2, 0)));
    for (wait, granted) in [(0, false), (T_MIN - 1, false), (1, true)] {
        one.now += wait;
        one.tell(2, Message::PreVote(request(2, 7, LogId::new(2, 2))));
        assert_eq!(one.last_vote_reply().0.granted, granted);
    }
    assert_eq!(one.core.hard_state(), before);
    assert!(one.writes().is_empty());
}

#[test]
fn a5_a_rejection_tells_the_higher_term_and_it_is_adopted() {
    let mut low = Script::new(1, 3, &[1, 2], 2);
    low.time_out();
    let asked = low.last_request();
    let mut high = Script::new(2, 3, &[1], 9);
    high.tell(1, Message::PreVote(asked));
    let (reply, _) = high.last_vote_reply();
    assert_eq!((reply.granted, reply.term), (false, 9));
    low.tell(2, Message::PreVoteReply(reply));
    assert_eq!((low.core.term(), low.core.role()), (9, RaftRole::Follower));
    assert_eq!(low.core.hard_state().voted_for, ReplicaId::default());
    low.time_out();
    high.tell(1, Message::PreVote(low.last_request()));
    assert!(high.last_vote_reply().0.granted, "now they can agree");
}

#[test]
fn a5_every_start_state_of_three_nodes_elects() {
    let logs: [&[u64]; 3] = [&[1], &[1, 1], &[1, 2]];
    for state in 0..9_usize.pow(3) {
        let images = (0..3).map(|node| {
            let mine = state / 9_usize.pow(node) % 9;
            image(3, logs[mine / 3], [2, 3, 5][mine % 3])
        });
        let mut bed = Bed::with_images(state as u64, images.collect());
        let elected = bed.run_while(10 * T_MAX, |bed| leader(bed).is_some());
        assert!(elected, "state {state} elects nobody");
    }
}

#[test]
fn a6_replies_of_an_ended_round_are_inert() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.time_out();
    let old = one.last_request();
    one.time_out();
    let asked = one.last_request();
    assert!(asked.round > old.round);
    one.tell(2, Message::PreVoteReply(grant(2, old)));
    one.tell(2, Message::VoteReply(grant(2, asked)));
    let mut other_term = asked;
    other_term.term += 1;
    one.tell(2, Message::PreVoteReply(grant(2, other_term)));
    assert_eq!(one.core.role(), RaftRole::PreCandidate);
    one.tell(2, Message::PreVoteReply(grant(2, asked)));
    assert_eq!(one.core.role(), RaftRole::Candidate);
    let write = one.writes().last().expect("the own vote").id;
    one.durable(write);
    let vote = one.last_request();
    one.tell(2, Message::PreVoteReply(grant(2, vote)));
    one.tell(2, Message::VoteReply(grant(2, asked)));
    assert_eq!(one.core.role(), RaftRole::Candidate);
    one.tell(2, Message::VoteReply(grant(2, vote)));
    let term = one.core.term();
    assert!(one.core.is_leader());
    one.tell(3, Message::VoteReply(grant(3, vote)));
    one.tell(3, Message::VoteReply(reject(3, vote, term)));
    assert!(one.core.is_leader(), "late replies change nothing");
}

#[test]
fn a6_a_pre_candidate_that_votes_for_another_ends_its_own_round() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.time_out();
    let asked = one.last_request();
    one.tell(3, Message::Vote(request(3, 2, LogId::new(2, 2))));
    assert!(one.last_vote_reply().0.granted, "nobody had it in term 2");
    one.tell(2, Message::PreVoteReply(grant(2, asked)));
    assert_eq!(one.core.role(), RaftRole::Follower);
    assert_eq!(one.core.term(), 2);
}

#[test]
fn a9_a_voter_that_just_started_refuses_for_an_election_timeout() {
    for hears_a_leader in [false, true] {
        let mut one = Script::new(1, 3, &[1, 2], 2);
        one.now = 0;
        if hears_a_leader {
            one.tell(2, Message::Heartbeat(heartbeat(2, 0)));
        }
        let before = one.core.hard_state();
        for (now, granted) in [(0, false), (T_MAX - 1, false), (T_MAX, true)] {
            one.now = now;
            one.tell(3, Message::PreVote(request(3, 5, LogId::new(2, 2))));
            assert_eq!(one.last_vote_reply().0.granted, granted, "at {now}");
            if !granted {
                one.tell(3, Message::Vote(request(3, 5, LogId::new(2, 2))));
                assert_eq!(one.last_vote_reply().0.reason, VoteReason::Sticky);
                assert_eq!(one.core.hard_state(), before, "neither term nor vote");
            }
        }
    }
}

#[test]
fn a6_a_voter_counts_once() {
    let mut one = Script::new(1, 5, &[1, 2], 2);
    one.time_out();
    let asked = one.last_request();
    for _ in 0..3 {
        one.tell(2, Message::PreVoteReply(grant(2, asked)));
    }
    assert_eq!(one.core.role(), RaftRole::PreCandidate, "two of five");
}

#[test]
fn a8_a_leader_that_hears_nobody_steps_down() {
    for deaf in [true, false] {
        let mut bed = led(8, 3);
        let leads = leader(&bed).expect("led");
        for other in bed.ids().filter(|node| *node != leads) {
            let way = if deaf { (other, leads) } else { (leads, other) };
            bed.net.cut(way.0, way.1);
        }
        let stepped = bed.run_while(2 * T_MAX, |bed| !bed.core(leads).is_leader());
        assert!(stepped, "deaf {deaf}: it leads on");
        let next = bed.run_while(10 * T_MAX, |bed| {
            leader(bed).is_some_and(|new| new != leads)
        });
        assert!(next, "deaf {deaf}: the others elect nobody");
        recovers(&mut bed);
    }
}

#[test]
fn a8_sends_alone_do_not_keep_a_leader() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.connect(2, 7);
    one.connect(3, 7);
    one.lead(2);
    let start = one.now;
    while one.core.is_leader() && one.now < start + 3 * T_MAX {
        one.time_out();
        if one.now < start + T_MAX / 2 {
            one.tell(3, Message::HeartbeatReply(beat_reply(3, 3, 7)));
        }
        one.tell(2, Message::HeartbeatReply(beat_reply(2, 3, 6))); // of another epoch
    }
    let lasted = one.now - start;
    assert!(lasted > T_MAX && lasted < 2 * T_MAX, "it led for {lasted}");
    let why = "no quorum answers";
    assert_eq!(
        one.events().last(),
        Some(&Event::SteppedDown { term: 3, why })
    );
}

#[test]
fn a10_a_late_tick_steps_down_first() {
    for (late, leads) in [(T_MAX, true), (T_MAX + 1, false)] {
        let mut one = Script::new(1, 3, &[1, 2], 2);
        one.connect(2, 7);
        one.connect(3, 7);
        one.lead(2);
        one.time_out();
        one.now = one.core.deadline();
        for peer in [2, 3] {
            one.tell(peer, Message::HeartbeatReply(beat_reply(peer, 3, 7)));
        }
        one.out.clear();
        one.now += late;
        one.feed(Input::Tick);
        assert_eq!(one.core.is_leader(), leads, "{late} late");
        assert_eq!(one.sends().is_empty(), !leads, "{late} late");
    }
}

#[test]
fn a10_the_only_voter_steps_down_too_and_opens_a_new_term() {
    let mut bed = Bed::blank(10, 1);
    assert!(bed.run_while(T_MAX, |bed| leader(bed).is_some()));
    let term = bed.core(1).term();
    bed.node_mut(1).frozen_until = bed.now + 3 * T_MAX;
    assert!(bed.run_while(8 * T_MAX, |bed| bed.core(1).term() > term));
    recovers(&mut bed);
}

#[test]
fn a10_a_frozen_leader_does_not_disturb_when_it_wakes() {
    for seed in 0..20 {
        let mut bed = led(seed, 3);
        let leads = leader(&bed).expect("led");
        bed.propose(leads, 3);
        bed.node_mut(leads).frozen_until = bed.now + 5 * T_MAX;
        bed.run_for(4 * T_MAX);
        let next = leader(&bed).expect("another one leads");
        let term = bed.core(next).term();
        bed.propose(next, 2);
        bed.run_for(5 * T_MAX);
        assert_eq!(leader(&bed), Some(next), "seed {seed}");
        assert_eq!(bed.core(leads).term(), term, "seed {seed}");
    }
}

#[test]
fn a11_a_new_leader_comes_soon_on_a_thousand_seeds() {
    let mut times: Vec<_> = (0..1000).map(time_to_leader).collect();
    times.sort_unstable();
    let (median, p99) = (times[500], times[990]);
    eprintln!(
        "time to leader: median {} ms, p99 {} ms",
        median / MS,
        p99 / MS
    );
    assert!(median <= T_MAX, "median {median} us");
    assert!(p99 <= 2 * T_MAX, "p99 {p99} us");
}

fn time_to_leader(seed: u64) -> u64 {
    let mut bed = led(seed, 3 + 2 * (seed as usize % 2));
    let leads = leader(&bed).expect("led");
    bed.run_for(2 * T_MAX + seed % HEARTBEAT);
    bed.crash(leads);
    let start = bed.now;
    let elected = bed.run_while(20 * T_MAX, |bed| leader(bed).is_some());
    assert!(elected, "seed {seed} elects nobody");
    bed.now - start
}

/// A cluster that has a leader.
pub(super) fn led(seed: u64, count: usize) -> Bed {
    let mut bed = Bed::with_images(seed, vec![image(count, &[1], 2); count]);
    let elected = bed.run_while(10 * T_MAX, |bed| leader(bed).is_some());
    assert!(elected, "seed {seed} elects nobody");
    bed
}

#[test]
fn the_better_log_wins_the_vote() {
    let mut one = Script::new(1, 3, &[1, 2, 2], 2);
    let mut term = 2;
    for (last, granted) in [
        ((2, 2), false),
        ((1, 9), false),
        ((2, 3), true),
        ((3, 1), true),
    ] {
        term += 1;
        let from: NodeId = 2 + term % 2;
        one.tell(
            from,
            Message::Vote(request(from, term, LogId::new(last.0, last.1))),
        );
        assert_eq!(one.last_vote_reply().0.granted, granted, "last {last:?}");
        assert_eq!(one.core.term(), term, "the term is adopted either way");
    }
}

//! Founding, and replicas that lost their disk.

use std::sync::Arc;

use super::super::{
    Class, EntrySummary, Event, Found, FoundReply, FoundStatus, FoundingList, Input, Message,
    Output, PeerHello, RaftCore, RaftRole, Recovered,
};
use super::bed::{Bed, MS, T_MAX, incarnation, settings};
use super::disk::mix;
use super::election::led;
use super::script::{Script, beat_reply, grant, replica, request, summary, voters};
use super::seeds::{Named, converged, heal, leader, recovers};
use crate::types::{LogId, NodeId, ReplicaId};

/// Node 1 or another, blank, that lists the rest of three.
fn blank(node: NodeId) -> Script {
    let others = (1..=3).filter(|other| *other != node).collect();
    blank_with(node, others, false)
}

fn blank_with(node: NodeId, others: Vec<NodeId>, single: bool) -> Script {
    let list = FoundingList {
        others,
        single,
        ..FoundingList::default()
    };
    let recovered = Recovered::default();
    Script {
        core: RaftCore::new(replica(node), settings(node), recovered, list, 0),
        now: T_MAX,
        out: Vec::new(),
    }
}

fn other_life(node: NodeId) -> ReplicaId {
    ReplicaId::new(node, incarnation(node, 9))
}

fn greet(one: &mut Script, peer: ReplicaId, blank: bool) {
    one.feed(Input::PeerUp {
        peer,
        class: Class::Control,
        epoch: 7,
        hello: PeerHello {
            blank,
            ..PeerHello::default()
        },
    });
}

fn found_reply(from: ReplicaId, status: FoundStatus) -> Message {
    Message::FoundReply(FoundReply {
        term: 1,
        incarnation: from.incarnation,
        status,
    })
}

fn offers(one: &Script) -> Vec<NodeId> {
    let offer = |output: &Output| match output {
        Output::SendFirstEntry { to, .. } => Some(*to),
        _ => None,
    };
    one.out.iter().filter_map(offer).collect()
}

fn advised(one: &Script) -> bool {
    let advice = |event: &Event| matches!(event, Event::Advice(_));
    one.events().iter().any(advice)
}

/// The founder with its entry written and not yet durable.
fn founder() -> Script {
    let mut one = blank(1);
    greet(&mut one, replica(2), true);
    assert!(one.core.is_blank(), "not everyone is here");
    greet(&mut one, replica(3), true);
    assert!(!one.core.is_blank());
    one
}

#[test]
fn e10_the_founder_campaigns_only_when_all_have_stored() {
    let mut one = founder();
    assert_eq!(offers(&one), [0_u64; 0], "nobody gets what is not durable");
    one.tell(2, found_reply(replica(2), FoundStatus::Stored));
    one.durable(1);
    assert_eq!(offers(&one), [3]);
    one.tell_as(
        other_life(3),
        found_reply(other_life(3), FoundStatus::Stored),
    );
    one.tell(3, found_reply(other_life(3), FoundStatus::Stored));
    for _ in 0..20 {
        one.time_out();
    }
    assert_eq!(
        one.core.role(),
        RaftRole::Follower,
        "two of three are not all"
    );
    assert_eq!(one.core.term(), 1);
    assert!(offers(&one).len() > 10, "it goes on offering");
    one.tell(3, found_reply(replica(3), FoundStatus::Stored));
    assert_eq!((one.core.role(), one.core.term()), (RaftRole::Candidate, 2));
}

#[test]
fn e10_a_founder_that_restarts_asks_all_again() {
    let mut image = super::script::image(3, &[1], 1);
    image.genesis = incarnation(1, 1);
    let list = FoundingList {
        others: vec![2, 3],
        ..FoundingList::default()
    };
    let core = RaftCore::new(replica(1), settings(1), image.recovered(), list, 0);
    let (now, out) = (T_MAX, Vec::new());
    let mut one = Script { core, now, out };
    one.time_out();
    assert_eq!(offers(&one), [2, 3]);
    one.tell(2, found_reply(replica(2), FoundStatus::Stored));
    assert_eq!(one.core.role(), RaftRole::Follower);
    one.tell(3, found_reply(replica(3), FoundStatus::Stored));
    assert_eq!(one.core.role(), RaftRole::Candidate);
}

#[test]
fn e10_a_listed_peer_that_is_not_blank_ends_the_attempt() {
    let mut one = blank(1);
    greet(&mut one, replica(2), true);
    greet(&mut one, replica(3), false);
    for _ in 0..10 {
        one.time_out();
    }
    assert!(one.core.is_blank() && advised(&one));
    assert!(one.writes().is_empty());
}

#[test]
fn e10_a_peer_that_left_again_is_not_here() {
    let mut one = blank(1);
    greet(&mut one, replica(2), true);
    one.feed(Input::PeerDown {
        node: 2,
        class: Class::Control,
        epoch: 7,
    });
    greet(&mut one, replica(3), true);
    assert!(one.core.is_blank(), "a live hello from everyone is needed");
}

#[test]
fn e10_a_recreated_member_ends_the_founding_with_advice() {
    let mut one = founder();
    one.durable(1);
    greet(&mut one, other_life(3), true);
    assert!(advised(&one));
    let mut one = founder();
    one.durable(1);
    one.tell_as(
        other_life(3),
        found_reply(other_life(3), FoundStatus::Refused),
    );
    assert!(advised(&one));
}

fn offer(one: &mut Script, from: ReplicaId, voters_of: usize) -> FoundStatus {
    let mut entries: EntrySummary = summary(1, &[1]);
    let mut configuration = (*voters(voters_of)).clone();
    let mine = |member: &&mut super::super::MemberInfo| member.replica.node == from.node;
    if let Some(member) = configuration.incoming.iter_mut().find(mine) {
        member.replica = from;
    }
    entries.configurations = vec![(1, Arc::new(configuration))];
    let found = Found {
        term: 1,
        founder: from.incarnation,
    };
    one.tell_with(from, Message::Found(found), entries);
    match one.sends().last() {
        Some((_, Message::FoundReply(reply), _)) => reply.status,
        other => panic!("expected an answer, not {other:?}"),
    }
}

#[test]
fn e10_a_member_does_not_advise_to_delete_what_may_be_committed() {
    let mut one = blank(2);
    assert_eq!(offer(&mut one, replica(1), 3), FoundStatus::Stored);
    greet(&mut one, other_life(3), true);
    let said = one.events().into_iter().find_map(|event| match event {
        Event::Advice(text) => Some(text),
        _ => None,
    });
    let said = said.expect("it says something");
    assert!(!said.contains("nothing can have been committed"), "{said}");
}

#[test]
fn e10_a_node_stores_one_first_entry_and_refuses_any_other() {
    let mut one = blank(2);
    assert_eq!(offer(&mut one, replica(1), 3), FoundStatus::Stored);
    let after = one.sends().last().and_then(|sent| sent.2);
    assert_eq!(after, Some(1), "it says so when it is durable");
    assert_eq!(offer(&mut one, other_life(1), 3), FoundStatus::Refused);
    assert_eq!(offer(&mut one, replica(1), 3), FoundStatus::Stored);
    assert_eq!(one.writes().len(), 1, "stored once");
    for _ in 0..10 {
        one.time_out();
    }
    assert_eq!(
        one.core.role(),
        RaftRole::Follower,
        "only the founder begins"
    );
}

#[test]
fn e10_a_first_entry_without_this_node_or_its_founder_is_refused() {
    let mut one = blank(3);
    assert_eq!(offer(&mut one, replica(1), 2), FoundStatus::Refused);
    let mut two = blank(2);
    assert_eq!(offer(&mut two, replica(9), 3), FoundStatus::Refused);
    assert!(one.core.is_blank() && two.core.is_blank());
}

#[test]
fn e10_a_first_entry_of_another_founder_or_term_is_refused() {
    for (founder, term, blank_after) in [
        (replica(1), 1, false),
        (replica(1), 2, true),
        (replica(3), 1, true),
    ] {
        let mut one = blank(2);
        let mut entries: EntrySummary = summary(1, &[1]);
        entries.configurations = vec![(1, voters(3))];
        let founder = founder.incarnation;
        let found = Found { term, founder };
        one.tell_with(replica(1), Message::Found(found), entries);
        assert_eq!(one.core.is_blank(), blank_after, "term {term}");
    }
}

#[test]
fn e10_a_blank_founder_that_has_heard_of_term_1_only_founds() {
    let mut one = blank(1);
    one.tell(2, Message::Vote(request(2, 1, LogId::new(1, 1))));
    assert_eq!(one.core.term(), 1);
    greet(&mut one, replica(2), true);
    greet(&mut one, replica(3), true);
    assert!(
        !one.core.is_blank(),
        "no term has begun before this founding"
    );
}

#[test]
fn e10_a_founder_offers_nothing_once_a_term_has_begun_and_no_more_than_once() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.append(2, 2, LogId::new(2, 2), &[2], 0);
    one.durable(1);
    assert_eq!(offers(&one), [0_u64; 0], "the cluster was founded long ago");
    let mut one = founder();
    one.durable(1);
    one.durable(1);
    assert_eq!(offers(&one), [2, 3], "again only when the timer says so");
}

#[test]
fn e10_advice_is_for_a_member_in_another_life_while_the_founding_is_open() {
    for (peer, advises) in [
        (replica(3), false),
        (replica(9), false),
        (other_life(3), true),
    ] {
        let mut one = founder();
        one.durable(1);
        greet(&mut one, peer, false);
        assert_eq!(advised(&one), advises, "{peer}");
        let mut later = Script::new(1, 3, &[1, 2], 2);
        greet(&mut later, peer, false);
        assert!(!advised(&later), "{peer}, after the founding");
    }
}

#[test]
fn e10_alone_only_on_an_explicit_word() {
    let mut one = blank_with(1, Vec::new(), false);
    let mut sure = blank_with(1, Vec::new(), true);
    for _ in 0..10 {
        one.time_out();
    }
    assert!(one.core.is_blank() && one.writes().is_empty());
    sure.time_out();
    sure.durable(1);
    let vote = sure.writes().last().expect("the own vote").id;
    sure.durable(vote);
    assert!(sure.core.is_leader());
}

#[test]
fn e10_a_blank_node_that_knows_of_a_later_term_does_not_found() {
    let mut one = blank(1);
    one.tell(2, Message::Vote(request(2, 5, LogId::new(4, 9))));
    greet(&mut one, replica(2), true);
    greet(&mut one, replica(3), true);
    for _ in 0..10 {
        one.time_out();
    }
    assert_eq!(one.core.term(), 5, "terms never fall");
    assert!(one.core.is_blank() && advised(&one));
}

const ORDERS: [[NodeId; 3]; 6] = [
    [1, 2, 3],
    [1, 3, 2],
    [2, 1, 3],
    [2, 3, 1],
    [3, 1, 2],
    [3, 2, 1],
];

#[test]
fn e10_every_order_of_starts_founds_one_cluster() {
    for order in ORDERS {
        for gap in [0, 3 * MS, 20 * MS, 3 * T_MAX] {
            let mut bed = Bed::dormant(order[0] * 10 + order[1], 3);
            for node in order {
                bed.start(node);
                bed.run_for(gap);
            }
            recovers(&mut bed);
            assert_eq!(bed.ghost.elections(), 1, "the founder needs one campaign");
        }
    }
}

/// One of six: start or crash node 1..=3, or wipe it. Whether a life ended that others may have met.
fn act(bed: &mut Bed, action: u64) -> bool {
    let node = action % 3 + 1;
    if action >= 3 {
        let was_up = bed.is_up(node);
        bed.wipe(node);
        if was_up {
            bed.start(node);
        }
        return true;
    }
    if bed.is_up(node) {
        bed.crash(node);
    } else {
        bed.start(node);
    }
    false
}

#[test]
fn e10_no_order_of_starts_crashes_and_wipes_makes_two_histories() {
    // The observer asserts at every election that there is one genesis, and one history.
    let (mut founded, mut stuck) = (0, 0);
    for order in ORDERS {
        for code in 0..6_u64.pow(3) {
            let mut bed = Bed::dormant(mix(order[0] * 10 + order[1], code), 3);
            for node in order {
                bed.start(node);
                let pause = bed.rng.between(0, 3 * MS);
                bed.run_for(pause);
            }
            let _named = Named(bed.seed);
            let mut lost = false;
            for at in 0..3 {
                lost |= act(&mut bed, code / 6_u64.pow(at) % 6);
                let pause = bed.rng.between(0, 6 * MS);
                bed.run_for(pause);
            }
            let ended = if ends_well(&mut bed, lost) {
                &mut founded
            } else {
                &mut stuck
            };
            *ended += 1;
        }
    }
    eprintln!("{founded} founded, {stuck} ended with advice");
    assert!(founded > 0 && stuck > 0, "{founded} founded, {stuck} stuck");
}

/// Without a loss the cluster works in the end; else it works, or someone says what to do.
fn ends_well(bed: &mut Bed, lost: bool) -> bool {
    heal(bed);
    let elected = bed.run_while(10 * T_MAX, |bed| leader(bed).is_some());
    if elected {
        recovers(bed);
    } else {
        assert!(lost, "nothing was lost, and nobody leads");
        let advised = bed.nodes.iter().any(|node| !node.advice.is_empty());
        assert!(advised, "nobody says what to do");
    }
    elected
}

#[test]
fn e8_a_wiped_voter_does_not_count() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.time_out();
    let asked = one.last_request();
    let wiped = other_life(2);
    let mut reborn = grant(2, asked);
    reborn.incarnation = wiped.incarnation;
    one.tell_as(wiped, Message::PreVoteReply(grant(2, asked)));
    one.tell_as(wiped, Message::PreVoteReply(reborn));
    one.tell(2, Message::PreVoteReply(reborn));
    assert_eq!(one.core.role(), RaftRole::PreCandidate);
    one.tell(3, Message::PreVoteReply(grant(3, asked)));
    let write = one.writes().last().expect("the own vote").id;
    one.durable(write);
    let asked = one.last_request();
    let mut reborn = grant(2, asked);
    reborn.incarnation = wiped.incarnation;
    one.tell_as(wiped, Message::VoteReply(grant(2, asked)));
    one.tell_as(wiped, Message::VoteReply(reborn));
    one.tell(2, Message::VoteReply(reborn));
    assert_eq!(one.core.role(), RaftRole::Candidate);
}

#[test]
fn e8_a_wiped_voter_does_not_keep_a_leader_nor_get_entries() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.lead(2);
    for class in [Class::Control, Class::Data] {
        one.feed(Input::PeerUp {
            peer: other_life(2),
            class,
            epoch: 7,
            hello: PeerHello::default(),
        });
    }
    one.settle();
    assert!(
        one.appends_to(2).is_empty(),
        "it joins by a membership change"
    );
    let start = one.now;
    while one.core.is_leader() && one.now < start + 3 * T_MAX {
        one.time_out();
        let mut reply = beat_reply(2, 3, 7);
        reply.incarnation = other_life(2).incarnation;
        one.tell_as(other_life(2), Message::HeartbeatReply(reply));
    }
    assert!(!one.core.is_leader());
}

#[test]
fn e8_a_wiped_node_waits_and_says_what_to_do() {
    let mut one = blank(3);
    greet(&mut one, replica(2), true);
    one.time_out();
    assert!(!advised(&one), "a founding may be going on");
    greet(&mut one, replica(1), false);
    one.time_out();
    one.time_out();
    assert_eq!(one.events().len(), 1, "said once");
    assert!(advised(&one) && one.sends().is_empty());
}

#[test]
fn e8_a_wiped_node_never_campaigns() {
    let mut one = blank(2);
    for _ in 0..20 {
        one.time_out();
    }
    assert_eq!((one.core.role(), one.core.term()), (RaftRole::Follower, 0));
    assert!(one.sends().is_empty());
}

#[test]
fn e8_amnesia_does_not_lose_a_committed_entry() {
    for seed in 0..20 {
        let mut bed = led(seed, 3);
        let first = leader(&bed).expect("led");
        let (wiped, away) = (1 + first % 3, 1 + (first + 1) % 3);
        bed.crash(away);
        bed.propose(first, 3);
        bed.run_for(T_MAX);
        let committed = bed.ghost.committed();
        assert!(committed >= 4);
        bed.wipe(wiped);
        bed.start(wiped);
        bed.crash(first);
        bed.start(away);
        let elections = bed.ghost.elections();
        bed.run_for(10 * T_MAX);
        assert_eq!(bed.ghost.elections(), elections, "{away} and an empty disk");
        bed.start(first);
        recovers(&mut bed);
        assert!(bed.ghost.committed() > committed && converged(&bed));
    }
}

#[test]
fn e8_amnesia_does_not_vote_twice_in_a_term() {
    for seed in 0..20 {
        let mut bed = Bed::with_images(seed, vec![super::script::image(3, &[1], 2); 3]);
        bed.crash(3);
        assert!(bed.run_while(10 * T_MAX, |bed| leader(bed).is_some()));
        let first = leader(&bed).expect("just seen");
        let other = 3 - first;
        bed.partition(&[first]);
        bed.wipe(other);
        bed.start(other);
        bed.start(3);
        let elections = bed.ghost.elections();
        bed.run_for(10 * T_MAX);
        assert_eq!(
            bed.ghost.elections(),
            elections,
            "its second vote counts nowhere"
        );
        recovers(&mut bed);
    }
}

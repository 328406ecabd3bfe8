//! Configurations in the log, and joint quorums wherever a quorum decides.

use std::sync::Arc;

use super::super::{
    AppendEntries, Configuration, EntrySummary, Event, Input, MemberInfo, Message, Output, RaftRole,
};
use super::bed::T_MAX;
use super::script::{Script, beat_reply, grant, image, matched, replica, request, summary, voters};
use crate::types::{LogId, LogIndex, NodeId, Term};

fn members(nodes: &[NodeId]) -> Vec<MemberInfo> {
    let member = |node: &NodeId| MemberInfo {
        replica: replica(*node),
        ..MemberInfo::default()
    };
    nodes.iter().map(member).collect()
}

/// Node 1 while voters 1, 2, 3 give way to 1, 4, 5.
fn joint() -> Script {
    let mut image = image(3, &[1, 2], 2);
    image.configurations = vec![(
        1,
        Arc::new(Configuration {
            incoming: members(&[1, 4, 5]),
            outgoing: members(&[1, 2, 3]),
            ..Configuration::default()
        }),
    )];
    Script::open(1, &image)
}

/// The voter that completes both majorities, after those that do not.
const ORDER: [NodeId; 3] = [2, 3, 4];

#[test]
fn e2_elections_need_both_majorities() {
    let mut one = joint();
    one.time_out();
    let asked = one.last_request();
    for voter in ORDER {
        assert_eq!(one.core.role(), RaftRole::PreCandidate, "before {voter}");
        one.tell(voter, Message::PreVoteReply(grant(voter, asked)));
    }
    let write = one.writes().last().expect("the own vote").id;
    one.durable(write);
    let asked = one.last_request();
    for voter in ORDER {
        assert_eq!(one.core.role(), RaftRole::Candidate, "before {voter}");
        one.tell(voter, Message::VoteReply(grant(voter, asked)));
    }
    assert!(one.core.is_leader());
}

/// Leads term 3 in the joint configuration, connected to all in epoch 7.
fn leading() -> Script {
    let mut one = joint();
    (2..=5).for_each(|peer| one.connect(peer, 7));
    one.time_out();
    let asked = one.last_request();
    for voter in ORDER {
        one.tell(voter, Message::PreVoteReply(grant(voter, asked)));
    }
    let write = one.writes().last().expect("the own vote").id;
    one.durable(write);
    let asked = one.last_request();
    for voter in ORDER {
        one.tell(voter, Message::VoteReply(grant(voter, asked)));
    }
    one.settle();
    one
}

#[test]
fn e2_commits_need_both_majorities() {
    let mut one = leading();
    let noop = one.writes().last().expect("the no-op").id;
    one.durable(noop);
    for voter in ORDER {
        assert_eq!(one.core.commit(), 0, "before {voter}");
        let append = *one.appends_to(voter).last().expect("a probe");
        one.tell(voter, Message::AppendAck(matched(voter, append, 3)));
        one.settle();
    }
    assert_eq!(one.core.commit(), 3);
}

#[test]
fn e2_check_quorum_needs_both_majorities() {
    for (heard, leads) in [([2, 3], false), ([4, 5], false), ([3, 5], true)] {
        let mut one = leading();
        let start = one.now;
        while one.core.is_leader() && one.now < start + 3 * T_MAX {
            one.time_out();
            for peer in heard {
                one.tell(peer, Message::HeartbeatReply(beat_reply(peer, 3, 7)));
            }
        }
        assert_eq!(one.core.is_leader(), leads, "{heard:?}");
    }
}

fn append_configuration(one: &mut Script, term: Term, at: LogIndex, count: usize) {
    let prev = LogId::new(1, at - 1);
    let append = AppendEntries {
        term,
        epoch: 1,
        seq: 0,
        prev,
        commit: 0,
        sent_at: 0,
        count: 1,
    };
    let entries = EntrySummary {
        configurations: vec![(at, voters(count))],
        ..summary(at, &[term])
    };
    one.tell_with(replica(2), Message::Append(append), entries);
}

#[test]
fn e4_a_configuration_holds_from_its_append_until_its_truncation() {
    let mut one = Script::new(1, 3, &[1, 1], 2);
    let size = |one: &Script| one.core.configuration().map(|it| it.incoming.len());
    append_configuration(&mut one, 2, 3, 5);
    assert_eq!(size(&one), Some(5), "not committed, and in force");
    append_configuration(&mut one, 2, 3, 5);
    assert_eq!(one.events().len(), 1, "a duplicate changes nothing");
    one.append(3, 3, LogId::new(1, 2), &[3, 3], 0);
    assert_eq!(size(&one), Some(3), "the one before it is back");
    let (index, configuration) = (1, voters(3));
    let back = Event::Configured {
        index,
        configuration,
    };
    assert_eq!(one.events().last(), Some(&back));
    one.out.clear();
    one.now += 2 * T_MAX;
    one.feed(Input::Tick);
    let asked = |output: &Output| match output {
        Output::Send { to, .. } => Some(*to),
        _ => None,
    };
    let asked: Vec<_> = one.out.iter().filter_map(asked).collect();
    assert_eq!(asked, [2, 3], "nodes 4 and 5 are no voters any more");
}

/// Its log may lack the configuration by which it votes; who asks knows whether its vote counts.
#[test]
fn a12_a_replica_votes_that_does_not_know_itself_as_a_voter() {
    let mut one = Script::new(4, 3, &[1, 2], 2);
    one.tell(1, Message::PreVote(request(1, 3, LogId::new(2, 2))));
    assert!(one.last_vote_reply().0.granted, "it may be a voter already");
    one.tell(1, Message::Vote(request(1, 3, LogId::new(2, 2))));
    assert!(one.last_vote_reply().0.granted);
}

#[test]
fn a12_a_voter_votes_whatever_its_own_configuration_says() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.tell(7, Message::PreVote(request(7, 3, LogId::new(2, 2))));
    assert!(
        one.last_vote_reply().0.granted,
        "node 7 may be a voter already"
    );
    one.tell(7, Message::Vote(request(7, 3, LogId::new(2, 2))));
    assert!(one.last_vote_reply().0.granted);
}

//! Messages and writes as a reader of a script sees them.

use conveyor_raft::core::{
    AppendAck, AppendStatus, FoundStatus, Message, RaftRole, VoteReason, VoteReply, VoteRequest,
};
use conveyor_raft::types::{NodeId, WriteId};

use crate::disk::{Write, listed};
use crate::world::Envelope;

/// The word that a message begins with, and by which `deliver` picks it.
pub(crate) const fn kind(message: &Message) -> &'static str {
    match message {
        Message::Append(_) => "append",
        Message::AppendAck(_) => "ack",
        Message::PreVote(_) => "pre-vote",
        Message::PreVoteReply(_) => "pre-vote-reply",
        Message::Vote(_) => "vote",
        Message::VoteReply(_) => "vote-reply",
        Message::Heartbeat(_) => "heartbeat",
        Message::HeartbeatReply(_) => "heartbeat-reply",
        Message::ReadIndex(_) => "read-index",
        Message::ReadIndexReply(_) => "read-index-reply",
        Message::TimeoutNow(_) => "timeout-now",
        Message::TimeoutNowReply(_) => "timeout-now-reply",
        Message::Found(_) => "found",
        Message::FoundReply(_) => "found-reply",
    }
}

pub(crate) const KINDS: [&str; 14] = [
    "append",
    "ack",
    "pre-vote",
    "pre-vote-reply",
    "vote",
    "vote-reply",
    "heartbeat",
    "heartbeat-reply",
    "read-index",
    "read-index-reply",
    "timeout-now",
    "timeout-now-reply",
    "found",
    "found-reply",
];

/// `1->2 append #1.0 term 3, after 1.1: 3:noop, commit 0`.
pub(crate) fn envelope(envelope: &Envelope) -> String {
    let what = match &envelope.message {
        Message::Append(it) => {
            let entries = match envelope.entries.is_empty() {
                true => "nothing".to_owned(),
                false => listed(&envelope.entries),
            };
            format!(
                "#{}.{} term {}, after {}: {entries}, commit {}",
                it.epoch, it.seq, it.term, it.prev, it.commit
            )
        }
        Message::AppendAck(it) => ack(it),
        Message::PreVote(it) | Message::Vote(it) => request(it),
        Message::PreVoteReply(it) | Message::VoteReply(it) => reply(it),
        Message::Heartbeat(it) => {
            format!(
                "#{}.{} term {}, commit {}",
                it.epoch, it.seq, it.term, it.commit
            )
        }
        Message::HeartbeatReply(it) => format!("#{}.{} term {}", it.epoch, it.seq, it.term),
        Message::ReadIndex(it) => format!("read {} term {}", it.id, it.term),
        Message::ReadIndexReply(it) => match it.index {
            Some(index) => format!("read {} term {}: at {index}", it.id, it.term),
            None => format!("read {} term {}: refused", it.id, it.term),
        },
        Message::TimeoutNow(it) => format!("term {}, with {}", it.term, it.last),
        Message::TimeoutNowReply(it) => {
            let how = if it.accepted { "accepted" } else { "refused" };
            format!("term {}: {how}", it.term)
        }
        Message::Found(it) => format!("term {}: {}", it.term, listed(&envelope.entries)),
        Message::FoundReply(it) => {
            let how = match it.status {
                FoundStatus::Stored => "stored",
                FoundStatus::Refused => "refused",
            };
            format!("term {}: {how}", it.term)
        }
    };
    let (from, to) = (envelope.from.node, envelope.to);
    format!("{from}->{to} {} {what}", kind(&envelope.message))
}

fn ack(ack: &AppendAck) -> String {
    let how = match ack.status {
        AppendStatus::Matched => format!("matched {}", ack.match_index),
        AppendStatus::Conflict => format!("conflict, perhaps {}", ack.conflict),
        AppendStatus::StaleTerm => "stale term".to_owned(),
        AppendStatus::Busy => "busy".to_owned(),
    };
    format!("#{}.{} term {}: {how}", ack.epoch, ack.seq, ack.term)
}

fn request(request: &VoteRequest) -> String {
    format!("term {}, last {}", request.term, request.last)
}

fn reply(reply: &VoteReply) -> String {
    let how = match reply.reason {
        VoteReason::Granted => "granted",
        VoteReason::StaleTerm => "refused, stale term",
        VoteReason::AlreadyVoted => "refused, already voted",
        VoteReason::LogBehind => "refused, log behind",
        VoteReason::Sticky => "refused, a leader lives",
        VoteReason::NoVoter => "refused, no voter",
    };
    format!("term {}: {how}", reply.term)
}

pub(crate) fn write(write: &Write) -> String {
    let mut parts = Vec::new();
    if let Some(hard) = write.hard {
        let vote = match hard.voted_for.node {
            0 => "no vote".to_owned(),
            node => format!("vote for {node}"),
        };
        parts.push(format!("term {}, {vote}", hard.term));
    }
    if let Some(from) = write.truncate_from {
        parts.push(format!("drop from {from}"));
    }
    if !write.entries.is_empty() {
        parts.push(format!("append {}", listed(&write.entries)));
    }
    parts.join("; ")
}

pub(crate) fn role(role: RaftRole) -> &'static str {
    match role {
        RaftRole::Follower => "follower",
        RaftRole::PreCandidate => "pre-candidate",
        RaftRole::Candidate => "candidate",
        RaftRole::Leader => "leader",
    }
}

/// `w3 w4`.
pub(crate) fn writes(ids: impl Iterator<Item = WriteId>) -> String {
    let ids = ids.map(|id| format!("w{id}"));
    ids.collect::<Vec<_>>().join(" ")
}

/// `nobody`, or the node.
pub(crate) fn nobody(node: NodeId) -> String {
    match node {
        0 => "-".to_owned(),
        node => node.to_string(),
    }
}

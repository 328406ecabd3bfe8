//! The interpreter's own watch over safety, whatever a script prints.
//!
//! S1: one leader a term. S2, S19: nothing is promised before it is durable, and one vote a term.
//! S6: what is committed never differs.

use std::collections::BTreeMap;

use conveyor_raft::core::{AppendStatus, FoundStatus, Message};
use conveyor_raft::types::{LogIndex, NodeId, Term};

use crate::disk::{Entry, Image};
use crate::world::Envelope;

/// What outlives crashes.
#[derive(Debug, Default)]
pub(crate) struct Check {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    committed: Vec<Entry>,
}

fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Check {
    pub(crate) fn leads(&mut self, node: NodeId, term: Term) -> Result<(), String> {
        let first = *self.leaders.entry(term).or_insert(node);
        hold(first == node, || {
            format!("S1: term {term} has two leaders, {first} and {node}")
        })
    }

    pub(crate) fn durable(&mut self, node: NodeId, image: &Image) -> Result<(), String> {
        let (term, vote) = (image.hard.term, image.hard.voted_for.node);
        if vote == 0 {
            return Ok(());
        }
        let first = *self.votes.entry((node, term)).or_insert(vote);
        hold(first == vote, || {
            format!("S2: {node} votes for {first} and for {vote} in term {term}")
        })
    }

    /// `image`, the log of `node`, is committed up to `to`.
    pub(crate) fn commits(
        &mut self,
        node: NodeId,
        image: &Image,
        to: LogIndex,
    ) -> Result<(), String> {
        let entries = image.up_to(to);
        let entries = entries.ok_or_else(|| format!("S10: {node} commits beyond its log"))?;
        for ((index, entry), known) in (1..).zip(entries).zip(&self.committed) {
            hold(entry == known, || {
                format!("S6: {node} commits {entry} at index {index}, where {known} is committed")
            })?;
        }
        let new = entries.iter().skip(self.committed.len());
        self.committed.extend(new.cloned());
        Ok(())
    }

    /// A message leaves its node; `vouches` is what the node's log held when it was made.
    pub(crate) fn leaves(
        &self,
        envelope: &Envelope,
        vouches: Option<&[Entry]>,
        durable: &Image,
    ) -> Result<(), String> {
        let (node, message) = (envelope.from.node, &envelope.message);
        // A pre-vote speaks of a term that nobody is in.
        let would_be = match message {
            Message::PreVote(_) => true,
            Message::PreVoteReply(reply) => reply.granted,
            _ => false,
        };
        hold(would_be || durable.hard.term >= message.term(), || {
            format!(
                "A3: {node} speaks of term {} before it is durable",
                message.term()
            )
        })?;
        let kept = match message {
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => {
                vouches.is_some() && durable.up_to(ack.match_index) == vouches
            }
            Message::VoteReply(reply) if reply.granted => {
                durable.hard.term == reply.term && durable.hard.voted_for.node == envelope.to
            }
            Message::Vote(_) => durable.hard.voted_for == envelope.from,
            Message::FoundReply(reply) if reply.status == FoundStatus::Stored => {
                durable.last() >= 1
            }
            Message::Found(_) => durable.last() >= 1,
            _ => true,
        };
        hold(kept, || {
            let what = crate::show::envelope(envelope);
            format!("S19: {node} promises what is not durable: {what}")
        })
    }
}

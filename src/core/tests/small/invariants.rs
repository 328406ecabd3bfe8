//! What must hold after every step, on what an observer of all disks sees. The names are those of
//! the list of invariants, as in `ghost.rs`; here they judge one state and the step into it.

use std::rc::Rc;

use super::super::super::{AppendStatus, Message, RaftRole};
use super::super::disk::Image;
use super::super::net::Envelope;
use super::FOUNDED;
use super::world::{NODES, Node, Note, Start, World};
use crate::types::{HardState, LogIndex, Term};

impl World {
    /// S1, S2 and S5, at every election.
    pub(super) fn elected(&mut self, at: usize) {
        let node = Rc::clone(&self.nodes[at]);
        let (me, term) = (node.id, node.core.term());
        let first = self.leaders.iter().find(|(led, _)| *led == term);
        match first.map(|(_, leader)| *leader) {
            Some(leader) => self.check(leader == me.node, || format!("S1: two leaders in {term}")),
            None => self.leaders.push((term, me.node)),
        }
        self.leaders.sort_unstable();
        let hard = node.disk.durable.hard;
        self.check(hard.term == term && hard.voted_for == me, || {
            format!("A1: {} leads {term}, its own vote is not durable", me.node)
        });
        let voted = self.durable_quorum(|image| {
            image.hard.term > term || image.hard.term == term && image.hard.voted_for == me
        });
        self.check(voted, || format!("S2: {term} is led without durable votes"));
        for ((hash, commit_term), index) in self.committed.clone().into_iter().zip(1..) {
            let has = node.disk.live.hash_at(index) == Some(hash);
            self.check(has || commit_term > term, || {
                format!("S5: the leader of {term} lacks committed entry {index}")
            });
        }
        let started = self.bounds.start.iter().map(|start| start.term).max();
        match term - started.unwrap_or(0) {
            1 => self.note(Note::Elected),
            2 => self.note(Note::ElectedLater),
            _ => self.note(Note::ElectedLast),
        }
    }

    /// The first term in which a leader can have been.
    fn first_term(&self) -> Term {
        let second = |start: &Start| start.terms.get(1).copied();
        let terms = self.bounds.start.iter().filter_map(second);
        terms.min().unwrap_or(FOUNDED.term + 1)
    }

    /// S6 for everyone, S7 for a leader, S10.
    pub(super) fn commits(&mut self, at: usize, to: LogIndex) {
        let node = Rc::clone(&self.nodes[at]);
        let (live, term) = (&node.disk.live, node.core.term());
        if to > live.last() {
            return self.fail(format!("S10: node {} commits {to} beyond its log", at + 1));
        }
        if node.core.is_leader() {
            let (item, hash) = (live.item(to), live.hash_at(to));
            self.check(item.is_some_and(|item| item.term == term), || {
                format!(
                    "S7: node {} commits {to}, of an old term, by counting",
                    at + 1
                )
            });
            let durable = self.durable_quorum(|image| image.hash_at(to) == hash);
            self.check(durable, || {
                format!(
                    "S7: node {} commits {to} and no quorum holds it durably",
                    at + 1
                )
            });
            let founded = self.first_term();
            let older = (self.committed.len() as LogIndex + 1..to)
                .filter_map(|index| live.item(index))
                .any(|item| item.term >= founded && item.term < term);
            self.note(Note::Committed);
            if older {
                self.note(Note::CommittedOlderTerm);
            }
        }
        for (item, index) in live.items.iter().zip(1..=to) {
            match self.committed.get(index as usize - 1) {
                Some((hash, _)) if *hash == item.hash => {}
                Some(_) => self.fail(format!("S6: node {} commits another entry {index}", at + 1)),
                None => self.committed.push((item.hash, term)),
            }
        }
    }

    /// S2 and S9, whenever something became durable.
    pub(super) fn became_durable(&mut self, at: usize, before: HardState) {
        let after = self.nodes[at].disk.durable.hard;
        self.check(after.term >= before.term, || {
            format!("S9: node {} forgot term {}", at + 1, before.term)
        });
        let voted = before.term == after.term && before.voted_for.node != 0;
        self.check(!voted || before.voted_for == after.voted_for, || {
            format!("S2: node {} changes its vote in {}", at + 1, before.term)
        });
    }

    /// S2, S19, A1, A3: a message's promises are durable when it leaves.
    pub(super) fn check_promises(&mut self, at: usize, sent: &Envelope, vouches: Option<u64>) {
        let durable = &self.nodes[at].disk.durable;
        let would_be = matches!(sent.message, Message::PreVote(_) | Message::PreVoteReply(_));
        let term_kept = would_be || durable.hard.term >= sent.message.term();
        let (kept, name) = match &sent.message {
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => {
                let held = vouches.is_some() && durable.hash_at(ack.match_index) == vouches;
                (held, "S19: acknowledged")
            }
            Message::VoteReply(reply) if reply.granted => {
                let vote = durable.hard.voted_for.node == sent.to;
                (durable.hard.term == reply.term && vote, "S2: voted")
            }
            Message::Vote(_) => (durable.hard.voted_for == sent.from, "A1: asked for votes"),
            _ => (true, ""),
        };
        self.check(term_kept, || {
            format!("A3: node {} speaks of a term that is not durable", at + 1)
        });
        self.check(kept, || {
            format!("{name} before it was durable, node {}", at + 1)
        });
    }

    /// S3, S4, S9, S10 and what a core believes of disks, after every step of a node.
    pub(super) fn observe(&mut self, at: usize, before: &Node) {
        let node = Rc::clone(&self.nodes[at]);
        let (core, live) = (&node.core, &node.disk.live);
        let me = at + 1;
        let agree = core.last().index == live.last()
            && (1..=live.last()).all(|i| core.term_at(i) == live.item(i).map(|item| item.term))
            && core.hard_state() == live.hard;
        self.check(agree, || format!("node {me}: core and log differ"));
        self.check(core.commit() >= before.core.commit(), || {
            format!("S9: node {me} uncommitted")
        });
        self.check(core.term() >= before.core.term(), || {
            format!("S9: node {me}'s term fell")
        });
        self.check(core.commit() <= live.last(), || format!("S10: node {me}"));
        let led = before.core.is_leader() && core.is_leader();
        let kept =
            live.hash_at(before.disk.live.last()) == before.disk.live.items.last().map(|i| i.hash);
        self.check(!led || kept, || format!("S3: leader {me} changed its log"));
        let vouched = node.disk.durable.hash_at(core.durable());
        let held = vouched.is_some() && vouched == live.hash_at(core.durable());
        self.check(held, || {
            format!("B6: node {me} believes {} durable", core.durable())
        });
        for other in (0..NODES).filter(|other| *other != at) {
            let other = Rc::clone(&self.nodes[other]);
            self.check(matching(live, &other.disk.live), || {
                format!("S4: nodes {me} and {} differ", other.id.node)
            });
            self.leader_believes(&node, &other);
        }
        self.committed_is_durable();
    }

    /// What a leader counts is there, unless a newer term has been at that disk.
    fn leader_believes(&mut self, node: &Node, other: &Node) {
        let (term, there) = (node.core.term(), &other.disk.durable);
        if node.core.role() != RaftRole::Leader || there.hard.term > term {
            return;
        }
        let matched = node.core.match_of(other.id.node);
        let held = there.hash_at(matched);
        let equal = held.is_some() && held == node.disk.live.hash_at(matched);
        self.check(equal, || {
            format!(
                "S19: the leader of {term} counts {matched} at {}",
                other.id.node
            )
        });
    }

    /// S8: a quorum holds durably what is committed, at all times.
    fn committed_is_durable(&mut self) {
        let Some((hash, _)) = self.committed.last().copied() else {
            return;
        };
        let index = self.committed.len() as LogIndex;
        let held = self.durable_quorum(|image| image.hash_at(index) == Some(hash));
        self.check(held, || {
            format!("S8: committed entry {index} left the quorum")
        });
    }
}

/// S4: where index and term are equal, all up to there is equal.
fn matching(a: &Image, b: &Image) -> bool {
    let mut pairs = a.items.iter().zip(&b.items);
    pairs.all(|(a, b)| a.term != b.term || a.hash == b.hash)
}

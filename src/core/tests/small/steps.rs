//! What can happen next in a world, and making it happen.

use std::fmt;
use std::rc::Rc;

use super::super::super::{
    HeartbeatReply, Input, Message, RaftRole, ReplicaState, VoteReason, VoteReply,
};
use super::super::bed::{HEARTBEAT, T_MIN};
use super::super::net::Envelope;
use super::world::{LONG, NODES, Note, World, open, replica, slot, third};
use crate::types::{NodeId, Term};

/// One step, small enough to keep millions. Nodes are slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The election timer runs out and a pre-vote is won: a new term.
    Campaign(u8),
    /// The election timer runs out; pre-votes are asked for.
    TimeOut(u8),
    /// A leader finds that it was paused, or that no quorum answers.
    GiveUp(u8),
    /// A leader's patience with its peers ends; it says again what has no answer.
    Resend(u8),
    /// This message, which stays, is delivered.
    Deliver(u16),
    /// The first learns of the term that is durable at the second, from some rejection.
    Hear(u8, u8),
    /// The oldest write under way is durable.
    Durable(u8),
    /// Power cut and restart; that many of the writes under way had made it.
    Crash(u8, u8),
    /// The streams between the two others end and come back.
    Reconnect(u8),
    /// A client gives the leader a command.
    Propose(u8),
    /// The leader's burst ends.
    Settle(u8),
}

impl World {
    /// Every step that this world allows.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for at in 0..NODES {
            self.steps_of(at, &mut steps);
        }
        steps.extend((0..self.sent.len()).map(|letter| Step::Deliver(letter as u16)));
        let reconnected: u8 = self.used.reconnects.iter().sum();
        for at in 0..NODES {
            if reconnected < self.bounds.reconnects && self.used.reconnects[at] == 0 {
                steps.push(Step::Reconnect(at as u8));
            }
        }
        steps
    }

    fn steps_of(&self, at: usize, steps: &mut Vec<Step>) {
        let (bounds, used, node) = (&self.bounds, &self.used, &self.nodes[at]);
        let (core, me) = (&node.core, at as u8);
        if core.is_leader() {
            let left = [
                (used.proposals < bounds.proposals, Step::Propose(me)),
                (used.step_downs < bounds.step_downs, Step::GiveUp(me)),
                (used.resends < bounds.resends, Step::Resend(me)),
                (node.unsettled, Step::Settle(me)),
            ];
            steps.extend(left.iter().filter(|(may, _)| *may).map(|(_, step)| *step));
        } else if core.term() < bounds.max_term {
            if bounds.pre_votes == 0 {
                steps.push(Step::Campaign(me));
            } else if used.timeouts < bounds.pre_votes {
                steps.push(Step::TimeOut(me));
            }
        }
        let mut heard: [Term; NODES] = [core.term(); NODES];
        for other in (0..NODES).filter(|other| *other != at) {
            heard[other] = self.nodes[other].disk.durable.hard.term;
            let again = heard[..other].contains(&heard[other]);
            if heard[other] > core.term() && !again {
                steps.push(Step::Hear(me, other as u8));
            }
        }
        let pending = node.disk.pending();
        if pending > 0 {
            steps.push(Step::Durable(me));
        }
        if used.crashes.iter().sum::<u8>() < bounds.crashes && used.crashes[at] == 0 {
            steps.extend((0..=pending).map(|kept| Step::Crash(me, kept as u8)));
        }
    }

    /// Makes the step, and takes the prints of who changed.
    pub(super) fn take(&mut self, step: Step) {
        self.notes = 0;
        match step {
            Step::Campaign(at) => self.campaign(at.into()),
            Step::TimeOut(at) => self.time_out(at.into()),
            Step::GiveUp(at) => self.give_up(at.into()),
            Step::Resend(at) => self.resend(at.into()),
            Step::Deliver(letter) => self.deliver(letter.into()),
            Step::Hear(at, from) => self.hear(at.into(), from.into()),
            Step::Durable(at) => {
                self.complete_write(at.into());
                self.end_burst(at.into());
            }
            Step::Crash(at, kept) => self.crash(at.into(), kept.into()),
            Step::Reconnect(apart) => self.reconnect(apart.into()),
            Step::Propose(at) => {
                self.feed(at.into(), Input::Propose { count: 1 }, None);
                self.end_burst(at.into());
            }
            Step::Settle(at) => self.settle(at.into()),
        }
    }

    fn settle(&mut self, at: usize) {
        self.node_mut(at).unsettled = false;
        self.feed(at, Input::Settle, None);
        self.reprint(at);
    }

    /// Settles, or leaves it to a later step. Only a leader does anything then.
    fn end_burst(&mut self, at: usize) {
        let leads = self.nodes[at].core.is_leader();
        match (leads, self.bounds.bursts) {
            (true, false) => return self.settle(at),
            (true, true) => self.node_mut(at).unsettled = true,
            (false, _) if self.nodes[at].unsettled => self.node_mut(at).unsettled = false,
            (false, _) => {}
        }
        self.reprint(at);
    }

    fn time_out(&mut self, at: usize) {
        self.used.timeouts += u8::from(self.bounds.pre_votes > 0);
        let node = self.node_mut(at);
        node.clock = node.clock.max(node.core.deadline());
        self.feed(at, Input::Tick, None);
        self.end_burst(at);
    }

    fn campaign(&mut self, at: usize) {
        self.time_out(at);
        let from = replica((at + 1) % NODES);
        let core = &self.nodes[at].core;
        let reply = VoteReply {
            term: core.term() + 1,
            round: core.campaign.round,
            granted: true,
            reason: VoteReason::Granted,
            incarnation: from.incarnation,
            state: ReplicaState::Member,
        };
        self.tell(at, from.node, Message::PreVoteReply(reply));
        self.end_burst(at);
    }

    fn hear(&mut self, at: usize, from: usize) {
        let from = replica(from);
        let reply = VoteReply {
            term: self.nodes[slot(from.node)].disk.durable.hard.term,
            round: 0,
            granted: false,
            reason: VoteReason::StaleTerm,
            incarnation: from.incarnation,
            state: ReplicaState::Member,
        };
        self.tell(at, from.node, Message::VoteReply(reply));
        self.end_burst(at);
    }

    fn tell(&mut self, at: usize, from: NodeId, message: Message) {
        let envelope = Envelope::bare(replica(slot(from)), at as NodeId + 1, message);
        self.receive(at, &envelope);
    }

    fn receive(&mut self, at: usize, envelope: &Envelope) {
        let input = Input::Message {
            from: envelope.from,
            message: envelope.message,
            entries: envelope.summary(),
        };
        self.feed(at, input, Some(envelope));
    }

    fn give_up(&mut self, at: usize) {
        self.used.step_downs += 1;
        let node = self.node_mut(at);
        node.clock += HEARTBEAT + LONG;
        self.feed(at, Input::Tick, None);
        self.end_burst(at);
    }

    /// Both peers have just answered a heartbeat, or the leader would step down.
    fn resend(&mut self, at: usize) {
        self.used.resends += 1;
        self.node_mut(at).clock += T_MIN + 1;
        for other in (0..NODES).filter(|other| *other != at) {
            let reply = HeartbeatReply {
                term: self.nodes[at].core.term(),
                incarnation: replica(other).incarnation,
                epoch: self.epoch(at, other),
                seq: 0,
                sent_at: 0,
                read_id: 0,
                applied: 0,
                digest_index: 0,
                digest: 0,
                election_timeout_min_ms: 0,
                state: ReplicaState::Member,
            };
            let message = Message::HeartbeatReply(reply);
            self.tell(at, replica(other).node, message);
        }
        self.feed(at, Input::Tick, None);
        self.end_burst(at);
    }

    fn deliver(&mut self, letter: usize) {
        let letter = Rc::clone(&self.sent[letter]);
        let (at, message) = (slot(letter.envelope.to), letter.envelope.message);
        let asks = matches!(message, Message::Vote(_) | Message::PreVote(_));
        let inert = !self.matters(&letter);
        let before = self.prints[at];
        if asks && self.nodes[at].core.role() != RaftRole::Leader {
            // No voter is bound to a leader any more; a refusal for that is like a loss.
            self.node_mut(at).clock += LONG;
        }
        self.receive(at, &letter.envelope);
        self.reprint(at);
        let changed = self.prints[at] != before;
        self.check(!inert || !changed, || {
            format!("S15: a stale message counts: {letter}")
        });
        // What changed nothing leaves nothing to settle.
        if changed || !self.bounds.bursts {
            self.end_burst(at);
        }
    }

    fn crash(&mut self, at: usize, kept: usize) {
        let lost = kept < self.nodes[at].disk.pending();
        let before = self.nodes[at].disk.durable.hard;
        let old: Vec<u64> = (0..NODES).map(|other| self.old_epoch(at, other)).collect();
        self.used.crashes[at] += 1;
        let bounds = Rc::clone(&self.bounds);
        let node = self.node_mut(at);
        node.disk.crash(kept);
        node.deferred.clear();
        node.unsettled = false;
        node.core = open(&bounds, node.id, &node.disk.live, node.clock);
        self.became_durable(at, before);
        for other in (0..NODES).filter(|other| *other != at) {
            self.link_up(at, other);
            self.link_down(other, at, old[other]);
            self.link_up(other, at);
            self.end_burst(other);
        }
        self.end_burst(at);
        if lost {
            self.note(Note::LostWrites);
        }
    }

    fn old_epoch(&self, at: usize, other: usize) -> u64 {
        if at == other {
            0
        } else {
            self.epoch(at, other)
        }
    }

    fn reconnect(&mut self, apart: usize) {
        let (a, b) = ((apart + 1) % NODES, (apart + 2) % NODES);
        debug_assert_eq!(third(a, b), apart);
        let old = self.epoch(a, b);
        self.used.reconnects[apart] += 1;
        for (at, other) in [(a, b), (b, a)] {
            self.link_down(at, other, old);
            self.link_up(at, other);
            self.end_burst(at);
        }
    }

    /// The step in words.
    pub(super) fn describe(&self, step: Step) -> String {
        let node = |at: u8| format!("node {}", at + 1);
        match step {
            Step::Campaign(at) => format!("{} campaigns", node(at)),
            Step::TimeOut(at) => format!("{} asks for pre-votes", node(at)),
            Step::GiveUp(at) => format!("{} gives up leading", node(at)),
            Step::Resend(at) => format!("{} loses patience and sends again", node(at)),
            Step::Deliver(at) => self.sent[usize::from(at)].to_string(),
            Step::Hear(at, from) => format!("{} hears of the term of {}", node(at), node(from)),
            Step::Durable(at) => format!("{}: its oldest write is durable", node(at)),
            Step::Crash(at, kept) => {
                format!(
                    "{} loses power, {kept} writes survive, and starts",
                    node(at)
                )
            }
            Step::Reconnect(at) => format!("the streams apart from {} are new", node(at)),
            Step::Propose(at) => format!("a client proposes at {}", node(at)),
            Step::Settle(at) => format!("{} settles", node(at)),
        }
    }
}

impl fmt::Display for super::world::Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.envelope.from.node, self.envelope.to);
        write!(f, "{from} to {to}: ")?;
        match &self.envelope.message {
            Message::Append(m) => {
                let terms: Vec<Term> = self.envelope.items.iter().map(|item| item.term).collect();
                write!(
                    f,
                    "append in {} after {}, terms {terms:?}, ",
                    m.term, m.prev
                )?;
                write!(f, "commit {}, epoch {} number {}", m.commit, m.epoch, m.seq)
            }
            Message::AppendAck(m) => {
                write!(f, "ack in {}, {:?} {}, ", m.term, m.status, m.match_index)?;
                write!(f, "epoch {} number {}", m.epoch, m.seq)
            }
            Message::Heartbeat(m) => write!(f, "heartbeat in {}, commit {}", m.term, m.commit),
            Message::Vote(m) => write!(f, "vote in {}? last {}", m.term, m.last),
            Message::VoteReply(m) => write!(f, "vote in {}: {}", m.term, m.granted),
            Message::PreVote(m) => write!(f, "pre-vote for {}? last {}", m.term, m.last),
            Message::PreVoteReply(m) => write!(f, "pre-vote for {}: {}", m.term, m.granted),
            other => write!(f, "{other:?}"),
        }
    }
}

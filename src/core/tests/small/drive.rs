//! The driver's part: outputs in order, writes and the messages that wait for them, as
//! `node/driver.rs` does it.

use std::collections::VecDeque;
use std::rc::Rc;

use super::super::super::{
    AppendEntries, AppendSource, AppendStatus, Event, Input, Message, Output, Persist, VoteReason,
};
use super::super::net::Envelope;
use super::fingerprint;
use super::world::{Deferred, Letter, Note, World, slot, write_of};
use crate::types::{LogIndex, NodeId, Term, WriteId};

impl World {
    /// One step of one core, its outputs carried out in order, and the invariants.
    pub(super) fn feed(&mut self, at: usize, input: Input, beside: Option<&Envelope>) {
        let before = Rc::clone(&self.nodes[at]);
        let mut outputs = VecDeque::new();
        self.step(at, input, &mut outputs);
        while let Some(output) = outputs.pop_front() {
            self.carry_out(at, output, beside, &mut outputs);
        }
        self.observe(at, &before);
    }

    fn step(&mut self, at: usize, input: Input, outputs: &mut VecDeque<Output>) {
        let mut out = Vec::new();
        let node = self.node_mut(at);
        node.core.step(node.clock, input, &mut out);
        outputs.extend(out);
    }

    fn carry_out(
        &mut self,
        at: usize,
        output: Output,
        beside: Option<&Envelope>,
        outputs: &mut VecDeque<Output>,
    ) {
        match output {
            Output::Persist(persist) => self.persist(at, &persist, beside),
            Output::Send { to, message, after } => self.send(at, to, message, after),
            Output::Replicate {
                to,
                append,
                last,
                max_bytes,
            } => {
                let sent = Some(self.replicate(at, to, append, last, max_bytes));
                let seq = append.seq;
                self.step(at, Input::Replicated { to, seq, sent }, outputs);
            }
            Output::Commit { index } => self.commits(at, index),
            Output::Event(event) => self.event(at, event),
            Output::SendFirstEntry { .. } => self.fail("a founded cluster founds".into()),
            Output::ReadReady { .. } => self.fail("nobody asked to read".into()),
            Output::OfferSnapshot { .. }
            | Output::SendChunks { .. }
            | Output::CheckSnapshot { .. }
            | Output::TakeOffer { .. }
            | Output::TakeChunk { .. }
            | Output::Restore { .. }
            | Output::Install { .. }
            | Output::Repair { .. } => self.fail("there are no snapshots".into()),
        }
    }

    fn persist(&mut self, at: usize, persist: &Persist, beside: Option<&Envelope>) {
        let Some(new) = self.entries_of(persist, beside) else {
            return self.fail("a write without its entries".into());
        };
        let live = &self.nodes[at].disk.live;
        let end = persist.truncate_from.map_or(live.last(), |from| from - 1);
        if end > live.last() || new.1.first().is_some_and(|_| new.0 != end + 1) {
            return self.fail(format!("node {}: a write leaves a gap in the log", at + 1));
        }
        let mut write = write_of(live, persist.truncate_from, new.1.into_iter());
        write.hard = persist.hard_state;
        let newer = persist
            .hard_state
            .is_some_and(|hard| hard.term > live.hard.term);
        let node = self.node_mut(at);
        node.disk.write(persist.id, write);
        if newer {
            // What was promised in an older term is void now.
            let before = node.deferred.len();
            let valid = |one: &Deferred| one.letter.envelope.message.term() >= persist.term;
            node.deferred.retain(valid);
            if node.deferred.len() < before {
                self.note(Note::DeferredDropped);
            }
        }
    }

    /// First index, and term and payload of each new entry.
    fn entries_of(
        &mut self,
        persist: &Persist,
        beside: Option<&Envelope>,
    ) -> Option<(LogIndex, Vec<(Term, u64)>)> {
        Some(match &persist.append {
            AppendSource::None => (0, Vec::new()),
            AppendSource::Noop { index } => (*index, vec![(persist.term, 0)]),
            AppendSource::Proposals { first, .. } => {
                self.used.proposals += 1;
                (*first, vec![(persist.term, self.used.proposals.into())])
            }
            AppendSource::Message { from } => {
                let beside = beside?;
                let items = beside
                    .items
                    .get((from.checked_sub(beside.first)?) as usize..)?;
                let entries = items.iter().map(|item| (item.term, item.payload));
                (*from, entries.collect())
            }
            AppendSource::Configuration { .. } => return None,
        })
    }

    fn send(&mut self, at: usize, to: NodeId, message: Message, after: Option<WriteId>) {
        let Some(message) = self.timeless(message) else {
            return;
        };
        let node = &self.nodes[at];
        let vouches = match message {
            Message::AppendAck(ack) => node.disk.live.hash_at(ack.match_index),
            _ => None,
        };
        let letter = self.letter(Envelope::bare(node.id, to, message));
        match after {
            None => self.transmit(letter, vouches),
            Some(after) => self.defer(
                at,
                Deferred {
                    after,
                    letter,
                    vouches,
                },
            ),
        }
    }

    /// The letter, one for all that say the same.
    fn letter(&self, envelope: Envelope) -> Rc<Letter> {
        let own = fingerprint::own(&envelope);
        let known = self.sent.iter().find(|one| one.prints[0] == own);
        known.map_or_else(
            || {
                let prints = fingerprint::of_letter(&envelope);
                Rc::new(Letter { envelope, prints })
            },
            Rc::clone,
        )
    }

    /// What waits already is not sent again by waiting twice.
    fn defer(&mut self, at: usize, new: Deferred) {
        let deferred = &mut self.node_mut(at).deferred;
        let print = new.letter.prints[0];
        let same = |one: &Deferred| one.letter.prints[0] == print && one.after <= new.after;
        if !deferred.iter().any(same) {
            deferred.push(new);
        }
    }

    /// The message without what is only echoed; none if it says nothing that the step `hear` does
    /// not say, which tells of a newer term. See the page.
    fn timeless(&mut self, mut message: Message) -> Option<Message> {
        match &mut message {
            Message::Heartbeat(beat) => (beat.sent_at, beat.seq) = (0, 0),
            Message::AppendAck(ack) if ack.status == AppendStatus::StaleTerm => return None,
            Message::AppendAck(ack) => {
                ack.sent_at = 0;
                if ack.status == AppendStatus::Conflict {
                    self.note(Note::Conflict);
                }
            }
            Message::HeartbeatReply(_) => return None,
            Message::VoteReply(reply) if !reply.granted => {
                if reply.reason == VoteReason::LogBehind {
                    self.note(Note::VoteRefused);
                }
                return None;
            }
            Message::PreVoteReply(reply) if !reply.granted => return None,
            Message::PreVote(_) if self.bounds.pre_votes == 0 => return None,
            _ => {}
        }
        Some(message)
    }

    fn replicate(
        &mut self,
        at: usize,
        to: NodeId,
        mut append: AppendEntries,
        last: LogIndex,
        max_bytes: usize,
    ) -> (LogIndex, usize) {
        let node = &self.nodes[at];
        let prev = append.prev.index;
        let last = last.min(prev + max_bytes.max(1) as u64).max(prev);
        append.count = (last - prev) as u32;
        append.sent_at = 0;
        let live = &node.disk.live;
        let range = (prev as usize).min(live.items.len())..(last as usize).min(live.items.len());
        let within = |index: &LogIndex| *index > prev && *index <= last;
        let configurations = live
            .configurations
            .iter()
            .filter(|(index, _)| within(index));
        let envelope = Envelope {
            first: prev + 1,
            items: live.items[range].to_vec(),
            configurations: configurations.cloned().collect(),
            ..Envelope::bare(node.id, to, Message::Append(append))
        };
        let letter = self.letter(envelope);
        self.transmit(letter, None);
        (last, (last - prev) as usize)
    }

    fn event(&mut self, at: usize, event: Event) {
        match event {
            Event::BecameLeader { .. } => self.elected(at),
            Event::Truncated { .. } => {
                self.note(Note::Truncated);
                if self.nodes[at].disk.pending() > 0 {
                    self.note(Note::TruncatedWhileWriting);
                }
            }
            Event::Fatal(reason) => self.fail(format!("node {} failed: {reason}", at + 1)),
            Event::Advice(text) => self.fail(format!("node {} advises: {text}", at + 1)),
            Event::HandOverFailed { .. } | Event::ChangeRefused { .. } => {
                self.fail("nobody asked for that".into());
            }
            Event::Diverged { .. } | Event::StatesDiffer { .. } => {
                self.fail("there is no state that could differ".into());
            }
            Event::SteppedDown { .. } | Event::Configured { .. } => {}
        }
    }

    /// The oldest write under way is durable, and what waited for it goes out.
    pub(super) fn complete_write(&mut self, at: usize) {
        let Some((id, _)) = self.nodes[at].disk.pending.front() else {
            return;
        };
        let (id, before) = (*id, self.nodes[at].disk.durable.hard);
        self.node_mut(at).disk.complete(id);
        self.became_durable(at, before);
        self.feed(at, Input::Durable { id }, None);
        let waiting = std::mem::take(&mut self.node_mut(at).deferred);
        let (ready, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|one| one.after <= id);
        self.node_mut(at).deferred = waiting;
        for one in ready {
            self.transmit(one.letter, one.vouches);
        }
    }

    /// A message leaves its node.
    fn transmit(&mut self, letter: Rc<Letter>, vouches: Option<u64>) {
        self.check_promises(slot(letter.envelope.from.node), &letter.envelope, vouches);
        if self
            .sent
            .iter()
            .all(|one| one.prints[0] != letter.prints[0])
        {
            self.sent.push(letter);
        }
    }
}

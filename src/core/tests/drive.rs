//! The bed's driver: keeps the core's contract, carries out its outputs in order, and looks at
//! every promise as it leaves.

use std::collections::VecDeque;

use super::super::{
    AppendEntries, AppendSource, AppendStatus, Event, FoundStatus, Input, Message, Output, Persist,
    RaftRole,
};
use super::bed::{Bed, Deferred, MS, What};
use super::disk::{Item, Write, mix};
use super::net::Envelope;
use crate::types::{LogIndex, NodeId, Term, WriteId};

/// Bytes that every entry counts for in windows.
pub(super) const ENTRY_BYTES: usize = 40;

impl Bed {
    pub(super) fn settle(&mut self, node: NodeId) {
        self.feed(node, Input::Settle, None);
    }

    /// Gives a leader `count` commands.
    pub(super) fn propose(&mut self, node: NodeId, count: u32) {
        if self.is_up(node) && self.core(node).is_leader() {
            self.feed(node, Input::Propose { count }, None);
            self.settle_or_burst(node);
        }
    }

    /// One step of one core, its outputs carried out in order, and the invariants.
    pub(super) fn feed(&mut self, node: NodeId, input: Input, beside: Option<&Envelope>) {
        let now = self.now;
        let mut outputs = VecDeque::new();
        self.step(node, input, &mut outputs);
        while let Some(output) = outputs.pop_front() {
            if self.verbose {
                eprintln!("{now:>9} node {node}: {output:?}");
            }
            self.carry_out(node, output, beside, &mut outputs);
        }
        let state = &mut self.nodes[node as usize - 1];
        let core = state.core.as_ref().expect("it was just stepped");
        let term = core.term();
        state.deferred.retain(|one| one.term == term);
        self.ghost.observe(core, state.life, &state.disk.live);
        let seen = [now, node, term, core.commit(), core.last().index];
        self.trace = seen.into_iter().fold(self.trace, mix);
    }

    fn step(&mut self, node: NodeId, input: Input, outputs: &mut VecDeque<Output>) {
        let now = self.now;
        let mut out = Vec::new();
        if let Some(core) = &mut self.node_mut(node).core {
            core.step(now, input, &mut out);
        }
        outputs.extend(out);
    }

    fn carry_out(
        &mut self,
        node: NodeId,
        output: Output,
        beside: Option<&Envelope>,
        outputs: &mut VecDeque<Output>,
    ) {
        match output {
            Output::Persist(persist) => self.persist(node, persist, beside),
            Output::Send { to, message, after } => self.send(node, to, message, after),
            Output::Replicate {
                to,
                append,
                last,
                max_bytes,
            } => {
                let sent = self.replicate(node, to, append, last, max_bytes);
                let seq = append.seq;
                self.step(node, Input::Replicated { to, seq, sent }, outputs);
            }
            Output::SendFirstEntry { to, message } => self.send_first(node, to, message),
            Output::Commit { index } => self.commit(node, index),
            Output::ReadReady { id, index } => {
                self.nodes[node as usize - 1].reads.push((id, index))
            }
            Output::Event(event) => self.event(node, event),
            Output::OfferSnapshot { .. }
            | Output::SendChunks { .. }
            | Output::CheckSnapshot { .. }
            | Output::TakeOffer { .. }
            | Output::TakeChunk { .. }
            | Output::Restore { .. }
            | Output::Install { .. }
            | Output::Repair { .. } => panic!("{node} has no snapshots: {output:?}"),
        }
    }

    fn persist(&mut self, node: NodeId, persist: Persist, beside: Option<&Envelope>) {
        let state = &self.nodes[node as usize - 1];
        let (who, term) = (state.id, persist.term);
        let leads = self.core(node).role() == RaftRole::Leader;
        assert!(
            !leads || persist.truncate_from.is_none(),
            "S3: {who} truncates while it leads"
        );
        let live = &state.disk.live;
        let mut write = Write {
            hard: persist.hard_state,
            genesis: persist.genesis,
            truncate_from: persist.truncate_from,
            ..Write::default()
        };
        let end = persist.truncate_from.map_or(live.last(), |from| from - 1);
        let mut previous = live.hash_at(end).expect("a truncation within the log");
        let (first, new) = entries_of(&persist.append, term, &mut self.next_payload, beside);
        assert!(
            new.is_empty() || first == end + 1,
            "{who}: appends at {first}, the log ends at {end}"
        );
        for ((term, payload), index) in new.into_iter().zip(first..) {
            let item = Item::after(previous, term, payload);
            self.ghost.appended(who, index, item);
            previous = item.hash;
            write.items.push(item);
        }
        match (&persist.append, beside) {
            (
                AppendSource::Configuration {
                    index,
                    configuration,
                },
                _,
            ) => {
                write.configurations.push((*index, configuration.clone()));
            }
            (AppendSource::Message { from }, Some(beside)) => {
                let new = beside.configurations.iter().filter(|(at, _)| at >= from);
                write.configurations.extend(new.cloned());
            }
            _ => {}
        }
        let (min, max) = self.faults.disk;
        let lag = self.node(node).disk_lag;
        let at = self.now + lag + self.rng.between(min, max);
        let state = self.node_mut(node);
        state.disk.write(persist.id, write);
        let what = What::Durable(node, state.life, persist.id);
        self.schedule(at, what);
    }

    fn send(&mut self, node: NodeId, to: NodeId, message: Message, after: Option<WriteId>) {
        let state = &self.nodes[node as usize - 1];
        let envelope = Envelope::bare(state.id, to, message);
        let vouches = match message {
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => {
                state.disk.live.hash_at(ack.match_index)
            }
            _ => None,
        };
        match after.filter(|after| *after > state.durable_fed) {
            None => self.transmit(envelope, vouches),
            Some(after) => {
                let term = self.core(node).term();
                self.node_mut(node).deferred.push(Deferred {
                    after,
                    term,
                    envelope,
                    vouches,
                });
            }
        }
    }

    fn replicate(
        &mut self,
        node: NodeId,
        to: NodeId,
        mut append: AppendEntries,
        last: LogIndex,
        max_bytes: usize,
    ) -> Option<(LogIndex, usize)> {
        if self.chance(self.faults.refuse) {
            let (at, life) = (self.now + self.rng.between(0, 5 * MS), self.node(node).life);
            self.schedule(at, What::Writable(node, life, to, append.epoch));
            return None;
        }
        let first = append.prev.index + 1;
        let room = (max_bytes / ENTRY_BYTES).max(1) as u64;
        let last = last.min(append.prev.index + room);
        append.count = (last + 1).saturating_sub(first) as u32;
        let live = &self.node(node).disk.live;
        let range = first as usize - 1..append.prev.index as usize + append.count as usize;
        let items = live.items[range].to_vec();
        let within = |at: LogIndex| at >= first && at < first + u64::from(append.count);
        let configurations = live.configurations.iter().filter(|(at, _)| within(*at));
        let envelope = Envelope {
            first,
            items,
            configurations: configurations.cloned().collect(),
            ..Envelope::bare(self.node(node).id, to, Message::Append(append))
        };
        let bytes = envelope.items.len() * ENTRY_BYTES;
        self.transmit(envelope, None);
        Some((append.prev.index + u64::from(append.count), bytes))
    }

    fn send_first(&mut self, node: NodeId, to: NodeId, message: Message) {
        let state = self.node(node);
        let envelope = Envelope {
            first: 1,
            items: state.disk.live.items[..1].to_vec(),
            configurations: state.disk.live.configurations[..1].to_vec(),
            ..Envelope::bare(state.id, to, message)
        };
        self.transmit(envelope, None);
    }

    fn commit(&mut self, node: NodeId, index: LogIndex) {
        let everyone: Vec<_> = self.nodes.iter().map(|one| (one.id, &one.disk)).collect();
        let state = &self.nodes[node as usize - 1];
        let core = state.core.as_ref().expect("it just spoke");
        self.ghost.commits(core, &state.disk.live, index, &everyone);
    }

    fn event(&mut self, node: NodeId, event: Event) {
        match event {
            Event::BecameLeader { .. } => {
                let everyone: Vec<_> = self.nodes.iter().map(|one| (one.id, &one.disk)).collect();
                let state = &self.nodes[node as usize - 1];
                let core = state.core.as_ref().expect("it just spoke");
                let configuration = core.configuration().expect("a leader has one");
                let configuration = configuration.clone();
                self.ghost
                    .elected(core, &state.disk, &everyone, &configuration);
            }
            Event::Fatal(reason) => panic!("seed {}: node {node} failed: {reason}", self.seed),
            Event::Advice(text) => self.node_mut(node).advice.push(text),
            Event::ChangeRefused { why } => self.node_mut(node).changes_refused.push(why),
            Event::HandOverFailed { why } => self.node_mut(node).hand_overs_failed.push(why),
            _ => {}
        }
    }
}

fn entries_of(
    source: &AppendSource,
    term: Term,
    next_payload: &mut u64,
    beside: Option<&Envelope>,
) -> (LogIndex, Vec<(Term, u64)>) {
    match source {
        AppendSource::None => (0, Vec::new()),
        AppendSource::Noop { index } => (*index, vec![(term, 0)]),
        AppendSource::Configuration { index, .. } => (*index, vec![(term, u64::MAX)]),
        AppendSource::Proposals { first, count } => {
            let start = *next_payload;
            *next_payload += u64::from(*count);
            let payloads = start..*next_payload;
            (*first, payloads.map(|payload| (term, payload)).collect())
        }
        AppendSource::Message { from } => {
            let beside = beside.expect("only a message brings entries");
            let skip = (from - beside.first) as usize;
            let items = beside.items[skip..].iter();
            (*from, items.map(|item| (item.term, item.payload)).collect())
        }
    }
}

// ---- the network ----
impl Bed {
    /// A message leaves its node: its promises must be durable (S2, S19, A3).
    pub(super) fn transmit(&mut self, envelope: Envelope, vouches: Option<u64>) {
        self.check_promises(&envelope, vouches);
        let (from, to, class) = (envelope.from.node, envelope.to, envelope.message.class());
        let stale = match envelope.message {
            Message::Append(append) => self.net.epoch(from, to, class) != Some(append.epoch),
            Message::Heartbeat(beat) => self.net.epoch(from, to, class) != Some(beat.epoch),
            _ => false,
        };
        if stale || !self.net.carries(from, to, class) || self.chance(self.faults.drop) {
            return;
        }
        let copies = 1 + u64::from(self.chance(self.faults.duplicate));
        for _ in 0..copies {
            let (min, max) = self.faults.delay;
            let mut delay = self.rng.between(min, max);
            if self.chance(self.faults.reorder) {
                delay *= self.rng.between(1, 10);
            }
            self.schedule(self.now + delay, What::Deliver(envelope.clone()));
        }
        if self.faults.replay > 0 {
            self.replay(envelope);
        }
    }

    fn replay(&mut self, envelope: Envelope) {
        self.archive.push_back(envelope);
        if self.archive.len() > 500 {
            self.archive.pop_front();
        }
        if self.chance(self.faults.replay) {
            let which = self.rng.between(0, self.archive.len() as u64);
            let delay = self.rng.between(0, 10 * MS);
            let old = self.archive[which as usize].clone();
            self.schedule(self.now + delay, What::Deliver(old));
        }
    }

    fn check_promises(&self, envelope: &Envelope, vouches: Option<u64>) {
        let (who, message) = (envelope.from, &envelope.message);
        let durable = &self.node(who.node).disk.durable;
        // A pre-vote speaks of a term that nobody is in.
        let would_be = match message {
            Message::PreVote(_) => true,
            Message::PreVoteReply(reply) => reply.granted,
            _ => false,
        };
        assert!(
            would_be || durable.hard.term >= message.term(),
            "A3: {who} speaks of term {} and has only {} on disk: {message:?}",
            message.term(),
            durable.hard.term
        );
        match message {
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => assert!(
                vouches.is_some() && durable.hash_at(ack.match_index) == vouches,
                "S19: {who} acknowledges {} before it is durable",
                ack.match_index
            ),
            Message::VoteReply(reply) if reply.granted => assert!(
                durable.hard.term == reply.term && durable.hard.voted_for.node == envelope.to,
                "S2: {who} gives a vote that is not durable"
            ),
            Message::Vote(_) => assert!(
                durable.hard.voted_for == who,
                "A1: {who} asks for votes before its own is durable"
            ),
            Message::FoundReply(reply) if reply.status == FoundStatus::Stored => assert!(
                durable.last() >= 1 && !durable.genesis.is_none(),
                "E10: {who} says stored before it is"
            ),
            Message::Found(_) => {
                assert!(durable.last() >= 1, "E10: {who} offers what is not durable")
            }
            _ => {}
        }
    }
}

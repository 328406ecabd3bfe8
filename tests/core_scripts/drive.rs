//! The driver's part: one input goes into a core, and what it decides is carried out in order.

use std::collections::VecDeque;

use conveyor_raft::core::{
    AppendEntries, AppendSource, AppendStatus, EntrySummary, Event, Input, Message, Output, Persist,
};
use conveyor_raft::types::{LogIndex, Micros, NodeId, WriteId};

use crate::disk::{Entry, Payload, Write, configurations, listed, runs};
use crate::show;
use crate::world::{ENTRY_BYTES, Envelope, Held, MS, World};

/// What is being handled while outputs are carried out.
enum Cause {
    Message(Envelope),
    Proposals(Vec<String>),
    Other,
}

impl World {
    pub(crate) fn feed(&mut self, node: NodeId, input: Input) -> Result<(), String> {
        self.burst(node, input, &Cause::Other)
    }

    pub(crate) fn propose(&mut self, node: NodeId, commands: Vec<String>) -> Result<(), String> {
        if !self.core(node)?.is_leader() {
            return Err(format!("node {node} does not lead"));
        }
        let count = commands.len() as u32;
        self.burst(node, Input::Propose { count }, &Cause::Proposals(commands))
    }

    pub(crate) fn deliver(&mut self, envelope: Envelope) -> Result<(), String> {
        self.detail(&show::envelope(&envelope));
        let entries = EntrySummary {
            first: envelope.first,
            count: envelope.entries.len() as u32,
            terms: runs(envelope.first, &envelope.entries),
            configurations: configurations(envelope.first, &envelope.entries),
            fits: true,
        };
        let input = Input::Message {
            from: envelope.from,
            message: envelope.message,
            entries,
        };
        self.indent += 1;
        let result = self.burst(envelope.to, input, &Cause::Message(envelope));
        self.indent -= 1;
        result
    }

    /// The clock moves on to `at`, if that is to come, and a node's timer fires.
    pub(crate) fn tick(&mut self, node: NodeId, at: Micros) -> Result<(), String> {
        self.now = self.now.max(at);
        self.feed(node, Input::Tick)
    }

    /// These writes and all before them are durable.
    pub(crate) fn complete(&mut self, node: NodeId, id: WriteId) -> Result<(), String> {
        let state = self.node_mut(node)?;
        state.disk.complete(id);
        state.durable = id;
        let image = &self.nodes[node as usize - 1].disk.durable;
        self.check.durable(node, image)?;
        self.step(node, Input::Durable { id }, &Cause::Other)?;
        let held = std::mem::take(&mut self.node_mut(node)?.held);
        let (ready, waiting) = held.into_iter().partition(|held| held.after <= id);
        self.node_mut(node)?.held = waiting;
        let ready: Vec<Held> = ready;
        for held in ready {
            self.transmit(held.envelope, held.vouches.as_deref())?;
        }
        self.step(node, Input::Settle, &Cause::Other)
    }

    /// One input and what follows from it; with an automatic disk, until all is durable.
    fn burst(&mut self, node: NodeId, input: Input, cause: &Cause) -> Result<(), String> {
        self.step(node, input, cause)?;
        self.step(node, Input::Settle, &Cause::Other)?;
        let newest = |world: &Self| {
            let state = world.node(node).ok().filter(|state| !state.manual)?;
            state.disk.pending().next_back()
        };
        while let Some(id) = newest(self) {
            self.complete(node, id)?;
        }
        Ok(())
    }

    fn step(&mut self, node: NodeId, input: Input, cause: &Cause) -> Result<(), String> {
        let mut outputs = VecDeque::new();
        self.step_core(node, input, &mut outputs)?;
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Persist(persist) => self.persist(node, persist, cause)?,
                Output::Send { to, message, after } => self.send(node, to, message, after)?,
                Output::Replicate {
                    to,
                    append,
                    last,
                    max_bytes,
                } => {
                    let replicated = self.replicate(node, to, append, last, max_bytes)?;
                    self.step_core(node, replicated, &mut outputs)?;
                }
                Output::SendFirstEntry { to, message } => {
                    let first = self.node(node)?.disk.live.entries[..1].to_vec();
                    let envelope = self.envelope(node, to, message, 1, first)?;
                    self.transmit(envelope, None)?;
                }
                Output::Commit { index } => self.commit(node, index)?,
                Output::ReadReady { id, index } => {
                    self.say(&format!(
                        "{node} may answer read {id} from entry {index} on"
                    ));
                }
                Output::Event(event) => self.event(node, event)?,
            }
        }
        Ok(())
    }

    fn step_core(
        &mut self,
        node: NodeId,
        input: Input,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), String> {
        let now = self.now;
        let state = self.node_mut(node)?;
        let down = || format!("node {node} is down");
        let core = state.core.as_mut().ok_or_else(down)?;
        let mut out = Vec::new();
        core.step(now, input, &mut out);
        outputs.extend(out);
        let face = (core.role(), core.term(), core.leader());
        if std::mem::replace(&mut state.face, face) != face {
            let (role, term) = (show::role(face.0), face.1);
            let of = match face.2 {
                Some(leader) if leader != node => format!(" of {leader}"),
                _ => String::new(),
            };
            self.say(&format!("{node} is {role}{of}, term {term}"));
        }
        Ok(())
    }

    fn persist(&mut self, node: NodeId, persist: Persist, cause: &Cause) -> Result<(), String> {
        let term = persist.term;
        let own = |payload: Payload| vec![Entry { term, payload }];
        let entries = match (&persist.append, cause) {
            (AppendSource::None, _) => Vec::new(),
            (AppendSource::Noop { .. }, _) => own(Payload::Noop),
            (AppendSource::Configuration { configuration, .. }, _) => {
                own(Payload::Configuration(configuration.clone()))
            }
            (AppendSource::Message { from }, Cause::Message(beside)) => {
                let skip = from - beside.first;
                beside.entries[skip as usize..].to_vec()
            }
            (AppendSource::Proposals { .. }, Cause::Proposals(commands)) => {
                let commands = commands.iter().cloned().map(Payload::Command);
                commands.flat_map(own).collect()
            }
            (source, _) => return Err(format!("{node} appends {source:?} out of nothing")),
        };
        let write = Write {
            hard: persist.hard_state,
            genesis: persist.genesis,
            truncate_from: persist.truncate_from,
            entries,
        };
        let verb = if self.node(node)?.manual {
            "writes"
        } else {
            "stores"
        };
        self.detail(&format!(
            "{node} {verb} w{}: {}",
            persist.id,
            show::write(&write)
        ));
        let state = self.node_mut(node)?;
        if write
            .hard
            .is_some_and(|hard| hard.term > state.disk.live.hard.term)
        {
            // What was promised in an older term is void now.
            let valid = |held: &Held| held.envelope.message.term() >= term;
            state.held.retain(valid);
        }
        state.disk.write(persist.id, write);
        Ok(())
    }

    fn envelope(
        &self,
        node: NodeId,
        to: NodeId,
        message: Message,
        first: LogIndex,
        entries: Vec<Entry>,
    ) -> Result<Envelope, String> {
        Ok(Envelope {
            from: self.node(node)?.id,
            to,
            message,
            first,
            entries,
        })
    }

    fn send(
        &mut self,
        node: NodeId,
        to: NodeId,
        message: Message,
        after: Option<WriteId>,
    ) -> Result<(), String> {
        let envelope = self.envelope(node, to, message, 0, Vec::new())?;
        let state = self.node(node)?;
        let vouches = match message {
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => {
                state.disk.live.up_to(ack.match_index).map(<[_]>::to_vec)
            }
            _ => None,
        };
        let Some(after) = after.filter(|after| *after > state.durable) else {
            return self.transmit(envelope, vouches.as_deref());
        };
        if state.manual {
            let text = show::envelope(&envelope);
            self.detail(&format!("{node} holds until w{after} is durable: {text}"));
        }
        self.node_mut(node)?.held.push(Held {
            after,
            envelope,
            vouches,
        });
        Ok(())
    }

    /// Sends entries and says how far it got.
    fn replicate(
        &mut self,
        node: NodeId,
        to: NodeId,
        mut append: AppendEntries,
        last: LogIndex,
        max_bytes: usize,
    ) -> Result<Input, String> {
        let room = (max_bytes / ENTRY_BYTES).max(1) as u64;
        let last = last.min(append.prev.index + room).max(append.prev.index);
        append.count = (last - append.prev.index) as u32;
        let live = &self.node(node)?.disk.live.entries;
        let entries = live[append.prev.index as usize..last as usize].to_vec();
        let (seq, bytes) = (append.seq, entries.len() * ENTRY_BYTES);
        let first = append.prev.index + 1;
        let envelope = self.envelope(node, to, Message::Append(append), first, entries)?;
        self.transmit(envelope, None)?;
        let sent = Some((last, bytes));
        Ok(Input::Replicated { to, seq, sent })
    }

    fn commit(&mut self, node: NodeId, to: LogIndex) -> Result<(), String> {
        let state = &mut self.nodes[node as usize - 1];
        self.check.commits(node, &state.disk.live, to)?;
        let before = std::mem::replace(&mut state.committed, to);
        let new = listed(&state.disk.live.entries[before as usize..to as usize]);
        self.say(&format!("{node} commits up to {to}: {new}"));
        Ok(())
    }

    fn event(&mut self, node: NodeId, event: Event) -> Result<(), String> {
        match event {
            Event::BecameLeader { term } => return self.check.leads(node, term),
            Event::SteppedDown { term, why } => {
                self.say(&format!("{node} no longer leads term {term}: {why}"));
            }
            Event::ChangeRefused { why } => {
                self.say(&format!("{node} does not change the members: {why}"));
            }
            Event::HandOverFailed { why } => {
                self.say(&format!("{node} does not hand over: {why}"));
            }
            // The write that follows says the same.
            Event::Truncated { .. } => {}
            Event::Configured {
                index,
                configuration,
            } => {
                let entry = Entry {
                    term: 0,
                    payload: Payload::Configuration(configuration),
                };
                let text = entry.to_string();
                let text = text.trim_start_matches("0:");
                self.detail(&format!(
                    "{node} counts by the configuration at {index}: {text}"
                ));
            }
            Event::Advice(text) => self.say(&format!("{node} advises: {text}")),
            Event::Fatal(text) => self.say(&format!("{node} stops for good: {text}")),
        }
        Ok(())
    }

    /// Time runs: timers fire when they are due, and messages arrive at once. How many did.
    pub(crate) fn run(&mut self, time: Micros) -> Result<usize, String> {
        let end = self.now + time;
        let mut delivered = 0;
        loop {
            while let Some(envelope) = self.way.pop_front() {
                delivered += 1;
                self.deliver(envelope)?;
                if delivered > 100_000 {
                    return Err("messages without end".to_owned());
                }
            }
            let due = self.nodes.iter().filter_map(|node| {
                let core = node.core.as_ref()?;
                Some((core.deadline(), node.id.node))
            });
            match due.min() {
                Some((at, node)) if at <= end => {
                    self.tick(node, at)?;
                    let next = self.core(node)?.deadline();
                    if next <= self.now && self.way.is_empty() {
                        return Err(format!(
                            "the timer of {node} fires for ever at {}",
                            next / MS
                        ));
                    }
                }
                _ => break,
            }
        }
        self.now = end;
        Ok(delivered)
    }
}

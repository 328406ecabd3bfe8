//! The driver: the only place where core, log, network and state machine meet.
//!
//! A synchronous struct. A burst of what came in goes through the core, and what the core decides
//! is carried out at once: nothing here waits. Threads and clocks are around it, so a simulation
//! runs this very code.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::applier::ApplyJob;
use super::inbox::{Lanes, Request, Submission};
use super::log_time::LogTime;
pub(crate) use super::log_time::Now;
use super::shared::Shared;
use crate::config::limits;
use crate::core::{
    AppendEntries, AppendSource, Configuration, EntrySummary, Event, Input, Message, Output,
    PeerHello, Persist, RaftCore, RaftRole,
};
use crate::entry::EntryBatch;
use crate::error::ProposeError;
use crate::network::{LocalFacts, NetworkEvent, PeerAddress, RaftNetwork, SendOutcome};
use crate::state_machine::StateMachine;
use crate::types::{EntryKind, LogIndex, Micros, NodeId, ReplicaId, Term, WriteId};
use crate::wal::{Append, LogStorage, Medium, MediumEvent, NewEntry, Write};

/// How often the slow part of the status is published.
const STATUS_INTERVAL: Micros = 100_000;
/// How often the leader asks the state machine what is due.
const DUE_INTERVAL: Micros = 1_000_000;
/// Entry bytes handed to the applier and not yet applied.
const APPLY_BACKLOG: usize = 32 << 20;
/// Entry bytes in one piece of work for the applier.
const APPLY_PIECE: usize = 4 << 20;

/// Takes work for the applier, in order.
pub(crate) type ApplySink<S> = Box<dyn FnMut(ApplyJob<S>) + Send>;

/// See the module.
pub(crate) struct Driver<S: StateMachine, M: Medium, N: RaftNetwork> {
    core: RaftCore,
    log: LogStorage<M>,
    network: N,
    apply: ApplySink<S>,
    shared: Arc<Shared<S>>,
    facts: LocalFacts,
    listed: Vec<PeerAddress>,
    outputs: VecDeque<Output>,
    scratch: Vec<Output>,
    /// Messages that wait for a write, and the write.
    deferred: Vec<(WriteId, NodeId, Message)>,
    /// Admitted by a leader and not yet appended, for want of prepared room.
    pending: VecDeque<Submission<S::Response>>,
    entries: Vec<NewEntry>,
    log_time: LogTime,
    next_due: Micros,
    /// The write that makes the founding durable, until it is.
    founding_write: Option<WriteId>,
    /// When the slow part of the status is published again.
    next_status: Micros,
    /// Handed to the applier so far.
    dispatched: LogIndex,
    backlog: VecDeque<(LogIndex, usize)>,
    /// Last index and bytes of each batch of own proposals that is not committed (hazard H1).
    uncommitted: VecDeque<(LogIndex, usize)>,
    uncommitted_bytes: usize,
    advice: Option<String>,
    failure: Option<String>,
    stopping: bool,
}

/// What a driver is made of.
pub(crate) struct Parts<S: StateMachine, M: Medium, N: RaftNetwork> {
    pub(crate) core: RaftCore,
    pub(crate) log: LogStorage<M>,
    pub(crate) network: N,
    pub(crate) apply: ApplySink<S>,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) facts: LocalFacts,
    /// The first members, dialled until a configuration says otherwise.
    pub(crate) listed: Vec<PeerAddress>,
}

/// Bytes that wait in a driver's memory, for those who check the bounds.
#[cfg(any(test, feature = "sim"))]
pub(crate) struct Load {
    /// Proposed here and not committed.
    pub(crate) uncommitted: usize,
    /// Handed to the applier and not applied, and the bound.
    pub(crate) backlog: usize,
    pub(crate) most_backlog: usize,
}

/// What is being handled while the core's outputs are carried out.
enum Cause<'a, R> {
    Entries(&'a EntryBatch),
    Proposals(&'a mut Vec<Submission<R>>),
    Other,
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(crate) fn new(parts: Parts<S, M, N>) -> Self {
        let Parts {
            core,
            log,
            network,
            apply,
            shared,
            facts,
            listed,
        } = parts;
        let mut driver = Self {
            core,
            log,
            network,
            apply,
            shared,
            facts,
            listed,
            outputs: VecDeque::new(),
            scratch: Vec::new(),
            deferred: Vec::new(),
            pending: VecDeque::new(),
            entries: Vec::new(),
            log_time: LogTime::default(),
            next_due: 0,
            founding_write: None,
            next_status: 0,
            dispatched: 0,
            backlog: VecDeque::new(),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            advice: None,
            failure: None,
            stopping: false,
        };
        driver.dial();
        driver.tell_facts();
        driver.publish(0);
        driver
    }

    /// Handles everything that came in, and time. Returns when to call again at the latest.
    pub(crate) fn burst(&mut self, now: Now, lanes: &mut Lanes<S::Response>) -> Micros {
        // Timers first: a process that slept must notice before it answers anything (hazard A10).
        let ticked = now.mono >= self.core.deadline();
        if ticked {
            self.step(now, Input::Tick, Cause::Other);
        }
        if ticked || self.failure.is_some() {
            self.shared.waiters.expire(now.mono);
            self.expire_pending(now.mono);
        }
        lanes
            .requests
            .drain(..)
            .for_each(|request| self.request(now, request));
        lanes
            .log
            .drain(..)
            .for_each(|event| self.log_event(now, event));
        lanes
            .network
            .drain(..)
            .for_each(|event| self.network_event(now, event));
        self.propose(now, &mut lanes.proposals);
        let index = self.shared.applied_index();
        self.step(now, Input::Applied { index }, Cause::Other);
        self.step(now, Input::Settle, Cause::Other);
        self.dispatch(now);
        self.ask_what_is_due(now);
        self.log.note_commit(self.core.commit());
        self.log.tick(now.mono);
        self.log.pump();
        self.publish(now.mono);
        self.next_call(now.mono)
    }

    /// A failed core has no timer, but whoever waits for what is still being applied has a deadline
    /// (hazard F5).
    fn next_call(&self, now: Micros) -> Micros {
        match self.failure {
            Some(_) if !self.shared.waiters.is_empty() => now + STATUS_INTERVAL,
            _ => self.core.deadline(),
        }
    }

    /// What an observer of a simulation compares with what is on the disks.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn core(&self) -> &RaftCore {
        &self.core
    }

    /// See [`core`](Self::core).
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn log(&self) -> &LogStorage<M> {
        &self.log
    }

    /// What waits in memory.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn load(&self) -> Load {
        Load {
            uncommitted: self.uncommitted_bytes,
            backlog: self.backlog.iter().map(|(_, bytes)| bytes).sum(),
            most_backlog: APPLY_BACKLOG,
        }
    }

    /// Whether the driver was asked to stop.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping
    }

    /// Stops: everyone who waits is answered, the log is closed.
    pub(crate) fn close(self) -> Result<(), crate::wal::LogFailure> {
        for submission in self.pending {
            submission.waiter.answer(Err(ProposeError::ShuttingDown));
        }
        self.shared.waiters.abandon_above(self.dispatched);
        {
            let mut brief = self.shared.brief();
            brief.role = RaftRole::Follower;
            brief.leader = None;
            brief.stopping = true;
        }
        drop(self.network);
        self.log.close()
    }

    fn step(&mut self, now: Now, input: Input, mut cause: Cause<'_, S::Response>) {
        self.core.step(now.mono, input, &mut self.scratch);
        self.outputs.extend(self.scratch.drain(..));
        self.carry_out_all(now, &mut cause);
    }

    fn carry_out_all(&mut self, now: Now, cause: &mut Cause<'_, S::Response>) {
        while let Some(output) = self.outputs.pop_front() {
            self.carry_out(now, output, cause);
        }
    }

    fn carry_out(&mut self, now: Now, output: Output, cause: &mut Cause<'_, S::Response>) {
        match output {
            Output::Persist(persist) => self.persist(now, persist, cause),
            Output::Send {
                to,
                message,
                after: None,
            } => self.send(to, &message, &[]),
            Output::Send {
                to,
                message,
                after: Some(write),
            } => {
                self.deferred.push((write, to, message));
            }
            Output::Replicate {
                to,
                append,
                last,
                max_bytes,
            } => {
                self.replicate(now, to, append, last, max_bytes);
            }
            Output::SendFirstEntry { to, message } => match self.log.read(1, 1, 1) {
                Ok(first) => self.send(to, &message, &first.runs),
                Err(error) => self.fail(now, error.to_string()),
            },
            Output::Commit { index } => self.committed(index),
            Output::Event(event) => self.event(now, event),
        }
    }

    // ---- the log ----

    fn persist(&mut self, now: Now, persist: Persist, cause: &mut Cause<'_, S::Response>) {
        let hard = persist.hard_state;
        if hard.is_some_and(|hard| hard.term > self.log.hard_state().term) {
            // What was promised in an older term is void now.
            let valid = |message: &Message| message.term() >= persist.term;
            self.deferred.retain(|(_, _, message)| valid(message));
        }
        let suffix = match (&persist.append, &cause) {
            (AppendSource::Message { from }, Cause::Entries(batch)) => {
                EntryBatch::clone(batch).suffix(*from)
            }
            _ => EntryBatch::default(),
        };
        let mut entries = std::mem::take(&mut self.entries);
        let first = self.own_entries(now, &persist, cause, &mut entries);
        let append = match first {
            Some(first) => Append::Entries {
                first,
                term: persist.term,
                entries: &entries,
            },
            None if suffix.is_empty() => Append::None,
            None => Append::Frames(&suffix),
        };
        let written = self.log.write(Write {
            id: persist.id,
            now: now.mono,
            hard_state: hard,
            genesis: persist.genesis,
            truncate_from: persist.truncate_from,
            append,
        });
        entries.clear();
        self.entries = entries;
        if let Err(error) = written {
            self.fail(now, error.to_string());
        }
        if persist.genesis.is_some() {
            self.founding_write = Some(persist.id);
        }
    }

    /// The entries that this node makes itself, and the index of the first.
    fn own_entries(
        &mut self,
        now: Now,
        persist: &Persist,
        cause: &mut Cause<'_, S::Response>,
        entries: &mut Vec<NewEntry>,
    ) -> Option<LogIndex> {
        let (index, kind, payload) = match &persist.append {
            AppendSource::None | AppendSource::Message { .. } => return None,
            AppendSource::Proposals { first, .. } => {
                self.take_proposals(now, *first, persist.term, entries, cause);
                return Some(*first);
            }
            AppendSource::Noop { index } => (*index, EntryKind::Noop, Bytes::new()),
            AppendSource::Configuration {
                index,
                configuration,
            } => {
                let payload = Bytes::from(configuration.encode());
                (*index, EntryKind::Configuration, payload)
            }
        };
        let time_us = self.log_time.begin_term(self.log.last_time_us(), now);
        entries.push(NewEntry {
            kind,
            time_us,
            payload,
        });
        Some(index)
    }

    fn log_event(&mut self, now: Now, event: MediumEvent) {
        match self.log.handle(event) {
            Ok(Some(id)) => {
                // Peers remember the highest update counter they were told: it must not be taken
                // back by a crash.
                if self.founding_write.is_some_and(|write| write <= id) {
                    self.founding_write = None;
                    self.tell_facts();
                }
                self.step(now, Input::Durable { id }, Cause::Other);
                self.send_deferred(id);
            }
            Ok(None) => {}
            Err(error) => self.fail(now, error.to_string()),
        }
    }

    fn send_deferred(&mut self, durable: WriteId) {
        let mut deferred = std::mem::take(&mut self.deferred);
        deferred.retain(|(write, to, message)| {
            let ready = *write <= durable;
            if ready {
                self.send(*to, message, &[]);
            }
            !ready
        });
        self.deferred = deferred;
    }

    // ---- the network ----

    /// What is refused for want of room, or has no way to go, is lost; the core's timers know.
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) {
        let _ = self.network.send(to, message, body);
    }

    fn replicate(
        &mut self,
        now: Now,
        to: NodeId,
        mut append: AppendEntries,
        last: LogIndex,
        max_bytes: usize,
    ) {
        let first = append.prev.index + 1;
        let last = last.min(append.prev.index + u64::from(limits::MAX_FRAME_ENTRIES));
        let seq = append.seq;
        let read = if first <= last {
            Some(self.log.read(first, last, max_bytes))
        } else {
            None
        };
        let (runs, end, bytes) = match read {
            None => (Vec::new(), append.prev.index, 0),
            Some(Ok(read)) => (read.runs, read.last, read.bytes),
            Some(Err(error)) => {
                // A leader that cannot read its log must not lead (hazards B11, B12).
                return self.fail(now, format!("cannot read entries for node {to}: {error}"));
            }
        };
        append.count = (end - append.prev.index) as u32;
        let outcome = self.network.send(to, &Message::Append(append), &runs);
        let sent = (outcome == SendOutcome::Sent).then_some((end, bytes));
        self.core.step(
            now.mono,
            Input::Replicated { to, seq, sent },
            &mut self.scratch,
        );
        self.outputs.extend(self.scratch.drain(..));
    }

    fn network_event(&mut self, now: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::Message {
                from,
                message,
                entries,
                ..
            } => {
                self.message(now, from, message, &entries);
            }
            NetworkEvent::Up {
                peer,
                class,
                epoch,
                facts,
            } => {
                let hello = PeerHello {
                    blank: facts.facts.blank,
                    genesis: facts.facts.genesis,
                    peer_address: facts.facts.peer_address,
                    client_endpoint: facts.facts.client_endpoint,
                };
                self.step(
                    now,
                    Input::PeerUp {
                        peer,
                        class,
                        epoch,
                        hello,
                    },
                    Cause::Other,
                );
            }
            NetworkEvent::Down {
                node,
                class,
                epoch,
                reason,
            } => {
                tracing::debug!(node, ?class, epoch, reason, "a stream ended");
                self.step(now, Input::PeerDown { node, class, epoch }, Cause::Other);
            }
            NetworkEvent::Writable { node, epoch } => {
                self.step(now, Input::Writable { node, epoch }, Cause::Other);
            }
        }
    }

    fn message(&mut self, now: Now, from: ReplicaId, message: Message, entries: &EntryBatch) {
        let configurations = entries.configurations().iter().map(|entry| {
            Configuration::decode(&entry.payload).map(|read| (entry.id.index, Arc::new(read)))
        });
        let configurations = match configurations.collect() {
            Ok(configurations) => configurations,
            Err(error) => {
                tracing::error!(%from, %error, "an entry was refused: written by a newer release?");
                return;
            }
        };
        let summary = EntrySummary {
            first: entries.first(),
            count: entries.count(),
            terms: entries.terms().to_vec(),
            configurations,
            fits: entries.len() <= self.log.ready_bytes(),
        };
        let input = Input::Message {
            from,
            message,
            entries: summary,
        };
        self.step(now, input, Cause::Entries(entries));
    }

    /// Whom to dial: the configuration's members once there is one, the listed ones before.
    fn dial(&mut self) {
        let members = self.core.configuration().map(|configuration| {
            let others = configuration
                .members()
                .filter(|who| who.replica != self.core.me());
            let address = others.map(|who| PeerAddress {
                node: who.replica.node,
                incarnation: Some(who.replica.incarnation),
                address: who.peer_address.clone(),
            });
            address.collect::<Vec<_>>()
        });
        self.network
            .set_peers(members.as_deref().unwrap_or(&self.listed));
    }

    fn tell_facts(&mut self) {
        self.facts.blank = self.core.is_blank();
        self.facts.genesis = self.core.genesis();
        self.facts.meta_seq = self.log.meta_seq();
        self.network.set_local(&self.facts);
    }

    // ---- proposals ----

    fn propose(&mut self, now: Now, proposals: &mut Vec<Submission<S::Response>>) {
        if proposals.is_empty() && self.pending.is_empty() {
            return;
        }
        if !self.core.is_leader() || self.stopping {
            let error = self.refusal();
            let refused = self.pending.drain(..).chain(proposals.drain(..));
            return refused.for_each(|submission| submission.waiter.answer(Err(error.clone())));
        }
        if self.pending.is_empty() && self.all_fit(proposals) {
            return self.append(now, proposals);
        }
        self.pending.extend(proposals.drain(..));
        let count = self.fitting();
        proposals.extend(self.pending.drain(..count));
        self.append(now, proposals);
        self.shed();
    }

    /// Why nothing can be proposed here.
    fn refusal(&self) -> ProposeError {
        match &self.failure {
            Some(why) => ProposeError::Failed(why.clone()),
            None if self.stopping => ProposeError::ShuttingDown,
            None => ProposeError::NotLeader(self.shared.brief().leader_hint()),
        }
    }

    fn room(&self) -> usize {
        let budget = limits::MAX_UNCOMMITTED.saturating_sub(self.uncommitted_bytes);
        self.log.ready_bytes().min(budget)
    }

    fn all_fit(&self, proposals: &[Submission<S::Response>]) -> bool {
        let bytes: usize = proposals.iter().map(Submission::frame_len).sum();
        bytes <= self.room()
    }

    /// How many of the pending fit the prepared part of the log and the budget.
    fn fitting(&self) -> usize {
        let mut room = self.room();
        let fits = self.pending.iter().take_while(|submission| {
            let left = room.checked_sub(submission.frame_len());
            room = left.unwrap_or(0);
            left.is_some()
        });
        fits.count()
    }

    /// What found no room until its deadline never will enter the log.
    fn expire_pending(&mut self, now: Micros) {
        for submission in std::mem::take(&mut self.pending) {
            if submission.waiter.deadline > now {
                self.pending.push_back(submission);
            } else {
                submission.waiter.answer(Err(ProposeError::Deadline));
            }
        }
    }

    /// What did not fit waits for room to be prepared, unless the disk is full or the budget is
    /// used up: then it is refused, since memory is no place to queue.
    fn shed(&mut self) {
        let budget = if self.log.disk_full() {
            Some("the disk")
        } else if self.uncommitted_bytes >= limits::MAX_UNCOMMITTED / 2 {
            Some("the budget for uncommitted entries")
        } else {
            None
        };
        if let Some(budget) = budget {
            for submission in self.pending.drain(..) {
                let error = ProposeError::Overloaded {
                    budget,
                    retry_after_ms: 50,
                };
                submission.waiter.answer(Err(error));
            }
        }
    }

    fn append(&mut self, now: Now, proposals: &mut Vec<Submission<S::Response>>) {
        if !proposals.is_empty() {
            let count = proposals.len() as u32;
            self.step(now, Input::Propose { count }, Cause::Proposals(proposals));
        }
    }

    fn take_proposals(
        &mut self,
        now: Now,
        first: LogIndex,
        term: Term,
        entries: &mut Vec<NewEntry>,
        cause: &mut Cause<'_, S::Response>,
    ) {
        let Cause::Proposals(proposals) = cause else {
            return;
        };
        let count = proposals.len() as u64;
        let time_us = self.log_time.at(now);
        let mut bytes = 0;
        let waiters = proposals.drain(..).map(|submission| {
            bytes += submission.frame_len();
            let payload = submission.payload;
            entries.push(NewEntry {
                kind: EntryKind::Command,
                time_us,
                payload,
            });
            submission.waiter
        });
        self.shared.waiters.add(first, term, waiters);
        self.uncommitted.push_back((first + count - 1, bytes));
        self.uncommitted_bytes += bytes;
    }

    // ---- applying ----

    fn committed(&mut self, index: LogIndex) {
        while let Some((_, bytes)) = self.uncommitted.pop_front_if(|(last, _)| *last <= index) {
            self.uncommitted_bytes -= bytes;
        }
    }

    /// Hands committed entries to the applier, within a bounded backlog (hazard H2).
    fn dispatch(&mut self, now: Now) {
        let applied = self.shared.applied_index();
        while self
            .backlog
            .pop_front_if(|(last, _)| *last <= applied)
            .is_some()
        {}
        let mut bytes: usize = self.backlog.iter().map(|(_, bytes)| bytes).sum();
        while self.dispatched < self.core.commit()
            && bytes < APPLY_BACKLOG
            && self.failure.is_none()
        {
            match self
                .log
                .read(self.dispatched + 1, self.core.commit(), APPLY_PIECE)
            {
                Ok(read) => {
                    self.dispatched = read.last;
                    self.backlog.push_back((read.last, read.bytes));
                    bytes += read.bytes;
                    (self.apply)(ApplyJob::Entries {
                        runs: read.runs,
                        last: read.last,
                    });
                }
                Err(error) => {
                    self.fail(now, format!("cannot read committed entries: {error}"));
                    self.carry_out_all(now, &mut Cause::Other);
                }
            }
        }
        self.shared
            .set_apply_is_behind(self.dispatched < self.core.commit());
    }

    fn ask_what_is_due(&mut self, now: Now) {
        if now.mono < self.next_due || !self.core.is_leader() || self.stopping {
            return;
        }
        self.next_due = now.mono + DUE_INTERVAL;
        let shared = Arc::clone(&self.shared);
        let found = Box::new(move |command| shared.propose_due(&command));
        (self.apply)(ApplyJob::Due {
            time_us: self.log_time.at(now),
            found,
        });
    }

    // ---- events, failure, status ----

    fn event(&mut self, now: Now, event: Event) {
        match event {
            Event::BecameLeader { term } => {
                self.next_due = now.mono + DUE_INTERVAL;
                tracing::info!(node = self.shared.me.node, term, "leads");
            }
            Event::SteppedDown { term, why } => {
                tracing::info!(node = self.shared.me.node, term, why, "leads no more");
                self.shared.waiters.abandon_above(self.core.commit());
                self.uncommitted.clear();
                self.uncommitted_bytes = 0;
            }
            Event::Truncated { from } => {
                tracing::info!(
                    node = self.shared.me.node,
                    from,
                    "dropped a conflicting suffix"
                );
            }
            Event::Configured {
                index,
                configuration,
            } => {
                let members = configuration.members().count();
                tracing::info!(node = self.shared.me.node, index, members, "configuration");
                self.dial();
            }
            Event::Advice(text) => {
                tracing::warn!(node = self.shared.me.node, "{text}");
                self.advice = Some(text);
            }
            Event::Fatal(text) => self.failed(text),
        }
    }

    /// The log, or a promise, is broken: take part no more (the process goes on and says why).
    fn fail(&mut self, now: Now, reason: String) {
        if self.failure.is_none() {
            self.core
                .step(now.mono, Input::Fail { reason }, &mut self.scratch);
            self.outputs.extend(self.scratch.drain(..));
        }
    }

    fn failed(&mut self, reason: String) {
        tracing::error!(node = self.shared.me.node, reason, "the replica has failed");
        self.deferred.clear();
        self.shared.waiters.abandon_above(self.dispatched);
        self.failure = Some(reason);
    }

    fn request(&mut self, now: Now, request: Request) {
        match request {
            Request::Shutdown => self.stopping = true,
            Request::Fail(reason) => {
                self.fail(now, reason);
                self.step(now, Input::Tick, Cause::Other);
            }
        }
    }

    fn publish(&mut self, now: Micros) {
        let mut brief = self.shared.brief();
        brief.role = self.core.role();
        brief.term = self.core.term();
        brief.leader = self.core.leader();
        brief.last = self.core.last();
        brief.durable = self.core.durable();
        brief.commit = self.core.commit();
        let configuration = self.core.configuration();
        let same = match (&brief.configuration, configuration) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            brief.configuration = configuration.cloned();
        }
        let ended = brief.failure != self.failure || brief.stopping != self.stopping;
        if now >= self.next_status || !same || ended {
            self.next_status = now + STATUS_INTERVAL;
            brief.syncs = self.log.counters().syncs;
            brief.stopping = self.stopping;
            brief.advice.clone_from(&self.advice);
            brief.failure.clone_from(&self.failure);
            let members = configuration.into_iter().flat_map(|c| c.members());
            let nodes = members.map(|member| member.replica.node);
            let peers = nodes.filter_map(|node| Some((node, self.core.peer(node)?)));
            brief.peers.clear();
            brief.peers.extend(peers);
        }
    }
}

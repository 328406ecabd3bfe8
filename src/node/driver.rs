//! The driver: the only place where core, log, network and state machine meet.
//!
//! A synchronous struct. A burst of what came in goes through the core, and what the core decides
//! is carried out at once: nothing here waits. Threads and clocks are around it, so a simulation
//! runs this very code.

mod applying;
mod events;
mod forwarding;
mod hand_over;
mod joining;
mod membership;
mod network;
mod proposals;
mod reads;
mod repairing;
mod skipping;
mod snapshots;
mod telling;
mod writes;

use std::collections::VecDeque;
use std::sync::Arc;

use super::applier::ApplyJob;
use super::inbox::{Lanes, Submission};
use super::line::Lines;
use super::log_figures::LogFigures;
use super::log_time::LogTime;
pub(crate) use super::log_time::Now;
use super::metrics::{self, Metrics};
use super::peer_figures::PeerFigures;
use super::shared::Shared;
use super::snapshot_figures::SnapshotFigures;
use super::trace::Traces;
use bytes::Bytes;

use crate::core::{ChangeError, Input, Message, Output, RaftCore};
use crate::entry::EntryBatch;
use crate::error::{HandOverError, ProposeError, ReadError};
use crate::network::{LocalFacts, PeerAddress, RaftNetwork};
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, Micros, NodeId, WriteId};
use crate::wal::{LogStorage, Medium, NewEntry};
pub(crate) use hand_over::HandOverReply;
use joining::Joining;
pub(crate) use membership::ChangeReply;
use reads::Reads;
use skipping::Skips;
pub use snapshots::SnapshotCounters;
use snapshots::Snapshots;
pub(crate) use snapshots::{SnapshotParts, SnapshotSink};

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
    metrics: Metrics,
    batches: ::metrics::Histogram,
    log_figures: LogFigures,
    peer_figures: PeerFigures,
    snapshot_figures: SnapshotFigures,
    /// Most proposals that were found waiting at once since the figures were shown.
    most_queued: usize,
    facts: LocalFacts,
    listed: Vec<PeerAddress>,
    outputs: VecDeque<Output>,
    scratch: Vec<Output>,
    /// Messages that wait for a write, and the write.
    deferred: Vec<(WriteId, NodeId, Message)>,
    /// Admitted by a leader and not yet appended, for want of prepared room.
    pending: VecDeque<Submission<S::Response>>,
    /// As that of the waiters: no deadline of the pending is before.
    pending_due: Micros,
    /// Of other nodes whose proposals come in here.
    lines: Lines,
    entries: Vec<NewEntry>,
    reads: Reads,
    snapshots: Snapshots,
    skips: Skips,
    log_time: LogTime,
    next_due: Micros,
    /// The disk has kept a write waiting for an election timeout.
    disk_stalls: bool,
    /// Who wants to know how the hand-over under way ends.
    hand_over: Option<HandOverReply>,
    /// Leadership is being handed over, asked for or not, and it is not known yet to whom it went.
    handing_over: bool,
    /// Who wants to know how the change of members under way ends.
    change: Option<ChangeReply>,
    joining: Joining,
    /// The write that makes the founding durable, until it is.
    founding_write: Option<WriteId>,
    /// When the leader may be asked again where a repair ends.
    next_floor: Micros,
    /// When the slow part of the status is published again.
    next_status: Micros,
    /// Handed to the applier so far.
    dispatched: LogIndex,
    backlog: VecDeque<(LogIndex, usize)>,
    /// Last index and bytes of each batch of own proposals that is not committed (hazard H1).
    uncommitted: VecDeque<(LogIndex, usize)>,
    uncommitted_bytes: usize,
    traces: Traces,
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
    pub(crate) snapshots: SnapshotParts,
    /// A leader adds by itself who waits to be added.
    pub(crate) auto_join: bool,
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
    Chunk(&'a [Bytes]),
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
            snapshots,
            auto_join,
        } = parts;
        let dispatched = core.applied();
        let reads = Reads::new(log.meta_seq(), core.heartbeat_interval());
        let mut driver = Self {
            core,
            log,
            network,
            apply,
            metrics: Metrics::new(shared.me.node),
            batches: metrics::batches(shared.me.node),
            log_figures: LogFigures::new(shared.me.node),
            peer_figures: PeerFigures::new(shared.me.node),
            snapshot_figures: SnapshotFigures::new(shared.me.node),
            most_queued: 0,
            shared,
            facts,
            listed,
            outputs: VecDeque::new(),
            scratch: Vec::new(),
            deferred: Vec::new(),
            pending: VecDeque::new(),
            pending_due: Micros::MAX,
            lines: Lines::default(),
            entries: Vec::new(),
            reads,
            snapshots: Snapshots::new(snapshots),
            skips: Skips::default(),
            log_time: LogTime::default(),
            next_due: 0,
            disk_stalls: false,
            hand_over: None,
            handing_over: false,
            change: None,
            joining: Joining::new(auto_join),
            founding_write: None,
            next_floor: 0,
            next_status: 0,
            dispatched,
            backlog: VecDeque::new(),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            traces: Traces::default(),
            advice: None,
            failure: None,
            stopping: false,
        };
        driver.begin_skips();
        driver.dial();
        driver.tell_facts();
        driver.publish(0);
        driver
    }

    /// Handles everything that came in, and time. Returns when to call again at the latest.
    pub(crate) fn burst(&mut self, now: Now, lanes: &mut Lanes<S::Response>) -> Micros {
        // Timers first: a process that slept must notice before it answers anything (hazard A10).
        if now.mono >= self.core.deadline() {
            self.step(now, Input::Tick, Cause::Other);
        }
        self.shared.waiters.expire(now.mono);
        self.expire_pending(now.mono);
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
        lanes
            .snapshots
            .drain(..)
            .for_each(|event| self.snapshot_event(now, event));
        self.propose(now, &mut lanes.proposals);
        self.read(now, &mut lanes.reads);
        let index = self.shared.applied_index();
        self.step(now, Input::Applied { index }, Cause::Other);
        for (index, digest) in self.shared.digests.take() {
            self.step(now, Input::Digest { index, digest }, Cause::Other);
        }
        self.step(now, Input::Settle, Cause::Other);
        self.tell_skips();
        self.dispatch(now);
        self.see_to_snapshots(now);
        self.see_to_repair(now);
        self.see_to_joining(now);
        self.ask_what_is_due(now);
        self.log.note_commit(self.core.commit());
        self.log.tick(now.mono);
        self.log.pump();
        self.notice_stall(now);
        // Shown before anybody is told that it is so.
        self.publish(now.mono);
        self.notice_hand_over();
        self.notice_change();
        self.next_call(now.mono)
    }

    /// Also when a deadline of somebody who waits is over (hazard F5): the answer is to be there before the
    /// caller stops waiting for it, and a heartbeat may be seconds away.
    fn next_call(&self, now: Micros) -> Micros {
        let deadline = self.core.deadline().min(self.reads.deadline());
        let deadline = deadline.min(self.snapshots.deadline());
        let deadline = deadline.min(self.shared.waiters.deadline());
        // Never in the past: whose time was over already is answered with the next burst.
        deadline.min(self.pending_due).max(now)
    }

    /// What an observer of a simulation compares with what is on the disks.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn core(&self) -> &RaftCore {
        &self.core
    }

    /// For tests of two releases.
    #[cfg(test)]
    pub(crate) fn core_mut(&mut self) -> &mut RaftCore {
        &mut self.core
    }

    /// As [`NodeBuilder::auto_join`](super::NodeBuilder::auto_join).
    #[cfg(test)]
    pub(crate) fn set_auto_join(&mut self, wanted: bool) {
        self.joining = Joining::new(wanted);
    }

    /// See [`core`](Self::core).
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn log(&self) -> &LogStorage<M> {
        &self.log
    }

    /// See [`core`](Self::core).
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn snapshot_counters(&self) -> SnapshotCounters {
        self.snapshots.counters()
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
    pub(crate) fn close(mut self) -> Result<(), crate::wal::LogFailure> {
        self.reads.refuse(&ReadError::Stopped);
        self.hand_over_failed(HandOverError::Stopped);
        self.change_failed(ChangeError::Stopped);
        for submission in self.pending {
            submission.waiter.answer(Err(ProposeError::ShuttingDown));
        }
        self.shared.waiters.abandon_above(self.dispatched);
        self.shared.goes_down();
        self.shared.events.close();
        drop(self.network);
        self.log.close()
    }

    fn step(&mut self, now: Now, input: Input, mut cause: Cause<'_, S::Response>) {
        let no_room = !self.log.has_reserve();
        if no_room != self.core.has_no_room() {
            self.core
                .step(now.mono, Input::NoRoom(no_room), &mut self.scratch);
        }
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
            Output::ReadReady { id, index } => self.reads.ready(id, index),
            Output::Event(event) => self.event(now, event),
            Output::OfferSnapshot { to, mark } => self.offer_snapshot(to, mark),
            Output::SendChunks { to, id, offset } => self.send_chunks(now, to, id, offset),
            Output::CheckSnapshot { mark } => self.check_snapshot(mark),
            Output::TakeOffer { from, offer } => self.take_offer(now, from, offer),
            Output::TakeChunk { from, chunk } => {
                if let Cause::Chunk(bytes) = cause {
                    self.take_chunk(from, chunk, bytes);
                }
            }
            Output::Restore { mark } => self.restore(now, mark),
            Output::Install { id, last } => self.install(now, id, last),
            Output::Repair { id, floor } => self.repair(now, id, floor),
        }
    }
}

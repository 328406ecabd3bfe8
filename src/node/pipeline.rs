//! Many commands under way, answered through one channel, none overtaking another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::envelope::InSession;
use super::handle::{DEFAULT_DEADLINE, ProposeOptions, RaftNode};
use super::line::{InOrder, Line};
use super::proposing::Counting;
use super::shared::encode;
use super::waiters::Reply;
use crate::config::limits::{MAX_FORWARD_BYTES, MAX_FORWARDS};
use crate::error::ProposeError;
use crate::state_machine::{CommandError, RouterStateMachine, StateMachine};
use crate::types::EntryKind;

/// Submits commands one after the other and has all their outcomes in one [`Outcomes`]. See
/// [`RaftNode::pipeline`].
#[derive(Debug)]
pub struct Pipeline<S: StateMachine = RouterStateMachine> {
    node: RaftNode<S>,
    outcomes: mpsc::UnboundedSender<(u64, Outcome<S>)>,
    line: Arc<Line>,
}

type Outcome<S> = Result<<S as StateMachine>::Response, ProposeError>;

/// The outcomes of a [`Pipeline`]'s commands, each with the ticket that it was submitted with.
#[derive(Debug)]
pub struct Outcomes<S: StateMachine = RouterStateMachine> {
    outcomes: mpsc::UnboundedReceiver<(u64, Outcome<S>)>,
}

/// One command in a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Comes back with the outcome.
    pub ticket: u64,
    /// Which command of which session it is; outside of sessions without.
    pub session: Option<InSession>,
    /// Whether it may be appended although an earlier one of the pipeline was not.
    pub unordered: bool,
}

impl<S: StateMachine> RaftNode<S> {
    /// A pipeline into this node. Its commands enter the log in the order in which they are
    /// submitted, and after one that did not enter it, none does any more
    /// ([`ProposeError::Overtaking`]).
    ///
    /// How many may be under way is for the caller to bound: each takes memory here until its
    /// outcome was received.
    pub fn pipeline(&self) -> (Pipeline<S>, Outcomes<S>) {
        let (sender, outcomes) = mpsc::unbounded_channel();
        let pipeline = Pipeline {
            node: self.clone(),
            outcomes: sender,
            line: Arc::default(),
        };
        (pipeline, Outcomes { outcomes })
    }
}

impl<S: StateMachine> Pipeline<S> {
    /// Submits a command. Its outcome, whatever it is, comes from the [`Outcomes`].
    ///
    /// With [`ProposeOptions::forward`], a node that does not lead passes it on, in its order: the leader
    /// appends nothing of this pipeline after what did not get there. What finds a leader while earlier
    /// commands are still on their way to another is refused, and nothing is appended behind it.
    pub fn submit(&self, at: Place, command: &S::Command, options: ProposeOptions) {
        let payload = encode::<S>(at.session, command);
        self.enqueue(self.answer(at, command), payload, options);
    }

    /// As [`submit`](Self::submit), but where the command is to be passed on, and as much is under way
    /// to the leader as may be (256 commands or 4 MiB of all pipelines of this node), it waits for room
    /// instead of being refused, until its deadline.
    pub async fn submit_when_room(&self, at: Place, command: &S::Command, options: ProposeOptions) {
        if !options.forward || self.node.is_leader() {
            return self.submit(at, command, options);
        }
        let payload = encode::<S>(at.session, command);
        let len = payload.as_ref().map_or(0, Bytes::len);
        let patience = options.deadline.unwrap_or(DEFAULT_DEADLINE);
        let end = Instant::now() + patience;
        let room = tokio::time::timeout_at(end, self.node.shared().passing_on.take(len)).await;
        let left = end.saturating_duration_since(Instant::now());
        let deadline = Some(if room.is_ok() { left } else { Duration::ZERO });
        let options = ProposeOptions {
            deadline,
            ..options
        };
        let mut answer = self.answer(at, command);
        answer.room = room.ok().map(Box::new);
        self.enqueue(answer, payload, options);
    }

    /// Where the outcome of a command goes, and its place in the line.
    fn answer(&self, at: Place, command: &S::Command) -> Pipelined<S::Response> {
        let line = (!at.unordered).then_some(&self.line);
        let mut answer = Pipelined::new(at.ticket, self.outcomes.clone(), line);
        answer.counting = Some(self.node.shared().counting(command));
        answer
    }

    fn enqueue(
        &self,
        mut answer: Pipelined<S::Response>,
        payload: Result<Bytes, CommandError>,
        options: ProposeOptions,
    ) {
        if answer.is_overtaking() {
            return answer.send(Err(ProposeError::Overtaking));
        }
        match payload {
            Ok(payload) => {
                let trace = answer.counting.as_ref().and_then(Counting::trace);
                let reply = (Reply::Pipelined(answer), trace);
                self.node
                    .enqueue_or_answer(EntryKind::Command, payload, reply, options);
            }
            Err(error) => answer.send(Err(error.into())),
        }
    }

    /// Nothing that is submitted from here on enters the log but what is unordered: a command that
    /// was not even submitted has its place before it.
    pub fn break_off(&self) {
        self.line.break_at(self.line.next());
    }
}

impl<S: StateMachine> Outcomes<S> {
    /// Waits for outcomes and moves up to `limit` of them to the end of `into`. How many; 0 once the
    /// pipeline was dropped and every command has been answered.
    pub async fn receive(&mut self, into: &mut Vec<(u64, Outcome<S>)>, limit: usize) -> usize {
        self.outcomes.recv_many(into, limit).await
    }
}

/// What pipelines may have on the way to the leader, of a node that does not lead.
#[derive(Debug)]
pub(crate) struct PassingOn {
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Of one command on its way.
#[derive(Debug)]
pub(crate) struct Room {
    _count: Option<OwnedSemaphorePermit>,
    _bytes: Option<OwnedSemaphorePermit>,
}

/// Bytes of one permit.
const GRAIN: usize = 1 << 10;

impl Default for PassingOn {
    fn default() -> Self {
        Self {
            count: Arc::new(Semaphore::new(MAX_FORWARDS)),
            bytes: Arc::new(Semaphore::new(MAX_FORWARD_BYTES / GRAIN)),
        }
    }
}

impl PassingOn {
    /// Waits for it. First come, first served.
    async fn take(&self, len: usize) -> Room {
        let grains = len.div_ceil(GRAIN).min(MAX_FORWARD_BYTES / GRAIN) as u32;
        // They are never closed.
        Room {
            _count: Arc::clone(&self.count).acquire_owned().await.ok(),
            _bytes: Arc::clone(&self.bytes)
                .acquire_many_owned(grains)
                .await
                .ok(),
        }
    }
}

/// Where the outcome of one command of a pipeline goes. Dropped unanswered, it says that nobody
/// knows: a node came down.
pub(crate) struct Pipelined<R> {
    ticket: u64,
    outcomes: Option<mpsc::UnboundedSender<(u64, Result<R, ProposeError>)>>,
    in_order: Option<InOrder>,
    /// On the way to the leader; boxed, since few have it and all are moved about.
    room: Option<Box<Room>>,
    counting: Option<Counting<R>>,
}

impl<R> Pipelined<R> {
    pub(crate) fn new(
        ticket: u64,
        outcomes: mpsc::UnboundedSender<(u64, Result<R, ProposeError>)>,
        line: Option<&Arc<Line>>,
    ) -> Self {
        Self {
            counting: None,
            room: None,
            ticket,
            outcomes: Some(outcomes),
            in_order: line.map(InOrder::behind),
        }
    }

    /// Whether one before it in its line did not enter the log.
    pub(crate) fn is_overtaking(&self) -> bool {
        self.in_order.as_ref().is_some_and(InOrder::is_overtaking)
    }

    pub(crate) fn in_order(&self) -> Option<&InOrder> {
        self.in_order.as_ref()
    }

    pub(crate) fn waits_for_room(&self) -> bool {
        self.room.is_some()
    }

    /// Answers, once; if it did not certainly enter the log, nothing behind it may.
    pub(crate) fn send(&mut self, outcome: Result<R, ProposeError>) {
        if let Some(outcomes) = self.outcomes.take() {
            let kept = outcome.as_ref().err().is_none_or(ProposeError::keeps_order);
            if let Some(at) = &self.in_order {
                if kept {
                    at.answered();
                } else {
                    at.break_off();
                }
            }
            self.room = None;
            if let Some(counting) = &self.counting {
                counting.end(&outcome);
            }
            // Nobody listening is fine.
            let _ = outcomes.send((self.ticket, outcome));
        }
    }
}

impl<R> Drop for Pipelined<R> {
    fn drop(&mut self) {
        self.send(Err(ProposeError::Unknown { index: 0, term: 0 }));
    }
}

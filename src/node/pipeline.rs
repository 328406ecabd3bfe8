//! Many commands under way, answered through one channel, none overtaking another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::envelope::InSession;
use super::handle::{ProposeOptions, RaftNode};
use super::proposing::Counting;
use super::shared::encode;
use super::waiters::Reply;
use crate::error::ProposeError;
use crate::state_machine::{RouterStateMachine, StateMachine};
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
    pub fn submit(&self, at: Place, command: &S::Command, options: ProposeOptions) {
        let line = (!at.unordered).then_some(&self.line);
        let mut answer = Pipelined::new(at.ticket, self.outcomes.clone(), line);
        answer.counting = Some(self.node.shared().counting(command));
        if answer.is_overtaking() {
            return answer.send(Err(ProposeError::Overtaking));
        }
        let options = ProposeOptions {
            forward: false,
            ..options
        };
        match encode::<S>(at.session, command) {
            Ok(payload) => {
                let reply = Reply::Pipelined(answer);
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

/// Where the outcome of one command of a pipeline goes. Dropped unanswered, it says that nobody
/// knows: a node came down.
pub(crate) struct Pipelined<R> {
    ticket: u64,
    outcomes: Option<mpsc::UnboundedSender<(u64, Result<R, ProposeError>)>>,
    /// The line that it stands in, and its place there.
    line: Option<(Arc<Line>, u64)>,
    counting: Option<Counting<R>>,
}

/// Those who keep their order.
#[derive(Debug)]
pub(crate) struct Line {
    next: AtomicU64,
    /// The first place whose command did not enter the log.
    broken: AtomicU64,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            broken: AtomicU64::new(u64::MAX),
        }
    }
}

impl Line {
    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn break_at(&self, place: u64) {
        self.broken.fetch_min(place, Ordering::AcqRel);
    }
}

impl<R> Pipelined<R> {
    pub(crate) fn new(
        ticket: u64,
        outcomes: mpsc::UnboundedSender<(u64, Result<R, ProposeError>)>,
        line: Option<&Arc<Line>>,
    ) -> Self {
        Self {
            counting: None,
            ticket,
            outcomes: Some(outcomes),
            line: line.map(|line| (Arc::clone(line), line.next())),
        }
    }

    /// Whether one before it in its line did not enter the log.
    pub(crate) fn is_overtaking(&self) -> bool {
        let line = self.line.as_ref();
        line.is_some_and(|(line, place)| *place > line.broken.load(Ordering::Acquire))
    }

    /// Answers; if it did not enter the log, nothing behind it may.
    pub(crate) fn send(&mut self, outcome: Result<R, ProposeError>) {
        if let Err(error) = &outcome
            && !error.was_appended()
            && let Some((line, place)) = &self.line
        {
            line.break_at(*place);
        }
        if let Some(outcomes) = self.outcomes.take() {
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

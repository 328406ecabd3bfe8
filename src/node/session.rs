//! Sessions through the handle: commands that take effect once, however often they are sent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::envelope::InSession;
use super::handle::{DEFAULT_DEADLINE, ProposeOptions, RaftNode};
use super::proposing::SystemKind;
use super::shared::encode;
use super::system::SystemEntry;
use super::trace::Trace;
use super::waiters::Reply;
use crate::error::{Certainty, ProposeError, SessionRefusal};
use crate::state_machine::{RouterStateMachine, StateMachine};
use crate::types::{EntryKind, LogIndex};

/// Between two tries of one command.
const PAUSE: Duration = Duration::from_millis(10);

impl<S: StateMachine> RaftNode<S> {
    /// Opens a session and says its number, which no other session ever has. It ends when it was
    /// quiet for ten minutes in which there was a leader, or is the one of very many that was quiet
    /// for longest (`docs/limits.md`).
    ///
    /// # Errors
    /// As [`propose`](Self::propose). After `Unknown` there may be a session that nobody uses; it ends
    /// by itself.
    pub async fn open_session(&self, options: ProposeOptions) -> Result<LogIndex, ProposeError> {
        let entry = SystemEntry::OpenSession;
        self.propose_system(entry, SystemKind::Open, options).await
    }

    /// Closes a session: what was remembered for it is forgotten.
    ///
    /// # Errors
    /// As [`propose`](Self::propose), and if there is no such session.
    pub async fn close_session(
        &self,
        session: LogIndex,
        options: ProposeOptions,
    ) -> Result<(), ProposeError> {
        let entry = SystemEntry::CloseSession(session);
        let closed = self.propose_system(entry, SystemKind::Close, options);
        closed.await.map(drop)
    }

    /// Keeps a session that has no commands to send: it is as if one had come.
    ///
    /// # Errors
    /// As [`propose`](Self::propose), and if there is no such session. Safe to call again.
    pub async fn keep_session(
        &self,
        session: LogIndex,
        options: ProposeOptions,
    ) -> Result<(), ProposeError> {
        let entry = SystemEntry::KeepAlive(session);
        let kept = self.propose_system(entry, SystemKind::KeepAlive, options);
        kept.await.map(drop)
    }

    async fn propose_system(
        &self,
        entry: SystemEntry,
        kind: SystemKind,
        options: ProposeOptions,
    ) -> Result<LogIndex, ProposeError> {
        let shared = self.shared();
        let counting = shared.proposals.begin_system(shared.clock, kind);
        let (reply, answer) = oneshot::channel();
        let reply = (Reply::System(reply), counting.trace());
        let result = match self.enqueue(EntryKind::System, entry.encode(), reply, options) {
            Ok(()) => answer.await.unwrap_or(Err(GONE)),
            Err(error) => Err(error),
        };
        counting.end(&result);
        result
    }

    /// Proposes a command of a session, once. Whoever does not learn its outcome proposes it again,
    /// here or at another node, with the same numbers and the same command: it is applied once, and
    /// each try is answered with the same response.
    ///
    /// A client keeps these rules: numbers begin with 1; each command has its own; `floor` is not above
    /// the number of any command that it may still send again; nobody else uses the session meanwhile.
    ///
    /// # Errors
    /// As [`propose`](Self::propose), and [`ProposeError::Session`] if the session does not take it.
    pub async fn propose_in(
        &self,
        at: InSession,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<S::Response, ProposeError> {
        let counting = self.shared().counting(&command);
        let result = match encode::<S>(Some(at), &command) {
            Ok(payload) => {
                let trace = counting.trace();
                self.propose_payload(payload, trace, options).await
            }
            Err(error) => Err(error.into()),
        };
        counting.end(&result);
        result
    }

    async fn propose_payload(
        &self,
        payload: Bytes,
        trace: Option<Box<Trace>>,
        options: ProposeOptions,
    ) -> Result<S::Response, ProposeError> {
        let (reply, answer) = oneshot::channel();
        let reply = (reply.into(), trace);
        self.enqueue(EntryKind::Command, payload, reply, options)?;
        answer.await.unwrap_or(Err(GONE))
    }

    /// Opens a session for commands one after the other.
    ///
    /// # Errors
    /// As [`open_session`](Self::open_session).
    pub async fn session(&self) -> Result<Session<S>, ProposeError> {
        let id = self.open_session(ProposeOptions::default()).await?;
        Ok(self.resume_session(id, 1))
    }

    /// Goes on with a session that was opened at any node: the next command gets number `next`. To send
    /// a command again whose outcome is unknown, `next` is its number ([`SessionError::seq`]).
    pub fn resume_session(&self, session: LogIndex, next: u64) -> Session<S> {
        Session {
            node: self.clone(),
            id: session,
            next,
        }
    }
}

/// Only a node that came down without answering drops a sender.
const GONE: ProposeError = ProposeError::Unknown { index: 0, term: 0 };

/// A session whose commands are sent one after the other, each until its outcome is known.
///
/// While a node can still find out, nothing is left to do. When leadership went elsewhere the caller
/// goes on there:
///
/// ```no_run
/// # use conveyor_raft::{ProposeError, RaftNode, RouterCommand, RouterStateMachine, SessionError};
/// # async fn once(nodes: &[RaftNode], command: RouterCommand) -> Result<(), SessionError> {
/// # let mut session = nodes[0].session().await.expect("it leads");
/// let mut result = session.propose(command.clone()).await;
/// while let Err(SessionError { seq, cause: ProposeError::NotLeader(hint), .. }) = &result {
///     let leader = nodes.iter().find(|node| Some(node.id()) == hint.node);
///     session = leader.unwrap_or(&nodes[0]).resume_session(session.id(), *seq);
///     result = session.propose(command.clone()).await;
/// }
/// # result.map(drop)
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Session<S: StateMachine = RouterStateMachine> {
    node: RaftNode<S>,
    id: LogIndex,
    next: u64,
}

impl<S: StateMachine> Session<S> {
    /// Its number.
    pub fn id(&self) -> LogIndex {
        self.id
    }

    /// The number that the next command gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Proposes a command, again and again until its outcome is known, 5 s at most.
    ///
    /// # Errors
    /// See [`SessionError`]. A command of which this is not known and that is not sent again never
    /// takes effect once a later command of the session has.
    pub async fn propose(&mut self, command: S::Command) -> Result<S::Response, SessionError> {
        self.propose_with(command, ProposeOptions::default()).await
    }

    /// [`propose`](Self::propose) with options; the deadline is for all tries together.
    ///
    /// # Errors
    /// As `propose`.
    pub async fn propose_with(
        &mut self,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<S::Response, SessionError> {
        let seq = self.next;
        self.next += 1;
        // Sent one after the other: what came before was answered or given up.
        let at = InSession {
            session: self.id,
            seq,
            floor: seq,
        };
        let mut tries = Tries::default();
        let result = match encode::<S>(Some(at), &command) {
            Ok(payload) => {
                let kind = S::command_kind(&command);
                self.settle(kind, &payload, options, &mut tries).await
            }
            Err(error) => Err(error.into()),
        };
        result.map_err(|cause| SessionError {
            seq,
            certainty: tries.certainty(&cause),
            cause,
        })
    }

    async fn settle(
        &self,
        kind: usize,
        payload: &Bytes,
        options: ProposeOptions,
        tries: &mut Tries,
    ) -> Result<S::Response, ProposeError> {
        let end = Instant::now() + options.deadline.unwrap_or(DEFAULT_DEADLINE);
        loop {
            let deadline = Some(end.saturating_duration_since(Instant::now()));
            let options = ProposeOptions {
                deadline,
                ..options
            };
            let shared = self.node.shared();
            let counting = (shared.proposals).begin(shared.clock, kind, S::response_kind);
            let (payload, trace) = (payload.clone(), counting.trace());
            let tried = self.node.propose_payload(payload, trace, options).await;
            counting.end(&tried);
            let error = match tried {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            tries.note(&error);
            let pause = self.pause_after(&error, options.forward);
            match pause.filter(|pause| Instant::now() + *pause < end) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// How long to wait before this node is asked again; `None` if that is of no use.
    fn pause_after(&self, error: &ProposeError, forward: bool) -> Option<Duration> {
        match error {
            ProposeError::Unknown { .. } => Some(PAUSE),
            ProposeError::Overloaded { retry_after_ms, .. } => {
                Some(Duration::from_millis(*retry_after_ms))
            }
            // It may be this node again, or the way to the leader opens.
            ProposeError::NotLeader(hint) => {
                let elsewhere = hint.node.is_some_and(|node| node != self.node.id());
                (forward || !elsewhere).then_some(PAUSE)
            }
            _ => None,
        }
    }
}

/// What the tries of one command so far say of it.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    unknown: bool,
}

impl Tries {
    fn note(&mut self, error: &ProposeError) {
        self.unknown |= error.certainty() == Certainty::Unknown;
    }

    /// A refused try says nothing of an earlier one.
    fn certainty(&self, last: &ProposeError) -> Certainty {
        match last {
            ProposeError::Session(SessionRefusal::AnswerNotKept) => Certainty::Applied,
            _ if self.unknown => Certainty::Unknown,
            _ => last.certainty(),
        }
    }
}

/// A command of a session that was not answered with its response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("command {seq} of the session: {cause}")]
pub struct SessionError {
    /// Its number in the session, to send it again with.
    pub seq: u64,
    /// Whether it may have taken effect, by all tries that this call made.
    pub certainty: Certainty,
    /// Why the last try failed.
    #[source]
    pub cause: ProposeError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f4_a_refusal_after_an_unknown_outcome_does_not_make_it_certain() {
        let unknown = ProposeError::Unknown { index: 5, term: 2 };
        let refused = ProposeError::Session(SessionRefusal::Expired);
        let mut tries = Tries::default();
        tries.note(&ProposeError::Deadline);
        assert_eq!(tries.certainty(&refused), Certainty::NotApplied);
        tries.note(&unknown);
        assert_eq!(tries.certainty(&refused), Certainty::Unknown);
        let applied = ProposeError::Session(SessionRefusal::AnswerNotKept);
        assert_eq!(tries.certainty(&applied), Certainty::Applied);
    }
}

//! Proposals that a node which does not lead passes on to the one that does.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::types::{EntryKind, LogIndex, NodeId, Term};

/// What the leader made of a proposal that was passed on to it. Only `Applied`, `AnswerNotKept` and
/// `Unknown` may have entered a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardOutcome {
    /// It was applied.
    Applied {
        /// Where in the log it stands.
        index: LogIndex,
        /// In which term.
        term: Term,
        /// The state machine's response, in the form for peers; empty where there is nothing to say.
        response: Bytes,
    },
    /// The node asked does not lead, and passes nothing on a second time.
    NotLeader {
        /// Who leads, 0 if it knows of nobody.
        leader: NodeId,
        /// The term that this is about.
        term: Term,
        /// Where clients reach that leader; empty if unknown.
        endpoint: String,
    },
    /// One of its budgets is used up.
    Overloaded {
        /// When to try again, milliseconds.
        retry_after_ms: u64,
    },
    /// It is no entry that may be passed on, or none that the leader's release can read.
    Invalid {
        /// What is wrong, by name.
        field: String,
        /// Why.
        why: String,
    },
    /// It entered the log, and the leader does not know what became of it.
    Unknown {
        /// Where; 0 if not even that is known.
        index: LogIndex,
        /// In which term.
        term: Term,
    },
    /// The deadline passed before it entered the log.
    Deadline,
    /// The leader shuts down.
    ShuttingDown,
    /// The leader's replica has failed.
    Failed(String),
    /// There is no such session.
    SessionExpired,
    /// The session's floor is above the command's number.
    SessionStale {
        /// The lowest number that it takes.
        floor: u64,
    },
    /// The command's number is too far above the session's floor.
    SessionFull {
        /// The lowest number that it takes.
        floor: u64,
        /// How many it takes from there on.
        window: u64,
    },
    /// It was applied, and there is no answer to give.
    AnswerNotKept,
    /// One before it in its line did not enter the log, or got lost on the way.
    Overtaking,
}

/// A proposal never left this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent;

/// What is told of a proposal that was to be passed on.
pub type Forwarded = Result<ForwardOutcome, Unsent>;

/// Where the answer to a [`Forward`] goes. Dropped without one, it says that nobody knows.
pub struct ForwardReply(Option<Box<dyn FnOnce(Forwarded) + Send>>);

impl ForwardReply {
    /// `told` is called once, from any thread; it must not block.
    pub fn new(told: impl FnOnce(Forwarded) + Send + 'static) -> Self {
        Self(Some(Box::new(told)))
    }

    /// Answers.
    pub fn answer(mut self, answer: Forwarded) {
        self.tell(answer);
    }

    fn tell(&mut self, answer: Forwarded) {
        if let Some(told) = self.0.take() {
            told(answer);
        }
    }
}

impl Drop for ForwardReply {
    fn drop(&mut self) {
        self.tell(Ok(ForwardOutcome::Unknown { index: 0, term: 0 }));
    }
}

impl fmt::Debug for ForwardReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ForwardReply")
            .field(&self.0.is_some())
            .finish()
    }
}

/// A place in a line of proposals, none of which enters the log after one before it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InLine {
    /// Which line of the node that passes it on; never 0.
    pub number: u64,
    /// The how manieth of that line, from 0 on, without gaps.
    pub place: u64,
}

/// A proposal on its way from the node that was asked to the one that leads.
#[derive(Debug)]
pub struct Forward {
    /// The term in which that node leads, as far as the one that passes it on knows.
    pub term: Term,
    /// A command, or an entry of the system's own.
    pub kind: EntryKind,
    /// The entry's payload, as it would stand in the log.
    pub payload: Bytes,
    /// How long the proposer still waits.
    pub patience: Duration,
    /// Where it stands among others, if it keeps an order.
    pub line: Option<InLine>,
    /// It waits for room rather than being refused; its proposer bounds how many do.
    pub waits: bool,
    /// Where the answer goes.
    pub reply: ForwardReply,
}

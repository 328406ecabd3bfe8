//! What can go wrong, one small enum per public operation.

use crate::config::ConfigError;
pub use crate::core::{ChangeError, HandOverError};
use crate::state_machine::CommandError;
use crate::types::{LogIndex, NodeId, Term};

/// Why a node did not start. Nothing on disk was damaged.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used; the text says what to do.
    #[error("{0}")]
    Storage(String),
    /// The peer listener or its credentials cannot be used; the text says what to do.
    #[error("{0}")]
    Transport(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Whether a proposal may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It certainly never will.
    NotApplied,
    /// It may have, or may yet.
    Unknown,
    /// It did, exactly once; only its answer is not there any more.
    Applied,
}

/// Who leads, as far as a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader's number, if one is known.
    pub node: Option<NodeId>,
    /// Where clients reach it; empty if it said none.
    pub endpoint: String,
    /// The term this is about.
    pub term: Term,
}

/// Why a proposal did not resolve to a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead; nothing entered the log.
    #[error("not the leader{}", leader_text(.0))]
    NotLeader(LeaderHint),
    /// A budget is used up; nothing was done. Try again in a moment.
    #[error("overloaded: {budget} is used up; try again in {retry_after_ms} ms")]
    Overloaded {
        /// Which budget.
        budget: &'static str,
        /// When to try again, milliseconds.
        retry_after_ms: u64,
    },
    /// The command is malformed or too large; nothing entered the log.
    #[error("invalid command: {0}")]
    Invalid(#[from] CommandError),
    /// The command entered the log, but leadership or time ran out before its fate was known.
    #[error("outcome unknown: appended at index {index} in term {term}; it may still be applied")]
    Unknown {
        /// Where it was appended.
        index: LogIndex,
        /// In which term.
        term: Term,
    },
    /// The deadline passed before the command entered the log.
    #[error("the deadline passed before the command entered the log")]
    Deadline,
    /// The node is shutting down; nothing entered the log.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The replica failed (disk, log, state machine) and takes nothing more until it is restarted.
    #[error("the replica has failed: {0}")]
    Failed(String),
    /// An earlier command of the same pipeline did not enter the log, or nobody knows, so this one may not
    /// either.
    #[error(
        "an earlier command of the same batch or stream did not enter the log, or nobody knows"
    )]
    Overtaking,
    /// The command's session does not take it.
    #[error(transparent)]
    Session(#[from] SessionRefusal),
}

/// Why a session does not take a command. Decided by the replicated state, so the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefusal {
    /// There is no such session any more (it was quiet for too long, or was
    /// closed), or there never was. Nothing can be said of commands that were sent in it before.
    #[error("the session has expired or was closed, or there never was one: open another")]
    Expired,
    /// The client has said that it needs no answers below `floor`. Whether the command was applied
    /// before is not remembered.
    #[error("commands below number {floor} are over in this session")]
    Stale {
        /// The lowest number that the session takes.
        floor: u64,
    },
    /// Too many commands of the session are under way.
    #[error(
        "too many commands of the session are under way: numbers from {floor} on, {window} of \
         them, are taken; wait for the answer to the first"
    )]
    TooFarAhead {
        /// The lowest number that the session takes.
        floor: u64,
        /// How many it takes from there on.
        window: u64,
    },
    /// It was applied by an earlier try, exactly once, and its answer was not kept: it was too large,
    /// or the state machine does not say how answers are kept.
    #[error("the command was applied before; its answer was not kept")]
    AnswerNotKept,
}

impl ProposeError {
    /// Whether the command certainly entered the log that the next ones enter, so that they may follow it.
    /// What nobody knows of may have been in the log of a leader that is none any more.
    pub(crate) fn keeps_order(&self) -> bool {
        matches!(self, Self::Session(_))
    }

    /// Whether the command may have taken effect all the same. In a session this speaks of the one
    /// try that failed, not of earlier ones.
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::Unknown { .. } => Certainty::Unknown,
            Self::Session(SessionRefusal::AnswerNotKept) => Certainty::Applied,
            _ => Certainty::NotApplied,
        }
    }
}

fn leader_text(hint: &LeaderHint) -> String {
    match hint.node {
        Some(node) if !hint.endpoint.is_empty() => format!(": node {node} at {}", hint.endpoint),
        Some(node) => format!(": node {node}"),
        None => "; none is known at the moment".to_owned(),
    }
}

/// Why nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader was confirmed by a quorum, or the state did not get that far, in time.
    #[error("the deadline passed before a leader confirmed that the state is up to date")]
    Deadline,
    /// Too many wait to read; try again in a moment.
    #[error("overloaded: too many reads wait; try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again, milliseconds.
        retry_after_ms: u64,
    },
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The replica failed (disk, log, state machine) and confirms nothing until it is restarted.
    #[error("the replica has failed: {0}")]
    Failed(String),
}

/// Why waiting for an index ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("index {wanted} was not applied in time; this node is at {applied}")]
    Deadline {
        /// What was waited for.
        wanted: LogIndex,
        /// How far the node is.
        applied: LogIndex,
    },
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

//! Why a call of the client failed.

use tonic::Status;

use super::leader::is_final;
use crate::grpc::detail;
use crate::proto::{Certainty, OutcomeUnknown, Rejected};

/// Why a call failed. What it means for a command is its [`certainty`](Self::certainty).
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The command was committed, and the state machine refused it.
    #[error("{}: {}", .0.reason, .0.message)]
    Rejected(Rejected),
    /// The command is malformed or too large; nothing entered a log.
    #[error("{field}: {why}")]
    Invalid {
        /// The field, by name.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The deadline passed, or the leader was lost, before anybody said what became of the command.
    #[error("outcome unknown: {why}")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// The deadline passed and nothing entered a log.
    #[error("nothing was done in time: {why}")]
    Deadline {
        /// What went wrong last.
        why: String,
    },
    /// The command was applied, exactly once, and its answer is not remembered.
    #[error("applied; its answer was not kept")]
    AnswerNotKept,
    /// The session does not take the command: it has expired, mostly. Open another.
    #[error("{why}")]
    SessionOver {
        /// Why.
        why: String,
        /// Of the command.
        certainty: Certainty,
    },
    /// The node that a list is read from, page by page, is gone, or no longer has the state that the list
    /// is of. Begin again.
    #[error("the list cannot be gone on with: {why}")]
    PagesGone {
        /// What happened.
        why: String,
    },
    /// A node refuses the call itself: the certificate or its role does not do, or the node is of a
    /// release that does not know the call. The status has the detail
    /// ([`detail`](crate::grpc::detail)).
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
}

impl ClientError {
    /// Whether the command may have taken effect, by all tries that the call made.
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::Rejected(_) => Certainty::NoEffect,
            Self::Refused(status) if is_final(status) => Certainty::NotApplied,
            // A call whose connection broke carries no node's word.
            Self::Refused(status) if status.details().is_empty() => Certainty::Unknown,
            Self::Refused(status) if detail::<OutcomeUnknown>(status).is_some() => {
                Certainty::Unknown
            }
            Self::Invalid { .. }
            | Self::Deadline { .. }
            | Self::PagesGone { .. }
            | Self::Refused(_) => Certainty::NotApplied,
            Self::Unknown { .. } => Certainty::Unknown,
            Self::AnswerNotKept => Certainty::Applied,
            Self::SessionOver { certainty, .. } => *certainty,
        }
    }
}

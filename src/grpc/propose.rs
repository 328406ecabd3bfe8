//! From a message to a command, and from its outcome to a message.

use tonic::Status;

use crate::error::{LeaderHint, ProposeError};
use crate::node::{InSession, RaftNode};
use crate::proto::propose_outcome::Outcome as Item;
use crate::proto::{self, Certainty, ProposeOutcome, ProposeResponse};
use crate::state_machine::{RouterCommand, RouterResponse};

use super::identity::Role;
use super::status::{Failure, invalid};

/// A command in the form that is proposed, if this caller may propose it.
pub(super) fn command(
    role: Role,
    command: Option<proto::RouterCommand>,
) -> Result<RouterCommand, CommandError> {
    let command = command.ok_or_else(|| shape("command", "is missing"))?;
    let command = RouterCommand::try_from(command)?;
    match needs_operator(&command) && role < Role::Operator {
        true => Err(CommandError::Role(role)),
        false => Ok(command),
    }
}

/// Which command of which session it is.
pub(super) fn in_session(at: Option<proto::InSession>) -> Result<Option<InSession>, CommandError> {
    let Some(at) = at else { return Ok(None) };
    let floor = match at.floor {
        0 => at.seq,
        floor => floor,
    };
    match (at.session, at.seq) {
        (0, _) => Err(shape("session.session", "is missing")),
        (_, 0) => Err(shape("session.seq", "must be at least 1")),
        (_, seq) if floor > seq => Err(shape("session.floor", "must not be above seq")),
        (session, seq) => Ok(Some(InSession {
            session,
            seq,
            floor,
        })),
    }
}

fn shape(field: &str, why: &str) -> CommandError {
    CommandError::Shape(crate::state_machine::CommandError {
        field: field.to_owned(),
        why: why.to_owned(),
    })
}

/// What became of item `item`.
pub(super) fn outcome(
    node: &RaftNode,
    item: u32,
    result: Result<RouterResponse, ProposeError>,
) -> ProposeOutcome {
    let outcome = match result {
        Ok(response) => match answer(response) {
            Ok(response) => Item::Response(response),
            Err(refusal) => Item::Rejected(refusal),
        },
        Err(error) => failed(error, &node.leader(), item),
    };
    ProposeOutcome {
        outcome: Some(outcome),
    }
}

fn failed(error: ProposeError, leader: &LeaderHint, item: u32) -> Item {
    Failure::new(error, leader, false).into_outcome(item)
}

/// Why a command is not proposed.
pub(super) enum CommandError {
    Shape(crate::state_machine::CommandError),
    Role(Role),
}

impl From<crate::state_machine::CommandError> for CommandError {
    fn from(error: crate::state_machine::CommandError) -> Self {
        Self::Shape(error)
    }
}

impl CommandError {
    pub(super) fn status(self) -> Status {
        match self {
            Self::Shape(error) => invalid(&error.field, error.why),
            Self::Role(has) => super::status::permission_denied(Role::Operator, has),
        }
    }

    pub(super) fn item(self, item: u32) -> Item {
        let (field, why) = match self {
            Self::Shape(error) => (error.field, error.why),
            Self::Role(has) => (
                "rewind".to_owned(),
                format!("needs the role operator, the caller has {has}"),
            ),
        };
        Item::Invalid(proto::Invalid {
            field,
            why,
            item: Some(item),
            certainty: Certainty::NotApplied as i32,
        })
    }
}

fn needs_operator(command: &RouterCommand) -> bool {
    matches!(
        command,
        RouterCommand::CommitSourceOffset { rewind: true, .. }
            | RouterCommand::CommitGroupOffset { rewind: true, .. }
    )
}

/// What is returned for a command that was applied, or the refusal.
pub(super) fn answer(response: RouterResponse) -> Result<ProposeResponse, proto::Rejected> {
    use crate::state_machine::Outcome;
    let (index, term, time_ms) = (response.index, response.term, response.time_ms);
    let (answer, unchanged) = match response.outcome {
        Outcome::Applied(answer) => (answer, false),
        Outcome::Unchanged(answer) => (answer, true),
        Outcome::Rejected(rejection) => {
            return Err(proto::Rejected {
                reason: rejection.reason().to_owned(),
                index,
                current: rejection.current(),
                certainty: Certainty::NoEffect as i32,
                message: rejection.to_string(),
            });
        }
    };
    Ok(ProposeResponse {
        index,
        term,
        time_ms,
        duplicate: response.duplicate,
        unchanged,
        answer: Some(Box::new((&answer).into())),
    })
}

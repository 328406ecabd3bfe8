//! The service `Router`.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::node::{Applied, Proposal, ProposeOptions, RaftNode};
use crate::proto::propose_outcome::Outcome as Item;
use crate::proto::router_server::Router;
use crate::proto::{
    self, Certainty, GetStateRequest, NotAppended, ProposeBatchRequest, ProposeBatchResponse,
    ProposeOutcome, ProposeRequest, ProposeResponse, StatePart, SummaryRequest, SummaryResponse,
};
use crate::state_machine::{RouterCommand, RouterResponse, RouterState};

use super::authorize::Roles;
use super::convert;
use super::deadline::Deadline;
use super::identity::Role;
use super::status::{Failure, invalid, rejected, wait};

/// Most commands in one batch.
const MAX_BATCH: usize = 4096;
/// Parts of the state made ahead of a client that takes its time.
const AHEAD: usize = 2;

pub(super) struct RouterService {
    pub(super) node: RaftNode,
    pub(super) roles: Roles,
}

type State = Arc<Applied<RouterState>>;

impl RouterService {
    /// A command in the form that is proposed, if this caller may propose it.
    fn command(role: Role, command: proto::RouterCommand) -> Result<RouterCommand, CommandError> {
        let command = RouterCommand::try_from(command)?;
        match needs_operator(&command) && role < Role::Operator {
            true => Err(CommandError::Role(role)),
            false => Ok(command),
        }
    }

    fn failure(&self, error: crate::error::ProposeError, deadline: Deadline) -> Failure {
        Failure::new(error, &self.node.status().leader, deadline.passed())
    }

    async fn at(&self, index: u64, deadline: Deadline) -> Result<State, Status> {
        match index {
            0 => Ok(self.node.applied()),
            _ => {
                let reached = self.node.wait_applied(index, deadline.left()).await;
                reached.map_err(|error| wait(&error))
            }
        }
    }

    /// Submits in order, and stops at the first that is not taken: none may overtake another.
    fn submit_all(
        &self,
        commands: Vec<Result<RouterCommand, Box<Item>>>,
        deadline: Deadline,
    ) -> Vec<Submitted> {
        let mut stopped: Option<String> = None;
        let mut submitted = Vec::with_capacity(commands.len());
        for (item, command) in (0u32..).zip(commands) {
            let next = match (&stopped, command) {
                (Some(why), _) => Submitted::Done(Box::new(not_appended(why))),
                (None, Err(outcome)) => {
                    stopped = Some(format!("item {item} was refused"));
                    Submitted::Done(outcome)
                }
                (None, Ok(command)) => match self.node.submit(command, options(deadline)) {
                    Ok(proposal) => Submitted::Pending(proposal),
                    Err(error) => {
                        stopped = Some(format!("item {item} was not taken"));
                        let outcome = self.failure(error, deadline).into_outcome(item);
                        Submitted::Done(Box::new(outcome))
                    }
                },
            };
            submitted.push(next);
        }
        submitted
    }
}

/// One item of a batch.
enum Submitted {
    Done(Box<Item>),
    Pending(Proposal),
}

/// Why a command is not proposed.
enum CommandError {
    Shape(crate::state_machine::CommandError),
    Role(Role),
}

impl From<crate::state_machine::CommandError> for CommandError {
    fn from(error: crate::state_machine::CommandError) -> Self {
        Self::Shape(error)
    }
}

impl CommandError {
    fn status(self) -> Status {
        match self {
            Self::Shape(error) => invalid(&error.field, error.why),
            Self::Role(has) => super::status::permission_denied(Role::Operator, has),
        }
    }

    fn item(self, item: u32) -> Item {
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

fn options(deadline: Deadline) -> ProposeOptions {
    ProposeOptions {
        deadline: Some(deadline.left()),
    }
}

fn not_appended(why: &str) -> Item {
    Item::NotAppended(NotAppended {
        why: why.to_owned(),
        certainty: Certainty::NotApplied as i32,
    })
}

/// What is returned for a command that was applied, or the refusal.
fn answer(response: RouterResponse) -> Result<ProposeResponse, proto::Rejected> {
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
        answer: Some((&answer).into()),
    })
}

#[tonic::async_trait]
impl Router for RouterService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let role = self.roles.require(&request, Role::Writer)?;
        let deadline = Deadline::of(&request);
        let command = request.into_inner().command;
        let command = command.ok_or_else(|| invalid("command", "is missing"))?;
        let command = Self::command(role, command).map_err(CommandError::status)?;
        let proposed = self.node.propose_with(command, options(deadline)).await;
        let response = proposed.map_err(|error| self.failure(error, deadline).into_status())?;
        answer(response)
            .map(Response::new)
            .map_err(|refusal| rejected(&refusal))
    }

    async fn propose_batch(
        &self,
        request: Request<ProposeBatchRequest>,
    ) -> Result<Response<ProposeBatchResponse>, Status> {
        let role = self.roles.require(&request, Role::Writer)?;
        let deadline = Deadline::of(&request);
        let commands = request.into_inner().commands;
        if commands.len() > MAX_BATCH {
            let why = format!("are {}, at most {MAX_BATCH} fit in a batch", commands.len());
            return Err(invalid("commands", why));
        }
        let commands = (0u32..).zip(commands).map(|(item, command)| {
            Self::command(role, command).map_err(|error| Box::new(error.item(item)))
        });
        let submitted = self.submit_all(commands.collect(), deadline);
        let mut outcomes = Vec::with_capacity(submitted.len());
        for (item, submitted) in (0u32..).zip(submitted) {
            let outcome = match submitted {
                Submitted::Done(outcome) => *outcome,
                Submitted::Pending(proposal) => match proposal.await {
                    Ok(response) => match answer(response) {
                        Ok(response) => Item::Response(response),
                        Err(refusal) => Item::Rejected(refusal),
                    },
                    Err(error) => self.failure(error, deadline).into_outcome(item),
                },
            };
            outcomes.push(ProposeOutcome {
                outcome: Some(outcome),
            });
        }
        Ok(Response::new(ProposeBatchResponse { outcomes }))
    }

    type GetStateStream = ReceiverStream<Result<StatePart, Status>>;

    async fn get_state(
        &self,
        request: Request<GetStateRequest>,
    ) -> Result<Response<Self::GetStateStream>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let deadline = Deadline::of(&request);
        let state = self
            .at(request.into_inner().at_least_index, deadline)
            .await?;
        let (send, receive) = mpsc::channel(AHEAD);
        // Converting 100 MB of records would hold up the calls of everybody else.
        tokio::task::spawn_blocking(move || {
            convert::parts(&state, |part| send.blocking_send(Ok(part)).is_ok());
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn summary(
        &self,
        request: Request<SummaryRequest>,
    ) -> Result<Response<SummaryResponse>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let deadline = Deadline::of(&request);
        let state = self
            .at(request.into_inner().at_least_index, deadline)
            .await?;
        Ok(Response::new(convert::summary(&state)))
    }
}

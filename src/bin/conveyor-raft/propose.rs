//! `conveyor-raft propose`.

use std::collections::VecDeque;
use std::time::Duration;

use conveyor_raft::grpc::detail;
use conveyor_raft::proto::propose_outcome::Outcome;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    self, NotLeader, ProposeBatchRequest, ProposeResponse, Rejected, ReplicaFailed,
};
use prost::Message;
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::cli::ProposeArgs;
use crate::client::{Client, Leader, failure_of};
use crate::failure::{Context, Failure};
use crate::input::{Item, Source};
use crate::output::{self, say};

/// A batch is answered as a whole: larger ones bring little more speed and later answers.
const BATCH_ITEMS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

struct Command {
    number: u64,
    command: proto::RouterCommand,
}

type Input = mpsc::Receiver<std::io::Result<Item>>;

pub(crate) async fn run(args: ProposeArgs) -> Result<(), Failure> {
    let source = match args.input {
        Some(path) => Source::open(&path)?,
        None => Source::of_lines(args.commands),
    };
    let client = Client::new(args.client)?;
    let mut run = Run {
        leader: Leader::new(&client),
        client: &client,
        waiting: VecDeque::new(),
        ended: false,
        failed: 0,
    };
    run.all(source.spawn()?).await?;
    match run.failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!(
            "lines that are no commands, were not proposed, or have an unknown outcome: {failed}"
        ))),
    }
}

struct Run<'a> {
    client: &'a Client,
    leader: Leader<'a>,
    /// Read and not in any log, in order.
    waiting: VecDeque<Command>,
    ended: bool,
    failed: u64,
}

impl Run<'_> {
    async fn all(&mut self, mut input: Input) -> Result<(), Failure> {
        loop {
            let batch = self.next_batch(&mut input).await?;
            if batch.is_empty() && self.ended {
                return Ok(());
            }
            if !batch.is_empty() {
                self.send(batch).await?;
            }
        }
    }

    /// What is at hand, up to a batch; waits only for the first command.
    async fn next_batch(&mut self, input: &mut Input) -> Result<Vec<Command>, Failure> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ITEMS {
            let command = match self.waiting.pop_front() {
                Some(command) => command,
                None => match self.read(input, batch.is_empty()).await? {
                    Some(command) => command,
                    None => break,
                },
            };
            bytes += command.command.encoded_len();
            if bytes > BATCH_BYTES && !batch.is_empty() {
                self.waiting.push_front(command);
                break;
            }
            batch.push(command);
        }
        Ok(batch)
    }

    async fn read(&mut self, input: &mut Input, wait: bool) -> Result<Option<Command>, Failure> {
        loop {
            let item = match (input.try_recv(), wait) {
                (Ok(item), _) => item,
                (Err(mpsc::error::TryRecvError::Empty), false) => return Ok(None),
                (Err(_), _) => match input.recv().await {
                    Some(item) => item,
                    None => {
                        self.ended = true;
                        return Ok(None);
                    }
                },
            };
            let item = item.context("cannot read the input")?;
            match item.command {
                Ok(command) => {
                    return Ok(Some(Command {
                        number: item.number,
                        command: command.into(),
                    }));
                }
                Err(why) => {
                    self.failed += 1;
                    eprintln!("line {}: {why}", item.number);
                }
            }
        }
    }

    async fn send(&mut self, batch: Vec<Command>) -> Result<(), Failure> {
        let channel = self.leader.channel().await?;
        let request = ProposeBatchRequest {
            commands: batch
                .iter()
                .map(|command| command.command.clone())
                .collect(),
            session: None,
        };
        let answer = RouterClient::new(channel)
            .propose_batch(self.client.request(request))
            .await;
        match answer {
            Ok(answer) => self.settle(batch, answer.into_inner().outcomes).await,
            Err(status) => self.failed_call(batch, status).await,
        }
    }

    /// Takes the fate of each command; those that never entered the log wait again, in order.
    async fn settle(
        &mut self,
        batch: Vec<Command>,
        outcomes: Vec<proto::ProposeOutcome>,
    ) -> Result<(), Failure> {
        let mut again = Vec::new();
        let mut refusal = None;
        let mut outcomes = outcomes.into_iter();
        for command in batch {
            let outcome = outcomes.next().and_then(|outcome| outcome.outcome);
            match Fate::of(outcome) {
                Fate::Final(result) => self.tell(command.number, &result)?,
                Fate::Again(why) => {
                    again.push(command);
                    refusal = refusal.or(why);
                }
            }
        }
        if again.is_empty() {
            self.leader.served();
            return Ok(());
        }
        for command in again.into_iter().rev() {
            self.waiting.push_front(command);
        }
        match refusal {
            Some(Refusal::Overloaded(wait)) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Some(Refusal::NotLeader(hint)) => self.leader.refused(&hint).await,
            Some(Refusal::Replica(failed)) => {
                self.leader.lost(Failure::new(failed.what_to_do)).await
            }
            None => {
                let failure = Failure::new("the commands did not enter the log in time");
                self.leader.lost(failure).await
            }
        }
    }

    /// The call failed as a whole. Unless the node says so, nobody knows how far it came.
    async fn failed_call(&mut self, batch: Vec<Command>, status: Status) -> Result<(), Failure> {
        let failure = failure_of(&status);
        if let Some(hint) = detail::<NotLeader>(&status) {
            self.waiting.extend(batch);
            return self.leader.refused(&hint).await;
        }
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::Unimplemented => Err(failure),
            _ => {
                for command in batch {
                    let result = Told::Unknown {
                        why: failure.to_string(),
                    };
                    self.tell(command.number, &result)?;
                }
                self.leader.lost(failure).await
            }
        }
    }

    fn tell(&mut self, number: u64, told: &Told) -> Result<(), Failure> {
        if matches!(told, Told::Unknown { .. } | Told::Invalid { .. }) {
            self.failed += 1;
        }
        match self.client.json {
            true => say!("{}", output::json(&Line { line: number, told })?),
            false => say!("line {number}: {}", told.text()),
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Line<'a> {
    line: u64,
    #[serde(flatten)]
    told: &'a Told,
}

/// What is printed of a command.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
enum Told {
    Applied(Box<ProposeResponse>),
    Unchanged(Box<ProposeResponse>),
    Rejected(Rejected),
    Unknown { why: String },
    Invalid { why: String },
}

impl Told {
    fn text(&self) -> String {
        match self {
            Self::Applied(response) => format!("applied at index {}", response.index),
            Self::Unchanged(response) => {
                format!("unchanged, at index {}: all was so already", response.index)
            }
            Self::Rejected(refusal) => format!(
                "rejected at index {}: {}: {}",
                refusal.index, refusal.reason, refusal.message
            ),
            Self::Unknown { why } => format!("outcome unknown, not sent again: {why}"),
            Self::Invalid { why } => format!("not proposed: {why}"),
        }
    }
}

/// Whether a command is done with.
enum Fate {
    Final(Told),
    /// It never entered the log.
    Again(Option<Refusal>),
}

enum Refusal {
    NotLeader(NotLeader),
    Overloaded(Duration),
    Replica(ReplicaFailed),
}

impl Fate {
    fn of(outcome: Option<Outcome>) -> Self {
        let told = match outcome {
            Some(Outcome::Response(response)) if response.unchanged => {
                Told::Unchanged(response.into())
            }
            Some(Outcome::Response(response)) => Told::Applied(response.into()),
            Some(Outcome::Rejected(refusal)) => Told::Rejected(refusal),
            Some(Outcome::Invalid(invalid)) => Told::Invalid {
                why: format!("{}: {}", invalid.field, invalid.why),
            },
            Some(Outcome::Unknown(unknown)) => Told::Unknown {
                why: format!(
                    "appended at index {} in term {}",
                    unknown.index, unknown.term
                ),
            },
            Some(Outcome::SessionRefused(refused)) => Told::Unknown {
                why: refused.message,
            },
            Some(Outcome::NotAppended(_)) => return Self::Again(None),
            Some(Outcome::NotLeader(hint)) => return Self::Again(Some(Refusal::NotLeader(hint))),
            Some(Outcome::Overloaded(overloaded)) => {
                let wait = Duration::from_millis(overloaded.retry_after_ms);
                return Self::Again(Some(Refusal::Overloaded(wait)));
            }
            Some(Outcome::ReplicaFailed(failed)) => {
                return Self::Again(Some(Refusal::Replica(failed)));
            }
            None => Told::Unknown {
                why: "the node did not say".to_owned(),
            },
        };
        Self::Final(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f3_only_what_never_entered_the_log_is_sent_again() {
        let again = |outcome| matches!(Fate::of(outcome), Fate::Again(_));
        assert!(again(Some(Outcome::NotLeader(NotLeader::default()))));
        assert!(again(Some(Outcome::Overloaded(
            proto::Overloaded::default()
        ))));
        assert!(again(Some(Outcome::NotAppended(
            proto::NotAppended::default()
        ))));
        assert!(again(Some(
            Outcome::ReplicaFailed(ReplicaFailed::default())
        )));
        assert!(!again(Some(Outcome::Unknown(
            proto::OutcomeUnknown::default()
        ))));
        assert!(!again(Some(Outcome::Rejected(Rejected::default()))));
        assert!(!again(Some(Outcome::Invalid(proto::Invalid::default()))));
        assert!(!again(Some(Outcome::Response(ProposeResponse::default()))));
        assert!(!again(None));
    }

    #[test]
    fn a_line_of_output_is_flat() {
        let told = Told::Rejected(Rejected {
            reason: "Behind".into(),
            index: 7,
            current: Some(9),
            certainty: 2,
            message: "lower".into(),
        });
        let line = output::json(&Line {
            line: 3,
            told: &told,
        });
        let line: serde_json::Value = serde_json::from_str(&line.expect("json")).expect("json");
        assert_eq!(line["outcome"], "rejected");
        assert_eq!((&line["line"], &line["index"]), (&3.into(), &7.into()));
    }
}

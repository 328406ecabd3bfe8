//! `conveyor-raft propose`.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{BATCH, ClientError, Session};
use conveyor_raft::proto::{self, Certainty, ProposeResponse, Rejected};
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::cli::ProposeArgs;
use crate::client::{Client, failure};
use crate::failure::{Context, Exit, Failure};
use crate::input::{Item, Source};
use crate::output::{self, say};

/// After a quiet time of this length another session is opened: half of what a session lives.
const RESTED: Duration = Duration::from_secs(300);
const BATCH_BYTES: usize = 1 << 20;

struct Command {
    number: u64,
    /// Bytes of the input up to its end.
    position: u64,
    command: RouterCommand,
}

type Input = mpsc::Receiver<std::io::Result<Item>>;

pub(crate) async fn run(args: ProposeArgs) -> Result<(), Failure> {
    let (source, bar) = match args.input {
        Some(path) => {
            let source = Source::open(&path)?;
            let bar = progress_bar(source.size);
            (source, bar)
        }
        None => (Source::of_lines(args.commands), ProgressBar::hidden()),
    };
    let client = Client::passing_on(args.client, args.forward)?;
    let mut run = Run {
        client: &client,
        session: None,
        waiting: VecDeque::new(),
        ended: false,
        failed: 0,
        unknown: 0,
        bar,
    };
    let result = run.all(source.spawn()?).await;
    run.bar.finish_and_clear();
    result?;
    if let Some((session, _)) = run.session.take() {
        // It would end by itself.
        let _ = session.close().await;
    }
    if run.failed == 0 {
        return Ok(());
    }
    let text = format!(
        "lines that are no commands, were not proposed, or have an unknown outcome: {}",
        run.failed
    );
    Err(Failure::new(text).with(match run.unknown {
        0 => Exit::Failed,
        _ => Exit::Unknown,
    }))
}

struct Run<'a> {
    client: &'a Client,
    /// With when it was used last.
    session: Option<(Session, Instant)>,
    /// Read and not sent, in order.
    waiting: VecDeque<Command>,
    ended: bool,
    failed: u64,
    /// Of these.
    unknown: u64,
    bar: ProgressBar,
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
        while batch.len() < BATCH {
            let command = match self.waiting.pop_front() {
                Some(command) => command,
                None => match self.read(input, batch.is_empty()).await? {
                    Some(command) => command,
                    None => break,
                },
            };
            bytes += encoded_len(&command.command);
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
                        position: item.position,
                        command,
                    }));
                }
                Err(why) => {
                    self.failed += 1;
                    self.bar
                        .suspend(|| eprintln!("line {}: {why}", item.number));
                }
            }
        }
    }

    /// Each of the batch once, in order, and again after lost leaders until its fate is known.
    async fn send(&mut self, batch: Vec<Command>) -> Result<(), Failure> {
        let session = self.session().await?;
        let commands = batch.iter().map(|command| command.command.clone());
        let results = session.propose_batch(commands.collect()).await;
        let results = results.map_err(failure)?;
        for (command, result) in batch.into_iter().zip(results) {
            self.tell(command.number, &Told::of(result)?)?;
            self.bar.set_position(command.position);
        }
        Ok(())
    }

    /// The session that all is sent in; another one after a quiet time in which it may have expired.
    async fn session(&mut self) -> Result<&Session, Failure> {
        let now = Instant::now();
        let used = self.session.take().filter(|(_, used)| now - *used < RESTED);
        let session = match used {
            Some((session, _)) => session,
            None => self.client.cluster.open_session().await.map_err(failure)?,
        };
        Ok(&self.session.insert((session, now)).0)
    }

    fn tell(&mut self, number: u64, told: &Told) -> Result<(), Failure> {
        if matches!(told, Told::Unknown { .. } | Told::Invalid { .. }) {
            self.failed += 1;
        }
        if matches!(told, Told::Unknown { .. }) {
            self.unknown += 1;
        }
        let line = match self.client.json {
            true => output::json(&Line { line: number, told })?,
            false => format!("line {number}: {}", told.text()),
        };
        self.bar.suspend(|| say!("{line}"));
        Ok(())
    }
}

/// On a terminal only, and of an input whose size is known.
fn progress_bar(size: Option<u64>) -> ProgressBar {
    let Some(size) = size.filter(|_| std::io::stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    let style = ProgressStyle::with_template("{bar:30} {percent}%  {elapsed}, {eta} left");
    let bar = ProgressBar::new(size);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn encoded_len(command: &RouterCommand) -> usize {
    proto::RouterCommand::from(command.clone()).encoded_len()
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
    /// By an earlier try, and its answer was not kept.
    #[serde(rename = "applied")]
    AppliedBefore {},
    Rejected(Rejected),
    Unknown {
        why: String,
    },
    Invalid {
        why: String,
    },
}

impl Told {
    /// What to tell of a command; what certainly was not applied, in order, ends the program.
    fn of(result: Result<ProposeResponse, ClientError>) -> Result<Self, Failure> {
        let error = match result {
            Ok(response) if response.unchanged => return Ok(Self::Unchanged(response.into())),
            Ok(response) => return Ok(Self::Applied(response.into())),
            Err(error) => error,
        };
        match (error.certainty(), error) {
            (_, ClientError::Rejected(refusal)) => Ok(Self::Rejected(refusal)),
            (_, ClientError::Invalid { field, why }) => Ok(Self::Invalid {
                why: format!("{field}: {why}"),
            }),
            (_, ClientError::AnswerNotKept) => Ok(Self::AppliedBefore {}),
            (_, ClientError::Unknown { why }) => Ok(Self::Unknown { why }),
            (Certainty::Unknown, error) => Ok(Self::Unknown {
                why: error.to_string(),
            }),
            (_, error) => Err(failure(error)),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Applied(response) => format!("applied at index {}", response.index),
            Self::Unchanged(response) => {
                format!("unchanged, at index {}: all was so already", response.index)
            }
            Self::AppliedBefore {} => "applied; its answer was not kept".to_owned(),
            Self::Rejected(refusal) => format!(
                "rejected at index {}: {}: {}",
                refusal.index, refusal.reason, refusal.message
            ),
            Self::Unknown { why } => format!("outcome unknown: {why}"),
            Self::Invalid { why } => format!("not proposed: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f3_only_what_certainly_is_not_applied_ends_the_program() {
        let of = |error| Told::of(Err(error)).map_err(|failure| failure.to_string());
        let why = || "x".to_owned();
        let unknown = of(ClientError::Unknown { why: why() });
        assert_eq!(unknown, Ok(Told::Unknown { why: why() }));
        let over = |certainty| ClientError::SessionOver {
            why: why(),
            certainty,
        };
        let maybe = of(over(Certainty::Unknown));
        assert_eq!(maybe, Ok(Told::Unknown { why: why() }));
        assert!(of(over(Certainty::NotApplied)).is_err());
        assert!(of(ClientError::Deadline { why: why() }).is_err());
        assert_eq!(of(ClientError::AnswerNotKept), Ok(Told::AppliedBefore {}));
        let refused = Rejected::default();
        let told = of(ClientError::Rejected(refused.clone()));
        assert_eq!(told, Ok(Told::Rejected(refused)));
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

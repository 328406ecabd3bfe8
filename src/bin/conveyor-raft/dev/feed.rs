//! Proposes the commands of an input through the leader, pipelined and in their order.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use conveyor_raft::node::Proposal;
use conveyor_raft::state_machine::Outcome;
use conveyor_raft::{Certainty, ProposeError, ProposeOptions, RaftNode, RouterCommand};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use crate::failure::{Context, Failure};
use crate::input::Item;
use crate::output;

use super::PATIENCE;
use super::cluster::DevCluster;

/// Commands under way. More make no more throughput, only longer waits.
const WINDOW: usize = 1024;
const RETRY_MS: u64 = 10;
const REDRAW: Duration = Duration::from_millis(100);
/// Latencies are kept in microseconds with three digits, up to a minute.
const MAX_LATENCY_US: u64 = 60_000_000;

/// What became of the commands.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) applied: u64,
    pub(super) unchanged: u64,
    pub(super) rejected: u64,
    pub(super) unknown: u64,
    /// Lines that are no command.
    pub(super) bad_lines: u64,
    pub(super) last_index: u64,
    /// From the first proposal to the last answer.
    pub(super) elapsed: Duration,
    pub(super) latency_us: Option<Histogram<u64>>,
}

impl Tally {
    pub(super) fn commands(&self) -> u64 {
        self.applied + self.unchanged + self.rejected + self.unknown
    }
}

/// A command on its way into the log.
struct Command {
    number: u64,
    position: u64,
    command: RouterCommand,
}

struct Pending {
    command: Command,
    since: Instant,
    proposal: Proposal,
}

type Input = mpsc::Receiver<io::Result<Item>>;

pub(super) struct Feeder<'a> {
    cluster: &'a DevCluster,
    /// Who takes proposals, in which term. A node that lost and regained leadership is another
    /// leader: what it refused in between must not be overtaken.
    leader: Option<(&'a RaftNode, u64)>,
    under_way: VecDeque<Pending>,
    /// Taken from the input and not in any log, in order.
    waiting: VecDeque<Command>,
    /// Refused while others were still under way, in order.
    refused: VecDeque<Command>,
    /// The input has no more.
    ended: bool,
    tally: Tally,
    bar: ProgressBar,
    drawn: Instant,
    /// When a command last had its fate, or the first one was ready.
    progress: Instant,
}

impl<'a> Feeder<'a> {
    /// `size` of the input in bytes, if it is known.
    pub(super) fn new(cluster: &'a DevCluster, size: Option<u64>) -> Self {
        Self {
            cluster,
            leader: None,
            under_way: VecDeque::with_capacity(WINDOW),
            waiting: VecDeque::new(),
            refused: VecDeque::new(),
            ended: false,
            tally: Tally::default(),
            bar: progress_bar(size),
            drawn: Instant::now(),
            progress: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, mut input: Input) -> Result<Tally, Failure> {
        self.tally.latency_us = Some(Histogram::new_with_max(MAX_LATENCY_US, 3)?);
        let started = Instant::now();
        loop {
            self.fill(&mut input).await?;
            match self.under_way.pop_front() {
                Some(pending) => self.settle(pending).await,
                None if self.ended && self.waiting.is_empty() => break,
                None => {}
            }
            if self.under_way.is_empty() && !self.refused.is_empty() {
                // All that went before has its fate; now the refused ones are next in order.
                self.refused.append(&mut self.waiting);
                std::mem::swap(&mut self.refused, &mut self.waiting);
            }
        }
        self.tally.elapsed = started.elapsed();
        self.bar.finish_and_clear();
        Ok(self.tally)
    }

    /// Submits until the window is full, the input pauses or ends, or the leader takes no more.
    async fn fill(&mut self, input: &mut Input) -> Result<(), Failure> {
        while self.under_way.len() < WINDOW && self.refused.is_empty() {
            let Some(command) = self.next_command(input).await? else {
                return Ok(());
            };
            let Some(leader) = self.find_leader().await? else {
                self.waiting.push_front(command);
                return Ok(());
            };
            let since = Instant::now();
            match leader.submit(command.command.clone(), ProposeOptions::default()) {
                Ok(proposal) => self.under_way.push_back(Pending {
                    command,
                    since,
                    proposal,
                }),
                Err(ProposeError::Invalid(error)) => {
                    self.bad_line(command.number, &error.to_string());
                }
                Err(error) => {
                    self.waiting.push_front(command);
                    return self.hold(&error).await;
                }
            }
        }
        Ok(())
    }

    /// The next command to submit. `None`: the input has ended, or has nothing right now while
    /// there are answers to wait for.
    async fn next_command(&mut self, input: &mut Input) -> Result<Option<Command>, Failure> {
        loop {
            if let Some(command) = self.waiting.pop_front() {
                return Ok(Some(command));
            }
            let item = match input.try_recv() {
                Ok(item) => Some(item),
                Err(_) if !self.under_way.is_empty() => None,
                Err(_) => {
                    let item = input.recv().await;
                    self.progress = Instant::now();
                    self.ended = item.is_none();
                    item
                }
            };
            let Some(item) = item else {
                return Ok(None);
            };
            let item = item.context("cannot read the input")?;
            match item.command {
                Ok(command) => self.waiting.push_back(Command {
                    number: item.number,
                    position: item.position,
                    command,
                }),
                Err(why) => self.bad_line(item.number, &why),
            }
        }
    }

    /// Who leads. `None`: first the commands under way must have their fate, since the leader they
    /// went to leads no more.
    async fn find_leader(&mut self) -> Result<Option<&'a RaftNode>, Failure> {
        if let Some((leader, term)) = self.leader
            && leader.current_term() == term
        {
            return Ok(Some(leader));
        }
        self.leader = None;
        if !self.under_way.is_empty() {
            return Ok(None);
        }
        let leader = self.cluster.wait_for_leader(PATIENCE).await?;
        self.leader = Some((leader, leader.current_term()));
        Ok(Some(leader))
    }

    /// After a refusal on submission.
    async fn hold(&mut self, error: &ProposeError) -> Result<(), Failure> {
        let pause = match error {
            ProposeError::Overloaded { retry_after_ms, .. } => *retry_after_ms,
            _ => {
                self.leader = None;
                RETRY_MS
            }
        };
        if !self.under_way.is_empty() {
            return Ok(());
        }
        if self.progress.elapsed() > PATIENCE {
            return Err(Failure::new(format!(
                "no command was taken for {} s: {error}",
                PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(())
    }

    async fn settle(&mut self, pending: Pending) {
        let Pending {
            command,
            since,
            proposal,
        } = pending;
        let outcome = proposal.await;
        self.progress = Instant::now();
        match outcome {
            Ok(response) => {
                self.tally.last_index = self.tally.last_index.max(response.index);
                match response.outcome {
                    Outcome::Applied(_) => self.tally.applied += 1,
                    Outcome::Unchanged(_) => self.tally.unchanged += 1,
                    Outcome::Rejected(_) => self.tally.rejected += 1,
                }
                if let Some(latency) = &mut self.tally.latency_us {
                    latency.saturating_record(since.elapsed().as_micros() as u64);
                }
            }
            Err(error) if error.certainty() == Certainty::Unknown => {
                // It may yet be applied; sent again it might be applied twice.
                self.tally.unknown += 1;
                self.leader = None;
            }
            Err(_) => {
                self.leader = None;
                self.refused.push_back(command);
                return;
            }
        }
        self.draw(command.position);
    }

    fn bad_line(&mut self, number: u64, why: &str) {
        self.tally.bad_lines += 1;
        self.bar.suspend(|| eprintln!("line {number}: {why}"));
    }

    fn draw(&mut self, position: u64) {
        if self.drawn.elapsed() < REDRAW {
            return;
        }
        self.drawn = Instant::now();
        self.bar.set_position(position);
        self.bar
            .set_message(format!("{} commands", output::count(self.tally.commands())));
    }
}

fn progress_bar(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:40} {percent:>3} %  {msg}  {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

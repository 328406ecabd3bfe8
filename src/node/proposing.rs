//! What is counted of proposals: each try through a handle by command and outcome, and how long it
//! took. No lock and no look-up by name: what comes thousands of times a second has its place.

use std::fmt;
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};
use tracing::Span;

use super::shared::Clock;
use super::trace::{self, Trace};
use crate::error::ProposeError;
use crate::state_machine::ResponseKind;
use crate::types::{Micros, NodeId};

/// Their names.
pub(crate) const PROPOSE_NAMES: [&str; 2] = [
    "conveyor_raft_proposals_total",
    "conveyor_raft_propose_duration_seconds",
];

/// What proposals come to.
const OUTCOMES: [&str; 12] = [
    "applied",
    "unchanged",
    "rejected",
    "session",
    "unknown",
    "not_leader",
    "overloaded",
    "invalid",
    "deadline",
    "overtaking",
    "shutting_down",
    "failed",
];

/// The place of an outcome in [`OUTCOMES`].
fn place<R>(result: &Result<R, ProposeError>, kind: fn(&R) -> ResponseKind) -> usize {
    match result {
        Ok(response) => match kind(response) {
            ResponseKind::Applied => 0,
            ResponseKind::Unchanged => 1,
            ResponseKind::Rejected => 2,
        },
        Err(ProposeError::Session(_)) => 3,
        Err(ProposeError::Unknown { .. }) => 4,
        Err(ProposeError::NotLeader(_)) => 5,
        Err(ProposeError::Overloaded { .. }) => 6,
        Err(ProposeError::Invalid(_)) => 7,
        Err(ProposeError::Deadline) => 8,
        Err(ProposeError::Overtaking) => 9,
        Err(ProposeError::ShuttingDown) => 10,
        Err(ProposeError::Failed(_)) => 11,
    }
}

/// The entries of the crate's own that are proposed; counted behind a machine's commands.
#[derive(Clone, Copy)]
pub(crate) enum SystemKind {
    Open,
    KeepAlive,
    Close,
}

const SYSTEM: [&str; 3] = ["OpenSession", "KeepAlive", "CloseSession"];

/// A node's figures.
pub(crate) struct ProposalMetrics {
    node: NodeId,
    commands: &'static [&'static str],
    /// By command, then by outcome. A series is there from its first count on: most never come.
    counts: Vec<OnceLock<Counter>>,
    duration: Histogram,
}

impl ProposalMetrics {
    pub(crate) fn new(node: NodeId, commands: &'static [&'static str]) -> Arc<Self> {
        let [total, duration] = PROPOSE_NAMES;
        describe_counter!(total, "tries to propose, by command and outcome");
        describe_histogram!(duration, "seconds until a try to propose was answered");
        let count = (commands.len() + SYSTEM.len()) * OUTCOMES.len();
        Arc::new(Self {
            duration: histogram!(duration, "node" => node.to_string()),
            counts: std::iter::repeat_with(OnceLock::new).take(count).collect(),
            commands,
            node,
        })
    }

    /// A try of a command begins.
    pub(crate) fn begin<R>(
        self: &Arc<Self>,
        clock: Clock,
        command: usize,
        kind: fn(&R) -> ResponseKind,
    ) -> Counting<R> {
        Counting {
            metrics: Arc::clone(self),
            clock,
            begun: clock.now(),
            command,
            kind,
            span: trace::command(self.node, || self.name(command)),
        }
    }

    /// A try of an entry of the crate's own begins.
    pub(crate) fn begin_system<R>(
        self: &Arc<Self>,
        clock: Clock,
        entry: SystemKind,
    ) -> Counting<R> {
        let command = self.commands.len() + entry as usize;
        self.begin(clock, command, |_| ResponseKind::Applied)
    }

    fn name(&self, command: usize) -> &'static str {
        let mut names = self.commands.iter().chain(&SYSTEM);
        names.nth(command).copied().unwrap_or_default()
    }

    fn count(&self, command: usize, outcome: usize) {
        let nth = command * OUTCOMES.len() + outcome;
        let Some(counter) = self.counts.get(nth) else {
            return;
        };
        let make = || {
            let (node, command) = (self.node.to_string(), self.name(command));
            let outcome = OUTCOMES[outcome];
            counter!(PROPOSE_NAMES[0], "node" => node, "command" => command, "outcome" => outcome)
        };
        counter.get_or_init(make).increment(1);
    }
}

/// A try under way.
pub(crate) struct Counting<R> {
    metrics: Arc<ProposalMetrics>,
    clock: Clock,
    begun: Micros,
    command: usize,
    kind: fn(&R) -> ResponseKind,
    /// From now until this is dropped, if it is followed.
    span: Option<Box<Span>>,
}

impl<R> Counting<R> {
    /// What goes along with it, if it is followed.
    pub(crate) fn trace(&self) -> Option<Box<Trace>> {
        self.span.as_deref().map(Trace::begin)
    }

    /// This is what came of it.
    pub(crate) fn end(&self, result: &Result<R, ProposeError>) {
        let took = self.clock.now().saturating_sub(self.begun);
        self.metrics.duration.record(took as f64 / 1e6);
        let outcome = place(result, self.kind);
        self.metrics.count(self.command, outcome);
        if let Some(span) = &self.span {
            span.record("outcome", OUTCOMES[outcome]);
        }
    }
}

impl<R> fmt::Debug for Counting<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{LeaderHint, SessionRefusal};
    use crate::state_machine::{CommandError, RouterCommand, RouterStateMachine, StateMachine};

    #[test]
    fn every_outcome_has_a_place_of_its_own_that_is_called_like_it() {
        let kind = |kind: &ResponseKind| *kind;
        let hint = LeaderHint::default();
        let invalid = CommandError {
            field: String::new(),
            why: String::new(),
        };
        let full = ProposeError::Overloaded {
            budget: "",
            retry_after_ms: 0,
        };
        for (result, name) in [
            (Ok(ResponseKind::Applied), "applied"),
            (Ok(ResponseKind::Unchanged), "unchanged"),
            (Ok(ResponseKind::Rejected), "rejected"),
            (
                Err(ProposeError::Session(SessionRefusal::Expired)),
                "session",
            ),
            (Err(ProposeError::Unknown { index: 1, term: 1 }), "unknown"),
            (Err(ProposeError::NotLeader(hint)), "not_leader"),
            (Err(full), "overloaded"),
            (Err(ProposeError::Invalid(invalid)), "invalid"),
            (Err(ProposeError::Deadline), "deadline"),
            (Err(ProposeError::Overtaking), "overtaking"),
            (Err(ProposeError::ShuttingDown), "shutting_down"),
            (Err(ProposeError::Failed(String::new())), "failed"),
        ] {
            assert_eq!(OUTCOMES[place(&result, kind)], name);
        }
    }

    #[test]
    fn commands_are_called_in_figures_as_they_are_called() {
        let lines = include_str!("../../tests/router_rules/lines.ndjson");
        let mut seen = std::collections::BTreeSet::new();
        for line in lines.lines() {
            let line = crate::state_machine::json::parse_line(line).expect("a command");
            let command = line.expect("one").command;
            let json = serde_json::to_value(&command).expect("prints");
            let name = match &json {
                serde_json::Value::String(name) => name,
                fields => fields
                    .as_object()
                    .and_then(|it| it.keys().next())
                    .expect("a name"),
            };
            let nth = RouterStateMachine::command_kind(&command);
            assert_eq!(RouterStateMachine::COMMANDS[nth], name);
            seen.insert(nth);
        }
        assert_eq!(seen.len(), RouterStateMachine::COMMANDS.len());
        assert_eq!(RouterStateMachine::command_kind(&RouterCommand::Noop), 0);
    }
}

//! A state machine that is fed by JSON lines or commands, with time in its own hands.

use conveyor_raft::state_machine::json::parse_line;
use conveyor_raft::state_machine::{
    Answer, ApplyContext, Outcome, Rejection, RouterCommand, RouterState, RouterStateMachine,
    StateMachine,
};

/// A router at a time that the test moves.
pub(crate) struct Router {
    pub(crate) machine: RouterStateMachine,
    pub(crate) context: ApplyContext,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self {
            machine: RouterStateMachine::new(),
            context: ApplyContext {
                index: 0,
                term: 1,
                time_us: 1_767_225_600_000_000,
            },
        }
    }

    pub(crate) fn state(&self) -> &RouterState {
        self.machine.state()
    }

    pub(crate) fn seconds_pass(&mut self, seconds: u64) {
        self.context.time_us += seconds * 1_000_000;
    }

    /// A new leader, `seconds` after the last entry.
    pub(crate) fn new_leader(&mut self, seconds: u64) {
        self.seconds_pass(seconds);
        self.context.index += 1;
        self.context.term += 1;
        self.machine.begin_term(&self.context);
    }

    pub(crate) fn apply(&mut self, command: RouterCommand) -> Outcome {
        self.context.index += 1;
        let before = self.machine.view();
        let outcome = self.machine.apply(&self.context, command).outcome;
        assert_eq!(self.machine.digest(), self.machine.recompute_digest());
        if matches!(outcome, Outcome::Rejected(_)) {
            let after = self.machine.state();
            assert_eq!(after.services, before.services);
            assert_eq!(after.sidecars, before.sidecars);
            assert_eq!(after.groups, before.groups);
            assert_eq!(after.pipelines, before.pipelines);
            assert_eq!(after.checkpoints, before.checkpoints);
            assert_eq!(after.rejections(), before.rejections() + 1);
        }
        outcome
    }

    pub(crate) fn line(&mut self, line: &str) -> Outcome {
        let line = parse_line(line).expect("parses").expect("a command");
        self.apply(line.command)
    }

    /// Applies a line that must change something.
    pub(crate) fn applied(&mut self, line: &str) -> Answer {
        match self.line(line) {
            Outcome::Applied(answer) => answer,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Applies a line that must find everything so already.
    pub(crate) fn unchanged(&mut self, line: &str) -> Answer {
        match self.line(line) {
            Outcome::Unchanged(answer) => answer,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Applies a line that must be refused.
    pub(crate) fn rejected(&mut self, line: &str) -> Rejection {
        match self.line(line) {
            Outcome::Rejected(rejection) => rejection,
            other => panic!("{line}: {other:?}"),
        }
    }
}

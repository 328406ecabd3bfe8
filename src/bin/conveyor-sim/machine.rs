//! The state machines that can be simulated.

use clap::ValueEnum;
use conveyor_raft::sim::{
    Failure, Fault, LedgerWorkload, Plan, RegisterWorkload, Report, RouterWorkload, shrink,
    simulate_plan,
};

/// What is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    /// A list of numbers, answers checked one by one.
    Ledger,
    /// A few registers, histories judged for linearizability.
    Registers,
    /// Conveyor's router.
    Router,
}

impl Machine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Registers => "registers",
            Self::Router => "router",
        }
    }

    /// Whether this fault can happen to it: only the ledger has a digest that can be changed apart
    /// from what clients are answered.
    pub(crate) fn can_meet(self, fault: Fault) -> bool {
        fault != Fault::Diverge || self == Self::Ledger
    }

    pub(crate) fn run(self, plan: &Plan) -> Result<Report, Box<Failure>> {
        match self {
            Self::Ledger => simulate_plan(LedgerWorkload, plan),
            Self::Registers => simulate_plan(RegisterWorkload, plan),
            Self::Router => simulate_plan(RouterWorkload, plan),
        }
    }

    /// The smallest plan found in so many runs that fails in the same way.
    pub(crate) fn shrink(self, failure: &Failure, runs: usize) -> Failure {
        match self {
            Self::Ledger => shrink(&LedgerWorkload, failure, runs),
            Self::Registers => shrink(&RegisterWorkload, failure, runs),
            Self::Router => shrink(&RouterWorkload, failure, runs),
        }
    }
}

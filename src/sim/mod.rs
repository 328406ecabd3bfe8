//! A simulator of whole clusters: the real driver, core, log, codec and state machine, on simulated
//! clocks, networks and disks, in one thread.
//!
//! One seed decides everything that happens, so a run that breaks an invariant can be repeated bit
//! for bit ([`Report::trace`] says whether it was). Each seed leaves some kinds of faults out and
//! draws how often the others strike. After a phase of faults, a random quorum must serve while the
//! others are gone; then everything is healed and all nodes must become equal. An observer who sees
//! every message and reads back every disk checks the invariants after every step.
//!
//! What strikes when is drawn before the run, as a [`Plan`], which prints as a script and reads back.
//! [`shrink`] leaves out of a failing plan what does not matter, [`simulate_plan`] runs what is left.
//!
//! Implement [`Workload`] to run your own state machine through it:
//!
//! ```
//! use conveyor_raft::sim::{LedgerWorkload, SimOptions, simulate};
//!
//! let options = SimOptions {
//!     chaos_us: 500_000,
//!     ..SimOptions::new(7)
//! };
//! let report = simulate(LedgerWorkload, &options).expect("no invariant is broken");
//! assert_eq!(simulate(LedgerWorkload, &options).expect("again").trace, report.trace);
//! ```

mod clients;
mod faults;
mod host;
mod linear;
mod members;
mod nemesis;
mod observe;
mod operator;
mod oracle;
mod phases;
mod plan;
mod random;
mod readers;
mod registers;
mod repairs;
mod report;
mod schedule;
mod script;
mod session_model;
mod shrink;
mod steady;
mod truth;
mod wires;
mod workload;
mod world;

#[cfg(test)]
mod tests;

pub use faults::{Fault, FaultCounts, NodeState};
pub use linear::{Action, Answer, Observation};
pub use phases::{simulate, simulate_plan};
pub use plan::Plan;
pub use random::Random;
pub use registers::{RegisterCommand, RegisterWorkload, Registers};
pub use report::{Failure, Report, SimOptions};
pub use script::ScriptError;
pub use shrink::shrink;
pub use steady::SteadyCluster;
pub use workload::{Ledger, LedgerWorkload, RouterWorkload, Workload};

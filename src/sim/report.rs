//! What a run is asked for, and what came of it.

use std::fmt;

use super::faults::FaultCounts;
use super::plan::Plan;
use crate::types::Micros;

/// How to simulate one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// Decides everything. The same seed and options give the same run, bit for bit.
    pub seed: u64,
    /// How many nodes; `None` draws 3 or 5 from the seed.
    pub nodes: Option<usize>,
    /// How long faults are injected, microseconds of virtual time. Healing comes on top.
    pub chaos_us: Micros,
    /// What is durable is read from the disks at each check that needs it (1), or at every so many
    /// of them (more rarely still as the log grows, since each reading reads all of it). Elections
    /// are always checked.
    pub truth_every: u64,
}

impl SimOptions {
    /// Ten seconds of faults, every check.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: None,
            chaos_us: 10_000_000,
            truth_every: 1,
        }
    }
}

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events handled.
    pub events: u64,
    /// Virtual time, microseconds.
    pub virtual_us: Micros,
    /// Hash over every event and what it led to: equal on every run of the seed.
    pub trace: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Entries committed.
    pub committed: u64,
    /// Proposals made.
    pub proposed: u64,
    /// Proposals answered with their response.
    pub acked: u64,
    /// Proposals whose outcome stayed unknown.
    pub unknown: u64,
    /// Linearizable reads that were answered after a quorum's word.
    pub quorum_reads: u64,
    /// And by a lease.
    pub lease_reads: u64,
    /// Snapshots taken.
    pub snapshots: u64,
    /// And those that a replica received and put in place of its log.
    pub installs: u64,
    /// Sessions that clients opened.
    pub sessions: u64,
    /// And those that ended by being quiet for too long.
    pub sessions_expired: u64,
    /// Commands of sessions that were answered.
    pub session_acked: u64,
    /// Entries with a command of a session that had been applied before.
    pub session_repeats: u64,
    /// Logs that were refused and repaired.
    pub repairs: u64,
    /// And those of their replicas that got everything back and count again.
    pub rejoined: u64,
    /// Terms that had a leader.
    pub elections: u64,
    /// Times that the durable state was read back from a disk.
    pub truths: u64,
}

/// A run that broke an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The plan that shows it again.
    pub plan: Plan,
    /// When, microseconds of virtual time.
    pub at_us: Micros,
    /// Which invariant and how.
    pub what: String,
    /// What had happened until then.
    pub report: Report,
    /// The last events before it.
    pub tail: Vec<String>,
}

impl Failure {
    /// The invariant that did not hold, such as `S7`, or the first words of what went wrong.
    pub fn kind(&self) -> String {
        let is_id = |word: &&str| {
            let digits = word.strip_prefix(['S', 'L']).unwrap_or_default();
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let mut words = self.what.split([' ', ':']);
        if let Some(id) = words.find(is_id) {
            return id.to_owned();
        }
        let words = self.what.split_whitespace();
        let plain = words.filter(|word| word.bytes().all(|byte| byte.is_ascii_alphabetic()));
        plain.take(4).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.tail {
            writeln!(f, "  {line}")?;
        }
        write!(
            f,
            "seed {} after {} events at {} us: {}",
            self.plan.seed, self.report.events, self.at_us, self.what
        )
    }
}

impl std::error::Error for Failure {}

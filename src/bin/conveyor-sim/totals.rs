//! What all seeds together came to.

use std::process::ExitCode;
use std::time::Duration;

use conveyor_raft::sim::{Fault, FaultCounts, NodeState, Report};

use crate::machine::Machine;

/// Once so many seeds have run, every kind of fault must have happened.
const COVERAGE_FROM: u64 = 1_000;

#[derive(Default)]
pub(crate) struct Totals {
    seeds: u64,
    report: Report,
    pub(crate) failed: Vec<u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, report: &Report) {
        self.seeds += 1;
        let all = &mut self.report;
        all.events += report.events;
        all.virtual_us += report.virtual_us;
        all.committed += report.committed;
        all.proposed += report.proposed;
        all.acked += report.acked;
        all.unknown += report.unknown;
        all.quorum_reads += report.quorum_reads;
        all.lease_reads += report.lease_reads;
        all.snapshots += report.snapshots;
        all.installs += report.installs;
        all.sessions += report.sessions;
        all.sessions_expired += report.sessions_expired;
        all.session_acked += report.session_acked;
        all.session_repeats += report.session_repeats;
        all.repairs += report.repairs;
        all.rejoined += report.rejoined;
        all.elections += report.elections;
        all.truths += report.truths;
        all.faults.add(&report.faults);
    }

    /// Prints it all, the verdict last.
    pub(crate) fn summary(
        &self,
        machine: Machine,
        coverage_wanted: bool,
        took: Duration,
    ) -> ExitCode {
        let report = &self.report;
        println!("faults: {}", faults(&report.faults));
        print!("{}", pairs(&report.faults));
        println!(
            "proposed {}, answered {}, unknown {}, read by quorum {}, by lease {}, snapshots {}, \
             installed {}, sessions {}, expired {}, answered in sessions {}, sent again {}, \
             logs repaired {}, rejoined {}, committed {}, elections {}, disks read back {}",
            report.proposed,
            report.acked,
            report.unknown,
            report.quorum_reads,
            report.lease_reads,
            report.snapshots,
            report.installs,
            report.sessions,
            report.sessions_expired,
            report.session_acked,
            report.session_repeats,
            report.repairs,
            report.rejoined,
            report.committed,
            report.elections,
            report.truths
        );
        let mut missing = report.faults.missing();
        missing.retain(|fault| machine.can_meet(*fault));
        let mut missing: Vec<_> = missing.iter().map(|fault| fault.name()).collect();
        let rare = [
            ("read by quorum", report.quorum_reads),
            ("read by lease", report.lease_reads),
            ("snapshot", report.snapshots),
            ("snapshot installed", report.installs),
            ("session expired", report.sessions_expired),
            ("command of a session sent again", report.session_repeats),
            ("rejoin after a repair", report.rejoined),
        ];
        missing.extend(rare.iter().filter(|it| it.1 == 0).map(|it| it.0));
        let coverage_wanted = coverage_wanted || self.seeds >= COVERAGE_FROM;
        let uncovered = coverage_wanted && !missing.is_empty();
        if uncovered {
            println!("never happened: {}", missing.join(", "));
        }
        let failed: Vec<_> = self.failed.iter().map(u64::to_string).collect();
        let verdict = match (failed.is_empty(), uncovered) {
            (true, false) => "no violation".to_owned(),
            (true, true) => "no violation, but not every fault happened".to_owned(),
            (false, _) => format!("{} FAILED: {}", failed.len(), failed.join(" ")),
        };
        println!(
            "{} seeds, {} events, {:.2} virtual hours in {:.0} s: {verdict}",
            self.seeds,
            report.events,
            report.virtual_us as f64 / 3.6e9,
            took.as_secs_f64()
        );
        if failed.is_empty() && !uncovered {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn faults(counts: &FaultCounts) -> String {
    let all = Fault::ALL.iter();
    let each: Vec<_> = all
        .map(|fault| format!("{} {}", fault.name(), counts.of(*fault)))
        .collect();
    each.join(", ")
}

/// Which faults struck nodes in which state: one line a fault.
fn pairs(counts: &FaultCounts) -> String {
    let mut text = String::new();
    let mut row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        text.push_str(&format!("{name:<14}"));
        cells.for_each(|cell| text.push_str(&format!("{cell:>14}")));
        text.push('\n');
    };
    let states = NodeState::ALL.iter().copied();
    row(
        "struck",
        &mut states.clone().map(|state| state.name().to_owned()),
    );
    for fault in Fault::ALL {
        let of = |state| counts.of_pair(*fault, state);
        if states.clone().any(|state| of(state) > 0) {
            row(
                fault.name(),
                &mut states.clone().map(|state| of(state).to_string()),
            );
        }
    }
    text
}

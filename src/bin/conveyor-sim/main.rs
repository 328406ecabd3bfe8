//! Simulates whole clusters, seed after seed, and says what a seed needs to be repeated.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use conveyor_raft::sim::{
    Failure, Fault, FaultCounts, LedgerWorkload, RegisterWorkload, Report, RouterWorkload,
    SimOptions, simulate,
};

/// From so many seeds on, every kind of fault must have happened.
const COVERAGE_FROM: u64 = 1_000;

/// Runs the cluster simulator. The same seed gives the same run, bit for bit.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; without it one is drawn, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Virtual seconds of faults per seed; healing comes on top.
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Stop after so many real seconds.
    #[arg(long)]
    wall: Option<u64>,
    /// Nodes; without it 3 or 5, by the seed.
    #[arg(long)]
    nodes: Option<usize>,
    /// Read back what the disks hold at every so many checks; 1 is every check.
    #[arg(long, default_value_t = 4)]
    truth_every: u64,
    /// What is replicated.
    #[arg(long, value_enum, default_value_t = What::Ledger)]
    machine: What,
    /// Threads; each runs seeds of its own.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Fail if a kind of fault never happened (always so from 1000 seeds on).
    #[arg(long)]
    require_coverage: bool,
    /// Run every 50th seed twice and compare the traces.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    repeat: bool,
}

/// The state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// A list of numbers, answers checked one by one.
    Ledger,
    /// Conveyor's router.
    Router,
    /// A few registers; the history is checked for linearizability.
    Registers,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Router => "router",
            Self::Registers => "registers",
        }
    }
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    report: Report,
    failures: Vec<Failure>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        let all = &mut self.report;
        all.events += report.events;
        all.virtual_us += report.virtual_us;
        all.committed += report.committed;
        all.proposed += report.proposed;
        all.acked += report.acked;
        all.unknown += report.unknown;
        all.elections += report.elections;
        all.truths += report.truths;
        all.faults.add(&report.faults);
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.nodes.is_some_and(|nodes| !(2..=9).contains(&nodes)) {
        eprintln!("--nodes must be from 2 to 9");
        return ExitCode::from(2);
    }
    let first = options.seed.unwrap_or_else(drawn);
    println!(
        "seeds {first} to {}",
        first.saturating_add(options.seeds - options.seeds.min(1))
    );
    let totals = Mutex::new(Totals::default());
    let next = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| work(&options, first, &next, began, &totals));
        }
    });
    let totals = totals
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    summary(&options, &totals, began.elapsed())
}

fn drawn() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_micros() as u64)
}

fn work(options: &Options, first: u64, next: &AtomicU64, began: Instant, totals: &Mutex<Totals>) {
    let wall = options.wall.map(Duration::from_secs);
    loop {
        let nth = next.fetch_add(1, Ordering::Relaxed);
        let late = wall.is_some_and(|wall| began.elapsed() >= wall);
        if nth >= options.seeds || late {
            return;
        }
        let result = one(options, first.wrapping_add(nth), nth);
        let mut totals = totals
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match result {
            Ok(report) => totals.add(&report),
            Err(failure) => {
                println!("{failure}\n{}", replay(options, &failure));
                totals.add(&failure.report);
                totals.failures.push(*failure);
            }
        }
    }
}

/// One seed, and now and then once more to see that it repeats.
fn one(options: &Options, seed: u64, nth: u64) -> Result<Report, Box<Failure>> {
    let run = SimOptions {
        seed,
        nodes: options.nodes,
        chaos_us: options.secs.saturating_mul(1_000_000),
        truth_every: options.truth_every,
    };
    let simulate = || match options.machine {
        What::Ledger => simulate(LedgerWorkload, &run),
        What::Router => simulate(RouterWorkload, &run),
        What::Registers => simulate(RegisterWorkload, &run),
    };
    let report = simulate()?;
    if options.repeat && nth.is_multiple_of(50) {
        let again = simulate()?;
        if again.trace != report.trace {
            return Err(Box::new(Failure {
                options: run,
                at_us: report.virtual_us,
                what: "S23: the second run differs from the first".to_owned(),
                report,
                tail: Vec::new(),
            }));
        }
    }
    Ok(report)
}

fn replay(options: &Options, failure: &Failure) -> String {
    let nodes = options.nodes.map(|nodes| format!(" --nodes {nodes}"));
    format!(
        "again: conveyor-sim --seed {} --seeds 1 --secs {} --truth-every {} --machine {}{}",
        failure.options.seed,
        options.secs,
        options.truth_every,
        options.machine.name(),
        nodes.unwrap_or_default()
    )
}

fn summary(options: &Options, totals: &Totals, took: Duration) -> ExitCode {
    let report = &totals.report;
    println!("faults: {}", faults(&report.faults));
    println!(
        "proposed {}, answered {}, unknown {}, committed {}, elections {}, disks read back {}",
        report.proposed,
        report.acked,
        report.unknown,
        report.committed,
        report.elections,
        report.truths
    );
    let missing: Vec<_> = report
        .faults
        .missing()
        .iter()
        .map(|fault| fault.name())
        .collect();
    let wanted = options.require_coverage || options.seeds >= COVERAGE_FROM;
    let uncovered = wanted && !missing.is_empty();
    if uncovered {
        println!("never happened: {}", missing.join(", "));
    }
    let failed: Vec<_> = totals
        .failures
        .iter()
        .map(|f| f.options.seed.to_string())
        .collect();
    let verdict = match (failed.is_empty(), uncovered) {
        (true, false) => "no violation".to_owned(),
        (true, true) => "no violation, but not every fault happened".to_owned(),
        (false, _) => format!("{} FAILED: {}", failed.len(), failed.join(" ")),
    };
    println!(
        "{} seeds, {} events, {:.2} virtual hours in {:.0} s: {verdict}",
        totals.seeds,
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

fn faults(counts: &FaultCounts) -> String {
    let all = Fault::ALL.iter();
    let each: Vec<_> = all
        .map(|fault| format!("{} {}", fault.name(), counts.of(*fault)))
        .collect();
    each.join(", ")
}

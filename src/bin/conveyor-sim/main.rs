//! Simulates whole clusters, seed after seed, and says what a seed needs to be repeated.

mod machine;
mod totals;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use conveyor_raft::sim::{Failure, Plan, Report, SimOptions};

use machine::Machine;
use totals::Totals;

/// Runs the cluster simulator. The same seed gives the same run, bit for bit.
#[derive(Debug, Parser)]
#[command(version)]
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
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=9))]
    nodes: Option<u64>,
    /// Read back what the disks hold at every so many checks; 1 is every check.
    #[arg(long, default_value_t = 4)]
    truth_every: u64,
    /// What is replicated.
    #[arg(long, value_enum, default_value_t = Machine::Ledger)]
    machine: Machine,
    /// Threads; each runs seeds of its own.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Fail if a kind of fault never happened (always so once 1000 seeds have run).
    #[arg(long)]
    require_coverage: bool,
    /// Run every 50th seed twice and compare the traces.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    repeat: bool,
    /// Stop at the first seed that breaks an invariant.
    #[arg(long)]
    stop: bool,
    /// Runs that may be spent on making a failure small; 0 prints it as it is.
    #[arg(long, default_value_t = 300)]
    shrink: usize,
    /// A seed that takes longer than so many real seconds hangs: it is named, and the program ends.
    #[arg(long, default_value_t = 300)]
    hang: u64,
    /// Run this script, such as the one printed for a failure, instead of seeds.
    #[arg(long, conflicts_with_all = ["seeds", "seed", "secs", "wall", "nodes"])]
    script: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match &options.script {
        Some(path) => run_script(&options, path),
        None => run_seeds(&options),
    }
}

fn run_script(options: &Options, path: &PathBuf) -> ExitCode {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    let plan: Plan = match text.parse() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    match options.machine.run(&plan) {
        Ok(report) => {
            println!("{} events, no violation", report.events);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run_seeds(options: &Options) -> ExitCode {
    let first = options.seed.unwrap_or_else(drawn);
    println!(
        "seeds {first} to {}",
        first.saturating_add(options.seeds - options.seeds.min(1))
    );
    let worker = Worker {
        options,
        first,
        next: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        began: Instant::now(),
        running: Mutex::default(),
        totals: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let threads = 0..options.threads.max(1);
        let threads: Vec<_> = threads.map(|_| scope.spawn(|| worker.work())).collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            worker.look_for_hangs();
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let took = worker.began.elapsed();
    let totals = worker.totals.into_inner();
    let totals = totals.unwrap_or_else(|poisoned| poisoned.into_inner());
    totals.summary(options.machine, options.require_coverage, took)
}

fn drawn() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_micros() as u64)
}

/// What the threads share.
struct Worker<'a> {
    options: &'a Options,
    first: u64,
    next: AtomicU64,
    ended: AtomicBool,
    began: Instant,
    /// Seeds that run, and since when.
    running: Mutex<BTreeMap<u64, Instant>>,
    totals: Mutex<Totals>,
}

impl Worker<'_> {
    fn work(&self) {
        let wall = self.options.wall.map(Duration::from_secs);
        loop {
            let nth = self.next.fetch_add(1, Ordering::Relaxed);
            let late = wall.is_some_and(|wall| self.began.elapsed() >= wall);
            if nth >= self.options.seeds || late || self.ended.load(Ordering::Relaxed) {
                return;
            }
            let seed = self.first.wrapping_add(nth);
            locked(&self.running).insert(seed, Instant::now());
            let result = self.one(seed, nth);
            locked(&self.running).remove(&seed);
            match result {
                Ok(report) => locked(&self.totals).add(&report),
                Err(failure) => self.failed(&failure),
            }
        }
    }

    fn failed(&self, failure: &Failure) {
        {
            let mut totals = locked(&self.totals);
            self.show(failure);
            totals.add(&failure.report);
            totals.failed.push(failure.plan.seed);
        }
        self.ended.fetch_or(self.options.stop, Ordering::Relaxed);
        if self.options.shrink > 0 {
            let small = self.options.machine.shrink(failure, self.options.shrink);
            let _output = locked(&self.totals);
            self.show_small(failure, &small);
        }
    }

    /// A run that never ends breaks S22 like one that never answers; only a clock can tell.
    fn look_for_hangs(&self) {
        let limit = Duration::from_secs(self.options.hang);
        for (seed, since) in &*locked(&self.running) {
            if since.elapsed() > limit {
                let hang = self.options.hang;
                println!("seed {seed} S22: has not ended after {hang} s of real time");
                std::process::exit(1);
            }
        }
    }

    /// One seed, and now and then once more to see that it repeats.
    fn one(&self, seed: u64, nth: u64) -> Result<Report, Box<Failure>> {
        let options = self.options;
        let plan = Plan::draw(&SimOptions {
            seed,
            nodes: options.nodes.map(|nodes| nodes as usize),
            chaos_us: options.secs.saturating_mul(1_000_000),
            truth_every: options.truth_every,
        });
        let report = options.machine.run(&plan)?;
        if options.repeat && nth.is_multiple_of(50) {
            let again = options.machine.run(&plan)?;
            if again.trace != report.trace {
                return Err(Box::new(Failure {
                    plan,
                    at_us: report.virtual_us,
                    what: "S23: the second run differs from the first".to_owned(),
                    report,
                    tail: Vec::new(),
                }));
            }
        }
        Ok(report)
    }

    fn show(&self, failure: &Failure) {
        let machine = self.options.machine.name();
        println!("{failure}");
        let nodes = self.options.nodes;
        let nodes = nodes.map(|nodes| format!(" --nodes {nodes}"));
        println!(
            "again: conveyor-sim --seed {} --seeds 1 --secs {} --truth-every {} --machine {machine}{}",
            failure.plan.seed,
            self.options.secs,
            self.options.truth_every,
            nodes.unwrap_or_default(),
        );
    }

    fn show_small(&self, first: &Failure, small: &Failure) {
        let machine = self.options.machine.name();
        let (before, after) = (first.plan.strikes(), small.plan.strikes());
        println!(
            "made smaller: {after} strikes of {before}, fails with: {}",
            small.what
        );
        println!("----- script: conveyor-sim --machine {machine} --script FILE");
        print!("# {}\n{}", small.what, small.plan);
        println!("-----");
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

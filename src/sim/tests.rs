//! A few seeds at every `cargo test`; thousands with the program `conveyor-sim`.

use std::cell::Cell;

use super::plan::{Strike, Target};
use super::world::World;
use super::{
    Fault, FaultCounts, Ledger, LedgerWorkload, NodeState, Plan, Random, RegisterWorkload, Report,
    RouterWorkload, SimOptions, Workload, shrink, simulate, simulate_plan,
};
use crate::state_machine::{ApplyContext, CommandError, Frozen, RestoreError, StateMachine};

fn options(seed: u64) -> SimOptions {
    SimOptions {
        chaos_us: 3_000_000,
        truth_every: 7,
        ..SimOptions::new(seed)
    }
}

fn run<W: Workload>(workload: W, options: &SimOptions) -> Report {
    simulate(workload, options).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn everyday_seeds_break_no_invariant() {
    let mut faults = FaultCounts::default();
    let (mut acked, mut elections) = (0, 0);
    for seed in 0..8 {
        let report = run(LedgerWorkload, &options(seed));
        faults.add(&report.faults);
        acked += report.acked;
        elections += report.elections;
    }
    assert!(acked > 400, "only {acked} commands were answered");
    assert!(elections > 4, "only {elections} elections");
    let missing = faults.missing();
    assert!(missing.len() < 14, "never happened: {missing:?}");
    let leaders: u64 = Fault::ALL
        .iter()
        .map(|fault| faults.of_pair(*fault, NodeState::Leader))
        .sum();
    assert!(leaders > 0, "no leader was ever struck");
}

#[test]
fn s23_a_seed_repeats_bit_for_bit() {
    let options = options(1_001);
    let first = run(LedgerWorkload, &options);
    assert_eq!(first, run(LedgerWorkload, &options));
}

/// No segment is ever made ready on any node: what does not fit the first one waits in the driver.
#[test]
fn s22_a_command_without_room_ends_at_its_deadline() {
    let mut plan = Plan::draw(&SimOptions::new(3_000));
    plan.rates.heal();
    plan.rates.prepare = 600_000_000..600_000_001;
    plan.strikes.clear();
    let mut world = World::new(LedgerWorkload, plan);
    world
        .run(20_000_000, |_| false)
        .expect("everybody is answered");
    let report = world.report();
    assert!(
        report.proposed > report.acked + report.unknown + 100,
        "{report:?}"
    );
}

#[test]
fn the_router_goes_through_the_faults_too() {
    let report = run(RouterWorkload, &options(2_000));
    assert!(report.acked > 0, "{report:?}");
}

#[test]
fn a_plan_prints_as_the_script_that_reads_back_as_it() {
    for seed in 0..200 {
        let plan = Plan::draw(&options(seed));
        let text = plan.to_string();
        assert_eq!(text.parse(), Ok(plan), "{text}");
    }
}

#[test]
fn a_script_that_cannot_be_read_says_where_and_why() {
    let script = Plan::draw(&options(1)).to_string();
    let spoilt = |from: &str, to: &str| {
        let error = script.replacen(from, to, 1).parse::<Plan>();
        error.expect_err("it is spoilt").to_string()
    };
    assert_eq!(spoilt("seed 1", "seed one"), "line 1: `one` is no number");
    assert_eq!(
        spoilt("nodes", "knots"),
        "line 2: nothing is called `knots`"
    );
    assert!(spoilt("latency", "# latency").contains("are needed"));
    let tail = |line: &str| {
        let error = format!("{script}{line}").parse::<Plan>();
        error.expect_err("the last line is wrong").why
    };
    assert_eq!(
        tail("at 5 hail 1 other 1 for 1 draw 1"),
        "no fault is called `hail`"
    );
    assert!(tail("at 5 kill").contains("a strike is"));
    assert!(tail("what is this").contains("no line of a script"));
}

/// Failures that were found, each as the script that it was made small to.
#[test]
fn scripts_of_bugs_that_were_found_break_no_invariant() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim");
    let mut run_here = 0;
    for file in std::fs::read_dir(folder).expect("the scripts are there") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let plan: Plan = text.parse().expect("a script");
        let machine = text
            .lines()
            .find_map(|line| line.strip_prefix("# machine "));
        let ran = match machine {
            Some("registers") => simulate_plan(RegisterWorkload, &plan),
            Some("router") => simulate_plan(RouterWorkload, &plan),
            _ => simulate_plan(LedgerWorkload, &plan),
        };
        if let Err(failure) = ran {
            panic!("{}: {failure}", path.display());
        }
        run_here += 1;
    }
    assert!(run_here > 0);
}

/// A ledger that takes one command for another, on some machines only.
#[derive(Clone, Default)]
struct Flawed {
    ledger: Ledger,
    flawed: bool,
}

impl StateMachine for Flawed {
    type Command = u64;
    type Response = u64;
    type View = <Ledger as StateMachine>::View;

    fn encode(command: &u64, out: &mut Vec<u8>) -> Result<(), CommandError> {
        Ledger::encode(command, out)
    }

    fn decode(payload: &[u8]) -> Result<u64, CommandError> {
        Ledger::decode(payload)
    }

    fn apply(&mut self, context: &ApplyContext, command: u64) -> u64 {
        let wrong = self.flawed && command == 40;
        self.ledger.apply(context, command + u64::from(wrong))
    }

    fn view(&self) -> std::sync::Arc<Self::View> {
        self.ledger.view()
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        self.ledger.freeze()
    }

    fn restore(&mut self, reader: &mut dyn std::io::Read) -> Result<(), RestoreError> {
        self.ledger.restore(reader)
    }

    fn digest(&self) -> u128 {
        self.ledger.digest()
    }
}

/// Every machine but the first ones is flawed.
struct FlawedAfterRestart {
    starts: Cell<u64>,
}

/// Each run counts for itself.
impl Clone for FlawedAfterRestart {
    fn clone(&self) -> Self {
        Self {
            starts: Cell::new(0),
        }
    }
}

impl Workload for FlawedAfterRestart {
    type Machine = Flawed;

    fn machine(&self) -> Flawed {
        self.starts.set(self.starts.get() + 1);
        Flawed {
            flawed: self.starts.get() > 3,
            ..Flawed::default()
        }
    }

    fn command(&self, id: u64, _: &mut Random) -> u64 {
        id
    }
}

#[test]
fn s12_a_flawed_machine_is_found_and_made_small() {
    let workload = FlawedAfterRestart {
        starts: Cell::new(0),
    };
    let plans = (0..100).map(|seed| {
        Plan::draw(&SimOptions {
            nodes: Some(3),
            ..options(seed)
        })
    });
    let mut busy = plans.filter(|plan| plan.strikes() > 20);
    let failure = busy.find_map(|plan| simulate_plan(workload.clone(), &plan).err());
    let failure = failure.expect("the digests differ");
    assert_eq!(failure.kind(), "S12", "{failure}");
    let small = shrink(&workload, &failure, 60);
    assert_eq!(small.kind(), "S12", "{small}");
    let few = failure.plan.strikes() / 4;
    assert!(small.plan.strikes() < few, "{}", small.plan);
    let again = simulate_plan(workload.clone(), &small.plan).expect_err("it still fails");
    assert_eq!(again.kind(), "S12");
}

/// A quiet world of three in which this happens, some heartbeats apart.
fn quiet(seed: u64, strikes: &[(Fault, Target)]) -> Plan {
    let mut plan = Plan::draw(&options(seed));
    plan.nodes = 3;
    plan.spares = 0;
    plan.rates.heal();
    plan.rates.snapshot_every = 0;
    let at = (0..).map(|nth| 2_000_000 + nth * 400_000);
    plan.chaos_us = 5_000_000;
    let strikes = at.zip(strikes).map(|(at, (fault, target))| Strike {
        at,
        fault: *fault,
        target: *target,
        other: 1,
        long: 0,
        draw: 0,
    });
    plan.strikes = strikes.collect();
    plan
}

/// Who is flawed stops, leader or not, and no other does: the observer fails a run in which a replica
/// with a right state stops, and one in which nobody notices.
#[test]
fn g1_a_replica_whose_state_diverges_stops_and_no_other_does() {
    for (seed, target) in [
        (1, Target::Node(1)),
        (2, Target::Node(2)),
        (3, Target::Node(3)),
        (4, Target::Leader),
    ] {
        let plan = quiet(seed, &[(Fault::Diverge, target)]);
        let mut world = World::new(LedgerWorkload, plan.clone());
        let found = world.run(10_000_000, |world| world.diverged_found == 1);
        assert_eq!(found, Ok(true), "{plan}");
        let report = simulate_plan(LedgerWorkload, &plan).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(report.faults.of(Fault::Diverge), 1);
    }
}

/// All stop at what none can apply; the cluster skips it, and they go on.
#[test]
fn g2_what_nobody_can_apply_is_skipped_and_all_go_on() {
    let plan = quiet(5, &[(Fault::Poison, Target::Leader)]);
    let mut world = World::new(LedgerWorkload, plan.clone());
    let stopped = world.run(10_000_000, |world| world.stopped_at().is_some());
    assert_eq!(stopped, Ok(true), "{plan}");
    simulate_plan(LedgerWorkload, &plan).unwrap_or_else(|why| panic!("{why}"));
    simulate_plan(RegisterWorkload, &plan).unwrap_or_else(|why| panic!("{why}"));
}

/// Node by node, and one that goes back meanwhile: the level rises when all know it, and one that does
/// not know it any more is refused until it does.
#[test]
fn j2_a_cluster_rolls_from_one_release_to_the_next() {
    let up = |node| (Fault::Upgrade, Target::Node(node));
    let down = |node| (Fault::Downgrade, Target::Node(node));
    let plan = quiet(6, &[up(1), up(2), down(1), up(3), up(1), down(2)]);
    let mut world = World::new(LedgerWorkload, plan.clone());
    let level = |world: &World<LedgerWorkload>| {
        let governing = world.oracle.governing();
        governing.map_or(0, |(_, governing)| governing.feature_level)
    };
    assert_eq!(world.run(3_500_000, |world| level(world) == 2), Ok(false));
    assert_eq!(world.run(3_990_000, |world| level(world) == 2), Ok(true));
    let report = simulate_plan(LedgerWorkload, &plan).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(report.faults.of(Fault::Upgrade), 4);
}

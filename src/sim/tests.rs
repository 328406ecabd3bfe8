//! Some tens of seeds at every `cargo test`; thousands with the program `conveyor-sim`.

use super::world::World;
use super::{
    FaultCounts, LedgerWorkload, Plan, Report, RouterWorkload, SimOptions, Workload, simulate,
};

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
    for seed in 0..4 {
        let report = run(LedgerWorkload, &options(seed));
        faults.add(&report.faults);
        acked += report.acked;
        elections += report.elections;
    }
    assert!(acked > 400, "only {acked} commands were answered");
    assert!(elections > 4, "only {elections} elections");
    let missing = faults.missing();
    assert!(missing.len() < 8, "never happened: {missing:?}");
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

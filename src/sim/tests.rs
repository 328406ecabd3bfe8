//! Some tens of seeds at every `cargo test`; thousands with the program `conveyor-sim`.

use super::{FaultCounts, LedgerWorkload, Report, RouterWorkload, SimOptions, Workload, simulate};

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
    for seed in 0..20 {
        let report = run(LedgerWorkload, &options(seed));
        faults.add(&report.faults);
        acked += report.acked;
        elections += report.elections;
    }
    assert!(acked > 1_000, "only {acked} commands were answered");
    assert!(elections > 20, "only {elections} elections");
    let missing = faults.missing();
    assert!(missing.len() < 4, "never happened: {missing:?}");
}

#[test]
fn s23_a_seed_repeats_bit_for_bit() {
    for seed in [1, 5] {
        let options = options(1_000 + seed);
        let first = run(LedgerWorkload, &options);
        assert_eq!(first, run(LedgerWorkload, &options), "seed {seed}");
    }
}

#[test]
fn the_router_goes_through_the_faults_too() {
    for seed in 0..4 {
        let report = run(RouterWorkload, &options(2_000 + seed));
        assert!(report.acked > 0, "seed {seed}: {report:?}");
    }
}

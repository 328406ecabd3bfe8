//! Every interleaving of small worlds around the real core. See `docs/small-scope.md`.
//!
//! `CONVEYOR_SMALL_STATES=n` is the number of states at which each world is cut off.

mod drive;
mod fingerprint;
mod invariants;
mod search;
mod steps;
mod world;

use search::{Report, explore};
use world::{Bounds, Note, Start};

/// The founding is over: nobody leads, and entry 1 is everywhere.
const FOUNDED: Start = Start {
    terms: &[1],
    term: 2,
    vote: 0,
};

const BASE: Bounds = Bounds {
    start: [FOUNDED; 3],
    max_term: 4,
    proposals: 0,
    crashes: 0,
    step_downs: 0,
    resends: 0,
    reconnects: 0,
    append_entries: 8,
    window: 1,
    bursts: false,
    pre_votes: 0,
};

fn run(name: &str, bounds: Bounds, states: usize) -> Report {
    let budget = std::env::var("CONVEYOR_SMALL_STATES").ok();
    let budget = budget.and_then(|text| text.parse().ok()).unwrap_or(states);
    let report = explore(bounds, budget);
    eprintln!("{name}: {report}");
    if let Some(story) = &report.violation {
        panic!("{name}, after {} states:\n{story}", report.states);
    }
    report
}

#[test]
fn small_scope_probe() {
    let number = |name: &str, or: u64| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(or)
    };
    let bounds = Bounds {
        max_term: number("T", 4),
        proposals: number("P", 0) as u8,
        crashes: number("C", 0) as u8,
        step_downs: number("D", 0) as u8,
        resends: number("R", 0) as u8,
        reconnects: number("N", 0) as u8,
        append_entries: number("E", 8) as usize,
        window: number("W", 1) as usize,
        bursts: number("B", 0) > 0,
        pre_votes: number("V", 0) as u8,
        ..BASE
    };
    let report = run("probe", bounds, 20_000);
    assert!(report.saw(Note::Elected));
}

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

/// The first leader's term is 3. Two may lead, nothing fails, messages come in any order, never or
/// often.
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

/// Figure 8 of the Raft paper at (c): nodes 1 and 3 led, each with entries that nobody else has.
const APART: [Start; 3] = [
    Start {
        terms: &[1, 3, 3],
        term: 3,
        vote: 1,
    },
    Start {
        terms: &[1],
        term: 4,
        vote: 3,
    },
    Start {
        terms: &[1, 4],
        term: 4,
        vote: 3,
    },
];

/// Explores, and tells what it saw. Whether all states were seen, or fewer were asked for than the
/// everyday bound.
fn run(name: &str, bounds: Bounds, states: usize, notes: &[Note]) -> bool {
    let budget = std::env::var("CONVEYOR_SMALL_STATES").ok();
    let budget = budget.and_then(|text| text.parse().ok()).unwrap_or(states);
    let report: Report = explore(bounds, budget);
    eprintln!("{name}: {report}");
    if let Some(story) = &report.violation {
        panic!("{name}, after {} states:\n{story}", report.states);
    }
    for note in notes {
        assert!(report.saw(*note) || budget < states, "{name}: no {note:?}");
    }
    report.complete() || budget < states
}

#[test]
fn small_scope_two_terms() {
    let notes = [
        Note::Elected,
        Note::ElectedLater,
        Note::Committed,
        Note::CommittedOlderTerm,
        Note::Truncated,
        Note::TruncatedWhileWriting,
        Note::VoteRefused,
        Note::Conflict,
        Note::DeferredDropped,
    ];
    assert!(run("two terms", BASE, 20_000, &notes));
}

#[test]
fn small_scope_three_terms() {
    let bounds = Bounds {
        max_term: 5,
        ..BASE
    };
    let notes = [Note::Elected, Note::ElectedLater, Note::ElectedLast];
    run("three terms", bounds, 6_000, &notes);
}

#[test]
fn small_scope_a_client() {
    let bounds = Bounds {
        max_term: 3,
        proposals: 2,
        append_entries: 1,
        window: 2,
        ..BASE
    };
    let notes = [Note::Elected, Note::Committed];
    run("a client", bounds, 6_000, &notes);
}

#[test]
fn small_scope_a_client_in_two_terms() {
    let bounds = Bounds {
        proposals: 1,
        ..BASE
    };
    run("a client in two terms", bounds, 6_000, &[Note::Elected]);
}

#[test]
fn small_scope_power_cuts() {
    let bounds = Bounds {
        max_term: 3,
        crashes: 3,
        ..BASE
    };
    let notes = [Note::Elected, Note::Committed, Note::LostWrites];
    assert!(run("power cuts", bounds, 20_000, &notes));
}

#[test]
fn small_scope_a_power_cut_in_two_terms() {
    let bounds = Bounds { crashes: 1, ..BASE };
    run("a power cut in two terms", bounds, 6_000, &[Note::Elected]);
}

#[test]
fn small_scope_leaders_that_give_up() {
    let bounds = Bounds {
        step_downs: 1,
        append_entries: 1,
        ..BASE
    };
    run("leaders that give up", bounds, 6_000, &[Note::Elected]);
}

#[test]
fn small_scope_streams() {
    let bounds = Bounds {
        max_term: 3,
        proposals: 1,
        resends: 1,
        reconnects: 1,
        ..BASE
    };
    run("streams", bounds, 6_000, &[Note::Elected]);
}

#[test]
fn small_scope_bursts() {
    let bounds = Bounds {
        bursts: true,
        ..BASE
    };
    let notes = [
        Note::ElectedLater,
        Note::CommittedOlderTerm,
        Note::Truncated,
    ];
    assert!(run("bursts", bounds, 20_000, &notes));
}

#[test]
fn small_scope_pre_votes() {
    let bounds = Bounds {
        max_term: 3,
        pre_votes: 2,
        ..BASE
    };
    let notes = [Note::Elected, Note::Committed];
    assert!(run("pre-votes", bounds, 6_000, &notes));
}

#[test]
fn small_scope_logs_apart() {
    let bounds = Bounds {
        start: APART,
        max_term: 5,
        append_entries: 1,
        ..BASE
    };
    let notes = [Note::Elected, Note::Truncated, Note::CommittedOlderTerm];
    assert!(run("logs apart", bounds, 20_000, &notes));
}

#[test]
fn small_scope_everything_once() {
    let bounds = Bounds {
        proposals: 1,
        crashes: 1,
        step_downs: 1,
        resends: 1,
        reconnects: 1,
        append_entries: 1,
        window: 2,
        bursts: true,
        ..BASE
    };
    run("everything once", bounds, 6_000, &[Note::Elected]);
}

//! The day of `examples/conveyor-day.ndjson`: made by its generator, and what it comes to.

#[path = "../examples/conveyor_day/day.rs"]
mod day;
#[path = "../examples/conveyor_day/random.rs"]
mod random;
#[path = "../examples/conveyor_day/world.rs"]
mod world;

use std::collections::BTreeMap;

use conveyor_raft::state_machine::json::{Line, parse_line};
use conveyor_raft::state_machine::{
    ApplyContext, Outcome, Rejection, RouterStateMachine, StateMachine,
};
use day::{Day, Options, generate};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/conveyor-day.ndjson");

/// Of the state after the day, with log time = line number in milliseconds.
const DIGEST: u128 = 0x9081_db2a_96d1_3fb3_0d6e_cac4_1124_b9c3;

fn printed(day: &Day) -> String {
    let mut text = String::new();
    for line in &day.lines {
        text.push_str(&serde_json::to_string(line).expect("prints"));
        text.push('\n');
    }
    text
}

/// Applies lines as nodes do: through their payload.
fn apply(lines: impl Iterator<Item = Line>) -> (RouterStateMachine, [u64; 3], Vec<Rejection>) {
    let mut machine = RouterStateMachine::new();
    let (mut outcomes, mut rejections) = ([0; 3], Vec::new());
    for (index, line) in (1..).zip(lines) {
        let mut payload = Vec::new();
        RouterStateMachine::encode(&line.command, &mut payload).expect("encodes");
        let command = RouterStateMachine::decode(&payload).expect("decodes");
        assert_eq!(command, line.command);
        let context = ApplyContext {
            index,
            term: 1,
            time_us: index * 1000,
        };
        match machine.apply(&context, command).outcome {
            Outcome::Applied(_) => outcomes[0] += 1,
            Outcome::Unchanged(_) => outcomes[1] += 1,
            Outcome::Rejected(rejection) => {
                outcomes[2] += 1;
                rejections.push(rejection);
            }
        }
    }
    assert_eq!(machine.digest(), machine.recompute_digest());
    (machine, outcomes, rejections)
}

fn check_prediction(day: &Day) -> RouterStateMachine {
    let (machine, outcomes, _) = apply(day.lines.iter().cloned());
    assert_eq!(outcomes[2], day.rejections);
    let summary = machine.state().summary();
    for (name, count) in &day.counts {
        assert_eq!(summary.counts.get(name), Some(count), "{name}");
    }
    machine
}

#[test]
fn day_file_is_what_the_generator_makes() {
    let made = printed(&generate(Options::default()));
    let committed = std::fs::read_to_string(FILE).expect("the file");
    assert!(
        made == committed,
        "run: cargo run --release --example conveyor_day -- --seed 1 > examples/conveyor-day.ndjson"
    );
}

#[test]
fn day_has_the_lines_that_it_should() {
    let day = generate(Options::default());
    assert_eq!(day.lines.len(), 26_201);
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in &day.lines {
        *counts.entry(line.command.name()).or_default() += 1;
    }
    let expected = [
        ("UpdateSidecarHeartbeat", 6234),
        ("CommitGroupOffset", 6918),
        ("CommitSourceOffset", 6916),
        ("AdvanceWatermark", 3456),
        ("RenewLease", 1440),
        ("SaveServiceCheckpoint", 288),
        ("RegisterService", 283),
        ("AssignPipeline", 119),
        ("AssignPartitions", 116),
        ("RegisterSidecar", 91),
        ("JoinGroup", 91),
        ("DeregisterSidecar", 55),
        ("LeaveGroup", 52),
        ("UpdateServiceHealth", 48),
        ("DeregisterService", 28),
        ("RevokePipeline", 24),
        ("EnablePipeline", 17),
        ("CreatePipeline", 13),
        ("DisablePipeline", 6),
        ("UpdatePipeline", 4),
        ("DeletePipeline", 1),
        ("Noop", 1),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
    assert!(day.lines.is_sorted_by_key(|line| line.at_ms));
}

#[test]
fn day_comes_to_the_state_that_it_should() {
    let text = std::fs::read_to_string(FILE).expect("the file");
    let parsed = text.lines().map(|line| {
        let line = parse_line(line).expect("parses");
        line.expect("a command")
    });
    let (machine, outcomes, rejections) = apply(parsed);
    let stale = |rejection: &&Rejection| matches!(rejection, Rejection::StaleGeneration { .. });
    let behind = |rejection: &&Rejection| matches!(rejection, Rejection::Behind { .. });
    assert_eq!(rejections.iter().filter(stale).count(), 6, "{rejections:?}");
    assert_eq!(
        rejections.iter().filter(behind).count(),
        4,
        "{rejections:?}"
    );
    assert_eq!(outcomes.iter().sum::<u64>(), 26_201);
    assert_eq!(outcomes[2], 10);
    let counts = machine.state().summary().counts;
    let expected = [
        ("sidecars", 36),
        ("services", 114),
        ("pipelines", 12),
        ("assignments", 40),
        ("groups", 10),
        ("members", 36),
        ("source_offsets", 160),
        ("group_offsets", 160),
        ("watermarks", 160),
    ];
    for (name, count) in expected {
        assert_eq!(counts.get(name), Some(&count), "{name}");
    }
    assert_eq!(machine.digest(), DIGEST, "{:#034x}", machine.digest());
}

#[test]
fn days_of_other_kinds_come_to_what_they_predict() {
    let shorter = Options {
        seed: 7,
        hours: 4,
        ..Options::default()
    };
    check_prediction(&generate(shorter));
    let bigger = Options {
        sidecars: 120,
        ..shorter
    };
    check_prediction(&generate(bigger));
    let singular = generate(Options::default());
    let plural = generate(Options {
        plural: true,
        ..Options::default()
    });
    check_prediction(&plural);
    assert!(plural.lines.len() < singular.lines.len());
    assert_ne!(
        printed(&generate(Options {
            seed: 2,
            ..Options::default()
        })),
        printed(&singular)
    );
}

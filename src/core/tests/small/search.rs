//! Breadth first through all states of a world, each one once.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::steps::Step;
use super::world::{Bounds, Note, World};

const KINDS: [&str; 11] = [
    "campaign",
    "time out",
    "give up",
    "resend",
    "deliver",
    "hear",
    "durable",
    "crash",
    "reconnect",
    "propose",
    "settle",
];

const NOTES: [&str; 11] = [
    "leader in the first term",
    "leader in the second term",
    "leader in a later term",
    "commit",
    "commit with older entries",
    "truncation",
    "truncation over a write under way",
    "crash that lost writes",
    "vote refused for the log",
    "conflict",
    "promise of an older term dropped",
];

fn kind(step: Step) -> usize {
    match step {
        Step::Campaign(_) => 0,
        Step::TimeOut(_) => 1,
        Step::GiveUp(_) => 2,
        Step::Resend(_) => 3,
        Step::Deliver(_) => 4,
        Step::Hear(..) => 5,
        Step::Durable(_) => 6,
        Step::Crash(..) => 7,
        Step::Reconnect(_) => 8,
        Step::Propose(_) => 9,
        Step::Settle(_) => 10,
    }
}

/// What an exploration saw.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Steps taken, each from a state that was new.
    pub(super) steps: usize,
    /// Distinct states, nodes renamed.
    pub(super) states: usize,
    /// States whose every step leads to a state that is known.
    pub(super) expanded: usize,
    /// States in which nothing but repetition can happen.
    pub(super) terminal: usize,
    pub(super) depth: u32,
    pub(super) max_queue: usize,
    pub(super) max_sent: usize,
    pub(super) kinds: [usize; KINDS.len()],
    pub(super) notes: [usize; NOTES.len()],
    /// The first violation, and the steps that lead to it.
    pub(super) violation: Option<String>,
}

impl Report {
    /// Every state within the bounds was seen.
    pub(super) fn complete(&self) -> bool {
        self.expanded == self.states && self.violation.is_none()
    }

    pub(super) fn saw(&self, note: Note) -> bool {
        self.notes[note as usize] > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.complete() {
            "complete"
        } else {
            "cut off"
        };
        write!(f, "{} states ({end}), {} steps, ", self.states, self.steps)?;
        write!(f, "depth {}, {} terminal, ", self.depth, self.terminal)?;
        writeln!(f, "queue {}, messages {}", self.max_queue, self.max_sent)?;
        let kinds = KINDS.iter().zip(self.kinds).filter(|(_, count)| *count > 0);
        let kinds: Vec<_> = kinds
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(f, "  steps: {}", kinds.join(", "))?;
        let notes = NOTES.iter().zip(self.notes).filter(|(_, count)| *count > 0);
        let notes: Vec<_> = notes
            .map(|(note, count)| format!("{note} {count}"))
            .collect();
        write!(f, "  seen: {}", notes.join(", "))
    }
}

/// Where a state was reached from first: the number of that state, and the step.
type Origin = (u32, Step);

/// Explores until every state was seen, `budget` states were, or one is wrong.
pub(super) fn explore(bounds: Bounds, budget: usize) -> Report {
    let first = World::new(bounds);
    let mut report = Report {
        states: 1,
        ..Report::default()
    };
    if let Some(broken) = &first.broken {
        report.violation = Some(broken.clone());
        return report;
    }
    let mut seen = HashSet::from([first.fingerprint()]);
    let mut origins: Vec<Origin> = vec![(0, Step::Durable(0))];
    let mut queue = VecDeque::from([(0_u32, 0_u32, first)]);
    while let Some((number, depth, world)) = queue.pop_front() {
        let before = report.states;
        for step in world.steps() {
            let next = taken(&world, step);
            report.steps += 1;
            report.kinds[kind(step)] += 1;
            if let Some(broken) = &next.broken {
                let path = path(&origins, (number, step));
                report.violation = Some(story(bounds, &path, broken));
                return report;
            }
            count(&mut report.notes, next.notes);
            let same = matches!(step, Step::Deliver(_)) && next.is_still(&world);
            if !same && seen.insert(next.fingerprint()) {
                report.max_sent = report.max_sent.max(next.sent.len());
                origins.push((number, step));
                queue.push_back((report.states as u32, depth + 1, next));
                report.states += 1;
                report.depth = depth + 1;
            }
        }
        report.expanded += 1;
        report.terminal += usize::from(report.states == before && is_final(&world, &world.steps()));
        report.max_queue = report.max_queue.max(queue.len());
        if report.states >= budget {
            break;
        }
    }
    report
}

/// Nothing is left but to deliver what was delivered.
fn is_final(world: &World, steps: &[Step]) -> bool {
    let here = world.fingerprint();
    steps
        .iter()
        .all(|step| taken(world, *step).fingerprint() == here)
}

fn count(counts: &mut [usize], bits: u32) {
    for (at, count) in counts.iter_mut().enumerate() {
        *count += (bits >> at & 1) as usize;
    }
}

/// The world after the step; a panic is a violation.
fn taken(world: &World, step: Step) -> World {
    let mut next = world.clone();
    let outcome = catch_unwind(AssertUnwindSafe(|| next.take(step)));
    if outcome.is_err() {
        next.fail("S22: the core panicked".into());
    }
    next
}

/// The steps from the start.
fn path(origins: &[Origin], last: Origin) -> Vec<Step> {
    let (mut number, step) = last;
    let mut path = vec![step];
    while number > 0 {
        let (before, step) = origins[number as usize];
        path.push(step);
        number = before;
    }
    path.reverse();
    path
}

/// The steps in words, replayed from the start.
fn story(bounds: Bounds, path: &[Step], broken: &str) -> String {
    let mut world = World::new(bounds);
    let mut text = String::new();
    for (step, number) in path.iter().zip(1..) {
        text += &format!("{number:>4}  {}\n", world.describe(*step));
        world = taken(&world, *step);
    }
    text + &format!("      {broken}\n")
}

//! The judge of short histories: looks for an order of one register's operations that explains
//! every answer (Wing and Gong, 1993), remembering where it has been (Lowe, 2017).

use std::collections::HashSet;
use std::fmt;

use super::history::{Action, Answer, Operation, Outcome};

/// How many of the last operations a violation shows.
const SHOWN: usize = 12;

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Linearizable,
    Violation(Stuck),
    /// Not decided within the steps allowed.
    TooLong,
}

/// The smallest prefix of the events that no order explains. What was answered later is unknown
/// in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stuck(pub(super) Vec<Operation>);

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.0.len().saturating_sub(SHOWN);
        write!(f, "nothing explains the last answer after {skipped} more:")?;
        let mut last = self.0.iter().skip(skipped);
        last.try_for_each(|one| write!(f, "\n{one}"))
    }
}

/// Judges the operations of one key, in the order of their invocations, within `steps` steps.
pub(super) fn search(operations: &[Operation], steps: usize) -> Verdict {
    match explained(operations, steps) {
        None => Verdict::TooLong,
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Violation(smallest(operations, steps)),
    }
}

/// What can be explained is so at every earlier moment, too: the first moment at which it cannot
/// is found by halving. One that takes too long counts as explained.
fn smallest(operations: &[Operation], steps: usize) -> Stuck {
    let mut ends: Vec<_> = operations
        .iter()
        .filter_map(Operation::answered_at)
        .collect();
    ends.sort_unstable();
    let stuck = |end: &usize| explained(&until(operations, *end), steps) == Some(false);
    let first = ends.partition_point(|end| !stuck(end));
    let end = ends.get(first).or(ends.last()).copied().unwrap_or(0);
    Stuck(until(operations, end))
}

/// The history up to the event at `end`.
fn until(operations: &[Operation], end: usize) -> Vec<Operation> {
    let begun = operations.iter().filter(|one| one.invoked < end);
    let cut = begun.map(|one| match one.answered_at() {
        Some(at) if at > end => Operation {
            outcome: Outcome::Unknown,
            ..*one
        },
        _ => *one,
    });
    cut.collect()
}

/// Whether some order explains every answer; `None` if that takes more steps.
///
/// Steps that cannot be part of a shortest explanation are left out, and a shortest explanation
/// is never lost by that: where a place (what took effect, and the value) on its way was reached
/// by another way, that way and the rest of it are an explanation no longer than it.
fn explained(operations: &[Operation], steps: usize) -> Option<bool> {
    let mut search = Search::new(operations);
    let mut visited: HashSet<(Box<[u64]>, u64)> = HashSet::new();
    let mut path = vec![search.frame(None)];
    while let Some(frame) = path.last_mut() {
        if search.left == 0 {
            return Some(true);
        }
        let Some(step) = frame.untried.pop() else {
            if let Some(taken) = frame.taken {
                search.put_back(taken.nth);
            }
            path.pop();
            continue;
        };
        search.take(step.nth);
        if !visited.insert((search.done.clone(), step.value)) {
            search.put_back(step.nth);
            continue;
        }
        if visited.len() > steps {
            return None;
        }
        path.push(search.frame(Some(step)));
    }
    Some(false)
}

/// An operation takes effect.
#[derive(Clone, Copy)]
struct Step {
    nth: usize,
    /// What the register holds then.
    value: u64,
    /// What it would hold if the last unknown operation had never taken effect, while nothing that
    /// followed needed that.
    without: Option<u64>,
}

/// A place on the way.
struct Frame {
    taken: Option<Step>,
    /// Those that may be next; the last is tried first.
    untried: Vec<Step>,
}

struct Search {
    /// Those that were answered, then the unknown ones, each in the order of their invocations.
    operations: Vec<Operation>,
    answered: usize,
    /// What took effect, a bit each.
    done: Box<[u64]>,
    /// Answered operations that did not yet take effect.
    left: usize,
    /// All answered ones before this took effect.
    low: usize,
}

impl Search {
    fn new(operations: &[Operation]) -> Self {
        let all = operations.iter().copied();
        let (mut operations, unknown): (Vec<_>, Vec<_>) =
            all.partition(|one| one.answered_at().is_some());
        let answered = operations.len();
        operations.extend(unknown);
        Self {
            answered,
            done: vec![0; operations.len().div_ceil(64)].into(),
            left: answered,
            low: 0,
            operations,
        }
    }

    fn is_done(&self, nth: usize) -> bool {
        let word = self.done.get(nth / 64);
        word.is_some_and(|word| word >> (nth % 64) & 1 == 1)
    }

    fn flip(&mut self, nth: usize) {
        if let Some(word) = self.done.get_mut(nth / 64) {
            *word ^= 1 << (nth % 64);
        }
    }

    fn take(&mut self, nth: usize) {
        self.flip(nth);
        self.left -= usize::from(nth < self.answered);
    }

    fn put_back(&mut self, nth: usize) {
        self.flip(nth);
        self.left += usize::from(nth < self.answered);
        self.low = self.low.min(nth);
    }

    /// What may be next after `taken`: what was invoked before the first answer that is still to
    /// be explained.
    fn frame(&mut self, taken: Option<Step>) -> Frame {
        while self.low < self.answered && self.is_done(self.low) {
            self.low += 1;
        }
        let (mut first_answer, mut open) = (usize::MAX, Vec::new());
        let answered = self.operations.iter().enumerate().take(self.answered);
        for (nth, one) in answered.skip(self.low) {
            if one.invoked > first_answer {
                break;
            }
            if let Outcome::Answered(answer, at) = one.outcome
                && !self.is_done(nth)
            {
                first_answer = first_answer.min(at);
                open.push((at, nth, one, answer));
            }
        }
        open.sort_unstable_by_key(|(at, ..)| std::cmp::Reverse(*at));
        let value = taken.map_or(0, |step| step.value);
        let without = taken.and_then(|step| step.without);
        let mut untried = self.unknown(value, without, first_answer);
        for (_, nth, one, answer) in open {
            let Some(next) = one.action.answered(value, answer) else {
                continue;
            };
            let without = without.and_then(|value| one.action.answered(value, answer));
            let step = Step {
                nth,
                value: next,
                without,
            };
            if changes_nothing(one) {
                // Wherever it would fit later it fits now, and makes no difference to the others.
                untried = vec![step];
                break;
            }
            if without != Some(next) {
                untried.push(step);
            }
        }
        Frame { taken, untried }
    }

    /// Unknown operations are tried last, and only where they make a difference.
    fn unknown(&self, value: u64, without: Option<u64>, before: usize) -> Vec<Step> {
        let unknown = self.operations.iter().enumerate().skip(self.answered);
        let begun = unknown.take_while(|(_, one)| one.invoked < before);
        let open = begun.filter(|(nth, _)| !self.is_done(*nth));
        let steps = open.filter_map(|(nth, one)| {
            let (next, _) = one.action.apply(value);
            let skipped = without.map(|value| one.action.apply(value).0);
            (next != value && skipped != Some(next)).then_some(Step {
                nth,
                value: next,
                without: Some(value),
            })
        });
        steps.collect()
    }
}

/// Whether an answered operation left the register as it was, wherever it took effect.
fn changes_nothing(one: &Operation) -> bool {
    match one.action {
        Action::Read => true,
        Action::CompareAndSet { .. } => {
            matches!(one.outcome, Outcome::Answered(Answer::Set(false), _))
        }
        Action::Write(_) | Action::Swap(_) => false,
    }
}

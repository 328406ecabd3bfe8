//! Histories as long as those of a run: good ones, and mutants of them that are wrong for sure.

use std::collections::BTreeSet;
use std::collections::HashMap;

use super::super::history::{Event, Operation, Outcome};
use super::super::search::{Verdict, search};
use super::super::{STEPS, by_log as judge};
use super::*;
use crate::sim::random::Random;

const KEYS: u64 = 3;
const LENGTH: u64 = 1_500;

/// A history that a correct system may give, and by command the place at which it took effect.
struct Long {
    history: History,
    places: HashMap<u64, u64>,
}

/// Eight clients with an operation each; what is open takes effect and is answered in any order.
fn good(seed: u64) -> Long {
    let mut random = Random::named(seed, "long", 0);
    let (mut history, mut places) = (History::default(), HashMap::new());
    let mut registers = HashMap::new();
    let mut open: Vec<(u64, Observation, usize, Option<Answer>)> = Vec::new();
    let mut id = 0;
    while id < LENGTH || !open.is_empty() {
        let nth = random.below(9) as usize;
        match open.get_mut(nth) {
            None if id < LENGTH => {
                id += 1;
                let action = action(id, &mut random);
                let key = id % KEYS;
                let observed = Observation { key, action };
                open.push((id, observed, history.invoke(0, id, observed), None));
            }
            None => {}
            Some((id, observed, _, answer @ None)) => {
                let value = registers.entry(observed.key).or_insert(0);
                let (next, right) = observed.action.apply(*value);
                *value = next;
                places.insert(*id, places.len() as u64 + 1);
                *answer = Some(right);
            }
            Some((_, _, operation, Some(answer))) => {
                // One in thirty never hears of it, and one in thirty was given up before.
                if !random.chance(33) {
                    history.answer(*operation, *answer);
                }
                open.swap_remove(nth);
            }
        }
        if random.chance(10) && open.first().is_some_and(|one| one.3.is_none()) {
            open.remove(0);
        }
    }
    Long { history, places }
}

fn action(id: u64, random: &mut Random) -> Action {
    match random.below(4) {
        0 => Action::Read,
        1 => Action::Write(id),
        2 => Action::Swap(id),
        _ => Action::CompareAndSet {
            expected: id.saturating_sub(KEYS * (1 + random.below(8))),
            new: id,
        },
    }
}

impl Long {
    fn verdicts(&self) -> Vec<Verdict> {
        let keys = self.history.by_key();
        keys.values().map(|all| search(all, STEPS)).collect()
    }

    fn by_log(&self) -> Result<(), String> {
        judge::judge(&self.history, &[], |id| self.places.get(&id).copied())
    }

    /// Both judges see that it is wrong; the search on the key that was changed.
    #[track_caller]
    fn is_wrong(&self, what: &str) {
        let wrong = |verdict: &Verdict| matches!(verdict, Verdict::Violation(_));
        let verdicts = self.verdicts();
        let found = verdicts.iter().filter(|one| wrong(one)).count();
        assert_eq!(found, 1, "{what}");
        assert!(self.by_log().is_err(), "{what}");
    }

    fn operations(&self) -> impl Iterator<Item = (usize, &Operation)> {
        self.history.operations.iter().enumerate()
    }

    /// Every mutant by which the outcome of operation `nth` becomes `outcome`.
    fn with(&self, nth: usize, outcome: Outcome) -> Self {
        let mut history = self.history.clone();
        history.operations[nth].outcome = outcome;
        if outcome == Outcome::Refused {
            let is_its = |event: &Event| matches!(event, Event::Answered(one) if *one == nth);
            history.events.retain(|event| !is_its(event));
        }
        let places = self.places.clone();
        Self { history, places }
    }

    /// The values that somebody was told to have been there.
    fn seen(&self) -> BTreeSet<u64> {
        let told = self.operations().filter_map(|(_, one)| match one.outcome {
            Outcome::Answered(Answer::Value(value), _) => Some(value),
            _ => None,
        });
        told.collect()
    }
}

#[test]
fn long_histories_of_a_correct_system_pass_both_judges() {
    for seed in 0..20 {
        let long = good(seed);
        assert_eq!(long.by_log(), Ok(()), "{seed}");
        assert_eq!(long.verdicts(), vec![Verdict::Linearizable; 3], "{seed}");
    }
}

#[test]
fn a_value_from_nowhere_is_found_wherever_it_is_told() {
    let long = good(100);
    let mut mutants = 0;
    for (nth, one) in long.operations() {
        if let Outcome::Answered(Answer::Value(_), at) = one.outcome
            && nth % 9 == 0
        {
            let never = Answer::Value(LENGTH + 1);
            let mutant = long.with(nth, Outcome::Answered(never, at));
            mutant.is_wrong(&one.to_string());
            mutants += 1;
        }
    }
    assert!(mutants > 30, "{mutants}");
}

/// A write ended, then another began and ended, then a read began and is told the first value.
#[test]
fn stale_values_are_found_wherever_they_are_told() {
    let long = good(101);
    let mut mutants = 0;
    for (nth, one) in long.operations() {
        let Outcome::Answered(Answer::Value(told), at) = one.outcome else {
            continue;
        };
        let before = |end: usize| {
            let writes = long.operations().filter(move |(_, write)| {
                let is_write = matches!(write.action, Action::Write(_) | Action::Swap(_));
                is_write && write.key == one.key && write.answered_at().is_some_and(|at| at < end)
            });
            writes
                .map(|(_, write)| write)
                .max_by_key(|write| write.invoked)
        };
        let Some(second) = before(one.invoked) else {
            continue;
        };
        let Some(first) = before(second.invoked).filter(|first| first.id != told) else {
            continue;
        };
        if nth % 9 == 0 {
            let stale = Answer::Value(first.id);
            let mutant = long.with(nth, Outcome::Answered(stale, at));
            mutant.is_wrong(&format!("{one}\n{first}\n{second}"));
            mutants += 1;
        }
    }
    assert!(mutants > 30, "{mutants}");
}

#[test]
fn a_write_that_was_seen_and_is_said_not_to_be_is_found() {
    let long = good(102);
    let seen = long.seen();
    let mut mutants = 0;
    for (nth, one) in long.operations().filter(|(_, one)| seen.contains(&one.id)) {
        let outcome = match one.outcome {
            Outcome::Answered(Answer::Set(true), at) => Outcome::Answered(Answer::Set(false), at),
            _ => Outcome::Refused,
        };
        if nth % 9 == 0 {
            long.with(nth, outcome).is_wrong(&one.to_string());
            mutants += 1;
        }
    }
    assert!(mutants > 30, "{mutants}");
}

/// What the search cannot know: it is the log that is wrong.
#[test]
fn a_log_out_of_time_or_without_an_answered_command_is_found() {
    let long = good(103);
    let answered = long.operations().map(|(_, one)| *one);
    let answered: Vec<_> = answered.filter(|one| one.answered_at().is_some()).collect();
    for one in answered.iter().step_by(50) {
        let mut lost = good(103);
        lost.places.remove(&one.id);
        let why = lost.by_log().expect_err("an answered command is missing");
        assert!(why.contains("not in the log"), "{why}");
        let later = answered
            .iter()
            .find(|later| Some(later.invoked) > one.answered_at());
        let Some(later) = later else { continue };
        let mut exchanged = good(103);
        let (first, second) = (long.places[&one.id], long.places[&later.id]);
        exchanged.places.insert(one.id, second);
        exchanged.places.insert(later.id, first);
        let why = exchanged.by_log().expect_err("out of time");
        assert!(why.contains("before it in the log"), "{why}");
        let mut doubled = good(103);
        doubled.places.insert(later.id, first.max(second));
        doubled.places.insert(one.id, first.max(second));
        assert!(doubled.by_log().is_err());
    }
}

//! Every order of a few operations is tried: slow, and too simple to be wrong.

use super::super::history::{Action, Answer, History};
use super::super::search::{Stuck, Verdict, search};
use super::*;
use crate::sim::random::Random;

/// Whether some order of the answered operations and of any of the unknown ones explains it.
pub(super) fn explanation(all: &[Made]) -> Option<Vec<usize>> {
    let mut order = Vec::new();
    extend(all, &mut order).then_some(order)
}

fn extend(all: &[Made], order: &mut Vec<usize>) -> bool {
    let ended = |one: &Made| matches!(one.end, End::Answered(..));
    if (0..all.len()).all(|id| order.contains(&id) || !ended(&all[id])) {
        return replays(all, order);
    }
    for id in 0..all.len() {
        if !order.contains(&id) && !matches!(all[id].end, End::Refused) {
            order.push(id);
            if in_time(all, order) && extend(all, order) {
                return true;
            }
            order.pop();
        }
    }
    false
}

/// Nothing stands after an operation that was invoked after its answer.
fn in_time(all: &[Made], order: &[usize]) -> bool {
    let pairs = (0..order.len()).flat_map(|nth| (0..nth).map(move |before| (before, nth)));
    pairs.into_iter().all(|(before, nth)| {
        let (first, second) = (&all[order[before]], &all[order[nth]]);
        !matches!(second.end, End::Answered(_, to) if to < first.from)
    })
}

fn replays(all: &[Made], order: &[usize]) -> bool {
    let mut value = 0;
    for id in order {
        let told = match all[*id].end {
            End::Answered(Answer::Value(told), _) => Some(told),
            End::Answered(Answer::Set(told), _) => Some(u64::from(told)),
            _ => None,
        };
        let right = match all[*id].action {
            Action::Read => told.is_none_or(|told| told == value),
            Action::Write(new) => {
                value = new;
                true
            }
            Action::Swap(new) => {
                let before = std::mem::replace(&mut value, new);
                told.is_none_or(|told| told == before)
            }
            Action::CompareAndSet { expected, new } => {
                let hits = value == expected;
                value = if hits { new } else { value };
                told.is_none_or(|told| told == u64::from(hits))
            }
        };
        if !right {
            return false;
        }
    }
    true
}

/// Up to six operations on few values: the answers are those of some order, or most of them are drawn.
fn drawn(random: &mut Random) -> Vec<Made> {
    let count = 2 + random.below(5);
    let honest = random.chance(300);
    let mut times: Vec<u64> = (0..3 * count).collect();
    for nth in 0..times.len() {
        let other = random.below(times.len() as u64) as usize;
        times.swap(nth, other);
    }
    let mut all: Vec<(u64, Made)> = times.chunks(3).map(|times| one(times, random)).collect();
    all.sort_by_key(|(effect, _)| *effect);
    let mut value = 0;
    for (_, made) in &mut all {
        let unseen = !matches!(made.end, End::Answered(..)) && random.chance(500);
        if unseen || matches!(made.end, End::Refused) {
            continue;
        }
        let (next, right) = made.action.apply(value);
        if let End::Answered(answer, _) = &mut made.end {
            let wrong = match right {
                Answer::Value(_) => Answer::Value(random.below(3)),
                Answer::Set(_) => Answer::Set(random.chance(500)),
                Answer::Done => Answer::Done,
            };
            *answer = if honest || random.chance(300) {
                right
            } else {
                wrong
            };
        }
        value = next;
    }
    all.into_iter().map(|(_, made)| made).collect()
}

fn one(times: &[u64], random: &mut Random) -> (u64, Made) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let action = match random.below(7) {
        0..2 => Action::Read,
        2..4 => Action::Write(random.below(3)),
        4 => Action::Swap(random.below(3)),
        _ => Action::CompareAndSet {
            expected: random.below(3),
            new: random.below(3),
        },
    };
    let end = match random.below(10) {
        0..3 => End::Unknown,
        3 => End::Refused,
        _ => End::Answered(Answer::Done, times[2]),
    };
    let from = times[0];
    (times[1], Made { action, from, end })
}

fn searched(history: &History) -> Verdict {
    let keys = history.by_key();
    let none = Vec::new();
    search(keys.get(&7).unwrap_or(&none), 100_000)
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut random = Random::named(1, "histories", 0);
    let mut verdicts = [0; 2];
    for nth in 0..20_000 {
        let all = drawn(&mut random);
        let history = history(&all);
        let explanation = explanation(&all);
        let verdict = searched(&history);
        match &explanation {
            Some(order) => {
                assert_eq!(verdict, Verdict::Linearizable, "{nth}: {all:?}");
                assert_eq!(by_log(&history, &[], order), Ok(()), "{nth}: {all:?}");
            }
            None => {
                let Verdict::Violation(stuck) = verdict else {
                    panic!("{nth}: {verdict:?} for {all:?}");
                };
                is_smallest(&all, &stuck);
            }
        }
        verdicts[usize::from(explanation.is_none())] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 3_000), "{verdicts:?}");
}

/// With the last answer of the prefix nothing explains it, without that answer something does.
fn is_smallest(all: &[Made], stuck: &Stuck) {
    let answered = |one: &&super::super::history::Operation| one.answered_at().is_some();
    let last = stuck
        .0
        .iter()
        .filter(answered)
        .max_by_key(|one| one.answered_at());
    let last = last.expect("an answer").id as usize;
    let End::Answered(_, end) = all[last].end else {
        panic!("{last} was not answered in {all:?}");
    };
    let until = |end: u64| -> Vec<Made> {
        let begun = all.iter().filter(|one| one.from < end);
        let cut = begun.map(|one| match one.end {
            End::Answered(_, to) if to >= end => unknown(one.action, one.from),
            _ => *one,
        });
        cut.collect()
    };
    assert_eq!(explanation(&until(end + 1)), None, "{all:?}");
    assert!(explanation(&until(end)).is_some(), "{all:?}");
}

/// The log's order is judged by itself: it is right exactly when it respects time and replays.
#[test]
fn the_log_s_order_is_judged_as_every_order_is() {
    let mut random = Random::named(2, "histories", 0);
    let mut verdicts = [0; 2];
    for nth in 0..20_000 {
        let all = drawn(&mut random);
        let mut order: Vec<usize> = (0..all.len()).collect();
        // As it was drawn, or with two neighbours exchanged, without some of the unknown ones.
        let other = random.below(all.len() as u64 - 1) as usize;
        if random.chance(500) {
            order.swap(other, other + 1);
        }
        order.retain(|id| match all[*id].end {
            End::Answered(..) => true,
            End::Unknown => random.chance(500),
            End::Refused => random.chance(50),
        });
        let refused = |id: &usize| matches!(all[*id].end, End::Refused);
        let right = in_time(&all, &order) && replays(&all, &order) && !order.iter().any(refused);
        let judged = by_log(&history(&all), &[], &order);
        assert_eq!(judged.is_ok(), right, "{nth}: {judged:?} {order:?} {all:?}");
        verdicts[usize::from(right)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 3_000), "{verdicts:?}");
}

//! Both judges on histories whose verdict is known.

mod classic;
mod long;
mod reference;
mod runs;

use super::history::{Action, Answer, History, Observation};
use super::local::Shown;

/// An operation by the times of its events, which give nothing but an order.
#[derive(Clone, Copy, Debug)]
struct Made {
    action: Action,
    from: u64,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Answered(Answer, u64),
    Refused,
    Unknown,
}

fn answered(action: Action, answer: Answer, from: u64, to: u64) -> Made {
    let end = End::Answered(answer, to);
    Made { action, from, end }
}

fn read(value: u64, from: u64, to: u64) -> Made {
    answered(Action::Read, Answer::Value(value), from, to)
}

fn write(value: u64, from: u64, to: u64) -> Made {
    answered(Action::Write(value), Answer::Done, from, to)
}

fn swap(value: u64, before: u64, from: u64, to: u64) -> Made {
    answered(Action::Swap(value), Answer::Value(before), from, to)
}

fn set(expected: u64, new: u64, done: bool, from: u64, to: u64) -> Made {
    let action = Action::CompareAndSet { expected, new };
    answered(action, Answer::Set(done), from, to)
}

fn unknown(action: Action, from: u64) -> Made {
    let end = End::Unknown;
    Made { action, from, end }
}

/// A history of one key; the commands are numbered from 0 on as in `all`.
fn history(all: &[Made]) -> History {
    let mut events = Vec::new();
    for (id, one) in all.iter().enumerate() {
        events.push((one.from, id, false));
        match one.end {
            End::Answered(_, to) => events.push((to, id, true)),
            End::Refused => events.push((one.from, id, true)),
            End::Unknown => {}
        }
    }
    events.sort_unstable();
    let mut history = History::default();
    let mut numbers = vec![None; all.len()];
    for (_, id, is_end) in events {
        let (action, key) = (all[id].action, 7);
        let observed = Observation { key, action };
        match (numbers[id], is_end, all[id].end) {
            (Some(nth), true, End::Answered(answer, _)) => history.answer(nth, answer),
            (Some(nth), true, _) => history.refuse(nth),
            _ => numbers[id] = Some(history.invoke(id as u64, id as u64, observed)),
        }
    }
    history
}

/// What the log says of it: commands by their number in the order in which they took effect.
fn by_log(history: &History, shown: &[Shown], order: &[usize]) -> Result<(), String> {
    let place = |id| {
        let at = order.iter().position(|one| *one as u64 == id);
        at.map(|at| at as u64 + 1)
    };
    super::by_log::judge(history, shown, place)
}

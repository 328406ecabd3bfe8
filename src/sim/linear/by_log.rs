//! The judge of long histories: the log is the explanation, if it is one.

use std::collections::HashMap;

use super::history::{Event, History, Operation, Outcome};
use super::local::Shown;

/// Checks, in one pass over the events and one over the log, that the log's order respects real
/// time (what is invoked after another was answered comes later) and that a replay in that order
/// gives every answer. `place` tells where in the log a command took effect, if it did.
pub(super) fn judge(
    history: &History,
    shown: &[Shown],
    place: impl Fn(u64) -> Option<u64>,
) -> Result<(), String> {
    let operations = history.operations.iter();
    let places: Vec<_> = operations.map(|one| place(one.id)).collect();
    real_time(history, &places)?;
    replay(history, shown, &places)
}

fn real_time(history: &History, places: &[Option<u64>]) -> Result<(), String> {
    let at = |nth: usize| {
        let place = places.get(nth).copied().flatten();
        history.operations.get(nth).map(|one| (one, place))
    };
    let mut latest: Option<(u64, &Operation)> = None;
    for event in &history.events {
        match *event {
            Event::Invoked(nth) => {
                if let Some((one, Some(place))) = at(nth)
                    && let Some((before, other)) = latest
                    && place <= before
                {
                    return Err(format!(
                        "invoked after an answer and before it in the log, at {place} and \
                         {before}:\n{one}\n{other}"
                    ));
                }
            }
            Event::Answered(nth) => match at(nth) {
                Some((one, Some(place))) if latest.is_none_or(|(before, _)| before < place) => {
                    latest = Some((place, one));
                }
                Some((one, None)) => return Err(format!("answered and not in the log:\n{one}")),
                _ => {}
            },
        }
    }
    Ok(())
}

/// What happens at one place of the log.
#[derive(Clone, Default)]
struct Place<'a> {
    operation: Option<&'a Operation>,
    /// Views that show the log up to here.
    shown: Vec<&'a Shown>,
}

fn replay(history: &History, shown: &[Shown], places: &[Option<u64>]) -> Result<(), String> {
    let seen = shown.iter().map(|view| view.place);
    let last = places.iter().flatten().copied().chain(seen).max();
    let mut log = vec![Place::default(); last.map_or(0, |last| last as usize + 1)];
    for (one, place) in history.operations.iter().zip(places) {
        let Some(slot) = place.and_then(|place| log.get_mut(place as usize)) else {
            continue;
        };
        if one.outcome == Outcome::Refused {
            return Err(format!("refused and in the log:\n{one}"));
        }
        if let Some(other) = slot.operation.replace(one) {
            return Err(format!("at one place of the log:\n{one}\n{other}"));
        }
    }
    for view in shown {
        if let Some(slot) = log.get_mut(view.place as usize) {
            slot.shown.push(view);
        }
    }
    // By key: the value, and the operation that made it.
    let mut registers: HashMap<u64, (u64, Option<&Operation>)> = HashMap::new();
    for slot in &log {
        if let Some(one) = slot.operation {
            let register = registers.entry(one.key).or_default();
            let next = match one.outcome {
                Outcome::Answered(answer, _) => one.action.answered(register.0, answer),
                _ => Some(one.action.apply(register.0).0),
            };
            let Some(next) = next else {
                return Err(format!("{}\n{one}", holds(one.key, *register)));
            };
            if next != register.0 {
                *register = (next, Some(one));
            }
        }
        for view in &slot.shown {
            let register = registers.get(&view.key).copied().unwrap_or_default();
            if register.0 != view.value {
                return Err(format!("{}\n{view}", holds(view.key, register)));
            }
        }
    }
    Ok(())
}

fn holds(key: u64, (value, writer): (u64, Option<&Operation>)) -> String {
    let by = writer.map_or_else(String::new, |writer| format!(" by\n{writer}"));
    format!("by the log key {key} holds {value}{by}\nwhich does not give")
}

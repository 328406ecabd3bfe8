//! Whether what clients saw can be explained by registers that change at one moment between each
//! call and its answer: linearizability (Herlihy and Wing, 1990).
//!
//! Two judges that know different things. [`search`] sees only what the clients saw, and looks for
//! an order that explains it; that is hard in general, so it is for short histories. [`by_log`]
//! knows the order, from the log, and checks in one pass that it is such an explanation; it is for
//! histories of any length. A mistake in what the simulator believes of the log deceives only the
//! second, a history too long only the first.

mod by_log;
mod history;
mod local;
mod search;

#[cfg(test)]
mod tests;

pub(crate) use history::History;
pub use history::{Action, Answer, Observation};
pub(crate) use local::{LocalReads, Shown};
use search::Verdict;

/// Keys with more operations than this are left to [`by_log`].
const SHORT: usize = 1_000;
/// How far [`search`] goes for one key. A search that needs more is left to [`by_log`], too.
const STEPS: usize = 20_000;

/// Judges a history whose commands took effect at the places that `place` tells, and reads of
/// views at places of that log. Keys are searched one by one: a history is linearizable exactly
/// when the part of each key is (theorem 1 of Herlihy and Wing).
pub(crate) fn judge(
    history: &History,
    reads: &LocalReads,
    place: impl Fn(u64) -> Option<u64>,
) -> Result<(), String> {
    for (key, operations) in history.by_key() {
        if operations.len() > SHORT {
            continue;
        }
        if let Verdict::Violation(stuck) = search::search(&operations, STEPS) {
            return Err(format!("S16/S17: key {key} is not linearizable: {stuck}"));
        }
    }
    by_log::judge(history, reads.shown(), place).map_err(|why| format!("S16/S17: {why}"))
}

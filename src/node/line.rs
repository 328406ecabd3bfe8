//! Proposals that keep their order: none enters a log after one before it did not.
//!
//! A line lives where its proposals are made. What of it is passed on stands in a line at the leader
//! too, by number and place: the leader takes places only one after the other, so one that got lost on
//! the way, or was refused, stops all behind it there, whatever connection they come by.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::network::InLine;
use crate::types::NodeId;

/// Lines of other nodes that are remembered before those that nobody waits in are forgotten. A place
/// in one that is forgotten is refused.
const REMEMBERED: usize = 1024;

/// Those who keep their order.
#[derive(Debug)]
pub(crate) struct Line {
    next: AtomicU64,
    /// How many have an answer, of those that certainly were appended.
    answered: AtomicU64,
    /// The first place whose command did not enter the log.
    broken: AtomicU64,
    way: Way,
}

/// Where its proposals go; only the driver looks at it.
#[derive(Debug, Default)]
struct Way {
    /// Its number at the leader; 0: into the log of this node.
    number: AtomicU64,
    to: AtomicU64,
    /// The place that is the first of that number.
    first: AtomicU64,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            broken: AtomicU64::new(u64::MAX),
            way: Way::default(),
        }
    }
}

impl Line {
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn break_at(&self, place: u64) {
        self.broken.fetch_min(place, Ordering::AcqRel);
    }
}

/// One place in a line.
#[derive(Debug)]
pub(crate) struct InOrder {
    line: Arc<Line>,
    place: u64,
}

impl InOrder {
    /// At the end of a line.
    pub(crate) fn behind(line: &Arc<Line>) -> Self {
        let place = line.next();
        Self {
            line: Arc::clone(line),
            place,
        }
    }

    /// Whether one before it did not enter the log.
    pub(crate) fn is_overtaking(&self) -> bool {
        self.place > self.line.broken.load(Ordering::Acquire)
    }

    /// It did not enter the log, or nobody knows: nothing behind it may.
    pub(crate) fn break_off(&self) {
        self.line.break_at(self.place);
    }

    /// It certainly was appended, and has its answer.
    pub(crate) fn answered(&self) {
        self.line.answered.fetch_add(1, Ordering::Release);
    }

    /// Whether all before it have an answer. Then those are in a log, unless the line is broken, which
    /// is to be asked afterwards.
    fn is_first(&self) -> bool {
        self.line.answered.load(Ordering::Acquire) == self.place
    }

    /// Whether it may enter the log of this node now. Not while others of its line are on their way to
    /// another: then the line is broken here.
    pub(crate) fn may_enter_here(&self) -> bool {
        let number = &self.line.way.number;
        if number.load(Ordering::Relaxed) != 0 {
            if !self.is_first() {
                self.break_off();
                return false;
            }
            number.store(0, Ordering::Relaxed);
        }
        !self.is_overtaking()
    }

    /// Its place in the line at `to`; none, and the line is broken here, if others of the line are
    /// on their way elsewhere, or were refused.
    pub(crate) fn place_at(&self, to: NodeId) -> Option<InLine> {
        let way = &self.line.way;
        let on_its_way = way.number.load(Ordering::Relaxed);
        if self.is_first() {
            way.number.store(new_number(), Ordering::Relaxed);
            way.to.store(to, Ordering::Relaxed);
            way.first.store(self.place, Ordering::Relaxed);
        } else if on_its_way == 0 || way.to.load(Ordering::Relaxed) != to {
            self.break_off();
            return None;
        }
        (!self.is_overtaking()).then(|| InLine {
            number: way.number.load(Ordering::Relaxed),
            place: self.place - way.first.load(Ordering::Relaxed),
        })
    }
}

/// Another for each line, also after a restart. Never 0.
fn new_number() -> u64 {
    static FIRST: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let first = FIRST.get_or_init(|| RandomState::new().hash_one(0_u8) >> 1);
    first + COUNT.fetch_add(1, Ordering::Relaxed)
}

/// The lines of other nodes whose proposals come in here.
#[derive(Debug, Default)]
pub(crate) struct Lines(HashMap<(NodeId, u64), Arc<Line>>);

impl Lines {
    /// The place of a proposal that `from` passed on; none if it is not the next of its line.
    pub(crate) fn enter(&mut self, from: NodeId, at: InLine) -> Option<InOrder> {
        if at.place == 0 && self.0.len() >= REMEMBERED {
            self.0.retain(|_, line| Arc::strong_count(line) > 1);
        }
        let key = (from, at.number);
        let line = match at.place {
            0 if self.0.contains_key(&key) => return None,
            0 => self.0.entry(key).or_default(),
            _ => self.0.get(&key)?,
        };
        if line.next.load(Ordering::Relaxed) != at.place {
            return None;
        }
        Some(InOrder::behind(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, place: u64) -> InLine {
        InLine { number, place }
    }

    #[test]
    fn f3_a_line_at_the_leader_takes_one_place_after_the_other() {
        let mut lines = Lines::default();
        assert!(lines.enter(1, at(7, 1)).is_none(), "its first is missing");
        let first = lines.enter(1, at(7, 0)).expect("the first");
        assert!(lines.enter(1, at(7, 0)).is_none(), "once");
        assert!(lines.enter(1, at(7, 2)).is_none(), "one was lost");
        let second = lines.enter(1, at(7, 1)).expect("the second");
        assert!(!second.is_overtaking());
        first.break_off();
        assert!(second.is_overtaking() && !first.is_overtaking());
        assert!(lines.enter(2, at(7, 1)).is_none(), "of another node");
        let other = lines.enter(2, at(7, 0)).expect("another line");
        assert!(!other.is_overtaking());
    }

    #[test]
    fn h3_lines_that_nobody_waits_in_are_forgotten() {
        let mut lines = Lines::default();
        let held = lines.enter(1, at(1, 0));
        for number in 2..10 * REMEMBERED as u64 {
            lines.enter(1, at(number, 0)).expect("another");
            assert!(lines.0.len() <= REMEMBERED);
        }
        drop(held);
        let next = lines.enter(1, at(1, 1));
        assert!(next.is_some(), "somebody waited in this one");
    }

    #[test]
    fn f3_a_line_changes_its_way_only_between_answers() {
        let line = Arc::default();
        let place = || InOrder::behind(&line);
        let first = place();
        let number = first.place_at(2).expect("nothing is under way").number;
        let second = place();
        assert_eq!(second.place_at(2), Some(at(number, 1)));
        first.answered();
        second.answered();
        let third = place();
        let other = third.place_at(3).expect("all before are answered");
        assert!(other.place == 0 && other.number != number);
        third.answered();
        let here = place();
        assert!(here.may_enter_here());
        let fifth = place();
        assert!(fifth.may_enter_here(), "the way is the same");
        let sixth = place();
        assert_eq!(sixth.place_at(2), None, "two are under way here");
        assert!(place().is_overtaking());
        let line = Arc::default();
        let there = InOrder::behind(&line);
        assert!(there.place_at(2).is_some());
        let next = InOrder::behind(&line);
        assert!(!next.may_enter_here(), "one is under way there");
        assert_eq!(InOrder::behind(&line).place_at(2), None);
    }
}

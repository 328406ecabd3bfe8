//! What was changed by entries that were applied together, and the history of that.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::state_machine::Changes;
use crate::types::LogIndex;

/// Changes that became readable together.
pub(super) type Segment = Arc<Changes>;

/// The newest changes, up to a number of bytes.
pub(super) struct History {
    limit: usize,
    /// Every change after this index is here.
    start: LogIndex,
    segments: VecDeque<Segment>,
    /// Number of the first of them.
    first: u64,
    bytes: usize,
}

impl History {
    pub(super) fn new(start: LogIndex, limit: usize) -> Self {
        Self {
            limit,
            start,
            segments: VecDeque::new(),
            first: 0,
            bytes: 0,
        }
    }

    /// Nothing of what was is of use any more; what comes follows on `start`.
    pub(super) fn clear(&mut self, start: LogIndex) {
        self.start = start;
        self.first = self.next();
        self.segments.clear();
        self.bytes = 0;
    }

    /// Returns the number that the segment has from here on.
    pub(super) fn push(&mut self, changes: Changes) -> u64 {
        let number = self.next();
        self.bytes += changes.size();
        self.segments.push_back(Arc::new(changes));
        while self.bytes > self.limit
            && let Some(oldest) = self.segments.pop_front()
        {
            self.bytes -= oldest.size();
            self.first += 1;
            self.start = last_index(&oldest).unwrap_or(self.start);
        }
        number
    }

    /// The number that the next segment gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.segments.len() as u64
    }

    pub(super) fn start(&self) -> LogIndex {
        self.start
    }

    /// None if there is no such segment any more, or not yet.
    pub(super) fn get(&self, number: u64) -> Option<&Segment> {
        let nth = number.checked_sub(self.first)?;
        self.segments.get(usize::try_from(nth).ok()?)
    }

    /// The number of the first segment with a change after `index`.
    pub(super) fn after(&self, index: LogIndex) -> u64 {
        let older = |segment: &Segment| last_index(segment) <= Some(index);
        self.first + self.segments.partition_point(older) as u64
    }
}

fn last_index(changes: &Changes) -> Option<LogIndex> {
    changes.iter().next_back().map(|change| change.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::Cause;

    fn changes(indices: std::ops::RangeInclusive<u64>, bytes: usize) -> Changes {
        let mut changes = Changes::heard(false);
        for index in indices {
            changes.begin(index, index);
            changes.put(Cause::Command, "/a", |out| out.resize(out.len() + bytes, 0));
            changes.end();
        }
        changes
    }

    #[test]
    fn the_history_is_bounded_and_says_where_it_begins() {
        let mut history = History::new(10, 10_000);
        assert_eq!(history.push(changes(11..=12, 3000)), 0);
        assert_eq!(
            (history.start(), history.after(10), history.after(11)),
            (10, 0, 0)
        );
        assert_eq!(history.after(12), 1);
        assert_eq!(history.push(changes(13..=13, 6000)), 1);
        assert_eq!(history.start(), 12);
        assert!(history.get(0).is_none() && history.get(1).is_some());
        assert!(history.bytes <= 10_000);
        // One that is larger than all that is kept is not kept either.
        assert_eq!(history.push(changes(14..=14, 20_000)), 2);
        assert_eq!((history.start(), history.bytes), (14, 0));
        assert!(history.get(2).is_none());
        assert_eq!(history.push(changes(20..=20, 1)), 3);
        history.clear(30);
        assert_eq!((history.start(), history.next(), history.bytes), (30, 4, 0));
    }
}

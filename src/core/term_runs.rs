//! The log as the core knows it: runs of equal terms, never payloads.

use crate::types::{LogId, LogIndex, Term};

/// Terms of the entries after the snapshot, as runs.
#[derive(Clone, Debug, Default)]
pub(super) struct TermRuns {
    snapshot: LogId,
    last: LogIndex,
    /// Term and first index of each run, rising in both.
    runs: Vec<LogId>,
}

impl TermRuns {
    pub(super) fn new(snapshot: LogId, last: LogIndex, runs: Vec<LogId>) -> Self {
        Self {
            snapshot,
            last: last.max(snapshot.index),
            runs,
        }
    }

    pub(super) fn snapshot(&self) -> LogId {
        self.snapshot
    }

    pub(super) fn last(&self) -> LogId {
        let term = self.runs.last().map_or(self.snapshot.term, |run| run.term);
        LogId::new(term, self.last)
    }

    /// Term of the entry at `index`; `None` when it is not in the log. Index 0 has term 0.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.snapshot.index || index > self.last {
            return None;
        }
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        after.checked_sub(1).map(|run| self.runs[run].term)
    }

    /// Appends `count` entries of `term`.
    pub(super) fn append(&mut self, term: Term, count: u64) {
        if self.runs.last().is_none_or(|run| run.term != term) {
            self.runs.push(LogId::new(term, self.last + 1));
        }
        self.last += count;
    }

    /// Drops `from` and all after it.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        let keep = self.runs.partition_point(|run| run.index < from);
        self.runs.truncate(keep);
        self.last = self.last.min(from - 1).max(self.snapshot.index);
    }

    /// Lets the log begin after `start`, which it holds.
    pub(super) fn compact(&mut self, start: LogId) {
        let gone = self.runs.partition_point(|run| run.index <= start.index);
        let running = gone.saturating_sub(1);
        self.runs.drain(..running);
        if gone > 0
            && let Some(first) = self.runs.first_mut()
        {
            first.index = start.index + 1;
        }
        let ends = self.runs.get(1).map_or(self.last + 1, |next| next.index);
        if gone > 0 && ends <= start.index + 1 {
            self.runs.remove(0);
        }
        self.snapshot = start;
    }

    /// The highest entry at or below `index` whose term is at most `term`: where two logs that
    /// differ at `index` may still agree. One step skips a whole term (Raft paper, section 5.3).
    pub(super) fn agreement_below(&self, index: LogIndex, term: Term) -> LogId {
        let index = index.min(self.last);
        let below = self
            .runs
            .iter()
            .rev()
            .find(|run| run.index <= index && run.term <= term);
        let Some(run) = below else {
            return self.snapshot;
        };
        let next = self.runs.iter().find(|other| other.index > run.index);
        let end = next.map_or(self.last, |other| other.index - 1);
        LogId::new(run.term, end.min(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(terms: &[Term]) -> TermRuns {
        let mut log = TermRuns::default();
        terms.iter().for_each(|&term| log.append(term, 1));
        log
    }

    #[test]
    fn runs_answer_like_a_list_of_terms() {
        let terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
        let mut log = log(&terms);
        for cut in (0..=terms.len()).rev() {
            log.truncate(cut as LogIndex + 1);
            let term = cut.checked_sub(1).map_or(0, |at| terms[at]);
            assert_eq!(log.last(), LogId::new(term, cut as LogIndex));
            for (at, &term) in terms.iter().enumerate() {
                let expected = (at < cut).then_some(term);
                assert_eq!(log.term_at(at as LogIndex + 1), expected);
            }
            assert_eq!(log.term_at(0), Some(0));
        }
    }

    #[test]
    fn nothing_below_the_snapshot_is_known() {
        // The first run may have begun before it.
        for first in [3, 6] {
            let mut log = TermRuns::new(LogId::new(2, 5), 7, vec![LogId::new(2, first)]);
            let terms = (3..=8).map(|index| log.term_at(index));
            let known = [None, None, Some(2), Some(2), Some(2), None];
            assert_eq!(terms.collect::<Vec<_>>(), known);
            assert_eq!(log.agreement_below(9, 3), LogId::new(2, 7));
            assert_eq!(log.agreement_below(9, 1), log.snapshot());
            log.append(4, 2);
            assert_eq!((log.last(), log.term_at(8)), (LogId::new(4, 9), Some(4)));
            log.truncate(1);
            assert_eq!(log.last(), log.snapshot());
        }
        let shorter = TermRuns::new(LogId::new(2, 5), 0, Vec::new());
        assert_eq!(shorter.last(), LogId::new(2, 5));
    }

    #[test]
    fn a_compacted_log_answers_the_same_above_its_start() {
        let terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
        for start in 1..=terms.len() as u64 {
            let mut log = log(&terms);
            log.compact(LogId::new(terms[start as usize - 1], start));
            for index in 1..=12 {
                let expected = terms.get(index as usize - 1).copied();
                let expected = expected.filter(|_| index >= start);
                assert_eq!(log.term_at(index), expected, "start {start}, index {index}");
            }
            assert_eq!(log.last(), LogId::new(6, 10));
            let runs = log.runs.iter().all(|run| run.index > start);
            assert!(runs && log.runs.is_sorted_by(|a, b| a.index < b.index));
            log.append(6, 1);
            log.append(7, 1);
            assert_eq!(log.term_at(11), Some(6));
            assert_eq!(log.last(), LogId::new(7, 12));
        }
    }

    #[test]
    fn agreement_is_the_highest_entry_of_no_later_term() {
        let terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
        let log = log(&terms);
        for index in 0..=12u64 {
            for term in 0..=7u64 {
                let expected = (1..=index.min(10))
                    .rev()
                    .find(|&i| terms[i as usize - 1] <= term);
                let found = log.agreement_below(index, term);
                assert_eq!(
                    found.index,
                    expected.unwrap_or(0),
                    "index {index} term {term}"
                );
                assert_eq!(log.term_at(found.index), Some(found.term));
            }
        }
    }
}

//! From the inbox into the log: what fits, what waits, what is refused.

use super::{Cause, Driver, Now};
use crate::config::limits;
use crate::core::Input;
use crate::error::ProposeError;
use crate::network::RaftNetwork;
use crate::node::inbox::Submission;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, Micros, Term};
use crate::wal::{Medium, NewEntry};

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn propose(&mut self, now: Now, proposals: &mut Vec<Submission<S::Response>>) {
        if proposals.is_empty() && self.pending.is_empty() {
            return;
        }
        let waiting = self.pending.len() + proposals.len();
        self.most_queued = self.most_queued.max(waiting);
        if !self.core.is_leader() || self.stopping || self.failure.is_some() {
            let error = self.refusal();
            let refused = self.pending.drain(..).chain(proposals.drain(..));
            let refused: Vec<_> = refused.collect();
            return refused
                .into_iter()
                .for_each(|submission| self.pass_on_or_refuse(now, submission, &error));
        }
        if self.core.is_handing_over() {
            // What is appended now would only hold the successor up.
            return self.keep_waiting(proposals);
        }
        if self.pending.is_empty() && self.all_fit(proposals) {
            return self.append(now, proposals);
        }
        self.keep_waiting(proposals);
        let count = self.fitting();
        proposals.extend(self.pending.drain(..count));
        self.append(now, proposals);
        self.shed();
    }

    /// Why nothing can be proposed here.
    pub(super) fn refusal(&self) -> ProposeError {
        match &self.failure {
            Some(why) => ProposeError::Failed(why.clone()),
            None if self.stopping => ProposeError::ShuttingDown,
            None => ProposeError::NotLeader(self.shared.brief().leader_hint()),
        }
    }

    pub(super) fn room(&self) -> usize {
        let budget = limits::MAX_UNCOMMITTED.saturating_sub(self.uncommitted_bytes);
        self.log.ready_bytes().min(budget)
    }

    pub(super) fn all_fit(&self, proposals: &[Submission<S::Response>]) -> bool {
        let bytes: usize = proposals.iter().map(Submission::frame_len).sum();
        bytes <= self.room()
    }

    /// How many of the pending fit the prepared part of the log and the budget.
    pub(super) fn fitting(&self) -> usize {
        let mut room = self.room();
        let fits = self.pending.iter().take_while(|submission| {
            let left = room.checked_sub(submission.frame_len());
            room = left.unwrap_or(0);
            left.is_some()
        });
        fits.count()
    }

    fn keep_waiting(&mut self, proposals: &mut Vec<Submission<S::Response>>) {
        for submission in proposals.drain(..) {
            self.wait_for_room(submission);
        }
    }

    pub(super) fn wait_for_room(&mut self, submission: Submission<S::Response>) {
        self.pending_due = self.pending_due.min(submission.waiter.deadline);
        self.pending.push_back(submission);
    }

    /// What found no room until its deadline never will enter the log.
    pub(super) fn expire_pending(&mut self, now: Micros) {
        if now < self.pending_due {
            return;
        }
        self.pending_due = Micros::MAX;
        for submission in std::mem::take(&mut self.pending) {
            if submission.waiter.deadline > now {
                self.wait_for_room(submission);
            } else {
                submission.waiter.answer(Err(ProposeError::Deadline));
            }
        }
    }

    /// What did not fit waits for room to be prepared, unless the disk is full or the budget is
    /// used up: then it is refused, since memory is no place to queue.
    pub(super) fn shed(&mut self) {
        let budget = if self.log.disk_full() {
            Some("the disk")
        } else if self.uncommitted_bytes >= limits::MAX_UNCOMMITTED / 2 {
            Some("the budget for uncommitted entries")
        } else {
            None
        };
        if let Some(budget) = budget {
            for submission in self.pending.drain(..) {
                let error = ProposeError::Overloaded {
                    budget,
                    retry_after_ms: 50,
                };
                submission.waiter.answer(Err(error));
            }
        }
    }

    pub(super) fn append(&mut self, now: Now, proposals: &mut Vec<Submission<S::Response>>) {
        let overtaking = |submission: &mut Submission<_>| !submission.waiter.may_enter_here();
        for submission in proposals.extract_if(.., overtaking) {
            submission.waiter.answer(Err(ProposeError::Overtaking));
        }
        if !proposals.is_empty() {
            let count = proposals.len() as u32;
            self.step(now, Input::Propose { count }, Cause::Proposals(proposals));
        }
    }

    pub(super) fn take_proposals(
        &mut self,
        now: Now,
        first: LogIndex,
        term: Term,
        entries: &mut Vec<NewEntry>,
        cause: &mut Cause<'_, S::Response>,
    ) {
        let Cause::Proposals(proposals) = cause else {
            return;
        };
        let count = proposals.len() as u64;
        self.batches.record(count as f64);
        let time_us = self.log_time.at(now);
        let mut bytes = 0;
        let mut index = first;
        let traces = &mut self.traces;
        let waiters = proposals.drain(..).map(|mut submission| {
            if let Some(trace) = &mut submission.waiter.trace {
                traces.appending(trace, term, index);
            }
            index += 1;
            bytes += submission.frame_len();
            entries.push(NewEntry {
                kind: submission.kind,
                time_us,
                payload: submission.payload,
            });
            submission.waiter
        });
        self.shared.waiters.add(first, term, waiters);
        self.uncommitted.push_back((first + count - 1, bytes));
        self.uncommitted_bytes += bytes;
    }
}

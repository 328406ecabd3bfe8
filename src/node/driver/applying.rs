//! Handing what is committed to the state machine.

use std::sync::Arc;

use super::{APPLY_BACKLOG, APPLY_PIECE, Cause, DUE_INTERVAL, Driver, Now};
use crate::network::RaftNetwork;
use crate::node::applier::ApplyJob;
use crate::state_machine::StateMachine;
use crate::types::LogIndex;
use crate::wal::Medium;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn committed(&mut self, index: LogIndex) {
        self.shared.set_commit(index);
        self.traces.committed(&self.shared.waiters, index);
        while let Some((_, bytes)) = self.uncommitted.pop_front_if(|(last, _)| *last <= index) {
            self.uncommitted_bytes -= bytes;
        }
    }

    /// Hands committed entries to the applier, within a bounded backlog (hazard H2).
    pub(super) fn dispatch(&mut self, now: Now) {
        let applied = self.shared.applied_index();
        while self
            .backlog
            .pop_front_if(|(last, _)| *last <= applied)
            .is_some()
        {}
        let mut bytes: usize = self.backlog.iter().map(|(_, bytes)| bytes).sum();
        let end = self.may_apply();
        while self.dispatched < end
            && bytes < APPLY_BACKLOG
            && self.failure.is_none()
            && !self.core.is_installing()
        {
            match self.log.read(self.dispatched + 1, end, APPLY_PIECE) {
                Ok(read) => {
                    self.dispatched = read.last;
                    self.backlog.push_back((read.last, read.bytes));
                    bytes += read.bytes;
                    self.snapshots.note_applying(read.last, read.bytes);
                    (self.apply)(ApplyJob::Entries {
                        runs: read.runs,
                        last: read.last,
                    });
                }
                Err(error) => {
                    self.fail(now, format!("cannot read committed entries: {error}"));
                    self.carry_out_all(now, &mut Cause::Other);
                }
            }
        }
        self.shared
            .set_apply_is_behind(self.dispatched < self.core.commit());
    }

    pub(super) fn ask_what_is_due(&mut self, now: Now) {
        if now.mono < self.next_due || !self.core.is_leader() || self.stopping {
            return;
        }
        self.next_due = now.mono + DUE_INTERVAL;
        let shared = Arc::clone(&self.shared);
        let found = Box::new(move |command| shared.propose_due(&command));
        (self.apply)(ApplyJob::Due {
            time_us: self.log_time.at(now),
            found,
        });
    }
}

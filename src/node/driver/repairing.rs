//! A log under repair: the core decides when it is whole again, the log keeps that.

use super::{Cause, Driver, Now};
use crate::core::Input;
use crate::network::RaftNetwork;
use crate::state_machine::StateMachine;
use crate::types::{LogId, WriteId};
use crate::wal::Medium;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn repair(&mut self, now: Now, id: WriteId, floor: Option<LogId>) {
        let written = match floor {
            Some(floor) => {
                tracing::info!(node = self.shared.me.node, %floor, "the repair ends there");
                self.log.set_repair_floor(id, now.mono, floor)
            }
            None => self.log.end_repair(id, now.mono),
        };
        if let Err(error) = written {
            self.fail(now, error.to_string());
        }
    }

    /// Asks the leader where the repair ends, until it is known; and tells when it has ended.
    pub(super) fn see_to_repair(&mut self, now: Now) {
        if self.facts.repairing && !self.core.is_repairing() {
            tracing::info!(node = self.shared.me.node, "the log is whole again");
            self.advice = None;
            self.tell_facts();
        }
        if self.core.seeks_floor() && now.mono >= self.next_floor {
            self.next_floor = now.mono + 2 * self.core.heartbeat_interval();
            let id = self.reads.next_attempt();
            self.step(now, Input::Read { id }, Cause::Other);
        }
    }
}

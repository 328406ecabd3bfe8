//! Entries that no state machine applies, since the cluster agreed so (hazard G2).
//!
//! The configuration lists them, so it is known before they are reached: at a start from the log, and
//! from a snapshot. Whoever reaches one while the skip is in its log and not known to be committed
//! waits until it is, or is dropped.

use super::{Driver, Now};
use crate::core::Input;
use crate::network::RaftNetwork;
use crate::node::applier::ApplyJob;
use crate::state_machine::StateMachine;
use crate::types::LogIndex;
use crate::wal::Medium;

/// What the applier knows of.
#[derive(Debug, Default)]
pub(super) struct Skips {
    told: Vec<LogIndex>,
    /// A snapshot below this index could hold the entry, for all that one can tell of it.
    settled_at: LogIndex,
}

impl Skips {
    /// Whether a snapshot of the state at `applied` says of itself what it lacks.
    pub(super) fn allow_snapshot(&self, applied: LogIndex) -> bool {
        applied >= self.settled_at
    }
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// The state that the applier starts from came with the configuration of a snapshot.
    pub(super) fn begin_skips(&mut self) {
        let applied = self.core.applied();
        let known = self.core.committed_configuration();
        if let Some((_, known)) = known.filter(|(index, _)| *index <= applied) {
            self.skips.told.clone_from(&known.skipped);
        }
    }

    /// Tells the applier what was committed to be skipped, before anything else is handed to it.
    pub(super) fn tell_skips(&mut self) {
        if self.core.is_installing() {
            // The state that is put in place says what it lacks.
            return;
        }
        let Some((index, committed)) = self.core.committed_configuration().cloned() else {
            return;
        };
        for skipped in &committed.skipped {
            if !self.skips.told.contains(skipped) {
                self.skips.told.push(*skipped);
                self.skips.settled_at = index;
                (self.apply)(ApplyJob::Skip(*skipped));
                if self.core.quarantined() == Some(*skipped) {
                    self.failure = Some(format!(
                        "the state machine stopped at entry {skipped}, which the cluster skips by \
                         now: restart this node"
                    ));
                }
            }
        }
    }

    /// What is committed and may be applied.
    pub(super) fn may_apply(&self) -> LogIndex {
        let wished = self.core.configuration().into_iter();
        let wished = wished.flat_map(|newest| newest.skipped.iter());
        let open = wished.filter(|index| !self.skips.told.contains(index));
        let first = open.min().map_or(LogIndex::MAX, |index| index - 1);
        self.core.commit().min(first.max(self.dispatched))
    }

    /// The state machine stopped at an entry; the log goes on (see the core's `quarantine`).
    pub(super) fn quarantine(&mut self, now: Now, index: LogIndex, reason: String) {
        if self.failure.is_some() {
            return;
        }
        tracing::error!(
            node = self.shared.me.node,
            index,
            reason,
            "the state machine has stopped"
        );
        self.shared.waiters.abandon_above(self.dispatched);
        self.failure = Some(format!(
            "{reason}; nothing is lost: mend the program and restart it, or have the cluster skip \
             entry {index} (`conveyor-raft members skip {index}`, or `RaftNode::skip_entry` on the \
             leader) and restart"
        ));
        self.core
            .step(now.mono, Input::Quarantine { index }, &mut self.scratch);
        self.outputs.extend(self.scratch.drain(..));
    }
}

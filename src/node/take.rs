//! A snapshot on demand.

use std::time::Duration;

use super::handle::RaftNode;
use super::inbox::Request;
use crate::error::WaitError;
use crate::state_machine::StateMachine;
use crate::types::LogId;

/// How often it is looked whether it is there.
const LOOK: Duration = Duration::from_millis(5);

impl<S: StateMachine> RaftNode<S> {
    /// Takes a snapshot of this node's state now, whatever its settings say, and returns the last entry
    /// that the newest one stands for, once it holds everything that was applied when this was called.
    ///
    /// # Errors
    /// If that takes longer than `deadline`, or the node has stopped.
    pub async fn take_snapshot(&self, deadline: Duration) -> Result<LogId, WaitError> {
        // There is no snapshot of nothing: who has applied nothing yet takes one once it has.
        let wanted = self.applied_index().max(1);
        let taken = async {
            loop {
                let status = self.status();
                if let Some(last) = status.snapshot.filter(|last| last.index >= wanted) {
                    return Ok(last);
                }
                if status.stopping || status.failure.is_some() {
                    return Err(WaitError::Stopped);
                }
                // Asked again each time: one that could not be written is tried again.
                self.shared()
                    .inbox
                    .put(|lanes| lanes.requests.push(Request::Snapshot(wanted)));
                tokio::time::sleep(LOOK).await;
            }
        };
        let late = || WaitError::Deadline {
            wanted,
            applied: self.status().snapshot.map_or(0, |last| last.index),
        };
        tokio::time::timeout(deadline, taken)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

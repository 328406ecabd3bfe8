//! Reads through the handle, each with a stated consistency.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::handle::{DEFAULT_DEADLINE, RaftNode};
use super::inbox::ReadWaiter;
use super::live::Applied;
use crate::config::limits;
use crate::error::{ReadError, WaitError};
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, Micros};

/// What a read reflects. Every answer names the index that it reflects
/// ([`Applied::id`](super::Applied)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadConsistency {
    /// What this node has applied: stale without a bound where it is cut off. Waits for nobody else.
    Local,
    /// At least this index, such as that of a write of one's own.
    AtLeast(LogIndex),
    /// As linearizable, without asking anybody while this node leads and holds a lease; otherwise
    /// as `Linearizable`. Rests on the bound that
    /// [`NodeBuilder::lease_reads`](super::NodeBuilder::lease_reads) states for the clocks.
    Lease,
    /// Everything acknowledged to anyone before the read was asked for. A quorum confirms the
    /// leader, one round for all reads that wait; a follower asks its leader.
    #[default]
    Linearizable,
}

/// Options of one read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What it reflects.
    pub consistency: ReadConsistency,
    /// Give up after this long; 5 s when absent. The answer comes within a heartbeat of it.
    pub deadline: Option<Duration>,
}

impl<S: StateMachine> RaftNode<S> {
    /// The state with the index that it reflects, on any node. Waits 5 s at most.
    ///
    /// # Errors
    /// See [`ReadError`]. Nothing was read.
    pub async fn read(
        &self,
        consistency: ReadConsistency,
    ) -> Result<Arc<Applied<S::View>>, ReadError> {
        let deadline = None;
        self.read_with(ReadOptions {
            consistency,
            deadline,
        })
        .await
    }

    /// [`read`](Self::read) with options.
    ///
    /// # Errors
    /// As `read`.
    pub async fn read_with(
        &self,
        options: ReadOptions,
    ) -> Result<Arc<Applied<S::View>>, ReadError> {
        let patience = options.deadline.unwrap_or(DEFAULT_DEADLINE);
        let shared = self.shared();
        shared.reads.count(options.consistency);
        let until = shared
            .clock
            .now()
            .saturating_add(patience.as_micros() as Micros);
        let index = match options.consistency {
            ReadConsistency::Local => return Ok(self.applied()),
            ReadConsistency::AtLeast(index) => index,
            ReadConsistency::Lease => match shared.lease_index(|| shared.clock.now()) {
                Some(index) => index,
                None => self.read_index(until).await?,
            },
            ReadConsistency::Linearizable => self.read_index(until).await?,
        };
        if shared.applied_index() >= index {
            let failed = || ReadError::Failed("its state machine panicked".to_owned());
            return shared.applied_from(index).ok_or_else(failed);
        }
        let left = until.saturating_sub(shared.clock.now());
        let applied = self.wait_applied(index, Duration::from_micros(left)).await;
        applied.map_err(|error| match error {
            WaitError::Deadline { .. } => ReadError::Deadline,
            WaitError::Stopped => ReadError::Stopped,
        })
    }

    /// The index that a linearizable read has to reflect.
    async fn read_index(&self, deadline: Micros) -> Result<LogIndex, ReadError> {
        let (reply, answer) = oneshot::channel();
        let taken = self.shared().inbox.put(|lanes| {
            if lanes.closed {
                return Err(ReadError::Stopped);
            }
            let room = lanes.reads.len() < limits::MAX_SUBMITTED;
            if room {
                lanes.reads.push(ReadWaiter { reply, deadline });
            }
            Ok(room)
        })?;
        if !taken {
            return Err(ReadError::Overloaded { retry_after_ms: 10 });
        }
        answer.await.unwrap_or(Err(ReadError::Stopped))
    }
}

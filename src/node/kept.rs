//! An older state and what was applied since: from these a replica whose state machine panicked half
//! way through an entry has again what it had answered for.

use bytes::Bytes;

use super::live::Live;
use super::sessions::Sessions;
use crate::entry::entries;
use crate::state_machine::{Changes, Frozen, StateMachine};
use crate::types::{LogId, LogIndex, Micros};

/// See the module.
pub(crate) struct Kept {
    frozen: Box<dyn Frozen>,
    sessions: Sessions,
    at: LogId,
    time_us: Micros,
    /// The entries since, whole frames. A copy: the log's own bytes would keep its segments mapped.
    since: Vec<u8>,
}

impl Kept {
    /// The state as it is. Panics if the state machine does.
    pub(crate) fn new<S: StateMachine>(live: &Live<S>) -> Self {
        Self {
            frozen: live.state.machine.freeze(),
            sessions: live.state.sessions.clone(),
            at: live.at,
            time_us: live.time_us,
            since: Vec::new(),
        }
    }

    /// These are about to be applied.
    pub(crate) fn add(&mut self, run: &[u8]) {
        self.since.extend_from_slice(run);
    }

    /// Bytes of the entries since.
    pub(crate) fn bytes(&self) -> usize {
        self.since.len()
    }

    /// Makes the state again as it was after entry `last`; entries that are `skipped` were not applied.
    /// Panics if the state machine does.
    ///
    /// # Errors
    /// If it cannot be written, restored or applied. The state is then half of something.
    pub(crate) fn rebuild<S: StateMachine>(
        self,
        live: &mut Live<S>,
        last: LogIndex,
        skipped: impl Fn(LogIndex) -> bool,
    ) -> Result<(), String> {
        let mut bytes = Vec::new();
        let written = self.frozen.write(&mut bytes);
        written.map_err(|error| error.to_string())?;
        let restored = live.state.machine.restore(&mut &bytes[..]);
        restored.map_err(|error| error.to_string())?;
        live.state.sessions = self.sessions;
        (live.at, live.time_us) = (self.at, self.time_us);
        for entry in entries(Bytes::from(self.since)) {
            let entry = entry.map_err(|error| error.to_string())?;
            if entry.id.index > last {
                break;
            }
            if !skipped(entry.id.index) {
                let nobody = &mut Changes::unheard();
                live.state.apply(&entry, live.time_us, nobody)?;
            }
            (live.at, live.time_us) = (entry.id, entry.time_us);
        }
        Ok(())
    }
}

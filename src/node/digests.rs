//! Digests of the state at some of the indexes, on their way from the applier to the driver.

use std::sync::{Mutex, PoisonError};

use crate::config::limits;
use crate::types::LogIndex;

/// More than so many are not kept: only the newest matter to those who compare.
const KEPT: usize = 64;

/// See the module.
pub(crate) struct StateDigests {
    /// One at every index that this number divides: the same on every member, or nothing is compared.
    pub(crate) every: u64,
    noted: Mutex<Vec<(LogIndex, u128)>>,
}

impl Default for StateDigests {
    fn default() -> Self {
        Self {
            every: limits::DIGEST_EVERY,
            noted: Mutex::default(),
        }
    }
}

impl StateDigests {
    /// Whether the state's digest at this index is wanted.
    pub(crate) fn wants(&self, index: LogIndex) -> bool {
        index.is_multiple_of(self.every)
    }

    /// The state that reflects all up to `index`, and nothing else, has this digest.
    pub(crate) fn note(&self, index: LogIndex, digest: u128) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push((index, digest));
        let surplus = noted.len().saturating_sub(KEPT);
        noted.drain(..surplus);
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> Vec<(LogIndex, u128)> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *noted)
    }
}

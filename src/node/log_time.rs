//! The clocks of a driver: the moment of a burst, and the time that entries carry.

use crate::types::Micros;

/// The moment of a burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The node's monotonic clock.
    pub(crate) mono: Micros,
    /// Microseconds since the Unix epoch; only a new leader's no-op looks at it.
    pub(crate) wall: Micros,
}

/// The leader's clock for entries: within a term the no-op's time plus monotonic time since, so
/// that a step of the wall clock moves nothing, and never backwards.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogTime {
    base: Micros,
    since: Micros,
}

impl LogTime {
    pub(super) fn begin_term(&mut self, last: Micros, now: Now) -> Micros {
        *self = Self {
            base: now.wall.max(last + 1),
            since: now.mono,
        };
        self.base
    }

    pub(super) fn at(&self, now: Now) -> Micros {
        self.base + now.mono.saturating_sub(self.since)
    }
}

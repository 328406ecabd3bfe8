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
    /// The time of the newest snapshot's last entry, which the log itself may not hold.
    covered: Micros,
}

impl LogTime {
    /// Everything up to an entry of this time is in a snapshot.
    pub(super) fn cover(&mut self, time_us: Micros) {
        self.covered = self.covered.max(time_us);
    }

    /// `last`: the time of the last entry in the log; 0 if there is none.
    pub(super) fn begin_term(&mut self, last: Micros, now: Now) -> Micros {
        self.base = now.wall.max(last.max(self.covered) + 1);
        self.since = now.mono;
        self.base
    }

    pub(super) fn at(&self, now: Now) -> Micros {
        self.base + now.mono.saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g1_a_leader_whose_log_is_empty_behind_a_snapshot_goes_on_from_its_time() {
        let mut time = LogTime::default();
        time.cover(7_000);
        time.cover(5_000);
        let now = Now {
            mono: 10,
            wall: 2_000,
        };
        assert_eq!(time.begin_term(0, now), 7_001);
        assert_eq!(time.begin_term(9_000, now), 9_001);
        let later = Now { mono: 12, ..now };
        assert_eq!(time.at(later), 9_003);
        let ahead = Now {
            wall: 20_000,
            ..now
        };
        assert_eq!(time.begin_term(9_000, ahead), 20_000);
    }
}

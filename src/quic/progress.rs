//! Whether what was sent gets through, however slowly.

use std::time::Duration;

use quinn::Connection;

/// So many bytes more must have got through: keep-alives and probes of the path add up to less for longer than
/// anybody looks.
const STEP: u64 = 16 << 10;
/// How often whoever waits for an answer looks.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// How far a connection has come with what it sends.
///
/// quinn does not say what was acknowledged. What was sent and is not known to be lost comes to that, but for
/// what is under way. Into a black hole a datagram or two go again and again, each counted once for being
/// sent and once for being lost; so what counts is a new highest total.
pub(super) struct Progress {
    reached: u64,
}

impl Progress {
    pub(super) fn of(connection: &Connection) -> Self {
        Self {
            reached: through(connection),
        }
    }

    /// Whether more got through since the last time that this was so.
    pub(super) fn goes_on(&mut self, connection: &Connection) -> bool {
        self.reaches(through(connection))
    }

    fn reaches(&mut self, now: u64) -> bool {
        let on = now >= self.reached + STEP;
        if on {
            self.reached = now;
        }
        on
    }
}

fn through(connection: &Connection) -> u64 {
    let stats = connection.stats();
    stats.udp_tx.bytes.saturating_sub(stats.path.lost_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_and_lost_again_and_again_is_no_progress() {
        let mut progress = Progress { reached: 100 };
        for _ in 0..100 {
            assert!(!progress.reaches(100 + 1452), "sent");
            assert!(!progress.reaches(100), "and lost");
        }
        assert!(progress.reaches(100 + STEP));
        assert!(!progress.reaches(100 + STEP), "once");
        assert!(!progress.reaches(99 + 2 * STEP));
        assert!(progress.reaches(100 + 2 * STEP));
    }
}

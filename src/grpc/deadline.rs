//! How long a call may take.

use std::time::{Duration, Instant};

use tonic::Request;

pub(super) const DEFAULT: Duration = Duration::from_secs(5);
pub(super) const MAX: Duration = Duration::from_secs(60);
/// Kept back from the caller's deadline, so that the answer, which may be "outcome unknown", is on
/// its way before the caller (and tonic, which watches the same header) stops waiting for it.
const MARGIN: Duration = Duration::from_millis(50);

/// The deadline of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
}

impl Deadline {
    /// From the header `grpc-timeout`: 5 s without one, 60 s at most.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let asked = request
            .metadata()
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok())
            .and_then(parse);
        Self {
            at: Instant::now() + budget(asked),
        }
    }

    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(super) fn passed(self) -> bool {
        self.left().is_zero()
    }
}

fn budget(asked: Option<Duration>) -> Duration {
    match asked {
        None => DEFAULT,
        Some(asked) => {
            let asked = asked.min(MAX);
            asked - MARGIN.min(asked / 10)
        }
    }
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol: at most eight digits and one letter.
fn parse(text: &str) -> Option<Duration> {
    let (at, unit) = text.char_indices().next_back()?;
    let digits = text.get(..at)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(value * 3600)),
        'M' => Some(Duration::from_secs(value * 60)),
        'S' => Some(Duration::from_secs(value)),
        'm' => Some(Duration::from_millis(value)),
        'u' => Some(Duration::from_micros(value)),
        'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(
            parse("99999999H").map(|d| budget(Some(d)) <= MAX),
            Some(true)
        );
        for wrong in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "ä", "1ä"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_answer_leaves_before_the_caller_stops_waiting() {
        assert_eq!(budget(None), DEFAULT);
        assert!(budget(Some(Duration::from_secs(1))) < Duration::from_secs(1));
        assert_eq!(budget(Some(Duration::ZERO)), Duration::ZERO);
        assert!(budget(Some(Duration::from_secs(3600))) <= MAX);
    }
}

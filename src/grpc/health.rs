//! What probes are told.
//!
//! Live: the node's driver answers and the replica has not failed. Never a matter of quorum, or a
//! partition would restart everyone. Ready: a leader is known, and what is committed gets applied.

use std::time::{Duration, Instant};

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::node::{NodeStatus, RaftNode};

/// The name to ask for "should this process be restarted".
pub(super) const LIVE: &str = "conveyor.raft.v1.Live";
/// The names to ask for "should this node get calls"; the last is asked for by probes that take
/// the service's own name for a name of a service.
pub(super) const READY: [&str; 3] = ["", "conveyor.raft.v1.Router", "grpc.health.v1.Health"];

const INTERVAL: Duration = Duration::from_millis(250);
const MAX_APPLY_LAG: Duration = Duration::from_secs(5);

/// Follows the node for as long as the server runs.
pub(super) async fn report(node: RaftNode, reporter: HealthReporter) {
    let mut probe = Probe::default();
    let mut last = None;
    loop {
        let (live, ready) = probe.look(&node.status(), Instant::now());
        if last != Some((live, ready)) {
            last = Some((live, ready));
            reporter.set_service_status(LIVE, serving(live)).await;
            for name in READY {
                reporter.set_service_status(name, serving(ready)).await;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What probes are told of a node; to be looked at a few times a second.
#[derive(Debug, Default)]
pub struct Probe {
    apply: ApplyLag,
}

impl Probe {
    /// Whether the node is live, and whether it is ready.
    pub fn look(&mut self, status: &NodeStatus, now: Instant) -> (bool, bool) {
        let live = status.failure.is_none();
        let lag = self.apply.observe(status, now);
        let led = status.leader.node.is_some();
        let stays = !status.stopping && !status.leaving;
        (live, live && stays && led && lag < MAX_APPLY_LAG)
    }
}

fn serving(yes: bool) -> ServingStatus {
    match yes {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    }
}

/// For how long something committed has waited to be applied.
#[derive(Debug, Default)]
struct ApplyLag {
    /// A commit index, and when it was first seen ahead of what is applied.
    waiting: Option<(u64, Instant)>,
}

impl ApplyLag {
    fn observe(&mut self, status: &NodeStatus, now: Instant) -> Duration {
        match self.waiting {
            Some((index, since)) if status.applied_index < index => {
                return now.duration_since(since);
            }
            _ => {}
        }
        self.waiting =
            (status.commit_index > status.applied_index).then_some((status.commit_index, now));
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LeaderHint;

    fn status(commit_index: u64, applied_index: u64) -> NodeStatus {
        NodeStatus {
            commit_index,
            applied_index,
            ..NodeStatus::default()
        }
    }

    #[test]
    fn who_is_about_to_go_is_live_and_not_ready() {
        let led = NodeStatus {
            leader: LeaderHint {
                node: Some(2),
                ..LeaderHint::default()
            },
            ..status(10, 10)
        };
        let look = |status: &NodeStatus| Probe::default().look(status, Instant::now());
        assert_eq!(look(&led), (true, true));
        for (leaving, stopping) in [(true, false), (false, true)] {
            let goes = NodeStatus {
                leaving,
                stopping,
                ..led.clone()
            };
            assert_eq!(look(&goes), (true, false));
        }
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_entry_seen_waiting() {
        let mut lag = ApplyLag::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(lag.observe(&status(10, 10), at(0)), Duration::ZERO);
        assert_eq!(lag.observe(&status(20, 10), at(1)), Duration::ZERO);
        assert_eq!(lag.observe(&status(90, 19), at(4)), Duration::from_secs(3));
        // What was waiting is applied: a busy node is not a stuck one.
        assert_eq!(lag.observe(&status(90, 20), at(5)), Duration::ZERO);
        assert_eq!(lag.observe(&status(99, 89), at(7)), Duration::from_secs(2));
    }
}

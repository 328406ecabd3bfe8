//! What probes are told.
//!
//! Live: the node's driver goes on and the replica has not failed. Never a matter of quorum, or a
//! partition would restart everyone. Ready: a leader is known, what is committed gets applied, and
//! neither a full disk nor an expired certificate of its own keeps the node from its work.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::trust::Trust;
use crate::node::{NodeStatus, RaftNode};
use crate::state_machine::StateMachine;

/// The name to ask for "should this process be restarted".
pub(super) const LIVE: &str = "conveyor.raft.v1.Live";
/// The names to ask for "should this node get calls"; the last is asked for by probes that take
/// the service's own name for a name of a service.
pub(super) const READY: [&str; 3] = ["", "conveyor.raft.v1.Router", "grpc.health.v1.Health"];

const INTERVAL: Duration = Duration::from_millis(250);
const MAX_APPLY_LAG: Duration = Duration::from_secs(5);
/// A driver that has not ended a turn for so long hangs: it looks at its clock once a second.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// Between two looks the driver is blamed for so much at most: a process or a machine that stood
/// still as a whole is not a driver that hangs.
const MOST_BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Follows the node for as long as the server runs.
pub(super) async fn report(node: RaftNode, mut probe: Probe, reporter: HealthReporter) {
    let mut last = None;
    loop {
        let (live, ready) = probe.look(&node, Instant::now());
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

/// What probes are told of a node; to be looked at a few times a second. One from
/// [`Edge::probe`](super::Edge::probe) knows the certificate of the client edge too.
#[derive(Default)]
pub struct Probe {
    apply: ApplyLag,
    turns: Turns,
    edge: Option<Arc<Trust>>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("apply", &self.apply)
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

impl Probe {
    /// Whether the node is live, and whether it is ready.
    ///
    /// Waits for nothing: also of a node whose state machine hangs it can be told.
    pub fn look<S: StateMachine>(&mut self, node: &RaftNode<S>, now: Instant) -> (bool, bool) {
        let edge = self.edge.as_ref().and_then(|trust| trust.own_end());
        self.judge(&node.glance(), edge, now, UnixTime::now().as_secs())
    }

    pub(super) fn new(edge: Option<Arc<Trust>>) -> Self {
        Self {
            edge,
            ..Self::default()
        }
    }

    /// `edge`: until when the edge's certificate is good; that and `today` in Unix time.
    fn judge(
        &mut self,
        status: &NodeStatus,
        edge: Option<u64>,
        now: Instant,
        today: u64,
    ) -> (bool, bool) {
        let silence = self.turns.observe(status.turns, now);
        // Its last turn is over when the log closes, which takes as long as the disk does.
        let answers = status.stopping || silence < MAX_SILENCE;
        let live = status.failure.is_none() && answers;
        let lag = self.apply.observe(status, now);
        let led = status.leader.node.is_some();
        let peer = status.certificates.iter().find(|(name, _)| name == "peer");
        let mut own = peer.map(|(_, end)| *end).into_iter().chain(edge);
        let good = own.all(|end| end >= today);
        let stays = !status.stopping && !status.leaving;
        let works = stays && good && !status.disk_full;
        (live, live && works && led && lag < MAX_APPLY_LAG)
    }
}

/// For how long the driver has not ended a turn.
#[derive(Debug, Default)]
struct Turns {
    seen: u64,
    looked: Option<Instant>,
    silence: Duration,
}

impl Turns {
    fn observe(&mut self, turns: u64, now: Instant) -> Duration {
        let before = self.looked.replace(now).unwrap_or(now);
        if std::mem::replace(&mut self.seen, turns) != turns {
            self.silence = Duration::ZERO;
        } else {
            self.silence += now.duration_since(before).min(MOST_BETWEEN_LOOKS);
        }
        self.silence
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

    /// One that knows a leader and has nothing to apply.
    fn well(turns: u64) -> NodeStatus {
        let mut well = status(9, 9);
        (well.leader.node, well.turns) = (Some(1), turns);
        well.certificates = vec![("peer".into(), 1000), ("peer-ca".into(), 500)];
        well
    }

    #[test]
    fn an_expired_certificate_of_its_own_makes_a_node_unready_and_not_dead() {
        let now = Instant::now();
        let look = |edge, today| Probe::default().judge(&well(1), edge, now, today);
        assert_eq!(look(None, 1000), (true, true), "and its CA matters not");
        assert_eq!(look(Some(2000), 1000), (true, true));
        assert_eq!(look(None, 1001), (true, false));
        assert_eq!(look(Some(900), 1000), (true, false));
    }

    #[test]
    fn a_full_disk_makes_a_node_unready_and_not_dead() {
        let mut full = well(1);
        full.disk_full = true;
        let now = Instant::now();
        assert_eq!(Probe::default().judge(&full, None, now, 0), (true, false));
    }

    #[test]
    fn a_driver_that_hangs_is_not_live_whoever_leads() {
        let start = Instant::now();
        let mut probe = Probe::default();
        let mut look = |turns, tenths| {
            let now = start + Duration::from_millis(100 * tenths);
            let mut alone = well(turns);
            alone.leader.node = None;
            let live = probe.judge(&alone, None, now, 0).0;
            assert_eq!(probe.judge(&well(turns), None, now, 0).1, live);
            live
        };
        assert!((0..100).all(|tenths| look(tenths / 10, tenths)));
        // The last turn ended when 9 s had passed.
        assert!((100..190).all(|tenths| look(9, tenths)));
        assert!(!look(9, 190));
        assert!(!look(9, 300));
        assert!(look(10, 301), "it goes on");
    }

    #[test]
    fn a_process_that_stood_still_or_closes_its_log_is_live() {
        let start = Instant::now();
        let mut probe = Probe::default();
        let mut look = |status: &NodeStatus, s| {
            let now = start + Duration::from_secs(s);
            probe.judge(status, None, now, 0).0
        };
        assert!(look(&well(1), 0));
        assert!(look(&well(1), 3600), "nobody looked meanwhile");
        let mut stopping = well(1);
        stopping.stopping = true;
        assert!((3601..3700).all(|s| look(&stopping, s)));
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
        let now = Instant::now();
        let look = |status: &NodeStatus| Probe::default().judge(status, None, now, 0);
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

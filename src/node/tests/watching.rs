//! What a node tells those who watch it, listen to it and collect its figures.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};

use super::bed::Bed;
use crate::core::RaftRole;
use crate::node::events::{EventSink, EventsError, KEPT, NodeEvent, NodeEvents};
use crate::node::log_figures::LOG_NAMES;
use crate::node::metrics::{APPLY_NAMES, BATCH_NAME, BEHIND_NAME, Metrics, READS_NAME};
use crate::node::peer_figures::PEER_NAMES;
use crate::node::proposing::PROPOSE_NAMES;
use crate::node::snapshot_figures::SNAPSHOT_NAMES;
use crate::node::{NodeView, NodeWatch};
use crate::types::NodeId;
use crate::wal::SyncPolicy;

const SECOND: u64 = 1_000_000;

/// What a future has at once, if anything.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn change(watch: &mut NodeWatch) -> Option<NodeView> {
    at_once(watch.changed()).map(|view| view.expect("it runs"))
}

/// What has happened since.
pub(super) fn drain(events: &mut NodeEvents) -> Vec<NodeEvent> {
    std::iter::from_fn(|| at_once(events.next()))
        .map(|event| event.expect("none is missed"))
        .collect()
}

fn led() -> (Bed, NodeId) {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("just seen");
    (bed, leader)
}

#[test]
fn a_watch_shows_what_is_so_and_tells_every_kind_of_change() {
    let (mut bed, leader) = led();
    let follower = leader % 3 + 1;
    let mut watch = bed.node(follower).shared.watch_status();
    let first = watch.current();
    assert_eq!(
        (first.role, first.leader),
        (RaftRole::Follower, Some(leader))
    );
    let members = first
        .membership
        .as_ref()
        .expect("a configuration")
        .members();
    assert_eq!((members.count(), first.configured), (3, 1));
    bed.run(SECOND, |_| false);
    assert_eq!(change(&mut watch), None, "nothing but heartbeats");

    drop(bed.propose(leader, "a"));
    bed.run(SECOND, |_| false);
    let second = change(&mut watch).expect("a change");
    assert_eq!(
        (second.commit, second.applied),
        (first.commit + 1, first.applied + 1)
    );
    assert_eq!(second.commit, second.applied);
    assert_eq!(change(&mut watch), None, "it was seen");

    bed.hub.isolate(leader, true);
    let another = |bed: &Bed| bed.leader().is_some_and(|now| now != leader);
    assert!(bed.run(2 * SECOND, another));
    bed.run(SECOND, |_| false);
    let third = change(&mut watch).expect("a change");
    assert!(third.term > second.term, "{third:?}");
    assert_eq!(third.leader, bed.leader());
}

/// Before the driver's next burst, which on an idle node may be a while.
#[test]
fn a_watch_learns_at_once_what_was_applied() {
    let (mut bed, leader) = led();
    let follower = leader % 3 + 1;
    bed.node_mut(follower).apply_pace = SECOND / 1000;
    let mut watch = bed.node(follower).shared.watch_status();
    let before = watch.current().applied;
    drop(bed.propose(leader, "a"));
    let applied = |bed: &Bed| bed.node(follower).shared.applied_index() > before;
    assert!(bed.run(SECOND, applied));
    let view = change(&mut watch).expect("a change");
    assert_eq!(view.applied, before + 1);
}

#[test]
fn who_listens_hears_of_leadership_and_of_the_disk() {
    let (mut bed, leader) = led();
    let mut events = bed.node(leader).shared.events.listen();
    drop(bed.propose(leader, "a"));
    bed.run(SECOND, |_| false);
    assert_eq!(drain(&mut events), [], "a command is no event");
    let term = bed.node(leader).shared.brief().term;
    bed.node_mut(leader).disk_stalls = true;
    drop(bed.propose(leader, "b"));
    bed.run(SECOND, |_| false);
    bed.node_mut(leader).disk_stalls = false;
    bed.run(SECOND, |_| false);
    let heard = drain(&mut events);
    let stepped_down =
        |event: &NodeEvent| matches!(event, NodeEvent::SteppedDown { term: of, .. } if *of == term);
    assert_eq!(heard.first(), Some(&NodeEvent::DiskStalls), "{heard:?}");
    assert!(heard.iter().any(stepped_down), "{heard:?}");
    assert!(heard.contains(&NodeEvent::DiskAnswers), "{heard:?}");
}

#[test]
fn a_leader_that_handed_over_says_to_whom() {
    let (mut bed, leader) = led();
    let to = leader % 3 + 1;
    let mut events = bed.node(leader).shared.events.listen();
    let mut elsewhere = bed.node(to).shared.events.listen();
    bed.hand_over(leader, Some(to));
    assert!(bed.run(SECOND, |bed| bed.leader() == Some(to)));
    bed.run(SECOND, |_| false);
    let heard = drain(&mut events);
    assert_eq!(
        heard.last(),
        Some(&NodeEvent::HandedOver { to }),
        "{heard:?}"
    );
    let heard = drain(&mut elsewhere);
    assert!(
        matches!(heard[..], [NodeEvent::BecameLeader { .. }]),
        "{heard:?}"
    );
}

#[test]
fn who_listens_too_slowly_is_told_how_much_it_missed() {
    let sink = EventSink::default();
    sink.send(NodeEvent::DiskStalls);
    let mut events = sink.listen();
    for from in 0..KEPT as u64 + 3 {
        sink.send(NodeEvent::Truncated { from });
    }
    assert_eq!(at_once(events.next()), Some(Err(EventsError::Missed(3))));
    let next = NodeEvent::Truncated { from: 3 };
    assert_eq!(at_once(events.next()), Some(Ok(next)));
    sink.close();
    assert_eq!(drain_to_end(&mut events), KEPT - 1);
    assert_eq!(
        at_once(sink.listen().next()),
        Some(Err(EventsError::Stopped))
    );
}

fn drain_to_end(events: &mut NodeEvents) -> usize {
    let mut heard = 0;
    while at_once(events.next()).expect("closed") != Err(EventsError::Stopped) {
        heard += 1;
    }
    heard
}

/// Keeps every figure by name and labels, the node's number first: `1` or `1/sent`. Of a histogram,
/// how often something was recorded.
#[derive(Default)]
struct Figures(Mutex<BTreeMap<(String, String), Arc<AtomicU64>>>);

impl Figures {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
        let mut all = self.0.lock().expect("figures");
        let key = (key.name().to_owned(), labels.join("/"));
        Arc::clone(all.entry(key).or_default())
    }

    fn of(&self, name: &str, labels: impl ToString) -> u64 {
        let all = self.0.lock().expect("figures");
        let key = (format!("conveyor_raft_{name}"), labels.to_string());
        all.get(&key).expect(name).load(Ordering::Relaxed)
    }

    fn gauge(&self, name: &str, labels: impl ToString) -> f64 {
        f64::from_bits(self.of(name, labels))
    }
}

/// How often something was recorded.
struct Times(Arc<AtomicU64>);

impl metrics::HistogramFn for Times {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl metrics::Recorder for Figures {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Times(self.cell(key))))
    }
}

#[test]
fn figures_say_what_the_status_says() {
    let figures = Figures::default();
    let (mut bed, leader) = metrics::with_local_recorder(&figures, led);
    for command in ["a", "b", "c"] {
        drop(bed.propose(leader, command));
    }
    bed.run(SECOND, |_| false);
    for node in 1..=3 {
        let leads = node == leader;
        assert_eq!(figures.gauge("is_leader", node) == 1.0, leads);
        assert_eq!(figures.of("elections_won_total", node), u64::from(leads));
        assert_eq!(figures.gauge("leader", node), leader as f64);
        let shared = &bed.node(node).shared;
        let brief = shared.brief();
        assert_eq!(figures.gauge("term", node), brief.term as f64);
        let commit = shared.commit_index() as f64;
        assert_eq!(figures.gauge("commit_index", node), commit);
        assert_eq!(figures.gauge("applied_index", node), commit);
        assert_eq!(figures.gauge("apply_lag", node), 0.0);
        assert_eq!(figures.gauge("members", node), 3.0);
        assert_eq!(figures.of("log_entries_total", node) as f64, commit);
        assert!(figures.of("log_syncs_total", node) > 0);
        assert!(figures.of("log_entry_bytes_total", node) > 0);
        // Each sync that was counted was timed.
        let syncs = figures.of("log_syncs_total", node);
        assert_eq!(figures.of("log_sync_duration_seconds", node), syncs);
        assert!(figures.gauge("log_segments", node) >= 1.0);
        assert_eq!(figures.gauge("log_oldest_unsynced_seconds", node), 0.0);
        assert!(figures.of("elections_started_total", node) >= u64::from(leads));
        let level = brief.configuration.as_ref().expect("one").feature_level;
        assert_eq!(figures.gauge("feature_level", node), f64::from(level));
        assert!(figures.gauge("proposals_queue_limit", node) > 0.0);
        assert_eq!(figures.of("digest_mismatches_total", node), 0);
    }
}

#[test]
fn states_that_differ_are_counted_where_that_is_seen() {
    let figures = Figures::default();
    let (mut bed, leader) = metrics::with_local_recorder(&figures, led);
    let wrong = leader % 3 + 1;
    let index = bed.node(leader).shared.commit_index();
    for node in 1..=3 {
        let digest = u128::from(node == wrong);
        bed.node(node).shared.digests.note(index, digest);
    }
    bed.run(2 * SECOND, |_| false);
    for node in 1..=3 {
        let seen = figures.of("digest_mismatches_total", node);
        assert_eq!(seen, u64::from(node == wrong), "{node}");
    }
}

#[test]
fn a_leader_shows_how_far_each_peer_is_until_it_leads_no_more() {
    let figures = Figures::default();
    metrics::with_local_recorder(&figures, || {
        let (mut bed, leader) = led();
        bed.run(SECOND, |_| false);
        let commit = bed.node(leader).shared.commit_index() as f64;
        let of = |peer| format!("{leader}/{peer}");
        let others = (1..=3).filter(|node| *node != leader);
        for peer in others.clone() {
            let at = |name: &str| figures.gauge(name, of(peer));
            assert_eq!(at("peer_match_index"), commit);
            assert_eq!(at("peer_inflight_bytes"), 0.0);
            assert!(at("peer_last_contact_seconds") < 1.0);
        }
        let lost = others.clone().next().expect("one");
        bed.hub.isolate(lost, true);
        bed.run(2 * SECOND, |_| false);
        assert!(figures.gauge("peer_last_contact_seconds", of(lost)) > 1.0);
        bed.hub.isolate(leader, true);
        bed.run(5 * SECOND, |bed| {
            bed.node(leader).shared.brief().role != RaftRole::Leader
        });
        bed.run(SECOND, |_| false);
        for peer in others {
            assert_eq!(figures.gauge("peer_match_index", of(peer)), 0.0);
            assert_eq!(figures.gauge("peer_last_contact_seconds", of(peer)), 0.0);
        }
    });
}

#[test]
fn every_figure_is_documented() {
    let text = include_str!("../../../docs/metrics.md");
    let more = APPLY_NAMES
        .iter()
        .chain([&READS_NAME, &BATCH_NAME, &BEHIND_NAME]);
    let more = more.chain(&PROPOSE_NAMES).chain(&LOG_NAMES);
    let more = more.chain(&PEER_NAMES).chain(&SNAPSHOT_NAMES);
    for name in Metrics::NAMES.iter().chain(more) {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}

//! Figures of peers and connections, as a recorder sees them.
#![allow(missing_docs)]

mod quic_common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conveyor_raft::network::{LinkClass, RaftNetwork, SendOutcome};
use conveyor_raft::quic::{DialledClass, LinkState, PeerTransport, PeerTransportStats};
use conveyor_raft::types::LogId;
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_global_recorder,
};
use quic_common::{append, certs, mesh, run_of};

/// Figures by name and labels, as `name{label=value,...}` without the prefix.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Seen {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let name = key.name().trim_start_matches("conveyor_raft_transport_");
        let mut labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        let name = format!("{name}{{{}}}", labels.join(","));
        let mut seen = self.0.lock().expect("lock");
        Arc::clone(seen.entry(name).or_default())
    }

    /// The sum of those counters whose text has all these parts.
    fn sum(&self, parts: &[&str]) -> u64 {
        let seen = self.0.lock().expect("lock");
        let fits = |name: &str| parts.iter().all(|part| name.contains(part));
        let fitting = seen.iter().filter(|(name, _)| fits(name));
        fitting.map(|(_, cell)| cell.load(Ordering::Relaxed)).sum()
    }

    /// How many figures have this in their text.
    fn names(&self, part: &str) -> usize {
        let seen = self.0.lock().expect("lock");
        seen.keys().filter(|name| name.contains(part)).count()
    }

    fn gauge(&self, parts: &[&str]) -> f64 {
        f64::from_bits(self.sum(parts))
    }

    fn wait(&self, parts: &[&str], least: u64) -> u64 {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let sum = self.sum(parts);
            if sum >= least {
                return sum;
            }
            let seen = self
                .0
                .lock()
                .expect("lock")
                .keys()
                .cloned()
                .collect::<Vec<_>>();
            assert!(Instant::now() < end, "{parts:?} is {sum}: {seen:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A histogram of which only the number of records counts.
struct Records(Arc<AtomicU64>);

impl HistogramFn for Records {
    fn record(&self, value: f64) {
        assert!(value > 0.0 && value < 60.0, "seconds: {value}");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder for Seen {
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
        Histogram::from_arc(Arc::new(Records(self.cell(key))))
    }
}

#[test]
fn figures_of_peers_and_connections_are_shown() {
    let seen = Seen::default();
    set_global_recorder(seen.clone()).expect("the only one");
    let certs = certs(&[1, 2]);
    let mut nodes = mesh(&certs, &[1, 2]);
    let two = nodes.pop().expect("two");
    let mut one = nodes.pop().expect("one");
    let (_, epoch) = one.both_up(2);
    for seq in 1..=5 {
        one.send(2, &append(epoch, seq, LogId::default(), 0), &[]);
    }
    // Node 2 gets them, and both count each once, however often they are shown.
    let of_one = ["node=1", "peer=2"];
    let with = |more: &[&'static str]| [&of_one[..], more].concat();
    let sent = with(&["frames_total", "dir=out", "kind=append"]);
    assert_eq!(seen.wait(&sent, 5), 5);
    let got = ["node=2", "peer=1", "frames_total", "dir=in", "kind=append"];
    assert_eq!(seen.wait(&got, 5), 5);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!((seen.sum(&sent), seen.sum(&got)), (5, 5));
    let dialled = with(&["class=data", "side=dialled"]);
    let of = |name: &'static str| [&dialled[..], &[name]].concat();
    assert!(seen.gauge(&of("rtt_seconds")) > 0.0);
    assert!(seen.gauge(&of("cwnd_bytes")) >= 1200.0);
    assert!(seen.gauge(&of("mtu_bytes")) >= 1200.0);
    assert_eq!(seen.gauge(&of("queue_bytes")), 0.0);
    assert_eq!(seen.gauge(&of("epoch{")), f64::from(epoch as u32));
    for dir in ["dir=in", "dir=out"] {
        assert!(seen.sum(&[&of("datagrams_total")[..], &[dir]].concat()) > 0);
        assert!(seen.sum(&[&of("bytes_total")[..], &[dir]].concat()) > 500);
    }
    let hands = "handshake_seconds";
    for side in ["side=dialled", "side=accepted"] {
        assert_eq!(seen.wait(&with(&[hands, "class=data", side]), 1), 1);
    }
    let state = with(&["state{", "class=data"]);
    assert_eq!(seen.gauge(&state), 3.0, "up");
    assert_eq!(
        seen.gauge(&with(&["state{", "class=bulk"])),
        0.0,
        "not wanted"
    );
    // Nobody answers these appends.
    assert!(seen.gauge(&of("oldest_unacked_seconds")) > 1.0);
    let links = one.transport.stats();
    let waits = |link: &PeerTransportStats| link.oldest_unanswered.is_some();
    let waiting: Vec<_> = links.iter().filter(|link| waits(link)).collect();
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert_eq!(
        (waiting[0].class, waiting[0].dialled),
        (LinkClass::Data, true)
    );
    let data = with(&["connects_total", "class=data"]);
    assert_eq!(seen.sum(&data), 1);
    let of_two = one.transport.observer().peer(2);
    let of_data = |of: &&DialledClass| of.class == LinkClass::Data;
    let dialled = of_two.dialled.iter().find(of_data).expect("of each class");
    assert_eq!((dialled.state, dialled.connects), (LinkState::Up, 1));
    assert_eq!(of_two.reconnects(), 0);
    assert!(of_two.rtt().is_some());
    let appends = of_two.frames.iter().find(|of| of.kind == "append");
    assert_eq!(appends.map(|of| (of.sent, of.received)), Some((5, 0)));
    assert_eq!(one.transport.observer().peer(3), PeerTransport::default());
    // It takes nothing: what came is not dealt with, and what is queued for it waits for 2 s.
    let run = run_of(LogId::new(1, 1), 1, 1 << 20);
    let (mut seq, end) = (6, Instant::now() + Duration::from_secs(20));
    while seen.sum(&with(&["stalls_total", "class=data"])) == 0 {
        let more = append(epoch, seq, LogId::new(1, 1), 1);
        let outcome = one.transport.send(2, &more, std::slice::from_ref(&run));
        seq += u64::from(outcome == SendOutcome::Sent);
        assert!(Instant::now() < end, "no stall after {seq} appends");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(
        seen.names("congestion_events_total") >= 8,
        "of each connection"
    );
    drop(two);
    let end = Instant::now() + Duration::from_secs(10);
    while seen.gauge(&state) == 3.0 {
        assert!(Instant::now() < end, "no longer up");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(seen.wait(&with(&["downs_total", "class=data", "reason=shutdown"]), 1) >= 1);
    let ends = one.transport.observer().certificate_ends();
    let names: Vec<_> = ends.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["peer", "peer-ca"]);
}

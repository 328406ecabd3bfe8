//! Snapshots of real nodes over real QUIC and real files: the log is let go of, and who lacks it
//! gets a snapshot instead.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use common::counters::counters;
use conveyor_raft::node::{Change, ChangeOptions};
use conveyor_raft::quic::certs;
use conveyor_raft::snapshot::SnapshotOptions;
use conveyor_raft::{Cluster, NodeId, RaftConfig, RaftNode, RouterCommand, RouterStateMachine};

/// Snapshots after every hundred entries, and little kept behind them.
fn options() -> SnapshotOptions {
    SnapshotOptions {
        every_entries: 100,
        times_last: 0,
        keep_tail_entries: 20,
        keep_for_peers_entries: 50,
        chunk_bytes: 512,
        ..SnapshotOptions::default()
    }
}

/// Four nodes' places; the fourth is no member at first.
struct Places {
    dir: tempfile::TempDir,
    certs: certs::GeneratedCerts,
    addresses: Vec<SocketAddr>,
}

impl Places {
    fn new() -> Self {
        let names = ["localhost".into()];
        // Held until all ports are known, so that none is given out twice.
        let sockets: Vec<_> = (0..4)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let bound = sockets.iter().map(|it| it.local_addr().expect("bound"));
        Self {
            dir: tempfile::tempdir().expect("a folder"),
            certs: certs::generate("snapshots", &[1, 2, 3, 4], &names).expect("certificates"),
            addresses: bound.collect(),
        }
    }

    fn dir(&self, id: NodeId) -> std::path::PathBuf {
        self.dir.path().join(id.to_string())
    }

    async fn start(&self, id: NodeId) -> RaftNode {
        let others = (1..=3)
            .zip(&self.addresses)
            .filter(|(other, _)| *other != id);
        let others = others.map(|(other, address)| (other, address.to_string()));
        let credentials = self.certs.credentials(id).expect("credentials");
        let address = self.addresses[id as usize - 1];
        let make = if id > 3 {
            Cluster::joining
        } else {
            Cluster::new
        };
        let cluster = make(self.dir(id), credentials, address, others);
        let config = RaftConfig {
            node_id: id,
            ..RaftConfig::default()
        };
        let builder = RaftNode::builder(config).snapshots(options());
        let node = builder.start(RouterStateMachine::new(), cluster).await;
        node.expect("starts")
    }
}

async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "not within 30 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn leader(nodes: &[RaftNode]) -> RaftNode {
    until("a leader", async || nodes.iter().any(RaftNode::is_leader)).await;
    let leader = nodes.iter().find(|node| node.is_leader());
    leader.expect("a leader").clone()
}

/// Proposes `count` services, and waits until a leader has let go of most of its log.
async fn fill(nodes: &[RaftNode], from: u32, count: u32) {
    let leads = leader(nodes).await;
    for number in from..from + count {
        let service = format!("mask-{number}");
        let command = RouterCommand::register_service(service, "transform", "10.0.1.5:8081");
        leads.propose(command).await.expect("applied");
    }
    let last = leads.applied_index();
    let compacted = async || leads.status().log_start.index + 200 > last;
    until("the log is compacted", compacted).await;
}

async fn equal(nodes: &[RaftNode]) {
    let index = leader(nodes).await.applied_index();
    let mut digests = Vec::new();
    for node in nodes {
        let applied = node.wait_applied(index, Duration::from_secs(30)).await;
        applied.expect("applied everywhere");
        digests.push(node.digest().await);
    }
    assert!(
        digests.windows(2).all(|two| two[0] == two[1]),
        "{digests:?}"
    );
}

fn snapshots_in(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).expect("a folder");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("snap-"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_who_was_away_for_long_gets_a_snapshot_and_starts_from_it_later() {
    let _turn = common::real_time_turn();
    let of = |result| counters().sum("snapshot_transfers_total/", result);
    let count = || ["/sent", "/received", "/given_up", "/damaged", "/refused"].map(of);
    let before = count();
    let places = Places::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(places.start(id).await);
    }
    leader(&nodes).await;
    let away = nodes
        .iter()
        .position(|node| !node.is_leader())
        .expect("a follower");
    let gone = nodes.remove(away);
    let id = gone.id();
    gone.shutdown().await;
    fill(&nodes, 0, 600).await;
    let back = places.start(id).await;
    until("a snapshot is installed", async || {
        back.status().snapshots.installed == 1
    })
    .await;
    // Both sides count it, and nothing went wrong.
    until("the transfer has ended", async || count()[0] > before[0]).await;
    assert_eq!(count()[1], before[1] + 1);
    assert_eq!(count()[3..], before[3..]);
    assert!(counters().sum("snapshot_duration_seconds", "") > 0);
    nodes.push(back);
    equal(&nodes).await;
    let all = nodes[0].state().await.services.len();
    assert_eq!(all, 600);
    for node in &nodes {
        node.shutdown().await;
    }
    // From their snapshots and the logs behind them.
    let mut again = Vec::new();
    for id in 1..=3 {
        let node = places.start(id).await;
        let applied = node.applied_index();
        until("it says where its log begins", async || {
            let status = node.status();
            (1..=applied).contains(&status.log_start.index)
        })
        .await;
        again.push(node);
    }
    fill(&again, 600, 10).await;
    equal(&again).await;
    assert_eq!(again[2].state().await.services.len(), 610);
    for node in &again {
        node.shutdown().await;
        assert_eq!(
            snapshots_in(&places.dir(node.id())),
            1,
            "older ones are gone"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_a_new_member_joins_by_a_snapshot_under_load() {
    let _turn = common::real_time_turn();
    let places = Places::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(places.start(id).await);
    }
    fill(&nodes, 0, 400).await;
    let new = places.start(4).await;
    let leads = leader(&nodes).await;
    let load = {
        let leads = leads.clone();
        tokio::spawn(async move {
            for number in 0..300 {
                let service = format!("late-{number}");
                let command = RouterCommand::register_service(service, "transform", "10.0.1.5:1");
                leads.propose(command).await.expect("applied");
            }
        })
    };
    let add = Change::AddVoter(conveyor_raft::core::MemberInfo {
        replica: new.status().id,
        peer_address: places.addresses[3].to_string(),
        ..Default::default()
    });
    let changed = leads
        .change_members(vec![add], ChangeOptions::default())
        .await;
    changed.expect("added");
    until("the new one votes", async || {
        let members = leads.membership().map(|(_, members)| members);
        members.is_some_and(|members| members.is_voter(new.status().id))
    })
    .await;
    load.await.expect("no command failed");
    // Entries go on while it comes in; so little of them is kept that it may need a second one.
    assert!(new.status().snapshots.installed >= 1);
    nodes.push(new);
    equal(&nodes).await;
    for node in &nodes {
        node.shutdown().await;
    }
}

/// Asked before it has applied anything, a node once waited for the index 0, of which there is no snapshot.
#[tokio::test]
async fn d1_a_node_that_is_asked_before_it_has_applied_anything_takes_one_as_soon_as_it_has() {
    let _turn = common::real_time_turn();
    let places = Places::new();
    let credentials = places.certs.credentials(1).expect("credentials");
    let late = RaftConfig {
        election_timeout_min_ms: 1_000,
        election_timeout_max_ms: 1_500,
        ..RaftConfig::default()
    };
    let cluster = Cluster::single(places.dir(1), credentials);
    let node = RaftNode::new(late, RouterStateMachine::new(), cluster).await;
    let node = node.expect("starts");
    assert_eq!(node.applied_index(), 0, "nobody leads yet");
    let taken = node.take_snapshot(Duration::from_secs(8)).await;
    assert!(taken.expect("taken").index >= 1);
    node.shutdown().await;
}

async fn applied(node: &RaftNode, command: RouterCommand) {
    node.propose(command).await.expect("applied");
}

#[tokio::test]
async fn a_large_state_is_not_written_out_again_before_the_log_has_grown_beyond_it() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let certs = certs::generate("large", &[1], &["localhost".into()]).expect("certificates");
    let cluster = Cluster::single(dir.path(), certs.credentials(1).expect("credentials"));
    let often = SnapshotOptions {
        times_last: 4,
        ..options()
    };
    let builder = RaftNode::builder(RaftConfig::default()).snapshots(often);
    let node = builder.start(RouterStateMachine::new(), cluster);
    let node = node.await.expect("starts");
    let taken = || node.status().snapshots.taken;
    let begun = Instant::now();
    while !node.is_leader() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let config = |byte: u8| vec![byte; 1 << 20];
    let create = RouterCommand::CreatePipeline {
        pipeline_id: "large".to_owned(),
        name: String::new(),
        config: config(0),
    };
    applied(&node, create).await;
    while taken() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no snapshot");
        applied(&node, RouterCommand::Noop).await;
    }
    // A hundred entries would do, and do not: they are nothing beside the state.
    let before = taken();
    for _ in 0..500 {
        applied(&node, RouterCommand::Noop).await;
    }
    assert_eq!(taken(), before);
    for byte in 1..=5 {
        let update = RouterCommand::UpdatePipeline {
            pipeline_id: "large".to_owned(),
            config: config(byte),
            expected_version: None,
        };
        applied(&node, update).await;
    }
    while taken() == before {
        assert!(begun.elapsed() < Duration::from_secs(40), "never again");
        applied(&node, RouterCommand::Noop).await;
    }
    node.shutdown().await;
}

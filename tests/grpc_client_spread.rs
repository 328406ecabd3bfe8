//! How the Rust client spreads its calls: commands wait for room when enough are under way, and reads go to
//! all nodes in turn.
#![cfg(feature = "grpc")]

mod common;
mod grpc_common;
#[path = "grpc_common/three.rs"]
mod three;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use conveyor_raft::client::{Client, ClientError, ClientOptions};
use conveyor_raft::grpc::{Edge, EdgeOptions, EdgeSecurity, serve};
use conveyor_raft::node::ReadConsistency;
use conveyor_raft::proto::Certainty;
use conveyor_raft::quic::ClientRole;
use conveyor_raft::quic::certs::GeneratedCerts;
use conveyor_raft::{RaftConfig, RaftNode};
use grpc_common::{certificates, identity, sidecar, single_node};
use three::Three;
use tokio::net::TcpListener;

fn options(certs: &GeneratedCerts, endpoints: Vec<String>) -> ClientOptions {
    let pair = certs.ca.issue_client(ClientRole::Writer, "caller");
    let identity = identity(certs, &pair.expect("client"));
    ClientOptions::new(endpoints, Some(identity))
}

/// Waits until the log of `node` ends with `last`.
async fn appended(node: &RaftNode, last: u64) {
    let begun = Instant::now();
    while node.status().last.index != last {
        let now = node.status().last;
        assert!(begun.elapsed() < Duration::from_secs(10), "{now:?}: {last}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_command_waits_for_room_while_as_many_as_may_be_are_under_way() {
    const ROOM: u64 = 3;
    let _turn = common::real_time_turn();
    // Whoever leads does not notice for seconds that it is alone.
    let patient = RaftConfig {
        election_timeout_min_ms: 8_000,
        election_timeout_max_ms: 9_000,
        heartbeat_interval_ms: 100,
        ..RaftConfig::default()
    };
    let three = Three::start_with(patient).await;
    let leader = three.settle().await;
    let (edge, _) = three.edge_of(leader, ClientRole::Reader).await;
    let mut options = options(&three.certs, vec![format!("https://{}", edge.address())]);
    options.under_way = ROOM as usize;
    options.deadline = Duration::from_secs(3);
    let client = Client::new(options).expect("a client");
    let begin = |id: String| {
        let client = client.clone();
        tokio::spawn(async move { client.propose(sidecar(&id)).await.map(drop) })
    };
    begin("first".into())
        .await
        .expect("joined")
        .expect("applied");
    // From here on nothing is committed, so whatever is under way stays so until its deadline.
    for follower in three.followers().await {
        follower.shutdown().await;
    }
    let before = leader.status().last.index;
    let under_way: Vec<_> = (0..ROOM).map(|nth| begin(format!("s-{nth}"))).collect();
    appended(leader, before + ROOM).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let next = begin("next".into());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(leader.status().last.index, before + ROOM, "it was not sent");
    assert!(!next.is_finished());
    for ended in under_way {
        let ended = ended.await.expect("joined").expect_err("nobody commits it");
        assert_eq!(ended.certainty(), Certainty::Unknown, "{ended}");
    }
    // There is room again, and time left of its own.
    appended(leader, before + ROOM + 1).await;
    let ended = next.await.expect("joined").expect_err("nobody commits it");
    assert_eq!(ended.certainty(), Certainty::Unknown, "{ended}");
    edge.shutdown().await;
    leader.shutdown().await;
}

#[tokio::test]
async fn a_command_that_finds_no_room_in_time_was_certainly_not_applied() {
    let _turn = common::real_time_turn();
    let certs = certificates();
    // Somebody listens, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("https://{}", silent.local_addr().expect("its address"));
    let mut options = options(&certs, vec![endpoint]);
    options.under_way = 1;
    options.deadline = Duration::from_secs(1);
    let client = Client::new(options).expect("a client");
    let begun = Instant::now();
    let all = tokio::join!(
        client.propose(sidecar("a")),
        client.propose(sidecar("b")),
        client.propose(sidecar("c"))
    );
    for late in [all.0, all.1, all.2] {
        let late = late.expect_err("nobody answers");
        assert!(matches!(late, ClientError::Deadline { .. }), "{late}");
        assert_eq!(late.certainty(), Certainty::NotApplied);
    }
    // Each waits for as long as it may, not behind those before it.
    assert!(begun.elapsed() < Duration::from_secs(3), "{begun:?}");
}

/// A node and its edge.
struct Served {
    node: RaftNode,
    edge: Edge,
    _dir: tempfile::TempDir,
}

/// A node with so many sidecars. All of them are node 1 of a cluster of one under the same CA, so one client
/// calls them all, and each answer shows who gave it.
async fn served(certs: &GeneratedCerts, sidecars: u64) -> Served {
    let dir = tempfile::tempdir().expect("directory");
    let node = single_node(certs, &dir).await;
    for nth in 0..sidecars {
        let command = sidecar(&format!("s-{nth}"));
        node.propose(command).await.expect("applied");
    }
    let server = identity(certs, &certs.nodes[0].edge);
    let options = EdgeOptions::new(EdgeSecurity::Tls(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let edge = serve(node.clone(), options, listener).await.expect("edge");
    Served {
        node,
        edge,
        _dir: dir,
    }
}

/// So many answers came from each node, which is named by how many sidecars it has.
async fn answers(client: &Client, reads: usize) -> BTreeMap<u64, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..reads {
        let summary = client.summary(ReadConsistency::Local).await;
        let sidecars = summary.expect("an answer").counts["sidecars"];
        *answers.entry(sidecars).or_default() += 1;
    }
    answers
}

#[tokio::test]
async fn reads_are_spread_over_all_nodes_and_go_on_at_those_that_are_left() {
    let certs = certificates();
    let mut nodes = Vec::new();
    for sidecars in 1..=3 {
        nodes.push(served(&certs, sidecars).await);
    }
    let endpoints = nodes
        .iter()
        .map(|it| format!("https://{}", it.edge.address()));
    let client = Client::new(options(&certs, endpoints.collect())).expect("a client");
    let each = answers(&client, 30).await;
    assert_eq!(each, BTreeMap::from([(1, 10), (2, 10), (3, 10)]));
    // Several at a time are spread likewise.
    let lists = (0..30).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let state = client.state(ReadConsistency::Local).await;
            state.expect("an answer").records.len()
        })
    });
    let mut counts = BTreeMap::new();
    for list in lists.collect::<Vec<_>>() {
        *counts.entry(list.await.expect("joined")).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(1, 10), (2, 10), (3, 10)]));

    let gone = nodes.pop().expect("three");
    gone.edge.shutdown().await;
    gone.node.shutdown().await;
    let left = answers(&client, 30).await;
    assert!(
        !left.contains_key(&3) && left[&1] >= 10 && left[&2] >= 10,
        "{left:?}"
    );
    assert_eq!(left.values().sum::<usize>(), 30);
    for it in nodes {
        it.edge.shutdown().await;
        it.node.shutdown().await;
    }
}

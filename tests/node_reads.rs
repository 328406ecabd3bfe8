//! Reads of every consistency and leadership handed over, by three nodes over real QUIC.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use conveyor_raft::quic::certs;
use conveyor_raft::{
    Cluster, HandOverError, NodeId, RaftConfig, RaftNode, ReadConsistency, ReadError, ReadOptions,
    RouterCommand, RouterStateMachine,
};

/// Clocks of one machine: they are the same.
const DRIFT_PPM: u32 = 1_000;

async fn start(directory: &std::path::Path) -> Vec<RaftNode> {
    let made = certs::generate("reads", &[1, 2, 3], &["localhost".into()]).expect("certificates");
    // Held until all ports are known, so that none is given out twice.
    let sockets: Vec<_> = (0..3)
        .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let addresses: Vec<_> = sockets
        .iter()
        .map(|socket| socket.local_addr().expect("bound"))
        .collect();
    drop(sockets);
    let mut nodes = Vec::new();
    for (id, address) in (1..=3).zip(&addresses) {
        let others = (1..=3).zip(&addresses).filter(|(other, _)| *other != id);
        let others = others.map(|(other, address)| (other, address.to_string()));
        let credentials = made.credentials(id).expect("credentials");
        let dir = directory.join(id.to_string());
        let cluster = Cluster::new(dir, credentials, *address, others);
        let config = RaftConfig {
            node_id: id,
            ..RaftConfig::default()
        };
        let builder = RaftNode::builder(config).lease_reads(DRIFT_PPM);
        let node = builder.start(RouterStateMachine::new(), cluster).await;
        nodes.push(node.expect("starts"));
    }
    nodes
}

async fn leader(nodes: &[RaftNode]) -> &RaftNode {
    let begun = Instant::now();
    loop {
        if let Some(leader) = nodes.iter().find(|node| node.is_leader()) {
            return leader;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn service(number: u32) -> RouterCommand {
    RouterCommand::register_service(format!("mask-{number}"), "transform", "10.0.1.5:8081")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_any_node_shows_what_was_answered_before() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let nodes = start(dir.path()).await;
    leader(&nodes).await;
    for number in 0..50 {
        let leads = leader(&nodes).await;
        let response = leads.propose(service(number)).await.expect("applied");
        for node in &nodes {
            for consistency in [
                ReadConsistency::Linearizable,
                ReadConsistency::Lease,
                ReadConsistency::AtLeast(response.index),
            ] {
                let read = node.read(consistency).await.expect("read");
                let named = format!("mask-{number}");
                assert!(
                    read.view.services.contains_key(named.as_str()),
                    "{consistency:?}"
                );
                assert!(read.id.index >= response.index, "it names what it reflects");
            }
        }
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_without_a_quorum_ends_by_its_deadline_and_one_without_questions_goes_on() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let nodes = start(dir.path()).await;
    leader(&nodes).await;
    for node in &nodes[1..] {
        node.shutdown().await;
    }
    let alone = &nodes[0];
    let patience = Duration::from_millis(400);
    let begun = Instant::now();
    let read = |consistency| {
        alone.read_with(ReadOptions {
            consistency,
            deadline: Some(patience),
        })
    };
    // A lease of its own may last for an election timeout.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for consistency in [ReadConsistency::Linearizable, ReadConsistency::Lease] {
        let error = read(consistency).await.expect_err("no quorum");
        assert_eq!(error, ReadError::Deadline);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "in time");
    read(ReadConsistency::Local).await.expect("asks nobody");
    let ahead = ReadConsistency::AtLeast(alone.applied_index() + 1);
    assert_eq!(read(ahead).await.err(), Some(ReadError::Deadline));
    alone.shutdown().await;
    let stopped = read(ReadConsistency::Linearizable).await;
    assert_eq!(stopped.err(), Some(ReadError::Stopped));
}

/// Hands over to the next node: to which, how long it took, and what came of it. Who has just begun to lead
/// may not have heard from the third node yet.
async fn hand_over(nodes: &[RaftNode]) -> (NodeId, Duration, Result<NodeId, HandOverError>) {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let from = leader(nodes).await;
        let to = from.id() % 3 + 1;
        let begun = Instant::now();
        let successor = from.transfer_leadership(Some(to)).await;
        if successor != Err(HandOverError::NoTarget) || begun > give_up {
            return (to, begun.elapsed(), successor);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_by_hand_and_by_who_shuts_down() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let nodes = start(dir.path()).await;
    let first = leader(&nodes).await;
    first.propose(service(0)).await.expect("applied");
    let follower = nodes.iter().find(|node| node.id() != first.id());
    let follower = follower.expect("another");
    let refused = follower.transfer_leadership(None).await;
    assert_eq!(refused, Err(HandOverError::NotLeader));
    let nobody = first.transfer_leadership(Some(9)).await;
    assert_eq!(nobody, Err(HandOverError::NoTarget));

    let mut took = Vec::new();
    for _ in 0..5 {
        let (to, time, successor) = hand_over(&nodes).await;
        took.push(time);
        assert_eq!(successor, Ok(to));
    }
    took.sort();
    assert!(took[2] < Duration::from_millis(100), "{took:?}");

    let last = leader(&nodes).await;
    let begun = Instant::now();
    last.shutdown().await;
    let rest: Vec<_> = nodes
        .iter()
        .filter(|node| node.id() != last.id())
        .cloned()
        .collect();
    let next = leader(&rest).await;
    println!(
        "led again {:?} after the leader was asked to stop",
        begun.elapsed()
    );
    next.propose(service(1)).await.expect("applied");
    for node in &rest {
        node.shutdown().await;
    }
}

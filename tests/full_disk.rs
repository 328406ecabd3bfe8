//! A real cluster whose disks fill up under load (hazard C8): refusals, not signals, and it goes on by
//! itself once there is room.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use common::bed::leader;
use common::small_disk::SmallDisk;
use conveyor_raft::quic::certs::{self, GeneratedCerts};
use conveyor_raft::wal::LogOptions;
use conveyor_raft::{
    Certainty, Cluster, ProposeError, ProposeOptions, RaftConfig, RaftNode, RouterCommand,
    RouterStateMachine,
};

async fn start(
    id: u64,
    data: &Path,
    certificates: &GeneratedCerts,
    addresses: &[SocketAddr],
) -> RaftNode {
    let members = (1..).zip(addresses.iter().map(ToString::to_string));
    let credentials = certificates.credentials(id).expect("credentials");
    let listen = addresses[id as usize - 1];
    let cluster = Cluster::new(data.join("log"), credentials, listen, members);
    let config = RaftConfig {
        node_id: id,
        election_timeout_min_ms: 500,
        election_timeout_max_ms: 1000,
        heartbeat_interval_ms: 50,
    };
    let log = LogOptions {
        segment_bytes: 8 << 20,
        ..LogOptions::default()
    };
    let node = RaftNode::builder(config)
        .log(log)
        .start(RouterStateMachine::new(), cluster);
    node.await.expect("starts")
}

fn pipeline(nth: usize) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: name(nth),
        name: String::new(),
        config: vec![nth as u8; 40_000],
    }
}

fn name(nth: usize) -> String {
    format!("pipeline-{nth}")
}

fn options() -> ProposeOptions {
    ProposeOptions {
        deadline: Some(Duration::from_secs(2)),
        ..ProposeOptions::default()
    }
}

/// Proposes until nothing is taken any more. Which were acknowledged, and how the rest was refused.
async fn fill(leader: &RaftNode) -> (Vec<usize>, Vec<ProposeError>) {
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for nth in 0..1000 {
        match leader.propose_with(pipeline(nth), options()).await {
            Ok(_) => done.push(nth),
            Err(error) => refused.push(error),
        }
        if refused.len() == 3 {
            break;
        }
    }
    (done, refused)
}

async fn assert_has(node: &RaftNode, done: &[usize]) {
    let state = node.state().await;
    for &nth in done {
        assert!(
            state.pipelines.contains_key(name(nth).as_str()),
            "{nth} is lost"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_a_cluster_whose_disks_are_full_refuses_votes_reads_and_goes_on_with_room() {
    let disks: Vec<_> = (0..3).map_while(|_| SmallDisk::tmpfs()).collect();
    if !common::needs("root, to mount a small file system", disks.len() == 3) {
        return;
    }
    let _turn = common::real_time_turn();
    let certificates = certs::generate("full", &[1, 2, 3], &[]).expect("certificates");
    let sockets: Vec<_> = (0..3)
        .map(|_| UdpSocket::bind(("127.0.0.1", 0)).expect("a port"))
        .collect();
    let address = |socket: &UdpSocket| socket.local_addr().expect("its address");
    let addresses: Vec<_> = sockets.iter().map(address).collect();
    drop(sockets);
    let mut nodes = Vec::new();
    for (id, disk) in (1..).zip(&disks) {
        nodes.push(start(id, disk.path(), &certificates, &addresses).await);
    }
    let first = leader(&nodes).await;
    let (mut done, refused) = fill(&first).await;
    assert!(done.len() > 50, "{} before the disk was full", done.len());
    for error in &refused {
        assert_eq!(error.certainty(), Certainty::NotApplied, "{error}");
    }
    // Probes are told; the slow part of a status is up to a heartbeat old.
    let begun = Instant::now();
    while !first.status().disk_full {
        assert!(begun.elapsed() < Duration::from_secs(5), "it says so");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nobody failed; reads and votes go on: another leader is elected on full disks.
    assert!(nodes.iter().all(|node| node.status().failure.is_none()));
    assert_has(&first, &done).await;
    let (id, term) = (first.id(), first.current_term());
    first.shutdown().await;
    nodes.retain(|node| node.id() != id);
    let second = leader(&nodes).await;
    assert!(second.current_term() > term);
    let still = second.propose_with(pipeline(2000), options()).await;
    assert!(still.is_err(), "there is no room: {still:?}");

    disks.iter().for_each(SmallDisk::grow);
    let begun = Instant::now();
    for nth in 3000.. {
        match leader(&nodes)
            .await
            .propose_with(pipeline(nth), options())
            .await
        {
            Ok(_) => {
                done.push(nth);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "it goes on");
    }
    let data = disks[id as usize - 1].path();
    nodes.push(start(id, data, &certificates, &addresses).await);
    let last = leader(&nodes).await.applied_index();
    for node in &nodes {
        let applied = node.wait_applied(last, Duration::from_secs(30)).await;
        applied.expect("everyone has everything");
        assert_has(node, &done).await;
    }
    for node in &nodes {
        assert!(!node.status().disk_full, "{} has room", node.id());
        node.shutdown().await;
    }
}

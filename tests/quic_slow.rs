//! Three nodes over links of a few dozen KiB a second: what is large takes long, and nothing else happens.
#![allow(missing_docs)]

mod common;
mod quic_common;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::bed::leader;
use conveyor_raft::network::LinkClass;
use conveyor_raft::quic::RaftTransport;
use conveyor_raft::{
    Cluster, NodeId, ProposeOptions, RaftConfig, RaftNode, RouterCommand, RouterStateMachine,
};
use quic_common::certs;
use quic_common::memnet::{Link, MemNet};

const KIB: u64 = 1 << 10;
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before and after.
const FAST: Link = Link {
    lost: 0,
    twice: 0,
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    rate: 0,
    queue: Duration::ZERO,
    mtu: usize::MAX,
    cut: false,
};

fn place(id: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id as u8], 7000))
}

/// As for nodes in several places.
fn config(node_id: NodeId) -> RaftConfig {
    RaftConfig {
        node_id,
        election_timeout_min_ms: 1000,
        election_timeout_max_ms: 1500,
        heartbeat_interval_ms: 100,
    }
}

async fn start(dir: &Path, net: &MemNet) -> Vec<RaftNode> {
    let certs = certs(&[1, 2, 3]);
    let starting = (1..=3).map(|id| {
        let others = (1..=3).filter(|other| *other != id);
        let others = others.map(|other| (other, place(other).to_string()));
        let credentials = certs.credentials(id).expect("credentials");
        let cluster = Cluster::new(dir.join(id.to_string()), credentials, place(id), others);
        let net = net.clone();
        tokio::spawn(async move {
            let bind = move |options, sink| {
                let over = RaftTransport::bind_over(options, sink, net.socket(place(id)))?;
                let observer = over.observer();
                Ok((over, place(id), observer))
            };
            let builder = RaftNode::builder(config(id));
            let node = builder.start_over(RouterStateMachine::new(), cluster, bind);
            node.await.expect("starts")
        })
    });
    let mut nodes = Vec::new();
    for node in starting.collect::<Vec<_>>() {
        nodes.push(node.await.expect("no panic"));
    }
    nodes
}

/// The streams that carry its appends, by epoch: another number is another stream.
fn streams(node: &RaftNode) -> Vec<(NodeId, u64)> {
    let links = node.transport_stats().into_iter();
    let data = links.filter(|link| link.class == LinkClass::Data && link.dialled);
    let mut streams: Vec<_> = data.map(|link| (link.peer.node, link.epoch)).collect();
    streams.sort_unstable();
    streams
}

fn update(caller: usize, bytes: usize) -> RouterCommand {
    RouterCommand::UpdatePipeline {
        pipeline_id: format!("pipeline-{caller}"),
        config: vec![caller as u8; bytes],
        expected_version: None,
    }
}

/// So many commands of so many bytes, all under way at once over links of `rate` bytes a second for `time`,
/// which then are as fast as before. At least so many are applied until then.
async fn carry(rate: u64, bytes: usize, commands: usize, (time, least): (Duration, u64)) {
    let _turn = common::real_time_turn();
    let dir = common::bed::folder();
    let net = MemNet::new(7, FAST);
    let nodes = start(dir.path(), &net).await;
    let leads = leader(&nodes).await;
    for caller in 0..commands {
        let create = RouterCommand::CreatePipeline {
            pipeline_id: format!("pipeline-{caller}"),
            name: String::new(),
            config: Vec::new(),
        };
        leads.propose(create).await.expect("applied");
    }
    let (term, before) = (leads.current_term(), streams(&leads));
    assert_eq!(before.len(), 2);
    let applied = leads.applied_index();
    net.set_all(Link {
        rate,
        queue: Duration::from_millis(200),
        ..FAST
    });
    let begun = Instant::now();
    let proposals: Vec<_> = (0..commands)
        .map(|caller| {
            let leads = leads.clone();
            tokio::spawn(async move {
                let options = ProposeOptions {
                    deadline: Some(PATIENCE),
                    ..ProposeOptions::default()
                };
                leads.propose_with(update(caller, bytes), options).await
            })
        })
        .collect();
    while begun.elapsed() < time && leads.applied_index() < applied + commands as u64 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let slowly = leads.applied_index() - applied;
    let after = streams(&leads);
    println!(
        "{commands} x {bytes} B at {rate} B/s: {slowly} applied in {:.1?}, {} datagrams lost, term {term} then {}, \
         streams {before:?} then {after:?}",
        begun.elapsed(),
        net.lost(),
        leads.current_term(),
    );
    net.set_all(FAST);
    for proposal in proposals {
        proposal.await.expect("no panic").expect("applied");
    }
    assert!(slowly >= least, "{slowly} applied over the slow links");
    assert_eq!(after, before, "no stream was given up");
    for node in &nodes {
        assert_eq!(node.current_term(), term, "nobody was elected");
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

/// Over ten longest election timeouts on its way: as long as a leader that is not answered goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b12_an_entry_that_takes_longer_than_a_leader_waits_for_an_answer_is_committed() {
    carry(64 * KIB, 1 << 20, 1, (Duration::from_secs(50), 1)).await;
}

/// The peer makes room in steps that each take longer than a peer may take nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_peer_that_makes_room_slowly_is_not_taken_for_one_that_hangs() {
    carry(128 * KIB, 1 << 20, 6, (Duration::from_secs(15), 1)).await;
}

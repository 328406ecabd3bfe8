//! A snapshot on its way to a follower, over a network in memory that cuts the two apart again and again,
//! while many callers write.
#![allow(missing_docs)]

mod common;
mod quic_common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use conveyor_raft::network::LinkClass;
use conveyor_raft::quic::RaftTransport;
use conveyor_raft::snapshot::SnapshotOptions;
use conveyor_raft::{Cluster, NodeId, RaftConfig, RaftNode, RouterCommand, RouterStateMachine};
use quic_common::certs;
use quic_common::memnet::{Link, MemNet};

const MIB: usize = 1 << 20;
const CUTS: u64 = 10;
const CALLERS: usize = 64;
/// Bytes of each record that makes the state large.
const RECORD: usize = 64 << 10;
/// How long commits are measured without a transfer.
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// `CONVEYOR_SNAPSHOT_MIB`: how large the state is, 16 MiB without it.
fn state_bytes() -> usize {
    let set = std::env::var("CONVEYOR_SNAPSHOT_MIB").ok();
    set.map_or(16, |mib| mib.parse::<usize>().expect("MiB")) * MIB
}

/// Of a hundred pieces or more, since each cut may cost one.
fn options() -> SnapshotOptions {
    SnapshotOptions {
        every_entries: 0,
        every_bytes: 0,
        keep_tail_entries: 0,
        keep_tail_bytes: 0,
        keep_for_peers_entries: 0,
        chunk_bytes: if state_bytes() < 256 * MIB {
            32 << 10
        } else {
            256 << 10
        },
        ..SnapshotOptions::default()
    }
}

fn place(id: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id as u8], 7000))
}

async fn start(dir: &Path, net: &MemNet) -> Vec<RaftNode> {
    let certs = certs(&[1, 2, 3]);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let others = (1..=3).filter(|other| *other != id);
        let others = others.map(|other| (other, place(other).to_string()));
        let credentials = certs.credentials(id).expect("credentials");
        let cluster = Cluster::new(dir.join(id.to_string()), credentials, place(id), others);
        let config = RaftConfig {
            node_id: id,
            ..RaftConfig::default()
        };
        let net = net.clone();
        let bind = move |options, sink| {
            let over = RaftTransport::bind_over(options, sink, net.socket(place(id)))?;
            let observer = over.observer();
            Ok((over, place(id), observer))
        };
        let builder = RaftNode::builder(config).snapshots(options());
        let node = builder.start_over(RouterStateMachine::new(), cluster, bind);
        nodes.push(node.await.expect("starts"));
    }
    nodes
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn leader(nodes: &[RaftNode]) -> Option<RaftNode> {
    nodes.iter().find(|node| node.is_leader()).cloned()
}

fn create(name: String, bytes: usize) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: name,
        name: String::new(),
        config: vec![7; bytes],
    }
}

/// Callers that each send the next command when the last one is applied.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Vec<Duration>>>,
}

impl Load {
    fn start(leads: &RaftNode) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let callers = (0..CALLERS).map(|caller| {
            let (leads, stop) = (leads.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let update = RouterCommand::register_service(
                        format!("mask-{caller}"),
                        "transform",
                        "10.0.1.5:8081",
                    );
                    leads.propose(update).await.expect("applied");
                    took.push(begun.elapsed());
                }
                took
            })
        });
        Self {
            callers: callers.collect(),
            stop,
        }
    }

    /// Of all commands: how many, the middle and the slowest hundredth.
    async fn end(self) -> (usize, Duration, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await.expect("no proposal failed"));
        }
        all.sort_unstable();
        (all.len(), all[all.len() / 2], all[all.len() * 99 / 100])
    }
}

fn cut(net: &MemNet, one: NodeId, other: NodeId, cut: bool) {
    let link = Link {
        cut,
        ..Link::default()
    };
    net.set(place(one), place(other), link);
    net.set(place(other), place(one), link);
}

/// Cuts the leader's way to the follower at every fourteenth of the transfer, each time until the leader's
/// connection for snapshots is gone.
async fn cut_again_and_again(net: &MemNet, leads: &RaftNode, behind: &RaftNode, chunks: u64) {
    let bulk = || {
        let links = leads.transport_stats();
        let mut to = links.iter().filter(|link| link.peer.node == behind.id());
        to.any(|link| link.class == LinkClass::Bulk && link.dialled)
    };
    for nth in 1..=CUTS {
        let due = chunks * nth / (CUTS + 4);
        until("the transfer goes on", || {
            leads.status().snapshots.chunks_sent >= due && bulk()
        })
        .await;
        cut(net, leads.id(), behind.id(), true);
        until("the connection is given up", || !bulk()).await;
        assert_eq!(
            behind.status().snapshots.installed,
            0,
            "cut {nth} is on the way"
        );
        cut(net, leads.id(), behind.id(), false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_a_snapshot_goes_on_through_ten_cuts_while_callers_write() {
    let _turn = common::real_time_turn();
    let dir = common::bed::folder();
    let net = MemNet::new(1, Link::default());
    let nodes = start(dir.path(), &net).await;
    until("a leader", || leader(&nodes).is_some()).await;
    let leads = leader(&nodes).expect("a leader");
    leads.propose(RouterCommand::Noop).await.expect("applied");
    let behind = nodes
        .iter()
        .find(|node| node.id() != leads.id())
        .expect("one");
    (1..=3).for_each(|other| cut(&net, behind.id(), other, true));
    for record in 0..state_bytes() / RECORD {
        let command = create(format!("record-{record:06}"), RECORD);
        leads.propose(command).await.expect("applied");
    }
    let load = Load::start(&leads);
    tokio::time::sleep(QUIET).await;
    let without = load.end().await;
    let taken = leads.take_snapshot(PATIENCE).await.expect("taken");
    until("the log is compacted", || leads.status().log_start >= taken).await;

    let chunk = options().chunk_bytes as usize;
    let chunks = (state_bytes() / chunk) as u64;
    let load = Load::start(&leads);
    let begun = Instant::now();
    (1..=3).for_each(|other| cut(&net, behind.id(), other, false));
    cut_again_and_again(&net, &leads, behind, chunks).await;
    until("it is installed", || {
        behind.status().snapshots.installed == 1
    })
    .await;
    let took = begun.elapsed();
    let with = load.end().await;
    let sent = leads.status().snapshots.chunks_sent;
    println!(
        "{} MiB in {took:.1?}, {CUTS} cuts, {sent} chunks sent for {chunks}; commands, p50, p99 without it \
         {without:.1?}, meanwhile {with:.1?}",
        state_bytes() / MIB
    );
    // What has arrived before a cut is not sent again.
    assert!(sent * 10 < chunks * 11, "{sent} chunks of {chunks}");
    let index = leads.applied_index();
    let mut digests = Vec::new();
    for node in &nodes {
        node.wait_applied(index, PATIENCE).await.expect("applied");
        digests.push(node.digest().await);
    }
    assert!(
        digests.windows(2).all(|two| two[0] == two[1]),
        "{digests:?}"
    );
    for node in &nodes {
        node.shutdown().await;
    }
}

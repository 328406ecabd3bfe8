//! Three nodes over a network in memory that loses datagrams and takes its time: how much is committed, with
//! a connection for each class and with one for all, and that nobody is elected.
#![allow(missing_docs)]

#[path = "quic_lossy/carrier.rs"]
mod carrier;
mod common;
mod quic_common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carrier::Carriers;
use common::bed::leader;
use conveyor_raft::quic::{RaftTransport, TransportOptions};
use conveyor_raft::{
    Cluster, NodeId, ProposeOptions, RaftConfig, RaftNode, RouterCommand, RouterStateMachine,
};
use quic_common::certs;
use quic_common::memnet::{Link, MemNet};
use tokio::runtime::Handle;

/// One way, on every link.
const DELAY: Duration = Duration::from_millis(20);
/// Callers, each of which sends the next command when the last one is applied.
const CALLERS: usize = 64;

/// Longer than any repair takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the messages travel by.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The transport as it is.
    Transport,
    /// Bare connections, one for each class.
    Apart,
    /// Bare connections, one for all classes.
    Together,
}

fn place(id: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id as u8], 7000))
}

async fn start(dir: &Path, net: &MemNet, way: Way) -> Vec<RaftNode> {
    let certs = certs(&[1, 2, 3]);
    let carriers = Carriers::new(
        (1..=3).map(|id| (id, place(id))).collect(),
        matches!(way, Way::Together),
    );
    let starting = (1..=3).map(|id| {
        let others = (1..=3).filter(|other| *other != id);
        let others = others.map(|other| (other, place(other).to_string()));
        let credentials = certs.credentials(id).expect("credentials");
        let dir = dir.join(id.to_string());
        let cluster = Cluster::new(dir, credentials, place(id), others);
        let config = RaftConfig {
            node_id: id,
            ..RaftConfig::default()
        };
        let (net, carriers, runtime) = (net.clone(), carriers.clone(), Handle::current());
        let machine = RouterStateMachine::new();
        let builder = RaftNode::builder(config);
        tokio::spawn(async move {
            let node = match way {
                Way::Transport => {
                    let bind = move |options, sink| {
                        let over = RaftTransport::bind_over(options, sink, net.socket(place(id)))?;
                        let observer = over.observer();
                        Ok((over, place(id), observer))
                    };
                    builder.start_over(machine, cluster, bind).await
                }
                Way::Apart | Way::Together => {
                    let bind = move |options: TransportOptions, sink| {
                        // Never dialled: it is there to be observed.
                        let idle = net.socket(place(100 + id));
                        let idle =
                            RaftTransport::bind_over(options.clone(), Arc::new(|_| {}), idle)?;
                        let socket = net.socket(place(id));
                        let carrier = runtime.block_on(carriers.plug(options, sink, socket));
                        Ok((carrier, place(id), idle.observer()))
                    };
                    builder.start_over(machine, cluster, bind).await
                }
            };
            node.expect("starts")
        })
    });
    let mut nodes = Vec::new();
    for node in starting.collect::<Vec<_>>() {
        nodes.push(node.await.expect("no panic"));
    }
    nodes
}

fn pipeline(caller: usize) -> String {
    format!("pipeline-{caller}")
}

/// Commands of so many bytes applied while `time` passes, and how long each took, sorted.
async fn load(leads: &RaftNode, bytes: usize, time: Duration) -> Vec<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (leads, stop) = (leads.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let update = RouterCommand::UpdatePipeline {
                        pipeline_id: pipeline(caller),
                        config: vec![took.len() as u8; bytes],
                        expected_version: None,
                    };
                    // Nobody gives up: the rate is what is asked for.
                    let options = ProposeOptions {
                        deadline: Some(PATIENCE),
                        ..ProposeOptions::default()
                    };
                    leads.propose_with(update, options).await.expect("applied");
                    took.push(begun.elapsed());
                }
                took
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.expect("no proposal failed"));
    }
    all.sort_unstable();
    all
}

/// What three nodes commit a second at a loss of so many in a thousand.
async fn commits(way: Way, lost: u64, bytes: usize, time: Duration) -> f64 {
    let dir = common::bed::folder();
    let link = Link {
        delay: DELAY,
        ..Link::default()
    };
    let net = MemNet::new(7, link);
    let nodes = start(dir.path(), &net, way).await;
    let leads = leader(&nodes).await;
    for caller in 0..CALLERS {
        let create = RouterCommand::CreatePipeline {
            pipeline_id: pipeline(caller),
            name: String::new(),
            config: Vec::new(),
        };
        leads.propose(create).await.expect("applied");
    }
    let term = leads.current_term();
    // From here on the same draws of loss, for whatever is sent.
    net.set_all(Link { lost, ..link });
    let took = load(&leads, bytes, time).await;
    let rate = took.len() as f64 / time.as_secs_f64();
    let at = |share: usize| took[took.len() * share / 100];
    println!(
        "{bytes} B, {lost} of 1000 lost, {way:?}: {rate:.0} commits/s, p50 {:.1?}, p99 {:.1?}",
        at(50),
        at(99)
    );
    assert!(net.lost() > 0, "nothing was lost");
    for node in &nodes {
        assert_eq!(node.current_term(), term, "{way:?}: nobody was elected");
        assert_eq!(node.leader_id(), Some(leads.id()), "{way:?}");
    }
    net.set_all(link);
    for node in &nodes {
        node.shutdown().await;
    }
    rate
}

/// `CONVEYOR_LOSSY_SECS`: how long each run lasts, 1 s without it, and then also over bare connections, apart
/// and together.
async fn runs(runs: &[(u64, usize)]) {
    let _turn = common::real_time_turn();
    let set = std::env::var("CONVEYOR_LOSSY_SECS").ok();
    let ways: &[Way] = match set {
        Some(_) => &[Way::Transport, Way::Apart, Way::Together],
        None => &[Way::Transport],
    };
    let secs = set.map_or(1, |secs| secs.parse().expect("seconds"));
    for &(lost, bytes) in runs {
        for &way in ways {
            let rate = commits(way, lost, bytes, Duration::from_secs(secs)).await;
            // Each caller waits for a round trip, 40 ms, now and then for a repair, and with large
            // commands for those of the others.
            let least = CALLERS as f64 / if bytes < 1024 { 1.0 } else { 16.0 };
            assert!(rate > least, "{way:?}: {rate} commits/s");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_and_delay_elect_nobody_and_commits_go_on() {
    runs(&[(10, 128), (50, 128)]).await;
}

/// What 64 callers have under way takes seconds over such a link: longer than every time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_commands_that_take_longer_than_every_timeout_on_the_way_are_committed() {
    runs(&[(50, 4096)]).await;
}

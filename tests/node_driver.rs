//! The driver as a task of the network's runtime and on a thread of its own: the node is the same, also
//! when the driver panics.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::core::Message;
use conveyor_raft::network::{LocalFacts, PeerAddress, RaftNetwork, SendOutcome};
use conveyor_raft::node::NodeBuilder;
use conveyor_raft::quic::RaftTransport;
use conveyor_raft::quic::certs::{self, GeneratedCerts};
use conveyor_raft::types::{NodeId, ReplicaId};
use conveyor_raft::{
    Certainty, Cluster, ProposeError, RaftConfig, RaftNode, RouterCommand, RouterStateMachine,
};
use tokio::runtime::Handle;

/// A transport that panics in the driver's face once it is told to.
struct Brittle {
    inner: RaftTransport,
    broken: Arc<AtomicBool>,
}

impl RaftNetwork for Brittle {
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) -> SendOutcome {
        self.inner.send(to, message, body)
    }

    fn set_peers(&mut self, peers: &[PeerAddress]) {
        self.inner.set_peers(peers);
    }

    fn set_local(&mut self, facts: &LocalFacts) {
        self.inner.set_local(facts);
    }

    /// Asked by a leader every second.
    fn blank_nodes(&self) -> Vec<(ReplicaId, LocalFacts)> {
        assert!(!self.broken.load(Ordering::Relaxed), "on purpose");
        self.inner.blank_nodes()
    }

    fn want_bulk(&mut self, to: NodeId, wanted: bool) {
        self.inner.want_bulk(to, wanted);
    }

    fn reopen(&mut self, to: NodeId) {
        self.inner.reopen(to);
    }

    fn runtime(&self) -> Option<Handle> {
        self.inner.runtime()
    }
}

struct Site {
    dir: tempfile::TempDir,
    certificates: GeneratedCerts,
}

impl Site {
    fn new() -> Self {
        let certificates = certs::generate("driver", &[1], &["localhost".into()]);
        Self {
            dir: tempfile::tempdir().expect("a folder"),
            certificates: certificates.expect("certificates"),
        }
    }

    fn cluster(&self) -> Cluster {
        let credentials = self.certificates.credentials(1).expect("credentials");
        let place: &Path = self.dir.path();
        Cluster::single(place, credentials)
    }

    /// A node that leads, and what breaks its network.
    async fn start(&self, separate: bool) -> (RaftNode, Arc<AtomicBool>) {
        let broken = Arc::new(AtomicBool::new(false));
        let breaks = Arc::clone(&broken);
        let builder = builder().separate_driver(separate).auto_join(true);
        let node = builder.start_over(
            RouterStateMachine::new(),
            self.cluster(),
            |options, sink| {
                let inner = RaftTransport::bind(options, sink)?;
                let (address, observer) = (inner.local_addr(), inner.observer());
                let broken = breaks;
                Ok((Brittle { inner, broken }, address, observer))
            },
        );
        let node = node.await.expect("starts");
        until(|| node.is_leader()).await;
        (node, broken)
    }
}

async fn until(mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(10), "in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn builder() -> NodeBuilder {
    RaftNode::builder(RaftConfig::default())
}

fn service(id: &str) -> RouterCommand {
    RouterCommand::register_service(id, "transform", "10.0.1.5:8081")
}

/// How many threads of this process are for a driver.
fn driver_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "raft-1-driver").count()
}

#[tokio::test]
async fn a_driver_works_the_same_on_the_networks_thread_and_on_its_own() {
    let _turn = common::real_time_turn();
    let site = Site::new();
    for (nth, separate) in [false, true, false].into_iter().enumerate() {
        let (node, _) = site.start(separate).await;
        let id = format!("mask-{nth}");
        let response = node.propose(service(&id)).await.expect("applied");
        assert!(node.applied_index() >= response.index);
        assert_eq!(node.state().await.services.len(), nth + 1);
        assert_eq!(driver_threads(), 1);
        node.shutdown().await;
        until(|| driver_threads() == 0).await;
        let late = node.propose(service(&id)).await.expect_err("too late");
        assert_eq!(late, ProposeError::ShuttingDown);
    }
}

#[tokio::test]
async fn f5_a_driver_that_panics_leaves_nobody_waiting_and_nothing_behind() {
    let _turn = common::real_time_turn();
    let site = Site::new();
    let mut kept = 0;
    for (nth, separate) in [false, true].into_iter().enumerate() {
        let (node, broken) = site.start(separate).await;
        let response = node.propose(service("kept")).await;
        kept = response.expect("answered").index;
        broken.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let error = loop {
            let id = format!("late-{nth}");
            match node.propose(service(&id)).await {
                Ok(_) => assert!(begun.elapsed() < Duration::from_secs(10), "it goes on"),
                Err(error) => break error,
            }
        };
        assert_ne!(error.certainty(), Certainty::Applied, "{error}");
        let status = node.status();
        assert!(status.failure.is_some_and(|why| why.contains("panicked")));
        assert!(!node.is_leader());
        let again = node.propose(service("later")).await.expect_err("gone");
        assert_eq!(again.certainty(), Certainty::NotApplied, "{again}");
        assert!(
            node.state().await.services.contains_key("kept"),
            "reads go on"
        );
        node.shutdown().await;
        drop(node);
    }
    let (node, _) = site.start(false).await;
    let applied = node.wait_applied(kept, Duration::from_secs(10)).await;
    let view = &applied.expect("applied again").view;
    assert!(view.services.contains_key("kept"));
    node.shutdown().await;
}

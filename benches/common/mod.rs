//! What the benchmarks share: where they write, and a real cluster in one process.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod bed;
pub(crate) mod fill;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod medium;
pub(crate) mod ratios;
pub(crate) mod router;
pub(crate) mod tuning;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use conveyor_raft::quic::certs::{self, GeneratedCerts};
use conveyor_raft::{
    Cluster, LogIndex, NodeId, NodeStatus, RaftConfig, RaftNode, RouterState, RouterStateMachine,
    StateMachine,
};
use tempfile::TempDir;
use tuning::Tuning;

/// Nodes with everything real: mapped logs, QUIC with mutual TLS, the router's state machine or another.
pub(crate) struct BenchCluster<S: StateMachine = RouterStateMachine> {
    pub(crate) nodes: Vec<RaftNode<S>>,
    pub(crate) certificates: GeneratedCerts,
    addresses: Vec<SocketAddr>,
    tuning: Tuning,
    dir: TempDir,
}

/// Addresses that were free a moment ago; held until the last is found, so that they differ.
pub(crate) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let bind = |_| UdpSocket::bind(("127.0.0.1", 0)).expect("a UDP port");
    let sockets: Vec<UdpSocket> = (0..count).map(bind).collect();
    let address = |socket: &UdpSocket| socket.local_addr().expect("its address");
    sockets.iter().map(address).collect()
}

/// A node's figures are published now and then, not with every write.
async fn status_with_syncs<S: StateMachine>(node: &RaftNode<S>) -> NodeStatus {
    let start = Instant::now();
    loop {
        let status = node.status();
        if status.syncs > 0 {
            return status;
        }
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "node {} never synced",
            node.id()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl BenchCluster {
    pub(crate) async fn start(folder: &Path, size: u64) -> Self {
        Self::start_with(folder, size, RouterStateMachine::new).await
    }

    /// Ends the cluster after a look at what it did; every node has the offsets of `sources` sources.
    pub(crate) async fn verify_and_stop(self, last: LogIndex, sources: usize) {
        let check = |view: &RouterState| {
            assert_eq!(view.checkpoints.source_offsets.len(), sources);
        };
        self.verify_with_and_stop(last, check).await;
    }
}

impl<S: StateMachine> BenchCluster<S> {
    pub(crate) async fn start_with(folder: &Path, size: u64, machine: impl Fn() -> S) -> Self {
        Self::start_tuned(folder, size, machine, Tuning::default()).await
    }

    pub(crate) async fn start_tuned(
        folder: &Path,
        size: u64,
        machine: impl Fn() -> S,
        tuning: Tuning,
    ) -> Self {
        let ids: Vec<NodeId> = (1..=size).collect();
        let mut cluster = Self {
            nodes: Vec::new(),
            certificates: certs::generate("bench", &ids, &[]).expect("certificates"),
            addresses: free_addresses(ids.len()),
            tuning,
            dir: tempfile::tempdir_in(folder).expect("a folder"),
        };
        for id in ids {
            let node = cluster.start_node(id, machine()).await;
            cluster.nodes.push(node);
        }
        cluster.leader().await;
        cluster
    }

    /// Starts a node at its place, for the first time or again.
    pub(crate) async fn start_node(&self, id: NodeId, machine: S) -> RaftNode<S> {
        let members = self.addresses.iter().map(ToString::to_string);
        let members = (1..).zip(members);
        let credentials = self.certificates.credentials(id).expect("credentials");
        let data = self.dir.path().join(format!("node-{id}"));
        let cluster = if self.addresses.len() == 1 {
            Cluster::single(data, credentials)
        } else {
            let listen = self.addresses[id as usize - 1];
            Cluster::new(data, credentials, listen, members)
        };
        // A shared machine may hold a process up for longer than the default patience; an
        // election in the middle of a measurement would be the machine's, not ours.
        let config = RaftConfig {
            node_id: id,
            election_timeout_min_ms: 1000,
            election_timeout_max_ms: 2000,
            heartbeat_interval_ms: 100,
        };
        self.tuning.start(config, machine, cluster).await
    }

    pub(crate) async fn leader(&self) -> RaftNode<S> {
        let start = Instant::now();
        loop {
            if let Some(leader) = self.nodes.iter().find(|node| node.is_leader()) {
                return leader.clone();
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "no leader within 30 s"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the cluster after a look at what it did: every node ends at entry `last` with the same
    /// state, and what `check` wants of it, everything was synced, and what went between the nodes was
    /// mutual TLS 1.3.
    pub(crate) async fn verify_with_and_stop(self, last: LogIndex, check: impl Fn(&S::View)) {
        let mut digests = Vec::new();
        for node in &self.nodes {
            let applied = node.wait_applied(last, Duration::from_secs(30)).await;
            let applied = applied.expect("every node applies everything");
            assert_eq!(applied.id.index, last, "node {}", node.id());
            check(&applied.view);
            digests.push(applied.digest);
            let status = status_with_syncs(node).await;
            assert_eq!(status.failure, None);
            let links = node.transport_stats();
            assert!(self.nodes.len() == 1 || !links.is_empty());
            assert!(links.iter().all(|link| link.mutual_tls13));
            assert!(links.iter().all(|link| link.datagrams_sent > 0));
            let mtu: Vec<u16> = links.iter().map(|link| link.mtu).collect();
            println!("node {}: {} syncs, MTU {mtu:?}", node.id(), status.syncs);
        }
        assert!(
            digests.iter().all(|digest| *digest == digests[0]),
            "{digests:?}"
        );
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

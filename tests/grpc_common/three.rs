//! A cluster of three over real QUIC, and client edges of its nodes behind TLS.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use conveyor_raft::grpc::{Edge, EdgeIdentity, EdgeOptions, EdgeSecurity, connect, serve};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::quic::certs::{GeneratedCerts, PemPair, generate};
use conveyor_raft::{Cluster, RaftConfig, RaftNode, RouterStateMachine};
use tokio::net::TcpListener;
use tonic::transport::Channel;

pub(crate) struct Three {
    pub(crate) nodes: Vec<RaftNode>,
    pub(crate) certs: GeneratedCerts,
    _dir: tempfile::TempDir,
}

/// What the nodes say about where clients find them; nobody listens there.
pub(crate) fn told_endpoint(node: u64) -> String {
    format!("https://node-{node}.example:50051")
}

fn identity(certs: &GeneratedCerts, pair: &PemPair) -> EdgeIdentity {
    let ca = &certs.ca;
    EdgeIdentity::from_pem(&ca.client_ca().cert, &pair.cert, &pair.key, ca.client_crl())
        .expect("identity")
}

impl Three {
    pub(crate) async fn start() -> Self {
        Self::start_with(RaftConfig::default()).await
    }

    /// With the times of `config`.
    pub(crate) async fn start_with(config: RaftConfig) -> Self {
        let certs = generate("three", &[1, 2, 3], &[]).expect("certificates");
        let dir = tempfile::tempdir().expect("directory");
        // Held until all ports are known, so that none is given out twice.
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let addresses = sockets.each_ref().map(|it| it.local_addr().expect("bound"));
        drop(sockets);
        let mut nodes = Vec::new();
        for (id, address) in (1..=3).zip(addresses) {
            let others = (1..=3).zip(addresses).filter(|(other, _)| *other != id);
            let others = others.map(|(other, address)| (other, address.to_string()));
            let credentials = certs.credentials(id).expect("credentials");
            let data = dir.path().join(id.to_string());
            let cluster = Cluster::new(data, credentials, address, others);
            let cluster = cluster.client_endpoint(told_endpoint(id));
            let config = RaftConfig {
                node_id: id,
                ..config.clone()
            };
            let node = RaftNode::new(config, RouterStateMachine::new(), cluster).await;
            nodes.push(node.expect("starts"));
        }
        let three = Self {
            nodes,
            certs,
            _dir: dir,
        };
        three.settle().await;
        three
    }

    /// Waits until all know the same leader.
    pub(crate) async fn settle(&self) -> &RaftNode {
        let begun = Instant::now();
        loop {
            let leader = self.nodes.iter().find(|node| node.is_leader());
            if let Some(leader) = leader
                && (self.nodes.iter()).all(|node| node.leader_id() == Some(leader.id()))
            {
                return leader;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn followers(&self) -> Vec<&RaftNode> {
        let leader = self.settle().await.id();
        let others = self.nodes.iter().filter(|node| node.id() != leader);
        others.collect()
    }

    /// An edge of `node`, and a caller of it.
    pub(crate) async fn edge_of(&self, node: &RaftNode, role: ClientRole) -> (Edge, Channel) {
        let nth = node.id() as usize - 1;
        let server = identity(&self.certs, &self.certs.nodes[nth].edge);
        let options = EdgeOptions::new(EdgeSecurity::Tls(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let edge = serve(node.clone(), options, listener).await.expect("edge");
        let caller = self.certs.ca.issue_client(role, "caller");
        let caller = identity(&self.certs, &caller.expect("client"));
        let endpoint = format!("https://{}", edge.address());
        let channel = connect(&endpoint, Some(&caller)).await.expect("channel");
        (edge, channel)
    }

    pub(crate) async fn stop(&self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

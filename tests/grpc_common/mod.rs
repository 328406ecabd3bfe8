//! What the tests of the client edge share: a cluster of one behind TLS, and callers of it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::{Duration, Instant};

use conveyor_raft::grpc::{
    BackupOptions, Edge, EdgeIdentity, EdgeOptions, EdgeSecurity, connect, serve,
};
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{ProposeRequest, ProposeResponse};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::quic::certs::{GeneratedCerts, PemPair, generate};
use conveyor_raft::state_machine::LocalService;
use conveyor_raft::wal::LogOptions;
use conveyor_raft::{Cluster, RaftConfig, RaftNode, RouterCommand, RouterStateMachine};
use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::Channel;

pub(crate) struct One {
    pub(crate) node: RaftNode,
    pub(crate) edge: Edge,
    pub(crate) certs: GeneratedCerts,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn certificates() -> GeneratedCerts {
    generate("test", &[1], &[]).expect("certificates")
}

/// `pair` with the client CA of `certs`.
pub(crate) fn identity(certs: &GeneratedCerts, pair: &PemPair) -> EdgeIdentity {
    let ca = &certs.ca;
    EdgeIdentity::from_pem(&ca.client_ca().cert, &pair.cert, &pair.key, ca.client_crl())
        .expect("identity")
}

pub(crate) async fn single_node(certs: &GeneratedCerts, dir: &tempfile::TempDir) -> RaftNode {
    let log = LogOptions {
        segment_bytes: 8 << 20,
        allow_unsupported_fs: true,
        ..LogOptions::default()
    };
    let cluster = Cluster::single(
        dir.path().join("data"),
        certs.credentials(1).expect("node 1"),
    );
    let node = RaftNode::builder(RaftConfig::default())
        .log(log)
        .start(RouterStateMachine::new(), cluster)
        .await
        .expect("node");
    let give_up = Instant::now() + Duration::from_secs(20);
    while node.applied().id.term == 0 || !node.is_leader() {
        assert!(Instant::now() < give_up, "no leader: {:?}", node.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node
}

impl One {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut EdgeOptions)) -> Self {
        let certs = certificates();
        let dir = tempfile::tempdir().expect("directory");
        let node = single_node(&certs, &dir).await;
        let server = identity(&certs, &certs.nodes[0].edge);
        let mut options = EdgeOptions::new(EdgeSecurity::Tls(server));
        options.backup = Some(BackupOptions::new(dir.path().join("backups")));
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let edge = serve(node.clone(), options, listener).await.expect("edge");
        Self {
            node,
            edge,
            certs,
            dir,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.edge.address())
    }

    pub(crate) async fn channel(&self, role: ClientRole) -> Channel {
        let pair = self.certs.ca.issue_client(role, "caller").expect("client");
        let identity = identity(&self.certs, &pair);
        connect(&self.endpoint(), Some(&identity))
            .await
            .expect("channel")
    }

    pub(crate) async fn router(&self, role: ClientRole) -> RouterClient<Channel> {
        RouterClient::new(self.channel(role).await)
    }

    pub(crate) async fn stop(self) {
        self.edge.shutdown().await;
        self.node.shutdown().await;
    }
}

pub(crate) async fn propose(
    router: &mut RouterClient<Channel>,
    command: RouterCommand,
) -> Result<ProposeResponse, Status> {
    let request = ProposeRequest {
        command: Some(command.into()),
        ..ProposeRequest::default()
    };
    Ok(router.propose(request).await?.into_inner())
}

pub(crate) fn sidecar(id: &str) -> RouterCommand {
    RouterCommand::register_sidecar(id, "10.0.1.5:50053", Vec::<LocalService>::new())
}

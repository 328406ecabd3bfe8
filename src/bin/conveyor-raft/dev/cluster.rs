//! The nodes of a trial cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conveyor_raft::grpc::{Edge, EdgeOptions, EdgeSecurity, Role, serve};
use conveyor_raft::node::Applied;
use conveyor_raft::quic::CredentialFiles;
use conveyor_raft::state_machine::RouterState;
use conveyor_raft::wal::LogOptions;
use conveyor_raft::{Cluster, Credentials, RaftConfig, RaftNode, RouterStateMachine};
use tokio::net::TcpListener;

use crate::failure::{Context, Failure};

use super::folder::{Folder, Ports};

/// Small segments: a trial should not fill the disk of whoever tries.
const SEGMENT_BYTES: u64 = 8 << 20;
const POLL: Duration = Duration::from_millis(10);

/// A node's state at one index.
pub(super) type State = Arc<Applied<RouterState>>;

pub(super) struct DevCluster {
    nodes: Vec<RaftNode>,
    edges: Vec<Edge>,
}

impl DevCluster {
    pub(super) async fn start(folder: &Folder) -> Result<Self, Failure> {
        let mut cluster = Self {
            nodes: Vec::new(),
            edges: Vec::new(),
        };
        for (id, ports) in (1..).zip(&folder.ports) {
            let started = start_node(folder, id, *ports).await;
            let (node, edge) = started.context(format!("node {id}"))?;
            cluster.nodes.push(node);
            cluster.edges.push(edge);
        }
        Ok(cluster)
    }

    pub(super) fn nodes(&self) -> &[RaftNode] {
        &self.nodes
    }

    /// Where clients find the nodes, in their order.
    pub(super) fn endpoints(&self) -> Vec<String> {
        let urls = self
            .edges
            .iter()
            .map(|edge| format!("http://{}", edge.address()));
        urls.collect()
    }

    pub(super) fn leader(&self) -> Option<&RaftNode> {
        let serves = |node: &&RaftNode| node.is_leader() && !node.status().stopping;
        self.nodes.iter().find(serves)
    }

    pub(super) fn commit_index(&self) -> u64 {
        let indexes = self.nodes.iter().map(|node| node.status().commit_index);
        indexes.max().unwrap_or_default()
    }

    /// Waits for a leader that has applied an entry of its own term: only then it has applied all
    /// that was committed before (Raft paper, section 8).
    pub(super) async fn wait_until_ready(&self, patience: Duration) -> Result<(), Failure> {
        let give_up = Instant::now() + patience;
        loop {
            let leader = self.wait_for_leader(patience).await?;
            if leader.applied().id.term == leader.current_term() {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(self.why_no_leader(patience));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn wait_for_leader(&self, patience: Duration) -> Result<&RaftNode, Failure> {
        let give_up = Instant::now() + patience;
        loop {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            if Instant::now() > give_up {
                return Err(self.why_no_leader(patience));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn why_no_leader(&self, patience: Duration) -> Failure {
        let notes = self.nodes.iter().filter_map(|node| {
            let status = node.status();
            let note = status.failure.or(status.advice)?;
            Some(format!("node {}: {note}", status.id.node))
        });
        let notes = notes.collect::<Vec<_>>().join("; ");
        Failure::new(format!("no leader within {} s {notes}", patience.as_secs()))
    }

    /// Waits until all nodes have applied `index` and stand at one index, as they do once nothing
    /// more comes. Returns their states there.
    pub(super) async fn agree(
        &self,
        index: u64,
        patience: Duration,
    ) -> Result<Vec<State>, Failure> {
        for node in &self.nodes {
            let waited = node.wait_applied(index, patience).await;
            waited.context(format!("node {}", node.id()))?;
        }
        let give_up = Instant::now() + patience;
        loop {
            let states: Vec<_> = self.nodes.iter().map(RaftNode::applied).collect();
            let first = states.first().map(|state| state.id);
            if states.iter().all(|state| Some(state.id) == first) {
                return Ok(states);
            }
            if Instant::now() > give_up {
                return Err(Failure::new(format!(
                    "the nodes did not come to one index within {} s",
                    patience.as_secs()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Closes all at once: one after the other, those left would elect anew each time.
    pub(super) async fn shutdown(self) {
        let closing: Vec<_> = self
            .edges
            .into_iter()
            .zip(self.nodes)
            .map(|(edge, node)| {
                tokio::spawn(async move {
                    edge.shutdown().await;
                    node.shutdown().await;
                })
            })
            .collect();
        for one in closing {
            if let Err(error) = one.await {
                tracing::error!(%error, "a node did not close");
            }
        }
    }
}

async fn start_node(folder: &Folder, id: u64, ports: Ports) -> Result<(RaftNode, Edge), Failure> {
    let credentials = Credentials::load(&CredentialFiles::in_dir(folder.certs(), id))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.clients)).await;
    let listener = listener.context(format!("port {} for clients", ports.clients))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let cluster = match folder.ports.len() {
        1 => Cluster::single(folder.data(id), credentials),
        _ => {
            let others = (1..).zip(&folder.ports).filter(|(other, _)| *other != id);
            let members =
                others.map(|(other, ports)| (other, format!("127.0.0.1:{}", ports.peers)));
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.peers));
            Cluster::new(folder.data(id), credentials, listen, members)
        }
    };
    let config = RaftConfig {
        node_id: id,
        ..RaftConfig::default()
    };
    let log = LogOptions {
        segment_bytes: SEGMENT_BYTES,
        // A trial runs wherever its user is; what the file system may lack matters to `serve`.
        allow_unsupported_fs: true,
        ..LogOptions::default()
    };
    let node = RaftNode::builder(config)
        .log(log)
        .start(RouterStateMachine::new(), cluster.client_endpoint(endpoint))
        .await?;
    let security = EdgeSecurity::PlainLoopback { role: Role::Writer };
    let edge = serve(node.clone(), EdgeOptions::new(security), listener).await?;
    Ok((node, edge))
}

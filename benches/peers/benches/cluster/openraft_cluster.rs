//! Three openraft nodes in one process. In memory they are set up as its own minimal benchmark does: a call
//! in place of a network, nothing encrypted, nothing durable. Over TCP their logs sync.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{NetSnapshot, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::RaftLogStorage;
use openraft::{Config, Raft, RaftNetworkFactory};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::openraft_serve::serve;
use super::openraft_store::{Command, Log, Machine, Types};
use super::openraft_synced::SyncedLog;
use super::openraft_tcp::Tcp;

pub(super) type Node = Raft<Types, Machine>;

/// All nodes by id: the network.
#[derive(Clone, Default)]
struct Nodes(Arc<Mutex<BTreeMap<u64, Node>>>);

impl Nodes {
    fn get(&self, id: u64) -> Node {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes[&id].clone()
    }
}

impl RaftNetworkFactory<Types> for Nodes {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Link {
        Link(self.get(target))
    }
}

/// The way to one node.
struct Link(Node);

fn unreachable(error: &(impl std::error::Error + 'static)) -> Unreachable<Types> {
    Unreachable::new(error)
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = u64;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.0.append_entries(rpc).await;
        answer.map_err(|error| unreachable(&error).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.0.vote(rpc).await;
        answer.map_err(|error| unreachable(&error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, u64>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let answer = self.0.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|error| unreachable(&error).into())
    }
}

/// See the module.
pub(crate) struct OpenraftCluster {
    nodes: BTreeMap<u64, Node>,
    machines: Vec<Machine>,
    leader: Node,
    payload: Bytes,
    _folder: Option<TempDir>,
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// So many nodes; a number is a node's name.
const NODES: u64 = 3;

fn config(over_tcp: bool) -> Arc<Config> {
    let config = Config {
        election_timeout_min: if over_tcp { 1000 } else { 200 },
        election_timeout_max: 2000,
        purge_batch_size: 1024,
        max_payload_entries: 1024,
        // Followers are sent entries while the leader syncs them.
        broadcast_submitted_on_append: over_tcp.then_some(true),
        ..Config::default()
    };
    Arc::new(config.validate().expect("a valid configuration"))
}

impl OpenraftCluster {
    /// In memory, by calls.
    pub(crate) async fn in_memory(payload: Bytes) -> Self {
        let network = Nodes::default();
        let known = network.clone();
        let ready = |nodes: &BTreeMap<u64, Node>| {
            *known.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes.clone();
        };
        let log = |_| Log::default();
        Self::start(payload, config(false), network, log, ready, None).await
    }

    /// Over TCP, with logs in the folder that sync.
    pub(crate) async fn over_tcp(payload: Bytes, folder: TempDir) -> Self {
        let (mut listeners, mut addresses) = (Vec::new(), BTreeMap::new());
        for id in 0..NODES {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await;
            let listener = listener.expect("a TCP port");
            let address: SocketAddr = listener.local_addr().expect("its address");
            addresses.insert(id, address);
            listeners.push(listener);
        }
        let path = folder.path().to_owned();
        let log = |id| SyncedLog::create(&path, id).expect("a log");
        let ready = |nodes: &BTreeMap<u64, Node>| {
            for (listener, node) in listeners.into_iter().zip(nodes.values()) {
                tokio::spawn(serve(listener, node.clone()));
            }
        };
        let network = Tcp(Arc::new(addresses));
        Self::start(payload, config(true), network, log, ready, Some(folder)).await
    }

    async fn start<N, L>(
        payload: Bytes,
        config: Arc<Config>,
        network: N,
        log: impl Fn(u64) -> L,
        ready: impl FnOnce(&BTreeMap<u64, Node>),
        folder: Option<TempDir>,
    ) -> Self
    where
        N: RaftNetworkFactory<Types, Network: NetSnapshot<Types, SnapshotData = u64>> + Clone,
        L: RaftLogStorage<Types>,
    {
        let (mut nodes, mut machines) = (BTreeMap::new(), Vec::new());
        for id in 0..NODES {
            let machine = Machine::default();
            machines.push(machine.clone());
            let node = Node::new(id, config.clone(), network.clone(), log(id), machine).await;
            nodes.insert(id, node.expect("the node starts"));
        }
        ready(&nodes);
        let leader = nodes[&0].clone();
        let members: BTreeMap<u64, EmptyNode> = (0..NODES).map(|id| (id, EmptyNode {})).collect();
        let founded = leader.initialize(members).await;
        founded.expect("a new cluster");
        for node in nodes.values() {
            let led = node.wait(PATIENCE).current_leader(0, "it leads").await;
            led.expect("the first node leads");
        }
        Self {
            nodes,
            machines,
            leader,
            payload,
            _folder: folder,
        }
    }

    pub(crate) async fn propose(&self) {
        let command = Command(self.payload.clone());
        let answer = self.leader.client_write(command).await;
        answer.expect("the leader keeps leading and takes every command");
    }

    /// Every node has applied every command that was answered.
    pub(crate) async fn verify_and_stop(self, answered: u64) {
        for (nth, machine) in self.machines.iter().enumerate() {
            for _ in 0..1000 {
                if machine.commands() == answered {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(machine.commands(), answered, "openraft, node {nth}");
        }
        for node in self.nodes.values() {
            node.shutdown().await.expect("the node stops");
        }
    }
}

//! Three openraft nodes in one process, set up as its own minimal benchmark does: in memory, a call
//! in place of a network, nothing encrypted, nothing durable.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{Config, Raft, RaftNetworkFactory};

use super::openraft_store::{Command, Log, Machine, Types};

type Node = Raft<Types, Machine>;

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
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

impl OpenraftCluster {
    pub(crate) async fn start(payload: Bytes) -> Self {
        let config = Config {
            election_timeout_min: 200,
            election_timeout_max: 2000,
            purge_batch_size: 1024,
            max_payload_entries: 1024,
            ..Config::default()
        };
        let config = Arc::new(config.validate().expect("a valid configuration"));
        let network = Nodes::default();
        let (mut nodes, mut machines) = (BTreeMap::new(), Vec::new());
        for id in 0..3 {
            let machine = Machine::default();
            machines.push(machine.clone());
            let node =
                Node::new(id, config.clone(), network.clone(), Log::default(), machine).await;
            nodes.insert(id, node.expect("the node starts"));
        }
        *network.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes.clone();
        let leader = nodes[&0].clone();
        let members: BTreeMap<u64, EmptyNode> = (0..3).map(|id| (id, EmptyNode {})).collect();
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

//! node: skeleton of the handle; signatures are what counts.
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Cluster, RaftConfig};
use crate::error::*;
use crate::state_machine::{Frozen, StateMachine};
use crate::types::*;

/// Role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RaftRole {
    /// Follows.
    #[default]
    Follower,
    /// Asks whether it would win.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// One peer as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub address: String,
    /// Where clients find it.
    pub client_endpoint: String,
    /// Data stream up.
    pub connected: bool,
    /// Leader only: known equal up to here.
    pub match_index: LogIndex,
    /// Leader only: ms since its last reply.
    pub last_contact_ms: Option<u64>,
}

/// A node's view of itself at one moment.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Who.
    pub id: ReplicaId,
    /// Which cluster.
    pub cluster: ClusterId,
    /// Role.
    pub role: RaftRole,
    /// Term.
    pub term: Term,
    /// Who leads.
    pub leader: LeaderHint,
    /// Last entry in the log.
    pub last: LogId,
    /// Highest index durable on this node.
    pub durable_index: LogIndex,
    /// Commit.
    pub commit_index: LogIndex,
    /// Applied.
    pub applied_index: LogIndex,
    /// Log time at applied, microseconds.
    pub log_time_us: Micros,
    /// Peers.
    pub peers: Vec<PeerStatus>,
    /// One line when the node waits for an operator ("founding incomplete...", "this directory is blank...").
    pub advice: Option<String>,
    /// Set once the replica has failed.
    pub failure: Option<String>,
    /// Shutting down.
    pub stopping: bool,
}

/// The state at one applied index, pinned.
pub struct Applied<V> {
    /// The entry applied last.
    pub id: LogId,
    /// Its log time.
    pub time_us: Micros,
    /// Digest of the state.
    pub digest: u128,
    /// The state.
    pub view: Arc<V>,
}

/// A frozen state with what it reflects (for backups).
pub struct FrozenState {
    /// The entry applied last.
    pub id: LogId,
    /// Its log time.
    pub time_us: Micros,
    /// Digest of the state.
    pub digest: u128,
    /// The state, to be written out on another thread.
    pub frozen: Box<dyn Frozen>,
}

/// Options of one proposal.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProposeOptions {
    /// Give up waiting after this long (default 5 s).
    pub deadline: Option<Duration>,
}

/// A node of a cluster: the handle. Cheap to clone; every call is `&self`.
pub struct RaftNode<S: StateMachine = crate::state_machine::RouterStateMachine>(
    std::marker::PhantomData<fn() -> S>,
);

impl<S: StateMachine> Clone for RaftNode<S> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// Opens and starts a node.
    pub async fn new(
        config: RaftConfig,
        state_machine: S,
        peers: Cluster,
    ) -> Result<Self, StartError> {
        let _ = (config, state_machine, peers);
        todo!()
    }
    /// This node's number.
    pub fn id(&self) -> NodeId {
        todo!()
    }
    /// Whether it leads right now.
    pub fn is_leader(&self) -> bool {
        todo!()
    }
    /// Who leads.
    pub fn leader_id(&self) -> Option<NodeId> {
        todo!()
    }
    /// Term.
    pub fn current_term(&self) -> Term {
        todo!()
    }
    /// Role.
    pub fn role(&self) -> RaftRole {
        todo!()
    }
    /// Highest applied index.
    pub fn applied_index(&self) -> LogIndex {
        todo!()
    }
    /// Everything about the node at this moment.
    pub fn status(&self) -> NodeStatus {
        todo!()
    }
    /// The address that the peer listener is bound to.
    pub fn peer_address(&self) -> std::net::SocketAddr {
        todo!()
    }
    /// Tells peers and clients where clients reach this node (known only after the edge listens).
    pub fn set_client_endpoint(&self, endpoint: &str) {
        let _ = endpoint;
        todo!()
    }
    /// Proposes and waits until applied on the leader (5 s at most).
    pub async fn propose(&self, command: S::Command) -> Result<S::Response, ProposeError> {
        let _ = command;
        todo!()
    }
    /// The same with options.
    pub async fn propose_with(
        &self,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<S::Response, ProposeError> {
        let _ = (command, options);
        todo!()
    }
    /// Pipelined: the command has its place in the order of submission when this returns; the
    /// future resolves when applied. Dropping the future does not withdraw the command.
    pub fn submit(
        &self,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<Proposal<S>, ProposeError> {
        let _ = (command, options);
        todo!()
    }
    /// Local state.
    pub async fn state(&self) -> Arc<S::View> {
        todo!()
    }
    /// Local state with the index that it reflects.
    pub fn applied(&self) -> Arc<Applied<S::View>> {
        todo!()
    }
    /// Digest at the applied index.
    pub async fn digest(&self) -> (LogIndex, u128) {
        todo!()
    }
    /// Waits until `index` is applied here.
    pub async fn wait_applied(
        &self,
        index: LogIndex,
        deadline: Duration,
    ) -> Result<Arc<Applied<S::View>>, WaitError> {
        let _ = (index, deadline);
        todo!()
    }
    /// A consistent cut for a backup.
    pub async fn freeze(&self) -> Result<FrozenState, WaitError> {
        todo!()
    }
    /// Closes cleanly: what is queued is answered, the log is synced. Later calls get `ShuttingDown`.
    pub async fn shutdown(&self) {
        todo!()
    }
}

/// A submitted command.
pub struct Proposal<S: StateMachine>(std::marker::PhantomData<fn() -> S>);

impl<S: StateMachine> Future for Proposal<S> {
    type Output = Result<S::Response, ProposeError>;
    fn poll(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        todo!()
    }
}

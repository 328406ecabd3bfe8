//! Raft consensus for Conveyor's control plane, and for any state machine: a segmented,
//! memory-mapped write-ahead log, replicated over mutually authenticated QUIC.
//!
//! A [`RaftNode`] is one member of a cluster. It takes commands on the leader, keeps them in a
//! replicated log, applies them in the same order on every node, and answers when the leader has
//! applied them. What is acknowledged is durable on a majority.
//!
//! ```
//! use conveyor_raft::{Cluster, RaftConfig, RaftNode, RouterCommand, RouterStateMachine};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let certificates = conveyor_raft::quic::certs::generate("demo", &[1], &["localhost".into()])?;
//! // A cluster of one; `Cluster::new` names the other members and the listener.
//! let peers = Cluster::single(dir.path(), certificates.credentials(1)?);
//!
//! let config = RaftConfig {
//!     node_id: 1,
//!     election_timeout_min_ms: 150,
//!     election_timeout_max_ms: 300,
//!     heartbeat_interval_ms: 50,
//! };
//! let state_machine = RouterStateMachine::new();
//! let node = RaftNode::new(config, state_machine, peers).await?;
//! # while !node.is_leader() { tokio::time::sleep(std::time::Duration::from_millis(5)).await }
//! // Resolves once applied on the leader.
//! node.propose(RouterCommand::register_service("mask-0", "transform", "10.0.1.5:8081")).await?;
//! let state = node.state().await; // any node
//! assert!(state.services.contains_key("mask-0"));
//! # node.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//! * [`node`]: the handle; the driver behind it is the only place where the parts meet.
//! * [`core`]: the protocol as a pure state machine, without clock, file or socket.
//! * [`wal`]: the log. [`entry`] has the frame that is the same on disk and on the wire.
//! * [`network`]: the seam to the peers; [`quic`] is the transport behind it.
//! * [`state_machine`]: the trait to implement for your own state, and Conveyor's router state.
//! * [`snapshot`]: when a replica's snapshots are taken; `backup` (feature `backup`): files that hold a
//!   state; `grpc` (feature `grpc`): the client edge; `client` (feature `client`): its Rust client.
//!
//! # What it is not
//! It is no database and no message broker: it keeps a state that fits in memory. It does not
//! shard: one cluster is one log. It does not tolerate nodes that lie (Byzantine faults): whoever
//! holds a peer certificate is trusted to follow the protocol.
//!
//! # Features
//! `grpc` and `cli` are on by default, for the program. Who embeds takes
//! `default-features = false`, and has neither tonic nor clap in the tree. `client` is the Rust client
//! alone. `sim` adds the simulator
//! of whole clusters, for tests of state machines.
#![deny(unsafe_code)]

#[cfg(feature = "backup")]
pub mod backup;
pub mod config;
pub mod core;
pub mod entry;
pub mod error;
pub mod network;
pub mod node;
pub mod proto;
pub mod quic;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod snapshot;
pub mod state_machine;
pub mod types;
pub mod wal;
pub mod wire;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod grpc;

pub use config::{Cluster, ConfigError, RaftConfig};
pub use core::{RaftCore, RaftRole};
pub use error::{
    Certainty, ChangeError, HandOverError, LeaderHint, ProposeError, ReadError, SessionRefusal,
    StartError, WaitError,
};
pub use network::RaftNetwork;
pub use node::{
    Change, ChangeOptions, EventsError, InSession, NodeEvent, NodeEvents, NodeStatus, NodeView,
    NodeWatch, ProposeOptions, RaftNode, ReadConsistency, ReadOptions, Session, SessionError,
    StateWatch, WatchFrom, WatchOptions,
};
pub use quic::{Credentials, RaftTransport, RaftTransportService};
pub use state_machine::{RouterCommand, RouterState, RouterStateMachine, StateMachine};
pub use types::{LogId, LogIndex, NodeId, Term};
pub use wal::LogStorage;

#[cfg(feature = "grpc")]
pub use grpc::BackupServiceImpl;

/// The page is compiled as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
pub struct EmbeddingPage;

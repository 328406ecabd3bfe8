//! The client edge: gRPC services over a node, behind TLS.
//!
//! | service | what | role |
//! |---|---|---|
//! | `conveyor.raft.v1.Router` | proposals one by one, in batches and as a stream, sessions; reads, lists, state, watch | writer, reader |
//! | `conveyor.raft.v1.Cluster` | how the node is; who belongs to the cluster | reader |
//! | | changes of members, hand-over of leadership | operator |
//! | `conveyor.raft.v1.Backup` | snapshots of the state | operator |
//! | `grpc.health.v1.Health` | live and ready | none |
//! | `grpc.reflection.v1` | the protos, for grpcurl | reader |
//!
//! With the feature `client` alone only the caller's side is here.
//!
//! The role is in the client's certificate: URI `conveyor-raft://CLUSTER/client/ROLE/NAME`. A
//! follower does not pass proposals on: it answers who leads and where.

#[cfg(feature = "grpc")]
mod accept;
#[cfg(feature = "grpc")]
mod authorize;
#[cfg(feature = "grpc")]
mod backup;
#[cfg(feature = "grpc")]
mod cluster;
mod connect;
#[cfg(feature = "grpc")]
mod convert;
#[cfg(feature = "grpc")]
mod deadline;
mod details;
#[cfg(feature = "grpc")]
mod figures;
#[cfg(feature = "grpc")]
mod health;
#[cfg_attr(not(feature = "grpc"), allow(dead_code, reason = "servers use it"))]
mod identity;
#[cfg(feature = "grpc")]
mod links;
#[cfg(feature = "grpc")]
mod listener;
#[cfg(feature = "grpc")]
mod members;
#[cfg(feature = "grpc")]
mod pages;
#[cfg(feature = "grpc")]
mod propose;
#[cfg(feature = "grpc")]
mod reads;
#[cfg(feature = "grpc")]
mod router;
#[cfg(feature = "grpc")]
mod serve;
#[cfg(feature = "grpc")]
mod status;
#[cfg(feature = "grpc")]
mod stream;
#[cfg_attr(not(feature = "grpc"), allow(dead_code, reason = "servers use it"))]
mod tls;
#[cfg_attr(not(feature = "grpc"), allow(dead_code, reason = "servers use it"))]
mod trust;
#[cfg(feature = "grpc")]
mod watch;

#[cfg(feature = "grpc")]
pub use backup::{BackupOptions, BackupServiceImpl};
pub(crate) use connect::check;
pub use connect::{ConnectError, connect};
pub use details::detail;
#[cfg(feature = "grpc")]
pub use health::Probe;
pub use identity::{ParseRoleError, Role};
#[cfg(feature = "grpc")]
pub use listener::{EdgeAddress, EdgeListener, UnixSocket};
#[cfg(feature = "grpc")]
pub use serve::{Edge, EdgeError, EdgeLimits, EdgeOptions, EdgeSecurity, serve};
pub use tls::{EdgeFiles, EdgeIdentity, EdgeTlsError};
pub use trust::EdgeReload;

//! The client edge: gRPC services over a node, behind TLS.
//!
//! | service | what | role |
//! |---|---|---|
//! | `conveyor.raft.v1.Router` | proposals, state | writer, reader |
//! | `conveyor.raft.v1.Cluster` | how the node is; who belongs to the cluster | reader |
//! | | changes of members, hand-over of leadership | operator |
//! | `conveyor.raft.v1.Backup` | snapshots of the state | operator |
//! | `grpc.health.v1.Health` | live and ready | none |
//! | `grpc.reflection.v1` | the protos, for grpcurl | reader |
//!
//! The role is in the client's certificate: URI `conveyor-raft://CLUSTER/client/ROLE/NAME`. A
//! follower does not pass proposals on: it answers who leads and where.

mod accept;
mod authorize;
mod backup;
mod cluster;
mod connect;
mod convert;
mod deadline;
mod health;
mod identity;
mod members;
mod router;
mod serve;
mod status;
mod tls;
mod trust;

pub use backup::BackupServiceImpl;
pub use connect::{ConnectError, connect};
pub use identity::{ParseRoleError, Role};
pub use serve::{Edge, EdgeError, EdgeLimits, EdgeOptions, EdgeSecurity, serve};
pub use status::detail;
pub use tls::{EdgeFiles, EdgeIdentity, EdgeTlsError};
pub use trust::EdgeReload;

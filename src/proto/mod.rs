//! The messages of the client edge, and with the feature `grpc` its clients and servers.
//!
//! Generated from `proto/` and committed, so that whoever builds this crate compiles no protos; a
//! test holds the two together (`UPDATE_PROTO=1 cargo test --no-default-features --test proto_generated` rewrites).

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[path = "conveyor.raft.v1.rs"]
mod generated;

pub use generated::*;

/// The compiled descriptors of all protos, for reflection.
#[cfg(feature = "grpc")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("descriptors.bin");

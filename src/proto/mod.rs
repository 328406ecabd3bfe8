//! The messages of the client edge, and with the feature `grpc` its clients and servers.
//!
//! Generated from `proto/` and committed, so that whoever builds this crate compiles no protos; a
//! test holds the two together (`UPDATE_PROTO=1 cargo test --no-default-features --test proto_generated` rewrites).

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[path = "conveyor.raft.v1.rs"]
mod generated;

pub use generated::*;

/// Printed as JSON, a role is a word.
fn role_as_word<S: serde::Serializer>(role: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let word = match Role::try_from(*role) {
        Ok(Role::Follower) => "follower",
        Ok(Role::PreCandidate) => "pre-candidate",
        Ok(Role::Candidate) => "candidate",
        Ok(Role::Leader) => "leader",
        Ok(Role::Unspecified) | Err(_) => "unknown",
    };
    serializer.serialize_str(word)
}

/// The compiled descriptors of all protos, for reflection.
#[cfg(feature = "grpc")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("descriptors.bin");

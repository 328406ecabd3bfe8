//! The messages of the client edge, and with the features `client` and `grpc` its clients and
//! servers.
//! Printed as JSON (by `serde`), they are what the program prints; commands are read and printed by
//! [`state_machine::json`](crate::state_machine::json), not from here.
//!
//! Generated from `proto/` and committed, so that whoever builds this crate compiles no protos; a
//! test holds the two together (`UPDATE_PROTO=1 cargo test --no-default-features --test proto_generated` rewrites).

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[path = "conveyor.raft.v1.rs"]
mod generated;

#[cfg(feature = "client")]
mod reads;

pub use generated::*;
#[cfg(feature = "client")]
pub use reads::{ListAnswer, ListRequest, ReadAnswer, ReadRequest};

/// Printed as JSON, bytes are text: as they are if they are UTF-8, else in Base64 behind a mark.
fn bytes_as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    use base64::Engine as _;
    const MARK: &str = "base64:";
    match str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(MARK) => serializer.serialize_str(text),
        _ => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
            serializer.serialize_str(&format!("{MARK}{encoded}"))
        }
    }
}

/// Printed as JSON, a certainty is a word.
fn certainty_as_word<S: serde::Serializer>(
    certainty: &i32,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let word = match Certainty::try_from(*certainty) {
        Ok(Certainty::NotApplied) => "not applied",
        Ok(Certainty::NoEffect) => "no effect",
        Ok(Certainty::Applied) => "applied",
        Ok(Certainty::Unknown | Certainty::Unspecified) | Err(_) => "unknown",
    };
    serializer.serialize_str(word)
}

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

/// Printed as JSON, a standing is a word.
fn standing_as_word<S: serde::Serializer>(
    standing: &i32,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let standing = Standing::try_from(*standing).unwrap_or_default();
    serializer.serialize_str(standing.word())
}

/// Printed as JSON, the state of a connection is a word.
fn link_state_as_word<S: serde::Serializer>(state: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let state = LinkState::try_from(*state).unwrap_or_default();
    serializer.serialize_str(state.word())
}

impl LinkState {
    /// The word for it in what the program prints.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Dialling => "dialling",
            Self::Hello => "hello",
            Self::Up => "up",
            Self::Unspecified => "unknown",
        }
    }
}

impl Standing {
    /// The word for it in what the program prints.
    pub fn word(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Joining => "joining",
            Self::Waiting => "waiting",
            Self::Unspecified => "unknown",
        }
    }
}

/// The compiled descriptors of all protos, for reflection.
#[cfg(feature = "grpc")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("descriptors.bin");

//! conveyor-raft
#![deny(unsafe_code)]

pub mod config;
pub mod core;
pub mod entry;
pub mod error;
pub mod network;
pub mod node;
pub mod proto;
pub mod quic;
pub mod snapshot;
pub mod state_machine;
pub mod types;
pub mod wal;
mod wire;

#[cfg(feature = "grpc")]
pub mod grpc;

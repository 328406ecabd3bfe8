//! The node: [`RaftNode`] is the handle; behind it the driver, the only place where the parts meet.

mod applier;
mod driver;
mod envelope;
mod handle;
mod inbox;
mod shared;
mod shell;
mod start;
mod status;
#[cfg(test)]
mod tests;
mod waiters;

pub use crate::core::RaftRole;
pub use applier::FrozenState;
pub use handle::{DEFAULT_DEADLINE, Proposal, ProposeOptions, RaftNode};
pub use shared::Applied;
pub use start::NodeBuilder;
pub use status::{NodeStatus, PeerStatus};

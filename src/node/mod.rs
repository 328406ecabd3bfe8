//! The node: [`RaftNode`] is the handle; behind it the driver, the only place where the parts meet.

pub(crate) mod applier;
pub(crate) mod begin;
mod digests;
pub(crate) mod driver;
mod driving;
pub(crate) mod envelope;
mod events;
mod handle;
pub(crate) mod inbox;
mod kept;
mod line;
mod live;
mod log_figures;
mod log_time;
mod members;
mod metrics;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod one_thread;
mod peer_figures;
pub(crate) mod pipeline;
mod proposing;
mod reading;
pub mod recover;
pub(crate) mod replica_state;
mod session;
pub(crate) mod sessions;
pub(crate) mod shared;
mod shell;
mod snapshot_figures;
pub(crate) mod snapshotter;
pub(crate) mod start;
mod status;
pub(crate) mod system;
mod take;
#[cfg(test)]
mod tests;
pub(crate) mod trace;
pub(crate) mod waiters;
mod watch;

pub use crate::core::Change;
pub use crate::core::RaftRole;
pub use applier::FrozenState;
pub use driver::SnapshotCounters;
pub use envelope::InSession;
pub use events::{EventsError, NodeEvent, NodeEvents};
pub use handle::{DEFAULT_DEADLINE, Proposal, ProposeOptions, RaftNode};
pub use live::Applied;
pub use members::ChangeOptions;
pub use pipeline::{Outcomes, Pipeline, Place};
pub use reading::{ReadConsistency, ReadOptions};
pub use session::{Session, SessionError};
pub use start::NodeBuilder;
pub use status::{NodeStatus, PeerStatus};
pub use watch::{
    ChangedEntry, NodeView, NodeWatch, StateRecords, StateWatch, Told, WatchEnded, WatchError,
    WatchFrom, WatchOptions,
};

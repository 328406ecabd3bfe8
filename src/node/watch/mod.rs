//! Watching: [where the node stands](status), and what changes in parts of the state.
//!
//! A state machine tells which records it changes ([`Changes`](crate::state_machine::Changes)); the
//! applier hands that to the [feed] once the state that it made can be read. The feed keeps a
//! bounded history and knows which watchers a change is for; each watcher takes what is for it
//! from the history itself, so that a change is kept once, whoever watches, and nobody who is slow
//! holds up anybody else.

mod feed;
mod segment;
mod status;
#[cfg(test)]
mod tests;
mod topics;
mod watcher;

pub(crate) use feed::Feed;
pub use status::{NodeView, NodeWatch};
pub use watcher::{
    ChangedEntry, StateRecords, StateWatch, Told, WatchEnded, WatchError, WatchFrom, WatchOptions,
};

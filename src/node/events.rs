//! What happens at a node, as typed events for those who listen.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::handle::RaftNode;
use crate::core::Configuration;
use crate::error::{ChangeError, HandOverError};
use crate::state_machine::StateMachine;
use crate::types::{LogId, LogIndex, NodeId, ReplicaId, Term};

/// So many events wait for a listener before it misses the oldest.
pub(crate) const KEPT: usize = 256;

/// Something that happened at this node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// It leads from now on.
    BecameLeader {
        /// The term.
        term: Term,
    },
    /// It leads no more.
    SteppedDown {
        /// The term it led.
        term: Term,
        /// Why.
        why: &'static str,
    },
    /// Another took over from it, as was wanted.
    HandedOver {
        /// Who.
        to: NodeId,
    },
    /// Leadership was not handed over.
    HandOverFailed {
        /// Why.
        why: HandOverError,
    },
    /// Another configuration is in force.
    Configured {
        /// Its index.
        index: LogIndex,
        /// What it says.
        configuration: Arc<Configuration>,
    },
    /// The members were not changed.
    ChangeRefused {
        /// Why.
        why: ChangeError,
    },
    /// This leader is adding a node that waited, by itself
    /// ([`NodeBuilder::auto_join`](super::NodeBuilder::auto_join)).
    AddedByItself {
        /// Which.
        who: ReplicaId,
        /// Where its peers reach it, by its own word.
        address: String,
    },
    /// A node waits and this leader does not add it by itself, though it adds others.
    LeftOut {
        /// Which.
        who: ReplicaId,
        /// Why.
        why: &'static str,
    },
    /// Entries from here on were dropped from the log, since another leader's differ.
    Truncated {
        /// First index dropped.
        from: LogIndex,
    },
    /// A snapshot was taken here.
    SnapshotTaken {
        /// Its last entry.
        last: LogId,
    },
    /// A snapshot could not be written; another is tried.
    SnapshotFailed {
        /// Why.
        why: String,
    },
    /// A leader's snapshot took the place of this node's state and log.
    SnapshotInstalled {
        /// Its last entry.
        last: LogId,
    },
    /// The disk has kept a write waiting for an election timeout.
    DiskStalls,
    /// It answers again.
    DiskAnswers,
    /// An operator has to do something; the text says what.
    Advice(String),
    /// The replica takes part no more; the text says why.
    Failed(String),
}

/// Why there is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// So many were dropped, since the listener was slow. The next call returns the oldest of those
    /// that were kept; what holds now is in [`RaftNode::status`].
    #[error("{0} events were missed")]
    Missed(u64),
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Receives what happens at a node from now on. See [`RaftNode::events`].
#[derive(Debug)]
pub struct NodeEvents(broadcast::Receiver<NodeEvent>);

impl NodeEvents {
    /// Waits for the next event.
    ///
    /// # Errors
    /// See [`EventsError`].
    pub async fn next(&mut self) -> Result<NodeEvent, EventsError> {
        self.0.recv().await.map_err(|error| match error {
            RecvError::Lagged(missed) => EventsError::Missed(missed),
            RecvError::Closed => EventsError::Stopped,
        })
    }
}

/// Where a node's events go: to all who listen, and nowhere once it has stopped.
#[derive(Debug)]
pub(crate) struct EventSink(std::sync::Mutex<Option<broadcast::Sender<NodeEvent>>>);

impl Default for EventSink {
    fn default() -> Self {
        Self(std::sync::Mutex::new(Some(broadcast::Sender::new(KEPT))))
    }
}

impl EventSink {
    fn sender(&self) -> std::sync::MutexGuard<'_, Option<broadcast::Sender<NodeEvent>>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn send(&self, event: NodeEvent) {
        if let Some(sender) = &*self.sender() {
            // Nobody listens: that is fine.
            let _ = sender.send(event);
        }
    }

    pub(crate) fn listen(&self) -> NodeEvents {
        NodeEvents(match &*self.sender() {
            Some(sender) => sender.subscribe(),
            None => broadcast::channel(1).1,
        })
    }

    /// Whoever listens gets what was sent so far, and then the end.
    pub(crate) fn close(&self) {
        *self.sender() = None;
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// What happens at this node from now on. A listener that falls behind by more than 256 events
    /// is told how many it missed; the node never waits for one.
    pub fn events(&self) -> NodeEvents {
        self.shared().events.listen()
    }
}

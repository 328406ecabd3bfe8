//! The seam between the node and its peers: [`RaftNetwork`].
//!
//! Sending never waits. What does not fit is refused, and the core asks again later; what is lost
//! is the core's business. Everything a transport learns comes back as a [`NetworkEvent`].

mod forward;
mod in_process;

pub use forward::{Forward, ForwardOutcome, ForwardReply, Forwarded, InLine, Unsent};
pub use in_process::{InProcessHub, InProcessNetwork};

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::core::{Class, Message};
use crate::entry::EntryBatch;
use crate::types::{Incarnation, NodeId, ReplicaId};

/// What became of a [`RaftNetwork::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Taken: it will be sent, or the stream's epoch ends.
    Sent,
    /// Nothing was taken for want of room; [`NetworkEvent::Writable`] follows.
    Full,
    /// No stream to that peer, or one of another epoch; an `Up` or nothing follows.
    Down,
}

/// What a connection between two nodes is for. Each has one of its own, so that none delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LinkClass {
    /// Votes, heartbeats, reads.
    Control = 0,
    /// Appends.
    Data = 1,
    /// Snapshots.
    Bulk = 2,
    /// Proposals passed on to the leader.
    Forward = 3,
}

impl LinkClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Control, Self::Data, Self::Bulk, Self::Forward];

    /// The class of the core's messages that it carries, if it carries any.
    pub const fn messages(self) -> Option<Class> {
        match self {
            Self::Control => Some(Class::Control),
            Self::Data => Some(Class::Data),
            Self::Bulk => Some(Class::Bulk),
            Self::Forward => None,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Bulk => "bulk",
            Self::Forward => "forward",
        }
    }
}

impl From<Class> for LinkClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Control => Self::Control,
            Class::Data => Self::Data,
            Class::Bulk => Self::Bulk,
        }
    }
}

/// A peer to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Who must answer there.
    pub node: NodeId,
    /// Which life of it, once the configuration names one.
    pub incarnation: Option<Incarnation>,
    /// `host:port`; a name is resolved anew at each dial.
    pub address: String,
}

/// What a node says of itself in its hello. Changes as the node's life goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFacts {
    /// No configuration yet.
    pub blank: bool,
    /// The log lost entries and was repaired; this node does not count until it has them again.
    pub repairing: bool,
    /// Incarnation of the cluster's founder; none while blank.
    pub genesis: Incarnation,
    /// The highest feature level that its release knows.
    pub knows_level: u32,
    /// The cluster's feature level, which a peer must know; 0 while blank.
    pub needs_level: u32,
    /// Update counter of META: a lower one than seen before is a rolled-back directory.
    pub meta_seq: u64,
    /// Where peers reach this node.
    pub peer_address: String,
    /// Where clients reach this node.
    pub client_endpoint: String,
}

/// What a peer's hello said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// The same facts as the peer stated them.
    pub facts: LocalFacts,
    /// Where the connection really goes.
    pub remote: Option<SocketAddr>,
}

/// What the network tells the node.
#[derive(Debug)]
pub enum NetworkEvent {
    /// A stream that this node dialled is ready; its requests go there from now on.
    Up {
        /// Who answered, by certificate and hello.
        peer: ReplicaId,
        /// Which class.
        class: Class,
        /// The stream's epoch.
        epoch: u64,
        /// What its hello said.
        facts: PeerFacts,
    },
    /// That stream is gone.
    Down {
        /// The peer's number.
        node: NodeId,
        /// Which class.
        class: Class,
        /// The epoch that ended.
        epoch: u64,
        /// Why, for the log.
        reason: String,
    },
    /// After [`SendOutcome::Full`]: there is room again.
    Writable {
        /// The peer's number.
        node: NodeId,
        /// The epoch it is about.
        epoch: u64,
    },
    /// What this node sends on that data stream gets to the peer, though it has not answered for a while:
    /// the way is slow.
    GetsThrough {
        /// The peer's number.
        node: NodeId,
        /// The stream's epoch.
        epoch: u64,
    },
    /// A message came in.
    Message {
        /// Who sent it: the TLS identity, in the life that its hello stated.
        from: ReplicaId,
        /// What it says.
        message: Message,
        /// The verified entries of an `Append` or `Found`.
        entries: EntryBatch,
        /// The bytes beside a `SnapshotChunk`.
        chunk: Vec<Bytes>,
        /// What the message occupies in the network until it has been dealt with.
        held: Held,
    },
    /// A peer passes a proposal on to this node, which answers it, and never passes it on itself.
    Forward {
        /// Who: the TLS identity, in the life that its hello stated.
        from: ReplicaId,
        /// What.
        forward: Forward,
    },
}

/// Room that an incoming message takes up in the network. Once too much of it is held, the network
/// stops reading from that peer, and flow control stops the peer: dropping it (with the event, or
/// when the entries are in the log) makes room. The default holds nothing.
#[derive(Clone, Default)]
pub struct Held(Option<Arc<dyn Send + Sync>>);

impl Held {
    /// Holds `room` until the last clone is dropped.
    pub fn new(room: impl Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(room)))
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.is_some()).finish()
    }
}

/// Where a network puts its events, in order: all that one wake-up brought, to be taken out of the
/// vector (what is left in it is dropped). Called from the network's own threads; must not block.
pub type EventSink = Arc<dyn Fn(&mut Vec<NetworkEvent>) + Send + Sync>;

/// A way to the peers. One per node; owned by its driver.
pub trait RaftNetwork: Send + 'static {
    /// Tries to send `message`, followed by `body` (whole entry frames, or a piece of a snapshot), to
    /// node `to`.
    ///
    /// A request goes on the stream of its class that this node dialled; it must carry that
    /// stream's epoch if it has one. A reply goes back on the stream that the peer dialled.
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) -> SendOutcome;

    /// Dials exactly these peers from now on; others are hung up on.
    fn set_peers(&mut self, peers: &[PeerAddress]);

    /// What later hellos say.
    fn set_local(&mut self, facts: &LocalFacts);

    /// Nodes without a configuration that are connected to this one, and what their hellos said: whoever
    /// waits to be added. A network that does not know says nobody.
    fn blank_nodes(&self) -> Vec<(ReplicaId, LocalFacts)> {
        Vec::new()
    }

    /// Whether snapshots go to a peer: its bulk connection is dialled, and kept, only for that. A
    /// peer that is not dialled at all gets none.
    fn want_bulk(&mut self, to: NodeId, wanted: bool);

    /// Ends the current data epoch to a peer and opens the next.
    fn reopen(&mut self, to: NodeId);

    /// The runtime that does its work, if that has one thread and the driver may be one of its tasks: what
    /// comes in and what goes out then changes no thread. It must run until this is dropped, on another
    /// thread.
    fn runtime(&self) -> Option<Handle> {
        None
    }

    /// Passes a proposal on to node `to`, once. Its answer comes where it wants it; a network that has
    /// no way for proposals says that they never left.
    fn forward(&mut self, to: NodeId, forward: Forward) {
        let _ = to;
        forward.reply.answer(Err(Unsent));
    }
}

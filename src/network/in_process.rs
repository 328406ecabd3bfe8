//! The in-process network: nodes of one program, without sockets. For tests, and for embedding
//! where nothing leaves the process; nothing is encrypted because nothing is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{
    EventSink, Forward, Held, LocalFacts, NetworkEvent, PeerAddress, PeerFacts, RaftNetwork,
    SendOutcome, Unsent,
};
use crate::config::limits;
use crate::core::{Class, Message};
use crate::entry::EntryBatch;
use crate::types::{LogId, NodeId, ReplicaId};

const CLASSES: [Class; 3] = [Class::Control, Class::Data, Class::Bulk];

/// Connects the nodes of one program. Cheap to clone.
#[derive(Clone, Default)]
pub struct InProcessHub(Arc<Mutex<Hub>>);

#[derive(Default)]
struct Hub {
    ports: BTreeMap<NodeId, Port>,
    isolated: BTreeSet<NodeId>,
    next_epoch: u64,
}

struct Port {
    replica: ReplicaId,
    facts: LocalFacts,
    sink: EventSink,
    dials: BTreeSet<NodeId>,
    /// Epoch of each stream that this node dialled, by peer.
    up: BTreeMap<NodeId, u64>,
}

impl InProcessHub {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plugs a node in.
    pub fn attach(
        &self,
        replica: ReplicaId,
        facts: LocalFacts,
        sink: EventSink,
    ) -> InProcessNetwork {
        let port = Port {
            replica,
            facts,
            sink,
            dials: BTreeSet::new(),
            up: BTreeMap::new(),
        };
        let mut hub = self.hub();
        hub.hang_up(replica.node);
        hub.ports.insert(replica.node, port);
        hub.connect();
        InProcessNetwork {
            hub: self.clone(),
            me: replica,
        }
    }

    /// Cuts a node off from all others, or lets it back.
    pub fn isolate(&self, node: NodeId, isolated: bool) {
        let mut hub = self.hub();
        if isolated {
            hub.isolated.insert(node);
            hub.hang_up(node);
        } else {
            hub.isolated.remove(&node);
            hub.connect();
        }
    }
}

impl Hub {
    /// Opens every stream that is wanted and possible.
    fn connect(&mut self) {
        let mut wanted = Vec::new();
        for (node, port) in &self.ports {
            let reachable = |peer: &&NodeId| {
                !self.isolated.contains(node)
                    && !self.isolated.contains(peer)
                    && self.ports.contains_key(peer)
                    && !port.up.contains_key(peer)
            };
            wanted.extend(
                port.dials
                    .iter()
                    .filter(reachable)
                    .map(|peer| (*node, *peer)),
            );
        }
        for (from, to) in wanted {
            self.next_epoch += 1;
            let (epoch, answer) = (self.next_epoch, &self.ports[&to]);
            let (peer, facts) = (answer.replica, answer.facts.clone());
            let Some(port) = self.ports.get_mut(&from) else {
                continue;
            };
            port.up.insert(to, epoch);
            for class in CLASSES {
                let facts = PeerFacts {
                    facts: facts.clone(),
                    remote: None,
                };
                (port.sink)(&mut vec![NetworkEvent::Up {
                    peer,
                    class,
                    epoch,
                    facts,
                }]);
            }
        }
    }

    /// Ends every stream from and to a node.
    fn hang_up(&mut self, gone: NodeId) {
        for (node, port) in &mut self.ports {
            port.up.retain(|peer, epoch| {
                let ends = *node == gone || *peer == gone;
                if ends {
                    for class in CLASSES {
                        let (node, epoch, reason) = (*peer, *epoch, "hung up".to_owned());
                        (port.sink)(&mut vec![NetworkEvent::Down {
                            node,
                            class,
                            epoch,
                            reason,
                        }]);
                    }
                }
                !ends
            });
        }
    }
}

/// One node's plug in an [`InProcessHub`].
pub struct InProcessNetwork {
    hub: InProcessHub,
    me: ReplicaId,
}

impl RaftNetwork for InProcessNetwork {
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) -> SendOutcome {
        let hub = self.hub.hub();
        // A reply goes back on the stream that the peer dialled.
        let (dialler, peer) = if message.is_reply() {
            (to, self.me.node)
        } else {
            (self.me.node, to)
        };
        let stream = hub.ports.get(&dialler).and_then(|port| port.up.get(&peer));
        let (Some(_), Some(target)) = (stream, hub.ports.get(&to)) else {
            return SendOutcome::Down;
        };
        let Some(entries) = batch(message, body) else {
            return SendOutcome::Down;
        };
        let chunk = match message {
            Message::SnapshotChunk(_) => body.to_vec(),
            _ => Vec::new(),
        };
        let held = Held::default();
        let (from, message) = (self.me, *message);
        (target.sink)(&mut vec![NetworkEvent::Message {
            from,
            message,
            entries,
            chunk,
            held,
        }]);
        SendOutcome::Sent
    }

    fn set_peers(&mut self, peers: &[PeerAddress]) {
        let mut hub = self.hub.hub();
        if let Some(port) = hub.ports.get_mut(&self.me.node) {
            port.dials = peers.iter().map(|peer| peer.node).collect();
        }
        hub.connect();
    }

    fn set_local(&mut self, facts: &LocalFacts) {
        if let Some(port) = self.hub.hub().ports.get_mut(&self.me.node) {
            port.facts = facts.clone();
        }
    }

    fn blank_nodes(&self) -> Vec<(ReplicaId, LocalFacts)> {
        let hub = self.hub.hub();
        let connected = |port: &&Port| port.facts.blank && port.up.contains_key(&self.me.node);
        let blank = hub.ports.values().filter(connected);
        blank
            .map(|port| (port.replica, port.facts.clone()))
            .collect()
    }

    // Nothing is dialled here: its streams are as cheap as the others.
    fn want_bulk(&mut self, _: NodeId, _: bool) {}

    fn reopen(&mut self, to: NodeId) {
        let mut hub = self.hub.hub();
        let ended = hub
            .ports
            .get_mut(&self.me.node)
            .and_then(|port| port.up.remove(&to));
        if ended.is_some() {
            hub.connect();
        }
    }

    // The answer finds its way back by itself, also from a node that is cut off by then.
    fn forward(&mut self, to: NodeId, forward: Forward) {
        let hub = self.hub.hub();
        let mine = hub.ports.get(&self.me.node);
        let up = mine.is_some_and(|port| port.up.contains_key(&to));
        let Some(target) = hub.ports.get(&to).filter(|_| up) else {
            drop(hub);
            return forward.reply.answer(Err(Unsent));
        };
        let (from, sink) = (self.me, Arc::clone(&target.sink));
        drop(hub);
        sink(&mut vec![NetworkEvent::Forward { from, forward }]);
    }
}

impl Drop for InProcessNetwork {
    fn drop(&mut self) {
        let mut hub = self.hub.hub();
        let mine = hub
            .ports
            .get(&self.me.node)
            .is_some_and(|port| port.replica == self.me);
        if mine {
            hub.hang_up(self.me.node);
            hub.ports.remove(&self.me.node);
        }
    }
}

/// What the receiver's transport would make of the frame.
fn batch(message: &Message, body: &[Bytes]) -> Option<EntryBatch> {
    let (prev, count) = match message {
        Message::Append(append) => (append.prev, append.count),
        Message::Found(_) => (LogId::default(), 1),
        _ => return Some(EntryBatch::default()),
    };
    if count > limits::MAX_FRAME_ENTRIES {
        return None;
    }
    EntryBatch::verify(body.to_vec(), prev, count, limits::MAX_ENTRY).ok()
}

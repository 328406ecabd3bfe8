//! What the transport's tests share: nodes on loopback with certificates in memory.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::core::{AppendAck, AppendEntries, AppendStatus, Class, Message, ReplicaState};
use conveyor_raft::entry::frame;
use conveyor_raft::network::{EventSink, NetworkEvent, PeerAddress, RaftNetwork, SendOutcome};
use conveyor_raft::quic::certs::{GeneratedCerts, generate};
use conveyor_raft::quic::{RaftTransport, TransportError, TransportOptions};
use conveyor_raft::types::{EntryKind, Incarnation, LogId, NodeId};
use quinn::AsyncUdpSocket;

pub mod logs;
pub mod memnet;
pub mod raw;

pub const WAIT: Duration = Duration::from_secs(10);

pub fn certs(nodes: &[NodeId]) -> GeneratedCerts {
    generate("test", nodes, &[]).expect("certificates")
}

pub struct Node {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub transport: RaftTransport,
    pub events: Receiver<NetworkEvent>,
    pub address: SocketAddr,
}

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn options(certs: &GeneratedCerts, id: NodeId) -> TransportOptions {
    let incarnation = Incarnation([id as u8; 16]);
    let credentials = certs.credentials(id).expect("credentials");
    TransportOptions {
        reset_key: [id as u8; 32],
        idle_timeout: Duration::from_millis(900),
        seed: id,
        ..TransportOptions::new(loopback(), credentials, incarnation)
    }
}

impl Node {
    pub fn start(certs: &GeneratedCerts, id: NodeId) -> Self {
        Self::with(options(certs, id))
    }

    pub fn with(options: TransportOptions) -> Self {
        Self::made(options, RaftTransport::bind)
    }

    /// Over a network in memory.
    pub fn over(options: TransportOptions, socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self::made(options, |options, sink| {
            RaftTransport::bind_over(options, sink, socket)
        })
    }

    fn made(
        options: TransportOptions,
        bind: impl FnOnce(TransportOptions, EventSink) -> Result<RaftTransport, TransportError>,
    ) -> Self {
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let (id, incarnation) = (options.credentials.node(), options.incarnation);
        let sink = move |batch: &mut Vec<NetworkEvent>| {
            let sender = sender.lock().expect("lock");
            for event in batch.drain(..) {
                let _ = sender.send(event);
            }
        };
        let transport = bind(options, Arc::new(sink)).expect("bound");
        Self {
            id,
            incarnation,
            address: transport.local_addr(),
            transport,
            events,
        }
    }

    pub fn peer(&self) -> PeerAddress {
        PeerAddress {
            node: self.id,
            incarnation: None,
            address: self.address.to_string(),
        }
    }

    /// The next event that `pick` wants, dropping others.
    pub fn wait<T>(&self, mut pick: impl FnMut(NetworkEvent) -> Option<T>) -> T {
        self.wait_for(WAIT, &mut pick)
            .expect("the event came in time")
    }

    pub fn wait_for<T>(
        &self,
        time: Duration,
        mut pick: impl FnMut(NetworkEvent) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + time;
        loop {
            match self
                .events
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return Some(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("the transport ended"),
            }
        }
    }

    /// Waits for the stream of `class` to `node` and gives its epoch.
    pub fn up(&self, node: NodeId, wanted: Class) -> u64 {
        self.wait(|event| match event {
            NetworkEvent::Up {
                peer, class, epoch, ..
            } if peer.node == node && class == wanted => Some(epoch),
            _ => None,
        })
    }

    /// Waits for both classes.
    pub fn both_up(&self, node: NodeId) -> (u64, u64) {
        let (mut control, mut data) = (None, None);
        self.wait(|event| {
            if let NetworkEvent::Up {
                peer, class, epoch, ..
            } = event
                && peer.node == node
            {
                match class {
                    Class::Control => control = Some(epoch),
                    Class::Data => data = Some(epoch),
                    Class::Bulk => {}
                }
            }
            Some((control?, data?))
        })
    }

    pub fn down(&self, node: NodeId, wanted: Class) -> (u64, String) {
        self.wait(|event| match event {
            NetworkEvent::Down {
                node: from,
                class,
                epoch,
                reason,
            } if from == node && class == wanted => Some((epoch, reason)),
            _ => None,
        })
    }

    /// Sends, trying again while there is no room.
    pub fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) {
        let end = Instant::now() + WAIT;
        while self.transport.send(to, message, body) != SendOutcome::Sent {
            assert!(Instant::now() < end, "no room in time");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Starts nodes that dial each other, and waits until all is up.
pub fn mesh(certs: &GeneratedCerts, ids: &[NodeId]) -> Vec<Node> {
    let mut nodes: Vec<Node> = ids.iter().map(|&id| Node::start(certs, id)).collect();
    let peers: Vec<_> = nodes.iter().map(Node::peer).collect();
    for node in &mut nodes {
        node.transport.set_peers(&peers);
    }
    nodes
}

/// Entries of `size` bytes each, as one run.
pub fn run_of(prev: LogId, count: u32, size: usize) -> Bytes {
    let mut all = Vec::new();
    for nth in 1..=u64::from(count) {
        let id = LogId::new(prev.term.max(1), prev.index + nth);
        let payload = vec![nth as u8; size];
        all.extend_from_slice(&frame(id, EntryKind::Command, 1, &payload));
    }
    all.into()
}

pub fn append(epoch: u64, seq: u64, prev: LogId, count: u32) -> Message {
    Message::Append(AppendEntries {
        term: prev.term.max(1),
        epoch,
        seq,
        prev,
        commit: 0,
        sent_at: seq,
        count,
    })
}

pub fn ack(to: &AppendEntries, incarnation: Incarnation) -> Message {
    Message::AppendAck(AppendAck {
        term: to.term,
        incarnation,
        epoch: to.epoch,
        seq: to.seq,
        match_index: to.prev.index + u64::from(to.count),
        conflict: LogId::default(),
        sent_at: to.sent_at,
        status: AppendStatus::Matched,
        state: ReplicaState::Member,
    })
}

//! A network for nodes that carries what they send over bare QUIC connections, all classes on one or each
//! on its own, with nothing else different: the question that [`crate`] asks.
//!
//! Messages pass within the process ([`InProcessHub`]); what travels is their number, padding and their
//! body, and a message is handed over when its last byte has arrived. So the connections carry what the
//! transport's would, with its settings and certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{BufMut, Bytes, BytesMut};
use conveyor_raft::core::{Class, Message};
use conveyor_raft::network::{
    EventSink, InProcessHub, InProcessNetwork, LinkClass, LocalFacts, PeerAddress, RaftNetwork,
    SendOutcome,
};
use conveyor_raft::quic::TransportOptions;
use conveyor_raft::quic::raw::RawEnd;
use conveyor_raft::types::{NodeId, ReplicaId};
use quinn::{AsyncUdpSocket, RecvStream, SendStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes before a message's body, as much as header and fixed part of an append: its number, how long the
/// body is, and padding.
const HEAD: usize = 72;

/// From whom, to whom, of which class, and whether it carries replies.
type Way = (NodeId, NodeId, Class, bool);

/// A message under way: from whom, to whom, what.
type Parcel = (NodeId, NodeId, Message, Vec<Bytes>);

#[derive(Default)]
struct State {
    parcels: BTreeMap<u64, Parcel>,
    number: u64,
    ways: BTreeMap<Way, UnboundedSender<Bytes>>,
    plugs: BTreeMap<NodeId, InProcessNetwork>,
}

/// Connects the nodes of one test. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Carriers {
    hub: InProcessHub,
    state: Arc<Mutex<State>>,
    nodes: Vec<(NodeId, SocketAddr)>,
    classes: &'static [&'static [Class]],
}

impl Carriers {
    /// Between these nodes. Each dials each other once, with a stream for control and one for data on it,
    /// or twice.
    pub(crate) fn new(nodes: Vec<(NodeId, SocketAddr)>, one_connection: bool) -> Self {
        let classes: &[&[Class]] = match one_connection {
            true => &[&[Class::Control, Class::Data]],
            false => &[&[Class::Control], &[Class::Data]],
        };
        Self {
            hub: InProcessHub::default(),
            state: Arc::default(),
            nodes,
            classes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Plugs a node in: listens, and dials the others until all are there.
    pub(crate) async fn plug(
        &self,
        options: TransportOptions,
        sink: EventSink,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> Carrier {
        let me = ReplicaId::new(options.credentials.node(), options.incarnation);
        let plug = self.hub.attach(me, options.facts.clone(), sink);
        self.lock().plugs.insert(me.node, plug);
        let end = Arc::new(RawEnd::over(options, socket).expect("an endpoint"));
        let others = self.nodes.iter().filter(|(node, _)| *node != me.node);
        for _ in 0..self.classes.len() * others.clone().count() {
            let (end, carriers) = (Arc::clone(&end), self.clone());
            tokio::spawn(async move { carriers.accept(&end, me.node).await });
        }
        for (to, classes) in others.flat_map(|to| self.classes.iter().map(move |of| (to, *of))) {
            self.dial(&end, me.node, *to, classes).await;
        }
        Carrier {
            me: me.node,
            carriers: self.clone(),
        }
    }

    async fn dial(
        &self,
        end: &RawEnd,
        me: NodeId,
        (node, address): (NodeId, SocketAddr),
        classes: &[Class],
    ) {
        let connection = loop {
            // Not everybody listens yet.
            if let Ok(connection) = end.dial(address, node, LinkClass::Data).await {
                break connection;
            }
        };
        for &class in classes {
            let (mut send, recv) = connection.open_bi().await.expect("a stream");
            let name = [me as u8, class as u8];
            send.write_all(&name).await.expect("its name");
            self.carry((me, node, class, false), send, recv);
        }
    }

    async fn accept(&self, end: &RawEnd, me: NodeId) {
        let connection = end.accept(LinkClass::Data).await.expect("a peer");
        while let Ok((send, mut recv)) = connection.accept_bi().await {
            let mut name = [0; 2];
            recv.read_exact(&mut name).await.expect("its name");
            let class = [Class::Control, Class::Data][usize::from(name[1])];
            self.carry((me, u64::from(name[0]), class, true), send, recv);
        }
    }

    /// Moves messages both ways on a stream, for as long as it is there.
    fn carry(&self, way: Way, send: SendStream, recv: RecvStream) {
        let (queue, queued) = unbounded_channel();
        let before = self.lock().ways.insert(way, queue);
        assert!(before.is_none(), "one stream a class and dialer: {way:?}");
        tokio::spawn(write(queued, send));
        let carriers = self.clone();
        tokio::spawn(async move { carriers.read(recv).await });
    }

    async fn read(&self, mut recv: RecvStream) {
        let mut head = [0; HEAD];
        while recv.read_exact(&mut head).await.is_ok() {
            let (number, rest) = head.split_first_chunk().expect("long enough");
            let (len, _) = rest.split_first_chunk().expect("long enough");
            let mut body = vec![0; u64::from_le_bytes(*len) as usize];
            if recv.read_exact(&mut body).await.is_err() {
                return;
            }
            let mut state = self.lock();
            let parcel = state.parcels.remove(&u64::from_le_bytes(*number));
            let (from, to, message, body) = parcel.expect("under way once");
            if let Some(plug) = state.plugs.get_mut(&from) {
                plug.send(to, &message, &body);
            }
        }
    }
}

async fn write(mut queued: UnboundedReceiver<Bytes>, mut send: SendStream) {
    let mut burst = Vec::new();
    while queued.recv_many(&mut burst, 64).await > 0 {
        if send.write_all_chunks(&mut burst).await.is_err() {
            return;
        }
        burst.clear();
    }
}

/// One node's way to the others.
pub(crate) struct Carrier {
    me: NodeId,
    carriers: Carriers,
}

impl Carrier {
    fn plug(&self, work: impl FnOnce(&mut InProcessNetwork)) {
        work(self.carriers.lock().plugs.get_mut(&self.me).expect("in"));
    }
}

impl RaftNetwork for Carrier {
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) -> SendOutcome {
        let mut state = self.carriers.lock();
        let number = state.number;
        let way = (self.me, to, message.class(), message.is_reply());
        let Some(queue) = state.ways.get(&way) else {
            return SendOutcome::Down;
        };
        let len: usize = body.iter().map(Bytes::len).sum();
        let mut head = BytesMut::with_capacity(HEAD);
        head.put_u64_le(number);
        head.put_u64_le(len as u64);
        head.resize(HEAD, 0);
        let all = std::iter::once(head.freeze()).chain(body.iter().cloned());
        if !all.map(|bytes| queue.send(bytes)).all(|sent| sent.is_ok()) {
            return SendOutcome::Down;
        }
        state.number += 1;
        let parcel = (self.me, to, *message, body.to_vec());
        state.parcels.insert(number, parcel);
        SendOutcome::Sent
    }

    fn set_peers(&mut self, peers: &[PeerAddress]) {
        self.plug(|plug| plug.set_peers(peers));
    }

    fn set_local(&mut self, facts: &LocalFacts) {
        self.plug(|plug| plug.set_local(facts));
    }

    // No snapshot is sent in this test.
    fn want_bulk(&mut self, _: NodeId, _: bool) {}

    fn reopen(&mut self, to: NodeId) {
        self.plug(|plug| plug.reopen(to));
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let gone = self.carriers.lock().plugs.remove(&self.me);
        drop(gone);
    }
}

//! [`RaftTransport`]: the handle that a node's driver owns.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::HmacKey;
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::accept::RaftTransportService;
use super::credentials::Credentials;
use super::dial::Dialer;
use super::expiry::{Expiry, LOOK, show_lists};
use super::figures::{Figures, SHOW};
use super::lane::lock;
use super::limits::{ETHERNET_MTU, LOOPBACK_MTU, Tuning};
use super::reload::{Generation, ReloadError, ReloadReport, server_config};
use super::shared::{Peer, Shared, SplitMix};
use super::socket::SplitSocket;
use super::standing::{PeerTransport, PeerTransportStats};
use super::tally::place;
use crate::config::limits::MAX_FRAME_BODY;
use crate::core::{Class, Message};
use crate::network::{
    EventSink, Forward, LinkClass, LocalFacts, PeerAddress, RaftNetwork, SendOutcome, Unsent,
};
use crate::types::{Incarnation, NodeId, ReplicaId};
use crate::wire::{CloseCode, FrameLimits, Kind, addresses_fit};

/// What a transport is built from. Credentials are among it: there is none without them.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// UDP address to listen on and to dial from; port 0 takes any.
    pub listen: SocketAddr,
    /// Who this node is, and whom it trusts.
    pub credentials: Credentials,
    /// The life of this node's data directory.
    pub incarnation: Incarnation,
    /// What the hello says; see [`RaftNetwork::set_local`].
    pub facts: LocalFacts,
    /// A secret kept in the data directory: with the same one after a restart, the first packet of
    /// a peer that missed the restart ends its old connection. Random if there is none to keep.
    pub reset_key: [u8; 32],
    /// A silent peer is given up after this long (500 ms to 10 s; three times the longest election
    /// timeout is a good figure).
    pub idle_timeout: Duration,
    /// Told to peers, who warn if theirs differs; milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Told to peers; milliseconds.
    pub election_timeout_min_ms: u64,
    /// Of the jitter in waiting times.
    pub seed: u64,
    /// Largest UDP payload to look for on the way to a peer, in bytes (1200 to 65 500). None: what
    /// the loopback interface takes if that is where the node listens, else Ethernet's 1452.
    pub mtu: Option<u16>,
    /// Whether a connection that stands is closed when the peer's certificate expires. Without it one
    /// that has expired opens no connection and cuts none, so that a cluster whose certificates were
    /// forgotten goes on, and says so.
    pub strict_expiry: bool,
}

impl TransportOptions {
    /// Options with defaults for everything that can have one.
    pub fn new(listen: SocketAddr, credentials: Credentials, incarnation: Incarnation) -> Self {
        Self {
            listen,
            credentials,
            incarnation,
            facts: LocalFacts::default(),
            reset_key: [0; 32],
            idle_timeout: Duration::from_millis(900),
            heartbeat_interval_ms: 50,
            election_timeout_min_ms: 150,
            seed: 0,
            mtu: None,
            strict_expiry: false,
        }
    }

    fn mtu(&self) -> u16 {
        let fitting = if self.listen.ip().is_loopback() {
            LOOPBACK_MTU
        } else {
            ETHERNET_MTU
        };
        self.mtu.unwrap_or(fitting).clamp(1200, LOOPBACK_MTU)
    }
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address cannot be listened on.
    #[error("cannot listen on UDP {address}: {source}; stop what uses it or choose another")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket or the runtime could not be set up.
    #[error("cannot start the peer transport: {0}")]
    Setup(#[from] io::Error),
    /// The addresses are too long for a hello.
    #[error("peer address and client endpoint together are over 350 bytes; use shorter ones")]
    Addresses,
}

/// QUIC to the peers: dials and sends. What peers ask comes in by its
/// [`RaftTransportService`], on the same socket.
///
/// It runs on a thread of its own, with its own runtime, so that a busy host program causes no
/// election; a node's driver runs there too. Dropping it closes every connection and waits for the
/// thread.
#[derive(Debug)]
pub struct RaftTransport {
    shared: Arc<Shared>,
    /// Peers seen, to spare `send` the shared map.
    known: HashMap<NodeId, Arc<Peer>>,
    local_addr: SocketAddr,
    start: mpsc::UnboundedSender<Arc<Peer>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    runtime: Handle,
}

impl RaftTransport {
    /// Listens and starts to accept peers; dials none until
    /// [`set_peers`](RaftNetwork::set_peers).
    ///
    /// # Errors
    /// If the address is taken or cannot be used, or the thread cannot be started.
    pub fn bind(options: TransportOptions, sink: EventSink) -> Result<Self, TransportError> {
        let socket = bind_udp(options.listen)?;
        let payload = payload(&options);
        Self::start(options, sink, || Ok(SplitSocket::new(socket, payload)?))
    }

    /// As [`bind`](Self::bind), over a socket that the caller has: tests put a network of their own
    /// under quinn, and all of the verification stays above it.
    #[doc(hidden)]
    pub fn bind_over(
        options: TransportOptions,
        sink: EventSink,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> Result<Self, TransportError> {
        Self::start(options, sink, || Ok(socket))
    }

    fn start(
        options: TransportOptions,
        sink: EventSink,
        socket: impl FnOnce() -> io::Result<Arc<dyn AsyncUdpSocket>>,
    ) -> Result<Self, TransportError> {
        if !addresses_fit(&options.facts) {
            return Err(TransportError::Addresses);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let shared = Arc::new(new_shared(&options, sink));
        let endpoint = {
            let _inside = runtime.enter();
            new_endpoint(&options, socket()?)?
        };
        let local_addr = endpoint.local_addr()?;
        *lock(&shared.endpoint) = Some(endpoint.clone());
        let (start, starts) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (first_epoch, handle) = (random_epoch()?, runtime.handle().clone());
        let work = {
            let shared = Arc::clone(&shared);
            move || {
                run(&runtime, shared, endpoint, first_epoch, starts, stopped);
                // A name lookup that hangs must not hold up the end.
                runtime.shutdown_background();
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("raft-quic-{}", options.credentials.node()))
            .spawn(work)?;
        Ok(Self {
            shared,
            known: HashMap::new(),
            local_addr,
            start,
            stop: Some(stop),
            thread: Some(thread),
            runtime: handle,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A view of the live connections that can be kept and asked from any thread.
    pub fn observer(&self) -> TransportObserver {
        TransportObserver(Arc::clone(&self.shared))
    }

    /// The live connections.
    pub fn stats(&self) -> Vec<PeerTransportStats> {
        self.observer().stats()
    }

    /// How often peers were refused, or refused this node, by reason.
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.observer().refusals()
    }

    /// Takes up other credentials of this node (a new certificate or key, CA bundle or revocation
    /// lists) while it runs.
    ///
    /// Every handshake that begins afterwards goes by them. Connections that stand are verified
    /// again, dates excepted: those whose certificate the new bundle trusts go on undisturbed, also
    /// if this node's own certificate changed; those now revoked are closed with the code
    /// `revoked`; those that lead to no CA of the new bundle are closed for their dialer to begin
    /// anew at once.
    ///
    /// # Errors
    /// If they are another node's or cluster's, or the transport has ended; the old ones then stay
    /// in force.
    pub fn reload(&self, credentials: Credentials) -> Result<ReloadReport, ReloadError> {
        self.shared.reload(credentials)
    }

    /// Closes every connection and waits until the thread has ended; afterwards the sink is not
    /// called any more. Dropping does the same.
    pub fn shutdown(self) {
        drop(self);
    }

    fn peer(&mut self, node: NodeId) -> Option<&Peer> {
        if !self.known.contains_key(&node) {
            let peer = self.shared.known_peer(node)?;
            self.known.insert(node, peer);
        }
        self.known.get(&node).map(Arc::as_ref)
    }
}

impl Drop for RaftTransport {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A driver that panics is dropped in the transport's own thread.
        let elsewhere = |it: &JoinHandle<()>| it.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(elsewhere) {
            // A panic over there was reported by its own hook.
            let _ = thread.join();
        }
    }
}

impl RaftNetwork for RaftTransport {
    fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) -> SendOutcome {
        let len: usize = body.iter().map(Bytes::len).sum();
        if len > MAX_FRAME_BODY {
            tracing::error!(to, len, "a frame over the limit was not sent");
            return SendOutcome::Down;
        }
        match self.peer(to) {
            Some(peer) => {
                let lane = peer.lane(message.class(), message.is_reply());
                let outcome = lane.push(message, body);
                if outcome == SendOutcome::Sent {
                    peer.tally.sent(place(Kind::of(message)), 1);
                }
                outcome
            }
            None => SendOutcome::Down,
        }
    }

    fn runtime(&self) -> Option<Handle> {
        Some(self.runtime.clone())
    }

    fn blank_nodes(&self) -> Vec<(ReplicaId, LocalFacts)> {
        self.observer().blank_nodes()
    }

    fn set_peers(&mut self, peers: &[PeerAddress]) {
        let me = self.shared.me.node;
        for to in peers.iter().filter(|to| to.node != me) {
            let peer = self.shared.peer(to.node);
            let before = lock(&peer.target).replace(to.clone());
            if before.as_ref() != Some(to) {
                peer.wake();
            }
            if !peer.dialling.swap(true, Ordering::Relaxed) {
                // Refused only when the thread is gone, and with it every connection.
                let _ = self.start.send(peer);
            }
        }
        let all: Vec<_> = lock(&self.shared.peers).values().cloned().collect();
        for peer in all {
            let wanted = peers.iter().any(|to| to.node == peer.node);
            if !wanted && lock(&peer.target).take().is_some() {
                peer.wake();
            }
        }
    }

    fn set_local(&mut self, facts: &LocalFacts) {
        if !addresses_fit(facts) {
            tracing::error!("peer address and client endpoint are too long; kept the old ones");
            return;
        }
        let before = std::mem::replace(&mut *lock(&self.shared.facts), facts.clone());
        let moved = before.peer_address != facts.peer_address
            || before.client_endpoint != facts.client_endpoint;
        if !moved {
            return;
        }
        // Dialers learn facts from the acceptor's hello: have them dial again.
        let links = lock(&self.shared.links).clone();
        for link in links {
            if !link.dialled && link.class == LinkClass::Control {
                link.close(CloseCode::Rotating);
            }
        }
    }

    fn want_bulk(&mut self, to: NodeId, wanted: bool) {
        if let Some(peer) = self.peer(to)
            && peer.bulk.swap(wanted, Ordering::Relaxed) != wanted
        {
            peer.changed(LinkClass::Bulk).notify_one();
        }
    }

    fn reopen(&mut self, to: NodeId) {
        if let Some(peer) = self.peer(to) {
            peer.lane(Class::Data, false).reopen();
        }
    }

    fn forward(&mut self, to: NodeId, forward: Forward) {
        match self.peer(to) {
            Some(peer) => peer.forward(forward),
            None => forward.reply.answer(Err(Unsent)),
        }
    }
}

/// Reads a transport's figures from any thread, while the driver owns the transport.
#[derive(Clone)]
pub struct TransportObserver(Arc<Shared>);

impl std::fmt::Debug for TransportObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TransportObserver")
            .field(&self.0.me)
            .finish()
    }
}

impl TransportObserver {
    /// The live connections.
    pub fn stats(&self) -> Vec<PeerTransportStats> {
        let links = lock(&self.0.links).clone();
        links.iter().map(|link| self.0.stats(link)).collect()
    }

    /// How the connections to and from a node stand, and what has become of earlier ones.
    pub fn peer(&self, node: NodeId) -> PeerTransport {
        self.0.peer_transport(node)
    }

    /// As [`RaftTransport::reload`].
    ///
    /// # Errors
    /// As [`RaftTransport::reload`].
    pub fn reload(&self, credentials: Credentials) -> Result<ReloadReport, ReloadError> {
        self.0.reload(credentials)
    }

    /// Until when each certificate in force is good: `peer`, `peer-ca` and so on, Unix time in seconds.
    pub fn certificate_ends(&self) -> Vec<(String, u64)> {
        let credentials = lock(&self.0.current).credentials.clone();
        let ends = credentials.ends().iter();
        ends.map(|(name, end)| (name.clone(), end.as_secs()))
            .collect()
    }

    /// Blank nodes of this cluster that are connected to this one, with the addresses that they
    /// state: whoever waits to be added.
    pub fn blank_nodes(&self) -> Vec<(ReplicaId, LocalFacts)> {
        let links = lock(&self.0.links);
        let hellos = links.iter().filter(|link| link.facts.blank);
        let told = hellos.map(|link| (link.peer, link.facts.clone()));
        let nodes: BTreeMap<_, _> = told.collect();
        nodes.into_iter().collect()
    }

    /// How often peers were refused, or refused this node, by reason.
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.0.refusals.counts()
    }
}

pub(super) fn tuning(options: &TransportOptions) -> Tuning {
    let (least, most) = (Duration::from_millis(500), Duration::from_secs(10));
    Tuning {
        idle_timeout: options.idle_timeout.clamp(least, most),
        mtu: options.mtu(),
    }
}

fn new_shared(options: &TransportOptions, sink: EventSink) -> Shared {
    Shared {
        me: ReplicaId::new(options.credentials.node(), options.incarnation),
        cluster: options.credentials.cluster(),
        current: Mutex::new(Generation {
            number: 1,
            credentials: options.credentials.clone(),
        }),
        endpoint: Mutex::default(),
        strict_expiry: options.strict_expiry,
        reloaded: Notify::new(),
        facts: Mutex::new(options.facts.clone()),
        sink,
        peers: Mutex::default(),
        accepted: Mutex::default(),
        links: Mutex::default(),
        gone: Mutex::default(),
        meta_seqs: Mutex::default(),
        refusals: Default::default(),
        tuning: tuning(options),
        frame_limits: FrameLimits::default(),
        heartbeat_ms: u32::try_from(options.heartbeat_interval_ms).unwrap_or(u32::MAX),
        election_min_ms: u32::try_from(options.election_timeout_min_ms).unwrap_or(u32::MAX),
        random: Mutex::new(SplitMix(options.seed)),
    }
}

/// The largest datagram that is received.
pub(super) fn payload(options: &TransportOptions) -> u16 {
    options.mtu().saturating_add(27).max(1472)
}

fn bind_udp(address: SocketAddr) -> Result<UdpSocket, TransportError> {
    UdpSocket::bind(address).map_err(|source| TransportError::Bind { address, source })
}

pub(super) fn new_endpoint(
    options: &TransportOptions,
    socket: Arc<dyn AsyncUdpSocket>,
) -> io::Result<Endpoint> {
    let mut reset_key = options.reset_key;
    if reset_key == [0; 32] {
        getrandom::fill(&mut reset_key).map_err(io::Error::other)?;
    }
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &reset_key);
    // With a key of its own for connection ids, packets of an earlier life would be dropped before
    // a reset is considered.
    let mut signature = [0; 32];
    key.sign(b"connection ids", &mut signature);
    let cid_key = signature
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let mut config = EndpointConfig::new(Arc::new(key));
    config
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)))
        .supported_versions(vec![1])
        .max_udp_payload_size(payload(options))
        .map_err(io::Error::other)?;
    let server = server_config(&options.credentials, tuning(options));
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)
}

fn random_epoch() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Says when certificates in force come near their ends, and cuts those off whose has come if that is
/// wanted. Never returns.
async fn watch_expiry(shared: &Shared) {
    let mut expiry = Expiry::default();
    loop {
        let credentials = lock(&shared.current).credentials.clone();
        let now = credentials.clock().now();
        expiry.look(shared.me.node, credentials.ends(), now);
        show_lists(shared.me.node, credentials.lists(), now);
        let next = shared.cut_expired(now).unwrap_or(LOOK).min(LOOK);
        let reloaded = shared.reloaded.notified();
        // Sooner if that changes.
        let _ = tokio::time::timeout(next, reloaded).await;
    }
}

/// Shows figures to whoever collects them. Never returns.
async fn show_figures(shared: &Shared) {
    let mut figures = Figures::default();
    loop {
        figures.show(shared);
        tokio::time::sleep(SHOW).await;
    }
}

/// The transport's thread: dialers as they are asked for, the service, and the end.
fn run(
    runtime: &Runtime,
    shared: Arc<Shared>,
    endpoint: Endpoint,
    first_epoch: u64,
    mut starts: mpsc::UnboundedReceiver<Arc<Peer>>,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        tokio::spawn(RaftTransportService::new(Arc::clone(&shared), endpoint.clone()).run());
        let mut epochs = SplitMix(first_epoch);
        let mut dialers = JoinSet::new();
        let dial = async {
            while let Some(peer) = starts.recv().await {
                for class in LinkClass::ALL {
                    let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
                    let endpoint = endpoint.clone();
                    let dialer = Dialer::new(shared, endpoint, peer, class, epochs.next());
                    dialers.spawn(dialer.run());
                }
            }
        };
        tokio::select! {
            () = dial => {}
            () = watch_expiry(&shared) => {}
            () = show_figures(&shared) => {}
            _ = stopped => {}
        }
        drop(dialers);
        for peer in lock(&shared.peers).values() {
            peer.forwards.end();
        }
        // Whoever still holds an observer must not hold the socket.
        drop(lock(&shared.endpoint).take());
        let shutdown = CloseCode::Shutdown;
        endpoint.close(VarInt::from(shutdown.number()), shutdown.name().as_bytes());
        // The goodbyes leave; nobody is waited for longer than that takes.
        let _ = tokio::time::timeout(Duration::from_millis(100), endpoint.wait_idle()).await;
    });
}

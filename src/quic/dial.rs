//! The dialling half: one task per peer and class, for as long as the peer is to be dialled.
//!
//! Whoever asks, dials: requests go out on the streams opened here, and replies come back on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, Endpoint, NoneTokenStore, RecvStream, SendStream, TransportConfig,
    VarInt,
};

use super::figures::shook_hands;
use super::forward::Asker;
use super::handshake::{in_time, peer_node, read_hello, send_hello};
use super::identity::peer_dns_name;
use super::lane::lock;
use super::limits::{BACKOFF_LONG, BACKOFF_MAX, BACKOFF_MIN, STALLS, Side, transport_config};
use super::refusals::{Reason, Who};
use super::shared::{Link, Peer, Shared, close};
use super::stream::{End, Io, Registered};
use super::tally::LinkState;
use crate::core::Class;
use crate::network::{LinkClass, NetworkEvent, PeerAddress, PeerFacts};
use crate::types::ReplicaId;
use crate::wire::{CloseCode, Hello, PROTOCOL, Redial, SLOW_RETRY};

/// An attempt that takes longer than this may be waiting for the timer of a lost packet.
const PATIENCE: Duration = Duration::from_millis(100);

/// How a connection with these settings is dialled.
pub(super) fn client_config(
    crypto: Arc<QuicClientConfig>,
    transport: TransportConfig,
) -> ClientConfig {
    let mut config = ClientConfig::new(crypto);
    config
        .transport_config(Arc::new(transport))
        .token_store(Arc::new(NoneTokenStore));
    config
}

/// Resolves when an attempt to dial `target` is better begun anew: there is another target, or the
/// peer has dialled in, so it lives, and the attempt's first packet was probably lost before.
async fn outdated(peer: &Peer, class: LinkClass, target: &PeerAddress) {
    let since = Instant::now();
    loop {
        peer.changed(class).notified().await;
        if since.elapsed() > PATIENCE || peer.target(class).as_ref() != Some(target) {
            return;
        }
    }
}

/// An established connection with its first stream, both hellos exchanged.
struct Dialled {
    connection: Connection,
    generation: u64,
    hello: Hello,
    send: SendStream,
    recv: RecvStream,
}

pub(super) struct Dialer {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    peer: Arc<Peer>,
    class: LinkClass,
    /// Epoch of the next stream.
    epoch: u64,
    failures: u32,
    malformed: u32,
}

impl Dialer {
    /// `epoch` is the first one, random, so that no other process of this node shares it.
    pub(super) fn new(
        shared: Arc<Shared>,
        endpoint: Endpoint,
        peer: Arc<Peer>,
        class: LinkClass,
        epoch: u64,
    ) -> Self {
        Self {
            shared,
            endpoint,
            peer,
            class,
            epoch,
            failures: 0,
            malformed: 0,
        }
    }

    /// Dials whenever there is a target. Never returns.
    pub(super) async fn run(self) {
        let peer = Arc::clone(&self.peer);
        if self.class == LinkClass::Forward {
            tokio::select! {
                () = self.dial_on() => {}
                () = peer.forwards.watch_deadlines() => {}
            }
        } else {
            self.dial_on().await;
        }
    }

    async fn dial_on(mut self) {
        loop {
            self.peer.tally.is_at(self.class, LinkState::Down);
            let Some(target) = self.peer.target(self.class) else {
                self.peer.changed(self.class).notified().await;
                continue;
            };
            let (peer, class) = (Arc::clone(&self.peer), self.class);
            peer.tally.is_at(class, LinkState::Dialling);
            let dialled = tokio::select! {
                dialled = self.dial(&target) => dialled,
                () = outdated(&peer, class, &target) => continue,
            };
            let reason = match dialled {
                Ok(dialled) => {
                    let since = Instant::now();
                    peer.tally.connected(class);
                    peer.tally.is_at(class, LinkState::Up);
                    let reason = match class.messages() {
                        Some(class) => self.serve(dialled, &target, class).await,
                        None => self.pass_on(dialled, &target).await,
                    };
                    // One that does not last counts as a failure, or two that close each other's
                    // connections would dial without a pause.
                    if since.elapsed() > BACKOFF_MAX {
                        (self.failures, self.malformed) = (0, 0);
                    }
                    reason
                }
                Err(reason) => reason,
            };
            peer.tally.is_at(class, LinkState::Down);
            peer.tally.down(class, reason.name());
            let wait = self.wait_after(&reason);
            self.note(&reason, wait);
            if class == LinkClass::Forward {
                self.peer.forwards.down(wait);
            }
            if !wait.is_zero() {
                let changed = self.peer.changed(self.class).notified();
                let _ = tokio::time::timeout(wait, changed).await;
            }
        }
    }

    fn note(&self, reason: &Reason, wait: Duration) {
        let node = self.peer.node;
        if reason.is_refusal() {
            let who = Who::Dialled(node);
            self.shared.refusals.note(who, None, reason);
        } else {
            tracing::debug!(node, class = ?self.class, %reason, ?wait, "not connected");
        }
    }

    /// Full jitter over a doubling wait; none after the first failure, so that a peer that just
    /// restarted is found at once.
    fn wait_after(&mut self, reason: &Reason) -> Duration {
        let redial = match reason {
            Reason::Ours(code, _) | Reason::Theirs(code) => code.redial(),
            Reason::TheirsUnknown(_)
            | Reason::Certificate(_)
            | Reason::OwnCertificate(_)
            | Reason::Tls(_) => Redial::Slow(SLOW_RETRY),
            _ => Redial::Backoff,
        };
        match redial {
            Redial::Now | Redial::Backoff => {
                self.failures += 1;
                self.jittered(self.failures, BACKOFF_MAX)
            }
            Redial::Slow(wait) => wait,
            Redial::Long => {
                self.malformed += 1;
                self.jittered(self.malformed + 5, BACKOFF_LONG)
            }
        }
    }

    fn jittered(&self, failures: u32, max: Duration) -> Duration {
        if failures <= 1 {
            return Duration::ZERO;
        }
        let doubled = BACKOFF_MIN.saturating_mul(1 << (failures - 2).min(16));
        let limit = doubled.min(max).as_micros() as u64;
        Duration::from_micros(lock(&self.shared.random).up_to(limit))
    }

    /// Tries every address that the name resolves to at this moment.
    async fn dial(&mut self, target: &PeerAddress) -> Result<Dialled, Reason> {
        let unusable = |why: String| Reason::Address(target.address.clone(), why);
        let resolved = in_time(async {
            let found = tokio::net::lookup_host(target.address.as_str()).await;
            found.map_err(|error| unusable(error.to_string()))
        });
        let addresses: Vec<SocketAddr> = resolved.await?.collect();
        let mut last = unusable("the name has no address".to_owned());
        for address in addresses {
            match self.dial_address(address, target).await {
                Ok(dialled) => return Ok(dialled),
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }

    async fn dial_address(
        &mut self,
        address: SocketAddr,
        target: &PeerAddress,
    ) -> Result<Dialled, Reason> {
        let shared = &self.shared;
        let name = peer_dns_name(shared.cluster, target.node);
        let (generation, client) = {
            let current = lock(&shared.current);
            (current.number, current.credentials.client())
        };
        let transport = transport_config(Side::Dial(self.class), shared.tuning);
        let config = client_config(client, transport);
        let connecting = self
            .endpoint
            .connect_with(config, address, &name)
            .map_err(|error| Reason::Address(target.address.clone(), error.to_string()))?;
        let epoch = self.epoch;
        self.epoch = self.epoch.wrapping_add(1);
        let mut known = None;
        let begun = Instant::now();
        self.peer.tally.is_at(self.class, LinkState::Dialling);
        let result = in_time(async {
            let connection = connecting.await?;
            known = Some(connection.clone());
            self.peer.tally.is_at(self.class, LinkState::Hello);
            self.exchange(connection, generation, target, epoch).await
        })
        .await;
        if result.is_ok() {
            let link = (self.peer.node, self.class);
            shook_hands(shared.me.node, link, true, begun.elapsed());
        }
        if let (Err(reason), Some(connection)) = (&result, &known) {
            let code = match reason {
                Reason::Ours(code, _) => *code,
                Reason::Certificate(_) => CloseCode::Role,
                _ => CloseCode::HelloTimeout,
            };
            close(connection, code);
        }
        result
    }

    /// The peer is up only once its hello is here: in TLS 1.3 the acceptor judges the dialer's
    /// certificate after the dialer's handshake is done.
    async fn exchange(
        &self,
        connection: Connection,
        generation: u64,
        target: &PeerAddress,
        epoch: u64,
    ) -> Result<Dialled, Reason> {
        let shared = &self.shared;
        let node = peer_node(&connection, shared.cluster)?;
        if node != target.node {
            return Err(super::identity::IdentityError::OtherNode(node).into());
        }
        let (mut send, mut recv) = connection.open_bi().await?;
        let to = ReplicaId::new(node, target.incarnation.unwrap_or_default());
        let mine = shared.hello(self.class, to, epoch);
        send_hello(&mut send, &mine).await?;
        let hello = match read_hello(&mut recv).await {
            // The counter rose between this hello and one that overtook it.
            Err(Reason::Theirs(CloseCode::RolledBack))
                if lock(&shared.facts).meta_seq > mine.facts.meta_seq =>
            {
                return Err(Reason::Theirs(CloseCode::Rotating));
            }
            other => other?,
        };
        shared
            .check_hello(&hello, node)
            .map_err(|(code, why)| Reason::Ours(code, why))?;
        let chosen = hello.proto_min == PROTOCOL && hello.proto_max == PROTOCOL;
        if !chosen || hello.class != self.class {
            let why = "the answer does not fit the question".to_owned();
            return Err(Reason::Ours(CloseCode::BadHello, why));
        }
        if target
            .incarnation
            .is_some_and(|wanted| wanted != hello.incarnation)
        {
            let why = format!("the peer is incarnation {}", hello.incarnation);
            return Err(Reason::Ours(CloseCode::WrongDestination, why));
        }
        shared.warn_of_differences(&hello);
        Ok(Dialled {
            connection,
            generation,
            hello,
            send,
            recv,
        })
    }

    /// Runs stream after stream until the connection ends or is no longer wanted.
    async fn serve(&mut self, dialled: Dialled, target: &PeerAddress, class: Class) -> Reason {
        let Dialled {
            connection,
            generation,
            hello,
            mut send,
            mut recv,
        } = dialled;
        let shared = Arc::clone(&self.shared);
        let mut epoch = self.epoch.wrapping_sub(1);
        let link = Arc::new(Link::new(
            connection.clone(),
            generation,
            &hello,
            true,
            epoch,
        ));
        let registered = Registered::new(&shared, link);
        let mut stalls = 0;
        loop {
            let end = self
                .epoch_of_stream(
                    class,
                    &registered.link,
                    epoch,
                    (&mut send, &mut recv),
                    target,
                )
                .await;
            let reason = match end {
                Ok(End::Lost(error)) => return error.into(),
                Ok(End::Malformed(malformed)) => {
                    close(&connection, malformed.code());
                    return malformed.into();
                }
                Ok(end) if class != Class::Data => {
                    close(&connection, CloseCode::Shutdown);
                    return end.reason();
                }
                Ok(End::Stalled) => {
                    stalls += 1;
                    Reason::Stream("stalled")
                }
                Ok(end) => {
                    stalls = 0;
                    end.reason()
                }
                Err(reason) => {
                    close(&connection, CloseCode::Shutdown);
                    return reason;
                }
            };
            if stalls >= STALLS {
                close(&connection, CloseCode::Stalled);
                return Reason::Ours(CloseCode::Stalled, "three streams in a row".to_owned());
            }
            tracing::debug!(node = self.peer.node, %reason, "stream epoch ended");
            let _ = send.reset(VarInt::from(CloseCode::Shutdown.number()));
            let _ = recv.stop(VarInt::from(CloseCode::Shutdown.number()));
            (send, recv) = match in_time(async { Ok(connection.open_bi().await?) }).await {
                Ok(streams) => streams,
                Err(reason) => {
                    close(&connection, CloseCode::Stalled);
                    return reason;
                }
            };
            epoch = self.epoch;
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// Passes proposals on until there are none for a while, or the connection ends or is no longer
    /// wanted. It has one stream for life.
    async fn pass_on(&mut self, dialled: Dialled, target: &PeerAddress) -> Reason {
        let Dialled {
            connection,
            generation,
            hello,
            mut send,
            mut recv,
        } = dialled;
        let shared = Arc::clone(&self.shared);
        let epoch = self.epoch.wrapping_sub(1);
        let link = Link::new(connection.clone(), generation, &hello, true, epoch);
        let registered = Registered::new(&shared, Arc::new(link));
        let asker = Asker {
            peer: &self.peer,
            link: &registered.link,
            limits: shared.frame_limits,
        };
        let end = tokio::select! {
            end = asker.run(&mut send, &mut recv) => Ok(end),
            reason = self.unwanted(&registered.link, target) => Err(reason),
        };
        let (code, reason) = match end {
            Ok(End::Malformed(malformed)) => (malformed.code(), malformed.into()),
            Ok(End::Stalled) => {
                self.peer.tally.stalled(self.class);
                (CloseCode::Stalled, End::Stalled.reason())
            }
            Ok(end) => (CloseCode::Shutdown, end.reason()),
            Err(reason) => (CloseCode::Shutdown, reason),
        };
        close(&connection, code);
        reason
    }

    /// One epoch, from `Up` to `Down`. An error means that the connection is no longer wanted.
    async fn epoch_of_stream(
        &self,
        class: Class,
        link: &Link,
        epoch: u64,
        (send, recv): (&mut SendStream, &mut RecvStream),
        target: &PeerAddress,
    ) -> Result<End, Reason> {
        link.epoch.store(epoch, Ordering::Relaxed);
        let lane = self.peer.lane(class, false);
        lane.open(epoch);
        tracing::debug!(peer = %link.peer, ?class, epoch, "up");
        self.shared.emit(NetworkEvent::Up {
            peer: link.peer,
            class,
            epoch,
            facts: PeerFacts {
                facts: link.facts.clone(),
                remote: Some(link.connection.remote_address()),
            },
        });
        let io = Io {
            shared: &self.shared,
            peer: &self.peer,
            link,
            class,
            epoch,
        };
        let end = tokio::select! {
            end = io.run(send, recv) => Ok(end),
            reason = self.unwanted(link, target) => Err(reason),
        };
        lane.close(epoch);
        let reason = match &end {
            Ok(end) => end.reason().to_string(),
            Err(reason) => reason.to_string(),
        };
        tracing::debug!(peer = %link.peer, ?class, epoch, %reason, "down");
        self.shared.emit(NetworkEvent::Down {
            node: self.peer.node,
            class,
            epoch,
            reason,
        });
        end
    }

    /// Resolves once this connection is not what the node wants any more.
    async fn unwanted(&self, link: &Link, target: &PeerAddress) -> Reason {
        loop {
            self.peer.changed(self.class).notified().await;
            let Some(now) = self.peer.target(self.class) else {
                return Reason::Stream("no longer a peer");
            };
            if now.address != target.address {
                return Reason::Stream("moved to another address");
            }
            let wanted = now.incarnation;
            if wanted.is_some_and(|wanted| wanted != link.peer.incarnation) {
                return Reason::Stream("replaced by another incarnation");
            }
        }
    }
}

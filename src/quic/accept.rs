//! The accepting half: [`RaftTransportService`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};

use super::figures::shook_hands;
use super::forwarded::answer;
use super::handshake::{in_time, peer_node, read_hello, send_hello};
use super::lane::lock;
use super::limits::{
    CONNECTIONS_OVER, CONNECTIONS_PER_PEER, MAX_HANDSHAKES, MEMBER_HANDSHAKES, RETRY_FROM, widen,
};
use super::refusals::{Reason, Who};
use super::shared::{Link, Shared, close};
use super::stream::{End, Io, Registered};
use crate::core::Class;
use crate::types::{NodeId, ReplicaId};
use crate::wire::{CloseCode, Hello};

/// Accepts peers and receives what they ask. Runs on the transport's own thread; a
/// [`RaftTransport`](super::RaftTransport) starts and ends it.
pub struct RaftTransportService {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    handshakes: Arc<AtomicUsize>,
    /// Those of members beyond that.
    of_members: Arc<AtomicUsize>,
    members: Members,
}

/// Where each peer that is known dialled from when it was let in last: its own port, so a restart keeps it.
type Members = Arc<Mutex<HashMap<NodeId, SocketAddr>>>;

impl std::fmt::Debug for RaftTransportService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftTransportService")
            .field("node", &self.shared.me)
            .finish_non_exhaustive()
    }
}

/// One of the handshakes that are going on.
struct Handshake(Arc<AtomicUsize>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A verified peer with its hello and its first stream.
struct Accepted {
    connection: Connection,
    generation: u64,
    hello: Hello,
    send: SendStream,
    recv: RecvStream,
}

impl RaftTransportService {
    pub(super) fn new(shared: Arc<Shared>, endpoint: Endpoint) -> Self {
        Self {
            shared,
            endpoint,
            handshakes: Arc::default(),
            of_members: Arc::default(),
            members: Members::default(),
        }
    }

    /// Accepts until the endpoint is closed.
    pub(super) async fn run(self) {
        while let Some(incoming) = self.endpoint.accept().await {
            let pending = self.handshakes.load(Ordering::Relaxed);
            let members = 1 + lock(&self.shared.peers).len();
            let limit = CONNECTIONS_PER_PEER * members + CONNECTIONS_OVER;
            let full = pending >= MAX_HANDSHAKES || self.endpoint.open_connections() >= 2 * limit;
            if full && !self.has_room_for(incoming.remote_address()) {
                let who = Who::Address(incoming.remote_address().ip());
                let why = format!("{pending} handshakes are pending");
                let reason = Reason::Ours(CloseCode::Overloaded, why);
                self.shared.refusals.note(who, None, &reason);
                incoming.refuse();
                continue;
            }
            if (full || pending >= RETRY_FROM) && incoming.may_retry() {
                // Cannot fail: `may_retry` was asked.
                let _ = incoming.retry();
                continue;
            }
            let count = if full {
                &self.of_members
            } else {
                &self.handshakes
            };
            count.fetch_add(1, Ordering::Relaxed);
            let handshake = Handshake(Arc::clone(count));
            let (shared, members) = (Arc::clone(&self.shared), Arc::clone(&self.members));
            tokio::spawn(receive(shared, incoming, handshake, members));
        }
    }

    /// Whether who dials from here may take up room that is kept for members. The address is proved
    /// before the handshake begins: a flood that only claims it gets no further.
    fn has_room_for(&self, remote: SocketAddr) -> bool {
        self.of_members.load(Ordering::Relaxed) < MEMBER_HANDSHAKES
            && lock(&self.members).values().any(|member| *member == remote)
    }
}

async fn receive(shared: Arc<Shared>, incoming: Incoming, handshake: Handshake, members: Members) {
    let remote = incoming.remote_address();
    let mut who = Who::Address(remote.ip());
    let mut known = None;
    let begun = Instant::now();
    // Read before the handshake begins: if the number is new, so are the rules of the handshake.
    let generation = shared.generation();
    let accepted = in_time(async {
        let connection = incoming.accept()?.await?;
        known = Some(connection.clone());
        let node = peer_node(&connection, shared.cluster)?;
        who = Who::Node(node);
        greet(&shared, connection, generation, node).await
    })
    .await;
    drop(handshake);
    match accepted {
        Ok(accepted) => {
            let link = (accepted.hello.node, accepted.hello.class);
            if shared.known_peer(link.0).is_some() {
                lock(&members).insert(link.0, remote);
            }
            shook_hands(shared.me.node, link, false, begun.elapsed());
            serve(&shared, accepted).await;
        }
        Err(reason) => {
            if let Some(connection) = known {
                let code = match &reason {
                    Reason::Ours(code, _) => *code,
                    Reason::Certificate(_) => CloseCode::Role,
                    _ => CloseCode::HelloTimeout,
                };
                close(&connection, code);
            }
            shared.refusals.note(who, Some(remote), &reason);
        }
    }
}

/// Reads the dialer's hello and answers it, or says why not.
async fn greet(
    shared: &Shared,
    connection: Connection,
    generation: u64,
    node: NodeId,
) -> Result<Accepted, Reason> {
    let (mut send, mut recv) = connection.accept_bi().await?;
    let hello = read_hello(&mut recv).await?;
    shared
        .check_hello(&hello, node)
        .map_err(|(code, why)| Reason::Ours(code, why))?;
    check_other_life(shared, &hello)?;
    let from = ReplicaId::new(hello.node, hello.incarnation);
    let mine = shared.hello(hello.class, from, hello.epoch);
    send_hello(&mut send, &mine).await?;
    shared.warn_of_differences(&hello);
    Ok(Accepted {
        connection,
        generation,
        hello,
        send,
        recv,
    })
}

/// Two directories that claim one node id: the second is refused unless the configuration names it
/// (hazard C12).
fn check_other_life(shared: &Shared, hello: &Hello) -> Result<(), Reason> {
    let accepted = lock(&shared.accepted);
    let other = accepted.iter().find(|((node, _), link)| {
        *node == hello.node && link.peer.incarnation != hello.incarnation
    });
    let Some((_, other)) = other else {
        return Ok(());
    };
    let expected = shared
        .known_peer(hello.node)
        .and_then(|peer| peer.expected());
    if other.connection.close_reason().is_some() || expected == Some(hello.incarnation) {
        return Ok(());
    }
    let why = format!("{} is connected", other.peer);
    Err(Reason::Ours(CloseCode::SecondIncarnation, why))
}

async fn serve(shared: &Shared, accepted: Accepted) {
    let Accepted {
        connection,
        generation,
        hello,
        mut send,
        mut recv,
    } = accepted;
    // The class is known only now; until then the small windows held.
    widen(&connection, hello.class);
    let link = Arc::new(Link::new(
        connection,
        generation,
        &hello,
        false,
        hello.epoch,
    ));
    let registered = Registered::new(shared, Arc::clone(&link));
    admit(shared, &link);
    // It lives: if this node waits before it dials that one again, it need not.
    shared.peer(link.peer.node).changed(link.class).notify_one();
    match hello.class.messages() {
        Some(class) => serve_streams(shared, &link, class, hello.epoch, (send, recv)).await,
        None => {
            let end = answer(shared, &link, &mut send, &mut recv).await;
            if matches!(end, End::Stalled) {
                shared.peer(link.peer.node).tally.stalled(link.class);
            }
            end_of(shared, &link, &end);
        }
    }
    let mut accepted = lock(&shared.accepted);
    let key = (link.peer.node, link.class);
    if accepted
        .get(&key)
        .is_some_and(|now| Arc::ptr_eq(now, &link))
    {
        accepted.remove(&key);
    }
    drop(accepted);
    drop(registered);
}

/// One epoch after the other.
async fn serve_streams(
    shared: &Shared,
    link: &Link,
    class: Class,
    first_epoch: u64,
    (mut send, mut recv): (SendStream, RecvStream),
) {
    while let Some(next) = serve_stream(shared, link, class, &mut send, &mut recv).await {
        (send, recv) = next;
        // Streams of a connection are numbered, and so are their epochs.
        let epoch = first_epoch.wrapping_add(send.id().index());
        link.epoch.store(epoch, Ordering::Relaxed);
    }
}

/// The newest connection of a peer and class counts.
fn admit(shared: &Shared, link: &Arc<Link>) {
    let key = (link.peer.node, link.class);
    let before = lock(&shared.accepted).insert(key, Arc::clone(link));
    if let Some(before) = before {
        before.close(CloseCode::Replaced);
    }
    let other_class = lock(&shared.accepted)
        .values()
        .find(|other| {
            other.peer.node == link.peer.node && other.peer.incarnation != link.peer.incarnation
        })
        .cloned();
    if let Some(other) = other_class {
        other.close(CloseCode::Replaced);
    }
}

/// One epoch; gives the next stream if the dialer opened one.
async fn serve_stream(
    shared: &Shared,
    link: &Link,
    class: Class,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Option<(SendStream, RecvStream)> {
    let peer = shared.peer(link.peer.node);
    let epoch = link.epoch();
    let lane = peer.lane(class, true);
    lane.open(epoch);
    let io = Io {
        shared,
        peer: &peer,
        link,
        class,
        epoch,
    };
    let next = tokio::select! {
        end = io.run(send, recv) => Err(end),
        next = link.connection.accept_bi() => next.map_err(End::Lost),
    };
    lane.close(epoch);
    let end = match next {
        Ok(next) => return Some(next),
        Err(end) => end,
    };
    match end {
        // The dialer gave the stream up and opens the next one, or has hung up.
        End::Stream(_) if class == Class::Data => {
            in_time(async { Ok(link.connection.accept_bi().await?) })
                .await
                .ok()
        }
        End::Stalled if class == Class::Data => {
            let _ = send.reset(VarInt::from(CloseCode::Stalled.number()));
            link.close(CloseCode::Stalled);
            None
        }
        end => {
            end_of(shared, link, &end);
            None
        }
    }
}

/// Closes the connection whose last stream ended so.
fn end_of(shared: &Shared, link: &Link, end: &End) {
    match end {
        End::Malformed(malformed) => {
            link.close(malformed.code());
            let (who, at) = (Who::Node(link.peer.node), link.connection.remote_address());
            shared.refusals.note(who, Some(at), &(*malformed).into());
        }
        End::Superseded => link.close(CloseCode::Replaced),
        End::Lost(_) => {}
        End::Stream(_) | End::Stalled | End::Reopen => link.close(CloseCode::Shutdown),
    }
}

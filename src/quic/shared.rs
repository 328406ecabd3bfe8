//! What the tasks of a transport and its handle share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{Connection, Endpoint, VarInt};
use tokio::sync::Notify;

use super::credit::Credits;
use super::figures::{LinkId, Totals};
use super::forward::Forwards;
use super::lane::{Lane, lock};
use super::limits::Tuning;
use super::refusals::Refusals;
use super::reload::Generation;
use super::tally::Tally;
use crate::core::{Class, FEATURES};
use crate::network::{EventSink, Forward, LinkClass, LocalFacts, NetworkEvent, PeerAddress};
use crate::types::{ClusterId, Incarnation, NodeId, ReplicaId};
use crate::wire::{CloseCode, FrameLimits, Hello, PROTOCOL};

/// The classes of the core's messages.
const CLASSES: [Class; 3] = [Class::Control, Class::Data, Class::Bulk];

pub(super) struct Shared {
    pub(super) me: ReplicaId,
    pub(super) cluster: ClusterId,
    pub(super) current: Mutex<Generation>,
    /// Where the next handshakes are met; none once the transport ends.
    pub(super) endpoint: Mutex<Option<Endpoint>>,
    /// Dates count for connections that stand.
    pub(super) strict_expiry: bool,
    /// Other credentials are in force, or there is a connection more whose end is to be watched.
    pub(super) reloaded: Notify,
    pub(super) facts: Mutex<LocalFacts>,
    pub(super) sink: EventSink,
    pub(super) peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    pub(super) accepted: Mutex<HashMap<(NodeId, LinkClass), Arc<Link>>>,
    pub(super) links: Mutex<Vec<Arc<Link>>>,
    /// What connections had done that ended since the figures were last shown.
    pub(super) gone: Mutex<Vec<(LinkId, Totals)>>,
    /// Highest META counter that each life of each node stated (hazard E11).
    pub(super) meta_seqs: Mutex<HashMap<ReplicaId, u64>>,
    pub(super) refusals: Refusals,
    pub(super) tuning: Tuning,
    pub(super) frame_limits: FrameLimits,
    pub(super) heartbeat_ms: u32,
    pub(super) election_min_ms: u32,
    pub(super) random: Mutex<SplitMix>,
}

/// A peer by its number: what waits for it and where to dial it. Lives as long as the transport;
/// their number is that of the certificates that the cluster's CA issued.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// Where to dial; none: do not.
    pub(super) target: Mutex<Option<PeerAddress>>,
    /// Per class: the target changed.
    pub(super) changed: [Notify; LinkClass::ALL.len()],
    /// Snapshots go there: the bulk connection is wanted.
    pub(super) bulk: AtomicBool,
    /// Proposals that are passed on to it.
    pub(super) forwards: Forwards,
    pub(super) tally: Tally,
    pub(super) dialling: AtomicBool,
    requests: [Lane; CLASSES.len()],
    replies: [Lane; CLASSES.len()],
}

/// One live connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: ReplicaId,
    pub(super) class: LinkClass,
    pub(super) dialled: bool,
    /// Of the credentials that the handshake began with.
    pub(super) generation: u64,
    pub(super) connection: Connection,
    pub(super) facts: LocalFacts,
    pub(super) epoch: AtomicU64,
    pub(super) frames_in: AtomicU64,
    pub(super) frames_out: AtomicU64,
    /// Of appends that came in and wait for the core. One reader at a time takes from it.
    pub(super) credits: Arc<Credits>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl Peer {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            target: Mutex::default(),
            changed: Default::default(),
            bulk: AtomicBool::new(false),
            forwards: Forwards::default(),
            tally: Tally::default(),
            dialling: AtomicBool::new(false),
            requests: CLASSES.map(|class| Lane::new(class, false)),
            replies: CLASSES.map(|class| Lane::new(class, true)),
        }
    }

    pub(super) fn lane(&self, class: Class, replies: bool) -> &Lane {
        let lanes = if replies {
            &self.replies
        } else {
            &self.requests
        };
        &lanes[class as usize]
    }

    /// Bytes that wait to be written on the connection of a class.
    pub(super) fn queued(&self, class: LinkClass, dialled: bool) -> usize {
        match class.messages() {
            Some(class) => self.lane(class, !dialled).queued(),
            None if dialled => self.forwards.queued(),
            None => 0,
        }
    }

    /// How long the oldest append (data) or heartbeat (control) has waited for its answer.
    pub(super) fn unanswered_for(&self, class: LinkClass) -> Option<Duration> {
        self.lane(class.messages()?, false).unanswered_for()
    }

    /// Passes a proposal on, and has it dialled if it is not.
    pub(super) fn forward(&self, forward: Forward) {
        if self.forwards.push(forward) {
            self.changed(LinkClass::Forward).notify_one();
        }
    }

    pub(super) fn changed(&self, class: LinkClass) -> &Notify {
        &self.changed[class as usize]
    }

    /// Whoever waits to dial, tries now.
    pub(super) fn wake(&self) {
        self.changed.iter().for_each(Notify::notify_one);
    }

    /// Where to dial for a class; none: do not.
    pub(super) fn target(&self, class: LinkClass) -> Option<PeerAddress> {
        let wanted = match class {
            LinkClass::Control | LinkClass::Data => true,
            LinkClass::Bulk => self.bulk.load(Ordering::Relaxed),
            LinkClass::Forward => self.forwards.wanted(),
        };
        lock(&self.target).clone().filter(|_| wanted)
    }

    /// The life of this node that the configuration names, if it names one.
    pub(super) fn expected(&self) -> Option<Incarnation> {
        lock(&self.target).as_ref().and_then(|to| to.incarnation)
    }
}

impl Link {
    pub(super) fn new(
        connection: Connection,
        generation: u64,
        hello: &Hello,
        dialled: bool,
        epoch: u64,
    ) -> Self {
        Self {
            peer: ReplicaId::new(hello.node, hello.incarnation),
            class: hello.class,
            dialled,
            generation,
            connection,
            facts: hello.facts.clone(),
            epoch: AtomicU64::new(epoch),
            frames_in: AtomicU64::new(0),
            frames_out: AtomicU64::new(0),
            credits: Arc::default(),
        }
    }

    pub(super) fn close(&self, code: CloseCode) {
        close(&self.connection, code);
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }
}

/// Closes a connection with a code and its name.
pub(super) fn close(connection: &Connection, code: CloseCode) {
    connection.close(VarInt::from(code.number()), code.name().as_bytes());
}

impl Shared {
    pub(super) fn emit(&self, event: NetworkEvent) {
        (self.sink)(&mut vec![event]);
    }

    /// The peer with this number, made on first use.
    pub(super) fn peer(&self, node: NodeId) -> Arc<Peer> {
        let mut peers = lock(&self.peers);
        Arc::clone(
            peers
                .entry(node)
                .or_insert_with(|| Arc::new(Peer::new(node))),
        )
    }

    pub(super) fn known_peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&node).cloned()
    }

    /// This node's hello, as of now.
    pub(super) fn hello(&self, class: LinkClass, to: ReplicaId, epoch: u64) -> Hello {
        Hello {
            proto_min: PROTOCOL,
            proto_max: PROTOCOL,
            class,
            cluster: self.cluster,
            node: self.me.node,
            incarnation: self.me.incarnation,
            to_node: to.node,
            to_incarnation: to.incarnation,
            epoch,
            max_frame_body: self.frame_limits.body as u32,
            max_entry: self.frame_limits.entry as u32,
            max_inflight: crate::config::limits::MAX_INFLIGHT as u32,
            heartbeat_ms: self.heartbeat_ms,
            wall_ms: wall_ms(),
            election_min_ms: self.election_min_ms,
            facts: lock(&self.facts).clone(),
        }
    }

    /// What both sides of a connection check of the other's hello, in this order.
    pub(super) fn check_hello(
        &self,
        hello: &Hello,
        node: NodeId,
    ) -> Result<(), (CloseCode, String)> {
        let refuse = |code, why: String| Err((code, why));
        if !(hello.proto_min..=hello.proto_max).contains(&PROTOCOL) {
            let (min, max) = (hello.proto_min, hello.proto_max);
            let why = format!("it speaks {min} to {max}, this node {PROTOCOL}");
            return refuse(CloseCode::NoCommonVersion, why);
        }
        if hello.cluster != self.cluster {
            return refuse(
                CloseCode::WrongCluster,
                format!("cluster {}", hello.cluster),
            );
        }
        if hello.node != node {
            let why = format!("it says node {}, its certificate {node}", hello.node);
            return refuse(CloseCode::HelloMismatch, why);
        }
        let genesis = lock(&self.facts).genesis;
        let theirs = hello.facts.genesis;
        if !genesis.is_none() && !theirs.is_none() && genesis != theirs {
            let why = format!("founded by {theirs}, this node's history by {genesis}");
            return refuse(CloseCode::WrongCluster, why);
        }
        if hello.to_node != self.me.node {
            let why = format!("it wants node {}", hello.to_node);
            return refuse(CloseCode::WrongDestination, why);
        }
        if !hello.to_incarnation.is_none() && hello.to_incarnation != self.me.incarnation {
            let why = format!("it wants incarnation {}", hello.to_incarnation);
            return refuse(CloseCode::WrongDestination, why);
        }
        if hello.incarnation.is_none() {
            return refuse(CloseCode::BadHello, "it states no incarnation".to_owned());
        }
        if hello.node == self.me.node {
            let why = "another directory of this very node".to_owned();
            return refuse(CloseCode::SecondIncarnation, why);
        }
        let known = FEATURES.1;
        if hello.facts.needs_level > known {
            let why = format!(
                "its cluster is at feature level {}, and this release knows levels up to {known}: \
                 start this node with a release that knows it",
                hello.facts.needs_level
            );
            return refuse(CloseCode::FeatureLevel, why);
        }
        self.check_meta_seq(hello)
    }

    /// A directory whose counter fell was rolled back to an old copy, and could vote twice
    /// (hazard E11).
    fn check_meta_seq(&self, hello: &Hello) -> Result<(), (CloseCode, String)> {
        let id = ReplicaId::new(hello.node, hello.incarnation);
        let mut seqs = lock(&self.meta_seqs);
        let highest = seqs.entry(id).or_default();
        let stated = hello.facts.meta_seq;
        if stated < *highest {
            let why = format!("its META counter is {stated}, it was {highest} before");
            return Err((CloseCode::RolledBack, why));
        }
        *highest = stated;
        Ok(())
    }

    /// What of a peer's limits is below this node's: a frame over it would be refused.
    pub(super) fn warn_of_differences(&self, hello: &Hello) {
        let smaller = (hello.max_frame_body as usize) < self.frame_limits.body
            || (hello.max_entry as usize) < self.frame_limits.entry;
        if smaller {
            tracing::warn!(
                node = hello.node,
                body = hello.max_frame_body,
                entry = hello.max_entry,
                "the peer takes smaller frames than this node sends; run the same version on both"
            );
        }
        if hello.heartbeat_ms != self.heartbeat_ms {
            tracing::warn!(
                node = hello.node,
                theirs = hello.heartbeat_ms,
                ours = self.heartbeat_ms,
                "heartbeat intervals differ (ms); set the same on every node"
            );
        }
    }

    pub(super) fn add_link(&self, link: &Arc<Link>) {
        lock(&self.links).push(Arc::clone(link));
        // Credentials that came after its handshake began judged only what was here.
        if link.generation != self.generation() {
            let _ = self.judge(link);
        }
        if self.strict_expiry {
            // Its certificate may be the next to expire.
            self.reloaded.notify_one();
        }
    }

    pub(super) fn remove_link(&self, link: &Arc<Link>) {
        lock(&self.links).retain(|other| !Arc::ptr_eq(other, link));
        lock(&self.gone).push((link.id(), link.totals()));
    }

    pub(super) fn take_gone(&self) -> Vec<(LinkId, Totals)> {
        std::mem::take(&mut lock(&self.gone))
    }
}

fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A small generator for jitter (SplitMix64); nothing secret comes from it.
#[derive(Debug)]
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..=max`, near enough for waiting times.
    pub(super) fn up_to(&mut self, max: u64) -> u64 {
        ((u128::from(self.next()) * (u128::from(max) + 1)) >> 64) as u64
    }
}

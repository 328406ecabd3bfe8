//! How the connections to and from a peer stand, for whoever asks: the node's status.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lane::lock;
use super::shared::{Link, Peer, Shared};
use super::tally::{KINDS, LinkState, kind_name};
use crate::network::LinkClass;
use crate::types::{NodeId, ReplicaId};

/// One live connection, for metrics and `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTransportStats {
    /// Who is at the other end.
    pub peer: ReplicaId,
    /// Which class.
    pub class: LinkClass,
    /// Whether this node dialled it (and asks on it), or the peer did.
    pub dialled: bool,
    /// Where it goes.
    pub remote: SocketAddr,
    /// Epoch of its stream.
    pub epoch: u64,
    /// Estimated round trip.
    pub rtt: Duration,
    /// Largest UDP payload found to pass, bytes.
    pub mtu: u16,
    /// Congestion window, bytes.
    pub cwnd: u64,
    /// Packets lost.
    pub lost_packets: u64,
    /// Times that the congestion window was reduced.
    pub congestion_events: u64,
    /// Times that the path stopped passing large packets.
    pub black_holes: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// System calls that sent them.
    pub sends: u64,
    /// Bytes sent, headers of QUIC included.
    pub bytes_sent: u64,
    /// Bytes received, headers of QUIC included.
    pub bytes_received: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: usize,
    /// How long the oldest append (data) or heartbeat (control) that this node sent on it has waited for
    /// its answer; none if nothing waits, or the peer dialled.
    pub oldest_unanswered: Option<Duration>,
    /// Whether both ends showed certificates over TLS 1.3. Never false: no other version is
    /// compiled in, and a connection without certificates is not established.
    pub mutual_tls13: bool,
}

/// This node's own connections of one class to a peer: how far the present one is, and what became of
/// those before it. Counts are since the node started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialledClass {
    /// Which class.
    pub class: LinkClass,
    /// How far the present one is. Bulk and forward are up only while they are needed.
    pub state: LinkState,
    /// Connections that came up.
    pub connects: u64,
    /// Streams given up because the peer took nothing, on connections that the peer dialled too.
    pub stalls: u64,
    /// How connections, and attempts that came to nothing, ended: the reason and how often.
    pub downs: Vec<(&'static str, u64)>,
}

/// Frames of one kind to and from a peer since the node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCount {
    /// The kind's name, as in the metrics.
    pub kind: &'static str,
    /// Queued to be sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
}

/// All that a transport knows of its connections with one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTransport {
    /// By class; empty of a node that was never dialled and never came.
    pub dialled: Vec<DialledClass>,
    /// The live connections, of either side.
    pub links: Vec<PeerTransportStats>,
    /// Kinds of which there were any.
    pub frames: Vec<FrameCount>,
}

impl PeerTransport {
    /// Estimated round trip on this node's own connection for heartbeats, while there is one.
    pub fn rtt(&self) -> Option<Duration> {
        let control = |link: &&PeerTransportStats| link.dialled && link.class == LinkClass::Control;
        self.links.iter().find(control).map(|link| link.rtt)
    }

    /// How often the connection for heartbeats came up again after the first time.
    pub fn reconnects(&self) -> u64 {
        let mut classes = self.dialled.iter();
        let control = classes.find(|of| of.class == LinkClass::Control);
        control.map_or(0, |of| of.connects.saturating_sub(1))
    }
}

impl Shared {
    pub(super) fn stats(&self, link: &Link) -> PeerTransportStats {
        let quic = link.connection.stats();
        let peer = self.peer(link.peer.node);
        let unanswered = || peer.unanswered_for(link.class);
        PeerTransportStats {
            peer: link.peer,
            class: link.class,
            dialled: link.dialled,
            remote: link.connection.remote_address(),
            epoch: link.epoch(),
            rtt: quic.path.rtt,
            mtu: quic.path.current_mtu,
            cwnd: quic.path.cwnd,
            lost_packets: quic.path.lost_packets,
            congestion_events: quic.path.congestion_events,
            black_holes: quic.path.black_holes_detected,
            datagrams_sent: quic.udp_tx.datagrams,
            datagrams_received: quic.udp_rx.datagrams,
            sends: quic.udp_tx.ios,
            bytes_sent: quic.udp_tx.bytes,
            bytes_received: quic.udp_rx.bytes,
            frames_sent: link.frames_out.load(Ordering::Relaxed),
            frames_received: link.frames_in.load(Ordering::Relaxed),
            queued_bytes: peer.queued(link.class, link.dialled),
            oldest_unanswered: link.dialled.then(unanswered).flatten(),
            mutual_tls13: link.connection.peer_identity().is_some(),
        }
    }

    pub(super) fn peer_transport(&self, node: NodeId) -> PeerTransport {
        let Some(peer) = self.known_peer(node) else {
            return PeerTransport::default();
        };
        let links = lock(&self.links).clone();
        let of_peer = links.iter().filter(|link| link.peer.node == node);
        let mut links: Vec<_> = of_peer.map(|link| self.stats(link)).collect();
        links.sort_by_key(|link| (link.class, !link.dialled));
        PeerTransport {
            dialled: dialled(&peer),
            links,
            frames: frames(&peer),
        }
    }
}

fn dialled(peer: &Peer) -> Vec<DialledClass> {
    let tally = &peer.tally;
    let (states, connects, stalls) = (tally.states(), tally.connects(), tally.stalls());
    let ended = tally.downs();
    let counted = states.into_iter().zip(connects).zip(stalls);
    let classes = LinkClass::ALL.into_iter().zip(counted);
    classes
        .map(|(class, ((state, connects), stalls))| {
            let of_class = ended.iter().filter(|((of, _), _)| *of == class);
            DialledClass {
                class,
                state,
                connects,
                stalls,
                downs: of_class.map(|&((_, why), count)| (why, count)).collect(),
            }
        })
        .collect()
}

fn frames(peer: &Peer) -> Vec<FrameCount> {
    let [sent, received] = peer.tally.frames();
    let counted = (0..KINDS).zip(sent.into_iter().zip(received));
    counted
        .filter(|(_, (sent, received))| sent + received > 0)
        .map(|(place, (sent, received))| FrameCount {
            kind: kind_name(place),
            sent,
            received,
        })
        .collect()
}

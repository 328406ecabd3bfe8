//! Figures of peers and connections, through the `metrics` facade. See `docs/metrics.md`.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::lane::lock;
use super::shared::{Link, Shared};
use super::tally::kind_name;
use crate::network::LinkClass;
use crate::types::NodeId;

/// How often they are shown.
pub(super) const SHOW: Duration = Duration::from_secs(1);

macro_rules! names {
    ($($name:ident = $text:literal, $make:ident, $about:literal;)*) => {
        $(const $name: &str = concat!("conveyor_raft_transport_", $text);)*

        fn describe() {
            $($make!($name, $about);)*
        }

        /// Names of all of them.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name,)*];
    };
}

names! {
    RTT = "rtt_seconds", describe_gauge, "estimated round trip";
    CWND = "cwnd_bytes", describe_gauge, "congestion window";
    MTU = "mtu_bytes", describe_gauge, "largest UDP payload found to pass";
    QUEUE = "queue_bytes", describe_gauge, "bytes that wait to be written";
    UNACKED = "oldest_unacked_seconds", describe_gauge,
        "how long the oldest append or heartbeat has waited for its answer, 0 if none waits";
    STATE = "state", describe_gauge, "of a dialled class: 0 down, 1 dialling, 2 hellos, 3 up";
    HANDSHAKE = "handshake_seconds", describe_histogram, "handshake and hellos together";
    CONGESTION = "congestion_events_total", describe_counter,
        "times the congestion window was reduced";
    STALLS = "stalls_total", describe_counter, "streams given up because the peer took nothing";
    EPOCH = "epoch", describe_gauge, "the stream's epoch, modulo 2^32";
    LOST = "lost_packets_total", describe_counter, "packets lost";
    HOLES = "black_holes_total", describe_counter, "times the path stopped passing large packets";
    BYTES = "bytes_total", describe_counter, "bytes, headers of QUIC included";
    DATAGRAMS = "datagrams_total", describe_counter, "UDP datagrams";
    FRAMES = "frames_total", describe_counter, "frames by kind";
    CONNECTS = "connects_total", describe_counter, "connections that this node made";
    DOWNS = "downs_total", describe_counter, "how connections and attempts of this node ended";
    REFUSALS = "refusals_total", describe_counter, "peers refused, or refusing this node";
}

/// What one connection has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    lost: u64,
    congestion: u64,
    holes: u64,
    /// Sent, received.
    bytes: [u64; 2],
    datagrams: [u64; 2],
}

impl Link {
    pub(super) fn totals(&self) -> Totals {
        let quic = self.connection.stats();
        Totals {
            lost: quic.path.lost_packets,
            congestion: quic.path.congestion_events,
            holes: quic.path.black_holes_detected,
            bytes: [quic.udp_tx.bytes, quic.udp_rx.bytes],
            datagrams: [quic.udp_tx.datagrams, quic.udp_rx.datagrams],
        }
    }

    /// Which connection it is, for as long as it is there.
    pub(super) fn id(&self) -> LinkId {
        LinkId {
            connection: self.connection.stable_id(),
            peer: self.peer.node,
            class: self.class,
            dialled: self.dialled,
        }
    }
}

/// See [`Link::id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LinkId {
    connection: usize,
    peer: NodeId,
    class: LinkClass,
    dialled: bool,
}

impl LinkId {
    fn labels(&self, node: NodeId) -> Vec<(&'static str, String)> {
        labels(node, self.peer, self.class, self.dialled)
    }
}

/// Sent, and received.
const DIRECTIONS: [&str; 2] = ["out", "in"];

/// Remembers what was shown, to show what came since.
#[derive(Debug, Default)]
pub(super) struct Figures {
    links: HashMap<LinkId, Totals>,
    frames: HashMap<(NodeId, usize, usize), u64>,
    connects: HashMap<(NodeId, LinkClass), u64>,
    downs: HashMap<(NodeId, LinkClass, &'static str), u64>,
    stalls: HashMap<(NodeId, LinkClass), u64>,
    refusals: HashMap<&'static str, u64>,
}

/// Shows how long handshake and hellos of a connection took.
pub(super) fn shook_hands(
    node: NodeId,
    (peer, class): (NodeId, LinkClass),
    dialled: bool,
    took: Duration,
) {
    histogram!(HANDSHAKE, &labels(node, peer, class, dialled)).record(took.as_secs_f64());
}

fn labels(
    node: NodeId,
    peer: NodeId,
    class: LinkClass,
    dialled: bool,
) -> Vec<(&'static str, String)> {
    let side = if dialled { "dialled" } else { "accepted" };
    vec![
        ("node", node.to_string()),
        ("peer", peer.to_string()),
        ("class", class.name().to_owned()),
        ("side", side.to_owned()),
    ]
}

/// How much more a total is than when it was last asked for.
fn since<K: Hash + Eq>(shown: &mut HashMap<K, u64>, key: K, total: u64) -> u64 {
    let before = shown.insert(key, total).unwrap_or_default();
    total.saturating_sub(before)
}

impl Figures {
    /// Shows everything as it is now.
    pub(super) fn show(&mut self, shared: &Shared) {
        describe();
        let node = shared.me.node;
        let (links, gone) = (lock(&shared.links).clone(), shared.take_gone());
        for (id, totals) in gone {
            self.count(node, id, totals);
            self.links.remove(&id);
        }
        for link in &links {
            self.count(node, link.id(), link.totals());
            let labels = link.id().labels(node);
            let path = link.connection.stats().path;
            let peer = shared.peer(link.peer.node);
            let queued = peer.queued(link.class, link.dialled);
            gauge!(RTT, &labels).set(path.rtt.as_secs_f64());
            gauge!(CWND, &labels).set(path.cwnd as f64);
            gauge!(MTU, &labels).set(f64::from(path.current_mtu));
            gauge!(QUEUE, &labels).set(queued as f64);
            if link.dialled && link.class.messages().is_some() {
                let oldest = peer.unanswered_for(link.class).unwrap_or_default();
                gauge!(UNACKED, &labels).set(oldest.as_secs_f64());
            }
            gauge!(EPOCH, &labels).set(f64::from(link.epoch() as u32));
        }
        self.show_peers(shared);
        for (reason, total) in shared.refusals.counts() {
            let labels = [("node", node.to_string()), ("reason", reason.to_owned())];
            let more = since(&mut self.refusals, reason, total);
            counter!(REFUSALS, &labels).increment(more);
        }
    }

    fn count(&mut self, node: NodeId, id: LinkId, now: Totals) {
        let before = self.links.insert(id, now).unwrap_or_default();
        let labels = id.labels(node);
        counter!(LOST, &labels).increment(now.lost.saturating_sub(before.lost));
        let reduced = now.congestion.saturating_sub(before.congestion);
        counter!(CONGESTION, &labels).increment(reduced);
        counter!(HOLES, &labels).increment(now.holes.saturating_sub(before.holes));
        for (dir, name) in DIRECTIONS.into_iter().enumerate() {
            let mut labels = labels.clone();
            labels.push(("dir", name.to_owned()));
            for (name, now, before) in [
                (BYTES, now.bytes, before.bytes),
                (DATAGRAMS, now.datagrams, before.datagrams),
            ] {
                let more = |of: [u64; 2]| of.get(dir).copied().unwrap_or_default();
                counter!(name, &labels).increment(more(now).saturating_sub(more(before)));
            }
        }
    }

    fn show_peers(&mut self, shared: &Shared) {
        let peers: Vec<_> = lock(&shared.peers).values().cloned().collect();
        for peer in peers {
            let of = [
                ("node", shared.me.node.to_string()),
                ("peer", peer.node.to_string()),
            ];
            let with = |more: &[(&'static str, &str)]| {
                let more = more.iter().map(|&(key, value)| (key, value.to_owned()));
                of.iter().cloned().chain(more).collect::<Vec<_>>()
            };
            for (dir, frames) in peer.tally.frames().into_iter().enumerate() {
                let name = DIRECTIONS.get(dir).copied().unwrap_or_default();
                for (kind, total) in frames.into_iter().enumerate().filter(|(_, n)| *n > 0) {
                    let more = since(&mut self.frames, (peer.node, dir, kind), total);
                    let labels = with(&[("dir", name), ("kind", kind_name(kind))]);
                    counter!(FRAMES, &labels).increment(more);
                }
            }
            for (class, total) in LinkClass::ALL.into_iter().zip(peer.tally.connects()) {
                let more = since(&mut self.connects, (peer.node, class), total);
                counter!(CONNECTS, &with(&[("class", class.name())])).increment(more);
            }
            for (class, state) in LinkClass::ALL.into_iter().zip(peer.tally.states()) {
                gauge!(STATE, &with(&[("class", class.name())])).set(f64::from(state as u8));
            }
            for (class, total) in LinkClass::ALL.into_iter().zip(peer.tally.stalls()) {
                let more = since(&mut self.stalls, (peer.node, class), total);
                counter!(STALLS, &with(&[("class", class.name())])).increment(more);
            }
            for ((class, reason), total) in peer.tally.downs() {
                let more = since(&mut self.downs, (peer.node, class, reason), total);
                let labels = with(&[("class", class.name()), ("reason", reason)]);
                counter!(DOWNS, &labels).increment(more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_of_the_transport_is_documented() {
        let text = include_str!("../../docs/metrics.md");
        for name in NAMES {
            assert!(text.contains(&format!("`{name}`")), "{name}");
        }
        for class in LinkClass::ALL {
            assert!(text.contains(&format!("`{}`", class.name())));
        }
        for place in 0..super::super::tally::KINDS {
            let name = kind_name(place);
            assert!(text.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn totals_are_shown_as_what_came_since() {
        let mut shown = HashMap::new();
        assert_eq!(since(&mut shown, 1, 5), 5);
        assert_eq!(since(&mut shown, 1, 5), 0);
        assert_eq!(since(&mut shown, 2, 7), 7);
        assert_eq!(since(&mut shown, 1, 9), 4);
    }
}

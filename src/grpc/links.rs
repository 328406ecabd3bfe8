//! How connections between nodes stand, in the words of the client edge.

use crate::network::LinkClass;
use crate::proto;
use crate::quic::{DialledClass, LinkState, PeerTransport, PeerTransportStats};

/// A row for each connection that the node dials, whether it is up or not, and for each that the peer
/// did.
pub(super) fn links(peer: &PeerTransport) -> Vec<proto::PeerLink> {
    let live = |class: LinkClass, dialled: bool| {
        let mut links = peer.links.iter();
        links.find(|link| link.class == class && link.dialled == dialled)
    };
    let dialled = peer.dialled.iter().map(|of| {
        let mut row = live(of.class, true).map_or_else(proto::PeerLink::default, figures);
        wanted(&mut row, of);
        row
    });
    let accepted = peer.links.iter().filter(|link| !link.dialled);
    dialled.chain(accepted.map(figures)).collect()
}

fn figures(link: &PeerTransportStats) -> proto::PeerLink {
    proto::PeerLink {
        class: link.class.name().to_owned(),
        dialled: link.dialled,
        state: proto::LinkState::Up as i32,
        epoch: link.epoch,
        rtt_us: link.rtt.as_micros() as u64,
        cwnd_bytes: link.cwnd,
        mtu_bytes: u32::from(link.mtu),
        lost_packets: link.lost_packets,
        bytes_sent: link.bytes_sent,
        bytes_received: link.bytes_received,
        frames_sent: link.frames_sent,
        frames_received: link.frames_received,
        queued_bytes: link.queued_bytes as u64,
        oldest_unanswered_ms: link.oldest_unanswered.map(|since| since.as_millis() as u64),
        ..proto::PeerLink::default()
    }
}

fn wanted(row: &mut proto::PeerLink, of: &DialledClass) {
    let state = match of.state {
        LinkState::Down => proto::LinkState::Down,
        LinkState::Dialling => proto::LinkState::Dialling,
        LinkState::Hello => proto::LinkState::Hello,
        LinkState::Up => proto::LinkState::Up,
    };
    row.class = of.class.name().to_owned();
    row.dialled = true;
    row.state = state as i32;
    (row.connects, row.stalls) = (of.connects, of.stalls);
    row.downs = reasons(&of.downs);
}

pub(super) fn frames(peer: &PeerTransport) -> Vec<proto::FrameCount> {
    let frames = peer.frames.iter();
    frames
        .map(|of| proto::FrameCount {
            kind: of.kind.to_owned(),
            sent: of.sent,
            received: of.received,
        })
        .collect()
}

pub(super) fn reasons(counts: &[(&'static str, u64)]) -> Vec<proto::ReasonCount> {
    let counts = counts.iter();
    counts
        .map(|&(reason, count)| proto::ReasonCount {
            reason: reason.to_owned(),
            count,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_down_has_its_row_and_says_how_it_went() {
        let peer = PeerTransport {
            dialled: vec![DialledClass {
                class: LinkClass::Data,
                state: LinkState::Dialling,
                connects: 2,
                stalls: 1,
                downs: vec![("timeout", 3)],
            }],
            ..PeerTransport::default()
        };
        let rows = links(&peer);
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.class.as_str(), row.dialled), ("data", true));
        assert_eq!(row.state(), proto::LinkState::Dialling);
        assert_eq!((row.connects, row.stalls), (2, 1));
        assert_eq!(
            (row.downs[0].reason.as_str(), row.downs[0].count),
            ("timeout", 3)
        );
        assert_eq!((row.epoch, row.oldest_unanswered_ms), (0, None));
    }
}

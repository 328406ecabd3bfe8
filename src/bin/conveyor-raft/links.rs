//! Connections between nodes, in words: `conveyor-raft status --links`.

use std::fmt::Write as _;

use conveyor_raft::proto::{LinkState, PeerLink, PeerStatus, ReasonCount};

use crate::output::{count, table};

const TITLES: [&str; 15] = [
    "",
    "CLASS",
    "BY",
    "STATE",
    "RTT US",
    "WINDOW",
    "MTU",
    "LOST",
    "SENT",
    "RECEIVED",
    "QUEUED",
    "OLDEST MS",
    "EPOCH",
    "CONNECTS",
    "STALLS",
];

/// A line for each connection with a peer, then how earlier ones ended and which frames there were.
pub(crate) fn show(peer: &PeerStatus) -> String {
    let rows: Vec<_> = peer.links.iter().map(cells).collect();
    let mut text = table(TITLES, &rows);
    for link in peer.links.iter().filter(|link| !link.downs.is_empty()) {
        // A text that is written into cannot fail.
        let _ = writeln!(text, "    {} ended: {}", link.class, counted(&link.downs));
    }
    let frames = peer.frames.iter();
    let frames = frames.map(|of| format!("{} {}/{}", of.kind, count(of.sent), count(of.received)));
    let frames: Vec<_> = frames.collect();
    let _ = write!(text, "    frames sent/received: {}", frames.join(", "));
    text
}

/// Reasons, each with its number.
pub(crate) fn counted(reasons: &[ReasonCount]) -> String {
    let each = reasons.iter();
    let each: Vec<_> = each
        .map(|of| format!("{} {}", count(of.count), of.reason))
        .collect();
    each.join(", ")
}

fn cells(link: &PeerLink) -> [String; 15] {
    let live = link.state() == LinkState::Up;
    let figure = |number: u64| if live { count(number) } else { "-".to_owned() };
    let ours = |number: u64| {
        if link.dialled {
            count(number)
        } else {
            "-".to_owned()
        }
    };
    let epoch = if live {
        format!("{:016x}", link.epoch)
    } else {
        "-".to_owned()
    };
    [
        "  ".to_owned(),
        link.class.clone(),
        if link.dialled { "us" } else { "them" }.to_owned(),
        link.state().word().to_owned(),
        figure(link.rtt_us),
        figure(link.cwnd_bytes),
        figure(u64::from(link.mtu_bytes)),
        figure(link.lost_packets),
        figure(link.bytes_sent),
        figure(link.bytes_received),
        figure(link.queued_bytes),
        link.oldest_unanswered_ms.map_or("-".to_owned(), count),
        epoch,
        ours(link.connects),
        ours(link.stalls),
    ]
}

#[cfg(test)]
mod tests {
    use conveyor_raft::proto::FrameCount;

    use super::*;

    #[test]
    fn what_is_down_shows_no_figures_and_says_how_it_ended() {
        let of = |reason: &str, count| ReasonCount {
            reason: reason.to_owned(),
            count,
        };
        let down = PeerLink {
            class: "data".to_owned(),
            dialled: true,
            state: LinkState::Dialling as i32,
            connects: 1,
            downs: vec![of("timeout", 1200), of("revoked", 1)],
            ..PeerLink::default()
        };
        let up = PeerLink {
            class: "control".to_owned(),
            state: LinkState::Up as i32,
            rtt_us: 56,
            oldest_unanswered_ms: Some(3),
            ..PeerLink::default()
        };
        let frames = vec![FrameCount {
            kind: "heartbeat".to_owned(),
            sent: 7,
            received: 1000,
        }];
        let peer = PeerStatus {
            links: vec![down, up],
            frames,
            ..PeerStatus::default()
        };
        let text = show(&peer);
        let lines: Vec<Vec<_>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1][..5], ["data", "us", "dialling", "-", "-"]);
        assert_eq!(lines[1][lines[1].len() - 2..], ["1", "0"]);
        assert_eq!(lines[2][..4], ["control", "them", "up", "56"]);
        assert_eq!(lines[2][lines[2].len() - 2..], ["-", "-"]);
        assert_eq!(lines[3].join(" "), "data ended: 1,200 timeout, 1 revoked");
        let frames = "frames sent/received: heartbeat 7/1,000";
        assert_eq!(lines[4].join(" "), frames);
    }
}

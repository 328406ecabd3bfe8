//! Every limit of the transport in one place, and what is made of quinn's defaults, several of
//! which are unbounded.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{Connection, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::config::limits::{MAX_FRAME_BODY, MAX_INFLIGHT, MAX_INFLIGHT_APPENDS};
use crate::network::LinkClass;

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// Longest that a handshake and both hellos may take; quinn has no handshake timer of its own.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Handshakes at once; more are refused.
pub(super) const MAX_HANDSHAKES: usize = 32;
/// Further ones that only members may take up: at an address that is proved, and at which a member was let in last.
pub(super) const MEMBER_HANDSHAKES: usize = 16;
/// From so many handshakes on, an address must prove itself by a round trip first.
pub(super) const RETRY_FROM: usize = 16;
/// Accepted connections: so many per known peer, and so many over.
pub(super) const CONNECTIONS_PER_PEER: usize = 4;
/// See [`CONNECTIONS_PER_PEER`].
pub(super) const CONNECTIONS_OVER: usize = 16;
/// No byte taken by a stream for so long while some wait, nor any got through of those before: the stream is
/// given up. A peer that reads makes room in steps of an eighth of its window, which take long on a slow link.
pub(super) const STALL: Duration = Duration::from_secs(2);
/// A write that takes no longer is not looked at.
pub(super) const QUICK: Duration = Duration::from_millis(250);
/// So many stalls in a row close the connection.
pub(super) const STALLS: u32 = 3;
/// First wait of a dialer that failed; doubles to [`BACKOFF_MAX`].
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// See [`BACKOFF_MIN`].
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Longest wait after the peer was sent something malformed.
pub(super) const BACKOFF_LONG: Duration = Duration::from_secs(60);
/// Bytes queued for a data stream, those that quinn did not take yet included.
pub(super) const QUEUE_BYTES: usize = MAX_INFLIGHT;
/// Frames queued for a data stream.
pub(super) const QUEUE_FRAMES: usize = MAX_INFLIGHT_APPENDS;
/// Acks queued for a data stream, control frames for a control stream.
pub(super) const QUEUE_REPLIES: usize = 1024;
/// Control frames queued for one stream.
pub(super) const QUEUE_CONTROL: usize = 64;
/// Appends and heartbeats of one stream without an answer whose times are kept, for the figures.
pub(super) const UNANSWERED: usize = 2 * MAX_INFLIGHT_APPENDS;
/// Body bytes of a peer's appends that may wait for the core; then reading stops. Two of the
/// largest frames.
pub(super) const UNREAD_BYTES: usize = 2 * MAX_FRAME_BODY;
/// A peer's appends that may wait for the core: each pins the batch of datagrams that it came in.
pub(super) const UNREAD_FRAMES: usize = MAX_INFLIGHT_APPENDS;
/// Runs below this are copied behind their header: a chunk of its own costs quinn more.
pub(super) const COPY_BELOW: usize = 4 << 10;
/// Longest chunk given to quinn, which counts a partly acknowledged one in full.
pub(super) const CHUNK: usize = 256 << 10;
/// Size asked for the socket's buffers.
pub(super) const SOCKET_BUFFER: usize = 4 << 20;
/// The MTU of the loopback interface less headers, rounded.
pub(super) const LOOPBACK_MTU: u16 = 65_500;
/// Ethernet's, as quinn has it.
pub(super) const ETHERNET_MTU: u16 = 1452;

/// Round trip assumed before one is measured. quinn's 333 ms would send a first packet, lost
/// because the peer was just starting, again only after a second.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// First congestion window in packets of the largest size looked for (RFC 9002 has 10 of 1200).
const INITIAL_WINDOW_PACKETS: u64 = 16;

/// What a connection is for, as far as its limits go. The acceptor learns the class from the hello
/// only, so it begins with the smallest windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dial(LinkClass),
    Accept,
}

/// Windows of the small classes and of every direction that carries replies only.
const SMALL_CONNECTION_WINDOW: u32 = 160 * KIB;
const SMALL_STREAM_WINDOW: u32 = 64 * KIB;
/// Data: 10 Gbit/s for 0.5 ms are 0.6 MiB, 1 Gbit/s for 30 ms are 3.6 MiB.
const DATA_STREAM_WINDOW: u32 = 4 * MIB;
/// Two streams and one more, so that an unread old epoch never blocks the new one.
const DATA_CONNECTION_WINDOW: u32 = 9 * MIB;
const DATA_SEND_WINDOW: u32 = 8 * MIB;
/// Bulk: keeps queues short, since what waits in the socket delays a heartbeat too: at Ethernet's MTU this
/// takes a core of the machines measured about 0.7 ms. At a round trip of 20 ms it is 50 MiB a second.
const BULK_CONNECTION_WINDOW: u32 = MIB;
const BULK_SEND_WINDOW: u32 = 2 * MIB;
/// Forward: two of the largest proposals, and a part of the next.
const FORWARD_CONNECTION_WINDOW: u32 = 25 * MIB / 4;
const FORWARD_SEND_WINDOW: u32 = 4 * MIB;
/// Proposals of one peer, and bytes of them, that are passed on and not answered; more are refused as
/// overload by the asker, and not read by the leader.
pub(super) const FORWARDS: usize = crate::config::limits::MAX_FORWARDS;
/// See [`FORWARDS`]; an only one may be larger.
pub(super) const FORWARD_BYTES: usize = crate::config::limits::MAX_FORWARD_BYTES;
/// A forward connection on which nothing is under way for so long is closed.
pub(super) const FORWARD_IDLE: Duration = Duration::from_secs(5);
/// So long after its deadline the leader's own word on a proposal is waited for.
pub(super) const FORWARD_GRACE: Duration = Duration::from_millis(100);
/// Streams that a dialer may have open: two on a data connection, an old epoch and the new.
const DATA_STREAMS: u32 = 2;

/// What the caller may set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    pub(super) idle_timeout: Duration,
    pub(super) mtu: u16,
}

/// quinn's settings for one side of one class.
pub(super) fn transport_config(side: Side, tuning: Tuning) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle_ms = u32::try_from(tuning.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .crypto_buffer_size(16 << 10)
        .allow_spin(false);
    config.initial_rtt(INITIAL_RTT);
    // A probe for a larger MTU counts against the congestion window: with the default window of
    // ten small packets, the first probe for 64 KiB would hold up the hello and every goodbye.
    let mut congestion = CubicConfig::default();
    congestion.initial_window(u64::from(tuning.mtu) * INITIAL_WINDOW_PACKETS);
    config.congestion_controller_factory(Arc::new(congestion));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(tuning.mtu);
    config.mtu_discovery_config(Some(discovery));
    let (streams, stream, connection, send) = match side {
        Side::Dial(class) => {
            // One side is enough, and it is the dialer who has to notice.
            config.keep_alive_interval(Some(tuning.idle_timeout / 4));
            let send = match class {
                LinkClass::Control => SMALL_CONNECTION_WINDOW,
                LinkClass::Data => DATA_SEND_WINDOW,
                LinkClass::Bulk => BULK_SEND_WINDOW,
                LinkClass::Forward => FORWARD_SEND_WINDOW,
            };
            (0, SMALL_STREAM_WINDOW, SMALL_CONNECTION_WINDOW, send)
        }
        Side::Accept => (
            1,
            DATA_STREAM_WINDOW,
            SMALL_CONNECTION_WINDOW,
            SMALL_CONNECTION_WINDOW,
        ),
    };
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .stream_receive_window(VarInt::from_u32(stream))
        .receive_window(VarInt::from_u32(connection))
        .send_window(send.into());
    config
}

/// The acceptor's windows, once the hello has said of which class the connection is.
pub(super) fn widen(connection: &Connection, class: LinkClass) {
    let window = match class {
        LinkClass::Control => return,
        LinkClass::Data => {
            connection.set_max_concurrent_bi_streams(VarInt::from_u32(DATA_STREAMS));
            DATA_CONNECTION_WINDOW
        }
        LinkClass::Bulk => BULK_CONNECTION_WINDOW,
        LinkClass::Forward => FORWARD_CONNECTION_WINDOW,
    };
    connection.set_receive_window(VarInt::from_u32(window));
}

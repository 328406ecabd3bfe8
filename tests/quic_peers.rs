//! Peers with good certificates that say wrong things: hellos, frames, second lives, floods.
#![allow(missing_docs)]

mod quic_common;

use std::time::{Duration, Instant};

use conveyor_raft::core::Message;
use conveyor_raft::network::{LinkClass, LocalFacts, NetworkEvent, PeerAddress, RaftNetwork};
use conveyor_raft::quic::certs::GeneratedCerts;
use conveyor_raft::types::{ClusterId, Incarnation};
use quic_common::logs::logs;
use quic_common::raw::{
    RawHello, client_endpoint, client_tls, close_code, connect, greet, peer_name, runtime,
};
use quic_common::{Node, certs, options};
use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use tokio::runtime::Runtime;

const GENESIS: Incarnation = Incarnation([0xee; 16]);

/// A node, and node 2 made by hand beside it.
struct Bed {
    certs: GeneratedCerts,
    node: Node,
    runtime: Runtime,
    endpoint: Endpoint,
}

impl Bed {
    fn new() -> Self {
        let certs = certs(&[1, 2, 3]);
        let mut options = options(&certs, 1);
        options.facts.genesis = GENESIS;
        let node = Node::with(options);
        let runtime = runtime();
        let endpoint = {
            let _inside = runtime.enter();
            client_endpoint()
        };
        Self {
            certs,
            node,
            runtime,
            endpoint,
        }
    }

    fn cluster(&self) -> ClusterId {
        self.certs.ca.cluster()
    }

    fn hello(&self) -> RawHello {
        RawHello::new(self.cluster(), 2, 1)
    }

    fn connect(&self) -> Connection {
        let pair = &self.certs.nodes[1].peer;
        let tls = client_tls(&self.certs.ca.peer_ca().cert, Some(pair));
        let to = peer_name(self.cluster(), 1);
        let connecting = connect(&self.endpoint, tls, self.node.address, &to);
        self.runtime.block_on(connecting).expect("connected")
    }

    fn greet(&self, hello: &RawHello) -> Result<Peer, ConnectionError> {
        let connection = self.connect();
        let (send, recv, _) = self.runtime.block_on(greet(&connection, hello))?;
        Ok(Peer {
            connection,
            send,
            _recv: recv,
        })
    }

    /// The code with which a hello is refused.
    fn refused(&self, hello: &RawHello) -> Option<u64> {
        close_code(&self.greet(hello).err().expect("refused"))
    }

    /// Writes bytes and gives the code with which the connection ends.
    fn closed_after(&self, peer: &mut Peer, bytes: &[u8]) -> Option<u64> {
        self.runtime.block_on(async {
            let _ = peer.send.write_all(bytes).await;
            let closed = tokio::time::timeout(Duration::from_secs(10), peer.connection.closed());
            close_code(&closed.await.expect("closed in time"))
        })
    }

    fn count(&self, reason: &str) -> u64 {
        let counts = self.node.transport.refusals();
        let found = counts.iter().find(|(name, _)| *name == reason);
        found.map_or(0, |&(_, count)| count)
    }
}

struct Peer {
    connection: Connection,
    send: quinn::SendStream,
    _recv: quinn::RecvStream,
}

/// An append of no entries, as bytes.
fn probe(epoch: u64, seq: u64) -> Vec<u8> {
    let mut out = vec![0x10, 0, 56, 0, 0, 0, 0, 0];
    out.extend(3u64.to_le_bytes());
    for field in [epoch, seq, 7, 2, 0, 0, 0] {
        out.extend(field.to_le_bytes());
    }
    out
}

fn no_message(node: &Node) {
    let got = node.wait_for(Duration::from_millis(50), |event| match event {
        NetworkEvent::Message { message, .. } => Some(message),
        _ => None,
    });
    assert_eq!(got, None);
}

#[test]
fn hellos_are_refused_with_their_codes_and_one_line() {
    let log = logs();
    let bed = Bed::new();
    let with = |change: &dyn Fn(&mut RawHello)| {
        let mut hello = bed.hello();
        change(&mut hello);
        bed.refused(&hello)
    };
    assert_eq!(with(&|h| h.proto = (2, 9)), Some(0x11));
    assert_eq!(with(&|h| h.proto = (0, 0)), Some(0x11));
    assert_eq!(with(&|h| h.proto = (2, 1)), Some(0x10));
    assert_eq!(with(&|h| h.class = 9), Some(0x10));
    assert_eq!(with(&|h| h.cluster = ClusterId([1; 16])), Some(0x13));
    assert_eq!(with(&|h| h.genesis = Incarnation([1; 16])), Some(0x13));
    assert_eq!(with(&|h| h.node = 3), Some(0x15));
    assert_eq!(with(&|h| h.to_node = 2), Some(0x14));
    assert_eq!(
        with(&|h| h.to_incarnation = Incarnation([9; 16])),
        Some(0x14)
    );
    assert_eq!(with(&|h| h.incarnation = Incarnation::NONE), Some(0x10));
    assert_eq!(with(&|h| h.feature_required = 99), Some(0x12));
    for (word, count) in [
        ("no common version", 2),
        ("bad hello", 3),
        ("wrong cluster or genesis", 2),
        ("hello differs from certificate", 1),
        ("wrong destination", 2),
        ("feature level too low", 1),
    ] {
        assert_eq!(bed.count(word), count, "{word}");
        assert_eq!(log.with(&["WARN", "who=node 2 ", word]).len(), 1, "{word}");
    }
    assert!(bed.node.events.try_recv().is_err(), "nothing happened");
    let mut good = bed.hello();
    good.genesis = GENESIS;
    good.to_incarnation = bed.node.incarnation;
    bed.greet(&good).expect("a good one is let in");
}

#[test]
fn e11_a_rolled_back_directory_is_refused() {
    let bed = Bed::new();
    let with = |meta_seq| {
        let mut hello = bed.hello();
        hello.meta_seq = meta_seq;
        hello
    };
    bed.greet(&with(7)).expect("first");
    bed.greet(&with(7)).expect("same");
    assert_eq!(bed.refused(&with(6)), Some(0x17));
    let _later = bed.greet(&with(8)).expect("later");
    let mut other_life = with(1);
    other_life.incarnation = Incarnation([0x55; 16]);
    // Another life counts for itself; while the old one is connected, it is a second one.
    assert_eq!(bed.refused(&other_life), Some(0x1a));
}

#[test]
fn c12_a_second_live_incarnation_is_refused_unless_named() {
    let mut bed = Bed::new();
    let first = bed.greet(&bed.hello()).expect("first");
    let mut second = bed.hello();
    second.incarnation = Incarnation([0x77; 16]);
    assert_eq!(bed.refused(&second), Some(0x1a));
    assert!(first.connection.close_reason().is_none());
    // Once the configuration names the second, it takes the first one's place.
    bed.node.transport.set_peers(&[PeerAddress {
        node: 2,
        incarnation: Some(second.incarnation),
        address: "127.0.0.1:9".to_owned(),
    }]);
    let _second = bed.greet(&second).expect("named");
    let closed = bed.runtime.block_on(first.connection.closed());
    assert_eq!(close_code(&closed), Some(0x01), "replaced");
}

#[test]
fn a_second_connection_replaces_the_first() {
    let bed = Bed::new();
    let mut first = bed.greet(&bed.hello()).expect("first");
    let mut newer = bed.hello();
    newer.epoch = 2000;
    let mut second = bed.greet(&newer).expect("second");
    let closed = bed.runtime.block_on(first.connection.closed());
    assert_eq!(close_code(&closed), Some(0x01), "replaced");
    bed.runtime.block_on(async {
        let _ = first.send.write_all(&probe(1000, 1)).await;
        second.send.write_all(&probe(2000, 1)).await.expect("sent");
    });
    let epoch = bed.node.wait(|event| match event {
        NetworkEvent::Message {
            message: Message::Append(m),
            ..
        } => Some(m.epoch),
        _ => None,
    });
    assert_eq!(epoch, 2000);
}

#[test]
fn i4_malformed_frames_close_with_their_code_and_change_nothing() {
    let bed = Bed::new();
    let good = probe(1000, 1);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let mut large = good.clone();
    large[4..8].copy_from_slice(&(64u32 << 20).to_le_bytes());
    large[64..68].copy_from_slice(&1u32.to_le_bytes());
    let damaged = {
        let entry = conveyor_raft::entry::frame(
            conveyor_raft::types::LogId::new(2, 8),
            conveyor_raft::types::EntryKind::Command,
            0,
            b"12345678",
        );
        let mut bytes = good.clone();
        bytes[4..8].copy_from_slice(&(entry.len() as u32).to_le_bytes());
        bytes[64..68].copy_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(&entry);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    let cases = [
        ("malformed", 0x20, with(2, 8)),
        ("too large", 0x21, large),
        ("unknown kind", 0x22, with(0, 0x77)),
        ("kind not of this class", 0x23, with(0, 0x30)),
        ("reserved not zero", 0x24, with(1, 1)),
        ("seq or epoch out of order", 0x25, probe(999, 1)),
        (
            "seq or epoch out of order",
            0x25,
            [probe(1000, 1), probe(1000, 3)].concat(),
        ),
        ("entry checksum", 0x26, damaged),
    ];
    for (name, code, bytes) in cases {
        let before = bed.count(name);
        let mut peer = bed.greet(&bed.hello()).expect("let in");
        assert_eq!(bed.closed_after(&mut peer, &bytes), Some(code), "{name}");
        let end = Instant::now() + Duration::from_secs(5);
        while bed.count(name) == before {
            assert!(Instant::now() < end, "{name} is counted");
        }
    }
    // Of all that, only the one good probe before the gap was a message.
    let mut messages = 0;
    let _ = bed.node.wait_for(Duration::from_millis(50), |event| {
        if let NetworkEvent::Message { .. } = event {
            messages += 1;
        }
        None::<()>
    });
    assert_eq!(messages, 1);
    let mut peer = bed.greet(&bed.hello()).expect("let in again");
    bed.runtime
        .block_on(peer.send.write_all(&probe(1000, 5)))
        .expect("sent");
    bed.node.wait(|event| match event {
        NetworkEvent::Message { .. } => Some(()),
        _ => None,
    });
}

#[test]
fn epochs_follow_the_streams_of_a_connection() {
    let bed = Bed::new();
    let mut peer = bed.greet(&bed.hello()).expect("let in");
    let got = |epoch: u64, seq: u64| {
        let found = bed.node.wait(|event| match event {
            NetworkEvent::Message {
                message: Message::Append(m),
                ..
            } => Some((m.epoch, m.seq)),
            _ => None,
        });
        assert_eq!(found, (epoch, seq));
    };
    bed.runtime.block_on(async {
        peer.send.write_all(&probe(1000, 1)).await.expect("sent");
    });
    got(1000, 1);
    for nth in 1..4 {
        let _ = peer.send.reset(VarInt::from_u32(0));
        let (send, _recv) = bed.runtime.block_on(async {
            let (mut send, recv) = peer.connection.open_bi().await.expect("opened");
            let bytes = probe(1000 + nth, 10 * nth);
            send.write_all(&bytes).await.expect("sent");
            (send, recv)
        });
        peer.send = send;
        got(1000 + nth, 10 * nth);
    }
}

#[test]
fn i6_a_dialer_that_says_nothing_is_timed_out() {
    let bed = Bed::new();
    let silent = bed.connect();
    let trickling = bed.connect();
    let since = Instant::now();
    bed.runtime.block_on(async {
        let (mut send, _recv) = trickling.open_bi().await.expect("opened");
        for byte in bed.hello().bytes() {
            if send.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(close_code(&trickling.closed().await), Some(0x05));
        // The one that sends no packet at all is idle even before that.
        silent.closed().await;
    });
    assert!(since.elapsed() < Duration::from_secs(8));
    assert_eq!(bed.count("timeout"), 2);
    no_message(&bed.node);
}

#[test]
fn i6_streams_beyond_the_limit_are_not_granted() {
    let bed = Bed::new();
    let mut control = bed.hello();
    control.class = 0;
    let peer = bed.greet(&control).expect("let in");
    bed.runtime.block_on(async {
        let wait = Duration::from_millis(300);
        let second = tokio::time::timeout(wait, peer.connection.open_bi());
        second
            .await
            .map(|_| ())
            .expect_err("one stream for control");
        let uni = tokio::time::timeout(wait, peer.connection.open_uni());
        uni.await
            .map(|_| ())
            .expect_err("no unidirectional streams");
        assert_eq!(peer.connection.max_datagram_size(), None, "no datagrams");
    });
}

#[test]
fn i6_a_flood_of_connections_leaves_a_healthy_link_working() {
    let certs = certs(&[1, 2, 3]);
    let mut nodes = quic_common::mesh(&certs, &[1, 3]);
    let three = nodes.pop().expect("three");
    let mut one = nodes.pop().expect("one");
    let (_, epoch) = one.both_up(3);
    let address = one.address;
    let runtime = runtime();
    let pair = certs.nodes[1].peer.clone();
    let ca = certs.ca.peer_ca().cert.clone();
    let to = peer_name(certs.ca.cluster(), 1);
    let flood = runtime.spawn(async move {
        let endpoint = client_endpoint();
        let mut kept = Vec::new();
        for _ in 0..200 {
            let tls = client_tls(&ca, Some(&pair));
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("suite");
            let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
            kept.push(endpoint.connect_with(config, address, &to));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        kept
    });
    let mut seq = 0;
    while !flood.is_finished() || seq < 50 {
        seq += 1;
        let prev = conveyor_raft::types::LogId::default();
        one.send(3, &quic_common::append(epoch, seq, prev, 0), &[]);
        three.wait(|event| match event {
            NetworkEvent::Message {
                message: Message::Append(m),
                ..
            } => {
                assert_eq!(m.seq, seq);
                Some(())
            }
            _ => None,
        });
    }
    runtime.block_on(flood).expect("joined");
    let stats = one.transport.stats();
    assert!(
        stats
            .iter()
            .any(|link| link.class == LinkClass::Data && link.epoch == epoch)
    );
}

#[test]
fn wrong_life_at_an_address_is_not_up() {
    let log = logs();
    let certs = certs(&[1, 2]);
    let (mut one, two) = (Node::start(&certs, 1), Node::start(&certs, 2));
    one.transport.set_peers(&[PeerAddress {
        incarnation: Some(Incarnation([0x99; 16])),
        ..two.peer()
    }]);
    let up = one.wait_for(Duration::from_millis(300), |event| match event {
        NetworkEvent::Up { .. } => Some(()),
        _ => None,
    });
    assert_eq!(up, None);
    let refused = one.transport.refusals();
    assert!(
        refused.iter().any(|(name, _)| *name == "wrong destination"),
        "{refused:?} {}",
        log.text()
    );
    one.transport.set_peers(&[PeerAddress {
        incarnation: Some(two.incarnation),
        ..two.peer()
    }]);
    one.both_up(2);
}

#[test]
fn another_history_is_refused_both_ways() {
    let certs = certs(&[1, 2]);
    let with = |id, genesis| {
        let mut options = options(&certs, id);
        options.facts = LocalFacts {
            genesis: Incarnation([genesis; 16]),
            ..LocalFacts::default()
        };
        Node::with(options)
    };
    let (mut one, two) = (with(1, 7), with(2, 8));
    one.transport.set_peers(&[two.peer()]);
    let up = one.wait_for(Duration::from_millis(300), |event| match event {
        NetworkEvent::Up { .. } => Some(()),
        _ => None,
    });
    assert_eq!(up, None);
    assert!(two.events.try_recv().is_err());
    let refused = two.transport.refusals();
    assert!(
        refused
            .iter()
            .any(|(name, _)| *name == "wrong cluster or genesis")
    );
}

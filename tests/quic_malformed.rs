//! Every field of every kind of frame, out of its range, over real QUIC: the connection is closed with
//! its code, that is counted, and nothing reaches the node.
#![allow(missing_docs)]

mod quic_common;

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conveyor_raft::entry::frame;
use conveyor_raft::network::{Forward, ForwardReply, NetworkEvent, PeerAddress, RaftNetwork};
use conveyor_raft::quic::certs::GeneratedCerts;
use conveyor_raft::types::{EntryKind, LogId};
use quic_common::raw::{
    RawHello, client_endpoint, client_tls, close_code, connect, greet, peer_name, runtime,
    server_endpoint, server_tls,
};
use quic_common::{Node, certs, options};
use quinn::{Connection, Endpoint};
use rustls::ClientConfig;

const EPOCH: u64 = 1000;
const INDEX: u64 = 1 << 62;
const TERM: u64 = 1 << 48;

/// What a field may hold.
#[derive(Clone, Copy)]
enum Rule {
    /// Anything.
    Free,
    Index,
    Term,
    /// The stream's epoch.
    Epoch,
    Zero,
    /// A byte up to this.
    UpTo(u8),
    /// 1 to 256 KiB.
    Chunk,
    /// Half of a hash that is zero here.
    Half,
    /// Entries, of which there are none here.
    Count,
    /// Command or System.
    Proposed,
    /// Nothing else: it follows from another field.
    Only0,
    /// The number of a proposal that was passed on.
    Asked,
}
use Rule::*;

struct Kind {
    kind: u8,
    class: u8,
    reply: bool,
    fields: &'static [(usize, Rule)],
}

const fn kind(kind: u8, class: u8, reply: bool, fields: &'static [(usize, Rule)]) -> Kind {
    Kind {
        kind,
        class,
        reply,
        fields,
    }
}

const VOTE: &[(usize, Rule)] = &[
    (16, Free),
    (8, Free),
    (8, Index),
    (8, Term),
    (1, UpTo(1)),
    (7, Zero),
];
const VOTED: &[(usize, Rule)] = &[
    (16, Free),
    (8, Free),
    (1, UpTo(1)),
    (1, UpTo(5)),
    (1, UpTo(3)),
    (5, Zero),
];
const YES_OR_NO: &[(usize, Rule)] = &[(16, Free), (1, UpTo(1)), (7, Zero)];

/// As `docs/wire-format.md` draws them.
const KINDS: &[Kind] = &[
    kind(
        0x10,
        1,
        false,
        &[
            (8, Epoch),
            (8, Free),
            (8, Index),
            (8, Term),
            (8, Index),
            (8, Free),
            (4, Count),
            (4, Zero),
        ],
    ),
    kind(
        0x11,
        1,
        true,
        &[
            (16, Free),
            (8, Epoch),
            (8, Free),
            (8, Index),
            (8, Index),
            (8, Term),
            (8, Free),
            (1, UpTo(3)),
            (1, UpTo(3)),
            (6, Zero),
        ],
    ),
    kind(0x20, 0, false, VOTE),
    kind(0x21, 0, true, VOTED),
    kind(0x22, 0, false, VOTE),
    kind(0x23, 0, true, VOTED),
    kind(
        0x30,
        0,
        false,
        &[
            (8, Epoch),
            (8, Free),
            (8, Index),
            (8, Free),
            (8, Free),
            (8, Index),
            (16, Free),
        ],
    ),
    kind(
        0x31,
        0,
        true,
        &[
            (16, Free),
            (8, Epoch),
            (8, Free),
            (8, Free),
            (8, Free),
            (8, Index),
            (8, Index),
            (16, Free),
            (4, Free),
            (1, UpTo(3)),
            (3, Zero),
        ],
    ),
    kind(0x32, 0, false, &[(16, Free), (8, Free)]),
    kind(
        0x33,
        0,
        true,
        &[(8, Free), (8, Index), (1, UpTo(1)), (7, Zero)],
    ),
    kind(0x38, 0, false, &[(16, Free), (8, Index), (8, Term)]),
    kind(0x39, 0, true, YES_OR_NO),
    kind(0x3a, 0, false, &[(16, Free)]),
    kind(0x3b, 0, true, YES_OR_NO),
    kind(
        0x3c,
        3,
        false,
        &[
            (8, Free),
            (8, Free),
            (8, Only0),
            (4, Free),
            (1, Proposed),
            (3, Zero),
        ],
    ),
    kind(
        0x3d,
        3,
        true,
        &[(8, Asked), (8, Only0), (1, UpTo(12)), (1, Only0), (6, Zero)],
    ),
    kind(
        0x40,
        2,
        false,
        &[
            (16, Half),
            (8, Index),
            (8, Term),
            (8, Index),
            (16, Half),
            (16, Free),
            (4, Chunk),
            (4, Free),
        ],
    ),
    kind(
        0x41,
        2,
        false,
        &[(16, Free), (8, Index), (4, Free), (4, Zero)],
    ),
    kind(
        0x42,
        2,
        true,
        &[(16, Free), (16, Free), (8, Index), (1, UpTo(6)), (7, Zero)],
    ),
];

/// What may stand in a field that is out of its range, and the code that it closes with.
fn bad(size: usize, rule: Rule) -> Vec<(Vec<u8>, u64)> {
    let word = |value: u64, code: u64| (value.to_le_bytes()[..size.min(8)].to_vec(), code);
    let bits = |code: u64| {
        [(0, 1), (size - 1, 0x80)].map(|(at, bit)| {
            let mut bytes = vec![0; size];
            bytes[at] |= bit;
            (bytes, code)
        })
    };
    match rule {
        Free => vec![],
        Index => vec![word(INDEX + 1, 0x20), word(u64::MAX, 0x20)],
        Term => vec![word(TERM, 0x20), word(u64::MAX, 0x20)],
        Epoch => [0, EPOCH - 1, EPOCH + 1, u64::MAX]
            .map(|value| word(value, 0x25))
            .into(),
        Zero => bits(0x24).into(),
        UpTo(most) => vec![word(u64::from(most) + 1, 0x20), word(u64::MAX, 0x20)],
        Chunk => [0, (256 << 10) + 1, u64::MAX]
            .map(|value| word(value, 0x20))
            .into(),
        Half => bits(0x20).into(),
        Count => vec![word(1, 0x20), word(16_385, 0x21), word(u64::MAX, 0x21)],
        Proposed => [0, 2, 4, u64::MAX].map(|value| word(value, 0x20)).into(),
        Only0 => vec![word(1, 0x20), word(u64::MAX, 0x20)],
        Asked => vec![word(1, 0x25), word(u64::MAX, 0x25)],
    }
}

impl Kind {
    fn len(&self) -> usize {
        self.fields.iter().map(|(size, _)| size).sum()
    }

    fn body(&self) -> Vec<u8> {
        match self.kind {
            0x3a => frame(LogId::new(1, 1), EntryKind::Command, 0, b"first").to_vec(),
            0x3c | 0x41 => b"body".to_vec(),
            _ => Vec::new(),
        }
    }

    /// A good frame, and where its fields begin.
    fn good(&self) -> Vec<u8> {
        let body = self.body();
        let mut out = vec![self.kind, 0];
        out.extend((self.len() as u16).to_le_bytes());
        out.extend((body.len() as u32).to_le_bytes());
        let term: u64 = if self.kind == 0x3d { 0 } else { 3 };
        out.extend(term.to_le_bytes());
        for (size, rule) in self.fields {
            let value: u64 = match (rule, self.kind, size) {
                (Epoch, ..) => EPOCH,
                (Chunk | Proposed, ..) => 1,
                // A reply that says no more: the deadline passed.
                (UpTo(12), ..) => 5,
                _ => 0,
            };
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&value.to_le_bytes());
            out.extend(&bytes[..*size]);
        }
        out.extend(body);
        out
    }

    /// Frames with one field wrong each, what it is, and the code.
    fn cases(&self) -> Vec<(String, Vec<u8>, u64)> {
        let (good, len) = (self.good(), self.len() as u16);
        let mut cases = Vec::new();
        let mut with = |what: String, at: usize, bytes: &[u8], code: u64| {
            let mut frame = good.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            cases.push((format!("{:#x}: {what}", self.kind), frame, code));
        };
        let other_class = if self.class == 0 { 0x10 } else { 0x30 };
        for (kind, code) in [(0x00, 0x22), (0xff, 0x22), (other_class, 0x23)] {
            with(format!("kind {kind:#x}"), 0, &[kind], code);
        }
        for flags in [1, 0x80, 0xff] {
            with(format!("flags {flags}"), 1, &[flags], 0x24);
        }
        for fixed in [0, len - 1, len + 1, u16::MAX] {
            with(format!("fixed_len {fixed}"), 2, &fixed.to_le_bytes(), 0x20);
        }
        let body = match self.kind {
            0x10 => [(1, 0x20), (u32::MAX, 0x21)],
            0x3a | 0x3c => [((3 << 20) + 1, 0x21), (u32::MAX, 0x21)],
            0x41 => [(0, 0x20), ((256 << 10) + 1, 0x21)],
            0x3d => [((3 << 20) + 1, 0x21), (u32::MAX, 0x21)],
            _ => [(1, 0x20), (u32::MAX, 0x20)],
        };
        for (len, code) in body {
            with(format!("body_len {len}"), 4, &len.to_le_bytes(), code);
        }
        for term in [TERM, u64::MAX] {
            with(format!("term {term:#x}"), 8, &term.to_le_bytes(), 0x20);
        }
        let mut at = 16;
        for (size, rule) in self.fields {
            for (bytes, code) in bad(*size, *rule) {
                with(format!("{bytes:x?} at {at}"), at, &bytes, code);
            }
            at += size;
        }
        cases
    }
}

fn name(code: u64) -> &'static str {
    match code {
        0x20 => "malformed",
        0x21 => "too large",
        0x22 => "unknown kind",
        0x23 => "kind not of this class",
        0x24 => "reserved not zero",
        _ => "seq or epoch out of order",
    }
}

fn counted(node: &Node, code: u64) -> u64 {
    let counts = node.transport.refusals();
    let found = counts.iter().find(|(counted, _)| *counted == name(code));
    found.map_or(0, |&(_, count)| count)
}

fn wait_counted(node: &Node, code: u64, count: u64, what: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    while counted(node, code) < count {
        assert!(Instant::now() < end, "{what}: {} is counted", name(code));
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Messages and proposals that reached the node so far.
fn arrived(node: &Node) -> usize {
    let events = node.events.try_iter();
    let arrived = events.filter(|event| {
        matches!(
            event,
            NetworkEvent::Message { .. } | NetworkEvent::Forward { .. }
        )
    });
    arrived.count()
}

/// Whoever sent nonsense so often may have to wait for its turn.
async fn connect_in_time(
    endpoint: &Endpoint,
    tls: &ClientConfig,
    address: SocketAddr,
    to: &str,
) -> Connection {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match connect(endpoint, tls.clone(), address, to).await {
            Ok(connection) => return connection,
            Err(why) => assert!(Instant::now() < end, "not connected: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn code_of(connection: &Connection) -> Option<u64> {
    let closed = tokio::time::timeout(Duration::from_secs(10), connection.closed());
    close_code(&closed.await.expect("closed in time"))
}

#[test]
fn i4_malformed_every_field_of_requests_over_quic() {
    let certs = certs(&[1, 2]);
    let node = Node::start(&certs, 1);
    let (runtime, cluster) = (runtime(), certs.ca.cluster());
    let endpoint = {
        let _inside = runtime.enter();
        client_endpoint()
    };
    let send = |class: u8, frame: &[u8], closes: bool| {
        runtime.block_on(async {
            let pair = &certs.nodes[1].peer;
            let tls = client_tls(&certs.ca.peer_ca().cert, Some(pair));
            let to = peer_name(cluster, 1);
            let connection = connect_in_time(&endpoint, &tls, node.address, &to).await;
            let hello = RawHello {
                class,
                ..RawHello::new(cluster, 2, 1)
            };
            let (mut send, _recv, _) = greet(&connection, &hello).await.expect("let in");
            let _ = send.write_all(frame).await;
            if closes {
                return code_of(&connection).await;
            }
            let arrives = || node.events.try_recv().is_ok();
            let end = Instant::now() + Duration::from_secs(10);
            while !arrives() {
                assert!(Instant::now() < end, "a good frame arrives");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            None
        })
    };
    let mut cases = 0;
    for kind in KINDS.iter().filter(|kind| !kind.reply) {
        send(kind.class, &kind.good(), false);
        for (what, frame, code) in kind.cases() {
            let before = counted(&node, code);
            assert_eq!(send(kind.class, &frame, true), Some(code), "{what}");
            wait_counted(&node, code, before + 1, &what);
            assert_eq!(arrived(&node), 0, "{what}");
            cases += 1;
        }
    }
    assert!(cases > 150, "{cases}");
}

/// What the hand-made acceptor answers next: on a connection of that class, these bytes.
type Next = Arc<Mutex<Option<(u8, Vec<u8>)>>>;

/// A peer that lets everybody in, and answers wrong.
async fn answer_wrong(
    endpoint: Endpoint,
    hello: RawHello,
    next: Next,
    codes: std::sync::mpsc::Sender<Option<u64>>,
) {
    while let Some(incoming) = endpoint.accept().await {
        let (hello, next, codes) = (hello.clone(), Arc::clone(&next), codes.clone());
        tokio::spawn(async move {
            let connection = incoming.await.ok()?;
            let (mut send, mut recv) = connection.accept_bi().await.ok()?;
            let mut asked = [0; 128];
            recv.read_exact(&mut asked).await.ok()?;
            let len = usize::from(u16::from_le_bytes([asked[8], asked[9]]));
            recv.read_exact(&mut vec![0; len - 128]).await.ok()?;
            let answer = RawHello {
                class: asked[14],
                epoch: u64::from_le_bytes(asked[88..96].try_into().ok()?),
                ..hello
            };
            send.write_all(&answer.bytes()).await.ok()?;
            let mine = {
                let mut next = next.lock().expect("lock");
                next.take_if(|(class, _)| *class == asked[14])
            };
            if let Some((class, mut frame)) = mine {
                if class == 3 {
                    // An answer comes after a question.
                    recv.read_chunk(usize::MAX, true).await.ok()?;
                }
                name_epoch(&mut frame, answer.epoch);
                send.write_all(&frame).await.ok()?;
                let _ = codes.send(code_of(&connection).await);
            }
            connection.closed().await;
            Some(())
        });
    }
}

/// Epochs are the dialer's: those of the case are counted from its.
fn name_epoch(frame: &mut [u8], epoch: u64) {
    if matches!(frame[0], 0x11 | 0x31) && frame[2..4] == [frame[2], 0] && frame.len() >= 40 {
        let field = &mut frame[32..40];
        let named = u64::from_le_bytes(field.try_into().expect("eight"));
        let named = epoch.wrapping_add(named.wrapping_sub(EPOCH));
        field.copy_from_slice(&named.to_le_bytes());
    }
}

fn asks(certs: &GeneratedCerts, peer: &PeerAddress) -> Node {
    let mut node = Node::with(options(certs, 1));
    node.transport.set_peers(std::slice::from_ref(peer));
    node.transport.want_bulk(2, true);
    let forward = Forward {
        term: 1,
        kind: EntryKind::Command,
        payload: b"x".to_vec().into(),
        patience: Duration::from_secs(20),
        line: None,
        waits: false,
        reply: ForwardReply::new(drop),
    };
    node.transport.forward(2, forward);
    node
}

#[test]
fn i4_malformed_every_field_of_replies_over_quic() {
    let certs = certs(&[1, 2]);
    let runtime = runtime();
    let endpoint = {
        let _inside = runtime.enter();
        server_endpoint(server_tls(&certs.ca.peer_ca().cert, &certs.nodes[1].peer))
    };
    let peer = PeerAddress {
        node: 2,
        incarnation: None,
        address: endpoint.local_addr().expect("bound").to_string(),
    };
    let next = Next::default();
    let (codes, told) = channel();
    let hello = RawHello::new(certs.ca.cluster(), 2, 1);
    runtime.spawn(answer_wrong(endpoint, hello, Arc::clone(&next), codes));
    let mut cases = 0;
    for kind in KINDS.iter().filter(|kind| kind.reply) {
        for (what, frame, code) in kind.cases() {
            *next.lock().expect("lock") = Some((kind.class, frame));
            let node = asks(&certs, &peer);
            let closed = told.recv_timeout(Duration::from_secs(10));
            assert_eq!(closed, Ok(Some(code)), "{what}");
            wait_counted(&node, code, 1, &what);
            assert_eq!(arrived(&node), 0, "{what}");
            cases += 1;
        }
    }
    assert!(cases > 130, "{cases}");
}

//! Peers with good certificates that take up room: what they get is bounded, measured as the memory of
//! this process, and a healthy link goes on meanwhile.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

mod quic_common;

use std::alloc::System;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::core::Class;
use conveyor_raft::network::{
    Forward, ForwardOutcome, ForwardReply, Forwarded, NetworkEvent, PeerAddress, RaftNetwork,
};
use conveyor_raft::quic::certs::GeneratedCerts;
use conveyor_raft::types::EntryKind;
use quic_common::raw::{
    RawHello, client_endpoint, client_tls, close_code, greet, peer_name, runtime,
};
use quic_common::{Node, WAIT, certs};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, RecvStream, SendStream};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const MIB: usize = 1 << 20;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated now, touched or not.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// Memory is that of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident memory, bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = statm.split(' ').nth(1).expect("the second figure");
    pages.parse::<usize>().expect("a number") * 4096
}

/// Nodes 1 and 3 that are well, and node 2 made by hand.
struct Bed {
    certs: GeneratedCerts,
    one: Node,
    three: Node,
    runtime: Runtime,
}

impl Bed {
    fn new() -> Self {
        let certs = certs(&[1, 2, 3]);
        let mut nodes = quic_common::mesh(&certs, &[1, 3]);
        let three = nodes.pop().expect("three");
        let one = nodes.pop().expect("one");
        three.up(1, Class::Control);
        let runtime = runtime();
        Self {
            certs,
            one,
            three,
            runtime,
        }
    }

    /// Connects to node 1 as node 2.
    fn peer(&self, class: u8) -> (Connection, SendStream, RecvStream) {
        let pair = &self.certs.nodes[1].peer;
        let cluster = self.certs.ca.cluster();
        self.runtime.block_on(async {
            let endpoint = client_endpoint();
            let tls = client_tls(&self.certs.ca.peer_ca().cert, Some(pair));
            let crypto = QuicClientConfig::try_from(tls).expect("suite");
            let mut config = quinn::ClientConfig::new(Arc::new(crypto));
            // It lives, whatever it does not do.
            let mut transport = quinn::TransportConfig::default();
            transport.keep_alive_interval(Some(Duration::from_millis(200)));
            config.transport_config(Arc::new(transport));
            let to = peer_name(cluster, 1);
            let connecting = endpoint.connect_with(config, self.one.address, &to);
            let connection = connecting.expect("dialled").await.expect("connected");
            let hello = RawHello {
                class,
                ..RawHello::new(cluster, 2, 1)
            };
            let (send, recv, _) = greet(&connection, &hello).await.expect("let in");
            (connection, send, recv)
        })
    }

    /// Dialers that begin one handshake after the other at node 1 and keep what they get so long; and how
    /// many were begun.
    fn flood_of_handshakes(&self, keep: Duration) -> (Vec<JoinHandle<()>>, Arc<AtomicU64>) {
        let (begun, to) = (Arc::new(AtomicU64::new(0)), self.one.address);
        let name = peer_name(self.certs.ca.cluster(), 1);
        let good = &self.certs.nodes[1].peer;
        // One for all: each has receive buffers of megabytes.
        let endpoint = self.runtime.block_on(async { client_endpoint() });
        let floods = (0..96)
            .map(|nth| {
                let pair = Some(good).filter(|_| nth % 3 > 0);
                let tls = client_tls(&self.certs.ca.peer_ca().cert, pair);
                let crypto = QuicClientConfig::try_from(tls).expect("suite");
                let mut config = quinn::ClientConfig::new(Arc::new(crypto));
                // A dialer that was refused remembers for three of its time-outs, so that is to be short.
                let mut transport = quinn::TransportConfig::default();
                transport.initial_rtt(Duration::from_millis(5));
                config.transport_config(Arc::new(transport));
                let (begun, name, endpoint) = (Arc::clone(&begun), name.clone(), endpoint.clone());
                self.runtime.spawn(async move {
                    loop {
                        begun.fetch_add(1, Ordering::Relaxed);
                        let connecting = endpoint.connect_with(config.clone(), to, &name);
                        let connecting = timeout(WAIT, connecting.expect("dialled"));
                        // Kept for a while, so that many are there at once.
                        if let Ok(Ok(connection)) = connecting.await {
                            let _ = timeout(keep, connection.closed()).await;
                        }
                    }
                })
            })
            .collect();
        (floods, begun)
    }

    /// Answers proposals at node 1 with `len` bytes, and has node 3 ask it again and again, until `end`
    /// says so. The most memory above that at the beginning, and how long the longest answer took.
    fn meanwhile(&mut self, len: usize, mut end: impl FnMut() -> bool) -> (usize, Duration) {
        let before = resident();
        let (mut most, mut longest, mut answered) = (0, Duration::ZERO, 0);
        let response = Bytes::from(vec![7; len]);
        let mut asked: Option<(Instant, Receiver<Forwarded>)> = None;
        let begun = Instant::now();
        while !end() || answered < 20 {
            assert!(begun.elapsed() < 3 * WAIT, "it ends; {answered} answers");
            let (since, told) = asked.get_or_insert_with(|| {
                let (told, answer) = channel();
                let forward = Forward {
                    term: 1,
                    kind: EntryKind::Command,
                    payload: Bytes::from_static(b"well"),
                    patience: WAIT,
                    line: None,
                    waits: false,
                    reply: ForwardReply::new(move |answer| drop(told.send(answer))),
                };
                self.three.transport.forward(1, forward);
                (Instant::now(), answer)
            });
            if let Ok(answer) = told.try_recv() {
                let applied = matches!(answer, Ok(ForwardOutcome::Applied { .. }));
                assert!(applied, "{answer:?}");
                longest = longest.max(since.elapsed());
                answered += 1;
                asked = None;
            }
            for event in self.one.events.try_iter() {
                if let NetworkEvent::Forward { from, forward } = event {
                    let response = match from.node {
                        2 => Bytes::from(response.to_vec()),
                        _ => Bytes::new(),
                    };
                    forward.reply.answer(Ok(ForwardOutcome::Applied {
                        index: 1,
                        term: 1,
                        response,
                    }));
                }
            }
            most = most.max(resident().saturating_sub(before));
            std::thread::sleep(Duration::from_millis(1));
        }
        (most, longest)
    }
}

fn request(id: u64, payload: &[u8], body_len: u32) -> Vec<u8> {
    let mut out = vec![0x3c, 0, 32, 0];
    out.extend(body_len.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(id.to_le_bytes());
    // In no line.
    out.extend([0; 16]);
    out.extend(60_000u32.to_le_bytes());
    out.extend([1, 0, 0, 0]);
    out.extend(payload);
    out
}

#[test]
fn i6_flood_slow_reader() {
    let _alone = ALONE.lock();
    let mut bed = Bed::new();
    let (connection, mut send, _recv) = bed.peer(3);
    // Asks without a pause and reads no answer.
    let flood = bed.runtime.spawn(async move {
        for id in 0.. {
            if send
                .write_all(&request(id, &[1; 1000], 1000))
                .await
                .is_err()
            {
                break;
            }
        }
        connection.closed().await
    });
    let (most, longest) = bed.meanwhile(64 << 10, || flood.is_finished());
    let closed = bed.runtime.block_on(flood).expect("joined");
    assert_eq!(close_code(&closed), Some(0x00), "given up: {closed}");
    println!(
        "slow reader: {} KiB more, longest answer {longest:?}",
        most >> 10
    );
    assert!(most < 64 * MIB, "{most}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn i6_flood_huge_length() {
    let _alone = ALONE.lock();
    let mut bed = Bed::new();
    let announced = (2 * MIB + (64 << 10)) as u32;
    // A link of node 1 takes one connection of a peer, so the announcement is looked at one by one.
    for _ in 0..3 {
        let (_connection, mut send, _recv) = bed.peer(3);
        let before = allocated();
        bed.runtime
            .block_on(send.write_all(&request(0, &[], announced)))
            .expect("taken");
        let end = Instant::now() + Duration::from_millis(200);
        let mut held = 0;
        while Instant::now() < end {
            held = held.max(allocated().saturating_sub(before));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(held < MIB, "reserved for what is announced: {held}");
    }
    let (_connection, mut send, _recv) = bed.peer(3);
    // All but the last byte of it.
    let almost = request(0, &vec![1; announced as usize - 1], announced);
    bed.runtime
        .block_on(send.write_all(&almost))
        .expect("taken");
    let end = Instant::now() + Duration::from_secs(2);
    let (most, longest) = bed.meanwhile(0, || Instant::now() > end);
    println!(
        "huge length: {} KiB more, longest answer {longest:?}",
        most >> 10
    );
    assert!(most < 16 * MIB, "{most}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn i6_flood_trickle() {
    let _alone = ALONE.lock();
    let mut bed = Bed::new();
    let mut floods = Vec::new();
    for class in [0, 1, 2, 3] {
        let (_connection, mut send, recv) = bed.peer(class);
        // A byte at a time, for as long as it is let.
        floods.push(bed.runtime.spawn(async move {
            let first = [0x30, 0x10, 0x40, 0x3c][usize::from(class)];
            for nth in 0..1500 {
                let byte = if nth == 0 { first } else { 0 };
                if send.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(recv);
        }));
    }
    let (most, longest) = bed.meanwhile(0, || floods.iter().all(|flood| flood.is_finished()));
    println!(
        "trickle: {} KiB more, longest answer {longest:?}",
        most >> 10
    );
    assert!(most < 16 * MIB, "{most}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // Let in again, whatever was said before.
    bed.one.transport.set_peers(&[PeerAddress {
        node: 3,
        incarnation: None,
        address: bed.three.address.to_string(),
    }]);
    let (_connection, _send, _recv) = bed.peer(3);
}

/// Who begins one connection after the other and says nothing on any: with a good certificate, so that each
/// handshake is carried through, and as a stranger. What all of them may have at once is bounded, the dialers'
/// own share, which is in this process too, included.
#[test]
fn i6_flood_handshakes() {
    let _alone = ALONE.lock();
    let mut bed = Bed::new();
    // The healthy link is there before.
    bed.meanwhile(0, || true);
    let (floods, begun) = bed.flood_of_handshakes(Duration::from_millis(200));
    let end = Instant::now() + Duration::from_secs(3);
    let (most, longest) = bed.meanwhile(0, || Instant::now() > end);
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    let begun = begun.load(Ordering::Relaxed);
    let refusals = bed.one.transport.refusals();
    println!(
        "handshakes: {begun} begun, {} KiB more, longest answer {longest:?}, {refusals:?}",
        most >> 10
    );
    assert!(begun > 200, "{begun}");
    let full = refusals.iter().any(|(why, _)| *why == "overloaded");
    assert!(full, "more than may be under way: {refusals:?}");
    assert!(most < 48 * MIB, "{most}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

/// There is room for members: one that was restarted at its address is let in while the flood goes on.
#[test]
fn i6_a_member_that_was_restarted_gets_in_during_a_flood_of_handshakes() {
    let _alone = ALONE.lock();
    let mut bed = Bed::new();
    bed.meanwhile(0, || true);
    // Each place is taken until the node gives up on it, and then by the next of many.
    let (floods, _) = bed.flood_of_handshakes(WAIT);
    let refused = |bed: &Bed| {
        let refusals = bed.one.transport.refusals();
        let full = refusals.iter().find(|(why, _)| *why == "overloaded");
        full.map_or(0, |(_, count)| *count)
    };
    let begun = Instant::now();
    while refused(&bed) < 100 {
        assert!(begun.elapsed() < 3 * WAIT, "there is room for all of them");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (one, address) = (bed.one.peer(), bed.three.address);
    let mut options = quic_common::options(&bed.certs, 3);
    options.listen = address;
    let certs = quic_common::options(&bed.certs, 2);
    drop(std::mem::replace(&mut bed.three, Node::with(certs)));
    let begun = Instant::now();
    let mut again = Node::with(options);
    again.transport.set_peers(&[one]);
    again.up(1, Class::Control);
    let took = begun.elapsed();
    let before = refused(&bed);
    let end = Instant::now() + WAIT;
    while refused(&bed) == before {
        assert!(Instant::now() < end, "the flood is over");
        std::thread::sleep(Duration::from_millis(5));
    }
    floods.iter().for_each(JoinHandle::abort);
    println!("let in after {took:?}, {before} refused");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn b5_a_number_that_comes_again_is_out_of_order() {
    let _alone = ALONE.lock();
    let bed = Bed::new();
    for (numbers, closes) in [(&[7, 8][..], false), (&[7, 7], true), (&[7, 6], true)] {
        let (connection, mut send, _recv) = bed.peer(3);
        let bytes: Vec<_> = numbers
            .iter()
            .flat_map(|&id| request(id, b"x", 1))
            .collect();
        bed.runtime.block_on(async {
            send.write_all(&bytes).await.expect("sent");
            let wait = if closes { WAIT } else { WAIT / 20 };
            let closed = tokio::time::timeout(wait, connection.closed()).await;
            let code = closed.ok().map(|closed| close_code(&closed));
            assert_eq!(code, closes.then_some(Some(0x25)), "{numbers:?}");
        });
        let arrived = bed.one.events.try_iter();
        let arrived = arrived.filter(|event| matches!(event, NetworkEvent::Forward { .. }));
        assert_eq!(arrived.count(), if closes { 1 } else { 2 });
    }
}

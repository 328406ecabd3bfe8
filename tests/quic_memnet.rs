//! Transports over a network in memory that loses, delays, reorders and repeats.
#![allow(missing_docs)]

mod quic_common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::config::limits::MAX_SNAPSHOT_CHUNK;
use conveyor_raft::core::{
    Class, Heartbeat, HeartbeatReply, Message, ReplicaState, SnapshotAck, SnapshotChunk,
    SnapshotStatus,
};
use conveyor_raft::network::{LinkClass, NetworkEvent, RaftNetwork, SendOutcome};
use conveyor_raft::types::LogId;
use quic_common::memnet::{Link, MemNet};
use quic_common::{Node, WAIT, ack, append, certs, options, run_of};

fn place(id: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id as u8], 7000))
}

/// Nodes 1 and 2 that dial each other over `net`.
fn pair(net: &MemNet, mtu: u16) -> (Node, Node) {
    let certs = certs(&[1, 2]);
    let mut nodes = [1, 2].map(|id| {
        let mut options = options(&certs, id);
        (options.listen, options.mtu) = (place(id), Some(mtu));
        options.idle_timeout = Duration::from_secs(3);
        Node::over(options, net.socket(place(id)))
    });
    let peers = nodes.each_ref().map(Node::peer);
    for node in &mut nodes {
        node.transport.set_peers(&peers);
    }
    nodes.into()
}

/// Sends `count` appends in the epochs that there are, and looks at what arrives: per epoch each at most
/// once, in order and unaltered. What a lost epoch took with it is not sent again.
/// Returns how many datagrams were lost.
fn appends_arrive_in_order(seed: u64) -> u64 {
    let link = Link {
        lost: 30 + seed % 70,
        twice: 50,
        delay: Duration::from_millis(1),
        jitter: Duration::from_millis(4),
        ..Link::default()
    };
    let net = MemNet::new(seed, link);
    let (mut one, two) = pair(&net, 1452);
    let epoch = one.up(2, Class::Data);
    let count = 60;
    for seq in 1..=count {
        let prev = LogId::new(1, seq);
        let run = run_of(prev, 3, 500 + (seq as usize * 37) % 4000);
        one.send(2, &append(epoch, seq, prev, 3), &[run]);
        if seq == count / 2 {
            one.transport.reopen(2);
            let next = one.up(2, Class::Data);
            assert_ne!(next, epoch);
            let run = run_of(LogId::new(1, 1), 3, 100);
            one.send(2, &append(next, 1, LogId::new(1, 1), 3), &[run]);
            break;
        }
    }
    let mut last = (0, 0);
    let end = two.wait(|event| {
        let NetworkEvent::Message {
            message: Message::Append(append),
            entries,
            ..
        } = event
        else {
            return None;
        };
        if append.epoch != last.0 {
            last = (append.epoch, 0);
        }
        assert_eq!(append.seq, last.1 + 1, "seed {seed}: after {last:?}");
        last.1 = append.seq;
        let size = 500 + (append.seq as usize * 37) % 4000;
        let size = if append.epoch == epoch { size } else { 100 };
        let expected = run_of(append.prev, 3, size);
        assert_eq!(entries.chunks().concat(), expected, "seed {seed}");
        (append.epoch != epoch).then_some(append.seq)
    });
    assert_eq!(end, 1);
    net.lost()
}

/// Seeds: `CONVEYOR_MEMNET_SEEDS`, else a few dozen.
fn seeds() -> std::ops::Range<u64> {
    let budget = std::env::var("CONVEYOR_MEMNET_SEEDS").ok();
    0..budget.map_or(24, |budget| budget.parse().expect("a number of seeds"))
}

#[test]
fn memnet_in_order_at_most_once_per_epoch() {
    // A single seed may lose none of its few dozen datagrams.
    let lost: u64 = seeds().map(appends_arrive_in_order).sum();
    assert!(lost > 0, "no datagram was lost in {:?}", seeds());
}

fn beat(epoch: u64, seq: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        term: 1,
        epoch,
        seq,
        commit: 0,
        sent_at: seq,
        read_id: 0,
        digest_index: 0,
        digest: 0,
    })
}

fn beat_reply(to: &Heartbeat, from: &Node) -> Message {
    Message::HeartbeatReply(HeartbeatReply {
        term: 1,
        incarnation: from.incarnation,
        epoch: to.epoch,
        seq: to.seq,
        sent_at: to.sent_at,
        read_id: 0,
        applied: 0,
        digest_index: 0,
        digest: 0,
        election_timeout_min_ms: 150,
        state: ReplicaState::Member,
    })
}

/// A chunk that lies at `offset`, and its bytes.
fn chunk(offset: u64, len: usize) -> (Message, Bytes) {
    let bytes = Bytes::from(vec![offset as u8; len]);
    let message = SnapshotChunk {
        term: 1,
        id: 9,
        offset,
        crc: crc32fast::hash(&bytes),
    };
    (Message::SnapshotChunk(message), bytes)
}

/// What one direction of a class brought: numbers, in the order in which they came.
#[derive(Default)]
struct Came {
    appends: Vec<u64>,
    beats: Vec<u64>,
    chunks: Vec<u64>,
}

impl Came {
    fn take(&mut self, event: NetworkEvent) {
        let NetworkEvent::Message { message, .. } = event else {
            return;
        };
        match message {
            Message::Append(append) => self.appends.push(append.seq),
            Message::AppendAck(ack) => self.appends.push(ack.seq),
            Message::Heartbeat(beat) => self.beats.push(beat.seq),
            Message::HeartbeatReply(reply) => self.beats.push(reply.seq),
            Message::SnapshotChunk(chunk) => self.chunks.push(chunk.offset),
            Message::SnapshotAck(ack) => self.chunks.push(ack.next_offset),
            other => panic!("nobody sent {other:?}"),
        }
    }

    fn all(&self, count: u64) -> bool {
        let last = |came: &[u64]| came.last().copied() == Some(count);
        last(&self.appends) && last(&self.beats) && last(&self.chunks)
    }

    /// Appends and chunks all of them once and in order; heartbeats may have given way to newer ones.
    fn check(&self, seed: u64, count: u64) {
        let every: Vec<u64> = (1..=count).collect();
        assert_eq!(self.appends, every, "seed {seed}");
        assert_eq!(self.chunks, every, "seed {seed}");
        let rises = |two: &[u64]| two[0] < two[1];
        assert!(self.beats.windows(2).all(rises), "seed {seed}");
    }
}

/// Every class at once, and answers to all of it on the way back, while datagrams are lost, repeated and
/// overtake each other. Nothing ends an epoch, so all must arrive.
#[test]
fn memnet_every_class_in_order_once_both_ways() {
    for seed in seeds().step_by(3) {
        let link = Link {
            lost: 50,
            twice: 200,
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(4),
            ..Link::default()
        };
        let net = MemNet::new(seed, link);
        let (mut one, mut two) = pair(&net, 1452);
        let (control, data) = one.both_up(2);
        one.transport.want_bulk(2, true);
        one.up(2, Class::Bulk);
        let count = 40;
        for number in 1..=count {
            let prev = LogId::new(1, number);
            let size = 100 + (number as usize * 97) % 3000;
            one.send(2, &append(data, number, prev, 2), &[run_of(prev, 2, size)]);
            one.send(2, &beat(control, number), &[]);
            let (message, bytes) = chunk(number, size);
            one.send(2, &message, &[bytes]);
        }
        let mut asked = Came::default();
        let me = two.incarnation;
        let mut replies = Vec::new();
        two.wait(|event| {
            if let NetworkEvent::Message { message, .. } = &event {
                replies.push(match message {
                    Message::Append(append) => ack(append, me),
                    Message::Heartbeat(beat) => beat_reply(beat, &two),
                    Message::SnapshotChunk(chunk) => Message::SnapshotAck(SnapshotAck {
                        term: 1,
                        incarnation: me,
                        id: chunk.id,
                        next_offset: chunk.offset,
                        status: SnapshotStatus::Receiving,
                    }),
                    other => panic!("nobody sent {other:?}"),
                });
            }
            asked.take(event);
            asked.all(count).then_some(())
        });
        asked.check(seed, count);
        let beats = asked.beats.clone();
        replies.iter().for_each(|reply| two.send(1, reply, &[]));
        let mut answered = Came::default();
        one.wait(|event| {
            answered.take(event);
            answered.all(count).then_some(())
        });
        assert_eq!(answered.beats, beats, "seed {seed}: every reply");
        answered.check(seed, count);
    }
}

/// Sends pings on the control class, each after the answer to the one before, and gives their times.
/// Bulk chunks are put behind each other as fast as they are taken. What comes on the bulk class goes to
/// `bulk`.
fn pings_under_bulk(
    (one, two): (&mut Node, &mut Node),
    (epoch, seqs): (u64, std::ops::Range<u64>),
    offset: &mut u64,
    mut bulk: impl FnMut(NetworkEvent),
) -> Vec<Duration> {
    let mut times = Vec::new();
    for seq in seqs {
        loop {
            let (message, bytes) = chunk(*offset, MAX_SNAPSHOT_CHUNK);
            if one.transport.send(2, &message, &[bytes]) != SendOutcome::Sent {
                break;
            }
            *offset += 1;
        }
        let sent = Instant::now();
        one.send(2, &beat(epoch, seq), &[]);
        let ping = two.wait(|event| match event {
            NetworkEvent::Message {
                message: Message::Heartbeat(ping),
                ..
            } => (ping.seq == seq).then_some(ping),
            event => {
                bulk(event);
                None
            }
        });
        let reply = beat_reply(&ping, two);
        two.send(1, &reply, &[]);
        one.wait(|event| match event {
            NetworkEvent::Message {
                message: Message::HeartbeatReply(reply),
                ..
            } => (reply.seq == seq).then_some(()),
            _ => None,
        });
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    times
}

fn is_chunk(event: &NetworkEvent) -> bool {
    matches!(
        event,
        NetworkEvent::Message {
            message: Message::SnapshotChunk(_),
            ..
        }
    )
}

/// A receiver of a snapshot that takes nothing more fills its own connection; one that takes all there is
/// costs control a bounded time. A healthy machine needs a hundredth of the bound.
#[test]
fn memnet_a_stopped_bulk_reader_never_holds_up_control() {
    const BOUND: Duration = Duration::from_millis(250);
    let net = MemNet::new(1, Link::default());
    let (mut one, mut two) = pair(&net, 1452);
    let epoch = one.up(2, Class::Control);
    one.transport.want_bulk(2, true);
    one.up(2, Class::Bulk);
    let (mut offset, mut taken) = (0, 0_u64);
    let nodes = (&mut one, &mut two);
    let times = pings_under_bulk(nodes, (epoch, 0..500), &mut offset, |event| {
        taken += u64::from(is_chunk(&event));
    });
    println!(
        "under {taken} chunks: p50 {:?}, p99 {:?}",
        times[250], times[495]
    );
    assert!(times[495] < BOUND, "p99 {:?}", times[495]);
    assert!(taken > 64, "the bulk class was busy: {taken} chunks");

    // From now on what comes is kept, and with it the room that it takes.
    let mut kept = Vec::new();
    let end = Instant::now() + WAIT;
    let mut seq = 500;
    loop {
        let before = kept.len();
        let nodes = (&mut one, &mut two);
        pings_under_bulk(nodes, (epoch, seq..seq + 50), &mut offset, |event| {
            kept.extend(Some(event).filter(is_chunk));
        });
        seq += 50;
        if kept.len() == before && before > 0 {
            break;
        }
        assert!(Instant::now() < end, "{} chunks were kept", kept.len());
    }
    let held = kept.len();
    let nodes = (&mut one, &mut two);
    let times = pings_under_bulk(nodes, (epoch, seq..seq + 500), &mut offset, |event| {
        kept.extend(Some(event).filter(is_chunk));
    });
    println!(
        "with {held} chunks unread: p50 {:?}, p99 {:?}",
        times[250], times[495]
    );
    assert!(times[495] < BOUND, "p99 {:?}", times[495]);
    assert!(
        held <= 32,
        "what is not dealt with is bounded: {held} chunks"
    );

    // And it goes on once there is room, on this connection or the next.
    drop(kept);
    let end = Instant::now() + WAIT;
    let tick = Duration::from_millis(5);
    while two
        .wait_for(tick, |event| is_chunk(&event).then_some(()))
        .is_none()
    {
        let (message, bytes) = chunk(offset, MAX_SNAPSHOT_CHUNK);
        offset += u64::from(one.transport.send(2, &message, &[bytes]) == SendOutcome::Sent);
        assert!(Instant::now() < end, "no chunk came");
    }
}

fn data_mtu(node: &Node) -> u16 {
    let stats = node.transport.stats();
    let mut data = stats
        .iter()
        .filter(|link| link.class == LinkClass::Data && link.dialled);
    data.next().map_or(0, |link| link.mtu)
}

/// A path that stops to pass large datagrams: the connection goes on with small ones.
#[test]
fn memnet_mtu_black_hole_recovers() {
    let net = MemNet::new(1, Link::default());
    let (mut one, two) = pair(&net, 8900);
    let epoch = one.up(2, Class::Data);
    let mut seq = 0;
    let mut pass = |one: &mut Node| {
        seq += 1;
        let prev = LogId::new(1, seq);
        one.send(2, &append(epoch, seq, prev, 8), &[run_of(prev, 8, 30_000)]);
        let got = two.wait(|event| match event {
            NetworkEvent::Message {
                message: Message::Append(append),
                ..
            } => Some((append.epoch, append.seq)),
            _ => None,
        });
        assert_eq!(got, (epoch, seq));
    };
    let end = Instant::now() + Duration::from_secs(10);
    while data_mtu(&one) < 8000 {
        pass(&mut one);
        assert!(Instant::now() < end, "the MTU is {}", data_mtu(&one));
    }
    net.set_all(Link {
        mtu: 1300,
        ..Link::default()
    });
    (0..20).for_each(|_| pass(&mut one));
    assert!(data_mtu(&one) <= 1300, "the MTU is {}", data_mtu(&one));
}

/// A link cut one way is dead both ways within the idle timeout, and comes back by itself.
#[test]
fn memnet_one_way_cut_is_noticed_and_mended() {
    let net = MemNet::new(1, Link::default());
    let (one, two) = pair(&net, 1452);
    one.both_up(2);
    two.both_up(1);
    let cut = Link {
        cut: true,
        ..Link::default()
    };
    let start = Instant::now();
    net.set(place(1), place(2), cut);
    one.down(2, Class::Data);
    two.down(1, Class::Data);
    // Once after the last that was heard, and a busy machine may notice late.
    assert!(start.elapsed() < Duration::from_secs(9));
    net.set(place(1), place(2), Link::default());
    one.both_up(2);
    two.both_up(1);
}

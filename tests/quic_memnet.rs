//! Transports over a network in memory that loses, delays, reorders and repeats.
#![allow(missing_docs)]

mod quic_common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use conveyor_raft::core::{Class, Message};
use conveyor_raft::network::{LinkClass, NetworkEvent, RaftNetwork};
use conveyor_raft::types::LogId;
use quic_common::memnet::{Link, MemNet};
use quic_common::{Node, append, certs, options, run_of};

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
        assert!(
            append.seq > last.1,
            "seed {seed}: {} after {last:?}",
            append.seq
        );
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
#[test]
fn memnet_in_order_at_most_once_per_epoch() {
    let budget = std::env::var("CONVEYOR_MEMNET_SEEDS").ok();
    let seeds = budget.map_or(24, |budget| budget.parse().expect("a number of seeds"));
    // A single seed may lose none of its few dozen datagrams.
    let lost: u64 = (0..seeds).map(appends_arrive_in_order).sum();
    assert!(lost > 0, "no datagram was lost over {seeds} seeds");
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
    assert!(start.elapsed() < Duration::from_secs(6));
    net.set(place(1), place(2), Link::default());
    one.both_up(2);
    two.both_up(1);
}

//! Two transports on loopback: classes, epochs, order, bounds.
#![allow(missing_docs)]

mod quic_common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::config::limits::{MAX_ENTRY, MAX_INFLIGHT, MAX_SNAPSHOT_CHUNK};
use conveyor_raft::core::{
    Class, Heartbeat, Message, SnapshotAck, SnapshotChunk, SnapshotStatus, VoteRequest,
};
use conveyor_raft::network::{
    LinkClass, LocalFacts, NetworkEvent, PeerAddress, RaftNetwork, SendOutcome,
};
use conveyor_raft::types::{Incarnation, LogId};
use quic_common::{Node, ack, append, certs, mesh, options, run_of};

fn pair() -> (Node, Node) {
    let mut nodes = mesh(&certs(&[1, 2]), &[1, 2]);
    let two = nodes.pop().expect("two");
    (nodes.pop().expect("one"), two)
}

fn next_message(node: &Node) -> (u64, Message) {
    node.wait(|event| match event {
        NetworkEvent::Message { from, message, .. } => Some((from.node, message)),
        _ => None,
    })
}

#[test]
fn appends_and_acks_travel_on_the_data_class() {
    let (mut one, mut two) = pair();
    let epoch = one.up(2, Class::Data);
    let prev = LogId::new(1, 7);
    let run = run_of(prev, 3, 100);
    let sent = append(epoch, 1, prev, 3);
    one.send(2, &sent, std::slice::from_ref(&run));
    let request = two.wait(|event| match event {
        NetworkEvent::Message {
            from,
            message: Message::Append(request),
            entries,
            ..
        } => {
            assert_eq!(from.node, 1);
            assert_eq!(from.incarnation, one.incarnation);
            assert_eq!(entries.count(), 3);
            assert_eq!(entries.chunks().concat(), run);
            Some(request)
        }
        _ => None,
    });
    assert_eq!(Message::Append(request), sent);
    let reply = ack(&request, two.incarnation);
    two.send(1, &reply, &[]);
    assert_eq!(next_message(&one), (2, reply));
}

#[test]
fn the_bulk_class_is_there_only_while_a_snapshot_goes_to_that_peer() {
    let (mut one, mut two) = pair();
    one.both_up(2);
    let bytes = Bytes::from(vec![7; MAX_SNAPSHOT_CHUNK]);
    let chunk = Message::SnapshotChunk(SnapshotChunk {
        term: 3,
        id: 9,
        offset: 11,
        crc: crc32fast::hash(&bytes),
    });
    let early = one.transport.send(2, &chunk, std::slice::from_ref(&bytes));
    assert_eq!(early, SendOutcome::Down);
    one.transport.want_bulk(2, true);
    one.up(2, Class::Bulk);
    one.send(2, &chunk, std::slice::from_ref(&bytes));
    two.wait(|event| match event {
        NetworkEvent::Message {
            message,
            chunk: beside,
            ..
        } => {
            assert_eq!((message, beside.concat()), (chunk, bytes.to_vec()));
            Some(())
        }
        _ => None,
    });
    let reply = Message::SnapshotAck(SnapshotAck {
        term: 3,
        incarnation: two.incarnation,
        id: 9,
        next_offset: 11 + MAX_SNAPSHOT_CHUNK as u64,
        status: SnapshotStatus::Receiving,
    });
    two.send(1, &reply, &[]);
    assert_eq!(next_message(&one), (2, reply));
    one.transport.want_bulk(2, false);
    one.down(2, Class::Bulk);
    let late = one.transport.send(2, &chunk, std::slice::from_ref(&bytes));
    assert_eq!(late, SendOutcome::Down);
}

#[test]
fn votes_and_heartbeats_travel_on_the_control_class() {
    let (mut one, two) = pair();
    let epoch = one.up(2, Class::Control);
    let vote = Message::Vote(VoteRequest {
        term: 3,
        incarnation: one.incarnation,
        round: 1,
        last: LogId::default(),
        transfer: false,
    });
    one.send(2, &vote, &[]);
    assert_eq!(next_message(&two), (1, vote));
    let beat = |seq| {
        Message::Heartbeat(Heartbeat {
            term: 3,
            epoch,
            seq,
            commit: 0,
            sent_at: 0,
            read_id: 0,
            digest_index: 0,
            digest: 0,
        })
    };
    for seq in 0..1000 {
        assert_eq!(one.transport.send(2, &beat(seq), &[]), SendOutcome::Sent);
    }
    let mut last = None;
    while last != Some(999) {
        let Message::Heartbeat(beat) = next_message(&two).1 else {
            panic!("only heartbeats were sent")
        };
        assert!(last.is_none_or(|last| beat.seq > last), "in order");
        last = Some(beat.seq);
    }
}

#[test]
fn b5_many_frames_arrive_once_and_in_order() {
    const FRAMES: u64 = 3000;
    let (mut one, mut two) = pair();
    let epoch = one.up(2, Class::Data);
    two.up(1, Class::Data);
    let sender = std::thread::spawn(move || {
        let mut prev = LogId::new(1, 0);
        for seq in 1..=FRAMES {
            let (count, size) = (
                (seq % 5) as u32,
                [0, 100, 3000, 5000, 70_000][seq as usize % 5],
            );
            let size = if seq % 37 == 0 { 300_000 } else { size };
            let runs = match count {
                0 => vec![],
                1 => vec![run_of(prev, 1, size)],
                _ => {
                    let next = LogId::new(1, prev.index + 1);
                    vec![run_of(prev, 1, size), run_of(next, count - 1, 64)]
                }
            };
            one.send(2, &append(epoch, seq, prev, count), &runs);
            prev.index += u64::from(count);
        }
        for seq in 1..=FRAMES {
            let (_, Message::AppendAck(ack)) = next_message(&one) else {
                panic!("only acks come back")
            };
            assert_eq!(ack.seq, seq);
        }
        one
    });
    let mut expected = 1;
    while expected <= FRAMES {
        let (_, Message::Append(request)) = next_message(&two) else {
            panic!("only appends were sent")
        };
        assert_eq!(request.seq, expected);
        two.send(1, &ack(&request, two.incarnation), &[]);
        expected += 1;
    }
    let one = sender.join().expect("sender");
    let stats = one.transport.stats();
    let data = stats
        .iter()
        .find(|link| link.dialled && link.class == LinkClass::Data)
        .expect("data link");
    assert_eq!(data.frames_sent, FRAMES);
    assert_eq!(data.frames_received, FRAMES);
    assert!(data.datagrams_sent > 0 && data.mutual_tls13);
}

#[test]
fn h3_the_largest_entry_fits() {
    let (mut one, two) = pair();
    let epoch = one.up(2, Class::Data);
    for seq in 1..=3 {
        let prev = LogId::new(1, seq);
        let run = run_of(prev, 1, MAX_ENTRY);
        one.send(2, &append(epoch, seq, prev, 1), std::slice::from_ref(&run));
        let got = two.wait(|event| match event {
            NetworkEvent::Message { entries, .. } => Some(entries.chunks().concat()),
            _ => None,
        });
        assert!(got == run, "the same bytes");
    }
}

#[test]
fn h2_h4_a_peer_that_takes_nothing_fills_its_queue_and_nothing_else() {
    let mut nodes = mesh(&certs(&[1, 2, 3]), &[1, 2, 3]);
    let three = nodes.pop().expect("three");
    let two = nodes.pop().expect("two");
    let mut one = nodes.pop().expect("one");
    let (mut slow, mut other) = (None, None);
    one.wait(|event| {
        if let NetworkEvent::Up {
            peer,
            class: Class::Data,
            epoch,
            ..
        } = event
        {
            match peer.node {
                2 => slow = Some(epoch),
                _ => other = Some(epoch),
            }
        }
        Some((slow?, other?))
    });
    let (slow, other) = (slow.expect("up"), other.expect("up"));
    // Node 2 keeps every event, and with them the room that they hold.
    let mut seq = 0;
    let mut full_since = Instant::now();
    while full_since.elapsed() < Duration::from_millis(300) {
        let prev = LogId::new(1, seq);
        let message = append(slow, seq + 1, prev, 1);
        match one.transport.send(2, &message, &[run_of(prev, 1, 200_000)]) {
            SendOutcome::Sent => {
                seq += 1;
                full_since = Instant::now();
                assert!(seq * 200_000 < 40 << 20, "the bounds hold");
            }
            SendOutcome::Full => std::thread::sleep(Duration::from_millis(1)),
            SendOutcome::Down => panic!("still up"),
        }
    }
    let queued = one
        .transport
        .stats()
        .iter()
        .map(|link| link.queued_bytes)
        .max();
    assert!(queued.is_some_and(|bytes| bytes <= MAX_INFLIGHT + 200_100));
    // The others do not notice.
    let prev = LogId::new(1, 0);
    one.send(3, &append(other, 1, prev, 1), &[run_of(prev, 1, 100)]);
    assert!(matches!(next_message(&three), (1, Message::Append(_))));
    // Once it reads, all that was taken comes, in order, and the sender is told.
    for expected in 1..=seq {
        let (_, Message::Append(request)) = next_message(&two) else {
            panic!("only appends were sent")
        };
        assert_eq!(request.seq, expected);
    }
    one.wait(|event| match event {
        NetworkEvent::Writable { node: 2, epoch } => {
            assert_eq!(epoch, slow);
            Some(())
        }
        NetworkEvent::Down { reason, .. } => panic!("went down: {reason}"),
        _ => None,
    });
    let prev = LogId::new(1, seq);
    one.send(2, &append(slow, seq + 1, prev, 0), &[]);
    assert!(matches!(next_message(&two), (1, Message::Append(_))));
}

#[test]
fn b3_reopening_ends_the_epoch_and_begins_the_next() {
    let (mut one, two) = pair();
    let first = one.up(2, Class::Data);
    let prev = LogId::new(1, 0);
    one.send(2, &append(first, 1, prev, 0), &[]);
    assert!(matches!(next_message(&two), (1, Message::Append(_))));
    for round in 1..=5 {
        one.transport.reopen(2);
        let (ended, _) = one.down(2, Class::Data);
        assert_eq!(ended, first.wrapping_add(round - 1));
        let next = one.up(2, Class::Data);
        assert_eq!(next, first.wrapping_add(round));
        let stale = append(ended, 9, prev, 0);
        assert_eq!(one.transport.send(2, &stale, &[]), SendOutcome::Down);
        let message = append(next, 100 + round, prev, 0);
        one.send(2, &message, &[]);
        assert_eq!(next_message(&two), (1, message));
    }
}

#[test]
fn replies_of_an_ended_epoch_go_nowhere() {
    let (mut one, mut two) = pair();
    let first = one.up(2, Class::Data);
    one.send(2, &append(first, 1, LogId::default(), 0), &[]);
    let (_, Message::Append(old)) = next_message(&two) else {
        panic!("an append was sent")
    };
    one.transport.reopen(2);
    one.down(2, Class::Data);
    let next = one.up(2, Class::Data);
    one.send(2, &append(next, 1, LogId::default(), 0), &[]);
    let (_, Message::Append(new)) = next_message(&two) else {
        panic!("an append was sent")
    };
    let stale = ack(&old, two.incarnation);
    assert_eq!(two.transport.send(1, &stale, &[]), SendOutcome::Down);
    let fresh = ack(&new, two.incarnation);
    two.send(1, &fresh, &[]);
    assert_eq!(next_message(&one), (2, fresh));
}

#[test]
fn a_restarted_peer_is_found_and_has_its_own_epochs() {
    let certs = certs(&[1, 2]);
    let mut nodes = mesh(&certs, &[1, 2]);
    let two = nodes.pop().expect("two");
    let one = &nodes[0];
    let (control, data) = one.both_up(2);
    let address = two.address;
    drop(two);
    let (epoch, reason) = one.down(2, Class::Data);
    assert_eq!(epoch, data);
    assert!(reason.contains("shutdown"), "{reason}");
    let again = Node::with(conveyor_raft::quic::TransportOptions {
        listen: address,
        ..options(&certs, 2)
    });
    let (new_control, new_data) = one.both_up(2);
    assert!(new_control != control && new_data != data);
    drop(again);
}

#[test]
fn a_peer_that_starts_late_is_reached_as_soon_as_it_is_there() {
    let certs = certs(&[1, 2]);
    let mut one = Node::start(&certs, 1);
    let free = std::net::UdpSocket::bind(quic_common::loopback()).expect("bound");
    let address = free.local_addr().expect("address");
    drop(free);
    one.transport.set_peers(&[PeerAddress {
        node: 2,
        incarnation: None,
        address: address.to_string(),
    }]);
    // By now the next repetition of the lost first packet is most of a second away.
    std::thread::sleep(Duration::from_millis(1200));
    let mut two = Node::with(conveyor_raft::quic::TransportOptions {
        listen: address,
        ..options(&certs, 2)
    });
    let since = Instant::now();
    two.transport.set_peers(&[one.peer()]);
    one.both_up(2);
    assert!(
        since.elapsed() < Duration::from_millis(750),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn peers_no_longer_named_are_hung_up_on() {
    let (mut one, two) = pair();
    one.both_up(2);
    one.transport.set_peers(&[]);
    let (mut control, mut data) = (false, false);
    one.wait(|event| {
        if let NetworkEvent::Down { class, reason, .. } = event {
            assert_eq!(reason, "no longer a peer");
            match class {
                Class::Control => control = true,
                Class::Data => data = true,
                Class::Bulk => panic!("nobody wanted it"),
            }
        }
        (control && data).then_some(())
    });
    one.transport.set_peers(&[two.peer()]);
    one.both_up(2);
}

#[test]
fn an_address_change_is_followed_at_once() {
    let certs = certs(&[1, 2]);
    let mut one = Node::start(&certs, 1);
    let nowhere = std::net::UdpSocket::bind(quic_common::loopback()).expect("bound");
    let wrong = PeerAddress {
        node: 2,
        incarnation: None,
        address: nowhere.local_addr().expect("address").to_string(),
    };
    one.transport.set_peers(&[wrong]);
    std::thread::sleep(Duration::from_millis(100));
    let two = Node::start(&certs, 2);
    let since = Instant::now();
    one.transport.set_peers(&[two.peer()]);
    one.both_up(2);
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn names_are_resolved_and_a_name_without_address_is_tried_again() {
    let certs = certs(&[1, 2]);
    let (mut one, two) = (Node::start(&certs, 1), Node::start(&certs, 2));
    let named = |host: &str| PeerAddress {
        address: format!("{host}:{}", two.address.port()),
        ..two.peer()
    };
    one.transport.set_peers(&[named("no-such-host.invalid")]);
    std::thread::sleep(Duration::from_millis(50));
    one.transport.set_peers(&[named("localhost")]);
    one.both_up(2);
}

#[test]
fn new_facts_reach_those_who_dialled() {
    let (one, mut two) = pair();
    one.up(2, Class::Control);
    let facts = LocalFacts {
        client_endpoint: "https://two.example:7000".to_owned(),
        genesis: Incarnation([9; 16]),
        meta_seq: 4,
        ..LocalFacts::default()
    };
    two.transport.set_local(&facts);
    let got = one.wait(|event| match event {
        NetworkEvent::Up {
            class: Class::Control,
            facts,
            ..
        } => Some(facts),
        _ => None,
    });
    assert_eq!(got.facts, facts);
    assert_eq!(got.remote, Some(two.address));
}

#[test]
fn jumbo_batches_are_split() {
    let (mut one, two) = pair();
    let epoch = one.up(2, Class::Data);
    let body: Bytes = run_of(LogId::new(1, 0), 1, 1 << 20);
    for seq in 1..=100 {
        let prev = LogId::new(1, 0);
        one.send(2, &append(epoch, seq, prev, 1), std::slice::from_ref(&body));
        next_message(&two);
    }
    let stats = one.transport.stats();
    let data = stats
        .iter()
        .find(|link| link.dialled && link.class == LinkClass::Data)
        .expect("data link");
    assert!(data.mtu > 60_000, "the loopback MTU is found: {data:?}");
    assert_eq!(data.black_holes, 0, "{data:?}");
}

#[test]
fn nobody_is_dialled_or_sent_to_unasked() {
    let certs = certs(&[1, 2]);
    let (mut one, two) = (Node::start(&certs, 1), Node::start(&certs, 2));
    let message = append(1, 1, LogId::default(), 0);
    assert_eq!(one.transport.send(2, &message, &[]), SendOutcome::Down);
    assert_eq!(one.transport.send(7, &message, &[]), SendOutcome::Down);
    one.transport.reopen(7);
    assert!(one.transport.stats().is_empty() && two.transport.stats().is_empty());
}

#[test]
fn a_port_in_use_is_named() {
    let certs = certs(&[1]);
    let one = Node::start(&certs, 1);
    let taken = conveyor_raft::quic::TransportOptions {
        listen: one.address,
        ..options(&certs, 1)
    };
    let error = conveyor_raft::quic::RaftTransport::bind(taken, std::sync::Arc::new(|_| ()))
        .expect_err("taken");
    let text = error.to_string();
    assert!(text.contains(&one.address.to_string()), "{text}");
}

//! Proposals passed on to the leader: over real QUIC, by transports alone and by whole nodes.
#![allow(missing_docs)]

mod common;
mod quic_common;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::core::Class;
use conveyor_raft::network::{
    Forward, ForwardOutcome, ForwardReply, Forwarded, InLine, LinkClass, NetworkEvent, RaftNetwork,
    Unsent,
};
use conveyor_raft::types::EntryKind;
use quic_common::{Node, WAIT, certs, mesh};

const SECOND: Duration = Duration::from_secs(1);

type Told = Receiver<Forwarded>;

/// Passes `payload` on from one transport to another node.
fn pass_on(from: &mut Node, to: u64, payload: impl Into<Bytes>, patience: Duration) -> Told {
    let (told, answer) = channel();
    let forward = Forward {
        term: 3,
        kind: EntryKind::Command,
        payload: payload.into(),
        patience,
        line: None,
        waits: false,
        reply: ForwardReply::new(move |answer| drop(told.send(answer))),
    };
    from.transport.forward(to, forward);
    answer
}

fn told(answer: &Told) -> Forwarded {
    answer.recv_timeout(WAIT).expect("it is answered in time")
}

/// The next proposal that was passed on to this node.
fn asked(node: &Node) -> (u64, Forward) {
    node.wait(|event| match event {
        NetworkEvent::Forward { from, forward } => Some((from.node, forward)),
        _ => None,
    })
}

fn applied(index: u64, response: &'static [u8]) -> ForwardOutcome {
    ForwardOutcome::Applied {
        index,
        term: 3,
        response: Bytes::from_static(response),
    }
}

fn pair() -> (Node, Node) {
    let certs = certs(&[1, 2]);
    let mut nodes = mesh(&certs, &[1, 2]);
    let two = nodes.pop().expect("two");
    let one = nodes.pop().expect("one");
    one.up(2, Class::Control);
    (one, two)
}

fn forward_links(node: &Node) -> usize {
    let stats = node.transport.stats();
    let links = stats.iter().filter(|link| link.class == LinkClass::Forward);
    links.count()
}

#[test]
fn a_proposal_goes_on_and_its_answer_comes_back() {
    let (mut one, two) = pair();
    assert_eq!(forward_links(&one), 0, "dialled on first use");
    let small = pass_on(&mut one, 2, &b"small"[..], SECOND);
    let large = pass_on(&mut one, 2, vec![7; 2 << 20], SECOND);
    let (from, first) = asked(&two);
    assert_eq!((from, first.term, first.kind), (1, 3, EntryKind::Command));
    assert_eq!(first.payload, &b"small"[..]);
    assert!(first.patience <= SECOND && first.patience > SECOND / 4);
    let (_, second) = asked(&two);
    assert_eq!(second.payload, vec![7; 2 << 20]);
    // In whatever order they become known.
    second.reply.answer(Ok(applied(9, b"b")));
    assert_eq!(told(&large), Ok(applied(9, b"b")));
    first.reply.answer(Ok(ForwardOutcome::ShuttingDown));
    assert_eq!(told(&small), Ok(ForwardOutcome::ShuttingDown));
    assert_eq!((forward_links(&one), forward_links(&two)), (1, 1));
    let stats = one.transport.stats();
    let link = stats.iter().find(|link| link.class == LinkClass::Forward);
    let link = link.expect("it is up");
    assert!(link.dialled && link.mutual_tls13);
    assert_eq!((link.frames_sent, link.frames_received), (2, 2));
    assert_eq!(link.queued_bytes, 0);
}

#[test]
fn f3_what_is_in_flight_when_the_connection_ends_is_unknown_and_never_sent_again() {
    let certs = certs(&[1, 2]);
    let mut nodes = mesh(&certs, &[1, 2]);
    let two = nodes.pop().expect("two");
    let mut one = nodes.pop().expect("one");
    one.up(2, Class::Control);
    let answer = pass_on(&mut one, 2, &b"once"[..], 20 * SECOND);
    let (_, forward) = asked(&two);
    let mut options = quic_common::options(&certs, 2);
    options.listen = two.address;
    drop(two);
    let unknown = ForwardOutcome::Unknown { index: 0, term: 0 };
    assert_eq!(told(&answer), Ok(unknown));
    forward.reply.answer(Ok(applied(1, b"late")));
    let again = Node::with(options);
    let end = Instant::now() + WAIT;
    // What is passed on from now on finds the way once the node is back.
    let next = loop {
        let answer = pass_on(&mut one, 2, &b"next"[..], 20 * SECOND);
        match answer.recv_timeout(Duration::from_millis(300)) {
            Ok(Err(Unsent)) => assert!(Instant::now() < end, "no way in time"),
            Err(RecvTimeoutError::Timeout) => break answer,
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let (_, forward) = asked(&again);
    assert_eq!(forward.payload, &b"next"[..], "and not the first once more");
    forward.reply.answer(Ok(applied(2, b"")));
    assert_eq!(told(&next), Ok(applied(2, b"")));
}

#[test]
fn a_reply_that_is_dropped_says_that_nobody_knows() {
    let (mut one, two) = pair();
    let answer = pass_on(&mut one, 2, &b"a"[..], SECOND);
    drop(asked(&two));
    let unknown = ForwardOutcome::Unknown { index: 0, term: 0 };
    assert_eq!(told(&answer), Ok(unknown));
}

#[test]
fn f5_every_proposal_is_answered_by_its_deadline() {
    let (mut one, two) = pair();
    let begun = Instant::now();
    let long = pass_on(&mut one, 2, &b"long"[..], 20 * SECOND);
    let short = pass_on(&mut one, 2, &b"short"[..], SECOND / 2);
    let (_, first) = asked(&two);
    let _second = asked(&two);
    let unknown = ForwardOutcome::Unknown { index: 0, term: 0 };
    assert_eq!(told(&short), Ok(unknown));
    let took = begun.elapsed();
    assert!(took >= SECOND / 2 && took < SECOND, "{took:?}");
    // The other is not affected, and a late answer goes nowhere.
    first.reply.answer(Ok(applied(1, b"")));
    assert_eq!(told(&long), Ok(applied(1, b"")));
    assert_eq!(forward_links(&one), 1);
}

#[test]
fn what_cannot_leave_is_said_not_to_have_left() {
    let certs = certs(&[1, 2, 3]);
    let mut one = Node::start(&certs, 1);
    assert_eq!(told(&pass_on(&mut one, 2, &b"a"[..], SECOND)), Err(Unsent));
    // A port where nobody is.
    let gone = Node::start(&certs, 2);
    let peer = gone.peer();
    drop(gone);
    one.transport.set_peers(&[peer]);
    let begun = Instant::now();
    assert_eq!(
        told(&pass_on(&mut one, 2, &b"a"[..], 20 * SECOND)),
        Err(Unsent)
    );
    assert!(begun.elapsed() < 5 * SECOND);
    let late = pass_on(&mut one, 2, &b"a"[..], SECOND / 10);
    let late = told(&late);
    let deadline = Ok(ForwardOutcome::Deadline);
    assert!(late == deadline || late == Err(Unsent), "{late:?}");
    let all: Vec<_> = (0..100)
        .map(|_| pass_on(&mut one, 2, &b"a"[..], 20 * SECOND))
        .collect();
    for answer in &all {
        assert_eq!(told(answer), Err(Unsent));
    }
}

#[test]
fn h2_a_full_budget_is_told_as_overload() {
    let (mut one, two) = pair();
    let mut answers: Vec<_> = (0..256)
        .map(|_| pass_on(&mut one, 2, &b"a"[..], 20 * SECOND))
        .collect();
    let waiting: Vec<_> = (0..256).map(|_| asked(&two).1).collect();
    let over = told(&pass_on(&mut one, 2, &b"a"[..], 20 * SECOND));
    let overloaded = |told: &Forwarded| matches!(told, Ok(ForwardOutcome::Overloaded { .. }));
    assert!(overloaded(&over), "{over:?}");
    for forward in waiting {
        forward.reply.answer(Ok(applied(1, b"")));
    }
    for answer in answers.drain(..) {
        assert_eq!(told(&answer), Ok(applied(1, b"")));
    }
    // Bytes count as well: two of the largest fit.
    for _ in 0..2 {
        answers.push(pass_on(&mut one, 2, vec![0; 2 << 20], 20 * SECOND));
    }
    let over = told(&pass_on(&mut one, 2, &b"a"[..], 20 * SECOND));
    assert!(overloaded(&over), "{over:?}");
    for answer in &answers {
        asked(&two).1.reply.answer(Ok(applied(2, b"")));
        assert_eq!(told(answer), Ok(applied(2, b"")));
    }
}

#[test]
fn an_idle_connection_is_closed_and_dialled_again() {
    let (mut one, two) = pair();
    for nth in 1..=2 {
        let answer = pass_on(&mut one, 2, &b"a"[..], SECOND);
        asked(&two).1.reply.answer(Ok(applied(nth, b"")));
        assert_eq!(told(&answer), Ok(applied(nth, b"")));
        assert_eq!(forward_links(&one), 1);
        let begun = Instant::now();
        while forward_links(&one) + forward_links(&two) > 0 {
            assert!(begun.elapsed() < WAIT, "it is not closed");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(begun.elapsed() > 3 * SECOND, "not at once");
    }
    let stats = one.transport.stats();
    assert_eq!(stats.len(), 4, "the other connections stay: {stats:?}");
}

#[test]
fn h2_what_waits_for_room_leaves_when_there_is_some_in_order_and_once() {
    let (mut one, two) = pair();
    let answers: Vec<_> = (0..600_u32)
        .map(|nth| {
            let (told, answer) = channel();
            let forward = Forward {
                term: 3,
                kind: EntryKind::Command,
                payload: nth.to_le_bytes().to_vec().into(),
                patience: 20 * SECOND,
                line: Some(InLine {
                    number: 7,
                    place: nth.into(),
                }),
                waits: true,
                reply: ForwardReply::new(move |answer| drop(told.send(answer))),
            };
            one.transport.forward(2, forward);
            answer
        })
        .collect();
    let mut held = std::collections::VecDeque::new();
    for nth in 0..600_u32 {
        if nth >= 256 {
            // As many as may be are there, so another comes only after an answer.
            let oldest: Forward = held.pop_front().expect("held");
            oldest.reply.answer(Ok(applied(1, b"")));
        }
        let (_, forward) = asked(&two);
        assert_eq!(forward.payload, &nth.to_le_bytes()[..]);
        let line = forward.line.expect("in a line");
        assert_eq!((line.number, line.place), (7, nth.into()));
        held.push_back(forward);
    }
    held.into_iter()
        .for_each(|it| it.reply.answer(Ok(applied(1, b""))));
    for answer in &answers {
        assert_eq!(told(answer), Ok(applied(1, b"")));
    }
}

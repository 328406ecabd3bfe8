//! Two transports on loopback: classes, epochs, order, bounds.
#![allow(missing_docs)]

mod quic_common;

use conveyor_raft::core::{Class, Message};
use conveyor_raft::network::NetworkEvent;
use conveyor_raft::types::LogId;
use quic_common::{ack, append, certs, mesh, run_of};

#[test]
fn appends_and_acks_travel_on_the_data_class() {
    let mut nodes = mesh(&certs(&[1, 2]), &[1, 2]);
    let [one, two] = nodes.as_mut_slice() else {
        panic!("two nodes")
    };
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
    let got = one.wait(|event| match event {
        NetworkEvent::Message { message, from, .. } => Some((message, from.node)),
        _ => None,
    });
    assert_eq!(got, (reply, 2));
}

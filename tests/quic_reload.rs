//! Certificates, keys, CA bundles and revocation lists that change while transports run.
#![allow(missing_docs)]

mod quic_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use conveyor_raft::core::Class;
use conveyor_raft::network::{NetworkEvent, RaftNetwork};
use conveyor_raft::quic::certs::{GeneratedCerts, PemPair, generate};
use conveyor_raft::quic::{Credentials, ReloadError};
use conveyor_raft::types::NodeId;
use quic_common::logs::logs;
use quic_common::raw::{
    Ca, Leaf, RawHello, ca_of, client_endpoint, client_tls, close_code, connect, crl, greet,
    peer_name, runtime,
};
use quic_common::{Node, certs, options};

const QUIET: Duration = Duration::from_millis(400);

/// Serial numbers that a leaf of node `node` has.
fn serial(node: NodeId) -> u64 {
    4000 + node
}

struct Bed {
    certs: GeneratedCerts,
    ca: Ca,
    pairs: Vec<PemPair>,
}

impl Bed {
    fn new(nodes: &[NodeId]) -> Self {
        let certs = certs(nodes);
        let ca = ca_of(certs.ca.peer_ca());
        let pair = |&node| {
            let mut leaf = Leaf::peer(certs.ca.cluster(), node);
            leaf.serial = serial(node);
            leaf.signed_by(&ca)
        };
        let pairs = nodes.iter().map(pair).collect();
        Self { certs, ca, pairs }
    }

    /// Of node `node`, with a list that names this serial number.
    fn credentials(&self, node: NodeId, revoked: u64) -> Credentials {
        self.with_pair(&self.pairs[node as usize - 1], revoked)
            .expect("credentials")
    }

    fn with_pair(
        &self,
        pair: &PemPair,
        revoked: u64,
    ) -> Result<Credentials, conveyor_raft::quic::CredentialsError> {
        Credentials::from_pem(
            self.certs.ca.peer_ca().cert.as_bytes(),
            pair.cert.as_bytes(),
            pair.key.as_bytes(),
            crl(&self.ca, revoked).as_bytes(),
        )
    }

    fn start(&self, ids: &[NodeId]) -> Vec<Node> {
        let start = |&id: &NodeId| {
            let mut options = options(&self.certs, id);
            options.credentials = self.credentials(id, 1);
            Node::with(options)
        };
        let mut nodes: Vec<_> = ids.iter().map(start).collect();
        let peers: Vec<_> = nodes.iter().map(Node::peer).collect();
        for node in &mut nodes {
            node.transport.set_peers(&peers);
        }
        nodes
    }
}

/// Waits until every node has both its links to every other, and they to it.
fn all_up(nodes: &[Node]) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id != node.id) {
            node.both_up(other.id);
        }
    }
}

/// No link of `node` to `to` ends within a while.
fn stays(node: &Node, to: NodeId) {
    let down = node.wait_for(QUIET, |event| match event {
        NetworkEvent::Down { node, reason, .. } if node == to => Some(reason),
        _ => None,
    });
    assert_eq!(down, None);
}

#[test]
fn j3_revoked_peer_cut_while_connected() {
    let logs = logs();
    let bed = Bed::new(&[1, 2, 3]);
    let nodes = bed.start(&[1, 2]);
    all_up(&nodes);
    // It comes later, so that the events of the others do not mix.
    let third = bed.start(&[3]);
    let report = nodes[0]
        .transport
        .reload(bed.credentials(1, serial(2)))
        .expect("taken up");
    // Two classes, dialled and accepted.
    assert_eq!(
        (
            report.generation,
            report.kept,
            report.revoked,
            report.untrusted
        ),
        (2, 0, 4, 0)
    );
    let (_, why) = nodes[1].down(1, Class::Control);
    assert!(why.contains("revoked"), "{why}");
    nodes[0].down(2, Class::Control);
    // Nor does it come back.
    let back = nodes[0].wait_for(QUIET, |event| match event {
        NetworkEvent::Up { peer, .. } if peer.node == 2 => Some(()),
        _ => None,
    });
    assert_eq!(back, None);
    assert!(nodes[0].transport.stats().is_empty());
    let lines = logs.with(&["node 2", "revoked", "issue a new certificate"]);
    assert!(!lines.is_empty(), "{}", logs.text());
    drop(third);
}

#[test]
fn j3_a_peer_revoked_between_its_handshake_and_its_hello_is_cut() {
    let bed = Bed::new(&[1, 2]);
    let node = bed.start(&[1]).remove(0);
    let cluster = bed.certs.ca.cluster();
    let tls = client_tls(&bed.certs.ca.peer_ca().cert, Some(&bed.pairs[1]));
    let runtime = runtime();
    let _inside = runtime.enter();
    let closed = runtime.block_on(async {
        let to = peer_name(cluster, 1);
        let connection = connect(&client_endpoint(), tls, node.address, &to).await?;
        // Time for the last flight of the handshake to be judged.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let report = node.transport.reload(bed.credentials(1, serial(2)));
        assert_eq!(report.expect("taken up").revoked, 0, "it is no link yet");
        greet(&connection, &RawHello::new(cluster, 2, 1)).await?;
        Err::<(), _>(connection.closed().await)
    });
    let closed = closed.expect_err("it ends");
    assert_eq!(close_code(&closed), Some(0x1b), "{closed}");
}

#[test]
fn j3_who_is_not_revoked_stays_connected() {
    let bed = Bed::new(&[1, 2, 3]);
    let nodes = bed.start(&[1, 2, 3]);
    nodes[0].both_up(2);
    nodes[1].both_up(1);
    // Every node takes it up: the own transport of node 3 refuses to go on with it.
    for node in &nodes[..2] {
        node.transport
            .reload(bed.credentials(node.id, serial(3)))
            .expect("taken up");
    }
    stays(&nodes[0], 2);
    stays(&nodes[1], 1);
    let own = bed
        .with_pair(&bed.pairs[2], serial(3))
        .expect_err("revoked");
    assert!(own.to_string().contains("evoked"), "{own}");
}

#[test]
fn j3_bad_reload_keeps_old() {
    let bed = Bed::new(&[1, 2]);
    let other = generate("other", &[1], &[]).expect("certificates");
    let nodes = bed.start(&[1, 2]);
    all_up(&nodes);
    for wrong in [
        bed.credentials(2, 1),
        other.credentials(1).expect("another cluster's"),
    ] {
        let error = nodes[0].transport.reload(wrong).expect_err("not its own");
        assert!(matches!(error, ReloadError::Other { .. }), "{error}");
        assert!(error.to_string().contains("stays in force"), "{error}");
    }
    stays(&nodes[0], 2);
    // A new handshake still succeeds with the old ones, in both directions.
    let (first, mut rest) = {
        let mut nodes = nodes;
        let first = nodes.remove(0);
        (first, nodes)
    };
    drop(rest.remove(0));
    first.down(2, Class::Control);
    let mut again = bed.start(&[2]).remove(0);
    again.transport.set_peers(&[first.peer()]);
    again.both_up(1);
}

#[test]
fn j3_a_new_certificate_and_key_cut_nothing_and_count_for_the_next_handshake() {
    let bed = Bed::new(&[1, 2, 3]);
    let nodes = bed.start(&[1, 2]);
    all_up(&nodes);
    let mut leaf = Leaf::peer(bed.certs.ca.cluster(), 1);
    leaf.serial = 9001;
    let fresh = bed.with_pair(&leaf.signed_by(&bed.ca), 1).expect("fresh");
    let report = nodes[0].transport.reload(fresh).expect("taken up");
    assert_eq!((report.kept, report.revoked, report.untrusted), (4, 0, 0));
    stays(&nodes[0], 2);
    stays(&nodes[1], 1);
    // One that has the new certificate revoked refuses it, and would let the old one in.
    let mut third = options(&bed.certs, 3);
    third.credentials = bed.credentials(3, 9001);
    let mut third = Node::with(third);
    third.transport.set_peers(&[nodes[0].peer()]);
    let met = third.wait_for(QUIET, |event| match event {
        NetworkEvent::Up { .. } => Some(()),
        _ => None,
    });
    assert_eq!(met, None, "the old certificate was shown");
    // With what it then takes up it needs not wait until it dials again by itself.
    third
        .transport
        .reload(bed.credentials(3, 1))
        .expect("taken up");
    third.both_up(1);
}

#[test]
fn j3_an_expired_certificate_opens_no_connection_and_cuts_none() {
    let bed = Bed::new(&[1, 2, 3]);
    let seconds = Arc::new(AtomicU64::new(0));
    let clock = {
        let seconds = Arc::clone(&seconds);
        let begun = SystemTime::now();
        Arc::new(move || begun + Duration::from_secs(seconds.load(Ordering::Relaxed)))
    };
    let of = |pair: &PemPair, revoked: u64| {
        Credentials::from_pem_with_clock(
            bed.certs.ca.peer_ca().cert.as_bytes(),
            pair.cert.as_bytes(),
            pair.key.as_bytes(),
            crl(&bed.ca, revoked).as_bytes(),
            clock.clone(),
        )
    };
    let start = |id: NodeId| {
        let mut options = options(&bed.certs, id);
        options.credentials = of(&bed.pairs[id as usize - 1], 1).expect("not expired yet");
        Node::with(options)
    };
    let mut nodes: Vec<_> = [1, 2, 3].map(start).into();
    let peers: Vec<_> = nodes.iter().map(Node::peer).collect();
    for node in &mut nodes[..2] {
        node.transport.set_peers(&peers[..2]);
    }
    all_up(&nodes[..2]);
    let mut longer = Leaf::peer(bed.certs.ca.cluster(), 1);
    (longer.valid, longer.serial) = ((-1, 300), 5);
    let longer = longer.signed_by(&bed.ca);
    let days = 40;
    seconds.store(days * 24 * 60 * 60, Ordering::Relaxed);
    let expired = of(&bed.pairs[0], 1).expect_err("expired").to_string();
    assert!(expired.contains("expired"), "{expired}");
    // Those that stand go on, also when they are verified again.
    let renewed = of(&longer, 1).expect("good");
    let report = nodes[0].transport.reload(renewed).expect("taken up");
    assert_eq!((report.kept, report.untrusted), (4, 0));
    stays(&nodes[0], 2);
    stays(&nodes[1], 1);
    // New ones do not come about.
    nodes[2].transport.set_peers(&peers[..1]);
    let met = nodes[2].wait_for(QUIET, |event| match event {
        NetworkEvent::Up { .. } => Some(()),
        _ => None,
    });
    assert_eq!(met, None);
    // That it has expired does not hide that a certificate is revoked.
    let revoking = of(&longer, serial(2)).expect("good");
    let report = nodes[0].transport.reload(revoking).expect("taken up");
    assert_eq!((report.kept, report.revoked), (0, 4));
}

/// Certificates good for thirty days, by a clock that is some seconds before their end.
#[test]
fn j3_with_strict_expiry_an_expired_certificate_cuts_its_holders_connections() {
    const LEFT: u64 = 4;
    let bed = Bed::new(&[1, 2, 3]);
    let ahead = Duration::from_secs(30 * 24 * 60 * 60 - LEFT);
    let pairs = [1, 2, 3].map(|node| match node {
        2 => bed.pairs[1].clone(),
        _ => {
            let mut leaf = Leaf::peer(bed.certs.ca.cluster(), node);
            leaf.valid = (-1, 300);
            leaf.signed_by(&bed.ca)
        }
    });
    let start = |id: NodeId| {
        let pair = &pairs[id as usize - 1];
        let credentials = Credentials::from_pem_with_clock(
            bed.certs.ca.peer_ca().cert.as_bytes(),
            pair.cert.as_bytes(),
            pair.key.as_bytes(),
            crl(&bed.ca, 1).as_bytes(),
            Arc::new(move || SystemTime::now() + ahead),
        );
        let mut options = options(&bed.certs, id);
        options.credentials = credentials.expect("not expired yet");
        // Only node 1 is strict: 3 keeps what it has with 2.
        options.strict_expiry = id == 1;
        Node::with(options)
    };
    let mut nodes: Vec<_> = [1, 2, 3].map(start).into();
    let peers: Vec<_> = nodes.iter().map(Node::peer).collect();
    for node in &mut nodes {
        node.transport.set_peers(&peers);
    }
    nodes[0].both_up(2);
    let (_, reason) = nodes[0].down(2, Class::Data);
    assert_eq!(reason, "closed", "by this node, and not for its silence");
    // It does not come back, and node 1 and 3, whose certificates are good, stay connected.
    let back = nodes[0].wait_for(QUIET, |event| match event {
        NetworkEvent::Up { peer, .. } if peer.node == 2 => Some(()),
        NetworkEvent::Down { node: 3, .. } => panic!("node 3 is good"),
        _ => None,
    });
    assert_eq!(back, None);
    stays(&nodes[0], 3);
    let links = nodes[2].transport.stats();
    assert!(
        links.iter().any(|link| link.peer.node == 2),
        "3 is not strict"
    );
    let gone = nodes[0].transport.stats();
    assert!(gone.iter().all(|link| link.peer.node != 2), "{gone:?}");
}

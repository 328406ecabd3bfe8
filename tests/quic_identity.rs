//! Who gets in: every kind of certificate, in both directions. Refusals say who, why and what to
//! do, and change nothing.
#![allow(missing_docs)]

mod quic_common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use conveyor_raft::network::{PeerAddress, RaftNetwork};
use conveyor_raft::quic::Credentials;
use conveyor_raft::quic::certs::{GeneratedCerts, PemPair, generate};
use quic_common::logs::logs;
use quic_common::raw::{
    Ca, ClientAuth, Leaf, RawHello, ServerAuth, ca_of, client_endpoint, client_tls, close_code,
    connect, crl, greet, peer_name, peer_uri, runtime, server_endpoint, server_tls,
};
use quic_common::{Node, certs, options};
use quinn::crypto::rustls::QuicClientConfig;

const REVOKED: u64 = 4242;

/// What both directions need: the cluster of node 1, whose CRL names one serial number, and the
/// CAs in hand to sign anything.
struct Bed {
    certs: GeneratedCerts,
    ca: Ca,
    client_ca: Ca,
    other: GeneratedCerts,
}

impl Bed {
    fn new() -> Self {
        let certs = certs(&[1, 2, 3]);
        Self {
            ca: ca_of(certs.ca.peer_ca()),
            client_ca: ca_of(certs.ca.client_ca()),
            other: generate("other", &[1, 2], &[]).expect("certificates"),
            certs,
        }
    }

    fn node(&self) -> Node {
        let mine = &self.certs.nodes[0].peer;
        let credentials = Credentials::from_pem(
            self.certs.ca.peer_ca().cert.as_bytes(),
            mine.cert.as_bytes(),
            mine.key.as_bytes(),
            crl(&self.ca, REVOKED).as_bytes(),
        );
        let mut options = options(&self.certs, 1);
        options.credentials = credentials.expect("credentials");
        Node::with(options)
    }

    fn good(&self) -> Leaf {
        Leaf::peer(self.certs.ca.cluster(), 2)
    }

    fn leaf(&self, change: impl FnOnce(&mut Leaf)) -> PemPair {
        let mut leaf = self.good();
        change(&mut leaf);
        leaf.signed_by(&self.ca)
    }

    fn named(&self, uri: String) -> PemPair {
        self.leaf(|leaf| leaf.uris = vec![uri])
    }

    /// Certificates that are wrong whoever shows them: name, pair, and a word of the refuser's log
    /// line.
    fn bad(&self) -> Vec<Case> {
        let mut cases = self.bad_chains();
        cases.extend(self.bad_names());
        cases
    }

    fn bad_chains(&self) -> Vec<Case> {
        let other_ca = ca_of(self.other.ca.peer_ca());
        let good = self.good();
        vec![
            ("other CA", good.signed_by(&other_ca), "UnknownIssuer"),
            (
                "other cluster's node",
                self.other.nodes[1].peer.clone(),
                "UnknownIssuer",
            ),
            (
                "client CA",
                good.signed_by(&self.client_ca),
                "UnknownIssuer",
            ),
            (
                "self-signed",
                good.self_signed(),
                "invalid peer certificate",
            ),
            (
                "expired",
                self.leaf(|leaf| leaf.valid = (-30, -1)),
                "expired",
            ),
            (
                "not yet valid",
                self.leaf(|leaf| leaf.valid = (1, 30)),
                "not valid yet",
            ),
            (
                "revoked",
                self.leaf(|leaf| leaf.serial = REVOKED),
                "Revoked",
            ),
        ]
    }

    fn bad_names(&self) -> Vec<Case> {
        let cluster = self.certs.ca.cluster();
        let other = peer_uri(self.other.ca.cluster(), 2);
        let of = |path: &str| self.named(format!("conveyor-raft://{cluster}/{path}"));
        let hex = cluster.to_string();
        let upper = peer_uri(cluster, 2).replace(&hex, &hex.to_uppercase());
        let two_uris = self.leaf(|leaf| leaf.uris.push(peer_uri(cluster, 3)));
        let two_names = self.leaf(|leaf| leaf.dns.push(peer_name(cluster, 3)));
        vec![
            ("other cluster", self.named(other), "OtherCluster"),
            ("writer", of("client/writer/w"), "NotPeer"),
            ("operator", of("client/operator/o"), "NotPeer"),
            ("edge", of("edge/2"), "NotPeer"),
            ("no URI", self.leaf(|leaf| leaf.uris.clear()), "Uris"),
            ("two URIs", two_uris, "Uris"),
            ("URI of another node than DNS", of("peer/3"), "DnsDiffers"),
            ("upper-case hex", self.named(upper), "NotCanonical"),
            ("second DNS name", two_names, "DnsDiffers"),
        ]
    }
}

type Case = (&'static str, PemPair, &'static str);

/// How long one gets for a word to reach the counters or the log.
fn eventually(what: &str, mut found: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !found() {
        assert!(
            Instant::now() < end,
            "{what}: not in time\n{}",
            logs().text()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn count(node: &Node, reason: &str) -> u64 {
    let counts = node.transport.refusals();
    let found = counts.iter().find(|(name, _)| *name == reason);
    found.map_or(0, |&(_, count)| count)
}

fn no_event(node: &Node) {
    assert!(node.events.try_recv().is_err(), "a refusal changes nothing");
    assert!(
        node.transport.stats().is_empty(),
        "and leaves no connection"
    );
}

#[test]
fn i1_i2_identity_matrix_as_dialer() {
    let log = logs();
    let bed = Bed::new();
    let cluster = bed.certs.ca.cluster();
    let ca = bed.certs.ca.peer_ca().cert.clone();
    let runtime = runtime();
    let _inside = runtime.enter();
    let endpoint = client_endpoint();
    let mut cases: Vec<_> = bed
        .bad()
        .into_iter()
        .map(|(name, pair, word)| (name, Some(pair), word))
        .collect();
    let mut server_only = bed.good();
    server_only.usages = vec![ServerAuth];
    cases.push((
        "server-only EKU",
        Some(server_only.signed_by(&bed.ca)),
        "extended key usage",
    ));
    for (name, pair, word) in cases {
        // A node of its own per case: lines are limited per reason and address.
        let node = bed.node();
        let tls = client_tls(&ca, pair.as_ref());
        let to = peer_name(cluster, 1);
        let refused = runtime.block_on(async {
            let connection = connect(&endpoint, tls, node.address, &to).await?;
            greet(&connection, &RawHello::new(cluster, 2, 1))
                .await
                .map(|_| ())
        });
        let error = refused.expect_err(name);
        assert!(
            close_code(&error).is_none(),
            "{name}: TLS refuses it: {error}"
        );
        eventually(name, || count(&node, "certificate refused") == 1);
        eventually(name, || {
            !log.with(&["WARN", "unknown at 127.0.0.1", word]).is_empty()
        });
        no_event(&node);
    }
}

#[test]
fn i1_nobody_without_a_certificate_gets_in() {
    let bed = Bed::new();
    let node = bed.node();
    let cluster = bed.certs.ca.cluster();
    let runtime = runtime();
    let _inside = runtime.enter();
    let tls = client_tls(&bed.certs.ca.peer_ca().cert, None);
    let refused = runtime.block_on(async {
        let to = peer_name(cluster, 1);
        let connection = connect(&client_endpoint(), tls, node.address, &to).await?;
        greet(&connection, &RawHello::new(cluster, 2, 1))
            .await
            .map(|_| ())
    });
    assert!(close_code(&refused.expect_err("refused")).is_none());
    eventually("no certificate", || {
        count(&node, "certificate refused") + count(&node, "tls") == 1
    });
    no_event(&node);
}

#[test]
fn i1_i2_identity_matrix_as_acceptor() {
    let log = logs();
    let bed = Bed::new();
    let ca = bed.certs.ca.peer_ca().cert.clone();
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut cases = bed.bad();
    let mut client_only = bed.good();
    client_only.usages = vec![ClientAuth];
    cases.push((
        "client-only EKU",
        client_only.signed_by(&bed.ca),
        "extended key usage",
    ));
    let mut unnamed = bed.good();
    unnamed.dns.clear();
    cases.push((
        "no DNS name",
        unnamed.signed_by(&bed.ca),
        "not valid for name",
    ));
    let another = Leaf::peer(bed.certs.ca.cluster(), 3).signed_by(&bed.ca);
    cases.push(("another node", another, "not valid for name"));
    for (name, pair, word) in cases {
        let server = server_endpoint(server_tls(&ca, &pair));
        let accepting = server.clone();
        let greeted = runtime.spawn(async move {
            let connection = accepting.accept().await?.await.ok()?;
            let (_, mut recv) = connection.accept_bi().await.ok()?;
            // Not a byte, not even the hello, may reach the wrong node.
            let mut bytes = [0; 1];
            recv.read(&mut bytes).await.ok().flatten()
        });
        let mut node = bed.node();
        node.transport.set_peers(&[PeerAddress {
            node: 2,
            incarnation: None,
            address: server.local_addr().expect("address").to_string(),
        }]);
        eventually(name, || count(&node, "certificate refused") == 1);
        // What the name check adds to the stock verifier is worded by it.
        let words = [word, &said_by_identity(word)];
        eventually(name, || {
            words
                .iter()
                .any(|word| !log.with(&["WARN", "node 2, dialled", word]).is_empty())
        });
        let greeted = runtime.block_on(greeted).expect("joined");
        assert_eq!(greeted, None, "{name}: nothing was said to it");
        no_event(&node);
        server.close(0u32.into(), b"");
    }
}

/// The log says the same thing in the verifier's debug form or in words, by direction.
fn said_by_identity(word: &str) -> String {
    match word {
        "OtherCluster" => "belongs to cluster",
        "NotPeer" => "not a peer's",
        "Uris" => "URI names instead of one",
        "DnsDiffers" => "URI and DNS names disagree",
        "NotCanonical" => "not in canonical form",
        other => other,
    }
    .to_owned()
}

#[test]
fn i2_the_uri_decides_where_no_usage_is_stated() {
    let bed = Bed::new();
    let cluster = bed.certs.ca.cluster();
    let ca = &bed.certs.ca.peer_ca().cert;
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut leaf = bed.good();
    leaf.usages.clear();
    let node = bed.node();
    let to = peer_name(cluster, 1);
    runtime.block_on(async {
        let tls = client_tls(ca, Some(&leaf.signed_by(&bed.ca)));
        let connection = connect(&client_endpoint(), tls, node.address, &to).await;
        let connection = connection.expect("connected");
        let greeted = greet(&connection, &RawHello::new(cluster, 2, 1)).await;
        let (_, _, answer) = greeted.expect("a good peer is let in");
        assert_eq!(&answer[24..40], cluster.0, "the answer is of this cluster");
        assert_eq!(answer[40..48], 1u64.to_le_bytes(), "and of node 1");
    });
    leaf.uris = vec![format!("conveyor-raft://{cluster}/client/operator/o")];
    let refused = runtime.block_on(async {
        let tls = client_tls(ca, Some(&leaf.signed_by(&bed.ca)));
        let connection = connect(&client_endpoint(), tls, node.address, &to).await?;
        greet(&connection, &RawHello::new(cluster, 2, 1))
            .await
            .map(|_| ())
    });
    refused.expect_err("an operator is no peer");
}

#[test]
fn dialer_not_up_before_hello() {
    // The line is logged once in 10 s: somebody must listen before.
    logs();
    // The acceptor refuses the dialer's certificate after the dialer's handshake is done.
    let bed = Bed::new();
    let mine = &bed.certs.nodes[1].peer;
    let server = {
        let runtime = runtime();
        let _inside = runtime.enter();
        let server = server_endpoint(server_tls(&bed.other.ca.peer_ca().cert, mine));
        let accepting = server.clone();
        runtime.spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let _ = incoming.await;
            }
        });
        (server, runtime)
    };
    let mut node = bed.node();
    node.transport.set_peers(&[PeerAddress {
        node: 2,
        incarnation: None,
        address: server.0.local_addr().expect("address").to_string(),
    }]);
    eventually("refusal", || count(&node, "own certificate refused") >= 1);
    no_event(&node);
    let words = ["WARN", "node 2, dialled", "refused this node's certificate"];
    eventually("log", || !logs().with(&words).is_empty());
}

#[test]
fn i3_i8_no_early_data_no_tickets_and_alpn_pinned() {
    let bed = Bed::new();
    let cluster = bed.certs.ca.cluster();
    let ca = &bed.certs.ca.peer_ca().cert;
    let pair = bed.good().signed_by(&bed.ca);
    let node = bed.node();
    let runtime = runtime();
    let _inside = runtime.enter();
    let endpoint = client_endpoint();
    let to = peer_name(cluster, 1);
    // A dialer that would take a ticket and send early data gets the chance to do neither.
    let mut tls = client_tls(ca, Some(&pair));
    tls.enable_early_data = true;
    let crypto = QuicClientConfig::try_from(tls).expect("suite");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    for round in 0..2 {
        let connecting = endpoint
            .connect_with(config.clone(), node.address, &to)
            .expect("dialled");
        let connecting = connecting
            .into_0rtt()
            .map(|_| ())
            .expect_err("no early data");
        runtime.block_on(async {
            let connection = connecting.await.expect("connected");
            let greeted = greet(&connection, &RawHello::new(cluster, 2, 1)).await;
            greeted.unwrap_or_else(|error| panic!("round {round}: {error}"));
            connection.close(0u32.into(), b"");
        });
    }
    for alpn in [
        vec![],
        vec![b"h3".to_vec()],
        vec![b"conveyor-raft/2".to_vec()],
    ] {
        let mut tls = client_tls(ca, Some(&pair));
        tls.alpn_protocols = alpn.clone();
        let refused = runtime.block_on(async {
            let connection = connect(&endpoint, tls, node.address, &to).await?;
            greet(&connection, &RawHello::new(cluster, 2, 1))
                .await
                .map(|_| ())
        });
        refused.expect_err("another protocol");
    }
    eventually("ALPN", || count(&node, "tls") >= 2);
    let crypto = QuicClientConfig::try_from(client_tls(ca, Some(&pair))).expect("suite");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.version(0xff00_001d);
    if let Ok(connecting) = endpoint.connect_with(config, node.address, &to) {
        runtime.block_on(connecting).expect_err("a draft version");
    }
}

#[test]
fn i2_one_cluster_does_not_let_another_in() {
    // Two whole clusters, each with its own CA, pointed at each other by mistake.
    let bed = Bed::new();
    let mut one = Node::with(options(&bed.certs, 1));
    let mut two = Node::with(options(&bed.other, 2));
    one.transport.set_peers(&[two.peer()]);
    two.transport.set_peers(&[one.peer()]);
    for node in [&one, &two] {
        eventually("refused", || count(node, "certificate refused") >= 1);
        assert!(node.events.try_recv().is_err());
    }
}

#[test]
fn no_verifierless_constructor() {
    fn walk(dir: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).expect("readable");
                let ways = [
                    "dangerous()",
                    "with_no_client_auth",
                    "allow_unauthenticated",
                    "allow_unknown_revocation_status",
                    "with_platform_verifier",
                    "into_0rtt",
                ];
                for way in ways {
                    if text.contains(way) {
                        found.push(format!("{}: {way}", path.display()));
                    }
                }
            }
        }
    }
    let mut found = Vec::new();
    let quic = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/quic");
    walk(&quic, &mut found);
    assert!(found.is_empty(), "{found:?}");
}

//! Certificates of the client edge that change while it runs.
#![cfg(feature = "grpc")]

mod grpc_common;
mod quic_common;

use std::future::Future;
use std::time::{Duration, Instant};

use conveyor_raft::grpc::{EdgeIdentity, connect};
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    ProposeItem, ProposeStreamRequest, ProposeStreamResponse, WatchRequest, WatchResponse,
};
use conveyor_raft::quic::certs::{GeneratedCerts, PemPair, generate};
use grpc_common::{One, identity, propose, sidecar};
use quic_common::raw::{Ca, ClientAuth, Leaf, ServerAuth, ca_of, crl};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

const REVOKED: u64 = 4242;

fn client(certs: &GeneratedCerts, name: &str, serial: u64, ca: &Ca) -> PemPair {
    let mut leaf = Leaf::peer(certs.ca.cluster(), 1);
    let cluster = certs.ca.cluster();
    leaf.uris = vec![format!("conveyor-raft://{cluster}/client/writer/{name}")];
    leaf.dns.clear();
    leaf.usages = vec![ClientAuth];
    leaf.serial = serial;
    leaf.signed_by(ca)
}

fn edge(certs: &GeneratedCerts, node: u64, ca: &Ca) -> PemPair {
    edge_leaf(certs, node).signed_by(ca)
}

fn edge_leaf(certs: &GeneratedCerts, node: u64) -> Leaf {
    let mut leaf = Leaf::peer(certs.ca.cluster(), node);
    let cluster = certs.ca.cluster();
    leaf.uris = vec![format!("conveyor-raft://{cluster}/edge/{node}")];
    leaf.dns = vec!["localhost".to_owned()];
    leaf.usages = vec![ServerAuth];
    leaf
}

fn with(cas: &[&str], crls: &[String], pair: &PemPair) -> EdgeIdentity {
    EdgeIdentity::from_pem(&cas.concat(), &pair.cert, &pair.key, &crls.concat()).expect("identity")
}

async fn router(one: &One, identity: &EdgeIdentity) -> Option<RouterClient<Channel>> {
    let endpoint = format!(
        "https://localhost:{}",
        one.edge.local_addr().expect("over TCP").port()
    );
    let channel = connect(&endpoint, Some(identity)).await.ok()?;
    let mut router = RouterClient::new(channel);
    propose(&mut router, sidecar("probe")).await.ok()?;
    Some(router)
}

/// A channel that lost its connection connects anew, and then is refused: no call succeeds again.
async fn is_cut(router: &mut RouterClient<Channel>) -> bool {
    let give_up = Instant::now() + Duration::from_secs(10);
    while Instant::now() < give_up {
        if propose(router, sidecar("cut")).await.is_err() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Two connected clients, one of which is about to be revoked.
struct Two {
    good: RouterClient<Channel>,
    bad: RouterClient<Channel>,
    revoking: EdgeIdentity,
}

/// A certificate of the edge's own client authority.
fn client_of(one: &One, name: &'static str, serial: u64) -> EdgeIdentity {
    let ca = ca_of(one.certs.ca.client_ca());
    identity(&one.certs, &client(&one.certs, name, serial, &ca))
}

impl Two {
    async fn connect(one: &One) -> Self {
        let authority = one.certs.ca.client_ca();
        let list = crl(&ca_of(authority), REVOKED);
        let own = &one.certs.nodes[0].edge;
        let of = async |name, serial| router(one, &client_of(one, name, serial)).await;
        Self {
            good: of("good", 7).await.expect("let in"),
            bad: of("bad", REVOKED).await.expect("let in"),
            revoking: with(&[authority.cert.as_str()], &[list], own),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_a_revoked_client_is_cut_off_and_others_stay() {
    let one = One::start().await;
    let mut two = Two::connect(&one).await;
    let report = one.edge.reload(&two.revoking);
    let report = report.expect("taken up");
    assert_eq!((report.kept, report.closed), (1, 1));
    assert!(is_cut(&mut two.bad).await);
    assert!(
        router(&one, &client_of(&one, "bad", REVOKED))
            .await
            .is_none()
    );
    propose(&mut two.good, sidecar("good"))
        .await
        .expect("goes on");
    // It went on over its one connection: no other was begun.
    let again = one.edge.reload(&two.revoking);
    assert_eq!(again.expect("taken up").kept, 1);
    one.stop().await;
}

/// Whether the node is live, and whether it is ready, by a probe that looks for the first time.
fn probed(one: &One) -> (bool, bool) {
    one.edge.probe().look(&one.node, Instant::now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_edge_certificate_has_expired_is_not_ready_until_it_has_another() {
    let one = One::start().await;
    assert_eq!(probed(&one), (true, true));
    let authority = one.certs.ca.client_ca();
    let short = edge_leaf(&one.certs, 1).signed_for(&ca_of(authority), 3);
    let report = one.edge.reload(&identity(&one.certs, &short));
    report.expect("not expired yet");
    let give_up = Instant::now() + Duration::from_secs(20);
    while probed(&one).1 {
        assert!(Instant::now() < give_up, "it has expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(probed(&one).0, "nothing that a restart would mend");
    let report = one
        .edge
        .reload(&identity(&one.certs, &one.certs.nodes[0].edge));
    report.expect("taken up");
    assert_eq!(probed(&one), (true, true));
    one.stop().await;
}

/// A watch that has told its beginning, and a stream of proposals that was answered once.
struct Streams {
    watch: Streaming<WatchResponse>,
    send: mpsc::Sender<ProposeStreamRequest>,
    answers: Streaming<ProposeStreamResponse>,
}

impl Streams {
    async fn open(router: &mut RouterClient<Channel>) -> Self {
        let watch = router.watch(WatchRequest::default()).await.expect("let in");
        let (send, receive) = mpsc::channel(1);
        let answers = router.propose_stream(ReceiverStream::new(receive)).await;
        let mut streams = Self {
            watch: watch.into_inner(),
            send,
            answers: answers.expect("let in").into_inner(),
        };
        streams.both().await.expect("they carry");
        streams
    }

    /// A command through the one comes out at the other.
    async fn both(&mut self) -> Result<(), Status> {
        let item = ProposeItem {
            command: Some(sidecar("streamed").into()),
            ..ProposeItem::default()
        };
        let sent = self.send.send(ProposeStreamRequest { items: vec![item] });
        // Refused only if the stream has ended, which its answers tell better.
        let _ = sent.await;
        let ended = || Status::cancelled("ended");
        in_time(self.answers.message()).await?.ok_or_else(ended)?;
        in_time(self.watch.message()).await?.ok_or_else(ended)?;
        Ok(())
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, work).await.expect("in time")
}

/// What was opened before the certificate was revoked ends with it, and not only the next call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_open_streams_of_a_revoked_client_end_and_those_of_others_go_on() {
    let one = One::start().await;
    let mut two = Two::connect(&one).await;
    let mut stay = Streams::open(&mut two.good).await;
    let mut end = Streams::open(&mut two.bad).await;
    let report = one.edge.reload(&two.revoking);
    assert_eq!(report.expect("taken up").closed, 1);
    in_time(async { while let Ok(Some(_)) = end.watch.message().await {} }).await;
    in_time(async { while let Ok(Some(_)) = end.answers.message().await {} }).await;
    stay.both().await.expect("goes on");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_bad_certificates_of_the_edge_keep_the_old() {
    let one = One::start().await;
    let certs = &one.certs;
    let ca = ca_of(certs.ca.client_ca());
    let ca_pem = certs.ca.client_ca().cert.as_str();
    let good = identity(certs, &client(certs, "good", 7, &ca));
    let mut before = router(&one, &good).await.expect("let in");
    let other = generate("other", &[1], &[]).expect("certificates");
    let mixed = PemPair {
        cert: edge(certs, 1, &ca).cert,
        key: edge(certs, 1, &ca).key,
    };
    let wrong = [
        ("another node's", edge(certs, 2, &ca)),
        ("a client's", client(certs, "x", 8, &ca)),
        ("not its key", mixed),
        ("another CA's", edge(certs, 1, &ca_of(other.ca.client_ca()))),
        ("another cluster's", other.nodes[0].edge.clone()),
    ];
    for (what, pair) in wrong {
        let identity = with(&[ca_pem], &[crl(&ca, 1)], &pair);
        one.edge.reload(&identity).expect_err(what);
        propose(&mut before, sidecar("good")).await.expect(what);
        assert!(router(&one, &good).await.is_some(), "{what}");
    }
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_two_client_cas_overlap() {
    let one = One::start().await;
    let certs = &one.certs;
    let other = generate("new", &[1], &[]).expect("certificates");
    let (old, new) = (ca_of(certs.ca.client_ca()), ca_of(other.ca.client_ca()));
    let old_pem = certs.ca.client_ca().cert.as_str();
    let new_pem = other.ca.client_ca().cert.as_str();
    let crls = [crl(&old, 1), crl(&new, 1)];
    let (both, one_of) = ([old_pem, new_pem], [new_pem]);
    let reload = |cas: &[&str], crls: &[String], ca: &Ca| {
        let report = one.edge.reload(&with(cas, crls, &edge(certs, 1, ca)));
        report.expect("taken up")
    };
    let old_client = client(certs, "old", 7, &old);
    let new_client = with(&both, &crls, &client(certs, "new", 8, &new));
    let mut before = router(&one, &identity(certs, &old_client))
        .await
        .expect("in");
    assert!(router(&one, &new_client).await.is_none(), "not yet");
    assert_eq!(reload(&both, &crls, &old).closed, 0);
    let mut after = router(&one, &new_client).await.expect("in");
    // The edge shows a certificate of the new CA: a client that trusts both sees no difference.
    assert_eq!(reload(&both, &crls, &new).closed, 0);
    propose(&mut before, sidecar("old")).await.expect("goes on");
    let old_client = with(&both, &crls, &old_client);
    assert!(router(&one, &old_client).await.is_some());
    // Without the old CA its clients are out.
    assert!(reload(&one_of, &crls[1..], &new).closed >= 1);
    assert!(is_cut(&mut before).await);
    assert!(router(&one, &old_client).await.is_none());
    propose(&mut after, sidecar("new")).await.expect("goes on");
    one.stop().await;
}

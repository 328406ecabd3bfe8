//! Certificates, keys, CAs and revocation lists changed under load, by three nodes over real QUIC:
//! no proposal fails and nobody is elected.
#![allow(missing_docs)]

mod common;
mod quic_common;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::bed::leader;
use conveyor_raft::quic::certs::{GeneratedCerts, PemPair, generate};
use conveyor_raft::quic::{Credentials, ReloadReport};
use conveyor_raft::{Cluster, NodeId, RaftConfig, RaftNode, RouterCommand, RouterStateMachine};
use quic_common::logs::logs;
use quic_common::raw::{Ca, Leaf, ca_of, crl};

/// Of no certificate.
const NOBODY: u64 = 1;
/// Between the steps: time for the load to meet each.
const PAUSE: Duration = Duration::from_millis(300);

/// Two CAs of one cluster. The certificates of the generated one have other serial numbers.
struct Bed {
    certs: GeneratedCerts,
    old: Ca,
    new_pem: String,
    new: Ca,
}

impl Bed {
    fn new() -> Self {
        let certs = generate("roll", &[1, 2, 3], &[]).expect("certificates");
        let other = generate("roll-2", &[1], &[]).expect("certificates");
        Self {
            old: ca_of(certs.ca.peer_ca()),
            new_pem: other.ca.peer_ca().cert.clone(),
            new: ca_of(other.ca.peer_ca()),
            certs,
        }
    }

    fn leaf(&self, node: NodeId, ca: &Ca) -> PemPair {
        Leaf::peer(self.certs.ca.cluster(), node).signed_by(ca)
    }

    fn credentials(&self, cas: &[(&str, &Ca)], pair: &PemPair, revoked: u64) -> Credentials {
        let bundle: String = cas.iter().map(|(pem, _)| *pem).collect();
        let crls: String = cas.iter().map(|(_, ca)| crl(ca, revoked)).collect();
        let credentials = Credentials::from_pem(
            bundle.as_bytes(),
            pair.cert.as_bytes(),
            pair.key.as_bytes(),
            crls.as_bytes(),
        );
        credentials.expect("credentials")
    }

    async fn start(&self, directory: &std::path::Path) -> Vec<RaftNode> {
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let addresses = sockets.each_ref().map(|it| it.local_addr().expect("bound"));
        drop(sockets);
        let mut nodes = Vec::new();
        for (id, address) in (1..=3).zip(addresses) {
            let others = (1..=3).zip(addresses).filter(|(other, _)| *other != id);
            let others = others.map(|(other, address)| (other, address.to_string()));
            let credentials = self.certs.credentials(id).expect("credentials");
            let dir = directory.join(id.to_string());
            let cluster = Cluster::new(dir, credentials, address, others);
            let config = RaftConfig {
                node_id: id,
                ..RaftConfig::default()
            };
            let builder = RaftNode::builder(config);
            let node = builder.start(RouterStateMachine::new(), cluster).await;
            nodes.push(node.expect("starts"));
        }
        nodes
    }
}

/// Every node takes up what `of` gives for it, one after the other.
async fn step(nodes: &[RaftNode], of: impl Fn(NodeId) -> Credentials) -> Vec<ReloadReport> {
    let mut reports = Vec::new();
    for node in nodes {
        reports.push(node.reload_credentials(of(node.id())).expect("taken up"));
        tokio::time::sleep(PAUSE).await;
    }
    reports
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_rotate_cert_key_ca_overlap_and_crl_under_load() {
    let _turn = common::real_time_turn();
    let dir = common::bed::folder();
    let logs = logs();
    let bed = Bed::new();
    let nodes = bed.start(dir.path()).await;
    let leads = leader(&nodes).await;
    let first = leads.propose(service(0)).await.expect("applied");
    tokio::time::sleep(PAUSE).await;
    let (term, stop) = (leads.current_term(), Arc::new(AtomicBool::new(false)));
    let load = {
        let (leads, stop) = (leads.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut applied = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let answer = leads.propose(service(applied % 100)).await;
                answer.unwrap_or_else(|error| panic!("proposal {applied} failed: {error}"));
                applied += 1;
            }
            applied
        })
    };
    let old = (bed.certs.ca.peer_ca().cert.as_str(), &bed.old);
    let new = (bed.new_pem.as_str(), &bed.new);
    let untouched = |reports: &[ReloadReport]| {
        let closed = |report: &ReloadReport| report.revoked + report.untrusted;
        assert_eq!(reports.iter().map(closed).sum::<usize>(), 0, "{reports:?}");
        assert!(reports.iter().all(|report| report.kept >= 4), "{reports:?}");
    };
    // A certificate and key, a revocation list, a second CA, certificates of it: nobody is cut off.
    let pairs = [1, 2, 3].map(|node| bed.leaf(node, &bed.old));
    let pair = |node: NodeId| &pairs[node as usize - 1];
    untouched(&step(&nodes, |id| bed.credentials(&[old], pair(id), NOBODY)).await);
    untouched(&step(&nodes, |id| bed.credentials(&[old], pair(id), NOBODY + 1)).await);
    untouched(&step(&nodes, |id| bed.credentials(&[old, new], pair(id), NOBODY)).await);
    let pairs = [1, 2, 3].map(|node| bed.leaf(node, &bed.new));
    let pair = |node: NodeId| &pairs[node as usize - 1];
    untouched(&step(&nodes, |id| bed.credentials(&[old, new], pair(id), NOBODY)).await);
    // Without the old CA: connections that were begun under it are begun anew.
    let reports = step(&nodes, |id| bed.credentials(&[new], pair(id), NOBODY)).await;
    assert!(reports[0].untrusted >= 4, "{reports:?}");
    assert!(reports.iter().all(|report| report.revoked == 0));
    for node in &nodes {
        // Both classes to both others, dialled and accepted.
        let count = node.transport_stats().len();
        assert!(count >= 8, "node {} has {count} connections", node.id());
    }
    // Nobody was turned away: whoever was to begin anew did so at once.
    let refused = logs.with(&["peer refused", "revoked"]);
    assert!(refused.is_empty(), "{refused:?}");
    stop.store(true, Ordering::Relaxed);
    let applied = load.await.expect("no proposal failed");
    assert!(applied > 100, "{applied}");
    for node in &nodes {
        assert_eq!(node.current_term(), term, "nobody was elected");
        assert_eq!(node.leader_id(), Some(leads.id()));
    }
    assert!(leads.applied_index() > first.index + u64::from(applied) / 2);
    for node in &nodes {
        node.shutdown().await;
    }
}

fn service(number: u32) -> RouterCommand {
    RouterCommand::register_service(format!("mask-{number}"), "transform", "10.0.1.5:8081")
}

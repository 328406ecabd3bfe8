//! Certificates that change under running processes, by themselves and on SIGHUP.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod client;
mod common;
#[path = "serve_common/history.rs"]
mod history;
mod serve_common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::Caller;
use history::History;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serve_common::{PATIENCE, Running, Site, run, stderr, stdout};

const PEERS: &str = "credentials for peers taken up";
const CLIENTS: &str = "certificates of the client edge taken up";
const REFUSED: &str = "the old ones stay in force";

fn certs(site: &Site, args: &[&str]) -> String {
    let dir = site.path("certs");
    let mut all = vec!["certs"];
    all.extend(args);
    all.extend(["--dir", dir.to_str().expect("UTF-8")]);
    let output = run(&all);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn count(site: &Site, node: u64, line: &str) -> usize {
    site.log(node).matches(line).count()
}

async fn wait_for(site: &Site, node: u64, line: &str, times: usize) {
    let give_up = Instant::now() + PATIENCE;
    while count(site, node, line) < times {
        let log = site.log(node);
        assert!(Instant::now() < give_up, "node {node}, {line}: {log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As an operator would: what the node has is overwritten, file after file.
fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        let to = to.join(name);
        fs::create_dir_all(to.parent().expect("below")).expect("directory");
        fs::copy(from.join(name), to).expect("copied");
    }
}

const BUNDLES: [&str; 4] = [
    "peer-ca.pem",
    "peer-ca.crl",
    "client-ca.pem",
    "client-ca.crl",
];

fn copy_bundles(site: &Site, node: u64) {
    let to = site.path(&format!("certs-{node}"));
    copy(&site.path("certs"), &to, &BUNDLES);
}

fn copy_leaves(site: &Site, node: u64) {
    let to = site.path(&format!("certs-{node}"));
    let names = ["peer.pem", "peer.key", "edge.pem", "edge.key"];
    let names = names.map(|name| format!("node-{node}/{name}"));
    copy(
        &site.path("certs"),
        &to,
        &names.each_ref().map(String::as_str),
    );
}

/// Node 1 is told, the others find out by themselves.
async fn roll(site: &Site, nodes: &[Running], copy: impl Fn(&Site, u64), times: usize) {
    for node in nodes {
        copy(site, node.node);
        if node.node == 1 {
            node.hang_up();
        }
        wait_for(site, node.node, PEERS, times).await;
        wait_for(site, node.node, CLIENTS, times).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_a_ca_is_rolled_over_three_processes_under_load() {
    let _turn = common::real_time_turn();
    let site = Arc::new(Site::new(3));
    for node in 1..=3 {
        copy_bundles(&site, node);
        copy_leaves(&site, node);
        site.write_config(node, &format!("certs-{node}"));
    }
    let nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let mut caller = Caller::new(&site);
    let mut history = History::begin(&mut caller).await;
    history.send_many(&mut caller, 20).await;
    let leader = caller.leader().await;
    let before = caller.agree(history.last_index()).await;
    let (stop, renew) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let load = {
        let (site, stop, renew) = (Arc::clone(&site), Arc::clone(&stop), Arc::clone(&renew));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                history.send(&mut caller).await;
                // Clients have their own copies, and connect anew with them.
                if renew.swap(false, Ordering::SeqCst) {
                    caller = Caller::new(&site);
                }
            }
            (history, caller)
        })
    };
    let renewed = async || {
        renew.store(true, Ordering::SeqCst);
        while renew.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    certs(&site, &["rotate", "trust"]);
    roll(&site, &nodes, copy_bundles, 1).await;
    renewed().await;
    certs(&site, &["rotate", "issue"]);
    roll(&site, &nodes, copy_leaves, 2).await;
    renewed().await;
    certs(&site, &["rotate", "retire"]);
    roll(&site, &nodes, copy_bundles, 3).await;
    renewed().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::SeqCst);
    let (history, caller) = load.await.expect("load");
    assert_eq!(history.unknown(), 0, "a proposal failed");
    assert!(history.acknowledged.len() > 100);
    history.check_all(&site, &caller, 1..=3).await;
    let after = caller.agree(history.last_index()).await;
    assert_eq!(after.term, before.term, "nobody was elected");
    assert_eq!(caller.leader().await, leader);
    for node in 1..=3 {
        assert_eq!(count(&site, node, REFUSED), 0, "{}", site.log(node));
    }
    for node in nodes {
        let id = node.node;
        assert!(node.terminate().success(), "node {id}: {}", site.log(id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_bad_files_keep_the_old_and_a_revoked_client_is_out() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    certs(&site, &["client", "guest", "--role", "reader"]);
    let node = site.start(1);
    let caller = Caller::new(&site);
    caller.reachable().await;
    let endpoint = site.endpoint(1);
    let status = |name: &str| {
        let file = |name: &str| site.path("certs").join(name).display().to_string();
        let output = run(&[
            "status",
            "--endpoint",
            &endpoint,
            "--ca",
            &file("client-ca.pem"),
            "--cert",
            &file(&format!("clients/{name}.pem")),
            "--key",
            &file(&format!("clients/{name}.key")),
        ]);
        output.status.success()
    };
    assert!(status("guest"));
    let key = site.path("certs").join("node-1/peer.key");
    let good = fs::read(&key).expect("key");
    // By itself it says once what is wrong, and goes on.
    fs::copy(site.path("certs").join("node-1/edge.key"), &key).expect("copied");
    wait_for(&site, 1, REFUSED, 1).await;
    assert!(
        site.log(1).contains("does not belong to the certificate"),
        "{}",
        site.log(1)
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(count(&site, 1, REFUSED), 1, "{}", site.log(1));
    assert!(status("guest"));
    // On SIGHUP it says it again.
    node.hang_up();
    wait_for(&site, 1, REFUSED, 2).await;
    fs::write(&key, good).expect("key");
    wait_for(&site, 1, PEERS, 1).await;
    // The client edge was in order all along: SIGHUP took it up, and nothing else did.
    assert_eq!(count(&site, 1, CLIENTS), 1, "{}", site.log(1));

    certs(&site, &["revoke", "--client", "guest"]);
    wait_for(&site, 1, CLIENTS, 2).await;
    assert!(!status("guest"));
    assert!(status("operator"));
    assert_eq!(count(&site, 1, PEERS), 1, "its files did not change");

    // A lost key: another certificate, then the old one on the list. The node uses the new one by
    // then, or it would refuse the list that names its own.
    let pem = fs::read(site.path("certs/node-1/peer.pem")).expect("certificate");
    let der = CertificateDer::from_pem_slice(&pem).expect("PEM");
    let (_, old) = x509_parser::parse_x509_certificate(&der).expect("parsed");
    certs(&site, &["renew", "--node", "1"]);
    wait_for(&site, 1, PEERS, 2).await;
    wait_for(&site, 1, CLIENTS, 3).await;
    certs(&site, &["revoke", "--serial", &old.raw_serial_as_string()]);
    wait_for(&site, 1, PEERS, 3).await;
    assert!(status("operator"));
    assert_eq!(count(&site, 1, REFUSED), 2, "{}", site.log(1));
    assert!(node.terminate().success());
}

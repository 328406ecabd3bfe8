//! What a node refuses, in one clear line each, with nothing damaged.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod client;
mod common;
mod serve_common;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use client::{Caller, Fate};
use conveyor_raft::RouterCommand;
use serve_common::{BINARY, PATIENCE, Site, certs_init, run, stderr};

async fn wait_for(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < give_up, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn c12_ports_and_directories_in_use_are_named() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    let (peers, clients) = site.ports[0];
    let held = TcpListener::bind(("127.0.0.1", clients)).expect("port");
    let said = site.refused(1);
    assert!(
        said.contains("listen") && said.contains(&clients.to_string()),
        "{said}"
    );
    drop(held);
    let node = site.start(1);
    let caller = Caller::new(&site);
    wait_for("node 1 answers", async || {
        caller.status(&site.endpoint(1)).await.is_some()
    })
    .await;

    // The same directory, other ports.
    let text = fs::read_to_string(site.config(1)).expect("settings");
    let text = text
        .replace(&clients.to_string(), "0")
        .replace(&peers.to_string(), "0");
    fs::write(site.config(1), text).expect("settings");
    let said = site.refused(1);
    assert!(said.contains("data-1") && said.contains("in use"), "{said}");
    assert!(
        caller.status(&site.endpoint(1)).await.is_some(),
        "the first one is not disturbed"
    );
    drop(node);

    let site = Site::new(3);
    let held = UdpSocket::bind(("127.0.0.1", site.ports[0].0)).expect("port");
    let said = site.refused(1);
    assert!(said.contains(&site.ports[0].0.to_string()), "{said}");
    drop(held);
}

#[test]
fn i1_missing_readable_and_foreign_certificates_are_named() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    for name in ["peer", "edge"] {
        let key = site.path(&format!("certs/node-1/{name}.key"));
        let away = key.with_extension("away");
        fs::rename(&key, &away).expect("move");
        let said = site.refused(1);
        assert!(said.contains(key.to_str().expect("UTF-8")), "{said}");
        fs::rename(&away, &key).expect("move back");

        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("mode");
        let said = site.refused(1);
        assert!(said.contains("chmod 600"), "{said}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");

        let cert = site.path(&format!("certs/node-1/{name}.pem"));
        let good = fs::read(&cert).expect("read");
        fs::write(&cert, "no certificate").expect("write");
        site.refused(1);
        fs::write(&cert, good).expect("write back");
    }
    // Another node's certificate.
    let text = fs::read_to_string(site.config(1)).expect("settings");
    fs::write(site.config(1), text.replace("node-1/peer", "node-2/peer")).expect("settings");
    let said = site.refused(1);
    assert!(said.contains('2') && said.contains("certificate"), "{said}");
    assert!(!site.path("data-1/META").exists(), "nothing was made");
}

#[tokio::test]
async fn c12_directories_of_another_node_or_cluster_or_damaged_are_refused() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    let node = site.start(1);
    let mut caller = Caller::new(&site);
    assert!(matches!(
        caller.propose(RouterCommand::Noop).await,
        Fate::Applied(_)
    ));
    assert!(node.terminate().success(), "{}", site.log(1));

    // The certificates of another cluster over this one's data.
    certs_init(&site.path("other"), &[1]);
    site.write_config(1, "other");
    let said = site.refused(1);
    assert!(said.contains("cluster"), "{said}");
    site.write_config(1, "certs");

    // Both copies of META damaged: no guess is made.
    let meta = site.path("data-1/META");
    let good = fs::read(&meta).expect("read");
    let bad: Vec<u8> = good.iter().map(|byte| byte ^ 0x5a).collect();
    fs::write(&meta, &bad).expect("write");
    let said = site.refused(1);
    assert!(said.contains("META"), "{said}");
    assert_eq!(
        fs::read(&meta).expect("read"),
        bad,
        "the evidence is left as it was"
    );
    fs::write(&meta, good).expect("write");

    let node = site.start(1);
    // A new one: the connection of the old one is gone with the process.
    let mut caller = Caller::new(&site);
    let index = match caller.propose(RouterCommand::Noop).await {
        Fate::Applied(response) => response.index,
        Fate::Unknown => panic!("unknown outcome: {}", site.log(1)),
    };
    assert!(index > 2, "the log goes on where it was");
    assert!(node.terminate().success());
}

#[test]
fn c8_a_full_disk_is_named() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    let data = site.path("data-1");
    fs::create_dir(&data).expect("directory");
    // A file system of its own in a namespace of its own; not every machine lets us.
    let mount = format!("mount -t tmpfs -o size=4m none {}", data.display());
    let unshare = |script: &str| {
        let shell = ["-rm", "sh", "-c", script];
        Command::new("unshare").args(shell).output()
    };
    let possible = unshare(&mount).is_ok_and(|output| output.status.success());
    if !common::needs("a mount namespace", possible) {
        return;
    }
    let serve = format!(
        "{mount} && exec {BINARY} serve --config {}",
        site.config(1).display()
    );
    let output = unshare(&serve).expect("runs");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("full") || said.contains("No space left"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e8_a_wiped_directory_does_not_vote_or_count() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let mut caller = Caller::new(&site);
    assert!(matches!(
        caller.propose(RouterCommand::Noop).await,
        Fate::Applied(_)
    ));
    caller.agree(1).await;
    let leader = caller.leader().await;
    let wiped = (1..=3).find(|node| *node != leader).expect("a follower");
    let at = nodes
        .iter()
        .position(|running| running.node == wiped)
        .expect("runs");
    nodes.swap_remove(at).kill();
    fs::remove_dir_all(site.path(&format!("data-{wiped}"))).expect("wipe");
    let again = site.start(wiped);
    wait_for("the wiped node says what to do", async || {
        let status = caller.status(&site.endpoint(wiped)).await;
        status.is_some_and(|status| status.advice.is_some())
    })
    .await;
    // The other two go on; with one of them gone, the wiped one is no help.
    assert!(matches!(
        caller.propose(RouterCommand::Noop).await,
        Fate::Applied(_)
    ));
    let at = nodes
        .iter()
        .position(|running| running.node == leader)
        .expect("runs");
    nodes.swap_remove(at).kill();
    let quiet = Instant::now() + Duration::from_secs(3);
    while Instant::now() < quiet {
        for node in 1..=3 {
            if let Some(status) = caller.status(&site.endpoint(node)).await {
                assert_ne!(status.leader_id, node, "node {node} leads without a quorum");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop((again, nodes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_node_of_another_ca_gets_in_nowhere_and_the_log_says_why() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let mut caller = Caller::new(&site);
    assert!(matches!(
        caller.propose(RouterCommand::Noop).await,
        Fate::Applied(_)
    ));
    caller.agree(1).await;
    let at = nodes
        .iter()
        .position(|running| running.node == 3)
        .expect("runs");
    assert!(nodes.swap_remove(at).terminate().success());

    certs_init(&site.path("other"), &[1, 2, 3]);
    fs::remove_dir_all(site.path("data-3")).expect("wipe");
    site.write_config(3, "other");
    let mut stranger = site.start(3);
    wait_for("both sides log the refusal", async || {
        let told = |node| site.log(node).contains("refused");
        (told(1) || told(2)) && told(3)
    })
    .await;
    assert!(matches!(
        caller.propose(RouterCommand::Noop).await,
        Fate::Applied(_)
    ));
    assert!(!stranger.has_ended());
}

#[test]
fn settings_are_checked_before_anything_is_touched() {
    let site = Site::new(1);
    let text = fs::read_to_string(site.config(1)).expect("settings");
    let refused_with = |text: &str, word: &str| {
        fs::write(site.config(1), text).expect("settings");
        let said = site.refused(1);
        assert!(said.contains(word), "{said}");
    };
    refused_with(&format!("{text}\n[snapshots]\nkeep = 2\n"), "snapshots");
    refused_with(
        &text.replace("segment_bytes", "segment_byte"),
        "segment_byte",
    );
    refused_with(&text.replace("single = true", ""), "single");
    refused_with(
        &format!("{text}\n[raft]\nheartbeat_interval_ms = 100\n"),
        "heartbeat",
    );
    assert!(!site.path("data-1").exists(), "nothing was made");
    let output = run(&["serve", "--config", "/nowhere/at/all.toml"]);
    assert!(stderr(&output).contains("/nowhere/at/all.toml"));
    assert_eq!(output.status.code(), Some(1));
}

/// The settings of node 1 with this in place of its edge's TLS.
fn without_tls(site: &Site, edge: &str) {
    let text = fs::read_to_string(site.config(1)).expect("settings");
    let (before, rest) = text.split_once("[edge]").expect("a section");
    let (_, after) = rest.split_once("[wal]").expect("a section");
    let text = format!("{before}[edge]\n{edge}\n[wal]{after}");
    fs::write(site.config(1), text).expect("settings");
}

#[tokio::test]
async fn i8_a_node_on_a_unix_socket_is_asked_by_its_path_and_leaves_nothing_behind() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    let path = site.path("edge.sock");
    // Beside its settings, whatever the working directory.
    without_tls(
        &site,
        "listen = \"unix:edge.sock\"\nplaintext = \"unix\"\nplaintext_role = \"operator\"",
    );
    let node = site.start(1);
    let endpoint = format!("unix:{}", path.display());
    let asked = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--endpoint", &endpoint]);
        run(&all)
    };
    wait_for("the node leads", async || {
        let status = asked(&["status", "--json"]);
        String::from_utf8_lossy(&status.stdout).contains("\"leader\"")
    })
    .await;
    let output = asked(&["members", "show"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains(&endpoint), "clients are told of it: {shown}");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // What a killed process leaves does not keep the next one from its place.
    node.kill();
    assert!(path.exists());
    let node = site.start(1);
    wait_for("it is back", async || asked(&["status"]).status.success()).await;
    assert!(node.terminate().success());
    assert!(!path.exists());
}

#[tokio::test]
async fn i8_plain_text_that_others_could_reach_is_refused_with_what_to_do() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    for (edge, words) in [
        ("listen = \"unix:edge.sock\"", "plaintext = \"unix\""),
        (
            "listen = \"127.0.0.1:0\"\nplaintext = \"unix\"",
            "listen = \"unix:PATH\"",
        ),
        (
            "listen = \"0.0.0.0:0\"\nplaintext = \"loopback\"",
            "is not a loopback address",
        ),
        (
            "listen = \"0.0.0.0:0\"\nallow_plaintext_anywhere = true",
            "drop it",
        ),
        (
            "listen = \"0.0.0.0:0\"\nplaintext = \"loopback\"\nallow_plaintext_anywhere = true",
            "feature insecure-edge",
        ),
    ] {
        without_tls(&site, edge);
        let said = site.refused(1);
        assert!(said.contains(words), "{edge}: {said}");
    }
}

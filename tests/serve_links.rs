//! What `conveyor-raft status` says of the connections between real processes: one that is up, one whose
//! other end never came, and a peer that is refused.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod caller;
mod common;
mod serve_common;

use std::time::{Duration, Instant};

use caller::{Caller, operator};
use conveyor_raft::client::{Client, ClientOptions, MemberStatus};
use conveyor_raft::proto::Role;
use serde_json::Value;
use serve_common::{PATIENCE, Site, certs_init, run, stderr, stdout};

fn status(site: &Site, node: u64, more: &[&str]) -> Option<String> {
    let (endpoint, certs) = (site.endpoint(node), site.path("certs"));
    let certs = certs.to_str().expect("UTF-8");
    let mut args = vec!["status", "--endpoint", &endpoint, "--certs", certs];
    args.extend(more);
    let output = run(&args);
    output.status.success().then(|| stdout(&output))
}

/// The status of node 1 once it is as wanted.
fn until(site: &Site, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < end {
        last = status(site, 1, &["--json"]).map(|text| serde_json::from_str(&text).expect("JSON"));
        match last {
            Some(status) if wanted(&status) => return status,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    panic!("{what}: {last:?}");
}

/// None before there is a configuration.
fn peer(status: &Value, node: u64) -> Option<&Value> {
    let mut peers = status["peers"].as_array()?.iter();
    peers.find(|peer| peer["node_id"] == node)
}

fn link<'a>(status: &'a Value, node: u64, class: &str, dialled: bool) -> Option<&'a Value> {
    let mut links = peer(status, node)?["links"].as_array()?.iter();
    links.find(|link| link["class"] == class && link["dialled"] == dialled)
}

fn is_up(status: &Value, node: u64, class: &str, dialled: bool) -> bool {
    link(status, node, class, dialled).is_some_and(|link| link["state"] == "up")
}

#[test]
fn status_says_how_each_connection_between_nodes_is() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    // Another cluster's authority, with the same numbers.
    certs_init(&site.path("other"), &[1, 2, 3]);
    let (_one, _two, three) = (site.start(1), site.start(2), site.start(3));
    let sides = [true, false];
    let both_up = |status: &Value| {
        let up = |class| sides.iter().all(|side| is_up(status, 2, class, *side));
        up("control") && up("data")
    };
    let shown = until(&site, "both classes of both sides", both_up);
    let data = link(&shown, 2, "data", true).expect("a row");
    for figure in [
        "rtt_us",
        "cwnd_bytes",
        "mtu_bytes",
        "bytes_sent",
        "bytes_received",
        "epoch",
        "connects",
    ] {
        assert!(data[figure].as_u64() > Some(0), "{figure}: {data}");
    }
    let heartbeats = |status: &Value| {
        peer(status, 2).is_some_and(|two| two["frames"].to_string().contains("\"heartbeat\""))
    };
    until(&site, "heartbeats", heartbeats);

    // Nobody is at the third's address any more: tried again and again, and said so.
    three.kill();
    let ended = |status: &Value| link(status, 3, "data", true).map(|link| link["downs"].clone());
    let tried = |status: &Value| {
        !is_up(status, 3, "data", true) && ended(status).is_some_and(|downs| downs.is_array())
    };
    let shown = until(&site, "attempts that came to nothing", tried);
    assert!(!is_up(&shown, 3, "data", true), "{shown}");
    assert!(!shown["refusals"].to_string().contains("certificate"));

    // A node with the certificates of another authority is there instead.
    std::fs::remove_dir_all(site.path("data-3")).expect("its directory");
    site.write_config(3, "other");
    let _three = site.start(3);
    let refused = |status: &Value| status["refusals"].to_string().contains("certificate");
    until(&site, "refusals", refused);

    let words = status(&site, 1, &["--links"]).expect("an answer");
    for wanted in [
        "CLASS",
        "control  us",
        "data     them",
        "data ended: ",
        "frames sent/received: ",
        "refused  ",
    ] {
        assert!(words.contains(wanted), "{wanted:?} in {words}");
    }
    let short = status(&site, 1, &[]).expect("an answer");
    assert!(!short.contains("CLASS"), "{short}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_answer_has_the_status_of_every_member() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let leads = Caller::new(&site).leader().await;
    let gone = if leads == 3 { 2 } else { 3 };
    // Of one endpoint only the others are known.
    let mut options = ClientOptions::new([site.endpoint(1)], Some(operator(&site)));
    options.deadline = Duration::from_secs(2);
    let client = Client::new(options).expect("a client");
    let all = client.status_of_all().await.expect("an answer");
    let says = |node: &MemberStatus| node.status.as_ref().expect("it answers").node_id;
    assert_eq!(all.nodes.iter().map(says).collect::<Vec<_>>(), [1, 2, 3]);
    let leading = all.nodes.iter().filter(|node| {
        let status = node.status.as_ref().expect("it answers");
        status.node_id == leads && status.role() == Role::Leader
    });
    assert_eq!(leading.count(), 1);
    assert_eq!(all.membership.leader_id, leads);

    let (one, certs) = (site.endpoint(1), site.path("certs"));
    let certs = certs.to_str().expect("UTF-8");
    let args = [
        "status",
        "--all",
        "--json",
        "--endpoint",
        &one,
        "--certs",
        certs,
    ];
    let output = run(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 3);

    nodes.remove(gone as usize - 1).kill();
    let all = client.status_of_all().await.expect("an answer");
    let silent = all.nodes.iter().filter(|node| node.status.is_err());
    let silent: Vec<_> = silent.map(|node| node.node_id).collect();
    assert_eq!(silent, [gone]);
    let output = run(&args);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stdout(&output).lines().count(), 2);
    assert!(stderr(&output).contains(&format!("no status from node {gone}")));
}

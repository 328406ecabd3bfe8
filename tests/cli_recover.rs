//! A cluster of processes loses its majority for good, and another one is made out of what is left.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod client;
mod common;
#[path = "serve_common/history.rs"]
mod history;
mod serve_common;

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use client::Caller;
use common::files_of;
use history::History;
use serde_json::Value;
use serve_common::{PATIENCE, Running, Site, certs_init, stderr, stdout};

fn run(args: &[&str]) -> Output {
    tokio::task::block_in_place(|| serve_common::run(args))
}

fn runs(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn refused(args: &[&str]) -> String {
    let output = run(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    said
}

/// As an operator, at node 3.
fn members(site: &Site, args: &[&str]) -> String {
    let (endpoint, certs) = (site.endpoint(3), site.path("certs"));
    let certs = certs.to_str().expect("UTF-8");
    let of_all = ["--endpoint", &endpoint, "--timeout", "30", "--certs", certs];
    runs(&[&["members"], args, &of_all].concat())
}

fn is_waiting(site: &Site, node: u64) -> bool {
    let view = members(site, &["show", "--json"]);
    let view: Value = serde_json::from_str(&view).expect("JSON");
    let waiting = view["waiting"].as_array().cloned().unwrap_or_default();
    waiting.iter().any(|one| one["node_id"] == node)
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes the settings of a node with another `list` and `join` than those of its cluster's founders.
fn place(site: &Site, node: u64, list: &str, join: bool) {
    site.write_config(node, "certs");
    let text = fs::read_to_string(site.config(node)).expect("settings");
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some(("list", _)) => list.to_owned(),
        Some(("join", _)) => format!("join = {join}"),
        _ => line.to_owned(),
    });
    let lines: Vec<_> = lines.collect();
    fs::write(site.config(node), lines.join("\n")).expect("settings");
}

/// A cluster with acknowledged commands that all its nodes have. Then they are killed, one is gone with
/// its directory, another's is set aside, and the third is `old-3`.
async fn lose_the_majority(site: &Site) -> History {
    let nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let mut caller = Caller::new(site);
    let mut history = History::begin(&mut caller).await;
    history.send_many(&mut caller, 60).await;
    caller.agree(history.last_index()).await;
    let data = site.path("data-3");
    let said = refused(&["recover", data.to_str().expect("UTF-8"), "--dry-run"]);
    assert!(said.contains("in use"), "{said}");
    nodes.into_iter().for_each(Running::kill);
    fs::remove_dir_all(site.path("data-1")).expect("gone");
    for node in [2, 3] {
        let (from, to) = (format!("data-{node}"), format!("old-{node}"));
        fs::rename(site.path(&from), site.path(&to)).expect("moved");
        fs::remove_file(site.path(&format!("log-{node}"))).expect("its output");
    }
    fs::rename(site.path("certs"), site.path("old-certs")).expect("moved");
    certs_init(&site.path("certs"), &[1, 2, 3]);
    history
}

/// Makes `data-3` out of `old-3`, which stays as it is.
fn recover(site: &Site) {
    let (old, new) = (site.path("old-3"), site.path("data-3"));
    let certs = site.path("certs");
    let [old_dir, new_dir, certs] = [&old, &new, &certs].map(|path| path.to_str().expect("UTF-8"));
    let before = files_of(&old);
    let plan = runs(&["recover", old_dir, "--dry-run"]);
    for wanted in [
        "node        3",
        "node 1  127.0.0.1:",
        "lost   EVERY",
        "Nothing was changed",
    ] {
        assert!(plan.contains(wanted), "{wanted}: {plan}");
    }
    let told = runs(&["recover", old_dir, "--dry-run", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["plan"]["node_id"], 3, "{told}");
    assert_eq!(told["plan"]["members"].as_array().map(Vec::len), Some(3));
    assert!(told["made"].is_null(), "{told}");
    let args = ["recover", old_dir, "--into", new_dir, "--certs", certs];
    let undecided = run(&[&args[..], &["--json"]].concat());
    assert_eq!(undecided.status.code(), Some(2), "it could not ask");
    let plan = runs(&[&args[..], &["--dry-run"]].concat());
    assert!(plan.contains(&format!("made   {new_dir}")), "{plan}");
    let said = refused(&args);
    assert!(said.contains("--yes"), "{said}");
    let old_certs = site.path("old-certs");
    let old_certs = old_certs.to_str().expect("UTF-8");
    let same = [&args[..5], &[old_certs, "--yes"]].concat();
    let said = refused(&same);
    assert!(said.contains("certs init"), "{said}");
    assert!(!new.exists(), "nothing was made");
    let made = runs(&[&args[..], &["--yes", "--json"]].concat());
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["made"]["data_dir"], new_dir, "{made}");
    let said = refused(&[&args[..], &["--yes"]].concat());
    assert!(said.contains("exists"), "{said}");
    assert!(files_of(&old) == before, "the old directory was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j1_j4_a_lost_quorum_is_recovered_as_another_cluster() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let mut history = lose_the_majority(&site).await;
    recover(&site);

    // Alone: everything is there, and it takes more.
    place(&site, 3, "single = true", false);
    let node = site.start(3);
    let mut caller = Caller::new(&site);
    caller.only(&site, &[3]);
    caller.reachable().await;
    history.check_all(&site, &caller, [3]).await;
    history.send_many(&mut caller, 20).await;
    assert!(history.acknowledged.len() >= 80);
    assert!(tokio::task::block_in_place(|| node.terminate()).success());

    // Others join it.
    place(&site, 3, "list = []", true);
    let at = format!(
        "list = [{{ id = 3, addr = \"127.0.0.1:{}\" }}]",
        site.ports[2].0
    );
    place(&site, 1, &at, true);
    let _third = site.start(3);
    let _first = site.start(1);
    let mut caller = Caller::new(&site);
    caller.only(&site, &[3]);
    caller.leader().await;
    wait_for("node 1 waits", || is_waiting(&site, 1)).await;
    members(&site, &["add", "1", "--wait"]);
    history.send_many(&mut caller, 20).await;
    caller.only(&site, &[1, 3]);
    history.check_all(&site, &caller, [1, 3]).await;

    // An old member does not, whatever it holds.
    fs::rename(site.path("old-2"), site.path("data-2")).expect("moved back");
    site.write_config(2, "old-certs");
    let mut stranger = site.start(2);
    wait_for("both sides log the refusal", || {
        let told = |node| site.log(node).contains("refused");
        (told(1) || told(3)) && told(2)
    })
    .await;
    assert!(!is_waiting(&site, 2));
    history.send_many(&mut caller, 20).await;
    history.check_all(&site, &caller, [1, 3]).await;
    assert!(!stranger.has_ended());
}

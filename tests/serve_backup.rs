//! A backup of a running cluster becomes another cluster beside it, by the command line.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod client;
mod common;
#[path = "common/cutting.rs"]
mod cutting;
#[path = "common/noise.rs"]
mod noise;
mod serve_common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use client::{Caller, Fate};
use conveyor_raft::node::recover::Survivor;
use conveyor_raft::{RouterCommand, RouterStateMachine};
use cutting::Cutting;
use noise::noise;
use serde_json::Value;
use serve_common::{PATIENCE, Site, run, stderr, stdout};
use tokio::sync::watch;

fn program(site: &Site, node: u64, args: &[&str]) -> Output {
    let (endpoint, certs) = (site.endpoint(node), site.path("certs"));
    let mut all = args.to_vec();
    all.extend(["--endpoint", &endpoint, "--json"]);
    all.extend(["--certs", certs.to_str().expect("UTF-8")]);
    tokio::task::block_in_place(|| run(&all))
}

fn runs(site: &Site, node: u64, args: &[&str]) -> Value {
    let output = program(site, node, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap_or_default()
}

fn refused(output: &Output) -> String {
    let said = (output.status.code(), stderr(output));
    let last = said.1.lines().last().unwrap_or_default();
    // A refusal by the state, or of who asks.
    assert!(
        matches!(said.0, Some(1 | 4)) && last.starts_with("error: "),
        "{said:?}"
    );
    said.1
}

fn with_backups(site: &Site) {
    for node in 1..=site.ports.len() as u64 {
        let mut text = fs::read_to_string(site.config(node)).expect("settings");
        text.push_str(&format!("[backup]\ndir = \"backups-{node}\"\n"));
        fs::write(site.config(node), text).expect("settings");
    }
}

fn status(site: &Site, node: u64) -> Option<Value> {
    let output = program(site, node, &["status"]);
    serde_json::from_str(&stdout(&output)).ok()
}

/// Until the node's status is as wanted.
async fn wait_for(site: &Site, node: u64, wanted: impl Fn(&Value) -> bool) -> Value {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match status(site, node) {
            Some(status) if wanted(&status) => return status,
            other => assert!(Instant::now() < give_up, "{other:?}: {}", site.log(node)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn knows_a_leader(status: &Value) -> bool {
    status["leader_id"]
        .as_u64()
        .is_some_and(|leader| leader > 0)
}

fn service(number: u64) -> RouterCommand {
    RouterCommand::register_service(format!("mask-{number}"), "transform", "10.0.1.5:8081")
}

/// Proposes until told to stop; how many were applied.
async fn load(mut caller: Caller, stop: watch::Receiver<bool>) -> u64 {
    let mut applied = 0;
    while !*stop.borrow() {
        if let Fate::Applied(_) = caller.propose(service(applied)).await {
            applied += 1;
        }
    }
    applied
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn j1_a_backup_of_a_follower_under_load_becomes_another_cluster_beside_the_old_one() {
    let _turn = common::real_time_turn();
    let old = Site::new(3);
    with_backups(&old);
    let _nodes: Vec<_> = (1..=3).map(|node| old.start(node)).collect();
    let leads = wait_for(&old, 1, knows_a_leader).await["leader_id"].as_u64();
    let follower = (1..=3)
        .find(|node| Some(*node) != leads)
        .expect("a follower");
    let (stop, stopped) = watch::channel(false);
    let loading = tokio::spawn(load(Caller::new(&old), stopped));
    wait_for(&old, follower, |status| {
        status["applied_index"].as_u64() > Some(200)
    })
    .await;

    let made = runs(&old, follower, &["backup", "create", "nightly"]);
    let file = old.path("nightly.snapshot");
    runs_plainly(
        &old,
        follower,
        &["backup", "fetch", "nightly", "--out", text(&file)],
    );
    let verified = run(&["backup", "verify", text(&file), "--json"]);
    let verified: Value = serde_json::from_str(&stdout(&verified)).expect("JSON");
    assert_eq!(verified["digest"], made["digest"]);

    // The new cluster's first member, while the old cluster goes on.
    let new = Site::waiting(2);
    let restore = |certs: &Path, into: &Path, more: &[&str]| {
        let address = format!("127.0.0.1:{}", new.ports[0].0);
        let endpoint = new.endpoint(1);
        let mut args = vec!["backup", "restore", text(&file), "--node", "1"];
        args.extend(["--data-dir", text(into), "--certs", text(certs)]);
        args.extend(["--address", &address, "--client-endpoint", &endpoint]);
        args.extend(more);
        run(&args)
    };
    let (certs, data) = (new.path("certs"), new.path("data-1"));
    let same = refused(&restore(&old.path("certs"), &data, &[]));
    assert!(same.contains("that of the old one"), "{same}");
    let dry = restore(&certs, &data, &["--dry-run"]);
    assert!(dry.status.success() && !data.exists(), "{}", stderr(&dry));
    let restored = restore(&certs, &data, &[]);
    assert!(restored.status.success(), "{}", stderr(&restored));
    let taken = refused(&restore(&certs, &data, &[]));
    assert!(taken.contains("nothing is ever overwritten"), "{taken}");
    same_state(&data, &made);

    let first = new.start(1);
    let leader = wait_for(&new, 1, |status| status["leader_id"] == 1).await;
    let index = |value: &Value, key: &str| value[key].as_u64().expect("a number");
    assert!(index(&leader, "applied_index") >= index(&made, "commit_index"));
    assert_ne!(leader["cluster_id"], made["cluster_id"]);
    let mut caller = Caller::new(&new);
    caller.only(&new, &[1]);
    assert!(matches!(
        caller.propose(service(1_000_000)).await,
        Fate::Applied(_)
    ));
    each_refuses_the_other(&old, &new).await;

    // The old one went on all the time, and the new one grows.
    let _second = new.start(2);
    let give_up = Instant::now() + PATIENCE;
    while !program(
        &new,
        1,
        &["members", "add", "2", "--wait", "--timeout", "30"],
    )
    .status
    .success()
    {
        assert!(Instant::now() < give_up, "{}", new.log(2));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.send_replace(true);
    let applied = loading.await.expect("load");
    let went_on = wait_for(&old, 1, |_| true).await;
    assert!(
        index(&went_on, "applied_index") > index(&made, "commit_index"),
        "{applied}"
    );
    let give_up = Instant::now() + PATIENCE;
    loop {
        let (one, two) = (
            wait_for(&new, 1, |_| true).await,
            wait_for(&new, 2, |_| true).await,
        );
        if one["applied_index"] == two["applied_index"] {
            assert_eq!(one["digest"], two["digest"]);
            break;
        }
        assert!(Instant::now() < give_up, "{one} {two}");
    }
    assert!(first.terminate().success());
}

fn runs_plainly(site: &Site, node: u64, args: &[&str]) {
    let output = program(site, node, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
}

/// What was restored is what was saved: at the same index the same digest.
fn same_state(data: &Path, made: &Value) {
    let survivor = Survivor::read(data, RouterStateMachine::new()).expect("whole");
    let plan = survivor.plan();
    assert_eq!(Some(plan.last.index), made["commit_index"].as_u64());
    assert_eq!(Some(plan.last.term), made["term"].as_u64());
    assert_eq!(format!("{:032x}", plan.digest).as_str(), made["digest"]);
}

/// Clients of one cannot talk to the other, nor can nodes: one that lists members of the other is not
/// even seen to wait there.
async fn each_refuses_the_other(old: &Site, new: &Site) {
    for (site, other) in [(old, new), (new, old)] {
        let certs = other.path("certs");
        let endpoint = site.endpoint(1);
        let args = ["status", "--endpoint", &endpoint, "--certs", text(&certs)];
        refused(&tokio::task::block_in_place(|| run(&args)));
    }
    let config = new.config(2);
    let kept = fs::read_to_string(&config).expect("settings");
    let at = |port: u16| format!("{{ id = 1, addr = \"127.0.0.1:{port}\" }}");
    let astray = kept.replace(&at(new.ports[0].0), &at(old.ports[0].0));
    assert_ne!(astray, kept);
    fs::write(&config, astray).expect("settings");
    let stranger = new.start(2);
    wait_for(new, 2, |status| status["node_id"] == 2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let seen = runs(old, 1, &["members", "show"]);
    assert_eq!(seen["waiting"], Value::Null, "{seen}");
    stranger.kill();
    fs::write(&config, kept).expect("settings");
}

#[tokio::test(flavor = "multi_thread")]
async fn j1_a_waiting_node_becomes_the_first_member_and_starts_anew_by_itself() {
    let _turn = common::real_time_turn();
    let old = Site::new(1);
    with_backups(&old);
    let _old = old.start(1);
    wait_for(&old, 1, knows_a_leader).await;
    let mut caller = Caller::new(&old);
    for number in 0..20 {
        assert!(matches!(
            caller.propose(service(number)).await,
            Fate::Applied(_)
        ));
    }
    let made = runs(&old, 1, &["backup", "create", "a", "--compression", "gzip"]);
    let file = old.path("a.snapshot");
    runs_plainly(&old, 1, &["backup", "fetch", "a", "--out", text(&file)]);

    let new = Site::waiting(2);
    with_backups(&new);
    let mut first = new.start(1);
    let before = wait_for(&new, 1, |status| status["node_id"] == 1).await;
    let sent = runs(&new, 1, &["backup", "upload", text(&file), "--id", "a"]);
    assert_eq!(sent["digest"], made["digest"]);
    let cluster = before["cluster_id"].as_str().expect("an id").to_owned();
    let of_the_old = made["cluster_id"].as_str().expect("an id");
    let wrong = program(
        &new,
        1,
        &["backup", "restore-node", "a", "--cluster", of_the_old],
    );
    assert!(refused(&wrong).contains("target_cluster_id"));
    let done = runs(
        &new,
        1,
        &["backup", "restore-node", "a", "--cluster", &cluster],
    );
    assert_eq!(
        (&done["restored"], &done["service_count"]),
        (&true.into(), &20.into())
    );
    let after = wait_for(&new, 1, |status| status["leader_id"] == 1).await;
    assert!(!first.has_ended(), "{}", new.log(1));
    assert_eq!(after["incarnation"], done["incarnation"]);
    assert_ne!(after["incarnation"], before["incarnation"]);
    let again = program(
        &new,
        1,
        &["backup", "restore-node", "a", "--cluster", &cluster],
    );
    assert!(refused(&again).contains("belongs to a cluster"));
    // A restart finds the same.
    assert!(first.terminate().success());
    same_digest_after_a_restart(&new, &after).await;
}

async fn same_digest_after_a_restart(new: &Site, before: &Value) {
    let _first = new.start(1);
    let after = wait_for(new, 1, |status| status["leader_id"] == 1).await;
    assert_eq!(after["incarnation"], before["incarnation"]);
    let services = runs(new, 1, &["state"]);
    assert_eq!(services["counts"]["services"], 20, "{services}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_fetch_goes_on_where_it_was_and_nothing_is_overwritten() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    with_backups(&site);
    let _node = site.start(1);
    wait_for(&site, 1, knows_a_leader).await;
    let mut caller = Caller::new(&site);
    for number in 0..50 {
        assert!(matches!(
            caller.propose(service(number)).await,
            Fate::Applied(_)
        ));
    }
    let made = runs(
        &site,
        1,
        &["backup", "create", "b", "--compression", "none"],
    );
    runs(&site, 1, &["backup", "create", "a"]);
    let (whole, other) = (site.path("whole"), site.path("other"));
    let fetch = |out: &Path| program(&site, 1, &["backup", "fetch", "b", "--out", text(out)]);
    assert!(fetch(&whole).status.success());
    let bytes = fs::read(&whole).expect("file");
    assert_eq!(Some(bytes.len() as u64), made["size_bytes"].as_u64());
    assert!(refused(&fetch(&whole)).contains("is there already"));

    let part = site.path("other.part");
    fs::write(&part, &bytes[..bytes.len() / 3]).expect("written");
    assert!(fetch(&other).status.success());
    assert_eq!(fs::read(&other).expect("file"), bytes);
    assert!(!part.exists());
    // What is there is not what the node has.
    fs::write(&part, b"nonsense").expect("written");
    fs::remove_file(&other).expect("removed");
    assert!(refused(&fetch(&other)).contains("not what the node has"));
    assert!(!other.exists());

    let to_a_pipe = program(&site, 1, &["backup", "fetch", "b", "--out", "-"]);
    assert_eq!(to_a_pipe.stdout, bytes);
    let described = runs(&site, 1, &["backup", "describe", "b"]);
    assert_eq!(described, made);
    refused(&program(&site, 1, &["backup", "describe", "c"]));
    // The older by what they hold goes; of the same entry the first by name.
    let kept = program(&site, 1, &["backup", "cleanup", "--keep", "1", "--dry-run"]);
    assert_eq!(stdout(&kept), "would delete a\n");
    runs_plainly(&site, 1, &["backup", "cleanup", "--keep", "1"]);
    let left = runs(&site, 1, &["backup", "list"]);
    assert_eq!(left["snapshot_id"], "b");
    runs_plainly(&site, 1, &["backup", "delete", "b"]);
    refused(&program(&site, 1, &["backup", "delete", "b"]));

    let mut flipped = bytes;
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    fs::write(&other, flipped).expect("written");
    let damaged = refused(&run(&["backup", "verify", text(&other)]));
    assert!(damaged.contains("checksum"), "{damaged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_leaves_and_goes_on_as_a_follower() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let _nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let leader = wait_for(&site, 1, knows_a_leader).await["leader_id"].as_u64();
    let leader = leader.expect("a leader");
    let give_up = Instant::now() + PATIENCE;
    // At first the others may not be up to take over.
    let left = loop {
        let output = program(&site, leader, &["leave", "--wait"]);
        if output.status.success() {
            break stdout(&output);
        }
        assert!(Instant::now() < give_up, "{}", stderr(&output));
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let left: Value = serde_json::from_str(&left).expect("JSON");
    assert_eq!(left["node_id"], leader);
    assert_ne!(left["leader_id"], leader);
    for probe in [&["health"][..], &["health", "--live"]] {
        // Looked at four times a second.
        while !program(&site, leader, probe).status.success() {
            assert!(Instant::now() < give_up, "{probe:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let taken = runs(&site, leader, &["snapshot"]);
    assert!(taken["index"].as_u64() > Some(0), "{taken}");
}

fn pipeline(nth: usize) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: format!("pipeline-{nth}"),
        name: String::new(),
        config: noise(nth as u32 + 1, 1 << 20),
    }
}

/// The connection of an upload breaks twice, and in a third try the program is killed.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_over_broken_connections_and_another_run_goes_on_with_it() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    with_backups(&site);
    let _node = site.start(1);
    wait_for(&site, 1, knows_a_leader).await;
    let mut caller = Caller::new(&site);
    for nth in 0..6 {
        let proposed = caller.propose(pipeline(nth)).await;
        assert!(matches!(proposed, Fate::Applied(_)), "{nth}");
    }
    let made = runs(
        &site,
        1,
        &["backup", "create", "a", "--compression", "none"],
    );
    let file = site.path("a.snapshot");
    runs_plainly(&site, 1, &["backup", "fetch", "a", "--out", text(&file)]);
    let edge = site.endpoint(1).replace("https://", "");
    let to = edge.parse().expect("an address");
    let certs = site.path("certs");
    let upload = |way: &Cutting, id: &'static str| {
        let endpoint = format!("https://{}", way.at);
        let mut command = Command::new(serve_common::BINARY);
        command
            .args(["backup", "upload", text(&file), "--id", id, "--json"])
            .args(["--endpoint", &endpoint, "--certs", text(&certs)])
            .stdin(Stdio::null());
        command
    };
    let way = Cutting::before(to, vec![2 << 20, 1 << 20]).await;
    let mut command = upload(&way, "b");
    let done = tokio::task::block_in_place(|| command.output().expect("runs"));
    assert!(done.status.success(), "{}", stderr(&done));
    let taken: Value = serde_json::from_str(&stdout(&done)).expect("JSON");
    assert_eq!(taken["digest"], made["digest"]);
    let size = made["size_bytes"].as_u64().expect("a size");
    assert!(way.carried() < size + (3 << 20), "{}", way.carried());

    // Killed while it waits for a way that does not come back; the next run goes on.
    let way = Cutting::before(to, [vec![3 << 20], vec![0; 1000]].concat()).await;
    let mut killed = upload(&way, "c").spawn().expect("runs");
    let begun = Instant::now();
    while way.connections() < 3 {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} connections",
            way.connections()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    let way = Cutting::before(to, vec![]).await;
    let mut command = upload(&way, "c");
    let done = tokio::task::block_in_place(|| command.output().expect("runs"));
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(
        way.carried() < size - (2 << 20) + (1 << 19),
        "{}",
        way.carried()
    );
    let listed = program(&site, 1, &["backup", "list"]);
    assert_eq!(stdout(&listed).matches("snapshot_id").count(), 3);
}

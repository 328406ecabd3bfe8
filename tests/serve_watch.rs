//! Watchers over three real processes: a leader that changes, nodes that are killed and started again, and one
//! that gets a snapshot. Each watcher sees every change once and in order.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod caller;
mod common;
mod serve_common;
#[path = "serve_common/watching.rs"]
mod watching;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use caller::{Caller, operator};
use conveyor_raft::client::{Client, ClientOptions, Session};
use conveyor_raft::grpc::connect;
use conveyor_raft::proto::TransferLeadershipRequest;
use conveyor_raft::proto::cluster_client::ClusterClient;
use serve_common::{PATIENCE, Running, Site};
use watching::{Load, Seen, Watching};

/// What the keys of the parts of a state begin with.
const PARTS: [&str; 10] = [
    "/sidecars/",
    "/services/",
    "/pipelines/",
    "/assignments/",
    "/locations/",
    "/groups/",
    "/offsets/source/",
    "/offsets/group/",
    "/watermarks/",
    "/checkpoints/",
];

fn client(site: &Site, nodes: impl IntoIterator<Item = u64>) -> Client {
    let endpoints = nodes.into_iter().map(|node| site.endpoint(node));
    let mut options = ClientOptions::new(endpoints, Some(operator(site)));
    options.deadline = PATIENCE;
    Client::new(options).expect("a client")
}

/// Snapshots after few entries, and little of the log behind them.
fn site() -> Site {
    let site = Site::new(3);
    for node in 1..=3 {
        let file = OpenOptions::new().append(true).open(site.config(node));
        let text = "[snapshots]\nevery_entries = 200\ntimes_last = 0\nkeep_tail_entries = 20\n\
                    keep_for_peers_entries = 50\n";
        file.expect("settings")
            .write_all(text.as_bytes())
            .expect("settings");
    }
    site
}

fn take(nodes: &mut Vec<Running>, id: u64) -> Running {
    let at = nodes.iter().position(|running| running.node == id);
    nodes.swap_remove(at.expect("runs"))
}

async fn send(session: &Session, load: &mut Load, count: usize) {
    for _ in 0..count / 50 {
        let results = session.propose_batch(load.commands(50)).await;
        for result in results.expect("room") {
            load.last = load.last.max(result.expect("applied").index);
        }
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_of_each_part_sees_every_change_once_over_lost_leaders_snapshots_and_restarts() {
    let _turn = common::real_time_turn();
    let site = site();
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let caller = Caller::new(&site);
    caller.leader().await;
    let all = client(&site, 1..=3);
    let session = all.open_session().await.expect("a session");
    let mut load = Load::default();
    send(&session, &mut load, 100).await;

    // One for each part, and one for everything, at whichever node; and one for everything at each.
    let parts: Vec<_> = PARTS
        .iter()
        .map(|part| Watching::begin(&all, &[part]))
        .collect();
    let everything = Watching::begin(&all, &[]);
    let mut pinned = Vec::new();
    for node in 1..=3 {
        pinned.push(Watching::begin(&client(&site, [node]), &[]));
    }
    send(&session, &mut load, 200).await;

    // The leader is killed, and comes back.
    let leader = caller.leader().await;
    take(&mut nodes, leader).kill();
    send(&session, &mut load, 100).await;
    nodes.push(site.start(leader));

    // Leadership moves.
    caller.reachable().await;
    let leader = caller.leader().await;
    let channel = connect(&site.endpoint(leader), Some(&operator(&site))).await;
    let mut cluster = ClusterClient::new(channel.expect("reachable"));
    let moved = cluster
        .transfer_leadership(TransferLeadershipRequest::default())
        .await;
    assert!(moved.is_ok(), "{moved:?}");
    send(&session, &mut load, 100).await;

    // One is away for so long that the others no longer have what it lacks.
    let leader = caller.leader().await;
    let away = (1..=3).find(|node| *node != leader).expect("another");
    take(&mut nodes, away).kill();
    send(&session, &mut load, 1000).await;
    nodes.push(site.start(away));
    until("a reset where the snapshot came", async || {
        pinned[away as usize - 1].seen(|seen| seen.resets > 0)
    })
    .await;
    send(&session, &mut load, 100).await;

    // Each is started anew, in turn.
    for node in 1..=3 {
        assert!(take(&mut nodes, node).terminate().success());
        send(&session, &mut load, 50).await;
        nodes.push(site.start(node));
        caller.agree(load.last).await;
    }
    send(&session, &mut load, 100).await;

    let last = load.last;
    let fresh = Watching::begin(&all, &[]);
    let watching = parts.iter().chain(&pinned).chain([&everything, &fresh]);
    for watching in watching {
        until("everything is told", async || {
            watching.seen(|seen| seen.index >= last)
        })
        .await;
    }
    let state = fresh.end().mirror;
    assert!(state.len() > 20, "{}", state.len());
    let everything = everything.end();
    let resets = |seen: &Seen| seen.resets;
    assert_eq!(everything.mirror, state);
    assert!(
        everything.entries.len() > 1000,
        "{}",
        everything.entries.len()
    );
    for (part, watching) in PARTS.iter().zip(parts) {
        let seen = watching.end();
        let mut expected = state.clone();
        expected.retain(|key, _| key.starts_with(part));
        assert_eq!(seen.mirror, expected, "{part}");
        assert!(!seen.entries.is_empty(), "{part}");
        seen.agrees_with(&everything, part);
    }
    for (node, watching) in (1..=3).zip(pinned) {
        let seen = watching.end();
        assert_eq!(seen.mirror, state, "node {node}");
        assert!(node != away || resets(&seen) >= 1, "node {node}");
        seen.agrees_with(&everything, "/");
        println!(
            "node {node}: {} entries, {} resets",
            seen.entries.len(),
            resets(&seen)
        );
    }
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_shows_what_changes_and_goes_on_at_another_node() {
    let _turn = common::real_time_turn();
    let site = site();
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let caller = Caller::new(&site);
    caller.leader().await;
    let all = client(&site, 1..=3);
    let session = all.open_session().await.expect("a session");
    let mut load = Load::default();
    send(&session, &mut load, 50).await;
    let endpoints: Vec<_> = (1..=3).map(|node| site.endpoint(node)).collect();
    let printed = site.path("printed");
    let start = |args: &[&str], to: &std::path::Path| {
        let out = std::fs::File::create(to).expect("output");
        let mut program = Command::new(serve_common::BINARY);
        program.args(["watch", "--endpoint", &endpoints.join(",")]);
        program.arg("--certs").arg(site.path("certs")).args(args);
        program.stdin(Stdio::null()).stdout(out);
        program.spawn().expect("the program runs")
    };
    let from = load.last.to_string();
    let args = ["--json", "--from", &from, "--prefix", "/offsets/source/"];
    let mut program = start(&args, &printed);
    let lines = || {
        let text = std::fs::read_to_string(&printed).expect("output");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        lines.collect::<Vec<serde_json::Value>>()
    };
    until("it watches", async || !lines().is_empty()).await;
    let before = load.offsets();
    for _ in 0..3 {
        send(&session, &mut load, 50).await;
        let leader = caller.leader().await;
        take(&mut nodes, leader).kill();
        send(&session, &mut load, 50).await;
        nodes.push(site.start(leader));
        caller.agree(load.last).await;
    }
    let wanted = load.offsets();
    let offsets = || {
        let puts = lines().into_iter().filter(|line| line["event"] == "put");
        let puts = puts.map(|line| line["value"]["offset"].as_u64().expect("an offset"));
        puts.collect::<Vec<_>>()
    };
    until("the last is shown", async || {
        offsets().last() == Some(&wanted)
    })
    .await;
    assert_eq!(offsets(), (before + 1..=wanted).collect::<Vec<_>>());
    program.kill().expect("kill");
    program.wait().expect("ended");

    // The state, for people.
    let once = start(&["--once", "--prefix", "/pipelines/"], &printed);
    let ended = tokio::task::spawn_blocking(move || {
        let mut once = once;
        once.wait()
    });
    assert!(ended.await.expect("joined").expect("ended").success());
    let text = std::fs::read_to_string(&printed).expect("output");
    assert!(
        text.contains(" state ") && text.contains("/pipelines/p "),
        "{text}"
    );

    // Long gone: a node that starts anew knows of what its snapshot does not hold.
    nodes.drain(..).for_each(Running::kill);
    nodes.extend((1..=3).map(|node| site.start(node)));
    caller.agree(load.last).await;
    let output = serve_common::run(&[
        "watch",
        "--endpoint",
        &endpoints.join(","),
        "--certs",
        site.path("certs").to_str().expect("UTF-8"),
        "--from",
        "1",
        "--once",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = serve_common::stderr(&output);
    assert!(said.contains("without --from"), "{said}");
}

//! A rolling upgrade: each of three processes is restarted in turn, as `docs/operations.md` says, while
//! commands flow. `CONVEYOR_ROLL_FROM` names the program that they run before; without it, it is the
//! same one.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod client;
mod common;
#[path = "serve_common/history.rs"]
mod history;
mod serve_common;

use std::time::{Duration, Instant};

use client::Caller;
use history::History;
use serve_common::{BINARY, PATIENCE, Site, run, stderr};
use tokio::sync::watch;

async fn load(mut caller: Caller, stop: watch::Receiver<bool>) -> History {
    let mut history = History::begin(&mut caller).await;
    while !*stop.borrow() {
        history.send(&mut caller).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    history
}

/// Until the program succeeds.
async fn until(site: &Site, node: u64, args: &[&str]) {
    let (endpoint, certs) = (site.endpoint(node), site.path("certs"));
    let mut all = args.to_vec();
    all.extend([
        "--endpoint",
        &endpoint,
        "--certs",
        certs.to_str().expect("UTF-8"),
    ]);
    let give_up = Instant::now() + PATIENCE;
    loop {
        let output = tokio::task::block_in_place(|| run(&all));
        if output.status.success() {
            return;
        }
        assert!(
            Instant::now() < give_up,
            "{args:?} at {node}: {}",
            stderr(&output)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_is_restarted_in_turn_and_no_command_is_lost_or_repeated() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let before = std::env::var("CONVEYOR_ROLL_FROM");
    let before = before.as_deref().unwrap_or(BINARY);
    let start = |node| Some(site.start_program(before, node));
    let mut nodes: Vec<_> = (1..=3).map(start).collect();
    Caller::new(&site).leader().await;
    let (told, stopped) = watch::channel(false);
    let commands = tokio::spawn(load(Caller::new(&site), stopped));
    for node in 1..=3 {
        for step in [&["snapshot"][..], &["leave", "--wait"]] {
            until(&site, node, step).await;
        }
        let slot = &mut nodes[node as usize - 1];
        let old = slot.take().expect("runs");
        assert!(
            tokio::task::block_in_place(|| old.terminate()).success(),
            "{}",
            site.log(node)
        );
        let config = site.config(node);
        let check = run(&[
            "config",
            "check",
            "--config",
            config.to_str().expect("UTF-8"),
        ]);
        assert!(check.status.success(), "{}", stderr(&check));
        *slot = Some(site.start(node));
        until(&site, node, &["health"]).await;
    }
    told.send_replace(true);
    let history = commands.await.expect("every command has its fate");
    assert!(history.acknowledged.len() > 20);
    let caller = Caller::new(&site);
    history.check_all(&site, &caller, 1..=3).await;
}

//! What callers notice of a node that is stopped (SIGTERM), as Kubernetes and systemd stop it, and what
//! scripts are told by exit codes.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod caller;
mod common;
#[path = "serve_common/figures.rs"]
mod figures;
mod serve_common;

use std::time::{Duration, Instant};

use caller::{Caller, library};
use conveyor_raft::RouterCommand;
use figures::{get, scraped};
use serve_common::{Site, run, stderr};
use tokio::sync::watch;

/// An election alone takes 150 to 300 ms, after as long a silence; a busy machine gets three of them. The
/// times of a quiet one are in docs/benchmarks.md.
const NOTICED: Duration = Duration::from_millis(900);
/// What an orchestrator's patience may be.
const PATIENCE: Duration = Duration::from_secs(10);

/// One command after the other; the longest that one took, and how many.
async fn propose(
    client: conveyor_raft::client::Client,
    worker: u64,
    stop: watch::Receiver<bool>,
) -> (Duration, u64) {
    let session = client.open_session().await.expect("a session");
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while !*stop.borrow() {
        let id = format!("service-{worker}");
        let endpoint = format!("10.0.0.1:{}", 1 + count % 60_000);
        let begun = Instant::now();
        let command = RouterCommand::register_service(&id, "sink", &endpoint);
        session.propose(command).await.expect("applied once");
        longest = longest.max(begun.elapsed());
        count += 1;
    }
    (longest, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_hands_over_first_and_no_command_fails() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let ports: Vec<u16> = (1..=3).map(|node| scraped(&site, node)).collect();
    let mut nodes: Vec<_> = (1..=3).map(|node| Some(site.start(node))).collect();
    let leads = Caller::new(&site).leader().await;
    let (told, stopped) = watch::channel(false);
    let clients = (0..4).map(|worker| {
        let client = library(&site, Duration::from_secs(5));
        tokio::spawn(propose(client, worker, stopped.clone()))
    });
    let clients: Vec<_> = clients.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (port, node) = (ports[leads as usize - 1], nodes[leads as usize - 1].take());
    let begun = Instant::now();
    let ready = tokio::task::spawn_blocking(move || {
        // Ready for as long as it takes to be looked at, and never again.
        let mut last = None;
        while let Some((status, _)) = get(port, "GET /ready") {
            if status == 200 {
                last = Some(begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        last
    });
    let status = tokio::task::block_in_place(|| node.expect("runs").terminate());
    let took = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    told.send_replace(true);
    let (mut longest, mut count) = (Duration::ZERO, 0);
    for client in clients {
        let (one, commands) = client.await.expect("no command failed");
        (longest, count) = (longest.max(one), count + commands);
    }
    let ready = ready.await.expect("no panic").unwrap_or_default();
    println!(
        "{count} commands, the longest took {longest:?}; ended after {took:?}, ready until {ready:?}"
    );
    assert!(status.success(), "{}", site.log(leads));
    assert!(
        site.log(leads).contains("another leads"),
        "{}",
        site.log(leads)
    );
    assert!(longest < NOTICED && count > 100, "{longest:?}, {count}");
    assert!(took < PATIENCE && ready < NOTICED, "{took:?}, {ready:?}");
}

/// The program's exit code, at a cluster of one of which these nodes run.
fn exit(site: &Site, endpoint: &str, args: &[&str]) -> (i32, String) {
    let certs = site.path("certs");
    let certs = certs.to_str().expect("UTF-8");
    let mut all = args.to_vec();
    all.extend(["--endpoint", endpoint, "--certs", certs, "--timeout", "2"]);
    let output = run(&all);
    (output.status.code().expect("an exit"), stderr(&output))
}

#[test]
fn exit_codes_tell_scripts_what_they_can_do() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let other = Site::new(1);
    let endpoint = site.endpoint(1);
    let noop = r#"{"Noop":{}}"#;
    let (code, said) = exit(&site, &endpoint, &["status"]);
    assert_eq!(code, 3, "nobody is there: {said}");
    // One of three: it answers, and nobody leads.
    let node = site.start(1);
    figures::until("it answers", || {
        (exit(&site, &endpoint, &["status"]).0 == 0).then_some(())
    });
    let (code, said) = exit(&site, &endpoint, &["health"]);
    assert_eq!(code, 3, "{said}");
    let (code, said) = exit(&site, &endpoint, &["propose", noop]);
    assert_eq!(code, 3, "{said}");
    let (code, said) = exit(&site, &endpoint, &["transfer"]);
    assert_eq!(code, 3, "{said}");
    // What it has it shows, but not as what everybody has.
    let (code, said) = exit(&site, &endpoint, &["state"]);
    assert_eq!(code, 0, "{said}");
    let newest = ["state", "--consistency", "linearizable"];
    let (code, said) = exit(&site, &endpoint, &newest);
    assert_eq!(code, 3, "{said}");
    let (code, said) = exit(&other, &endpoint, &["status"]);
    assert_eq!(code, 4, "a stranger: {said}");
    let (code, said) = exit(&site, &endpoint, &["members", "frobnicate"]);
    assert_eq!(code, 2, "{said}");
    let others = [site.start(2), site.start(3)];
    figures::until("a leader", || {
        (exit(&site, &endpoint, &["health"]).0 == 0).then_some(())
    });
    for consistency in ["linearizable", "lease", "local"] {
        let args = ["state", "--consistency", consistency, "--full"];
        let (code, said) = exit(&site, &endpoint, &args);
        assert_eq!(code, 0, "{consistency}: {said}");
    }
    let file = site.path("day.ndjson");
    std::fs::write(&file, format!("{noop}\nnonsense\n")).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (code, said) = exit(&site, &endpoint, &["propose", "--file", file]);
    assert_eq!(code, 1, "{said}");
    assert!(node.terminate().success());
    for other in others {
        assert!(other.terminate().success());
    }
}

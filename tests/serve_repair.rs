//! The drill of docs/operations.md for a damaged log, with processes and the program's own commands.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod client;
mod common;
#[path = "serve_common/history.rs"]
mod history;
mod serve_common;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use client::Caller;
use history::History;
use serve_common::{PATIENCE, Site, run, stderr, stdout};

/// Flips a bit in the middle of what was written to the first segment, in a header, where nothing is
/// padding.
fn damage(dir: &Path) {
    let segment = dir.join("seg-0000000000000001.wal");
    let mut bytes = std::fs::read(&segment).expect("the first segment");
    let written = bytes.iter().rposition(|byte| *byte != 0);
    let at = written.expect("not empty") / 2 / 4096 * 4096 + 40;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("damaged");
}

fn wal(command: &str, dir: &Path, more: &[&str]) -> Output {
    let mut args = vec!["wal", command, dir.to_str().expect("UTF-8")];
    args.extend(more);
    run(&args)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_damaged_log_is_refused_repaired_and_caught_up_with() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let mut caller = Caller::new(&site);
    let mut history = History::begin(&mut caller).await;
    history.send_many(&mut caller, 100).await;
    let leads = caller.leader().await;
    let at = nodes.iter().position(|node| node.node != leads);
    let gone = nodes.remove(at.expect("a follower"));
    let (node, dir) = (gone.node, site.path(&format!("data-{}", gone.node)));
    assert!(gone.terminate().success());
    damage(&dir);

    // It does not start, says why and what to do, and touches nothing.
    let said = site.refused(node);
    assert!(said.contains("conveyor-raft wal verify"), "{said}");
    let found = wal("verify", &dir, &[]);
    assert!(!found.status.success(), "{}", stdout(&found));
    let plan = wal("repair", &dir, &["--dry-run"]);
    assert!(plan.status.success(), "{}", stderr(&plan));
    assert!(
        !wal("verify", &dir, &[]).status.success(),
        "nothing was changed"
    );

    // The others go on meanwhile.
    history.send_many(&mut caller, 50).await;
    let mended = wal("repair", &dir, &["--yes"]);
    assert!(mended.status.success(), "{}", stderr(&mended));
    let says = |wanted: bool| {
        let output = wal("verify", &dir, &[]);
        stdout(&output).contains("under repair") == wanted
    };
    assert!(says(true));

    let back = site.start(node);
    let begun = Instant::now();
    while !says(false) {
        assert!(begun.elapsed() < PATIENCE, "{}", site.log(node));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    history.send_many(&mut caller, 20).await;
    history.check_all(&site, &caller, 1..=3).await;
    // It counts again: with another one gone there is still a majority.
    nodes.remove(0).kill();
    history.send_many(&mut caller, 20).await;
    assert!(back.terminate().success());
}

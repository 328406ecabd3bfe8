//! `conveyor-raft wal`: the operator's tools for the log, on logs made by the library.
#![cfg(feature = "cli")]

mod common;
mod serve_common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::files_of;
use conveyor_raft::types::{ClusterId, EntryKind};
use conveyor_raft::wal::*;
use serve_common::{run, stderr, stdout};

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId([1; 16]),
    node: 7,
};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 8 << 20,
        ready_window_bytes: 4 << 20,
        ..LogOptions::default()
    }
}

/// A log of ten entries, two a batch. `then` gets it open, with all of it durable.
fn log(dir: &Path, then: impl FnOnce(LogStorage<MappedDir>)) {
    let (sender, events) = channel();
    let sink: EventSink = Arc::new(move |event| _ = sender.send(event));
    let options = LogOptions {
        max_entry_bytes: 64 << 10,
        ..options()
    };
    let medium = MappedDir::open(dir, sink, &options).expect("a directory");
    let mut log = LogStorage::open(medium, IDENTITY, options).expect("opens");
    for id in 1..=5 {
        let text = |nth: u64| format!("entry {} \u{1b}[31m", id * 2 - 1 + nth);
        let entries = [0, 1].map(|nth| NewEntry {
            kind: EntryKind::Command,
            time_us: 1_700_000_000_000_000 + id,
            payload: text(nth).into(),
        });
        log.write(Write {
            id,
            now: 0,
            hard_state: None,
            genesis: None,
            truncate_from: None,
            append: Append::Entries {
                first: id * 2 - 1,
                term: 3,
                entries: &entries,
            },
        })
        .expect("room");
        let durable = |log: &mut LogStorage<MappedDir>| {
            log.pump();
            let event = events.recv_timeout(Duration::from_secs(20)).expect("event");
            log.handle(event).expect("no failure") == Some(id)
        };
        while !durable(&mut log) {}
    }
    then(log);
}

fn closed(dir: &Path) {
    log(dir, |log| log.close().expect("closes"));
}

fn first_segment(dir: &Path) -> std::path::PathBuf {
    dir.join("seg-0000000000000001.wal")
}

/// One bit of the third batch.
fn damage(dir: &Path) {
    let path = first_segment(dir);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[8192 + 2 * 4096 + 100] ^= 4;
    fs::write(&path, bytes).expect("written");
}

fn wal(command: &str, dir: &Path, more: &[&str]) -> std::process::Output {
    let mut args = vec!["wal", command, dir.to_str().expect("UTF-8")];
    args.extend(more);
    run(&args)
}

#[test]
fn a_dump_shows_everything_but_the_secrets() {
    let dir = tempfile::tempdir().expect("directory");
    closed(dir.path());
    let before = files_of(dir.path());
    let shown = stdout(&wal("dump", dir.path(), &["--payloads", "text"]));
    for wanted in [
        "META  node 7",
        "term 3",
        "HINT",
        "live",
        "3.10 command",
        "entry 10",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "a terminal obeys: {shown:?}");
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|it| format!("{it:02x}"))
            .collect::<String>()
    };
    let json = stdout(&wal("dump", dir.path(), &["--json", "--payloads", "hex"]));
    let meta = &before["META"];
    for text in [&shown, &json] {
        assert!(text.contains(&hex(&meta[16..32])), "the incarnation");
        assert!(!text.contains(&hex(&meta[160..176])), "the secret");
        assert!(!text.contains(&hex(&meta[208..240])), "the node's key");
    }
    let records: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let entries = records.iter().filter(|it| it["record"] == "entry");
    let indexes: Vec<u64> = entries
        .clone()
        .filter_map(|it| it["index"].as_u64())
        .collect();
    assert_eq!(indexes, (1..=10).collect::<Vec<_>>());
    assert!(entries.clone().all(|it| it["payload"].as_str().is_some()));

    let part = stdout(&wal(
        "dump",
        dir.path(),
        &["--from", "4", "--to", "5", "--json"],
    ));
    let part = part
        .lines()
        .filter(|line| line.contains("\"entry\""))
        .count();
    assert_eq!(part, 2);
    assert_eq!(files_of(dir.path()), before, "nothing was changed");
}

#[test]
fn verify_says_clean_in_use_corrupt_and_what_is_no_log() {
    let dir = tempfile::tempdir().expect("directory");
    log(dir.path(), |log| {
        // Not all files: the next segment is made meanwhile, and its file renamed.
        let meta = || fs::read(dir.path().join("META")).expect("readable");
        let before = meta();
        let output = wal("verify", dir.path(), &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stdout(&output).contains("everything in it is whole"));
        assert!(
            stdout(&output).contains("last entry  3.10"),
            "{}",
            stdout(&output)
        );
        let process = std::process::id().to_string();
        assert!(stderr(&output).contains(&process), "{}", stderr(&output));
        assert!(meta() == before, "META was changed");
        log.close().expect("closes");
    });
    let output = wal("verify", dir.path(), &[]);
    assert!(stdout(&output).starts_with("clean"), "{}", stdout(&output));

    damage(dir.path());
    let before = files_of(dir.path());
    let output = wal("verify", dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for wanted in [
        "seg-0000000000000001.wal",
        "offset 16384",
        "index 5",
        "Evidence",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let json = stdout(&wal("verify", dir.path(), &["--json"]));
    let verdict: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(verdict["verdict"], "corrupt");
    assert_eq!(
        (&verdict["offset"], &verdict["first_index"]),
        (&16384.into(), &5.into())
    );
    let shown = stdout(&wal("dump", dir.path(), &[]));
    assert!(shown.contains("whole batches go on at 20480"), "{shown}");
    assert!(shown.contains("3.10 command"), "{shown}");
    assert_eq!(files_of(dir.path()), before, "nothing was changed");

    let empty = tempfile::tempdir().expect("directory");
    for command in ["dump", "verify", "repair"] {
        let output = wal(command, empty.path(), &[]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(
            stderr(&output).contains("holds no log"),
            "{}",
            stderr(&output)
        );
        let missing = empty.path().join("missing");
        assert_eq!(wal(command, &missing, &[]).status.code(), Some(1));
        assert!(!missing.exists());
        assert_eq!(run(&["wal", command]).status.code(), Some(2));
    }
    assert_eq!(fs::read_dir(empty.path()).expect("directory").count(), 0);
}

#[test]
fn repair_says_what_is_lost_asks_and_keeps_a_copy() {
    let dir = tempfile::tempdir().expect("directory");
    log(dir.path(), |log| {
        let refused = stderr(&wal("repair", dir.path(), &["--yes"]));
        assert!(refused.contains("in use by another process"), "{refused}");
        log.close().expect("closes");
    });
    let whole = wal("repair", dir.path(), &["--yes"]);
    assert_eq!(whole.status.code(), Some(1));
    assert!(
        stderr(&whole).contains("opens as it is"),
        "{}",
        stderr(&whole)
    );

    damage(dir.path());
    let before = files_of(dir.path());
    let plan = wal("repair", dir.path(), &["--dry-run"]);
    assert!(plan.status.success(), "{}", stderr(&plan));
    for wanted in [
        "up to entry 3.4",
        "entries 5..=10",
        "terms 3..=3",
        "copied META",
    ] {
        assert!(
            stdout(&plan).contains(wanted),
            "{wanted}: {}",
            stdout(&plan)
        );
    }
    let unasked = wal("repair", dir.path(), &[]);
    assert_eq!(unasked.status.code(), Some(1));
    assert!(stderr(&unasked).contains("--yes"), "{}", stderr(&unasked));
    assert_eq!(files_of(dir.path()), before, "nothing was changed");

    let done = wal("repair", dir.path(), &["--yes"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let after = files_of(dir.path());
    let saved = |name: &str| {
        let of_it = |file: &&String| file.starts_with("repair-") && file.ends_with(name);
        after.keys().find(of_it).map(|file| after[file].clone())
    };
    for name in ["META", "seg-0000000000000001.wal"] {
        assert_eq!(
            saved(&format!("Z-{name}")).as_ref(),
            Some(&before[name]),
            "{name}"
        );
    }
    let output = wal("verify", dir.path(), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("last entry  3.4"),
        "{}",
        stdout(&output)
    );
    assert!(
        stdout(&output).contains("under repair"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn without_meta_repair_names_what_is_left_to_do() {
    let dir = tempfile::tempdir().expect("directory");
    closed(dir.path());
    fs::write(dir.path().join("META"), [7; 70_000]).expect("written");
    for command in ["verify", "repair"] {
        let output = wal(command, dir.path(), &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("replace"), "{}", stderr(&output));
    }
    let shown = stdout(&wal("dump", dir.path(), &[]));
    assert!(shown.contains("no valid META"), "{shown}");
}

//! What the program says of itself, and of its settings.
#![cfg(feature = "cli")]

mod serve_common;

use std::fs;
use std::process::Command;

use serve_common::{BINARY, Site, run, stderr, stdout};

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("restore-node"), "{shell}");
    }
    assert_eq!(run(&["completions", "vi"]).status.code(), Some(2));
}

#[test]
fn bash_takes_its_completions() {
    let text = stdout(&run(&["completions", "bash"]));
    let script = format!(
        "{text}\nCOMP_WORDS=(conveyor-raft backup cl); COMP_CWORD=2\n\
         _conveyor__raft conveyor-raft cl backup\necho \"${{COMPREPLY[@]}}\""
    );
    let Ok(output) = Command::new("bash").args(["-c", &script]).output() else {
        println!("skipped: needs bash");
        return;
    };
    assert_eq!(stdout(&output).trim(), "cleanup", "{}", stderr(&output));
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let page = stdout(&run(&["man"]));
    assert!(page.contains(".TH conveyor-raft 1"), "{page}");
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().to_str().expect("UTF-8");
    let output = run(&["man", "--dir", path]);
    assert!(output.status.success(), "{}", stderr(&output));
    for name in [
        "conveyor-raft",
        "conveyor-raft-serve",
        "conveyor-raft-top",
        "conveyor-raft-backup-restore",
    ] {
        let page = fs::read_to_string(dir.path().join(format!("{name}.1")));
        assert!(
            page.is_ok_and(|page| page.contains(".SH DESCRIPTION")),
            "{name}"
        );
    }
    let nowhere = run(&["man", "--dir", "/nowhere/at/all"]);
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn settings_are_shown_with_where_they_come_from() {
    let site = Site::new(3);
    let config = site.config(1);
    let check = |more: &[&str]| {
        let mut command = Command::new(BINARY);
        command
            .args(["config", "check", "--config"])
            .arg(&config)
            .args(more);
        command.env("CONVEYOR_RAFT__RAFT__HEARTBEAT_INTERVAL_MS", "40");
        command.output().expect("runs")
    };
    let output = check(&["--listen-addr", "127.0.0.1:7"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let file = config.display();
    for line in [
        "[raft] heartbeat_interval_ms = 40    # CONVEYOR_RAFT__RAFT__HEARTBEAT_INTERVAL_MS"
            .to_owned(),
        "[raft] election_timeout_min_ms = 150    # default".to_owned(),
        "[edge] listen = \"127.0.0.1:7\"    # a flag".to_owned(),
        format!("[node] id = 1    # {file}"),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
    // Nothing was made.
    assert!(!site.path("data-1").exists());

    let kept = fs::read_to_string(&config).expect("settings");
    for (wrong, why) in [
        ("[backup]\nevery_s = 5\n", "every_s needs dir"),
        ("[backup]\ndir = \"b\"\nkeep = 0\n", "at least 1"),
        ("[backup]\ndirectory = \"b\"\n", "unknown field"),
        ("[raft]\nheartbeat_interval_ms = 100\n", "three heartbeats"),
    ] {
        fs::write(&config, format!("{kept}{wrong}")).expect("settings");
        let output = Command::new(BINARY)
            .args(["config", "check", "--config"])
            .arg(&config)
            .output()
            .expect("runs");
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        assert!(
            stderr(&output).contains(why),
            "{wrong}: {}",
            stderr(&output)
        );
    }
}

//! `conveyor-raft certs init`, and the help of the program.
#![cfg(feature = "cli")]

mod serve_common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serve_common::{certs_init, run, stderr, stdout};

#[test]
fn certificates_are_made_once_with_keys_for_their_owner_only() {
    let dir = tempfile::tempdir().expect("directory");
    let certs = dir.path().join("certs");
    certs_init(&certs, &[1, 2, 3]);
    let mut keys = 0;
    for folder in [".", "node-1", "node-2", "node-3", "clients"] {
        for entry in fs::read_dir(certs.join(folder)).expect("directory") {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|ext| ext == "key") {
                let mode = fs::metadata(&path).expect("metadata").permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", path.display());
                keys += 1;
            }
        }
    }
    assert_eq!(keys, 2 + 3 * 2 + 1);

    let before = fs::read(certs.join("peer-ca.key")).expect("read");
    let dir = certs.to_str().expect("UTF-8");
    let again = run(&[
        "certs",
        "init",
        "--dir",
        dir,
        "--cluster",
        "test",
        "--node",
        "1",
    ]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("exists"), "{}", stderr(&again));
    assert_eq!(fs::read(certs.join("peer-ca.key")).expect("read"), before);
}

#[test]
fn what_is_made_is_printed_for_programs() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("certs");
    let path = path.to_str().expect("UTF-8");
    let args = [
        "certs",
        "init",
        "--dir",
        path,
        "--cluster",
        "test",
        "--node",
        "7",
        "--json",
    ];
    let output = run(&args);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(report["cluster_id"].as_str().map(str::len), Some(32));
    let files = report["files"].as_array().expect("files");
    assert!(
        files
            .iter()
            .all(|file| fs::exists(file.as_str().expect("path")).expect("stat"))
    );

    for bad in [
        vec!["--node", "0"],
        vec!["--node", "1", "--node", "1"],
        vec![],
    ] {
        let other = format!("{path}-bad");
        let mut args = vec!["certs", "init", "--dir", &other, "--cluster", "test"];
        args.extend(bad);
        assert!(!run(&args).status.success(), "{args:?}");
        assert!(!fs::exists(&other).expect("stat"));
    }
}

#[test]
fn every_command_explains_itself() {
    let output = run(&["--help"]);
    let help = stdout(&output);
    for command in ["dev", "certs", "serve", "propose", "state", "status", "wal"] {
        assert!(help.contains(command), "{help}");
        let own = stdout(&run(&[command, "--help"]));
        assert!(
            own.contains("Usage:") && own.len() > 300,
            "{command}: {own}"
        );
    }
    let output = run(&[
        "propose",
        "--endpoint",
        "http://127.0.0.1:1",
        "--ca",
        "x",
        "\"Noop\"",
    ]);
    assert!(
        stderr(&output).contains("--ca, --cert and --key"),
        "{}",
        stderr(&output)
    );
}

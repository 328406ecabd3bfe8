//! What a host that embeds the library has to build: without default features neither the command
//! line's nor the client edge's dependencies are in it.

use std::collections::BTreeSet;
use std::process::Command;

/// Names of the packages in the tree of normal dependencies.
fn tree(features: &[&str]) -> BTreeSet<String> {
    // Offline and locked: whoever could build this test has all of them already.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--prefix", "none"])
        .args(["--edges", "normal", "--package", "conveyor-raft"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("package names are text");
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn without_default_features_neither_clap_nor_tonic_is_built() {
    let bare = tree(&["--no-default-features"]);
    for unwanted in ["clap", "tonic", "hyper", "h2", "tracing-subscriber"] {
        assert!(!bare.contains(unwanted), "{unwanted} is in {bare:?}");
    }
    // What cannot be missing: the tree that was looked at is the right one.
    assert!(
        bare.contains("quinn") && bare.contains("rustls"),
        "{bare:?}"
    );
}

#[test]
fn the_client_alone_brings_no_server() {
    let client = tree(&["--no-default-features", "--features", "client"]);
    for unwanted in ["clap", "axum", "tonic-health", "tonic-reflection"] {
        assert!(!client.contains(unwanted), "{unwanted} is in {client:?}");
    }
    assert!(
        client.contains("tonic") && client.contains("hyper"),
        "{client:?}"
    );
}

#[test]
fn the_default_features_bring_both() {
    let whole = tree(&[]);
    assert!(
        whole.contains("clap") && whole.contains("tonic"),
        "{whole:?}"
    );
}

#[test]
fn no_second_tls_provider_is_built() {
    let all = tree(&["--all-features"]);
    for unwanted in ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"] {
        assert!(!all.contains(unwanted), "{unwanted} is in {all:?}");
    }
}

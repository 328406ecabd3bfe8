//! What `examples/deploy` says fits this program.
#![cfg(feature = "cli")]

mod serve_common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serve_common::{BINARY, Site, stderr};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/deploy")
        .join(name);
    fs::read_to_string(path).expect("file")
}

/// The block of text below the line that ends with `key: |`, without its indentation.
fn block(yaml: &str, key: &str) -> String {
    let mut lines = yaml.lines().skip_while(|line| line.trim() != key).skip(1);
    let mut text = Vec::new();
    let first = lines.next().expect("a block");
    let indent = first.len() - first.trim_start().len();
    text.push(&first[indent..]);
    for line in lines {
        let blank = line.trim().is_empty();
        if !blank && line.len() - line.trim_start().len() < indent {
            break;
        }
        text.push(line.get(indent..).unwrap_or_default());
    }
    text.join("\n")
}

/// The sidecar's script gives a node its own files and no others, and the settings start with them.
#[test]
fn the_stateful_set_hands_out_certificates_that_its_settings_start_with() {
    let yaml = file("kubernetes.yaml");
    let site = Site::new(3);
    let (secret, run) = (site.path("secret"), site.path("run"));
    fs::create_dir_all(&secret).expect("directory");
    fs::create_dir_all(&run).expect("directory");
    let certs = site.path("certs");
    let put = |from: &Path, name: &str| {
        fs::copy(from, secret.join(name)).expect("copied");
    };
    for name in [
        "peer-ca.pem",
        "peer-ca.crl",
        "client-ca.pem",
        "client-ca.crl",
    ] {
        put(&certs.join(name), name);
    }
    for end in ["pem", "key"] {
        put(
            &certs.join(format!("clients/operator.{end}")),
            &format!("probe.{end}"),
        );
        for node in 1..=3 {
            for name in [format!("peer.{end}"), format!("edge.{end}")] {
                let from = certs.join(format!("node-{node}")).join(&name);
                put(&from, &format!("node-{node}.{name}"));
            }
        }
    }
    let script = block(&yaml, "- |")
        .replace("/secret/", &format!("{}/", secret.display()))
        .replace("/run/certs/", &format!("{}/", run.display()))
        .replace("sleep 10 & wait $!", "break");
    assert!(script.contains("break"), "{script}");
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("POD_NAME", "conveyor-raft-1")
        .output()
        .expect("sh runs");
    assert!(output.status.success(), "{}", stderr(&output));
    let mut names: Vec<_> = fs::read_dir(&run)
        .expect("directory")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 11, "{names:?}");

    let settings = block(&yaml, "node.toml: |").replace("/run/certs", run.to_str().expect("UTF-8"));
    let path = site.path("node.toml");
    fs::write(&path, settings).expect("settings");
    let check = |node: &str| {
        Command::new(BINARY)
            .args(["config", "check", "--config"])
            .arg(&path)
            .env("CONVEYOR_RAFT__NODE__ID", node)
            .env(
                "CONVEYOR_RAFT__PEERS__ADVERTISE",
                "conveyor-raft-1.conveyor-raft-peers:50052",
            )
            .stdin(Stdio::null())
            .output()
            .expect("runs")
    };
    let good = check("2");
    assert!(good.status.success(), "{}", stderr(&good));
    // The certificates are node 2's.
    assert_eq!(check("1").status.code(), Some(1));
}

#[test]
fn the_image_is_built_with_the_oldest_compiler_that_will_do() {
    let manifest = include_str!("../Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .expect("rust-version");
    let image = format!("FROM rust:{}-", version.trim_matches('"'));
    assert!(
        file("Dockerfile")
            .lines()
            .any(|line| line.starts_with(&image)),
        "{image}"
    );
}

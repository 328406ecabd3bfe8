use std::io::Write;

use super::super::file::{NodeId, PeerEntry, Plaintext};
use super::*;

const FILE: &str = r#"
[node]
id = 1
data_dir = "data"

[peers]
list = [{ id = 2, addr = "b:50052" }]
ca = "peer-ca.pem"
cert = "peer.pem"
key = "/keys/peer.key"
crl = "peer-ca.crl"
"#;

fn from(text: &str, env: &[(&str, &str)], flags: Overrides) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(text.as_bytes()).expect("write");
    let env = env.iter().map(|(name, value)| (name.into(), value.into()));
    load(Some(file.path()), env, flags).map_err(|failure| failure.to_string())
}

#[test]
fn defaults_fill_what_the_file_leaves_out_and_paths_follow_the_file() {
    let config = from(FILE, &[], vec![]).expect("config");
    assert_eq!(config.node.id, NodeId::Number(1));
    assert_eq!(config.raft.election_timeout_min_ms, 150);
    assert_eq!(config.peers.listen, "0.0.0.0:50052");
    assert_eq!(config.edge.listen, "0.0.0.0:50051");
    assert_eq!(config.edge.plaintext, Plaintext::Off);
    assert!(config.node.data_dir.is_absolute());
    assert_eq!(config.peers.key, Path::new("/keys/peer.key"));
}

#[test]
fn the_environment_and_flags_win_over_the_file() {
    let env = [
        ("CONVEYOR_RAFT__RAFT__HEARTBEAT_INTERVAL_MS", "40"),
        ("CONVEYOR_RAFT__NODE__DATA_DIR", "/2026"),
        ("CONVEYOR_RAFT__NODE__ID", "ordinal+1"),
        (
            "CONVEYOR_RAFT__PEERS__LIST",
            r#"[{ id = 3, addr = "c:1" }]"#,
        ),
        ("CONVEYOR_RAFT__PEERS__JOIN", "true"),
        ("CONVEYOR_RAFT__SNAPSHOTS__EVERY_ENTRIES", "5000"),
        ("CONVEYOR_RAFT__EDGE__ROLES", r#"{ "shop" = "reader" }"#),
        ("CONVEYOR_RAFT_LOG", "debug"),
        ("UNRELATED", "x"),
    ];
    let flags = vec![("edge", "listen", Value::String("127.0.0.1:0".into()))];
    let config = from(FILE, &env, flags).expect("config");
    assert_eq!(config.raft.heartbeat_interval_ms, 40);
    assert_eq!(config.node.data_dir, Path::new("/2026"));
    assert_eq!(config.node.id.resolve("conveyor-2"), Ok(3));
    let third = PeerEntry {
        id: 3,
        addr: "c:1".into(),
    };
    assert_eq!(config.peers.list, [third]);
    assert!(config.peers.join);
    assert_eq!(config.snapshots.options().every_entries, 5000);
    assert_eq!(config.edge.roles["shop"], "reader");
    assert_eq!(config.edge.listen, "127.0.0.1:0");
}

#[test]
fn unknown_keys_are_named_wherever_they_come_from() {
    let misspelt = FILE.replace("data_dir", "data_dri");
    let error = from(&misspelt, &[], vec![]).expect_err("refused");
    assert!(
        error.contains("data_dri") && error.contains("data_dir"),
        "{error}"
    );
    let section = format!("{FILE}\n[snapshoots]\nkeep = 2\n");
    assert!(
        from(&section, &[], vec![])
            .expect_err("refused")
            .contains("snapshoots")
    );
    for name in [
        "CONVEYOR_RAFT__RAFT__HEARTBEAT",
        "CONVEYOR_RAFT__EDG__LISTEN",
    ] {
        let error = from(FILE, &[(name, "1")], vec![]).expect_err("refused");
        let word = name.rsplit("__").next().expect("word").to_lowercase();
        let section = name.split("__").nth(1).expect("section").to_lowercase();
        assert!(error.contains(&word) || error.contains(&section), "{error}");
    }
    let error = from(FILE, &[("CONVEYOR_RAFT__X", "1")], vec![]).expect_err("refused");
    assert!(error.contains("SECTION__KEY"), "{error}");
}

#[test]
fn a_bad_file_is_one_line_that_names_it() {
    let error = from("[node\n", &[], vec![]).expect_err("refused");
    assert!(!error.contains('\n') && error.contains("/"), "{error}");
    let wrong_type = FILE.replace("id = 1\n", "id = []\n");
    let error = from(&wrong_type, &[], vec![]).expect_err("refused");
    assert!(error.contains("ordinal+1"), "{error}");
}

#[test]
fn node_numbers_come_from_host_names_too() {
    let word = NodeId::Word("ordinal+1".into());
    assert_eq!(word.resolve("conveyor-raft-0"), Ok(1));
    assert!(word.resolve("laptop").is_err());
    assert_eq!(NodeId::Word("4".into()).resolve("x"), Ok(4));
    assert!(NodeId::Number(0).resolve("x").is_err());
}

//! The committed code under `src/proto` is what `proto/` compiles to.
//!
//! `UPDATE_PROTO=1 cargo test --no-default-features --test proto_generated` writes it anew.

use std::fs;
use std::path::{Path, PathBuf};

use protox::prost::Message;

const CODE: &str = "conveyor.raft.v1.rs";
const BYTES_AS_TEXT: &str = "#[serde(serialize_with = \"super::bytes_as_text\")]";
const CERTAINTY_AS_WORD: &str = "#[serde(serialize_with = \"super::certainty_as_word\")]";
const ROLE_AS_WORD: &str = "#[serde(serialize_with = \"super::role_as_word\")]";
const LINK_STATE_AS_WORD: &str = "#[serde(serialize_with = \"super::link_state_as_word\")]";
const STANDING_AS_WORD: &str = "#[serde(serialize_with = \"super::standing_as_word\")]";
const DESCRIPTORS: &str = "descriptors.bin";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn protos(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("proto directory") {
        let path = entry.expect("directory entry").path();
        if path.is_dir() {
            protos(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "proto") {
            found.push(path);
        }
    }
}

/// The generated code and the descriptors, from the protos as they are now.
fn generate() -> (String, Vec<u8>) {
    let mut files = Vec::new();
    protos(&root().join("proto"), &mut files);
    files.sort();
    let descriptors = protox::compile(&files, [root().join("proto")]).expect("protos compile");

    let out = tempfile::tempdir().expect("temporary directory");
    // Names make the typed error details of `google.rpc.Status` possible.
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .field_attribute(".conveyor.raft.v1.PipelineRecord.config", BYTES_AS_TEXT)
        .field_attribute(".conveyor.raft.v1.CheckpointRecord.data", BYTES_AS_TEXT)
        .field_attribute(".conveyor.raft.v1.StatusResponse.role", ROLE_AS_WORD)
        .field_attribute(".conveyor.raft.v1.PeerLink.state", LINK_STATE_AS_WORD)
        .field_attribute(".conveyor.raft.v1.Member.standing", STANDING_AS_WORD)
        .field_attribute(".conveyor.raft.v1.Rejected.certainty", CERTAINTY_AS_WORD)
        // Of its fields a command sets few: most of half a kilobyte would be moved about for nothing.
        .boxed(".conveyor.raft.v1.ProposeResponse.answer")
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        // The crate brings its own TLS, so `connect(address)` without any would be a trap.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(descriptors.clone(), config)
        .expect("code generation");
    let code = fs::read_to_string(out.path().join(CODE)).expect("generated code");

    let mut stripped = descriptors;
    for file in &mut stripped.file {
        file.source_code_info = None;
    }
    (code, stripped.encode_to_vec())
}

#[test]
fn proto_code_is_current() {
    let (code, descriptors) = generate();
    let dir = root().join("src/proto");
    if std::env::var_os("UPDATE_PROTO").is_some() {
        fs::write(dir.join(CODE), &code).expect("write code");
        fs::write(dir.join(DESCRIPTORS), &descriptors).expect("write descriptors");
    }
    let hint = "run UPDATE_PROTO=1 cargo test --no-default-features --test proto_generated";
    let committed = fs::read_to_string(dir.join(CODE)).expect("committed code");
    assert!(committed == code, "src/proto/{CODE} is stale: {hint}");
    let committed = fs::read(dir.join(DESCRIPTORS)).expect("committed descriptors");
    assert!(
        committed == descriptors,
        "src/proto/{DESCRIPTORS} is stale: {hint}"
    );
}

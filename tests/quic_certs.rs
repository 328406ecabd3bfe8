//! Certificate files: what `certs init` writes, and what a node refuses to start with.
#![allow(missing_docs)]

mod quic_common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use conveyor_raft::quic::certs::{CertsError, InitOptions, LEAF_DAYS, generate, init};
use conveyor_raft::quic::{
    CredentialFiles, Credentials, CredentialsError, Identity, IdentityError, Role,
};
use quic_common::raw::{Leaf, ca_of, crl};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

fn options() -> InitOptions {
    InitOptions {
        label: "prod".to_owned(),
        nodes: vec![1, 2, 3],
        hosts: vec!["node.example".to_owned(), "10.0.0.1".to_owned()],
        days: LEAF_DAYS,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
}

#[test]
fn init_writes_every_file_and_every_node_can_start_with_it() {
    let dir = tempfile::tempdir().expect("folder");
    let certs = dir.path().join("certs");
    let report = init(&certs, &options()).expect("written");
    let mut names: Vec<String> = report
        .files
        .iter()
        .map(|path| {
            path.strip_prefix(&certs)
                .expect("inside")
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(
        names.last().map(String::as_str),
        Some("cluster.toml"),
        "the last"
    );
    names.sort();
    let mut expected = vec![
        "client-ca.crl".to_owned(),
        "client-ca.key".to_owned(),
        "client-ca.pem".to_owned(),
        "clients/operator.key".to_owned(),
        "clients/operator.pem".to_owned(),
        "cluster.toml".to_owned(),
        "peer-ca.crl".to_owned(),
        "peer-ca.key".to_owned(),
        "peer-ca.pem".to_owned(),
    ];
    for node in 1..=3 {
        for name in ["edge.key", "edge.pem", "peer.key", "peer.pem"] {
            expected.push(format!("node-{node}/{name}"));
        }
    }
    expected.sort();
    assert_eq!(names, expected);
    for path in &report.files {
        let secret = path.extension().is_some_and(|ext| ext == "key");
        assert_eq!(mode(path) & 0o077 == 0, secret, "{}", path.display());
    }
    let left: Vec<_> = fs::read_dir(&certs).expect("readable").collect();
    assert_eq!(left.len(), 11, "nothing is left aside: {left:?}");
    let toml = fs::read_to_string(certs.join("cluster.toml")).expect("text");
    let expected = format!("cluster_id = \"{}\"\nlabel = \"prod\"\n", report.cluster);
    assert_eq!(toml, expected);
    for node in 1..=3 {
        let files = CredentialFiles::in_dir(&certs, node);
        let credentials = Credentials::load(&files).expect("usable");
        assert_eq!(
            (credentials.cluster(), credentials.node()),
            (report.cluster, node)
        );
        let edge = fs::read(certs.join(format!("node-{node}/edge.pem"))).expect("there");
        let edge = CertificateDer::from_pem_slice(&edge).expect("PEM");
        let identity = Identity::of_certificate(&edge).expect("named");
        assert_eq!(identity.role, Role::Edge(node));
    }
}

#[test]
fn init_refuses_to_overwrite_and_leaves_no_trace() {
    let dir = tempfile::tempdir().expect("folder");
    fs::write(dir.path().join("README.md"), "kept").expect("written");
    let report = init(dir.path(), &options()).expect("beside other files");
    let before = fs::read(dir.path().join("peer-ca.key")).expect("there");
    let error = init(dir.path(), &options()).expect_err("twice");
    assert!(matches!(error, CertsError::Exists(_)), "{error}");
    assert_eq!(
        fs::read(dir.path().join("peer-ca.key")).expect("there"),
        before
    );
    // One file in the way is enough, and nothing else appears beside it.
    let other = tempfile::tempdir().expect("folder");
    fs::create_dir(other.path().join("node-2")).expect("made");
    fs::write(other.path().join("node-2/peer.key"), "mine").expect("written");
    let error = init(other.path(), &options()).expect_err("in the way");
    assert!(error.to_string().contains("node-2/peer.key"), "{error}");
    let left = fs::read_dir(other.path()).expect("readable").count();
    assert_eq!(left, 1);
    assert_eq!(report.files.len(), 21);
}

#[test]
fn names_are_checked_before_anything_is_made() {
    let nodes = |nodes: &[u64]| generate("x", nodes, &[]).map(|_| ());
    for bad in ["", "Prod", "a/b", "a\"b", "../x", &"a".repeat(64)] {
        let error = generate(bad, &[1], &[]).map(|_| ()).expect_err(bad);
        assert!(matches!(error, CertsError::Name(_)));
    }
    for bad in [&[][..], &[0], &[1, 1], &[2, 0]] {
        assert!(matches!(nodes(bad), Err(CertsError::Nodes(_))), "{bad:?}");
    }
    for bad in ["", "a b", "-a", "a..b", "http://x", &"a".repeat(300)] {
        let error = generate("x", &[1], &[bad.to_owned()]).map(|_| ());
        assert!(matches!(error, Err(CertsError::Host(_))), "{bad}");
    }
}

#[test]
fn key_file_modes_refused() {
    let dir = tempfile::tempdir().expect("folder");
    init(dir.path(), &options()).expect("written");
    let files = CredentialFiles::in_dir(dir.path(), 1);
    for bad in [0o644, 0o640, 0o604, 0o660, 0o777, 0o620] {
        set_mode(&files.key, bad);
        let error = Credentials::load(&files).expect_err("readable by others");
        assert!(matches!(error, CredentialsError::Mode { .. }));
        let text = error.to_string();
        let remedy = format!("chmod 600 {}", files.key.display());
        assert!(text.contains(&remedy), "{text}");
    }
    for good in [0o600, 0o400] {
        set_mode(&files.key, good);
        Credentials::load(&files).expect("private");
    }
}

#[test]
fn unusable_files_are_named() {
    let dir = tempfile::tempdir().expect("folder");
    init(dir.path(), &options()).expect("written");
    let good = CredentialFiles::in_dir(dir.path(), 1);
    let missing = dir.path().join("none.pem");
    for files in [
        CredentialFiles {
            ca: missing.clone(),
            ..good.clone()
        },
        CredentialFiles {
            cert: missing.clone(),
            ..good.clone()
        },
        CredentialFiles {
            key: missing.clone(),
            ..good.clone()
        },
        CredentialFiles {
            crl: missing.clone(),
            ..good.clone()
        },
    ] {
        let text = Credentials::load(&files).expect_err("missing").to_string();
        assert!(text.contains("none.pem"), "{text}");
    }
    let garbage = dir.path().join("garbage");
    fs::write(&garbage, "no PEM at all").expect("written");
    set_mode(&garbage, 0o600);
    for files in [
        CredentialFiles {
            ca: garbage.clone(),
            ..good.clone()
        },
        CredentialFiles {
            cert: garbage.clone(),
            ..good.clone()
        },
        CredentialFiles {
            key: garbage.clone(),
            ..good.clone()
        },
        CredentialFiles {
            crl: garbage.clone(),
            ..good.clone()
        },
    ] {
        let error = Credentials::load(&files).expect_err("garbage");
        assert!(matches!(error, CredentialsError::Pem { .. }), "{error}");
        assert!(error.to_string().contains("garbage"), "{error}");
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    init(dir.path(), &options()).expect("written");
    let good = CredentialFiles::in_dir(dir.path(), 1);
    let other = CredentialFiles::in_dir(dir.path(), 2);
    let mixed = CredentialFiles {
        key: other.key.clone(),
        ..good.clone()
    };
    let error = Credentials::load(&mixed).expect_err("another key");
    assert!(matches!(error, CredentialsError::KeyMismatch), "{error}");
    let edge = CredentialFiles {
        cert: dir.path().join("node-1/edge.pem"),
        key: dir.path().join("node-1/edge.key"),
        ..good.clone()
    };
    let error = Credentials::load(&edge).expect_err("an edge is no peer");
    assert!(
        matches!(error, CredentialsError::Identity(IdentityError::NotPeer)),
        "{error}"
    );
    let wrong_ca = CredentialFiles {
        ca: dir.path().join("client-ca.pem"),
        ..good
    };
    let error = Credentials::load(&wrong_ca).expect_err("not signed by it");
    assert!(matches!(error, CredentialsError::Untrusted(_)), "{error}");
}

#[test]
fn a_node_does_not_start_with_what_every_peer_would_refuse() {
    let certs = quic_common::certs(&[1]);
    let ca = ca_of(certs.ca.peer_ca());
    let from = |change: &dyn Fn(&mut Leaf), revoked| {
        let mut leaf = Leaf::peer(certs.ca.cluster(), 1);
        change(&mut leaf);
        let pair = leaf.signed_by(&ca);
        Credentials::from_pem(
            certs.ca.peer_ca().cert.as_bytes(),
            pair.cert.as_bytes(),
            pair.key.as_bytes(),
            crl(&ca, revoked).as_bytes(),
        )
    };
    from(&|_| (), 1).expect("good");
    for (change, revoked, word) in [
        (
            (&|leaf: &mut Leaf| leaf.valid = (-9, -1)) as &dyn Fn(&mut Leaf),
            1,
            "expired",
        ),
        (&|leaf| leaf.valid = (1, 9), 1, "not valid yet"),
        (&|leaf| leaf.serial = 5, 5, "evoked"),
    ] {
        let text = from(change, revoked).expect_err(word).to_string();
        assert!(text.contains(word), "{text}");
    }
    from(&|leaf| leaf.uris.clear(), 1).expect_err("nobody");
}

#[test]
fn nothing_prints_a_key() {
    let certs = quic_common::certs(&[1]);
    let credentials = certs.credentials(1).expect("credentials");
    let printed = format!("{credentials:?} {certs:?} {:?}", certs.nodes);
    assert!(!printed.contains("PRIVATE"), "{printed}");
    let secret: Vec<&str> = certs.nodes[0].peer.key.lines().collect();
    assert!(!printed.contains(secret[1]));
}

#[test]
fn certificates_are_backdated_and_numbered() {
    let certs = quic_common::certs(&[1, 2]);
    let mut serials = Vec::new();
    for pair in [
        &certs.nodes[0].peer,
        &certs.nodes[1].peer,
        &certs.nodes[0].edge,
        &certs.operator,
    ] {
        let der = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM");
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("parsed");
        assert_eq!(parsed.raw_serial().len(), 16);
        serials.push(parsed.raw_serial().to_vec());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("clock")
            .as_secs() as i64;
        let since = now - parsed.validity().not_before.timestamp();
        assert!((299..=600).contains(&since), "{since}");
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 4, "all different");
}

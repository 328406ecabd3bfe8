//! `conveyor-raft certs client`, `renew`, `show`, `revoke` and `rotate`.
#![cfg(feature = "cli")]

mod serve_common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use conveyor_raft::Credentials;
use conveyor_raft::grpc::{EdgeFiles, EdgeIdentity};
use conveyor_raft::quic::{CredentialFiles, Identity};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use serve_common::{certs_init, run, stderr, stdout};

struct Dir {
    _dir: tempfile::TempDir,
    certs: PathBuf,
}

impl Dir {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let certs = dir.path().join("certs");
        certs_init(&certs, &[1, 2, 3]);
        Self { _dir: dir, certs }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.certs.join(name)).expect(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.certs.join(name), text).expect(name);
    }

    fn run(&self, args: &[&str]) -> Result<String, String> {
        let mut all = vec!["certs"];
        all.extend(args);
        all.extend(["--dir", self.certs.to_str().expect("UTF-8")]);
        let output = run(&all);
        match output.status.success() {
            true => Ok(stdout(&output)),
            false => {
                assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
                Err(stderr(&output))
            }
        }
    }

    fn ok(&self, args: &[&str]) -> String {
        self.run(args)
            .unwrap_or_else(|why| panic!("{args:?}: {why}"))
    }

    /// It ends with an error that has the word, and changes nothing.
    fn refused(&self, args: &[&str], word: &str) {
        let before = tree(&self.certs);
        let why = self.run(args).expect_err(word);
        assert!(why.contains(word), "{args:?}: {why}");
        assert!(before == tree(&self.certs), "{args:?} changed something");
    }

    fn show(&self) -> Vec<Value> {
        let lines = self.ok(&["show", "--json"]);
        let parse = |line| serde_json::from_str(line).expect("JSON");
        lines.lines().map(parse).collect()
    }

    fn one(&self, file: &str) -> Value {
        let mut all = self.show();
        all.retain(|value| value["file"] == file);
        assert_eq!(all.len(), 1, "{file}");
        all.remove(0)
    }

    fn state(&self) -> String {
        let value: Value = serde_json::from_str(&self.ok(&["rotate", "--json"])).expect("JSON");
        value["state"].as_str().expect("state").to_owned()
    }

    /// Every node could start with what is there, and every client call.
    fn all_usable(&self) {
        for node in 1..=3 {
            Credentials::load(&CredentialFiles::in_dir(&self.certs, node)).expect("peer");
            self.edge(&format!("node-{node}/edge")).expect("edge");
        }
        self.edge("clients/operator").expect("client");
        let bad: Vec<_> = self.show();
        let bad: Vec<_> = bad
            .iter()
            .filter(|value| value["state"] != "good")
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
    }

    fn edge(&self, stem: &str) -> Result<EdgeIdentity, conveyor_raft::grpc::EdgeTlsError> {
        EdgeIdentity::load(&EdgeFiles {
            ca: self.certs.join("client-ca.pem"),
            cert: self.certs.join(format!("{stem}.pem")),
            key: self.certs.join(format!("{stem}.key")),
            crl: Some(self.certs.join("client-ca.crl")),
        })
    }
}

/// Every file with its mode and contents.
fn tree(dir: &Path) -> BTreeSet<(PathBuf, u32, Vec<u8>)> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            let mode = fs::metadata(&path).expect("metadata").permissions().mode();
            let bytes = fs::read(&path).expect("read");
            all.insert((path, mode & 0o7777, bytes));
        }
    }
    all
}

fn keys(dir: &Path) -> BTreeSet<Vec<u8>> {
    let all = tree(dir).into_iter();
    let keys = all.filter(|(path, ..)| path.extension().is_some_and(|ending| ending == "key"));
    keys.map(|(path, mode, bytes)| {
        assert_eq!(mode, 0o600, "{}", path.display());
        bytes
    })
    .collect()
}

#[test]
fn clients_are_added_with_a_role_and_days() {
    let dir = Dir::new();
    let said = dir.ok(&["client", "shop", "--role", "writer", "--days", "30"]);
    assert!(
        said.contains("clients/shop.pem") && said.contains("client-ca.pem"),
        "{said}"
    );
    let pem = dir.text("clients/shop.pem");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    let identity = Identity::of_certificate(&der).expect("named").to_string();
    assert!(identity.ends_with("/client/writer/shop"), "{identity}");
    let shown = dir.one("clients/shop.pem");
    assert_eq!(shown["who"], identity);
    assert!(
        (29..=30).contains(&shown["days_left"].as_i64().expect("days")),
        "{shown}"
    );
    assert_eq!(shown["key_mode"], "0600");
    dir.edge("clients/shop").expect("usable");
    dir.refused(&["client", "shop", "--role", "reader"], "exists");
    dir.refused(
        &["client", "x", "--role", "root"],
        "reader, writer or operator",
    );
    dir.refused(&["client", "X/y", "--role", "reader"], "lower-case");
    dir.refused(
        &["client", "x", "--role", "reader", "--days", "0"],
        "1 to 3650",
    );
    dir.refused(
        &["client", "x", "--role", "reader", "--days", "3651"],
        "1 to 3650",
    );
    dir.refused(&["add", "--node", "4", "--days", "0"], "1 to 3650");
    dir.ok(&["add", "--node", "4", "--days", "10"]);
    assert!(
        dir.one("node-4/peer.pem")["days_left"]
            .as_i64()
            .expect("days")
            <= 10
    );
    fs::remove_file(dir.certs.join("client-ca.key")).expect("there");
    dir.refused(&["client", "y", "--role", "reader"], "client-ca.key");
}

#[test]
fn certificates_are_renewed_and_no_key_is_lost() {
    let dir = Dir::new();
    dir.ok(&["client", "shop", "--role", "writer", "--days", "1"]);
    let (before, operator) = (keys(&dir.certs), dir.text("clients/operator.key"));
    let serial = dir.one("node-2/peer.pem")["serial"].clone();
    let said = dir.ok(&["renew", "--node", "2", "--client", "shop"]);
    assert!(
        said.contains("node-2/edge.pem") && !said.contains("node-1"),
        "{said}"
    );
    dir.all_usable();
    assert_ne!(dir.one("node-2/peer.pem")["serial"], serial);
    assert!(
        dir.one("clients/shop.pem")["days_left"]
            .as_i64()
            .expect("days")
            > 300
    );
    assert_eq!(dir.text("clients/operator.key"), operator, "not meant");
    let after = keys(&dir.certs);
    assert!(before.is_subset(&after), "a key was lost");
    assert_eq!(after.len(), before.len() + 3);
    dir.refused(&["renew", "--node", "9"], "node 9");
    dir.refused(&["renew", "--client", "nobody"], "client nobody");
}

#[test]
fn show_says_who_until_when_and_what_is_wrong() {
    let dir = Dir::new();
    // No key of a CA is needed.
    for name in ["peer-ca.key", "client-ca.key"] {
        fs::remove_file(dir.certs.join(name)).expect("there");
    }
    let all = dir.show();
    assert_eq!(all.len(), 2 + 3 * 2 + 1);
    assert!(all.iter().all(|value| value["state"] == "good"), "{all:?}");
    let peer = dir.one("node-1/peer.pem");
    assert!(peer["who"].as_str().expect("who").ends_with("/peer/1"));
    assert_eq!(peer["issuer"], "test peer CA");
    assert_eq!(peer["serial"].as_str().map(str::len), Some(32));
    let der = CertificateDer::from_pem_slice(dir.text("node-1/peer.pem").as_bytes()).expect("PEM");
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(peer["sha256"], hex);
    let table = dir.ok(&["show"]);
    for word in [
        hex.as_str(),
        "until 20",
        "node-3/edge.pem: good",
        "key 0600",
        "test client CA",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let key = dir.certs.join("node-1/peer.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("mode");
    let state = dir.one("node-1/peer.pem")["state"].to_string();
    assert!(state.contains("chmod 600"), "{state}");
    // Of another cluster: its CA is not in the bundle.
    let other = Dir::new();
    dir.write("node-2/peer.pem", &other.text("node-2/peer.pem"));
    let state = dir.one("node-2/peer.pem")["state"].to_string();
    assert!(state.contains("not in the bundle"), "{state}");
    dir.write("node-3/peer.pem", "nothing");
    dir.refused(&["show"], "node-3/peer.pem");
}

#[test]
fn revoking_lists_what_is_meant_once_and_for_all() {
    let dir = Dir::new();
    dir.ok(&["client", "shop", "--role", "writer"]);
    let before = dir.text("client-ca.crl");
    let said = dir.ok(&["revoke", "--node", "2"]);
    assert!(
        said.contains("/peer/2") && said.contains("/edge/2"),
        "{said}"
    );
    assert!(
        said.contains("peer-ca.crl") && said.contains("client-ca.crl"),
        "{said}"
    );
    assert_ne!(dir.text("client-ca.crl"), before);
    for (file, state) in [
        ("node-2/peer.pem", "revoked"),
        ("node-2/edge.pem", "revoked"),
        ("node-1/peer.pem", "good"),
        ("clients/shop.pem", "good"),
    ] {
        assert_eq!(dir.one(file)["state"], state, "{file}");
    }
    let of = |node| Credentials::load(&CredentialFiles::in_dir(&dir.certs, node));
    let why = of(2).expect_err("revoked").to_string();
    assert!(why.contains("evoked"), "{why}");
    of(1).expect("not revoked");
    // Again changes nothing.
    let lists = (dir.text("peer-ca.crl"), dir.text("client-ca.crl"));
    let said = dir.ok(&["revoke", "--node", "2"]);
    assert!(said.contains("already"), "{said}");
    assert_eq!((dir.text("peer-ca.crl"), dir.text("client-ca.crl")), lists);
    // By name, and by number; what was on the list stays there.
    let said = dir.ok(&["revoke", "--client", "shop", "--json"]);
    assert!(
        said.contains("client-ca.crl") && !said.contains("peer-ca.crl"),
        "{said}"
    );
    assert_eq!(dir.text("peer-ca.crl"), lists.0);
    let serial = dir.one("node-3/peer.pem")["serial"].clone();
    dir.ok(&[
        "revoke",
        "--serial",
        &serial.as_str().expect("text").to_uppercase(),
    ]);
    for file in [
        "node-2/peer.pem",
        "node-2/edge.pem",
        "clients/shop.pem",
        "node-3/peer.pem",
    ] {
        assert_eq!(dir.one(file)["state"], "revoked", "{file}");
    }
    assert_eq!(dir.one("node-3/edge.pem")["state"], "good");
    // One that the directory does not know may be of either CA.
    let said = dir.ok(&["revoke", "--serial", "00:ab:cd"]);
    assert!(said.contains("nobody that the directory knows"), "{said}");
    assert!(
        said.contains("peer-ca.crl") && said.contains("client-ca.crl"),
        "{said}"
    );
    assert!(dir.ok(&["revoke", "--serial", "abcd"]).contains("already"));
    of(1).expect("still not revoked");
}

#[test]
fn what_cannot_be_revoked_is_refused() {
    let dir = Dir::new();
    dir.refused(&["revoke", "--node", "9"], "node 9");
    dir.refused(&["revoke", "--client", "nobody"], "client nobody");
    for bad in ["xyz", "abc", "", &"ab".repeat(21)] {
        dir.refused(&["revoke", "--serial", bad], "hexadecimal");
    }
    let ca = dir.one("peer-ca.pem")["serial"].clone();
    dir.refused(
        &["revoke", "--serial", ca.as_str().expect("text")],
        "certs rotate",
    );
    let path = dir.certs.to_str().expect("UTF-8");
    for args in [&["--node", "1", "--client", "x"][..], &[]] {
        let mut all = vec!["certs", "revoke", "--dir", path];
        all.extend(args);
        assert_eq!(run(&all).status.code(), Some(2), "{args:?}");
    }
    fs::remove_file(dir.certs.join("peer-ca.key")).expect("there");
    dir.refused(&["revoke", "--node", "1"], "peer-ca.key");
}

#[test]
fn cas_are_rotated_in_three_steps() {
    let dir = Dir::new();
    dir.ok(&["client", "shop", "--role", "reader"]);
    let before = keys(&dir.certs);
    assert_eq!(dir.state(), "rest");
    dir.refused(&["rotate", "issue"], "certs rotate trust");
    dir.refused(&["rotate", "retire"], "certs rotate trust");

    let said = dir.ok(&["rotate", "trust"]);
    assert!(
        said.contains("state: trusted") && said.contains("every node"),
        "{said}"
    );
    let old_leaf = dir.text("node-1/peer.pem");
    dir.all_usable();
    assert_eq!(dir.text("peer-ca.pem").matches("BEGIN").count(), 2);
    assert_eq!(dir.text("peer-ca.crl").matches("BEGIN").count(), 2);
    let trusted = tree(&dir.certs);
    dir.ok(&["rotate", "trust"]);
    assert!(trusted == tree(&dir.certs), "the same step changes nothing");
    dir.refused(&["rotate", "retire"], "certs rotate issue");
    // Whoever is added now is still of the old CA, which nodes may know alone.
    dir.ok(&["client", "late", "--role", "reader"]);
    assert_eq!(dir.one("clients/late.pem")["issuer"], "test client CA");

    let edges = dir.text("node-1/edge.pem");
    let said = dir.ok(&["rotate", "issue", "--days", "100"]);
    assert!(
        said.contains("state: issued") && said.contains("node-3/edge.pem"),
        "{said}"
    );
    dir.all_usable();
    assert_ne!(dir.text("node-1/edge.pem"), edges);
    for value in dir.show().iter().filter(|value| value["is_ca"] == false) {
        let issuer = value["issuer"].as_str().expect("issuer");
        assert!(
            issuer.starts_with("test ") && issuer.len() > "test client CA".len(),
            "{value}"
        );
        assert!(value["days_left"].as_i64().expect("days") <= 100, "{value}");
    }
    dir.ok(&["client", "later", "--role", "reader"]);
    assert_ne!(dir.one("clients/later.pem")["issuer"], "test client CA");
    dir.refused(&["rotate", "trust"], "certs rotate retire");
    let issued = tree(&dir.certs);
    dir.ok(&["rotate", "issue"]);
    assert!(issued == tree(&dir.certs), "the same step changes nothing");
    // One that lags behind holds the last step up.
    let fresh = dir.text("node-1/peer.pem");
    dir.write("node-1/peer.pem", &old_leaf);
    assert_eq!(dir.state(), "issuing");
    dir.refused(&["rotate", "retire"], "node-1/peer.pem");
    dir.write("node-1/peer.pem", &fresh);
    // While two CAs overlap, lists of both take a revocation.
    dir.ok(&["revoke", "--client", "late"]);
    assert_eq!(dir.one("clients/late.pem")["state"], "revoked");
    assert_eq!(dir.text("client-ca.crl").matches("BEGIN").count(), 2);

    let said = dir.ok(&["rotate", "retire"]);
    assert!(
        said.contains("state: rest") && said.contains("every node"),
        "{said}"
    );
    assert_eq!(dir.text("peer-ca.pem").matches("BEGIN").count(), 1);
    assert_eq!(dir.text("peer-ca.crl").matches("BEGIN").count(), 1);
    assert!(!dir.certs.join("next").exists());
    assert_eq!(
        dir.one("clients/late.pem")["state"],
        "revoked",
        "it is on the new CA's list"
    );
    dir.refused(&["rotate", "retire"], "certs rotate trust");
    let after = keys(&dir.certs);
    assert!(before.is_subset(&after), "a key was lost");
    // The new CAs issue and revoke, and can be rotated again.
    dir.ok(&["add", "--node", "4"]);
    dir.ok(&["revoke", "--node", "4"]);
    fs::remove_dir_all(dir.certs.join("node-4")).expect("there");
    fs::remove_file(dir.certs.join("clients/late.pem")).expect("there");
    for step in ["trust", "issue", "retire"] {
        dir.ok(&["rotate", step]);
        dir.all_usable();
    }
}

#[test]
fn a_rotation_that_was_cut_off_is_finished() {
    let dir = Dir::new();
    let old = ["peer-ca.pem", "client-ca.pem", "client-ca.crl"].map(|name| (name, dir.text(name)));
    dir.ok(&["rotate", "trust"]);
    // Cut off after the first list.
    for (name, text) in &old {
        dir.write(name, text);
    }
    assert_eq!(dir.state(), "trusting");
    dir.all_usable();
    dir.refused(&["rotate", "issue"], "certs rotate trust");
    dir.ok(&["rotate", "trust"]);
    assert_eq!(dir.state(), "trusted");
    dir.all_usable();

    let pair = ["node-2/peer.pem", "node-3/edge.pem"].map(|name| (name, dir.text(name)));
    dir.ok(&["rotate", "issue"]);
    let issued = dir.text("node-1/peer.pem");
    // Cut off between a new key and its certificate, and before another.
    for (name, text) in &pair {
        dir.write(name, text);
    }
    assert_eq!(dir.state(), "issuing");
    dir.ok(&["rotate", "issue"]);
    assert_eq!(dir.state(), "issued");
    assert_eq!(
        dir.text("node-1/peer.pem"),
        issued,
        "what was new already stays"
    );
    dir.all_usable();

    // Cut off after the first bundle.
    let bundle = dir.text("peer-ca.pem");
    let end = "-----END CERTIFICATE-----\n";
    let new = bundle.split_once(end).expect("two").1.to_owned();
    dir.write("next/retiring", "");
    dir.write("peer-ca.pem", &new);
    assert_eq!(dir.state(), "retiring");
    dir.refused(&["rotate", "trust"], "certs rotate retire");
    dir.refused(&["revoke", "--node", "1"], "certs rotate retire");
    dir.ok(&["rotate", "retire"]);
    assert_eq!(dir.state(), "rest");
    dir.all_usable();
    dir.ok(&["add", "--node", "4"]);
    Credentials::load(&CredentialFiles::in_dir(&dir.certs, 4)).expect("of the new CA");
}

#[test]
fn the_first_certificates_are_good_for_as_many_days_as_asked_and_the_cas_for_longer() {
    let dir = tempfile::tempdir().expect("directory");
    let certs = dir.path().join("certs");
    let certs = certs.to_str().expect("UTF-8");
    let first = |days: &str| {
        let args = ["certs", "init", "--cluster", "test", "--node", "1"];
        run(&[&args[..], &["--dir", certs, "--days", days]].concat())
    };
    for days in ["0", "3651"] {
        let output = first(days);
        let said = stderr(&output);
        assert!(
            !output.status.success() && said.contains("1 to 3650"),
            "{said}"
        );
        assert!(!Path::new(certs).exists(), "nothing is written");
    }
    assert!(first("20").status.success());
    let shown = run(&["certs", "show", "--json", "--dir", certs]);
    let shown = stdout(&shown);
    assert!(shown.lines().count() >= 5, "{shown}");
    for line in shown.lines() {
        let one: Value = serde_json::from_str(line).expect("JSON");
        let (file, days) = (one["file"].as_str(), one["days_left"].as_i64());
        let expected = match file.expect("file").contains("-ca") {
            true => 3649..=3650,
            false => 19..=20,
        };
        assert!(expected.contains(&days.expect("days")), "{one}");
    }
}

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
    // The variables that the template sets to a value; the other two are fields of the pod.
    let value = |name: &str| {
        let begin = format!("- {{ name: {name}, value: ");
        let line = yaml
            .lines()
            .find_map(|line| line.trim().strip_prefix(&begin));
        let value = line
            .expect("a value")
            .trim_end_matches(" }")
            .trim_matches('"');
        (name.to_owned(), value.to_owned())
    };
    let values = ["CLUSTER_NAME", "REPLICAS", "HEADLESS_SERVICE"].map(value);
    for (name, line) in [
        ("CLUSTER_NAME", "  name: "),
        ("REPLICAS", "  replicas: "),
        ("HEADLESS_SERVICE", "  serviceName: "),
    ] {
        let set = yaml.split("kind: StatefulSet").nth(1).expect("a set");
        let said = set.lines().find_map(|at| at.strip_prefix(line));
        let given = values.iter().find(|(other, _)| other == name);
        assert_eq!(said, given.map(|(_, value)| value.as_str()), "{name}");
    }
    for name in ["POD_NAME", "NAMESPACE"] {
        assert!(yaml.contains(&format!("- name: {name}\n")), "{name}");
    }
    let check = |node: &str| {
        Command::new(BINARY)
            .args(["config", "check", "--config"])
            .arg(&path)
            .envs([("POD_NAME", node), ("NAMESPACE", "default")])
            .envs(values.clone())
            .stdin(Stdio::null())
            .output()
            .expect("runs")
    };
    let good = check("conveyor-raft-1");
    assert!(good.status.success(), "{}", stderr(&good));
    let said = String::from_utf8_lossy(&good.stdout);
    for line in [
        "[node] id = 2    # POD_NAME",
        "[node] auto_join = true    # ",
        "[metrics] listen = \"0.0.0.0:9090\"",
        "conveyor-raft-2.conveyor-raft-peers.default.svc:50052",
        "[edge] advertise = \"conveyor-raft-1.conveyor-raft-peers.default.svc:50051\"",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    // The certificates are node 2's.
    assert_eq!(check("conveyor-raft-0").status.code(), Some(1));
}

/// Figures are told where the manifest says that they are: settings, container, annotation and policy agree.
#[test]
fn the_stateful_set_has_its_figures_asked_for_at_the_port_where_they_are_told() {
    let yaml = file("kubernetes.yaml");
    let settings = block(&yaml, "node.toml: |");
    let listen = settings.split("[metrics]").nth(1).expect("a section");
    let listen = listen.split("listen = \"0.0.0.0:").nth(1).expect("a key");
    let port = listen.split('"').next().expect("a port");
    let policy = yaml.split("kind: NetworkPolicy").nth(1).expect("a policy");
    let policy = policy.split("---").next().expect("its end");
    assert!(policy.contains(&format!("- port: {port}\n")), "{policy}");
    let set = yaml.split("kind: StatefulSet").nth(1).expect("a set");
    for line in [
        format!("- {{ name: metrics, containerPort: {port}, protocol: TCP }}"),
        format!("prometheus.io/port: \"{port}\""),
        "prometheus.io/path: /metrics".to_owned(),
    ] {
        assert!(set.contains(&line), "{line}");
    }
}

/// Nothing but the five variables: no file, no argument.
#[test]
fn a_pod_needs_no_argument_and_says_which_variable_is_missing() {
    let variables = [
        ("POD_NAME", "conveyor-raft-1"),
        ("NAMESPACE", "default"),
        ("CLUSTER_NAME", "conveyor-raft"),
        ("REPLICAS", "3"),
        ("HEADLESS_SERVICE", "conveyor-raft-peers"),
    ];
    let serve = |variables: &[(&str, &str)]| {
        let output = Command::new(BINARY)
            .arg("serve")
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("runs");
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    // Who it is and whom it meets is known, and the certificates are looked for where the manifest puts them.
    let said = serve(&variables);
    assert!(said.contains("/run/certs/"), "{said}");
    for at in 0..variables.len() {
        let mut fewer = variables.to_vec();
        let (missing, _) = fewer.remove(at);
        fewer.push(("CONVEYOR_RAFT__PEERS__FROM", "kubernetes"));
        let said = serve(&fewer);
        assert!(
            said.contains(&format!("needs the variable {missing};")),
            "{said}"
        );
    }
}

/// Its default command is the one that is tried above: who gives no arguments needs no file.
#[test]
fn the_image_asks_for_no_file_of_settings() {
    let image = file("Dockerfile");
    let mut lines = image.lines();
    let command = lines.find(|line| line.starts_with("CMD "));
    assert_eq!(command, Some("CMD [\"serve\"]"));
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

//! `conveyor-raft dev`, as a newcomer runs it.
#![cfg(feature = "cli")]

mod common;
mod serve_common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use serve_common::{BINARY, run, stderr, stdout};

const INPUT: &str = r#"# a short day

{"RegisterSidecar":{"sidecar_id":"shop/a","endpoint":"10.0.0.1:50053"}}
{"RegisterService":{"service_id":"m","service_type":"sink","endpoint":"x:1","lables":{}}}
{"RegisterSidecar":{"sidecar_id":"shop/a","endpoint":"10.0.0.1:50053"}}
not a command
{"RenewLease":{"service_id":"nobody"}}
{"CommitSourceOffset":{"source_id":"orders","partition":3,"offset":9}}
"#;

fn dev(dir: Option<&Path>, input: &str) -> (Value, String, Option<i32>) {
    let mut command = Command::new(BINARY);
    command.args(["dev", "--input", "-", "--exit", "--json"]);
    if let Some(dir) = dir {
        command.arg("--dir").arg(dir);
    }
    let output = fed(command, input);
    let report = serde_json::from_str(&stdout(&output)).unwrap_or(Value::Null);
    (report, stderr(&output), output.status.code())
}

/// Runs it with this on its standard input.
fn fed(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input.as_bytes()).expect("input");
    drop(stdin);
    child.wait_with_output().expect("output")
}

#[test]
fn the_stages_of_a_command_are_told_to_who_wants_to_know() {
    let _turn = common::real_time_turn();
    let line = r#"{"RegisterSidecar":{"sidecar_id":"shop/a","endpoint":"10.0.0.1:50053"}}"#;
    let said = |log: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["dev", "--input", "-", "--exit"]).args(log);
        stderr(&fed(command, line))
    };
    let told = said(&["--log", "warn,conveyor_raft::command=trace"]);
    for stage in ["propose", "append", "sync", "replicate", "commit", "apply"] {
        let of = format!("}}:{stage}: ");
        let lines = told.lines().filter(|line| line.contains(&of));
        let took = lines.filter(|line| line.contains("RegisterSidecar") && line.contains("close"));
        assert_eq!(took.count(), 1, "{stage}: {told}");
    }
    assert!(told.contains("outcome=\"applied\"}: "), "{told}");
    assert!(!said(&[]).contains("time.idle="));
}

fn digests(report: &Value) -> Vec<String> {
    let nodes = report["nodes"].as_array().expect("nodes");
    nodes
        .iter()
        .map(|node| node["digest"].to_string())
        .collect()
}

#[test]
fn bad_lines_are_named_and_the_rest_lands() {
    let _turn = common::real_time_turn();
    let (report, said, code) = dev(None, INPUT);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("line 4: RegisterService: unknown field \"lables\""),
        "{said}"
    );
    assert!(said.contains("did you mean \"labels\""), "{said}");
    assert!(said.contains("line 6: "), "{said}");
    let count = |name: &str| report[name].as_u64().unwrap_or(u64::MAX);
    let counts = ["applied", "unchanged", "rejected", "unknown", "bad_lines"].map(count);
    assert_eq!(counts, [2, 1, 1, 0, 2]);
    assert_eq!(report["digests_agree"], true);
    let digests = digests(&report);
    assert!(digests.len() == 3 && digests.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(report["state"]["sidecars"], 1);
    assert_eq!(report["state"]["source_offsets"], 1);
}

#[test]
fn the_same_directory_goes_on_with_what_is_there() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path().join("demo");
    let register = |id: &str| {
        format!("{{\"RegisterSidecar\":{{\"sidecar_id\":\"{id}\",\"endpoint\":\"x:1\"}}}}\n")
    };
    let (first, said, code) = dev(Some(&dir), &register("a"));
    assert_eq!(
        (code, &first["state"]["sidecars"]),
        (Some(0), &1.into()),
        "{said}"
    );
    let (second, said, code) = dev(Some(&dir), &register("b"));
    assert_eq!(
        (code, &second["state"]["sidecars"]),
        (Some(0), &2.into()),
        "{said}"
    );
    assert!(second["term"].as_u64() > first["term"].as_u64());
    let dir = dir.to_str().expect("UTF-8");
    let other = run(&["dev", "--dir", dir, "--nodes", "5", "--exit"]);
    assert!(!other.status.success() && stderr(&other).contains("--nodes 3"));
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal");
}

#[test]
fn it_says_how_to_talk_to_it_and_cleans_up_at_ctrl_c() {
    let _turn = common::real_time_turn();
    let temporary = tempfile::tempdir().expect("directory");
    let mut child = Command::new(BINARY)
        .args(["dev", "--nodes", "1"])
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut seen = Vec::new();
    for line in lines.by_ref() {
        let line = line.expect("line");
        let last = line.contains("Ctrl-C");
        seen.push(line);
        if last {
            break;
        }
    }
    let text = seen.join("\n");
    let status = seen
        .iter()
        .find_map(|line| line.trim().strip_prefix("conveyor-raft status "));
    let args: Vec<_> = status.expect(&text).split(' ').collect();
    let output = run(&[&["status"], args.as_slice()].concat());
    assert!(
        output.status.success() && stdout(&output).contains("leader"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_dir(temporary.path()).expect("list").count(), 1);
    interrupt(&child);
    assert!(child.wait().expect("ends").success());
    assert_eq!(
        fs::read_dir(temporary.path()).expect("list").count(),
        0,
        "nothing is left"
    );
}

#[test]
fn an_input_that_is_not_there_starts_nothing() {
    let output = run(&["dev", "--input", "/nowhere/day.ndjson", "--exit"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/day.ndjson"));
    let output = run(&["dev", "--nodes", "0"]);
    assert_eq!(output.status.code(), Some(2));
}

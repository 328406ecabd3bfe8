//! Scripts for the protocol's core, as text that a stranger can read: `tests/core/*.txt`.
//!
//! `CONVEYOR_REWRITE=1 cargo test --test core_scripts` writes anew what they print; review that as
//! text. The language is described in `docs/core-scripts.md`.

mod change;
mod check;
mod command;
mod deliver;
mod disk;
mod drive;
mod file;
mod show;
mod single_server;
mod world;

use std::path::{Path, PathBuf};

use command::Interpreter;

fn folder() -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = root.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.join("tests/core")
}

/// What a script prints instead of what its file says, and where they differ.
struct Ran {
    rewritten: String,
    differences: Vec<String>,
    interpreter: Interpreter,
}

fn run(name: &str, text: &str) -> Result<Ran, String> {
    let mut ran = Ran {
        rewritten: String::new(),
        differences: Vec::new(),
        interpreter: Interpreter::default(),
    };
    for block in file::parse(text).map_err(|error| format!("{name}: {error}"))? {
        let mut got = Vec::new();
        for (line, command) in block.commands() {
            match ran.interpreter.run(command) {
                Ok(said) => got.extend(said),
                Err(error) => {
                    let printed = got.iter().map(|line| format!("\n  {line}"));
                    let printed: String = printed.collect();
                    let error = format!("{name}:{line}: {command}: {error}{printed}");
                    ran.differences.push(error);
                    return Err(ran.differences.join("\n"));
                }
            }
        }
        if got.is_empty() {
            got.push("(nothing)".to_owned());
        }
        if got != block.expected {
            let difference = file::difference(&block.expected, &got);
            let line = block.result_line;
            ran.differences.push(format!(
                "{name}:{line}: expected (-) and got (+)\n{difference}"
            ));
        }
        if !ran.rewritten.is_empty() {
            ran.rewritten.push('\n');
        }
        ran.rewritten += &block.with_result(&got);
    }
    Ok(ran)
}

fn check(path: &Path) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let ran = run(&name, &text)?;
    if std::env::var_os("CONVEYOR_REWRITE").is_some() {
        return std::fs::write(path, ran.rewritten).map_err(|error| format!("{name}: {error}"));
    }
    match ran.differences.is_empty() {
        true => Ok(()),
        false => Err(ran.differences.join("\n")),
    }
}

#[test]
fn every_script_prints_what_its_file_says() {
    let listed = std::fs::read_dir(folder()).expect("the scripts' folder");
    let mut paths: Vec<_> = listed.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    assert!(paths.len() >= 18, "scripts are missing: {paths:?}");
    let failures: Vec<_> = paths.iter().filter_map(|path| check(path).err()).collect();
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

#[test]
fn mistakes_in_a_script_are_named_with_their_line() {
    for (commands, expected) in [
        ("status", "1: status: say `cluster N` first"),
        ("cluster 3\nconnect\nsing", "3: sing: unknown command: sing"),
        (
            "cluster 3\nconnect\ndeliver 1->2",
            "no message is on its way 1->2",
        ),
        (
            "cluster 3\nconnect\ncampaign 1\ndeliver 1->2 vote",
            "no vote is on its way 1->2",
        ),
        (
            "cluster 3\nconnect\ncampaign 4",
            "3: campaign 4: there is no node 4",
        ),
        ("cluster 3\nconnect\ncrash 2\ncampaign 2", "node 2 is down"),
        ("cluster 3\nconnect\npropose 1 x", "node 1 does not lead"),
        (
            "cluster 3\nconnect\nnode 1 term=4",
            "start states stand between",
        ),
        ("cluster 3\nconnect\nchange 1 add", "add whom?"),
        ("cluster 3\nconnect\nchange 1 sack 2", "sack is no change"),
        (
            "cluster 3\nconnect\nchange 1 replace 2",
            "replaced by whom?",
        ),
        ("cluster 3\nconnect\npersist 1", "no such write under way"),
        ("cluster 3\nnode 1 log=one", "one is no number"),
        (
            "cluster 3 blank\nnode 1 log=1",
            "blank nodes have no start state",
        ),
    ] {
        let text = format!("{commands}\n----\n(nothing)\n");
        let error = run("a.txt", &text).err().unwrap_or_default();
        assert!(error.starts_with("a.txt:"), "{commands}: {error}");
        assert!(error.contains(expected), "{commands}: {error}");
    }
    let error = run("a.txt", "cluster 3\n").err().unwrap_or_default();
    assert!(error.contains("line 1: commands without"), "{error}");
}

#[test]
fn a_difference_names_the_line_and_shows_both() {
    let ran = run("a.txt", "# One.\n\ncluster 1\n----\n(something)\n").expect("it runs");
    assert_eq!(
        ran.differences,
        ["a.txt:5: expected (-) and got (+)\n  - (something)\n  + (nothing)\n"]
    );
    assert_eq!(ran.rewritten, "# One.\n\ncluster 1\n----\n(nothing)\n");
}

#[test]
fn the_example_in_the_documentation_is_what_happens() {
    let path = folder().join("../../docs/core-scripts.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let example = text.split("```text\n").nth(1).expect("an example");
    let example = example.split("```").next().unwrap_or_default();
    let ran = run("docs/core-scripts.md", example).expect("it runs");
    assert_eq!(ran.differences, [""; 0]);
}

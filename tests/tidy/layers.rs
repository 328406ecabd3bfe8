//! Which module may use which. Arrows point down only.

use super::source::{Source, is_word, words};

/// The modules from the bottom to the top. A module may use those of the rows below its own, never
/// one of its own row, so that the log, the transport and the client edge can each be replaced,
/// and understood, without the others.
const LAYERS: &[&[&str]] = &[
    &["types"],
    &["entry", "proto"],
    &["core", "state_machine"],
    &["network"],
    &["wire"],
    &["wal", "quic"],
    &["snapshot"],
    &["config"],
    &["error"],
    &["node"],
    &["backup"],
    &["grpc", "sim"],
    &["client"],
];

/// Leaves inside an upper module that any part but the core may use: every limit is in one place,
/// and so is the error for a wrong setting.
const LEAVES: &[&str] = &["config::limits", "config::ConfigError"];

/// What the core must not know of: it has no clock, no randomness, no file and no socket.
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "quinn",
    "getrandom",
    "rustix",
    "Instant",
    "SystemTime",
    "fs",
    "net",
    "thread",
    "env",
    "process",
];

/// What a replicated state machine must not know of: every node has to come to the same result.
const NOT_IN_STATE_MACHINE: &[&str] = &[
    "Instant",
    "SystemTime",
    "getrandom",
    "rand",
    "f32",
    "f64",
    "HashMap",
    "HashSet",
    "RandomState",
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Every use of a module that is not below its user.
pub(crate) fn problems(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_crate_code()) {
        let path = module_path(&source.path);
        let Some(module) = path.first() else {
            continue;
        };
        if module == "bin" {
            continue;
        }
        let Some(own) = layer(module) else {
            found.push(format!(
                "{}: module {module} has no place in LAYERS of tests/tidy/layers.rs",
                source.path
            ));
            continue;
        };
        for (offset, used) in uses(&source.live, &path) {
            if let Some(why) = refusal(module, own, &used) {
                found.push(format!("{}: {why}", source.at(offset)));
            }
        }
        forbidden_words(source, module, &mut found);
    }
    found
}

fn refusal(module: &str, own: usize, used: &str) -> Option<String> {
    let top = used.split("::").next().unwrap_or(used);
    let is_leaf = || LEAVES.iter().any(|leaf| used.starts_with(leaf));
    if top == module || (module != "core" && is_leaf()) {
        return None;
    }
    if module == "core" && top != "types" {
        return Some(format!("core uses {used}; it may use nothing but types"));
    }
    match layer(top) {
        Some(below) if below < own => None,
        Some(_) => Some(format!("{module} uses {used}, which is not below it")),
        None => Some(format!(
            "{module} uses crate::{used}; name the module that it lives in"
        )),
    }
}

fn forbidden_words(source: &Source, module: &str, found: &mut Vec<String>) {
    let forbidden = match module {
        "core" => NOT_IN_CORE,
        "state_machine" => NOT_IN_STATE_MACHINE,
        _ => return,
    };
    for word in forbidden {
        for offset in words(&source.live, word) {
            found.push(format!("{}: {word} in {module}", source.at(offset)));
        }
    }
}

/// The file `wal/map.rs` is module `[wal, map]`; `lib.rs` is `[]`.
fn module_path(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let parts = path
        .split('/')
        .filter(|part| !["mod", "lib"].contains(part));
    parts.map(str::to_owned).collect()
}

/// Paths from the crate's root that `code` of module `own` names, with where it does.
fn uses(code: &str, own: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let roots = ["crate::".to_owned(), "super::".repeat(own.len())];
    for (nth, root) in roots.iter().enumerate() {
        for (offset, _) in code.match_indices(root.as_str()) {
            let before = offset.checked_sub(1).map(|at| code.as_bytes()[at]);
            let inside_a_path = before.is_some_and(|byte| is_word(byte) || byte == b':');
            // `$crate` in a macro of our own counts like `crate`.
            if inside_a_path {
                continue;
            }
            let mut paths = Vec::new();
            expand(&code[offset + root.len()..], "", &mut paths);
            // Through `super` one reaches items of an inline module's parent as well.
            paths.retain(|path| nth == 0 || layer(top(path)).is_some());
            found.extend(paths.into_iter().map(|path| (offset, path)));
        }
    }
    found
}

fn top(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// The paths of the use tree at the start of `code`, below `prefix`; returns what it took.
fn expand(code: &str, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut at = skip_space(code, 0);
    let name = code[at..].bytes().take_while(|byte| is_word(*byte)).count();
    if name > 0 {
        let path = join(prefix, &code[at..at + name]);
        at += name;
        if code[at..].starts_with("::") {
            return at + 2 + expand(&code[at + 2..], &path, paths);
        }
        // A macro is defined at the root by the language, wherever it belongs.
        if !code[at..].starts_with('!') {
            paths.push(path);
        }
        return at;
    }
    if code[at..].starts_with('{') {
        return expand_group(code, at + 1, prefix, paths);
    }
    paths.push(prefix.to_owned());
    at + usize::from(code[at..].starts_with('*'))
}

fn expand_group(code: &str, mut at: usize, prefix: &str, paths: &mut Vec<String>) -> usize {
    loop {
        at = skip_space(code, at);
        match code[at..].bytes().next() {
            None => return at,
            Some(b'}') => return at + 1,
            Some(byte) if is_word(byte) || byte == b'{' || byte == b'*' => {
                at += expand(&code[at..], prefix, paths);
                // A renamed import: `name as other`.
                at += code[at..]
                    .bytes()
                    .take_while(|b| !b",}".contains(b))
                    .count();
            }
            Some(_) => at += 1,
        }
    }
}

fn skip_space(code: &str, at: usize) -> usize {
    at + code[at..]
        .bytes()
        .take_while(u8::is_ascii_whitespace)
        .count()
}

fn join(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        _ => format!("{prefix}::{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> Vec<String> {
        problems(&[Source::new(path, text)])
    }

    #[test]
    fn an_arrow_that_points_up_or_aside_is_found() {
        for (path, text) in [
            ("src/wal/mod.rs", "use crate::quic::RaftTransport;"),
            ("src/quic/tls.rs", "fn f() { crate::wal::open() }"),
            ("src/quic/tls.rs", "use super::super::wal::open;"),
            ("src/wire.rs", "use super::node::Driver;"),
            (
                "src/grpc/mod.rs",
                "use crate::{\n    types::NodeId,\n    client::Client,\n};",
            ),
            (
                "src/core/log.rs",
                "use crate::{types::Term, entry::EntryBatch};",
            ),
            ("src/core/log.rs", "use crate::config::limits::MAX_ENTRY;"),
            ("src/core/log.rs", "use std::time::Instant;"),
            ("src/state_machine/mod.rs", "let now = SystemTime::now();"),
            ("src/state_machine/mod.rs", "use std::collections::HashMap;"),
            ("src/node/mod.rs", "use crate::RaftConfig;"),
            ("src/novel.rs", ""),
        ] {
            assert_eq!(of(path, text).len(), 1, "{path}: {text}");
        }
        assert!(
            of("src/wal/a.rs", "use crate::wire::X;\nuse crate::quic::Y;")[0].contains("a.rs:2")
        );
    }

    #[test]
    fn arrows_that_point_down_pass() {
        for (path, text) in [
            ("src/wal/mod.rs", "use crate::types::{LogId, Term as T, *};"),
            (
                "src/wal/mod.rs",
                "use crate::config::{limits, ConfigError};",
            ),
            (
                "src/wal/mod.rs",
                "// use crate::node::RaftNode;\nlet a = \"crate::node::X\";",
            ),
            (
                "src/wal/a.rs",
                "#[cfg(test)]\nmod tests { use crate::quic::X; }\n",
            ),
            ("src/wal/a/b.rs", "use super::super::map::Region;"),
            ("src/node/mod.rs", "use crate::{wal::{self, Log}, quic};"),
            (
                "src/core/mod.rs",
                "use crate::types::*;\nuse crate::core::Message;",
            ),
            ("src/bin/conveyor-raft/main.rs", "use crate::args::Args;"),
        ] {
            assert_eq!(of(path, text), [""; 0], "{path}: {text}");
        }
    }
}

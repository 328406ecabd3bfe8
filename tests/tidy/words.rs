//! What must not be written anywhere: `unsafe` outside its one file, unfinished work, secrets,
//! places of one machine.

use super::source::{Source, is_word, words};

/// The only file that may say `unsafe`: it owns the mapping.
const UNSAFE_FILE: &str = "src/wal/map.rs";

/// Every `unsafe` outside its file, and every part that no longer forbids it.
pub(crate) fn unsafe_problems(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_written_rust()) {
        if source.path == UNSAFE_FILE {
            continue;
        }
        let allowed = source.code.match_indices("allow(unsafe_code");
        let allowed = allowed.map(|(offset, _)| offset);
        for offset in words(&source.code, "unsafe").chain(allowed) {
            found.push(format!(
                "{}: unsafe outside {UNSAFE_FILE}",
                source.at(offset)
            ));
        }
        let lint = match source.path.as_str() {
            "src/lib.rs" => "#![deny(unsafe_code)]",
            "src/core/mod.rs" => "#![forbid(unsafe_code)]",
            _ => continue,
        };
        if !source.code.contains(lint) {
            found.push(format!("{}: {lint} is gone", source.path));
        }
    }
    found
}

/// Words of Rust code with why they must not stand there. The third column says where they are
/// looked for.
const CODE: &[(&str, &str, Where)] = &[
    ("todo!", "unfinished", Where::Everywhere),
    ("unimplemented!", "unfinished", Where::Everywhere),
    ("dbg!", "left over from debugging", Where::Everywhere),
    ("#[ignore", "a test that does not run", Where::Everywhere),
    (
        "dangerous(",
        "certificates must be verified",
        Where::Everywhere,
    ),
    (
        ".unwrap()",
        "handle it, or expect() with why it holds",
        Where::Live,
    ),
    (
        "println!",
        "the library logs through tracing",
        Where::Library,
    ),
    ("print!", "the library logs through tracing", Where::Library),
    (
        "set_global_default",
        "the host's to install",
        Where::Library,
    ),
    ("install_default", "the host's to install", Where::Library),
];

#[derive(Clone, Copy, PartialEq)]
enum Where {
    /// All Rust.
    Everywhere,
    /// The crate without its tests.
    Live,
    /// The crate without its tests and its program.
    Library,
}

/// Every banned word in Rust code, and every mark of unfinished work in a comment.
pub(crate) fn code_problems(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_written_rust()) {
        for (word, why, scope) in CODE {
            let text = match scope {
                Where::Everywhere => &source.code,
                _ if !source.is_crate_code() => continue,
                Where::Library if source.path.starts_with("src/bin/") => continue,
                _ => &source.live,
            };
            for (offset, _) in text.match_indices(word) {
                let before = offset.checked_sub(1).map(|at| text.as_bytes()[at]);
                if !word.starts_with(char::is_alphabetic) || !before.is_some_and(is_word) {
                    found.push(format!("{}: {word}: {why}", source.at(offset)));
                }
            }
        }
        for mark in [
            concat!("FIX", "ME"),
            concat!("TO", "DO"),
            concat!("XX", "X"),
        ] {
            for offset in words(&source.text, mark) {
                found.push(format!("{}: {mark}: unfinished", source.at(offset)));
            }
        }
    }
    found
}

/// Key material, by name and by content.
pub(crate) fn secret_problems(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let name = [".key", ".p12", ".pfx"];
        if name.iter().any(|end| source.path.ends_with(end)) {
            found.push(format!("{}: named like a key", source.path));
        }
        for (offset, _) in source.text.match_indices("-----BEGIN ") {
            let label = source.text[offset..].lines().next().unwrap_or_default();
            if label.contains(concat!("PRIVATE ", "KEY-----")) {
                found.push(format!("{}: a private key", source.at(offset)));
            }
        }
    }
    found
}

/// Paths that exist on one machine only, in any text.
pub(crate) fn path_problems(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for dir in ["home", "root", "Users", "work", "workspace"] {
            let path = format!("/{dir}/");
            for (offset, _) in source.text.match_indices(&path) {
                let before = offset.checked_sub(1).map(|at| source.text.as_bytes()[at]);
                // `example.org/home/` and `a/work/` are parts of something else.
                if !before.is_some_and(|byte| is_word(byte) || b".-~}*".contains(&byte)) {
                    found.push(format!(
                        "{}: {path}: a path of one machine",
                        source.at(offset)
                    ));
                }
            }
        }
        for (offset, place) in source.text.match_indices(concat!("../", "shared")) {
            found.push(format!(
                "{}: {place}: not in the repository",
                source.at(offset)
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&[Source]) -> Vec<String>;

    fn count(check: Check, path: &str, text: &str) -> usize {
        check(&[Source::new(path, text)]).len()
    }

    #[test]
    fn unsafe_is_found_outside_its_file_only() {
        let at = |path, text| count(unsafe_problems, path, text);
        assert_eq!(at("src/wal/log.rs", "let x = unsafe { *p };"), 1);
        assert_eq!(at("tests/a.rs", "unsafe fn f() {}"), 1);
        assert_eq!(at("src/wal/mod.rs", "#[allow(unsafe_code)]\nmod x;"), 1);
        assert_eq!(at(UNSAFE_FILE, "let x = unsafe { *p };"), 0);
        assert_eq!(
            at("src/a.rs", "// unsafe\n#![deny(unsafe_op_in_unsafe_fn)]"),
            0
        );
        assert_eq!(at("src/core/mod.rs", "mod log;"), 1);
        assert_eq!(at("src/lib.rs", "#![deny(unsafe_code)]"), 0);
    }

    #[test]
    fn unfinished_and_banned_words_are_found() {
        let at = |path, text| count(code_problems, path, text);
        assert_eq!(at("src/a.rs", concat!("fn f() { to", "do!() }")), 1);
        assert_eq!(
            at("tests/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"),
            1
        );
        assert_eq!(at("src/a.rs", concat!("// FIX", "ME later")), 1);
        assert_eq!(at("src/quic/tls.rs", "builder.dangerous()"), 1);
        assert_eq!(at("src/a.rs", "a.unwrap()"), 1);
        assert_eq!(
            at("src/a.rs", "fn f() { eprintln!(\"x\") }"),
            0,
            "a word of its own"
        );
        assert_eq!(at("src/a.rs", "println!(\"x\")"), 1);
        assert_eq!(at("src/bin/conveyor-raft/main.rs", "println!(\"x\")"), 0);
        assert_eq!(
            at(
                "src/a.rs",
                "#[cfg(test)]\nmod tests { fn f() { a.unwrap(); } }"
            ),
            0
        );
        assert_eq!(at("src/a.rs", "let text = \"a.unwrap() todo!\";"), 0);
    }

    #[test]
    fn keys_and_machine_paths_are_found() {
        let key = format!("x\n-----BEGIN EC PRIVATE {}-----\n", "KEY");
        assert_eq!(count(secret_problems, "docs/a.md", &key), 1);
        assert_eq!(count(secret_problems, "certs/node-1/peer.key", ""), 1);
        let cert = "-----BEGIN CERTIFICATE-----";
        assert_eq!(count(secret_problems, "docs/a.md", cert), 0);
        let path = format!("cd /{}/me", "home");
        assert_eq!(count(path_problems, "README.md", &path), 1);
        assert_eq!(
            count(path_problems, "README.md", "https://example.org/home/x"),
            0
        );
    }
}

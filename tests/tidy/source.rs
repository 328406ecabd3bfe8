//! The repository's files, and Rust code without its comments, strings and tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of the repository.
pub(crate) struct Source {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// What is in it; bytes that are no UTF-8 are replaced.
    pub(crate) text: String,
    /// Of Rust: the same, comments and literals blanked out. Empty for everything else.
    pub(crate) code: String,
    /// Of Rust: `code` with test items blanked out as well.
    pub(crate) live: String,
}

impl Source {
    /// A file with these contents; the samples of the checks' own tests are made with it.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = match path.ends_with(".rs") {
            true => code_only(text),
            false => String::new(),
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            live: without_tests(&code),
            code,
        }
    }

    /// Whether it is Rust that people wrote.
    pub(crate) fn is_written_rust(&self) -> bool {
        self.path.ends_with(".rs") && !self.path.starts_with("src/proto/")
    }

    /// Whether it is part of the library or the program.
    pub(crate) fn is_crate_code(&self) -> bool {
        self.is_written_rust() && self.path.starts_with("src/")
    }

    /// `path:line` of a byte offset.
    pub(crate) fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path, line_of(&self.text, offset))
    }
}

/// Number of the line, from 1, that `offset` is in.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// All files that belong to the repository.
pub(crate) fn repository() -> Vec<Source> {
    // As the runner says it; as it was when compiled, if the binary is started by hand.
    let root = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = root.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let listed = git_files(&root).unwrap_or_else(|| {
        let mut found = Vec::new();
        walk(&root, &root, &mut found);
        found
    });
    let mut sources = Vec::new();
    for path in listed {
        // A file that was deleted and not yet committed is listed and not there.
        if let Ok(bytes) = std::fs::read(root.join(&path)) {
            sources.push(Source::new(&path, &String::from_utf8_lossy(&bytes)));
        }
    }
    blank_test_files(&mut sources);
    assert!(
        sources.iter().any(|source| source.path == "src/lib.rs"),
        "the repository's files were not found"
    );
    sources
}

/// What git tracks or would track; none where there is no git or no working tree.
fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(root)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let files: Vec<String> = text
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect();
    (output.status.success() && !files.is_empty()).then_some(files)
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
    let entries = std::fs::read_dir(dir).expect("the repository can be read");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let relative = path.strip_prefix(root).expect("below the root");
        let relative = relative.to_string_lossy().replace('\\', "/");
        // What git would leave out as well: builds, and certificates that were made here.
        let made_here = relative.starts_with("certs/") && relative != "certs/README.md";
        if made_here || ["target", ".git"].contains(&relative.as_str()) {
            continue;
        }
        match path.is_dir() {
            true => walk(root, &path, found),
            false => found.push(relative),
        }
    }
}

/// Files that are only compiled for tests (`#[cfg(test)] mod name;`) have no live code.
fn blank_test_files(sources: &mut [Source]) {
    let mut tests = Vec::new();
    for source in sources.iter() {
        let dir = module_dir(&source.path);
        for (offset, _) in source.code.match_indices("#[cfg(test)]") {
            let rest = source.code[offset + "#[cfg(test)]".len()..].trim_start();
            let rest = rest.strip_prefix("pub(crate) ").unwrap_or(rest);
            let name = rest.strip_prefix("mod ").and_then(|rest| {
                let (name, _) = rest.split_once(';')?;
                (!name.contains('{')).then(|| name.trim().to_owned())
            });
            tests.extend(name.map(|name| format!("{dir}/{name}")));
        }
    }
    for source in sources {
        let inside = |test: &String| {
            source.path.starts_with(&format!("{test}/")) || source.path == format!("{test}.rs")
        };
        if tests.iter().any(inside) {
            source.live.clear();
        }
    }
}

/// Folder in which the modules that the file declares have their files.
fn module_dir(path: &str) -> &str {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    ["/mod", "/lib", "/main"]
        .iter()
        .find_map(|root| stem.strip_suffix(root))
        .unwrap_or(stem)
}

/// `text` with every comment, string and character literal replaced by spaces, so that offsets and
/// lines stay what they were.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text, at);
        if end == at {
            at += 1;
            continue;
        }
        blank(&mut out[at..end]);
        at = end;
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    match rest[0] {
        b'/' if rest.starts_with(b"//") => {
            at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        }
        b'/' if rest.starts_with(b"/*") => at + block_comment_len(rest),
        b'"' => at + quoted_len(rest, b'"'),
        b'r' if starts_raw(bytes, at) => at + raw_len(rest),
        b'\'' => at + char_len(&text[at..]),
        _ => at,
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let step = match &rest[at..] {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth += step.0;
        at += step.1;
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Whether the `r` at `at` opens a raw string, and is not the end of a name or a raw identifier.
fn starts_raw(bytes: &[u8], at: usize) -> bool {
    let mut before = at;
    if before > 0 && matches!(bytes[before - 1], b'b' | b'c') {
        before -= 1;
    }
    let is_start = before == 0 || !is_word(bytes[before - 1]);
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    is_start && bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn raw_len(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = 2 + hashes;
    let end = rest[body..]
        .windows(close.len())
        .position(|window| window == close);
    end.map_or(rest.len(), |end| body + end + close.len())
}

/// Length of a character literal; 0 for a lifetime or a label.
fn char_len(rest: &str) -> usize {
    let mut chars = rest[1..].chars();
    match chars.next() {
        Some('\\') => quoted_len(rest.as_bytes(), b'\''),
        Some(c) if chars.next() == Some('\'') => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// `code` with the items under `#[cfg(test)]` blanked out.
fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (offset, _) in code.match_indices("#[cfg(test)]") {
        let end = item_end(code.as_bytes(), offset + "#[cfg(test)]".len());
        blank(&mut out[offset..end]);
    }
    String::from_utf8(out).expect("whole items were replaced")
}

/// Where the item that begins at `at` ends: behind its `;`, or behind its closing brace.
pub(crate) fn item_end(code: &[u8], at: usize) -> usize {
    let (mut nested, mut braces) = (0_i32, 0_i32);
    for (offset, byte) in code.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested -= 1,
            b'{' => braces += 1,
            b'}' => braces -= 1,
            _ => {}
        }
        let closed = *byte == b'}' && braces == 0 && nested == 0;
        let ended = *byte == b';' && braces == 0 && nested == 0;
        if closed || ended {
            return offset + 1;
        }
    }
    code.len()
}

/// Offsets of `word` in `code` where it is not a part of a longer name.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word)
        .map(|(offset, _)| offset)
        .filter(move |&offset| {
            let before = offset.checked_sub(1).map(|at| bytes[at]);
            let after = bytes.get(offset + word.len()).copied();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
}

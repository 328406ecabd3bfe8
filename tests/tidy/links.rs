//! Documents that name what is there: files, headings, tests.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, words};

/// Everything that a document links or names and that is not there.
pub(crate) fn problems(sources: &[Source]) -> Vec<String> {
    let files: BTreeMap<&str, &Source> = sources
        .iter()
        .map(|source| (source.path.as_str(), source))
        .collect();
    let mut found = Vec::new();
    for source in sources {
        if source.path.ends_with(".md") {
            for link in links(&source.text) {
                if let Some(why) = broken(&files, source, &link) {
                    found.push(format!("{}: {why}", source.at(link.offset)));
                }
            }
        }
        if source.path.ends_with(".md") || source.is_written_rust() {
            named_files(&files, source, &mut found);
        }
    }
    found
}

/// `[text](target)` in a document.
struct Link<'a> {
    offset: usize,
    text: &'a str,
    target: &'a str,
}

fn links(document: &str) -> Vec<Link<'_>> {
    let prose = without_code_blocks(document);
    let mut found = Vec::new();
    for (offset, _) in prose.match_indices("](") {
        let rest = &document[offset + 2..];
        let (Some(end), Some(start)) = (rest.find(')'), document[..offset].rfind('[')) else {
            continue;
        };
        found.push(Link {
            offset,
            text: &document[start + 1..offset],
            target: rest[..end].split_whitespace().next().unwrap_or_default(),
        });
    }
    found
}

/// The document with fenced code blanked out, offsets unchanged.
fn without_code_blocks(document: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(document.len());
    for line in document.split_inclusive('\n') {
        let fence = line.trim_start().starts_with("```");
        match inside || fence {
            true => out.extend(line.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' })),
            false => out.push_str(line),
        }
        inside ^= fence;
    }
    out
}

fn broken(files: &BTreeMap<&str, &Source>, from: &Source, link: &Link) -> Option<String> {
    let outside = ["http://", "https://", "mailto:"];
    if outside.iter().any(|scheme| link.target.starts_with(scheme)) {
        return None;
    }
    let (path, heading) = link.target.split_once('#').unwrap_or((link.target, ""));
    let path = match path {
        "" => from.path.clone(),
        _ => resolve(&from.path, path),
    };
    let folder = format!("{path}/");
    let Some(target) = files.get(path.as_str()) else {
        let is_folder = files.keys().any(|file| file.starts_with(&folder));
        return (!is_folder).then(|| format!("{path} does not exist"));
    };
    if !heading.is_empty() && path.ends_with(".md") && !headings(&target.text).contains(heading) {
        return Some(format!("{path} has no heading #{heading}"));
    }
    let test = link.text.strip_prefix('`')?.strip_suffix('`')?;
    let names_a_test = path.ends_with(".rs") && test.bytes().all(super::source::is_word);
    (names_a_test && !has_function(target, test)).then(|| format!("no test {test} in {path}"))
}

fn has_function(source: &Source, name: &str) -> bool {
    words(&source.code, name).any(|offset| source.code[..offset].trim_end().ends_with("fn"))
}

fn resolve(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors of a document's headings, as GitHub makes them.
fn headings(document: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in without_code_blocks(document).lines() {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let keep = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        let anchor: String = title.trim().to_lowercase().chars().filter(keep).collect();
        let anchor = anchor.replace(' ', "-");
        let again = (1..).map(|nth| format!("{anchor}-{nth}"));
        let mut names = std::iter::once(anchor.clone()).chain(again);
        anchors.extend(names.find(|name| !anchors.contains(name)));
    }
    anchors
}

/// Files named in backquotes by their path from the root, in prose and in comments.
fn named_files(files: &BTreeMap<&str, &Source>, source: &Source, found: &mut Vec<String>) {
    const FOLDERS: [&str; 6] = ["docs/", "src/", "tests/", "benches/", "examples/", "proto/"];
    for line in source.text.lines() {
        // In Rust only comments name files; strings are data.
        if source.is_written_rust() && !line.trim_start().starts_with("//") {
            continue;
        }
        for name in line.split('`').skip(1).step_by(2) {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
            let is_path =
                FOLDERS.iter().any(|folder| name.starts_with(folder)) && name.bytes().all(plain);
            let folder = format!("{}/", name.trim_end_matches('/'));
            let there =
                || files.contains_key(name) || files.keys().any(|file| file.starts_with(&folder));
            if is_path && !there() {
                found.push(format!(
                    "{}: names {name}, which does not exist",
                    source.path
                ));
            }
        }
    }
}

/// Tests whose name begins with a hazard's id and that the table of hazards does not link.
pub(crate) fn unlisted_hazard_tests(sources: &[Source]) -> Vec<String> {
    let table = sources
        .iter()
        .find(|source| source.path == "docs/hazards.md");
    let table = table.map_or("", |source| source.text.as_str());
    let listed: BTreeSet<&str> = links(table).iter().map(|link| link.text).collect();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_written_rust()) {
        for offset in words(&source.code, "fn") {
            let rest = source.code[offset + 2..].trim_start();
            let len = rest
                .bytes()
                .take_while(|b| super::source::is_word(*b))
                .count();
            let name = &rest[..len];
            if is_hazard_test(name) && !listed.contains(format!("`{name}`").as_str()) {
                let path = &source.path;
                found.push(format!("docs/hazards.md lacks [`{name}`](../{path})"));
            }
        }
    }
    found
}

/// `a2_same_term...`, `c10_...`: a letter of a section, a number, and what is shown.
fn is_hazard_test(name: &str) -> bool {
    let (id, what) = name.split_once('_').unwrap_or((name, ""));
    let section = id.starts_with(|c: char| ('a'..='j').contains(&c));
    let digits = id.get(1..).unwrap_or_default();
    let number = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    section && number && !what.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: &str) -> Vec<String> {
        problems(&[
            Source::new("docs/a.md", document),
            Source::new(
                "docs/b.md",
                "# The log, on disk\n```\n# not one\n```\n## Twice\n## Twice\n",
            ),
            Source::new("tests/c.rs", "#[test]\nfn c4_flip() {}\n"),
        ])
    }

    #[test]
    fn what_is_there_passes() {
        let document = "[b](b.md) [b](./b.md#the-log-on-disk) [b](b.md#twice-1) [out](../docs/)
            [x](https://example.org/none) [`c4_flip`](../tests/c.rs) `tests/c.rs` `docs`
            `src/<name>.rs`\n```\n[no](none.md)\n```\n";
        assert_eq!(found(document), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_found() {
        for document in [
            "[b](c.md)",
            "[b](b.md#not-one)",
            "[`c4_gone`](../tests/c.rs)",
            "see `tests/none.rs`",
            "[up](../../b.md)",
        ] {
            assert_eq!(found(document).len(), 1, "{document}");
        }
    }

    #[test]
    fn a_hazard_test_that_the_table_lacks_is_found() {
        let test = Source::new(
            "tests/c.rs",
            "fn c4_flip() {}\nfn helper() {}\nfn c_4() {}\n",
        );
        let with = |table: &str| {
            let test = Source::new(&test.path, &test.text);
            unlisted_hazard_tests(&[test, Source::new("docs/hazards.md", table)])
        };
        assert_eq!(
            with(""),
            ["docs/hazards.md lacks [`c4_flip`](../tests/c.rs)"]
        );
        assert_eq!(with("| C4 | x | [`c4_flip`](../tests/c.rs) |"), [""; 0]);
    }
}

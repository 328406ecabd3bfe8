//! One concern a file, one thought a function.

use super::source::{Source, item_end, line_of, words};

/// Lines a file of Rust may have.
const FILE: usize = 800;
/// Lines a function of the crate may have, from `fn` to its closing brace.
const FUNCTION: usize = 70;

/// Every file and function that is too long.
pub(crate) fn problems(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_written_rust()) {
        let lines = source.text.lines().count();
        if lines > FILE {
            found.push(format!("{}: {lines} lines, over {FILE}", source.path));
        }
        if source.is_crate_code() {
            long_functions(source, &mut found);
        }
    }
    found
}

fn long_functions(source: &Source, found: &mut Vec<String>) {
    for offset in words(&source.code, "fn") {
        // A function pointer's type has no name, a macro's pattern no body of its own.
        if source.code[offset + 2..]
            .trim_start()
            .starts_with(['(', '$'])
        {
            continue;
        }
        let end = item_end(source.code.as_bytes(), offset);
        let lines = 1 + line_of(&source.code, end - 1) - line_of(&source.code, offset);
        if lines > FUNCTION {
            let at = source.at(offset);
            found.push(format!(
                "{at}: a function of {lines} lines, over {FUNCTION}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        let body = "    let brace = '}'; // }\n".repeat(lines - 2);
        format!("fn long<const N: usize>(a: [u8; 4]) -> [u8; 2] {{\n{body}}}\n")
    }

    #[test]
    fn a_long_function_and_a_long_file_are_found() {
        let at = |path: &str, text: &str| problems(&[Source::new(path, text)]);
        assert_eq!(at("src/a.rs", &function(FUNCTION)), [""; 0]);
        let over = format!("// one\n{}", function(FUNCTION + 1));
        assert_eq!(
            at("src/a.rs", &over),
            ["src/a.rs:2: a function of 71 lines, over 70"]
        );
        assert_eq!(at("tests/a.rs", &function(FUNCTION + 1)), [""; 0]);
        assert_eq!(at("tests/a.rs", &"\n".repeat(FILE)), [""; 0]);
        assert_eq!(at("tests/a.rs", &"\n".repeat(FILE + 1)).len(), 1);
        assert_eq!(at("src/proto/a.rs", &function(FILE + 1)), [""; 0]);
    }
}

//! A script as text: blocks of commands, a line of dashes, and what they print.

use std::fmt::Write;

/// One block.
pub(crate) struct Block {
    /// Comments, blank lines and commands, as they stand in the file.
    before: Vec<String>,
    /// Number of the first line of `before`, from 1.
    line: usize,
    /// Number of the first line of the printed result.
    pub(crate) result_line: usize,
    /// What is printed, according to the file.
    pub(crate) expected: Vec<String>,
}

impl Block {
    /// The commands with their line numbers.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = (self.line..).zip(&self.before);
        let bare = lines.map(|(at, line)| (at, without_comment(line)));
        bare.filter(|(_, line)| !line.is_empty())
    }

    /// The block with another result.
    pub(crate) fn with_result(&self, result: &[String]) -> String {
        let before = self.before.iter().map(String::as_str);
        let before = before.skip_while(|line| line.trim().is_empty());
        let result = result.iter().map(String::as_str);
        let lines = before.chain(["----"]).chain(result);
        lines.flat_map(|line| [line, "\n"]).collect()
    }
}

fn without_comment(line: &str) -> &str {
    let end = match line.trim_start().starts_with('#') {
        true => 0,
        false => line.find(" #").unwrap_or(line.len()),
    };
    line[..end].trim()
}

/// The blocks of a file.
pub(crate) fn parse(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some(&(line, _)) = lines.peek() {
        let mut before = Vec::new();
        let dashes = loop {
            match lines.next() {
                Some((at, "----")) => break Some(at),
                Some((_, text)) => before.push(text.to_owned()),
                None => break None,
            }
        };
        if dashes.is_none() && before.iter().all(|text| text.trim().is_empty()) {
            break;
        }
        let Some(dashes) = dashes else {
            return Err(format!(
                "line {line}: commands without a line of dashes after them"
            ));
        };
        let result = std::iter::from_fn(|| lines.next_if(|(_, text)| !text.trim().is_empty()));
        blocks.push(Block {
            before,
            line,
            result_line: dashes + 1,
            expected: result.map(|(_, text)| text.to_owned()).collect(),
        });
    }
    Ok(blocks)
}

/// Two results, line by line: what only the file has, what only the run has.
pub(crate) fn difference(expected: &[String], got: &[String]) -> String {
    let same = |(a, b): &(&String, &String)| a == b;
    let head = expected.iter().zip(got).take_while(same).count();
    let rest = (&expected[head..], &got[head..]);
    let tail = rest.0.iter().rev().zip(rest.1.iter().rev());
    let tail = tail.take_while(same).count();
    let mut text = String::new();
    let mut put = |mark: char, lines: &[String]| {
        lines.iter().for_each(|line| {
            let _ = writeln!(text, "  {mark} {line}");
        });
    };
    put(' ', &expected[..head]);
    put('-', &rest.0[..rest.0.len() - tail]);
    put('+', &rest.1[..rest.1.len() - tail]);
    put(' ', &rest.1[rest.1.len() - tail..]);
    text
}

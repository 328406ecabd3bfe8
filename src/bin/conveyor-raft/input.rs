//! Commands from a file or standard input, one JSON object a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use conveyor_raft::RouterCommand;
use conveyor_raft::state_machine::json::parse_line;
use tokio::sync::mpsc;

use crate::failure::{Context, Failure};

/// Lines parsed ahead of their use.
const AHEAD: usize = 1024;
/// No command is longer, whatever its escapes and base64.
const MAX_LINE: u64 = 16 << 20;

/// A line that is not empty and no comment.
#[derive(Debug)]
pub(crate) struct Item {
    /// Counted from 1.
    pub(crate) number: u64,
    /// Bytes of the input up to the end of this line.
    pub(crate) position: u64,
    /// The command, or what is wrong with the line.
    pub(crate) command: Result<RouterCommand, String>,
}

/// An input and its size in bytes, if that is known.
pub(crate) struct Source {
    reader: Box<dyn BufRead + Send>,
    pub(crate) size: Option<u64>,
}

impl Source {
    /// `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self {
                reader: Box::new(BufReader::new(io::stdin())),
                size: None,
            });
        }
        let what = || format!("cannot read {}", path.display());
        let file = File::open(path).context(what())?;
        let metadata = file.metadata().context(what())?;
        if metadata.is_dir() {
            return Err(Failure::new(format!("{} is a directory", path.display())));
        }
        Ok(Self {
            reader: Box::new(BufReader::with_capacity(1 << 20, file)),
            size: metadata.is_file().then_some(metadata.len()),
        })
    }

    /// Commands given on the command line, each as a line.
    pub(crate) fn of_lines(lines: Vec<String>) -> Self {
        // A line break within one would make two of it, and number all the rest wrong.
        let lines = lines.iter().map(|line| line.replace(['\n', '\r'], " "));
        let text = lines.collect::<Vec<_>>().join("\n");
        Self {
            size: Some(text.len() as u64),
            reader: Box::new(io::Cursor::new(text)),
        }
    }

    /// Reads on a thread of its own: standard input may keep it waiting for ever.
    pub(crate) fn spawn(self) -> Result<mpsc::Receiver<io::Result<Item>>, Failure> {
        let (send, receive) = mpsc::channel(AHEAD);
        let mut lines = Lines {
            reader: self.reader,
            number: 0,
            position: 0,
        };
        let read = move || {
            while let Some(item) = lines.next_item().transpose() {
                let failed = item.is_err();
                if send.blocking_send(item).is_err() || failed {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(read)
            .context("cannot start a thread")?;
        Ok(receive)
    }
}

struct Lines {
    reader: Box<dyn BufRead + Send>,
    number: u64,
    position: u64,
}

impl Lines {
    fn next_item(&mut self) -> io::Result<Option<Item>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.position += read;
            let command = if read == MAX_LINE && line.last() != Some(&b'\n') {
                self.position += skip_line(&mut self.reader)?;
                Err(format!("the line is longer than {MAX_LINE} bytes"))
            } else {
                match str::from_utf8(&line) {
                    Err(_) => Err("the line is not UTF-8".to_owned()),
                    Ok(text) => match parse_line(text) {
                        Ok(None) => continue,
                        Ok(Some(line)) => Ok(line.command),
                        Err(error) => Err(error.to_string()),
                    },
                }
            };
            return Ok(Some(Item {
                number: self.number,
                position: self.position,
                command,
            }));
        }
    }
}

fn skip_line(reader: &mut dyn BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let (len, done) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(len);
        skipped += len as u64;
        if done {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &[u8]) -> Vec<(u64, bool)> {
        let mut lines = Lines {
            reader: Box::new(io::Cursor::new(text.to_vec())),
            number: 0,
            position: 0,
        };
        let mut items = Vec::new();
        while let Some(item) = lines.next_item().expect("readable") {
            items.push((item.number, item.command.is_ok()));
        }
        assert_eq!(lines.position, text.len() as u64);
        items
    }

    #[test]
    fn every_line_has_its_number_whatever_the_others_are() {
        let text = b"# a day\n\n\"Noop\"\n{\"Nop\":{}}\n\xff\n{\"Noop\":{}}\r\n{";
        let expected = [(3, true), (4, false), (5, false), (6, true), (7, false)];
        assert_eq!(items(text), expected);
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut text = vec![b'x'; MAX_LINE as usize + 100];
        text.extend_from_slice(b"\n\"Noop\"\n");
        assert_eq!(items(&text), [(1, false), (2, true)]);
    }

    #[test]
    fn commands_of_the_command_line_stay_one_line_each() {
        let source = Source::of_lines(vec!["{\n\"Noop\":{}}".into(), "\"Noop\"".into()]);
        let mut lines = Lines {
            reader: source.reader,
            number: 0,
            position: 0,
        };
        for number in [1, 2] {
            let item = lines.next_item().expect("readable").expect("item");
            assert_eq!((item.number, item.command.is_ok()), (number, true));
        }
    }
}

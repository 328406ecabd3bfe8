//! hashicorp/raft, three nodes and their clients in one process of Go (`benches/peers/hashicorp`), told by
//! lines when its turn is.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::closed::{Came, LEAD, SPAN};
use crate::common::medium::Medium;

/// The program, where it could be built; why not otherwise.
pub(crate) fn program() -> Result<OsString, &'static str> {
    let built = std::env::var_os("PEERS_HASHICORP").filter(|it| !it.is_empty());
    built.ok_or(
        "needs Go and hashicorp/raft (Debian packages golang-go, golang-github-hashicorp-raft-dev, \
         golang-github-hashicorp-raft-boltdb-dev), and benches/peers/run to build it",
    )
}

/// Versions of what it was built from, as the script found them.
pub(crate) fn versions() -> Option<String> {
    std::env::var("PEERS_HASHICORP_VERSIONS").ok()
}

/// The process; it ends with this value.
pub(crate) struct Hashicorp {
    process: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
    _folder: Option<TempDir>,
}

impl Hashicorp {
    /// In memory, or with BoltDB on a medium.
    pub(crate) fn start(program: &OsString, medium: Option<&Medium>, clients: usize) -> Self {
        let folder = medium.map(|it| tempfile::tempdir_in(it.folder()).expect("a folder"));
        let path = folder.as_ref().map(|it| it.path().as_os_str());
        let mut process = Command::new(program)
            .arg(clients.to_string())
            .arg(path.unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let say = process.stdin.take().expect("its input");
        let hear = BufReader::new(process.stdout.take().expect("its output"));
        let mut side = Self {
            process,
            say,
            hear,
            _folder: folder,
        };
        assert_eq!(side.line(), "ready", "hashicorp/raft does not start");
        side
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.hear.read_line(&mut line).expect("its output");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.say, "{line}").expect("it listens");
        self.line()
    }

    /// One turn. Holds up the thread that calls it: nothing else is to run meanwhile.
    pub(crate) fn run(&mut self) -> Came {
        let answer = self.ask(&format!("run {} {}", LEAD.as_millis(), SPAN.as_millis()));
        let figures: Vec<u64> = answer
            .split(' ')
            .map(|it| it.parse().expect("a figure; it says above what failed"))
            .collect();
        let [answers, p50, p99] = figures[..] else {
            panic!("hashicorp/raft says {answer:?}");
        };
        let [p50, p99] = [p50, p99].map(Duration::from_nanos);
        Came::new(answers as usize, p50, p99)
    }

    /// Fails unless every node has applied every command that was answered.
    pub(crate) fn finish(mut self) {
        let answer = self.ask("finish");
        assert!(answer.starts_with("verified "), "{answer:?}");
    }
}

impl Drop for Hashicorp {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

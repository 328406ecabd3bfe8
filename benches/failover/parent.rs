//! The processes, and whoever kills them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use conveyor_raft::NodeId;
use conveyor_raft::quic::certs::{self, GeneratedCerts};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::node::{TIMEOUT_MAX_MS, VARIABLE};

const NODES: [NodeId; 3] = [1, 2, 3];

/// Microseconds on a clock that all processes share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

/// A command that was committed, when, and how long after it was proposed.
#[derive(Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) at: u64,
    pub(crate) took: u64,
}

/// What a node said last: who leads, and how far it is.
#[derive(Clone, Copy, Default)]
struct Seen {
    leader: NodeId,
    commit: u64,
    applied: u64,
}

pub(crate) struct Processes {
    folder: TempDir,
    addresses: Vec<String>,
    running: Vec<Option<Child>>,
    seen: Vec<Seen>,
    lines: Receiver<(NodeId, String)>,
    heard: Sender<(NodeId, String)>,
}

fn write_certs(folder: &Path, made: &GeneratedCerts) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let write = |path: PathBuf, text: &str| {
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
    };
    std::fs::create_dir(folder)?;
    write(folder.join("peer-ca.pem"), &made.ca.peer_ca().cert)?;
    write(folder.join("peer-ca.crl"), made.ca.peer_crl())?;
    for node in &made.nodes {
        let of_node = folder.join(format!("node-{}", node.node));
        std::fs::create_dir(&of_node)?;
        write(of_node.join("peer.pem"), &node.peer.cert)?;
        write(of_node.join("peer.key"), &node.peer.key)?;
    }
    Ok(())
}

impl Processes {
    pub(crate) fn start(folder: &Path) -> Self {
        let folder = tempfile::tempdir_in(folder).expect("a folder");
        let made = certs::generate("failover", &NODES, &[]).expect("certificates");
        write_certs(&folder.path().join("certs"), &made).expect("certificates are written");
        let addresses = crate::common::free_addresses(NODES.len());
        let (heard, lines) = channel();
        let mut processes = Self {
            folder,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            running: NODES.iter().map(|_| None).collect(),
            seen: vec![Seen::default(); NODES.len()],
            lines,
            heard,
        };
        NODES.iter().for_each(|node| processes.restart(*node));
        processes
    }

    pub(crate) fn restart(&mut self, node: NodeId) {
        let folder = self.folder.path().display();
        let task = format!("{node} {folder} {}", self.addresses.join(" "));
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .env(VARIABLE, task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let out = child.stdout.take().expect("its output");
        let heard = self.heard.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if heard.send((node, line)).is_err() {
                    return;
                }
            }
        });
        self.seen[node as usize - 1] = Seen::default();
        self.running[node as usize - 1] = Some(child);
    }

    /// What the next line says, if it is of a commit and of a process that runs.
    fn listen(&mut self, patience: Duration) -> Option<Commit> {
        let (node, line) = match self.lines.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is kept"),
        };
        self.running[node as usize - 1].as_ref()?;
        let mut words = line.split(' ');
        let kind = words.next();
        let mut number = || words.next().and_then(|word| word.parse().ok());
        let mut next = || number().unwrap_or_else(|| panic!("node {node} said: {line}"));
        if kind == Some("C") {
            let (at, took) = (next(), next());
            return Some(Commit { at, took });
        }
        self.seen[node as usize - 1] = Seen {
            leader: next(),
            commit: next(),
            applied: next(),
        };
        None
    }

    /// Waits until all are up, agree on who leads and are close to each other, and for as long again
    /// as a node that was started refuses its vote. Who leads.
    pub(crate) fn settled(&mut self) -> NodeId {
        let begun = Instant::now();
        let mut since = now();
        while now() < since + 3 * TIMEOUT_MAX_MS * 1000 {
            self.listen(Duration::from_millis(10));
            let newest = self.seen.iter().map(|seen| seen.commit).max().unwrap_or(0);
            let leader = self.seen[0].leader;
            let close = |seen: &Seen| seen.leader == leader && seen.applied + 2000 > newest;
            let up = |seen: &Seen| seen.applied > 0;
            if leader == 0 || !self.seen.iter().all(|seen| close(seen) && up(seen)) {
                since = now();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "it does not settle"
            );
        }
        self.seen[0].leader
    }

    /// Kills a process, and says when.
    pub(crate) fn kill(&mut self, node: NodeId) -> u64 {
        let mut child = self.running[node as usize - 1].take().expect("it runs");
        let killed = now();
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        killed
    }

    /// The first commit after that moment.
    pub(crate) fn commit_after(&mut self, moment: u64, patience: Duration) -> Commit {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if let Some(commit) = self.listen(Duration::from_millis(10))
                && commit.at > moment
            {
                return commit;
            }
        }
        panic!("no commit within {patience:?}");
    }

    /// Every commit told until then.
    pub(crate) fn commits_until(&mut self, end: u64) -> Vec<Commit> {
        let mut commits = Vec::new();
        while now() < end {
            commits.extend(self.listen(Duration::from_millis(1)));
        }
        commits
    }

    /// Has a leader hand over, and says when it was asked.
    pub(crate) fn hand_over(&mut self, leader: NodeId) -> u64 {
        let child = self.running[leader as usize - 1].as_mut();
        let order = child
            .and_then(|child| child.stdin.as_mut())
            .expect("it runs");
        let asked = now();
        order.write_all(b"hand over\n").expect("an order");
        asked
    }

    /// Lets a node run for a hundredth of the time, and returns the commits meanwhile.
    pub(crate) fn while_slow(&mut self, node: NodeId, long: Duration) -> Vec<Commit> {
        let child = self.running[node as usize - 1].as_ref().expect("it runs");
        let pid = Pid::from_child(child);
        let end = now() + long.as_micros() as u64;
        let mut commits = Vec::new();
        while now() < end {
            kill_process(pid, Signal::STOP).expect("SIGSTOP");
            commits.extend(self.commits_until(now() + 99_000));
            kill_process(pid, Signal::CONT).expect("SIGCONT");
            std::thread::sleep(Duration::from_millis(1));
        }
        commits
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

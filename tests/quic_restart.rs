//! A peer that dies without a word, and one that comes back: in a process of its own, killed.
#![allow(missing_docs)]

mod quic_common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conveyor_raft::core::Class;
use conveyor_raft::network::{PeerAddress, RaftNetwork};
use conveyor_raft::quic::certs::{InitOptions, LEAF_DAYS, init};
use conveyor_raft::quic::{CredentialFiles, Credentials, TransportOptions};
use conveyor_raft::types::Incarnation;
use quic_common::{Node, loopback};

const DIR: &str = "QUIC_RESTART_TEST_DIR";
const LISTEN: &str = "QUIC_RESTART_TEST_LISTEN";

fn from_dir(dir: &Path, node: u64, idle: Duration) -> TransportOptions {
    let credentials = Credentials::load(&CredentialFiles::in_dir(dir, node));
    let incarnation = Incarnation([node as u8; 16]);
    let options = TransportOptions::new(loopback(), credentials.expect("credentials"), incarnation);
    TransportOptions {
        reset_key: [node as u8; 32],
        idle_timeout: idle,
        ..options
    }
}

/// Not a test of its own: what the child process runs until it is killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let mut options = from_dir(Path::new(&dir), 2, Duration::from_secs(10));
    if let Ok(listen) = std::env::var(LISTEN) {
        options.listen = listen.parse().expect("address");
    }
    let node = Node::with(options);
    println!("\nlistening {}", node.address);
    std::thread::sleep(Duration::from_secs(30));
}

struct Victim {
    child: Child,
    address: String,
}

impl Victim {
    fn start(dir: &Path, listen: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "child", "--nocapture"])
            .env(DIR, dir)
            .stdout(Stdio::piped());
        if let Some(listen) = listen {
            command.env(LISTEN, listen);
        }
        let mut child = command.spawn().expect("started");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let address = out
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening ").map(str::to_owned));
        Self {
            child,
            address: address.expect("it listens"),
        }
    }

    fn kill(mut self) -> String {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        self.address.clone()
    }
}

fn setup(idle: Duration) -> (tempfile::TempDir, Node, Victim) {
    let dir = tempfile::tempdir().expect("folder");
    let options = InitOptions {
        label: "test".to_owned(),
        nodes: vec![1, 2],
        hosts: vec![],
        days: LEAF_DAYS,
    };
    init(dir.path(), &options).expect("certificates");
    let victim = Victim::start(dir.path(), None);
    let mut one = Node::with(from_dir(dir.path(), 1, idle));
    one.transport.set_peers(&[PeerAddress {
        node: 2,
        incarnation: None,
        address: victim.address.clone(),
    }]);
    one.both_up(2);
    (dir, one, victim)
}

#[test]
fn restarted_peer_found_by_stateless_reset() {
    let (dir, one, victim) = setup(Duration::from_secs(10));
    let address = victim.kill();
    let again = Victim::start(dir.path(), Some(&address));
    let since = Instant::now();
    let (_, reason) = one.down(2, Class::Data);
    assert!(reason.contains("reset by peer"), "{reason}");
    one.up(2, Class::Data);
    // A keep-alive, a quarter of the idle timeout, is the first packet that meets the new life.
    assert!(since.elapsed() < Duration::from_secs(8));
    again.kill();
}

#[test]
fn dead_peer_closed_within_bound() {
    let (_dir, one, victim) = setup(Duration::from_millis(600));
    victim.kill();
    let since = Instant::now();
    let (_, reason) = one.down(2, Class::Data);
    assert_eq!(reason, "no answer in time");
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
}

//! One node in a process of its own, which proposes whenever it leads and says what it sees.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use conveyor_raft::quic::{CredentialFiles, Credentials};
use conveyor_raft::{
    Cluster, NodeId, RaftConfig, RaftNode, RaftRole, RouterCommand, RouterStateMachine,
};

use crate::parent::now;

pub(crate) const TIMEOUT_MIN_MS: u64 = 150;
pub(crate) const TIMEOUT_MAX_MS: u64 = 300;
pub(crate) const HEARTBEAT_MS: u64 = 50;
/// Tasks that propose, each one command at a time.
const TASKS: usize = 8;
/// What each of them waits between two commands.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) const VARIABLE: &str = "CONVEYOR_FAILOVER_NODE";

/// What a process is started for: node, folder, addresses.
pub(crate) struct Task(NodeId, PathBuf, Vec<String>);

pub(crate) fn task() -> Option<Task> {
    let text = std::env::var(VARIABLE).ok()?;
    let mut words = text.split(' ');
    let node = words.next()?.parse().ok()?;
    let folder = words.next()?.into();
    Some(Task(node, folder, words.map(str::to_owned).collect()))
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").is_err() {
        std::process::exit(0); // nobody listens any more
    }
}

#[tokio::main]
pub(crate) async fn run(Task(id, folder, addresses): Task) {
    let files = CredentialFiles::in_dir(folder.join("certs"), id);
    let credentials = Credentials::load(&files).expect("credentials");
    let listen = addresses[id as usize - 1].parse().expect("an address");
    let data = folder.join(format!("data-{id}"));
    let cluster = Cluster::new(data, credentials, listen, (1..).zip(addresses));
    let config = RaftConfig {
        node_id: id,
        election_timeout_min_ms: TIMEOUT_MIN_MS,
        election_timeout_max_ms: TIMEOUT_MAX_MS,
        heartbeat_interval_ms: HEARTBEAT_MS,
    };
    let node = RaftNode::new(config, RouterStateMachine::new(), cluster).await;
    let node = node.expect("the node starts");
    for task in 0..TASKS {
        tokio::spawn(propose(node.clone(), task));
    }
    tokio::spawn(tell(node.clone()));
    let runtime = tokio::runtime::Handle::current();
    let orders = std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines() {
            let node = node.clone();
            runtime.spawn(async move { node.transfer_leadership(None).await });
        }
        std::process::exit(0);
    });
    let _ = tokio::task::spawn_blocking(move || orders.join()).await;
}

/// Proposes for as long as this node leads; says when each command was committed and how long it
/// took.
async fn propose(node: RaftNode, task: usize) {
    let mut watch = node.watch_status();
    while watch
        .wait_for(|view| view.role == RaftRole::Leader)
        .await
        .is_ok()
    {
        let begun = now();
        let command = RouterCommand::CommitSourceOffset {
            source_id: format!("failover/{}/{task}", node.id()),
            partition: 1,
            offset: begun,
            rewind: false,
        };
        if node.propose(command).await.is_ok() {
            let at = now();
            say(format_args!("C {at} {}", at - begun));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Who leads and how far this node is.
async fn tell(node: RaftNode) {
    let mut watch = node.watch_status();
    loop {
        let view = watch.current();
        say(format_args!(
            "S {} {} {}",
            view.leader.unwrap_or_default(),
            view.commit,
            view.applied
        ));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

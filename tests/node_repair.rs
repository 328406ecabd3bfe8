//! A member whose log was damaged: it is refused, repaired, and comes back on its own.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conveyor_raft::quic::certs;
use conveyor_raft::types::LogId;
use conveyor_raft::wal::{DirReader, LogOptions, MappedDir, Medium, plan_repair, repair, verify};
use conveyor_raft::{
    Cluster, NodeId, RaftConfig, RaftNode, RouterCommand, RouterStateMachine, StartError,
};

/// Three nodes' places.
struct Places {
    dir: tempfile::TempDir,
    certs: certs::GeneratedCerts,
    addresses: Vec<SocketAddr>,
}

impl Places {
    fn new() -> Self {
        // Held until all ports are known, so that none is given out twice.
        let sockets: Vec<_> = (0..3)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let bound = sockets.iter().map(|it| it.local_addr().expect("bound"));
        Self {
            dir: tempfile::tempdir().expect("a folder"),
            certs: certs::generate("repair", &[1, 2, 3], &["localhost".into()])
                .expect("certificates"),
            addresses: bound.collect(),
        }
    }

    fn dir(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    async fn try_start(&self, id: NodeId) -> Result<RaftNode, StartError> {
        let others = (1..=3)
            .zip(&self.addresses)
            .filter(|(other, _)| *other != id);
        let others = others.map(|(other, address)| (other, address.to_string()));
        let credentials = self.certs.credentials(id).expect("credentials");
        let address = self.addresses[id as usize - 1];
        let cluster = Cluster::new(self.dir(id), credentials, address, others);
        let config = RaftConfig {
            node_id: id,
            ..RaftConfig::default()
        };
        RaftNode::new(config, RouterStateMachine::new(), cluster).await
    }

    async fn start(&self, id: NodeId) -> RaftNode {
        self.try_start(id).await.expect("starts")
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "not within 30 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn leader(nodes: &[RaftNode]) -> RaftNode {
    until("a leader", || nodes.iter().any(RaftNode::is_leader)).await;
    let leader = nodes.iter().find(|node| node.is_leader());
    leader.expect("a leader").clone()
}

async fn fill(nodes: &[RaftNode], from: u32) -> u64 {
    let leads = leader(nodes).await;
    let mut last = 0;
    for number in from..from + 20 {
        let service = format!("mask-{number}");
        let command = RouterCommand::register_service(service, "transform", "10.0.1.5:8081");
        last = leads.propose(command).await.expect("applied").index;
    }
    last
}

/// What the log in a directory, which may be in use, says of a repair.
fn under_repair(dir: &Path) -> Option<LogId> {
    let files = DirReader::open(dir).expect("a directory");
    verify(&files, false).expect("a log").repairing
}

/// Flips a bit in the middle of what was written to the first segment.
fn damage(dir: &Path) {
    let segment = dir.join("seg-0000000000000001.wal");
    let mut bytes = std::fs::read(&segment).expect("the first segment");
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("not empty");
    // In a header, where nothing is padding.
    let at = written / 2 / 4096 * 4096 + 40;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("damaged");
}

fn mend(dir: &Path) {
    let plan = plan_repair(&DirReader::open(dir).expect("there")).expect("a plan");
    assert!(plan.kept.index > 0 && plan.lost().is_some(), "{plan:?}");
    let medium = MappedDir::open(dir, Arc::new(drop), &LogOptions::default());
    let medium = medium.expect("nobody has it open");
    repair(&**medium.files(), &plan, "test").expect("repaired");
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_member_with_a_repaired_log_catches_up_and_votes_again() {
    let _turn = common::real_time_turn();
    let places = Places::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(places.start(id).await);
    }
    fill(&nodes, 0).await;
    let follows = nodes.iter().position(|node| !node.is_leader());
    let gone = nodes.remove(follows.expect("a follower"));
    let (id, dir) = (gone.id(), places.dir(gone.id()));
    gone.shutdown().await;
    damage(&dir);
    let refused = places.try_start(id).await.expect_err("refused");
    assert!(refused.to_string().contains("wal verify"), "{refused}");
    mend(&dir);
    assert_eq!(under_repair(&dir), Some(LogId::default()));

    let last = fill(&nodes, 20).await;
    let back = places.start(id).await;
    until("the repair ends", || under_repair(&dir).is_none()).await;
    let applied = back.wait_applied(last, Duration::from_secs(30)).await;
    applied.expect("it has everything");
    assert_eq!(back.digest().await, leader(&nodes).await.digest().await);

    // With one of three down its acknowledgements are needed, and without the other its vote.
    let follows = nodes.iter().position(|node| !node.is_leader());
    let third = nodes.remove(follows.expect("a follower"));
    let third_id = third.id();
    third.shutdown().await;
    nodes.push(back);
    fill(&nodes, 40).await;
    let first = nodes.remove(0);
    first.shutdown().await;
    nodes.push(places.start(third_id).await);
    fill(&nodes, 60).await;
    for node in nodes {
        node.shutdown().await;
    }
}

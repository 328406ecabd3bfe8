//! One node from its first start to its second: the handle's own promises.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use conveyor_raft::quic::certs::{self, GeneratedCerts};
use conveyor_raft::wal::{DirReader, LogOptions, MappedDir, Medium, plan_repair, repair};
use conveyor_raft::{
    Certainty, Cluster, ProposeError, RaftConfig, RaftNode, RouterCommand, RouterStateMachine,
    StartError,
};

fn certificates() -> GeneratedCerts {
    certs::generate("life", &[1], &["localhost".into()]).expect("certificates")
}

async fn start(dir: &Path, certificates: &GeneratedCerts) -> Result<RaftNode, StartError> {
    let credentials = certificates.credentials(1).expect("credentials");
    let peers = Cluster::single(dir, credentials);
    RaftNode::new(RaftConfig::default(), RouterStateMachine::new(), peers).await
}

async fn leader(dir: &Path, certificates: &GeneratedCerts) -> RaftNode {
    let node = start(dir, certificates).await.expect("starts");
    let begun = Instant::now();
    while !node.is_leader() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node
}

fn service(id: &str) -> RouterCommand {
    RouterCommand::register_service(id, "transform", "10.0.1.5:8081")
}

#[tokio::test]
async fn a_node_that_was_shut_down_says_so_and_has_everything_at_its_next_start() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = certificates();
    let node = leader(dir.path(), &certificates).await;
    let response = node.propose(service("mask-0")).await.expect("applied");
    // What was answered can be read at once.
    assert!(node.applied_index() >= response.index);
    assert!(node.state().await.services.contains_key("mask-0"));

    node.shutdown().await;
    assert!(!node.is_leader());
    assert!(node.status().stopping);
    let late = node.propose(service("mask-1")).await.expect_err("too late");
    assert_eq!(late, ProposeError::ShuttingDown);
    assert_eq!(late.certainty(), Certainty::NotApplied);
    let state = node.state().await;
    assert!(state.services.contains_key("mask-0"), "reads go on");

    let again = leader(dir.path(), &certificates).await;
    let wait = Duration::from_secs(5);
    let applied = again.wait_applied(response.index, wait).await;
    let applied = applied.expect("applied again");
    assert!(applied.view.services.contains_key("mask-0"));
    again.shutdown().await;
}

/// What probes call hanging: an idle driver wakes once a second, and one that is gone does not.
#[tokio::test]
async fn the_turns_of_an_idle_driver_are_counted_and_end_with_it() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let node = leader(dir.path(), &certificates()).await;
    for _ in 0..2 {
        let before = node.status().turns;
        let begun = Instant::now();
        while node.status().turns == before {
            assert!(begun.elapsed() < Duration::from_secs(5), "it hangs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(!node.status().disk_full);
    node.shutdown().await;
    let before = node.status().turns;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(node.status().turns, before);
}

#[tokio::test]
async fn c12_a_directory_in_use_is_refused_until_its_node_is_gone() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = certificates();
    let node = leader(dir.path(), &certificates).await;
    let second = start(dir.path(), &certificates).await;
    let error = second.expect_err("the directory is in use");
    assert!(matches!(error, StartError::Storage(_)), "{error}");
    // Dropping the last handle closes the node in the background.
    drop(node);
    let begun = Instant::now();
    loop {
        match start(dir.path(), &certificates).await {
            Ok(node) => return node.shutdown().await,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "still in use");
    }
}

#[tokio::test]
async fn c5_a_node_does_not_vote_with_a_log_that_was_repaired() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = certificates();
    let node = leader(dir.path(), &certificates).await;
    node.propose(service("mask-0")).await.expect("applied");
    node.shutdown().await;

    let segment = dir.path().join("seg-0000000000000001.wal");
    let mut bytes = std::fs::read(&segment).expect("the first segment");
    // Behind two copies of the segment's header, in the first batch.
    bytes[2 * 4096 + 70] ^= 1;
    std::fs::write(&segment, bytes).expect("damaged");
    let refused = start(dir.path(), &certificates).await.expect_err("refused");
    assert!(refused.to_string().contains("wal verify"), "{refused}");
    let plan = plan_repair(&DirReader::open(dir.path()).expect("there")).expect("a plan");
    let medium = MappedDir::open(
        dir.path(),
        std::sync::Arc::new(drop),
        &LogOptions::default(),
    );
    let medium = medium.expect("nobody has it open");
    repair(&**medium.files(), &plan, "test").expect("repaired");
    drop(medium);

    let alone = start(dir.path(), &certificates).await.expect("starts");
    let begun = Instant::now();
    while alone.status().advice.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no advice");
        assert!(!alone.is_leader(), "it leads with what it has forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let said = alone.status().advice.unwrap_or_default();
    assert!(said.contains("under repair"), "{said}");
    assert_eq!(alone.status().leader.node, None);
    alone.shutdown().await;
}

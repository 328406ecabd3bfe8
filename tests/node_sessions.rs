//! Sessions through the handle of a real node: what is sent again takes effect once.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use conveyor_raft::quic::certs::{self, GeneratedCerts};
use conveyor_raft::{
    Certainty, Cluster, InSession, ProposeError, ProposeOptions, RaftConfig, RaftNode,
    RouterCommand, RouterStateMachine, SessionRefusal,
};

async fn leader(dir: &Path, certificates: &GeneratedCerts) -> RaftNode {
    let credentials = certificates.credentials(1).expect("credentials");
    let peers = Cluster::single(dir, credentials);
    let machine = RouterStateMachine::new();
    let node = RaftNode::new(RaftConfig::default(), machine, peers).await;
    let node = node.expect("starts");
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
async fn f4_a_session_goes_on_after_a_restart_and_repeats_the_first_answer() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = certs::generate("life", &[1], &["localhost".into()]).expect("certificates");
    let node = leader(dir.path(), &certificates).await;
    let plain = node.digest().await;
    let mut session = node.session().await.expect("it leads");
    let first = session.propose(service("mask-0")).await.expect("applied");
    assert!(!first.duplicate);
    assert_ne!(node.digest().await.1, plain.1);
    let id = session.id();
    node.shutdown().await;
    let late = session.propose(service("mask-1")).await;
    let late = late.expect_err("it is shut down");
    assert_eq!((late.seq, late.certainty), (2, Certainty::NotApplied));
    assert_eq!(late.cause, ProposeError::ShuttingDown);

    let node = leader(dir.path(), &certificates).await;
    let again = node.resume_session(id, 1).propose(service("mask-0")).await;
    let again = again.expect("it was applied before");
    assert!(again.duplicate);
    assert_eq!((again.index, again.outcome), (first.index, first.outcome));

    let mut session = node.resume_session(id, late.seq);
    session.propose(service("mask-1")).await.expect("applied");
    let options = ProposeOptions::default();
    let old = InSession {
        session: id,
        seq: 1,
        floor: 1,
    };
    let stale = node.propose_in(old, service("mask-0"), options).await;
    let stale = stale.expect_err("the client has gone on");
    let floor = 2;
    assert_eq!(
        stale,
        ProposeError::Session(SessionRefusal::Stale { floor })
    );
    node.close_session(id, options).await.expect("it is open");
    let closed = session.propose(service("mask-2")).await;
    let closed = closed.expect_err("it is closed");
    assert_eq!(closed.cause, ProposeError::Session(SessionRefusal::Expired));
    assert_eq!(closed.certainty, Certainty::NotApplied);
    assert!(!node.state().await.services.contains_key("mask-2"));
    node.shutdown().await;
}

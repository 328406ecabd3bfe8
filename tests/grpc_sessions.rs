//! Sessions that have nothing to send, at the edge and in the Rust client.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::time::{Duration, Instant};

use conveyor_raft::client::{Client, ClientOptions};
use conveyor_raft::config::limits;
use conveyor_raft::grpc::detail;
use conveyor_raft::proto::{
    Certainty, CloseSessionRequest, KeepAliveRequest, OpenSessionRequest, Overloaded,
    SessionRefused,
};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::{ProposeOptions, RouterCommand};
use grpc_common::{One, identity};
use tokio::task::JoinSet;
use tonic::Code;

fn client(one: &One, keep_sessions: Option<Duration>) -> Client {
    let pair = one.certs.ca.issue_client(ClientRole::Writer, "caller");
    let identity = identity(&one.certs, &pair.expect("client"));
    let mut options = ClientOptions::new([one.endpoint()], Some(identity));
    options.keep_sessions = keep_sessions;
    Client::new(options).expect("a client")
}

fn keep(session: u64) -> KeepAliveRequest {
    let forward = false;
    KeepAliveRequest { session, forward }
}

#[tokio::test]
async fn f4_a_session_is_kept_at_the_edge_until_it_is_over() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let session = one.node.open_session(ProposeOptions::default()).await;
    let session = session.expect("opened");
    let kept = router.keep_alive(keep(session)).await.expect("kept");
    assert_eq!(kept.into_inner().idle_ms, limits::SESSION_IDLE_US / 1000);
    let close = CloseSessionRequest {
        session,
        forward: false,
    };
    router.close_session(close).await.expect("closed");
    for refused in [
        router.keep_alive(keep(session)).await.map(drop),
        router.keep_alive(keep(0)).await.map(drop),
        router.close_session(close).await.map(drop),
    ] {
        let status = refused.expect_err("there is none");
        assert_eq!(status.code(), Code::FailedPrecondition);
        let refused: SessionRefused = detail(&status).expect("detail");
        assert_eq!(refused.reason, "Expired");
        assert_eq!(refused.certainty(), Certainty::Unknown);
    }
    one.stop().await;
}

/// Nobody's session is taken away for another's; who finds no room is told when to ask again.
#[tokio::test]
async fn f4_of_too_many_sessions_none_is_opened_until_one_is_closed() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let options = ProposeOptions {
        deadline: Some(Duration::from_secs(60)),
        forward: false,
    };
    let first = one.node.open_session(options).await.expect("opened");
    let mut open = 1;
    while open < limits::MAX_SESSIONS {
        let some = (limits::MAX_SESSIONS - open).min(10_000);
        let mut opening = JoinSet::new();
        for _ in 0..some {
            let node = one.node.clone();
            opening.spawn(async move { node.open_session(options).await });
        }
        for opened in opening.join_all().await {
            opened.expect("opened");
        }
        open += some;
    }
    let mut too_many = async || router.open_session(OpenSessionRequest::default()).await;
    let refused = too_many().await.expect_err("one too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let overloaded: Overloaded = detail(&refused).expect("detail");
    assert!(
        overloaded.budget.contains("sessions"),
        "{}",
        overloaded.budget
    );
    one.node.keep_session(first, options).await.expect("there");
    one.node
        .close_session(first, options)
        .await
        .expect("closed");
    too_many().await.expect("there is room");
    one.stop().await;
}

/// Waits until the log has grown so many entries behind `from`.
async fn grows(one: &One, from: u64, entries: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    while one.node.applied_index() < from + entries {
        assert!(Instant::now() < until, "nothing more is in the log");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn f4_the_client_keeps_a_session_without_commands_until_it_is_dropped() {
    let one = One::start().await;
    let quiet = client(&one, None).open_session().await.expect("opened");
    let kept = client(&one, Some(Duration::from_millis(10)));
    let kept = kept.open_session().await.expect("opened");
    // Nobody else writes.
    grows(&one, one.node.applied_index(), 5).await;
    let answer = kept.propose(RouterCommand::Noop).await.expect("it goes on");
    grows(&one, answer.index, 2).await;
    drop(kept);
    // One may be under way; then there is silence.
    let last = quiet.propose(RouterCommand::Noop).await.expect("applied");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = one.node.applied_index() - last.index;
    assert!(after <= 1, "{after} entries after the last word");
    // A session that is closed elsewhere is not asked for for ever.
    let over = client(&one, Some(Duration::from_millis(10)));
    let over = over.open_session().await.expect("opened");
    let closed = one.node.close_session(over.id(), ProposeOptions::default());
    closed.await.expect("closed");
    let last = quiet.propose(RouterCommand::Noop).await.expect("applied");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = one.node.applied_index() - last.index;
    assert!(after <= 2, "{after} entries after the last word");
    one.stop().await;
}

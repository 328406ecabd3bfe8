//! The Rust client against one node: what it refuses, what it goes on with, what it says.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{BATCH, Client, ClientError, ClientOptions};
use conveyor_raft::grpc::ConnectError;
use conveyor_raft::node::ReadConsistency;
use conveyor_raft::proto::{Certainty, CloseSessionRequest};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, identity, sidecar};
use tonic::Code;

fn client_at(one: &One, endpoint: String, role: ClientRole) -> Client {
    let pair = one.certs.ca.issue_client(role, "caller").expect("client");
    let identity = identity(&one.certs, &pair);
    let mut options = ClientOptions::new([endpoint], Some(identity));
    options.deadline = Duration::from_secs(2);
    Client::new(options).expect("a client")
}

fn client(one: &One, role: ClientRole) -> Client {
    client_at(one, one.endpoint(), role)
}

#[tokio::test]
async fn a_batch_goes_on_behind_what_was_refused() {
    let one = One::start().await;
    let session = client(&one, ClientRole::Writer).open_session().await;
    let session = session.expect("a session");
    let renew = RouterCommand::RenewLease {
        service_id: "nobody".into(),
    };
    let commands = vec![
        sidecar("a"),
        sidecar(""),
        renew,
        sidecar(""),
        sidecar("b"),
        sidecar("c"),
    ];
    let results = session.propose_batch(commands).await.expect("a batch");
    let [
        Ok(a),
        Err(ClientError::Invalid { .. }),
        Err(ClientError::Rejected(refused)),
        Err(ClientError::Invalid { .. }),
        Ok(b),
        Ok(c),
    ] = results.as_slice()
    else {
        panic!("{results:?}");
    };
    assert!(a.index < refused.index && refused.index < b.index && b.index < c.index);
    let new = |it: &conveyor_raft::proto::ProposeResponse| !it.duplicate && !it.unchanged;
    assert!([a, b, c].into_iter().all(new), "{results:?}");
    // The numbers behind the batch are new ones.
    assert!(new(&session.propose(sidecar("d")).await.expect("applied")));
    let many = vec![RouterCommand::Noop; BATCH + 1];
    let many = session.propose_batch(many).await.expect_err("too many");
    assert_eq!(many.certainty(), Certainty::NotApplied);
    session.close().await.expect("closed");
    one.stop().await;
}

#[tokio::test]
async fn f4_a_session_that_is_over_is_told_and_nothing_was_applied() {
    let one = One::start().await;
    let session = client(&one, ClientRole::Writer).open_session().await;
    let session = session.expect("a session");
    let close = CloseSessionRequest {
        session: session.id(),
        forward: false,
    };
    let mut router = one.router(ClientRole::Writer).await;
    router.close_session(close).await.expect("closed");
    let over = session.propose(sidecar("a")).await.expect_err("over");
    assert!(matches!(over, ClientError::SessionOver { .. }), "{over}");
    assert_eq!(over.certainty(), Certainty::NotApplied);
    assert!(one.node.state().await.sidecars.is_empty());
    session.close().await.expect("it is");
    one.stop().await;
}

#[tokio::test]
async fn what_no_node_will_take_is_refused_at_once() {
    let one = One::start().await;
    let reader = client(&one, ClientRole::Reader);
    let begun = Instant::now();
    let refused = [
        reader.propose(RouterCommand::Noop).await.map(drop),
        reader.open_session().await.map(drop),
    ];
    for refused in refused {
        let refused = refused.expect_err("a reader");
        assert_eq!(refused.certainty(), Certainty::NotApplied);
        let ClientError::Refused(status) = refused else {
            panic!("{refused}");
        };
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    reader
        .summary(ReadConsistency::Lease)
        .await
        .expect("it may");
    let state = reader.state(ReadConsistency::Linearizable).await;
    assert!(state.expect("it may").index > 0);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "nothing is tried again"
    );

    for (endpoints, wrong) in [
        (vec![], "none"),
        (vec!["nowhere"], "no port"),
        (vec!["https://a:1", "ftp://a:1"], "no such scheme"),
    ] {
        let refused = Client::new(ClientOptions::new(endpoints, None));
        let refused = refused.map(drop).expect_err(wrong);
        let nobody = matches!(refused, ConnectError::NoIdentity { .. });
        assert!(
            nobody || matches!(refused, ConnectError::Endpoint { .. }),
            "{wrong}"
        );
    }
    one.stop().await;
}

#[tokio::test]
async fn where_nobody_answers_calls_end_with_the_deadline() {
    let one = One::start().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let endpoint = format!("https://{}", silent.local_addr().expect("its address"));
    let client = client_at(&one, endpoint, ClientRole::Writer);
    let begun = Instant::now();
    let (propose, open, read) = tokio::join!(
        client.propose(RouterCommand::Noop),
        client.open_session(),
        client.summary(ReadConsistency::Local)
    );
    for late in [propose.map(drop), open.map(drop), read.map(drop)] {
        let late = late.expect_err("nobody answers");
        assert!(matches!(late, ClientError::Deadline { .. }), "{late}");
        assert_eq!(late.certainty(), Certainty::NotApplied);
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(4),
        "{took:?}"
    );
    one.stop().await;
}

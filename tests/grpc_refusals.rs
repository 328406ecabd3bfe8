//! What calls of the client edge are refused with, where no other test provokes it.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::grpc::{EdgeOptions, EdgeSecurity, detail, serve};
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{
    Certainty, ChangeMembersRequest, ChangeRefused, CloseSessionRequest, Compacted, Consistency,
    GetStateRequest, Invalid, KeepAliveRequest, Member, MemberChange, MembershipRequest,
    OpenSessionRequest, Overloaded, ReplicaFailed, TransferLeadershipRequest,
    TriggerSnapshotRequest, WatchRequest, member_change,
};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, identity, propose, sidecar, single_node};
use tokio::net::TcpListener;
use tonic::{Code, Request, Status};

/// The field that an INVALID_ARGUMENT is about.
fn field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let invalid: Invalid = detail(status).expect("detail");
    assert_eq!(invalid.certainty(), Certainty::NotApplied);
    invalid.field
}

/// The same directory under a new node and a new edge.
async fn restarted(one: One) -> One {
    one.edge.shutdown().await;
    one.node.shutdown().await;
    let One { certs, dir, .. } = one;
    let node = single_node(&certs, &dir).await;
    let server = identity(&certs, &certs.nodes[0].edge);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let options = EdgeOptions::new(EdgeSecurity::Tls(server));
    let edge = serve(node.clone(), options, listener).await.expect("edge");
    One {
        node,
        edge,
        certs,
        dir,
    }
}

#[tokio::test]
async fn a_watch_is_refused_with_what_is_wrong_with_its_prefixes() {
    let one = One::start_with(|options| options.limits.max_watches = 1).await;
    let mut router = one.router(ClientRole::Reader).await;
    for (prefixes, why) in [
        (vec!["sidecars/".to_owned()], "slash"),
        (vec!["/x".to_owned(); 65], "at most 64"),
        (vec![format!("/{}", "x".repeat(4096))], "at most 4096"),
    ] {
        let request = WatchRequest {
            prefixes,
            ..WatchRequest::default()
        };
        let status = router.watch(request).await.expect_err("refused");
        assert_eq!(field(&status), "prefixes");
        assert!(status.message().contains(why), "{status:?}");
    }
    // What was refused took no place; what goes on does.
    let watch = router
        .watch(WatchRequest::default())
        .await
        .expect("a watch");
    let status = router.watch(WatchRequest::default()).await;
    let status = status.expect_err("one too many");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let told: Overloaded = detail(&status).expect("detail");
    assert!(told.budget.contains("watches") && told.retry_after_ms > 0);
    drop(watch);
    one.stop().await;
}

#[tokio::test]
async fn a_watch_from_before_what_the_node_has_is_told_from_where_it_could_go_on() {
    let one = One::start().await;
    for n in 0..5 {
        one.node
            .propose(sidecar(&format!("s-{n}")))
            .await
            .expect("applied");
    }
    let taken = one
        .node
        .take_snapshot(Duration::from_secs(20))
        .await
        .expect("a snapshot");
    // Started anew, a node has the changes since its newest snapshot only.
    let one = restarted(one).await;
    let mut router = one.router(ClientRole::Writer).await;
    let from = |from| WatchRequest {
        from: Some(from),
        ..WatchRequest::default()
    };
    let status = router.watch(from(1)).await.expect_err("too old");
    assert_eq!(status.code(), Code::OutOfRange);
    let told: Compacted = detail(&status).expect("detail");
    assert!(told.oldest >= taken.index, "{told:?}");
    let refused = router.watch(from(told.oldest - 1)).await.map(drop);
    assert_eq!(refused.expect_err("just too old").code(), Code::OutOfRange);
    router
        .watch(from(told.oldest))
        .await
        .expect("it goes on from there");
    propose(&mut router, RouterCommand::Noop)
        .await
        .expect("nothing else is wrong");
    one.stop().await;
}

#[tokio::test]
async fn a_state_is_refused_as_a_summary_is() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Reader).await;
    let request = |consistency: Consistency, at_least_index| GetStateRequest {
        at_least_index,
        consistency: consistency as i32,
    };
    for other in [
        Consistency::Local,
        Consistency::Lease,
        Consistency::Linearizable,
    ] {
        let status = router.get_state(request(other, 1)).await.expect_err("both");
        assert_eq!(field(&status), "at_least_index");
    }
    let mut never = Request::new(request(Consistency::AtLeastIndex, u64::MAX));
    never.set_timeout(Duration::from_millis(300));
    let late = router.get_state(never).await.expect_err("late");
    assert!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late:?}"
    );
    one.node.shutdown().await;
    let closed = router
        .get_state(request(Consistency::Linearizable, 0))
        .await;
    let closed = closed.expect_err("closed");
    assert_eq!(closed.code(), Code::Unavailable);
    detail::<ReplicaFailed>(&closed).expect("detail");
    one.edge.shutdown().await;
}

fn change(wish: member_change::Change, expected_index: Option<u64>) -> ChangeMembersRequest {
    ChangeMembersRequest {
        changes: vec![MemberChange { change: Some(wish) }],
        expected_index,
    }
}

#[tokio::test]
async fn changes_of_members_are_refused_with_what_is_wrong() {
    let one = One::start().await;
    let mut cluster = ClusterClient::new(one.channel(ClientRole::Operator).await);
    let nobody = MemberChange { change: None };
    let nameless = member_change::Change::AddVoter(Member::default());
    for wrong in [
        ChangeMembersRequest::default(),
        ChangeMembersRequest {
            changes: vec![nobody],
            expected_index: None,
        },
        change(member_change::Change::Promote(9), None),
        change(nameless, None),
    ] {
        let status = cluster.change_members(wrong.clone()).await;
        let status = status.expect_err("refused");
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{wrong:?}: {status:?}"
        );
        detail::<Invalid>(&status).expect("detail");
    }
    // Which members these are counts once they are committed.
    let give_up = Instant::now() + Duration::from_secs(20);
    let member = loop {
        let shown = cluster.membership(MembershipRequest {}).await;
        let shown = shown.expect("members").into_inner();
        match (shown.in_force, shown.committed) {
            (Some(now), Some(committed)) if now == committed => break now.members[0].clone(),
            now => assert!(Instant::now() < give_up, "{now:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let update = member_change::Change::Update(member);
    let status = cluster.change_members(change(update, Some(999_999))).await;
    let status = status.expect_err("not those that were looked at");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    let refused: ChangeRefused = detail(&status).expect("detail");
    assert_eq!(refused.reason, "Changed");
    assert!(refused.configuration_index > 0);
    one.stop().await;
}

#[tokio::test]
async fn a_closed_node_refuses_every_call_that_it_would_have_to_do_something_for() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut cluster = ClusterClient::new(one.channel(ClientRole::Operator).await);
    one.node.shutdown().await;
    let (session, forward) = (1, false);
    let remove = change(member_change::Change::Promote(1), None);
    let transfer = TransferLeadershipRequest { to: 2 };
    for (call, refused) in [
        (
            "open",
            router
                .open_session(OpenSessionRequest::default())
                .await
                .map(drop),
        ),
        (
            "keep",
            router
                .keep_alive(KeepAliveRequest { session, forward })
                .await
                .map(drop),
        ),
        (
            "close",
            router
                .close_session(CloseSessionRequest { session, forward })
                .await
                .map(drop),
        ),
        ("change", cluster.change_members(remove).await.map(drop)),
        (
            "transfer",
            cluster.transfer_leadership(transfer).await.map(drop),
        ),
        (
            "snapshot",
            cluster
                .trigger_snapshot(TriggerSnapshotRequest {})
                .await
                .map(drop),
        ),
    ] {
        let status = refused.expect_err(call);
        assert_eq!(status.code(), Code::Unavailable, "{call}: {status:?}");
    }
    one.edge.shutdown().await;
}

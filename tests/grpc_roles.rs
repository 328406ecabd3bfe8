//! Who gets in at the client edge, and how far.
#![cfg(feature = "grpc")]

mod grpc_common;
#[path = "grpc_common/raw.rs"]
mod raw;

use std::time::Duration;

use conveyor_raft::RouterCommand;
use conveyor_raft::grpc::{
    ConnectError, EdgeError, EdgeOptions, EdgeSecurity, Role, UnixSocket, connect, detail, serve,
};
use conveyor_raft::proto::backup_client::BackupClient;
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    ChangeMembersRequest, GetStateMetadataRequest, MemberChange, MembershipRequest,
    MembershipResponse, ProposeRequest, RoleRequired, StatusRequest, SummaryRequest,
    TransferLeadershipRequest, member_change,
};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, certificates, identity, propose};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn without_certificate(endpoint: &str) -> RouterClient<Channel> {
    RouterClient::new(connect(endpoint, None).await.expect("channel"))
}

fn rewind() -> RouterCommand {
    RouterCommand::CommitSourceOffset {
        source_id: "orders".into(),
        partition: 0,
        offset: 0,
        rewind: true,
    }
}

/// One call of each kind: health, read, status, write, rewind, backup.
async fn calls(channel: &Channel) -> [Code; 6] {
    let mut router = RouterClient::new(channel.clone());
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await;
    let status = ClusterClient::new(channel.clone())
        .status(StatusRequest {})
        .await;
    let backup = BackupClient::new(channel.clone())
        .get_state_metadata(GetStateMetadataRequest {})
        .await;
    [
        code(health),
        code(router.summary(SummaryRequest::default()).await),
        code(status),
        code(propose(&mut router, RouterCommand::Noop).await),
        code(propose(&mut router, rewind()).await),
        code(backup),
    ]
}

#[tokio::test]
async fn i2_each_role_gets_as_far_as_it_says() {
    const OK: Code = Code::Ok;
    const NO: Code = Code::PermissionDenied;
    let one = One::start().await;
    for (role, expected) in [
        (ClientRole::Reader, [OK, OK, OK, NO, NO, NO]),
        (ClientRole::Writer, [OK, OK, OK, OK, NO, NO]),
        (ClientRole::Operator, [OK, OK, OK, OK, OK, OK]),
    ] {
        let channel = one.channel(role).await;
        assert_eq!(calls(&channel).await, expected, "{role:?}");
    }
    let mut reader = one.router(ClientRole::Reader).await;
    let status = propose(&mut reader, RouterCommand::Noop)
        .await
        .expect_err("refused");
    let needed: RoleRequired = detail(&status).expect("detail");
    assert_eq!(
        (needed.needed.as_str(), needed.has.as_str()),
        ("writer", "reader")
    );
    one.stop().await;
}

/// The members as soon as what is in force is shown as committed, which a node that has just founded
/// its cluster says a moment later.
async fn settled_membership(cluster: &mut ClusterClient<Channel>) -> MembershipResponse {
    for _ in 0..500 {
        let shown = cluster.membership(MembershipRequest {}).await;
        let shown = shown.expect("every role reads").into_inner();
        if shown.in_force == shown.committed {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what is in force is not shown as committed within 5 s");
}

#[tokio::test]
async fn i2_members_are_shown_to_all_and_changed_by_operators_only() {
    let one = One::start().await;
    for (role, changes) in [
        (ClientRole::Reader, Code::PermissionDenied),
        (ClientRole::Writer, Code::PermissionDenied),
        (ClientRole::Operator, Code::InvalidArgument),
    ] {
        let mut cluster = ClusterClient::new(one.channel(role).await);
        let shown = settled_membership(&mut cluster).await;
        let members = shown.in_force.expect("members").members;
        assert_eq!((members.len(), members[0].node_id), (1, 1));
        let remove = MemberChange {
            change: Some(member_change::Change::Remove(1)),
        };
        let request = ChangeMembersRequest {
            changes: vec![remove],
            expected_index: None,
        };
        assert_eq!(code(cluster.change_members(request).await), changes);
        let to = TransferLeadershipRequest { to: 2 };
        let moved = code(cluster.transfer_leadership(to).await);
        let expected = match role {
            ClientRole::Operator => Code::FailedPrecondition,
            _ => Code::PermissionDenied,
        };
        assert_eq!(moved, expected);
    }
    one.stop().await;
}

#[tokio::test]
async fn settings_lower_the_role_of_a_certificate() {
    let lower = |options: &mut EdgeOptions| {
        options.roles.insert("caller".into(), Role::Reader);
    };
    let one = One::start_with(lower).await;
    let mut router = one.router(ClientRole::Operator).await;
    let refused = propose(&mut router, RouterCommand::Noop).await;
    assert_eq!(code(refused), Code::PermissionDenied);
    one.stop().await;
}

#[tokio::test]
async fn i2_certificates_of_others_get_in_nowhere() {
    let one = One::start().await;
    let (endpoint, other) = (one.endpoint(), certificates());

    // Another cluster's operator: neither trusts the other's CA.
    let stranger = identity(&other, &other.operator);
    let refused = connect(&endpoint, Some(&stranger)).await;
    assert!(
        matches!(refused, Err(ConnectError::Unreachable { .. })),
        "{refused:?}"
    );

    // A node's certificates are no client's.
    for pair in [&one.certs.nodes[0].edge, &one.certs.nodes[0].peer] {
        let node = identity(&one.certs, pair);
        assert!(connect(&endpoint, Some(&node)).await.is_err());
    }
    // No certificate at all, and none asked for.
    assert!(matches!(
        connect(&endpoint, None).await,
        Err(ConnectError::NoIdentity { .. })
    ));
    let plain = connect(&endpoint.replace("https", "http"), None).await;
    if let Ok(channel) = plain {
        let all = calls(&channel).await;
        assert!(!all.contains(&Code::Ok), "{all:?}");
    }
    one.stop().await;
}

#[tokio::test]
async fn i2_a_certificate_of_the_right_ca_counts_by_its_one_uri() {
    const WRONG: [Code; 5] = [Code::Unauthenticated; 5];
    let one = One::start().await;
    let address = one.edge.local_addr().expect("over TCP");
    let cluster = one.certs.ca.cluster();
    let other = certificates().ca.cluster();
    let uri = |cluster, rest: &str| format!("conveyor-raft://{cluster}/{rest}");
    let operator = uri(cluster, "client/operator/mallory");
    for uris in [
        vec![],
        vec![uri(other, "client/operator/mallory")],
        vec![uri(cluster, "peer/1")],
        vec![uri(cluster, "edge/1")],
        vec![uri(cluster, "client/root/mallory")],
        vec![uri(cluster, "client/operator/Mallory")],
        vec![operator.clone(), uri(cluster, "client/reader/mallory")],
    ] {
        let pair = raw::certificate(&one.certs, &uris);
        let channel = raw::channel(&one.certs, Some(&pair), address)
            .await
            .expect("TLS");
        let [health, rest @ ..] = calls(&channel).await;
        assert_eq!((health, rest), (Code::Ok, WRONG), "{uris:?}");
    }
    // Nothing shown: good for probes.
    let channel = raw::channel(&one.certs, None, address).await.expect("TLS");
    let [health, rest @ ..] = calls(&channel).await;
    assert_eq!((health, rest), (Code::Ok, WRONG));
    // And the right one, by the same way.
    let pair = raw::certificate(&one.certs, &[operator]);
    let channel = raw::channel(&one.certs, Some(&pair), address)
        .await
        .expect("TLS");
    assert_eq!(calls(&channel).await, [Code::Ok; 6]);
    // Another CA does not get as far as a call.
    let stranger = certificates();
    let channel = raw::channel(&one.certs, Some(&stranger.operator), address).await;
    if let Ok(channel) = channel {
        let all = calls(&channel).await;
        assert!(!all.contains(&Code::Ok), "{all:?}");
    }
    one.stop().await;
}

#[tokio::test]
async fn i8_without_tls_only_loopback_and_never_an_operator() {
    let one = One::start().await;
    let everywhere = TcpListener::bind("0.0.0.0:0").await.expect("listener");
    let plain = |role| EdgeOptions::new(EdgeSecurity::PlainLoopback { role });
    let refused = serve(one.node.clone(), plain(Role::Reader), everywhere).await;
    assert!(matches!(refused, Err(EdgeError::PlainElsewhere(_))));

    let loopback = || TcpListener::bind("127.0.0.1:0");
    let listener = loopback().await.expect("listener");
    let refused = serve(one.node.clone(), plain(Role::Operator), listener).await;
    assert!(matches!(refused, Err(EdgeError::PlainRole(_))));

    let listener = loopback().await.expect("listener");
    let edge = serve(one.node.clone(), plain(Role::Writer), listener)
        .await
        .expect("edge");
    let mut router = without_certificate(&format!("http://{}", edge.address())).await;
    assert_eq!(
        code(propose(&mut router, RouterCommand::Noop).await),
        Code::Ok
    );
    assert_eq!(
        code(propose(&mut router, rewind()).await),
        Code::PermissionDenied
    );
    edge.shutdown().await;
    one.stop().await;
}

#[tokio::test]
async fn i8_a_unix_socket_gives_its_user_the_role_that_is_set_and_nothing_else_goes_with_it() {
    let one = One::start().await;
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("edge.sock");
    let socket = || UnixSocket::bind(&path).expect("bound");
    let loopback = EdgeSecurity::PlainLoopback { role: Role::Writer };
    let refused = serve(one.node.clone(), EdgeOptions::new(loopback), socket()).await;
    assert!(matches!(refused, Err(EdgeError::UnixElsewhere(_))));

    let unix = |role| EdgeOptions::new(EdgeSecurity::PlainUnix { role });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let refused = serve(one.node.clone(), unix(Role::Reader), listener).await;
    assert!(matches!(refused, Err(EdgeError::NoUnix(_))));

    for (role, noop) in [
        (Role::Reader, Code::PermissionDenied),
        (Role::Operator, Code::Ok),
    ] {
        let edge = serve(one.node.clone(), unix(role), socket())
            .await
            .expect("edge");
        assert_eq!(edge.local_addr(), None);
        let mut router = without_certificate(&edge.address().to_string()).await;
        assert_eq!(code(propose(&mut router, RouterCommand::Noop).await), noop);
        if role == Role::Operator {
            let rewound = code(propose(&mut router, rewind()).await);
            assert_ne!(rewound, Code::PermissionDenied);
        }
        edge.shutdown().await;
        assert!(!path.exists());
    }
    let gone = connect(&format!("unix:{}", path.display()), None).await;
    assert!(matches!(gone, Err(ConnectError::Unreachable { .. })));
    one.stop().await;
}

/// Run by CI, which builds with the feature for this alone.
#[cfg(feature = "insecure-edge")]
#[tokio::test]
async fn i8_plain_text_elsewhere_is_for_who_asked_twice_and_never_an_operators() {
    let one = One::start().await;
    let anywhere = |role| EdgeOptions::new(EdgeSecurity::PlainAnywhere { role });
    let listener = || TcpListener::bind("0.0.0.0:0");
    let refused = serve(
        one.node.clone(),
        anywhere(Role::Operator),
        listener().await.expect("listener"),
    );
    assert!(matches!(refused.await, Err(EdgeError::PlainRole(_))));
    let listener = listener().await.expect("listener");
    let edge = serve(one.node.clone(), anywhere(Role::Writer), listener)
        .await
        .expect("edge");
    let port = edge.local_addr().expect("over TCP").port();
    let mut router = without_certificate(&format!("http://127.0.0.1:{port}")).await;
    assert_eq!(
        code(propose(&mut router, RouterCommand::Noop).await),
        Code::Ok
    );
    edge.shutdown().await;
    one.stop().await;
}

#[tokio::test]
async fn h3_a_message_over_the_limit_is_refused_before_it_is_read() {
    let small = |options: &mut EdgeOptions| options.limits.max_message_bytes = 64 << 10;
    let one = One::start_with(small).await;
    let mut router = one.router(ClientRole::Writer).await;
    let config = |bytes: usize| RouterCommand::CreatePipeline {
        pipeline_id: format!("p-{bytes}"),
        name: String::new(),
        config: vec![b'x'; bytes],
    };
    assert_eq!(code(propose(&mut router, config(32 << 10)).await), Code::Ok);
    let refused = propose(&mut router, config(65 << 10)).await;
    assert_eq!(code(refused), Code::OutOfRange);
    let nothing = router.propose(ProposeRequest::default()).await;
    assert_eq!(code(nothing), Code::InvalidArgument);
    one.stop().await;
}

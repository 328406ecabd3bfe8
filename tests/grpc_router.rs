//! Commands and reads through gRPC.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::time::Duration;

use conveyor_raft::RouterCommand;
use conveyor_raft::grpc::detail;
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::propose_outcome::Outcome;
use conveyor_raft::proto::state_record::Record;
use conveyor_raft::proto::{
    Certainty, GetStateRequest, Invalid, ProposeBatchRequest, Rejected, Role, StatusRequest,
    SummaryRequest,
};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, propose, sidecar};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test]
async fn a_command_is_answered_with_its_place_and_what_it_did() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let first = propose(&mut router, sidecar("shop/a"))
        .await
        .expect("applied");
    let answer = first.answer.expect("answer");
    assert_eq!(
        (answer.lease_ms, answer.revision),
        (Some(30_000), Some(first.index))
    );
    assert!(first.time_ms > 0 && first.term > 0 && !first.unchanged && !first.duplicate);
    let again = propose(&mut router, sidecar("shop/a"))
        .await
        .expect("applied");
    assert!(again.unchanged && again.index > first.index);
    one.stop().await;
}

#[tokio::test]
async fn a_refusal_is_a_status_with_its_reason() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let renew = RouterCommand::RenewLease {
        service_id: "nobody".into(),
    };
    let status = propose(&mut router, renew).await.expect_err("refused");
    assert_eq!(status.code(), Code::NotFound);
    let refusal: Rejected = detail(&status).expect("detail");
    assert_eq!(refusal.reason, "NotFound");
    assert_eq!(refusal.certainty(), Certainty::NoEffect);
    assert!(refusal.index > 0 && refusal.message.contains("nobody"));

    let offset = |offset| RouterCommand::CommitSourceOffset {
        source_id: "orders".into(),
        partition: 3,
        offset,
        rewind: false,
    };
    propose(&mut router, offset(10)).await.expect("applied");
    let status = propose(&mut router, offset(4)).await.expect_err("behind");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        detail::<Rejected>(&status).and_then(|refusal| refusal.current),
        Some(10)
    );

    let status = propose(&mut router, sidecar(""))
        .await
        .expect_err("invalid");
    assert_eq!(status.code(), Code::InvalidArgument);
    let invalid: Invalid = detail(&status).expect("detail");
    assert!(invalid.field.contains("sidecar_id"), "{invalid:?}");
    one.stop().await;
}

#[tokio::test]
async fn a_batch_is_applied_in_order_with_an_outcome_each() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let renew = RouterCommand::RenewLease {
        service_id: "nobody".into(),
    };
    let commands = [
        sidecar("a"),
        renew,
        sidecar("a"),
        sidecar("b"),
        sidecar(""),
        sidecar("c"),
    ];
    let request = ProposeBatchRequest {
        commands: commands.map(Into::into).into(),
        ..ProposeBatchRequest::default()
    };
    let outcomes = router
        .propose_batch(request)
        .await
        .expect("batch")
        .into_inner()
        .outcomes;
    let outcomes: Vec<_> = outcomes
        .into_iter()
        .filter_map(|outcome| outcome.outcome)
        .collect();
    let [
        Outcome::Response(a),
        Outcome::Rejected(refused),
        Outcome::Response(again),
        Outcome::Response(b),
        Outcome::Invalid(invalid),
        Outcome::NotAppended(_),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert!(a.index < refused.index && refused.index < again.index && again.index < b.index);
    assert!(!a.unchanged && again.unchanged);
    assert_eq!(invalid.item, Some(4));
    // Nothing overtakes what was not taken.
    assert!(!one.node.state().await.sidecars.contains_key("c"));

    let many = vec![RouterCommand::Noop.into(); 4097];
    let refused = router
        .propose_batch(ProposeBatchRequest {
            commands: many,
            ..ProposeBatchRequest::default()
        })
        .await;
    assert_eq!(refused.expect_err("too many").code(), Code::InvalidArgument);
    one.stop().await;
}

#[tokio::test]
async fn state_and_summary_are_of_one_index() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut last = 0;
    for n in 0..200 {
        // Large enough for several parts.
        let command = RouterCommand::CreatePipeline {
            pipeline_id: format!("p-{n:03}"),
            name: String::new(),
            config: vec![b'x'; 4096],
        };
        last = propose(&mut router, command).await.expect("applied").index;
    }
    let request = SummaryRequest {
        at_least_index: last,
        ..SummaryRequest::default()
    };
    let summary = router.summary(request).await.expect("summary").into_inner();
    assert_eq!((summary.index, summary.counts["pipelines"]), (last, 200));
    assert_eq!(summary.digest.len(), 32);

    let request = GetStateRequest {
        at_least_index: last,
        ..GetStateRequest::default()
    };
    let mut parts = router.get_state(request).await.expect("state").into_inner();
    let (mut names, mut count) = (Vec::new(), 0);
    while let Some(part) = parts.message().await.expect("part") {
        assert_eq!(part.index, last);
        count += 1;
        names.extend(
            part.records
                .into_iter()
                .filter_map(|record| match record.record {
                    Some(Record::Pipeline(pipeline)) => Some(pipeline.pipeline_id),
                    _ => None,
                }),
        );
    }
    assert!(count > 1 && names.len() == 200 && names.is_sorted());

    // An index that never comes ends with the caller's deadline.
    let mut request = Request::new(SummaryRequest {
        at_least_index: last + 1000,
        ..SummaryRequest::default()
    });
    request.set_timeout(Duration::from_millis(300));
    let late = router.summary(request).await.expect_err("late");
    assert!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late:?}"
    );
    one.stop().await;
}

#[tokio::test]
async fn status_says_who_leads_and_how_far_everything_is() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let index = propose(&mut router, sidecar("a"))
        .await
        .expect("applied")
        .index;
    let mut cluster = ClusterClient::new(one.channel(ClientRole::Reader).await);
    let status = cluster
        .status(StatusRequest {})
        .await
        .expect("status")
        .into_inner();
    assert_eq!(
        (status.node_id, status.leader_id, status.role()),
        (1, 1, Role::Leader)
    );
    assert!(status.applied_index >= index && status.commit_index >= index);
    assert_eq!(status.cluster_id, one.certs.ca.cluster().to_string());
    assert!(status.digest.len() == 32 && status.failure.is_none() && !status.stopping);
    one.stop().await;
}

#[tokio::test]
async fn probes_and_reflection_answer() {
    let one = One::start().await;
    let mut health = HealthClient::new(one.channel(ClientRole::Reader).await);
    for name in [
        "",
        "conveyor.raft.v1.Router",
        "conveyor.raft.v1.Live",
        "grpc.health.v1.Health",
    ] {
        let request = HealthCheckRequest {
            service: name.into(),
        };
        let mut answer = health.check(request.clone()).await;
        for _ in 0..100 {
            if matches!(&answer, Ok(answer) if answer.get_ref().status == 1) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = health.check(request.clone()).await;
        }
        assert_eq!(answer.expect(name).into_inner().status, 1, "{name}");
    }

    let channel = one.channel(ClientRole::Reader).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers.message().await.expect("answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in ["Router", "Cluster", "Backup"] {
        assert!(
            names.contains(&format!("conveyor.raft.v1.{name}")),
            "{names:?}"
        );
    }
    one.stop().await;
}

#[tokio::test]
async fn a_closed_node_says_so() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    one.node.shutdown().await;
    let status = propose(&mut router, sidecar("a"))
        .await
        .expect_err("closed");
    assert_eq!(status.code(), Code::Unavailable);
    let failed: conveyor_raft::proto::ReplicaFailed = detail(&status).expect("detail");
    assert_eq!(failed.certainty(), Certainty::NotApplied);
    one.edge.shutdown().await;
}

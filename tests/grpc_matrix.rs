//! Who may call what: every method of every service that the edge serves, taken from the descriptors, for
//! every kind of caller.
#![cfg(feature = "grpc")]

#[path = "grpc_common/by_name.rs"]
mod by_name;
mod grpc_common;
#[path = "grpc_common/raw.rs"]
mod raw;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use conveyor_raft::RouterCommand;
use conveyor_raft::grpc::Role;
use conveyor_raft::proto::propose_outcome::Outcome;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    self, Certainty, ProposeBatchRequest, ProposeItem, ProposeStreamRequest,
};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, propose};
use prost_reflect::DescriptorPool;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// What each call needs; none: it is for everyone, certificate or not.
const NEEDED: [(Option<Role>, &str, &[&str]); 7] = [
    // Whoever probes has no certificate.
    (None, "grpc.health.v1.Health", &["Check", "Watch"]),
    (
        Some(Role::Reader),
        "grpc.reflection.v1.ServerReflection",
        &["ServerReflectionInfo"],
    ),
    (
        Some(Role::Reader),
        "conveyor.raft.v1.Cluster",
        &["Status", "Membership"],
    ),
    (
        Some(Role::Operator),
        "conveyor.raft.v1.Cluster",
        &["ChangeMembers", "TransferLeadership", "TriggerSnapshot"],
    ),
    (
        Some(Role::Operator),
        "conveyor.raft.v1.Backup",
        &[
            "GetStateMetadata",
            "CreateSnapshot",
            "ListSnapshots",
            "StreamSnapshot",
            "DeleteSnapshot",
            "UploadSnapshot",
            "GetUpload",
            "RestoreSnapshot",
        ],
    ),
    (
        Some(Role::Writer),
        "conveyor.raft.v1.Router",
        &[
            "Propose",
            "ProposeBatch",
            "ProposeStream",
            "OpenSession",
            "KeepAlive",
            "CloseSession",
        ],
    ),
    (
        Some(Role::Reader),
        "conveyor.raft.v1.Router",
        &[
            "GetState",
            "Summary",
            "GetService",
            "ListServices",
            "GetPipeline",
            "ListPipelines",
            "GetSidecar",
            "ListSidecars",
            "GetAssignments",
            "LocateService",
            "GetGroup",
            "ListGroups",
            "PartitionOwner",
            "GetSourceOffsets",
            "GetGroupOffsets",
            "GetWatermarks",
            "GetServiceCheckpoint",
            "GetPipelineCheckpoints",
            "Watch",
        ],
    ),
];

fn needed() -> BTreeMap<String, Option<Role>> {
    let rows = NEEDED.iter().flat_map(|(role, service, methods)| {
        let paths = methods.iter().map(move |it| format!("/{service}/{it}"));
        paths.map(|path| (path, *role))
    });
    rows.collect()
}

/// Everything that the edge serves, in the order of the names.
fn served() -> BTreeSet<String> {
    let mut pool = DescriptorPool::new();
    for set in [
        proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(set).expect("descriptors");
    }
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods
    });
    methods.map(|method| by_name::path(&method)).collect()
}

/// How far a call got that was made with an empty message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    NoCertificate,
    RoleTooLow,
    /// Whatever became of it then.
    Through,
}

async fn attempt(channel: &Channel, path: &str) -> Got {
    match by_name::call(channel, path, Bytes::new()).await {
        Ok(_) => Got::Through,
        Err(status) => match status.code() {
            Code::Unauthenticated => Got::NoCertificate,
            Code::PermissionDenied => Got::RoleTooLow,
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => Got::Through,
            // Nobody was asked who calls, or something is broken.
            _ => panic!("{path}: {status:?}"),
        },
    }
}

fn expected(needed: Option<Role>, has: Option<Role>) -> Got {
    match (needed, has) {
        (None, _) => Got::Through,
        (Some(_), None) => Got::NoCertificate,
        (Some(needed), Some(has)) if has < needed => Got::RoleTooLow,
        (Some(_), Some(_)) => Got::Through,
    }
}

#[tokio::test]
async fn i2_every_method_of_every_service_asks_for_the_role_that_the_table_says() {
    let needed = needed();
    let rows: BTreeSet<_> = needed.keys().cloned().collect();
    assert_eq!(
        rows,
        served(),
        "a method without a row, or a row without one"
    );
    let one = One::start().await;
    let address = one.edge.local_addr().expect("over TCP");
    let nobody = raw::channel(&one.certs, None, address).await.expect("TLS");
    for (has, channel) in [
        (None, nobody),
        (Some(Role::Reader), one.channel(ClientRole::Reader).await),
        (Some(Role::Writer), one.channel(ClientRole::Writer).await),
        (
            Some(Role::Operator),
            one.channel(ClientRole::Operator).await,
        ),
    ] {
        for (path, needed) in &needed {
            let got = attempt(&channel, path).await;
            assert_eq!(got, expected(*needed, has), "{path} by {has:?}");
        }
    }
    one.stop().await;
}

fn rewinds() -> [RouterCommand; 2] {
    let rewind = RouterCommand::CommitSourceOffset {
        source_id: "orders".into(),
        partition: 0,
        offset: 0,
        rewind: true,
    };
    let of_group = RouterCommand::CommitGroupOffset {
        group_id: "shop".into(),
        source_id: "orders".into(),
        partition: 0,
        offset: 0,
        service_id: None,
        generation: None,
        rewind: true,
    };
    [rewind, of_group]
}

async fn in_a_batch(router: &mut RouterClient<Channel>, rewind: RouterCommand) -> Outcome {
    let request = ProposeBatchRequest {
        commands: vec![rewind.into()],
        ..ProposeBatchRequest::default()
    };
    let answer = router.propose_batch(request).await.expect("a batch");
    let [outcome] = <[_; 1]>::try_from(answer.into_inner().outcomes).expect("one");
    outcome.outcome.expect("an outcome")
}

async fn in_a_stream(router: &mut RouterClient<Channel>, rewind: RouterCommand) -> Outcome {
    let item = ProposeItem {
        id: 1,
        command: Some(rewind.into()),
        ..ProposeItem::default()
    };
    let request = ProposeStreamRequest { items: vec![item] };
    let answers = router.propose_stream(tokio_stream::once(request)).await;
    let mut answers = answers.expect("a stream").into_inner();
    let answer = answers
        .message()
        .await
        .expect("goes on")
        .expect("an answer");
    let [outcome] = <[_; 1]>::try_from(answer.outcomes).expect("one");
    outcome
        .outcome
        .and_then(|it| it.outcome)
        .expect("an outcome")
}

fn of_no_operator(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Invalid(it) => {
            it.field == "rewind"
                && it.item.is_some()
                && it.certainty() == Certainty::NotApplied
                && it.why.contains("operator")
        }
        _ => false,
    }
}

#[tokio::test]
async fn i2_a_rewind_is_an_operators_by_whichever_call_it_comes() {
    let one = One::start().await;
    for (role, may) in [(ClientRole::Writer, false), (ClientRole::Operator, true)] {
        let mut router = one.router(role).await;
        for rewind in rewinds() {
            let alone = propose(&mut router, rewind.clone()).await;
            let denied = |status: Status| status.code() == Code::PermissionDenied;
            assert_eq!(alone.is_err_and(denied), !may, "{role:?}: {rewind:?}");
            for outcome in [
                in_a_batch(&mut router, rewind.clone()).await,
                in_a_stream(&mut router, rewind.clone()).await,
            ] {
                assert_eq!(of_no_operator(&outcome), !may, "{role:?}: {outcome:?}");
                // Through means decided by the state machine.
                let decided = matches!(outcome, Outcome::Response(_) | Outcome::Rejected(_));
                assert_eq!(decided, may, "{role:?}: {outcome:?}");
            }
        }
    }
    one.stop().await;
}

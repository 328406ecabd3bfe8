//! Reads of single records and of lists in pages, through the Rust client and the generated one.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::time::Duration;

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{Client, ClientError, ClientOptions};
use conveyor_raft::grpc::detail;
use conveyor_raft::node::ReadConsistency;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    Compacted, Consistency, GetServiceRequest, Invalid, ListGroupsRequest, ListSidecarsRequest,
    PageRequest, ReadAt, ReadOptions, ReplicaFailed, WatermarkRecord,
};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::state_machine::{PipelineFilter, ServiceFilter, SidecarFilter, json};
use grpc_common::{One, identity, sidecar};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Two sidecars and a service bound to one of them, two pipelines, a group, and how far they are.
const STATE: &str = r#"
{"RegisterSidecar":{"sidecar_id":"shop/a","endpoint":"a:1","services":["orders"],"namespace":"shop","lease_ms":60000}}
{"RegisterSidecar":{"sidecar_id":"ware/b","endpoint":"b:1","services":["orders","stock"],"namespace":"ware"}}
{"RegisterService":{"service_id":"mask-0","service_type":"transform","endpoint":"m:1","service_name":"mask","labels":{"team":"x"},"group_id":"mask","sidecar_id":"shop/a"}}
{"RegisterService":{"service_id":"mask-1","service_type":"transform","endpoint":"m:2","service_name":"mask","labels":{"team":"y"},"lease_ms":0}}
{"RegisterService":{"service_id":"orders-9","service_type":"source","endpoint":"o:1","service_name":"orders"}}
{"UpdateServiceHealth":{"service_id":"mask-1","health":"degraded"}}
{"CreatePipeline":{"pipeline_id":"p-1","config":"one"}}
{"CreatePipeline":{"pipeline_id":"p-2","config":"two"}}
{"EnablePipeline":{"pipeline_id":"p-2"}}
{"AssignPipeline":{"pipeline_id":"p-1","sidecar_id":"shop/a","stages":["orders","mask"]}}
{"AssignPipeline":{"pipeline_id":"p-2","sidecar_id":"shop/a","stages":["stock"]}}
{"JoinGroup":{"service_id":"mask-0","group_id":"g","stage_id":"mask"}}
{"AssignPartitions":{"group_id":"g","assignments":{"mask-0":[0,7]},"generation":2}}
{"CommitGroupOffset":{"group_id":"g","source_id":"orders","partition":7,"offset":5,"service_id":"mask-0","generation":2}}
{"CommitGroupOffset":{"group_id":"g","source_id":"other","partition":0,"offset":6,"service_id":"mask-0","generation":2}}
{"ReportSource":{"source_id":"orders","offsets":{"0":10,"4294967295":11},"watermarks":{"0":{"position":10,"event_time":{"seconds":9,"nanos":0}},"3":{"position":12,"event_time":{"seconds":8,"nanos":0}}}}}
{"ReportSource":{"source_id":"order","offsets":{"0":1}}}
{"ReportSource":{"source_id":"late","offsets":{"1":3}}}
{"SaveServiceCheckpoint":{"service_id":"mask-0","checkpoint_id":"cp-0","data":"here","source_offsets":{"late":{"1":2}}}}
{"SaveServiceCheckpoint":{"service_id":"stock","checkpoint_id":"cp-s","data":"there"}}
"#;

async fn fill(one: &One) -> u64 {
    let mut index = 0;
    for line in STATE.lines().filter(|line| !line.is_empty()) {
        let line = json::parse_line(line).expect("a command").expect("one");
        let response = one.node.propose(line.command).await.expect("applied");
        index = response.index;
        response.into_result().expect("accepted");
    }
    index
}

/// Sidecars of these names.
async fn register(one: &One, names: impl IntoIterator<Item = String>) {
    for name in names {
        one.node.propose(sidecar(&name)).await.expect("applied");
    }
}

fn client(one: &One) -> Client {
    let pair = one.certs.ca.issue_client(ClientRole::Reader, "caller");
    let identity = identity(&one.certs, &pair.expect("client"));
    let mut options = ClientOptions::new([one.endpoint()], Some(identity));
    options.deadline = Duration::from_secs(20);
    Client::new(options).expect("a client")
}

const LATEST: ReadConsistency = ReadConsistency::Linearizable;

fn ids<'a>(found: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    found.into_iter().map(String::as_str).collect()
}

#[tokio::test]
async fn single_records_are_told_with_their_index_leases_and_absence() {
    let one = One::start().await;
    let index = fill(&one).await;
    let client = client(&one);
    for consistency in [
        LATEST,
        ReadConsistency::Lease,
        ReadConsistency::AtLeast(index),
    ] {
        let answer = client
            .get_service("mask-0", consistency)
            .await
            .expect("read");
        let at = answer.at.expect("an index");
        assert!(at.index >= index && at.term > 0 && at.time_ms > 0, "{at:?}");
        let service = answer.service.expect("it is there");
        assert_eq!(
            (service.endpoint.as_str(), service.labels["team"].as_str()),
            ("m:1", "x")
        );
        // Bound to a sidecar, it lives by that lease.
        let sidecar = client
            .get_sidecar("shop/a", consistency)
            .await
            .expect("read");
        let sidecar = sidecar.sidecar.expect("it is there");
        let (lease, own) = (sidecar.lease.expect("lease"), service.lease.expect("lease"));
        assert_eq!(lease.expires_at_ms, Some(lease.last_heartbeat_ms + 60_000));
        assert_eq!(own.expires_at_ms, lease.expires_at_ms);
        assert!(sidecar.assignments.is_empty() && sidecar.assignments_revision > 0);
    }
    let for_ever = client.get_service("mask-1", LATEST).await.expect("read");
    let lease = for_ever.service.and_then(|service| service.lease);
    assert_eq!(lease.expect("lease").expires_at_ms, None);
    let pipeline = client
        .get_pipeline("p-2", LATEST)
        .await
        .expect("read")
        .pipeline;
    assert!(pipeline.is_some_and(|it| it.enabled && it.version == 1 && it.config == b"two"));
    let group = client
        .get_group("g", LATEST)
        .await
        .expect("read")
        .group
        .expect("it is there");
    assert_eq!(
        (
            group.generation,
            group.assigned_generation,
            group.members.len()
        ),
        (2, 2, 1)
    );
    let owner = client.partition_owner("g", 7, LATEST).await.expect("read");
    assert_eq!(
        (owner.service_id.as_deref(), owner.generation),
        (Some("mask-0"), 2)
    );
    let nobody = client.partition_owner("g", 1, LATEST).await.expect("read");
    assert_eq!((nobody.service_id, nobody.assigned_generation), (None, 2));
    let checkpoint = client
        .get_service_checkpoint("mask-0", LATEST)
        .await
        .expect("read");
    assert!(checkpoint.checkpoint.is_some_and(|it| it.data == b"here"));

    // What is not there is an answer, too: of an index.
    let there = |at: Option<ReadAt>| at.is_some_and(|at| at.index >= index);
    let none = client.get_service("x", LATEST).await.expect("read");
    assert!(there(none.at) && none.service.is_none());
    let none = client.get_pipeline("x", LATEST).await.expect("read");
    assert!(there(none.at) && none.pipeline.is_none());
    let none = client.get_sidecar("x", LATEST).await.expect("read");
    assert!(there(none.at) && none.sidecar.is_none());
    let none = client.get_group("x", LATEST).await.expect("read");
    assert!(there(none.at) && none.group.is_none());
    let none = client.partition_owner("x", 0, LATEST).await.expect("read");
    assert!(there(none.at) && none.service_id.is_none() && none.generation == 0);
    let none = client
        .get_service_checkpoint("x", LATEST)
        .await
        .expect("read");
    assert!(there(none.at) && none.checkpoint.is_none());
    one.stop().await;
}

#[tokio::test]
async fn lists_are_filtered_and_in_order() {
    let one = One::start().await;
    fill(&one).await;
    let client = client(&one);
    let none = ServiceFilter::default;
    let some = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (none(), vec!["mask-0", "mask-1", "orders-9"]),
        (
            ServiceFilter {
                name: some("mask"),
                ..none()
            },
            vec!["mask-0", "mask-1"],
        ),
        (
            ServiceFilter {
                service_type: some("source"),
                ..none()
            },
            vec!["orders-9"],
        ),
        (
            ServiceFilter {
                group_id: some("mask"),
                ..none()
            },
            vec!["mask-0"],
        ),
        (
            ServiceFilter {
                healthy_only: true,
                ..none()
            },
            vec!["mask-0", "orders-9"],
        ),
        (
            ServiceFilter {
                labels: [("team".into(), "y".into())].into(),
                ..none()
            },
            vec!["mask-1"],
        ),
        (
            ServiceFilter {
                after: some("mask-0"),
                ..none()
            },
            vec!["mask-1", "orders-9"],
        ),
        (
            ServiceFilter {
                name: some("mask"),
                after: some("mask-0"),
                ..none()
            },
            vec!["mask-1"],
        ),
    ] {
        // One at a time: each page goes on where the one before it ended.
        let pages = client.list_services(filter.clone(), LATEST).with_size(1);
        let found = pages.all().await.expect("read").services;
        assert_eq!(
            ids(found.iter().map(|it| &it.service_id)),
            expected,
            "{filter:?}"
        );
    }
    let enabled = PipelineFilter {
        enabled_only: true,
        ..PipelineFilter::default()
    };
    let found = client
        .list_pipelines(enabled, LATEST)
        .all()
        .await
        .expect("read")
        .pipelines;
    assert_eq!(ids(found.iter().map(|it| &it.pipeline_id)), ["p-2"]);
    let found = client
        .list_pipelines(PipelineFilter::default(), LATEST)
        .with_size(1);
    let found = found.all().await.expect("read").pipelines;
    assert_eq!(ids(found.iter().map(|it| &it.pipeline_id)), ["p-1", "p-2"]);
    let ware = SidecarFilter {
        namespace: some("ware"),
        ..SidecarFilter::default()
    };
    let found = client
        .list_sidecars(ware, LATEST)
        .all()
        .await
        .expect("read")
        .sidecars;
    assert_eq!(ids(found.iter().map(|it| &it.sidecar_id)), ["ware/b"]);
    let found = client.list_groups(LATEST).all().await.expect("read").groups;
    assert_eq!(ids(found.iter().map(|it| &it.group_id)), ["g"]);

    let runs = client
        .get_assignments("shop/a", LATEST)
        .with_size(1)
        .all()
        .await
        .expect("read");
    assert_eq!(
        ids(runs.assignments.iter().map(|it| &it.pipeline_id)),
        ["p-1", "p-2"]
    );
    assert_eq!(runs.assignments_revision, runs.assignments[1].revision);
    let found = client
        .locate_service("orders", LATEST)
        .with_size(1)
        .all()
        .await
        .expect("read");
    let endpoints = ids(found.locations.iter().map(|it| &it.endpoint));
    assert_eq!(endpoints, ["a:1", "b:1", "o:1"], "sidecars, then services");
    assert!(
        found
            .locations
            .iter()
            .all(|it| it.lease.is_some_and(|it| it.expires_at_ms > Some(0)))
    );
    one.stop().await;
}

#[tokio::test]
async fn offsets_watermarks_and_checkpoints_are_those_asked_for() {
    let one = One::start().await;
    fill(&one).await;
    let client = client(&one);
    // Not those of "order"; and the last of all partitions ends the list.
    let pages = client
        .get_source_offsets("orders", None, LATEST)
        .with_size(1);
    let offsets = pages.all().await.expect("read").offsets;
    let of = |it: &[conveyor_raft::proto::OffsetRecord]| -> Vec<_> {
        it.iter()
            .map(|it| (it.source_id.clone(), it.partition, it.offset))
            .collect()
    };
    let orders = |partition, offset| ("orders".to_owned(), partition, offset);
    assert_eq!(of(&offsets), [orders(0, 10), orders(u32::MAX, 11)]);
    let last = client
        .get_source_offsets("orders", Some(u32::MAX), LATEST)
        .all()
        .await;
    assert_eq!(of(&last.expect("read").offsets), [orders(u32::MAX, 11)]);

    let pages = client.get_group_offsets("g", None, LATEST).with_size(1);
    let offsets = pages.all().await.expect("read").offsets;
    let of_group: Vec<_> = offsets
        .iter()
        .map(|it| (it.source_id.as_str(), it.partition, it.offset))
        .collect();
    assert_eq!(of_group, [("orders", 7, 5), ("other", 0, 6)]);
    let pages = client.get_group_offsets("g", Some("other".into()), LATEST);
    assert_eq!(pages.all().await.expect("read").offsets.len(), 1);

    let marks = client
        .get_watermarks("orders", None, LATEST)
        .with_size(1)
        .all()
        .await;
    let marks = marks.expect("read");
    let position = |it: &WatermarkRecord| (it.partition, it.position);
    assert_eq!(
        marks.watermarks.iter().map(position).collect::<Vec<_>>(),
        [(0, 10), (3, 12)]
    );
    assert_eq!(
        marks.global.as_ref().map(position),
        Some((3, 12)),
        "the slowest by event time"
    );
    let marks = client
        .get_watermarks("orders", Some(0), LATEST)
        .all()
        .await
        .expect("read");
    assert_eq!(
        marks.watermarks.iter().map(position).collect::<Vec<_>>(),
        [(0, 10)]
    );
    assert_eq!(marks.global.as_ref().map(position), Some((3, 12)));
    let none = client
        .get_watermarks("order", None, LATEST)
        .all()
        .await
        .expect("read");
    assert!(none.watermarks.is_empty() && none.global.is_none());

    // The stages orders and mask: services by name; a source called like a stage, one that a checkpoint
    // names.
    let pages = client.get_pipeline_checkpoints("p-1", LATEST).with_size(1);
    let found = pages.all().await.expect("read");
    assert_eq!(
        ids(found.checkpoints.iter().map(|it| &it.service_id)),
        ["mask-0"]
    );
    let late = ("late".to_owned(), 1, 3);
    assert_eq!(
        of(&found.source_offsets),
        [late, orders(0, 10), orders(u32::MAX, 11)]
    );
    assert_eq!(
        found.watermarks.iter().map(position).collect::<Vec<_>>(),
        [(0, 10), (3, 12)]
    );
    // A checkpoint under the stage's own name, without a service.
    let found = client
        .get_pipeline_checkpoints("p-2", LATEST)
        .all()
        .await
        .expect("read");
    assert_eq!(
        ids(found.checkpoints.iter().map(|it| &it.service_id)),
        ["stock"]
    );
    assert!(found.source_offsets.is_empty() && found.watermarks.is_empty());
    let none = client
        .get_pipeline_checkpoints("p-3", LATEST)
        .all()
        .await
        .expect("read");
    assert!(none.checkpoints.is_empty());
    one.stop().await;
}

#[tokio::test]
async fn all_pages_of_a_list_are_of_one_index() {
    let one = One::start().await;
    register(&one, (0..25).map(|n| format!("s-{n:02}"))).await;
    let client = client(&one);
    let mut pages = client
        .list_sidecars(SidecarFilter::default(), LATEST)
        .with_size(10);
    let (mut sizes, mut indexes, mut names) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(page) = pages.next().await.expect("a page") {
        sizes.push(page.sidecars.len());
        indexes.push(page.at.expect("an index").index);
        names.extend(page.sidecars.into_iter().map(|it| it.sidecar_id));
        // One goes that is still to come, and one comes.
        let gone = RouterCommand::DeregisterSidecar {
            sidecar_id: "s-24".into(),
        };
        one.node.propose(gone).await.expect("applied");
        one.node.propose(sidecar("s-99")).await.expect("applied");
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert!(
        indexes.iter().all(|index| *index == indexes[0]),
        "{indexes:?}"
    );
    let expected: Vec<_> = (0..25).map(|n| format!("s-{n:02}")).collect();
    assert_eq!(names, expected);
    assert!(pages.next().await.expect("nothing more").is_none());
    one.stop().await;
}

#[tokio::test]
async fn a_list_whose_state_is_gone_says_so_and_is_begun_again() {
    let one = One::start().await;
    register(&one, (0..3).map(|n| format!("s-{n}"))).await;
    let client = client(&one);
    let list = || {
        client
            .list_sidecars(SidecarFilter::default(), LATEST)
            .with_size(1)
    };
    let mut first = list();
    first.next().await.expect("a page").expect("the first");
    let mut router = one.router(ClientRole::Reader).await;
    let request = |token: &str| ListSidecarsRequest {
        page: Some(PageRequest {
            size: 1,
            token: token.to_owned(),
        }),
        ..ListSidecarsRequest::default()
    };
    let page = router
        .list_sidecars(request(""))
        .await
        .expect("a page")
        .into_inner();
    // More lists of other states than the node keeps.
    for n in 0..16 {
        register(&one, [format!("t-{n}")]).await;
        list().next().await.expect("a page").expect("the first");
    }
    let now = one
        .node
        .propose(RouterCommand::Noop)
        .await
        .expect("applied")
        .index;
    let gone = first.next().await.expect_err("gone");
    assert!(matches!(gone, ClientError::PagesGone { .. }), "{gone}");
    let status = router
        .list_sidecars(request(&page.next_page_token))
        .await
        .expect_err("gone");
    assert_eq!(status.code(), Code::OutOfRange);
    let detail: Compacted = detail(&status).expect("detail");
    assert!(detail.oldest >= now, "{detail:?}");
    // It is begun again, and of the present then.
    let all = first.all().await.expect("all");
    assert_eq!(all.sidecars.len(), 19);
    assert!(all.at.expect("an index").index >= now);
    one.stop().await;
}

async fn groups(
    router: &mut RouterClient<Channel>,
    read: ReadOptions,
    token: &str,
) -> Result<(), Status> {
    let mut request = Request::new(ListGroupsRequest {
        read: Some(read),
        page: Some(PageRequest {
            size: 0,
            token: token.to_owned(),
        }),
        after: None,
    });
    request.set_timeout(Duration::from_secs(2));
    router.list_groups(request).await.map(drop)
}

#[tokio::test]
async fn reads_are_refused_with_what_is_wrong() {
    let one = One::start().await;
    register(&one, (0..3).map(|n| format!("s-{n}"))).await;
    let mut router = one.router(ClientRole::Reader).await;
    let latest = ReadOptions {
        at_least_index: 0,
        consistency: Consistency::Linearizable as i32,
    };
    groups(&mut router, latest, "").await.expect("read");
    let field = |status: Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        detail::<Invalid>(&status).expect("detail").field
    };
    // A token of another list, and none at all.
    let request = ListSidecarsRequest {
        page: Some(PageRequest {
            size: 1,
            token: String::new(),
        }),
        ..ListSidecarsRequest::default()
    };
    let page = router
        .list_sidecars(request)
        .await
        .expect("a page")
        .into_inner();
    assert!(!page.next_page_token.is_empty());
    for token in [page.next_page_token.as_str(), "nonsense"] {
        let refused = groups(&mut router, latest, token)
            .await
            .expect_err("refused");
        assert_eq!(field(refused), "page.token");
    }
    // An index with another consistency, here and for a single record.
    let both = ReadOptions {
        at_least_index: 1,
        ..latest
    };
    let refused = groups(&mut router, both, "").await.expect_err("refused");
    assert_eq!(field(refused), "at_least_index");
    let request = GetServiceRequest {
        read: Some(both),
        service_id: "x".into(),
    };
    let refused = router.get_service(request).await.expect_err("refused");
    assert_eq!(field(refused), "at_least_index");
    // An index that never comes.
    let never = ReadOptions {
        at_least_index: u64::MAX,
        consistency: 0,
    };
    let late = groups(&mut router, never, "").await.expect_err("late");
    assert!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late:?}"
    );
    // A node that is closed.
    one.node.shutdown().await;
    let closed = groups(&mut router, latest, "").await.expect_err("closed");
    assert_eq!(closed.code(), Code::Unavailable);
    detail::<ReplicaFailed>(&closed).expect("detail");
    one.edge.shutdown().await;
}

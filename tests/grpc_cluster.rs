//! What calls of the service `Cluster` are refused with by nodes of a cluster of three, by a full disk,
//! and by a snapshot that takes its time.
#![cfg(feature = "grpc")]

mod common;
mod grpc_common;
#[path = "grpc_common/three.rs"]
mod three;

use std::path::Path;
use std::time::{Duration, Instant};

use common::small_disk::SmallDisk;
use conveyor_raft::grpc::{EdgeOptions, EdgeSecurity, connect, detail, serve};
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{
    Certainty, ChangeMembersRequest, ChangeRefused, HandOverRefused, Member, MemberChange,
    MembershipRequest, NotLeader, OutcomeUnknown, Overloaded, TransferLeadershipRequest,
    TriggerSnapshotRequest, member_change::Change,
};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::quic::certs::GeneratedCerts;
use conveyor_raft::snapshot::SnapshotOptions;
use conveyor_raft::wal::LogOptions;
use conveyor_raft::{
    Cluster, ProposeOptions, RaftConfig, RaftNode, RouterCommand, RouterStateMachine,
};
use grpc_common::{certificates, identity};
use three::{Three, told_endpoint};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

fn change(wish: Change) -> ChangeMembersRequest {
    ChangeMembersRequest {
        changes: vec![MemberChange { change: Some(wish) }],
        expected_index: None,
    }
}

/// A node that nobody ever started.
fn stranger() -> Member {
    Member {
        node_id: 9,
        incarnation: "09".repeat(16),
        address: "127.0.0.1:9".to_owned(),
        ..Member::default()
    }
}

fn pipeline(nth: usize, bytes: usize) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: format!("pipeline-{nth}"),
        name: String::new(),
        // Nothing that packs well: whatever is written is as long as this.
        config: (0..bytes)
            .map(|at| (at * 31 + nth * 7) as u8 ^ (at >> 8) as u8)
            .collect(),
    }
}

fn names_the_leader(call: &str, status: &Status, leader: &RaftNode) {
    assert_eq!(status.code(), Code::Unavailable, "{call}: {status:?}");
    let told: NotLeader = detail(status).expect(call);
    assert_eq!(told.leader_id, leader.id(), "{call}");
    assert_eq!(told.leader_endpoint, told_endpoint(leader.id()), "{call}");
    assert_eq!(told.term, leader.current_term(), "{call}");
    assert_eq!(told.certainty(), Certainty::NotApplied, "{call}");
    assert!(status.message().contains(&told.leader_endpoint), "{call}");
}

#[tokio::test]
async fn a_follower_names_the_leader_to_who_changes_members_or_moves_leadership() {
    let _turn = common::real_time_turn();
    let three = Three::start().await;
    let (leader, follower) = (three.settle().await, three.followers().await[0]);
    let (edge, channel) = three.edge_of(follower, ClientRole::Operator).await;
    let mut cluster = ClusterClient::new(channel);
    let before = leader.membership().expect("members").0;
    for (call, wish) in [
        ("add", Change::AddLearner(stranger())),
        ("promote", Change::Promote(leader.id())),
        ("demote", Change::Demote(leader.id())),
        ("remove", Change::Remove(leader.id())),
        ("skip", Change::Skip(1)),
    ] {
        let status = cluster.change_members(change(wish)).await;
        names_the_leader(call, &status.expect_err("it follows"), leader);
    }
    for to in [0, follower.id(), leader.id()] {
        let status = cluster.transfer_leadership(TransferLeadershipRequest { to });
        let status = status.await.expect_err("it follows");
        names_the_leader(&format!("transfer to {to}"), &status, leader);
    }
    assert_eq!(leader.membership().expect("members").0, before);
    // A snapshot is of the node that is asked, whoever leads.
    let taken = cluster.trigger_snapshot(TriggerSnapshotRequest {}).await;
    assert!(taken.expect("a snapshot").into_inner().index > 0);
    edge.shutdown().await;
    three.stop().await;
}

#[tokio::test]
async fn what_is_under_way_keeps_the_next_change_and_the_next_transfer_waiting() {
    let _turn = common::real_time_turn();
    // Whoever leads does not notice for seconds that it is alone.
    let patient = RaftConfig {
        election_timeout_min_ms: 5_000,
        election_timeout_max_ms: 6_000,
        heartbeat_interval_ms: 100,
        ..RaftConfig::default()
    };
    let three = Three::start_with(patient).await;
    let leader = three.settle().await;
    let (edge, channel) = three.edge_of(leader, ClientRole::Operator).await;
    let mut cluster = ClusterClient::new(channel);
    settled(&mut cluster).await;
    for follower in three.followers().await {
        follower.shutdown().await;
    }
    // Of two changes one is under way, and never through: nobody else is there to commit it.
    let begun = |wish, patience| {
        let mut cluster = cluster.clone();
        let mut request = Request::new(change(wish));
        request.set_timeout(patience);
        tokio::spawn(async move { cluster.change_members(request).await.map(drop) })
    };
    let first = begun(Change::AddLearner(stranger()), Duration::from_secs(2));
    let at = Instant::now();
    while leader.membership() == leader.committed_membership() {
        assert!(
            at.elapsed() < Duration::from_secs(2),
            "it is in force at once"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let other = three.nodes.iter().find(|node| node.id() != leader.id());
    let other = other.expect("three").id();
    let status = begun(Change::Demote(other), Duration::from_secs(2)).await;
    let status = status.expect("joined").expect_err("one at a time");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let refused: ChangeRefused = detail(&status).expect("detail");
    assert_eq!(refused.reason, "Busy");
    assert_eq!(refused.certainty(), Certainty::NotApplied);
    assert!(status.message().contains("try again"), "{status:?}");
    let late = first.await.expect("joined").expect_err("it cannot end");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    let unknown: OutcomeUnknown = detail(&late).expect("detail");
    assert_eq!(unknown.certainty(), Certainty::Unknown);

    // The same of a transfer; the first ends without anybody who took over.
    let transfer = || {
        let mut cluster = cluster.clone();
        async move {
            let to = TransferLeadershipRequest { to: other };
            cluster.transfer_leadership(to).await.map(drop)
        }
    };
    let (one, two) = tokio::join!(transfer(), transfer());
    let mut reasons = Vec::new();
    for status in [one, two] {
        let status = status.expect_err("nobody is there to take over");
        let refused: HandOverRefused = detail(&status).expect("detail");
        let code = match refused.reason.as_str() {
            "NoTarget" => Code::FailedPrecondition,
            _ => Code::Aborted,
        };
        assert_eq!(status.code(), code, "{status:?}");
        reasons.push(refused.reason);
    }
    assert!(
        reasons.contains(&"UnderWay".to_owned()) && reasons.contains(&"TimedOut".to_owned()),
        "{reasons:?}"
    );
    edge.shutdown().await;
    leader.shutdown().await;
}

/// Which members these are counts once they are committed.
async fn settled(cluster: &mut ClusterClient<Channel>) -> (u64, Member) {
    let begun = Instant::now();
    loop {
        let shown = cluster.membership(MembershipRequest {}).await;
        let shown = shown.expect("members").into_inner();
        if let (Some(now), Some(committed)) = (&shown.in_force, &shown.committed)
            && now == committed
        {
            return (now.index, now.members[0].clone());
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn single_on(data: &Path, certs: &GeneratedCerts, snapshots: SnapshotOptions) -> RaftNode {
    let log = LogOptions {
        segment_bytes: 8 << 20,
        allow_unsupported_fs: true,
        ..LogOptions::default()
    };
    let credentials = certs.credentials(1).expect("node 1");
    let node = RaftNode::builder(RaftConfig::default())
        .log(log)
        .snapshots(snapshots)
        .start(
            RouterStateMachine::new(),
            Cluster::single(data.join("log"), credentials),
        )
        .await
        .expect("node");
    let begun = Instant::now();
    while !node.is_leader() || node.applied().id.term == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node
}

async fn operator_of(
    node: &RaftNode,
    certs: &GeneratedCerts,
) -> (conveyor_raft::grpc::Edge, ClusterClient<Channel>) {
    let server = identity(certs, &certs.nodes[0].edge);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let options = EdgeOptions::new(EdgeSecurity::Tls(server));
    let edge = serve(node.clone(), options, listener).await.expect("edge");
    let operator = identity(certs, &certs.operator);
    let endpoint = format!("https://{}", edge.address());
    let channel = connect(&endpoint, Some(&operator)).await.expect("channel");
    (edge, ClusterClient::new(channel))
}

#[tokio::test]
async fn a_snapshot_that_takes_longer_than_the_caller_waits_ends_the_call_by_its_deadline() {
    let _turn = common::real_time_turn();
    let (dir, certs) = (tempfile::tempdir().expect("a folder"), certificates());
    // Ten MiB at one MiB a second.
    let slow = SnapshotOptions {
        write_bytes_per_second: 1 << 20,
        ..SnapshotOptions::default()
    };
    let node = single_on(dir.path(), &certs, slow).await;
    for nth in 0..10 {
        let proposed = node.propose(pipeline(nth, 1 << 20)).await;
        proposed.expect("applied");
    }
    let (edge, mut cluster) = operator_of(&node, &certs).await;
    let begun = Instant::now();
    let mut request = Request::new(TriggerSnapshotRequest {});
    request.set_timeout(Duration::from_secs(2));
    let status = cluster.trigger_snapshot(request).await;
    let status = status.expect_err("it takes ten seconds");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("it may still be"), "{status:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "by its deadline");
    // It was not given up: it is there a while later, and the next call is told so.
    let mut request = Request::new(TriggerSnapshotRequest {});
    request.set_timeout(Duration::from_secs(50));
    let taken = cluster.trigger_snapshot(request).await;
    assert!(taken.expect("a snapshot").into_inner().index >= 10);
    edge.shutdown().await;
    node.shutdown().await;
}

#[tokio::test]
async fn c8_a_full_disk_refuses_changes_of_members_at_the_edge_and_takes_them_with_room() {
    let disk = SmallDisk::tmpfs();
    if !common::needs("root, to mount a small file system", disk.is_some()) {
        return;
    }
    let _turn = common::real_time_turn();
    let (disk, certs) = (disk.expect("mounted"), certificates());
    let node = single_on(disk.path(), &certs, SnapshotOptions::default()).await;
    let (edge, mut cluster) = operator_of(&node, &certs).await;
    let (_, me) = settled(&mut cluster).await;
    let options = ProposeOptions {
        deadline: Some(Duration::from_millis(500)),
        ..ProposeOptions::default()
    };
    let mut full = false;
    for nth in 0..2_000 {
        if node
            .propose_with(pipeline(nth, 40_000), options)
            .await
            .is_err()
        {
            full = true;
            break;
        }
    }
    assert!(full, "16 MiB are full some day");
    // What is kept free for changes is used up by them.
    let mut change_me = async |nth: usize| {
        let moved = Member {
            client_endpoint: format!("https://{nth}.{}.example:1", "x".repeat(400)),
            ..me.clone()
        };
        cluster.change_members(change(Change::Update(moved))).await
    };
    let mut refused = None;
    for nth in 0..500 {
        if let Err(status) = change_me(nth).await {
            refused = Some(status);
            break;
        }
    }
    let status = refused.expect("no room is left some day");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let told: Overloaded = detail(&status).expect("detail");
    assert_eq!(told.budget, "the leader's disk");
    assert!(told.retry_after_ms > 0);
    assert_eq!(told.certainty(), Certainty::NotApplied);
    disk.grow();
    let begun = Instant::now();
    while let Err(status) = change_me(501).await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "there is room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    edge.shutdown().await;
    node.shutdown().await;
}

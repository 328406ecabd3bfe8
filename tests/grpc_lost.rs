//! What calls end with whose leader loses its majority under them, over TLS: what nobody knows, what was
//! certainly not appended, and what there is no room for.
#![cfg(feature = "grpc")]

mod common;
#[path = "grpc_common/three.rs"]
mod three;

use std::time::{Duration, Instant};

use conveyor_raft::grpc::detail;
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::propose_outcome::Outcome;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    Certainty, ChangeMembersRequest, CloseSessionRequest, KeepAliveRequest, Member, MemberChange,
    MembershipRequest, NotAppended, NotLeader, OpenSessionRequest, OutcomeUnknown, Overloaded,
    ProposeBatchRequest, ProposeItem, ProposeRequest, ProposeStreamRequest,
    TransferLeadershipRequest, member_change::Change,
};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::{RaftConfig, RaftNode, RouterCommand};
use prost::Message;
use three::{Three, told_endpoint};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Longer than a leader takes to see that it is alone.
const LONG: Duration = Duration::from_secs(40);
const SHORT: Duration = Duration::from_millis(500);
/// As large as a command may be, nearly.
const LARGE: usize = 1 << 20;

/// Whoever leads does not notice for seconds that it is alone, and does nothing by itself for a second and a
/// half: callers are answered in time all the same.
async fn patient() -> Three {
    let patient = RaftConfig {
        election_timeout_min_ms: 5_000,
        election_timeout_max_ms: 6_000,
        heartbeat_interval_ms: 1_500,
        ..RaftConfig::default()
    };
    Three::start_with(patient).await
}

fn pipeline(id: &str, bytes: usize) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: id.to_owned(),
        name: String::new(),
        config: vec![b'x'; bytes],
    }
}

/// A request that the caller waits so long for.
fn within<T>(patience: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

async fn propose(
    channel: &Channel,
    patience: Duration,
    command: RouterCommand,
) -> Result<(), Status> {
    let message = ProposeRequest {
        command: Some(command.into()),
        ..ProposeRequest::default()
    };
    let mut router = RouterClient::new(channel.clone());
    router.propose(within(patience, message)).await.map(drop)
}

async fn batch(channel: &Channel, patience: Duration, commands: &[RouterCommand]) -> Vec<Outcome> {
    let message = ProposeBatchRequest {
        commands: commands.iter().cloned().map(Into::into).collect(),
        ..ProposeBatchRequest::default()
    };
    let mut router = RouterClient::new(channel.clone());
    let answer = router.propose_batch(within(patience, message)).await;
    let outcomes = answer.expect("an outcome each").into_inner().outcomes;
    let outcomes = outcomes.into_iter().filter_map(|it| it.outcome);
    outcomes.collect()
}

/// What becomes of the only item of a stream.
async fn item(channel: &Channel, patience: Duration, command: RouterCommand) -> Outcome {
    let item = ProposeItem {
        id: 7,
        command: Some(command.into()),
        timeout_ms: patience.as_millis() as u32,
        ..ProposeItem::default()
    };
    let request = tokio_stream::once(ProposeStreamRequest { items: vec![item] });
    let mut router = RouterClient::new(channel.clone());
    let answers = router.propose_stream(request).await.expect("a stream");
    let told = answers.into_inner().message().await.expect("it goes on");
    let mut outcomes = told.expect("an answer").outcomes;
    assert_eq!(outcomes.len(), 1);
    let told = outcomes.remove(0);
    assert_eq!(told.id, 7);
    told.outcome.and_then(|it| it.outcome).expect("an outcome")
}

async fn change_members(channel: &Channel, patience: Duration) -> Result<(), Status> {
    let stranger = Member {
        node_id: 9,
        incarnation: "09".repeat(16),
        address: "127.0.0.1:9".to_owned(),
        ..Member::default()
    };
    let wish = MemberChange {
        change: Some(Change::AddLearner(stranger)),
    };
    let message = ChangeMembersRequest {
        changes: vec![wish],
        expected_index: None,
    };
    let mut cluster = ClusterClient::new(channel.clone());
    let changed = cluster.change_members(within(patience, message)).await;
    changed.map(drop)
}

/// Waits until the members are changed no more, which they are at first: each says where it is found.
async fn settled(channel: &Channel) {
    let mut cluster = ClusterClient::new(channel.clone());
    let begun = Instant::now();
    loop {
        let shown = cluster.membership(MembershipRequest {}).await;
        let shown = shown.expect("members").into_inner();
        if shown.in_force.is_some() && shown.in_force == shown.committed {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn alone(three: &Three) {
    for follower in three.followers().await {
        follower.shutdown().await;
    }
}

fn unknown_at(status: &Status, code: Code) -> OutcomeUnknown {
    assert_eq!(status.code(), code, "{status:?}");
    let unknown: OutcomeUnknown = detail(status).expect("detail");
    assert_eq!(unknown.certainty(), Certainty::Unknown);
    unknown
}

#[tokio::test]
async fn a_leader_that_loses_its_majority_after_the_append_says_that_nobody_knows() {
    let _turn = common::real_time_turn();
    let three = patient().await;
    let leader = three.settle().await;
    let (edge, channel) = three.edge_of(leader, ClientRole::Operator).await;
    settled(&channel).await;
    alone(&three).await;

    let late = propose(&channel, SHORT, pipeline("late", 1)).await;
    let late = late.expect_err("nobody commits it");
    let at = unknown_at(&late, Code::DeadlineExceeded);
    assert!(at.index > 0 && at.term == leader.current_term(), "{at:?}");
    assert!(late.message().contains("the deadline passed"), "{late:?}");

    // Those that wait for longer learn that it leads no more.
    let two = [pipeline("b", 1), pipeline("c", 1)];
    let (alone, both, streamed, members) = tokio::join!(
        propose(&channel, LONG, pipeline("a", 1)),
        batch(&channel, LONG, &two),
        item(&channel, LONG, pipeline("d", 1)),
        change_members(&channel, LONG),
    );
    let alone = alone.expect_err("nobody commits it");
    assert!(unknown_at(&alone, Code::Unknown).index > at.index);
    assert!(alone.message().contains("leadership was lost"), "{alone:?}");
    assert_eq!(both.len(), 2);
    for outcome in both.iter().chain([&streamed]) {
        match outcome {
            Outcome::Unknown(it) => {
                assert!(it.index > at.index && it.certainty() == Certainty::Unknown);
            }
            other => panic!("{other:?}"),
        }
    }
    let members = members.expect_err("nobody commits it");
    unknown_at(&members, Code::Unknown);
    assert!(members.message().contains("look at the members"));

    // From then on nothing is taken, and nobody is named.
    let refused = propose(&channel, SHORT, pipeline("e", 1)).await;
    let refused = refused.expect_err("it leads no more");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let told: NotLeader = detail(&refused).expect("detail");
    assert_eq!(
        (told.leader_id, told.certainty()),
        (0, Certainty::NotApplied)
    );
    assert!(refused.message().contains("try again in a moment"));
    edge.shutdown().await;
    leader.shutdown().await;
}

#[tokio::test]
async fn what_waits_for_a_leader_that_hands_over_is_certainly_not_appended_in_time() {
    let _turn = common::real_time_turn();
    let three = patient().await;
    let leader = three.settle().await;
    let (edge, channel) = three.edge_of(leader, ClientRole::Operator).await;
    let to = three.followers().await[0].id();
    alone(&three).await;
    let mut cluster = ClusterClient::new(channel.clone());
    let handing_over = tokio::spawn(async move {
        let to = TransferLeadershipRequest { to };
        cluster.transfer_leadership(to).await.map(drop)
    });
    // It begins in a moment; what comes before is appended, and nobody knows of it.
    let begun = Instant::now();
    let (status, told) = loop {
        let status = propose(&channel, SHORT, pipeline("a", 1)).await;
        let status = status.expect_err("nobody commits it");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        if let Some(told) = detail::<NotAppended>(&status) {
            break (status, told);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{status:?}");
    };
    assert_eq!(told.certainty(), Certainty::NotApplied, "{status:?}");
    assert_eq!(told.why, status.message());
    handing_over.await.expect("joined").expect_err("it is away");
    edge.shutdown().await;
    leader.shutdown().await;
}

/// Proposals that nobody commits, of 1 MiB each, until one more does not fit the budget of 64 MiB.
async fn fill(leader: &RaftNode) {
    let full = leader.status().last.index + 63;
    let begun = Instant::now();
    // What finds no room in the log for the moment is refused too, so there are more tries than that.
    for nth in 0.. {
        if leader.status().last.index >= full {
            return;
        }
        let (leader, id) = (leader.clone(), format!("fill-{nth}"));
        tokio::spawn(async move { leader.propose(pipeline(&id, LARGE)).await });
        assert!(begun.elapsed() < Duration::from_secs(4), "it is full soon");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// `google.rpc.Status` and two of its details, as far as they are looked at here.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// When to try again, as clients read it that know nothing of this crate.
fn retry_after(status: &Status) -> Duration {
    let whole = RpcStatus::decode(status.details()).expect("details");
    let mut of_kind = whole.details.iter();
    let retry = of_kind.find(|it| it.type_url == "type.googleapis.com/google.rpc.RetryInfo");
    let retry = RetryInfo::decode(&*retry.expect("RetryInfo").value).expect("RetryInfo");
    let delay = retry.delay.expect("a delay");
    Duration::from_secs(delay.seconds as u64) + Duration::from_nanos(delay.nanos as u64)
}

fn is_overload(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Overloaded(it) => {
            it.certainty() == Certainty::NotApplied
                && it.retry_after_ms > 0
                && !it.budget.is_empty()
        }
        _ => false,
    }
}

#[tokio::test]
async fn h1_a_leader_without_room_refuses_by_every_call_and_says_when_to_try_again() {
    let _turn = common::real_time_turn();
    let three = patient().await;
    let leader = three.settle().await;
    let (edge, channel) = three.edge_of(leader, ClientRole::Writer).await;
    alone(&three).await;
    fill(leader).await;

    let status = propose(&channel, LONG, pipeline("a", LARGE)).await;
    let status = status.expect_err("no room");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let told: Overloaded = detail(&status).expect("detail");
    assert_eq!(told.certainty(), Certainty::NotApplied);
    assert!(told.budget.contains("uncommitted"), "{told:?}");
    let again = Duration::from_millis(told.retry_after_ms);
    assert!(!again.is_zero() && retry_after(&status) == again);

    let two = [pipeline("b", LARGE), pipeline("c", 1)];
    let outcomes = batch(&channel, LONG, &two).await;
    assert!(is_overload(&outcomes[0]), "{outcomes:?}");
    // It would fit, and is not to overtake; or it came together with the other, and was refused with it.
    let behind = &outcomes[1];
    assert!(
        matches!(behind, Outcome::NotAppended(_)) || is_overload(behind),
        "{outcomes:?}"
    );
    let outcome = item(&channel, LONG, pipeline("d", LARGE)).await;
    assert!(is_overload(&outcome), "{outcome:?}");
    edge.shutdown().await;
    leader.shutdown().await;
}

#[tokio::test]
async fn a_follower_names_the_leader_to_who_proposes_or_holds_a_session() {
    let _turn = common::real_time_turn();
    let three = Three::start().await;
    let (leader, follower) = (three.settle().await, three.followers().await[0]);
    let (edge, channel) = three.edge_of(follower, ClientRole::Writer).await;
    let mut router = RouterClient::new(channel.clone());
    let opened = router.open_session(OpenSessionRequest::default()).await;
    let kept = router.keep_alive(KeepAliveRequest {
        session: 1,
        forward: false,
    });
    let kept = kept.await;
    let closed = router.close_session(CloseSessionRequest {
        session: 1,
        forward: false,
    });
    let closed = closed.await;
    for (call, ended) in [
        ("Propose", propose(&channel, LONG, pipeline("a", 1)).await),
        ("OpenSession", opened.map(drop)),
        ("KeepAlive", kept.map(drop)),
        ("CloseSession", closed.map(drop)),
    ] {
        let status = ended.expect_err("it follows");
        assert_eq!(status.code(), Code::Unavailable, "{call}: {status:?}");
        let told: NotLeader = detail(&status).expect(call);
        assert_eq!(told.leader_id, leader.id(), "{call}");
        assert_eq!(told.leader_endpoint, told_endpoint(leader.id()), "{call}");
        assert_eq!(told.certainty(), Certainty::NotApplied, "{call}");
    }
    edge.shutdown().await;
    three.stop().await;
}

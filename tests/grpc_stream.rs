//! Streams of proposals, sessions and reads with a consistency, through gRPC.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::grpc::detail;
use conveyor_raft::proto::propose_outcome::Outcome;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    Certainty, CloseSessionRequest, Consistency, GetStateRequest, InSession, Invalid,
    KeepAliveRequest, OpenSessionRequest, Overloaded, ProposeBatchRequest, ProposeItem,
    ProposeRequest, ProposeResponse, ProposeStreamRequest, ProposeStreamResponse, ReplicaFailed,
    SessionRefused, SummaryRequest,
};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, propose, sidecar};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(20);

fn item(id: u64, command: RouterCommand) -> ProposeItem {
    ProposeItem {
        id,
        command: Some(command.into()),
        ..ProposeItem::default()
    }
}

fn renew() -> RouterCommand {
    RouterCommand::RenewLease {
        service_id: "nobody".into(),
    }
}

fn pipeline(version: u64) -> RouterCommand {
    RouterCommand::UpdatePipeline {
        pipeline_id: "p".into(),
        config: version.to_string().into(),
        expected_version: None,
    }
}

fn create() -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: "p".into(),
        name: String::new(),
        config: Vec::new(),
    }
}

/// A caller's two sides of a stream.
struct Caller {
    send: Option<mpsc::Sender<ProposeStreamRequest>>,
    answers: Streaming<ProposeStreamResponse>,
}

impl Caller {
    async fn open(router: &mut RouterClient<Channel>) -> Result<Self, Status> {
        let (send, receive) = mpsc::channel(1);
        let answers = router.propose_stream(ReceiverStream::new(receive)).await?;
        let answers = answers.into_inner();
        let send = Some(send);
        Ok(Self { send, answers })
    }

    async fn send(&mut self, items: Vec<ProposeItem>) {
        let send = self.send.as_ref().expect("open");
        let sent = send.send(ProposeStreamRequest { items }).await;
        sent.expect("the stream is open");
    }

    /// All further outcomes, and how the stream ends.
    async fn finish(mut self) -> (BTreeMap<u64, Outcome>, Result<(), Status>) {
        self.send = None;
        self.rest().await
    }

    async fn rest(&mut self) -> (BTreeMap<u64, Outcome>, Result<(), Status>) {
        let mut outcomes = BTreeMap::new();
        loop {
            let message = tokio::time::timeout(PATIENCE, self.answers.message()).await;
            match message.expect("in time") {
                Ok(Some(message)) => {
                    for told in message.outcomes {
                        let outcome = told.outcome.and_then(|outcome| outcome.outcome);
                        let before = outcomes.insert(told.id, outcome.expect("an outcome"));
                        assert!(before.is_none(), "{} is answered twice", told.id);
                    }
                }
                Ok(None) => return (outcomes, Ok(())),
                Err(status) => return (outcomes, Err(status)),
            }
        }
    }
}

#[tokio::test]
async fn thousands_are_under_way_and_each_has_its_own_outcome() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut caller = Caller::open(&mut router).await.expect("stream");
    let command = |id: u64| match id % 3 {
        0 => renew(),
        1 => sidecar(&format!("s-{id}")),
        _ => RouterCommand::Noop,
    };
    for message in 0..20 {
        let items = (1..=500).map(|n| message * 500 + n);
        caller
            .send(items.map(|id| item(id, command(id))).collect())
            .await;
    }
    let (outcomes, end) = caller.finish().await;
    end.expect("it ends well");
    assert_eq!(outcomes.len(), 10_000);
    let mut last = 0;
    for (id, outcome) in outcomes {
        let index = match (id % 3, outcome) {
            (0, Outcome::Rejected(refusal)) => {
                assert_eq!(refusal.reason, "NotFound");
                refusal.index
            }
            (1 | 2, Outcome::Response(response)) => response.index,
            (_, outcome) => panic!("{id}: {outcome:?}"),
        };
        assert!(index > last, "in the order of the stream");
        last = index;
    }
    assert_eq!(one.node.state().await.sidecars.len(), 3334);
    one.stop().await;
}

#[tokio::test]
async fn after_one_that_was_not_appended_only_the_unordered_are() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut caller = Caller::open(&mut router).await.expect("stream");
    let unordered = ProposeItem {
        unordered: true,
        ..item(4, sidecar("d"))
    };
    let harmless = ProposeItem {
        unordered: true,
        ..item(2, sidecar(""))
    };
    let items = vec![
        item(1, sidecar("a")),
        harmless,
        item(3, sidecar("c")),
        unordered,
        item(5, sidecar("")),
    ];
    caller.send(items).await;
    caller
        .send(vec![
            item(6, sidecar("f")),
            ProposeItem {
                unordered: true,
                ..item(7, sidecar("g"))
            },
        ])
        .await;
    let (outcomes, end) = caller.finish().await;
    end.expect("it ends well");
    for id in [1, 3, 4, 7] {
        assert!(
            matches!(outcomes[&id], Outcome::Response(_)),
            "{outcomes:?}"
        );
    }
    for id in [2, 5] {
        assert!(matches!(outcomes[&id], Outcome::Invalid(_)), "{outcomes:?}");
    }
    let Outcome::NotAppended(overtaking) = &outcomes[&6] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(overtaking.certainty(), Certainty::NotApplied);
    let sidecars = &one.node.state().await.sidecars;
    assert!(sidecars.contains_key("g") && !sidecars.contains_key("f"));
    one.stop().await;
}

#[tokio::test]
async fn who_does_not_read_is_not_read_from() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut caller = Caller::open(&mut router).await.expect("stream");
    let send = caller.send.take().expect("open");
    let feeding = tokio::spawn(async move {
        for message in 0..400 {
            let items = (0..500).map(|n| item(message * 500 + n, RouterCommand::Noop));
            let items = items.collect();
            if send.send(ProposeStreamRequest { items }).await.is_err() {
                return;
            }
        }
    });
    // Until no more is taken.
    let (mut before, mut since) = (0, Instant::now());
    let begun = Instant::now();
    while since.elapsed() < Duration::from_millis(700) {
        assert!(begun.elapsed() < PATIENCE, "everything is taken");
        let applied = one.node.applied_index();
        if applied != before {
            (before, since) = (applied, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!feeding.is_finished() && before < 190_000, "{before}");
    let (outcomes, end) = caller.rest().await;
    end.expect("it ends well");
    assert_eq!(outcomes.len(), 200_000);
    feeding.await.expect("all is sent");
    one.stop().await;
}

#[tokio::test]
async fn streams_are_limited_in_number_and_messages_in_size() {
    let one = One::start_with(|options| options.limits.max_propose_streams = 1).await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut caller = Caller::open(&mut router).await.expect("stream");
    let refused = Caller::open(&mut router).await.map(drop);
    let refused = refused.expect_err("one too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let told: Overloaded = detail(&refused).expect("detail");
    assert!(told.retry_after_ms > 0 && told.budget.contains("streams"));

    caller.send(vec![item(1, RouterCommand::Noop)]).await;
    let many = (0..4097).map(|id| item(id + 10, RouterCommand::Noop));
    caller.send(many.collect()).await;
    let (outcomes, end) = caller.rest().await;
    assert_eq!(outcomes.len(), 1, "what is under way is answered");
    let status = end.expect_err("too many items");
    assert_eq!(status.code(), Code::InvalidArgument);
    let invalid: Invalid = detail(&status).expect("detail");
    assert_eq!(invalid.field, "items");

    // That stream is over: there is room for another.
    let give_up = Instant::now() + PATIENCE;
    let mut next = Caller::open(&mut router).await;
    while next.is_err() && Instant::now() < give_up {
        tokio::time::sleep(Duration::from_millis(10)).await;
        next = Caller::open(&mut router).await;
    }
    let mut caller = next.expect("room");
    let large = RouterCommand::CreatePipeline {
        pipeline_id: "p".into(),
        name: String::new(),
        config: vec![b'x'; 1 << 20],
    };
    caller
        .send((0..5).map(|id| item(id, large.clone())).collect())
        .await;
    let (_, end) = caller.rest().await;
    assert_eq!(end.expect_err("too large").code(), Code::OutOfRange);
    one.stop().await;
}

#[tokio::test]
async fn a_closing_edge_ends_its_streams() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut caller = Caller::open(&mut router).await.expect("stream");
    caller.send(vec![item(1, RouterCommand::Noop)]).await;
    // Its end is not waited for until the time for that is over.
    let begun = Instant::now();
    let (closed, (outcomes, end)) = tokio::join!(one.edge.shutdown(), caller.rest());
    let () = closed;
    assert!(begun.elapsed() < Duration::from_secs(2));
    let status = end.expect_err("it is cut off");
    assert_eq!(status.code(), Code::Unavailable);
    let failed: ReplicaFailed = detail(&status).expect("detail");
    assert_eq!(failed.certainty(), Certainty::NotApplied);
    assert!(outcomes.len() <= 1);
    one.node.shutdown().await;
}

#[tokio::test]
async fn a_replica_that_takes_nothing_says_so_for_each() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let mut caller = Caller::open(&mut router).await.expect("stream");
    one.node.shutdown().await;
    caller
        .send(vec![
            item(1, RouterCommand::Noop),
            item(2, RouterCommand::Noop),
        ])
        .await;
    let (outcomes, end) = caller.finish().await;
    end.expect("it ends well");
    assert!(
        matches!(outcomes[&1], Outcome::ReplicaFailed(_)),
        "{outcomes:?}"
    );
    assert!(
        matches!(outcomes[&2], Outcome::NotAppended(_)),
        "{outcomes:?}"
    );
    one.edge.shutdown().await;
}

async fn open(router: &mut RouterClient<Channel>) -> u64 {
    let opened = router.open_session(OpenSessionRequest::default()).await;
    opened.expect("opened").into_inner().session
}

fn at(session: u64, seq: u64, floor: u64) -> Option<InSession> {
    Some(InSession {
        session,
        seq,
        floor,
    })
}

async fn in_session(
    router: &mut RouterClient<Channel>,
    session: Option<InSession>,
    command: RouterCommand,
) -> Result<ProposeResponse, Status> {
    let request = ProposeRequest {
        command: Some(command.into()),
        session,
        forward: false,
    };
    Ok(router.propose(request).await?.into_inner())
}

fn refusal(status: &Status) -> (String, Certainty) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let refused: SessionRefused = detail(status).expect("detail");
    let certainty = refused.certainty();
    (refused.reason, certainty)
}

#[tokio::test]
async fn f4_what_is_sent_again_in_a_session_is_applied_once() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    propose(&mut router, create()).await.expect("created");
    let session = open(&mut router).await;
    let first = in_session(&mut router, at(session, 1, 1), pipeline(7)).await;
    let first = first.expect("applied");
    assert!(!first.duplicate);
    // Another one between: applied a second time, the first would show.
    in_session(&mut router, at(session, 2, 1), pipeline(8))
        .await
        .expect("applied");
    let again = in_session(&mut router, at(session, 1, 1), pipeline(7)).await;
    let again = again.expect("remembered");
    assert_eq!((again.duplicate, again.index), (true, first.index));
    assert_eq!(again.answer, first.answer);

    // A batch and a stream go on with the same numbers.
    let request = ProposeBatchRequest {
        commands: [pipeline(8), pipeline(9)].map(Into::into).into(),
        session: at(session, 2, 2),
        ..ProposeBatchRequest::default()
    };
    let batch = router.propose_batch(request).await.expect("batch");
    let duplicates: Vec<_> = batch.into_inner().outcomes;
    let duplicates = duplicates.into_iter().map(|outcome| match outcome.outcome {
        Some(Outcome::Response(response)) => response.duplicate,
        outcome => panic!("{outcome:?}"),
    });
    assert_eq!(duplicates.collect::<Vec<_>>(), [true, false]);
    let mut caller = Caller::open(&mut router).await.expect("stream");
    let numbered = |id, session, command| ProposeItem {
        session,
        ..item(id, command)
    };
    let items = vec![
        numbered(1, at(session, 3, 2), pipeline(9)),
        numbered(2, at(session, 4, 2), pipeline(10)),
        numbered(3, at(session, 4, 2), pipeline(10)),
        numbered(4, at(session, 1, 0), pipeline(7)),
        numbered(5, at(session, 300, 2), pipeline(11)),
    ];
    caller.send(items).await;
    let (outcomes, end) = caller.finish().await;
    end.expect("it ends well");
    let duplicate = |id: u64| match &outcomes[&id] {
        Outcome::Response(response) => response.duplicate,
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!([1, 2, 3].map(duplicate), [true, false, true]);
    let refused = |id: u64| match &outcomes[&id] {
        Outcome::SessionRefused(refused) => (refused.reason.as_str(), refused.floor),
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(refused(4), ("Stale", 2));
    assert_eq!(refused(5), ("TooFarAhead", 2));
    let version = one.node.state().await.pipelines["p"].version;
    assert_eq!(version, 5, "each of four updates once");
    one.stop().await;
}

#[tokio::test]
async fn f4_a_session_that_is_over_says_what_is_not_known() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    let session = open(&mut router).await;
    let noop = RouterCommand::Noop;
    in_session(&mut router, at(session, 5, 5), noop.clone())
        .await
        .expect("applied");
    let status = in_session(&mut router, at(session, 4, 4), noop.clone()).await;
    let stale = refusal(&status.expect_err("below the floor"));
    assert_eq!(stale, ("Stale".to_owned(), Certainty::Unknown));
    let status = in_session(&mut router, at(session, 900, 5), noop.clone()).await;
    let ahead = refusal(&status.expect_err("too far"));
    assert_eq!(ahead, ("TooFarAhead".to_owned(), Certainty::NotApplied));

    let request = CloseSessionRequest {
        session,
        forward: false,
    };
    router.close_session(request).await.expect("closed");
    for expired in [
        router.close_session(request).await.map(drop),
        in_session(&mut router, at(session, 6, 6), noop.clone())
            .await
            .map(drop),
    ] {
        let expired = refusal(&expired.expect_err("it is gone"));
        assert_eq!(expired, ("Expired".to_owned(), Certainty::Unknown));
    }
    for (wrong, field) in [
        (at(0, 1, 1), "session.session"),
        (at(session, 0, 0), "session.seq"),
        (at(session, 1, 2), "session.floor"),
    ] {
        let status = in_session(&mut router, wrong, noop.clone()).await;
        let invalid: Invalid = detail(&status.expect_err("invalid")).expect("detail");
        assert_eq!(invalid.field, field);
    }
    one.stop().await;
}

#[tokio::test]
async fn reads_reflect_what_they_were_asked_to() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    for n in 0..20 {
        let index = propose(&mut router, sidecar(&format!("s-{n}"))).await;
        let index = index.expect("applied").index;
        for (consistency, at_least_index) in [
            (Consistency::Unspecified, index),
            (Consistency::AtLeastIndex, index),
            (Consistency::Lease, 0),
            (Consistency::Linearizable, 0),
        ] {
            let consistency = consistency as i32;
            let request = SummaryRequest {
                at_least_index,
                consistency,
            };
            let summary = router.summary(request).await.expect("read").into_inner();
            assert!(summary.index >= index, "{consistency}");
            let request = GetStateRequest {
                at_least_index,
                consistency,
            };
            let mut state = router.get_state(request).await.expect("read").into_inner();
            let part = state.message().await.expect("part").expect("one");
            assert!(part.index >= index);
        }
    }
    for consistency in [
        Consistency::Local,
        Consistency::Lease,
        Consistency::Linearizable,
    ] {
        let request = SummaryRequest {
            at_least_index: 1,
            consistency: consistency as i32,
        };
        let status = router.summary(request).await.expect_err("both");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    one.node.shutdown().await;
    let mut request = Request::new(SummaryRequest {
        at_least_index: 0,
        consistency: Consistency::Linearizable as i32,
    });
    request.set_timeout(Duration::from_secs(2));
    let status = router.summary(request).await.expect_err("stopped");
    assert_eq!(status.code(), Code::Unavailable);
    detail::<ReplicaFailed>(&status).expect("detail");
    one.edge.shutdown().await;
}

#[tokio::test]
async fn i2_readers_neither_stream_nor_open_sessions() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Reader).await;
    let stream = Caller::open(&mut router).await.map(drop);
    let open = router
        .open_session(OpenSessionRequest::default())
        .await
        .map(drop);
    let close = CloseSessionRequest {
        session: 1,
        forward: false,
    };
    let close = router.close_session(close).await.map(drop);
    let keep = KeepAliveRequest {
        session: 1,
        forward: false,
    };
    let keep = router.keep_alive(keep).await.map(drop);
    for refused in [stream, open, keep, close] {
        assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
    }
    // A rewind needs more than a writer, on a stream too.
    let mut router = one.router(ClientRole::Writer).await;
    let mut caller = Caller::open(&mut router).await.expect("stream");
    let rewind = RouterCommand::CommitSourceOffset {
        source_id: "orders".into(),
        partition: 0,
        offset: 0,
        rewind: true,
    };
    caller.send(vec![item(1, rewind)]).await;
    let (outcomes, _) = caller.finish().await;
    assert!(matches!(&outcomes[&1], Outcome::Invalid(why) if why.field == "rewind"));
    one.stop().await;
}

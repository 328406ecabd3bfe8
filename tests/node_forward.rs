//! Proposals at nodes that do not lead, passed on by three nodes over real QUIC; and through the client
//! edge of one of them.
#![cfg(feature = "grpc")]

mod common;
#[path = "grpc_common/three.rs"]
mod three;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    CloseSessionRequest, InSession as InSessionMessage, OpenSessionRequest, ProposeRequest,
};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::state_machine::Outcome;
use conveyor_raft::{
    Certainty, InSession, ProposeError, ProposeOptions, RouterCommand, SessionRefusal,
};
use three::Three;
use tonic::Code;

const PASS_ON: ProposeOptions = ProposeOptions {
    deadline: None,
    forward: true,
};

fn pipeline(id: &str) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: id.to_owned(),
        name: String::new(),
        config: vec![1, 2, 3],
    }
}

/// Of the same name, and another.
fn taken(id: &str) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: id.to_owned(),
        name: String::new(),
        config: vec![4],
    }
}

#[tokio::test]
async fn a_follower_passes_on_what_it_is_asked_to() {
    let _turn = common::real_time_turn();
    let three = Three::start().await;
    let followers = three.followers().await;
    let leader = three.settle().await;
    for (nth, node) in followers.iter().enumerate() {
        let command = pipeline(&format!("p-{nth}"));
        let response = node.propose_with(command.clone(), PASS_ON).await;
        let response = response.expect("applied");
        assert!(matches!(response.outcome, Outcome::Applied(_)));
        assert!(!response.duplicate && response.index > 0 && response.time_ms > 0);
        assert_eq!(response.term, leader.current_term());
        let again = node.propose_with(command, PASS_ON).await;
        let again = again.expect("answered");
        assert!(matches!(again.outcome, Outcome::Unchanged(_)));
        // A refusal by the state machine is a response like any other.
        let other = node.propose_with(taken(&format!("p-{nth}")), PASS_ON);
        let other = other.await.expect("answered");
        assert!(matches!(other.outcome, Outcome::Rejected(_)));
        let plain = node
            .propose(pipeline("no"))
            .await
            .expect_err("not asked to");
        match plain {
            ProposeError::NotLeader(hint) => assert_eq!(hint.node, Some(leader.id())),
            other => panic!("{other}"),
        }
    }
    let status = leader.status();
    for peer in &status.peers {
        let rtt = peer.rtt.expect("it is connected");
        assert!(!rtt.is_zero() && rtt < Duration::from_secs(1), "{rtt:?}");
    }
    let year = 300 * 24 * 60 * 60;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let names = status.certificates.iter().map(|(name, end)| {
        assert!(*end > now + year, "{name}");
        name.as_str()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["peer", "peer-ca"]);
    let mine = leader.propose_with(pipeline("leader"), PASS_ON).await;
    mine.expect("who leads applies it itself");
    let state = leader.state().await;
    let ids: Vec<_> = state.pipelines.keys().map(String::from).collect();
    assert_eq!(ids, ["leader", "p-0", "p-1"]);
    let invalid = followers[0].propose_with(pipeline(""), PASS_ON).await;
    assert!(matches!(invalid, Err(ProposeError::Invalid(_))));
    three.stop().await;
}

#[tokio::test]
async fn f4_a_session_goes_on_at_whichever_node() {
    let _turn = common::real_time_turn();
    let three = Three::start().await;
    let followers = three.followers().await;
    let id = followers[0].open_session(PASS_ON).await.expect("opened");
    let mut session = followers[0].resume_session(id, 1);
    let first = session.propose_with(pipeline("a"), PASS_ON).await;
    let first = first.expect("applied");
    assert!(!first.duplicate);
    let at = InSession {
        session: id,
        seq: 1,
        floor: 1,
    };
    for node in &three.nodes {
        let again = node.propose_in(at, pipeline("a"), PASS_ON).await;
        let again = again.expect("answered");
        assert!(again.duplicate, "at node {}", node.id());
        assert_eq!((again.index, &again.outcome), (first.index, &first.outcome));
    }
    let closed = followers[1].close_session(id, PASS_ON).await;
    closed.expect("closed");
    let over = followers[1].close_session(id, PASS_ON).await;
    let expired = ProposeError::Session(SessionRefusal::Expired);
    assert_eq!(over, Err(expired.clone()));
    let over = session.propose_with(pipeline("b"), PASS_ON).await;
    assert_eq!(over.expect_err("it is over").cause, expired);
    three.stop().await;
}

/// Commands at both followers while leadership moves again and again, and at last its holder stops.
#[tokio::test]
async fn f3_leaders_change_in_between_and_nothing_is_applied_twice() {
    let _turn = common::real_time_turn();
    let three = Three::start().await;
    let (mut sure, mut unknown, mut refused) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let begun = Instant::now();
    let mut nth = 0;
    let nodes = three.nodes.clone();
    let change = tokio::spawn(async move {
        let leader = || nodes.iter().find(|node| node.is_leader());
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            if let Some(leader) = leader() {
                // Refused now and then: then it leads on.
                let _ = leader.transfer_leadership(None).await;
            }
        }
        if let Some(leader) = leader() {
            leader.shutdown().await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
    while !change.is_finished() {
        let batch: Vec<_> = (0..24).map(|of| format!("p-{nth}-{of}")).collect();
        nth += 1;
        let proposals = batch
            .iter()
            .zip(three.nodes.iter().cycle())
            .map(|(id, node)| {
                let options = ProposeOptions {
                    deadline: Some(Duration::from_secs(2)),
                    forward: true,
                };
                let submitted = node.submit(pipeline(id), options);
                async move {
                    match submitted {
                        Ok(proposal) => (id, proposal.await),
                        Err(error) => (id, Err(error)),
                    }
                }
            });
        let proposals: Vec<_> = proposals.collect();
        for proposal in proposals {
            let (id, result) = proposal.await;
            match result.map(|response| response.outcome) {
                Ok(Outcome::Applied(_)) => sure.insert(id.clone()),
                Ok(other) => panic!("{id} was proposed once, and came to {other:?}"),
                Err(error) if error.certainty() == Certainty::Unknown => unknown.insert(id.clone()),
                Err(_) => refused.insert(id.clone()),
            };
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it ends");
    }
    change.await.expect("joined");
    let living = three.nodes.iter().find(|node| node.is_leader());
    let living = living.expect("two of three elect a leader");
    let last = living.propose(pipeline("last")).await.expect("applied");
    // Each stands in the log once: beside them only the first entry of each term, and the members.
    let most = sure.len() + unknown.len() + 1;
    assert!(last.index <= most as u64 + last.term + 2, "{last:?}");
    let state = living.state().await;
    let applied: BTreeSet<_> = state.pipelines.keys().map(String::from).collect();
    assert!(
        sure.is_subset(&applied),
        "all that was acknowledged is there"
    );
    assert!(applied.is_disjoint(&refused), "nothing that was refused is");
    let more = applied.difference(&sure).filter(|id| *id != "last");
    assert!(more.into_iter().all(|id| unknown.contains(id)));
    assert!(
        sure.len() > 100,
        "{} {} {}",
        sure.len(),
        unknown.len(),
        refused.len()
    );
    three.stop().await;
}

#[tokio::test]
async fn a_call_of_a_follower_with_forward_is_answered_by_the_leader() {
    let _turn = common::real_time_turn();
    let three = Three::start().await;
    let follower = three.followers().await[0];
    let (edge, channel) = three.edge_of(follower, ClientRole::Writer).await;
    let mut router = RouterClient::new(channel);
    let request = |id: &str, forward| ProposeRequest {
        command: Some(pipeline(id).into()),
        session: None,
        forward,
    };
    let refused = router.propose(request("a", false)).await;
    assert_eq!(refused.expect_err("it follows").code(), Code::Unavailable);
    let applied = router.propose(request("a", true)).await.expect("applied");
    let applied = applied.into_inner();
    assert!(applied.index > 0 && applied.term > 0 && !applied.duplicate);
    let other = ProposeRequest {
        command: Some(taken("a").into()),
        ..request("a", true)
    };
    let other = router.propose(other).await;
    assert_eq!(other.expect_err("it exists").code(), Code::AlreadyExists);
    let open = OpenSessionRequest { forward: true };
    let session = router.open_session(open).await.expect("opened");
    let session = session.into_inner().session;
    let at = InSessionMessage {
        session,
        seq: 1,
        floor: 0,
    };
    let in_session = ProposeRequest {
        session: Some(at),
        ..request("b", true)
    };
    let first = router.propose(in_session.clone()).await.expect("applied");
    let second = router.propose(in_session).await.expect("answered");
    let (first, second) = (first.into_inner(), second.into_inner());
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.index, second.index);
    let close = CloseSessionRequest {
        session,
        forward: true,
    };
    router.close_session(close).await.expect("closed");
    edge.shutdown().await;
    three.stop().await;
}

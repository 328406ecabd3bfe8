use prost::Message;

use super::*;
use crate::grpc::details::{RpcStatus, detail};

fn hint() -> LeaderHint {
    LeaderHint {
        node: Some(2),
        endpoint: "https://10.0.0.2:50051".into(),
        term: 7,
    }
}

fn status(error: ProposeError, late: bool) -> Status {
    Failure::new(error, &hint(), late).into_status()
}

#[test]
fn a_follower_names_the_leader_in_detail_and_trailers() {
    let of_a_server = Status::from(ProposeError::NotLeader(hint()));
    let status = status(ProposeError::NotLeader(hint()), false);
    assert_eq!(of_a_server.details(), status.details());
    assert_eq!(status.code(), Code::Unavailable);
    let detail: NotLeader = detail(&status).expect("detail");
    assert_eq!(
        (detail.leader_id, detail.term, detail.certainty()),
        (2, 7, Certainty::NotApplied)
    );
    assert_eq!(detail.leader_endpoint, "https://10.0.0.2:50051");
    let trailer = status.metadata().get("conveyor-raft-leader-endpoint");
    assert_eq!(
        trailer.and_then(|value| value.to_str().ok()),
        Some("https://10.0.0.2:50051")
    );
}

#[test]
fn f3_an_unknown_outcome_is_never_reported_as_a_failure() {
    let error = ProposeError::Unknown { index: 9, term: 3 };
    for (late, code) in [(true, Code::DeadlineExceeded), (false, Code::Unknown)] {
        let status = status(error.clone(), late);
        assert_eq!(status.code(), code);
        let detail: OutcomeUnknown = detail(&status).expect("detail");
        assert_eq!((detail.index, detail.certainty()), (9, Certainty::Unknown));
    }
}

#[test]
fn what_never_entered_the_log_says_so() {
    let overloaded = status(
        ProposeError::Overloaded {
            budget: "uncommitted bytes",
            retry_after_ms: 1_250,
        },
        false,
    );
    assert_eq!(overloaded.code(), Code::ResourceExhausted);
    let told: Overloaded = detail(&overloaded).expect("detail");
    assert_eq!(told.certainty(), Certainty::NotApplied);
    let all = RpcStatus::decode(overloaded.details()).expect("google.rpc.Status");
    let retry = RetryInfo::decode(all.details[1].value.as_slice()).expect("RetryInfo");
    assert_eq!(
        retry.retry_delay,
        Some(RetryDelay {
            seconds: 1,
            nanos: 250_000_000
        })
    );

    let late = status(ProposeError::Deadline, true);
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let told: NotAppended = detail(&late).expect("detail");
    assert_eq!(told.certainty(), Certainty::NotApplied);

    let full = status(
        ProposeError::Failed("wal: No space left on device".into()),
        false,
    );
    assert_eq!(full.code(), Code::ResourceExhausted);
    let stopping = status(ProposeError::ShuttingDown, false);
    assert_eq!(stopping.code(), Code::Unavailable);
    let told: ReplicaFailed = detail(&stopping).expect("detail");
    assert_eq!(told.leader_id, 2);
}

#[test]
fn details_of_another_type_are_not_mistaken() {
    let status = status(ProposeError::ShuttingDown, false);
    assert_eq!(detail::<NotLeader>(&status), None);
    assert_eq!(detail::<NotLeader>(&Status::internal("plain")), None);
}

#[test]
fn batch_items_carry_the_same_details() {
    use proto::propose_outcome::Outcome;
    let error = ProposeError::Invalid(crate::state_machine::CommandError {
        field: "sidecar_id".into(),
        why: "is empty".into(),
    });
    let outcome = Failure::new(error, &hint(), false).into_outcome(4);
    assert!(matches!(
        outcome,
        Outcome::Invalid(Invalid { item: Some(4), .. })
    ));
}

//! The gRPC status of each failure, with a typed detail that says what it means for the command.

use prost::Name;
use tonic::{Code, Status};

use crate::error::{LeaderHint, ProposeError, ReadError, SessionRefusal, WaitError};
use crate::proto::{
    self, Certainty, ChangeRefused, HandOverRefused, Invalid, NotAppended, NotLeader,
    OutcomeUnknown, Overloaded, Rejected, ReplicaFailed, RoleRequired, SessionRefused,
};

use super::details::{RetryDelay, RetryInfo, any, with_detail, with_details};
use super::identity::Role;

/// Why one command got no answer from the state machine, in the form that both a call's status and
/// an item of a batch take.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    NotLeader(NotLeader),
    Overloaded(Overloaded),
    Unknown {
        detail: OutcomeUnknown,
        deadline: bool,
    },
    Invalid(Invalid),
    NotAppended(NotAppended),
    Session(SessionRefused),
    Replica {
        detail: ReplicaFailed,
        disk_full: bool,
    },
}

/// For servers of one's own: the code and the typed detail that this crate's edge answers with. The
/// edge itself also knows whether the caller's time was over, and who leads when this node ends.
impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Self {
        Failure::new(error, &LeaderHint::default(), false).into_status()
    }
}

impl Failure {
    /// `late`: whether the caller's deadline has passed, which tells a deadline from lost
    /// leadership where the outcome is unknown.
    pub(super) fn new(error: ProposeError, leader: &LeaderHint, late: bool) -> Self {
        let not_applied = Certainty::NotApplied as i32;
        match error {
            ProposeError::NotLeader(hint) => Self::NotLeader(not_leader(hint)),
            ProposeError::Overloaded {
                budget,
                retry_after_ms,
            } => Self::Overloaded(Overloaded {
                budget: budget.to_owned(),
                retry_after_ms,
                certainty: not_applied,
            }),
            ProposeError::Invalid(error) => Self::Invalid(Invalid {
                field: error.field,
                why: error.why,
                item: None,
                certainty: not_applied,
            }),
            ProposeError::Unknown { index, term } => Self::Unknown {
                detail: OutcomeUnknown {
                    index,
                    term,
                    certainty: Certainty::Unknown as i32,
                },
                deadline: late,
            },
            ProposeError::Deadline | ProposeError::Overtaking => Self::NotAppended(NotAppended {
                why: error.to_string(),
                certainty: not_applied,
            }),
            ProposeError::Session(refusal) => Self::Session(session_refused(refusal)),
            ProposeError::ShuttingDown => Self::stopping(leader),
            ProposeError::Failed(why) => Self::replica(
                format!("the replica has failed: {why}; mend the cause, then restart the node"),
                leader,
            ),
        }
    }

    /// The node takes nothing more, because it ends.
    pub(super) fn stopping(leader: &LeaderHint) -> Self {
        Self::replica("the node is shutting down; ask another one".into(), leader)
    }

    fn replica(what_to_do: String, leader: &LeaderHint) -> Self {
        // The node tells its failures as texts; a full disk has a code of its own.
        let disk_full = what_to_do.contains("No space left") || what_to_do.contains("disk full");
        Self::Replica {
            detail: ReplicaFailed {
                what_to_do,
                leader_id: leader.node.unwrap_or_default(),
                leader_endpoint: leader.endpoint.clone(),
                certainty: Certainty::NotApplied as i32,
            },
            disk_full,
        }
    }

    /// As the end of a whole call.
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::NotLeader(detail) => not_leader_status(&detail),
            Self::Overloaded(detail) => overloaded_status(&detail),
            Self::Unknown { detail, deadline } => {
                let (code, why) = match deadline {
                    true => (Code::DeadlineExceeded, "the deadline passed"),
                    false => (Code::Unknown, "leadership was lost"),
                };
                let place = match detail.index {
                    0 => "left this node".to_owned(),
                    index => format!("was appended at index {index} in term {}", detail.term),
                };
                let text = format!(
                    "{why} after the command {place}; it may still be applied, so do not send it \
                     again blindly"
                );
                with_detail(code, text, &detail)
            }
            Self::Invalid(detail) => invalid_status(&detail),
            Self::NotAppended(detail) => {
                with_detail(Code::DeadlineExceeded, detail.why.clone(), &detail)
            }
            Self::Session(detail) => {
                with_detail(Code::FailedPrecondition, detail.message.clone(), &detail)
            }
            Self::Replica { detail, disk_full } => {
                let code = match disk_full {
                    true => Code::ResourceExhausted,
                    false => Code::Unavailable,
                };
                with_detail(code, detail.what_to_do.clone(), &detail)
            }
        }
    }

    /// As the fate of one item of a batch.
    pub(super) fn into_outcome(self, item: u32) -> proto::propose_outcome::Outcome {
        use proto::propose_outcome::Outcome;
        match self {
            Self::NotLeader(detail) => Outcome::NotLeader(detail),
            Self::Overloaded(detail) => Outcome::Overloaded(detail),
            Self::Unknown { detail, .. } => Outcome::Unknown(detail),
            Self::Invalid(detail) => Outcome::Invalid(Invalid {
                item: Some(item),
                ..detail
            }),
            Self::NotAppended(detail) => Outcome::NotAppended(detail),
            Self::Session(detail) => Outcome::SessionRefused(detail),
            Self::Replica { detail, .. } => Outcome::ReplicaFailed(detail),
        }
    }
}

/// What this node cannot know is what became of earlier tries of the command: only a session that is
/// full for the moment says that there was none, and only a remembered one that there was.
fn session_refused(refusal: SessionRefusal) -> SessionRefused {
    let (reason, floor, window, certainty) = match refusal {
        SessionRefusal::Expired => ("Expired", 0, 0, Certainty::Unknown),
        SessionRefusal::Stale { floor } => ("Stale", floor, 0, Certainty::Unknown),
        SessionRefusal::TooFarAhead { floor, window } => {
            ("TooFarAhead", floor, window, Certainty::NotApplied)
        }
        SessionRefusal::AnswerNotKept => ("AnswerNotKept", 0, 0, Certainty::Applied),
    };
    SessionRefused {
        reason: reason.to_owned(),
        floor,
        window,
        certainty: certainty as i32,
        message: refusal.to_string(),
    }
}

fn not_leader(hint: LeaderHint) -> NotLeader {
    let why = match hint.node {
        Some(node) => format!("this node follows node {node}"),
        None => "no leader is known at the moment".to_owned(),
    };
    NotLeader {
        leader_id: hint.node.unwrap_or_default(),
        leader_endpoint: hint.endpoint,
        term: hint.term,
        why,
        certainty: Certainty::NotApplied as i32,
    }
}

fn not_leader_status(detail: &NotLeader) -> Status {
    let todo = match (detail.leader_id, detail.leader_endpoint.as_str()) {
        (0, _) => "try again in a moment".to_owned(),
        (_, "") => "ask that node".to_owned(),
        (_, endpoint) => format!("ask {endpoint}"),
    };
    let text = format!("not the leader: {}; {todo}", detail.why);
    let mut status = with_detail(Code::Unavailable, text, detail);
    // Plain trailers too, for clients that decode no details.
    let trailers = [
        ("conveyor-raft-leader-id", detail.leader_id.to_string()),
        (
            "conveyor-raft-leader-endpoint",
            detail.leader_endpoint.clone(),
        ),
    ];
    for (key, value) in trailers {
        if let Ok(value) = value.parse() {
            status.metadata_mut().insert(key, value);
        }
    }
    status
}

/// This node does not lead, so it can neither change members nor hand over.
pub(super) fn not_leader_now(hint: LeaderHint) -> Status {
    not_leader_status(&not_leader(hint))
}

/// The members are as they were.
pub(super) fn change_refused(detail: &ChangeRefused) -> Status {
    match detail.reason.as_str() {
        "Busy" => {
            let text = "another change of members is under way, or the leader is new; try again \
                        in a moment";
            with_detail(Code::Unavailable, text.to_owned(), detail)
        }
        _ => {
            let text = format!(
                "the members have changed meanwhile, at index {}; look at them again, then decide",
                detail.configuration_index
            );
            with_detail(Code::Aborted, text, detail)
        }
    }
}

/// Whether the members were changed is not known.
pub(super) fn change_unknown(late: bool) -> Status {
    let (code, why) = match late {
        true => (Code::DeadlineExceeded, "the deadline passed"),
        false => (Code::Unknown, "leadership was lost"),
    };
    let detail = OutcomeUnknown {
        index: 0,
        term: 0,
        certainty: Certainty::Unknown as i32,
    };
    let text = format!(
        "{why} before the change was through; it may still go through: look at the members"
    );
    with_detail(code, text, &detail)
}

/// Leadership stays where it is.
pub(super) fn hand_over_refused(why: &str, detail: &HandOverRefused) -> Status {
    let (code, todo) = match detail.reason.as_str() {
        "NoTarget" => (
            Code::FailedPrecondition,
            "name a voter that the leader's status shows as connected",
        ),
        "UnderWay" => (Code::Aborted, "look at the status who leads then"),
        _ => (Code::Aborted, "try again in a moment, or name another node"),
    };
    with_detail(code, format!("{why}; {todo}"), detail)
}

fn overloaded_status(detail: &Overloaded) -> Status {
    let delay = RetryDelay {
        seconds: (detail.retry_after_ms / 1000) as i64,
        nanos: (detail.retry_after_ms % 1000) as i32 * 1_000_000,
    };
    let retry = RetryInfo {
        retry_delay: Some(delay),
    };
    let text = format!(
        "overloaded: {} is used up; try again in {} ms",
        detail.budget, detail.retry_after_ms
    );
    with_details(
        Code::ResourceExhausted,
        text,
        vec![
            any(&Overloaded::full_name(), detail),
            any("google.rpc.RetryInfo", &retry),
        ],
    )
}

fn invalid_status(detail: &Invalid) -> Status {
    let text = match detail.item {
        Some(item) => format!("item {item}: {}: {}", detail.field, detail.why),
        None => format!("{}: {}", detail.field, detail.why),
    };
    with_detail(Code::InvalidArgument, text, detail)
}

/// The state machine refused the command: committed, and without effect.
pub(super) fn rejected(detail: &Rejected) -> Status {
    let code = match detail.reason.as_str() {
        "NotFound" => Code::NotFound,
        "AlreadyExists" => Code::AlreadyExists,
        _ => Code::FailedPrecondition,
    };
    let text = format!("{}: {}", detail.reason, detail.message);
    with_detail(code, text, detail)
}

/// A request that never got as far as a proposal.
pub(super) fn invalid(field: &str, why: impl Into<String>) -> Status {
    invalid_status(&Invalid {
        field: field.to_owned(),
        why: why.into(),
        item: None,
        certainty: Certainty::NotApplied as i32,
    })
}

/// The caller showed no certificate, or one that counts for nothing here.
pub(super) fn unauthenticated(needed: Role, why: &str) -> Status {
    let detail = RoleRequired {
        needed: needed.name().to_owned(),
        has: String::new(),
    };
    let text = format!("this call needs a client certificate with the role {needed}: {why}");
    with_detail(Code::Unauthenticated, text, &detail)
}

/// The caller's role is too low.
pub(super) fn permission_denied(needed: Role, has: Role) -> Status {
    let detail = RoleRequired {
        needed: needed.name().to_owned(),
        has: has.name().to_owned(),
    };
    let text = format!("this call needs the role {needed}, the caller has {has}");
    with_detail(Code::PermissionDenied, text, &detail)
}

/// Nothing was read.
pub(super) fn unread(error: &ReadError, leader: &LeaderHint) -> Status {
    match error {
        ReadError::Deadline => Status::deadline_exceeded(error.to_string()),
        ReadError::Overloaded { retry_after_ms } => overloaded(READS, *retry_after_ms),
        ReadError::Stopped => Failure::stopping(leader).into_status(),
        ReadError::Failed(why) => {
            Failure::new(ProposeError::Failed(why.clone()), leader, false).into_status()
        }
    }
}

const READS: &str = "the queue of reads";

/// There is no room for this call now.
pub(super) fn overloaded(budget: &str, retry_after_ms: u64) -> Status {
    overloaded_status(&Overloaded {
        budget: budget.to_owned(),
        retry_after_ms,
        certainty: Certainty::NotApplied as i32,
    })
}

/// Waiting for an index ended.
pub(super) fn wait(error: &WaitError) -> Status {
    match error {
        WaitError::Deadline { .. } => Status::deadline_exceeded(error.to_string()),
        WaitError::Stopped => Status::unavailable("the node has stopped; ask another one"),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;

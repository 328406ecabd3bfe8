//! Proposals that go on to the leader, and those that come from nodes that do not lead. None goes
//! further than that: who is asked by another node and does not lead, refuses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;

use super::{Driver, Now};
use crate::config::limits;
use crate::error::{LeaderHint, ProposeError, SessionRefusal};
use crate::network::{Forward, ForwardOutcome, ForwardReply, Forwarded, RaftNetwork};
use crate::node::envelope;
use crate::node::inbox::Submission;
use crate::node::system::SystemEntry;
use crate::node::trace::Trace;
use crate::node::waiters::{Passed, Reply, Waiter};
use crate::state_machine::{CommandError, StateMachine};
use crate::types::{EntryKind, Micros, ReplicaId};
use crate::wal::Medium;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// What cannot be appended here goes on to the leader, if its proposer wants that and there is one.
    pub(super) fn pass_on_or_refuse(
        &mut self,
        now: Now,
        submission: Submission<S::Response>,
        error: &ProposeError,
    ) {
        let Submission {
            kind,
            payload,
            mut waiter,
            forward,
        } = submission;
        let hint = match error {
            ProposeError::NotLeader(hint) if forward => hint.clone(),
            error => return waiter.answer(Err(error.clone())),
        };
        let leader = hint.node.filter(|node| *node != self.shared.me.node);
        let Some(leader) = leader else {
            return waiter.answer(Err(ProposeError::NotLeader(hint)));
        };
        let left = waiter.deadline.saturating_sub(now.mono);
        if left == 0 {
            return waiter.answer(Err(ProposeError::Deadline));
        }
        let (line, waits) = match waiter.in_order() {
            Some(at) => match at.place_at(leader) {
                Some(line) => (Some(line), waiter.waits_for_room()),
                None => return waiter.answer(Err(ProposeError::Overtaking)),
            },
            None => (None, waiter.waits_for_room()),
        };
        if let Some(trace) = &mut waiter.trace {
            trace.forwarding();
        }
        let forward = Forward {
            line,
            waits,
            term: hint.term,
            kind,
            payload,
            patience: Duration::from_micros(left),
            reply: ForwardReply::new(move |answer| told::<S>(waiter, hint, answer)),
        };
        self.network.forward(leader, forward);
    }

    /// A proposal that another node passed on: it waits for its place with the others, within the same
    /// budgets.
    pub(super) fn passed_on(&mut self, now: Now, from: ReplicaId, forward: Forward) {
        let Forward {
            kind,
            payload,
            patience,
            reply,
            line,
            ..
        } = forward;
        let in_order = match line {
            Some(at) => match self.lines.enter(from.node, at) {
                Some(in_order) => Some(in_order),
                None => return reply.answer(Ok(ForwardOutcome::Overtaking)),
            },
            None => None,
        };
        if let Err(CommandError { field, why }) = check::<S>(kind, &payload) {
            tracing::warn!(%from, field, why, "a proposal that was passed on is refused");
            if let Some(in_order) = in_order {
                in_order.break_off();
            }
            return reply.answer(Ok(ForwardOutcome::Invalid { field, why }));
        }
        let patience = Micros::try_from(patience.as_micros()).unwrap_or(Micros::MAX);
        self.wait_for_room(Submission {
            kind,
            payload,
            waiter: Waiter {
                reply: Reply::Passed(Passed::new(reply, S::response_to_peer, in_order)),
                deadline: now.mono.saturating_add(patience),
                trace: Trace::of_peer(self.shared.me.node, from),
            },
            forward: false,
        });
    }
}

/// Nothing enters the log that this release cannot apply: it would stop every replica (hazard G2). A
/// node of a newer release may have made it.
fn check<S: StateMachine>(kind: EntryKind, payload: &Bytes) -> Result<(), CommandError> {
    let wrong = |field: &str, why: String| CommandError {
        field: field.to_owned(),
        why,
    };
    match kind {
        EntryKind::Command => {
            let (session, command) = envelope::open(payload)?;
            let head = session.map_or(0, |_| envelope::SESSION_LEN);
            if payload.len() - head > limits::MAX_COMMAND {
                let why = format!("over {} bytes encoded", limits::MAX_COMMAND);
                return Err(wrong("command", why));
            }
            let decode = AssertUnwindSafe(|| S::decode(command).map(drop));
            let panicked = |_| Err(wrong("command", "cannot be read".to_owned()));
            catch_unwind(decode).unwrap_or_else(panicked)
        }
        EntryKind::System => match SystemEntry::decode(payload) {
            Ok(_) => Ok(()),
            Err(why) => Err(wrong("entry", why)),
        },
        EntryKind::Noop | EntryKind::Configuration => {
            Err(wrong("entry", "of a kind that nobody proposes".to_owned()))
        }
    }
}

/// Tells a proposer what the leader made of its proposal. `hint`: who was thought to lead.
fn told<S: StateMachine>(waiter: Waiter<S::Response>, hint: LeaderHint, answer: Forwarded) {
    let (index, response) = match answer {
        Ok(ForwardOutcome::Applied {
            index, response, ..
        }) => (index, response),
        // The caller may find a way where this node found none.
        Err(_) => return waiter.answer(Err(ProposeError::NotLeader(hint))),
        Ok(refused) => return waiter.answer(Err(refused.into())),
    };
    match waiter.reply {
        Reply::System(sender) => drop(sender.send(Ok(index))),
        reply => {
            let response = S::response_from_peer(&response);
            let not_kept = ProposeError::Session(SessionRefusal::AnswerNotKept);
            Waiter { reply, ..waiter }.answer(response.ok_or(not_kept));
        }
    }
}

impl From<ProposeError> for ForwardOutcome {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader(hint) => Self::NotLeader {
                leader: hint.node.unwrap_or_default(),
                term: hint.term,
                endpoint: hint.endpoint,
            },
            ProposeError::Overloaded { retry_after_ms, .. } => Self::Overloaded { retry_after_ms },
            ProposeError::Invalid(CommandError { field, why }) => Self::Invalid { field, why },
            ProposeError::Unknown { index, term } => Self::Unknown { index, term },
            ProposeError::Deadline => Self::Deadline,
            ProposeError::Overtaking => Self::Overtaking,
            ProposeError::ShuttingDown => Self::ShuttingDown,
            ProposeError::Failed(why) => Self::Failed(why),
            ProposeError::Session(SessionRefusal::Expired) => Self::SessionExpired,
            ProposeError::Session(SessionRefusal::Stale { floor }) => Self::SessionStale { floor },
            ProposeError::Session(SessionRefusal::TooFarAhead { floor, window }) => {
                Self::SessionFull { floor, window }
            }
            ProposeError::Session(SessionRefusal::AnswerNotKept) => Self::AnswerNotKept,
        }
    }
}

impl From<ForwardOutcome> for ProposeError {
    fn from(outcome: ForwardOutcome) -> Self {
        use ForwardOutcome as Of;
        match outcome {
            // A response that does not belong to a proposal that is waiting is none.
            Of::Applied { .. } | Of::AnswerNotKept => Self::Session(SessionRefusal::AnswerNotKept),
            Of::NotLeader {
                leader,
                term,
                endpoint,
            } => Self::NotLeader(LeaderHint {
                node: (leader != 0).then_some(leader),
                endpoint,
                term,
            }),
            Of::Overloaded { retry_after_ms } => Self::Overloaded {
                budget: "the leader's room for proposals that are passed on to it",
                retry_after_ms,
            },
            Of::Invalid { field, why } => Self::Invalid(CommandError { field, why }),
            Of::Unknown { index, term } => Self::Unknown { index, term },
            Of::Deadline => Self::Deadline,
            Of::Overtaking => Self::Overtaking,
            Of::ShuttingDown => Self::ShuttingDown,
            Of::Failed(why) => Self::Failed(why),
            Of::SessionExpired => Self::Session(SessionRefusal::Expired),
            Of::SessionStale { floor } => Self::Session(SessionRefusal::Stale { floor }),
            Of::SessionFull { floor, window } => {
                Self::Session(SessionRefusal::TooFarAhead { floor, window })
            }
        }
    }
}

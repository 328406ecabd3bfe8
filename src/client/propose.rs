//! Commands, each driven until its outcome is known or must stay unknown.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::Client;
use super::error::ClientError;
use super::leader::{Candidate, is_final};
use super::pipe::Fate;
use crate::grpc::detail;
use crate::proto::propose_outcome::Outcome;
use crate::proto::{
    self, Certainty, InSession, NotLeader, ProposeItem, ProposeResponse, ReplicaFailed,
    SessionRefused,
};
use crate::state_machine::RouterCommand;

/// One try of what may be sent again: longer than an election, so that a node that hangs does not
/// use up the deadline.
const TRY: Duration = Duration::from_secs(2);
/// How much longer than asked to an answer is waited for.
pub(super) const GRACE: Duration = Duration::from_millis(250);
/// Before a command of a session is sent again whose outcome a node did not know.
const PAUSE: Duration = Duration::from_millis(5);

impl Client {
    /// Replicates a command and returns its answer. It is applied at most once.
    ///
    /// # Errors
    /// See [`ClientError`]; its [`certainty`](ClientError::certainty) says whether the command may have
    /// taken effect. Where that is unknown, a [`Session`](super::Session) would have found out.
    pub async fn propose(&self, command: RouterCommand) -> Result<ProposeResponse, ClientError> {
        let command = command.into();
        let mut unknown = None;
        self.settle(&command, || None, self.until(), &mut unknown)
            .await
    }

    /// Calls whoever leads, and another node while the one asked says that it does not lead, or that
    /// it takes nothing, or no connection to it can be made: for calls of the generated clients.
    ///
    /// # Errors
    /// The status of the call as [`ClientError::Refused`], also where a connection broke meanwhile and
    /// nobody knows what was done; or that nobody took it in time.
    pub async fn at_leader<T, F>(
        &self,
        mut call: impl FnMut(Channel) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let until = self.until();
        loop {
            let candidate = self.inner.leader.candidate(until).await?;
            let called = call(candidate.channel());
            let Ok(called) = tokio::time::timeout_at(until + GRACE, called).await else {
                let why = "the node does not answer";
                self.inner.leader.lost(&candidate, why).await;
                return Err(ClientError::Unknown { why: why.into() });
            };
            match called {
                Ok(answer) => {
                    self.inner.leader.served();
                    return Ok(answer);
                }
                Err(status) if self.went_elsewhere(&candidate, &status).await => {}
                Err(status) => {
                    if status.details().is_empty() {
                        // No node's word: the connection broke. The next call makes another.
                        let leader = &self.inner.leader;
                        leader.lost(&candidate, status.message()).await;
                    }
                    return Err(ClientError::Refused(Box::new(status)));
                }
            }
        }
    }

    /// Whether a call certainly did nothing, because the node takes none of its kind; the next one
    /// goes to another node.
    async fn went_elsewhere(&self, candidate: &Arc<Candidate>, status: &Status) -> bool {
        let leader = &self.inner.leader;
        if let Some(hint) = detail::<NotLeader>(status) {
            let endpoint = &hint.leader_endpoint;
            leader.leave(candidate, endpoint, &hint.why).await;
            return true;
        }
        if let Some(failed) = detail::<ReplicaFailed>(status) {
            let endpoint = &failed.leader_endpoint;
            leader.leave(candidate, endpoint, &failed.what_to_do).await;
            return failed.certainty() == Certainty::NotApplied;
        }
        false
    }

    /// A call that may be made any number of times.
    pub(super) async fn repeat_at_leader<T, F>(
        &self,
        until: Instant,
        mut call: impl FnMut(Channel, Duration) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let leader = &self.inner.leader;
        loop {
            let candidate = leader.candidate(until).await?;
            let patience = patience(until, true);
            let called = call(candidate.channel(), patience);
            match tokio::time::timeout(patience + GRACE, called).await {
                Ok(Ok(answer)) => {
                    leader.served();
                    return Ok(answer);
                }
                Ok(Err(status)) if self.went_elsewhere(&candidate, &status).await => {}
                Ok(Err(status)) if is_final(&status) || refused(&status).is_some() => {
                    return Err(ClientError::Refused(Box::new(status)));
                }
                Ok(Err(status)) if status.code() == Code::ResourceExhausted => pause(until).await,
                Ok(Err(status)) => leader.lost(&candidate, status.message()).await,
                Err(_) => leader.lost(&candidate, "the node does not answer").await,
            }
        }
    }

    /// Sends a command until its outcome is known. In a session that is also after a try with an
    /// unknown outcome, which is noted in `unknown`; `session` says its numbers anew for each try.
    pub(super) async fn settle(
        &self,
        command: &proto::RouterCommand,
        session: impl Fn() -> Option<InSession>,
        until: Instant,
        unknown: &mut Option<String>,
    ) -> Result<ProposeResponse, ClientError> {
        let _room = match self.inner.room.try_acquire() {
            Ok(room) => Ok(room),
            // Only who has to wait needs a timer.
            Err(_) => tokio::time::timeout_at(until, self.inner.room.acquire())
                .await
                .map_err(|_| self.late("too many commands are under way", unknown))?,
        };
        loop {
            let session = session();
            let repeatable = session.is_some();
            match self.try_once(command, session, until).await {
                Ok(Told::Decided(outcome)) => return decided(*outcome, unknown.is_some()),
                Ok(Told::Again) => {}
                Ok(Told::Unknown(why)) => {
                    *unknown = Some(why);
                    if !repeatable {
                        return Err(self.late("", unknown));
                    }
                    pause(until).await;
                }
                // What is refused now says nothing of an earlier try.
                Err(_) if unknown.is_some() => return Err(self.late("", unknown)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a command once.
    async fn try_once(
        &self,
        command: &proto::RouterCommand,
        session: Option<InSession>,
        until: Instant,
    ) -> Result<Told, ClientError> {
        let leader = &self.inner.leader;
        let (candidate, pipe) = leader.pipe(until).await?;
        let now = Instant::now();
        if now >= until {
            return Err(leader.late());
        }
        let patience = patience_at(now, until, session.is_some());
        let item = ProposeItem {
            command: Some(command.clone()),
            session,
            timeout_ms: patience.as_millis().try_into().unwrap_or(u32::MAX).max(1),
            unordered: true,
            forward: self.inner.forward,
            ..ProposeItem::default()
        };
        Ok(match pipe.send(item, now + patience + GRACE).await {
            Fate::Told(outcome) => self.told(outcome, &candidate, until).await,
            Fate::NotSent(why) => {
                leader.lost(&candidate, &why).await;
                Told::Again
            }
            Fate::Lost(why) => {
                leader.lost(&candidate, &why).await;
                Told::Unknown(why)
            }
        })
    }

    /// What follows from what a node says of one try.
    async fn told(&self, outcome: Box<Outcome>, to: &Arc<Candidate>, until: Instant) -> Told {
        let leader = &self.inner.leader;
        match outcome.as_ref() {
            Outcome::NotLeader(hint) => {
                leader.leave(to, &hint.leader_endpoint, &hint.why).await;
                Told::Again
            }
            Outcome::ReplicaFailed(failed) => {
                let endpoint = &failed.leader_endpoint;
                leader.leave(to, endpoint, &failed.what_to_do).await;
                Told::Again
            }
            Outcome::Overloaded(overloaded) => {
                let wait = Duration::from_millis(overloaded.retry_after_ms);
                let _ = tokio::time::timeout_at(until, tokio::time::sleep(wait)).await;
                Told::Again
            }
            Outcome::NotAppended(_) => Told::Again,
            Outcome::Unknown(place) => Told::Unknown(format!(
                "appended at index {} in term {}",
                place.index, place.term
            )),
            Outcome::Response(_)
            | Outcome::Rejected(_)
            | Outcome::Invalid(_)
            | Outcome::SessionRefused(_) => {
                leader.served();
                Told::Decided(outcome)
            }
        }
    }

    /// The deadline passed: whether anything may have been done is known from the tries.
    pub(super) fn late(&self, why: &str, unknown: &Option<String>) -> ClientError {
        match unknown {
            Some(why) => ClientError::Unknown { why: why.clone() },
            None => ClientError::Deadline {
                why: why.to_owned(),
            },
        }
    }
}

enum Told {
    Decided(Box<Outcome>),
    /// It never entered a log, or there is nothing else to learn: try again.
    Again,
    Unknown(String),
}

/// The end of a command, by an outcome that decides it. `unknown`: whether an earlier try may have
/// been applied.
pub(super) fn decided(outcome: Outcome, unknown: bool) -> Result<ProposeResponse, ClientError> {
    match outcome {
        Outcome::Response(response) => Ok(response),
        Outcome::Rejected(refusal) => Err(ClientError::Rejected(refusal)),
        // Judged before anything is proposed, so it says nothing of an earlier try.
        Outcome::Invalid(invalid) if unknown => Err(ClientError::Unknown {
            why: format!("{}: {}", invalid.field, invalid.why),
        }),
        Outcome::Invalid(invalid) => Err(ClientError::Invalid {
            field: invalid.field,
            why: invalid.why,
        }),
        Outcome::SessionRefused(refused) => Err(session_over(refused, unknown)),
        // These decide nothing: whoever calls this has gone on with them before.
        Outcome::NotLeader(_)
        | Outcome::Overloaded(_)
        | Outcome::NotAppended(_)
        | Outcome::ReplicaFailed(_)
        | Outcome::Unknown(_) => Err(ClientError::Unknown {
            why: "the node did not decide".to_owned(),
        }),
    }
}

/// A node cannot know of earlier tries; the client does.
fn session_over(refused: SessionRefused, unknown: bool) -> ClientError {
    match (refused.certainty(), unknown) {
        (Certainty::Applied, _) => ClientError::AnswerNotKept,
        (_, true) => ClientError::SessionOver {
            why: refused.message,
            certainty: Certainty::Unknown,
        },
        (_, false) => ClientError::SessionOver {
            why: refused.message,
            certainty: Certainty::NotApplied,
        },
    }
}

pub(super) fn refused(status: &Status) -> Option<SessionRefused> {
    detail(status)
}

/// How long one try may take.
pub(super) fn patience(until: Instant, repeatable: bool) -> Duration {
    patience_at(Instant::now(), until, repeatable)
}

fn patience_at(now: Instant, until: Instant, repeatable: bool) -> Duration {
    let left = until.saturating_duration_since(now);
    match repeatable {
        true => left.min(TRY),
        false => left,
    }
}

pub(super) async fn pause(until: Instant) {
    let _ = tokio::time::timeout_at(until, tokio::time::sleep(PAUSE)).await;
}

pub(super) fn request<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Invalid;

    #[test]
    fn f4_a_refusal_after_a_lost_try_does_not_make_it_certain() {
        let certainty = |outcome, unknown| match decided(outcome, unknown) {
            Ok(_) => panic!("no response"),
            Err(error) => error.certainty(),
        };
        let refused = |reason: &str, certainty: Certainty| {
            Outcome::SessionRefused(SessionRefused {
                reason: reason.into(),
                certainty: certainty as i32,
                ..SessionRefused::default()
            })
        };
        let expired = || refused("Expired", Certainty::Unknown);
        assert_eq!(certainty(expired(), false), Certainty::NotApplied);
        assert_eq!(certainty(expired(), true), Certainty::Unknown);
        let invalid = || Outcome::Invalid(Invalid::default());
        assert_eq!(certainty(invalid(), false), Certainty::NotApplied);
        assert_eq!(certainty(invalid(), true), Certainty::Unknown);
        for unknown in [false, true] {
            let kept = refused("AnswerNotKept", Certainty::Applied);
            assert_eq!(certainty(kept, unknown), Certainty::Applied);
            let rejected = Outcome::Rejected(crate::proto::Rejected::default());
            assert_eq!(certainty(rejected, unknown), Certainty::NoEffect);
        }
    }
}

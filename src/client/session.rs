//! Sessions: commands that are applied exactly once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Client;
use super::error::ClientError;
use super::propose::{GRACE, decided, patience, pause, refused, request};
use crate::proto::propose_outcome::Outcome;
use crate::proto::router_client::RouterClient;
use crate::proto::{
    self, CloseSessionRequest, InSession, KeepAliveRequest, OpenSessionRequest,
    ProposeBatchRequest, ProposeResponse,
};
use crate::state_machine::RouterCommand;

/// Commands of a session that may be under way at a time, and most in one batch of it. A session
/// remembers so many answers of common size.
pub const BATCH: usize = 100;

/// A session: each of its commands is applied exactly once, however often it has to be sent, over
/// lost replies, changes of leader and restarts of nodes. For any number of tasks; at most 100
/// ([`BATCH`]) commands are under way at a time, the next one waits.
///
/// Until it is dropped it is kept, also while it has no commands
/// ([`ClientOptions::keep_sessions`](super::ClientOptions::keep_sessions)). It expires when nothing was
/// heard of it for ten minutes in which there was a leader.
#[derive(Debug)]
pub struct Session {
    client: Client,
    id: u64,
    numbers: Arc<Numbers>,
    _keeper: Option<Keeper>,
}

/// The task that keeps a session; it ends with this.
#[derive(Debug)]
struct Keeper(AbortHandle);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Opens a session.
    ///
    /// # Errors
    /// As [`propose`](Self::propose). There may be a session then that nobody uses; it ends by itself.
    pub async fn open_session(&self) -> Result<Session, ClientError> {
        let forward = self.inner.forward;
        let open = |channel, patience| async move {
            let mut router = RouterClient::new(channel);
            let opened = router.open_session(request(OpenSessionRequest { forward }, patience));
            Ok(opened.await?.into_inner().session)
        };
        let id = self.repeat_at_leader(self.until(), open).await?;
        let numbers: Arc<Numbers> = Arc::default();
        let keeper = self.inner.keep_sessions.map(|every| {
            let keeping = self.clone().keep(id, every, Arc::clone(&numbers));
            Keeper(tokio::spawn(keeping).abort_handle())
        });
        Ok(Session {
            client: self.clone(),
            id,
            numbers,
            _keeper: keeper,
        })
    }

    /// Says that a session is still wanted when it had no command for a while, until it is over.
    async fn keep(self, session: u64, every: Duration, numbers: Arc<Numbers>) {
        let mut next = numbers.next();
        loop {
            tokio::time::sleep(every).await;
            let before = std::mem::replace(&mut next, numbers.next());
            if next != before {
                continue;
            }
            let forward = self.inner.forward;
            let keep = |channel, patience| async move {
                let message = request(KeepAliveRequest { session, forward }, patience);
                RouterClient::new(channel).keep_alive(message).await
            };
            let kept = self.repeat_at_leader(self.until(), keep).await;
            // The next command is told so. Whatever else went wrong, it is tried again the next time.
            if matches!(kept, Err(ClientError::Refused(_))) {
                return;
            }
        }
    }
}

impl Session {
    /// Its number, which no other session of the cluster ever has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Replicates a command, once, and returns its answer.
    ///
    /// # Errors
    /// See [`ClientError`]. After `Unknown` it is not sent any more: it was applied once or never
    /// will be. Whoever wants to find out uses [`number`](Self::number).
    pub async fn propose(&self, command: RouterCommand) -> Result<ProposeResponse, ClientError> {
        self.number(command).await?.send().await
    }

    /// Gives a command its number in the session, to be sent until its outcome is known.
    ///
    /// # Errors
    /// If too many commands are under way all the time until the deadline.
    pub async fn number(&self, command: RouterCommand) -> Result<Numbered<'_>, ClientError> {
        let until = self.client.until();
        let held = self.numbers.take(1, until).await?;
        Ok(Numbered {
            session: self,
            command: command.into(),
            held,
            unknown: None,
        })
    }

    /// Replicates up to [`BATCH`] commands in their order, each once; one result for each, in that
    /// order. Faster than one after the other, and unlike commands proposed at the same time none
    /// overtakes another, whatever happens in between.
    ///
    /// # Errors
    /// If there are too many, or as [`number`](Self::number), before anything was sent.
    pub async fn propose_batch(
        &self,
        commands: Vec<RouterCommand>,
    ) -> Result<Vec<Result<ProposeResponse, ClientError>>, ClientError> {
        let until = self.client.until();
        let count = commands.len();
        if count > BATCH {
            return Err(ClientError::Invalid {
                field: "commands".to_owned(),
                why: format!("are {count}, at most {BATCH} fit in a batch of a session"),
            });
        }
        let held = self.numbers.take(count as u64, until).await?;
        let mut batch = Batch {
            commands: commands.into_iter().map(Into::into).collect(),
            results: (0..count).map(|_| None).collect(),
            unknown: vec![None; count],
        };
        while let Some(open) = batch.first_open() {
            if let Err(error) = self.try_batch(&mut batch, open, &held, until).await {
                batch.give_up(&self.client, &error);
            }
        }
        Ok(batch.results.into_iter().flatten().collect())
    }

    /// Sends everything from the first command on that has no result yet: what was applied before is
    /// answered again, what was not keeps its place.
    async fn try_batch(
        &self,
        batch: &mut Batch,
        open: usize,
        held: &Held,
        until: Instant,
    ) -> Result<(), ClientError> {
        let leader = &self.client.inner.leader;
        let candidate = leader.candidate(until).await?;
        if Instant::now() >= until {
            return Err(leader.late());
        }
        let patience = patience(until, true);
        let message = ProposeBatchRequest {
            commands: batch.commands[open..].to_vec(),
            session: Some(self.at(held.first + open as u64)),
            forward: self.client.inner.forward,
        };
        let mut router = RouterClient::new(candidate.channel());
        let call = router.propose_batch(request(message, patience));
        let why = match tokio::time::timeout(patience + GRACE, call).await {
            Ok(Ok(answer)) => {
                let outcomes = answer.into_inner().outcomes;
                let again = batch.settle(open, outcomes);
                return self.go_on(again, &candidate, until).await;
            }
            Ok(Err(status)) if super::leader::is_final(&status) => {
                return Err(ClientError::Refused(Box::new(status)));
            }
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "the node does not answer".to_owned(),
        };
        leader.lost(&candidate, &why).await;
        batch.unknown[open..].fill(Some(why));
        Ok(())
    }

    /// What the first outcome that decides nothing asks for.
    async fn go_on(
        &self,
        again: Option<Outcome>,
        candidate: &Arc<super::leader::Candidate>,
        until: Instant,
    ) -> Result<(), ClientError> {
        let leader = &self.client.inner.leader;
        match again {
            None => leader.served(),
            Some(Outcome::NotLeader(hint)) => {
                let endpoint = &hint.leader_endpoint;
                leader.leave(candidate, endpoint, &hint.why).await;
            }
            Some(Outcome::ReplicaFailed(failed)) => {
                let endpoint = &failed.leader_endpoint;
                leader.leave(candidate, endpoint, &failed.what_to_do).await;
            }
            Some(_) => pause(until).await,
        }
        Ok(())
    }

    /// Closes the session: what was remembered for it is forgotten.
    ///
    /// # Errors
    /// As [`Client::open_session`]; it then ends by itself.
    pub async fn close(self) -> Result<(), ClientError> {
        let (session, forward) = (self.id, self.client.inner.forward);
        let close = |channel, patience| async move {
            let mut router = RouterClient::new(channel);
            let message = request(CloseSessionRequest { session, forward }, patience);
            match router.close_session(message).await {
                // By an earlier try, or by itself.
                Err(status) if refused(&status).is_some() => Ok(()),
                closed => closed.map(drop),
            }
        };
        let until = self.client.until();
        self.client.repeat_at_leader(until, close).await
    }

    fn at(&self, seq: u64) -> InSession {
        InSession {
            session: self.id,
            seq,
            floor: self.numbers.floor(),
        }
    }
}

/// A command with its number. Dropped, it is not sent any more: if it has not been applied by then,
/// it never will be.
#[derive(Debug)]
pub struct Numbered<'a> {
    session: &'a Session,
    command: proto::RouterCommand,
    held: Held,
    /// Whether a try may have been applied, and what happened to it.
    unknown: Option<String>,
}

impl Numbered<'_> {
    /// Its number in the session.
    pub fn seq(&self) -> u64 {
        self.held.first
    }

    /// Sends it until its outcome is known, or the deadline passes. May be called again: it is
    /// applied once all the same, and answered as the first time.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(&mut self) -> Result<ProposeResponse, ClientError> {
        let client = &self.session.client;
        let at = || Some(self.session.at(self.held.first));
        client
            .settle(&self.command, at, client.until(), &mut self.unknown)
            .await
    }
}

/// What is known of a batch.
struct Batch {
    commands: Vec<proto::RouterCommand>,
    results: Vec<Option<Result<ProposeResponse, ClientError>>>,
    unknown: Vec<Option<String>>,
}

impl Batch {
    fn first_open(&self) -> Option<usize> {
        self.results.iter().position(Option::is_none)
    }

    /// Takes the outcomes of the commands from `open` on; returns the first that decides nothing.
    fn settle(&mut self, open: usize, outcomes: Vec<proto::ProposeOutcome>) -> Option<Outcome> {
        let mut again = None;
        let outcomes = outcomes.into_iter().map(|outcome| outcome.outcome);
        for (at, outcome) in (open..self.results.len()).zip(outcomes) {
            match outcome {
                Some(Outcome::Unknown(place)) => {
                    let (index, term) = (place.index, place.term);
                    let why = format!("appended at index {index} in term {term}");
                    self.unknown[at] = Some(why);
                    again.get_or_insert(Outcome::Unknown(place));
                }
                Some(
                    open @ (Outcome::NotLeader(_)
                    | Outcome::Overloaded(_)
                    | Outcome::NotAppended(_)
                    | Outcome::ReplicaFailed(_)),
                ) => {
                    again.get_or_insert(open);
                }
                Some(outcome) if self.results[at].is_none() => {
                    self.results[at] = Some(decided(outcome, self.unknown[at].is_some()));
                }
                _ => {}
            }
        }
        again
    }

    /// Nothing more is sent.
    fn give_up(&mut self, client: &Client, error: &ClientError) {
        for (result, unknown) in self.results.iter_mut().zip(&self.unknown) {
            result.get_or_insert_with(|| match (error, unknown) {
                (ClientError::Deadline { why }, _) => Err(client.late(why, unknown)),
                (_, Some(_)) => Err(client.late("", unknown)),
                (error, None) => Err(error.clone()),
            });
        }
    }
}

/// The numbers of a session's commands.
#[derive(Debug)]
struct Numbers {
    state: Mutex<NumbersState>,
    freed: Notify,
}

#[derive(Debug)]
struct NumbersState {
    next: u64,
    /// Those that may still be sent.
    open: BTreeSet<u64>,
}

impl Default for Numbers {
    fn default() -> Self {
        let open = BTreeSet::new();
        Self {
            state: Mutex::new(NumbersState { next: 1, open }),
            freed: Notify::new(),
        }
    }
}

impl NumbersState {
    /// The lowest number that may still be sent.
    fn floor(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }
}

impl Numbers {
    fn state(&self) -> MutexGuard<'_, NumbersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floor(&self) -> u64 {
        self.state().floor()
    }

    /// The number that the next command gets.
    fn next(&self) -> u64 {
        self.state().next
    }

    /// Takes so many numbers in a row, as soon as they are not too far above the floor.
    async fn take(self: &Arc<Self>, count: u64, until: Instant) -> Result<Held, ClientError> {
        loop {
            // Before looking, so that none that comes after is missed.
            let freed = self.freed.notified();
            if let Some(first) = self.try_take(count) {
                return Ok(Held {
                    numbers: Arc::clone(self),
                    first,
                    count,
                });
            }
            let waited = tokio::time::timeout_at(until, freed).await;
            waited.map_err(|_| ClientError::Deadline {
                why: "too many commands of the session are under way".to_owned(),
            })?;
        }
    }

    fn try_take(&self, count: u64) -> Option<u64> {
        let mut state = self.state();
        let first = state.next;
        if first + count > state.floor() + BATCH as u64 {
            return None;
        }
        state.next += count;
        state.open.extend(first..first + count);
        Some(first)
    }
}

/// Numbers that may still be sent, until this is dropped.
#[derive(Debug)]
struct Held {
    numbers: Arc<Numbers>,
    first: u64,
    count: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.numbers.state();
        for number in self.first..self.first + self.count {
            state.open.remove(&number);
        }
        drop(state);
        self.numbers.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn numbers_wait_for_the_lowest_that_may_still_be_sent() {
        let numbers = Arc::new(Numbers::default());
        let until = Instant::now() + Duration::from_secs(1);
        let mut held = Vec::new();
        for number in 1..=BATCH as u64 {
            let one = numbers.take(1, until).await.expect("room");
            assert_eq!((one.first, numbers.floor()), (number, 1));
            held.push(one);
        }
        // Those in between free no room: the floor stays where it is.
        held.truncate(1);
        let full = numbers.take(1, until).await.map(drop);
        assert!(
            matches!(full, Err(ClientError::Deadline { .. })),
            "{full:?}"
        );
        let until = Instant::now() + Duration::from_secs(1);
        let next = tokio::spawn({
            let numbers = Arc::clone(&numbers);
            async move { numbers.take(BATCH as u64, until).await }
        });
        tokio::task::yield_now().await;
        drop(held);
        let next = next.await.expect("no panic").expect("room");
        assert_eq!((next.first, numbers.floor()), (101, 101));
        assert!(numbers.try_take(1).is_none());
        drop(next);
        assert_eq!(numbers.floor(), 201);
    }

    #[test]
    fn a_batch_takes_each_outcome_once_and_goes_on_from_the_first_that_is_open() {
        let outcome = |outcome| proto::ProposeOutcome {
            outcome: Some(outcome),
        };
        let response = |index| {
            outcome(Outcome::Response(ProposeResponse {
                index,
                ..ProposeResponse::default()
            }))
        };
        let unknown = || outcome(Outcome::Unknown(proto::OutcomeUnknown::default()));
        let lost = || outcome(Outcome::NotLeader(proto::NotLeader::default()));
        let mut batch = Batch {
            commands: vec![proto::RouterCommand::default(); 4],
            results: (0..4).map(|_| None).collect(),
            unknown: vec![None; 4],
        };
        let again = batch.settle(0, vec![response(5), unknown(), response(7), lost()]);
        assert!(matches!(again, Some(Outcome::Unknown(_))));
        assert_eq!(batch.first_open(), Some(1));
        let again = batch.settle(1, vec![response(6), response(9), lost()]);
        assert!(matches!(again, Some(Outcome::NotLeader(_))));
        assert_eq!(batch.first_open(), Some(3));
        let indexes = batch.results[..3].iter().flatten().flatten();
        assert_eq!(indexes.map(|it| it.index).collect::<Vec<_>>(), [5, 6, 7]);
        assert!(batch.unknown[1].is_some() && batch.unknown[3].is_none());
    }
}

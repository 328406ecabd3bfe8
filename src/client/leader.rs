//! Who leads: found by asking, followed by what followers say.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::error::ClientError;
use super::nodes::Nodes;
use super::pipe::Pipe;

/// The first pause after a failure; each further one in a row doubles it.
const PAUSE: Duration = Duration::from_millis(5);
const DOUBLINGS: u32 = 5;

/// The node that is taken for the leader.
#[derive(Debug)]
pub(super) struct Candidate {
    endpoint: String,
    channel: Channel,
    /// Opened by the first command.
    pipe: OnceCell<Pipe>,
}

impl Candidate {
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn is_open(&self) -> bool {
        self.pipe.get().is_none_or(Pipe::is_open)
    }
}

#[derive(Debug)]
pub(super) struct Leader {
    nodes: Arc<Nodes>,
    /// Not where nodes pass commands on: the leader may not be in reach.
    follow_hints: bool,
    state: Mutex<State>,
    /// Failures in a row.
    failures: AtomicU32,
    /// What went wrong last, for the error at the deadline.
    why: StdMutex<String>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Candidate>>,
    /// Where a node said that the leader is.
    hint: Option<String>,
}

impl Leader {
    pub(super) fn new(nodes: Arc<Nodes>, follow_hints: bool) -> Self {
        Self {
            nodes,
            follow_hints,
            state: Mutex::default(),
            failures: AtomicU32::new(0),
            why: StdMutex::new("no node was asked".to_owned()),
        }
    }

    /// The node to ask. Connects if there is none.
    pub(super) async fn candidate(&self, until: Instant) -> Result<Arc<Candidate>, ClientError> {
        let found = tokio::time::timeout_at(until, self.find()).await;
        found.map_err(|_| self.late())
    }

    /// The stream to the node to ask.
    pub(super) async fn pipe(&self, until: Instant) -> Result<(Arc<Candidate>, Pipe), ClientError> {
        if let Some(open) = self.open_pipe() {
            return Ok(open);
        }
        loop {
            let candidate = self.candidate(until).await?;
            let open = candidate
                .pipe
                .get_or_try_init(|| Pipe::open(candidate.channel()));
            match tokio::time::timeout_at(until, open).await {
                Ok(Ok(pipe)) => {
                    let pipe = pipe.clone();
                    return Ok((candidate, pipe));
                }
                Ok(Err(status)) if is_final(&status) => {
                    return Err(ClientError::Refused(Box::new(status)));
                }
                Ok(Err(status)) => self.leave(&candidate, "", status.message()).await,
                Err(_) => return Err(self.late()),
            }
        }
    }

    /// The same if it is there, without a timer: so it is for nearly every command.
    fn open_pipe(&self) -> Option<(Arc<Candidate>, Pipe)> {
        let state = self.state.try_lock().ok()?;
        let candidate = state.current.as_ref()?;
        let pipe = candidate.pipe.get().filter(|pipe| pipe.is_open())?;
        Some((Arc::clone(candidate), pipe.clone()))
    }

    async fn find(&self) -> Arc<Candidate> {
        // Whoever waits here finds what the one before found.
        let mut state = self.state.lock().await;
        loop {
            if let Some(candidate) = &state.current {
                if candidate.is_open() {
                    return Arc::clone(candidate);
                }
                self.nodes.forget(&candidate.endpoint);
                self.note("the stream to the leader broke");
                state.current = None;
            }
            let failures = self.failures.load(Ordering::Relaxed);
            tokio::time::sleep(pause(failures, state.hint.is_some())).await;
            let endpoint = state.hint.take().unwrap_or_else(|| self.nodes.next());
            match self.nodes.channel(&endpoint).await {
                Ok(channel) => {
                    state.current = Some(Arc::new(Candidate {
                        endpoint,
                        channel,
                        pipe: OnceCell::new(),
                    }));
                }
                Err(why) => self.note(&why),
            }
        }
    }

    /// This node does not lead, or takes nothing; `hint` may say who does.
    pub(super) async fn leave(&self, candidate: &Arc<Candidate>, hint: &str, why: &str) {
        let mut state = self.state.lock().await;
        let is_current = state
            .current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, candidate));
        // Thousands may find out at the same time; the first one is enough.
        if !is_current {
            return;
        }
        state.current = None;
        state.hint =
            Some(hint.to_owned()).filter(|hint| self.follow_hints && self.nodes.may_follow(hint));
        self.note(why);
    }

    /// This node cannot be reached any more.
    pub(super) async fn lost(&self, candidate: &Arc<Candidate>, why: &str) {
        self.nodes.forget(&candidate.endpoint);
        self.leave(candidate, "", why).await;
    }

    /// A node took something.
    pub(super) fn served(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Nothing was done in time.
    pub(super) fn late(&self) -> ClientError {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        ClientError::Deadline { why: why.clone() }
    }

    fn note(&self, why: &str) {
        let mut told = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone_into(&mut told);
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long to wait after so many failures in a row before the next node is asked.
fn pause(failures: u32, hinted: bool) -> Duration {
    match (failures, hinted) {
        // The common case: a follower was asked first. But two nodes may each take the other for
        // the leader, so only the first hint is followed at once.
        (0, _) | (1, true) => Duration::ZERO,
        _ => PAUSE * (1 << (failures - 1).min(DOUBLINGS)),
    }
}

/// Asking again, or somebody else, would change nothing.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::InvalidArgument
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_only_the_first_hint_is_followed_at_once() {
        let ms = |failures, hinted| pause(failures, hinted).as_millis();
        assert_eq!(
            [0, 1, 2, 3].map(|failures| ms(failures, true)),
            [0, 0, 10, 20]
        );
        assert_eq!(
            [0, 1, 2, 3].map(|failures| ms(failures, false)),
            [0, 5, 10, 20]
        );
        assert_eq!(ms(u32::MAX, false), 160);
    }
}

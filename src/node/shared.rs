//! What a node's threads and handles share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::metrics::Counter;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::digests::StateDigests;
use super::envelope::{self, InSession};
use super::events::EventSink;
use super::inbox::{Inbox, Request, Submission};
use super::live::{Applied, LiveState};
use super::metrics::{self, ReadMetrics};
use super::pipeline::PassingOn;
use super::proposing::{Counting, ProposalMetrics};
use super::replica_state::ReplicaState;
use super::status::Brief;
use super::waiters::{Waiter, Waiters};
use super::watch::{Feed, NodeView};
use crate::config::limits;
use crate::core::RaftRole;
use crate::state_machine::{CommandError, StateMachine};
use crate::types::{ClusterId, EntryKind, LogId, LogIndex, Micros, ReplicaId};

/// The node's monotonic clock, from its start on. It counts the time that the machine sleeps: who
/// slept must know that its leases are over (hazards A9, A10).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Micros);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(since_boot())
    }

    pub(crate) fn now(&self) -> Micros {
        since_boot().saturating_sub(self.0)
    }
}

fn since_boot() -> Micros {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

/// Shared by the driver, the applier and every handle.
pub(crate) struct Shared<S: StateMachine> {
    pub(crate) me: ReplicaId,
    pub(crate) cluster: ClusterId,
    pub(crate) peer_address: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) inbox: Arc<Inbox<S::Response>>,
    pub(crate) waiters: Waiters<S::Response>,
    pub(crate) passing_on: PassingOn,
    pub(crate) digests: StateDigests,
    brief: Mutex<Brief>,
    pub(crate) live: LiveState<S>,
    applied_changed: watch::Sender<LogIndex>,
    /// How many sessions are open in what is applied.
    sessions: AtomicU64,
    /// Turns of the driver that have ended. A count and not a time: a clock that jumps, or a machine
    /// that slept, must not look like a driver that hangs.
    turns: AtomicU64,
    /// It is about to be shut down.
    pub(super) leaving: AtomicBool,
    /// The driver holds committed entries back until the applier has caught up.
    apply_is_behind: AtomicBool,
    /// Until when no other leader can have been elected, by `clock`; 0 = there is no such promise.
    lease: AtomicU64,
    /// The entry at which the state machine stopped; 0 while it goes on.
    stopped_at: AtomicU64,
    /// Highest index known committed, never behind what a peer was told.
    commit: AtomicU64,
    pub(crate) stopped: watch::Sender<bool>,
    pub(crate) events: EventSink,
    pub(super) views: watch::Sender<NodeView>,
    /// What changes in the state.
    pub(super) feed: Feed,
    pub(super) reads: ReadMetrics,
    /// Watches that ended because they were behind.
    pub(super) behind: Counter,
    pub(super) proposals: Arc<ProposalMetrics>,
}

impl<S: StateMachine> Shared<S> {
    /// A try to propose `command` begins.
    pub(super) fn counting(&self, command: &S::Command) -> Counting<S::Response> {
        let command = S::command_kind(command);
        (self.proposals).begin(self.clock, command, S::response_kind)
    }

    /// `begin`: the entry that the machine's state reflects, and log time there.
    pub(crate) fn new(
        me: ReplicaId,
        cluster: ClusterId,
        peer_address: SocketAddr,
        clock: Clock,
        inbox: Arc<Inbox<S::Response>>,
        state: ReplicaState<S>,
        begin: (LogId, Micros),
    ) -> Self {
        let (id, time_us) = begin;
        Self {
            me,
            cluster,
            peer_address,
            clock,
            inbox,
            waiters: Waiters::default(),
            passing_on: PassingOn::default(),
            digests: StateDigests::default(),
            brief: Mutex::default(),
            applied_changed: watch::Sender::new(id.index),
            sessions: AtomicU64::new(state.sessions.len() as u64),
            turns: AtomicU64::new(0),
            live: LiveState::new(state, begin),
            leaving: AtomicBool::new(false),
            apply_is_behind: AtomicBool::new(false),
            lease: AtomicU64::new(0),
            stopped_at: AtomicU64::new(0),
            commit: AtomicU64::new(id.index),
            stopped: watch::Sender::new(false),
            events: EventSink::default(),
            views: watch::Sender::default(),
            feed: Feed::new(id.index, time_us),
            reads: ReadMetrics::new(me.node),
            behind: metrics::watches_behind(me.node),
            proposals: ProposalMetrics::new(me.node, S::COMMANDS),
        }
    }

    pub(crate) fn brief(&self) -> MutexGuard<'_, Brief> {
        self.brief.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It takes part no more.
    pub(crate) fn goes_down(&self) {
        {
            let mut brief = self.brief();
            brief.role = RaftRole::Follower;
            brief.leader = None;
            brief.stopping = true;
        }
        self.refresh_views();
    }

    /// Everything up to `index` is applied, and seen by who looks.
    pub(crate) fn publish(&self, index: LogIndex) {
        self.live.reach(index);
        if self.applied_changed.receiver_count() > 0 {
            self.applied_changed.send_replace(index);
        }
        self.refresh_views();
        if self.apply_is_behind.load(Ordering::Acquire) {
            self.inbox.wake();
        }
    }

    /// Figures need no more than a recent one.
    pub(crate) fn set_sessions(&self, count: usize) {
        self.sessions.store(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Only the driver's side calls it: it needs no addition that is one step.
    pub(super) fn end_turn(&self) {
        let ended = self.turns.load(Ordering::Relaxed) + 1;
        self.turns.store(ended, Ordering::Relaxed);
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn set_lease(&self, until: Option<Micros>) {
        self.lease
            .store(until.unwrap_or_default(), Ordering::SeqCst);
    }

    /// By a lease: once the state machine has applied this far, it reflects everything that anybody
    /// was told or shown so far. None without one.
    ///
    /// The commit index first, then the question: while the lease holds, nobody else has committed
    /// anything. What this node has applied would not do: a follower may have shown more.
    pub(crate) fn lease_index(&self, now: impl FnOnce() -> Micros) -> Option<LogIndex> {
        let commit = self.commit.load(Ordering::SeqCst);
        (now() < self.lease.load(Ordering::SeqCst)).then_some(commit)
    }

    /// The highest index known committed.
    pub(crate) fn commit_index(&self) -> LogIndex {
        self.commit.load(Ordering::SeqCst)
    }

    /// Before anything is sent that tells a peer of it, and before it is applied.
    pub(crate) fn set_commit(&self, commit: LogIndex) {
        self.commit.store(commit, Ordering::SeqCst);
    }

    /// The state machine cannot apply this entry.
    pub(crate) fn set_stopped_at(&self, index: LogIndex) {
        self.stopped_at.store(index, Ordering::SeqCst);
    }

    /// At which entry the state machine stopped, if it did at one.
    pub(crate) fn stopped_at(&self) -> Option<LogIndex> {
        Some(self.stopped_at.load(Ordering::SeqCst)).filter(|index| *index > 0)
    }

    pub(crate) fn set_apply_is_behind(&self, behind: bool) {
        self.apply_is_behind.store(behind, Ordering::Release);
    }

    /// Puts a command of the node's own into the queue of proposals; nobody waits for it.
    pub(crate) fn propose_due(&self, command: &S::Command) {
        match encode::<S>(None, command) {
            Ok(payload) => {
                let waiter = Waiter::new(oneshot::channel().0.into(), Micros::MAX);
                let kind = EntryKind::Command;
                self.inbox.put(|lanes| {
                    lanes.proposals.push(Submission {
                        kind,
                        payload,
                        waiter,
                        forward: false,
                    });
                });
            }
            Err(error) => tracing::error!(%error, "the state machine made an invalid command"),
        }
    }

    /// The state as applied so far. See [`LiveState::applied`].
    pub(crate) fn applied(&self) -> Arc<Applied<S::View>> {
        self.live.applied().unwrap_or_else(|(shown, why)| {
            self.inbox
                .put(|lanes| lanes.requests.push(Request::Fail(why)));
            shown
        })
    }

    /// The same, if it reflects entry `index`, which was applied: of a state machine that panicked
    /// only something older may be there.
    pub(crate) fn applied_from(&self, index: LogIndex) -> Option<Arc<Applied<S::View>>> {
        Some(self.applied()).filter(|applied| applied.id.index >= index)
    }

    pub(crate) fn applied_index(&self) -> LogIndex {
        self.live.index()
    }

    /// Tells of every later change of the applied index.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<LogIndex> {
        self.applied_changed.subscribe()
    }
}

/// The entry payload of a command: the envelope, then the state machine's bytes.
pub(crate) fn encode<S: StateMachine>(
    session: Option<InSession>,
    command: &S::Command,
) -> Result<Bytes, CommandError> {
    let mut payload = Vec::with_capacity(TYPICAL_COMMAND);
    envelope::seal(session, &mut payload);
    let head = payload.len() - envelope::LEN;
    S::encode(command, &mut payload)?;
    // A session takes nothing away from what a command may need.
    let len = payload.len() - head;
    if len > limits::MAX_COMMAND {
        let why = format!("{len} bytes encoded; at most {}", limits::MAX_COMMAND);
        return Err(CommandError {
            field: "command".to_owned(),
            why,
        });
    }
    Ok(Bytes::from(payload))
}

/// Most commands fit in this many bytes.
const TYPICAL_COMMAND: usize = 160;

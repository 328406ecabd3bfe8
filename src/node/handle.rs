//! [`RaftNode`]: the handle that programs hold.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::applier::{ApplyJob, FrozenState};
use super::inbox::{Request, Submission};
use super::live::Applied;
use super::proposing::Counting;
use super::shared::{Shared, encode};
use super::status::{Brief, NodeStatus, PeerStatus};
use super::trace::Trace;
use super::waiters::{Reply, Waiter};
use crate::config::limits;
use crate::core::RaftRole;
use crate::error::{HandOverError, LeaderHint, ProposeError, WaitError};
use crate::quic::{Credentials, PeerTransportStats, ReloadError, ReloadReport, TransportObserver};
use crate::state_machine::{RouterStateMachine, StateMachine};
use crate::types::{EntryKind, LogIndex, Micros, NodeId, Term};

/// Where the answer to a proposal goes, and what follows the proposal if somebody wants that.
pub(super) type FollowedReply<R> = (Reply<R>, Option<Box<Trace>>);

/// How long a proposal may take unless it says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// Who waits for what was not put into the driver's queue, and why it was not.
type NotTaken<R> = Box<(Waiter<R>, ProposeError)>;

/// Options of one proposal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProposeOptions {
    /// Give up waiting after this long; 5 s when absent. The answer comes within a heartbeat of it.
    pub deadline: Option<Duration>,
    /// On a node that does not lead: pass the proposal on to the leader, once. What is on its way there
    /// when the connection breaks has an unknown outcome; a node that turns out not to lead refuses, and
    /// passes nothing on a second time. A response that the state machine does not turn into bytes
    /// ([`StateMachine::response_to_peer`]) cannot come back:
    /// [`AnswerNotKept`](crate::SessionRefusal::AnswerNotKept). A [`Pipeline`](super::Pipeline)
    /// keeps its order all the way.
    pub forward: bool,
}

/// A node of a cluster: the handle. Cheap to clone; every call is `&self`, from any thread.
///
/// When the last handle is dropped the node closes in the background: it leaves its proposals
/// unanswered as "unknown", syncs and closes its log. [`shutdown`](Self::shutdown) does the same
/// and waits for it.
pub struct RaftNode<S: StateMachine = RouterStateMachine> {
    inner: Arc<Inner<S>>,
}

struct Inner<S: StateMachine> {
    shared: Arc<Shared<S>>,
    jobs: mpsc::Sender<ApplyJob<S>>,
    transport: TransportObserver,
}

impl<S: StateMachine> Drop for Inner<S> {
    fn drop(&mut self) {
        self.shared
            .inbox
            .put(|lanes| lanes.requests.push(Request::Shutdown));
    }
}

impl<S: StateMachine> Clone for RaftNode<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<S: StateMachine> std::fmt::Debug for RaftNode<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode")
            .field("id", &self.shared().me)
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> RaftNode<S> {
    pub(super) fn from_parts(
        shared: Arc<Shared<S>>,
        jobs: mpsc::Sender<ApplyJob<S>>,
        transport: TransportObserver,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                jobs,
                transport,
            }),
        }
    }

    pub(super) fn transport(&self) -> &TransportObserver {
        &self.inner.transport
    }

    pub(super) fn shared(&self) -> &Shared<S> {
        &self.inner.shared
    }

    pub(super) fn shared_handle(&self) -> Arc<Shared<S>> {
        Arc::clone(&self.inner.shared)
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.shared().me.node
    }

    /// Whether it leads right now. It may be deposed the next moment: a proposal's answer decides.
    pub fn is_leader(&self) -> bool {
        self.role() == RaftRole::Leader
    }

    /// Who leads, as far as this node knows.
    pub fn leader_id(&self) -> Option<NodeId> {
        self.shared().brief().leader
    }

    /// Who leads, where clients reach it, and the term, as far as this node knows.
    pub fn leader(&self) -> LeaderHint {
        self.shared().brief().leader_hint()
    }

    /// The term this node is in.
    pub fn current_term(&self) -> Term {
        self.shared().brief().term
    }

    /// Its role right now.
    pub fn role(&self) -> RaftRole {
        self.shared().brief().role
    }

    /// The highest index applied on this node.
    pub fn applied_index(&self) -> LogIndex {
        self.shared().applied_index()
    }

    /// Takes up other credentials of this node; see
    /// [`RaftTransport::reload`](crate::quic::RaftTransport::reload).
    ///
    /// # Errors
    /// As there.
    pub fn reload_credentials(
        &self,
        credentials: Credentials,
    ) -> Result<ReloadReport, ReloadError> {
        self.transport().reload(credentials)
    }

    /// How many sessions of clients are open, as far as this node has applied.
    pub fn sessions(&self) -> u64 {
        self.shared().sessions()
    }

    /// The address that the peer listener is bound to.
    pub fn peer_address(&self) -> SocketAddr {
        self.shared().peer_address
    }

    /// The live connections to and from the peers.
    pub fn transport_stats(&self) -> Vec<PeerTransportStats> {
        self.inner.transport.stats()
    }

    /// Everything that this node knows of itself and its peers at this moment. What changes slowly
    /// (peers, advice, failure) is up to a heartbeat old.
    pub fn status(&self) -> NodeStatus {
        let shared = self.shared();
        // What is applied first: all of it is committed, in what is shown too.
        let applied = shared.applied();
        self.status_at(applied.id.index, applied.time_us)
    }

    /// The same but for log time, and without waiting for a state machine that may hang.
    #[cfg(feature = "grpc")]
    pub(crate) fn glance(&self) -> NodeStatus {
        self.status_at(self.shared().applied_index(), 0)
    }

    fn status_at(&self, applied_index: LogIndex, log_time_us: Micros) -> NodeStatus {
        let shared = self.shared();
        let commit_index = shared.commit_index();
        let brief: Brief = shared.brief().clone();
        NodeStatus {
            id: shared.me,
            cluster: shared.cluster,
            role: brief.role,
            term: brief.term,
            leader: brief.leader_hint(),
            last: brief.last,
            durable_index: brief.durable,
            commit_index,
            applied_index,
            log_time_us,
            peers: self.peers(&brief),
            certificates: self.transport().certificate_ends(),
            refusals: self.transport().refusals(),
            syncs: brief.syncs,
            log_start: brief.log_start,
            repairing: brief.repairing,
            stopped_at: brief.stopped_at,
            feature_level: brief
                .configuration
                .as_ref()
                .map_or(0, |in_force| in_force.feature_level),
            snapshot: brief.snapshot,
            snapshots: brief.snapshots,
            advice: brief.advice,
            failure: brief.failure,
            stopping: brief.stopping || *shared.stopped.borrow(),
            turns: shared.turns(),
            disk_full: brief.disk_full,
            leaving: shared.leaving.load(Ordering::Relaxed),
        }
    }

    /// The other members, as the core and the transport see them.
    fn peers(&self, brief: &Brief) -> Vec<PeerStatus> {
        let shared = self.shared();
        let mut peers = brief.peer_statuses(shared.me, shared.clock.now());
        for peer in &mut peers {
            peer.transport = self.transport().peer(peer.node);
        }
        peers
    }

    /// Proposes a command and waits, 5 s at most, until it is applied on the leader.
    ///
    /// # Errors
    /// See [`ProposeError`]; its [`certainty`](ProposeError::certainty) tells whether the command
    /// may have taken effect. A refusal by the state machine is not an error but a response.
    pub async fn propose(&self, command: S::Command) -> Result<S::Response, ProposeError> {
        self.propose_with(command, ProposeOptions::default()).await
    }

    /// [`propose`](Self::propose) with options.
    ///
    /// # Errors
    /// As `propose`.
    pub async fn propose_with(
        &self,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<S::Response, ProposeError> {
        self.submit(command, options)?.await
    }

    /// Proposes without waiting: when this returns, the command has its place behind all that were
    /// submitted before it. The future resolves when it is applied; dropping the future does not
    /// withdraw the command.
    ///
    /// # Errors
    /// If the command is invalid, this node does not lead, or its queue is full: nothing entered
    /// the log. Later refusals come from the future.
    pub fn submit(
        &self,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<Proposal<S>, ProposeError> {
        let counting = self.shared().counting(&command);
        let (reply, answer) = oneshot::channel();
        let put = encode::<S>(None, &command).map_err(ProposeError::from);
        let put = put.and_then(|payload| {
            let reply = (reply.into(), counting.trace());
            self.enqueue(EntryKind::Command, payload, reply, options)
        });
        match put {
            Ok(()) => Ok(Proposal { answer, counting }),
            Err(error) => {
                counting.end(&Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Puts an entry into the driver's queue.
    pub(super) fn enqueue(
        &self,
        kind: EntryKind,
        payload: Bytes,
        reply: FollowedReply<S::Response>,
        options: ProposeOptions,
    ) -> Result<(), ProposeError> {
        match self.try_enqueue(kind, payload, reply, options) {
            Ok(()) => Ok(()),
            Err(refused) => Err(refused.1),
        }
    }

    /// The same; what is not taken is answered where it wants its answer.
    pub(super) fn enqueue_or_answer(
        &self,
        kind: EntryKind,
        payload: Bytes,
        reply: FollowedReply<S::Response>,
        options: ProposeOptions,
    ) {
        if let Err(refused) = self.try_enqueue(kind, payload, reply, options) {
            let (waiter, error) = *refused;
            waiter.answer(Err(error));
        }
    }

    fn try_enqueue(
        &self,
        kind: EntryKind,
        payload: Bytes,
        reply: FollowedReply<S::Response>,
        options: ProposeOptions,
    ) -> Result<(), NotTaken<S::Response>> {
        let shared = self.shared();
        let patience = options.deadline.unwrap_or(DEFAULT_DEADLINE);
        let deadline = shared
            .clock
            .now()
            .saturating_add(patience.as_micros() as Micros);
        let (reply, trace) = reply;
        let waiter = Waiter {
            reply,
            deadline,
            trace,
        };
        if *shared.stopped.borrow() {
            return Err(Box::new((waiter, ProposeError::ShuttingDown)));
        }
        let forward = options.forward;
        if let Err(error) = self.check_leads(forward) {
            return Err(Box::new((waiter, error)));
        }
        shared.inbox.put(|lanes| {
            if lanes.closed {
                return Err(Box::new((waiter, ProposeError::ShuttingDown)));
            }
            if lanes.proposals.len() >= limits::MAX_SUBMITTED {
                let budget = "the queue of proposals";
                let full = ProposeError::Overloaded {
                    budget,
                    retry_after_ms: 10,
                };
                return Err(Box::new((waiter, full)));
            }
            lanes.proposals.push(Submission {
                kind,
                payload,
                waiter,
                forward,
            });
            Ok(())
        })
    }

    /// `forward`: another node may lead.
    fn check_leads(&self, forward: bool) -> Result<(), ProposeError> {
        let brief = self.shared().brief();
        if brief.role == RaftRole::Leader {
            return Ok(());
        }
        match &brief.failure {
            Some(why) => Err(ProposeError::Failed(why.clone())),
            None if brief.stopping => Err(ProposeError::ShuttingDown),
            None if forward && brief.leader.is_some() => Ok(()),
            None => Err(ProposeError::NotLeader(brief.leader_hint())),
        }
    }

    /// The state as applied on this node so far: local, so stale without a bound on a node that is
    /// cut off. Never fails, and never holds up `apply`. What was answered before is in it.
    ///
    /// Costs an `Arc` clone, and a clone of the state machine's view if nobody has looked since the
    /// last change; waits for the one command that is being applied, at most.
    pub async fn state(&self) -> Arc<S::View> {
        Arc::clone(&self.applied().view)
    }

    /// The state with the index, time and digest that belong to it.
    pub fn applied(&self) -> Arc<Applied<S::View>> {
        self.shared().applied()
    }

    /// The state's digest with the index it is of; equal on all nodes at equal index.
    pub async fn digest(&self) -> (LogIndex, u128) {
        let applied = self.applied();
        (applied.id.index, applied.digest)
    }

    /// Waits until `index` is applied on this node, then returns the state: reads what was written
    /// before, on any node.
    ///
    /// # Errors
    /// If that did not happen within `deadline`, or the node stopped.
    pub async fn wait_applied(
        &self,
        index: LogIndex,
        deadline: Duration,
    ) -> Result<Arc<Applied<S::View>>, WaitError> {
        let shared = self.shared();
        let mut changes = shared.watch_applied();
        let mut stopped = shared.stopped.subscribe();
        let reached = async {
            while shared.applied_index() < index {
                tokio::select! {
                    changed = changes.changed() => changed.map_err(|_| WaitError::Stopped)?,
                    _ = stopped.wait_for(|stopped| *stopped) => return Err(WaitError::Stopped),
                }
            }
            shared.applied_from(index).ok_or(WaitError::Stopped)
        };
        tokio::time::timeout(deadline, reached)
            .await
            .unwrap_or_else(|_| {
                Err(WaitError::Deadline {
                    wanted: index,
                    applied: shared.applied_index(),
                })
            })
    }

    /// A consistent cut of the state, to be written out while the node goes on.
    ///
    /// # Errors
    /// If the node has stopped or its state machine has failed.
    pub async fn freeze(&self) -> Result<FrozenState, WaitError> {
        let (reply, answer) = oneshot::channel();
        self.inner
            .jobs
            .send(ApplyJob::Freeze(Box::new(|frozen| {
                let _ = reply.send(frozen);
            })))
            .map_err(|_| WaitError::Stopped)?;
        answer.await.map_err(|_| WaitError::Stopped)
    }

    /// Hands leadership over to member `to`, or to whichever voter has most of the log, and says
    /// who leads then. New commands wait meanwhile (and are then refused with the new leader's
    /// name: none of them entered the log).
    ///
    /// # Errors
    /// See [`HandOverError`]. Except for `Stopped` this node leads on if it led and still can.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, HandOverError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::HandOver { to, reply };
        let open = self.shared().inbox.put(|lanes| {
            if !lanes.closed {
                lanes.requests.push(request);
            }
            !lanes.closed
        });
        if !open {
            return Err(HandOverError::Stopped);
        }
        match tokio::time::timeout(DEFAULT_DEADLINE, answer).await {
            Ok(answer) => answer.unwrap_or(Err(HandOverError::Stopped)),
            Err(_) => Err(HandOverError::TimedOut),
        }
    }

    /// To be called before [`shutdown`](Self::shutdown) where clients are served meanwhile: from now on
    /// the node says that it is [leaving](NodeStatus::leaving), so that probes send nobody here, and if it
    /// leads it hands leadership over, to whom it says. What comes afterwards is refused with the new
    /// leader's name instead of with a closed connection.
    ///
    /// # Errors
    /// See [`HandOverError`]: it leads on, until it is shut down.
    pub async fn leave(&self) -> Result<Option<NodeId>, HandOverError> {
        self.shared().leaving.store(true, Ordering::Relaxed);
        if !self.is_leader() {
            return Ok(None);
        }
        self.transfer_leadership(None).await.map(Some)
    }

    /// Closes cleanly: hands leadership over, takes no more proposals, gives those under way a moment to end, answers the
    /// rest as unknown, syncs and closes the log. Returns when all threads are done. Later calls
    /// get [`ProposeError::ShuttingDown`]; reads go on from the last state.
    pub async fn shutdown(&self) {
        let shared = self.shared();
        let mut stopped = shared.stopped.subscribe();
        shared
            .inbox
            .put(|lanes| lanes.requests.push(Request::Shutdown));
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// A command that was submitted. Resolves when it is applied on the leader.
#[derive(Debug)]
#[must_use = "the outcome of a command is known only from its future"]
pub struct Proposal<S: StateMachine = RouterStateMachine> {
    answer: oneshot::Receiver<Result<S::Response, ProposeError>>,
    counting: Counting<S::Response>,
}

impl<S: StateMachine> Future for Proposal<S> {
    type Output = Result<S::Response, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| {
            // Only a node that came down without answering drops the sender.
            let answer = answer.unwrap_or(Err(ProposeError::Unknown { index: 0, term: 0 }));
            self.counting.end(&answer);
            answer
        })
    }
}

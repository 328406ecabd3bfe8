//! A node in its caller's thread, without clocks: for tests, and to count what the way of a command
//! takes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::applier::{Applier, ApplyJob};
use super::begin::begin;
use super::driver::{Driver, Parts, SnapshotParts};
use super::inbox::{Inbox, Request};
use super::replica_state::ReplicaState;
use super::shared::{Clock, Shared};
use super::start::settings;
use crate::config::RaftConfig;
use crate::core::{FEATURES, FoundingList, RaftCore};
use crate::network::{EventSink, LocalFacts, PeerAddress, RaftNetwork};
use crate::snapshot::SnapshotOptions;
use crate::state_machine::StateMachine;
use crate::types::{ClusterId, Micros, NodeId, ReplicaId};
use crate::wal::{LogIdentity, LogStorage, Medium, MediumEvent};

/// The cluster that they are of.
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

type Jobs<S> = Arc<Mutex<VecDeque<ApplyJob<S>>>>;

fn lock<T>(queue: &Mutex<T>) -> MutexGuard<'_, T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What node `node`'s log belongs to.
pub(crate) fn identity(node: NodeId) -> LogIdentity {
    LogIdentity {
        cluster: CLUSTER,
        node,
    }
}

/// Where a log's events go.
pub(crate) fn log_sink<R: Send + 'static>(
    inbox: &Arc<Inbox<R>>,
) -> Arc<dyn Fn(MediumEvent) + Send + Sync> {
    let inbox = Arc::clone(inbox);
    Arc::new(move |event| inbox.put(|lanes| lanes.log.push(event)))
}

/// Driver, state machine, and the work that the one has for the other.
pub(crate) struct OneThread<S: StateMachine, M: Medium, N: RaftNetwork> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) driver: Driver<S, M, N>,
    applier: Applier<S>,
    jobs: Jobs<S>,
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> OneThread<S, M, N> {
    /// A node of a cluster whose nodes are 1 to `nodes`; `plug_in` gives its network.
    ///
    /// # Errors
    /// If the log and its snapshots do not fit each other.
    pub(crate) fn start(
        log: LogStorage<M>,
        machine: S,
        inbox: Arc<Inbox<S::Response>>,
        (node, nodes, now): (NodeId, NodeId, Micros),
        plug_in: impl FnOnce(ReplicaId, &LocalFacts, EventSink) -> N,
    ) -> Result<Self, String> {
        let me = ReplicaId::new(node, log.incarnation());
        let mut state = ReplicaState::new(machine);
        let begin = begin(&log, &mut state, CLUSTER, FEATURES.1)?;
        let facts = begin.facts(0, address(node), String::new());
        let sink: EventSink = {
            let inbox = Arc::clone(&inbox);
            Arc::new(move |events| inbox.put(|lanes| lanes.network.append(events)))
        };
        let network = plug_in(me, &facts, sink);
        let (listen, clock) = (([127, 0, 0, 1], 1).into(), Clock::start());
        let shared = Shared::new(me, CLUSTER, listen, clock, inbox, state, begin.at);
        let (shared, jobs) = (Arc::new(shared), Jobs::default());
        let listed = listed(node, nodes);
        let founding = FoundingList {
            single: listed.is_empty(),
            peer_address: address(node),
            others: listed.iter().map(|peer| peer.node).collect(),
            ..FoundingList::default()
        };
        let config = RaftConfig {
            node_id: node,
            ..RaftConfig::default()
        };
        let settings = settings(&config, me);
        let driver = Driver::new(Parts {
            core: RaftCore::new(me, settings, begin.recovered, founding, now),
            log,
            network,
            apply: {
                let jobs = Arc::clone(&jobs);
                Box::new(move |job| lock(&jobs).push_back(job))
            },
            shared: Arc::clone(&shared),
            facts,
            listed,
            snapshots: SnapshotParts {
                options: SnapshotOptions::default(),
                stored: begin.stored,
                jobs: Box::new(drop),
            },
            auto_join: false,
        });
        Ok(Self {
            applier: Applier::new(Arc::clone(&shared)),
            shared,
            driver,
            jobs,
        })
    }

    /// Whether there is work for the state machine.
    #[cfg(test)]
    pub(crate) fn has_work(&self) -> bool {
        !lock(&self.jobs).is_empty()
    }

    /// Bytes of entries that wait for the state machine.
    #[cfg(test)]
    pub(crate) fn backlog(&self) -> usize {
        let bytes = |job: &ApplyJob<S>| match job {
            ApplyJob::Entries { runs, .. } => runs.iter().map(bytes::Bytes::len).sum(),
            _ => 0,
        };
        lock(&self.jobs).iter().map(bytes).sum()
    }

    /// Does one piece of the state machine's work. Whether there was any.
    pub(crate) fn work(&mut self) -> bool {
        let Some(job) = lock(&self.jobs).pop_front() else {
            return false;
        };
        if let Err(reason) = self.applier.run(job) {
            let fail = Request::Fail(reason);
            self.shared.inbox.put(|lanes| lanes.requests.push(fail));
        }
        true
    }
}

fn address(node: NodeId) -> String {
    format!("node-{node}:1")
}

fn listed(node: NodeId, nodes: NodeId) -> Vec<PeerAddress> {
    let others = (1..=nodes).filter(|other| *other != node);
    let listed = others.map(|node| PeerAddress {
        node,
        incarnation: None,
        address: address(node),
    });
    listed.collect()
}

//! A cluster without faults in one thread, on whatever medium: to count what the whole way of a
//! command takes but for threads, the frames' headers, sockets and encryption.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::ProposeError;
use crate::network::{InProcessHub, InProcessNetwork, LocalFacts};
use crate::node::driver::Now;
use crate::node::inbox::{Inbox, Lanes, Submission};
use crate::node::one_thread::{OneThread, identity, log_sink};
use crate::node::shared::encode;
use crate::node::waiters::Waiter;
use crate::state_machine::StateMachine;
use crate::types::{EntryKind, LogIndex, Micros, NodeId};
use crate::wal::{EventSink, LogOptions, LogStorage, Medium};

/// Virtual time within which a cluster has a leader, or commits something.
const PATIENCE: Micros = 60_000_000;
/// When it starts, by the wall clock.
const EPOCH: Micros = 1_700_000_000_000_000;

struct Node<S: StateMachine, M: Medium> {
    node: OneThread<S, M, InProcessNetwork>,
    deadline: Micros,
    lanes: Lanes<S::Response>,
}

/// See the module. The driver, the core, the log and the state machine are those of a node, entries
/// are verified as they come in, and time is virtual.
///
/// The medium must do its work by itself, on the caller's thread if it is to be counted.
pub struct SteadyCluster<S: StateMachine, M: Medium> {
    nodes: Vec<Node<S, M>>,
    now: Micros,
    leader: usize,
    last: LogIndex,
}

impl<S: StateMachine, M: Medium> SteadyCluster<S, M> {
    /// A new cluster of nodes 1 to `nodes` with a leader.
    ///
    /// # Errors
    /// If a log cannot be opened, or there is no leader within a minute of virtual time.
    pub fn start(
        nodes: NodeId,
        options: &LogOptions,
        machine: impl Fn() -> S,
        mut medium: impl FnMut(NodeId, EventSink) -> M,
    ) -> Result<Self, String> {
        let hub = InProcessHub::default();
        let mut cluster = Self {
            nodes: Vec::new(),
            now: 1,
            leader: 0,
            last: 0,
        };
        for id in 1..=nodes {
            let inbox: Arc<Inbox<S::Response>> = Arc::default();
            let medium = medium(id, log_sink(&inbox));
            let log = LogStorage::open(medium, identity(id), options.clone());
            let log = log.map_err(|error| error.to_string())?;
            let plug_in = |me, facts: &LocalFacts, sink| hub.attach(me, facts.clone(), sink);
            let place = (id, nodes, cluster.now);
            cluster.nodes.push(Node {
                node: OneThread::start(log, machine(), inbox, place, plug_in)?,
                deadline: cluster.now,
                lanes: Lanes::default(),
            });
        }
        let leads = |node: &Node<S, M>| node.node.driver.core().is_leader();
        cluster.run("elects no leader", |cluster| {
            cluster.nodes.iter().any(leads)
        })?;
        cluster.leader = cluster.nodes.iter().position(leads).unwrap_or_default();
        Ok(cluster)
    }

    /// Proposes all of them at once to the leader, and returns the responses once the last is there.
    /// Followers hear with what comes next that these are committed.
    ///
    /// # Errors
    /// If one is invalid, or not committed within a minute of virtual time.
    pub fn commit(&mut self, commands: &[S::Command]) -> Result<Vec<S::Response>, String> {
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            let (reply, answer) = oneshot::channel::<Result<S::Response, ProposeError>>();
            let payload = encode::<S>(None, command).map_err(|error| error.to_string())?;
            let waiter = Waiter::new(reply.into(), self.now + PATIENCE);
            let submission = Submission {
                kind: EntryKind::Command,
                payload,
                waiter,
                forward: false,
            };
            let inbox = &self.nodes[self.leader].node.shared.inbox;
            inbox.put(|lanes| lanes.proposals.push(submission));
            answers.push(answer);
        }
        let mut responses = Vec::with_capacity(commands.len());
        let mut answers = answers.into_iter().peekable();
        self.run("does not commit", |_| {
            while let Some(answer) = answers.peek_mut() {
                match answer.try_recv() {
                    Ok(answer) => responses.push(answer),
                    Err(oneshot::error::TryRecvError::Empty) => return false,
                    Err(oneshot::error::TryRecvError::Closed) => {
                        responses.push(Err(ProposeError::ShuttingDown));
                    }
                }
                answers.next();
            }
            true
        })?;
        self.last = self.nodes[self.leader].node.shared.applied_index();
        let responses: Result<Vec<_>, _> = responses.into_iter().collect();
        responses.map_err(|error| error.to_string())
    }

    /// Waits until every node has applied everything that was committed, and returns the digest of the
    /// state.
    ///
    /// # Errors
    /// If that takes more than a minute of virtual time, or the digests differ.
    pub fn settle(&mut self) -> Result<u128, String> {
        let last = self.last;
        let done = |node: &Node<S, M>| node.node.shared.applied_index() >= last;
        self.run("does not apply", |cluster| cluster.nodes.iter().all(done))?;
        let mut digests = self
            .nodes
            .iter()
            .map(|node| node.node.shared.applied().digest);
        let first = digests.next().unwrap_or_default();
        match digests.all(|digest| digest == first) {
            true => Ok(first),
            false => Err("the nodes' states differ".to_owned()),
        }
    }

    fn run(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let end = self.now + PATIENCE;
        while self.now < end {
            while self.round() {
                if done(self) {
                    return Ok(());
                }
            }
            let next = self.nodes.iter().map(|node| node.deadline).min();
            self.now = next.unwrap_or(end).clamp(self.now + 1, end);
        }
        Err(format!("the cluster {what} within a minute"))
    }

    /// Whether anything happened.
    fn round(&mut self) -> bool {
        let now = Now {
            mono: self.now,
            wall: EPOCH + self.now,
        };
        let mut busy = false;
        for Node {
            node,
            deadline,
            lanes,
        } in &mut self.nodes
        {
            node.shared.inbox.take(lanes);
            if lanes.is_empty() && now.mono < *deadline {
                continue;
            }
            busy = true;
            *deadline = node.driver.burst(now, lanes);
            while node.work() {}
        }
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::{Outcome, RouterCommand, RouterStateMachine};
    use crate::wal::{Memory, MemoryDisk};

    #[test]
    fn every_node_of_a_steady_cluster_has_what_was_answered() {
        let options = LogOptions {
            segment_bytes: 8 << 20,
            ..LogOptions::default()
        };
        let disks = [(); 3].map(|()| MemoryDisk::new());
        let medium = |node: NodeId, sink| Memory::new(&disks[node as usize - 1], sink);
        let cluster = SteadyCluster::start(3, &options, RouterStateMachine::new, medium);
        let mut cluster = cluster.expect("a leader");
        for round in 2..=4 {
            let commands = (0..100).map(|nth| RouterCommand::sized(round * 100 + nth, 100, 128));
            let commands: Vec<_> = commands.collect();
            let responses = cluster.commit(&commands).expect("committed");
            let applied = |outcome: &Outcome| matches!(outcome, Outcome::Applied(_));
            assert_eq!(responses.len(), 100);
            assert!(responses.iter().all(|response| applied(&response.outcome)));
        }
        let digest = cluster.settle().expect("equal");
        for Node { node, .. } in &cluster.nodes {
            let applied = node.shared.applied();
            assert_eq!(applied.digest, digest);
            assert_eq!(applied.view.checkpoints.source_offsets.len(), 100);
        }
    }
}

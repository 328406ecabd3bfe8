//! Clients that read what must reflect everything acknowledged before: through a quorum's word, or
//! by a lease.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::clients::{GRACE, PATIENCE};
use super::random::Random;
use crate::error::ReadError;
use crate::node::inbox::ReadWaiter;
use crate::node::shared::Shared;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, Micros, NodeId};

/// A read under way.
struct Open {
    node: NodeId,
    life: u64,
    /// The place of the newest command that anybody had an answer to, or saw, before.
    floor: u64,
    /// By the clock of the process.
    deadline: Micros,
    answer: oneshot::Receiver<Result<LogIndex, ReadError>>,
    /// What has to be applied first, once that is known.
    index: Option<LogIndex>,
    by_lease: bool,
}

/// A read that may show its node's state now.
pub(crate) struct Ready {
    pub(crate) floor: u64,
    pub(crate) how: &'static str,
}

/// See the module.
pub(crate) struct Readers {
    open: Vec<Open>,
    random: Random,
    pub(crate) by_quorum: u64,
    pub(crate) by_lease: u64,
}

impl Readers {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            open: Vec::new(),
            random: Random::named(seed, "readers", 0),
            by_quorum: 0,
            by_lease: 0,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.open.len()
    }

    /// Where somebody reads now, if anybody does.
    pub(crate) fn draw(&mut self, nodes: u64) -> Option<NodeId> {
        let reads = self.random.chance(200) && self.open.len() < 50;
        reads.then(|| 1 + self.random.below(nodes))
    }

    /// Somebody reads at a process: by its lease, if it has one, or else by asking a quorum.
    pub(crate) fn read<S: StateMachine>(
        &mut self,
        shared: &Arc<Shared<S>>,
        life: u64,
        local: Micros,
        floor: u64,
    ) {
        let by_lease = self.random.chance(700);
        let index = shared.lease_index(|| local).filter(|_| by_lease);
        let deadline = local + PATIENCE;
        let (reply, answer) = oneshot::channel();
        let waiter = ReadWaiter { reply, deadline };
        if index.is_none() {
            shared.inbox.put(|lanes| lanes.reads.push(waiter));
        }
        self.open.push(Open {
            node: shared.me.node,
            life,
            floor,
            deadline,
            answer,
            index,
            by_lease: index.is_some(),
        });
    }

    /// The reads at a process that may show its state, which is at `applied`.
    pub(crate) fn ready(
        &mut self,
        node: NodeId,
        applied: LogIndex,
        local: Micros,
    ) -> Result<Vec<Ready>, String> {
        let mut ready = Vec::new();
        let mut nth = 0;
        while let Some(open) = self.open.get_mut(nth) {
            if open.node != node || !open.look(local)? {
                nth += 1;
                continue;
            }
            let behind = open.index.is_some_and(|index| index > applied);
            // A replica that was removed may never get that far; its reader gives up in time.
            if behind && local <= open.deadline {
                nth += 1;
                continue;
            }
            let open = self.open.swap_remove(nth);
            if open.index.is_some() && !behind {
                let (counter, how) = if open.by_lease {
                    (&mut self.by_lease, "a lease")
                } else {
                    (&mut self.by_quorum, "a quorum's word")
                };
                *counter += 1;
                let floor = open.floor;
                ready.push(Ready { floor, how });
            }
        }
        Ok(ready)
    }

    /// A process died: nobody will answer those who wait.
    pub(crate) fn died(&mut self, node: NodeId, life: u64) {
        self.open
            .retain(|open| open.node != node || open.life != life);
    }
}

impl Open {
    /// Whether it was answered, with an index or with a refusal (then there is none).
    fn look(&mut self, local: Micros) -> Result<bool, String> {
        if self.index.is_some() {
            return Ok(true);
        }
        match self.answer.try_recv() {
            Ok(answer) => {
                self.index = answer.ok();
                Ok(true)
            }
            Err(TryRecvError::Empty) if local <= self.deadline + GRACE => Ok(false),
            Err(error) => Err(format!(
                "S22: a read at node {} was never answered: {error}",
                self.node
            )),
        }
    }
}

//! Clients: who proposes what, what they were told, and whether that is true.

mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::linear::{self, History, LocalReads, Shown};
use super::oracle::Oracle;
use super::random::Random;
use super::readers::{Readers, Ready};
use super::workload::Workload;
use crate::error::{Certainty, ProposeError};
use crate::node::inbox::Submission;
use crate::node::shared::{Shared, encode};
use crate::node::waiters::Waiter;
use crate::state_machine::StateMachine;
use crate::types::{EntryKind, Micros, NodeId};
use sessions::SessionClients;

/// How long a client waits.
pub(crate) const PATIENCE: Micros = 3_000_000;
/// How long one waits that is in a hurry.
const HURRY: Micros = 300_000;
/// A waiter is answered at most this long after its deadline (S22): at the next tick.
pub(crate) const GRACE: Micros = 1_000_000;
/// How many clients there are.
const CLIENTS: u64 = 8;
/// How many operations on registers each has under way at most.
const OPEN_EACH: usize = 4;

type Command<W> = <<W as Workload>::Machine as StateMachine>::Command;
type Response<W> = <<W as Workload>::Machine as StateMachine>::Response;

struct Open<W: Workload> {
    id: u64,
    client: u64,
    node: NodeId,
    life: u64,
    /// The place of the newest command that anybody had an answer to when this was proposed.
    floor: u64,
    /// By the clock of the process.
    deadline: Micros,
    command: Command<W>,
    /// Its number in the history, if it is one on a register.
    operation: Option<usize>,
    answer: oneshot::Receiver<Result<Response<W>, ProposeError>>,
}

/// A process that clients know.
struct Known<W: Workload> {
    life: u64,
    shared: Arc<Shared<W::Machine>>,
}

/// See the module.
pub(crate) struct Clients<W: Workload> {
    open: Vec<Open<W>>,
    /// What failed and is to be tried again, and by whom.
    failed: Vec<(u64, Command<W>)>,
    known: BTreeMap<NodeId, Known<W>>,
    history: History,
    reads: LocalReads,
    pub(crate) readers: Readers,
    pub(crate) sessions: SessionClients<W>,
    random: Random,
    /// Draws what has to do with registers only.
    habits: Random,
    floor: u64,
    pub(crate) proposed: u64,
    pub(crate) acked: u64,
    pub(crate) unknown: u64,
}

impl<W: Workload> Clients<W> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            open: Vec::new(),
            failed: Vec::new(),
            known: BTreeMap::new(),
            history: History::default(),
            reads: LocalReads::default(),
            readers: Readers::new(seed),
            sessions: SessionClients::new(seed),
            random: Random::named(seed, "clients", 0),
            habits: Random::named(seed, "habits", 0),
            floor: 0,
            proposed: 0,
            acked: 0,
            unknown: 0,
        }
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(crate) fn waiting(&self) -> usize {
        self.open.len() + self.readers.waiting()
    }

    /// Proposes the next command to a process, unless all clients have enough under way.
    pub(crate) fn propose(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        shared: &Arc<Shared<W::Machine>>,
        life: u64,
        local: Micros,
    ) -> Result<(), String> {
        let node = shared.me.node;
        self.meet(shared, life);
        let Some((client, command)) = self.next(workload) else {
            return Ok(());
        };
        let id = self.proposed;
        let payload = encode::<W::Machine>(None, &command);
        let payload = payload.map_err(|error| format!("the workload's command {id}: {error}"))?;
        oracle.proposes(id, &payload)?;
        let observed = workload.observes(&command);
        let operation = observed.map(|observed| self.history.invoke(client, id, observed));
        let hurry = operation.is_some() && self.habits.chance(500);
        let deadline = local + if hurry { HURRY } else { PATIENCE };
        let (reply, answer) = oneshot::channel();
        let reply = reply.into();
        shared.inbox.put(|lanes| {
            lanes.proposals.push(Submission {
                kind: EntryKind::Command,
                payload,
                waiter: Waiter::new(reply, deadline),
                forward: false,
            });
        });
        self.open.push(Open {
            id,
            client,
            node,
            life,
            floor: self.floor,
            deadline,
            command,
            operation,
            answer,
        });
        Ok(())
    }

    fn meet(&mut self, shared: &Arc<Shared<W::Machine>>, life: u64) {
        let shared = Arc::clone(shared);
        self.known.insert(shared.me.node, Known { life, shared });
    }

    /// Somebody reads at a process what must reflect everything acknowledged.
    pub(crate) fn read(&mut self, shared: &Arc<Shared<W::Machine>>, life: u64, local: Micros) {
        self.meet(shared, life);
        self.readers.read(shared, life, local, self.floor);
    }

    /// S16: what a read shows reflects everything that anybody had been told or shown before it
    /// began. From now on so does everything else.
    fn shows(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        node: NodeId,
        ready: &Ready,
    ) -> Result<(), String> {
        let Some(place) = self.look(workload, oracle, node)? else {
            return Ok(());
        };
        if place < ready.floor {
            return Err(format!(
                "S16: a read at node {node} by {} shows command number {place}, and number {} was \
                 seen before it began",
                ready.how, ready.floor
            ));
        }
        self.floor = self.floor.max(place);
        Ok(())
    }

    /// Who proposes what next: a failed command again, or a new one.
    fn next(&mut self, workload: &W) -> Option<(u64, Command<W>)> {
        let drawn = self.habits.below(CLIENTS);
        if let Some((client, command)) = self.failed.pop()
            && let Some(command) = workload.again(self.proposed + 1, &command)
        {
            self.proposed += 1;
            return Some((client, command));
        }
        let has_room = |client: &u64| {
            let open = self.open.iter();
            let open = open.filter(|open| open.client == *client && open.operation.is_some());
            open.count() < OPEN_EACH
        };
        let mut clients = (0..CLIENTS).map(|nth| (drawn + nth) % CLIENTS);
        let client = clients.find(has_room)?;
        self.proposed += 1;
        let command = workload.command(self.proposed, &mut self.random);
        Some((client, command))
    }

    /// Takes the answers that a process has given.
    pub(crate) fn poll(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        node: NodeId,
        local: Micros,
    ) -> Result<(), String> {
        let mut nth = 0;
        let mut answered = false;
        while let Some(open) = self.open.get_mut(nth) {
            if open.node != node {
                nth += 1;
                continue;
            }
            let answer = match open.answer.try_recv() {
                Ok(answer) => answer,
                Err(TryRecvError::Empty) if local <= open.deadline + GRACE => {
                    nth += 1;
                    continue;
                }
                Err(TryRecvError::Empty) => {
                    return Err(format!("S22: command {} was never answered", open.id));
                }
                Err(TryRecvError::Closed) => {
                    return Err(format!(
                        "S22: command {} was dropped by a live node",
                        open.id
                    ));
                }
            };
            let open = self.open.swap_remove(nth);
            answered |= answer.is_ok();
            self.answered(workload, oracle, open, answer)?;
        }
        self.poll_sessions(workload, oracle, node, local)?;
        if answered || self.habits.chance(50) {
            self.look(workload, oracle, node)?;
        }
        let applied = self
            .known
            .get(&node)
            .map(|known| known.shared.applied_index());
        for ready in self
            .readers
            .ready(node, applied.unwrap_or_default(), local)?
        {
            self.shows(workload, oracle, node, &ready)?;
        }
        Ok(())
    }

    fn answered(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        open: Open<W>,
        answer: Result<Response<W>, ProposeError>,
    ) -> Result<(), String> {
        match answer {
            Ok(response) => {
                let place = oracle.acked(open.id, open.floor)?;
                workload.check(open.id, place, &response)?;
                if let Some(operation) = open.operation {
                    self.history.answer(operation, workload.answers(&response));
                }
                self.reads.answered(open.node, open.life, place);
                self.floor = self.floor.max(place);
                self.acked += 1;
                Ok(())
            }
            Err(error) if error.certainty() == Certainty::NotApplied => {
                oracle.refuses(open.id, error.to_string())?;
                if let Some(operation) = open.operation {
                    self.history.refuse(operation);
                }
                self.failed(open);
                Ok(())
            }
            Err(_) => {
                self.unknown += 1;
                self.failed(open);
                Ok(())
            }
        }
    }

    /// Every other client tries again.
    fn failed(&mut self, open: Open<W>) {
        if open.operation.is_some() && self.habits.chance(500) {
            self.failed.push((open.client, open.command));
        }
    }

    /// A client reads the state that a node shows, as `RaftNode::state` does. How many commands it
    /// reflects.
    fn look(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        node: NodeId,
    ) -> Result<Option<u64>, String> {
        let Some(Known { life, shared }) = self.known.get(&node) else {
            return Ok(None);
        };
        let applied = shared.applied();
        let index = applied.id.index;
        oracle.applied(shared.me, index, applied.digest)?;
        let place = oracle.place_at(index);
        self.reads.read(node, *life, index, place)?;
        let shown = self.history.some_key(self.habits.next());
        let shown = shown.and_then(|key| Some((key, workload.shows(&applied.view, key)?)));
        if let Some((key, value)) = shown {
            self.reads.saw(Shown {
                node,
                place,
                key,
                value,
            });
        }
        Ok(Some(place))
    }

    /// A process died: nobody will answer those who wait.
    pub(crate) fn died(&mut self, node: NodeId, life: u64) {
        self.known.remove(&node);
        self.readers.died(node, life);
        self.sessions.died(node, life);
        let lost = |open: &mut Open<W>| open.node == node && open.life == life;
        let lost: Vec<_> = self.open.extract_if(.., lost).collect();
        for open in lost {
            self.unknown += 1;
            self.failed(open);
        }
    }

    /// S16 and S17: whether what all clients saw is linearizable.
    pub(crate) fn judge(&self, oracle: &Oracle) -> Result<(), String> {
        linear::judge(&self.history, &self.reads, |id| oracle.place(id))
    }

    #[cfg(test)]
    pub(crate) fn seen(&self) -> (&History, &LocalReads) {
        (&self.history, &self.reads)
    }
}

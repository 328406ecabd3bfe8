//! Clients: who proposes what, what they were told, and whether that is true.

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::oracle::Oracle;
use super::random::Random;
use super::workload::Workload;
use crate::error::{Certainty, ProposeError};
use crate::node::inbox::Submission;
use crate::node::shared::{Shared, encode};
use crate::node::waiters::Waiter;
use crate::state_machine::StateMachine;
use crate::types::{Micros, NodeId};

/// How long a client waits.
pub(crate) const PATIENCE: Micros = 3_000_000;
/// A waiter is answered at most this long after its deadline (S22): at the next tick.
const GRACE: Micros = 1_000_000;

type Response<W> = <<W as Workload>::Machine as StateMachine>::Response;

struct Open<R> {
    id: u64,
    node: NodeId,
    life: u64,
    /// The place of the newest command that anybody had an answer to when this was proposed.
    floor: u64,
    /// By the clock of the process.
    deadline: Micros,
    answer: oneshot::Receiver<Result<R, ProposeError>>,
}

/// See the module.
pub(crate) struct Clients<W: Workload> {
    open: Vec<Open<Response<W>>>,
    random: Random,
    floor: u64,
    pub(crate) proposed: u64,
    pub(crate) acked: u64,
    pub(crate) unknown: u64,
}

impl<W: Workload> Clients<W> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            open: Vec::new(),
            random: Random::named(seed, "clients", 0),
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
        self.open.len()
    }

    /// Proposes the next command to a process.
    pub(crate) fn propose(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        shared: &Shared<W::Machine>,
        life: u64,
        local: Micros,
    ) -> Result<(), String> {
        self.proposed += 1;
        let id = self.proposed;
        let command = workload.command(id, &mut self.random);
        let payload = encode::<W::Machine>(&command);
        let payload = payload.map_err(|error| format!("the workload's command {id}: {error}"))?;
        oracle.proposes(id, &payload)?;
        let (reply, answer) = oneshot::channel();
        let deadline = local + PATIENCE;
        let waiter = Waiter { reply, deadline };
        shared
            .inbox
            .put(|lanes| lanes.proposals.push(Submission { payload, waiter }));
        self.open.push(Open {
            id,
            node: shared.me.node,
            life,
            floor: self.floor,
            deadline,
            answer,
        });
        Ok(())
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
            self.answered(workload, oracle, &open, answer)?;
        }
        Ok(())
    }

    fn answered(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        open: &Open<Response<W>>,
        answer: Result<Response<W>, ProposeError>,
    ) -> Result<(), String> {
        match answer {
            Ok(response) => {
                let place = oracle.acked(open.id, open.floor)?;
                workload.check(open.id, place, &response)?;
                self.floor = self.floor.max(place);
                self.acked += 1;
                Ok(())
            }
            Err(error) if error.certainty() == Certainty::NotApplied => {
                oracle.refuses(open.id, error.to_string())
            }
            Err(_) => {
                self.unknown += 1;
                Ok(())
            }
        }
    }

    /// A process died: nobody will answer those who wait.
    pub(crate) fn died(&mut self, node: NodeId, life: u64) {
        let before = self.open.len();
        self.open
            .retain(|open| open.node != node || open.life != life);
        self.unknown += (before - self.open.len()) as u64;
    }
}

//! Handing leadership over, by hand and on a clean shutdown.

use tokio::sync::oneshot;

use super::{Cause, Driver, Now};
use crate::core::Input;
use crate::error::HandOverError;
use crate::network::RaftNetwork;
use crate::node::events::NodeEvent;
use crate::state_machine::StateMachine;
use crate::types::NodeId;
use crate::wal::Medium;

/// Who wants to know who took over.
pub(crate) type HandOverReply = oneshot::Sender<Result<NodeId, HandOverError>>;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn begin_hand_over(&mut self, now: Now, to: Option<NodeId>, reply: HandOverReply) {
        if self.hand_over.is_some() {
            let _ = reply.send(Err(HandOverError::UnderWay));
            return;
        }
        self.hand_over = Some(reply);
        self.step(now, Input::HandOver { to }, Cause::Other);
    }

    pub(super) fn hand_over_failed(&mut self, why: HandOverError) {
        if let Some(reply) = self.hand_over.take() {
            let _ = reply.send(Err(why));
        }
    }

    /// Somebody else leads: whoever asked for that is told.
    pub(super) fn notice_hand_over(&mut self) {
        let successor = self
            .core
            .leader()
            .filter(|leader| *leader != self.shared.me.node);
        self.handing_over |= self.core.is_handing_over();
        let Some(to) = successor else { return };
        if std::mem::take(&mut self.handing_over) {
            self.tell(NodeEvent::HandedOver { to });
        }
        if let Some(reply) = self.hand_over.take() {
            let _ = reply.send(Ok(to));
        }
    }

    /// A leader that stops need not leave the others to their election timeouts.
    pub(super) fn stop(&mut self, now: Now) {
        if !self.stopping {
            self.stopping = true;
            self.step(now, Input::HandOver { to: None }, Cause::Other);
        }
    }

    /// Whether there is hope that somebody takes over within an election timeout.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.core.is_handing_over()
    }
}

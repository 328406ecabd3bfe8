//! Changes of the members, and who wants to know how they end.

use tokio::sync::oneshot;

use super::{Cause, Driver, Now};
use crate::core::{Change, ChangeError, Input};
use crate::network::{PeerAddress, RaftNetwork};
use crate::state_machine::StateMachine;
use crate::types::LogIndex;
use crate::wal::Medium;

/// Who wants to know at which index the members are what was asked for.
pub(crate) type ChangeReply = oneshot::Sender<Result<LogIndex, ChangeError>>;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn change(
        &mut self,
        now: Now,
        expected: Option<LogIndex>,
        changes: Vec<Change>,
        reply: ChangeReply,
    ) {
        let refused = if self.stopping || self.failure.is_some() {
            Some(ChangeError::Stopped)
        } else {
            self.change.is_some().then_some(ChangeError::Busy)
        };
        if let Some(why) = refused {
            let _ = reply.send(Err(why));
            return;
        }
        self.change = Some(reply);
        self.step(now, Input::Change { expected, changes }, Cause::Other);
    }

    pub(super) fn change_failed(&mut self, why: ChangeError) {
        if let Some(reply) = self.change.take() {
            let _ = reply.send(Err(why));
        }
    }

    /// The change that was asked for is through once its configuration is committed and, if it was
    /// joint, the one after it. (A promotion that is still to come is a change of its own.)
    pub(super) fn notice_change(&mut self) {
        if self.change.is_none() {
            return;
        }
        let settled = self.core.settled_configuration();
        if let Some(index) = settled
            && let Some(reply) = self.change.take()
        {
            let _ = reply.send(Ok(index));
        }
    }

    /// Whom to dial: the configuration's members once there is one, the listed ones before. Of a
    /// number with two lives the one that comes.
    pub(super) fn dial(&mut self) {
        let me = self.core.me();
        let addresses = self.core.configuration().map(|configuration| {
            let newest_first = configuration.learners.iter().chain(configuration.members());
            let mut addresses: Vec<PeerAddress> = Vec::new();
            for who in newest_first.filter(|who| who.replica.node != me.node) {
                if addresses.iter().all(|known| known.node != who.replica.node) {
                    addresses.push(PeerAddress {
                        node: who.replica.node,
                        incarnation: Some(who.replica.incarnation),
                        address: who.peer_address.clone(),
                    });
                }
            }
            addresses
        });
        self.network
            .set_peers(addresses.as_deref().unwrap_or(&self.listed));
    }
}

//! A replica whose state machine stopped at an entry that it cannot apply (hazard G2).
//!
//! Its log is as sound as before: what it votes, acknowledges and commits rests on the log alone
//! (sections 5.2 to 5.4), so it goes on doing that, and a poisoned command takes away no quorum. What
//! rests on the state (responses, reads, snapshots) it refuses; that is the driver's part. It leads
//! only where nobody else can: it waits longer before it campaigns, and hands over to any voter whose
//! state machine goes on. Where none does it must lead, or the entry that skips the poisoned one could
//! never be committed.

use super::{Change, Output, RaftCore, RaftRole, ReplicaState};
use crate::types::{LogIndex, Micros};

/// So many longest election timeouts more than others it waits for a leader: they go first.
const PATIENCE: Micros = 4;

impl RaftCore {
    pub(super) fn quarantine(&mut self, now: Micros, index: LogIndex) {
        self.quarantined = Some(index);
        if self.role == RaftRole::Follower {
            self.restart_election_timer(now);
        }
    }

    /// The entry at which the state machine stopped.
    pub(crate) fn quarantined(&self) -> Option<LogIndex> {
        self.quarantined
    }

    pub(super) fn quarantine_patience(&self) -> Micros {
        match self.quarantined {
            Some(_) => PATIENCE * self.settings.election_timeout_max,
            None => 0,
        }
    }

    /// With each round of heartbeats: a voter whose state machine goes on leads better.
    pub(super) fn look_for_successor(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.quarantined.is_none() || self.is_handing_over() {
            return;
        }
        let Some(configuration) = self.configuration() else {
            return;
        };
        let horizon = now.saturating_sub(self.settings.election_timeout_min);
        let fit = self.others.iter().find(|who| {
            let peer = self.holder(**who);
            configuration.is_voter(**who)
                && peer.is_some_and(|peer| {
                    peer.state == Some(ReplicaState::Member) && peer.last_contact >= horizon
                })
        });
        if let Some(successor) = fit.map(|who| who.node) {
            self.begin_hand_over(now, Some(successor), out);
        }
    }

    /// Why an entry cannot be skipped, if it cannot. Where a majority can apply it, it would be them
    /// who had to go; and a slip of the finger must not stop who has applied it.
    pub(super) fn refuses_skip(&self, change: &Change) -> Option<&'static str> {
        let Change::Skip(index) = change else {
            return None;
        };
        if self.quarantined != Some(*index) {
            return Some("the leader's state machine has not stopped at that entry");
        }
        let stopped = |who| {
            let peer = self.holder(who);
            who == self.me || peer.is_some_and(|peer| peer.state == Some(ReplicaState::Quarantined))
        };
        let quorum = self.configuration().is_some_and(|c| c.is_quorum(stopped));
        (!quorum).then_some("no majority is known to have stopped there; try again in a moment")
    }
}

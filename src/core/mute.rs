//! A leader that is heard and cannot replicate (hazard B12): its heartbeats keep every follower
//! from electing another, while nothing commits. It must go by itself.
//!
//! What counts is whether a peer *answers* what is sent to it over the data connection or, for a
//! snapshot, the bulk one. Any answer shows that the way is open in both directions: a peer that
//! is slow, has no room, whose disk stalls or that puts a snapshot in place says so, and would be
//! no better for another leader. So only silence counts, and only of so many that no quorum is
//! left; a leader that goes for that would not have committed anything. What takes long on its way is not
//! silence either: the network says so while it gets on.

use super::peer::Peer;
use super::{Output, RaftCore, RaftRole};
use crate::types::{LogIndex, Micros, NodeId, ReplicaId};

/// Longest election timeouts. A window without an answer is sent again after each, so that many
/// attempts failed.
const PATIENCE: Micros = 10;

impl Peer {
    /// Whether it lacks something, and since when it has not answered although it does.
    pub(super) fn owe(&mut self, now: Micros, last: LogIndex) {
        if self.match_index >= last {
            self.owed_since = None;
        } else {
            self.owed_since.get_or_insert(now);
        }
    }

    /// It answered something that was not a heartbeat.
    pub(super) fn answered_data(&mut self) {
        self.owed_since = None;
    }
}

impl RaftCore {
    /// Its answer is still to come, and another leader would wait as long for it.
    pub(super) fn gets_through(&mut self, now: Micros, node: NodeId, epoch: u64) {
        let peer = self.peers.get_mut(&node).filter(|p| p.data == Some(epoch));
        if let Some(since) = peer.and_then(|peer| peer.owed_since.as_mut()) {
            *since = now;
        }
    }

    /// Steps down if no quorum has answered anything but heartbeats for long. It lets others
    /// campaign first: all of them can do what it cannot.
    pub(super) fn tick_mute(&mut self, now: Micros, out: &mut Vec<Output>) {
        let longest = self.settings.election_timeout_max;
        let horizon = now.saturating_sub(PATIENCE * longest);
        let reached = |who: ReplicaId| {
            let peer = self.holder(who);
            let silent = |peer: &Peer| peer.owed_since.is_some_and(|since| since <= horizon);
            who == self.me || peer.is_some_and(|peer| !silent(peer))
        };
        let replicates = self
            .configuration()
            .is_some_and(|configuration| configuration.is_quorum(reached));
        if self.role == RaftRole::Leader && !replicates {
            self.step_down(now, "no quorum answers what it replicates", out);
            self.election_deadline = now + 2 * longest;
        }
    }
}

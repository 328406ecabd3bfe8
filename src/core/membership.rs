//! Changing who belongs to the cluster, one change at a time and by joint consensus (section 6;
//! thesis, chapter 4).

use std::sync::Arc;

use super::change::Change;
use super::configuration::{Configuration, Promotion};
use super::{AppendSource, Event, Output, RaftCore, RaftRole};
use crate::types::{LogIndex, Micros, ReplicaId};

/// Why the members were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// Another change is under way, or nothing of this leader's term is committed yet.
    #[error("another change is under way, or the leader is new; try again in a moment")]
    Busy,
    /// The leader's log has no room for it.
    #[error("the leader's log has no room: is its disk full? try again once it is not")]
    NoRoom,
    /// The members are not those that the change was meant for.
    #[error("the members have changed meanwhile, at index {now}")]
    Changed {
        /// Index of the configuration in force.
        now: LogIndex,
    },
    /// It would make no sense; nothing was changed.
    #[error("{0}")]
    Invalid(&'static str),
    /// Leadership or time ran out before the change was through: it may yet be.
    #[error("outcome unknown: the change may still go through; look at the members")]
    Unknown,
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl RaftCore {
    /// Begins a change, if the members are still those of the configuration at `expected`.
    pub(super) fn change(
        &mut self,
        expected: Option<LogIndex>,
        changes: &[Change],
        out: &mut Vec<Output>,
    ) {
        match self.changed(expected, changes) {
            Ok(next) => self.append_configuration(next, out),
            Err(why) => out.push(Output::Event(Event::ChangeRefused { why })),
        }
    }

    fn changed(
        &self,
        expected: Option<LogIndex>,
        changes: &[Change],
    ) -> Result<Configuration, ChangeError> {
        let (index, current) = match self.configurations.last() {
            Some(last) if self.role == RaftRole::Leader => last,
            _ => return Err(ChangeError::NotLeader),
        };
        if expected.is_some_and(|expected| expected != *index) {
            return Err(ChangeError::Changed { now: *index });
        }
        if self.no_room {
            return Err(ChangeError::NoRoom);
        }
        if !self.may_change() {
            return Err(ChangeError::Busy);
        }
        if let Some(why) = changes.iter().find_map(|change| self.refuses_skip(change)) {
            return Err(ChangeError::Invalid(why));
        }
        let next = current.after(changes).map_err(ChangeError::Invalid)?;
        Ok(current.towards(next))
    }

    /// One change at a time (hazard E3), and none before an entry of the term is committed: else
    /// two leaders may change the same configuration without knowing of each other (hazard E1).
    pub(crate) fn may_change(&self) -> bool {
        self.settled_configuration().is_some()
            && self.knows_what_is_committed()
            && !self.is_handing_over()
    }

    fn append_configuration(&mut self, next: Configuration, out: &mut Vec<Output>) {
        let index = self.log.last().index + 1;
        let configuration = Arc::new(next);
        self.log.append(self.hard.term, 1);
        let source = AppendSource::Configuration {
            index,
            configuration: Arc::clone(&configuration),
        };
        self.persist(out, |write| write.append = source);
        self.adopt_configuration(index, configuration, out);
    }

    /// After a burst: a leader finishes by itself what is committed, whoever began it.
    pub(super) fn settle_membership(&mut self, now: Micros, out: &mut Vec<Output>) {
        let Some((index, current)) = self.configurations.last() else {
            return;
        };
        if *index > self.commit || !self.knows_what_is_committed() {
            return;
        }
        let current = Arc::clone(current);
        if current.outgoing.is_empty() && !current.is_voter(self.me) {
            self.leave(now, out);
        } else if self.no_room {
            // Finished later, by this leader or the next.
        } else if !current.outgoing.is_empty() {
            self.append_configuration(current.left_joint(), out);
        } else if let Some(promotion) = self.caught_up(now, &current)
            && self.may_change()
        {
            let next = current.promoted(&promotion);
            self.append_configuration(current.towards(next), out);
        } else if let Some(next) = self.raised(&current)
            && self.may_change()
        {
            self.append_configuration(next, out);
        }
    }

    /// A leader that is no voter any more goes once that is committed (hazard E5), and names its
    /// successor, so that nobody has to wait for a timeout.
    fn leave(&mut self, now: Micros, out: &mut Vec<Output>) {
        if !self.is_handing_over() {
            self.begin_hand_over(now, None, out);
        }
        if self.hand_over.attempted || !self.is_handing_over() {
            self.step_down(now, "it is no voter any more", out);
        }
    }

    /// The newest configuration that is known to be committed, and its index.
    pub fn committed_configuration(&self) -> Option<&(LogIndex, Arc<Configuration>)> {
        let mut newest_first = self.configurations.iter().rev();
        newest_first.find(|(index, _)| *index <= self.commit)
    }

    /// Index of the configuration in force, if no change is under way.
    pub(crate) fn settled_configuration(&self) -> Option<LogIndex> {
        let (index, current) = self.configurations.last()?;
        let settled = *index <= self.commit && current.outgoing.is_empty();
        settled.then_some(*index)
    }

    /// A learner that is to vote and has caught up: it took no longer than an election timeout to
    /// get all that the log held when it was last asked (thesis, section 4.2.1; hazard E7).
    fn caught_up(&mut self, now: Micros, current: &Configuration) -> Option<Promotion> {
        let last = self.log.last().index;
        let patience = self.settings.election_timeout_min;
        let done = |promotion: &&Promotion| {
            let peer = self.peers.get_mut(&promotion.learner.node);
            let Some(peer) =
                peer.filter(|peer| peer.answered == Some(promotion.learner) && !peer.repairing)
            else {
                return false;
            };
            if peer.match_index < peer.round_goal || peer.match_index == 0 {
                return false;
            }
            let quick = peer.round_goal > 0 && now - peer.round_began <= patience;
            (peer.round_goal, peer.round_began) = (last, now);
            quick
        };
        current.promotions.iter().find(done).copied()
    }

    /// What a leader knows of members that were not there before: nothing.
    pub(super) fn welcome(&mut self, before: &[ReplicaId]) {
        let next = self.log.last().index + 1;
        for member in self.others().iter().filter(|who| !before.contains(who)) {
            self.peers
                .entry(member.node)
                .or_default()
                .start_term(next, 0);
        }
    }

    /// Whether this replica was removed from the cluster, for good: it is told so instead of being
    /// given a vote (hazard E6). A removal that is not committed may still be undone, and needs the
    /// votes of those that it removes.
    pub(super) fn was_removed(&self, who: ReplicaId) -> bool {
        self.committed_configuration()
            .is_some_and(|(_, configuration)| {
                configuration.tombstones.contains(&who) && !configuration.is_voter(who)
            })
    }
}

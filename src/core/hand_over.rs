//! Handing leadership over to a member that has all of the log (thesis, section 3.10).

use super::message::{Message, TimeoutNow, TimeoutNowReply};
use super::preference::Preference;
use super::{Event, Output, RaftCore, RaftRole};
use crate::types::{Micros, NodeId, ReplicaId};

/// A leader's attempts in one term.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct HandOver {
    under_way: Option<Attempt>,
    /// A target may campaign in this term although a leader is heard: leases count no more
    /// (hazard A9).
    pub(super) attempted: bool,
    pub(super) preference: Preference,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    target: ReplicaId,
    /// When it is given up.
    until: Micros,
    /// The target was told to campaign.
    urged: bool,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// Another attempt is under way.
    #[error("leadership is being handed over already")]
    UnderWay,
    /// The target is this node or no voter, or no other voter answers.
    #[error("there is no such other voter that answers")]
    NoTarget,
    /// The target refused: its log lacks something, or its disk stalls.
    #[error("the target refused")]
    Refused,
    /// It did not happen within an election timeout. The node leads on if it still can.
    #[error("nobody took over within an election timeout")]
    TimedOut,
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl RaftCore {
    /// Begins to hand over to `to`, or to whoever is closest to having the whole log.
    pub(super) fn begin_hand_over(
        &mut self,
        now: Micros,
        to: Option<NodeId>,
        out: &mut Vec<Output>,
    ) {
        let target = if self.role != RaftRole::Leader {
            Err(HandOverError::NotLeader)
        } else if self.hand_over.under_way.is_some() {
            Err(HandOverError::UnderWay)
        } else {
            self.hand_over_target(now, to)
                .ok_or(HandOverError::NoTarget)
        };
        match target {
            Ok(target) => {
                let until = now + self.settings.election_timeout_max;
                self.hand_over.under_way = Some(Attempt {
                    target,
                    until,
                    urged: false,
                });
                self.urge_target(out);
            }
            Err(why) => out.push(Output::Event(Event::HandOverFailed { why })),
        }
    }

    /// Voters that answered within an election timeout; of those, if none is named, the one with
    /// most of the log.
    fn hand_over_target(&self, now: Micros, to: Option<NodeId>) -> Option<ReplicaId> {
        let horizon = now.saturating_sub(self.settings.election_timeout_min);
        let configuration = self.configuration()?;
        let voters = self
            .others
            .iter()
            .filter(|who| configuration.is_voter(**who));
        let wanted = voters.filter(|who| to.is_none_or(|to| to == who.node));
        let answering = wanted.filter_map(|who| {
            let peer = self.holder(*who)?;
            (peer.last_contact >= horizon).then_some((peer.match_index, *who))
        });
        answering.max_by_key(|(held, _)| *held).map(|(_, who)| who)
    }

    /// Whether new commands should wait, since they could only delay the hand-over.
    pub fn is_handing_over(&self) -> bool {
        self.hand_over.under_way.is_some()
    }

    /// Tells the target to campaign once it has all of the log. Said again with every heartbeat,
    /// since it may get lost.
    pub(super) fn urge_target(&mut self, out: &mut Vec<Output>) {
        let last = self.log.last();
        let Some(attempt) = &mut self.hand_over.under_way else {
            return;
        };
        let target = attempt.target;
        let holds_all = self
            .peers
            .get(&target.node)
            .is_some_and(|peer| peer.match_index == last.index);
        if holds_all {
            attempt.urged = true;
            self.hand_over.attempted = true;
            let urge = TimeoutNow {
                term: self.hard.term,
                target: target.incarnation,
                last,
            };
            self.send(target.node, Message::TimeoutNow(urge), None, out);
        }
    }

    /// After a burst: the target may have all of the log now.
    pub(super) fn settle_hand_over(&mut self, out: &mut Vec<Output>) {
        let waits = |attempt: &Attempt| !attempt.urged;
        if self.hand_over.under_way.as_ref().is_some_and(waits) {
            self.urge_target(out);
        }
    }

    /// When the attempt is given up.
    pub(super) fn hand_over_ends(&self) -> Micros {
        let under_way = self.hand_over.under_way.as_ref();
        under_way.map_or(Micros::MAX, |attempt| attempt.until)
    }

    pub(super) fn tick_hand_over(&mut self, now: Micros, out: &mut Vec<Output>) {
        if now >= self.hand_over_ends() {
            self.abort_hand_over(HandOverError::TimedOut, out);
        }
    }

    fn abort_hand_over(&mut self, why: HandOverError, out: &mut Vec<Output>) {
        if self.hand_over.under_way.take().is_some() {
            out.push(Output::Event(Event::HandOverFailed { why }));
        }
    }

    pub(super) fn on_timeout_now(
        &mut self,
        now: Micros,
        from: ReplicaId,
        urge: TimeoutNow,
        out: &mut Vec<Output>,
    ) {
        // Of a term that is over, or said twice: the campaign is under way, or was.
        if urge.term != self.hard.term || self.leader != Some(from.node) {
            return;
        }
        let accepted = urge.target == self.me.incarnation
            && self.may_campaign()
            && self.quarantined.is_none()
            && self.log.last() == urge.last;
        if accepted {
            self.campaign_for_hand_over(now, out);
        }
        let reply = TimeoutNowReply {
            term: self.hard.term,
            incarnation: self.me.incarnation,
            accepted,
        };
        self.send(
            from.node,
            Message::TimeoutNowReply(reply),
            self.term_write,
            out,
        );
    }

    pub(super) fn on_timeout_now_reply(
        &mut self,
        now: Micros,
        from: ReplicaId,
        reply: TimeoutNowReply,
        out: &mut Vec<Output>,
    ) {
        if reply.term > self.hard.term {
            return self.enter_term(now, reply.term, out);
        }
        let target = self
            .hand_over
            .under_way
            .as_ref()
            .map(|attempt| attempt.target);
        let current = reply.term == self.hard.term && target == Some(from);
        if current && !reply.accepted && reply.incarnation == from.incarnation {
            self.abort_hand_over(HandOverError::Refused, out);
        }
    }
}

//! Elections: pre-vote, vote, and who may disturb whom (sections 5.2 and 5.4.1; thesis, 9.6).

use std::collections::BTreeSet;

use super::message::{Message, ReplicaState, VoteReason, VoteReply, VoteRequest};
use super::{Event, Output, RaftCore, RaftRole};
use crate::types::{HardState, Micros, NodeId, ReplicaId, WriteId};

/// One round of asking, for pre-votes or for votes.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Campaign {
    /// Never used twice, so that replies to an earlier round are void (hazard A6).
    pub(super) round: u64,
    pub(super) granted: BTreeSet<ReplicaId>,
    /// The write of the own vote, while it is not durable: until then it counts for nobody (A1).
    pub(super) own_vote: Option<WriteId>,
    /// The leader asked for it: voters answer although they hear that leader.
    transfer: bool,
}

impl Campaign {
    fn begin(&mut self) {
        self.round += 1;
        self.granted.clear();
        self.own_vote = None;
        self.transfer = false;
    }
}

impl RaftCore {
    /// The election timer ran out.
    pub(super) fn election_timeout(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.restart_election_timer(now);
        if self.may_campaign() {
            self.pre_campaign(now, out);
        } else if self.is_repairing() {
            self.advise_repairing(out);
        } else {
            self.advise_if_left_out(out);
            if self.was_removed(self.me) {
                self.advise_removed(out);
            }
        }
    }

    /// A blank node never campaigns, nor does a member while the founding is not complete: nothing
    /// can have been committed, and a second history must not begin.
    pub(super) fn may_campaign(&self) -> bool {
        let able = !self.disk_stalls && !self.no_room;
        self.votes() && !self.is_repairing() && !self.founding_is_open() && able
    }

    fn pre_campaign(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.role = RaftRole::PreCandidate;
        self.leader = None;
        self.campaign.begin();
        self.campaign.granted.insert(self.me);
        if self.has_won() {
            return self.campaign_now(now, out);
        }
        self.ask_all(out);
    }

    /// Without a pre-vote: the leader itself wants it (thesis, section 3.10).
    pub(super) fn campaign_for_hand_over(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.begin_campaign(now, true, out);
    }

    pub(super) fn campaign_now(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.begin_campaign(now, false, out);
    }

    /// Asks for real votes: a new term, the own vote first (section 5.2).
    fn begin_campaign(&mut self, now: Micros, transfer: bool, out: &mut Vec<Output>) {
        self.role = RaftRole::Candidate;
        self.leader = None;
        self.verified = 0;
        self.hard = HardState {
            term: self.hard.term + 1,
            voted_for: self.me,
        };
        self.campaign.begin();
        self.campaign.transfer = transfer;
        self.restart_election_timer(now);
        let hard = self.hard;
        let write = self.persist(out, |write| write.hard_state = Some(hard));
        self.campaign.own_vote = Some(write);
        self.ask_all(out);
    }

    fn ask_all(&mut self, out: &mut Vec<Output>) {
        for voter in self.others().iter() {
            self.ask_vote(voter.node, out);
        }
    }

    /// Sends the current round's request to one member.
    pub(super) fn ask_vote(&mut self, node: NodeId, out: &mut Vec<Output>) {
        let asked = self
            .configuration()
            .and_then(|configuration| configuration.member(node));
        if asked.is_none() {
            return;
        }
        let pre = self.role == RaftRole::PreCandidate;
        let request = VoteRequest {
            term: self.hard.term + u64::from(pre),
            incarnation: self.me.incarnation,
            round: self.campaign.round,
            last: self.log.last(),
            transfer: self.campaign.transfer,
        };
        let message = if pre {
            Message::PreVote(request)
        } else {
            Message::Vote(request)
        };
        self.send(node, message, self.term_write, out);
    }

    fn has_won(&self) -> bool {
        let granted = |who| self.campaign.granted.contains(&who);
        self.configuration()
            .is_some_and(|configuration| configuration.is_quorum(granted))
    }

    /// Why this replica refuses its (pre-)vote, if it does. Stickiness and the log decide the same
    /// for both; a refusal for stickiness changes neither term nor vote (hazards A4, A9).
    fn refusal(&self, now: Micros, request: &VoteRequest) -> VoteReason {
        let leading = self.role == RaftRole::Leader;
        if (leading || now < self.sticky_until) && !request.transfer {
            VoteReason::Sticky
        } else if request.last < self.log.last() {
            VoteReason::LogBehind
        } else {
            VoteReason::Granted
        }
    }

    pub(super) fn on_pre_vote(
        &mut self,
        now: Micros,
        from: ReplicaId,
        request: VoteRequest,
        out: &mut Vec<Output>,
    ) {
        let reason = if self.was_removed(from) || self.is_repairing() {
            VoteReason::NoVoter
        } else if request.term <= self.hard.term {
            VoteReason::StaleTerm
        } else {
            self.refusal(now, &request)
        };
        let granted = reason == VoteReason::Granted;
        let reply = VoteReply {
            // A rejection carries the own term, for the asker to adopt (hazard A5).
            term: if granted {
                request.term
            } else {
                self.hard.term
            },
            incarnation: self.me.incarnation,
            round: request.round,
            granted,
            reason,
            state: self.state(),
        };
        self.send(
            from.node,
            Message::PreVoteReply(reply),
            self.term_write,
            out,
        );
    }

    pub(super) fn on_vote(
        &mut self,
        now: Micros,
        from: ReplicaId,
        request: VoteRequest,
        out: &mut Vec<Output>,
    ) {
        let reason = self.judge_vote(now, from, &request, out);
        if reason == VoteReason::Granted {
            // Its own pre-vote round ends too: late replies to it would depose whom it just chose.
            self.step_down(now, "it voted for another", out);
            self.restart_election_timer(now);
        }
        let reply = VoteReply {
            term: self.hard.term,
            incarnation: self.me.incarnation,
            round: request.round,
            granted: reason == VoteReason::Granted,
            reason,
            state: self.state(),
        };
        // `term_write` covers the vote: it is the newest write of term and vote.
        self.send(from.node, Message::VoteReply(reply), self.term_write, out);
    }

    fn judge_vote(
        &mut self,
        now: Micros,
        from: ReplicaId,
        request: &VoteRequest,
        out: &mut Vec<Output>,
    ) -> VoteReason {
        if self.was_removed(from) || self.is_repairing() {
            return VoteReason::NoVoter;
        }
        if request.term < self.hard.term {
            return VoteReason::StaleTerm;
        }
        let refusal = self.refusal(now, request);
        if refusal == VoteReason::Sticky {
            return refusal;
        }
        if request.term > self.hard.term {
            self.enter_term(now, request.term, out);
        }
        let free = self.hard.voted_for.node == 0 || self.hard.voted_for == from;
        if !free {
            return VoteReason::AlreadyVoted;
        }
        if refusal == VoteReason::Granted && self.hard.voted_for != from {
            self.hard.voted_for = from;
            let hard = self.hard;
            self.persist(out, |write| write.hard_state = Some(hard));
        }
        refusal
    }

    /// Adopts a newer term that a reply told of. Whether the reply is of the round going on, from a
    /// voter in the life that the configuration names.
    fn counts(
        &mut self,
        now: Micros,
        from: ReplicaId,
        reply: &VoteReply,
        role: RaftRole,
        out: &mut Vec<Output>,
    ) -> bool {
        let repairing = reply.state == ReplicaState::Repairing;
        if reply.reason == VoteReason::NoVoter && !reply.granted && !repairing {
            self.advise_removed(out);
        }
        if !reply.granted && reply.term > self.hard.term {
            self.enter_term(now, reply.term, out);
            return false;
        }
        let current = self.role == role && reply.round == self.campaign.round;
        let known = self
            .configuration()
            .is_some_and(|configuration| configuration.is_voter(from));
        current && known && reply.granted && reply.incarnation == from.incarnation
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        now: Micros,
        from: ReplicaId,
        reply: VoteReply,
        out: &mut Vec<Output>,
    ) {
        let counts = self.counts(now, from, &reply, RaftRole::PreCandidate, out);
        if counts && reply.term == self.hard.term + 1 {
            self.campaign.granted.insert(from);
            if self.has_won() {
                self.campaign_now(now, out);
            }
        }
    }

    pub(super) fn on_vote_reply(
        &mut self,
        now: Micros,
        from: ReplicaId,
        reply: VoteReply,
        out: &mut Vec<Output>,
    ) {
        let counts = self.counts(now, from, &reply, RaftRole::Candidate, out);
        if counts && reply.term == self.hard.term {
            self.campaign.granted.insert(from);
            self.lead_if_won(now, out);
        }
    }

    /// The own vote counts once it is durable (hazard A1).
    pub(super) fn own_vote_durable(&mut self, now: Micros, out: &mut Vec<Output>) {
        let waits = |write: WriteId| self.writes.iter().any(|(id, _)| *id <= write);
        let durable = self.campaign.own_vote.is_some_and(|write| !waits(write));
        if self.role == RaftRole::Candidate && durable {
            self.campaign.own_vote = None;
            self.campaign.granted.insert(self.me);
            self.lead_if_won(now, out);
        }
    }

    fn lead_if_won(&mut self, now: Micros, out: &mut Vec<Output>) {
        if !self.has_won() {
            return;
        }
        // The term cannot be opened without its no-op (section 8); a voter with room may lead next.
        if self.no_room {
            return self.step_down(
                now,
                "its log has no room for the entry that opens a term",
                out,
            );
        }
        out.push(Output::Event(Event::BecameLeader {
            term: self.hard.term,
        }));
        self.begin_leading(now, out);
    }
}

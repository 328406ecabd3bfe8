//! Leading: replication, commit, heartbeats, check-quorum (sections 5.3 and 5.4.2; thesis, 6.2).

use super::hand_over::HandOver;
use super::message::{AppendAck, AppendEntries, AppendStatus, Heartbeat, HeartbeatReply, Message};
use super::peer::Peer;
use super::window::Inflight;
use super::{AppendSource, Output, RaftCore, RaftRole};
use crate::types::{LogId, LogIndex, Micros, NodeId, ReplicaId};

impl RaftCore {
    pub(super) fn begin_leading(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.role = RaftRole::Leader;
        self.leader = Some(self.me.node);
        self.hand_over = HandOver::default();
        self.digests.begin_term();
        let index = self.log.last().index + 1;
        for member in self.others().iter() {
            self.peers
                .entry(member.node)
                .or_default()
                .start_term(index, now);
        }
        // Entries of older terms commit through it (sections 5.4.2 and 8).
        self.log.append(self.hard.term, 1);
        self.persist(out, |write| write.append = AppendSource::Noop { index });
        self.heartbeat(now, out);
    }

    pub(super) fn propose(&mut self, count: u32, out: &mut Vec<Output>) {
        if self.role != RaftRole::Leader || count == 0 {
            return;
        }
        let first = self.log.last().index + 1;
        self.log.append(self.hard.term, u64::from(count));
        self.persist(out, |write| {
            write.append = AppendSource::Proposals { first, count }
        });
    }

    pub(super) fn leader_deadline(&self) -> Micros {
        let patience = self.settings.election_timeout_max;
        let ends = self
            .peers
            .values()
            .filter_map(|peer| peer.silence_ends(patience));
        let first = self.heartbeat_due.min(self.hand_over_ends());
        let others = self.others();
        let paced = others.iter().filter_map(|member| {
            let peer = self.peers.get(&member.node)?;
            let (opens, _) = peer.sends(self.log.last().index, &self.settings)?;
            let reached = peer.answered == Some(*member) && peer.data.is_some();
            // Only time holds it up; what holds up the others ends otherwise.
            (reached && opens > 0).then_some(opens)
        });
        ends.chain(paced).fold(first, Micros::min)
    }

    pub(super) fn tick_leader(&mut self, now: Micros, out: &mut Vec<Output>) {
        // A process that slept longer than an election timeout was deposed in the meantime: step
        // down before anything that queued up is answered (hazard A10).
        if now > self.heartbeat_due + self.settings.election_timeout_max {
            return self.step_down(now, "the process was paused", out);
        }
        let patience = self.settings.election_timeout_max;
        for peer in self.peers.values_mut() {
            if peer.silence_ends(patience).is_some_and(|end| now >= end) {
                peer.silent();
            }
        }
        if !self.hears_quorum(now) {
            return self.step_down(now, "no quorum answers", out);
        }
        self.tick_mute(now, out);
        if self.role != RaftRole::Leader {
            return;
        }
        self.tick_hand_over(now, out);
        self.tick_preference(now, out);
        if now >= self.heartbeat_due {
            self.heartbeat(now, out);
        }
    }

    /// Check-quorum: replies, not sends, within an election timeout (hazard A8).
    fn hears_quorum(&self, now: Micros) -> bool {
        let horizon = now.saturating_sub(self.settings.election_timeout_max);
        let heard = |who: ReplicaId| {
            let peer = self.holder(who);
            who == self.me || peer.is_some_and(|peer| peer.last_contact >= horizon)
        };
        self.configuration()
            .is_some_and(|configuration| configuration.is_quorum(heard))
    }

    pub(super) fn heartbeat(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.heartbeat_due = now + self.settings.heartbeat_interval;
        self.reads.begin_round();
        for member in self.others().iter() {
            // A refusal ends by a timer too, should the transport never say that there is room (B9).
            if let Some(peer) = self.peers.get_mut(&member.node)
                && peer.answered == Some(*member)
            {
                peer.refused = false;
                self.send_heartbeat(now, member.node, out);
            }
        }
        self.urge_target(out);
        self.tell_open_difference(now, out);
        self.look_for_successor(now, out);
    }

    pub(super) fn send_heartbeat(&mut self, now: Micros, node: NodeId, out: &mut Vec<Output>) {
        let read_id = self.reads.round();
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let Some(epoch) = peer.control else { return };
        let (digest_index, digest) = self.digests.agreed();
        let heartbeat = Heartbeat {
            term: self.hard.term,
            epoch,
            seq: peer.control_seq,
            commit: self.commit.min(peer.match_index),
            sent_at: now,
            read_id,
            digest_index,
            digest,
        };
        peer.control_seq += 1;
        self.send(node, Message::Heartbeat(heartbeat), None, out);
    }

    pub(super) fn on_heartbeat_reply(
        &mut self,
        now: Micros,
        from: ReplicaId,
        reply: HeartbeatReply,
        out: &mut Vec<Output>,
    ) {
        let round = self.reads.round();
        let promised = Micros::from(reply.election_timeout_min_ms) * 1000;
        let lease = self.lease_of(promised);
        if let Some(peer) = self.replying_peer(now, from, reply.term, reply.incarnation, out)
            && peer.control == Some(reply.epoch)
        {
            peer.last_contact = now;
            if !peer.says(reply.state) {
                return;
            }
            peer.read_round = peer.read_round.max(reply.read_id.min(round));
            // From when it was sent: that is when the promise began, at the latest.
            let until = reply.sent_at.min(now) + lease;
            if lease > 0 {
                peer.lease_until = peer.lease_until.max(until);
            }
            self.confirm_reads(out);
            let (index, digest) = (reply.digest_index, reply.digest);
            self.on_member_digest(now, from, index, digest, out);
        }
    }

    /// The peer of a reply in the current term, from the life that the configuration names. A newer
    /// term in it ends this leadership.
    pub(super) fn replying_peer(
        &mut self,
        now: Micros,
        from: ReplicaId,
        term: u64,
        incarnation: crate::types::Incarnation,
        out: &mut Vec<Output>,
    ) -> Option<&mut Peer> {
        if term > self.hard.term {
            self.enter_term(now, term, out);
            return None;
        }
        let member = self
            .configuration()?
            .members()
            .any(|member| member.replica == from);
        let counts = self.role == RaftRole::Leader
            && term == self.hard.term
            && member
            && incarnation == from.incarnation;
        let peer = self.peers.get_mut(&from.node).filter(|_| counts)?;
        (peer.answered == Some(from)).then_some(peer)
    }

    pub(super) fn on_append_ack(
        &mut self,
        now: Micros,
        from: ReplicaId,
        ack: AppendAck,
        out: &mut Vec<Output>,
    ) {
        let last = self.log.last().index;
        let hint = self
            .log
            .agreement_below(ack.conflict.index, ack.conflict.term);
        let retry_at = now + self.settings.heartbeat_interval;
        let start = self.log.snapshot();
        // `conflict` is the last entry at which its log could agree with ours: before our start.
        let lacks_start = ack.conflict.index < start.index || ack.conflict.term < start.term;
        let Some(peer) = self.replying_peer(now, from, ack.term, ack.incarnation, out) else {
            return;
        };
        // Acks of another epoch, or beyond what was sent, are inert (hazards B3, S15).
        if peer.data != Some(ack.epoch) {
            return;
        }
        peer.answered_data();
        if !peer.window.answered(now, ack.seq) {
            if ack.status == AppendStatus::Matched && ack.match_index <= last {
                peer.matched_late(ack.seq, ack.match_index);
            }
            return;
        }
        peer.last_contact = now;
        peer.says(ack.state);
        match ack.status {
            AppendStatus::Matched if ack.match_index <= last => peer.matched(ack.match_index),
            // What it would have to hold for its log to be mended entry by entry is gone here.
            AppendStatus::Conflict if lacks_start && peer.match_index < start.index => {
                peer.conflicted(ack.conflict.index.min(start.index - 1) + 1);
            }
            AppendStatus::Conflict if hint.index >= peer.match_index => {
                peer.conflicted(hint.index + 1);
            }
            // No room there, or entries lost that it had acknowledged (hazard C5): nothing that
            // asking again at once could mend.
            _ => peer.back_off(retry_at),
        }
    }

    /// After a burst: commit what a quorum holds, then fill every peer's window.
    pub(super) fn settle(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.role != RaftRole::Leader {
            return;
        }
        self.commit_by_count(out);
        self.settle_reads(now, out);
        self.settle_hand_over(out);
        self.settle_membership(now, out);
        if self.role != RaftRole::Leader {
            return;
        }
        for member in self.others().iter() {
            self.replicate(now, *member, out);
        }
    }

    /// Only entries of the current term are committed by counting (figure 8; hazard B1), the own
    /// disk only as far as it is durable (B7).
    fn commit_by_count(&mut self, out: &mut Vec<Output>) {
        let Some(configuration) = self.configuration() else {
            return;
        };
        let reached = configuration.quorum_index(|who| {
            let peer = self.holder(who).map_or(0, |peer| peer.match_index);
            if who == self.me { self.durable } else { peer }
        });
        if self.log.term_at(reached) == Some(self.hard.term) {
            self.advance_commit(reached, out);
        }
    }

    /// Offers the next entries to a peer, one append at a time: the driver reports what was taken,
    /// and [`replicated`](Self::replicated) goes on while there is room.
    fn replicate(&mut self, now: Micros, member: ReplicaId, out: &mut Vec<Output>) {
        let last = self.log.last().index;
        let (term, commit) = (self.hard.term, self.commit);
        let Some(peer) = self.peers.get_mut(&member.node) else {
            return;
        };
        peer.owe(now, last);
        let Some(epoch) = peer.data else { return };
        let Some((opens, room)) = peer.sends(last, &self.settings) else {
            return;
        };
        if peer.answered != Some(member) || now < opens {
            return;
        }
        let prev_index = peer.next - 1;
        let seq = peer.data_seq;
        let Some(prev_term) = self.log.term_at(prev_index) else {
            return self.offer_snapshot(now, member.node, out);
        };
        let append = AppendEntries {
            term,
            epoch,
            seq,
            prev: LogId::new(prev_term, prev_index),
            commit,
            sent_at: now,
            count: 0,
        };
        let max_bytes = room.min(self.settings.max_append_bytes);
        let last = if peer.bare.is_some() {
            prev_index
        } else {
            last
        };
        out.push(Output::Replicate {
            to: member.node,
            append,
            last,
            max_bytes,
        });
    }

    pub(super) fn replicated(
        &mut self,
        now: Micros,
        to: NodeId,
        seq: u64,
        sent: Option<(LogIndex, usize)>,
        out: &mut Vec<Output>,
    ) {
        let retry_at = now + self.settings.election_timeout_min;
        let end = self.log.last().index;
        let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.data_seq == seq) else {
            return;
        };
        let Some((last, bytes)) = sent else {
            peer.refused = true;
            return;
        };
        peer.data_seq += 1;
        peer.sent(
            Inflight {
                seq,
                bytes,
                sent_at: now,
            },
            (last, end),
            retry_at,
        );
        let others = self.others();
        if let Some(member) = others.iter().find(|member| member.node == to) {
            self.replicate(now, *member, out);
        }
    }

    /// Highest index that this leader knows a peer to hold.
    #[cfg(test)]
    pub(super) fn match_of(&self, node: NodeId) -> LogIndex {
        self.peers.get(&node).map_or(0, |peer| peer.match_index)
    }
}

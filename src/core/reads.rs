//! Reads that reflect everything acknowledged before they were asked for: ReadIndex and leases
//! (section 8; thesis, section 6.4).
//!
//! A leader notes its commit index and asks a quorum, with its next heartbeats, whether it still
//! leads. One round is under way at a time and confirms every read that came before it began; what
//! comes meanwhile goes with the next. A follower asks its leader.

use super::message::{Message, ReadIndex, ReadIndexReply};
use super::{Output, RaftCore, RaftRole};
use crate::types::{LogIndex, Micros, NodeId, ReplicaId};

/// Reads that a leader holds for others at a time; who asks for more is not answered, and asks
/// again.
const MAX_ASKED: usize = 4_096;

/// A clock that runs as it should, in the unit in which drift is given.
const MILLION: u32 = 1_000_000;

/// Who wants to read.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Here(u64),
    Peer(NodeId, u64),
}

/// A read that waits for a round.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    round: u64,
    index: LogIndex,
    asker: Asker,
}

/// A leader's reads.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Reads {
    /// The newest round that heartbeats carry. Rises as long as the process lives, so that no reply
    /// can be taken for one to a later round (hazard F2).
    sent: u64,
    confirmed: u64,
    /// In the order of their rounds.
    waiting: Vec<Waiting>,
    /// Came before an entry of this term was committed: until then a leader does not know what is
    /// (hazard F1).
    early: Vec<Asker>,
}

impl Reads {
    /// The round that goes with a heartbeat; one that nobody waits for means nothing.
    pub(super) fn round(&self) -> u64 {
        self.sent
    }

    /// All that wait belong to the next heartbeats, whenever these go out.
    pub(super) fn begin_round(&mut self) {
        if self
            .waiting
            .last()
            .is_some_and(|last| last.round > self.sent)
        {
            self.sent += 1;
        }
    }

    fn wants_round(&self) -> bool {
        let newest = self.waiting.last().map_or(0, |last| last.round);
        newest > self.sent && self.confirmed == self.sent
    }

    fn add(&mut self, index: LogIndex, asker: Asker) {
        let round = self.sent + 1;
        self.waiting.push(Waiting {
            round,
            index,
            asker,
        });
    }
}

impl RaftCore {
    /// Somebody here wants to read; `id` is the number of the attempt.
    pub(super) fn read(&mut self, id: u64, out: &mut Vec<Output>) {
        match (self.role, self.leader) {
            (RaftRole::Leader, _) => self.take_read(Asker::Here(id)),
            (_, Some(leader)) => {
                let ask = ReadIndex {
                    term: self.hard.term,
                    incarnation: self.me.incarnation,
                    id,
                };
                self.asks_leader(id);
                self.send(leader, Message::ReadIndex(ask), self.term_write, out);
            }
            // Whoever asks goes on asking until there is a leader.
            (_, None) => {}
        }
    }

    fn take_read(&mut self, asker: Asker) {
        if self.reads.waiting.len() + self.reads.early.len() >= MAX_ASKED {
        } else if self.knows_what_is_committed() {
            self.reads.add(self.commit, asker);
        } else {
            self.reads.early.push(asker);
        }
    }

    /// Whether an entry of the current term is committed.
    pub(super) fn knows_what_is_committed(&self) -> bool {
        self.log.term_at(self.commit) == Some(self.hard.term)
    }

    pub(super) fn on_read_index(&mut self, from: ReplicaId, ask: ReadIndex, out: &mut Vec<Output>) {
        let member = self.configuration().is_some_and(|configuration| {
            let mut members = configuration.members();
            members.any(|member| member.replica == from)
        });
        if !member || ask.incarnation != from.incarnation {
            return;
        }
        if self.role == RaftRole::Leader && ask.term == self.hard.term {
            return self.take_read(Asker::Peer(from.node, ask.id));
        }
        self.answer_read(from.node, ask.id, None, out);
    }

    fn answer_read(&self, to: NodeId, id: u64, index: Option<LogIndex>, out: &mut Vec<Output>) {
        let reply = ReadIndexReply {
            term: self.hard.term,
            id,
            index,
        };
        self.send(to, Message::ReadIndexReply(reply), self.term_write, out);
    }

    pub(super) fn on_read_index_reply(
        &mut self,
        now: Micros,
        from: ReplicaId,
        reply: ReadIndexReply,
        out: &mut Vec<Output>,
    ) {
        if reply.term > self.hard.term {
            return self.enter_term(now, reply.term, out);
        }
        let current = reply.term == self.hard.term && self.leader == Some(from.node);
        if let Some(index) = reply.index.filter(|_| current) {
            self.take_floor(from.node, &reply, out);
            out.push(Output::ReadReady {
                id: reply.id,
                index,
            });
        }
    }

    /// After a burst: reads that came too early get their index, and a round begins if none is
    /// under way.
    pub(super) fn settle_reads(&mut self, now: Micros, out: &mut Vec<Output>) {
        if !self.reads.early.is_empty() && self.knows_what_is_committed() {
            for asker in std::mem::take(&mut self.reads.early) {
                self.reads.add(self.commit, asker);
            }
        }
        if self.reads.wants_round() {
            self.heartbeat(now, out);
            self.confirm_reads(out);
        }
    }

    /// Answers what a quorum has confirmed. Whoever answered a heartbeat of a round did not, at that
    /// moment, know a later term; so nothing was committed in one when the round began.
    pub(super) fn confirm_reads(&mut self, out: &mut Vec<Output>) {
        if self.reads.confirmed == self.reads.sent {
            return;
        }
        let Some(configuration) = self.configuration() else {
            return;
        };
        let confirmed = configuration.quorum_index(|who| {
            let peer = self.holder(who).map_or(0, |peer| peer.read_round);
            if who == self.me {
                self.reads.sent
            } else {
                peer
            }
        });
        self.reads.confirmed = self.reads.confirmed.max(confirmed);
        let done = self
            .reads
            .waiting
            .partition_point(|read| read.round <= self.reads.confirmed);
        let done: Vec<_> = self.reads.waiting.drain(..done).collect();
        for read in done {
            match read.asker {
                Asker::Here(id) => out.push(Output::ReadReady {
                    id,
                    index: read.index,
                }),
                Asker::Peer(node, id) => self.answer_read(node, id, Some(read.index), out),
            }
        }
    }

    /// Leadership is over: nobody's read can be confirmed any more.
    pub(super) fn drop_reads(&mut self, out: &mut Vec<Output>) {
        self.reads.early.clear();
        self.reads.confirmed = self.reads.sent;
        for read in std::mem::take(&mut self.reads.waiting) {
            if let Asker::Peer(node, id) = read.asker {
                self.answer_read(node, id, None, out);
            }
        }
    }

    // ---- leases ----

    /// Until when no other leader can have been elected, as far as the quorum's promises and the
    /// bound on the clocks' drift say (thesis, section 6.4.1; hazard A9). None without leases,
    /// without a quorum's promise, before an entry of this term is committed, and after an attempt
    /// to hand leadership over, for the rest of the term.
    pub fn lease(&self) -> Option<Micros> {
        self.settings.lease_drift_ppm?;
        let holds = self.role == RaftRole::Leader
            && !self.hand_over.attempted
            && self.knows_what_is_committed();
        let configuration = self.configuration().filter(|_| holds)?;
        let until = configuration.quorum_index(|who| {
            let peer = self.holder(who).map_or(0, |peer| peer.lease_until);
            if who == self.me { Micros::MAX } else { peer }
        });
        (until > 0).then_some(until)
    }

    /// How long a peer that promised to refuse votes for `promised` may be relied on: its clock may
    /// run faster than ours.
    pub(super) fn lease_of(&self, promised: Micros) -> Micros {
        let Some(drift) = self.settings.lease_drift_ppm else {
            return 0;
        };
        let slower = u128::from(MILLION.saturating_sub(drift));
        (u128::from(promised) * slower / u128::from(MILLION)) as Micros
    }
}

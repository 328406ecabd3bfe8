//! Following: appends and heartbeats from a leader (section 5.3).

use super::message::{
    AppendAck, AppendEntries, AppendStatus, Class, Heartbeat, HeartbeatReply, Message,
};
use super::{AppendSource, EntrySummary, Output, RaftCore, RaftRole};
use crate::types::{Incarnation, LogId, LogIndex, Micros, NodeId, ReplicaId, Term};

impl RaftCore {
    /// Whether `from` may lead in `term`; if so it is the leader now, and the timers know it.
    pub(super) fn accept_leader(
        &mut self,
        now: Micros,
        from: NodeId,
        term: Term,
        out: &mut Vec<Output>,
    ) -> bool {
        if term < self.hard.term {
            return false;
        }
        if term > self.hard.term {
            self.enter_term(now, term, out);
        }
        if self.role == RaftRole::Leader {
            // Two leaders in one term: a promise was broken somewhere (invariant S1).
            let text = format!("node {from} leads term {term} beside this node");
            self.fail(text, out);
            return false;
        }
        self.step_down(now, "another leader", out);
        // A term has one leader: what was verified in this term stays verified even if this node
        // lost sight of it in between, or an idle cluster would never tell it the commit (B9).
        self.leader = Some(from);
        let sticky = now + self.settings.election_timeout_min;
        // Never shorter than what was promised before a restart (hazard A9).
        self.sticky_until = self.sticky_until.max(sticky);
        self.restart_election_timer(now);
        true
    }

    pub(super) fn on_append(
        &mut self,
        now: Micros,
        from: ReplicaId,
        append: AppendEntries,
        entries: EntrySummary,
        out: &mut Vec<Output>,
    ) {
        // Only a leader whose configuration names this very life sends to a blank node: it joins.
        if !self.accept_leader(now, from.node, append.term, out) {
            if !self.failed {
                self.answer(
                    from,
                    &append,
                    AppendStatus::StaleTerm,
                    LogId::default(),
                    out,
                );
            }
            return;
        }
        self.heard(from.node, Class::Data);
        if self.snapshots.is_installing() {
            return self.answer(from, &append, AppendStatus::Busy, LogId::default(), out);
        }
        if !self.agrees(append.prev) {
            let hint = self
                .log
                .agreement_below(append.prev.index, append.prev.term);
            return self.answer(from, &append, AppendStatus::Conflict, hint, out);
        }
        let end = append.prev.index + u64::from(append.count);
        if self.disk_stalls && end > self.durable {
            // The answer would wait for the disk: a leader must not take that for a way that is
            // blocked (hazard B12).
            return self.answer(from, &append, AppendStatus::Busy, LogId::default(), out);
        }
        if let Some(new) = self.first_new(&entries) {
            if !entries.fits {
                return self.answer(from, &append, AppendStatus::Busy, LogId::default(), out);
            }
            if !self.take(new, entries, out) {
                return;
            }
        }
        self.verified = self.verified.max(end);
        self.advance_commit(append.commit.min(self.verified), out);
        self.answer(from, &append, AppendStatus::Matched, LogId::default(), out);
    }

    /// The consistency check. What lies below the snapshot or the commit index agrees by itself.
    fn agrees(&self, prev: LogId) -> bool {
        prev.index < self.log.snapshot().index || self.log.term_at(prev.index) == Some(prev.term)
    }

    /// The first entry that the log lacks or holds with another term. Of what the snapshot covers
    /// only the last entry's term is known.
    fn first_new(&self, entries: &EntrySummary) -> Option<LogIndex> {
        let end = entries.first + u64::from(entries.count);
        let first = entries.first.max(self.log.snapshot().index);
        (first..end).find(|&index| self.log.term_at(index) != entries.term_at(index))
    }

    /// Appends from `new` on, dropping a conflicting suffix first (hazard B2: only a real conflict
    /// truncates, and never what is committed). False if that would break a promise.
    fn take(&mut self, new: LogIndex, entries: EntrySummary, out: &mut Vec<Output>) -> bool {
        let conflict = new <= self.log.last().index;
        if conflict && new <= self.commit {
            let text = format!("the leader's entry {new} differs from the committed one here");
            self.fail(text, out);
            return false;
        }
        let genesis = if self.genesis.is_none() {
            // A log begins with its founding: nothing else can be the start of one.
            let Some(founder) = entries.founder() else {
                return false;
            };
            self.genesis = founder;
            Some(founder)
        } else {
            None
        };
        let truncate_from = conflict.then_some(new);
        if conflict {
            self.truncate(new, out);
        }
        entries
            .runs_from(new)
            .for_each(|(term, count)| self.log.append(term, count));
        self.persist(out, |write| {
            write.genesis = genesis;
            write.truncate_from = truncate_from;
            write.append = AppendSource::Message { from: new };
        });
        for (index, configuration) in entries.configurations {
            if index >= new {
                self.adopt_configuration(index, configuration, out);
            }
        }
        true
    }

    fn answer(
        &mut self,
        to: ReplicaId,
        append: &AppendEntries,
        status: AppendStatus,
        conflict: LogId,
        out: &mut Vec<Output>,
    ) {
        let matched = status == AppendStatus::Matched;
        let match_index = if matched {
            append.prev.index + u64::from(append.count)
        } else {
            0
        };
        let ack = AppendAck {
            term: self.hard.term,
            incarnation: self.me.incarnation,
            epoch: append.epoch,
            seq: append.seq,
            match_index,
            conflict,
            sent_at: append.sent_at,
            status,
            state: self.state(),
        };
        let after = self.durability_of(match_index);
        self.send(to.node, Message::AppendAck(ack), after, out);
    }

    pub(super) fn on_heartbeat(
        &mut self,
        now: Micros,
        from: ReplicaId,
        heartbeat: Heartbeat,
        out: &mut Vec<Output>,
    ) {
        if !self.is_blank() && self.accept_leader(now, from.node, heartbeat.term, out) {
            self.heard(from.node, Class::Control);
            // It may overtake appends: commit only what was checked with this leader (hazard B8).
            if !self.snapshots.is_installing() {
                self.advance_commit(heartbeat.commit.min(self.verified), out);
            }
        }
        if self.leader == Some(from.node) && heartbeat.term == self.hard.term {
            self.on_agreed_digest(heartbeat.digest_index, heartbeat.digest, out);
        }
        if self.failed {
            return;
        }
        let (digest_index, digest) = self.digests.own();
        let reply = HeartbeatReply {
            term: self.hard.term,
            incarnation: self.me.incarnation,
            epoch: heartbeat.epoch,
            seq: heartbeat.seq,
            sent_at: heartbeat.sent_at,
            read_id: heartbeat.read_id,
            applied: self.applied,
            digest_index,
            digest,
            election_timeout_min_ms: (self.settings.election_timeout_min / 1000) as u32,
            state: self.state(),
        };
        self.send(
            from.node,
            Message::HeartbeatReply(reply),
            self.term_write,
            out,
        );
    }
}

impl EntrySummary {
    /// The founder of the cluster, if these are the first entries of its log: of the first members
    /// the one with the lowest number.
    fn founder(&self) -> Option<Incarnation> {
        let (_, first) = self.configurations.iter().find(|(index, _)| *index == 1)?;
        let voters = first.incoming.iter().map(|member| member.replica);
        voters.min().map(|founder| founder.incarnation)
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let after = self.terms.partition_point(|run| run.index <= index);
        after.checked_sub(1).map(|run| self.terms[run].term)
    }

    /// Term and length of each run, from `from` on.
    fn runs_from(&self, from: LogIndex) -> impl Iterator<Item = (Term, u64)> {
        let end = self.first + u64::from(self.count);
        let starts = self.terms.iter().map(move |run| run.index.max(from));
        let ends = self.terms.iter().skip(1).map(|run| run.index).chain([end]);
        let runs = self.terms.iter().zip(starts.zip(ends));
        runs.filter(|(_, (start, end))| start < end)
            .map(|(run, (start, end))| (run.term, end - start))
    }
}

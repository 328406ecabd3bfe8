//! Coming back with a log that lost entries and was repaired (hazard C5).
//!
//! Such a replica may have acknowledged what it lacks. Until it holds everything that was ever
//! committed with its help it is a learner whatever the configuration says: it receives the log, it
//! neither votes nor campaigns, and its word counts for nobody. It says so in its hello and in every
//! reply.
//!
//! *Everything* ends at a floor: the index of a ReadIndex answer (thesis, section 6.4) that was asked
//! for after the start, of a leader that no longer counts what this replica acknowledged before. A
//! leader answers after a commit of its own term, and leader completeness does the rest; so the floor
//! is an entry of the answer's term. It is durable before anything rests on it, and so is the end of
//! the repair.

use super::message::{Class, ReadIndexReply, ReplicaState};
use super::peer::Peer;
use super::{Output, RaftCore};
use crate::types::{LogId, NodeId, Term, WriteId};

/// What a replica with a repaired log knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Repairing {
    /// It ends there; 0.0 while that is not known.
    floor: LogId,
    /// The write that makes the floor durable, or after that the end.
    write: Option<WriteId>,
    ends: bool,
    heard: Heard,
}

/// What came from the current leader in this life of the process. Who leads sends on streams that
/// were opened to this life, and learned from their hellos that its log is under repair. Once that
/// is so for heartbeats and for appends, no reply of an earlier life counts there any more, however
/// late it comes: it is of another epoch.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    term: Term,
    leader: NodeId,
    control: bool,
    data: bool,
    /// The first attempt to read since.
    asked: Option<u64>,
}

impl Repairing {
    /// `floor`: 0.0 while it is not known.
    pub(super) fn new(floor: LogId) -> Self {
        Self {
            floor,
            ..Self::default()
        }
    }
}

impl RaftCore {
    /// Whether the log lost entries and this replica does not count yet.
    pub fn is_repairing(&self) -> bool {
        self.repairing.is_some()
    }

    /// The entry up to which a log under repair must reach, once that is known.
    pub fn repair_floor(&self) -> Option<LogId> {
        let repairing = self.repairing.as_ref()?;
        (repairing.floor.index > 0).then_some(repairing.floor)
    }

    /// Whether a read should be asked for now, for the sake of the floor.
    pub(crate) fn seeks_floor(&self) -> bool {
        self.repairing
            .as_ref()
            .is_some_and(|it| it.floor.index == 0 && it.heard.control && it.heard.data)
            && self.leader.is_some()
    }

    /// A message of the current leader came on a stream of this class.
    pub(super) fn heard(&mut self, leader: NodeId, class: Class) {
        let term = self.hard.term;
        let Some(repairing) = &mut self.repairing else {
            return;
        };
        if (repairing.heard.term, repairing.heard.leader) != (term, leader) {
            repairing.heard = Heard {
                term,
                leader,
                ..Heard::default()
            };
        }
        match class {
            Class::Control => repairing.heard.control = true,
            Class::Data => repairing.heard.data = true,
            Class::Bulk => {}
        }
    }

    /// The leader is asked what to read, as attempt `id`; later attempts have higher numbers.
    pub(super) fn asks_leader(&mut self, id: u64) {
        if self.seeks_floor()
            && let Some(repairing) = &mut self.repairing
        {
            repairing.heard.asked.get_or_insert(id);
        }
    }

    /// The current leader answered a read: that is the floor, if none is known.
    pub(super) fn take_floor(
        &mut self,
        leader: NodeId,
        reply: &ReadIndexReply,
        out: &mut Vec<Output>,
    ) {
        let Some(index) = reply.index.filter(|_| self.seeks_floor()) else {
            return;
        };
        let floor = LogId::new(reply.term, index);
        let id = self.next_write;
        let Some(repairing) = &mut self.repairing else {
            return;
        };
        let heard = repairing.heard;
        let asked = heard.asked.is_some_and(|first| first <= reply.id);
        if asked && (heard.term, heard.leader) == (reply.term, leader) {
            repairing.floor = floor;
            repairing.write = Some(id);
            self.repair_write(Some(floor), out);
        }
    }

    fn repair_write(&mut self, floor: Option<LogId>, out: &mut Vec<Output>) {
        let id = self.next_write;
        self.next_write += 1;
        self.writes.push_back((id, self.log.last().index));
        out.push(Output::Repair { id, floor });
    }

    /// After a burst: the repair ends when the floor and everything up to it are durable here.
    pub(super) fn settle_repair(&mut self, out: &mut Vec<Output>) {
        let Some(repairing) = &self.repairing else {
            return;
        };
        let floor = repairing.floor;
        let start = self.log.snapshot().index;
        let held = floor.index < start || self.log.term_at(floor.index) == Some(floor.term);
        let durable = floor.index <= self.durable;
        if floor.index > 0 && repairing.write.is_none() && held && durable {
            let id = self.next_write;
            if let Some(repairing) = &mut self.repairing {
                (repairing.write, repairing.ends) = (Some(id), true);
            }
            self.repair_write(None, out);
        }
    }

    /// Writes up to this one are durable.
    pub(super) fn repair_written(&mut self, id: WriteId) {
        let Some(repairing) = &mut self.repairing else {
            return;
        };
        if repairing.write.is_some_and(|write| write <= id) {
            repairing.write = None;
            if repairing.ends {
                self.repairing = None;
            }
        }
    }

    /// Somebody has to know why this replica does not vote.
    pub(super) fn advise_repairing(&mut self, out: &mut Vec<Output>) {
        let text =
            "the log of this replica is under repair: it takes part again once it has caught \
                    up with a leader that a majority of the others elects without it"
                .to_owned();
        self.advise(text, out);
    }
}

impl Peer {
    /// What a peer says of itself, on a stream of its present life. Whether its word counts.
    pub(super) fn says(&mut self, state: ReplicaState) -> bool {
        let repairing = state == ReplicaState::Repairing;
        if repairing && !self.repairing {
            // What it acknowledged and promised before is not to be relied on.
            self.start_term(self.next, self.last_contact);
        }
        self.repairing = repairing;
        self.state = Some(state);
        !repairing
    }
}

//! Snapshots: sent to peers whose next entry the log no longer holds, and put in place of a log that
//! lacks too much (section 7).
//!
//! The core decides who gets one and whether one may be installed. Files, chunks and their checks are
//! the driver's.

use std::sync::Arc;

use super::message::{Message, SnapshotAck, SnapshotChunk, SnapshotOffer, SnapshotStatus};
use super::peer::{Peer, Progress};
use super::term_runs::TermRuns;
use super::{Configuration, Event, Output, RaftCore, RaftRole};
use crate::types::{Incarnation, LogId, LogIndex, Micros, NodeId, ReplicaId, WriteId};

/// Peers that are sent a snapshot at the same time.
const MOST_TRANSFERS: usize = 2;

/// Which snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last entry that it stands for.
    pub last: LogId,
    /// Names it between peers.
    pub id: u128,
}

/// What the core is told about snapshots.
#[derive(Clone, Debug)]
pub enum SnapshotInput {
    /// This one is durable here and can be sent; or there is none any more.
    Stored(Option<SnapshotMark>),
    /// The log begins after this entry, which a stored snapshot stands for.
    Compacted(LogId),
    /// What became of an offer or a chunk.
    Took {
        /// Whose.
        from: ReplicaId,
        /// Of which snapshot.
        id: u128,
        /// All before it is there.
        next_offset: u64,
        /// How it went.
        status: SnapshotStatus,
    },
    /// A whole snapshot was received and is durable.
    Received {
        /// From whom.
        from: ReplicaId,
        /// Which.
        mark: SnapshotMark,
        /// The founder of its cluster.
        genesis: Incarnation,
        /// The configuration in force at its last entry, and the index of that one.
        configuration: (LogIndex, Arc<Configuration>),
    },
    /// The state machine was restored from it, or cannot be and is as before.
    Restored {
        /// Which.
        mark: SnapshotMark,
        /// Whether it was.
        done: bool,
    },
}

/// A snapshot that is being put in place. Until that is done nothing else changes the log, and
/// nothing more is committed (hazard D1).
#[derive(Clone, Debug)]
struct Install {
    from: ReplicaId,
    mark: SnapshotMark,
    genesis: Incarnation,
    configuration: (LogIndex, Arc<Configuration>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Snapshots {
    stored: Option<SnapshotMark>,
    install: Option<Install>,
}

impl Snapshots {
    pub(super) fn new(stored: Option<SnapshotMark>) -> Self {
        Self {
            stored,
            install: None,
        }
    }

    pub(super) fn is_installing(&self) -> bool {
        self.install.is_some()
    }
}

impl RaftCore {
    pub(super) fn on_snapshot_input(&mut self, input: SnapshotInput, out: &mut Vec<Output>) {
        match input {
            SnapshotInput::Stored(mark) => self.snapshots.stored = mark,
            SnapshotInput::Compacted(start) => {
                self.log.compact(start);
                self.forget_configurations(start.index);
            }
            SnapshotInput::Took {
                from,
                id,
                next_offset,
                status,
            } => {
                let ack = self.snapshot_ack(id, next_offset, status);
                self.send(from.node, ack, self.term_write, out);
            }
            SnapshotInput::Received {
                from,
                mark,
                genesis,
                configuration,
            } => self.received(
                Install {
                    from,
                    mark,
                    genesis,
                    configuration,
                },
                out,
            ),
            SnapshotInput::Restored { mark, done } => self.restored(mark, done, out),
        }
    }

    // ---- sending ----

    /// A peer needs entries that are gone.
    pub(super) fn offer_snapshot(&mut self, now: Micros, to: NodeId, out: &mut Vec<Output>) {
        let receiving = |peer: &&Peer| peer.receives().is_some();
        let transfers = self.peers.values().filter(receiving).count();
        let until = now + self.snapshot_patience();
        let Some(mark) = self.snapshots.stored else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&to) else {
            return;
        };
        if transfers < MOST_TRANSFERS {
            peer.progress = Progress::Snapshot { mark, until };
            out.push(Output::OfferSnapshot { to, mark });
        } else {
            // It waits for its turn: it owes no answer meanwhile.
            peer.answered_data();
        }
    }

    fn snapshot_patience(&self) -> Micros {
        2 * self.settings.election_timeout_max
    }

    pub(super) fn on_snapshot_ack(
        &mut self,
        now: Micros,
        from: ReplicaId,
        ack: SnapshotAck,
        out: &mut Vec<Output>,
    ) {
        let last = self.log.last().index;
        let patience = self.snapshot_patience();
        let Some(peer) = self.replying_peer(now, from, ack.term, ack.incarnation, out) else {
            return;
        };
        peer.last_contact = now;
        peer.answered_data();
        let Some(mark) = peer.receives().filter(|mark| mark.id == ack.id) else {
            return;
        };
        let mut until = now + patience;
        match ack.status {
            SnapshotStatus::Receiving => out.push(Output::SendChunks {
                to: from.node,
                id: ack.id,
                offset: ack.next_offset,
            }),
            SnapshotStatus::Installed if mark.last.index <= last => {
                peer.matched(mark.last.index);
                if peer.repairing {
                    // It waits for an append, also where none is due.
                    peer.probe();
                }
                return;
            }
            SnapshotStatus::Damaged => out.push(Output::CheckSnapshot { mark }),
            // Nothing that asking again soon could mend.
            SnapshotStatus::Refused => until += 10 * patience,
            _ => {}
        }
        peer.progress = Progress::Snapshot { mark, until };
    }

    /// Which snapshot this leader sends to a peer.
    pub(crate) fn snapshot_for(&self, node: NodeId) -> Option<SnapshotMark> {
        let leads = self.role == RaftRole::Leader;
        self.peers
            .get(&node)
            .filter(|_| leads)
            .and_then(Peer::receives)
    }

    // ---- receiving ----

    pub(super) fn on_snapshot_offer(
        &mut self,
        now: Micros,
        from: ReplicaId,
        offer: SnapshotOffer,
        out: &mut Vec<Output>,
    ) {
        if !self.hears_sender(now, from, offer.term, offer.id, out) {
            return;
        }
        if self.covers(offer.last) {
            let mark = SnapshotMark {
                last: offer.last,
                id: offer.id,
            };
            self.is_covered(from, mark, out);
        } else {
            out.push(Output::TakeOffer { from, offer });
        }
    }

    pub(super) fn on_snapshot_chunk(
        &mut self,
        now: Micros,
        from: ReplicaId,
        chunk: SnapshotChunk,
        out: &mut Vec<Output>,
    ) {
        if self.hears_sender(now, from, chunk.term, chunk.id, out) {
            out.push(Output::TakeChunk { from, chunk });
        }
    }

    /// Whether the sender leads and something may be received.
    fn hears_sender(
        &mut self,
        now: Micros,
        from: ReplicaId,
        term: u64,
        id: u128,
        out: &mut Vec<Output>,
    ) -> bool {
        let leads = self.accept_leader(now, from.node, term, out);
        let status = match &self.snapshots.install {
            _ if self.failed => return false,
            _ if !leads => SnapshotStatus::StaleTerm,
            Some(install) if install.mark.id == id => SnapshotStatus::Installing,
            Some(_) => SnapshotStatus::Busy,
            None => return true,
        };
        let ack = self.snapshot_ack(id, 0, status);
        self.send(from.node, ack, self.term_write, out);
        false
    }

    /// Whether the log covers what a snapshot stands for: then nothing is to be installed.
    fn covers(&self, last: LogId) -> bool {
        last.index <= self.commit || self.log.term_at(last.index) == Some(last.term)
    }

    /// What a snapshot stands for is committed, and the log holds it: nothing but the commit index
    /// may move (hazard D4).
    fn is_covered(&mut self, from: ReplicaId, mark: SnapshotMark, out: &mut Vec<Output>) {
        let SnapshotMark { last, id } = mark;
        if self
            .log
            .term_at(last.index)
            .is_some_and(|term| term != last.term)
        {
            let text = format!("the leader's snapshot {last} differs from the committed log here");
            return self.fail(text, out);
        }
        self.verified = self.verified.max(last.index);
        self.advance_commit(last.index, out);
        let ack = self.snapshot_ack(id, 0, SnapshotStatus::Installed);
        let after = self.durability_of(last.index);
        self.send(from.node, ack, after, out);
    }

    fn received(&mut self, install: Install, out: &mut Vec<Output>) {
        let (from, mark) = (install.from, install.mark);
        let refuse = |core: &Self, status, out: &mut Vec<Output>| {
            let ack = core.snapshot_ack(mark.id, 0, status);
            core.send(from.node, ack, core.term_write, out);
        };
        if self.snapshots.is_installing() {
            return refuse(self, SnapshotStatus::Busy, out);
        }
        if !self.genesis.is_none() && install.genesis != self.genesis {
            return refuse(self, SnapshotStatus::Refused, out);
        }
        if self.covers(mark.last) {
            return self.is_covered(from, mark, out);
        }
        self.snapshots.install = Some(install);
        refuse(self, SnapshotStatus::Installing, out);
        out.push(Output::Restore { mark });
    }

    fn restored(&mut self, mark: SnapshotMark, done: bool, out: &mut Vec<Output>) {
        let Some(install) = self.snapshots.install.take_if(|it| it.mark == mark) else {
            return;
        };
        if !done {
            let ack = self.snapshot_ack(mark.id, 0, SnapshotStatus::Refused);
            return self.send(install.from.node, ack, self.term_write, out);
        }
        if self.role == RaftRole::Leader {
            let text = format!("it leads without {}, which is committed", mark.last);
            return self.fail(text, out);
        }
        self.digests.forget_own();
        let after = self.install(&install, out);
        self.snapshots.stored = Some(mark);
        let ack = self.snapshot_ack(mark.id, 0, SnapshotStatus::Installed);
        self.send(install.from.node, ack, Some(after), out);
    }

    /// The log does not hold the snapshot's last entry, or nothing would be installed: it goes as a
    /// whole, and begins after the snapshot (figure 13).
    fn install(&mut self, install: &Install, out: &mut Vec<Output>) -> WriteId {
        let last = install.mark.last;
        if self.genesis.is_none() {
            self.genesis = install.genesis;
            let genesis = Some(install.genesis);
            self.persist(out, |write| write.genesis = genesis);
        }
        // Writes under way vouch for entries that are gone now (hazard B6).
        self.durable = self.durable.min(self.commit);
        for (_, end) in &mut self.writes {
            *end = (*end).min(self.commit);
        }
        self.log = TermRuns::new(last, last.index, Vec::new());
        let id = self.next_write;
        self.next_write += 1;
        self.writes.push_back((id, self.log.last().index));
        out.push(Output::Install { id, last });
        self.verified = self.verified.max(last.index);
        self.applied = self.applied.max(last.index);
        self.advance_commit(last.index, out);
        self.replace_configurations(install, out);
        id
    }

    /// Whatever was known of the members is replaced by what the snapshot says (hazard D5).
    fn replace_configurations(&mut self, install: &Install, out: &mut Vec<Output>) {
        let (index, configuration) = install.configuration.clone();
        let before = self.configurations.last().map(|(index, _)| *index);
        self.configurations = vec![(index, Arc::clone(&configuration))];
        self.configuration_changed();
        if before != Some(index) {
            out.push(Output::Event(Event::Configured {
                index,
                configuration,
            }));
        }
    }

    /// Of the configurations at or below the log's start the newest is still in force.
    fn forget_configurations(&mut self, start: LogIndex) {
        let below = self
            .configurations
            .partition_point(|(index, _)| *index <= start);
        self.configurations.drain(..below.saturating_sub(1));
    }

    fn snapshot_ack(&self, id: u128, next_offset: u64, status: SnapshotStatus) -> Message {
        Message::SnapshotAck(SnapshotAck {
            term: self.hard.term,
            incarnation: self.me.incarnation,
            id,
            next_offset,
            status,
        })
    }

    /// Whether a snapshot is being put in place.
    pub(crate) fn is_installing(&self) -> bool {
        self.snapshots.is_installing()
    }

    /// The log begins after this entry.
    pub fn log_start(&self) -> LogId {
        self.log.snapshot()
    }
}

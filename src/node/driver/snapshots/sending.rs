//! Sending a snapshot: an offer, then a chunk for each answer, at a bounded rate.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::core::{Input, Message, SnapshotChunk, SnapshotInput, SnapshotMark, SnapshotOffer};
use crate::network::RaftNetwork;
use crate::node::driver::Cause;
use crate::node::driver::{Driver, Now};
use crate::node::snapshot_figures::Transfer;
use crate::node::snapshotter::SnapshotJob;
use crate::snapshot::{REPLICA_FORMAT, SnapshotSum, StoredSnapshot};
use crate::state_machine::StateMachine;
use crate::types::{LogId, Micros, NodeId};
use crate::wal::Medium;

/// Transfers under way.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Which file goes to whom.
    to: BTreeMap<NodeId, StoredSnapshot>,
    /// Asked for and held back by the rate: to whom, of which snapshot, from where on.
    waiting: VecDeque<(NodeId, u128, u64)>,
    /// The next chunk is not sent before.
    next_at: Micros,
}

impl Sending {
    pub(super) fn is_sent(&self, stored: StoredSnapshot) -> bool {
        self.to.values().any(|sent| sent.last == stored.last)
    }

    pub(super) fn deadline(&self) -> Micros {
        match self.waiting.is_empty() {
            true => Micros::MAX,
            false => self.next_at,
        }
    }
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// The connection may have to be dialled first: then the offer goes out when it stands.
    pub(in crate::node::driver) fn offer_snapshot(&mut self, to: NodeId, mark: SnapshotMark) {
        let sent = self.snapshots.sending.to.get(&to).copied();
        let known = sent.into_iter().chain(self.snapshots.stored);
        let Some(stored) = known.into_iter().find(|stored| stored.mark() == mark) else {
            return;
        };
        self.snapshots.sending.to.insert(to, stored);
        self.network.want_bulk(to, true);
        let offer = SnapshotOffer {
            term: self.core.term(),
            id: mark.id,
            last: mark.last,
            len: stored.sum.len,
            hash: stored.sum.hash,
            chunk: self.snapshots.options.chunk_bytes,
            format: REPLICA_FORMAT,
        };
        self.send(to, &Message::SnapshotOffer(offer), &[]);
    }

    /// The bulk connection to a peer stands.
    pub(in crate::node::driver) fn bulk_is_up(&mut self, to: NodeId) {
        if let Some(mark) = self.core.snapshot_for(to) {
            self.offer_snapshot(to, mark);
        }
    }

    pub(in crate::node::driver) fn send_chunks(
        &mut self,
        now: Now,
        to: NodeId,
        id: u128,
        offset: u64,
    ) {
        let waiting = &mut self.snapshots.sending.waiting;
        waiting.retain(|(node, ..)| *node != to);
        waiting.push_back((to, id, offset));
        self.send_waiting_chunks(now);
    }

    pub(super) fn send_waiting_chunks(&mut self, now: Now) {
        let snapshots = &mut self.snapshots;
        let sending = &mut snapshots.sending;
        while sending.next_at <= now.mono
            && let Some((to, id, offset)) = sending.waiting.pop_front()
        {
            let stored = sending.to.get(&to).filter(|it| it.sum.id() == id);
            let Some(stored) = stored.copied().filter(|it| offset < it.sum.len) else {
                continue;
            };
            let rest = stored.sum.len - offset;
            let len = rest.min(u64::from(snapshots.options.chunk_bytes)) as usize;
            let time = len as u64 * 1_000_000 / snapshots.options.send_bytes_per_second.max(1);
            sending.next_at = sending.next_at.max(now.mono) + time;
            (snapshots.jobs)(SnapshotJob::Read {
                to,
                stored,
                offset,
                len,
            });
        }
    }

    /// A piece was read: it goes to who asked for it.
    pub(super) fn send_chunk(
        &mut self,
        to: NodeId,
        id: u128,
        offset: u64,
        bytes: Result<Bytes, String>,
    ) {
        if self.core.snapshot_for(to).is_none_or(|mark| mark.id != id) {
            return;
        }
        match bytes {
            Ok(bytes) => {
                let chunk = SnapshotChunk {
                    term: self.core.term(),
                    id,
                    offset,
                    crc: crc32fast::hash(&bytes),
                };
                self.snapshots.counters.chunks_sent += 1;
                self.send(to, &Message::SnapshotChunk(chunk), &[bytes]);
            }
            Err(why) => {
                tracing::error!(node = self.shared.me.node, why, "a snapshot cannot be read");
                self.snapshots.wanted = true;
            }
        }
    }

    /// A peer says that what it received is not what was offered.
    pub(in crate::node::driver) fn check_snapshot(&mut self, mark: SnapshotMark) {
        (self.snapshots.jobs)(SnapshotJob::Check(mark.last));
    }

    /// If the own file is damaged, another one is taken and this one is offered no more.
    pub(super) fn checked(&mut self, now: Now, last: LogId, sum: Option<SnapshotSum>) {
        let stored = self.snapshots.stored.filter(|stored| stored.last == last);
        if stored.is_some_and(|stored| sum != Some(stored.sum)) {
            tracing::error!(node = self.shared.me.node, %last, "the stored snapshot is damaged");
            self.snapshots.wanted = true;
            let none = SnapshotInput::Stored(None);
            self.step(now, Input::Snapshot(none), Cause::Other);
        }
    }

    /// Transfers that the core wants no more.
    pub(super) fn end_transfers(&mut self) {
        let sending = &self.snapshots.sending.to;
        let ended = sending.iter().filter(|(to, stored)| {
            self.core
                .snapshot_for(**to)
                .is_none_or(|mark| mark != stored.mark())
        });
        let ended: Vec<_> = ended.map(|(to, stored)| (*to, *stored)).collect();
        for (to, stored) in ended {
            let has_it = self.core.peer(to);
            let has_it = has_it.is_some_and(|peer| peer.match_index >= stored.last.index);
            self.snapshot_figures.ended(match has_it {
                true => Transfer::Sent,
                false => Transfer::GivenUp,
            });
            self.snapshots.sending.to.remove(&to);
            self.network.want_bulk(to, false);
            self.snapshots.drop_unless_needed(stored);
        }
    }
}

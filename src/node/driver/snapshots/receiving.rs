//! Receiving a snapshot, and putting it in place of the state and the log.
//!
//! In this order: the file is durable under its name; the state machine takes it; the log begins
//! after it. A crash before the last step leaves the replica as it was (hazard D7).

use std::sync::Arc;

use bytes::Bytes;

use crate::core::{
    Configuration, Input, SnapshotChunk, SnapshotInput, SnapshotMark, SnapshotOffer,
    SnapshotStatus, is_beyond,
};
use crate::network::RaftNetwork;
use crate::node::applier::{ApplyJob, Restoring};
use crate::node::driver::{Cause, Driver, Now};
use crate::node::events::NodeEvent;
use crate::node::replica_state::ReplicaState;
use crate::node::snapshot_figures::Transfer;
use crate::node::snapshotter::{SnapshotEvent, SnapshotJob};
use crate::snapshot::{REPLICA_FORMAT, SnapshotFolder, SnapshotHead, StoredSnapshot};
use crate::state_machine::StateMachine;
use crate::types::{LogId, ReplicaId, WriteId};
use crate::wal::Medium;

/// What has come in.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    /// One that is whole and being put in place.
    whole: Option<StoredSnapshot>,
    /// The state machine has taken it; the log is next.
    restored: bool,
    /// Snapshots that an earlier log needs, until these writes are durable.
    old: Vec<(WriteId, StoredSnapshot)>,
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(in crate::node::driver) fn take_offer(
        &mut self,
        now: Now,
        from: ReplicaId,
        offer: SnapshotOffer,
    ) {
        if offer.format == REPLICA_FORMAT {
            return (self.snapshots.jobs)(SnapshotJob::Offer { from, offer });
        }
        self.snapshot_figures.ended(Transfer::Refused);
        tracing::error!(%from, format = offer.format, "a snapshot of a newer release is refused");
        let refused = SnapshotInput::Took {
            from,
            id: offer.id,
            next_offset: 0,
            status: SnapshotStatus::Refused,
        };
        self.step(now, Input::Snapshot(refused), Cause::Other);
    }

    pub(in crate::node::driver) fn take_chunk(
        &mut self,
        from: ReplicaId,
        chunk: SnapshotChunk,
        bytes: &[Bytes],
    ) {
        let bytes = bytes.to_vec();
        (self.snapshots.jobs)(SnapshotJob::Chunk { from, chunk, bytes });
    }

    pub(super) fn received(
        &mut self,
        now: Now,
        from: ReplicaId,
        stored: StoredSnapshot,
        head: &SnapshotHead,
    ) {
        let (index, payload) = &head.configuration;
        let input = match Configuration::decode(payload) {
            Ok(read)
                if head.cluster == self.shared.cluster
                    && is_beyond(&read, self.core.knows_level()).is_none() =>
            {
                self.snapshot_figures.ended(Transfer::Received);
                let whole = &mut self.snapshots.receiving.whole;
                *whole = whole.or(Some(stored));
                SnapshotInput::Received {
                    from,
                    mark: stored.mark(),
                    genesis: head.genesis,
                    configuration: (*index, Arc::new(read)),
                }
            }
            _ => {
                self.snapshot_figures.ended(Transfer::Refused);
                tracing::error!(%from, "a snapshot of another cluster or release is refused");
                SnapshotInput::Took {
                    from,
                    id: stored.sum.id(),
                    next_offset: 0,
                    status: SnapshotStatus::Refused,
                }
            }
        };
        self.step(now, Input::Snapshot(input), Cause::Other);
        if !self.core.is_installing() {
            // The log covers it, or it is of no use here.
            self.snapshots.receiving.whole = None;
        }
        self.snapshots.drop_unless_needed(stored);
    }

    /// Nothing else is applied until it is known how this went.
    pub(in crate::node::driver) fn restore(&mut self, now: Now, mark: SnapshotMark) {
        let whole = self.snapshots.receiving.whole;
        let Some(stored) = whole.filter(|stored| stored.mark() == mark) else {
            return self.refuse(now, mark);
        };
        let last = mark.last;
        let folder = SnapshotFolder::new(self.log.files());
        let inbox = Arc::clone(&self.shared.inbox);
        let put = move |state: &mut ReplicaState<S>| match folder.open(last) {
            Ok(mut file) => state.restore(&mut file),
            Err(why) => Ok(Err(why)),
        };
        let done = move |result| {
            let event = SnapshotEvent::Restored { last, result };
            inbox.put(|lanes| lanes.snapshots.push(event));
        };
        (self.apply)(ApplyJob::Restore(Restoring {
            last,
            time_us: stored.time_us,
            put: Box::new(put),
            done: Box::new(done),
        }));
    }

    fn refuse(&mut self, now: Now, mark: SnapshotMark) {
        let refused = SnapshotInput::Restored { mark, done: false };
        self.core
            .step(now.mono, Input::Snapshot(refused), &mut self.scratch);
        self.outputs.extend(self.scratch.drain(..));
    }

    pub(super) fn restored(&mut self, now: Now, last: LogId, result: Result<(), String>) {
        let whole = self.snapshots.receiving.whole;
        let Some(stored) = whole.filter(|stored| stored.last == last) else {
            return;
        };
        let Err(why) = result else {
            self.snapshots.receiving.restored = true;
            return self.install_when_ready(now);
        };
        tracing::error!(node = self.shared.me.node, %last, why, "a snapshot is refused");
        self.snapshots.receiving.whole = None;
        self.snapshots.drop_unless_needed(stored);
        self.refuse(now, stored.mark());
        self.carry_out_all(now, &mut Cause::Other);
    }

    /// The log takes a snapshot only when a new segment is ready.
    pub(super) fn install_when_ready(&mut self, now: Now) {
        let receiving = &self.snapshots.receiving;
        let Some(stored) = receiving.whole.filter(|_| receiving.restored) else {
            return;
        };
        if !self.log.can_install() {
            return;
        }
        let mark = stored.mark();
        let restored = SnapshotInput::Restored { mark, done: true };
        self.step(now, Input::Snapshot(restored), Cause::Other);
        let receiving = &mut self.snapshots.receiving;
        (receiving.whole, receiving.restored) = (None, false);
    }

    /// The state machine stands at the snapshot: the log begins after it.
    pub(in crate::node::driver) fn install(&mut self, now: Now, id: WriteId, last: LogId) {
        if let Err(error) = self.log.install_snapshot(id, now.mono, last) {
            return self.fail(now, error.to_string());
        }
        // Who waits for an entry up to there cannot be told how it ended.
        self.shared.waiters.abandon_above(self.dispatched);
        self.backlog.clear();
        self.dispatched = last.index;
        self.begin_skips();
        let snapshots = &mut self.snapshots;
        (snapshots.cut_at, snapshots.bytes_since) = (last.index, 0);
        snapshots.counters.installed += 1;
        snapshots.tail.begin_anew();
        let whole = snapshots.receiving.whole;
        if let Some(before) = std::mem::replace(&mut snapshots.stored, whole) {
            // The log that a power cut would leave goes on from the old one.
            snapshots.receiving.old.push((id, before));
        }
        self.tell(NodeEvent::SnapshotInstalled { last });
        (self.apply)(ApplyJob::Show);
    }

    pub(in crate::node::driver) fn forget_old_snapshots(&mut self, durable: WriteId) {
        let old = std::mem::take(&mut self.snapshots.receiving.old);
        let (gone, kept) = old.into_iter().partition(|(write, _)| *write <= durable);
        self.snapshots.receiving.old = kept;
        let gone: Vec<_> = gone;
        for (_, stored) in gone {
            self.snapshots.drop_unless_needed(stored);
        }
    }
}

impl Receiving {
    pub(super) fn needs(&self, stored: StoredSnapshot) -> bool {
        let whole = self.whole.is_some_and(|whole| whole.last == stored.last);
        whole || self.old.iter().any(|(_, old)| old.last == stored.last)
    }
}

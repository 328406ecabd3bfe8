//! Snapshots: when one is taken, and what becomes of it. Who gets one is the core's decision;
//! everything that waits for a disk is the snapshotter's.

mod compaction;
mod receiving;
mod sending;

use super::{Driver, Now};
use crate::core::{Input, SnapshotInput, SnapshotStatus};
use crate::network::RaftNetwork;
use crate::node::applier::{ApplyJob, FrozenState};
use crate::node::driver::Cause;
use crate::node::events::NodeEvent;
use crate::node::snapshot_figures::Transfer;
use crate::node::snapshotter::{SnapshotEvent, SnapshotJob};
use crate::snapshot::{SnapshotHead, SnapshotOptions, StoredSnapshot};
use crate::state_machine::StateMachine;
use crate::types::{LogId, LogIndex, Micros};
use crate::wal::Medium;
use compaction::Tail;
use receiving::Receiving;
use sending::Sending;

/// After a snapshot that could not be written the next try waits this long.
const RETRY: Micros = 1_000_000;

/// Takes work for the snapshotter, in order.
pub(crate) type SnapshotSink = Box<dyn FnMut(SnapshotJob) + Send>;

/// What a driver needs for snapshots.
pub(crate) struct SnapshotParts {
    pub(crate) options: SnapshotOptions,
    /// The one that the state machine started from.
    pub(crate) stored: Option<StoredSnapshot>,
    pub(crate) jobs: SnapshotSink,
}

/// The state of everything about them.
pub(super) struct Snapshots {
    options: SnapshotOptions,
    jobs: SnapshotSink,
    /// The newest, durable.
    stored: Option<StoredSnapshot>,
    taking: Taking,
    /// Those that are being removed. One that was taken and one that was received of the same entry
    /// have the same name.
    removing: Vec<LogId>,
    /// Where the last one was cut, or the state began.
    cut_at: LogIndex,
    /// Bytes of entries that went to the applier since, roughly.
    bytes_since: u64,
    /// The stored one is damaged: another is needed whatever came since.
    wanted: bool,
    tail: Tail,
    sending: Sending,
    receiving: Receiving,
    counters: SnapshotCounters,
}

/// What was done since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounters {
    /// Snapshots taken here.
    pub taken: u64,
    /// Snapshots that were received and put in place.
    pub installed: u64,
    /// Chunks sent to others.
    pub chunks_sent: u64,
}

enum Taking {
    /// Nothing before then.
    Not(Micros),
    /// The applier is asked for a cut.
    Cutting,
    /// The cut is ahead of the own disk. A snapshot must not be: after a power cut the log would
    /// not go on from it.
    WaitsForTheLog(FrozenState),
    /// Since then.
    Writing(LogId, Micros),
}

impl Snapshots {
    pub(super) fn new(parts: SnapshotParts) -> Self {
        let SnapshotParts {
            options,
            stored,
            mut jobs,
        } = parts;
        if let Some(stored) = stored {
            jobs(SnapshotJob::RemoveOlder(stored.last));
        }
        Self {
            options,
            jobs,
            stored,
            taking: Taking::Not(0),
            removing: Vec::new(),
            cut_at: stored.map_or(0, |stored| stored.last.index),
            bytes_since: 0,
            wanted: false,
            tail: Tail::default(),
            sending: Sending::default(),
            receiving: Receiving::default(),
            counters: SnapshotCounters::default(),
        }
    }

    /// Entries of so many bytes, up to `last`, went to the applier.
    pub(super) fn note_applying(&mut self, last: LogIndex, bytes: usize) {
        self.tail.add(last, bytes as u64);
        self.bytes_since += bytes as u64;
    }

    /// Log time at the newest one's last entry; 0 if there is none.
    pub(super) fn covered_us(&self) -> Micros {
        self.stored.map_or(0, |stored| stored.time_us)
    }

    /// The newest that is durable.
    pub(super) fn newest(&self) -> Option<LogId> {
        self.stored.map(|stored| stored.last)
    }

    /// Its size.
    pub(super) fn newest_bytes(&self) -> u64 {
        self.stored.map_or(0, |stored| stored.sum.len)
    }

    pub(super) fn counters(&self) -> SnapshotCounters {
        self.counters
    }

    /// When something is to be done at the latest.
    pub(super) fn deadline(&self) -> Micros {
        self.sending.deadline()
    }
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// What is due at the end of a burst.
    pub(super) fn see_to_snapshots(&mut self, now: Now) {
        self.install_when_ready(now);
        self.take_snapshot(now);
        self.send_waiting_chunks(now);
        if now.mono >= self.next_status {
            self.end_transfers();
            self.compact(now);
        }
    }

    pub(super) fn snapshot_event(&mut self, now: Now, event: SnapshotEvent) {
        match event {
            SnapshotEvent::Frozen(frozen) => {
                self.snapshots.bytes_since = 0;
                self.snapshots.taking = Taking::WaitsForTheLog(frozen);
            }
            SnapshotEvent::Written(written) => self.written(now, written),
            SnapshotEvent::Removed(last) => self.snapshots.removing.retain(|one| *one != last),
            SnapshotEvent::Read {
                to,
                id,
                offset,
                bytes,
            } => self.send_chunk(to, id, offset, bytes),
            SnapshotEvent::Checked { last, sum } => self.checked(now, last, sum),
            SnapshotEvent::Took {
                from,
                id,
                next_offset,
                status,
            } => {
                if status == SnapshotStatus::Damaged {
                    self.snapshot_figures.ended(Transfer::Damaged);
                }
                let took = SnapshotInput::Took {
                    from,
                    id,
                    next_offset,
                    status,
                };
                self.step(now, Input::Snapshot(took), Cause::Other);
            }
            SnapshotEvent::Received { from, stored, head } => {
                self.received(now, from, stored, &head);
            }
            SnapshotEvent::Restored { last, result } => self.restored(now, last, result),
        }
    }

    fn take_snapshot(&mut self, now: Now) {
        if self.failure.is_some() || self.stopping || self.core.is_installing() {
            return;
        }
        match std::mem::replace(&mut self.snapshots.taking, Taking::Cutting) {
            Taking::Not(not_before) if now.mono >= not_before && self.snapshot_is_due() => {
                let inbox = std::sync::Arc::clone(&self.shared.inbox);
                let cut = move |frozen| {
                    let event = SnapshotEvent::Frozen(frozen);
                    inbox.put(|lanes| lanes.snapshots.push(event));
                };
                (self.apply)(ApplyJob::Freeze(Box::new(cut)));
            }
            Taking::WaitsForTheLog(frozen)
                if frozen.id.index <= self.core.durable()
                    && !self.snapshots.removing.contains(&frozen.id) =>
            {
                self.snapshots.taking = self.write_snapshot(frozen, now);
            }
            as_before => self.snapshots.taking = as_before,
        }
    }

    /// Somebody asks for one that holds everything up to `index`. While one is being taken, it is seen
    /// then whether that will do.
    pub(super) fn want_snapshot(&mut self, index: LogIndex) {
        let snapshots = &mut self.snapshots;
        let newest = snapshots.newest().map_or(0, |last| last.index);
        if newest < index && matches!(snapshots.taking, Taking::Not(_)) {
            snapshots.wanted = true;
        }
    }

    fn snapshot_is_due(&self) -> bool {
        let snapshots = &self.snapshots;
        let options = &snapshots.options;
        let applied = self.shared.applied_index();
        let new = applied.saturating_sub(snapshots.cut_at);
        let many = options.every_entries > 0 && new >= options.every_entries
            || options.every_bytes > 0 && snapshots.bytes_since >= options.every_bytes;
        let last = snapshots.stored.map_or(0, |stored| stored.sum.len);
        let worth_it = snapshots.bytes_since >= last.saturating_mul(options.times_last.into());
        let due = many && worth_it;
        applied > 0 && self.skips.allow_snapshot(applied) && (snapshots.wanted || new > 0 && due)
    }

    fn write_snapshot(&mut self, frozen: FrozenState, now: Now) -> Taking {
        let at = frozen.id;
        let known = self.core.configurations().iter();
        let Some((index, configuration)) = known.rev().find(|(index, _)| *index <= at.index) else {
            // Installed meanwhile: this cut is older than the log.
            return Taking::Not(now.mono);
        };
        let head = SnapshotHead {
            cluster: self.shared.cluster,
            genesis: self.core.genesis(),
            last: frozen.id,
            time_us: frozen.time_us,
            digest: frozen.digest.wrapping_add(frozen.sessions.digest()),
            session_bytes: frozen.sessions.encoded_len(),
            configuration: (*index, configuration.encode()),
        };
        self.snapshots.cut_at = at.index;
        (self.snapshots.jobs)(SnapshotJob::Write(Box::new((frozen, head))));
        Taking::Writing(at, now.mono)
    }

    fn written(&mut self, now: Now, written: Result<StoredSnapshot, String>) {
        match written {
            Ok(stored) => {
                if let Taking::Writing(_, begun) = self.snapshots.taking {
                    let took = now.mono.saturating_sub(begun);
                    self.snapshot_figures.written(took);
                }
                self.snapshots.taking = Taking::Not(now.mono);
                let older = |newer: StoredSnapshot| newer.last.index > stored.last.index;
                if self.snapshots.stored.is_some_and(older) {
                    // One that was received and installed meanwhile is newer.
                    return self.snapshots.drop_unless_needed(stored);
                }
                self.tell(NodeEvent::SnapshotTaken { last: stored.last });
                self.snapshots.wanted = false;
                self.snapshots.counters.taken += 1;
                self.store(now, stored);
            }
            Err(why) => {
                self.tell(NodeEvent::SnapshotFailed { why });
                self.snapshots.taking = Taking::Not(now.mono + RETRY);
                self.snapshots.wanted = true;
            }
        }
    }

    /// This one is durable, and takes the place of the one before.
    fn store(&mut self, now: Now, stored: StoredSnapshot) {
        let before = self.snapshots.stored.replace(stored);
        let mark = SnapshotInput::Stored(Some(stored.mark()));
        self.step(now, Input::Snapshot(mark), Cause::Other);
        if let Some(before) = before {
            self.snapshots.drop_unless_needed(before);
        }
        self.compact(now);
    }
}

impl Snapshots {
    /// Removes a snapshot that is neither the newest, nor about to be, nor being sent nor being put in
    /// place.
    fn drop_unless_needed(&mut self, old: StoredSnapshot) {
        let last = old.last;
        let newest = self.stored.is_some_and(|stored| stored.last == last);
        let written = matches!(self.taking, Taking::Writing(at, _) if at == last);
        if !newest && !written && !self.sending.is_sent(old) && !self.receiving.needs(old) {
            self.removing.push(last);
            (self.jobs)(SnapshotJob::Remove(last));
        }
    }
}

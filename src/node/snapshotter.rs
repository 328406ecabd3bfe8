//! Everything about snapshots that waits for a disk: a queue of jobs, done step by step.
//!
//! A thread does steps as long as there are any; a simulation does one at a time, so that crashes and
//! everything else can come between any two.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use super::applier::FrozenState;
use super::replica_state::FrozenReplica;
use crate::core::{SnapshotChunk, SnapshotOffer, SnapshotStatus};
use crate::snapshot::{
    Offered, Pace, Receiver, SnapshotFolder, SnapshotHead, SnapshotSum, StoredSnapshot, Taken,
};
use crate::types::{LogId, NodeId, ReplicaId};
use crate::wal::Files;

/// Work for a [`Snapshotter`].
pub(crate) enum SnapshotJob {
    /// Write a state out.
    Write(Box<(FrozenState, SnapshotHead)>),
    /// Remove all snapshots that are older than this: what an earlier life left. A newer one may have
    /// come in before a slow disk gets to it.
    RemoveOlder(LogId),
    /// Remove one.
    Remove(LogId),
    /// Read a piece of one, for a peer.
    Read {
        to: NodeId,
        stored: StoredSnapshot,
        offset: u64,
        len: usize,
    },
    /// Say what one is now.
    Check(LogId),
    /// Take an offer.
    Offer {
        from: ReplicaId,
        offer: SnapshotOffer,
    },
    /// Take a chunk.
    Chunk {
        from: ReplicaId,
        chunk: SnapshotChunk,
        bytes: Vec<Bytes>,
    },
}

impl SnapshotJob {
    /// Whether it is about sending or receiving: a peer waits, so it must not queue behind the
    /// writing of a whole state. Removals go the same way, in order: one that was refused may be
    /// offered again and come in under the same name.
    pub(crate) fn is_transfer(&self) -> bool {
        !matches!(self, Self::Write(_))
    }
}

/// What came of it; for the driver's inbox.
pub(crate) enum SnapshotEvent {
    /// The state machine stood still for a moment.
    Frozen(FrozenState),
    /// A snapshot is durable, or why not.
    Written(Result<StoredSnapshot, String>),
    /// One is gone, or could not be removed.
    Removed(LogId),
    /// A piece was read.
    Read {
        to: NodeId,
        id: u128,
        offset: u64,
        bytes: Result<Bytes, String>,
    },
    /// A snapshot as it is on disk.
    Checked {
        last: LogId,
        sum: Option<SnapshotSum>,
    },
    /// What became of an offer or a chunk.
    Took {
        from: ReplicaId,
        id: u128,
        next_offset: u64,
        status: SnapshotStatus,
    },
    /// A whole snapshot came in and is durable.
    Received {
        from: ReplicaId,
        stored: StoredSnapshot,
        head: Box<SnapshotHead>,
    },
    /// The state machine was restored from it, or is as before.
    Restored {
        last: LogId,
        result: Result<(), String>,
    },
}

enum Step {
    Job(SnapshotJob),
    SyncWritten(StoredSnapshot),
    NameWritten(StoredSnapshot),
    SyncNames(StoredSnapshot),
    CheckReceived(ReplicaId, u128),
    SyncReceived(Box<Inbound>),
    NameReceived(Box<Inbound>),
    SyncReceivedName(Box<Inbound>),
}

/// A snapshot that has come in whole.
struct Inbound {
    from: ReplicaId,
    stored: StoredSnapshot,
    head: SnapshotHead,
}

/// See the module.
pub(crate) struct Snapshotter<F> {
    folder: SnapshotFolder<F>,
    receiver: Receiver<F>,
    steps: VecDeque<Step>,
    pace: Box<Pace>,
}

impl<F: Files> Snapshotter<F> {
    pub(crate) fn new(folder: SnapshotFolder<F>, pace: Box<Pace>) -> Self {
        Self {
            receiver: Receiver::new(folder.clone()),
            folder,
            steps: VecDeque::new(),
            pace,
        }
    }

    pub(crate) fn push(&mut self, job: SnapshotJob) {
        self.steps.push_back(Step::Job(job));
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.steps.is_empty()
    }

    /// Does one step. What follows from it is the next one.
    pub(crate) fn step(&mut self) -> Option<SnapshotEvent> {
        match self.steps.pop_front()? {
            Step::Job(job) => self.job(job),
            Step::SyncWritten(stored) => {
                let done = self.folder.sync_written();
                self.written(done, stored, Step::NameWritten)
            }
            Step::NameWritten(stored) => {
                let done = self.folder.name_written(stored.last);
                self.written(done, stored, Step::SyncNames)
            }
            Step::SyncNames(stored) => {
                let done = self.folder.sync_names();
                Some(SnapshotEvent::Written(
                    done.map(|()| stored).map_err(|error| error.to_string()),
                ))
            }
            Step::CheckReceived(from, id) => self.check_received(from, id),
            Step::SyncReceived(inbound) => {
                let done = self.receiver.sync();
                if done.is_err() {
                    // What a failed sync covered may be gone, and a second one would not say so.
                    note_removal(self.receiver.discard());
                }
                self.inbound(done, inbound, Step::NameReceived)
            }
            Step::NameReceived(inbound) => {
                let done = self.receiver.name();
                self.inbound(done, inbound, Step::SyncReceivedName)
            }
            Step::SyncReceivedName(inbound) => {
                let done = self.folder.sync_names();
                let Inbound { from, stored, head } = *inbound;
                Some(match done {
                    Ok(()) => SnapshotEvent::Received {
                        from,
                        stored,
                        head: Box::new(head),
                    },
                    Err(error) => trouble(from, stored.sum.id(), &error),
                })
            }
        }
    }

    fn job(&mut self, job: SnapshotJob) -> Option<SnapshotEvent> {
        match job {
            SnapshotJob::Write(work) => {
                let (frozen, head) = *work;
                let state = Box::new(FrozenReplica {
                    sessions: frozen.sessions,
                    machine: frozen.frozen,
                });
                let sum = self.folder.write(&head, state, &mut self.pace);
                let stored = |sum| StoredSnapshot {
                    last: head.last,
                    time_us: head.time_us,
                    sum,
                };
                match sum {
                    Ok(sum) => self.written(Ok(()), stored(sum), Step::SyncWritten),
                    Err(error) => Some(SnapshotEvent::Written(Err(error.to_string()))),
                }
            }
            SnapshotJob::RemoveOlder(than) => {
                note_removal(self.folder.remove_older(than));
                None
            }
            SnapshotJob::Remove(last) => {
                note_removal(self.folder.remove(last));
                Some(SnapshotEvent::Removed(last))
            }
            SnapshotJob::Read {
                to,
                stored,
                offset,
                len,
            } => {
                let bytes = self.folder.read(stored.last, offset, len);
                Some(SnapshotEvent::Read {
                    to,
                    id: stored.sum.id(),
                    offset,
                    bytes: bytes.map(Bytes::from).map_err(|error| error.to_string()),
                })
            }
            SnapshotJob::Check(last) => {
                let sum = self.folder.sum(last).ok();
                Some(SnapshotEvent::Checked { last, sum })
            }
            SnapshotJob::Offer { from, offer } => {
                let sum = SnapshotSum {
                    len: offer.len,
                    hash: offer.hash,
                };
                let taken = self.receiver.offer(Offered {
                    last: offer.last,
                    sum,
                    chunk: offer.chunk,
                });
                self.took(from, offer.id, taken.map(Some))
            }
            SnapshotJob::Chunk { from, chunk, bytes } => {
                let bytes = bytes.concat();
                let taken = self
                    .receiver
                    .chunk(chunk.id, chunk.offset, chunk.crc, &bytes);
                self.took(from, chunk.id, taken)
            }
        }
    }

    fn written(
        &mut self,
        done: io::Result<()>,
        stored: StoredSnapshot,
        next: impl FnOnce(StoredSnapshot) -> Step,
    ) -> Option<SnapshotEvent> {
        match done {
            Ok(()) => {
                self.steps.push_front(next(stored));
                None
            }
            Err(error) => Some(SnapshotEvent::Written(Err(error.to_string()))),
        }
    }

    fn took(
        &mut self,
        from: ReplicaId,
        id: u128,
        taken: io::Result<Option<Taken>>,
    ) -> Option<SnapshotEvent> {
        match taken {
            Ok(Some(Taken::Next(next_offset))) => Some(SnapshotEvent::Took {
                from,
                id,
                next_offset,
                status: SnapshotStatus::Receiving,
            }),
            Ok(Some(Taken::Whole)) => {
                self.steps.push_front(Step::CheckReceived(from, id));
                None
            }
            // A piece of something that was never offered to this process: it will be.
            Ok(None) => None,
            Err(error) => Some(trouble(from, id, &error)),
        }
    }

    fn check_received(&mut self, from: ReplicaId, id: u128) -> Option<SnapshotEvent> {
        match self.receiver.check() {
            Ok(Some((stored, head))) => {
                let inbound = Inbound { from, stored, head };
                self.steps.push_front(Step::SyncReceived(Box::new(inbound)));
                None
            }
            Ok(None) => {
                tracing::warn!(%from, "a snapshot came in damaged and was thrown away");
                Some(SnapshotEvent::Took {
                    from,
                    id,
                    next_offset: 0,
                    status: SnapshotStatus::Damaged,
                })
            }
            Err(error) => Some(trouble(from, id, &error)),
        }
    }

    fn inbound(
        &mut self,
        done: io::Result<()>,
        inbound: Box<Inbound>,
        next: impl FnOnce(Box<Inbound>) -> Step,
    ) -> Option<SnapshotEvent> {
        match done {
            Ok(()) => {
                self.steps.push_front(next(inbound));
                None
            }
            Err(error) => Some(trouble(inbound.from, inbound.stored.sum.id(), &error)),
        }
    }
}

/// The disk refuses: the peer may ask again later.
fn trouble(from: ReplicaId, id: u128, error: &io::Error) -> SnapshotEvent {
    tracing::warn!(%from, %error, "a snapshot cannot be received");
    SnapshotEvent::Took {
        from,
        id,
        next_offset: 0,
        status: SnapshotStatus::Busy,
    }
}

/// What is left over takes room and does no other harm.
fn note_removal(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "an old snapshot was not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was refused may be offered again: its removal must not come after its second arrival.
    #[test]
    fn removals_wait_in_the_queue_of_what_comes_in() {
        let last = LogId::new(1, 2);
        assert!(SnapshotJob::Remove(last).is_transfer());
        assert!(SnapshotJob::RemoveOlder(last).is_transfer());
        assert!(SnapshotJob::Check(last).is_transfer());
    }
}

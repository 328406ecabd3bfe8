//! Recovery from a lost quorum: a new cluster of one out of a single surviving data directory.
//!
//! No protocol can do this safely. The survivor may lack what the others had acknowledged, and may hold
//! what was never committed; nobody is left who could tell. So it is offline, explicit, and makes
//! *another* cluster: a new id, a new founder, a new incarnation, an empty log. Members of the old one
//! cannot talk to it, and the two never become one history (hazards J1, J4).
//!
//! [`Survivor::read`] reads the old directory, holds its lock, and rebuilds its state; it changes
//! nothing. [`Survivor::plan`] says what there is and what recovery would do.
//! [`Survivor::found`] makes the new directory.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use conveyor_raft::RouterStateMachine;
//! use conveyor_raft::node::recover::{NewCluster, Survivor};
//!
//! let survivor = Survivor::read("/var/lib/conveyor-raft", RouterStateMachine::new())?;
//! println!("{:?}", survivor.plan());
//! let certs = conveyor_raft::quic::certs::generate("rescued", &[1], &[])?;
//! let cluster = NewCluster::new(certs.ca.cluster(), 1);
//! survivor.found("/var/lib/conveyor-raft-2", &cluster)?;
//! # Ok(())
//! # }
//! ```

mod error;
mod found;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::applier::panic_text;
use super::begin::restore;
use super::replica_state::ReplicaState;
use crate::core::{Configuration, FEATURES, MemberInfo, is_beyond};
use crate::snapshot::{SnapshotFolder, SnapshotHead};
use crate::state_machine::{Changes, StateMachine};
use crate::types::{ClusterId, Entry, LogId, LogIndex, Micros, ReplicaId, Term};
use crate::wal::{DirReader, Files, StillLog, Verified};

pub use error::RecoverError;
pub use found::{NewCluster, SavedState};

/// What a surviving directory holds, and what a recovery from it would begin with.
#[derive(Clone, Debug)]
pub struct RecoveryPlan {
    /// The old directory.
    pub directory: PathBuf,
    /// Whose it is.
    pub replica: ReplicaId,
    /// In which cluster.
    pub cluster: ClusterId,
    /// The last term that it knew.
    pub term: Term,
    /// What its log begins behind.
    pub log_start: LogId,
    /// The last entry of its log, or the log start.
    pub log_last: LogId,
    /// The snapshot that its state was restored from.
    pub snapshot: Option<LogId>,
    /// The highest index that this directory knows to be committed; more may have been.
    pub committed: LogIndex,
    /// The entry that the new cluster's state stands at.
    pub last: LogId,
    /// Digest of that state.
    pub digest: u128,
    /// The index of the newest configuration, and the members by it.
    pub members: (LogIndex, Vec<MemberInfo>),
    /// Entries up to `last` that are not applied, since the old cluster skipped them.
    pub skipped: Vec<LogIndex>,
    /// The log was repaired: it lacks entries that it once acknowledged.
    pub repaired: bool,
}

impl RecoveryPlan {
    /// Entries that nobody is known to have committed, and that become part of the new state: the first
    /// and the last.
    pub fn uncertain(&self) -> Option<(LogIndex, LogIndex)> {
        let first = self.committed + 1;
        (first <= self.last.index).then_some((first, self.last.index))
    }

    /// Entries of the log that do not become part of the new state, the first and the last: a newer
    /// snapshot shows that others were committed in their place.
    pub fn superseded(&self) -> Option<(LogIndex, LogIndex)> {
        let first = self.last.index + 1;
        (first <= self.log_last.index).then_some((first, self.log_last.index))
    }
}

/// A surviving data directory: locked, and read into a state machine.
pub struct Survivor<S> {
    state: ReplicaState<S>,
    /// Log time at the last entry.
    time_us: Micros,
    configuration: Configuration,
    plan: RecoveryPlan,
    /// Keeps every node away from the directory.
    _lock: File,
}

impl<S> fmt::Debug for Survivor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survivor")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> Survivor<S> {
    /// Reads a directory that no process uses, as a starting node would, and applies everything that
    /// it holds to `machine`, which is new. Nothing in the directory is changed, and nobody else can
    /// open it as long as the survivor is kept.
    ///
    /// # Errors
    /// If it is in use, damaged, blank, or holds a state that cannot be rebuilt by this release.
    pub fn read(dir: impl AsRef<Path>, machine: S) -> Result<Self, RecoverError> {
        let files = Arc::new(DirReader::open(dir.as_ref()).map_err(RecoverError::of)?);
        let lock = files.lock().map_err(RecoverError::of)?;
        let log = StillLog::read(&*files).map_err(RecoverError::of)?;
        let mut state = ReplicaState::new(machine);
        let place = files.place();
        let owner = (log.verified.cluster, log.genesis());
        let start = log.verified.start;
        let folder = SnapshotFolder::new(&files);
        // What a snapshot covers was committed: the newest counts, also where the log does not reach
        // it or holds other entries there.
        let restored = restore(&mut state, owner, &place, |take| {
            folder.pick(start, |_| true, take)
        });
        let (stored, head) = restored.map_err(RecoverError::State)?;
        let goes_on = stored.is_none() || log.term(head.last.index) == Some(head.last.term);
        let newest = newest_configuration(&log, stored.map(|_| &head), goes_on)?;
        let (index, configuration) = newest.ok_or(RecoverError::Blank { directory: place })?;
        let mut at = (head.last, head.time_us);
        if goes_on {
            log.entries_after(head.last.index, |entry| {
                apply(&mut state, &configuration.skipped, &mut at, &entry)
            })
            .map_err(RecoverError::State)?;
        }
        let members = (index, configuration.members().cloned().collect());
        let mut plan = plan(dir.as_ref(), &log.verified, members);
        plan.snapshot = stored.map(|stored| stored.last);
        plan.committed = plan.committed.max(head.last.index).min(at.0.index);
        plan.last = at.0;
        plan.digest = state.digest();
        let skipped = configuration.skipped.iter().copied();
        plan.skipped = skipped.filter(|skipped| *skipped <= at.0.index).collect();
        Ok(Self {
            state,
            time_us: at.1,
            configuration,
            plan,
            _lock: lock,
        })
    }

    /// What there is and what recovery would do.
    pub fn plan(&self) -> &RecoveryPlan {
        &self.plan
    }

    /// The state machine as it would be.
    pub fn machine(&self) -> &S {
        &self.state.machine
    }

    /// The old member, by its own last configuration.
    fn member(&self) -> Option<&MemberInfo> {
        let me = self.plan.replica;
        let mut all = self.configuration.members();
        let this_life = all.find(|member| member.replica == me);
        this_life.or_else(|| self.configuration.member(me.node))
    }
}

/// The last of the log, since all of it becomes part of the state, or the snapshot's.
fn newest_configuration<F: Files>(
    log: &StillLog<'_, F>,
    head: Option<&SnapshotHead>,
    goes_on: bool,
) -> Result<Option<(LogIndex, Configuration)>, RecoverError> {
    let read = |index: LogIndex, payload: &[u8]| {
        let wrong = |why: String| RecoverError::State(format!("entry {index}: {why}"));
        let read = Configuration::decode(payload).map_err(|error| wrong(error.to_string()))?;
        match is_beyond(&read, FEATURES.1) {
            Some(why) => Err(RecoverError::State(why)),
            None => Ok((index, read)),
        }
    };
    let known = head.map_or(0, |head| head.configuration.0);
    let in_log = log.configurations().filter(|entry| entry.id.index > known);
    match (in_log.last().filter(|_| goes_on), head) {
        (Some(entry), _) => read(entry.id.index, &entry.payload).map(Some),
        (None, Some(head)) => read(head.configuration.0, &head.configuration.1).map(Some),
        (None, None) => Ok(None),
    }
}

fn apply<S: StateMachine>(
    state: &mut ReplicaState<S>,
    skipped: &[LogIndex],
    at: &mut (LogId, Micros),
    entry: &Entry,
) -> Result<(), String> {
    let index = entry.id.index;
    if skipped.binary_search(&index).is_err() {
        let before_us = at.1;
        let applied = catch_unwind(AssertUnwindSafe(|| {
            state.apply(entry, before_us, &mut Changes::unheard())
        }));
        let applied = applied.unwrap_or_else(|panic| Err(panic_text(&panic)));
        applied.map_err(|why| format!("the state machine cannot apply entry {index}: {why}"))?;
    }
    *at = (entry.id, entry.time_us);
    Ok(())
}

fn plan(dir: &Path, log: &Verified, members: (LogIndex, Vec<MemberInfo>)) -> RecoveryPlan {
    RecoveryPlan {
        directory: dir.to_owned(),
        replica: ReplicaId::new(log.node, log.incarnation),
        cluster: log.cluster,
        term: log.hard_state.term,
        log_start: log.start,
        log_last: log.last,
        snapshot: None,
        committed: log.commit,
        last: log.last,
        digest: 0,
        members,
        skipped: Vec::new(),
        repaired: log.repairing.is_some(),
    }
}

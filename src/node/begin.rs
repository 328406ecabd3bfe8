//! What a node starts from: its log, and the snapshot that stands for the front of it.

use std::sync::Arc;

use super::replica_state::ReplicaState;
use crate::core::{Configuration, Recovered, SnapshotMark, is_beyond};
use crate::network::LocalFacts;
use crate::snapshot::{SnapshotFile, SnapshotFolder, SnapshotHead, StoredSnapshot};
use crate::state_machine::StateMachine;
use crate::types::{ClusterId, Incarnation, LogId, LogIndex, Micros};
use crate::wal::{Files, LogStorage, Medium};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Begin {
    /// For the core.
    pub(crate) recovered: Recovered,
    /// The snapshot that the state machine was restored from.
    pub(crate) stored: Option<StoredSnapshot>,
    /// The entry that its state reflects, and log time there.
    pub(crate) at: (LogId, Micros),
    /// The highest feature level that this release knows.
    knows_level: u32,
}

/// Restores `state`, which is new, from the newest snapshot that the log goes on from, for a release
/// that knows feature levels up to `knows_level`.
///
/// # Errors
/// If the log begins after an entry and no snapshot that covers it can be used, or an entry that
/// should be a configuration is none that this version can read.
pub(crate) fn begin<S: StateMachine, M: Medium>(
    log: &LogStorage<M>,
    state: &mut ReplicaState<S>,
    cluster: ClusterId,
    knows_level: u32,
) -> Result<Begin, String> {
    let folder = SnapshotFolder::new(log.files());
    let fits = |last: LogId| log.term(last.index) == Some(last.term);
    let owner = (cluster, log.genesis());
    let (stored, head) = restore(state, owner, &log.files().place(), |take| {
        folder.choose(log.snapshot(), fits, take)
    })?;
    Ok(Begin {
        recovered: recovered(log, stored, &head, knows_level)?,
        stored,
        at: (head.last, head.time_us),
        knows_level,
    })
}

/// Takes the state of a snapshot, or says why not.
type Take<'a, F> = &'a mut dyn FnMut(SnapshotFile<F>) -> Result<(), String>;

/// Restores `state`, which is new, from the snapshot that `choose` finds, and says which and what its
/// head says. `owner`: the cluster and its founder.
pub(super) fn restore<S: StateMachine, F: Files>(
    state: &mut ReplicaState<S>,
    owner: (ClusterId, Incarnation),
    place: &str,
    choose: impl FnOnce(Take<'_, F>) -> Result<Option<StoredSnapshot>, String>,
) -> Result<(Option<StoredSnapshot>, SnapshotHead), String> {
    let (mut head, mut half) = (SnapshotHead::default(), None);
    let stored = choose(&mut |mut file| {
        if (file.head.cluster, file.head.genesis) != owner {
            return Err("it belongs to another cluster".to_owned());
        }
        half = None;
        match state.restore(&mut file) {
            Ok(Ok(())) => head = file.head,
            Ok(Err(why)) => return Err(why),
            Err(why) => {
                half = Some(why.clone());
                return Err(why);
            }
        }
        Ok(())
    })?;
    match half {
        None => Ok((stored, head)),
        Some(why) => Err(format!(
            "the snapshot in {place} is damaged ({why}), and the state machine took a part of it: \
             move the snap- files away and start again"
        )),
    }
}

fn recovered<M: Medium>(
    log: &LogStorage<M>,
    stored: Option<StoredSnapshot>,
    head: &SnapshotHead,
    knows_level: u32,
) -> Result<Recovered, String> {
    let read = |index: LogIndex, payload: &[u8]| {
        let read = Configuration::decode(payload);
        let read = read.map_err(|error| format!("entry {index}: {error}"))?;
        Ok::<_, String>((index, Arc::new(read)))
    };
    let mut configurations = Vec::new();
    // The snapshot's is as old as its last entry at most, and what is older is not needed.
    let (known, payload) = &head.configuration;
    if stored.is_some() {
        configurations.push(read(*known, payload)?);
    }
    let in_log = log.configurations();
    for entry in in_log.iter().filter(|entry| entry.id.index > *known) {
        configurations.push(read(entry.id.index, &entry.payload)?);
    }
    let mut known = configurations.iter();
    if let Some(why) = known.find_map(|(_, read)| is_beyond(read, knows_level)) {
        return Err(why);
    }
    // A crash left the founder's name and not the first entry: nothing was promised to it.
    let blank = configurations.is_empty();
    Ok(Recovered {
        hard_state: log.hard_state(),
        told_election_timeout: Micros::from(log.told_election_timeout_ms()) * 1000,
        genesis: if blank && log.repairing().is_none() {
            Incarnation::NONE
        } else {
            log.genesis()
        },
        snapshot: log.snapshot(),
        last: log.last(),
        terms: log.term_runs(),
        configurations,
        repairing: log.repairing(),
        stored: stored.map(|stored| stored.mark()),
    })
}

impl Begin {
    /// What peers are told of it.
    pub(crate) fn facts(&self, meta_seq: u64, at: String, client_endpoint: String) -> LocalFacts {
        LocalFacts {
            blank: self.recovered.configurations.is_empty() && self.recovered.repairing.is_none(),
            repairing: self.recovered.repairing.is_some(),
            genesis: self.recovered.genesis,
            knows_level: self.knows_level,
            needs_level: self
                .recovered
                .configurations
                .last()
                .map_or(0, |(_, newest)| newest.feature_level),
            meta_seq,
            peer_address: at,
            client_endpoint,
        }
    }
}

impl StoredSnapshot {
    /// What the core calls it.
    pub(crate) fn mark(&self) -> SnapshotMark {
        SnapshotMark {
            last: self.last,
            id: self.sum.id(),
        }
    }
}

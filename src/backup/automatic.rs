//! Backups that a node makes by itself, and which ones are kept.

use std::time::{Duration, SystemTime};

use super::id::SnapshotId;
use super::store::{Listed, SnapshotError, SnapshotStore};
use crate::types::{LogIndex, Micros};

const PREFIX: &str = "auto-";

/// When a node makes a backup by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Automatic {
    /// So long after the one before.
    pub every: Duration,
    /// So many of its own are kept, the newest.
    pub keep: usize,
}

impl Automatic {
    /// The name of one that is made now: it sorts by age and says what is in it.
    ///
    /// # Errors
    /// Never, for the log time of any clock.
    pub fn name(index: LogIndex, time_us: Micros) -> Result<SnapshotId, super::SnapshotIdError> {
        format!("{PREFIX}{:015}-index-{index}", time_us / 1000).parse()
    }

    /// How long until the next is due, given that the state is now at `index`; none while there is
    /// nothing new to keep.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn due(
        &self,
        store: &SnapshotStore,
        index: LogIndex,
        now: SystemTime,
    ) -> Result<Option<Duration>, SnapshotError> {
        let own = own(store)?;
        let newest = own.iter().max_by_key(|one| one.info.applied.index);
        let Some(newest) = newest else {
            return Ok((index > 0).then_some(Duration::ZERO));
        };
        if newest.info.applied.index >= index {
            return Ok(None);
        }
        // A clock that was set back makes one too many, never none.
        let age = now.duration_since(store.written(&newest.id)?);
        Ok(Some(self.every.saturating_sub(age.unwrap_or(self.every))))
    }

    /// Removes those of its own that are too many, and says which. Those that somebody named stay.
    ///
    /// # Errors
    /// If the directory cannot be read or the file system refuses.
    pub fn prune(&self, store: &SnapshotStore) -> Result<Vec<SnapshotId>, SnapshotError> {
        let old = outdated(own(store)?, self.keep.max(1));
        for id in &old {
            store.delete(id)?;
        }
        Ok(old)
    }
}

fn own(store: &SnapshotStore) -> Result<Vec<Listed>, SnapshotError> {
    let mut all = store.list()?.whole;
    all.retain(|one| one.id.as_str().starts_with(PREFIX));
    Ok(all)
}

/// All but the newest `keep`, by what they hold, the oldest first.
pub fn outdated(mut all: Vec<Listed>, keep: usize) -> Vec<SnapshotId> {
    all.sort_by_key(|one| (one.info.applied.index, one.id.clone()));
    let old = all.len().saturating_sub(keep);
    all.truncate(old);
    all.into_iter().map(|one| one.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{BackupLimits, Compression, Job, SnapshotInfo};
    use crate::state_machine::{RouterStateMachine, StateMachine};
    use crate::types::{ClusterId, LogId};

    fn make(store: &SnapshotStore, id: &SnapshotId, index: LogIndex) {
        let machine = RouterStateMachine::new();
        let info = SnapshotInfo {
            cluster: ClusterId([7; 16]),
            applied: LogId::new(1, index),
            time_us: index,
            digest: machine.digest(),
            sidecars: 0,
            groups: 0,
            feature_level: 1,
        };
        let job = Job::at_rate(1 << 30);
        store
            .create(id, machine.freeze(), Compression::None, &job, |_| Ok(info))
            .expect("made");
    }

    #[test]
    fn one_is_due_after_a_while_and_if_there_is_something_new() {
        let dir = tempfile::tempdir().expect("directory");
        let store = SnapshotStore::open(dir.path(), BackupLimits::default()).expect("store");
        let automatic = Automatic {
            every: Duration::from_secs(3600),
            keep: 2,
        };
        let due = |index, now| automatic.due(&store, index, now).expect("readable");
        let now = SystemTime::now();
        assert_eq!((due(0, now), due(5, now)), (None, Some(Duration::ZERO)));
        make(&store, &Automatic::name(5, 5).expect("id"), 5);
        // The file system's clock is a little coarser.
        let now = SystemTime::now() + Duration::from_secs(1);
        assert_eq!(due(5, now), None);
        assert!(due(6, now).is_some_and(|wait| wait > Duration::from_secs(3000)));
        let later = now + Duration::from_secs(4000);
        assert_eq!(due(6, later), Some(Duration::ZERO));
    }

    #[test]
    fn the_newest_are_kept_and_named_ones_stay() {
        let dir = tempfile::tempdir().expect("directory");
        let store = SnapshotStore::open(dir.path(), BackupLimits::default()).expect("store");
        let automatic = Automatic {
            every: Duration::ZERO,
            keep: 2,
        };
        make(&store, &"before-the-move".parse().expect("id"), 1);
        for index in [9, 10, 11, 100] {
            // All of one time: what counts is what they hold.
            make(&store, &Automatic::name(index, 0).expect("id"), index);
        }
        let gone = automatic.prune(&store).expect("pruned");
        assert_eq!(gone.len(), 2);
        let left = store.list().expect("list").whole;
        let indexes: Vec<_> = left.iter().map(|one| one.info.applied.index).collect();
        assert_eq!(indexes.len(), 3);
        assert!(
            [1, 11, 100].iter().all(|index| indexes.contains(index)),
            "{indexes:?}"
        );
    }
}

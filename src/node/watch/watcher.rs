//! One watcher of parts of the state.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::feed::{Found, Place};
use super::segment::Segment;
use super::topics::{self, Filter};
use crate::config::limits;
use crate::node::handle::RaftNode;
use crate::node::live::Applied;
use crate::node::shared::Shared;
use crate::state_machine::{Cause, Change, Changes, RouterStateMachine, StateMachine};
use crate::types::{LogIndex, Micros};

/// How long a watcher hears nothing at most.
const MARK: Duration = Duration::from_secs(5);
/// Bytes of records after which a part of the state is told.
const PART: usize = 256 << 10;
/// Segments looked through in one go.
const AT_ONCE: usize = 64;

/// From where on changes are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchFrom {
    /// The state as it is, then changes.
    #[default]
    State,
    /// Changes after this index.
    After(LogIndex),
}

/// What is watched. See [`RaftNode::watch_with`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Records whose key begins with one of these; none: all. For the router's state see
    /// [`StateKey`](crate::state_machine::StateKey).
    pub prefixes: Vec<String>,
    /// From where on.
    pub from: WatchFrom,
    /// Renewals of leases and heartbeats too, as they happen: those before the watch began are not
    /// told.
    pub renewals: bool,
}

/// Why a watch cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// This node does not have all changes after the index any more.
    #[error("changes are there after index {oldest} only: read the state, and watch from there")]
    Compacted {
        /// The lowest index to go on from.
        oldest: LogIndex,
    },
    /// A prefix that no key has, or too many.
    #[error("prefixes: {0}")]
    Prefixes(String),
    /// The state machine does not tell what it changes.
    #[error("this state machine does not tell what it changes")]
    NotTold,
}

/// Why a watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnded {
    /// It took what it was told so slowly that what came next is not there any more.
    #[error("the watcher fell behind")]
    Behind {
        /// Go on after this index; from a new read of the state if there is none.
        resume_from: Option<LogIndex>,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped {
        /// As above, at another node.
        resume_from: Option<LogIndex>,
    },
}

/// What a watcher is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A part of the state as it is at one index.
    State(StateRecords),
    /// All that one entry of the log changed, of what is watched.
    Changes(ChangedEntry),
    /// Everything up to here was told.
    Progress {
        /// The index.
        index: LogIndex,
        /// Its log time, microseconds.
        time_us: Micros,
    },
    /// The node got a snapshot: changes up to this index are not told. The state as it is comes
    /// next, in place of all that was told before.
    Reset {
        /// The index.
        index: LogIndex,
    },
}

/// Records of the state at one index.
#[derive(Clone, Debug)]
pub struct StateRecords {
    /// The index.
    pub index: LogIndex,
    /// Its log time, microseconds.
    pub time_us: Micros,
    /// Whether these were the last: from here on it is changes after `index`.
    pub complete: bool,
    records: Changes,
}

impl StateRecords {
    /// Keys and values.
    pub fn records(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let each = self.records.iter();
        each.map(|record| (record.key, record.value.unwrap_or_default()))
    }
}

/// What one entry changed. Cheap to clone; shared by all who are told.
#[derive(Clone, Debug)]
pub struct ChangedEntry {
    /// Its index.
    pub index: LogIndex,
    /// Its log time, microseconds.
    pub time_us: Micros,
    segment: Segment,
    which: Vec<u32>,
}

impl ChangedEntry {
    /// The changes, each of another record.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
        let nothing = Change {
            index: self.index,
            time_us: self.time_us,
            key: "",
            value: None,
            cause: Cause::Command,
        };
        let each = self.which.iter();
        each.map(move |nth| self.segment.get(*nth as usize).unwrap_or(nothing))
    }
}

/// Tells what changes in parts of the state. See [`RaftNode::watch`].
///
/// It does not keep the node alive. Dropping it ends the watch.
pub struct StateWatch<S: StateMachine = RouterStateMachine> {
    shared: Arc<Shared<S>>,
    stopped: watch::Receiver<bool>,
    filter: Filter,
    place: Place,
    doing: Doing<S>,
    /// A segment under way, and how far.
    segment: Option<(Segment, usize)>,
    /// Everything up to here was told, and is not told again.
    seen: LogIndex,
    /// Log time where the feed was seen last.
    time_us: Micros,
    mark: Instant,
}

enum Doing<S: StateMachine> {
    /// Reads the state: of this prefix, behind this key.
    Reading {
        state: Arc<Applied<S::View>>,
        prefix: usize,
        after: Option<String>,
    },
    /// Looks through the history, from this segment on.
    Replaying(Option<u64>),
    /// Takes what comes.
    Following,
}

enum Step {
    Told(Told),
    /// There is more to look through.
    Again,
    Idle,
}

impl<S: StateMachine> std::fmt::Debug for StateWatch<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateWatch")
            .field("filter", &self.filter)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> Drop for StateWatch<S> {
    fn drop(&mut self) {
        self.shared.feed.leave(&self.place);
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// Watches the records whose keys begin with one of `prefixes` (none: all), on any node: tells
    /// every change once and in order, without polling, and says so where it cannot.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn watch(
        &self,
        prefixes: impl IntoIterator<Item = impl Into<String>>,
        from: WatchFrom,
    ) -> Result<StateWatch<S>, WatchError> {
        self.watch_with(WatchOptions {
            prefixes: prefixes.into_iter().map(Into::into).collect(),
            from,
            renewals: false,
        })
    }

    /// [`watch`](Self::watch) with options.
    ///
    /// # Errors
    /// As `watch`.
    pub fn watch_with(&self, options: WatchOptions) -> Result<StateWatch<S>, WatchError> {
        StateWatch::new(self.shared_handle(), &options)
    }

    /// How many watch parts of the state.
    pub fn watchers(&self) -> usize {
        self.shared().feed.watchers()
    }
}

impl<S: StateMachine> StateWatch<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, options: &WatchOptions) -> Result<Self, WatchError> {
        if !S::TELLS_CHANGES {
            return Err(WatchError::NotTold);
        }
        check(&options.prefixes)?;
        let filter = topics::filter(&options.prefixes, options.renewals);
        // First the place, then the state: what comes between is told, or in the state.
        let place = shared.feed.join(&filter);
        let state = shared.applied();
        let mut watch = Self {
            stopped: shared.stopped.subscribe(),
            filter,
            place,
            doing: Doing::Following,
            segment: None,
            seen: 0,
            time_us: state.time_us,
            mark: Instant::now() + MARK,
            shared,
        };
        match options.from {
            WatchFrom::State => watch.read(state),
            WatchFrom::After(index) => {
                let oldest = watch.shared.feed.start();
                if index < oldest {
                    return Err(WatchError::Compacted { oldest });
                }
                watch.seen = index;
                watch.doing = Doing::Replaying(None);
            }
        }
        Ok(watch)
    }

    fn read(&mut self, state: Arc<Applied<S::View>>) {
        self.segment = None;
        self.doing = Doing::Reading {
            state,
            prefix: 0,
            after: None,
        };
    }

    /// Waits for what comes next. May be dropped while it waits: nothing gets lost.
    ///
    /// # Errors
    /// See [`WatchEnded`]: the watch is over.
    pub async fn next(&mut self) -> Result<Told, WatchEnded> {
        loop {
            let news = Arc::clone(&self.place.news);
            let mut news = pin!(news.notified());
            news.as_mut().enable();
            match self.step()? {
                Step::Told(told) => return Ok(told),
                Step::Again => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Step::Idle => {}
            }
            if self.mark <= Instant::now() {
                return Ok(self.progress());
            }
            let stopped = tokio::select! {
                () = news => false,
                _ = self.stopped.wait_for(|stopped| *stopped) => true,
                () = sleep_until(self.mark) => false,
            };
            if stopped {
                let resume_from = self.resume_from();
                return Err(WatchEnded::Stopped { resume_from });
            }
        }
    }

    /// What is there to be told without waiting, if anything is.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<Told>, WatchEnded> {
        Ok(match self.step()? {
            Step::Told(told) => Some(told),
            Step::Again | Step::Idle => None,
        })
    }

    /// The index to resume from; none before a whole state was told.
    pub fn resume_from(&self) -> Option<LogIndex> {
        match self.doing {
            Doing::Reading { .. } => None,
            Doing::Replaying(_) | Doing::Following => Some(self.seen),
        }
    }

    fn progress(&mut self) -> Told {
        self.mark = Instant::now() + MARK;
        Told::Progress {
            index: self.seen,
            time_us: self.time_us,
        }
    }

    fn step(&mut self) -> Result<Step, WatchEnded> {
        for _ in 0..AT_ONCE {
            if let Some(entry) = self.next_entry() {
                self.seen = entry.index;
                self.mark = Instant::now() + MARK;
                return Ok(Step::Told(Told::Changes(entry)));
            }
            let feed = &self.shared.feed;
            let found = match &mut self.doing {
                Doing::Reading { .. } => feed.look(&mut self.place),
                Doing::Replaying(number) => feed.replay(&mut self.place, number, self.seen),
                Doing::Following => feed.take(&mut self.place),
            };
            match found {
                Found::Segment(segment) => self.segment = Some((segment, 0)),
                Found::Behind => {
                    self.shared.behind.increment(1);
                    let resume_from = self.resume_from();
                    return Err(WatchEnded::Behind { resume_from });
                }
                Found::Restored(index) => {
                    if let Some(told) = self.restored(index) {
                        return Ok(Step::Told(told));
                    }
                }
                Found::Nothing(index, time_us) => return Ok(self.nothing(index, time_us)),
            }
        }
        Ok(Step::Again)
    }

    /// The feed has nothing that is not told, up to `index`.
    fn nothing(&mut self, index: LogIndex, time_us: Micros) -> Step {
        match self.doing {
            Doing::Reading { .. } => self.read_some().map_or(Step::Again, Step::Told),
            Doing::Replaying(_) => {
                (self.seen, self.time_us) = (self.seen.max(index), time_us);
                self.doing = Doing::Following;
                Step::Told(self.progress())
            }
            Doing::Following => {
                (self.seen, self.time_us) = (self.seen.max(index), time_us);
                Step::Idle
            }
        }
    }

    /// A snapshot up to `index` took the place of the state.
    fn restored(&mut self, index: LogIndex) -> Option<Told> {
        let known = match &self.doing {
            Doing::Reading { state, .. } => state.id.index,
            Doing::Replaying(_) | Doing::Following => self.seen,
        };
        if known >= index {
            // Told elsewhere, or read: nothing is missing.
            if let Doing::Replaying(number) = &mut self.doing {
                *number = None;
            }
            return None;
        }
        self.read(self.shared.applied());
        self.mark = Instant::now() + MARK;
        Some(Told::Reset { index })
    }

    /// The changes of the next entry in the segment under way that are watched and were not told.
    fn next_entry(&mut self) -> Option<ChangedEntry> {
        let (segment, nth) = self.segment.as_mut()?;
        let mut which = Vec::new();
        let mut at = None;
        while let Some(change) = segment.get(*nth) {
            if at.is_some_and(|(index, _)| index != change.index) {
                break;
            }
            if change.index > self.seen && is_watched(&self.filter, &change) {
                at = Some((change.index, change.time_us));
                which.push(*nth as u32);
            }
            *nth += 1;
        }
        let Some((index, time_us)) = at else {
            self.segment = None;
            return None;
        };
        Some(ChangedEntry {
            index,
            time_us,
            segment: Arc::clone(segment),
            which,
        })
    }

    /// The next part of the state.
    fn read_some(&mut self) -> Option<Told> {
        let Doing::Reading {
            state,
            prefix,
            after,
        } = &mut self.doing
        else {
            return None;
        };
        let (index, time_us) = (state.id.index, state.time_us);
        let mut records = Changes::heard(false);
        records.begin(index, time_us);
        let mut bytes = 0;
        while bytes < PART
            && let Some(below) = self.filter.0.get(*prefix)
        {
            let from = after.take();
            let mut last = None;
            S::scan(&state.view, below, from.as_deref(), &mut |key, write| {
                records.put(Cause::Command, key, |out| {
                    let before = out.len();
                    write(out);
                    bytes += key.len() + out.len() - before;
                });
                let more = bytes < PART;
                if !more {
                    last = Some(key.to_owned());
                }
                more
            });
            match last {
                Some(key) => *after = Some(key),
                None => *prefix += 1,
            }
        }
        let complete = *prefix == self.filter.0.len();
        if complete {
            (self.seen, self.time_us) = (index, time_us);
            self.doing = Doing::Following;
        }
        self.mark = Instant::now() + MARK;
        Some(Told::State(StateRecords {
            index,
            time_us,
            complete,
            records,
        }))
    }
}

fn is_watched((prefixes, renewals): &Filter, change: &Change<'_>) -> bool {
    if change.cause == Cause::Renewal && !renewals {
        return false;
    }
    // Sorted, and none begins with another: only the last that is not behind the key can fit.
    let nth = prefixes.partition_point(|prefix| **prefix <= *change.key);
    let before = nth.checked_sub(1).and_then(|nth| prefixes.get(nth));
    before.is_some_and(|prefix| change.key.starts_with(&**prefix))
}

fn check(prefixes: &[String]) -> Result<(), WatchError> {
    let refuse = |why: String| Err(WatchError::Prefixes(why));
    if prefixes.len() > limits::WATCH_PREFIXES {
        let most = limits::WATCH_PREFIXES;
        return refuse(format!("are {}, at most {most} are taken", prefixes.len()));
    }
    for prefix in prefixes {
        if !prefix.starts_with('/') {
            return refuse(format!(
                "{prefix:?} does not begin with a slash, as all keys do"
            ));
        }
        if prefix.len() > limits::WATCH_PREFIX_BYTES {
            let most = limits::WATCH_PREFIX_BYTES;
            return refuse(format!(
                "one has {} bytes, at most {most} are taken",
                prefix.len()
            ));
        }
    }
    Ok(())
}

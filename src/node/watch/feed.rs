//! The feed of changes: what the applier gives, and what watchers take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::segment::{History, Segment};
use super::topics::{Filter, News, TopicId, Topics};
use crate::config::limits;
use crate::state_machine::Changes;
use crate::types::{LogIndex, Micros};

/// See the module. Its lock is held for look-ups only, never while anything is sent or waited for.
pub(crate) struct Feed {
    told: Mutex<Told>,
    /// Whether the applier writes renewals down.
    renewals: AtomicBool,
    /// Bytes that may wait for one watcher.
    most_behind: usize,
}

struct Told {
    history: History,
    topics: Topics,
    /// Everything up to here is in the history and its topics.
    index: LogIndex,
    time_us: Micros,
    /// How often a snapshot took the place of the state.
    restored: u64,
}

/// Where a watcher stands in its topic.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) topic: TopicId,
    at: u64,
    restored: u64,
    pub(super) news: Arc<Notify>,
}

/// What a watcher finds.
pub(super) enum Found {
    /// Nothing; everything up to this index and time was told.
    Nothing(LogIndex, Micros),
    Segment(Segment),
    /// What came next is not there any more.
    Behind,
    /// A snapshot took the place of the state; changes up to its index are not there.
    Restored(LogIndex),
}

impl Feed {
    /// A feed of what comes after `start`.
    pub(crate) fn new(start: LogIndex, time_us: Micros) -> Self {
        Self::with_limits(start, time_us, limits::WATCH_HISTORY, limits::WATCH_BEHIND)
    }

    pub(super) fn with_limits(
        start: LogIndex,
        time_us: Micros,
        history: usize,
        behind: usize,
    ) -> Self {
        Self {
            told: Mutex::new(Told {
                history: History::new(start, history),
                topics: Topics::default(),
                index: start,
                time_us,
                restored: 0,
            }),
            renewals: AtomicBool::new(false),
            most_behind: behind,
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the changes of the next entries are to be told with renewals.
    pub(crate) fn hears_renewals(&self) -> bool {
        self.renewals.load(Ordering::Relaxed)
    }

    /// The state as of `index` can be read, and these are the changes that made it.
    ///
    /// Not before it can be read: a watcher joins its topic, then reads the state, then takes what
    /// is newer than that; nothing may be newer and have come before it joined.
    pub(crate) fn publish(&self, changes: &Changes, index: LogIndex, time_us: Micros) {
        let woken = {
            let mut told = self.told();
            (told.index, told.time_us) = (index, time_us);
            if changes.is_empty() {
                return;
            }
            let number = told.history.next();
            let woken = told.topics.publish(number, changes, self.most_behind);
            // A copy has just the room that it needs, and who tells goes on in what it has.
            told.history.push(changes.clone());
            woken
        };
        woken.into_iter().for_each(|news| news.notify_waiters());
    }

    /// A snapshot up to `index` took the place of the state, and can be read.
    pub(crate) fn restored(&self, index: LogIndex, time_us: Micros) {
        let woken = {
            let mut told = self.told();
            (told.index, told.time_us) = (index, time_us);
            told.restored += 1;
            told.history.clear(index);
            told.topics.clear()
        };
        woken.into_iter().for_each(|news| news.notify_waiters());
    }

    /// How many watch.
    pub(crate) fn watchers(&self) -> usize {
        self.told().topics.watchers()
    }

    /// The index after which the history has every change.
    pub(super) fn start(&self) -> LogIndex {
        self.told().history.start()
    }

    /// Takes what comes from here on.
    pub(super) fn join(&self, filter: &Filter) -> Place {
        let mut told = self.told();
        let (topic, at) = told.topics.join(filter);
        self.renewals
            .store(told.topics.hears_renewals(), Ordering::Relaxed);
        Place {
            topic,
            at,
            restored: told.restored,
            news: told.topics.news(topic).unwrap_or_default(),
        }
    }

    pub(super) fn leave(&self, place: &Place) {
        let mut told = self.told();
        told.topics.leave(place.topic, place.at);
        self.renewals
            .store(told.topics.hears_renewals(), Ordering::Relaxed);
    }

    /// What comes next at a watcher's place.
    pub(super) fn take(&self, place: &mut Place) -> Found {
        let mut told = self.told();
        if let Some(restored) = told.restored_since(place) {
            return restored;
        }
        match told.topics.take(place.topic, &mut place.at) {
            News::None => Found::Nothing(told.index, told.time_us),
            News::Segment(number) => match told.history.get(number) {
                Some(segment) => Found::Segment(Arc::clone(segment)),
                None => Found::Behind,
            },
            News::Behind => Found::Behind,
        }
    }

    /// Whether a watcher that reads a state is still where it can go on.
    pub(super) fn look(&self, place: &mut Place) -> Found {
        let mut told = self.told();
        if let Some(restored) = told.restored_since(place) {
            return restored;
        }
        match told.topics.is_behind(place.topic, place.at) {
            true => Found::Behind,
            false => Found::Nothing(told.index, told.time_us),
        }
    }

    /// Takes from the history: the segment `number`, or the first with a change after `index`
    /// where there is no number yet. Nothing: it has come to the end, and what is told from here on
    /// waits at its place.
    pub(super) fn replay(
        &self,
        place: &mut Place,
        number: &mut Option<u64>,
        index: LogIndex,
    ) -> Found {
        let mut told = self.told();
        if let Some(restored) = told.restored_since(place) {
            return restored;
        }
        if number.is_none() && index < told.history.start() {
            return Found::Behind;
        }
        let next = number.unwrap_or_else(|| told.history.after(index));
        if next >= told.history.next() {
            told.topics.catch_up(place.topic, &mut place.at);
            return Found::Nothing(told.index, told.time_us);
        }
        match told.history.get(next) {
            Some(segment) => {
                *number = Some(next + 1);
                Found::Segment(Arc::clone(segment))
            }
            None => Found::Behind,
        }
    }
}

impl Told {
    fn restored_since(&mut self, place: &mut Place) -> Option<Found> {
        if place.restored == self.restored {
            return None;
        }
        place.restored = self.restored;
        // What waited was forgotten with the old state; what came since waits.
        place.at = place.at.max(self.topics.begin(place.topic));
        Some(Found::Restored(self.history.start()))
    }
}

//! Who waits for which changes.
//!
//! Watchers with the same prefixes share a topic. A change finds its topics by the prefixes of its
//! key, so those that it is not for cost it nothing, however many they are.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::state_machine::{Cause, Changes};

/// What is watched: sorted prefixes, none of which begins with another; and renewals too or not.
pub(super) type Filter = (Arc<[Box<str>]>, bool);

/// Finds a topic.
pub(super) type TopicId = u64;

/// Segments of the history that hold something for some watchers.
pub(super) struct Topic {
    filter: Filter,
    pub(super) news: Arc<Notify>,
    watchers: usize,
    waiting: VecDeque<Waiting>,
    /// How many came before the first that waits.
    base: u64,
    /// Bytes of what waits.
    bytes: usize,
    /// Bytes that the segment at hand has for it; 0 if it has nothing.
    fresh: usize,
}

/// A segment that some have not taken yet.
struct Waiting {
    segment: u64,
    bytes: usize,
    watchers: usize,
}

/// What a watcher finds that looks for news.
pub(super) enum News {
    None,
    Segment(u64),
    /// What it should have taken next is gone.
    Behind,
}

/// All topics.
#[derive(Default)]
pub(super) struct Topics {
    topics: HashMap<TopicId, Topic>,
    by_filter: HashMap<Filter, TopicId>,
    by_prefix: HashMap<Box<[u8]>, Vec<TopicId>>,
    /// How many prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    last: TopicId,
    /// Those that the segment at hand has something for.
    touched: Vec<TopicId>,
    with_renewals: usize,
    watchers: usize,
}

impl Topics {
    pub(super) fn watchers(&self) -> usize {
        self.watchers
    }

    /// Whether anybody watches renewals.
    pub(super) fn hears_renewals(&self) -> bool {
        self.with_renewals > 0
    }

    /// One more watcher; its topic, and its place there: it is told what comes from here on.
    pub(super) fn join(&mut self, filter: &Filter) -> (TopicId, u64) {
        let id = match self.by_filter.get(filter) {
            Some(id) => *id,
            None => self.open(filter),
        };
        self.watchers += 1;
        self.with_renewals += usize::from(filter.1);
        let end = self.topics.get_mut(&id).map_or(0, |topic| {
            topic.watchers += 1;
            topic.base + topic.waiting.len() as u64
        });
        (id, end)
    }

    fn open(&mut self, filter: &Filter) -> TopicId {
        self.last += 1;
        let id = self.last;
        for prefix in filter.0.iter() {
            let topics = self.by_prefix.entry(prefix.as_bytes().into()).or_default();
            if topics.is_empty() {
                *self.lengths.entry(prefix.len()).or_default() += 1;
            }
            topics.push(id);
        }
        let topic = Topic {
            filter: filter.clone(),
            news: Arc::default(),
            watchers: 0,
            waiting: VecDeque::new(),
            base: 0,
            bytes: 0,
            fresh: 0,
        };
        self.topics.insert(id, topic);
        self.by_filter.insert(filter.clone(), id);
        id
    }

    /// One watcher less, which had come to `place`.
    pub(super) fn leave(&mut self, id: TopicId, place: u64) {
        let Some(topic) = self.topics.get_mut(&id) else {
            return;
        };
        self.watchers -= 1;
        self.with_renewals -= usize::from(topic.filter.1);
        topic.watchers -= 1;
        if topic.watchers > 0 {
            topic.skip(place);
        } else if let Some(topic) = self.topics.remove(&id) {
            self.close(id, &topic);
        }
    }

    fn close(&mut self, id: TopicId, topic: &Topic) {
        self.by_filter.remove(&topic.filter);
        for prefix in topic.filter.0.iter() {
            let Some(topics) = self.by_prefix.get_mut(prefix.as_bytes()) else {
                continue;
            };
            topics.retain(|other| *other != id);
            if !topics.is_empty() {
                continue;
            }
            self.by_prefix.remove(prefix.as_bytes());
            if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&prefix.len());
                }
            }
        }
    }

    /// Notes for each topic whether the segment has something for it; whom to wake.
    pub(super) fn publish(
        &mut self,
        segment: u64,
        changes: &Changes,
        most: usize,
    ) -> Vec<Arc<Notify>> {
        if self.topics.is_empty() {
            return Vec::new();
        }
        for change in changes.iter() {
            let key = change.key.as_bytes();
            let size = 1 + key.len() + change.value.map_or(0, <[u8]>::len);
            for &length in self.lengths.range(..=key.len()).map(|(length, _)| length) {
                let Some(topics) = self.by_prefix.get(&key[..length]) else {
                    continue;
                };
                for id in topics {
                    let Some(topic) = self.topics.get_mut(id) else {
                        continue;
                    };
                    if change.cause == Cause::Renewal && !topic.filter.1 {
                        continue;
                    }
                    if topic.fresh == 0 {
                        self.touched.push(*id);
                    }
                    topic.fresh += size;
                }
            }
        }
        let topics = &mut self.topics;
        let touched = self.touched.drain(..);
        let woken = touched.filter_map(|id| {
            let topic = topics.get_mut(&id)?;
            topic.push(segment, most);
            Some(Arc::clone(&topic.news))
        });
        woken.collect()
    }

    /// What a watcher at `place` has to take next; the place behind it.
    pub(super) fn take(&mut self, id: TopicId, place: &mut u64) -> News {
        match self.topics.get_mut(&id) {
            Some(topic) => topic.take(place),
            None => News::None,
        }
    }

    pub(super) fn news(&self, id: TopicId) -> Option<Arc<Notify>> {
        self.topics.get(&id).map(|topic| Arc::clone(&topic.news))
    }

    /// Nothing that waits is of use any more; whom to wake.
    pub(super) fn clear(&mut self) -> Vec<Arc<Notify>> {
        let each = self.topics.values_mut();
        each.map(|topic| {
            topic.base += topic.waiting.len() as u64;
            topic.waiting.clear();
            topic.bytes = 0;
            Arc::clone(&topic.news)
        })
        .collect()
    }

    /// Whether what a watcher at `place` has to take next is gone.
    pub(super) fn is_behind(&self, id: TopicId, place: u64) -> bool {
        self.topics.get(&id).is_some_and(|topic| place < topic.base)
    }

    /// A watcher has found by other means what waits for it.
    pub(super) fn catch_up(&mut self, id: TopicId, place: &mut u64) {
        if let Some(topic) = self.topics.get_mut(&id) {
            topic.skip(*place);
            *place = topic.base + topic.waiting.len() as u64;
        }
    }

    /// The place of the first that waits.
    pub(super) fn begin(&self, id: TopicId) -> u64 {
        self.topics.get(&id).map_or(0, |topic| topic.base)
    }
}

impl Topic {
    fn push(&mut self, segment: u64, most: usize) {
        let bytes = std::mem::take(&mut self.fresh);
        self.bytes += bytes;
        self.waiting.push_back(Waiting {
            segment,
            bytes,
            watchers: self.watchers,
        });
        // Who takes what comes as it comes is not behind, however large it is.
        while self.bytes > most && self.waiting.len() > 1 {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(gone) = self.waiting.pop_front() {
            self.bytes -= gone.bytes;
            self.base += 1;
        }
    }

    fn take(&mut self, place: &mut u64) -> News {
        let Some(nth) = place.checked_sub(self.base) else {
            return News::Behind;
        };
        let Some(waiting) = self.waiting.get_mut(nth as usize) else {
            return News::None;
        };
        *place += 1;
        waiting.watchers -= 1;
        let segment = waiting.segment;
        self.forget_taken();
        News::Segment(segment)
    }

    /// A watcher at `place` takes nothing more.
    fn skip(&mut self, place: u64) {
        let nth = place.saturating_sub(self.base) as usize;
        for waiting in self.waiting.iter_mut().skip(nth) {
            waiting.watchers -= 1;
        }
        self.forget_taken();
    }

    fn forget_taken(&mut self) {
        while self
            .waiting
            .front()
            .is_some_and(|first| first.watchers == 0)
        {
            self.pop();
        }
    }
}

/// A filter for these prefixes; without any, for everything.
pub(super) fn filter(prefixes: &[String], renewals: bool) -> Filter {
    let mut prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    if prefixes.is_empty() {
        prefixes.push("/");
    }
    prefixes.sort_unstable();
    // Sorted, what begins with a prefix comes right behind it.
    prefixes.dedup_by(|next, kept| next.starts_with(*kept));
    (prefixes.into_iter().map(Box::from).collect(), renewals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(keys: &[&str]) -> Changes {
        let mut changes = Changes::heard(true);
        changes.begin(1, 1);
        for key in keys {
            let cause = match key.starts_with("/r") {
                true => Cause::Renewal,
                false => Cause::Command,
            };
            changes.put(cause, key, |out| out.extend([0; 100]));
        }
        changes.end();
        changes
    }

    fn join(topics: &mut Topics, prefixes: &[&str], renewals: bool) -> (TopicId, u64) {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        topics.join(&filter(&prefixes, renewals))
    }

    fn take(topics: &mut Topics, (id, place): &mut (TopicId, u64)) -> Option<u64> {
        match topics.take(*id, place) {
            News::None => None,
            News::Segment(number) => Some(number),
            News::Behind => panic!("behind"),
        }
    }

    #[test]
    fn prefixes_are_kept_without_those_that_others_cover() {
        let of = |prefixes: &[&str]| {
            let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            filter(&prefixes, false).0.join(" ")
        };
        assert_eq!(of(&[]), "/");
        assert_eq!(of(&["/b", "/a/c", "/a/", "/b"]), "/a/ /b");
        assert_eq!(of(&["/a/1", "/a/", "/a-"]), "/a- /a/");
        assert_eq!(of(&["/x", ""]), "");
    }

    #[test]
    fn a_change_finds_those_whose_prefix_its_key_has() {
        let mut topics = Topics::default();
        let mut all = join(&mut topics, &[], false);
        let mut one = join(&mut topics, &["/a/1", "/b"], false);
        let mut other = join(&mut topics, &["/a/2"], false);
        let mut renewals = join(&mut topics, &["/r"], true);
        let woken = topics.publish(7, &changes(&["/a/1", "/a/11", "/b"]), 1000);
        assert_eq!(woken.len(), 2);
        assert_eq!(take(&mut topics, &mut all), Some(7));
        assert_eq!(take(&mut topics, &mut one), Some(7));
        assert_eq!(take(&mut topics, &mut one), None);
        assert_eq!(take(&mut topics, &mut other), None);
        // `/` watches `/r/1` too, but no renewals.
        let woken = topics.publish(8, &changes(&["/r/1"]), 1000);
        assert_eq!((woken.len(), take(&mut topics, &mut all)), (1, None));
        assert_eq!(take(&mut topics, &mut renewals), Some(8));
    }

    #[test]
    fn what_all_have_taken_is_forgotten_and_so_is_a_topic_without_watchers() {
        let mut topics = Topics::default();
        let mut one = join(&mut topics, &["/a"], false);
        let mut other = join(&mut topics, &["/a"], true);
        let mut third = join(&mut topics, &["/a"], false);
        assert_eq!(one.0, third.0);
        topics.publish(1, &changes(&["/a"]), 1000);
        topics.publish(2, &changes(&["/a"]), 1000);
        assert_eq!(take(&mut topics, &mut one), Some(1));
        assert_eq!(topics.topics[&one.0].waiting.len(), 2);
        assert_eq!(take(&mut topics, &mut third), Some(1));
        assert_eq!(topics.topics[&one.0].waiting.len(), 1);
        // Who leaves is not waited for.
        assert_eq!(take(&mut topics, &mut one), Some(2));
        topics.leave(third.0, third.1);
        assert_eq!(topics.topics[&one.0].waiting.len(), 0);
        assert_eq!(topics.topics[&one.0].bytes, 0);
        assert!(topics.hears_renewals());
        assert_eq!(take(&mut topics, &mut other), Some(1));
        topics.leave(other.0, other.1);
        assert!(!topics.hears_renewals());
        topics.leave(one.0, one.1);
        assert_eq!(topics.watchers(), 0);
        assert!(topics.topics.is_empty() && topics.by_filter.is_empty());
        assert!(topics.by_prefix.is_empty() && topics.lengths.is_empty());
    }

    #[test]
    fn h3_who_does_not_take_falls_behind_and_holds_up_nobody() {
        let mut topics = Topics::default();
        let mut quick = join(&mut topics, &["/a"], false);
        let (id, mut slow) = join(&mut topics, &["/a"], false);
        for number in 0..10 {
            topics.publish(number, &changes(&["/a"]), 500);
            assert_eq!(take(&mut topics, &mut quick), Some(number));
            assert!(topics.topics[&id].bytes <= 500);
        }
        assert!(matches!(topics.take(id, &mut slow), News::Behind));
        topics.leave(id, slow);
        assert_eq!(topics.topics[&id].waiting.len(), 0);
        // One large change is no reason.
        topics.publish(
            10,
            &changes(&["/a1", "/a2", "/a3", "/a4", "/a5", "/a6"]),
            500,
        );
        assert_eq!(take(&mut topics, &mut quick), Some(10));
    }
}

//! What a state machine tells of the records that it changes, for those who watch them.
//!
//! Derived beside the state: neither the digest nor a response depends on whether anybody hears it.

use std::fmt::{self, Display, Write};
use std::ops::Range;

use crate::types::{LogIndex, Micros};

/// Why a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A command asked for it.
    Command,
    /// Something that it belongs to changed.
    Cascade,
    /// Its lease expired.
    Expired,
    /// Nothing changed but its lease, or what a heartbeat brings for display.
    Renewal,
}

/// One changed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The entry that changed it.
    pub index: LogIndex,
    /// Its log time, microseconds.
    pub time_us: Micros,
    /// The record's key.
    pub key: &'a str,
    /// The record as it is now; `None` if it is gone.
    pub value: Option<&'a [u8]>,
    /// Why.
    pub cause: Cause,
}

/// Changed records in the order of the log, many in few allocations.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    keys: String,
    values: Vec<u8>,
    marks: Vec<Mark>,
    heard: Heard,
    /// The entry that is applied, and where its marks begin.
    at: (LogIndex, Micros),
    first: usize,
}

#[derive(Clone, Debug)]
struct Mark {
    at: (LogIndex, Micros),
    key: Range<usize>,
    value: Option<Range<usize>>,
    cause: Cause,
}

/// Who listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Heard {
    #[default]
    Nobody,
    Changes,
    Renewals,
}

impl Changes {
    /// Nobody listens: nothing is written down.
    pub fn unheard() -> Self {
        Self::default()
    }

    /// Somebody listens; `renewals`: to renewals of leases too.
    pub fn heard(renewals: bool) -> Self {
        let mut changes = Self::default();
        changes.hear(renewals);
        changes
    }

    /// From here on somebody listens, see [`heard`](Self::heard).
    pub(crate) fn hear(&mut self, renewals: bool) {
        self.heard = match renewals {
            true => Heard::Renewals,
            false => Heard::Changes,
        };
    }

    /// Forgets what was told, and keeps its room.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.marks.clear();
        self.first = 0;
    }

    /// What is told from here on is of this entry.
    pub fn begin(&mut self, index: LogIndex, time_us: Micros) {
        self.at = (index, time_us);
        self.first = self.marks.len();
    }

    /// Nothing more is told of the entry. Of several changes of one record the last one is kept.
    pub fn end(&mut self) {
        let own = self.marks.get(self.first..).unwrap_or_default();
        if own.len() < 2 {
            return;
        }
        let mut order: Vec<usize> = (0..own.len()).collect();
        order.sort_by_key(|&nth| (&self.keys[own[nth].key.clone()], nth));
        let key = |nth: usize| &self.keys[own[nth].key.clone()];
        let again = order.windows(2).filter(|two| key(two[0]) == key(two[1]));
        let mut gone: Vec<usize> = again.map(|two| self.first + two[0]).collect();
        gone.sort_unstable();
        for nth in gone.into_iter().rev() {
            self.marks.remove(nth);
        }
    }

    /// Whether a change with this cause is written down. What is costly to put in words can be left
    /// out otherwise.
    pub fn hears(&self, cause: Cause) -> bool {
        match self.heard {
            Heard::Nobody => false,
            Heard::Changes => cause != Cause::Renewal,
            Heard::Renewals => true,
        }
    }

    /// The record `key` is now what `write` writes.
    pub fn put(&mut self, cause: Cause, key: impl Display, write: impl FnOnce(&mut Vec<u8>)) {
        self.put_at(cause, displayed(key), write);
    }

    /// As [`put`](Self::put), with what writes the key.
    pub(crate) fn put_at(
        &mut self,
        cause: Cause,
        key: impl FnOnce(&mut String) -> fmt::Result,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if !self.hears(cause) {
            return;
        }
        let start = self.values.len();
        write(&mut self.values);
        let value = start..self.values.len();
        self.mark(cause, key, Some(value));
    }

    /// The record `key` is gone.
    pub fn delete(&mut self, cause: Cause, key: impl Display) {
        if self.hears(cause) {
            self.mark(cause, displayed(key), None);
        }
    }

    fn mark(
        &mut self,
        cause: Cause,
        key: impl FnOnce(&mut String) -> fmt::Result,
        value: Option<Range<usize>>,
    ) {
        let start = self.keys.len();
        // Writing to a String fails only if the key's own writing does, which then has no more to say.
        let _ = key(&mut self.keys);
        self.marks.push(Mark {
            at: self.at,
            key: start..self.keys.len(),
            value,
            cause,
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Memory that they take, bytes.
    pub fn size(&self) -> usize {
        self.keys.capacity()
            + self.values.capacity()
            + self.marks.capacity() * size_of::<Mark>()
            + size_of::<Self>()
    }

    /// The one at this place.
    pub fn get(&self, nth: usize) -> Option<Change<'_>> {
        self.marks.get(nth).map(|mark| self.change(mark))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Change<'_>> + ExactSizeIterator {
        self.marks.iter().map(|mark| self.change(mark))
    }

    fn change(&self, mark: &Mark) -> Change<'_> {
        let (index, time_us) = mark.at;
        Change {
            index,
            time_us,
            key: &self.keys[mark.key.clone()],
            value: mark.value.clone().map(|range| &self.values[range]),
            cause: mark.cause,
        }
    }
}

fn displayed(key: impl Display) -> impl FnOnce(&mut String) -> fmt::Result {
    move |out| write!(out, "{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(changes: &Changes) -> Vec<(u64, &str, Option<&[u8]>)> {
        let each = changes.iter();
        each.map(|change| (change.index, change.key, change.value))
            .collect()
    }

    #[test]
    fn of_several_changes_of_a_record_by_one_entry_the_last_is_told() {
        let mut changes = Changes::heard(false);
        changes.begin(7, 70);
        changes.put(Cause::Command, "/a", |out| out.push(1));
        changes.end();
        changes.begin(8, 80);
        changes.put(Cause::Command, "/b", |out| out.push(2));
        changes.put(Cause::Command, "/a", |out| out.push(3));
        changes.put(Cause::Cascade, "/b", |out| out.push(4));
        changes.delete(Cause::Cascade, "/c");
        changes.end();
        assert_eq!(
            keys(&changes),
            [
                (7, "/a", Some(&[1][..])),
                (8, "/a", Some(&[3][..])),
                (8, "/b", Some(&[4][..])),
                (8, "/c", None),
            ]
        );
        assert_eq!(changes.get(3).map(|change| change.time_us), Some(80));
    }

    #[test]
    fn what_nobody_hears_is_not_written_down() {
        let tell = |changes: &mut Changes| {
            changes.put(Cause::Renewal, "/a", |_| {});
            changes.put(Cause::Expired, "/b", |_| {});
            changes.len()
        };
        assert_eq!(tell(&mut Changes::unheard()), 0);
        assert_eq!(tell(&mut Changes::heard(false)), 1);
        assert_eq!(tell(&mut Changes::heard(true)), 2);
        let mut unheard = Changes::unheard();
        unheard.put(Cause::Command, "/a", |_| panic!("put in words"));
    }
}

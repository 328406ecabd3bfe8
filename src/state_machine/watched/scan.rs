//! The records whose keys begin with a prefix, in pieces: whoever reads slowly goes on where it was.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use super::keys::{ROOTS, StateKey, decode_start};
use super::values;
use crate::state_machine::Found;
use crate::state_machine::ordered::{Id, OrderedMap};
use crate::state_machine::state::{GroupKey, RouterState, SourceKey, SourcePartition};

/// Calls `found` with the records below `prefix` that come behind the key `after`, until it says
/// false. The order is the same with each call on the same state.
pub(crate) fn scan(state: &RouterState, prefix: &str, after: Option<&str>, found: &mut Found<'_>) {
    let after = after.and_then(StateKey::parse);
    let first = after.as_ref().map_or(0, StateKey::section);
    for (section, root) in ROOTS.iter().enumerate().skip(first) {
        let rest = match prefix.strip_prefix(root) {
            Some(rest) => rest,
            None if root.starts_with(prefix) => "",
            None => continue,
        };
        let (outer, inner) = match rest.split_once('/') {
            Some((outer, inner)) => (outer, Some(inner)),
            None => (rest, None),
        };
        let Some(outer) = decode_start(outer) else {
            continue;
        };
        let after = after.as_ref().filter(|key| key.section() == section);
        let mut below = Below {
            state,
            prefix,
            outer,
            whole: inner.is_some(),
            inner: inner.map(|inner| inner.split('/').next().unwrap_or_default()),
            found,
        };
        if !below.section(section, after) {
            return;
        }
    }
}

struct Below<'a, 'f> {
    state: &'a RouterState,
    prefix: &'a str,
    /// What the first id begins with, or is.
    outer: Cow<'a, str>,
    whole: bool,
    /// What the second part begins with, as it is written.
    inner: Option<&'a str>,
    found: &'a mut Found<'f>,
}

type After<'k> = Option<&'k StateKey<'k>>;

impl Below<'_, '_> {
    /// False once `found` takes no more.
    fn section(&mut self, section: usize, after: After<'_>) -> bool {
        let state = self.state;
        let newest = &state.checkpoints.service_checkpoints;
        match section {
            0 => self.ids(&state.sidecars, after, StateKey::Sidecar, values::sidecar),
            1 => self.ids(&state.services, after, StateKey::Service, values::service),
            2 => self.ids(
                &state.pipelines,
                after,
                StateKey::Pipeline,
                values::pipeline,
            ),
            3 => self.assignments(after),
            4 => self.locations(after),
            5 => self.ids(&state.groups, after, StateKey::Group, values::group),
            6 => self.source_offsets(after),
            7 => self.group_offsets(after),
            8 => self.watermarks(after),
            _ => self.ids(newest, after, StateKey::Checkpoint, values::checkpoint),
        }
    }

    fn give(&mut self, key: &StateKey<'_>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let key = key.to_string();
        if !key.starts_with(self.prefix) {
            return true;
        }
        let mut write = Some(write);
        (self.found)(&key, &mut |out| {
            if let Some(write) = write.take() {
                write(out);
            }
        })
    }

    fn is_below(&self, id: &str) -> bool {
        match self.whole {
            true => *id == *self.outer,
            false => id.starts_with(&*self.outer),
        }
    }

    fn ids<'m, T>(
        &mut self,
        map: &'m OrderedMap<Id, Arc<T>>,
        after: After<'_>,
        key: fn(Cow<'m, str>) -> StateKey<'m>,
        write: fn(&T, &mut Vec<u8>),
    ) -> bool {
        let outer = self.outer.clone();
        let start = match after.map(first_id) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(&*outer),
        };
        for (id, record) in map.range::<_, str>((start, Bound::Unbounded)) {
            if !self.is_below(id) {
                break;
            }
            if !self.give(&key(Cow::Borrowed(&**id)), |out| write(record, out)) {
                return false;
            }
        }
        true
    }

    fn assignments(&mut self, after: After<'_>) -> bool {
        let sidecars = self.state.sidecars.clone();
        self.pairs(&sidecars, after, |below, id, sidecar, inner| {
            for (pipeline, assignment) in sidecar.assignments.range::<_, str>(inner) {
                let key = StateKey::Assignment((&**id).into(), (&**pipeline).into());
                if !below.give(&key, |out| values::assignment(id, assignment, out)) {
                    return false;
                }
            }
            true
        })
    }

    fn locations(&mut self, after: After<'_>) -> bool {
        let locations = self.state.service_locations.clone();
        self.pairs(&locations, after, |below, name, sidecars, inner| {
            for (sidecar, ()) in sidecars.range::<_, str>(inner) {
                let key = StateKey::Location((&**name).into(), (&**sidecar).into());
                if !below.give(&key, |out| values::location(name, sidecar, out)) {
                    return false;
                }
            }
            true
        })
    }

    /// `each` gets the first id, what it leads to, and which second ids are asked for.
    fn pairs<T>(
        &mut self,
        map: &OrderedMap<Id, T>,
        after: After<'_>,
        mut each: impl FnMut(&mut Self, &Id, &T, (Bound<&str>, Bound<&str>)) -> bool,
    ) -> bool {
        let outer = self.outer.clone();
        let inner = self.inner.map(decode_start);
        let Some(inner) = inner.unwrap_or(Some("".into())) else {
            return true;
        };
        let start = after.map_or(&*outer, first_id);
        for (id, value) in map.range::<_, str>((Bound::Included(start), Bound::Unbounded)) {
            if !self.is_below(id) {
                break;
            }
            let told = after
                .filter(|key| first_id(key) == &**id)
                .and_then(second_id);
            let start = told.map_or(Bound::Included(&*inner), Bound::Excluded);
            if !each(self, id, value, (start, Bound::Unbounded)) {
                return false;
            }
        }
        true
    }

    fn source_offsets(&mut self, after: After<'_>) -> bool {
        let offsets = self.state.checkpoints.source_offsets.clone();
        self.partitions(&offsets, after, |below, key, value| {
            let (source, partition) = (&*key.source_id, key.partition);
            let key = StateKey::SourceOffset(source.into(), partition);
            below.give(&key, |out| {
                values::source_offset(source, partition, *value, out);
            })
        })
    }

    fn watermarks(&mut self, after: After<'_>) -> bool {
        let watermarks = self.state.checkpoints.watermarks.clone();
        self.partitions(&watermarks, after, |below, key, value| {
            let (source, partition) = (&*key.source_id, key.partition);
            let key = StateKey::Watermark(source.into(), partition);
            below.give(&key, |out| values::watermark(source, partition, value, out))
        })
    }

    fn partitions<T>(
        &mut self,
        map: &OrderedMap<SourcePartition, T>,
        after: After<'_>,
        mut each: impl FnMut(&mut Self, &SourcePartition, &T) -> bool,
    ) -> bool {
        let outer = self.outer.clone();
        let start = match after {
            Some(StateKey::SourceOffset(source, nth) | StateKey::Watermark(source, nth)) => {
                Bound::Excluded(SourceKey(source, *nth))
            }
            _ => Bound::Included(SourceKey(&outer, 0)),
        };
        for (key, value) in map.range((start, Bound::Unbounded)) {
            if !self.is_below(&key.source_id) {
                break;
            }
            if !each(self, key, value) {
                return false;
            }
        }
        true
    }

    fn group_offsets(&mut self, after: After<'_>) -> bool {
        let outer = self.outer.clone();
        let offsets = self.state.checkpoints.group_offsets.clone();
        let start = match after {
            Some(StateKey::GroupOffset(group, source, nth)) => {
                Bound::Excluded(GroupKey(group, source, *nth))
            }
            _ => Bound::Included(GroupKey(&outer, "", 0)),
        };
        for (key, value) in offsets.range((start, Bound::Unbounded)) {
            let (group, source, nth) = (&*key.group_id, &*key.source_id, key.partition);
            if !self.is_below(group) {
                break;
            }
            let key = StateKey::GroupOffset(group.into(), source.into(), nth);
            let write = |out: &mut Vec<u8>| values::group_offset(group, source, nth, *value, out);
            if !self.give(&key, write) {
                return false;
            }
        }
        true
    }
}

fn first_id<'k>(key: &'k StateKey<'_>) -> &'k str {
    match key {
        StateKey::Sidecar(id)
        | StateKey::Service(id)
        | StateKey::Pipeline(id)
        | StateKey::Assignment(id, _)
        | StateKey::Location(id, _)
        | StateKey::Group(id)
        | StateKey::SourceOffset(id, _)
        | StateKey::GroupOffset(id, ..)
        | StateKey::Watermark(id, _)
        | StateKey::Checkpoint(id) => id,
    }
}

fn second_id<'k>(key: &'k StateKey<'_>) -> Option<&'k str> {
    match key {
        StateKey::Assignment(_, id) | StateKey::Location(_, id) => Some(id),
        _ => None,
    }
}

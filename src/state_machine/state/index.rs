//! Secondary indexes: what a cascade or a read needs without a scan. Derived from the records, so
//! neither in the snapshot nor in the digest.

use std::ops::Bound;

use super::keys::PairKey;
use super::{RouterState, ServiceState, SidecarState};
use crate::state_machine::command::{EventTime, StageTarget};
use crate::state_machine::ordered::{Id, OrderedMap};

/// Pairs of ids, found by the first; counted, since two records may give the same pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pairs(OrderedMap<(Id, Id), u32>);

impl Pairs {
    pub(crate) fn add(&mut self, first: &Id, second: &Id) {
        match self.0.get_mut(&PairKey(first, second)) {
            Some(count) => *count += 1,
            None => {
                self.0.insert((first.clone(), second.clone()), 1);
            }
        }
    }

    pub(crate) fn take(&mut self, first: &Id, second: &Id) {
        let key = PairKey(first, second);
        match self.0.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.0.remove(&key);
            }
        }
    }

    /// The second ids beside `first`, in order.
    pub(crate) fn of<'a, 'k>(
        &'a self,
        first: &'k str,
    ) -> impl Iterator<Item = &'a Id> + use<'a, 'k> {
        self.behind(first, None)
    }

    /// The second ids beside `first` that come behind `after`, in order.
    pub(crate) fn behind<'a, 'k>(
        &'a self,
        first: &'k str,
        after: Option<&'k str>,
    ) -> impl Iterator<Item = &'a Id> + use<'a, 'k> {
        let start = match after {
            Some(after) => Bound::Excluded(PairKey(first, after)),
            None => Bound::Included(PairKey(first, "")),
        };
        self.0
            .range((start, Bound::Unbounded))
            .map(|((one, other), _)| (one, other))
            .take_while(move |(one, _)| ***one == *first)
            .map(|(_, other)| other)
    }
}

/// The partitions of each source, the slowest first. By source, so that a partition that gets on moves
/// among those of its source: keys of numbers, few and near.
type Slowest = OrderedMap<Id, OrderedMap<(Option<EventTime>, u32), ()>>;

/// All secondary indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Indexes {
    pub(crate) services_by_name: Pairs,
    pub(crate) services_by_type: Pairs,
    pub(crate) services_by_group: Pairs,
    pub(crate) services_by_label: Pairs,
    pub(crate) services_by_sidecar: Pairs,
    /// Groups by member.
    pub(crate) memberships: Pairs,
    /// Sidecars by the pipeline that they run.
    pub(crate) sidecars_by_pipeline: Pairs,
    /// By target sidecar, the sidecars with a stage that goes there.
    pub(crate) remote_users: Pairs,
    slowest: Slowest,
}

/// A label as a key: neither part can hold the separator, a control character.
pub(crate) fn label_key(key: &str, value: &str) -> Id {
    format!("{key}\0{value}").into()
}

impl Indexes {
    pub(crate) fn service(&mut self, service: &ServiceState, change: fn(&mut Pairs, &Id, &Id)) {
        let id = &service.service_id;
        change(&mut self.services_by_name, &service.service_name, id);
        change(&mut self.services_by_type, &service.service_type, id);
        for (key, value) in service.labels.iter() {
            change(&mut self.services_by_label, &label_key(key, value), id);
        }
        if let Some(group) = &service.group_id {
            change(&mut self.services_by_group, group, id);
        }
        if let Some(sidecar) = &service.sidecar_id {
            change(&mut self.services_by_sidecar, sidecar, id);
        }
    }

    pub(crate) fn assignment(
        &mut self,
        sidecar: &Id,
        assignment: &super::Assignment,
        change: fn(&mut Pairs, &Id, &Id),
    ) {
        let pipeline = &assignment.pipeline_id;
        change(&mut self.sidecars_by_pipeline, pipeline, sidecar);
        for stage in &assignment.stages {
            if let StageTarget::Remote { sidecar_id, .. } = &stage.target {
                let target = Id::from(sidecar_id.as_str());
                change(&mut self.remote_users, &target, sidecar);
            }
        }
    }

    /// A partition of `source` is at an event time, and was at another if it is not new.
    pub(crate) fn gets_on(
        &mut self,
        source: &Id,
        partition: u32,
        from: Option<Option<EventTime>>,
        to: Option<EventTime>,
    ) {
        let Some(partitions) = self.slowest.get_mut(&**source) else {
            let first = OrderedMap::from_iter([((to, partition), ())]);
            self.slowest.insert(source.clone(), first);
            return;
        };
        if let Some(from) = from {
            partitions.remove(&(from, partition));
        }
        partitions.insert((to, partition), ());
    }

    /// The partition of `source` with the least event time, none counting as least.
    pub(crate) fn slowest(&self, source: &str) -> Option<u32> {
        let (_, partition) = self.slowest.get(source)?.keys().next()?;
        Some(*partition)
    }

    /// All of it, from the records.
    pub(crate) fn rebuild(state: &RouterState) -> Self {
        let mut indexes = Self::default();
        for service in state.services.values() {
            indexes.service(service, Pairs::add);
        }
        for group in state.groups.values() {
            for member in group.members.keys() {
                indexes.memberships.add(member, &group.group_id);
            }
        }
        for sidecar in state.sidecars.values() {
            for assignment in sidecar.assignments.values() {
                indexes.assignment(&sidecar.sidecar_id, assignment, Pairs::add);
            }
        }
        for (key, watermark) in &state.checkpoints.watermarks {
            indexes.gets_on(&key.source_id, key.partition, None, watermark.event_time);
        }
        indexes
    }
}

/// Which sidecars offer which service name, from the sidecars.
pub(crate) fn locations<'a>(
    sidecars: impl Iterator<Item = &'a SidecarState>,
) -> OrderedMap<Id, OrderedMap<Id, ()>> {
    let mut locations: OrderedMap<Id, OrderedMap<Id, ()>> = OrderedMap::new();
    for sidecar in sidecars {
        for service in sidecar.services.iter() {
            add_location(&mut locations, &service.service_name, &sidecar.sidecar_id);
        }
    }
    locations
}

pub(crate) fn add_location(
    locations: &mut OrderedMap<Id, OrderedMap<Id, ()>>,
    name: &Id,
    sidecar: &Id,
) {
    if let Some(sidecars) = locations.get_mut(name) {
        sidecars.insert(sidecar.clone(), ());
    } else {
        locations.insert(name.clone(), OrderedMap::from_iter([(sidecar.clone(), ())]));
    }
}

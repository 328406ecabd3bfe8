//! What can be read from the state beside its maps.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::index::label_key;
use super::lists::behind;
use super::{
    Assignment, GroupKey, GroupState, Health, Offset, RouterState, ServiceState, SourceKey,
};
use crate::state_machine::command::EventTime;
use crate::state_machine::ordered::Id;
use crate::types::{LogIndex, Micros, Term};

/// How much there is of everything, at one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The entry applied last.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Its log time, milliseconds.
    pub time_ms: u64,
    /// Digest of the state; 32 hexadecimal digits in JSON.
    #[serde(serialize_with = "hex")]
    pub digest: u128,
    /// Commands refused so far.
    pub rejections: u64,
    /// How many records, by name: those of the sections, and `assignments`, `members` and
    /// `service_locations`.
    pub counts: BTreeMap<&'static str, u64>,
}

fn hex<S: Serializer>(digest: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{digest:032x}"))
}

/// A watermark with its partition: that of the slowest where a whole source is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalWatermark {
    /// The partition.
    pub partition: u32,
    /// Its position.
    pub position: u64,
    /// The event time there; `None` counts as before all.
    pub event_time: Option<EventTime>,
}

/// Where a service name is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The type of what is there.
    pub service_type: Id,
    /// Where: of the service, or of the sidecar that offers it.
    pub endpoint: Id,
    /// How it is.
    pub health: Health,
    /// The registered service, if it is one.
    pub service_id: Option<Id>,
    /// The sidecar that offers it or that it is bound to, if there is one.
    pub sidecar_id: Option<Id>,
}

/// Which services to list; everything given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFilter {
    /// What it is called.
    pub name: Option<String>,
    /// Its type.
    pub service_type: Option<String>,
    /// Its group tag.
    pub group_id: Option<String>,
    /// Labels that it has.
    pub labels: BTreeMap<String, String>,
    /// Healthy ones only.
    pub healthy_only: bool,
    /// Those behind this id only.
    pub after: Option<String>,
}

impl ServiceFilter {
    fn takes(&self, service: &ServiceState) -> bool {
        let is = |wanted: &Option<String>, has: Option<&Id>| {
            let wanted = wanted.as_deref();
            wanted.is_none_or(|wanted| has.is_some_and(|has| **has == *wanted))
        };
        is(&self.name, Some(&service.service_name))
            && is(&self.service_type, Some(&service.service_type))
            && is(&self.group_id, service.group_id.as_ref())
            && (!self.healthy_only || service.health == Health::Healthy)
            && (self.labels.iter()).all(|(key, value)| service.labels.get(key) == Some(value))
    }
}

/// One partition, or all.
fn partitions(one: Option<u32>) -> RangeInclusive<u32> {
    one.unwrap_or(0)..=one.unwrap_or(u32::MAX)
}

impl RouterState {
    /// Index of the entry applied last.
    pub fn index(&self) -> LogIndex {
        self.clock.index
    }

    /// Term of the entry applied last.
    pub fn term(&self) -> Term {
        self.clock.term
    }

    /// Log time of the entry applied last, milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        self.clock.time_ms()
    }

    /// Log time less the time without a leader, microseconds: what leases run on.
    pub fn active_us(&self) -> Micros {
        self.clock.active_us()
    }

    /// Commands refused so far.
    pub fn rejections(&self) -> u64 {
        self.clock.rejections
    }

    /// Counts, place and digest: all of one moment.
    pub fn summary(&self) -> Summary {
        let sum = |counts: &mut dyn Iterator<Item = usize>| counts.sum::<usize>();
        let sidecars = self.sidecars.values();
        let groups = self.groups.values();
        let assignments = sum(&mut sidecars.map(|sidecar| sidecar.assignments.len()));
        let members = sum(&mut groups.map(|group| group.members.len()));
        let sections = self.sections();
        let counts = sections.iter().map(|(name, count, _)| (*name, *count));
        let derived = [
            ("assignments", assignments),
            ("members", members),
            ("service_locations", self.service_locations.len()),
        ];
        let counts = counts.chain(derived);
        Summary {
            index: self.clock.index,
            term: self.clock.term,
            time_ms: self.clock.time_ms(),
            digest: self.digest(),
            rejections: self.clock.rejections,
            counts: counts.map(|(name, count)| (name, count as u64)).collect(),
        }
    }

    /// The next offset to read of a source's partition.
    pub fn source_offset(&self, source: &str, partition: u32) -> Option<Offset> {
        let offsets = &self.checkpoints.source_offsets;
        offsets.get(&SourceKey(source, partition)).copied()
    }

    /// The offsets of a source by partition, in order; of one partition if it is given.
    pub fn source_offsets(
        &self,
        source: &str,
        partition: Option<u32>,
    ) -> impl Iterator<Item = (u32, Offset)> {
        let found = self.source_offsets_in(source, partitions(partition));
        found.map(|(key, offset)| (key.partition, *offset))
    }

    /// The watermark of a source's partition.
    pub fn watermark(&self, source: &str, partition: u32) -> Option<GlobalWatermark> {
        let watermarks = &self.checkpoints.watermarks;
        let found = watermarks.get(&SourceKey(source, partition))?;
        Some(found.of(partition))
    }

    /// The watermarks of a source, in the order of its partitions; of one if it is given.
    pub fn watermarks(
        &self,
        source: &str,
        partition: Option<u32>,
    ) -> impl Iterator<Item = GlobalWatermark> {
        let found = self.watermarks_in(source, partitions(partition));
        found.map(|(key, watermark)| watermark.of(key.partition))
    }

    /// The watermark of a source: that of its slowest partition, by event time and then by number;
    /// one without an event time is the slowest.
    pub fn global_watermark(&self, source: &str) -> Option<GlobalWatermark> {
        self.watermark(source, self.indexes.slowest(source)?)
    }

    /// The next offset to read of a source's partition, for a group.
    pub fn group_offset(&self, group: &str, source: &str, partition: u32) -> Option<Offset> {
        let offsets = &self.checkpoints.group_offsets;
        offsets.get(&GroupKey(group, source, partition)).copied()
    }

    /// The offsets of a group by source and partition, in order; of one source if it is given.
    pub fn group_offsets<'a>(
        &'a self,
        group: &'a str,
        source: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Id, u32, Offset)> {
        let found = self.group_offsets_after(group, source, None);
        found.map(|(key, offset)| (&key.source_id, key.partition, *offset))
    }

    /// Where services of this name are: first those that sidecars offer, then registered ones, each
    /// in the order of their ids.
    pub fn locate(&self, name: &str) -> Vec<Location> {
        let found = self.locations_after(name, None);
        found.map(|(_, location)| location).collect()
    }

    /// The services that `filter` takes, in the order of their ids. Uses the narrowest index that
    /// the filter allows.
    pub fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> Box<dyn Iterator<Item = &'a Arc<ServiceState>> + 'a> {
        let (indexes, after) = (&self.indexes, filter.after.as_deref());
        let label = filter.labels.iter().next();
        let ids: Box<dyn Iterator<Item = &Id>> = if let Some(name) = &filter.name {
            Box::new(indexes.services_by_name.behind(name, after))
        } else if let Some(group) = &filter.group_id {
            Box::new(indexes.services_by_group.behind(group, after))
        } else if let Some((key, value)) = label {
            let key = label_key(key, value);
            let ids: Vec<&Id> = indexes.services_by_label.behind(&key, after).collect();
            Box::new(ids.into_iter())
        } else if let Some(kind) = &filter.service_type {
            Box::new(indexes.services_by_type.behind(kind, after))
        } else {
            Box::new(behind(&self.services, after).map(|(id, _)| id))
        };
        let services = ids.filter_map(|id| self.services.get(&**id));
        Box::new(services.filter(|service| filter.takes(service)))
    }

    /// What a sidecar runs, in the order of the pipelines.
    pub fn assignments(&self, sidecar: &str) -> impl Iterator<Item = &Arc<Assignment>> {
        self.assignments_after(sidecar, None)
    }

    /// The sidecars that run a pipeline, in order.
    pub fn sidecars_of<'a>(&'a self, pipeline: &'a str) -> impl Iterator<Item = &'a Id> {
        self.indexes.sidecars_by_pipeline.of(pipeline)
    }

    /// Whose a partition is in a group.
    pub fn partition_owner(&self, group: &str, partition: u32) -> Option<&Id> {
        let group: &GroupState = self.groups.get(group)?;
        group.owners.get(&partition)
    }
}

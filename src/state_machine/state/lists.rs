//! Lists of records: each in a fixed order, and each to be gone on with behind any of its records.

use std::collections::BTreeSet;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use super::keys::{GroupKey, SourceKey};
use super::{
    Assignment, GroupPartition, GroupState, Lease, Location, Offset, PipelineState, RouterState,
    ServiceCheckpoint, ServiceState, SidecarState, SourcePartition, Watermark,
};
use crate::state_machine::ordered::{Id, OrderedMap};

/// Which pipelines to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipelineFilter {
    /// Those that are to run only.
    pub enabled_only: bool,
    /// Those behind this id only.
    pub after: Option<String>,
}

/// Which sidecars to list; everything given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SidecarFilter {
    /// Its namespace.
    pub namespace: Option<String>,
    /// Those behind this id only.
    pub after: Option<String>,
}

/// Whose [`Location`] it is; in the order in which they are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LocationKey {
    /// A sidecar offers it.
    Sidecar(Id),
    /// A service is registered.
    Service(Id),
}

/// What a pipeline goes on from: see [`RouterState::pipeline_checkpoints`].
#[derive(Clone, Debug)]
pub struct PipelineCheckpoints<'a> {
    state: &'a RouterState,
    /// The stages that sidecars run of it.
    pub stages: BTreeSet<&'a str>,
    /// The services that these stages are, by id or name.
    pub services: BTreeSet<&'a str>,
    /// The newest checkpoints of these services, in their order.
    pub checkpoints: Vec<&'a Arc<ServiceCheckpoint>>,
    /// Those that are called like a stage or one of its services, and those that a checkpoint names.
    pub sources: BTreeSet<&'a str>,
}

impl<'a> PipelineCheckpoints<'a> {
    /// Offsets of these sources, in the order of sources and partitions.
    pub fn offsets(&self) -> impl Iterator<Item = (&'a SourcePartition, &'a Offset)> {
        let offsets = &self.state.checkpoints.source_offsets;
        let sources = self.sources.iter();
        sources.flat_map(|source| partitions(offsets, source, ALL))
    }

    /// Watermarks of these sources, in the order of sources and partitions.
    pub fn watermarks(&self) -> impl Iterator<Item = (&'a SourcePartition, &'a Watermark)> {
        let watermarks = &self.state.checkpoints.watermarks;
        let sources = self.sources.iter();
        sources.flat_map(|source| partitions(watermarks, source, ALL))
    }
}

/// All partitions.
const ALL: RangeInclusive<u32> = 0..=u32::MAX;

/// What comes behind `after`, or everything.
pub(super) fn behind<'a, T>(
    map: &'a OrderedMap<Id, T>,
    after: Option<&str>,
) -> impl Iterator<Item = (&'a Id, &'a T)> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    map.range::<_, str>((start, Bound::Unbounded))
}

fn partitions<'a, T>(
    map: &'a OrderedMap<SourcePartition, T>,
    source: &str,
    range: RangeInclusive<u32>,
) -> impl Iterator<Item = (&'a SourcePartition, &'a T)> {
    let keys = SourceKey(source, *range.start())..=SourceKey(source, *range.end());
    let found = (!range.is_empty()).then(|| map.range(keys));
    found.into_iter().flatten()
}

impl RouterState {
    /// The lease by which a service lives: its own, or that of the sidecar that it is bound to.
    pub fn lease_of<'a>(&'a self, service: &'a ServiceState) -> &'a Lease {
        let sidecar = service.sidecar_id.as_ref();
        let sidecar = sidecar.and_then(|id| self.sidecars.get(&**id));
        sidecar.map_or(&service.lease, |sidecar| &sidecar.lease)
    }

    /// The pipelines that `filter` takes, in the order of their ids.
    pub fn list_pipelines<'a>(
        &'a self,
        filter: &'a PipelineFilter,
    ) -> impl Iterator<Item = &'a Arc<PipelineState>> {
        let found = behind(&self.pipelines, filter.after.as_deref());
        let pipelines = found.map(|(_, pipeline)| pipeline);
        pipelines.filter(|pipeline| pipeline.enabled || !filter.enabled_only)
    }

    /// The sidecars that `filter` takes, in the order of their ids.
    pub fn list_sidecars<'a>(
        &'a self,
        filter: &'a SidecarFilter,
    ) -> impl Iterator<Item = &'a Arc<SidecarState>> {
        let found = behind(&self.sidecars, filter.after.as_deref());
        let namespace = filter.namespace.as_deref();
        found.map(|(_, sidecar)| sidecar).filter(move |sidecar| {
            namespace.is_none_or(|namespace| *sidecar.namespace == *namespace)
        })
    }

    /// The groups behind `after`, or all, in the order of their ids.
    pub fn list_groups(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<GroupState>> {
        behind(&self.groups, after).map(|(_, group)| group)
    }

    /// What a sidecar runs of the pipelines behind `after`, in their order.
    pub fn assignments_after(
        &self,
        sidecar: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &Arc<Assignment>> {
        let sidecar = self.sidecars.get(sidecar).into_iter();
        let found = sidecar.flat_map(move |sidecar| behind(&sidecar.assignments, after));
        found.map(|(_, assignment)| assignment)
    }

    /// Where services of this name are: first those that sidecars offer, then registered ones, each
    /// in the order of their ids; behind `after`, if it is given.
    pub fn locations_after<'a>(
        &'a self,
        name: &'a str,
        after: Option<&'a LocationKey>,
    ) -> impl Iterator<Item = (LocationKey, Location)> {
        let (offered, registered) = match after {
            None => (Some(None), None),
            Some(LocationKey::Sidecar(id)) => (Some(Some(id.as_str())), None),
            Some(LocationKey::Service(id)) => (None, Some(id.as_str())),
        };
        let ids = offered.zip(self.service_locations.get(name));
        let ids = ids.into_iter().flat_map(|(after, ids)| behind(ids, after));
        let sidecars = ids.filter_map(|(id, ())| self.sidecars.get(&**id));
        let offered = sidecars.flat_map(move |sidecar| offers(sidecar, name));
        let ids = self.indexes.services_by_name.behind(name, registered);
        let services = ids.filter_map(|id| self.services.get(&**id));
        offered.chain(services.map(|service| registration(service)))
    }

    /// The offsets of a source's partitions in `range`, in order.
    pub fn source_offsets_in(
        &self,
        source: &str,
        range: RangeInclusive<u32>,
    ) -> impl Iterator<Item = (&SourcePartition, &Offset)> {
        partitions(&self.checkpoints.source_offsets, source, range)
    }

    /// The watermarks of a source's partitions in `range`, in order.
    pub fn watermarks_in(
        &self,
        source: &str,
        range: RangeInclusive<u32>,
    ) -> impl Iterator<Item = (&SourcePartition, &Watermark)> {
        partitions(&self.checkpoints.watermarks, source, range)
    }

    /// The offsets of a group by source and partition, in order; of one source if it is given, and
    /// behind a source's partition.
    pub fn group_offsets_after<'a>(
        &'a self,
        group: &'a str,
        source: Option<&'a str>,
        after: Option<(&'a str, u32)>,
    ) -> impl Iterator<Item = (&'a GroupPartition, &'a Offset)> {
        let start = match after {
            Some((source, nth)) => Bound::Excluded(GroupKey(group, source, nth)),
            None => Bound::Included(GroupKey(group, source.unwrap_or(""), 0)),
        };
        let offsets = &self.checkpoints.group_offsets;
        let found = offsets.range((start, Bound::Unbounded));
        found.take_while(move |(key, _)| {
            *key.group_id == *group && source.is_none_or(|source| *key.source_id == *source)
        })
    }

    /// What a pipeline goes on from: the checkpoints of the services that its stages are, with offsets
    /// and watermarks of the sources that these are or name. Its stages are those that sidecars run of
    /// it, as the pipeline's config is opaque; a stage is a service by its id or its name.
    pub fn pipeline_checkpoints<'a>(&'a self, pipeline: &'a str) -> PipelineCheckpoints<'a> {
        let sidecars = self.sidecars_of(pipeline);
        let sidecars = sidecars.filter_map(|id| self.sidecars.get(&**id));
        let assignments = sidecars.filter_map(|sidecar| sidecar.assignments.get(pipeline));
        let stages = assignments.flat_map(|assignment| &assignment.stages);
        let stages: BTreeSet<&str> = stages.map(|stage| stage.stage_id.as_str()).collect();
        let newest = &self.checkpoints.service_checkpoints;
        // A checkpoint stays when its service is gone.
        let is_service = |id: &str| self.services.contains_key(id) || newest.contains_key(id);
        let mut services: BTreeSet<&str> =
            (stages.iter().copied().filter(|id| is_service(id))).collect();
        for stage in &stages {
            let named = self.indexes.services_by_name.of(stage);
            services.extend(named.map(Id::as_str));
        }
        let checkpoints = services.iter().filter_map(|service| newest.get(*service));
        let checkpoints: Vec<_> = checkpoints.collect();
        let named = checkpoints.iter().flat_map(|it| it.source_offsets.keys());
        let sources = stages.iter().chain(&services).copied();
        PipelineCheckpoints {
            state: self,
            sources: sources.chain(named.map(String::as_str)).collect(),
            stages,
            services,
            checkpoints,
        }
    }
}

fn offers<'a>(
    sidecar: &'a SidecarState,
    name: &'a str,
) -> impl Iterator<Item = (LocationKey, Location)> + 'a {
    let services = sidecar.services.iter();
    let services = services.filter(move |service| *service.service_name == *name);
    services.map(|service| {
        let location = Location {
            service_type: service.service_type.clone(),
            endpoint: sidecar.endpoint.clone(),
            health: service.health,
            service_id: None,
            sidecar_id: Some(sidecar.sidecar_id.clone()),
        };
        (LocationKey::Sidecar(sidecar.sidecar_id.clone()), location)
    })
}

fn registration(service: &ServiceState) -> (LocationKey, Location) {
    let location = Location {
        service_type: service.service_type.clone(),
        endpoint: service.endpoint.clone(),
        health: service.health,
        service_id: Some(service.service_id.clone()),
        sidecar_id: service.sidecar_id.clone(),
    };
    (LocationKey::Service(service.service_id.clone()), location)
}

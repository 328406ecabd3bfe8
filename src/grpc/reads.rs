//! The answers to reads: the state's own reads, as messages.

use crate::node::Applied;
use crate::proto::{self, ListRequest, ReadAt, ReadRequest};
use crate::state_machine::{
    GroupState, Lease, Location, LocationKey, PipelineFilter, RouterState, ServiceFilter,
    ServiceState, SidecarFilter, SidecarState, SourcePartition,
};

use super::pages::{Page, Place};

/// A request for one record, or for what fits into one answer.
pub(super) trait Single: ReadRequest {
    /// The answer, but for where the state stands.
    fn answer(self, state: &RouterState) -> Self::Answer;
}

/// A request for a list.
pub(super) trait List: ListRequest {
    /// The page, but for where the state stands and whether there is another.
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer;
}

/// Where the state stands.
pub(super) fn at(state: &Applied<RouterState>) -> ReadAt {
    ReadAt {
        index: state.id.index,
        term: state.id.term,
        time_ms: state.time_us / 1000,
    }
}

/// A record's own lease, with the end of the one by which it lives.
fn lease(own: Lease, lives_by: &Lease) -> Option<proto::Lease> {
    Some(proto::Lease {
        expires_at_ms: lives_by.expires_at_ms(),
        ..own.into()
    })
}

fn service(state: &RouterState, service: &ServiceState) -> proto::ServiceRecord {
    proto::ServiceRecord {
        lease: lease(service.lease, state.lease_of(service)),
        ..service.into()
    }
}

/// Without its assignments, which may be more than fits into a message.
fn sidecar(sidecar: &SidecarState) -> proto::SidecarRecord {
    proto::SidecarRecord {
        timestamp: sidecar.timestamp,
        lease: lease(sidecar.lease, &sidecar.lease),
        ..sidecar.into()
    }
}

fn location(state: &RouterState, location: Location) -> proto::ServiceLocation {
    let service = location.service_id.as_ref();
    let service = service.and_then(|id| state.services.get(&**id));
    let sidecar = location.sidecar_id.as_ref();
    let sidecar = sidecar.and_then(|id| state.sidecars.get(&**id));
    let own = service.map(|service| state.lease_of(service));
    let lives_by = own.or_else(|| sidecar.map(|sidecar| &sidecar.lease));
    proto::ServiceLocation {
        service_type: location.service_type.to_string(),
        endpoint: location.endpoint.to_string(),
        health: location.health.to_string(),
        service_id: location.service_id.map(|id| id.to_string()),
        sidecar_id: location.sidecar_id.map(|id| id.to_string()),
        lease: lives_by.and_then(|lives_by| lease(*lives_by, lives_by)),
    }
}

impl Single for proto::GetServiceRequest {
    fn answer(self, state: &RouterState) -> Self::Answer {
        let found = state.services.get(self.service_id.as_str());
        proto::GetServiceResponse {
            at: None,
            service: found.map(|found| service(state, found)),
        }
    }
}

impl Single for proto::GetPipelineRequest {
    fn answer(self, state: &RouterState) -> Self::Answer {
        let found = state.pipelines.get(self.pipeline_id.as_str());
        proto::GetPipelineResponse {
            at: None,
            pipeline: found.map(|found| found.as_ref().into()),
        }
    }
}

impl Single for proto::GetSidecarRequest {
    fn answer(self, state: &RouterState) -> Self::Answer {
        let found = state.sidecars.get(self.sidecar_id.as_str());
        proto::GetSidecarResponse {
            at: None,
            sidecar: found.map(|found| sidecar(found)),
        }
    }
}

impl Single for proto::GetGroupRequest {
    fn answer(self, state: &RouterState) -> Self::Answer {
        let found = state.groups.get(self.group_id.as_str());
        proto::GetGroupResponse {
            at: None,
            group: found.map(|found| found.as_ref().into()),
        }
    }
}

impl Single for proto::PartitionOwnerRequest {
    fn answer(self, state: &RouterState) -> Self::Answer {
        let group = state.groups.get(self.group_id.as_str());
        let group: Option<&GroupState> = group.map(AsRef::as_ref);
        let owner = state.partition_owner(&self.group_id, self.partition);
        proto::PartitionOwnerResponse {
            at: None,
            service_id: owner.map(String::from),
            generation: group.map_or(0, |group| group.generation),
            assigned_generation: group.map_or(0, |group| group.assigned_generation),
        }
    }
}

impl Single for proto::GetServiceCheckpointRequest {
    fn answer(self, state: &RouterState) -> Self::Answer {
        let newest = &state.checkpoints.service_checkpoints;
        let found = newest.get(self.service_id.as_str());
        proto::GetServiceCheckpointResponse {
            at: None,
            checkpoint: found.map(|found| found.as_ref().into()),
        }
    }
}

impl List for proto::ListServicesRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let filter = ServiceFilter {
            after: page.after_id(self.after.as_deref()).map(str::to_owned),
            name: self.service_name,
            service_type: self.service_type,
            group_id: self.group_id,
            labels: self.labels,
            healthy_only: self.healthy_only,
        };
        let found = state.list_services(&filter);
        let found = found.map(|it| (Place::id(&it.service_id), service(state, it)));
        proto::ListServicesResponse {
            services: page.fill(found),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::ListPipelinesRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let filter = PipelineFilter {
            after: page.after_id(self.after.as_deref()).map(str::to_owned),
            enabled_only: self.enabled_only,
        };
        let found = state.list_pipelines(&filter);
        let found = found.map(|it| (Place::id(&it.pipeline_id), it.as_ref().into()));
        proto::ListPipelinesResponse {
            pipelines: page.fill(found),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::ListSidecarsRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let filter = SidecarFilter {
            after: page.after_id(self.after.as_deref()).map(str::to_owned),
            namespace: self.namespace,
        };
        let found = state.list_sidecars(&filter);
        let found = found.map(|it| (Place::id(&it.sidecar_id), sidecar(it)));
        proto::ListSidecarsResponse {
            sidecars: page.fill(found),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::GetAssignmentsRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let sidecar = state.sidecars.get(self.sidecar_id.as_str());
        let after = page.after_id(None).map(str::to_owned);
        let found = state.assignments_after(&self.sidecar_id, after.as_deref());
        let found = found.map(|it| (Place::id(&it.pipeline_id), it.as_ref().into()));
        proto::GetAssignmentsResponse {
            assignments: page.fill(found),
            assignments_revision: sidecar.map_or(0, |sidecar| sidecar.assignments_revision),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::LocateServiceRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let after = page.after().map(|place| match place.section {
            0 => LocationKey::Sidecar(place.id.as_str().into()),
            _ => LocationKey::Service(place.id.as_str().into()),
        });
        let place = |key: &LocationKey| {
            let (section, id) = match key {
                LocationKey::Sidecar(id) => (0, id),
                LocationKey::Service(id) => (1, id),
            };
            Place {
                section,
                ..Place::id(id)
            }
        };
        let found = state.locations_after(&self.service_name, after.as_ref());
        let found = found.map(|(key, it)| (place(&key), location(state, it)));
        proto::LocateServiceResponse {
            locations: page.fill(found),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::ListGroupsRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let after = page.after_id(self.after.as_deref()).map(str::to_owned);
        let found = state.list_groups(after.as_deref());
        let found = found.map(|it| (Place::id(&it.group_id), it.as_ref().into()));
        proto::ListGroupsResponse {
            groups: page.fill(found),
            ..Self::Answer::default()
        }
    }
}

/// The partitions that a page may hold: of `wanted`, or of all, those behind where it begins.
fn range(page: &Page, wanted: Option<u32>) -> std::ops::RangeInclusive<u32> {
    let first = match page.after() {
        // The last of all has none behind it, and a page that ends with it is the last one.
        Some(place) => place.number.saturating_add(1),
        None => 0,
    };
    first.max(wanted.unwrap_or(0))..=wanted.unwrap_or(u32::MAX)
}

impl List for proto::GetSourceOffsetsRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let found = state.source_offsets_in(&self.source_id, range(page, self.partition));
        let found = found.map(|it| (Place::number("", it.0.partition), it.into()));
        proto::GetSourceOffsetsResponse {
            offsets: page.fill(found),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::GetWatermarksRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let source = &self.source_id;
        let found = state.watermarks_in(source, range(page, self.partition));
        let found = found.map(|it| (Place::number("", it.0.partition), it.into()));
        let slowest = state
            .global_watermark(source)
            .map(|slowest| slowest.partition);
        let slowest = slowest.and_then(|nth| state.watermarks_in(source, nth..=nth).next());
        proto::GetWatermarksResponse {
            watermarks: page.fill(found),
            global: slowest.map(Into::into),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::GetGroupOffsetsRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let after = page.after().cloned();
        let after = after
            .as_ref()
            .map(|place| (place.id.as_str(), place.number));
        let found = state.group_offsets_after(&self.group_id, self.source_id.as_deref(), after);
        let found = found.map(|it| (Place::number(&it.0.source_id, it.0.partition), it.into()));
        proto::GetGroupOffsetsResponse {
            offsets: page.fill(found),
            ..Self::Answer::default()
        }
    }
}

impl List for proto::GetPipelineCheckpointsRequest {
    fn answer(self, state: &RouterState, page: &mut Page) -> Self::Answer {
        let found = state.pipeline_checkpoints(&self.pipeline_id);
        let after = page.after().cloned();
        let is_behind = |place: &Place| after.as_ref().is_none_or(|after| place > after);
        let in_section = |section, key: &SourcePartition| Place {
            section,
            ..Place::number(&key.source_id, key.partition)
        };
        let checkpoints = found.checkpoints.iter();
        let checkpoints = checkpoints.map(|it| (Place::id(&it.service_id), it.as_ref().into()));
        let offsets = found.offsets().map(|it| (in_section(1, it.0), it.into()));
        let watermarks = found
            .watermarks()
            .map(|it| (in_section(2, it.0), it.into()));
        proto::GetPipelineCheckpointsResponse {
            checkpoints: page.fill(checkpoints.filter(|(place, _)| is_behind(place))),
            source_offsets: page.fill(offsets.filter(|(place, _)| is_behind(place))),
            watermarks: page.fill(watermarks.filter(|(place, _)| is_behind(place))),
            ..Self::Answer::default()
        }
    }
}

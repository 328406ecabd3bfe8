//! Reads of single records and lists, each from any node with a stated consistency.

use super::Client;
use super::error::ClientError;
use super::lists::Pages;
use crate::node::ReadConsistency;
use crate::proto::{
    GetAssignmentsRequest, GetGroupOffsetsRequest, GetGroupRequest, GetGroupResponse,
    GetPipelineCheckpointsRequest, GetPipelineRequest, GetPipelineResponse,
    GetServiceCheckpointRequest, GetServiceCheckpointResponse, GetServiceRequest,
    GetServiceResponse, GetSidecarRequest, GetSidecarResponse, GetSourceOffsetsRequest,
    GetWatermarksRequest, ListGroupsRequest, ListPipelinesRequest, ListServicesRequest,
    ListSidecarsRequest, LocateServiceRequest, PartitionOwnerRequest, PartitionOwnerResponse,
};
use crate::state_machine::{PipelineFilter, ServiceFilter, SidecarFilter};

/// Single records. Each answer says which entry it reflects; a record that is not there at that index
/// is absent in it.
impl Client {
    /// A service, with its lease.
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn get_service(
        &self,
        service_id: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Result<GetServiceResponse, ClientError> {
        let request = GetServiceRequest {
            service_id: service_id.into(),
            ..GetServiceRequest::default()
        };
        self.read_one(request, consistency).await
    }

    /// A pipeline, with its version.
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn get_pipeline(
        &self,
        pipeline_id: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Result<GetPipelineResponse, ClientError> {
        let request = GetPipelineRequest {
            pipeline_id: pipeline_id.into(),
            ..GetPipelineRequest::default()
        };
        self.read_one(request, consistency).await
    }

    /// A sidecar, with its lease and without its [assignments](Self::get_assignments).
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn get_sidecar(
        &self,
        sidecar_id: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Result<GetSidecarResponse, ClientError> {
        let request = GetSidecarRequest {
            sidecar_id: sidecar_id.into(),
            ..GetSidecarRequest::default()
        };
        self.read_one(request, consistency).await
    }

    /// A group, with its generations, members and their partitions.
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn get_group(
        &self,
        group_id: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Result<GetGroupResponse, ClientError> {
        let request = GetGroupRequest {
            group_id: group_id.into(),
            ..GetGroupRequest::default()
        };
        self.read_one(request, consistency).await
    }

    /// Whose a partition is in a group.
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn partition_owner(
        &self,
        group_id: impl Into<String>,
        partition: u32,
        consistency: ReadConsistency,
    ) -> Result<PartitionOwnerResponse, ClientError> {
        let request = PartitionOwnerRequest {
            group_id: group_id.into(),
            partition,
            ..PartitionOwnerRequest::default()
        };
        self.read_one(request, consistency).await
    }

    /// The newest checkpoint of a service, which outlives the service.
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn get_service_checkpoint(
        &self,
        service_id: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Result<GetServiceCheckpointResponse, ClientError> {
        let request = GetServiceCheckpointRequest {
            service_id: service_id.into(),
            ..GetServiceCheckpointRequest::default()
        };
        self.read_one(request, consistency).await
    }
}

/// Lists, in [`Pages`].
impl Client {
    /// The services that `filter` takes, in the order of their ids.
    pub fn list_services(
        &self,
        filter: ServiceFilter,
        consistency: ReadConsistency,
    ) -> Pages<ListServicesRequest> {
        let request = ListServicesRequest {
            service_name: filter.name,
            service_type: filter.service_type,
            group_id: filter.group_id,
            labels: filter.labels,
            healthy_only: filter.healthy_only,
            after: filter.after,
            ..ListServicesRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// The pipelines that `filter` takes, in the order of their ids.
    pub fn list_pipelines(
        &self,
        filter: PipelineFilter,
        consistency: ReadConsistency,
    ) -> Pages<ListPipelinesRequest> {
        let request = ListPipelinesRequest {
            enabled_only: filter.enabled_only,
            after: filter.after,
            ..ListPipelinesRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// The sidecars that `filter` takes, in the order of their ids, without their assignments.
    pub fn list_sidecars(
        &self,
        filter: SidecarFilter,
        consistency: ReadConsistency,
    ) -> Pages<ListSidecarsRequest> {
        let request = ListSidecarsRequest {
            namespace: filter.namespace,
            after: filter.after,
            ..ListSidecarsRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// What a sidecar runs, in the order of the pipelines.
    pub fn get_assignments(
        &self,
        sidecar_id: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Pages<GetAssignmentsRequest> {
        let request = GetAssignmentsRequest {
            sidecar_id: sidecar_id.into(),
            ..GetAssignmentsRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// Where services of this name are: first sidecars that offer it, then registered services.
    pub fn locate_service(
        &self,
        service_name: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Pages<LocateServiceRequest> {
        let request = LocateServiceRequest {
            service_name: service_name.into(),
            ..LocateServiceRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// The groups, in the order of their ids.
    pub fn list_groups(&self, consistency: ReadConsistency) -> Pages<ListGroupsRequest> {
        Pages::new(self, ListGroupsRequest::default(), consistency)
    }

    /// The offsets of a source, in the order of its partitions; of one if it is given.
    pub fn get_source_offsets(
        &self,
        source_id: impl Into<String>,
        partition: Option<u32>,
        consistency: ReadConsistency,
    ) -> Pages<GetSourceOffsetsRequest> {
        let request = GetSourceOffsetsRequest {
            source_id: source_id.into(),
            partition,
            ..GetSourceOffsetsRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// The offsets of a group, in the order of sources and partitions; of one source if it is given.
    pub fn get_group_offsets(
        &self,
        group_id: impl Into<String>,
        source_id: Option<String>,
        consistency: ReadConsistency,
    ) -> Pages<GetGroupOffsetsRequest> {
        let request = GetGroupOffsetsRequest {
            group_id: group_id.into(),
            source_id,
            ..GetGroupOffsetsRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// The watermarks of a source, in the order of its partitions, or that of one; and with each page
    /// the one of the whole source.
    pub fn get_watermarks(
        &self,
        source_id: impl Into<String>,
        partition: Option<u32>,
        consistency: ReadConsistency,
    ) -> Pages<GetWatermarksRequest> {
        let request = GetWatermarksRequest {
            source_id: source_id.into(),
            partition,
            ..GetWatermarksRequest::default()
        };
        Pages::new(self, request, consistency)
    }

    /// What a pipeline goes on from: the checkpoints of its services, and offsets and watermarks of
    /// their sources.
    pub fn get_pipeline_checkpoints(
        &self,
        pipeline_id: impl Into<String>,
        consistency: ReadConsistency,
    ) -> Pages<GetPipelineCheckpointsRequest> {
        let request = GetPipelineCheckpointsRequest {
            pipeline_id: pipeline_id.into(),
            ..GetPipelineCheckpointsRequest::default()
        };
        Pages::new(self, request, consistency)
    }
}

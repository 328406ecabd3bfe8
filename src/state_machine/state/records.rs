//! Records to and from their protobuf form: what snapshots carry, and what the digest hashes of
//! records that change seldom.

use std::sync::Arc;

use super::{
    Assignment, GroupPartition, GroupState, Health, Lease, Offset, PipelineState, RouterState,
    ServiceCheckpoint, ServiceState, SidecarService, SidecarState, SourcePartition, Watermark,
};
use crate::proto;
use crate::proto::state_record::Record as Proto;
use crate::state_machine::command::{offsets_from_proto, offsets_to_proto};
use crate::state_machine::ordered::Id;

/// A record with its key.
pub(crate) enum Record {
    Service(ServiceState),
    Pipeline(PipelineState),
    SourceOffset(SourcePartition, Offset),
    Watermark(SourcePartition, Watermark),
    Checkpoint(ServiceCheckpoint),
    GroupOffset(GroupPartition, Offset),
    Group(GroupState),
    Sidecar(SidecarState),
}

fn text(id: &Id) -> String {
    id.into()
}

impl From<Lease> for proto::Lease {
    fn from(lease: Lease) -> Self {
        Self {
            lease_ms: lease.lease_ms,
            last_heartbeat_ms: lease.last_heartbeat_ms,
            renewed_us: lease.renewed_us,
            expires_at_ms: None,
        }
    }
}

impl From<proto::Lease> for Lease {
    fn from(lease: proto::Lease) -> Self {
        Self {
            lease_ms: lease.lease_ms,
            last_heartbeat_ms: lease.last_heartbeat_ms,
            renewed_us: lease.renewed_us,
        }
    }
}

impl From<&ServiceState> for proto::ServiceRecord {
    /// Without the lease, which is a record of its own in the digest.
    fn from(service: &ServiceState) -> Self {
        Self {
            service_id: text(&service.service_id),
            service_type: text(&service.service_type),
            endpoint: text(&service.endpoint),
            service_name: text(&service.service_name),
            labels: service.labels.as_ref().clone(),
            group_id: service.group_id.as_ref().map(text),
            sidecar_id: service.sidecar_id.as_ref().map(text),
            health: service.health.as_str().into(),
            registered_at_ms: service.registered_at_ms,
            revision: service.revision,
            lease: None,
        }
    }
}

impl From<&PipelineState> for proto::PipelineRecord {
    fn from(pipeline: &PipelineState) -> Self {
        Self {
            pipeline_id: text(&pipeline.pipeline_id),
            name: text(&pipeline.name),
            config: pipeline.config.to_vec(),
            enabled: pipeline.enabled,
            version: pipeline.version,
            created_at_ms: pipeline.created_at_ms,
            updated_at_ms: pipeline.updated_at_ms,
            revision: pipeline.revision,
        }
    }
}

impl From<&ServiceCheckpoint> for proto::CheckpointRecord {
    fn from(checkpoint: &ServiceCheckpoint) -> Self {
        Self {
            service_id: text(&checkpoint.service_id),
            checkpoint_id: text(&checkpoint.checkpoint_id),
            data: checkpoint.data.clone(),
            source_offsets: offsets_to_proto(checkpoint.source_offsets.clone()),
            created_at_ms: checkpoint.created_at_ms,
            revision: checkpoint.revision,
        }
    }
}

impl From<&Assignment> for proto::PipelineAssignment {
    fn from(assignment: &Assignment) -> Self {
        Self {
            pipeline_id: text(&assignment.pipeline_id),
            stages: assignment.stages.iter().cloned().map(Into::into).collect(),
            revision: assignment.revision,
        }
    }
}

impl From<&SidecarState> for proto::SidecarRecord {
    /// Without lease and assignments, which are records of their own in the digest.
    fn from(sidecar: &SidecarState) -> Self {
        let service = |service: &SidecarService| proto::SidecarService {
            service_name: text(&service.service_name),
            service_type: text(&service.service_type),
            local_endpoint: text(&service.local_endpoint),
            health: service.health.as_str().into(),
        };
        Self {
            sidecar_id: text(&sidecar.sidecar_id),
            endpoint: text(&sidecar.endpoint),
            pod_name: text(&sidecar.pod_name),
            namespace: text(&sidecar.namespace),
            services: sidecar.services.iter().map(service).collect(),
            registered_at_ms: sidecar.registered_at_ms,
            revision: sidecar.revision,
            assignments_revision: sidecar.assignments_revision,
            assignments: Vec::new(),
            timestamp: 0,
            lease: None,
        }
    }
}

fn full_service(service: &ServiceState) -> Proto {
    Proto::Service(proto::ServiceRecord {
        lease: Some(service.lease.into()),
        ..service.into()
    })
}

fn full_sidecar(sidecar: &SidecarState) -> Proto {
    let assignments = sidecar.assignments.values();
    Proto::Sidecar(proto::SidecarRecord {
        assignments: assignments.map(|each| each.as_ref().into()).collect(),
        timestamp: sidecar.timestamp,
        lease: Some(sidecar.lease.into()),
        ..sidecar.into()
    })
}

impl From<&GroupState> for proto::GroupRecord {
    fn from(group: &GroupState) -> Self {
        let member = |(service, partitions): (&Id, &Arc<[u32]>)| proto::GroupMember {
            service_id: text(service),
            partitions: partitions.to_vec(),
        };
        Self {
            group_id: text(&group.group_id),
            stage_id: text(&group.stage_id),
            generation: group.generation,
            assigned_generation: group.assigned_generation,
            members: group.members.iter().map(member).collect(),
            revision: group.revision,
        }
    }
}

impl From<(&SourcePartition, &Offset)> for proto::OffsetRecord {
    fn from((key, value): (&SourcePartition, &Offset)) -> Self {
        Self {
            source_id: text(&key.source_id),
            partition: key.partition,
            offset: value.offset,
            revision: value.revision,
        }
    }
}

impl From<(&SourcePartition, &Watermark)> for proto::WatermarkRecord {
    fn from((key, value): (&SourcePartition, &Watermark)) -> Self {
        Self {
            source_id: text(&key.source_id),
            partition: key.partition,
            position: value.position,
            event_time: value.event_time.map(Into::into),
            revision: value.revision,
        }
    }
}

impl From<(&GroupPartition, &Offset)> for proto::GroupOffsetRecord {
    fn from((key, value): (&GroupPartition, &Offset)) -> Self {
        Self {
            group_id: text(&key.group_id),
            source_id: text(&key.source_id),
            partition: key.partition,
            offset: value.offset,
            revision: value.revision,
        }
    }
}

type Records<'a> = Box<dyn Iterator<Item = proto::StateRecord> + 'a>;

fn records<'a>(iter: impl Iterator<Item = Proto> + 'a) -> Records<'a> {
    Box::new(iter.map(|record| proto::StateRecord {
        record: Some(record),
    }))
}

/// How many sections a state has.
pub(crate) const SECTIONS: usize = 8;

impl RouterState {
    /// The state's records by section, each section in key order: its name, how many records it
    /// has, and these. This is what a snapshot holds, and what a client is sent that asks for all.
    pub fn sections(
        &self,
    ) -> [(
        &'static str,
        usize,
        Box<dyn Iterator<Item = proto::StateRecord> + '_>,
    ); SECTIONS] {
        let checkpoints = &self.checkpoints;
        let newest = checkpoints.service_checkpoints.values();
        let newest = newest.map(|each| Proto::Checkpoint(each.as_ref().into()));
        let pipelines = self.pipelines.values();
        let pipelines = pipelines.map(|each| Proto::Pipeline(each.as_ref().into()));
        [
            (
                "sidecars",
                self.sidecars.len(),
                records(self.sidecars.values().map(|each| full_sidecar(each))),
            ),
            (
                "services",
                self.services.len(),
                records(self.services.values().map(|each| full_service(each))),
            ),
            ("pipelines", self.pipelines.len(), records(pipelines)),
            (
                "groups",
                self.groups.len(),
                records((self.groups.values()).map(|each| Proto::Group(each.as_ref().into()))),
            ),
            (
                "source_offsets",
                checkpoints.source_offsets.len(),
                records(
                    (checkpoints.source_offsets.iter())
                        .map(|each| Proto::SourceOffset(each.into())),
                ),
            ),
            (
                "watermarks",
                checkpoints.watermarks.len(),
                records((checkpoints.watermarks.iter()).map(|each| Proto::Watermark(each.into()))),
            ),
            (
                "group_offsets",
                checkpoints.group_offsets.len(),
                records(
                    (checkpoints.group_offsets.iter()).map(|each| Proto::GroupOffset(each.into())),
                ),
            ),
            (
                "service_checkpoints",
                checkpoints.service_checkpoints.len(),
                records(newest),
            ),
        ]
    }
}

impl Record {
    /// The section, by its place in [`RouterState::sections`].
    pub(crate) fn section(&self) -> usize {
        match self {
            Self::Sidecar(_) => 0,
            Self::Service(_) => 1,
            Self::Pipeline(_) => 2,
            Self::Group(_) => 3,
            Self::SourceOffset(..) => 4,
            Self::Watermark(..) => 5,
            Self::GroupOffset(..) => 6,
            Self::Checkpoint(_) => 7,
        }
    }

    /// The record in `message`, or what is wrong with it.
    pub(crate) fn parse(message: proto::StateRecord) -> Result<Self, String> {
        let Some(record) = message.record else {
            return Err("a record of a kind that this release does not know".into());
        };
        let offset = |offset, revision| Offset { offset, revision };
        Ok(match record {
            Proto::Service(record) => Self::Service(service(record)?),
            Proto::Sidecar(record) => Self::Sidecar(sidecar(record)?),
            Proto::Group(record) => Self::Group(group(record)?),
            Proto::Pipeline(record) => Self::Pipeline(pipeline(record)),
            Proto::Checkpoint(record) => Self::Checkpoint(checkpoint(record)),
            Proto::SourceOffset(record) => Self::SourceOffset(
                source_key(record.source_id, record.partition),
                offset(record.offset, record.revision),
            ),
            Proto::GroupOffset(record) => {
                Self::GroupOffset(group_key(&record), offset(record.offset, record.revision))
            }
            Proto::Watermark(record) => Self::Watermark(
                source_key(record.source_id, record.partition),
                Watermark {
                    position: record.position,
                    event_time: record.event_time.map(Into::into),
                    revision: record.revision,
                },
            ),
        })
    }
}

fn health(word: &str) -> Result<Health, String> {
    word.parse().map_err(|error| format!("health {error}"))
}

fn lease(lease: Option<proto::Lease>) -> Result<Lease, String> {
    Ok(lease.ok_or("a record without its lease")?.into())
}

fn service(record: proto::ServiceRecord) -> Result<ServiceState, String> {
    Ok(ServiceState {
        service_id: record.service_id.into(),
        service_type: record.service_type.into(),
        endpoint: record.endpoint.into(),
        service_name: record.service_name.into(),
        labels: Arc::new(record.labels),
        group_id: record.group_id.map(Id::from),
        sidecar_id: record.sidecar_id.map(Id::from),
        health: health(&record.health)?,
        registered_at_ms: record.registered_at_ms,
        revision: record.revision,
        lease: lease(record.lease)?,
    })
}

fn sidecar(record: proto::SidecarRecord) -> Result<SidecarState, String> {
    let service = |service: proto::SidecarService| {
        Ok(SidecarService {
            service_name: service.service_name.into(),
            service_type: service.service_type.into(),
            local_endpoint: service.local_endpoint.into(),
            health: health(&service.health)?,
        })
    };
    let services: Result<Vec<_>, String> = record.services.into_iter().map(service).collect();
    let assignment = |each: proto::PipelineAssignment| {
        let id = Id::from(each.pipeline_id);
        let assignment = Assignment {
            pipeline_id: id.clone(),
            stages: each.stages.into_iter().map(Into::into).collect(),
            revision: each.revision,
        };
        (id, Arc::new(assignment))
    };
    Ok(SidecarState {
        sidecar_id: record.sidecar_id.into(),
        endpoint: record.endpoint.into(),
        pod_name: record.pod_name.into(),
        namespace: record.namespace.into(),
        services: services?.into(),
        assignments: record.assignments.into_iter().map(assignment).collect(),
        assignments_revision: record.assignments_revision,
        registered_at_ms: record.registered_at_ms,
        revision: record.revision,
        timestamp: record.timestamp,
        lease: lease(record.lease)?,
    })
}

fn group(record: proto::GroupRecord) -> Result<GroupState, String> {
    let mut group = GroupState {
        group_id: record.group_id.into(),
        stage_id: record.stage_id.into(),
        generation: record.generation,
        assigned_generation: record.assigned_generation,
        members: Default::default(),
        owners: Default::default(),
        revision: record.revision,
    };
    for member in record.members {
        let id = Id::from(member.service_id);
        for &partition in &member.partitions {
            if group.owners.insert(partition, id.clone()).is_some() {
                return Err(format!("partition {partition} of a group has two owners"));
            }
        }
        group.members.insert(id, member.partitions.into());
    }
    Ok(group)
}

fn source_key(source_id: String, partition: u32) -> SourcePartition {
    SourcePartition {
        source_id: source_id.into(),
        partition,
    }
}

fn group_key(record: &proto::GroupOffsetRecord) -> GroupPartition {
    GroupPartition {
        group_id: record.group_id.as_str().into(),
        source_id: record.source_id.as_str().into(),
        partition: record.partition,
    }
}

fn pipeline(record: proto::PipelineRecord) -> PipelineState {
    PipelineState {
        pipeline_id: record.pipeline_id.into(),
        name: record.name.into(),
        config: record.config.into(),
        enabled: record.enabled,
        version: record.version,
        created_at_ms: record.created_at_ms,
        updated_at_ms: record.updated_at_ms,
        revision: record.revision,
    }
}

fn checkpoint(record: proto::CheckpointRecord) -> ServiceCheckpoint {
    ServiceCheckpoint {
        service_id: record.service_id.into(),
        checkpoint_id: record.checkpoint_id.into(),
        data: record.data,
        source_offsets: offsets_from_proto(record.source_offsets),
        created_at_ms: record.created_at_ms,
        revision: record.revision,
    }
}

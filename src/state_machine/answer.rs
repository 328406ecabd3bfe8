//! Answers in their protobuf form.

use super::ordered::Id;
use super::response::{Answer, Behind, SidecarPipeline};
use super::state::GlobalWatermark;
use crate::proto;

fn texts(ids: &[Id]) -> Vec<String> {
    ids.iter().map(String::from).collect()
}

impl From<GlobalWatermark> for proto::PartitionWatermark {
    fn from(watermark: GlobalWatermark) -> Self {
        Self {
            partition: watermark.partition,
            position: watermark.position,
            event_time: watermark.event_time.map(Into::into),
        }
    }
}

impl From<&Behind> for proto::Behind {
    fn from(behind: &Behind) -> Self {
        Self {
            source_id: String::from(&behind.source_id),
            partition: behind.partition,
            watermark: behind.watermark,
            current: behind.current,
        }
    }
}

impl From<&SidecarPipeline> for proto::SidecarPipeline {
    fn from(pair: &SidecarPipeline) -> Self {
        Self {
            sidecar_id: String::from(&pair.sidecar_id),
            pipeline_id: String::from(&pair.pipeline_id),
        }
    }
}

impl From<&Answer> for proto::Answer {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::None => Self::default(),
            Answer::ServiceRegistered { .. }
            | Answer::ServiceDeregistered { .. }
            | Answer::LeaseRenewed { .. }
            | Answer::Health { .. }
            | Answer::Expired { .. } => service(answer),
            Answer::Pipeline { .. }
            | Answer::PipelineDeleted { .. }
            | Answer::PipelineAssigned { .. }
            | Answer::PipelineRevoked { .. } => pipeline(answer),
            Answer::Offset { .. }
            | Answer::Watermark { .. }
            | Answer::CheckpointSaved { .. }
            | Answer::GroupOffsets { .. }
            | Answer::SourceReported { .. } => progress(answer),
            Answer::GroupJoined { .. } | Answer::Generation { .. } => group(answer),
            Answer::SidecarRegistered { .. }
            | Answer::SidecarDeregistered { .. }
            | Answer::Heartbeat { .. } => sidecar(answer),
        }
    }
}

fn service(answer: &Answer) -> proto::Answer {
    let mut message = proto::Answer::default();
    match answer {
        Answer::ServiceRegistered {
            lease_ms,
            revision,
            replaced,
        } => {
            message.lease_ms = Some(*lease_ms);
            message.revision = Some(*revision);
            message.replaced = Some(*replaced);
        }
        Answer::ServiceDeregistered { groups } => message.groups = texts(groups),
        Answer::LeaseRenewed {
            lease_ms,
            expires_at_ms,
        } => {
            message.lease_ms = Some(*lease_ms);
            message.expires_at_ms = *expires_at_ms;
        }
        Answer::Health { previous } => message.previous_health = Some(previous.to_string()),
        Answer::Expired { sidecars, services } => {
            message.sidecars = texts(sidecars);
            message.services = texts(services);
        }
        _ => {}
    }
    message
}

fn pipeline(answer: &Answer) -> proto::Answer {
    let mut message = proto::Answer::default();
    match answer {
        Answer::Pipeline { version } => message.version = Some(*version),
        Answer::PipelineDeleted { sidecars } => message.sidecars = texts(sidecars),
        Answer::PipelineAssigned {
            revision,
            unknown_targets,
        } => {
            message.revision = Some(*revision);
            message.unknown_targets = texts(unknown_targets);
        }
        Answer::PipelineRevoked { revision } => message.revision = Some(*revision),
        _ => {}
    }
    message
}

fn progress(answer: &Answer) -> proto::Answer {
    let mut message = proto::Answer::default();
    match answer {
        Answer::Offset { current } => message.current = Some(*current),
        Answer::Watermark { own, global } => {
            message.watermark = Some((*own).into());
            message.global_watermark = Some((*global).into());
        }
        Answer::CheckpointSaved {
            created_at_ms,
            revision,
        } => {
            message.created_at_ms = Some(*created_at_ms);
            message.revision = Some(*revision);
        }
        Answer::GroupOffsets { behind } => {
            message.behind = behind.iter().map(Into::into).collect();
        }
        Answer::SourceReported { behind, global } => {
            message.behind = behind.iter().map(Into::into).collect();
            message.global_watermark = global.map(Into::into);
        }
        _ => {}
    }
    message
}

fn group(answer: &Answer) -> proto::Answer {
    let mut message = proto::Answer::default();
    match answer {
        Answer::GroupJoined {
            generation,
            members,
            partitions,
        } => {
            message.generation = Some(*generation);
            message.members = texts(members);
            message.partitions = partitions.clone();
        }
        Answer::Generation { generation } => message.generation = Some(*generation),
        _ => {}
    }
    message
}

fn sidecar(answer: &Answer) -> proto::Answer {
    let mut message = proto::Answer::default();
    match answer {
        Answer::SidecarRegistered {
            lease_ms,
            revision,
            assignments,
            dropped,
        } => {
            message.lease_ms = Some(*lease_ms);
            message.revision = Some(*revision);
            message.pipelines = texts(assignments);
            message.dropped = texts(dropped);
        }
        Answer::SidecarDeregistered {
            services,
            groups,
            pipelines,
            remote_users,
        } => {
            message.services = texts(services);
            message.groups = texts(groups);
            message.pipelines = texts(pipelines);
            message.remote_users = remote_users.iter().map(Into::into).collect();
        }
        Answer::Heartbeat {
            expires_at_ms,
            assignments_revision,
        } => {
            message.expires_at_ms = *expires_at_ms;
            message.assignments_revision = Some(*assignments_revision);
        }
        _ => {}
    }
    message
}

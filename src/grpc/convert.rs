//! The state machine's answers and state, as messages.

use std::sync::Arc;

use prost::Message;

use crate::node::Applied;
use crate::proto::{self, StatePart, SummaryResponse};
use crate::state_machine::{Answer, Behind, GlobalWatermark, Id, RouterState, SidecarPipeline};

/// Bytes of records after which a part of the state is sent.
const PART: usize = 256 << 10;

fn ids(ids: Vec<Id>) -> Vec<String> {
    ids.iter().map(Id::to_string).collect()
}

fn watermark(mark: GlobalWatermark) -> proto::PartitionWatermark {
    proto::PartitionWatermark {
        partition: mark.partition,
        position: mark.position,
        event_time: mark.event_time.map(Into::into),
    }
}

fn behind(all: Vec<Behind>) -> Vec<proto::Behind> {
    let each = |behind: Behind| proto::Behind {
        source_id: behind.source_id.to_string(),
        partition: behind.partition,
        watermark: behind.watermark,
        current: behind.current,
    };
    all.into_iter().map(each).collect()
}

fn pairs(all: Vec<SidecarPipeline>) -> Vec<proto::SidecarPipeline> {
    let each = |pair: SidecarPipeline| proto::SidecarPipeline {
        sidecar_id: pair.sidecar_id.to_string(),
        pipeline_id: pair.pipeline_id.to_string(),
    };
    all.into_iter().map(each).collect()
}

/// What a command answered.
pub(super) fn answer(answer: Answer) -> proto::Answer {
    let mut out = proto::Answer::default();
    match answer {
        Answer::None => {}
        Answer::LeaseRenewed {
            lease_ms,
            expires_at_ms,
        } => {
            out.lease_ms = Some(lease_ms);
            out.expires_at_ms = expires_at_ms;
        }
        Answer::Offset { current } => out.current = Some(current),
        Answer::Watermark { own, global } => {
            out.watermark = Some(watermark(own));
            out.global_watermark = Some(watermark(global));
        }
        Answer::CheckpointSaved {
            created_at_ms,
            revision,
        } => {
            out.created_at_ms = Some(created_at_ms);
            out.revision = Some(revision);
        }
        Answer::GroupOffsets { behind: lower } => out.behind = behind(lower),
        Answer::SourceReported {
            behind: lower,
            global,
        } => {
            out.behind = behind(lower);
            out.global_watermark = global.map(watermark);
        }
        Answer::Expired { sidecars, services } => {
            out.sidecars = ids(sidecars);
            out.services = ids(services);
        }
        other => membership(other, &mut out),
    }
    out
}

/// Answers about services, sidecars, pipelines and groups.
fn membership(answer: Answer, out: &mut proto::Answer) {
    match answer {
        Answer::ServiceRegistered {
            lease_ms,
            revision,
            replaced,
        } => {
            out.lease_ms = Some(lease_ms);
            out.revision = Some(revision);
            out.replaced = Some(replaced);
        }
        Answer::ServiceDeregistered { groups } => out.groups = ids(groups),
        Answer::Health { previous } => out.previous_health = Some(previous.as_str().to_owned()),
        Answer::GroupJoined {
            generation,
            members,
            partitions,
        } => {
            out.generation = Some(generation);
            out.members = ids(members);
            out.partitions = partitions;
        }
        Answer::Generation { generation } => out.generation = Some(generation),
        other => placement(other, out),
    }
}

/// Answers about what runs where.
fn placement(answer: Answer, out: &mut proto::Answer) {
    match answer {
        Answer::Pipeline { version } => out.version = Some(version),
        Answer::PipelineDeleted { sidecars } => out.sidecars = ids(sidecars),
        Answer::SidecarRegistered {
            lease_ms,
            revision,
            assignments,
            dropped,
        } => {
            out.lease_ms = Some(lease_ms);
            out.revision = Some(revision);
            out.pipelines = ids(assignments);
            out.dropped = ids(dropped);
        }
        Answer::SidecarDeregistered {
            services,
            groups,
            pipelines,
            remote_users,
        } => {
            out.services = ids(services);
            out.groups = ids(groups);
            out.pipelines = ids(pipelines);
            out.remote_users = pairs(remote_users);
        }
        Answer::Heartbeat {
            expires_at_ms,
            assignments_revision,
        } => {
            out.expires_at_ms = expires_at_ms;
            out.assignments_revision = Some(assignments_revision);
        }
        Answer::PipelineAssigned {
            revision,
            unknown_targets,
        } => {
            out.revision = Some(revision);
            out.unknown_targets = ids(unknown_targets);
        }
        Answer::PipelineRevoked { revision } => out.revision = Some(revision),
        _ => {}
    }
}

/// How much there is of everything.
pub(super) fn summary(state: &Applied<RouterState>) -> SummaryResponse {
    let summary = state.view.summary();
    let counts = summary.counts.into_iter();
    SummaryResponse {
        index: state.id.index,
        term: state.id.term,
        time_ms: state.time_us / 1000,
        digest: format!("{:032x}", state.digest),
        rejections: summary.rejections,
        counts: counts
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
    }
}

/// Gives the whole state in parts to `send`, until it says that nobody listens any more.
pub(super) fn parts(state: &Arc<Applied<RouterState>>, mut send: impl FnMut(StatePart) -> bool) {
    let empty = || StatePart {
        index: state.id.index,
        term: state.id.term,
        time_ms: state.time_us / 1000,
        records: Vec::new(),
    };
    let (mut part, mut bytes) = (empty(), 0);
    for (_, _, records) in state.view.sections() {
        for record in records {
            bytes += record.encoded_len();
            part.records.push(record);
            if bytes >= PART {
                if !send(std::mem::replace(&mut part, empty())) {
                    return;
                }
                bytes = 0;
            }
        }
    }
    // An empty state is one empty part, so that its index is told.
    let _ = send(part);
}

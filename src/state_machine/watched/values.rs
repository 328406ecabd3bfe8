//! Records as those who watch get them: each without what has a key of its own.

use prost::Message;

use crate::proto;
use crate::proto::watched_value::Value;
use crate::state_machine::state::{
    Assignment, GroupState, Offset, PipelineState, ServiceCheckpoint, ServiceState, SidecarState,
    Watermark,
};

fn write(value: Value, out: &mut Vec<u8>) {
    let value = Some(value);
    proto::WatchedValue { value }.encode_raw(out);
}

pub(crate) fn service(service: &ServiceState, out: &mut Vec<u8>) {
    let record = proto::ServiceRecord {
        lease: Some(service.lease.into()),
        ..service.into()
    };
    write(Value::Service(record), out);
}

pub(crate) fn pipeline(pipeline: &PipelineState, out: &mut Vec<u8>) {
    write(Value::Pipeline(pipeline.into()), out);
}

/// Without its assignments and their revision.
pub(crate) fn sidecar(sidecar: &SidecarState, out: &mut Vec<u8>) {
    let record = proto::SidecarRecord {
        assignments_revision: 0,
        timestamp: sidecar.timestamp,
        lease: Some(sidecar.lease.into()),
        ..sidecar.into()
    };
    write(Value::Sidecar(record), out);
}

pub(crate) fn assignment(sidecar: &str, assignment: &Assignment, out: &mut Vec<u8>) {
    let record = proto::AssignmentRecord {
        sidecar_id: sidecar.to_owned(),
        assignment: Some(assignment.into()),
    };
    write(Value::Assignment(record), out);
}

pub(crate) fn location(name: &str, sidecar: &str, out: &mut Vec<u8>) {
    let record = proto::LocationRecord {
        service_name: name.to_owned(),
        sidecar_id: sidecar.to_owned(),
    };
    write(Value::Location(record), out);
}

pub(crate) fn group(group: &GroupState, out: &mut Vec<u8>) {
    write(Value::Group(group.into()), out);
}

pub(crate) fn source_offset(source: &str, partition: u32, value: Offset, out: &mut Vec<u8>) {
    let record = proto::OffsetRecord {
        source_id: source.to_owned(),
        partition,
        offset: value.offset,
        revision: value.revision,
    };
    write(Value::SourceOffset(record), out);
}

pub(crate) fn group_offset(
    group: &str,
    source: &str,
    partition: u32,
    value: Offset,
    out: &mut Vec<u8>,
) {
    let record = proto::GroupOffsetRecord {
        group_id: group.to_owned(),
        source_id: source.to_owned(),
        partition,
        offset: value.offset,
        revision: value.revision,
    };
    write(Value::GroupOffset(record), out);
}

pub(crate) fn watermark(source: &str, partition: u32, value: &Watermark, out: &mut Vec<u8>) {
    let record = proto::WatermarkRecord {
        source_id: source.to_owned(),
        partition,
        position: value.position,
        event_time: value.event_time.map(Into::into),
        revision: value.revision,
    };
    write(Value::Watermark(record), out);
}

pub(crate) fn checkpoint(checkpoint: &ServiceCheckpoint, out: &mut Vec<u8>) {
    write(Value::Checkpoint(checkpoint.into()), out);
}

//! Records as those who watch get them: each without what has a key of its own.

use prost::Message;

use super::flat::Fields;
use crate::proto;
use crate::proto::watched_value::Value;
use crate::state_machine::command::EventTime;
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

/// Tags of `WatchedValue`.
const SOURCE_OFFSET: u32 = 3;
const WATERMARK: u32 = 4;
const GROUP_OFFSET: u32 = 6;

pub(crate) fn source_offset(source: &str, partition: u32, value: Offset, out: &mut Vec<u8>) {
    Fields(out).message(SOURCE_OFFSET, |record| {
        record.text(1, source).number(2, partition.into());
        record.number(3, value.offset).number(4, value.revision);
    });
}

pub(crate) fn group_offset(
    group: &str,
    source: &str,
    partition: u32,
    value: Offset,
    out: &mut Vec<u8>,
) {
    Fields(out).message(GROUP_OFFSET, |record| {
        record.text(1, group).text(2, source);
        record.number(3, partition.into());
        record.number(4, value.offset).number(5, value.revision);
    });
}

pub(crate) fn watermark(source: &str, partition: u32, value: &Watermark, out: &mut Vec<u8>) {
    Fields(out).message(WATERMARK, |record| {
        record.text(1, source).number(2, partition.into());
        record.number(3, value.position);
        if let Some(EventTime { seconds, nanos }) = value.event_time {
            record.message(4, |time| {
                // A negative number is extended to 64 bits first.
                time.number(1, seconds as u64);
                time.number(2, i64::from(nanos) as u64);
            });
        }
        record.number(5, value.revision);
    });
}

pub(crate) fn checkpoint(checkpoint: &ServiceCheckpoint, out: &mut Vec<u8>) {
    write(Value::Checkpoint(checkpoint.into()), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [u64; 6] = [0, 1, 127, 128, 1 << 32, u64::MAX];

    fn ids() -> [String; 5] {
        ["", "s", "é/%", &"a".repeat(117), &"b".repeat(300)].map(ToOwned::to_owned)
    }

    fn same(written: impl FnOnce(&mut Vec<u8>), value: Value) {
        let (mut ours, mut prosts) = (vec![7], vec![7]);
        written(&mut ours);
        write(value.clone(), &mut prosts);
        assert_eq!(ours, prosts, "{value:?}");
    }

    #[test]
    fn flat_records_are_written_as_prost_writes_them() {
        for source_id in ids() {
            for (offset, revision) in NUMBERS.into_iter().zip(NUMBERS.into_iter().rev()) {
                let (partition, value) = (offset as u32, Offset { offset, revision });
                let record = proto::OffsetRecord {
                    source_id: source_id.clone(),
                    partition,
                    offset,
                    revision,
                };
                same(
                    |out| source_offset(&source_id, partition, value, out),
                    Value::SourceOffset(record),
                );
                let record = proto::GroupOffsetRecord {
                    group_id: "g".into(),
                    source_id: source_id.clone(),
                    partition,
                    offset,
                    revision,
                };
                same(
                    |out| group_offset("g", &source_id, partition, value, out),
                    Value::GroupOffset(record),
                );
            }
        }
    }

    #[test]
    fn watermarks_are_written_as_prost_writes_them() {
        let time = |seconds, nanos| Some(EventTime { seconds, nanos });
        let times = [
            None,
            time(0, 0),
            time(1_700_000_000, 999_999_999),
            time(i64::MIN, -1),
        ];
        for (source_id, event_time) in ids().into_iter().zip(times.into_iter().cycle()) {
            for position in NUMBERS {
                let value = Watermark {
                    position,
                    event_time,
                    revision: position / 2,
                };
                let record = proto::WatermarkRecord {
                    source_id: source_id.clone(),
                    partition: 3,
                    position,
                    event_time: event_time.map(Into::into),
                    revision: position / 2,
                };
                same(
                    |out| watermark(&source_id, 3, &value, out),
                    Value::Watermark(record),
                );
            }
        }
    }
}

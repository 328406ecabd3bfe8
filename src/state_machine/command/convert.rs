//! Commands to and from their protobuf form.

use std::collections::BTreeMap;

use super::limits::DEFAULT_LEASE_MS;
use super::{
    EventTime, LocalService, RouterCommand, SourceWatermark, StageAssignment, StageTarget,
};
use crate::proto;
use crate::proto::router_command::Command as Proto;
use crate::state_machine::CommandError;

/// A field's type on the Rust side and on the protobuf side.
trait Field<P> {
    fn into_proto(self) -> P;
    fn from_proto(proto: P) -> Self;
}

/// Most fields are the same on both sides.
impl<T> Field<T> for T {
    fn into_proto(self) -> T {
        self
    }

    fn from_proto(proto: T) -> T {
        proto
    }
}

/// A lease that is not stated is the default, not none.
impl Field<Option<u32>> for u32 {
    fn into_proto(self) -> Option<u32> {
        Some(self)
    }

    fn from_proto(proto: Option<u32>) -> u32 {
        proto.unwrap_or(DEFAULT_LEASE_MS)
    }
}

impl Field<Option<proto::EventTime>> for Option<EventTime> {
    fn into_proto(self) -> Option<proto::EventTime> {
        self.map(Into::into)
    }

    fn from_proto(proto: Option<proto::EventTime>) -> Self {
        proto.map(Into::into)
    }
}

macro_rules! lists {
    ($($name:ident)*) => {$(
        impl Field<Vec<proto::$name>> for Vec<$name> {
            fn into_proto(self) -> Vec<proto::$name> {
                self.into_iter().map(Into::into).collect()
            }

            fn from_proto(proto: Vec<proto::$name>) -> Self {
                proto.into_iter().map(Into::into).collect()
            }
        }
    )*};
}

lists! { LocalService StageAssignment }

type Offsets = BTreeMap<String, BTreeMap<u32, u64>>;
type ProtoOffsets = BTreeMap<String, proto::PartitionOffsets>;

pub(crate) fn offsets_to_proto(offsets: Offsets) -> ProtoOffsets {
    let each = |(source, offsets)| (source, proto::PartitionOffsets { offsets });
    offsets.into_iter().map(each).collect()
}

pub(crate) fn offsets_from_proto(offsets: ProtoOffsets) -> Offsets {
    let each = |(source, map): (_, proto::PartitionOffsets)| (source, map.offsets);
    offsets.into_iter().map(each).collect()
}

impl Field<ProtoOffsets> for Offsets {
    fn into_proto(self) -> ProtoOffsets {
        offsets_to_proto(self)
    }

    fn from_proto(proto: ProtoOffsets) -> Self {
        offsets_from_proto(proto)
    }
}

impl Field<BTreeMap<String, proto::Partitions>> for BTreeMap<String, Vec<u32>> {
    fn into_proto(self) -> BTreeMap<String, proto::Partitions> {
        let each = |(service, partitions)| (service, proto::Partitions { partitions });
        self.into_iter().map(each).collect()
    }

    fn from_proto(proto: BTreeMap<String, proto::Partitions>) -> Self {
        let each = |(service, list): (_, proto::Partitions)| (service, list.partitions);
        proto.into_iter().map(each).collect()
    }
}

impl Field<BTreeMap<u32, proto::SourceWatermark>> for BTreeMap<u32, SourceWatermark> {
    fn into_proto(self) -> BTreeMap<u32, proto::SourceWatermark> {
        let each = |(partition, mark): (u32, SourceWatermark)| {
            let mark = proto::SourceWatermark {
                position: mark.position,
                event_time: mark.event_time.map(Into::into),
            };
            (partition, mark)
        };
        self.into_iter().map(each).collect()
    }

    fn from_proto(proto: BTreeMap<u32, proto::SourceWatermark>) -> Self {
        let each = |(partition, mark): (u32, proto::SourceWatermark)| {
            let mark = SourceWatermark {
                position: mark.position,
                event_time: mark.event_time.map(Into::into),
            };
            (partition, mark)
        };
        proto.into_iter().map(each).collect()
    }
}

impl From<EventTime> for proto::EventTime {
    fn from(EventTime { seconds, nanos }: EventTime) -> Self {
        Self { seconds, nanos }
    }
}

impl From<proto::EventTime> for EventTime {
    fn from(proto::EventTime { seconds, nanos }: proto::EventTime) -> Self {
        Self { seconds, nanos }
    }
}

impl From<StageAssignment> for proto::StageAssignment {
    fn from(stage: StageAssignment) -> Self {
        use proto::stage_target::{Local, Remote, Target};
        let target = match stage.target {
            StageTarget::Local { endpoint } => Target::Local(Local { endpoint }),
            StageTarget::Remote {
                sidecar_id,
                endpoint,
            } => Target::Remote(Remote {
                sidecar_id,
                endpoint,
            }),
        };
        Self {
            stage_id: stage.stage_id,
            target: Some(proto::StageTarget {
                target: Some(target),
            }),
        }
    }
}

impl From<proto::StageAssignment> for StageAssignment {
    fn from(stage: proto::StageAssignment) -> Self {
        use proto::stage_target::{Local, Remote, Target};
        let target = match stage.target.and_then(|target| target.target) {
            None => StageTarget::default(),
            Some(Target::Local(Local { endpoint })) => StageTarget::Local { endpoint },
            Some(Target::Remote(Remote {
                sidecar_id,
                endpoint,
            })) => StageTarget::Remote {
                sidecar_id,
                endpoint,
            },
        };
        Self {
            stage_id: stage.stage_id,
            target,
        }
    }
}

impl From<LocalService> for proto::LocalService {
    fn from(service: LocalService) -> Self {
        Self {
            service_name: service.service_name,
            service_type: service.service_type,
            local_endpoint: service.local_endpoint,
        }
    }
}

impl From<proto::LocalService> for LocalService {
    fn from(service: proto::LocalService) -> Self {
        Self {
            service_name: service.service_name,
            service_type: service.service_type,
            local_endpoint: service.local_endpoint,
        }
    }
}

macro_rules! conversions {
    ($($name:ident { $($field:ident)* })*) => {
        impl From<RouterCommand> for proto::RouterCommand {
            fn from(command: RouterCommand) -> Self {
                let command = match command {
                    RouterCommand::Noop => Proto::Noop(proto::Noop {}),
                    $(RouterCommand::$name { $($field),* } => Proto::$name(proto::$name {
                        $($field: Field::into_proto($field)),*
                    }),)*
                };
                Self { command: Some(command) }
            }
        }

        impl TryFrom<proto::RouterCommand> for RouterCommand {
            type Error = CommandError;

            fn try_from(message: proto::RouterCommand) -> Result<Self, CommandError> {
                let Some(command) = message.command else {
                    return Err(CommandError {
                        field: "command".into(),
                        why: "is missing, or of a kind that this release does not know: \
                              upgrade this node"
                            .into(),
                    });
                };
                Ok(match command {
                    Proto::Noop(_) => Self::Noop,
                    $(Proto::$name(proto::$name { $($field),* }) => Self::$name {
                        $($field: Field::from_proto($field)),*
                    },)*
                })
            }
        }
    };
}

conversions! {
    RegisterService { service_id service_type endpoint service_name labels group_id sidecar_id lease_ms }
    DeregisterService { service_id }
    RenewLease { service_id }
    UpdateServiceHealth { service_id health }
    CreatePipeline { pipeline_id name config }
    UpdatePipeline { pipeline_id config expected_version }
    DeletePipeline { pipeline_id }
    EnablePipeline { pipeline_id }
    DisablePipeline { pipeline_id }
    CommitSourceOffset { source_id partition offset rewind }
    AdvanceWatermark { source_id partition position event_time }
    SaveServiceCheckpoint { service_id checkpoint_id data source_offsets }
    JoinGroup { service_id group_id stage_id }
    LeaveGroup { service_id group_id }
    AssignPartitions { group_id assignments generation }
    CommitGroupOffset { group_id source_id partition offset service_id generation rewind }
    RegisterSidecar { sidecar_id endpoint services pod_name namespace lease_ms }
    DeregisterSidecar { sidecar_id }
    UpdateSidecarHeartbeat { sidecar_id timestamp health }
    AssignPipeline { pipeline_id sidecar_id stages }
    RevokePipeline { pipeline_id sidecar_id }
    CommitGroupOffsets { group_id service_id generation offsets }
    ReportSource { source_id offsets watermarks }
    ExpireLeases { sidecars services }
}

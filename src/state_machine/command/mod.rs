//! The router's commands: the enum, its parts and its constructors.

mod codec;
mod convert;
pub mod limits;
mod names;
mod validate;

pub(crate) use codec::{decode, encode};
pub(crate) use convert::{offsets_from_proto, offsets_to_proto};
pub(crate) use names::{NAMES, nth};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use limits::DEFAULT_LEASE_MS;

/// A command for the router. Names and fields are those of Conveyor's router.
///
/// Where a field has a default, an empty `String` stands for it: a `service_name` or `name` that is
/// the id, a `service_type` "unknown", a pod and namespace taken from an id `namespace/pod`.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RouterCommand {
    /// Does nothing.
    Noop,
    /// Inserts or replaces a service and sets its health to healthy.
    RegisterService {
        /// The service's id.
        service_id: String,
        /// An open set in lower case; well known are source, transform, sink, lookup, unknown.
        service_type: String,
        /// Where it is reached.
        endpoint: String,
        /// What it is called; empty is its id.
        #[serde(skip_serializing_if = "String::is_empty")]
        service_name: String,
        /// Labels.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        /// A tag; membership comes from [`RouterCommand::JoinGroup`].
        #[serde(skip_serializing_if = "Option::is_none")]
        group_id: Option<String>,
        /// With it, the service lives by this sidecar's lease.
        #[serde(skip_serializing_if = "Option::is_none")]
        sidecar_id: Option<String>,
        /// Milliseconds without a renewal until it expires; 0 never.
        lease_ms: u32,
    },
    /// Removes a service, also from all groups; its offsets and checkpoints stay.
    DeregisterService {
        /// Which.
        service_id: String,
    },
    /// Renews a service's lease.
    RenewLease {
        /// Which.
        service_id: String,
    },
    /// Sets a service's health.
    UpdateServiceHealth {
        /// Which.
        service_id: String,
        /// healthy, degraded, unhealthy or unknown.
        health: String,
    },
    /// Inserts a pipeline, disabled, at version 1.
    CreatePipeline {
        /// The pipeline's id.
        pipeline_id: String,
        /// What it is called; empty is its id.
        #[serde(skip_serializing_if = "String::is_empty")]
        name: String,
        /// Opaque.
        #[serde(
            skip_serializing_if = "Vec::is_empty",
            serialize_with = "super::json::bytes"
        )]
        config: Vec<u8>,
    },
    /// Replaces a pipeline's config and raises its version.
    UpdatePipeline {
        /// Which.
        pipeline_id: String,
        /// Opaque.
        #[serde(serialize_with = "super::json::bytes")]
        config: Vec<u8>,
        /// Refused unless this is the version there is.
        #[serde(skip_serializing_if = "Option::is_none")]
        expected_version: Option<u64>,
    },
    /// Removes a pipeline with its assignments on every sidecar.
    DeletePipeline {
        /// Which.
        pipeline_id: String,
    },
    /// Sets the flag.
    EnablePipeline {
        /// Which.
        pipeline_id: String,
    },
    /// Clears the flag.
    DisablePipeline {
        /// Which.
        pipeline_id: String,
    },
    /// Raises the next offset to read of a source's partition.
    CommitSourceOffset {
        /// The source.
        source_id: String,
        /// Its partition.
        partition: u32,
        /// The next to read.
        offset: u64,
        /// Lowering is meant.
        #[serde(skip_serializing_if = "is_false")]
        rewind: bool,
    },
    /// Raises a partition's position and event time, each by itself.
    AdvanceWatermark {
        /// The source.
        source_id: String,
        /// Its partition.
        partition: u32,
        /// The position.
        position: u64,
        /// The event time there.
        #[serde(skip_serializing_if = "Option::is_none")]
        event_time: Option<EventTime>,
    },
    /// Replaces a service's checkpoint.
    SaveServiceCheckpoint {
        /// Whose.
        service_id: String,
        /// The checkpoint's id.
        checkpoint_id: String,
        /// Opaque.
        #[serde(
            skip_serializing_if = "Vec::is_empty",
            serialize_with = "super::json::bytes"
        )]
        data: Vec<u8>,
        /// Offsets by source and partition; not merged into the source offsets.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        source_offsets: BTreeMap<String, BTreeMap<u32, u64>>,
    },
    /// Adds a member to a group, which the first join makes.
    JoinGroup {
        /// Who.
        service_id: String,
        /// Which.
        group_id: String,
        /// The stage that the group runs.
        stage_id: String,
    },
    /// Takes a member and its partitions out of a group.
    LeaveGroup {
        /// Who.
        service_id: String,
        /// Which.
        group_id: String,
    },
    /// Replaces the whole assignment of a group.
    AssignPartitions {
        /// Which.
        group_id: String,
        /// Partitions by service.
        assignments: BTreeMap<String, Vec<u32>>,
        /// The group's generation plus one.
        generation: u64,
    },
    /// Raises a group's offset.
    CommitGroupOffset {
        /// The group.
        group_id: String,
        /// The source.
        source_id: String,
        /// Its partition.
        partition: u32,
        /// The next to read.
        offset: u64,
        /// The fence: who commits.
        #[serde(skip_serializing_if = "Option::is_none")]
        service_id: Option<String>,
        /// The fence: by which generation.
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
        /// Lowering is meant.
        #[serde(skip_serializing_if = "is_false")]
        rewind: bool,
    },
    /// Inserts or replaces a sidecar.
    RegisterSidecar {
        /// The sidecar's id, often `namespace/pod`.
        sidecar_id: String,
        /// Where it is reached.
        endpoint: String,
        /// What it offers.
        services: Vec<LocalService>,
        /// Its pod; empty is taken from the id.
        #[serde(skip_serializing_if = "String::is_empty")]
        pod_name: String,
        /// Its namespace; empty is taken from the id.
        #[serde(skip_serializing_if = "String::is_empty")]
        namespace: String,
        /// Milliseconds without a heartbeat until it expires; 0 never.
        lease_ms: u32,
    },
    /// Removes a sidecar with its locations, assignments and bound services.
    DeregisterSidecar {
        /// Which.
        sidecar_id: String,
    },
    /// Renews the lease of a sidecar and of what is bound to it.
    UpdateSidecarHeartbeat {
        /// Which.
        sidecar_id: String,
        /// The sender's clock, seconds; for display.
        timestamp: u64,
        /// Health by service name.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        health: BTreeMap<String, String>,
    },
    /// Sets what a sidecar runs of a pipeline. The pipeline need not exist yet.
    AssignPipeline {
        /// Which pipeline.
        pipeline_id: String,
        /// Which sidecar.
        sidecar_id: String,
        /// The stages.
        stages: Vec<StageAssignment>,
    },
    /// Takes a pipeline from a sidecar.
    RevokePipeline {
        /// Which pipeline.
        pipeline_id: String,
        /// Which sidecar.
        sidecar_id: String,
    },
    /// Raises many of a group's offsets behind one fence.
    CommitGroupOffsets {
        /// The group.
        group_id: String,
        /// Who commits.
        service_id: String,
        /// By which generation.
        generation: u64,
        /// Offsets by source and partition.
        offsets: BTreeMap<String, BTreeMap<u32, u64>>,
    },
    /// Raises many offsets and watermarks of one source.
    ReportSource {
        /// The source.
        source_id: String,
        /// Offsets by partition.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        offsets: BTreeMap<u32, u64>,
        /// Watermarks by partition.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        watermarks: BTreeMap<u32, SourceWatermark>,
    },
    /// Removes those of these that have expired by log time; skips the others.
    ExpireLeases {
        /// Sidecars.
        sidecars: Vec<String>,
        /// Services that are not bound to a sidecar.
        services: Vec<String>,
    },
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// An event time: since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventTime {
    /// Whole seconds, negative before the epoch.
    pub seconds: i64,
    /// The rest, 0 to 999,999,999.
    pub nanos: i32,
}

/// A watermark of [`RouterCommand::ReportSource`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceWatermark {
    /// The position.
    pub position: u64,
    /// The event time there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time: Option<EventTime>,
}

/// A service that a sidecar offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LocalService {
    /// What it is called.
    pub service_name: String,
    /// Its type; empty is "unknown".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_type: String,
    /// Where the sidecar reaches it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_endpoint: String,
}

impl<T: Into<String>> From<T> for LocalService {
    fn from(service_name: T) -> Self {
        Self {
            service_name: service_name.into(),
            ..Self::default()
        }
    }
}

/// A stage of an assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageAssignment {
    /// The stage.
    pub stage_id: String,
    /// Where its records go.
    #[serde(skip_serializing_if = "StageTarget::is_default")]
    pub target: StageTarget,
}

impl<T: Into<String>> From<T> for StageAssignment {
    fn from(stage_id: T) -> Self {
        Self {
            stage_id: stage_id.into(),
            target: StageTarget::default(),
        }
    }
}

/// Where a stage's records go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum StageTarget {
    /// To a service beside the sidecar.
    Local {
        /// Where; empty is not stated.
        endpoint: String,
    },
    /// To another sidecar.
    Remote {
        /// Which; it need not be registered yet.
        sidecar_id: String,
        /// Where.
        endpoint: String,
    },
}

impl StageTarget {
    fn is_default(&self) -> bool {
        matches!(self, Self::Local { endpoint } if endpoint.is_empty())
    }
}

impl Default for StageTarget {
    fn default() -> Self {
        Self::Local {
            endpoint: String::new(),
        }
    }
}

impl RouterCommand {
    /// A service with the default lease and nothing optional.
    pub fn register_service(
        service_id: impl Into<String>,
        service_type: impl Into<String>,
        endpoint: impl Into<String>,
    ) -> Self {
        Self::RegisterService {
            service_id: service_id.into(),
            service_type: service_type.into(),
            endpoint: endpoint.into(),
            service_name: String::new(),
            labels: BTreeMap::new(),
            group_id: None,
            sidecar_id: None,
            lease_ms: DEFAULT_LEASE_MS,
        }
    }

    /// Removes a service.
    pub fn deregister_service(service_id: impl Into<String>) -> Self {
        Self::DeregisterService {
            service_id: service_id.into(),
        }
    }

    /// A sidecar with the default lease that offers `services`.
    pub fn register_sidecar<T: Into<LocalService>>(
        sidecar_id: impl Into<String>,
        endpoint: impl Into<String>,
        services: impl IntoIterator<Item = T>,
    ) -> Self {
        Self::RegisterSidecar {
            sidecar_id: sidecar_id.into(),
            endpoint: endpoint.into(),
            services: services.into_iter().map(Into::into).collect(),
            pod_name: String::new(),
            namespace: String::new(),
            lease_ms: DEFAULT_LEASE_MS,
        }
    }

    /// Removes a sidecar.
    pub fn deregister_sidecar(sidecar_id: impl Into<String>) -> Self {
        Self::DeregisterSidecar {
            sidecar_id: sidecar_id.into(),
        }
    }

    /// Gives a sidecar stages of a pipeline.
    pub fn assign_pipeline<T: Into<StageAssignment>>(
        pipeline_id: impl Into<String>,
        sidecar_id: impl Into<String>,
        stages: impl IntoIterator<Item = T>,
    ) -> Self {
        Self::AssignPipeline {
            pipeline_id: pipeline_id.into(),
            sidecar_id: sidecar_id.into(),
            stages: stages.into_iter().map(Into::into).collect(),
        }
    }

    /// Takes a pipeline from a sidecar.
    pub fn revoke_pipeline(pipeline_id: impl Into<String>, sidecar_id: impl Into<String>) -> Self {
        Self::RevokePipeline {
            pipeline_id: pipeline_id.into(),
            sidecar_id: sidecar_id.into(),
        }
    }

    /// A source offset whose encoding, envelope included, is as near to `bytes` as its fields
    /// allow (it can be met exactly from 64 to about 500): what benches and load generators send.
    ///
    /// `number` names the source (one of `sources`) and is the offset, so that rising numbers are
    /// all applied.
    pub fn sized(number: u64, sources: u64, bytes: usize) -> Self {
        let mut source_id = format!("load/{:08x}", number % sources.max(1));
        // Protobuf: a tag, a length and the text; a tag and the offset unless it is 0; around
        // both a tag and a length; before all the envelope.
        let varint = |value: u64| prost::length_delimiter_len(value as usize);
        let offset = if number == 0 { 0 } else { 1 + varint(number) };
        let encoded = |id: usize| {
            let inner = 1 + varint(id as u64) + id + offset;
            codec::ENVELOPE + 1 + varint(inner as u64) + inner
        };
        let shortest = source_id.len();
        let missing = bytes.saturating_sub(encoded(shortest));
        let mut len = (shortest + missing).min(limits::MAX_ID);
        while len > shortest && encoded(len) > bytes {
            len -= 1;
        }
        source_id.extend(std::iter::repeat_n('.', len - shortest));
        Self::CommitSourceOffset {
            source_id,
            partition: 0,
            offset: number,
            rewind: false,
        }
    }

    /// The command's name, as in its JSON form.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Noop => "Noop",
            Self::RegisterService { .. } => "RegisterService",
            Self::DeregisterService { .. } => "DeregisterService",
            Self::RenewLease { .. } => "RenewLease",
            Self::UpdateServiceHealth { .. } => "UpdateServiceHealth",
            Self::CreatePipeline { .. } => "CreatePipeline",
            Self::UpdatePipeline { .. } => "UpdatePipeline",
            Self::DeletePipeline { .. } => "DeletePipeline",
            Self::EnablePipeline { .. } => "EnablePipeline",
            Self::DisablePipeline { .. } => "DisablePipeline",
            Self::CommitSourceOffset { .. } => "CommitSourceOffset",
            Self::AdvanceWatermark { .. } => "AdvanceWatermark",
            Self::SaveServiceCheckpoint { .. } => "SaveServiceCheckpoint",
            Self::JoinGroup { .. } => "JoinGroup",
            Self::LeaveGroup { .. } => "LeaveGroup",
            Self::AssignPartitions { .. } => "AssignPartitions",
            Self::CommitGroupOffset { .. } => "CommitGroupOffset",
            Self::RegisterSidecar { .. } => "RegisterSidecar",
            Self::DeregisterSidecar { .. } => "DeregisterSidecar",
            Self::UpdateSidecarHeartbeat { .. } => "UpdateSidecarHeartbeat",
            Self::AssignPipeline { .. } => "AssignPipeline",
            Self::RevokePipeline { .. } => "RevokePipeline",
            Self::CommitGroupOffsets { .. } => "CommitGroupOffsets",
            Self::ReportSource { .. } => "ReportSource",
            Self::ExpireLeases { .. } => "ExpireLeases",
        }
    }

    /// Whether the command lowers an offset on purpose, which needs the role operator.
    pub fn is_rewind(&self) -> bool {
        matches!(
            self,
            Self::CommitSourceOffset { rewind: true, .. }
                | Self::CommitGroupOffset { rewind: true, .. }
        )
    }
}

//! Which fields each command has, and by which names they go.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::{Fields, event_time, partitions, string, unsigned};
use crate::state_machine::command::limits::DEFAULT_LEASE_MS;
use crate::state_machine::{
    LocalService, RouterCommand, SourceWatermark, StageAssignment, StageTarget,
};

/// All commands.
pub(super) const NAMES: [&str; 25] = [
    "Noop",
    "RegisterService",
    "DeregisterService",
    "RenewLease",
    "UpdateServiceHealth",
    "CreatePipeline",
    "UpdatePipeline",
    "DeletePipeline",
    "EnablePipeline",
    "DisablePipeline",
    "CommitSourceOffset",
    "AdvanceWatermark",
    "SaveServiceCheckpoint",
    "JoinGroup",
    "LeaveGroup",
    "AssignPartitions",
    "CommitGroupOffset",
    "RegisterSidecar",
    "DeregisterSidecar",
    "UpdateSidecarHeartbeat",
    "AssignPipeline",
    "RevokePipeline",
    "CommitGroupOffsets",
    "ReportSource",
    "ExpireLeases",
];

/// The command's own name, for it or an alias of it.
pub(super) fn canonical(name: &str) -> Option<&'static str> {
    match name {
        "AssignPipelineToSidecar" => Some("AssignPipeline"),
        "RevokePipelineFromSidecar" => Some("RevokePipeline"),
        _ => NAMES.into_iter().find(|each| *each == name),
    }
}

/// The command called `name`, which is one of [`NAMES`].
pub(super) fn build(name: &'static str, fields: &mut Fields) -> RouterCommand {
    match name {
        "RegisterService" | "DeregisterService" | "RenewLease" | "UpdateServiceHealth" => {
            service(name, fields)
        }
        "CreatePipeline" | "UpdatePipeline" | "DeletePipeline" | "EnablePipeline"
        | "DisablePipeline" | "AssignPipeline" | "RevokePipeline" => pipeline(name, fields),
        "CommitSourceOffset" | "AdvanceWatermark" | "SaveServiceCheckpoint" | "ReportSource" => {
            source(name, fields)
        }
        "JoinGroup" | "LeaveGroup" | "AssignPartitions" | "CommitGroupOffset"
        | "CommitGroupOffsets" => group(name, fields),
        "RegisterSidecar" | "DeregisterSidecar" | "UpdateSidecarHeartbeat" | "ExpireLeases" => {
            sidecar(name, fields)
        }
        _ => RouterCommand::Noop,
    }
}

fn service(name: &str, f: &mut Fields) -> RouterCommand {
    let service_id = f.string("service_id");
    match name {
        "RegisterService" => RouterCommand::RegisterService {
            service_id,
            service_type: service_type(f.string("service_type")),
            endpoint: f.string("endpoint"),
            service_name: f.string_or_empty("service_name"),
            labels: f.map(&["labels"], "an object of strings", |_, value| {
                string(value)
            }),
            group_id: f.optional_string("group_id"),
            sidecar_id: f.optional_string("sidecar_id"),
            lease_ms: f.optional_u32("lease_ms").unwrap_or(DEFAULT_LEASE_MS),
        },
        "UpdateServiceHealth" => RouterCommand::UpdateServiceHealth {
            service_id,
            health: f.string("health"),
        },
        "RenewLease" => RouterCommand::RenewLease { service_id },
        _ => RouterCommand::DeregisterService { service_id },
    }
}

/// `SERVICE_TYPE_SOURCE`, as upstream prints it, is source.
fn service_type(stated: String) -> String {
    match stated.strip_prefix("SERVICE_TYPE_") {
        Some("UNSPECIFIED") => "unknown".into(),
        Some(kind) => kind.to_ascii_lowercase(),
        None => stated,
    }
}

fn pipeline(name: &str, f: &mut Fields) -> RouterCommand {
    let pipeline_id = f.string("pipeline_id");
    match name {
        "CreatePipeline" => RouterCommand::CreatePipeline {
            pipeline_id,
            name: f.string_or_empty("name"),
            config: f.bytes_or_empty("config"),
        },
        "UpdatePipeline" => RouterCommand::UpdatePipeline {
            pipeline_id,
            config: f.bytes("config"),
            expected_version: f.optional_u64("expected_version"),
        },
        "AssignPipeline" => RouterCommand::AssignPipeline {
            pipeline_id,
            sidecar_id: f.string("sidecar_id"),
            stages: f.objects(&["stages", "stage_assignments"], "stage_id", stage),
        },
        "RevokePipeline" => RouterCommand::RevokePipeline {
            pipeline_id,
            sidecar_id: f.string("sidecar_id"),
        },
        "EnablePipeline" => RouterCommand::EnablePipeline { pipeline_id },
        "DisablePipeline" => RouterCommand::DisablePipeline { pipeline_id },
        _ => RouterCommand::DeletePipeline { pipeline_id },
    }
}

fn stage(f: &mut Fields) -> StageAssignment {
    let what =
        "{\"Local\":{\"endpoint\":...}} or {\"Remote\":{\"sidecar_id\":...,\"endpoint\":...}}";
    StageAssignment {
        stage_id: f.string("stage_id"),
        target: f.variant("target", what, |name, f| match name {
            "Local" => Some(StageTarget::Local {
                endpoint: f.string_or_empty("endpoint"),
            }),
            "Remote" => Some(StageTarget::Remote {
                sidecar_id: f.string("sidecar_id"),
                endpoint: f.string("endpoint"),
            }),
            _ => None,
        }),
    }
}

fn source(name: &str, f: &mut Fields) -> RouterCommand {
    match name {
        "CommitSourceOffset" => RouterCommand::CommitSourceOffset {
            source_id: f.string("source_id"),
            partition: f.u32("partition"),
            offset: f.u64("offset"),
            rewind: f.flag("rewind"),
        },
        "AdvanceWatermark" => RouterCommand::AdvanceWatermark {
            source_id: f.string("source_id"),
            partition: f.u32("partition"),
            position: f.u64("position"),
            event_time: f.event_time("event_time"),
        },
        "SaveServiceCheckpoint" => RouterCommand::SaveServiceCheckpoint {
            service_id: f.string("service_id"),
            checkpoint_id: f.string("checkpoint_id"),
            data: f.bytes_or_empty("data"),
            source_offsets: source_offsets(f, "source_offsets"),
        },
        _ => RouterCommand::ReportSource {
            source_id: f.string("source_id"),
            offsets: f.partitions("offsets", "an object of offsets by partition", |value| {
                unsigned(&value)
            }),
            watermarks: f.partitions(
                "watermarks",
                "an object of {\"position\":...,\"event_time\":...} by partition",
                watermark,
            ),
        },
    }
}

fn watermark(value: Value) -> Option<SourceWatermark> {
    let Value::Object(mut object) = value else {
        return None;
    };
    let position = unsigned(&object.remove("position")?)?;
    let event_time = match object.remove("event_time") {
        None | Some(Value::Null) => None,
        Some(value) => Some(event_time(value)?),
    };
    object.is_empty().then_some(SourceWatermark {
        position,
        event_time,
    })
}

/// Offsets by source and partition; or flat, `"orders:3": 9`, cut at the last colon.
fn source_offsets(f: &mut Fields, name: &'static str) -> BTreeMap<String, BTreeMap<u32, u64>> {
    let what = "an object of offsets by source and partition";
    let flat = f.map(&[name], what, |key, value| match value {
        Value::Object(_) => {
            let offsets = partitions(value, |value| unsigned(&value))?;
            Some((key.to_owned(), offsets))
        }
        _ => {
            let (source, partition) = key.rsplit_once(':')?;
            let offset = (partition.parse().ok()?, unsigned(&value)?);
            Some((source.to_owned(), BTreeMap::from([offset])))
        }
    });
    let mut all: BTreeMap<String, BTreeMap<u32, u64>> = BTreeMap::new();
    for (source, offsets) in flat.into_values() {
        all.entry(source).or_default().extend(offsets);
    }
    all
}

fn group(name: &str, f: &mut Fields) -> RouterCommand {
    let group_id = f.string("group_id");
    match name {
        "JoinGroup" => RouterCommand::JoinGroup {
            service_id: f.string("service_id"),
            group_id,
            stage_id: f.string("stage_id"),
        },
        "LeaveGroup" => RouterCommand::LeaveGroup {
            service_id: f.string("service_id"),
            group_id,
        },
        "AssignPartitions" => RouterCommand::AssignPartitions {
            group_id,
            assignments: {
                f.require("assignments");
                let what = "an object of arrays of partitions by service";
                f.map(&["assignments"], what, |_, value| numbers(value))
            },
            generation: f.u64("generation"),
        },
        "CommitGroupOffset" => RouterCommand::CommitGroupOffset {
            group_id,
            source_id: f.string("source_id"),
            partition: f.u32("partition"),
            offset: f.u64("offset"),
            service_id: f.optional_string("service_id"),
            generation: f.optional_u64("generation"),
            rewind: f.flag("rewind"),
        },
        _ => RouterCommand::CommitGroupOffsets {
            group_id,
            service_id: f.string("service_id"),
            generation: f.u64("generation"),
            offsets: {
                f.require("offsets");
                source_offsets(f, "offsets")
            },
        },
    }
}

fn numbers(value: Value) -> Option<Vec<u32>> {
    let Value::Array(items) = value else {
        return None;
    };
    let number = |item: &Value| unsigned(item)?.try_into().ok();
    items.iter().map(number).collect()
}

fn sidecar(name: &str, f: &mut Fields) -> RouterCommand {
    match name {
        "RegisterSidecar" => RouterCommand::RegisterSidecar {
            sidecar_id: f.string("sidecar_id"),
            endpoint: f.string("endpoint"),
            services: f.objects(&["services", "local_services"], "service_name", |f| {
                LocalService {
                    service_name: f.string("service_name"),
                    service_type: service_type(f.string_or_empty("service_type")),
                    local_endpoint: f.string_or_empty("local_endpoint"),
                }
            }),
            pod_name: f.string_or_empty("pod_name"),
            namespace: f.string_or_empty("namespace"),
            lease_ms: f.optional_u32("lease_ms").unwrap_or(DEFAULT_LEASE_MS),
        },
        "DeregisterSidecar" => RouterCommand::DeregisterSidecar {
            sidecar_id: f.string("sidecar_id"),
        },
        "UpdateSidecarHeartbeat" => RouterCommand::UpdateSidecarHeartbeat {
            sidecar_id: f.string("sidecar_id"),
            timestamp: f.seconds_or_zero("timestamp"),
            health: f.map(&["health"], "an object of strings", |_, value| {
                string(value)
            }),
        },
        _ => RouterCommand::ExpireLeases {
            sidecars: f.strings("sidecars"),
            services: f.strings("services"),
        },
    }
}

//! The shape and size of a command by itself, whatever the state: checked when it is encoded, and
//! again when it is applied.

use std::collections::BTreeMap;

use super::{EventTime, LocalService, RouterCommand, StageAssignment, StageTarget, limits};
use crate::state_machine::{CommandError, Health, Rejection};

type Check = Result<(), Rejection>;

fn invalid(field: &str, why: impl Into<String>) -> Check {
    Err(Rejection::Invalid {
        field: field.into(),
        why: why.into(),
    })
}

fn at_most(which: &str, count: usize, limit: usize) -> Check {
    if count <= limit {
        return Ok(());
    }
    Err(Rejection::LimitExceeded {
        which: which.into(),
        limit: limit as u64,
    })
}

/// Text without control characters, bounded.
fn text(field: &str, text: &str, limit: usize) -> Check {
    at_most(field, text.len(), limit)?;
    // Most texts are ASCII, which needs no decoding to be judged. Without an early exit the
    // compiler looks at many bytes at once: this runs for every id of every command.
    let odd = |byte: u8| !matches!(byte, 0x20..0x7f);
    let plain = text.bytes().fold(true, |plain, byte| plain & !odd(byte));
    if !plain && text.chars().any(char::is_control) {
        return invalid(field, "must have no control characters");
    }
    Ok(())
}

fn id(field: &str, id: &str) -> Check {
    if id.is_empty() {
        return invalid(field, "must not be empty");
    }
    text(field, id, limits::MAX_ID)
}

fn optional_id(field: &str, value: Option<&String>) -> Check {
    value.map_or(Ok(()), |value| id(field, value))
}

fn kind(field: &str, kind: &str) -> Check {
    text(field, kind, limits::MAX_TYPE)?;
    if kind.chars().any(char::is_uppercase) {
        return invalid(field, "must be lower case");
    }
    Ok(())
}

fn health(field: &str, health: &str) -> Check {
    match health.parse::<Health>() {
        Ok(_) => Ok(()),
        Err(why) => invalid(field, why.to_string()),
    }
}

fn lease(lease_ms: u32) -> Check {
    match lease_ms {
        0 | limits::MIN_LEASE_MS..=limits::MAX_LEASE_MS => Ok(()),
        _ => invalid(
            "lease_ms",
            format!(
                "must be 0 (never expires) or {} to {}",
                limits::MIN_LEASE_MS,
                limits::MAX_LEASE_MS
            ),
        ),
    }
}

fn event_time(time: Option<EventTime>) -> Check {
    match time {
        Some(EventTime { nanos, .. }) if !(0..1_000_000_000).contains(&nanos) => {
            invalid("event_time", "nanos must be 0 to 999999999")
        }
        _ => Ok(()),
    }
}

fn labels(labels: &BTreeMap<String, String>) -> Check {
    at_most("labels", labels.len(), limits::MAX_LABELS)?;
    labels.iter().try_for_each(|(key, value)| {
        if key.is_empty() {
            return invalid("labels", "a key must not be empty");
        }
        text("labels", key, limits::MAX_LABEL_KEY)?;
        text("labels", value, limits::MAX_LABEL_VALUE)
    })
}

fn local_services(services: &[LocalService]) -> Check {
    at_most("services", services.len(), limits::MAX_SIDECAR_SERVICES)?;
    services.iter().try_for_each(|service| {
        id("service_name", &service.service_name)?;
        kind("service_type", &service.service_type)?;
        text(
            "local_endpoint",
            &service.local_endpoint,
            limits::MAX_ENDPOINT,
        )
    })
}

fn stages(stages: &[StageAssignment]) -> Check {
    at_most("stages", stages.len(), limits::MAX_STAGES)?;
    stages.iter().try_for_each(|stage| {
        id("stage_id", &stage.stage_id)?;
        match &stage.target {
            StageTarget::Local { endpoint } => text("endpoint", endpoint, limits::MAX_ENDPOINT),
            StageTarget::Remote {
                sidecar_id,
                endpoint,
            } => {
                id("sidecar_id", sidecar_id)?;
                text("endpoint", endpoint, limits::MAX_ENDPOINT)
            }
        }
    })
}

fn source_ids(field: &str, offsets: &BTreeMap<String, BTreeMap<u32, u64>>) -> Check {
    offsets.keys().try_for_each(|source| id(field, source))
}

impl RouterCommand {
    /// Whether the command's shape and sizes are right, whatever the state: that is what encoding
    /// it checks.
    ///
    /// # Errors
    /// Names the first field that is not.
    pub fn validate(&self) -> Result<(), CommandError> {
        self.check().map_err(|rejection| match rejection {
            Rejection::Invalid { field, why } => CommandError { field, why },
            Rejection::LimitExceeded { which, limit } => CommandError {
                field: which,
                why: format!("over the limit of {limit}"),
            },
            other => CommandError {
                field: self.name().into(),
                why: other.to_string(),
            },
        })
    }

    pub(crate) fn check(&self) -> Check {
        match self {
            Self::Noop => Ok(()),
            Self::RegisterService { .. }
            | Self::DeregisterService { .. }
            | Self::RenewLease { .. }
            | Self::UpdateServiceHealth { .. } => self.check_service(),
            Self::CreatePipeline { .. }
            | Self::UpdatePipeline { .. }
            | Self::DeletePipeline { .. }
            | Self::EnablePipeline { .. }
            | Self::DisablePipeline { .. }
            | Self::AssignPipeline { .. }
            | Self::RevokePipeline { .. } => self.check_pipeline(),
            Self::CommitSourceOffset { .. }
            | Self::AdvanceWatermark { .. }
            | Self::SaveServiceCheckpoint { .. }
            | Self::ReportSource { .. } => self.check_source(),
            Self::JoinGroup { .. }
            | Self::LeaveGroup { .. }
            | Self::AssignPartitions { .. }
            | Self::CommitGroupOffset { .. }
            | Self::CommitGroupOffsets { .. } => self.check_group(),
            Self::RegisterSidecar { .. }
            | Self::DeregisterSidecar { .. }
            | Self::UpdateSidecarHeartbeat { .. }
            | Self::ExpireLeases { .. } => self.check_sidecar(),
        }
    }

    fn check_service(&self) -> Check {
        match self {
            Self::RegisterService {
                service_id,
                service_type,
                endpoint,
                service_name,
                labels: pairs,
                group_id,
                sidecar_id,
                lease_ms,
            } => {
                id("service_id", service_id)?;
                id("service_type", service_type)?;
                kind("service_type", service_type)?;
                text("endpoint", endpoint, limits::MAX_ENDPOINT)?;
                text("service_name", service_name, limits::MAX_NAME)?;
                labels(pairs)?;
                optional_id("group_id", group_id.as_ref())?;
                optional_id("sidecar_id", sidecar_id.as_ref())?;
                lease(*lease_ms)
            }
            Self::UpdateServiceHealth {
                service_id,
                health: value,
            } => {
                id("service_id", service_id)?;
                health("health", value)
            }
            Self::DeregisterService { service_id } | Self::RenewLease { service_id } => {
                id("service_id", service_id)
            }
            _ => Ok(()),
        }
    }

    fn check_pipeline(&self) -> Check {
        match self {
            Self::CreatePipeline {
                pipeline_id,
                name,
                config,
            } => {
                id("pipeline_id", pipeline_id)?;
                text("name", name, limits::MAX_NAME)?;
                at_most("config", config.len(), limits::MAX_CONFIG)
            }
            Self::UpdatePipeline {
                pipeline_id,
                config,
                ..
            } => {
                id("pipeline_id", pipeline_id)?;
                at_most("config", config.len(), limits::MAX_CONFIG)
            }
            Self::DeletePipeline { pipeline_id }
            | Self::EnablePipeline { pipeline_id }
            | Self::DisablePipeline { pipeline_id } => id("pipeline_id", pipeline_id),
            Self::AssignPipeline {
                pipeline_id,
                sidecar_id,
                stages: list,
            } => {
                id("pipeline_id", pipeline_id)?;
                id("sidecar_id", sidecar_id)?;
                stages(list)
            }
            Self::RevokePipeline {
                pipeline_id,
                sidecar_id,
            } => {
                id("pipeline_id", pipeline_id)?;
                id("sidecar_id", sidecar_id)
            }
            _ => Ok(()),
        }
    }

    fn check_source(&self) -> Check {
        match self {
            Self::CommitSourceOffset { source_id, .. } => id("source_id", source_id),
            Self::AdvanceWatermark {
                source_id,
                event_time: time,
                ..
            } => {
                id("source_id", source_id)?;
                event_time(*time)
            }
            Self::SaveServiceCheckpoint {
                service_id,
                checkpoint_id,
                data,
                source_offsets,
            } => {
                id("service_id", service_id)?;
                id("checkpoint_id", checkpoint_id)?;
                at_most("data", data.len(), limits::MAX_CHECKPOINT)?;
                source_ids("source_offsets", source_offsets)
            }
            Self::ReportSource {
                source_id,
                watermarks,
                ..
            } => {
                id("source_id", source_id)?;
                watermarks
                    .values()
                    .try_for_each(|watermark| event_time(watermark.event_time))
            }
            _ => Ok(()),
        }
    }

    fn check_group(&self) -> Check {
        match self {
            Self::JoinGroup {
                service_id,
                group_id,
                stage_id,
            } => {
                id("service_id", service_id)?;
                id("group_id", group_id)?;
                id("stage_id", stage_id)
            }
            Self::LeaveGroup {
                service_id,
                group_id,
            } => {
                id("service_id", service_id)?;
                id("group_id", group_id)
            }
            Self::AssignPartitions {
                group_id,
                assignments,
                ..
            } => {
                id("group_id", group_id)?;
                at_most("assignments", assignments.len(), limits::MAX_MEMBERS)?;
                assignments
                    .keys()
                    .try_for_each(|service| id("assignments", service))?;
                let partitions = assignments.values().map(Vec::len).sum();
                at_most("partitions", partitions, limits::MAX_PARTITIONS)
            }
            Self::CommitGroupOffset {
                group_id,
                source_id,
                service_id,
                generation,
                ..
            } => {
                id("group_id", group_id)?;
                id("source_id", source_id)?;
                optional_id("service_id", service_id.as_ref())?;
                match (service_id, generation) {
                    (Some(_), None) => invalid("generation", "must be stated with service_id"),
                    (None, Some(_)) => invalid("service_id", "must be stated with generation"),
                    _ => Ok(()),
                }
            }
            Self::CommitGroupOffsets {
                group_id,
                service_id,
                offsets,
                ..
            } => {
                id("group_id", group_id)?;
                id("service_id", service_id)?;
                source_ids("offsets", offsets)
            }
            _ => Ok(()),
        }
    }

    fn check_sidecar(&self) -> Check {
        match self {
            Self::RegisterSidecar {
                sidecar_id,
                endpoint,
                services,
                pod_name,
                namespace,
                lease_ms,
            } => {
                id("sidecar_id", sidecar_id)?;
                text("endpoint", endpoint, limits::MAX_ENDPOINT)?;
                local_services(services)?;
                text("pod_name", pod_name, limits::MAX_NAME)?;
                text("namespace", namespace, limits::MAX_NAME)?;
                lease(*lease_ms)
            }
            Self::DeregisterSidecar { sidecar_id } => id("sidecar_id", sidecar_id),
            Self::UpdateSidecarHeartbeat {
                sidecar_id,
                health: values,
                ..
            } => {
                id("sidecar_id", sidecar_id)?;
                at_most("health", values.len(), limits::MAX_SIDECAR_SERVICES)?;
                values.iter().try_for_each(|(name, value)| {
                    id("health", name)?;
                    health("health", value)
                })
            }
            Self::ExpireLeases { sidecars, services } => {
                at_most("ids", sidecars.len() + services.len(), limits::MAX_EXPIRED)?;
                sidecars.iter().try_for_each(|each| id("sidecars", each))?;
                services.iter().try_for_each(|each| id("services", each))
            }
            _ => Ok(()),
        }
    }
}

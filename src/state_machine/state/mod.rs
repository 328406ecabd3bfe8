//! The router's state: its records, and what can be read from them.

mod index;
mod keys;
mod lists;
mod reads;
mod records;

pub(crate) use index::{Indexes, Pairs, add_location, locations};
pub(crate) use keys::{GroupKey, SourceKey};
pub use keys::{GroupPartition, SourcePartition};
pub use lists::{LocationKey, PipelineCheckpoints, PipelineFilter, SidecarFilter};
pub use reads::{GlobalWatermark, Location, ServiceFilter, Summary};
pub(crate) use records::Record;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::command::{EventTime, StageAssignment};
use super::ordered::{Id, OrderedMap};
use crate::types::{LogIndex, Micros, Term};

/// Conveyor's control state at one index of the log.
///
/// A clone is O(1) and shares everything with the original; times are log time in milliseconds;
/// a `revision` is the index of the entry that changed the record last (renewals of leases aside).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterState {
    /// Services by id.
    pub services: OrderedMap<Id, Arc<ServiceState>>,
    /// Pipelines by id.
    pub pipelines: OrderedMap<Id, Arc<PipelineState>>,
    /// Offsets, watermarks and checkpoints.
    pub checkpoints: Checkpoints,
    /// Consumer groups by id. An empty group stays, so that its generations never start again.
    pub groups: OrderedMap<Id, Arc<GroupState>>,
    /// Sidecars by id.
    pub sidecars: OrderedMap<Id, Arc<SidecarState>>,
    /// By service name, the sidecars that offer it.
    pub service_locations: OrderedMap<Id, OrderedMap<Id, ()>>,
    pub(crate) clock: Clock,
    /// Sum over the records, without the clock.
    pub(crate) records: u128,
    /// Bytes of all checkpoints.
    pub(crate) checkpoint_bytes: u64,
    pub(crate) indexes: Indexes,
}

/// How far stream processing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoints {
    /// The next offset to read, by source and partition.
    pub source_offsets: OrderedMap<SourcePartition, Offset>,
    /// Watermarks by source and partition.
    pub watermarks: OrderedMap<SourcePartition, Watermark>,
    /// The newest checkpoint of each service.
    pub service_checkpoints: OrderedMap<Id, Arc<ServiceCheckpoint>>,
    /// The next offset to read, by group, source and partition.
    pub group_offsets: OrderedMap<GroupPartition, Offset>,
}

/// Where in the log, and when, the state stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) time_us: Micros,
    /// Sum of the gaps between the last entry of a term and the first of the next.
    pub(crate) leaderless_us: Micros,
    pub(crate) rejections: u64,
    pub(crate) rejection_digest: u128,
}

impl Clock {
    pub(crate) fn time_ms(&self) -> u64 {
        self.time_us / 1000
    }

    /// Log time without the gaps in which nobody led: what leases run on.
    pub(crate) fn active_us(&self) -> Micros {
        self.time_us.saturating_sub(self.leaderless_us)
    }
}

/// Until when something lives unless renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Milliseconds without a renewal until it expires; 0 never.
    pub lease_ms: u32,
    /// Log time of the last renewal, milliseconds.
    pub last_heartbeat_ms: u64,
    /// Active time of the last renewal, microseconds: log time less the time without a leader.
    #[serde(skip)]
    pub renewed_us: Micros,
}

impl Lease {
    /// When it ends unless renewed, log time in milliseconds, if there is always a leader; `None`
    /// never.
    pub fn expires_at_ms(&self) -> Option<u64> {
        (self.lease_ms > 0).then(|| self.last_heartbeat_ms + u64::from(self.lease_ms))
    }

    /// The last moment of active time at which it lives.
    pub(crate) fn deadline_us(&self) -> Option<Micros> {
        (self.lease_ms > 0).then(|| self.renewed_us + u64::from(self.lease_ms) * 1000)
    }

    pub(crate) fn is_expired(&self, active_us: Micros) -> bool {
        self.deadline_us().is_some_and(|last| active_us > last)
    }
}

/// How a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Well.
    #[default]
    Healthy,
    /// Working, not well.
    Degraded,
    /// Not working.
    Unhealthy,
    /// Nobody knows.
    Unknown,
}

impl Health {
    /// The word for it, as in commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// A word that is no [`Health`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be healthy, degraded, unhealthy or unknown")]
pub struct ParseHealthError;

impl FromStr for Health {
    type Err = ParseHealthError;

    fn from_str(word: &str) -> Result<Self, ParseHealthError> {
        let all = [
            Self::Healthy,
            Self::Degraded,
            Self::Unhealthy,
            Self::Unknown,
        ];
        let found = all.into_iter().find(|health| health.as_str() == word);
        found.ok_or(ParseHealthError)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        word.parse().map_err(D::Error::custom)
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceState {
    /// Its id.
    pub service_id: Id,
    /// source, transform, sink, lookup, unknown, or another word.
    pub service_type: Id,
    /// Where it is reached.
    pub endpoint: Id,
    /// What it is called.
    pub service_name: Id,
    /// Labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// A tag.
    pub group_id: Option<Id>,
    /// The sidecar by whose lease it lives.
    pub sidecar_id: Option<Id>,
    /// How it is.
    pub health: Health,
    /// When an id like this was first registered (since it was last removed).
    pub registered_at_ms: u64,
    /// Index of the last change.
    pub revision: LogIndex,
    /// Its lease; without meaning of its own while it lives by a sidecar's.
    #[serde(flatten)]
    pub lease: Lease,
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PipelineState {
    /// Its id.
    pub pipeline_id: Id,
    /// What it is called.
    pub name: Id,
    /// Opaque.
    #[serde(serialize_with = "super::json::bytes")]
    pub config: Arc<[u8]>,
    /// Whether it is to run.
    pub enabled: bool,
    /// Rises by one with each new config.
    pub version: u64,
    /// When it was created.
    pub created_at_ms: u64,
    /// When it was changed last.
    pub updated_at_ms: u64,
    /// Index of the last change.
    pub revision: LogIndex,
}

/// The next offset to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offset {
    /// The offset.
    pub offset: u64,
    /// Index of the last change.
    pub revision: LogIndex,
}

/// How far a source's partition has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Watermark {
    /// The position.
    pub position: u64,
    /// The event time there; `None` counts as before all.
    pub event_time: Option<EventTime>,
    /// Index of the last change.
    pub revision: LogIndex,
}

/// A checkpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceCheckpoint {
    /// Whose.
    pub service_id: Id,
    /// Its id.
    pub checkpoint_id: Id,
    /// Opaque.
    #[serde(serialize_with = "super::json::bytes")]
    pub data: Vec<u8>,
    /// Offsets by source and partition at that moment.
    pub source_offsets: BTreeMap<String, BTreeMap<u32, u64>>,
    /// When.
    pub created_at_ms: u64,
    /// Index of the last change.
    pub revision: LogIndex,
}

impl ServiceCheckpoint {
    /// What counts against the limit on all checkpoints.
    pub(crate) fn size(&self) -> u64 {
        let sources = self.source_offsets.iter();
        let offsets = sources.map(|(source, offsets)| source.len() + 12 * offsets.len());
        let ids = self.service_id.len() + self.checkpoint_id.len();
        (ids + self.data.len() + offsets.sum::<usize>()) as u64
    }
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupState {
    /// Its id.
    pub group_id: Id,
    /// The stage that it runs.
    pub stage_id: Id,
    /// Rises by one with every join, leave and assignment.
    pub generation: u64,
    /// The generation of the last assignment; 0 if there was none.
    pub assigned_generation: u64,
    /// The members and their partitions.
    pub members: OrderedMap<Id, Arc<[u32]>>,
    /// By partition, whose it is: `members` the other way round.
    #[serde(skip)]
    pub owners: OrderedMap<u32, Id>,
    /// Index of the last change.
    pub revision: LogIndex,
}

/// A sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SidecarState {
    /// Its id.
    pub sidecar_id: Id,
    /// Where it is reached.
    pub endpoint: Id,
    /// Its pod; empty if not known.
    pub pod_name: Id,
    /// Its namespace; empty if not known.
    pub namespace: Id,
    /// What it offers.
    pub services: Arc<[SidecarService]>,
    /// What it runs, by pipeline.
    pub assignments: OrderedMap<Id, Arc<Assignment>>,
    /// Index of the last change of `assignments`.
    pub assignments_revision: LogIndex,
    /// When an id like this was first registered (since it was last removed).
    pub registered_at_ms: u64,
    /// Index of the last change, that of `assignments` aside.
    pub revision: LogIndex,
    /// The sender's clock at the last heartbeat, for display.
    pub timestamp: u64,
    /// Its lease.
    #[serde(flatten)]
    pub lease: Lease,
}

/// A service that a sidecar offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SidecarService {
    /// What it is called.
    pub service_name: Id,
    /// Its type.
    pub service_type: Id,
    /// Where the sidecar reaches it; empty if not stated.
    pub local_endpoint: Id,
    /// How it is, by the sidecar's heartbeats.
    pub health: Health,
}

/// What a sidecar runs of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// The pipeline.
    pub pipeline_id: Id,
    /// The stages.
    pub stages: Vec<StageAssignment>,
    /// Index of the last change.
    pub revision: LogIndex,
}

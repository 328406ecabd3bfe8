//! What a command came to.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::ordered::Id;
use super::state::{GlobalWatermark, Health};
use crate::types::{LogIndex, Term};

/// The result of a command that was committed and applied; the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterResponse {
    /// Where in the log the command stands.
    pub index: LogIndex,
    /// In which term.
    pub term: Term,
    /// Its log time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Whether this is the stored answer of an earlier try.
    pub duplicate: bool,
    /// What it came to.
    pub outcome: Outcome,
}

/// What a rejection is about, by name.
type Kind = &'static str;

const KINDS: [Kind; 6] = [
    "service",
    "sidecar",
    "pipeline",
    "group",
    "stage",
    "partition",
];

fn known_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    let word = String::deserialize(deserializer)?;
    let known = KINDS.into_iter().find(|kind| *kind == word);
    known.ok_or_else(|| D::Error::custom("a kind of a newer release"))
}

impl RouterResponse {
    /// Its JSON form, as remembered for a client that sends its command again.
    pub(crate) fn to_remembered(&self) -> Option<Vec<u8>> {
        let first = Self {
            duplicate: false,
            ..self.clone()
        };
        serde_json::to_vec(&first).ok()
    }

    /// What was remembered, marked as such.
    pub(crate) fn from_remembered(bytes: &[u8]) -> Option<Self> {
        let first: Self = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            duplicate: true,
            ..first
        })
    }

    /// The answer, whether or not anything changed; the refusal as an error.
    ///
    /// # Errors
    /// If the router refused the command. It was committed all the same, and changed nothing.
    pub fn into_result(self) -> Result<Answer, Rejection> {
        match self.outcome {
            Outcome::Applied(answer) | Outcome::Unchanged(answer) => Ok(answer),
            Outcome::Rejected(rejection) => Err(rejection),
        }
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It did what it says.
    Applied(Answer),
    /// Everything was so already, but for a lease that it renewed.
    Unchanged(Answer),
    /// The router refused it.
    Rejected(Rejection),
}

/// What a command answers.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing to say.
    None,
    /// To `RegisterService`.
    ServiceRegistered {
        /// Its lease, milliseconds.
        lease_ms: u32,
        /// Index of the record's last change.
        revision: LogIndex,
        /// Whether there was one of this id.
        replaced: bool,
    },
    /// To `DeregisterService`.
    ServiceDeregistered {
        /// Groups left.
        groups: Vec<Id>,
    },
    /// To `RenewLease`.
    LeaseRenewed {
        /// The lease, milliseconds: that of the sidecar for a service bound to one.
        lease_ms: u32,
        /// When it expires unless renewed, log time; `None` never.
        expires_at_ms: Option<u64>,
    },
    /// To `UpdateServiceHealth`.
    Health {
        /// What it was.
        previous: Health,
    },
    /// To the commands that create or change a pipeline.
    Pipeline {
        /// Its version.
        version: u64,
    },
    /// To `DeletePipeline`.
    PipelineDeleted {
        /// Sidecars that ran it.
        sidecars: Vec<Id>,
    },
    /// To the commits of one offset.
    Offset {
        /// The offset there is now.
        current: u64,
    },
    /// To `AdvanceWatermark`.
    Watermark {
        /// The partition's.
        own: GlobalWatermark,
        /// The source's.
        global: GlobalWatermark,
    },
    /// To `SaveServiceCheckpoint`.
    CheckpointSaved {
        /// When, log time.
        created_at_ms: u64,
        /// Index of the record's last change.
        revision: LogIndex,
    },
    /// To `JoinGroup`.
    GroupJoined {
        /// The group's generation.
        generation: u64,
        /// Its members.
        members: Vec<Id>,
        /// The partitions of who joined.
        partitions: Vec<u32>,
    },
    /// To `LeaveGroup` and `AssignPartitions`.
    Generation {
        /// The group's generation; 0 if there is no such group.
        generation: u64,
    },
    /// To `RegisterSidecar`.
    SidecarRegistered {
        /// Its lease, milliseconds.
        lease_ms: u32,
        /// Index of the record's last change.
        revision: LogIndex,
        /// Pipelines that it runs.
        assignments: Vec<Id>,
        /// Pipelines that it ran, on a local endpoint that it no longer offers.
        dropped: Vec<Id>,
    },
    /// To `DeregisterSidecar`.
    SidecarDeregistered {
        /// Services that were bound to it.
        services: Vec<Id>,
        /// Groups that these left.
        groups: Vec<Id>,
        /// Pipelines that it ran.
        pipelines: Vec<Id>,
        /// Assignments elsewhere that still name it as a target.
        remote_users: Vec<SidecarPipeline>,
    },
    /// To `UpdateSidecarHeartbeat`.
    Heartbeat {
        /// When the lease ends unless renewed, log time; `None` never.
        expires_at_ms: Option<u64>,
        /// Index of the last change of its assignments.
        assignments_revision: LogIndex,
    },
    /// To `AssignPipeline`.
    PipelineAssigned {
        /// Index of the assignment's last change.
        revision: LogIndex,
        /// Sidecars named as targets that are not registered.
        unknown_targets: Vec<Id>,
    },
    /// To `RevokePipeline`.
    PipelineRevoked {
        /// Index of the last change of the sidecar's assignments.
        revision: LogIndex,
    },
    /// To `CommitGroupOffsets`.
    GroupOffsets {
        /// Those that were lower than what there is.
        behind: Vec<Behind>,
    },
    /// To `ReportSource`.
    SourceReported {
        /// Those that were lower than what there is.
        behind: Vec<Behind>,
        /// The source's watermark, if it has one.
        global: Option<GlobalWatermark>,
    },
    /// To `ExpireLeases`.
    Expired {
        /// Sidecars.
        sidecars: Vec<Id>,
        /// Services, those bound to these sidecars included.
        services: Vec<Id>,
    },
}

/// An assignment: which sidecar runs which pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarPipeline {
    /// The sidecar.
    pub sidecar_id: Id,
    /// The pipeline.
    pub pipeline_id: Id,
}

/// A part of a plural command that was lower than what there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The source.
    pub source_id: Id,
    /// Its partition.
    pub partition: u32,
    /// Whether a watermark's position was lower, rather than an offset.
    pub watermark: bool,
    /// What there is.
    pub current: u64,
}

/// Why the router refused a command. Equal on every node; nothing else changed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// A field's shape is wrong.
    Invalid {
        /// Which.
        field: String,
        /// Why.
        why: String,
    },
    /// A limit is reached.
    LimitExceeded {
        /// Which.
        which: String,
        /// The limit.
        limit: u64,
    },
    /// There is none of this id.
    NotFound {
        /// Of what: service, sidecar, pipeline or group.
        #[serde(deserialize_with = "known_kind")]
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// There is another pipeline of this id.
    AlreadyExists {
        /// Its version.
        version: u64,
    },
    /// The pipeline's version is not the expected one.
    VersionMismatch {
        /// What it is.
        current: u64,
    },
    /// Lower than what there is.
    Behind {
        /// What there is.
        current: u64,
    },
    /// The group runs another stage.
    StageMismatch {
        /// Which.
        current: Id,
    },
    /// By an old generation, or not by the next one.
    StaleGeneration {
        /// The group's.
        current: u64,
    },
    /// An assignment names a service that is not in the group.
    NotMember {
        /// Which.
        id: String,
    },
    /// The same twice in one command.
    Duplicate {
        /// Of what: stage or partition.
        #[serde(deserialize_with = "known_kind")]
        kind: Kind,
        /// Which.
        id: String,
    },
    /// The partition is not this service's.
    NotOwner {
        /// Which partition.
        partition: u32,
        /// Whose it is.
        owner: Option<Id>,
    },
    /// The group has had an assignment: commits must state service and generation.
    FenceRequired {
        /// The group's generation.
        current: u64,
    },
}

impl Rejection {
    /// The rule, by name.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "Invalid",
            Self::LimitExceeded { .. } => "LimitExceeded",
            Self::NotFound { .. } => "NotFound",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::VersionMismatch { .. } => "VersionMismatch",
            Self::Behind { .. } => "Behind",
            Self::StageMismatch { .. } => "StageMismatch",
            Self::StaleGeneration { .. } => "StaleGeneration",
            Self::NotMember { .. } => "NotMember",
            Self::Duplicate { .. } => "Duplicate",
            Self::NotOwner { .. } => "NotOwner",
            Self::FenceRequired { .. } => "FenceRequired",
        }
    }

    /// The value that the rule was compared with, where it is a number.
    pub fn current(&self) -> Option<u64> {
        match *self {
            Self::AlreadyExists { version: current }
            | Self::LimitExceeded { limit: current, .. }
            | Self::VersionMismatch { current }
            | Self::Behind { current }
            | Self::StaleGeneration { current }
            | Self::FenceRequired { current } => Some(current),
            _ => None,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, why } => write!(f, "{field}: {why}"),
            Self::LimitExceeded { which, limit } => write!(f, "{which}: over the limit of {limit}"),
            Self::NotFound { kind, id } => {
                write!(
                    f,
                    "there is no {kind} \"{id}\": register or create it first"
                )
            }
            Self::AlreadyExists { version } => write!(
                f,
                "the pipeline exists with another name or config, at version {version}: use UpdatePipeline"
            ),
            Self::VersionMismatch { current } => {
                write!(
                    f,
                    "the pipeline is at version {current}: read it and try again"
                )
            }
            Self::Behind { current } => write!(f, "lower than what there is, {current}"),
            Self::StageMismatch { current } => write!(f, "the group runs stage \"{current}\""),
            Self::StaleGeneration { current } => {
                write!(
                    f,
                    "the group is at generation {current}: read it and try again"
                )
            }
            Self::NotMember { id } => write!(f, "\"{id}\" is not a member of the group"),
            Self::Duplicate { kind, id } => write!(f, "{kind} {id} is named twice"),
            Self::NotOwner { partition, owner } => match owner {
                Some(owner) => write!(f, "partition {partition} belongs to \"{owner}\""),
                None => write!(f, "partition {partition} belongs to nobody"),
            },
            Self::FenceRequired { current } => write!(
                f,
                "the group is at generation {current} and has an assignment: state service_id and generation"
            ),
        }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;

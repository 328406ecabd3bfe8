//! Limits on commands and on the state: constants of the feature level, never configuration, or
//! nodes would differ on what they refuse.

/// Feature level that these limits and the command encoding belong to.
pub const FEATURE_LEVEL: u32 = 1;
/// Longest id, bytes of UTF-8.
pub const MAX_ID: usize = 512;
/// Longest service type or health, bytes.
pub const MAX_TYPE: usize = 64;
/// Longest endpoint, bytes.
pub const MAX_ENDPOINT: usize = 512;
/// Longest name, pod name or namespace, bytes.
pub const MAX_NAME: usize = 512;
/// Most labels of a service.
pub const MAX_LABELS: usize = 64;
/// Longest key of a label, bytes.
pub const MAX_LABEL_KEY: usize = 128;
/// Longest value of a label, bytes.
pub const MAX_LABEL_VALUE: usize = 1024;
/// Most services that a sidecar offers.
pub const MAX_SIDECAR_SERVICES: usize = 256;
/// Most stages of an assignment.
pub const MAX_STAGES: usize = 256;
/// Most assignments of a sidecar.
pub const MAX_ASSIGNMENTS: usize = 1024;
/// Most members of a group.
pub const MAX_MEMBERS: usize = 4096;
/// Most partitions that a group's assignment hands out.
pub const MAX_PARTITIONS: usize = 65_536;
/// Largest pipeline config, bytes.
pub const MAX_CONFIG: usize = 1 << 20;
/// Largest data of a checkpoint, bytes. Bigger ones belong in object storage, the pointer here.
pub const MAX_CHECKPOINT: usize = 1 << 20;
/// Largest encoded command, bytes.
pub const MAX_COMMAND: usize = crate::config::limits::MAX_COMMAND;
/// Most ids in one `ExpireLeases`.
pub const MAX_EXPIRED: usize = 1000;
/// Shortest lease but none (0), milliseconds.
pub const MIN_LEASE_MS: u32 = 1000;
/// Longest lease, milliseconds: 7 days.
pub const MAX_LEASE_MS: u32 = 7 * 24 * 60 * 60 * 1000;
/// The lease of who states none, milliseconds: three heartbeats of 10 s.
pub const DEFAULT_LEASE_MS: u32 = 30_000;

/// Most sidecars in the state.
pub const MAX_SIDECARS: usize = 50_000;
/// Most services in the state.
pub const MAX_SERVICES: usize = 200_000;
/// Most pipelines in the state.
pub const MAX_PIPELINES: usize = 20_000;
/// Most groups in the state.
pub const MAX_GROUPS: usize = 20_000;
/// Most source offsets, most group offsets, and most watermarks in the state: each.
pub const MAX_OFFSETS: usize = 2_000_000;
/// Most bytes of checkpoints in the state: data and source offsets.
pub const MAX_CHECKPOINTS: u64 = 1 << 30;

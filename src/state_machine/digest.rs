//! The digest: the sum, modulo 2^128, of a hash of every record of the state.
//!
//! A sum can be kept up: what changes is taken out as it was and put in as it is. What changes
//! often, leases and offsets, is a record of its own, so that a heartbeat never hashes what else is
//! known of a sidecar. The hash is XXH3 with 128 bits; it finds replicas that went apart, it does
//! not guard against who makes collisions on purpose.

use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use super::command::EventTime;
use super::response::Rejection;
use super::state::{Clock, GroupState, Lease, Offset, Watermark};
use crate::proto;

/// Kinds of records; the numbers are part of the digest.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Section {
    Service = 1,
    ServiceLease = 2,
    Pipeline = 3,
    SourceOffset = 4,
    Watermark = 5,
    Checkpoint = 6,
    GroupOffset = 7,
    Group = 8,
    Member = 9,
    Sidecar = 10,
    SidecarLease = 11,
    Assignment = 12,
    Location = 13,
    Clock = 14,
    Rejection = 15,
}

/// Writes one record's canonical bytes and hashes them: section, then fields; integers
/// little-endian, texts with their length before them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Canon(Vec<u8>);

impl Canon {
    fn start(&mut self, section: Section) -> &mut Self {
        self.0.clear();
        self.0.push(section as u8);
        self
    }

    fn int(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.int(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn message(&mut self, message: &impl Message) -> &mut Self {
        // Fields in the order of their numbers, maps in key order: one form for each value.
        self.0.extend_from_slice(&message.encode_to_vec());
        self
    }

    fn time(&mut self, time: Option<EventTime>) -> &mut Self {
        let EventTime { seconds, nanos } = time.unwrap_or_default();
        self.int(time.is_some().into());
        self.int(seconds as u64).int(nanos as u64)
    }

    fn hash(&self) -> u128 {
        xxh3_128(&self.0)
    }

    pub(crate) fn lease(&mut self, section: Section, id: &str, lease: &Lease) -> u128 {
        self.start(section).text(id);
        self.int(lease.lease_ms.into());
        self.int(lease.last_heartbeat_ms).int(lease.renewed_us);
        self.hash()
    }

    /// The lease of a sidecar, with what its heartbeats bring for display.
    pub(crate) fn sidecar_lease(&mut self, id: &str, lease: &Lease, timestamp: u64) -> u128 {
        self.start(Section::SidecarLease).text(id);
        self.int(lease.lease_ms.into());
        self.int(lease.last_heartbeat_ms).int(lease.renewed_us);
        self.int(timestamp).hash()
    }

    pub(crate) fn source_offset(&mut self, source: &str, partition: u32, value: Offset) -> u128 {
        self.start(Section::SourceOffset).text(source);
        self.int(partition.into());
        self.int(value.offset).int(value.revision).hash()
    }

    pub(crate) fn group_offset(
        &mut self,
        group: &str,
        source: &str,
        partition: u32,
        value: Offset,
    ) -> u128 {
        self.start(Section::GroupOffset).text(group).text(source);
        self.int(partition.into());
        self.int(value.offset).int(value.revision).hash()
    }

    pub(crate) fn watermark(&mut self, source: &str, partition: u32, value: &Watermark) -> u128 {
        self.start(Section::Watermark).text(source);
        self.int(partition.into()).int(value.position);
        self.time(value.event_time).int(value.revision).hash()
    }

    pub(crate) fn group(&mut self, group: &GroupState) -> u128 {
        self.start(Section::Group);
        self.text(&group.group_id).text(&group.stage_id);
        self.int(group.generation).int(group.assigned_generation);
        self.int(group.revision).hash()
    }

    pub(crate) fn member(&mut self, group: &str, service: &str, partitions: &[u32]) -> u128 {
        self.start(Section::Member).text(group).text(service);
        for &partition in partitions {
            self.int(partition.into());
        }
        self.hash()
    }

    pub(crate) fn location(&mut self, name: &str, sidecar: &str) -> u128 {
        self.start(Section::Location);
        self.text(name).text(sidecar).hash()
    }

    /// A record that changes seldom, by its protobuf form.
    pub(crate) fn record(&mut self, section: Section, id: &str, message: &impl Message) -> u128 {
        self.start(section).text(id).message(message).hash()
    }

    pub(crate) fn assignment(
        &mut self,
        sidecar: &str,
        assignment: &proto::PipelineAssignment,
    ) -> u128 {
        self.record(Section::Assignment, sidecar, assignment)
    }

    /// A refusal. Its words are not part of it: they may differ between releases.
    pub(crate) fn rejection(&mut self, index: u64, rejection: &Rejection) -> u128 {
        self.start(Section::Rejection).int(index);
        self.text(rejection.reason());
        self.int(rejection.current().unwrap_or(u64::MAX)).hash()
    }

    pub(crate) fn clock(&mut self, clock: &Clock) -> u128 {
        self.start(Section::Clock).int(clock.index).int(clock.term);
        self.int(clock.time_us).int(clock.leaderless_us);
        self.int(clock.rejections);
        self.0
            .extend_from_slice(&clock.rejection_digest.to_le_bytes());
        self.hash()
    }
}

//! The only place where records change: every change keeps digest, indexes and deadlines in step,
//! and is told to those who watch.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::tell::Tell;
use crate::proto;
use crate::state_machine::digest::{Canon, Section};
use crate::state_machine::ordered::OrderedMap;
use crate::state_machine::state::{
    Assignment, GroupKey, GroupPartition, GroupState, Indexes, Lease, Offset, Pairs, PipelineState,
    RouterState, ServiceCheckpoint, ServiceState, SidecarState, SourceKey, SourcePartition,
    Watermark, add_location, locations,
};
use crate::state_machine::{Cause, Id};
use crate::types::Micros;

/// What has a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leased {
    Sidecar,
    Service,
}

/// The last moments of all leases, in active time.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Deadlines(BTreeSet<(Micros, Leased, Id)>);

impl Deadlines {
    pub(super) fn rebuild(state: &RouterState) -> Self {
        let mut deadlines = Self::default();
        for sidecar in state.sidecars.values() {
            let last = sidecar.lease.deadline_us();
            deadlines.shift(Leased::Sidecar, &sidecar.sidecar_id, None, last);
        }
        for service in state.services.values() {
            let last = service.deadline_us();
            deadlines.shift(Leased::Service, &service.service_id, None, last);
        }
        deadlines
    }

    fn shift(&mut self, kind: Leased, id: &Id, from: Option<Micros>, to: Option<Micros>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.0.remove(&(from, kind, id.clone()));
        }
        if let Some(to) = to {
            self.0.insert((to, kind, id.clone()));
        }
    }

    /// What has expired at `active_us`, the longest expired first.
    pub(super) fn expired(&self, active_us: Micros) -> impl Iterator<Item = (Leased, &Id)> {
        let past = self
            .0
            .iter()
            .take_while(move |(last, ..)| *last < active_us);
        past.map(|(_, kind, id)| (*kind, id))
    }
}

impl ServiceState {
    /// The last moment at which it lives by its own lease.
    pub(super) fn deadline_us(&self) -> Option<Micros> {
        match self.sidecar_id {
            Some(_) => None,
            None => self.lease.deadline_us(),
        }
    }
}

fn hash_service(canon: &mut Canon, service: &ServiceState) -> u128 {
    let id = &service.service_id;
    let record = proto::ServiceRecord::from(service);
    canon
        .record(Section::Service, id, &record)
        .wrapping_add(canon.lease(Section::ServiceLease, id, &service.lease))
}

fn hash_sidecar(canon: &mut Canon, sidecar: &SidecarState) -> u128 {
    let id = &sidecar.sidecar_id;
    let record = proto::SidecarRecord::from(sidecar);
    canon
        .record(Section::Sidecar, id, &record)
        .wrapping_add(canon.sidecar_lease(id, &sidecar.lease, sidecar.timestamp))
}

fn hash_assignment(canon: &mut Canon, sidecar: &Id, assignment: &Assignment) -> u128 {
    canon.assignment(sidecar, &assignment.into())
}

fn hash_pipeline(canon: &mut Canon, pipeline: &PipelineState) -> u128 {
    let record = proto::PipelineRecord::from(pipeline);
    canon.record(Section::Pipeline, &pipeline.pipeline_id, &record)
}

fn hash_checkpoint(canon: &mut Canon, checkpoint: &ServiceCheckpoint) -> u128 {
    let record = proto::CheckpointRecord::from(checkpoint);
    canon.record(Section::Checkpoint, &checkpoint.service_id, &record)
}

/// The sum over all records, from scratch.
pub(super) fn recompute(state: &RouterState) -> u128 {
    let (mut sum, canon) = (0_u128, &mut Canon::default());
    let mut add = |hash: u128| sum = sum.wrapping_add(hash);
    for service in state.services.values() {
        add(hash_service(canon, service));
    }
    for sidecar in state.sidecars.values() {
        add(hash_sidecar(canon, sidecar));
        for assignment in sidecar.assignments.values() {
            add(hash_assignment(canon, &sidecar.sidecar_id, assignment));
        }
    }
    for (name, sidecars) in &state.service_locations {
        for sidecar in sidecars.keys() {
            add(canon.location(name, sidecar));
        }
    }
    for pipeline in state.pipelines.values() {
        add(hash_pipeline(canon, pipeline));
    }
    for group in state.groups.values() {
        add(canon.group(group));
        for (member, partitions) in &group.members {
            add(canon.member(&group.group_id, member, partitions));
        }
    }
    for (key, value) in &state.checkpoints.source_offsets {
        add(canon.source_offset(&key.source_id, key.partition, *value));
    }
    for (key, value) in &state.checkpoints.watermarks {
        add(canon.watermark(&key.source_id, key.partition, value));
    }
    for (key, value) in &state.checkpoints.group_offsets {
        add(canon.group_offset(&key.group_id, &key.source_id, key.partition, *value));
    }
    for checkpoint in state.checkpoints.service_checkpoints.values() {
        add(hash_checkpoint(canon, checkpoint));
    }
    sum
}

/// Fills in everything that is derived from the records, after these were read from a snapshot.
pub(super) fn derive(state: &mut RouterState) {
    state.service_locations = locations(state.sidecars.values().map(Arc::as_ref));
    state.indexes = Indexes::rebuild(state);
    let newest = state.checkpoints.service_checkpoints.values();
    state.checkpoint_bytes = newest.map(|checkpoint| checkpoint.size()).sum();
    state.records = recompute(state);
}

/// The state while one command is applied.
pub(super) struct Store<'a> {
    pub(super) state: &'a mut RouterState,
    pub(super) deadlines: &'a mut Deadlines,
    pub(super) canon: &'a mut Canon,
    pub(super) tell: Tell<'a>,
}

impl Store<'_> {
    fn exchange(&mut self, gone: u128, new: u128) {
        let records = &mut self.state.records;
        *records = records.wrapping_sub(gone).wrapping_add(new);
    }

    pub(super) fn put_service(&mut self, service: ServiceState) {
        let old = self.withdraw_service(&service.service_id);
        let changed = old.is_none_or(|old| old.revision != service.revision);
        self.tell.service(&service, changed);
        let new = hash_service(self.canon, &service);
        self.exchange(0, new);
        let indexes = &mut self.state.indexes;
        indexes.service(&service, Pairs::add);
        let id = service.service_id.clone();
        self.deadlines
            .shift(Leased::Service, &id, None, service.deadline_us());
        self.state.services.insert(id, Arc::new(service));
    }

    pub(super) fn take_service(&mut self, id: &str) -> Option<Arc<ServiceState>> {
        let service = self.withdraw_service(id)?;
        self.tell.no_service(id);
        Some(service)
    }

    fn withdraw_service(&mut self, id: &str) -> Option<Arc<ServiceState>> {
        let service = self.state.services.remove(id)?;
        let gone = hash_service(self.canon, &service);
        self.exchange(gone, 0);

        self.state.indexes.service(&service, Pairs::take);
        self.deadlines.shift(
            Leased::Service,
            &service.service_id,
            service.deadline_us(),
            None,
        );
        Some(service)
    }

    /// A lease renewed now.
    pub(super) fn lease(&self, lease_ms: u32) -> Lease {
        Lease {
            lease_ms,
            last_heartbeat_ms: self.state.clock.time_ms(),
            renewed_us: self.state.clock.active_us(),
        }
    }

    /// Renews a service's lease; `None` if there is no such service.
    pub(super) fn renew_service(&mut self, id: &str) -> Option<Lease> {
        let clock = self.state.clock;
        let service = Arc::make_mut(self.state.services.get_mut(id)?);
        let (before, deadline) = (service.lease, service.deadline_us());
        service.lease.last_heartbeat_ms = clock.time_ms();
        service.lease.renewed_us = clock.active_us();
        let lease = service.lease;
        self.tell.service(service, false);
        let to = service.deadline_us();
        self.deadlines
            .shift(Leased::Service, &service.service_id, deadline, to);
        let gone = self.canon.lease(Section::ServiceLease, id, &before);
        let new = self.canon.lease(Section::ServiceLease, id, &lease);
        self.exchange(gone, new);
        Some(lease)
    }

    /// Renews a sidecar's lease, with the time its sender states if one is given; answers the
    /// lease and the revision of the assignments.
    pub(super) fn renew_sidecar(
        &mut self,
        id: &str,
        timestamp: Option<u64>,
    ) -> Option<(Lease, u64)> {
        let clock = self.state.clock;
        let sidecar = Arc::make_mut(self.state.sidecars.get_mut(id)?);
        let (before, shown) = (sidecar.lease, sidecar.timestamp);
        sidecar.lease.last_heartbeat_ms = clock.time_ms();
        sidecar.lease.renewed_us = clock.active_us();
        sidecar.timestamp = timestamp.unwrap_or(shown);
        let (lease, timestamp) = (sidecar.lease, sidecar.timestamp);
        self.tell.sidecar(sidecar, false);
        let revision = sidecar.assignments_revision;
        self.deadlines.shift(
            Leased::Sidecar,
            &sidecar.sidecar_id,
            before.deadline_us(),
            lease.deadline_us(),
        );
        let gone = self.canon.sidecar_lease(id, &before, shown);
        let new = self.canon.sidecar_lease(id, &lease, timestamp);
        self.exchange(gone, new);
        Some((lease, revision))
    }

    pub(super) fn put_sidecar(&mut self, sidecar: SidecarState) {
        let id = sidecar.sidecar_id.clone();
        let new = Arc::new(sidecar);
        let old = self.state.sidecars.insert(id.clone(), new.clone());
        self.exchange_sidecar(&id, old.as_deref(), Some(&new));
    }

    pub(super) fn take_sidecar(&mut self, id: &str) -> Option<Arc<SidecarState>> {
        let old = self.state.sidecars.remove(id)?;
        self.exchange_sidecar(&old.sidecar_id, Some(&old), None);
        Some(old)
    }

    fn exchange_sidecar(
        &mut self,
        id: &Id,
        old: Option<&SidecarState>,
        new: Option<&SidecarState>,
    ) {
        let gone = old.map_or(0, |sidecar| hash_sidecar(self.canon, sidecar));
        let added = new.map_or(0, |sidecar| hash_sidecar(self.canon, sidecar));
        self.exchange(gone, added);
        self.deadlines.shift(
            Leased::Sidecar,
            id,
            old.and_then(|sidecar| sidecar.lease.deadline_us()),
            new.and_then(|sidecar| sidecar.lease.deadline_us()),
        );
        let changed = self.tell_sidecar(id, old, new);
        self.exchange_locations(id, old, new);
        self.exchange_assignments(id, old, new, changed);
    }

    /// Whether more than its assignments is another.
    fn tell_sidecar(
        &mut self,
        id: &Id,
        old: Option<&SidecarState>,
        new: Option<&SidecarState>,
    ) -> bool {
        let revision = |sidecar: Option<&SidecarState>| sidecar.map(|sidecar| sidecar.revision);
        let changed = revision(old) != revision(new);
        match new {
            Some(new) if changed => self.tell.sidecar(new, true),
            Some(_) => {}
            None => self.tell.no_sidecar(id),
        }
        changed
    }

    /// `changed`: what happens here follows from a change of the sidecar.
    fn exchange_assignments(
        &mut self,
        id: &Id,
        old: Option<&SidecarState>,
        new: Option<&SidecarState>,
        changed: bool,
    ) {
        let why = self.tell.because(Cause::Cascade);
        if !changed {
            self.tell.because(why);
        }
        let none = OrderedMap::new();
        let before = old.map_or(&none, |sidecar| &sidecar.assignments);
        let after = new.map_or(&none, |sidecar| &sidecar.assignments);
        for (pipeline, assignment) in before {
            let same = |other: &Arc<Assignment>| Arc::ptr_eq(assignment, other);
            if !after.get(&**pipeline).is_some_and(same) {
                let gone = hash_assignment(self.canon, id, assignment);
                self.exchange(gone, 0);
                if !after.contains_key(&**pipeline) {
                    self.tell.no_assignment(id, pipeline);
                }
                self.state.indexes.assignment(id, assignment, Pairs::take);
            }
        }
        for (pipeline, assignment) in after {
            let same = |other: &Arc<Assignment>| Arc::ptr_eq(assignment, other);
            if !before.get(&**pipeline).is_some_and(same) {
                let new = hash_assignment(self.canon, id, assignment);
                self.exchange(0, new);
                self.tell.assignment(id, assignment);
                self.state.indexes.assignment(id, assignment, Pairs::add);
            }
        }
        self.tell.because(why);
    }

    fn exchange_locations(
        &mut self,
        id: &Id,
        old: Option<&SidecarState>,
        new: Option<&SidecarState>,
    ) {
        let names = |sidecar: Option<&SidecarState>| -> BTreeSet<Id> {
            let services = sidecar.map_or(&[][..], |sidecar| &sidecar.services);
            let names = services.iter().map(|service| service.service_name.clone());
            names.collect()
        };
        let (before, after) = (names(old), names(new));
        for name in before.difference(&after) {
            let gone = self.canon.location(name, id);
            self.exchange(gone, 0);
            self.tell.no_location(name, id);
            let locations = &mut self.state.service_locations;
            let Some(sidecars) = locations.get_mut(&**name) else {
                continue;
            };
            sidecars.remove(&**id);
            if sidecars.is_empty() {
                locations.remove(&**name);
            }
        }
        for name in after.difference(&before) {
            let new = self.canon.location(name, id);
            self.exchange(0, new);
            self.tell.location(name, id);
            add_location(&mut self.state.service_locations, name, id);
        }
    }

    pub(super) fn put_pipeline(&mut self, pipeline: PipelineState) {
        let new = hash_pipeline(self.canon, &pipeline);
        self.tell.pipeline(&pipeline);
        let id = pipeline.pipeline_id.clone();
        let old = self.state.pipelines.insert(id, Arc::new(pipeline));
        let gone = old.map_or(0, |old| hash_pipeline(self.canon, &old));
        self.exchange(gone, new);
    }

    pub(super) fn take_pipeline(&mut self, id: &str) -> Option<Arc<PipelineState>> {
        let old = self.state.pipelines.remove(id)?;
        let gone = hash_pipeline(self.canon, &old);
        self.exchange(gone, 0);
        self.tell.no_pipeline(id);
        Some(old)
    }

    pub(super) fn put_group(&mut self, group: GroupState) {
        let id = group.group_id.clone();
        let new = Arc::new(group);
        self.tell.group(&new);
        let old = self.state.groups.insert(id.clone(), new.clone());
        let gone = old.as_ref().map_or(0, |old| self.canon.group(old));
        let added = self.canon.group(&new);
        self.exchange(gone, added);
        let none = OrderedMap::new();
        let before = old.as_ref().map_or(&none, |old| &old.members);
        for (member, partitions) in before {
            let same = |other: &Arc<[u32]>| Arc::ptr_eq(partitions, other);
            if !new.members.get(&**member).is_some_and(same) {
                let gone = self.canon.member(&id, member, partitions);
                self.exchange(gone, 0);
                self.state.indexes.memberships.take(member, &id);
            }
        }
        for (member, partitions) in &new.members {
            let same = |other: &Arc<[u32]>| Arc::ptr_eq(partitions, other);
            if !before.get(&**member).is_some_and(same) {
                let added = self.canon.member(&id, member, partitions);
                self.exchange(0, added);
                self.state.indexes.memberships.add(member, &id);
            }
        }
    }

    pub(super) fn put_checkpoint(&mut self, checkpoint: ServiceCheckpoint) {
        let new = hash_checkpoint(self.canon, &checkpoint);
        self.tell.checkpoint(&checkpoint);
        self.state.checkpoint_bytes += checkpoint.size();
        let newest = &mut self.state.checkpoints.service_checkpoints;
        let id = checkpoint.service_id.clone();
        let old = newest.insert(id, Arc::new(checkpoint));
        let gone = old
            .as_ref()
            .map_or(0, |old| hash_checkpoint(self.canon, old));
        self.state.checkpoint_bytes -= old.map_or(0, |old| old.size());
        self.exchange(gone, new);
    }

    /// The id of a source as it is stored already, so that a source's keys share one text.
    fn source_id(&self, source: &str) -> Id {
        let checkpoints = &self.state.checkpoints;
        let mut offsets = checkpoints.source_offsets.range(SourceKey(source, 0)..);
        let mut watermarks = checkpoints.watermarks.range(SourceKey(source, 0)..);
        let same = |id: &&Id| ***id == *source;
        let offset = offsets.next().map(|(key, _)| &key.source_id).filter(same);
        let stored = offset.or_else(|| {
            let watermark = watermarks.next().map(|(key, _)| &key.source_id);
            watermark.filter(same)
        });
        stored.cloned().unwrap_or_else(|| source.into())
    }

    pub(super) fn new_source_offset(&mut self, source: &str, partition: u32, value: Offset) {
        let key = SourcePartition {
            source_id: self.source_id(source),
            partition,
        };
        let new = self.canon.source_offset(source, partition, value);
        self.tell.source_offset(source, partition, value);
        self.state.checkpoints.source_offsets.insert(key, value);
        self.exchange(0, new);
    }

    pub(super) fn exchange_source_offset(
        &mut self,
        source: &str,
        partition: u32,
        old: Offset,
        new: Offset,
    ) {
        self.tell.source_offset(source, partition, new);
        let gone = self.canon.source_offset(source, partition, old);
        let new = self.canon.source_offset(source, partition, new);
        self.exchange(gone, new);
    }

    fn group_id(&self, group: &str) -> Id {
        let stored = self.state.groups.get_key_value(group);
        stored.map_or_else(|| group.into(), |(id, _)| id.clone())
    }

    /// The same for a source that a group reads, which need not have offsets of its own.
    fn group_source_id(&self, group: &str, source: &str) -> Id {
        let offsets = &self.state.checkpoints.group_offsets;
        let near = offsets.range(GroupKey(group, source, 0)..).next();
        let same = |key: &&GroupPartition| *key.source_id == *source && *key.group_id == *group;
        let stored = near.map(|(key, _)| key).filter(same);
        stored.map_or_else(|| self.source_id(source), |key| key.source_id.clone())
    }

    pub(super) fn new_group_offset(&mut self, key: &GroupKey<'_>, value: Offset) {
        let &GroupKey(group, source, partition) = key;
        self.tell.group_offset(key, value);
        let new = self.canon.group_offset(group, source, partition, value);
        let key = GroupPartition {
            group_id: self.group_id(group),
            source_id: self.group_source_id(group, source),
            partition,
        };
        self.state.checkpoints.group_offsets.insert(key, value);
        self.exchange(0, new);
    }

    pub(super) fn exchange_group_offset(&mut self, key: &GroupKey<'_>, old: Offset, new: Offset) {
        let &GroupKey(group, source, partition) = key;
        self.tell.group_offset(key, new);
        let gone = self.canon.group_offset(group, source, partition, old);
        let new = self.canon.group_offset(group, source, partition, new);
        self.exchange(gone, new);
    }

    pub(super) fn new_watermark(&mut self, source: &str, partition: u32, value: Watermark) {
        let source_id = self.source_id(source);
        self.tell.watermark(source, partition, &value);
        let new = self.canon.watermark(source, partition, &value);
        let indexes = &mut self.state.indexes;
        indexes.gets_on(&source_id, partition, None, value.event_time);
        let key = SourcePartition {
            source_id,
            partition,
        };
        self.state.checkpoints.watermarks.insert(key, value);
        self.exchange(0, new);
    }

    /// Puts what is derived in step with a watermark that went from `old` to `new`.
    pub(super) fn exchange_watermark(
        &mut self,
        source: &Id,
        partition: u32,
        old: &Watermark,
        new: &Watermark,
    ) {
        self.tell.watermark(source, partition, new);
        let gone = self.canon.watermark(source, partition, old);
        let added = self.canon.watermark(source, partition, new);
        self.exchange(gone, added);
        let (from, to) = (old.event_time, new.event_time);
        if from != to {
            let indexes = &mut self.state.indexes;
            indexes.gets_on(source, partition, Some(from), to);
        }
    }
}

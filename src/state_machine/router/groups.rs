//! Consumer groups: membership, generations, the fence, and the groups' offsets.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use super::store::Store;
use super::{Answer, Applied, Rejection, applied, limits, not_found, unchanged, within};
use crate::state_machine::response::Behind;
use crate::state_machine::state::{GroupKey, GroupState, Offset};
use crate::state_machine::{Id, OrderedMap, RouterCommand};

impl Store<'_> {
    pub(super) fn apply_group(&mut self, command: RouterCommand) -> Applied {
        match command {
            RouterCommand::JoinGroup {
                service_id,
                group_id,
                stage_id,
            } => self.join(&service_id, &group_id, &stage_id),
            RouterCommand::LeaveGroup {
                service_id,
                group_id,
            } => {
                let left = self.leave(&group_id, &service_id);
                let group = self.state.groups.get(group_id.as_str());
                let answer = Answer::Generation {
                    generation: group.map_or(0, |group| group.generation),
                };
                if left {
                    applied(answer)
                } else {
                    unchanged(answer)
                }
            }
            RouterCommand::AssignPartitions {
                group_id,
                assignments,
                generation,
            } => self.assign_partitions(&group_id, assignments, generation),
            RouterCommand::CommitGroupOffset { .. } => self.commit_group_offset(&command),
            RouterCommand::CommitGroupOffsets {
                group_id,
                service_id,
                generation,
                offsets,
            } => self.commit_group_offsets(&group_id, &service_id, generation, &offsets),
            _ => unchanged(Answer::None),
        }
    }

    fn join(&mut self, service: &str, group_id: &str, stage: &str) -> Applied {
        let Some((service, _)) = self.state.services.get_key_value(service) else {
            return Err(not_found("service", service));
        };
        let service = service.clone();
        let old = self.state.groups.get(group_id);
        if let Some(old) = old {
            if *old.stage_id != *stage {
                let current = old.stage_id.clone();
                return Err(Rejection::StageMismatch { current });
            }
            if old.members.contains_key(&*service) {
                return unchanged(joined(old, &service));
            }
        } else {
            within("groups", self.state.groups.len() + 1, limits::MAX_GROUPS)?;
        }
        let empty = || GroupState {
            group_id: group_id.into(),
            stage_id: stage.into(),
            generation: 0,
            assigned_generation: 0,
            members: OrderedMap::new(),
            owners: OrderedMap::new(),
            revision: 0,
        };
        let mut group = old.map_or_else(empty, |old| GroupState::clone(old));
        within("members", group.members.len() + 1, limits::MAX_MEMBERS)?;
        group.members.insert(service.clone(), Arc::from([]));
        group.generation += 1;
        group.revision = self.state.clock.index;
        let answer = joined(&group, &service);
        self.put_group(group);
        applied(answer)
    }

    /// Takes a member and its partitions out of a group; whether it was in it.
    pub(super) fn leave(&mut self, group: &str, service: &str) -> bool {
        let Some(old) = self.state.groups.get(group) else {
            return false;
        };
        let mut group = GroupState::clone(old);
        let Some(partitions) = group.members.remove(service) else {
            return false;
        };
        for partition in partitions.iter() {
            group.owners.remove(partition);
        }
        group.generation += 1;
        group.revision = self.state.clock.index;
        self.put_group(group);
        true
    }

    fn assign_partitions(
        &mut self,
        group_id: &str,
        mut assignments: BTreeMap<String, Vec<u32>>,
        generation: u64,
    ) -> Applied {
        let Some(old) = self.state.groups.get(group_id).cloned() else {
            return Err(not_found("group", group_id));
        };
        assignments
            .values_mut()
            .for_each(|list| list.sort_unstable());
        let current = old.generation;
        if generation == current && generation == old.assigned_generation {
            let assigned = |(id, own): (&Id, &Arc<[u32]>)| {
                let given = assignments.get(&**id).map_or(&[][..], Vec::as_slice);
                *given == **own
            };
            let members = assignments
                .keys()
                .all(|id| old.members.contains_key(id.as_str()));
            if members && old.members.iter().all(assigned) {
                return unchanged(Answer::Generation { generation });
            }
        }
        if current.checked_add(1) != Some(generation) {
            return Err(Rejection::StaleGeneration { current });
        }
        let mut group = GroupState {
            generation,
            assigned_generation: generation,
            owners: OrderedMap::new(),
            revision: self.state.clock.index,
            ..GroupState::clone(&old)
        };
        for id in assignments.keys() {
            if !group.members.contains_key(id.as_str()) {
                return Err(Rejection::NotMember { id: id.clone() });
            }
        }
        for (member, own) in &old.members {
            let partitions = assignments.remove(&**member).unwrap_or_default();
            for &partition in &partitions {
                if group.owners.insert(partition, member.clone()).is_some() {
                    return Err(Rejection::Duplicate {
                        kind: "partition",
                        id: partition.to_string(),
                    });
                }
            }
            if *partitions != **own {
                group.members.insert(member.clone(), partitions.into());
            }
        }
        self.put_group(group);
        applied(Answer::Generation { generation })
    }

    fn commit_group_offset(&mut self, command: &RouterCommand) -> Applied {
        let RouterCommand::CommitGroupOffset {
            group_id,
            source_id,
            partition,
            offset,
            service_id,
            generation,
            rewind,
        } = command
        else {
            return unchanged(Answer::None);
        };
        let Some(group) = self.state.groups.get(group_id.as_str()) else {
            return Err(not_found("group", group_id));
        };
        match (service_id, generation) {
            (Some(service), Some(generation)) => {
                fence_generation(group, *generation)?;
                fence_owner(group, service, *partition)?;
            }
            _ if group.assigned_generation == 0 => {}
            _ => {
                return Err(Rejection::FenceRequired {
                    current: group.generation,
                });
            }
        }
        let key = GroupKey(group_id, source_id, *partition);
        let (offset, rewind) = (*offset, *rewind);
        self.room_for_group_offsets(iter::once(key))?;
        match self.raise_group_offset(&key, offset, rewind) {
            Raised::Changed => applied(Answer::Offset { current: offset }),
            Raised::Same => unchanged(Answer::Offset { current: offset }),
            Raised::Behind(current) => Err(Rejection::Behind { current }),
        }
    }

    fn commit_group_offsets(
        &mut self,
        group_id: &str,
        service: &str,
        generation: u64,
        offsets: &BTreeMap<String, BTreeMap<u32, u64>>,
    ) -> Applied {
        let Some(group) = self.state.groups.get(group_id) else {
            return Err(not_found("group", group_id));
        };
        fence_generation(group, generation)?;
        let all = || {
            let sources = offsets.iter();
            sources.flat_map(|(source, list)| list.iter().map(move |each| (source, each)))
        };
        for (_, (partition, _)) in all() {
            fence_owner(group, service, *partition)?;
        }
        let keys = all().map(|(source, (partition, _))| GroupKey(group_id, source, *partition));
        self.room_for_group_offsets(keys)?;
        let (mut behind, mut changed) = (Vec::new(), false);
        for (source, (&partition, &offset)) in all() {
            let key = GroupKey(group_id, source, partition);
            match self.raise_group_offset(&key, offset, false) {
                Raised::Changed => changed = true,
                Raised::Same => {}
                Raised::Behind(current) => behind.push(Behind {
                    source_id: source.as_str().into(),
                    partition,
                    watermark: false,
                    current,
                }),
            }
        }
        let answer = Answer::GroupOffsets { behind };
        if changed {
            applied(answer)
        } else {
            unchanged(answer)
        }
    }

    fn room_for_group_offsets<'a>(
        &self,
        keys: impl Iterator<Item = GroupKey<'a>> + Clone,
    ) -> Result<(), Rejection> {
        let known = &self.state.checkpoints.group_offsets;
        if known.len() + keys.clone().count() <= limits::MAX_OFFSETS {
            return Ok(());
        }
        let new = keys.filter(|key| !known.contains_key(key));
        within(
            "group_offsets",
            known.len() + new.count(),
            limits::MAX_OFFSETS,
        )
    }

    fn raise_group_offset(&mut self, key: &GroupKey<'_>, offset: u64, rewind: bool) -> Raised {
        let revision = self.state.clock.index;
        let new = Offset { offset, revision };
        let Some(entry) = self.state.checkpoints.group_offsets.get_mut(key) else {
            self.new_group_offset(key, new);
            return Raised::Changed;
        };
        let old = *entry;
        if let Some(kept) = Raised::kept(old.offset, offset, rewind) {
            return kept;
        }
        *entry = new;
        self.exchange_group_offset(key, old, new);
        Raised::Changed
    }
}

/// What became of an offset that only rises.
pub(super) enum Raised {
    Changed,
    Same,
    Behind(u64),
}

impl Raised {
    /// Why `current` stays although `offset` was committed; `None` if it does not stay.
    pub(super) fn kept(current: u64, offset: u64, rewind: bool) -> Option<Self> {
        match offset {
            _ if offset == current => Some(Self::Same),
            _ if offset < current && !rewind => Some(Self::Behind(current)),
            _ => None,
        }
    }
}

/// A join or leave since the last assignment stops nobody; an assignment stops who has not seen it.
fn fence_generation(group: &GroupState, generation: u64) -> Result<(), Rejection> {
    if generation >= group.assigned_generation {
        return Ok(());
    }
    Err(Rejection::StaleGeneration {
        current: group.generation,
    })
}

fn fence_owner(group: &GroupState, service: &str, partition: u32) -> Result<(), Rejection> {
    let owner = group.owners.get(&partition);
    if owner.is_some_and(|owner| **owner == *service) {
        return Ok(());
    }
    Err(Rejection::NotOwner {
        partition,
        owner: owner.cloned(),
    })
}

fn joined(group: &GroupState, service: &str) -> Answer {
    let own = group.members.get(service);
    Answer::GroupJoined {
        generation: group.generation,
        members: group.members.keys().cloned().collect(),
        partitions: own.map(|own| own.to_vec()).unwrap_or_default(),
    }
}

//! The generator's small model of the state: just enough to know that each line is right when it
//! comes, and how many of everything there are in the end.

use std::collections::{BTreeMap, BTreeSet};

use conveyor_raft::state_machine::{LocalService, RouterCommand, StageAssignment, StageTarget};

use super::random::Random;

/// Partitions of each source, and of the group that reads it.
pub(crate) const PARTITIONS: u32 = 16;
/// A day passes in seconds, so leases last as long as the day.
const LEASE_MS: u32 = 24 * 60 * 60 * 1000;
const NAMESPACES: [&str; 4] = ["shop", "bank", "post", "grid"];
const WORDS: [&str; 10] = [
    "orders", "payments", "clicks", "stock", "prices", "users", "visits", "parcels", "refunds",
    "meters",
];

/// A consumer group.
#[derive(Default)]
pub(crate) struct Group {
    /// Its generation.
    pub(crate) generation: u64,
    /// Members and their partitions.
    pub(crate) members: BTreeMap<String, Vec<u32>>,
}

impl Group {
    /// Whose a partition is.
    pub(crate) fn owner(&self, partition: u32) -> Option<&String> {
        let mut members = self.members.iter();
        let owner = members.find(|(_, partitions)| partitions.contains(&partition));
        owner.map(|(member, _)| member)
    }
}

/// A sidecar with what runs on it.
pub(crate) struct Sidecar {
    /// `namespace/pod`.
    pub(crate) id: String,
    /// The group that its member service joins.
    pub(crate) group: usize,
    /// Pipelines that it is to run.
    pub(crate) pipelines: Vec<usize>,
    /// Registered at the moment.
    pub(crate) present: bool,
    /// Does not speak although it is registered.
    pub(crate) silent: bool,
}

/// How far a source's partition is, for the source, for the group that reads it, and by watermark.
#[derive(Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Source offset.
    pub(crate) source: Option<u64>,
    /// Group offset.
    pub(crate) group: Option<u64>,
    /// Watermark position.
    pub(crate) watermark: Option<u64>,
}

/// Everything there is.
pub(crate) struct World {
    /// Sidecars, the extra ones last.
    pub(crate) sidecars: Vec<Sidecar>,
    /// Ids of the free-standing services that are registered.
    pub(crate) lookups: BTreeSet<String>,
    /// Groups by number; group g reads source g.
    pub(crate) groups: Vec<Group>,
    /// Stages by pipeline; none once it is deleted.
    pub(crate) pipelines: Vec<Option<usize>>,
    /// Assignments: (sidecar, pipeline).
    pub(crate) assignments: BTreeSet<(usize, usize)>,
    /// By source, then partition.
    pub(crate) progress: Vec<[Progress; PARTITIONS as usize]>,
    /// Rejections so far.
    pub(crate) rejections: u64,
}

/// A word for each number, the same for the same number.
pub(crate) fn word(number: usize) -> String {
    match number / WORDS.len() {
        0 => WORDS[number].into(),
        round => format!("{}-{round}", WORDS[number % WORDS.len()]),
    }
}

/// The id of pipeline `number`.
pub(crate) fn pipeline_id(number: usize) -> String {
    format!("{}/flow-{number}", NAMESPACES[number % NAMESPACES.len()])
}

/// The id of group `number`.
pub(crate) fn group_id(number: usize) -> String {
    format!("{}-readers", word(number))
}

/// The id of free-standing service `number`.
pub(crate) fn lookup_id(number: usize) -> String {
    format!("{}/lookup-{number}", NAMESPACES[number % NAMESPACES.len()])
}

impl World {
    /// `scale` times 40 sidecars, and `scale` times 8 extra ones, none of them registered yet.
    pub(crate) fn new(scale: usize, random: &mut Random) -> Self {
        let primary = 10 * scale;
        let sidecar = |number: usize| {
            let namespace = NAMESPACES[number % NAMESPACES.len()];
            let extra = number >= 40 * scale;
            let app = word(number % primary);
            let id = match extra {
                false => format!("{namespace}/{app}-{number}"),
                true => format!("{namespace}/{app}-extra-{}", number - 40 * scale),
            };
            let mut pipelines = vec![number % primary];
            if number < 8 * scale {
                pipelines.push(primary + number / 4);
            }
            if extra {
                // None of those that are updated or deleted while it is there.
                pipelines = vec![5 + number % 3];
            }
            Sidecar {
                id,
                group: number % primary,
                pipelines,
                present: false,
                silent: false,
            }
        };
        Self {
            sidecars: (0..48 * scale).map(sidecar).collect(),
            lookups: BTreeSet::new(),
            groups: (0..primary).map(|_| Group::default()).collect(),
            pipelines: (0..12 * scale).map(|_| Some(3 + random.below(4))).collect(),
            assignments: BTreeSet::new(),
            progress: vec![Default::default(); primary],
            rejections: 0,
        }
    }

    /// The service of a sidecar that is a member of its group.
    pub(crate) fn member(&self, sidecar: usize) -> String {
        format!("{}-mask", self.sidecars[sidecar].id)
    }

    fn address(sidecar: usize) -> String {
        format!(
            "10.{}.{}.{}",
            sidecar >> 16,
            sidecar >> 8 & 255,
            sidecar & 255
        )
    }

    /// Registers a sidecar.
    pub(crate) fn register_sidecar(&mut self, number: usize) -> RouterCommand {
        let sidecar = &mut self.sidecars[number];
        (sidecar.present, sidecar.silent) = (true, false);
        let service = |(nth, (name, kind)): (usize, (&str, &str))| LocalService {
            service_name: name.into(),
            service_type: kind.into(),
            local_endpoint: format!("127.0.0.1:{}", 8080 + nth),
        };
        let source = word(sidecar.group);
        let offered = [
            (source.as_str(), "source"),
            ("mask", "transform"),
            ("lake", "sink"),
        ];
        RouterCommand::RegisterSidecar {
            sidecar_id: sidecar.id.clone(),
            endpoint: format!("{}:50053", Self::address(number)),
            services: offered.into_iter().enumerate().map(service).collect(),
            pod_name: String::new(),
            namespace: String::new(),
            lease_ms: LEASE_MS,
        }
    }

    /// Registers the three services of a sidecar, bound to it.
    pub(crate) fn register_services(&self, number: usize) -> Vec<RouterCommand> {
        let sidecar = &self.sidecars[number];
        let source = word(sidecar.group);
        let kinds = [
            ("source", source.as_str()),
            ("transform", "mask"),
            ("sink", "lake"),
        ];
        let service = |(nth, (kind, name)): (usize, (&str, &str))| RouterCommand::RegisterService {
            service_id: format!("{}-{name}", sidecar.id),
            service_type: kind.into(),
            endpoint: format!("{}:{}", Self::address(number), 8080 + nth),
            service_name: name.into(),
            labels: BTreeMap::from([("team".into(), word(sidecar.group))]),
            group_id: (kind == "transform").then(|| group_id(sidecar.group)),
            sidecar_id: Some(sidecar.id.clone()),
            lease_ms: LEASE_MS,
        };
        kinds.into_iter().enumerate().map(service).collect()
    }

    /// The ids of the services of a sidecar.
    pub(crate) fn service_ids(&self, number: usize) -> [String; 3] {
        let sidecar = &self.sidecars[number];
        [word(sidecar.group), "mask".into(), "lake".into()]
            .map(|name| format!("{}-{name}", sidecar.id))
    }

    /// Registers a free-standing service.
    pub(crate) fn register_lookup(&mut self, number: usize) -> RouterCommand {
        let service_id = lookup_id(number);
        self.lookups.insert(service_id.clone());
        RouterCommand::RegisterService {
            service_id,
            service_type: "lookup".into(),
            endpoint: format!("10.255.{}.{}:8090", number >> 8, number & 255),
            service_name: format!("lookup-{}", word(number)),
            labels: BTreeMap::new(),
            group_id: None,
            sidecar_id: None,
            lease_ms: LEASE_MS,
        }
    }

    /// Removes a sidecar, and with it its assignments, its services and their membership.
    pub(crate) fn deregister_sidecar(&mut self, number: usize) -> RouterCommand {
        let member = self.member(number);
        let sidecar = &mut self.sidecars[number];
        sidecar.present = false;
        self.assignments.retain(|(on, _)| *on != number);
        let group = &mut self.groups[sidecar.group];
        if group.members.remove(&member).is_some() {
            group.generation += 1;
        }
        RouterCommand::deregister_sidecar(sidecar.id.as_str())
    }

    /// Gives a sidecar the stages of a pipeline: the first beside it, the last at another one.
    pub(crate) fn assign(&mut self, sidecar: usize, pipeline: usize) -> RouterCommand {
        self.assignments.insert((sidecar, pipeline));
        let stages = self.pipelines[pipeline].unwrap_or(0);
        let other = (sidecar + 1) % self.sidecars.len();
        let stage = |nth: usize| StageAssignment {
            stage_id: format!("stage-{nth}"),
            target: match nth + 1 == stages {
                false => StageTarget::Local {
                    endpoint: format!("127.0.0.1:{}", 8080 + nth % 3),
                },
                true => StageTarget::Remote {
                    sidecar_id: self.sidecars[other].id.clone(),
                    endpoint: format!("{}:50053", Self::address(other)),
                },
            },
        };
        RouterCommand::assign_pipeline(
            pipeline_id(pipeline),
            self.sidecars[sidecar].id.as_str(),
            (0..stages).map(stage),
        )
    }

    /// Takes a pipeline from a sidecar.
    pub(crate) fn revoke(&mut self, sidecar: usize, pipeline: usize) -> RouterCommand {
        self.assignments.remove(&(sidecar, pipeline));
        let id = self.sidecars[sidecar].id.as_str();
        RouterCommand::revoke_pipeline(pipeline_id(pipeline), id)
    }

    /// A sidecar's member joins its group.
    pub(crate) fn join(&mut self, sidecar: usize) -> RouterCommand {
        let (member, group) = (self.member(sidecar), self.sidecars[sidecar].group);
        let state = &mut self.groups[group];
        state.members.insert(member.clone(), Vec::new());
        state.generation += 1;
        RouterCommand::JoinGroup {
            service_id: member,
            group_id: group_id(group),
            stage_id: "mask".into(),
        }
    }

    /// A sidecar's member leaves its group.
    pub(crate) fn leave(&mut self, sidecar: usize) -> RouterCommand {
        let (member, group) = (self.member(sidecar), self.sidecars[sidecar].group);
        let state = &mut self.groups[group];
        state.members.remove(&member);
        state.generation += 1;
        RouterCommand::LeaveGroup {
            service_id: member,
            group_id: group_id(group),
        }
    }

    /// Hands a group's partitions out to its members in turn.
    pub(crate) fn rebalance(&mut self, group: usize) -> RouterCommand {
        let state = &mut self.groups[group];
        state.generation += 1;
        let count = state.members.len() as u32;
        for (nth, partitions) in (0..).zip(state.members.values_mut()) {
            *partitions = (0..PARTITIONS).filter(|each| each % count == nth).collect();
        }
        let assigned = state.members.iter().filter(|(_, list)| !list.is_empty());
        RouterCommand::AssignPartitions {
            group_id: group_id(group),
            assignments: assigned
                .map(|(id, list)| (id.clone(), list.clone()))
                .collect(),
            generation: state.generation,
        }
    }

    /// Whether a group's partition has an owner that speaks.
    pub(crate) fn speaks(&self, group: usize, partition: u32) -> bool {
        let Some(owner) = self.groups[group].owner(partition) else {
            return false;
        };
        let silent = (0..self.sidecars.len()).filter(|&number| self.sidecars[number].silent);
        !silent
            .into_iter()
            .any(|number| self.member(number) == *owner)
    }

    /// What the state must count in the end.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let present = self
            .sidecars
            .iter()
            .filter(|sidecar| sidecar.present)
            .count();
        let services = 3 * present + self.lookups.len();
        let all = || self.progress.iter().flatten();
        let members = self.groups.iter().map(|group| group.members.len());
        BTreeMap::from([
            ("sidecars", present as u64),
            ("services", services as u64),
            ("pipelines", self.pipelines.iter().flatten().count() as u64),
            ("assignments", self.assignments.len() as u64),
            ("groups", self.groups.len() as u64),
            ("members", members.sum::<usize>() as u64),
            (
                "source_offsets",
                all().filter(|each| each.source.is_some()).count() as u64,
            ),
            (
                "group_offsets",
                all().filter(|each| each.group.is_some()).count() as u64,
            ),
            (
                "watermarks",
                all().filter(|each| each.watermark.is_some()).count() as u64,
            ),
        ])
    }
}

//! The router's state machine with the state of a thousand sidecars, and the commands that such a
//! fleet sends all day.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::collections::BTreeMap;

use conveyor_raft::state_machine::{
    ApplyContext, EventTime, Outcome, RouterCommand as Command, RouterStateMachine,
    SourceWatermark, StateMachine,
};

const SIDECARS: u64 = 1000;
/// Services of each sidecar.
const SERVICES: u64 = 3;
/// Members of each group; a sidecar's first service is one.
const MEMBERS: u64 = 10;
/// Partitions of each member, and of each sidecar's source.
const GROUP_PARTITIONS: u64 = 8;
const SOURCE_PARTITIONS: u64 = 4;
/// Bytes of a checkpoint.
const CHECKPOINT: usize = 4096;
/// From here on, numbers keep their encoded width for longer than any run takes.
const FIRST: u64 = 1 << 35;
/// Log time of the first entry, microseconds; the next one is as much later.
const EPOCH: u64 = 1_700_000_000_000_000;
const STEP: u64 = 10;

/// What a command can be, and last the mixture of a steady fleet.
pub(crate) const KINDS: [&str; 11] = [
    "CommitSourceOffset",
    "AdvanceWatermark",
    "CommitGroupOffset",
    "CommitGroupOffsets",
    "ReportSource",
    "UpdateSidecarHeartbeat",
    "RenewLease",
    "SaveServiceCheckpoint",
    "RegisterService",
    "RegisterSidecar",
    "steady",
];

/// How often each kind comes in the mixture: as a sidecar sends them within ten seconds, with four
/// partitions of its source and eight of its group.
const STEADY: [(&str, u64); 6] = [
    ("CommitGroupOffset", 96),
    ("CommitSourceOffset", 48),
    ("AdvanceWatermark", 48),
    ("RenewLease", 18),
    ("UpdateSidecarHeartbeat", 6),
    ("SaveServiceCheckpoint", 1),
];

/// A state machine, and where it stands.
pub(crate) struct Router {
    machine: RouterStateMachine,
    index: u64,
    made: u64,
    view: std::sync::Arc<conveyor_raft::RouterState>,
}

impl Router {
    /// Commands applied before the state is shown to readers.
    pub(crate) const BATCH: u64 = 64;

    /// The fleet is registered, has joined its groups, and has committed once.
    pub(crate) fn new() -> Self {
        let machine = RouterStateMachine::new();
        let view = machine.view();
        let mut new = Self {
            machine,
            index: 0,
            made: 0,
            view,
        };
        let founding = new.founding();
        founding.iter().for_each(|command| new.apply_one(command));
        for (kind, each) in [
            ("CommitSourceOffset", SOURCE_PARTITIONS),
            ("AdvanceWatermark", SOURCE_PARTITIONS),
            ("CommitGroupOffset", GROUP_PARTITIONS),
            ("SaveServiceCheckpoint", 1),
        ] {
            for _ in 0..SIDECARS * each {
                let command = new.command(kind);
                new.apply_one(&command);
            }
        }
        new
    }

    /// What registers the fleet and its groups.
    pub(crate) fn founding(&self) -> Vec<Command> {
        let mut all = Vec::new();
        for nth in 0..SIDECARS {
            all.push(register_sidecar(nth, 0));
            all.extend((0..SERVICES).map(|service| register_service(nth, service, 0)));
            all.push(Command::JoinGroup {
                service_id: service_id(nth, 0),
                group_id: group_id(nth),
                stage_id: "transform".to_owned(),
            });
        }
        let groups = (0..SIDECARS).step_by(MEMBERS as usize);
        all.extend(groups.map(assign_partitions));
        all
    }

    /// A batch of commands of one kind as they stand in the log.
    pub(crate) fn batch(&mut self, kind: &str) -> Vec<Vec<u8>> {
        let mut encoded = |_| encode(&self.command(kind));
        (0..Self::BATCH).map(&mut encoded).collect()
    }

    /// Decodes and applies them, shows the state and drops the one that was shown before.
    ///
    /// Returns how many changed something: all, or the bench measures something else.
    pub(crate) fn apply(&mut self, batch: &[Vec<u8>]) -> usize {
        let applied = |command: &Vec<u8>| self.apply_encoded(command);
        let applied = batch.iter().map(applied).filter(|applied| *applied).count();
        self.view = self.machine.view();
        applied
    }

    fn apply_one(&mut self, command: &Command) {
        let applied = self.apply_encoded(&encode(command));
        assert!(applied, "{command:?}");
    }

    fn apply_encoded(&mut self, command: &[u8]) -> bool {
        self.index += 1;
        let context = ApplyContext {
            index: self.index,
            term: 1,
            time_us: EPOCH + self.index * STEP,
        };
        let command = RouterStateMachine::decode(command).expect("a command");
        let response = self.machine.apply(&context, command);
        !matches!(response.outcome, Outcome::Rejected(_))
    }

    /// The next command of this kind. Going round the fleet, each is ahead of the last.
    pub(crate) fn command(&mut self, kind: &str) -> Command {
        let number = self.made;
        self.made += 1;
        match kind {
            "steady" => {
                let all: u64 = STEADY.iter().map(|(_, often)| often).sum();
                // A prime stride: kinds come mixed, not in blocks.
                let mut place = number * 89 % all;
                let kind = STEADY.iter().find(|(_, often)| {
                    let found = place < *often;
                    place = place.wrapping_sub(*often);
                    found
                });
                self.command_of(kind.map_or("RenewLease", |(kind, _)| kind), number)
            }
            kind => self.command_of(kind, number),
        }
    }

    fn command_of(&self, kind: &str, number: u64) -> Command {
        // A prime stride: neighbours in time are no neighbours in the maps.
        let nth = number * 389 % SIDECARS;
        let partition = number / SIDECARS % SOURCE_PARTITIONS;
        let offset = FIRST + number;
        match kind {
            "CommitSourceOffset" => Command::CommitSourceOffset {
                source_id: source_id(nth),
                partition: partition as u32,
                offset,
                rewind: false,
            },
            "AdvanceWatermark" => Command::AdvanceWatermark {
                source_id: source_id(nth),
                partition: partition as u32,
                position: offset,
                event_time: Some(event_time(number)),
            },
            "CommitGroupOffset" => Command::CommitGroupOffset {
                group_id: group_id(nth),
                source_id: source_id(nth),
                partition: (nth % MEMBERS * GROUP_PARTITIONS + number / SIDECARS % GROUP_PARTITIONS)
                    as u32,
                offset,
                service_id: Some(service_id(nth, 0)),
                generation: Some(MEMBERS + 1),
                rewind: false,
            },
            "CommitGroupOffsets" => {
                let first = nth % MEMBERS * GROUP_PARTITIONS;
                let partitions = first..first + GROUP_PARTITIONS;
                let offsets = partitions.map(|partition| (partition as u32, offset));
                Command::CommitGroupOffsets {
                    group_id: group_id(nth),
                    service_id: service_id(nth, 0),
                    generation: MEMBERS + 1,
                    offsets: BTreeMap::from([(source_id(nth), offsets.collect())]),
                }
            }
            "ReportSource" => {
                let partitions = || 0..SOURCE_PARTITIONS as u32;
                let mark = SourceWatermark {
                    position: offset,
                    event_time: Some(event_time(number)),
                };
                Command::ReportSource {
                    source_id: source_id(nth),
                    offsets: partitions().map(|each| (each, offset)).collect(),
                    watermarks: partitions().map(|each| (each, mark)).collect(),
                }
            }
            "UpdateSidecarHeartbeat" => Command::UpdateSidecarHeartbeat {
                sidecar_id: sidecar_id(nth),
                timestamp: offset,
                health: BTreeMap::new(),
            },
            "RenewLease" => Command::RenewLease {
                service_id: service_id(nth, number / SIDECARS % SERVICES),
            },
            "SaveServiceCheckpoint" => Command::SaveServiceCheckpoint {
                service_id: service_id(nth, 0),
                checkpoint_id: format!("checkpoint-{number:012}"),
                data: vec![number as u8; CHECKPOINT],
                source_offsets: BTreeMap::from([(
                    source_id(nth),
                    BTreeMap::from([(partition as u32, offset)]),
                )]),
            },
            "RegisterService" => register_service(nth, number / SIDECARS % SERVICES, number),
            _ => register_sidecar(nth, number),
        }
    }
}

pub(crate) fn encode(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    RouterStateMachine::encode(command, &mut bytes).expect("the command is valid");
    bytes
}

fn event_time(number: u64) -> EventTime {
    EventTime {
        seconds: 1_700_000_000 + number as i64,
        nanos: 0,
    }
}

fn sidecar_id(nth: u64) -> String {
    format!("pipelines/sidecar-{nth:05}")
}

fn service_id(nth: u64, service: u64) -> String {
    format!("pipelines/sidecar-{nth:05}/service-{service}")
}

fn group_id(nth: u64) -> String {
    format!("pipelines/orders-{:04}", nth / MEMBERS)
}

fn source_id(nth: u64) -> String {
    format!("pipelines/orders/source-{nth:05}")
}

/// Gives each member of the group that begins with sidecar `first` its partitions.
fn assign_partitions(first: u64) -> Command {
    let mine = |member: u64| {
        let first = (member % MEMBERS) * GROUP_PARTITIONS;
        let partitions = first..first + GROUP_PARTITIONS;
        let partitions = partitions.map(|partition| partition as u32).collect();
        (service_id(member, 0), partitions)
    };
    Command::AssignPartitions {
        group_id: group_id(first),
        assignments: (first..first + MEMBERS).map(mine).collect(),
        generation: MEMBERS + 1,
    }
}

/// `change` makes it another one than before.
fn register_sidecar(nth: u64, change: u64) -> Command {
    let services = (0..SERVICES).map(|service| format!("service-{service}"));
    let port = 20_000 + change % 10_000;
    Command::register_sidecar(sidecar_id(nth), format!("10.0.0.1:{port}"), services)
}

fn register_service(nth: u64, service: u64, change: u64) -> Command {
    let port = 20_000 + change % 10_000;
    let endpoint = format!("10.0.0.1:{port}");
    Command::register_service(service_id(nth, service), "transform", endpoint)
}

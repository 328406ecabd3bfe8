//! Random commands by seed: what is kept up must equal what is computed anew.

use std::collections::BTreeMap;

use super::*;
use crate::state_machine::{
    EventTime, LocalService, SourceWatermark, StageAssignment, StageTarget, json,
};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    fn id(&mut self, kind: &str) -> String {
        format!("{kind}-{}", self.below(5))
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| value(self))
    }

    fn time(&mut self) -> Option<EventTime> {
        self.maybe(|random| EventTime {
            seconds: random.below(20) as i64 - 5,
            nanos: random.below(3) as i32,
        })
    }

    fn offsets(&mut self) -> BTreeMap<u32, u64> {
        let count = self.below(4);
        (0..count)
            .map(|_| (self.below(4) as u32, self.below(20)))
            .collect()
    }

    fn by_source(&mut self) -> BTreeMap<String, BTreeMap<u32, u64>> {
        let count = self.below(3);
        (0..count)
            .map(|_| (self.id("source"), self.offsets()))
            .collect()
    }

    fn lease(&mut self) -> u32 {
        [0, 1000, 5000, 30_000][self.below(4) as usize]
    }

    fn stages(&mut self) -> Vec<StageAssignment> {
        let count = self.below(4);
        let stage = |random: &mut Self| StageAssignment {
            stage_id: random.id("stage"),
            target: match random.below(2) {
                0 => StageTarget::Local {
                    endpoint: random.pick(&["", "one:1", "two:2"]).into(),
                },
                _ => StageTarget::Remote {
                    sidecar_id: random.id("sidecar"),
                    endpoint: "far:3".into(),
                },
            },
        };
        (0..count).map(|_| stage(self)).collect()
    }

    fn services(&mut self) -> Vec<LocalService> {
        let count = self.below(4);
        let service = |random: &mut Self| LocalService {
            service_name: random.id("name"),
            service_type: random.pick(&["", "source", "sink"]).into(),
            local_endpoint: random.pick(&["", "one:1", "two:2"]).into(),
        };
        (0..count).map(|_| service(self)).collect()
    }

    fn health(&mut self) -> String {
        self.pick(&["healthy", "degraded", "unhealthy", "unknown"])
            .into()
    }

    fn register(&mut self) -> RouterCommand {
        if self.below(2) == 0 {
            return RouterCommand::RegisterSidecar {
                sidecar_id: self.id("sidecar"),
                endpoint: self.id("endpoint"),
                services: self.services(),
                pod_name: String::new(),
                namespace: String::new(),
                lease_ms: self.lease(),
            };
        }
        RouterCommand::RegisterService {
            service_id: self.id("service"),
            service_type: self.pick(&["source", "sink"]).into(),
            endpoint: self.id("endpoint"),
            service_name: self.maybe(|random| random.id("name")).unwrap_or_default(),
            labels: (0..self.below(3))
                .map(|_| (self.id("key"), self.id("value")))
                .collect(),
            group_id: self.maybe(|random| random.id("group")),
            sidecar_id: self.maybe(|random| random.id("sidecar")),
            lease_ms: self.lease(),
        }
    }

    fn source(&mut self) -> RouterCommand {
        let (source_id, partition) = (self.id("source"), self.below(4) as u32);
        match self.below(4) {
            0 => RouterCommand::CommitSourceOffset {
                source_id,
                partition,
                offset: self.below(20),
                rewind: self.below(8) == 0,
            },
            1 => RouterCommand::AdvanceWatermark {
                source_id,
                partition,
                position: self.below(20),
                event_time: self.time(),
            },
            2 => RouterCommand::SaveServiceCheckpoint {
                service_id: self.id("service"),
                checkpoint_id: self.id("checkpoint"),
                data: vec![7; self.below(100) as usize],
                source_offsets: self.by_source(),
            },
            _ => RouterCommand::ReportSource {
                source_id,
                offsets: self.offsets(),
                watermarks: (0..self.below(3))
                    .map(|_| {
                        let mark = SourceWatermark {
                            position: self.below(20),
                            event_time: self.time(),
                        };
                        (self.below(4) as u32, mark)
                    })
                    .collect(),
            },
        }
    }

    fn group(&mut self, state: &RouterState) -> RouterCommand {
        let (group_id, service_id) = (self.id("group"), self.id("service"));
        let known = state.groups.get(group_id.as_str());
        let generation = known.map_or(0, |group| group.generation) + self.below(3) % 2;
        match self.below(6) {
            0 | 1 => RouterCommand::JoinGroup {
                service_id,
                stage_id: self.pick(&["stage", "stage", "stage", "other"]).into(),
                group_id,
            },
            2 => RouterCommand::LeaveGroup {
                service_id,
                group_id,
            },
            3 => {
                let members = known.into_iter().flat_map(|group| group.members.keys());
                let split = self.below(9) as u32;
                let assignments = members.enumerate().map(|(nth, id)| {
                    let nth = nth as u32;
                    (String::from(id), vec![nth * 2, nth * 2 + split / 4])
                });
                RouterCommand::AssignPartitions {
                    assignments: assignments.collect(),
                    group_id,
                    generation: generation.max(1),
                }
            }
            4 => {
                let fenced = self.below(3) > 0;
                RouterCommand::CommitGroupOffset {
                    group_id,
                    source_id: self.id("source"),
                    partition: self.below(4) as u32,
                    offset: self.below(20),
                    service_id: fenced.then_some(service_id),
                    generation: fenced.then_some(generation),
                    rewind: self.below(8) == 0,
                }
            }
            _ => RouterCommand::CommitGroupOffsets {
                group_id,
                service_id,
                generation,
                offsets: self.by_source(),
            },
        }
    }

    fn rest(&mut self) -> RouterCommand {
        let (pipeline_id, sidecar_id) = (self.id("pipeline"), self.id("sidecar"));
        let service_id = self.id("service");
        match self.below(13) {
            0 => RouterCommand::CreatePipeline {
                pipeline_id,
                name: String::new(),
                config: vec![1; self.below(2) as usize],
            },
            1 => RouterCommand::UpdatePipeline {
                pipeline_id,
                config: vec![2; self.below(3) as usize],
                expected_version: self.maybe(|random| random.below(3)),
            },
            2 => RouterCommand::DeletePipeline { pipeline_id },
            3 => RouterCommand::EnablePipeline { pipeline_id },
            4 => RouterCommand::DisablePipeline { pipeline_id },
            5 | 6 => RouterCommand::AssignPipeline {
                pipeline_id,
                sidecar_id,
                stages: self.stages(),
            },
            7 => RouterCommand::RevokePipeline {
                pipeline_id,
                sidecar_id,
            },
            8 => RouterCommand::DeregisterSidecar { sidecar_id },
            9 => RouterCommand::DeregisterService { service_id },
            10 => RouterCommand::RenewLease { service_id },
            11 => RouterCommand::UpdateServiceHealth {
                service_id,
                health: self.health(),
            },
            _ => RouterCommand::UpdateSidecarHeartbeat {
                sidecar_id,
                timestamp: self.below(3),
                health: (0..self.below(3))
                    .map(|_| (self.id("name"), self.health()))
                    .collect(),
            },
        }
    }

    fn command(&mut self, state: &RouterState) -> RouterCommand {
        match self.below(5) {
            0 => self.register(),
            1 => self.source(),
            2 => self.group(state),
            _ => self.rest(),
        }
    }
}

fn snapshot_of(machine: &RouterStateMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    machine.freeze().write(&mut bytes).expect("writes");
    bytes
}

fn check(machine: &RouterStateMachine) {
    assert_eq!(machine.digest(), machine.recompute_digest());
    assert!(machine.is_consistent());
    let mut restored = RouterStateMachine::new();
    restored
        .restore(&mut &*snapshot_of(machine))
        .expect("restores");
    assert_eq!(*restored.state, *machine.state);
    assert_eq!(restored.deadlines, machine.deadlines);
    assert_eq!(restored.digest(), machine.digest());
}

#[test]
fn what_is_kept_up_equals_what_is_computed_anew() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let (mut one, mut two) = (RouterStateMachine::new(), RouterStateMachine::new());
        let mut context = ApplyContext {
            index: 0,
            term: 1,
            time_us: 1_000_000,
        };
        let mut outcomes = [0; 3];
        for step in 0..1500 {
            context.index += 1;
            context.time_us += random.below(600_000);
            if random.below(200) == 0 {
                (context.term, context.time_us) = (context.term + 1, context.time_us + 90_000_000);
                one.begin_term(&context);
                two.begin_term(&context);
                continue;
            }
            let due = if step % 10 == 0 {
                one.due(context.time_us)
            } else {
                None
            };
            let command = due.unwrap_or_else(|| random.command(one.state()));
            let mut payload = Vec::new();
            RouterStateMachine::encode(&command, &mut payload).expect("encodes");
            assert_eq!(RouterStateMachine::decode(&payload).as_ref(), Ok(&command));
            let printed = serde_json::to_string(&command).expect("prints");
            let parsed = json::parse_line(&printed).expect("parses").expect("line");
            assert_eq!(parsed.command, command, "{printed}");
            let (before, held) = (one.state().clone(), one.view());
            let response = one.apply(&context, command.clone());
            assert_eq!(response, two.apply(&context, command));
            assert_eq!(*held, before, "a view never changes");
            match response.outcome {
                Outcome::Applied(_) => outcomes[0] += 1,
                Outcome::Unchanged(_) => outcomes[1] += 1,
                Outcome::Rejected(_) => {
                    outcomes[2] += 1;
                    let (clock, records) = (one.state.clock, one.state.records);
                    assert_eq!(records, before.records, "a rejection changes nothing");
                    assert_eq!(clock.rejections, before.clock.rejections + 1);
                }
            }
            assert_eq!(one.digest(), two.digest());
            if step % 25 == 0 {
                check(&one);
            }
        }
        check(&one);
        assert!(outcomes.iter().all(|&count| count > 50), "{outcomes:?}");
    }
}

/// Digest after every `every`th of the commands of a seed, as of a node that shows its state
/// only then; `restarts` puts a machine in its place that was restored from the last state.
fn digests(seed: u64, every: u64, restarts: bool) -> Vec<u128> {
    let mut random = Random(seed);
    // The commands are drawn from a state of their own, so that all runs have the same.
    let (mut drawn_from, mut machine) = (RouterStateMachine::new(), RouterStateMachine::new());
    let (mut digests, mut held) = (Vec::new(), Vec::new());
    for index in 1..=512 {
        let (term, time_us) = (1, index * 300_000);
        let context = ApplyContext {
            index,
            term,
            time_us,
        };
        let due = drawn_from.due(time_us).filter(|_| index % 10 == 0);
        let command = due.unwrap_or_else(|| random.command(drawn_from.state()));
        drawn_from.apply(&context, command.clone());
        machine.apply(&context, command);
        if index % every == 0 {
            digests.push(machine.digest());
            held.push(machine.view());
            if restarts {
                let bytes = snapshot_of(&machine);
                machine = RouterStateMachine::new();
                machine.restore(&mut &*bytes).expect("restores");
            }
        }
    }
    digests
}

#[test]
fn g1_digests_are_equal_however_the_commands_are_cut_into_batches() {
    // Every map with a hasher of its own would draw another seed for each of these machines.
    for seed in 20..23 {
        let each = digests(seed, 1, false);
        for every in [2, 16, 512] {
            let seldom: Vec<_> = each
                .iter()
                .skip(every - 1)
                .step_by(every)
                .copied()
                .collect();
            assert_eq!(digests(seed, every as u64, false), seldom, "{every}");
            assert_eq!(
                digests(seed, every as u64, true),
                seldom,
                "{every}, restored"
            );
        }
    }
}

#[test]
fn a_damaged_snapshot_changes_nothing() {
    let mut machine = RouterStateMachine::new();
    let mut random = Random(9);
    for index in 1..400 {
        let context = ApplyContext {
            index,
            term: 1,
            time_us: index * 1000,
        };
        let command = random.command(machine.state());
        machine.apply(&context, command);
    }
    let good = snapshot_of(&machine);
    let mut target = RouterStateMachine::new();
    let context = ApplyContext {
        index: 1,
        term: 1,
        time_us: 5,
    };
    target.apply(
        &context,
        RouterCommand::register_service("a", "source", "e"),
    );
    let before = target.state().clone();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        target.restore(&mut &*bad).expect_err("a flipped bit");
        if at % 7 == 0 {
            target.restore(&mut &good[..at]).expect_err("cut off");
        }
    }
    assert_eq!(*target.state(), before);
    target.restore(&mut &*good).expect("restores");
    assert_eq!(target.digest(), machine.digest());
}

#[test]
fn lengths_that_lie_cost_no_memory() {
    let mut bytes = b"CNVRTST\x01".to_vec();
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let mut machine = RouterStateMachine::new();
    let error = machine.restore(&mut &*bytes).expect_err("refused");
    assert!(error.to_string().contains("over"), "{error}");
    let body = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let mut bytes = b"CNVRTST\x01".to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    let error = machine.restore(&mut &*bytes).expect_err("refused");
    assert!(error.to_string().contains("over"), "{error}");
}

mod told;

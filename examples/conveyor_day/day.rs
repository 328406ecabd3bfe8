//! A day of a Conveyor cluster as commands: made from a seed, the same bytes for the same seed.

use std::collections::BTreeMap;

use conveyor_raft::state_machine::json::Line;
use conveyor_raft::state_machine::{EventTime, RouterCommand, SourceWatermark};

use super::random::Random;
use super::world::{PARTITIONS, World, group_id, lookup_id, pipeline_id, word};

/// Milliseconds between two ticks.
const TICK_MS: u64 = 10 * 60 * 1000;
/// Ticks of the day for which the phases below are stated.
const DAY: usize = 144;
/// When the day begins: 2026-01-01T00:00:00Z.
const MIDNIGHT: i64 = 1_767_225_600;

/// What kind of day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Of all that is random.
    pub(crate) seed: u64,
    /// Sidecars; a multiple of 40.
    pub(crate) sidecars: usize,
    /// Length; at least 3.
    pub(crate) hours: usize,
    /// Commits offsets and watermarks by the plural commands.
    pub(crate) plural: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            sidecars: 40,
            hours: 24,
            plural: false,
        }
    }
}

/// A day, and what it must come to.
pub(crate) struct Day {
    /// The commands in order.
    pub(crate) lines: Vec<Line>,
    /// How many the router refuses.
    pub(crate) rejections: u64,
    /// What the state counts in the end.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// What happens in a tick after the heartbeats, in random order.
#[derive(Clone, Copy)]
enum Event {
    Source,
    Group,
    Watermark,
    Checkpoint,
    Health,
    /// A sidecar is taken out of service.
    Leave(usize),
}

struct Generator {
    options: Options,
    scale: usize,
    ticks: usize,
    random: Random,
    world: World,
    /// Commands of the current tick.
    tick: Vec<RouterCommand>,
    lines: Vec<Line>,
    crashed: [usize; 3],
    /// Sidecars that left in a rolling deployment and come back with the next tick.
    away: Vec<usize>,
    turn: [usize; 3],
    checkpoints: u64,
}

/// Makes a day.
pub(crate) fn generate(options: Options) -> Day {
    let mut generator = Generator::new(options);
    generator.start_up();
    generator.close_tick(0);
    for tick in 0..generator.ticks {
        generator.run_tick(tick);
        generator.close_tick(tick);
    }
    generator.end_of_day();
    generator.close_tick(generator.ticks);
    Day {
        lines: generator.lines,
        rejections: generator.world.rejections,
        counts: generator.world.counts(),
    }
}

impl Generator {
    fn new(options: Options) -> Self {
        let scale = (options.sidecars / 40).max(1);
        let mut random = Random::new(options.seed);
        let world = World::new(scale, &mut random);
        // One pipeline each, and a group each of its own.
        let mut candidates: Vec<usize> = (10 * scale..18 * scale).collect();
        random.shuffle(&mut candidates);
        Self {
            options,
            scale,
            ticks: 6 * options.hours.max(3),
            crashed: [candidates[0], candidates[1], candidates[2]],
            random,
            world,
            tick: Vec::new(),
            lines: Vec::new(),
            away: Vec::new(),
            turn: [0; 3],
            checkpoints: 0,
        }
    }

    /// The tick that is to this day what `tick` is to one of 24 hours.
    fn at(&self, tick: usize) -> usize {
        tick * self.ticks / DAY
    }

    /// Gives the commands since the last call their times, spread over the tick.
    fn close_tick(&mut self, tick: usize) {
        let from = tick as u64 * TICK_MS;
        let begun = !self.lines.is_empty();
        let count = self.tick.len() as u64;
        for (nth, command) in (0..).zip(self.tick.drain(..)) {
            let into = if begun { nth * TICK_MS / count } else { 0 };
            let at_ms = Some(from + into);
            self.lines.push(Line { command, at_ms });
        }
    }

    fn push(&mut self, command: RouterCommand) {
        self.tick.push(command);
    }

    fn start_up(&mut self) {
        for number in 0..12 * self.scale {
            self.create_pipeline(number);
        }
        for number in 0..40 * self.scale {
            let command = self.world.register_sidecar(number);
            self.push(command);
        }
        for number in 0..40 * self.scale {
            self.tick.extend(self.world.register_services(number));
        }
        for number in 0..10 * self.scale {
            let command = self.world.register_lookup(number);
            self.push(command);
        }
        for number in 0..40 * self.scale {
            self.assign_all(number);
        }
        for number in 0..40 * self.scale {
            let command = self.world.join(number);
            self.push(command);
        }
        for group in 0..self.world.groups.len() {
            let command = self.world.rebalance(group);
            self.push(command);
        }
    }

    fn create_pipeline(&mut self, number: usize) {
        let stages = self.world.pipelines[number].unwrap_or(0);
        self.push(RouterCommand::CreatePipeline {
            pipeline_id: pipeline_id(number),
            name: format!("flow-{number}"),
            config: config(number, stages, 1),
        });
        self.push(RouterCommand::EnablePipeline {
            pipeline_id: pipeline_id(number),
        });
    }

    fn assign_all(&mut self, sidecar: usize) {
        for pipeline in self.world.sidecars[sidecar].pipelines.clone() {
            let command = self.world.assign(sidecar, pipeline);
            self.push(command);
        }
    }

    /// Registers a sidecar, its services and its assignments, and lets it take its share.
    fn arrive(&mut self, sidecar: usize) {
        let command = self.world.register_sidecar(sidecar);
        self.push(command);
        self.tick.extend(self.world.register_services(sidecar));
        self.assign_all(sidecar);
        let command = self.world.join(sidecar);
        self.push(command);
        self.rebalance_of(sidecar);
    }

    fn rebalance_of(&mut self, sidecar: usize) {
        let command = self.world.rebalance(self.world.sidecars[sidecar].group);
        self.push(command);
    }

    /// Lets a sidecar hand its share over.
    fn hand_over(&mut self, sidecar: usize) {
        let command = self.world.leave(sidecar);
        self.push(command);
        self.rebalance_of(sidecar);
    }

    fn deregister(&mut self, sidecar: usize) {
        let command = self.world.deregister_sidecar(sidecar);
        self.push(command);
    }

    fn run_tick(&mut self, tick: usize) {
        for sidecar in std::mem::take(&mut self.away) {
            self.arrive(sidecar);
        }
        self.scheduled(tick);
        for number in 0..self.world.sidecars.len() {
            let sidecar = &self.world.sidecars[number];
            if sidecar.present && !sidecar.silent {
                self.tick.push(RouterCommand::UpdateSidecarHeartbeat {
                    sidecar_id: sidecar.id.clone(),
                    timestamp: (MIDNIGHT + (tick as u64 * TICK_MS / 1000) as i64) as u64,
                    health: BTreeMap::new(),
                });
            }
        }
        for number in 0..10 * self.scale {
            self.push(RouterCommand::RenewLease {
                service_id: lookup_id(number),
            });
        }
        if self.options.plural {
            self.plural_commits(tick);
        }
        for event in self.events(tick) {
            self.happen(event, tick);
        }
    }

    /// What the day's plan has for this tick, before its heartbeats.
    fn scheduled(&mut self, tick: usize) {
        let extra = 40 * self.scale..48 * self.scale;
        if tick == self.at(60) {
            extra.clone().for_each(|sidecar| self.arrive(sidecar));
        }
        if tick == self.at(120) {
            extra.for_each(|sidecar| self.depart(sidecar));
        }
        if tick == self.at(72) {
            self.push(RouterCommand::Noop);
        }
        if tick == self.at(80) {
            for sidecar in self.crashed {
                self.world.sidecars[sidecar].silent = true;
            }
        }
        if tick == self.at(80) + 2 {
            self.recover();
        }
        if tick == self.at(100) {
            self.update_pipelines();
        }
    }

    /// An extra sidecar is taken away piece by piece.
    fn depart(&mut self, sidecar: usize) {
        self.hand_over(sidecar);
        for pipeline in self.world.sidecars[sidecar].pipelines.clone() {
            let command = self.world.revoke(sidecar, pipeline);
            self.push(command);
        }
        for id in self.world.service_ids(sidecar) {
            self.push(RouterCommand::deregister_service(id));
        }
        self.deregister(sidecar);
    }

    /// Crashed sidecars are deregistered; what is left of them still commits by the old generation,
    /// a source replays old offsets; then they are back.
    fn recover(&mut self) {
        let crashed = self.crashed;
        let mut zombies = Vec::new();
        for sidecar in crashed {
            let (member, group) = (
                self.world.member(sidecar),
                self.world.sidecars[sidecar].group,
            );
            let state = &self.world.groups[group];
            zombies.push((member, group, state.generation));
            self.deregister(sidecar);
            self.rebalance_of(sidecar);
        }
        for (member, group, generation) in zombies {
            for partition in 0..2 {
                let offset = self.world.progress[group][partition].group.unwrap_or(0) + 1;
                self.push(RouterCommand::CommitGroupOffset {
                    group_id: group_id(group),
                    source_id: word(group),
                    partition: partition as u32,
                    offset,
                    service_id: Some(member.clone()),
                    generation: Some(generation),
                    rewind: false,
                });
                self.world.rejections += 1;
            }
        }
        for partition in 0..4 {
            // Each has come to 1 at least by now, so that there is something below.
            let offset = self.world.progress[0][partition].source.unwrap_or(0) / 2;
            self.push(RouterCommand::CommitSourceOffset {
                source_id: word(0),
                partition: partition as u32,
                offset,
                rewind: false,
            });
            self.world.rejections += 1;
        }
        for sidecar in crashed {
            self.arrive(sidecar);
        }
    }

    /// Four pipelines get a new config, off and on again; one is deleted, and one takes its place.
    fn update_pipelines(&mut self) {
        for pipeline in 1..=4 {
            self.push(RouterCommand::DisablePipeline {
                pipeline_id: pipeline_id(pipeline),
            });
            let runs = self.runs(pipeline);
            for &sidecar in &runs[..2] {
                let command = self.world.revoke(sidecar, pipeline);
                self.push(command);
            }
            let stages = 3 + self.random.below(4);
            self.world.pipelines[pipeline] = Some(stages);
            self.push(RouterCommand::UpdatePipeline {
                pipeline_id: pipeline_id(pipeline),
                config: config(pipeline, stages, 2),
                expected_version: Some(1),
            });
            for &sidecar in &runs[..2] {
                let command = self.world.assign(sidecar, pipeline);
                self.push(command);
            }
            self.push(RouterCommand::EnablePipeline {
                pipeline_id: pipeline_id(pipeline),
            });
        }
        let runs = self.runs(0);
        self.push(RouterCommand::DeletePipeline {
            pipeline_id: pipeline_id(0),
        });
        self.world.pipelines[0] = None;
        self.world
            .assignments
            .retain(|(_, pipeline)| *pipeline != 0);
        let new = self.world.pipelines.len();
        self.world.pipelines.push(Some(3 + self.random.below(4)));
        self.create_pipeline(new);
        for sidecar in runs {
            let pipelines = &mut self.world.sidecars[sidecar].pipelines;
            pipelines.retain(|pipeline| *pipeline != 0);
            pipelines.push(new);
            let command = self.world.assign(sidecar, new);
            self.push(command);
        }
    }

    /// The sidecars that run a pipeline.
    fn runs(&self, pipeline: usize) -> Vec<usize> {
        let all = self.world.assignments.iter();
        let runs = all.filter(|(_, which)| *which == pipeline);
        runs.map(|(sidecar, _)| *sidecar).collect()
    }

    fn events(&mut self, tick: usize) -> Vec<Event> {
        let mut events = vec![Event::Checkpoint; 2 * self.scale];
        if !self.options.plural {
            events.extend(vec![Event::Source; 48 * self.scale]);
            events.extend(vec![Event::Group; 48 * self.scale]);
            events.extend(vec![Event::Watermark; 24 * self.scale]);
        }
        if tick % 3 == 1 {
            events.push(Event::Health);
        }
        let (from, span) = (self.at(12), self.at(40).max(1));
        let each = (40 * self.scale).div_ceil(span);
        if let Some(step) = tick.checked_sub(from) {
            let gone = step * each..(step + 1) * each;
            let all = 40 * self.scale;
            events.extend(gone.filter(|sidecar| *sidecar < all).map(Event::Leave));
        }
        self.random.shuffle(&mut events);
        events
    }

    fn happen(&mut self, event: Event, tick: usize) {
        match event {
            Event::Source => {
                let (source, partition) = self.next_partition(0);
                let offset = self.raise_source(source, partition);
                self.push(RouterCommand::CommitSourceOffset {
                    source_id: word(source),
                    partition,
                    offset,
                    rewind: false,
                });
            }
            Event::Group => self.commit_group(),
            Event::Watermark => {
                let (source, partition) = self.next_partition(2);
                let mark = self.raise_watermark(source, partition, tick);
                self.push(RouterCommand::AdvanceWatermark {
                    source_id: word(source),
                    partition,
                    position: mark.position,
                    event_time: mark.event_time,
                });
            }
            Event::Checkpoint => self.checkpoint(),
            Event::Health => self.health(),
            Event::Leave(sidecar) => {
                self.hand_over(sidecar);
                self.deregister(sidecar);
                self.away.push(sidecar);
            }
        }
    }

    /// The partitions of all sources in turn.
    fn next_partition(&mut self, kind: usize) -> (usize, u32) {
        let sources = self.world.progress.len();
        let turn = self.turn[kind];
        self.turn[kind] += 1;
        let partition = (turn / sources) as u32 % PARTITIONS;
        (turn % sources, partition)
    }

    fn raise_source(&mut self, source: usize, partition: u32) -> u64 {
        let step = 1 + self.random.below(5000) as u64;
        let offset = &mut self.world.progress[source][partition as usize].source;
        *offset.insert(offset.unwrap_or(0) + step)
    }

    fn raise_group(&mut self, group: usize, partition: u32) -> u64 {
        let step = 1 + self.random.below(5000) as u64;
        let offset = &mut self.world.progress[group][partition as usize].group;
        *offset.insert(offset.unwrap_or(0) + step)
    }

    fn raise_watermark(&mut self, source: usize, partition: u32, tick: usize) -> SourceWatermark {
        let step = 1 + self.random.below(5000) as u64;
        let behind = self.random.below(30) as i64;
        let position = &mut self.world.progress[source][partition as usize].watermark;
        let position = *position.insert(position.unwrap_or(0) + step);
        SourceWatermark {
            position,
            event_time: Some(EventTime {
                seconds: MIDNIGHT + (tick as u64 * TICK_MS / 1000) as i64 - behind,
                nanos: 0,
            }),
        }
    }

    /// The next partition with an owner that can speak is committed by that owner.
    fn commit_group(&mut self) {
        let (group, partition) = loop {
            let (group, partition) = self.next_partition(1);
            if self.world.speaks(group, partition) {
                break (group, partition);
            }
        };
        let offset = self.raise_group(group, partition);
        let state = &self.world.groups[group];
        let command = RouterCommand::CommitGroupOffset {
            group_id: group_id(group),
            source_id: word(group),
            partition,
            offset,
            service_id: state.owner(partition).cloned(),
            generation: Some(state.generation),
            rewind: false,
        };
        self.push(command);
    }

    /// All partitions of each source in one command, all of a member's in another.
    fn plural_commits(&mut self, tick: usize) {
        for source in 0..self.world.progress.len() {
            let all = 0..PARTITIONS;
            let offset = |partition| (partition, self.raise_source(source, partition));
            let offsets = all.clone().map(offset).collect();
            let mark = |partition| (partition, self.raise_watermark(source, partition, tick));
            let watermarks = all.map(mark).collect();
            self.push(RouterCommand::ReportSource {
                source_id: word(source),
                offsets,
                watermarks,
            });
            let state = &self.world.groups[source];
            let (generation, members) = (state.generation, state.members.clone());
            for (service_id, partitions) in members {
                let mine = partitions.first();
                if mine.is_none_or(|first| !self.world.speaks(source, *first)) {
                    continue;
                }
                let offset = |partition| (partition, self.raise_group(source, partition));
                let offsets = partitions.into_iter().map(offset).collect();
                self.push(RouterCommand::CommitGroupOffsets {
                    group_id: group_id(source),
                    service_id,
                    generation,
                    offsets: BTreeMap::from([(word(source), offsets)]),
                });
            }
        }
    }

    /// A service that is there: of a sidecar.
    fn any_service(&mut self) -> String {
        loop {
            let sidecar = self.random.below(40 * self.scale);
            if self.world.sidecars[sidecar].present && !self.world.sidecars[sidecar].silent {
                let nth = self.random.below(3);
                return self.world.service_ids(sidecar)[nth].clone();
            }
        }
    }

    fn checkpoint(&mut self) {
        self.checkpoints += 1;
        let service_id = self.any_service();
        // 1 to 16 KiB, small ones more often.
        let bytes = 1024 << self.random.below(5).min(self.random.below(5));
        let source = self.random.below(self.world.progress.len());
        let offsets = (0..5).map(|partition| {
            let offset = self.world.progress[source][partition].source.unwrap_or(0);
            (partition as u32, offset)
        });
        let mut data = String::with_capacity(bytes + 32);
        for window in 0.. {
            if data.len() >= bytes {
                break;
            }
            let value = self.random.below(1_000_000);
            data.push_str(&format!("window={window} sum={value};"));
        }
        data.truncate(bytes);
        let source_offsets = BTreeMap::from([(word(source), offsets.collect())]);
        self.push(RouterCommand::SaveServiceCheckpoint {
            service_id,
            checkpoint_id: format!("cp-{}", self.checkpoints),
            data: data.into_bytes(),
            source_offsets,
        });
    }

    fn health(&mut self) {
        let service_id = self.any_service();
        let health = ["healthy", "degraded", "unhealthy"][self.random.below(3)].into();
        self.push(RouterCommand::UpdateServiceHealth { service_id, health });
    }

    /// Two pipelines go off and leave their sidecars, of which four are drained; four of the
    /// free-standing services close.
    fn end_of_day(&mut self) {
        let last = 10 * self.scale - 1;
        for pipeline in [last - 1, last] {
            self.push(RouterCommand::DisablePipeline {
                pipeline_id: pipeline_id(pipeline),
            });
            for sidecar in self.runs(pipeline) {
                let command = self.world.revoke(sidecar, pipeline);
                self.push(command);
            }
        }
        for round in [30, 40] {
            for sidecar in [round * self.scale - 2, round * self.scale - 1] {
                self.hand_over(sidecar);
                self.deregister(sidecar);
            }
        }
        for number in 0..4 {
            self.world.lookups.remove(&lookup_id(number));
            self.push(RouterCommand::deregister_service(lookup_id(number)));
        }
    }
}

fn config(number: usize, stages: usize, version: usize) -> Vec<u8> {
    let mut text = format!("name: flow-{number}\nversion: {version}\nstages:\n");
    for stage in 0..stages {
        text.push_str(&format!("  - id: stage-{stage}\n"));
    }
    text.into_bytes()
}

//! Random work, crashed at random places in every way, against a model.

use super::harness::*;
use crate::types::{Entry, HardState, LogId, WriteId};
use crate::wal::memory::{Random, Stepper};
use crate::wal::{Append, Crash, Lane, LogOptions, Memory, MemoryDisk, SyncPolicy, WriteError};

/// What the log was after one write.
#[derive(Clone, Debug, Default)]
struct State {
    id: WriteId,
    entries: Vec<(LogId, usize)>,
    /// How many of them were there before this write appended.
    kept: usize,
    start: LogId,
    hard: HardState,
}

/// A log and everything it may be after a crash: the states from the last durable write on.
struct Model {
    rig: Rig<Memory>,
    stepper: Stepper,
    states: Vec<State>,
    random: Random,
}

impl Model {
    fn open(disk: &MemoryDisk, options: &LogOptions, known: State, seed: u64) -> Self {
        let (rig, stepper) = open_stepped(disk, options.clone()).expect("opens");
        Self {
            rig,
            stepper,
            states: vec![State { id: 0, ..known }],
            random: Random(seed),
        }
    }

    fn newest(&self) -> State {
        self.states.last().cloned().expect("never empty")
    }

    fn deliver(&mut self) {
        loop {
            let event = self.rig.events.lock().expect("lock").pop_front();
            let Some(event) = event else { break };
            if let Some(id) = self.rig.log.handle(event).expect("no failure") {
                self.states.retain(|state| state.id >= id);
                assert_eq!(self.states[0].id, id);
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(10) {
            0..=4 => self.append(),
            5 => self.vote(),
            6 if self.random.below(3) == 0 => self.compact(),
            7 => self
                .rig
                .log
                .tick(self.rig.next + self.random.below(3_000_000)),
            _ => {}
        }
        if self.random.below(2) == 0 {
            self.rig.log.pump();
        }
        for lane in [Lane::Sync, Lane::Prepare, Lane::Warm] {
            if self.random.below(3) > 0 {
                self.stepper.run(lane);
            }
        }
        self.deliver();
    }

    fn append(&mut self) {
        let mut state = self.newest();
        let last = self.rig.log.last();
        let term = last.term.max(1) + self.random.below(8) / 7;
        let room = state.entries.len();
        let cut = self.random.below(5) == 0 && room > 0;
        let keep = if cut {
            // A suffix, durable or not, that no majority has.
            room - self.random.below(room.min(6) as u64 + 1) as usize
        } else {
            room
        };
        let keep = keep.max(usize::from(state.start.index > 0 && room > 0));
        let from = state.start.index + keep as u64 + 1;
        let count = self.random.below(if cut { 4 } else { 12 });
        let lens: Vec<usize> = (0..count)
            .map(|_| self.random.below(1500) as usize)
            .collect();
        let list = entries(from, &lens);
        let append = Append::Entries {
            first: from,
            term,
            entries: &list,
        };
        match self.rig.try_write(None, cut.then_some(from), append) {
            Ok(id) => {
                state.entries.truncate(keep);
                state.kept = keep;
                state.id = id;
                let new = lens.iter().enumerate();
                let id_of = |nth: usize| LogId::new(term, from + nth as u64);
                state
                    .entries
                    .extend(new.map(|(nth, &len)| (id_of(nth), len)));
                self.states.push(state);
            }
            Err(WriteError::NoRoom { .. }) => self.rig.next -= 1,
            Err(error) => panic!("{error}"),
        }
    }

    fn vote(&mut self) {
        let mut next = self.newest();
        let term = self.rig.log.hard_state().term.max(self.rig.log.last().term) + 1;
        next.hard = state(term, self.random.below(4));
        let written = self.rig.try_write(Some(next.hard), None, Append::None);
        next.id = written.expect("a vote needs no room");
        next.kept = next.entries.len();
        self.states.push(next);
    }

    /// Up to an entry that is durable, as a snapshot would.
    fn compact(&mut self) {
        let durable = self.states[0].clone();
        let newest = self.newest();
        let common = durable.entries.iter().zip(&newest.entries);
        let common = common.take_while(|(a, b)| a == b).count();
        if common < 2 || durable.start != newest.start {
            return;
        }
        let nth = self.random.below(common as u64 - 1) as usize;
        let start = durable.entries[nth].0;
        if self
            .states
            .iter()
            .any(|state| state.entries.get(nth).is_none_or(|e| e.0 != start))
        {
            return;
        }
        self.rig.log.compact(start).expect("an entry of the log");
        // It takes effect at some later write, or none.
        for state in &mut self.states {
            state.entries.drain(..=nth);
            state.kept = state.kept.saturating_sub(nth + 1);
            state.start = start;
        }
    }

    /// Drops the log and crashes the disk. Returns what may be found.
    fn crash(self, disk: &MemoryDisk, crash: Crash) -> Vec<State> {
        drop(self.rig);
        disk.crash(crash);
        self.states
    }
}

fn matches_payload(entry: &Entry) -> bool {
    entry.payload == payload(entry.id.index, entry.payload.len())
}

/// What was found must be one of the states, or on the way from one to the next.
fn check(found: &Rig<Memory>, states: &[State]) -> Result<State, String> {
    let all = found.read_all();
    if !all.iter().all(matches_payload) {
        return Err("an entry holds what was never written".to_owned());
    }
    let newest = states.last().expect("never empty");
    let start = found.log.snapshot();
    if start > newest.start {
        return Err(format!("log start {start} was never written"));
    }
    // A compaction that was not durable may be undone: entries below it reappear.
    let visible = all
        .iter()
        .filter(|entry| entry.id.index > newest.start.index);
    let ids: Vec<_> = visible
        .map(|entry| (entry.id, entry.payload.len()))
        .collect();
    let on_the_way = |from: &State, to: &State| {
        let kept = to.entries.get(..to.kept) == ids.get(..to.kept);
        kept && to.entries.starts_with(&ids) && (ids.len() >= to.kept) && from.id < to.id
    };
    let exact = states.iter().any(|state| state.entries == ids);
    let between = states.windows(2).any(|pair| on_the_way(&pair[0], &pair[1]));
    if !exact && !between {
        let last = ids.last();
        return Err(format!(
            "found {} entries up to {last:?}, acknowledged {} up to {:?}",
            ids.len(),
            states[0].entries.len(),
            states[0].entries.last()
        ));
    }
    let hard = found.log.hard_state();
    let last_term = all.last().map_or(0, |entry| entry.id.term);
    let voted = states.iter().any(|state| state.hard == hard);
    let by_entry = hard.term == last_term && hard.voted_for.node == 0;
    let below = hard.term < states[0].hard.term;
    if below || !(voted || by_entry) {
        return Err(format!("hard state {hard:?} was never written"));
    }
    Ok(State {
        id: 0,
        kept: ids.len(),
        entries: all
            .iter()
            .filter(|e| e.id.index > start.index)
            .map(|e| (e.id, e.payload.len()))
            .collect(),
        start,
        hard,
    })
}

fn life(seed: u64, options: &LogOptions, kinds: &[fn(u64) -> Crash]) -> Result<(), String> {
    let disk = MemoryDisk::new();
    let mut random = Random(seed);
    let mut known = State::default();
    for round in 0..6 {
        let mut model = Model::open(&disk, options, known, random.next());
        for _ in 0..random.below(120) {
            model.step();
        }
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let crash = kind(random.next());
        let states = model.crash(&disk, crash);
        let found = try_open(&disk, options.clone())
            .map_err(|error| format!("round {round}, {crash:?}: refused: {error}"))?;
        known = check(&found, &states).map_err(|why| format!("round {round}, {crash:?}: {why}"))?;
        drop(found);
        // Found once, found for ever: all of it is durable now.
        disk.crash(kind(random.next()));
        let again = try_open(&disk, options.clone()).map_err(|error| error.to_string())?;
        let same = check(&again, std::slice::from_ref(&known));
        let same = same.map_err(|why| format!("round {round}, {crash:?}, opened twice: {why}"))?;
        if same.entries != known.entries || same.start != known.start {
            return Err(format!("round {round}: opening twice changed the log"));
        }
        known = same;
    }
    Ok(())
}

/// How many seeds to run: `CONVEYOR_WAL_SEEDS`, or few enough for every run.
fn seeds(usual: u64) -> u64 {
    let set = std::env::var("CONVEYOR_WAL_SEEDS").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(usual)
}

const KINDS: [fn(u64) -> Crash; 4] = [
    |_| Crash::Kill,
    |_| Crash::PowerCut,
    Crash::Subset,
    Crash::Subset,
];

#[test]
fn c1_acknowledged_is_there_after_any_crash() {
    for seed in 0..seeds(30) {
        if let Err(why) = life(seed, &small(), &KINDS) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// The test above has teeth: without syncs it fails.
#[test]
fn without_syncs_acknowledged_entries_are_lost() {
    let options = LogOptions {
        sync: SyncPolicy::UnsafeNoSync,
        ..small()
    };
    let lost = (0..10).filter(|&seed| life(seed, &options, &KINDS[1..]).is_err());
    assert!(lost.count() >= 8);
}

//! What a log must hold, and what it may hold, after a crash.

use bytes::Bytes;

use crate::entry;
use crate::types::{EntryKind, HardState, Incarnation, LogId, LogIndex, WriteId};
use crate::wal::{LogStorage, Memory};

/// The payload that belongs to an entry: nothing else is ever written there.
pub(super) fn payload(id: LogId, len: usize) -> Bytes {
    let seed = (id.index as usize).wrapping_mul(31) ^ (id.term as usize).wrapping_mul(101);
    let byte = |nth: usize| seed.wrapping_add(nth * 7) as u8;
    (0..len).map(byte).collect::<Vec<u8>>().into()
}

/// What the log was after one write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    id: WriteId,
    /// What the entries follow.
    pub(super) start: LogId,
    /// Position and payload length.
    pub(super) entries: Vec<(LogId, usize)>,
    /// How many of them were there before this write appended.
    pub(super) kept: usize,
    pub(super) hard: HardState,
    pub(super) genesis: Incarnation,
}

impl State {
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.start, |entry| entry.0)
    }

    /// As it is seen from a log start that may have come later: the rest behind it, or nothing
    /// where the start is of another history.
    pub(super) fn from(&self, start: LogId) -> Self {
        if start == self.start {
            return self.clone();
        }
        let held = self.entries.iter().position(|entry| entry.0 == start);
        let gone = held.map_or(self.entries.len(), |nth| nth + 1);
        Self {
            start,
            entries: self.entries[gone..].to_vec(),
            kept: self.kept.saturating_sub(gone),
            ..self.clone()
        }
    }

    /// Term and vote: as given, or by an entry of a newer term, which holds it without a vote.
    pub(super) fn hold_terms(&mut self, given: Option<HardState>) {
        self.hard = given.unwrap_or(self.hard);
        let term = self.last().term;
        if term > self.hard.term {
            self.hard = HardState {
                term,
                ..HardState::default()
            };
        }
    }
}

/// What an opened log holds.
pub(super) struct Found(State);

impl Found {
    pub(super) fn read(log: &LogStorage<Memory>) -> Result<Self, String> {
        let last = log.last().index;
        let (mut entries, mut configurations) = (Vec::new(), Vec::new());
        let mut next = log.first_index();
        while next <= last {
            let read = log.read(next, last, 20_000);
            let read = read.map_err(|error| format!("reading back {next}: {error}"))?;
            for found in read.runs.into_iter().flat_map(entry::entries) {
                let found = found.map_err(|error| error.to_string())?;
                let (id, len) = (found.id, found.payload.len());
                if id.index != next || found.payload != payload(id, len) {
                    return Err(format!("{id} at index {next} holds what was never written"));
                }
                if found.kind == EntryKind::Configuration {
                    configurations.push(id);
                }
                entries.push((id, len));
                next += 1;
            }
        }
        let known = log.configurations();
        if !known.iter().map(|entry| &entry.id).eq(&configurations) {
            return Err(format!(
                "the configurations are {configurations:?}, not as told"
            ));
        }
        if log.durable() != last {
            return Err("an opened log is not durable".to_owned());
        }
        Ok(Self(State {
            id: 0,
            start: log.snapshot(),
            kept: entries.len(),
            entries,
            hard: log.hard_state(),
            genesis: log.genesis(),
        }))
    }
}

/// The states from the last durable write on.
pub(super) struct States {
    list: Vec<State>,
    /// Log starts that may be found, each with the write that proves it; the first one is proven.
    starts: Vec<(WriteId, LogId)>,
    /// Up to here the cluster has committed: never truncated.
    pub(super) commit: LogIndex,
}

impl Default for States {
    fn default() -> Self {
        Self {
            list: vec![State::default()],
            starts: vec![(0, LogId::default())],
            commit: 0,
        }
    }
}

impl States {
    fn newest_start(&self) -> LogId {
        self.starts.last().map_or(LogId::default(), |start| start.1)
    }

    /// What the log shows now.
    pub(super) fn current(&self) -> State {
        let newest = self.list.last().cloned().unwrap_or_default();
        newest.from(self.newest_start())
    }

    /// Adds what write `id` makes of [`current`](Self::current). What a log start covers that is not
    /// durable may come back, so it stays in the list.
    pub(super) fn push(&mut self, id: WriteId, mut state: State) {
        let newest = self.list.last().cloned().unwrap_or_default();
        if let Some(nth) = newest.entries.iter().position(|it| it.0 == state.start) {
            let mut entries = newest.entries[..=nth].to_vec();
            state.kept += entries.len();
            entries.append(&mut state.entries);
            (state.start, state.entries) = (newest.start, entries);
        }
        self.list.push(State { id, ..state });
    }

    /// The log starts here; durable when write `id` is.
    pub(super) fn starts_at(&mut self, id: WriteId, start: LogId) {
        if start.index > self.newest_start().index {
            self.starts.push((id, start));
            self.commit = self.commit.max(start.index);
        }
    }

    pub(super) fn acknowledge(&mut self, id: WriteId) -> Result<(), String> {
        self.list.retain(|state| state.id >= id);
        if self.list.first().is_none_or(|state| state.id != id) {
            return Err(format!("write {id} was reported durable and never made"));
        }
        let proven = self.starts.iter().rposition(|start| start.0 <= id);
        self.starts.drain(..proven.unwrap_or(0));
        Ok(())
    }

    pub(super) fn acknowledge_all(&mut self) {
        self.list.drain(..self.list.len() - 1);
        self.starts.drain(..self.starts.len() - 1);
    }

    /// Entries of all states.
    pub(super) fn common(&self) -> Vec<LogId> {
        let start = self.newest_start();
        let mut lists = self.list.iter().map(|state| state.from(start).entries);
        let mut common = lists.next().unwrap_or_default();
        for list in lists {
            let same = common.iter().zip(&list).take_while(|(a, b)| a == b).count();
            common.truncate(same);
        }
        common.into_iter().map(|entry| entry.0).collect()
    }

    /// What was found must be one of the states or on the way from one to the next; it is then all
    /// there is.
    pub(super) fn settle_on(&mut self, found: Found) -> Result<(), String> {
        let found = found.0;
        if !self.starts.iter().any(|start| start.1 == found.start) {
            let (start, known) = (found.start, &self.starts);
            return Err(format!("log start {start} is none of {known:?}"));
        }
        let seen = |state: &State| state.from(found.start);
        // A later log start than the one found: META went ahead of that state.
        let reached = |state: &&State| state.start.index <= found.start.index;
        let exact = |state: &State| seen(state).entries == found.entries;
        let on_the_way = |state: &State| {
            let state = seen(state);
            state.entries.starts_with(&found.entries) && found.entries.len() >= state.kept
        };
        let mut reachable = self.list.iter().filter(reached);
        let first = reachable.next();
        let known =
            first.is_some_and(exact) || reachable.any(|state| exact(state) || on_the_way(state));
        if !known {
            let same = |state: &State| {
                let pairs = seen(state).entries.into_iter().zip(&found.entries);
                pairs.take_while(|(a, b)| a == *b).count()
            };
            let known = self.list.iter().map(|state| {
                let (start, last, same) = (state.start, state.last(), same(state));
                format!("{start}..{last}, kept {}, {same} alike", seen(state).kept)
            });
            return Err(format!(
                "found {}..{} ({} entries), acknowledged and written: {:?}",
                found.start,
                found.last(),
                found.entries.len(),
                known.collect::<Vec<_>>()
            ));
        }
        self.check_meta(&found)?;
        self.list = vec![found];
        let start = self.list[0].start;
        self.starts = vec![(0, start)];
        Ok(())
    }

    fn check_meta(&self, found: &State) -> Result<(), String> {
        let hard = found.hard;
        let by_entry = hard.voted_for.node == 0 && found.last().term == hard.term;
        let least = self.list.first().map_or(0, |state| state.hard.term);
        let written = self.list.iter().any(|state| state.hard == hard);
        if !(written || by_entry) || hard.term < least.max(found.last().term) {
            let known: Vec<_> = self.list.iter().map(|state| state.hard).collect();
            let last = found.last();
            return Err(format!(
                "{hard:?} behind {last} was never written, or replaced: {known:?}"
            ));
        }
        let founded = self.list.iter().any(|state| state.genesis == found.genesis);
        let newest = self.list.last().map(|state| state.genesis);
        if !founded || !found.entries.is_empty() && newest != Some(found.genesis) {
            return Err("entries are there without their founder".to_owned());
        }
        Ok(())
    }
}

//! Sessions: what is remembered so that a command that a client sends more than once is applied
//! once (section 6.3 of the Raft thesis).
//!
//! The table is replicated state: it changes by entries of the log only, is part of snapshots and of
//! the digest, and knows no clock but log time. A client that keeps quiet for long loses its session;
//! only time counts in which somebody led, since without a leader no client can be heard.

mod codec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use xxhash_rust::xxh3::xxh3_128;

use super::envelope::InSession;
use crate::config::limits;
use crate::error::SessionRefusal;
use crate::types::{LogIndex, Micros};

/// Bounds of the table. All nodes of a cluster must have the same: they decide what is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionLimits {
    /// Sessions; while as many are open, no other is.
    pub(crate) most: usize,
    /// How far numbers may be above the floor.
    pub(crate) window: u64,
    /// Bytes of answers that are kept for a session.
    pub(crate) answer_bytes: usize,
    /// A session ends when it was quiet for longer, active time.
    pub(crate) idle_us: Micros,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            most: limits::MAX_SESSIONS,
            window: limits::SESSION_WINDOW,
            answer_bytes: limits::SESSION_ANSWER_BYTES,
            idle_us: limits::SESSION_IDLE_US,
        }
    }
}

/// What is to be done with a command of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Apply it, and [`remember`](Sessions::remember) its answer.
    Apply,
    /// It was applied before; the answer, if it was kept.
    Repeat(Option<Bytes>),
    /// It is not applied.
    Refuse(SessionRefusal),
}

/// See the module. A clone costs nothing in proportion to what it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    limits: SessionLimits,
    /// Sum of the gaps of log time without a leader since there was no session.
    leaderless_us: Micros,
    open: OrdMap<LogIndex, Arc<Client>>,
    /// By when they were last heard of, active time: a second view of `open`.
    quiet: OrdSet<(Micros, LogIndex)>,
    /// Sum of the hashes of all records, modulo 2^128.
    records: u128,
    /// Bytes of all records in a snapshot.
    bytes: u64,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Client {
    /// When it was last heard of, active time.
    used_us: Micros,
    floor: u64,
    /// By number, those from `floor` on. Without the answer where it was not kept.
    answers: BTreeMap<u64, Option<Bytes>>,
    /// Of all answers.
    answer_bytes: usize,
}

impl Sessions {
    pub(crate) fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// 0 while there are no sessions, so that who uses none sees the digest of the state alone.
    pub(crate) fn digest(&self) -> u128 {
        if self.open.is_empty() {
            return 0;
        }
        self.records
            .wrapping_add(codec::hash_clock(self.leaderless_us))
    }

    /// A new leader's first entry came so much after the entry before it: nobody led in between.
    pub(crate) fn begin_term(&mut self, gap: Micros) {
        if !self.open.is_empty() {
            self.leaderless_us += gap;
        }
    }

    /// Log time without what passed while nobody led.
    fn active(&self, time_us: Micros) -> Micros {
        time_us.saturating_sub(self.leaderless_us)
    }

    /// The entry at `index` opens a session, unless as many are open as may be: nobody's is taken away for
    /// it, since whoever has an unknown outcome in one could never learn it.
    pub(crate) fn open(&mut self, index: LogIndex, time_us: Micros) -> bool {
        self.expire(time_us);
        if self.open.len() >= self.limits.most {
            return false;
        }
        let client = Client {
            used_us: self.active(time_us),
            floor: 1,
            ..Client::default()
        };
        self.put(index, Arc::new(client));
        true
    }

    /// Whether there was such a session.
    pub(crate) fn close(&mut self, session: LogIndex, time_us: Micros) -> bool {
        self.expire(time_us);
        let known = self.open.contains_key(&session);
        self.remove(session);
        known
    }

    /// A session with nothing to send is still wanted. Whether there is such a session.
    pub(crate) fn keep(&mut self, session: LogIndex, time_us: Micros) -> bool {
        self.expire(time_us);
        let active = self.active(time_us);
        let Some(mut shared) = self.take(session) else {
            return false;
        };
        Arc::make_mut(&mut shared).used_us = active;
        self.put(session, shared);
        true
    }

    /// What becomes of a command. Whatever it is, its session was heard of.
    pub(crate) fn check(&mut self, time_us: Micros, at: InSession) -> Verdict {
        self.expire(time_us);
        let active = self.active(time_us);
        let window = self.limits.window;
        let Some(mut shared) = self.take(at.session) else {
            return Verdict::Refuse(SessionRefusal::Expired);
        };
        let client = Arc::make_mut(&mut shared);
        client.used_us = active;
        client.raise_floor(at.floor);
        let floor = client.floor;
        let verdict = match client.answers.get(&at.seq) {
            Some(answer) => Verdict::Repeat(answer.clone()),
            None if at.seq < floor => Verdict::Refuse(SessionRefusal::Stale { floor }),
            None if at.seq - floor >= window => {
                Verdict::Refuse(SessionRefusal::TooFarAhead { floor, window })
            }
            None => Verdict::Apply,
        };
        self.put(at.session, shared);
        verdict
    }

    /// A command was applied.
    pub(crate) fn remember(&mut self, at: InSession, answer: Option<Bytes>) {
        let room = self.limits.answer_bytes;
        let Some(mut shared) = self.take(at.session) else {
            return;
        };
        let client = Arc::make_mut(&mut shared);
        // That it was applied is remembered in any case; the answer, if there is room.
        let fits = |answer: &Bytes| client.answer_bytes + answer.len() <= room;
        let answer = answer.filter(fits);
        client.answer_bytes += answer.as_ref().map_or(0, Bytes::len);
        client.answers.insert(at.seq, answer);
        self.put(at.session, shared);
    }

    fn expire(&mut self, time_us: Micros) {
        let active = self.active(time_us);
        while let Some((used_us, session)) = self.quiet.get_min().copied()
            && active.saturating_sub(used_us) > self.limits.idle_us
        {
            self.remove(session);
        }
    }

    fn remove(&mut self, session: LogIndex) {
        self.take(session);
        if self.open.is_empty() {
            // As if there had never been any: nobody's time is counted from before.
            self.leaderless_us = 0;
        }
    }

    fn take(&mut self, session: LogIndex) -> Option<Arc<Client>> {
        let client = self.open.remove(&session)?;
        self.quiet.remove(&(client.used_us, session));
        self.records = self.records.wrapping_sub(client.hash(session));
        self.bytes -= client.encoded_len();
        Some(client)
    }

    fn put(&mut self, session: LogIndex, client: Arc<Client>) {
        self.quiet.insert((client.used_us, session));
        self.records = self.records.wrapping_add(client.hash(session));
        self.bytes += client.encoded_len();
        self.open.insert(session, client);
    }
}

impl Client {
    fn raise_floor(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            let kept = self.answers.split_off(&floor);
            let gone = std::mem::replace(&mut self.answers, kept);
            let bytes = gone.values().flatten().map(Bytes::len);
            self.answer_bytes -= bytes.sum::<usize>();
        }
    }

    fn hash(&self, session: LogIndex) -> u128 {
        let mut record = Vec::with_capacity(self.encoded_len() as usize);
        self.encode(session, &mut record);
        xxh3_128(&record)
    }
}

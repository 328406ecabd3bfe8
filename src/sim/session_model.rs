//! What sessions must come to, worked out once more and as plainly as can be: by the committed
//! entries in their order, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::host::SESSION_LIMITS;
use crate::node::envelope::{self, InSession};
use crate::node::system::SystemEntry;
use crate::types::{Entry, EntryKind, LogIndex, Micros};

/// What an entry is to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Nothing.
    None,
    /// Somebody leads again.
    Term,
    Opens,
    Closes(LogIndex),
    Keeps(LogIndex),
    Command(InSession),
}

/// And its command, by hash: the same for all tries of one command in a session.
pub(crate) fn part(entry: &Entry) -> (Part, Option<u64>) {
    let hash = xxhash_rust::xxh3::xxh3_64;
    match entry.kind {
        EntryKind::Noop => (Part::Term, None),
        EntryKind::Configuration => (Part::None, None),
        EntryKind::Command => match envelope::open(&entry.payload) {
            Ok((Some(at), command)) => (Part::Command(at), Some(hash(command))),
            _ => (Part::None, Some(hash(&entry.payload))),
        },
        EntryKind::System => match SystemEntry::decode(&entry.payload) {
            Ok(SystemEntry::OpenSession) => (Part::Opens, None),
            Ok(SystemEntry::CloseSession(session)) => (Part::Closes(session), None),
            Ok(SystemEntry::KeepAlive(session)) => (Part::Keeps(session), None),
            Err(_) => (Part::None, None),
        },
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionCounts {
    pub(crate) opened: u64,
    /// Ended by being quiet.
    pub(crate) expired: u64,
    /// Commands in the log that had been applied before.
    pub(crate) repeated: u64,
}

#[derive(Clone, Debug, Default)]
struct Known {
    used_us: Micros,
    floor: u64,
    applied: BTreeSet<u64>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionModel {
    last_us: Micros,
    active_us: Micros,
    open: BTreeMap<LogIndex, Known>,
    pub(crate) counts: SessionCounts,
}

impl SessionModel {
    pub(crate) fn is_open(&self, session: LogIndex) -> bool {
        self.open.contains_key(&session)
    }

    /// The next entry is committed. Whether a command in it takes effect.
    pub(crate) fn commits(&mut self, at: LogIndex, time_us: Micros, part: Part) -> bool {
        let passed = time_us - self.last_us;
        self.last_us = time_us;
        if part != Part::Term {
            self.active_us += passed;
        }
        match part {
            Part::None | Part::Term => true,
            Part::Opens => {
                self.opens(at);
                false
            }
            Part::Closes(session) => {
                self.expire();
                self.open.remove(&session);
                false
            }
            Part::Keeps(session) => {
                self.expire();
                if let Some(known) = self.open.get_mut(&session) {
                    known.used_us = self.active_us;
                }
                false
            }
            Part::Command(at) => {
                self.expire();
                self.command(at)
            }
        }
    }

    fn opens(&mut self, at: LogIndex) {
        self.expire();
        if self.open.len() == SESSION_LIMITS.most {
            return;
        }
        let known = Known {
            used_us: self.active_us,
            floor: 1,
            applied: BTreeSet::new(),
        };
        self.open.insert(at, known);
        self.counts.opened += 1;
    }

    fn expire(&mut self) {
        let (before, now) = (self.open.len(), self.active_us);
        self.open
            .retain(|_, one| now - one.used_us <= SESSION_LIMITS.idle_us);
        self.counts.expired += (before - self.open.len()) as u64;
    }

    fn command(&mut self, at: InSession) -> bool {
        let Some(known) = self.open.get_mut(&at.session) else {
            return false;
        };
        known.used_us = self.active_us;
        known.floor = known.floor.max(at.floor);
        let taken = known.floor..known.floor + SESSION_LIMITS.window;
        let fresh = taken.contains(&at.seq) && known.applied.insert(at.seq);
        self.counts.repeated += u64::from(taken.contains(&at.seq) && !fresh);
        fresh
    }
}

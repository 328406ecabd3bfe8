//! Linearizable reads: from the inbox to the core, and again until there is an answer.

use std::collections::VecDeque;

use super::{Cause, Driver, Now};
use crate::core::{Input, RaftRole};
use crate::error::ReadError;
use crate::network::RaftNetwork;
use crate::node::inbox::ReadWaiter;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, Micros};
use crate::wal::Medium;

/// Attempts under way at a time; what comes meanwhile goes with the next.
const MAX_ATTEMPTS: usize = 4;
/// A follower's attempt that got no answer is made again after so many heartbeats.
const PATIENCE_HEARTBEATS: Micros = 2;

/// One attempt: all who wait for it, and when the core was asked.
struct Attempt {
    id: u64,
    at: Micros,
    readers: Vec<ReadWaiter>,
}

/// Who waits to read.
pub(super) struct Reads {
    next_id: u64,
    queued: Vec<ReadWaiter>,
    attempts: VecDeque<Attempt>,
    next_look: Micros,
    heartbeat: Micros,
}

impl Reads {
    /// `life`: a number that no earlier life of the process had, so that no answer to an attempt
    /// of that one can be taken for one to an attempt of this (hazard F2).
    pub(super) fn new(life: u64, heartbeat: Micros) -> Self {
        Self {
            next_id: life << 32,
            queued: Vec::new(),
            attempts: VecDeque::new(),
            next_look: Micros::MAX,
            heartbeat,
        }
    }

    /// Number of the next attempt.
    pub(super) fn next_attempt(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// When somebody's patience may be over.
    pub(super) fn deadline(&self) -> Micros {
        self.next_look
    }

    /// All attempts are void: their readers are in the queue again.
    pub(super) fn start_over(&mut self) {
        for attempt in self.attempts.drain(..) {
            self.queued.extend(attempt.readers);
        }
    }

    /// Answers those of attempt `id`, and those who asked before them: what reflects everything
    /// acknowledged until later reflects what was acknowledged until earlier.
    pub(super) fn ready(&mut self, id: u64, index: LogIndex) {
        if self.attempts.iter().any(|attempt| attempt.id == id) {
            while let Some(attempt) = self.attempts.pop_front_if(|attempt| attempt.id <= id) {
                for reader in attempt.readers {
                    reader.answer(Ok(index));
                }
            }
        }
    }

    /// Everyone is told why nothing can be read.
    pub(super) fn refuse(&mut self, why: &ReadError) {
        self.start_over();
        for reader in self.queued.drain(..) {
            reader.answer(Err(why.clone()));
        }
    }

    /// Those whose time is over are told so; attempts of a follower that are too old are made again.
    fn look(&mut self, now: Micros, leads: bool) {
        let expire = |readers: &mut Vec<ReadWaiter>| {
            for reader in readers.extract_if(.., |reader| reader.deadline <= now) {
                reader.answer(Err(ReadError::Deadline));
            }
        };
        expire(&mut self.queued);
        for attempt in &mut self.attempts {
            expire(&mut attempt.readers);
        }
        let horizon = now.saturating_sub(PATIENCE_HEARTBEATS * self.heartbeat);
        if !leads
            && self
                .attempts
                .front()
                .is_some_and(|oldest| oldest.at < horizon)
        {
            self.start_over();
        }
        self.attempts.retain(|attempt| !attempt.readers.is_empty());
        let nobody = self.queued.is_empty() && self.attempts.is_empty();
        self.next_look = if nobody {
            Micros::MAX
        } else {
            now + self.heartbeat
        };
    }
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// Takes new readers, and has the core ask for all that wait, in one attempt.
    pub(super) fn read(&mut self, now: Now, readers: &mut Vec<ReadWaiter>) {
        if readers.is_empty() && self.reads.next_look == Micros::MAX {
            return;
        }
        self.reads.queued.append(readers);
        let over = match &self.failure {
            Some(why) => Some(ReadError::Failed(why.clone())),
            None => self.stopping.then_some(ReadError::Stopped),
        };
        if let Some(why) = over {
            self.reads.refuse(&why);
        }
        let leads = self.core.role() == RaftRole::Leader;
        if now.mono >= self.reads.next_look || self.reads.next_look == Micros::MAX {
            self.reads.look(now.mono, leads);
        }
        let may_ask = self.core.leader().is_some() && self.reads.attempts.len() < MAX_ATTEMPTS;
        if may_ask && !self.reads.queued.is_empty() {
            let id = self.reads.next_attempt();
            self.reads.attempts.push_back(Attempt {
                id,
                at: now.mono,
                readers: std::mem::take(&mut self.reads.queued),
            });
            self.step(now, Input::Read { id }, Cause::Other);
        }
    }

    /// What a handle may rely on without asking.
    pub(super) fn publish_lease(&self) {
        let lease = self.core.lease().filter(|_| self.failure.is_none());
        self.shared.set_lease(lease);
    }
}

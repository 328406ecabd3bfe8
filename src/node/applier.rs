//! Applying what is committed, in order, on a thread of its own, so that a slow state machine never
//! holds up heartbeats.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::metrics::ApplyMetrics;
use super::replica_state::ReplicaState;
use super::sessions::Sessions;
use super::shared::{Applied, Shared};
use super::waiters::{Outcome, Slot};
use crate::entry::entries;
use crate::state_machine::{Changes, Frozen, StateMachine};
use crate::types::{Entry, LogId, LogIndex, Micros};

/// Work for the applier, in order.
pub(crate) enum ApplyJob<S: StateMachine> {
    /// Apply these runs of whole entry frames, up to `last`.
    Entries { runs: Vec<Bytes>, last: LogIndex },
    /// Give a consistent cut of the state.
    Freeze(Box<dyn FnOnce(FrozenState) + Send>),
    /// Put a snapshot's state in place of the machine's.
    Restore(Restoring<S>),
    /// Never apply this entry.
    Skip(LogIndex),
    /// Show what was restored.
    Show,
    /// Ask the state machine what log time makes due.
    Due {
        time_us: Micros,
        found: Box<dyn FnOnce(S::Command) + Send>,
    },
    /// Nothing more comes.
    Stop,
}

/// A snapshot's state on its way into the machine.
pub(crate) struct Restoring<S: StateMachine> {
    /// The entry that it stands at.
    pub(crate) last: LogId,
    /// Log time there, microseconds.
    pub(crate) time_us: Micros,
    /// Puts it in place. `Ok(Err(_))`: it cannot be, and the machine is as it was.
    pub(crate) put: Put<S>,
    /// Told how it went.
    pub(crate) done: Box<dyn FnOnce(Result<(), String>) + Send>,
}

/// See [`Restoring::put`].
pub(crate) type Put<S> =
    Box<dyn FnOnce(&mut ReplicaState<S>) -> Result<Result<(), String>, String> + Send>;

/// A frozen state with what it reflects.
pub struct FrozenState {
    /// The entry applied last.
    pub id: LogId,
    /// Its log time, microseconds.
    pub time_us: Micros,
    /// Digest of the state, without the sessions.
    pub digest: u128,
    /// The state, to be written out on another thread.
    pub frozen: Box<dyn Frozen>,
    /// The sessions of clients, which belong to this cluster.
    pub(crate) sessions: Sessions,
}

/// What came of an entry that somebody waits for.
type Answer<R> = (LogId, Outcome<R>);

/// The state machine with its place in the log.
pub(crate) struct Applier<S: StateMachine> {
    state: ReplicaState<S>,
    shared: Arc<Shared<S>>,
    at: LogId,
    time_us: Micros,
    /// What somebody waits for, of the entries at hand.
    waiting: VecDeque<LogId>,
    /// Who waits, while they are answered.
    slots: VecDeque<Slot<S::Response>>,
    /// Answers that go out once the state that they are about can be read.
    answers: Vec<Answer<S::Response>>,
    /// What is not to be applied.
    skips: BTreeSet<LogIndex>,
    /// It failed once, so what it holds may be half of something.
    quarantined: bool,
    /// What was changed since the state was shown.
    changes: Changes,
    /// A snapshot took the state's place since then.
    restored: bool,
    metrics: ApplyMetrics,
}

impl<S: StateMachine> Applier<S> {
    /// The state stands where `shared` shows it.
    pub(crate) fn new(state: ReplicaState<S>, shared: Arc<Shared<S>>) -> Self {
        let begin = shared.applied();
        let metrics = ApplyMetrics::new(shared.me.node);
        Self {
            state,
            shared,
            at: begin.id,
            time_us: begin.time_us,
            waiting: VecDeque::new(),
            slots: VecDeque::new(),
            answers: Vec::new(),
            skips: BTreeSet::new(),
            quarantined: false,
            changes: Changes::unheard(),
            restored: false,
            metrics,
        }
    }

    /// The machine, to be looked at.
    #[cfg(test)]
    pub(crate) fn machine(&self) -> &S {
        &self.state.machine
    }

    /// For a simulation that makes a state another one.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn machine_mut(&mut self) -> &mut S {
        &mut self.state.machine
    }

    /// How many sessions there are.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn sessions(&self) -> usize {
        self.state.sessions.len()
    }

    /// Does one job, and shows what came of it as a whole or not at all (hazard C11).
    ///
    /// # Errors
    /// The replica is to be quarantined at that index: its state machine panicked, or an entry is
    /// none that this version can read (hazard G2). It does no job from then on, but whoever waits
    /// for one is answered (hazard G3).
    pub(crate) fn run(&mut self, job: ApplyJob<S>) -> Result<(), String> {
        let last = match &job {
            ApplyJob::Entries { last, .. } => Some(*last),
            _ => None,
        };
        if let Some(last) = last {
            self.shared.waiters.waited_for(last, &mut self.waiting);
        }
        let done = if self.quarantined {
            Ok(())
        } else {
            let work = catch_unwind(AssertUnwindSafe(|| self.work(job)));
            work.unwrap_or_else(|panic| {
                let (at, why) = (self.at.index, panic_text(&panic));
                Err(format!("the state machine failed after entry {at}: {why}"))
            })
        };
        self.quarantined |= done.is_err();
        if self.quarantined {
            self.answers.clear();
        }
        if let Some(last) = last {
            self.answer_through(last);
        }
        done
    }

    /// Whoever waited for an entry up to `last` hears what became of it, or that nobody knows.
    fn answer_through(&mut self, last: LogIndex) {
        self.waiting.clear();
        self.shared.waiters.take_through(last, &mut self.slots);
        let mut answers = self.answers.drain(..).peekable();
        for slot in self.slots.drain(..) {
            let at = LogId::new(slot.term, slot.index);
            match answers.next_if(|(id, _)| *id == at) {
                Some((_, outcome)) => slot.answer(outcome),
                None => slot.give_up(),
            }
        }
    }

    fn work(&mut self, job: ApplyJob<S>) -> Result<(), String> {
        match job {
            ApplyJob::Entries { runs, .. } => {
                let (begun, before) = (Instant::now(), self.at.index);
                if S::TELLS_CHANGES {
                    self.changes = self.shared.feed.changes();
                }
                runs.into_iter().try_for_each(|run| self.apply_run(run))?;
                self.publish();
                let entries = self.at.index - before;
                self.metrics.applied(entries, begun.elapsed());
            }
            ApplyJob::Freeze(reply) => {
                let frozen = FrozenState {
                    id: self.at,
                    time_us: self.time_us,
                    digest: self.state.machine.digest(),
                    frozen: self.state.machine.freeze(),
                    sessions: self.state.sessions.clone(),
                };
                reply(frozen);
            }
            ApplyJob::Restore(restoring) => self.restore(restoring)?,
            ApplyJob::Skip(index) => self.skip(index)?,
            ApplyJob::Show => self.publish(),
            ApplyJob::Due { time_us, found } => {
                if let Some(command) = self.state.machine.due(time_us) {
                    found(command);
                }
            }
            ApplyJob::Stop => {}
        }
        Ok(())
    }

    /// Who has applied it has another state than those that will not.
    fn skip(&mut self, index: LogIndex) -> Result<(), String> {
        if index <= self.at.index {
            return Err(format!(
                "the state machine has applied entry {index}, which the cluster skips: restart this \
                 node, and if it says so again, move its directory away, start the node with an empty \
                 one and let the leader `replace` it"
            ));
        }
        self.skips.insert(index);
        Ok(())
    }

    /// What was restored is shown by [`ApplyJob::Show`], once the log begins there.
    fn restore(&mut self, restoring: Restoring<S>) -> Result<(), String> {
        let last = restoring.last;
        let put = (restoring.put)(&mut self.state);
        let put = put.map_err(|why| {
            format!("the state machine was restored from the snapshot of {last}: {why}")
        })?;
        if put.is_ok() {
            (self.at, self.time_us) = (last, restoring.time_us);
            self.restored = true;
        }
        (restoring.done)(put);
        Ok(())
    }

    fn apply_run(&mut self, run: Bytes) -> Result<(), String> {
        for entry in entries(run) {
            let entry = entry.map_err(|error| format!("after index {}: {error}", self.at.index))?;
            let (id, time_us) = (entry.id, entry.time_us);
            if id.index != self.at.index + 1 {
                return Err(format!("entry {} came after {}", id.index, self.at.index));
            }
            if self.skips.contains(&id.index) {
                self.waiting.pop_front_if(|waits| waits.index == id.index);
            } else {
                let applied = catch_unwind(AssertUnwindSafe(|| self.apply(entry)));
                let applied = applied.unwrap_or_else(|panic| Err(panic_text(&panic)));
                applied.map_err(|why| {
                    self.shared.set_stopped_at(id.index);
                    format!("the state machine cannot apply entry {}: {why}", id.index)
                })?;
            }
            (self.at, self.time_us) = (id, time_us);
            if self.shared.digests.wants(id.index) {
                self.shared.digests.note(id.index, self.state.digest());
            }
        }
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Result<(), String> {
        let changes = &mut self.changes;
        let outcome = self.state.apply(&entry, self.time_us, changes)?;
        let waits = self.waiting.pop_front_if(|at| at.index == entry.id.index);
        // Else it is another entry than the one that was proposed (hazard F3).
        if waits == Some(entry.id) {
            self.answers.push((entry.id, outcome));
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.shared.set_sessions(self.state.sessions.len());
        self.shared.publish(Applied {
            id: self.at,
            time_us: self.time_us,
            digest: self.state.digest(),
            view: self.state.machine.view(),
        });
        if S::TELLS_CHANGES {
            let feed = &self.shared.feed;
            if std::mem::take(&mut self.restored) {
                feed.restored(self.at.index, self.time_us);
            }
            let changes = std::mem::take(&mut self.changes);
            feed.publish(changes, self.at.index, self.time_us);
        }
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "it panicked: {}",
        text.unwrap_or_else(|| "no text".to_owned())
    )
}

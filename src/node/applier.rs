//! Applying what is committed, in order, on a thread of its own, so that a slow state machine never
//! holds up heartbeats.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::kept::Kept;
use super::live::{self, Live};
use super::metrics::ApplyMetrics;
use super::replica_state::ReplicaState;
use super::sessions::Sessions;
use super::shared::Shared;
use super::waiters::{Outcome, Slot};
use crate::entry::entries;
use crate::state_machine::{Changes, Frozen, StateMachine};
use crate::types::{Entry, LogId, LogIndex, Micros};

/// Bytes of entries that are applied again, at most, if the state machine panics. The state before them
/// is kept, and keeping one makes what is changed next cost a copy, see [`live`].
const KEPT_ENTRIES: usize = 8 << 20;

/// Room for changes that is kept for those of the next entries, bytes.
const KEPT_CHANGES: usize = 1 << 20;

/// A state machine that takes so long for an entry has its state shown after each piece of work: beside
/// that the copy is nothing, and who looks need not wait for the next command.
const SLOW_ENTRY: Duration = Duration::from_millis(1);

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
    shared: Arc<Shared<S>>,
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
    /// What is left if the state machine panics.
    kept: Option<Kept>,
    metrics: ApplyMetrics,
}

impl<S: StateMachine> Applier<S> {
    /// For the state in `shared`.
    pub(crate) fn new(shared: Arc<Shared<S>>) -> Self {
        let metrics = ApplyMetrics::new(shared.me.node);
        Self {
            shared,
            waiting: VecDeque::new(),
            slots: VecDeque::new(),
            answers: Vec::new(),
            skips: BTreeSet::new(),
            quarantined: false,
            changes: Changes::unheard(),
            restored: false,
            kept: None,
            metrics,
        }
    }

    /// Does one job. What readers see meanwhile and afterwards is the state at some entry, with that
    /// entry's index (hazard C11).
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
            let shared = Arc::clone(&self.shared);
            let mut live = shared.live.live();
            let work = catch_unwind(AssertUnwindSafe(|| self.work(&mut live, job)));
            work.unwrap_or_else(|panic| {
                live.hidden = true;
                Err(live::after(live.at.index, &panic))
            })
        };
        self.shared.live.changed();
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

    fn work(&mut self, live: &mut Live<S>, job: ApplyJob<S>) -> Result<(), String> {
        match job {
            ApplyJob::Entries { runs, .. } => {
                let (begun, before) = (Instant::now(), live.at.index);
                if S::TELLS_CHANGES {
                    self.changes.hear(self.shared.feed.hears_renewals());
                }
                self.keep(live);
                runs.into_iter()
                    .try_for_each(|run| self.apply_run(live, run))?;
                let (count, took) = (live.at.index - before, begun.elapsed());
                if took >= SLOW_ENTRY * count as u32 {
                    self.shared.live.show(live);
                }
                self.publish(live);
                self.metrics.applied(count, took);
            }
            ApplyJob::Freeze(reply) => {
                let frozen = FrozenState {
                    id: live.at,
                    time_us: live.time_us,
                    digest: live.state.machine.digest(),
                    frozen: live.state.machine.freeze(),
                    sessions: live.state.sessions.clone(),
                };
                reply(frozen);
            }
            ApplyJob::Restore(restoring) => self.restore(live, restoring)?,
            ApplyJob::Skip(index) => self.skip(live.at.index, index)?,
            ApplyJob::Show => {
                live.hidden = false;
                self.kept = None;
                self.shared.live.show(live);
                self.publish(live);
            }
            ApplyJob::Due { time_us, found } => {
                if let Some(command) = live.state.machine.due(time_us) {
                    found(command);
                }
            }
            ApplyJob::Stop => {}
        }
        Ok(())
    }

    /// Who has applied it has another state than those that will not.
    fn skip(&mut self, applied: LogIndex, index: LogIndex) -> Result<(), String> {
        if index <= applied {
            return Err(format!(
                "the state machine has applied entry {index}, which the cluster skips: restart this \
                 node, and if it says so again, move its directory away, start the node with an empty \
                 one and let the leader `replace` it"
            ));
        }
        self.skips.insert(index);
        Ok(())
    }

    /// What was restored is shown by [`ApplyJob::Show`], once the log begins there; until then, what
    /// was there before.
    fn restore(&mut self, live: &mut Live<S>, restoring: Restoring<S>) -> Result<(), String> {
        let last = restoring.last;
        if !live.hidden {
            self.shared.live.show(live);
        }
        live.hidden = true;
        let put = (restoring.put)(&mut live.state);
        let put = put.map_err(|why| {
            format!("the state machine was restored from the snapshot of {last}: {why}")
        })?;
        if put.is_ok() {
            (live.at, live.time_us) = (last, restoring.time_us);
            self.restored = true;
        } else {
            live.hidden = self.restored;
        }
        (restoring.done)(put);
        Ok(())
    }

    fn apply_run(&mut self, live: &mut Live<S>, run: Bytes) -> Result<(), String> {
        if let Some(kept) = &mut self.kept {
            kept.add(&run);
        }
        for entry in entries(run) {
            let entry = entry.map_err(|error| format!("after index {}: {error}", live.at.index))?;
            let (id, time_us) = (entry.id, entry.time_us);
            if id.index != live.at.index + 1 {
                return Err(format!("entry {} came after {}", id.index, live.at.index));
            }
            if self.skips.contains(&id.index) {
                self.waiting.pop_front_if(|waits| waits.index == id.index);
            } else {
                let applied = catch_unwind(AssertUnwindSafe(|| self.apply(live, &entry)));
                let applied = applied.unwrap_or_else(|panic| {
                    self.rebuild(live);
                    Err(panic_text(&panic))
                });
                applied.map_err(|why| {
                    self.shared.set_stopped_at(id.index);
                    format!("the state machine cannot apply entry {}: {why}", id.index)
                })?;
            }
            (live.at, live.time_us) = (id, time_us);
            if self.shared.digests.wants(id.index) {
                self.shared.digests.note(id.index, live.state.digest());
            }
            if self.shared.live.is_wanted() {
                self.shared.live.show(live);
            }
        }
        Ok(())
    }

    fn apply(&mut self, live: &mut Live<S>, entry: &Entry) -> Result<(), String> {
        let changes = &mut self.changes;
        let outcome = live.state.apply(entry, live.time_us, changes)?;
        let waits = self.waiting.pop_front_if(|at| at.index == entry.id.index);
        // Else it is another entry than the one that was proposed (hazard F3).
        if waits == Some(entry.id) {
            self.answers.push((entry.id, outcome));
        }
        Ok(())
    }

    /// Before anything more is applied.
    fn keep(&mut self, live: &Live<S>) {
        let kept = self.kept.take();
        let kept = kept.filter(|kept| kept.bytes() < KEPT_ENTRIES);
        self.kept = Some(kept.unwrap_or_else(|| Kept::new(live)));
    }

    /// The state machine panicked within an entry: what was answered for is to be seen all the same.
    fn rebuild(&mut self, live: &mut Live<S>) {
        live.hidden = true;
        let Some(kept) = self.kept.take() else {
            return;
        };
        let (last, skips) = (self.shared.applied_index(), &self.skips);
        let rebuilt = catch_unwind(AssertUnwindSafe(|| {
            kept.rebuild(live, last, |index| skips.contains(&index))
        }));
        let why = match rebuilt {
            Ok(Ok(())) => return live.hidden = false,
            Ok(Err(why)) => why,
            Err(panic) => panic_text(&panic),
        };
        let node = self.shared.me.node;
        tracing::error!(
            node,
            why,
            "what is shown of the state is older than what was answered"
        );
    }

    /// Says that this was applied: who looks from now on sees it.
    fn publish(&mut self, live: &Live<S>) {
        let (index, time_us) = (live.at.index, live.time_us);
        self.shared.set_sessions(live.state.sessions.len());
        self.shared.publish(index);
        if S::TELLS_CHANGES {
            let feed = &self.shared.feed;
            if std::mem::take(&mut self.restored) {
                feed.restored(index, time_us);
            }
            feed.publish(&self.changes, index, time_us);
            self.changes.clear();
            // Room is used again, but not that of a run that told much more than others.
            if self.changes.size() > KEPT_CHANGES {
                self.changes = Changes::unheard();
            }
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

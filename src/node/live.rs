//! The state as the applier changes it, and as readers see it.
//!
//! What a reader holds must not change any more, so whatever of it is changed next is copied first,
//! node by node of the state's maps: that costs more than the changes themselves. So the state is
//! shown when somebody looks and now and then, not after each piece of work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use super::applier::panic_text;
use super::replica_state::ReplicaState;
use crate::state_machine::StateMachine;
use crate::types::{LogId, LogIndex, Micros};

/// The state at one applied index, pinned for as long as it is held.
#[derive(Debug)]
pub struct Applied<V> {
    /// The entry applied last.
    pub id: LogId,
    /// Its log time, microseconds.
    pub time_us: Micros,
    /// Digest of the state, and of the sessions if there are any; equal on all nodes at equal index.
    pub digest: u128,
    /// The state.
    pub view: Arc<V>,
}

type Shown<S> = Arc<Applied<<S as StateMachine>::View>>;

/// The state with its place in the log.
pub(crate) struct Live<S: StateMachine> {
    pub(crate) state: ReplicaState<S>,
    /// The entry applied last.
    pub(crate) at: LogId,
    /// Its log time, microseconds.
    pub(crate) time_us: Micros,
    /// What readers are not to see: half of something, or what the log does not begin at yet.
    pub(crate) hidden: bool,
}

impl<S: StateMachine> Live<S> {
    fn applied(&self) -> Shown<S> {
        Arc::new(Applied {
            id: self.at,
            time_us: self.time_us,
            digest: self.state.digest(),
            view: self.state.machine.view(),
        })
    }
}

/// A [`Live`] state and what is seen of it. See the module.
pub(crate) struct LiveState<S: StateMachine> {
    /// Held by the applier for a piece of work.
    live: Mutex<Live<S>>,
    shown: Mutex<Shown<S>>,
    /// Something newer is shown, or can be.
    newer: Condvar,
    /// How many readers wait for that.
    waiting: AtomicUsize,
    /// Who looks sees this entry at least.
    index: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: StateMachine> LiveState<S> {
    /// `at`: the entry that the state reflects, and log time there.
    pub(crate) fn new(state: ReplicaState<S>, (at, time_us): (LogId, Micros)) -> Self {
        let live = Live {
            state,
            at,
            time_us,
            hidden: false,
        };
        Self {
            shown: Mutex::new(live.applied()),
            live: Mutex::new(live),
            newer: Condvar::new(),
            waiting: AtomicUsize::new(0),
            index: AtomicU64::new(at.index),
        }
    }

    /// The state itself, for the applier. Who has held it says [`changed`](Self::changed) afterwards.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live<S>> {
        lock(&self.live)
    }

    /// Whether a reader waits: it takes what is there at any entry.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Shows the state as it is. Panics if the state machine does.
    pub(crate) fn show(&self, live: &Live<S>) {
        *lock(&self.shown) = live.applied();
        if self.is_wanted() {
            self.newer.notify_all();
        }
    }

    /// From here on, who looks sees entry `index` at least.
    pub(crate) fn reach(&self, index: LogIndex) {
        self.index.store(index, Ordering::Release);
    }

    /// The live state is free again: a reader that found it taken may look.
    pub(crate) fn changed(&self) {
        // Either this sees the reader, or the reader sees that the state is free.
        fence(Ordering::SeqCst);
        if self.is_wanted() {
            let _shown = lock(&self.shown);
            self.newer.notify_all();
        }
    }

    /// The highest entry that [`applied`](Self::applied) is sure to reflect.
    pub(crate) fn index(&self) -> LogIndex {
        self.index.load(Ordering::Acquire)
    }

    /// The state at the entry applied last, or a later one. Waits for the command at hand at most, and
    /// only if nobody has looked since.
    ///
    /// # Errors
    /// With what was shown before, if the state machine failed just now, looking at itself.
    pub(crate) fn applied(&self) -> Result<Shown<S>, (Shown<S>, String)> {
        let wanted = self.index();
        let mut shown = lock(&self.shown);
        if shown.id.index >= wanted {
            return Ok(Arc::clone(&shown));
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut failed = None;
        while shown.id.index < wanted {
            let mut live = match self.live.try_lock() {
                Ok(live) => live,
                Err(TryLockError::Poisoned(live)) => live.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    let waited = self.newer.wait(shown);
                    shown = waited.unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            if live.hidden {
                break;
            }
            match catch_unwind(AssertUnwindSafe(|| live.applied())) {
                Ok(applied) => *shown = applied,
                Err(panic) => {
                    live.hidden = true;
                    failed = Some(after(live.at.index, &panic));
                    break;
                }
            }
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let shown = Arc::clone(&shown);
        match failed {
            None => Ok(shown),
            Some(why) => Err((shown, why)),
        }
    }
}

/// What is said of a state machine that panicked outside of an entry.
pub(super) fn after(index: LogIndex, panic: &Box<dyn std::any::Any + Send>) -> String {
    let why = panic_text(panic);
    format!("the state machine failed after entry {index}: {why}")
}

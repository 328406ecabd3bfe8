//! Where everything that concerns the driver waits for it: one lock, one wake-up for many.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::driver::{ChangeReply, HandOverReply};
use super::snapshotter::SnapshotEvent;
use super::waiters::Waiter;
use crate::core::Change;
use crate::error::ReadError;
use crate::network::NetworkEvent;
use crate::types::{EntryKind, LogIndex, Micros, NodeId};
use crate::wal::MediumEvent;

/// A command, or an entry of the system's own, on its way into the log.
pub(crate) struct Submission<R> {
    pub(crate) kind: EntryKind,
    /// The entry's payload.
    pub(crate) payload: Bytes,
    /// Who waits for the response.
    pub(crate) waiter: Waiter<R>,
    /// Whether a node that does not lead passes it on, once.
    pub(crate) forward: bool,
}

impl<R> Submission<R> {
    /// Bytes it takes in the log.
    pub(crate) fn frame_len(&self) -> usize {
        crate::entry::frame_len(self.payload.len())
    }
}

/// One who waits to read what reflects everything acknowledged before.
pub(crate) struct ReadWaiter {
    /// Where the index goes that has to be applied first. Nobody listening is fine.
    pub(crate) reply: oneshot::Sender<Result<LogIndex, ReadError>>,
    /// When to give up, on the driver's clock.
    pub(crate) deadline: Micros,
}

impl ReadWaiter {
    /// Answers.
    pub(crate) fn answer(self, result: Result<LogIndex, ReadError>) {
        let _ = self.reply.send(result);
    }
}

/// What a handle asks of the driver.
pub(crate) enum Request {
    /// Close cleanly.
    Shutdown,
    /// Change the members, if the configuration in force is still the expected one.
    Change {
        expected: Option<LogIndex>,
        changes: Vec<Change>,
        reply: ChangeReply,
    },
    /// Hand leadership over, to this member or to the one that has most of the log.
    HandOver {
        to: Option<NodeId>,
        reply: HandOverReply,
    },
    /// Take a snapshot that holds everything up to here.
    Snapshot(LogIndex),
    /// The state machine cannot go on.
    Fail(String),
}

/// What came in since the driver last looked.
pub(crate) struct Lanes<R> {
    pub(crate) network: Vec<NetworkEvent>,
    pub(crate) log: Vec<MediumEvent>,
    pub(crate) proposals: Vec<Submission<R>>,
    pub(crate) reads: Vec<ReadWaiter>,
    pub(crate) requests: Vec<Request>,
    pub(crate) snapshots: Vec<SnapshotEvent>,
    /// The driver looks no more.
    pub(crate) closed: bool,
}

impl<R> Default for Lanes<R> {
    fn default() -> Self {
        Self {
            network: Vec::new(),
            log: Vec::new(),
            proposals: Vec::new(),
            reads: Vec::new(),
            requests: Vec::new(),
            snapshots: Vec::new(),
            closed: false,
        }
    }
}

impl<R> Lanes<R> {
    /// Whether nothing is in any lane.
    pub(crate) fn is_empty(&self) -> bool {
        self.network.is_empty()
            && self.log.is_empty()
            && self.proposals.is_empty()
            && self.reads.is_empty()
            && self.requests.is_empty()
            && self.snapshots.is_empty()
    }
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The driver's inbox.
pub(crate) struct Inbox<R> {
    lanes: Mutex<Lanes<R>>,
    /// The driver is about to sleep or sleeps: the next one to put something in wakes it.
    sleeping: AtomicBool,
    driver: OnceLock<Waker>,
}

impl<R> Default for Inbox<R> {
    fn default() -> Self {
        Self {
            lanes: Mutex::default(),
            sleeping: AtomicBool::new(false),
            driver: OnceLock::new(),
        }
    }
}

impl<R> Inbox<R> {
    fn lanes(&self) -> MutexGuard<'_, Lanes<R>> {
        // A panic while the lock was held cannot leave the vectors half changed.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into a lane and wakes the driver if it sleeps.
    pub(crate) fn put<T>(&self, put: impl FnOnce(&mut Lanes<R>) -> T) -> T {
        let result = put(&mut self.lanes());
        self.wake();
        result
    }

    /// Wakes the driver if it sleeps.
    pub(crate) fn wake(&self) {
        if self.sleeping.load(Ordering::SeqCst)
            && self.sleeping.swap(false, Ordering::SeqCst)
            && let Some(driver) = self.driver.get()
        {
            driver.wake_by_ref();
        }
    }

    /// Names the calling thread as the driver's.
    pub(crate) fn attach(&self) {
        let thread = Unpark(std::thread::current());
        let _ = self.driver.set(Waker::from(Arc::new(thread)));
    }

    /// Names the calling task as the driver's.
    pub(crate) async fn attach_task(&self) {
        let attach = |context: &mut Context<'_>| {
            let _ = self.driver.set(context.waker().clone());
            Poll::Ready(())
        };
        std::future::poll_fn(attach).await;
    }

    /// Says that nobody takes anything any more, and gives back the proposals that nobody took.
    /// Readers are answered.
    pub(crate) fn close(&self) -> Vec<Submission<R>> {
        let mut lanes = self.lanes();
        lanes.closed = true;
        for reader in lanes.reads.drain(..) {
            reader.answer(Err(ReadError::Stopped));
        }
        std::mem::take(&mut lanes.proposals)
    }

    /// Takes everything, leaving `into`'s emptied vectors behind for reuse.
    pub(crate) fn take(&self, into: &mut Lanes<R>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.lanes(), into);
    }

    /// Waits until something comes in, or until `timer` ends. Only for the driver's task.
    pub(crate) async fn arrival(&self, mut timer: Pin<&mut Sleep>) {
        self.sleeping.store(true, Ordering::SeqCst);
        std::future::poll_fn(|context| {
            let woken = !self.sleeping.load(Ordering::SeqCst);
            if woken || !self.lanes().is_empty() {
                return Poll::Ready(());
            }
            timer.as_mut().poll(context)
        })
        .await;
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Sleeps until something comes in, but at most `timeout`. Only for the driver's thread.
    pub(crate) fn wait(&self, timeout: Duration) {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.lanes().is_empty() {
            std::thread::park_timeout(timeout);
        }
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

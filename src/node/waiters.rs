//! Those who wait for the response to a proposal. Every one is answered: with the response, with
//! "unknown" when leadership or time runs out after the append, or with why nothing was appended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::line::InOrder;
use super::pipeline::Pipelined;
use super::trace::Trace;
use crate::error::ProposeError;
use crate::network::{ForwardOutcome, ForwardReply};
use crate::types::{LogId, LogIndex, Micros, Term};

/// Where an answer goes. Nobody listening is fine.
pub(crate) enum Reply<R> {
    /// To who proposed a command.
    Command(oneshot::Sender<Result<R, ProposeError>>),
    /// To who proposed an entry of the system's own: where it stands.
    System(oneshot::Sender<Result<LogIndex, ProposeError>>),
    /// To who proposed a command among many.
    Pipelined(Pipelined<R>),
    /// To the node that passed the proposal on.
    Passed(Passed<R>),
}

/// Where the answer to a proposal goes that another node passed on.
pub(crate) struct Passed<R> {
    reply: ForwardReply,
    /// The response in its form for peers.
    encode: fn(&R) -> Option<Vec<u8>>,
    in_order: Option<InOrder>,
}

impl<R> Passed<R> {
    pub(crate) fn new(
        reply: ForwardReply,
        encode: fn(&R) -> Option<Vec<u8>>,
        in_order: Option<InOrder>,
    ) -> Self {
        Self {
            reply,
            encode,
            in_order,
        }
    }

    fn failed(self, error: ProposeError) {
        if let Some(at) = self.in_order.filter(|_| !error.keeps_order()) {
            at.break_off();
        }
        self.reply.answer(Ok(error.into()));
    }

    fn applied(self, at: LogId, response: Option<&R>) {
        let bytes = match response {
            Some(response) => (self.encode)(response),
            None => Some(Vec::new()),
        };
        self.reply.answer(Ok(match bytes {
            Some(bytes) => ForwardOutcome::Applied {
                index: at.index,
                term: at.term,
                response: bytes.into(),
            },
            None => ForwardOutcome::AnswerNotKept,
        }));
    }
}

impl<R> From<oneshot::Sender<Result<R, ProposeError>>> for Reply<R> {
    fn from(sender: oneshot::Sender<Result<R, ProposeError>>) -> Self {
        Self::Command(sender)
    }
}

/// What became of an entry that was applied.
pub(crate) enum Outcome<R> {
    /// The state machine's response.
    Response(R),
    /// It is done; there is nothing to say.
    Done,
    /// It was not applied, or what it came to cannot be told again.
    Refused(ProposeError),
}

/// One who waits.
pub(crate) struct Waiter<R> {
    /// Where the answer goes.
    pub(crate) reply: Reply<R>,
    /// When to give up, on the driver's clock.
    pub(crate) deadline: Micros,
    /// Follows the command; boxed, since few are followed and all are moved about.
    pub(crate) trace: Option<Box<Trace>>,
}

impl<R> Waiter<R> {
    /// One that is not followed.
    pub(crate) fn new(reply: Reply<R>, deadline: Micros) -> Self {
        Self {
            reply,
            deadline,
            trace: None,
        }
    }

    /// Whether it may enter the log of this node now.
    pub(crate) fn may_enter_here(&self) -> bool {
        self.in_order().is_none_or(InOrder::may_enter_here)
    }

    /// Its place in a line that keeps its order.
    pub(crate) fn in_order(&self) -> Option<&InOrder> {
        match &self.reply {
            Reply::Pipelined(sender) => sender.in_order(),
            Reply::Passed(passed) => passed.in_order.as_ref(),
            Reply::Command(_) | Reply::System(_) => None,
        }
    }

    /// Whether it waits for room on the way to the leader, instead of being refused.
    pub(crate) fn waits_for_room(&self) -> bool {
        matches!(&self.reply, Reply::Pipelined(sender) if sender.waits_for_room())
    }

    /// Answers. A response is no answer for who proposed no command: then nobody knows.
    pub(crate) fn answer(self, result: Result<R, ProposeError>) {
        match (self.reply, result) {
            (Reply::Command(sender), result) => drop(sender.send(result)),
            (Reply::System(sender), Err(error)) => drop(sender.send(Err(error))),
            (Reply::System(_), Ok(_)) => {}
            (Reply::Pipelined(mut sender), result) => sender.send(result),
            (Reply::Passed(passed), Err(error)) => passed.failed(error),
            // Dropped, the reply says that nobody knows: a response without its place is none.
            (Reply::Passed(_), Ok(_)) => {}
        }
    }

    /// Answers with the response of the entry at `at`.
    fn respond(self, at: LogId, response: R) {
        match self.reply {
            Reply::Passed(passed) => passed.applied(at, Some(&response)),
            _ => self.answer(Ok(response)),
        }
    }

    /// The entry at `at` has been dealt with.
    fn done(self, at: LogId) {
        match self.reply {
            Reply::System(sender) => drop(sender.send(Ok(at.index))),
            Reply::Passed(passed) => passed.applied(at, None),
            Reply::Command(_) | Reply::Pipelined(_) => {}
        }
    }
}

/// The place of one appended proposal.
pub(crate) struct Slot<R> {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// Empty once it gave up.
    waiter: Option<Waiter<R>>,
}

/// The waiters of appended proposals in the order of the log; shared by the driver, which adds and
/// expires, and the applier, which answers.
pub(crate) struct Waiters<R> {
    slots: Mutex<VecDeque<Slot<R>>>,
    /// Nobody's time is over before: that of the first who is, or was, there. Changed with the lock held.
    due: AtomicU64,
}

impl<R> Default for Waiters<R> {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
            due: AtomicU64::new(Micros::MAX),
        }
    }
}

impl<R> Waiters<R> {
    fn slots(&self) -> MutexGuard<'_, VecDeque<Slot<R>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When somebody's time may be over.
    pub(crate) fn deadline(&self) -> Micros {
        self.due.load(Ordering::Relaxed)
    }

    /// Adds the waiters of consecutive entries from `first` on.
    pub(crate) fn add(
        &self,
        first: LogIndex,
        term: Term,
        waiters: impl Iterator<Item = Waiter<R>>,
    ) {
        let mut slots = self.slots();
        let mut due = self.deadline();
        slots.extend((first..).zip(waiters).map(|(index, waiter)| {
            due = due.min(waiter.deadline);
            Slot {
                index,
                term,
                waiter: Some(waiter),
            }
        }));
        self.due.store(due, Ordering::Relaxed);
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots().is_empty()
    }

    /// The entries up to `last` that somebody waits for, in order, which are applied now. They go on
    /// waiting here, so that their time can run out meanwhile.
    pub(crate) fn waited_for(&self, last: LogIndex, into: &mut VecDeque<LogId>) {
        let mut slots = self.slots();
        let until = slots.iter_mut().take_while(|slot| slot.index <= last);
        into.extend(until.filter_map(|slot| {
            let waiter = slot.waiter.as_mut()?;
            if let Some(trace) = &mut waiter.trace {
                trace.applying();
            }
            Some(LogId::new(slot.term, slot.index))
        }));
    }

    /// Does something to those from entry `first` to entry `last` that are followed.
    pub(crate) fn trace(&self, first: LogIndex, last: LogIndex, mut each: impl FnMut(&mut Trace)) {
        let mut slots = self.slots();
        let before = slots.partition_point(|slot| slot.index < first);
        let from = slots.range_mut(before..);
        for slot in from.take_while(|slot| slot.index <= last) {
            let waiter = slot.waiter.as_mut();
            if let Some(trace) = waiter.and_then(|waiter| waiter.trace.as_deref_mut()) {
                each(trace);
            }
        }
    }

    /// Moves the places of entries up to `last` out.
    pub(crate) fn take_through(&self, last: LogIndex, into: &mut VecDeque<Slot<R>>) {
        let mut slots = self.slots();
        let count = slots.partition_point(|slot| slot.index <= last);
        into.extend(slots.drain(..count));
    }

    /// Answers "unknown" to those of entries above `committed`: another leader decides now.
    pub(crate) fn abandon_above(&self, committed: LogIndex) {
        let abandoned = {
            let mut slots = self.slots();
            let keep = slots.partition_point(|slot| slot.index <= committed);
            slots.split_off(keep)
        };
        abandoned.into_iter().for_each(Slot::give_up);
    }

    /// Answers "unknown" to those whose time is over. When the next may be, [`deadline`](Self::deadline)
    /// says: the caller's timer goes by it.
    pub(crate) fn expire(&self, now: Micros) {
        if now < self.deadline() {
            return;
        }
        let mut slots = self.slots();
        let mut due = Micros::MAX;
        for slot in slots.iter_mut() {
            match slot.waiter.as_ref().map(|waiter| waiter.deadline) {
                Some(deadline) if deadline > now => due = due.min(deadline),
                Some(_) => {
                    let waiter = slot.waiter.take();
                    Slot { waiter, ..*slot }.give_up();
                }
                None => {}
            }
        }
        self.due.store(due, Ordering::Relaxed);
    }
}

impl<R> Slot<R> {
    /// Answers with what became of the entry.
    pub(crate) fn answer(self, outcome: Outcome<R>) {
        let Some(waiter) = self.waiter else { return };
        let at = LogId::new(self.term, self.index);
        match outcome {
            Outcome::Response(response) => waiter.respond(at, response),
            Outcome::Refused(error) => waiter.answer(Err(error)),
            Outcome::Done => waiter.done(at),
        }
    }

    /// Answers "unknown".
    pub(crate) fn give_up(self) {
        if let Some(waiter) = self.waiter {
            waiter.answer(Err(ProposeError::Unknown {
                index: self.index,
                term: self.term,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiters(
        deadlines: &[Micros],
    ) -> (
        Waiters<u8>,
        Vec<oneshot::Receiver<Result<u8, ProposeError>>>,
    ) {
        let waiters = Waiters::default();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            deadlines.iter().map(|_| oneshot::channel()).unzip();
        let all = senders.into_iter().zip(deadlines);
        waiters.add(
            10,
            3,
            all.map(|(reply, &deadline)| Waiter::new(reply.into(), deadline)),
        );
        (waiters, receivers)
    }

    #[test]
    fn f5_every_waiter_ends() {
        let (waiters, mut receivers) = waiters(&[50, 20, 90, 90]);
        waiters.expire(30);
        let unknown = |index| Ok(Err(ProposeError::Unknown { index, term: 3 }));
        assert_eq!(receivers[1].try_recv(), unknown(11));
        let mut taken = VecDeque::new();
        waiters.take_through(11, &mut taken);
        assert_eq!(
            taken.iter().map(|slot| slot.index).collect::<Vec<_>>(),
            [10, 11]
        );
        let first = taken.pop_front().expect("one");
        first.answer(Outcome::Response(7));
        assert_eq!(receivers[0].try_recv(), Ok(Ok(7)));
        waiters.abandon_above(12);
        assert_eq!(receivers[3].try_recv(), unknown(13));
        assert!(receivers[2].try_recv().is_err(), "still waiting");
        waiters.expire(1000);
        assert_eq!(receivers[2].try_recv(), unknown(12));
    }

    #[test]
    fn f5_it_is_known_when_the_first_waiters_time_is_over() {
        assert_eq!(Waiters::<u8>::default().deadline(), Micros::MAX);
        let (waiters, mut receivers) = waiters(&[50, 20, 90]);
        assert_eq!(waiters.deadline(), 20);
        waiters.expire(19);
        assert!(receivers[1].try_recv().is_err(), "still waiting");
        waiters.expire(20);
        assert!(receivers[1].try_recv().is_ok());
        assert_eq!(waiters.deadline(), 50);
        // Who was answered meanwhile counts until it is looked again.
        waiters.take_through(10, &mut VecDeque::new());
        waiters.expire(50);
        assert_eq!(waiters.deadline(), 90);
        waiters.expire(90);
        assert_eq!(waiters.deadline(), Micros::MAX);
    }
}

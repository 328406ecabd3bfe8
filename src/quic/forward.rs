//! The forward class: proposals that a follower's caller asked to have passed on.
//!
//! The asker's queue is per peer and outlives connections, like a lane, but nothing in it is ever sent
//! twice: what was handed to a stream and not answered when that stream ends has an unknown outcome,
//! and what was not is said never to have left.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::Notify;

use super::lane::{lock, splice};
use super::limits::{FORWARD_BYTES, FORWARD_GRACE, FORWARD_IDLE, FORWARDS};
use super::shared::{Link, Peer};
use super::stream::{End, READ_CHUNKS, read_some, write_some};
use super::tally::{FORWARD, FORWARD_REPLY};
use crate::network::{Forward, ForwardOutcome, ForwardReply, Forwarded, Unsent};
use crate::wire::{ForwardAssembler, ForwardFrame, ForwardRequest, FrameLimits, Malformed};

/// How long one that was refused for want of room had better wait.
const RETRY_MS: u64 = 10;

/// Proposals on their way to one peer.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    state: Mutex<State>,
    /// There is something to write.
    pushed: Notify,
    /// There is a deadline before all others.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Forward, Instant)>,
    in_flight: HashMap<u64, Sent>,
    next_id: u64,
    /// Of the payloads of both.
    bytes: usize,
    /// Of those in flight.
    sent_bytes: usize,
    /// A connection is wanted.
    wanted: bool,
    /// The last connection ended because nothing was under way.
    idle: bool,
    /// When something was last pushed or answered.
    used: Option<Instant>,
    /// The peer was not reached; nothing is tried before.
    refused_until: Option<Instant>,
    next_deadline: Option<Instant>,
    ended: bool,
}

#[derive(Debug)]
struct Sent {
    reply: ForwardReply,
    bytes: usize,
    deadline: Instant,
}

/// Replies with what they are told, to be given out without the lock.
type Answers = Vec<(ForwardReply, Forwarded)>;

fn tell(answers: Answers) {
    for (reply, answer) in answers {
        reply.answer(answer);
    }
}

impl Forwards {
    /// Takes a proposal, or answers it at once. True if a connection is to be made for it.
    pub(super) fn push(&self, forward: Forward) -> bool {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let len = forward.payload.len();
        let refusal = if state.ended || state.refused_until.is_some_and(|until| now < until) {
            Some(Err(Unsent))
        } else if !forward.waits && state.is_full(len) {
            let retry_after_ms = RETRY_MS;
            Some(Ok(ForwardOutcome::Overloaded { retry_after_ms }))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            drop(state);
            forward.reply.answer(refusal);
            return false;
        }
        let deadline = now + forward.patience;
        state.waiting.push_back((forward, deadline));
        state.bytes += len;
        state.used = Some(now);
        if state.next_deadline.is_none_or(|next| deadline < next) {
            state.next_deadline = Some(deadline);
            self.earlier.notify_one();
        }
        let dial = !std::mem::replace(&mut state.wanted, true);
        drop(state);
        self.pushed.notify_one();
        dial
    }

    pub(super) fn wanted(&self) -> bool {
        lock(&self.state).wanted
    }

    /// Bytes of what is under way.
    pub(super) fn queued(&self) -> usize {
        lock(&self.state).bytes
    }

    /// Answers for everything: the connection is gone, or was not made. Nothing is tried for `wait`.
    pub(super) fn down(&self, wait: Duration) {
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.idle) {
            // What was pushed since finds the next connection.
            return;
        }
        state.refused_until = (!wait.is_zero()).then(|| Instant::now() + wait);
        let answers = state.clear();
        drop(state);
        tell(answers);
    }

    /// The transport ends.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        let answers = state.clear();
        drop(state);
        tell(answers);
    }

    /// Answers what is late, for ever.
    pub(super) async fn watch_deadlines(&self) {
        loop {
            let now = Instant::now();
            let (answers, next) = {
                let mut state = lock(&self.state);
                let answers = state.expire(now);
                (answers, state.next_deadline)
            };
            if !answers.is_empty() {
                // There may be room for others.
                self.pushed.notify_one();
            }
            tell(answers);
            let earlier = self.earlier.notified();
            match next {
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    let _ = tokio::time::timeout(wait, earlier).await;
                }
                None => earlier.await,
            }
        }
    }

    /// Waits for proposals and moves all of them into `burst`. How many.
    async fn take(&self, burst: &mut Vec<Bytes>) -> u64 {
        loop {
            let taken = lock(&self.state).take(burst, Instant::now());
            if taken > 0 {
                return taken;
            }
            self.pushed.notified().await;
        }
    }

    fn answered(&self, id: u64, outcome: ForwardOutcome) -> Result<(), Malformed> {
        let mut state = lock(&self.state);
        if id >= state.next_id {
            return Err(Malformed::Order);
        }
        let sent = state.in_flight.remove(&id);
        let bytes = sent.as_ref().map_or(0, |sent| sent.bytes);
        state.bytes -= bytes;
        state.sent_bytes -= bytes;
        state.used = Some(Instant::now());
        let more = !state.waiting.is_empty();
        drop(state);
        if more {
            self.pushed.notify_one();
        }
        // It may be late, and answered for.
        if let Some(sent) = sent {
            sent.reply.answer(Ok(outcome));
        }
        Ok(())
    }

    /// Returns once nothing was under way for a while; no connection is wanted from then on.
    async fn idle(&self) {
        loop {
            let wait = {
                let mut state = lock(&self.state);
                let quiet = state.used.map_or(Duration::MAX, |used| used.elapsed());
                let empty = state.waiting.is_empty() && state.in_flight.is_empty();
                if empty && quiet >= FORWARD_IDLE {
                    (state.wanted, state.idle) = (false, true);
                    return;
                }
                FORWARD_IDLE.saturating_sub(quiet)
            };
            tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
        }
    }
}

impl State {
    fn is_full(&self, len: usize) -> bool {
        let count = self.waiting.len() + self.in_flight.len();
        count >= FORWARDS || (count > 0 && self.bytes + len > FORWARD_BYTES)
    }

    /// Whose reply was handed to a stream is dropped, which says that nobody knows.
    fn clear(&mut self) -> Answers {
        self.in_flight.clear();
        (self.bytes, self.sent_bytes) = (0, 0);
        (self.wanted, self.next_deadline) = (false, None);
        let waiting = self.waiting.drain(..);
        waiting
            .map(|(forward, _)| (forward.reply, Err(Unsent)))
            .collect()
    }

    fn expire(&mut self, now: Instant) -> Answers {
        let mut answers = Vec::new();
        let mut bytes = 0;
        let mut late = |reply, len, outcome| {
            bytes += len;
            answers.push((reply, Ok(outcome)));
        };
        for (forward, deadline) in std::mem::take(&mut self.waiting) {
            match deadline <= now {
                true => late(
                    forward.reply,
                    forward.payload.len(),
                    ForwardOutcome::Deadline,
                ),
                false => self.waiting.push_back((forward, deadline)),
            }
        }
        let overdue = |_: &u64, sent: &mut Sent| sent.deadline <= now;
        for (_, sent) in self.in_flight.extract_if(overdue) {
            let unknown = ForwardOutcome::Unknown { index: 0, term: 0 };
            self.sent_bytes -= sent.bytes;
            late(sent.reply, sent.bytes, unknown);
        }
        self.bytes -= bytes;
        let waiting = self.waiting.iter().map(|(_, deadline)| *deadline);
        let in_flight = self.in_flight.values().map(|sent| sent.deadline);
        self.next_deadline = waiting.chain(in_flight).min();
        answers
    }

    /// The first that waits, once what has left and has no answer makes room for it.
    fn next_to_leave(&mut self) -> Option<(Forward, Instant)> {
        let (forward, _) = self.waiting.front()?;
        let (count, len) = (self.in_flight.len(), forward.payload.len());
        let full = count >= FORWARDS || (count > 0 && self.sent_bytes + len > FORWARD_BYTES);
        if full { None } else { self.waiting.pop_front() }
    }

    /// From here on each may have reached the leader.
    fn take(&mut self, burst: &mut Vec<Bytes>, now: Instant) -> u64 {
        let mut tail = BytesMut::new();
        let mut taken = 0;
        while let Some((forward, deadline)) = self.next_to_leave() {
            let left = deadline.saturating_duration_since(now).as_millis();
            let request = ForwardRequest {
                term: forward.term,
                id: self.next_id,
                kind: forward.kind,
                deadline_ms: u32::try_from(left).unwrap_or(u32::MAX),
                line: forward.line,
            };
            request.encode(forward.payload.len(), &mut tail);
            splice(&forward.payload, burst, &mut tail);
            let sent = Sent {
                reply: forward.reply,
                bytes: forward.payload.len(),
                deadline: deadline + FORWARD_GRACE,
            };
            self.sent_bytes += sent.bytes;
            self.in_flight.insert(self.next_id, sent);
            self.next_id += 1;
            taken += 1;
        }
        if !tail.is_empty() {
            burst.push(tail.freeze());
        }
        taken
    }
}

/// The asker's side of a connection.
pub(super) struct Asker<'a> {
    pub(super) peer: &'a Peer,
    pub(super) link: &'a Link,
    pub(super) limits: FrameLimits,
}

impl Asker<'_> {
    /// Runs until an end, which may be that nothing was under way for a while.
    pub(super) async fn run(&self, send: &mut SendStream, recv: &mut RecvStream) -> End {
        tokio::select! {
            end = self.write(send) => end,
            end = self.read(recv) => end,
            () = self.peer.forwards.idle() => End::Stream("idle"),
        }
    }

    async fn write(&self, send: &mut SendStream) -> End {
        let mut burst = Vec::new();
        loop {
            let frames = self.peer.forwards.take(&mut burst).await;
            if let Err(end) = write_all(&self.link.connection, send, &mut burst).await {
                return end;
            }
            self.link.frames_out.fetch_add(frames, Ordering::Relaxed);
            self.peer.tally.sent(FORWARD, frames);
            burst.clear();
        }
    }

    async fn read(&self, recv: &mut RecvStream) -> End {
        let mut frames = ForwardAssembler::new(true, self.limits);
        let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
        loop {
            match read_some(recv, &mut chunks).await {
                Ok(read) => read.for_each(|chunk| frames.feed(chunk)),
                Err(end) => return end,
            }
            loop {
                let answered = match frames.next_frame() {
                    Ok(None) => break,
                    Ok(Some(ForwardFrame::Reply(id, outcome))) => {
                        self.link.frames_in.fetch_add(1, Ordering::Relaxed);
                        self.peer.tally.received(FORWARD_REPLY, 1);
                        self.peer.forwards.answered(id, outcome)
                    }
                    Ok(Some(ForwardFrame::Request(..))) => Err(Malformed::Order),
                    Err(malformed) => Err(malformed),
                };
                if let Err(malformed) = answered {
                    return End::Malformed(malformed);
                }
            }
        }
    }
}

pub(super) async fn write_all(
    connection: &Connection,
    send: &mut SendStream,
    burst: &mut [Bytes],
) -> Result<(), End> {
    let mut rest = burst;
    while !rest.is_empty() {
        let written = write_some(connection, send, rest).await?;
        rest = rest.get_mut(written.chunks..).unwrap_or_default();
    }
    Ok(())
}

//! One direction towards one peer in one class: what waits to be written on its stream.
//!
//! The driver pushes, the stream's task takes all there is at once. A lane outlives its streams;
//! each stream opens it with its epoch, and what is still queued when that epoch ends is dropped
//! (the core asks again).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::limits::{
    CHUNK, COPY_BELOW, QUEUE_BYTES, QUEUE_CONTROL, QUEUE_FRAMES, QUEUE_REPLIES, UNANSWERED,
};
use crate::core::{Class, Message};
use crate::network::SendOutcome;
use crate::wire::{HEADER, Kind, MAX_FIXED, encode_into};

/// Locks even after a panic elsewhere: the data under these locks is consistent at every step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(super) struct Lane {
    class: Class,
    replies: bool,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    epoch: Option<u64>,
    reopen: bool,
    /// Data: whole chunks, then the tail in which small frames gather.
    chunks: Vec<Bytes>,
    tail: BytesMut,
    /// Control: one frame each, so that a newer one can take an older one's place.
    slots: Vec<(Kind, Bytes)>,
    bytes: usize,
    frames: usize,
    told_full: bool,
    writer_waits: bool,
    /// Appends and heartbeats that were queued and have no answer, oldest first: number, and since when.
    unanswered: VecDeque<(u64, Instant)>,
}

/// What a writer got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// So many frames.
    Frames(usize),
    /// The epoch is over for this writer: another stream has the lane.
    Closed,
    /// The core wants a new epoch.
    Reopen,
}

/// The epoch that a message must travel in, if it names one.
fn epoch_of(message: &Message) -> Option<u64> {
    match message {
        Message::Append(m) => Some(m.epoch),
        Message::AppendAck(m) => Some(m.epoch),
        Message::Heartbeat(m) => Some(m.epoch),
        Message::HeartbeatReply(m) => Some(m.epoch),
        _ => None,
    }
}

/// The number of a message that the peer answers by that number.
fn asked(message: &Message) -> Option<u64> {
    match message {
        Message::Append(m) => Some(m.seq),
        Message::Heartbeat(m) => Some(m.seq),
        _ => None,
    }
}

/// The epoch and the number of the message that this one answers.
fn answers(message: &Message) -> Option<(u64, u64)> {
    match message {
        Message::AppendAck(m) => Some((m.epoch, m.seq)),
        Message::HeartbeatReply(m) => Some((m.epoch, m.seq)),
        _ => None,
    }
}

impl Lane {
    pub(super) fn new(class: Class, replies: bool) -> Self {
        Self {
            class,
            replies,
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Begins `epoch`, empty.
    pub(super) fn open(&self, epoch: u64) {
        let mut state = lock(&self.state);
        *state = State {
            epoch: Some(epoch),
            ..State::default()
        };
        drop(state);
        self.wake.notify_one();
    }

    /// Ends `epoch`, if it is still the current one, and drops what is queued.
    pub(super) fn close(&self, epoch: u64) {
        let mut state = lock(&self.state);
        if state.epoch == Some(epoch) {
            *state = State::default();
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Asks the stream's task to end the current epoch and begin the next.
    pub(super) fn reopen(&self) {
        let mut state = lock(&self.state);
        state.reopen = state.epoch.is_some();
        drop(state);
        self.wake.notify_one();
    }

    /// Tries to queue a frame. Wakes the writer only if it sleeps: once per burst.
    pub(super) fn push(&self, message: &Message, body: &[Bytes]) -> SendOutcome {
        let mut state = lock(&self.state);
        let Some(epoch) = state.epoch else {
            return SendOutcome::Down;
        };
        if epoch_of(message).is_some_and(|of| of != epoch) || state.reopen {
            return SendOutcome::Down;
        }
        let taken = match self.class {
            Class::Data | Class::Bulk => state.push_data(message, body, self.frame_limit()),
            Class::Control => state.push_control(message, body, self.replies),
        };
        if !taken {
            state.told_full = true;
            return SendOutcome::Full;
        }
        if let Some(seq) = asked(message) {
            state.asked(seq);
        }
        let wake = std::mem::take(&mut state.writer_waits);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        SendOutcome::Sent
    }

    const fn frame_limit(&self) -> usize {
        if self.replies {
            QUEUE_REPLIES
        } else {
            QUEUE_FRAMES
        }
    }

    /// Waits for frames and moves all of them into `burst`.
    pub(super) async fn take(&self, epoch: u64, burst: &mut Vec<Bytes>) -> Taken {
        loop {
            if let Some(taken) = self.try_take(epoch, burst) {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    fn try_take(&self, epoch: u64, burst: &mut Vec<Bytes>) -> Option<Taken> {
        let mut state = lock(&self.state);
        if state.epoch != Some(epoch) {
            return Some(Taken::Closed);
        }
        if state.reopen {
            return Some(Taken::Reopen);
        }
        if state.frames == 0 {
            state.writer_waits = true;
            return None;
        }
        burst.append(&mut state.chunks);
        if !state.tail.is_empty() {
            let tail = state.tail.split().freeze();
            burst.push(tail);
        }
        burst.extend(state.slots.drain(..).map(|(_, bytes)| bytes));
        state.writer_waits = false;
        Some(Taken::Frames(std::mem::take(&mut state.frames)))
    }

    /// Notes that quinn took `bytes`. True once there is room again after a refusal.
    pub(super) fn written(&self, epoch: u64, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        if state.epoch != Some(epoch) {
            return false;
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        let room = state.bytes <= QUEUE_BYTES / 2 && state.frames <= self.frame_limit() / 2;
        room && std::mem::take(&mut state.told_full)
    }

    /// Notes what came back: an answer stands for all that was asked before.
    pub(super) fn answered(&self, reply: &Message) {
        let Some((epoch, seq)) = answers(reply) else {
            return;
        };
        let mut state = lock(&self.state);
        if state.epoch == Some(epoch) {
            let left = state.unanswered.partition_point(|(asked, _)| *asked <= seq);
            state.unanswered.drain(..left);
        }
    }

    /// How long the oldest append or heartbeat has waited for its answer.
    pub(super) fn unanswered_for(&self) -> Option<Duration> {
        let state = lock(&self.state);
        state.unanswered.front().map(|(_, since)| since.elapsed())
    }

    /// Bytes that wait to be written.
    pub(super) fn queued(&self) -> usize {
        lock(&self.state).bytes
    }
}

impl State {
    /// Bounded whatever the peer does: the oldest is what is asked for, and those in the middle give way.
    fn asked(&mut self, seq: u64) {
        if self.unanswered.len() >= UNANSWERED {
            self.unanswered.remove(1);
        }
        self.unanswered.push_back((seq, Instant::now()));
    }

    fn push_data(&mut self, message: &Message, body: &[Bytes], frames: usize) -> bool {
        let len: usize = body.iter().map(Bytes::len).sum();
        // The frame of the largest entry fits at least an empty queue.
        if self.frames >= frames || (self.bytes + len > QUEUE_BYTES && self.bytes > 0) {
            return false;
        }
        let before = self.tail.len();
        encode_into(message, len, &mut self.tail);
        self.bytes += self.tail.len() - before + len;
        self.frames += 1;
        for run in body {
            splice(run, &mut self.chunks, &mut self.tail);
        }
        true
    }

    /// Of requests the newest of each kind counts (a stale heartbeat is worth nothing); replies
    /// queue, and the oldest gives way.
    fn push_control(&mut self, message: &Message, body: &[Bytes], replies: bool) -> bool {
        let len: usize = body.iter().map(Bytes::len).sum();
        let kind = Kind::of(message);
        let old = if replies {
            (self.slots.len() >= QUEUE_CONTROL).then_some(0)
        } else {
            self.slots.iter().position(|&(of, _)| of == kind)
        };
        if let Some(old) = old {
            let (_, bytes) = self.slots.remove(old);
            self.bytes -= bytes.len();
            self.frames -= 1;
        }
        let mut bytes = BytesMut::with_capacity(HEADER + MAX_FIXED + len);
        encode_into(message, len, &mut bytes);
        for run in body {
            bytes.extend_from_slice(run);
        }
        self.bytes += bytes.len();
        self.frames += 1;
        self.slots.push((kind, bytes.freeze()));
        true
    }
}

/// Puts a run behind what is in `chunks` and `tail`: a short one is copied, a longer one is not.
pub(super) fn splice(run: &Bytes, chunks: &mut Vec<Bytes>, tail: &mut BytesMut) {
    if run.len() < COPY_BELOW {
        tail.extend_from_slice(run);
        return;
    }
    chunks.push(tail.split().freeze());
    let mut rest = run.clone();
    while rest.len() > CHUNK {
        chunks.push(rest.split_to(CHUNK));
    }
    chunks.push(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::MAX_FRAME_BODY;
    use crate::core::{AppendAck, AppendEntries, AppendStatus, Heartbeat, VoteRequest};
    use crate::types::{Incarnation, LogId};

    fn append(epoch: u64) -> Message {
        Message::Append(AppendEntries {
            term: 1,
            epoch,
            seq: 1,
            prev: LogId::default(),
            commit: 0,
            sent_at: 0,
            count: 1,
        })
    }

    fn heartbeat(seq: u64) -> Message {
        Message::Heartbeat(Heartbeat {
            term: 1,
            epoch: 7,
            seq,
            commit: 0,
            sent_at: 0,
            read_id: 0,
            digest_index: 0,
            digest: 0,
        })
    }

    fn vote() -> Message {
        Message::Vote(VoteRequest {
            term: 1,
            incarnation: Incarnation([1; 16]),
            round: 1,
            last: LogId::default(),
            transfer: false,
        })
    }

    fn take_all(lane: &Lane) -> (usize, Vec<Bytes>) {
        let mut burst = Vec::new();
        match lane.try_take(7, &mut burst) {
            Some(Taken::Frames(frames)) => (frames, burst),
            other => panic!("no frames: {other:?}"),
        }
    }

    #[test]
    fn heartbeats_replace_each_other_and_never_a_vote() {
        let lane = Lane::new(Class::Control, false);
        lane.open(7);
        assert_eq!(lane.push(&vote(), &[]), SendOutcome::Sent);
        for seq in 1..=100 {
            assert_eq!(lane.push(&heartbeat(seq), &[]), SendOutcome::Sent);
        }
        let (frames, burst) = take_all(&lane);
        assert_eq!((frames, burst.len()), (2, 2));
        let bytes = |message: &Message| {
            let mut out = BytesMut::new();
            encode_into(message, 0, &mut out);
            out
        };
        assert_eq!(burst[0], bytes(&vote()));
        assert_eq!(burst[1], bytes(&heartbeat(100)));
    }

    #[test]
    fn small_frames_share_a_chunk_and_long_runs_are_not_copied() {
        let lane = Lane::new(Class::Data, false);
        lane.open(7);
        let (small, long) = (Bytes::from(vec![1; 100]), Bytes::from(vec![2; 600 << 10]));
        for body in [&small, &small, &long, &small] {
            let body = std::slice::from_ref(body);
            assert_eq!(lane.push(&append(7), body), SendOutcome::Sent);
        }
        let (frames, burst) = take_all(&lane);
        let lengths: Vec<usize> = burst.iter().map(Bytes::len).collect();
        let head = HEADER + 56;
        let last = (600 << 10) - 2 * CHUNK;
        assert_eq!(frames, 4);
        assert_eq!(
            lengths,
            [3 * head + 200, CHUNK, CHUNK, last, head + 100],
            "one chunk for what is small, none longer than the limit"
        );
        assert_eq!(burst[1].as_ptr(), long.as_ptr(), "spliced, not copied");
        assert_eq!(lane.queued(), lengths.iter().sum::<usize>());
    }

    #[test]
    fn h2_the_queue_is_bounded_and_tells_when_there_is_room() {
        let lane = Lane::new(Class::Data, false);
        lane.open(7);
        let big = Bytes::from(vec![0; MAX_FRAME_BODY]);
        let big = std::slice::from_ref(&big);
        assert_eq!(lane.push(&append(7), big), SendOutcome::Sent);
        assert_eq!(lane.push(&append(7), big), SendOutcome::Full);
        let (_, burst) = take_all(&lane);
        let total: usize = burst.iter().map(Bytes::len).sum();
        assert_eq!(
            lane.push(&append(7), big),
            SendOutcome::Full,
            "not written yet"
        );
        assert!(!lane.written(7, 1), "still no room");
        assert!(lane.written(7, total - 1), "told once");
        assert!(!lane.written(7, 0));
        for _ in 0..QUEUE_FRAMES {
            assert_eq!(lane.push(&append(7), &[]), SendOutcome::Sent);
        }
        assert_eq!(lane.push(&append(7), &[]), SendOutcome::Full);
    }

    #[test]
    fn b3_only_the_current_epoch_is_sent() {
        let lane = Lane::new(Class::Data, false);
        assert_eq!(lane.push(&append(7), &[]), SendOutcome::Down);
        lane.open(7);
        assert_eq!(lane.push(&append(6), &[]), SendOutcome::Down);
        assert_eq!(lane.push(&append(7), &[]), SendOutcome::Sent);
        lane.open(8);
        let mut burst = Vec::new();
        assert_eq!(lane.try_take(7, &mut burst), Some(Taken::Closed));
        assert_eq!(
            lane.try_take(8, &mut burst),
            None,
            "nothing of the old epoch"
        );
        lane.close(7);
        assert_eq!(lane.push(&append(8), &[]), SendOutcome::Sent, "still open");
        lane.reopen();
        assert_eq!(lane.try_take(8, &mut burst), Some(Taken::Reopen));
        assert_eq!(lane.push(&append(8), &[]), SendOutcome::Down);
        lane.close(8);
        assert_eq!(lane.push(&append(8), &[]), SendOutcome::Down);
        assert!(burst.is_empty());
    }

    fn reply(epoch: u64, seq: u64) -> Message {
        Message::AppendAck(AppendAck {
            term: 1,
            incarnation: Incarnation([1; 16]),
            epoch,
            seq,
            match_index: 0,
            conflict: LogId::default(),
            sent_at: 0,
            status: AppendStatus::Matched,
            state: Default::default(),
        })
    }

    #[test]
    fn the_oldest_that_waits_for_an_answer_is_known_and_bounded() {
        let lane = Lane::new(Class::Data, false);
        lane.open(7);
        assert_eq!(lane.unanswered_for(), None);
        let number = |seq| {
            let Message::Append(append) = append(7) else {
                panic!("an append");
            };
            Message::Append(AppendEntries { seq, ..append })
        };
        for seq in 1..=3 {
            assert_eq!(lane.push(&number(seq), &[]), SendOutcome::Sent);
        }
        lane.answered(&reply(6, 3));
        lane.answered(&reply(7, 2));
        assert_eq!(
            lock(&lane.state).unanswered.len(),
            1,
            "an answer of this epoch"
        );
        std::thread::sleep(Duration::from_millis(2));
        assert!(lane.unanswered_for() >= Some(Duration::from_millis(2)));
        for seq in 4..2 * UNANSWERED as u64 {
            lock(&lane.state).asked(seq);
        }
        assert_eq!(lock(&lane.state).unanswered.len(), UNANSWERED);
        assert_eq!(lock(&lane.state).unanswered[0].0, 3, "the oldest stays");
        lane.answered(&reply(7, 2 * UNANSWERED as u64));
        assert_eq!(lane.unanswered_for(), None);
        lock(&lane.state).asked(9);
        lane.open(8);
        assert_eq!(lane.unanswered_for(), None, "another epoch begins without");
    }

    #[test]
    fn control_replies_queue_and_the_oldest_gives_way() {
        let lane = Lane::new(Class::Control, true);
        lane.open(7);
        let reply = |round| {
            Message::VoteReply(crate::core::VoteReply {
                term: 1,
                incarnation: Incarnation([1; 16]),
                round,
                granted: true,
                reason: Default::default(),
                state: Default::default(),
            })
        };
        for round in 0..2 * QUEUE_CONTROL as u64 {
            assert_eq!(lane.push(&reply(round), &[]), SendOutcome::Sent);
        }
        let (frames, burst) = take_all(&lane);
        assert_eq!((frames, burst.len()), (QUEUE_CONTROL, QUEUE_CONTROL));
        let mut newest = BytesMut::new();
        encode_into(&reply(2 * QUEUE_CONTROL as u64 - 1), 0, &mut newest);
        assert_eq!(burst.last(), Some(&newest.freeze()));
    }
}

//! The answering side of the forward class: proposals come in for this node's driver, and what became
//! of them goes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::forward::write_all;
use super::limits::{FORWARD_BYTES, FORWARDS};
use super::shared::{Link, Shared};
use super::stream::{End, READ_CHUNKS, read_some};
use super::tally::{FORWARD, FORWARD_REPLY};
use crate::network::{Forward, ForwardOutcome, ForwardReply, Forwarded, NetworkEvent};
use crate::wire::{ForwardAssembler, ForwardFrame, ForwardRequest, Malformed, encode_reply};

/// Bytes of one permit.
const GRAIN: usize = 1 << 10;

/// What one peer's proposals may take up, from when they are read until their answers are written;
/// then reading stops.
struct Budget {
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Of one proposal.
struct Room {
    _count: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Budget {
    fn new() -> Self {
        Self {
            count: Arc::new(Semaphore::new(FORWARDS)),
            bytes: Arc::new(Semaphore::new(FORWARD_BYTES / GRAIN)),
        }
    }

    async fn take(&self, len: usize) -> Option<Room> {
        let grains = len.div_ceil(GRAIN).min(FORWARD_BYTES / GRAIN) as u32;
        let count = Arc::clone(&self.count).acquire_owned().await;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(grains).await;
        Some(Room {
            _count: count.ok()?,
            _bytes: bytes.ok()?,
        })
    }
}

struct Answer {
    id: u64,
    answer: Forwarded,
    room: Room,
}

/// Serves one stream until it ends.
pub(super) async fn answer(
    shared: &Shared,
    link: &Link,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> End {
    // No more answers are in it than there are permits.
    let (answers, mut queue) = mpsc::unbounded_channel();
    tokio::select! {
        end = take_requests(shared, link, recv, &answers) => end,
        end = send_answers(shared, link, send, &mut queue) => end,
    }
}

async fn take_requests(
    shared: &Shared,
    link: &Link,
    recv: &mut RecvStream,
    answers: &mpsc::UnboundedSender<Answer>,
) -> End {
    let (budget, peer) = (Budget::new(), shared.peer(link.peer.node));
    let mut frames = ForwardAssembler::new(false, shared.frame_limits);
    let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
    let mut next_id = 0;
    loop {
        match read_some(recv, &mut chunks).await {
            Ok(read) => read.for_each(|chunk| frames.feed(chunk)),
            Err(end) => return end,
        }
        loop {
            let (request, payload) = match frames.next_frame() {
                Ok(None) => break,
                // A number that comes again would be a proposal made twice.
                Ok(Some(ForwardFrame::Request(request, payload))) if request.id >= next_id => {
                    (request, payload)
                }
                Ok(Some(_)) => return End::Malformed(Malformed::Order),
                Err(malformed) => return End::Malformed(malformed),
            };
            next_id = request.id.saturating_add(1);
            link.frames_in.fetch_add(1, Ordering::Relaxed);
            peer.tally.received(FORWARD, 1);
            let Some(room) = budget.take(payload.len()).await else {
                return End::Stream("no budget");
            };
            let forward = forward_of(request, payload, room, answers.clone());
            let from = link.peer;
            shared.emit(NetworkEvent::Forward { from, forward });
        }
    }
}

fn forward_of(
    request: ForwardRequest,
    payload: Bytes,
    room: Room,
    answers: mpsc::UnboundedSender<Answer>,
) -> Forward {
    let id = request.id;
    let told = move |answer| {
        // Without its stream the answer has no way to go; the asker knows.
        let _ = answers.send(Answer { id, answer, room });
    };
    Forward {
        term: request.term,
        kind: request.kind,
        payload,
        patience: Duration::from_millis(request.deadline_ms.into()),
        line: request.line,
        waits: false,
        reply: ForwardReply::new(told),
    }
}

async fn send_answers(
    shared: &Shared,
    link: &Link,
    send: &mut SendStream,
    queue: &mut mpsc::UnboundedReceiver<Answer>,
) -> End {
    let (mut burst, peer) = (Vec::new(), shared.peer(link.peer.node));
    loop {
        let mut known = Vec::new();
        if queue.recv_many(&mut known, FORWARDS).await == 0 {
            return End::Stream("nobody answers");
        }
        // The room is held until they are written, the answers themselves are not.
        let mut rooms = Vec::with_capacity(known.len());
        for Answer { id, answer, room } in known {
            let outcome = answer.unwrap_or(ForwardOutcome::ShuttingDown);
            burst.push(encode_reply(id, &outcome, &shared.frame_limits));
            rooms.push(room);
        }
        if let Err(end) = write_all(&link.connection, send, &mut burst).await {
            return end;
        }
        let frames = rooms.len() as u64;
        link.frames_out.fetch_add(frames, Ordering::Relaxed);
        peer.tally.sent(FORWARD_REPLY, frames);
        burst.clear();
    }
}

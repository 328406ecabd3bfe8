//! The two halves of a stream: frames out of a lane, frames into the sink.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError, Written};

use super::lane::{Lane, Taken};
use super::limits::{QUICK, STALL};
use super::progress::{LOOK, Progress};
use super::refusals::Reason;
use super::shared::{Link, Peer, Shared};
use super::tally::place;
use crate::core::{Class, Message};
use crate::network::{Held, NetworkEvent};
use crate::wire::{Assembler, Kind, Malformed};

/// Chunks taken from quinn at a time.
pub(super) const READ_CHUNKS: usize = 32;

/// Why a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The core wants the next epoch.
    Reopen,
    /// Another stream took the lane.
    Superseded,
    /// The peer accepts nothing more on it.
    Stalled,
    /// The peer gave this stream up; the connection stands.
    Stream(&'static str),
    /// What came was malformed.
    Malformed(Malformed),
    /// The connection is gone.
    Lost(ConnectionError),
}

impl End {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Reopen => Reason::Stream("reopened"),
            Self::Superseded => Reason::Stream("replaced"),
            Self::Stalled => Reason::Stream("stalled"),
            Self::Stream(why) => Reason::Stream(why),
            Self::Malformed(malformed) => (*malformed).into(),
            Self::Lost(error) => error.clone().into(),
        }
    }
}

/// A stream with what its two halves need.
pub(super) struct Io<'a> {
    pub(super) shared: &'a Shared,
    pub(super) peer: &'a Peer,
    pub(super) link: &'a Link,
    pub(super) class: Class,
    pub(super) epoch: u64,
}

impl Io<'_> {
    /// Runs both halves until one ends.
    pub(super) async fn run(&self, send: &mut SendStream, recv: &mut RecvStream) -> End {
        tokio::select! {
            end = self.write(send) => end,
            end = self.read(recv) => end,
            never = self.tell_what_gets_through() => match never {},
        }
    }

    /// A dialled stream carries requests out and replies in; an accepted one the reverse.
    fn lane(&self) -> &Lane {
        self.peer.lane(self.class, !self.link.dialled)
    }

    async fn write(&self, send: &mut SendStream) -> End {
        let lane = self.lane();
        let mut burst = Vec::new();
        loop {
            let frames = match lane.take(self.epoch, &mut burst).await {
                Taken::Frames(frames) => frames,
                Taken::Closed => return End::Superseded,
                Taken::Reopen => return End::Reopen,
            };
            if let Err(end) = self.write_burst(send, &mut burst).await {
                return end;
            }
            let sent = &self.link.frames_out;
            sent.fetch_add(frames as u64, Ordering::Relaxed);
            burst.clear();
        }
    }

    async fn write_burst(&self, send: &mut SendStream, burst: &mut [Bytes]) -> Result<(), End> {
        let mut rest = burst;
        while !rest.is_empty() {
            let written = write_some(&self.link.connection, send, rest)
                .await
                .inspect_err(|end| {
                    if matches!(end, End::Stalled) {
                        self.peer.tally.stalled(self.link.class);
                    }
                })?;
            if self.lane().written(self.epoch, written.bytes) && self.link.dialled {
                self.shared.emit(NetworkEvent::Writable {
                    node: self.peer.node,
                    epoch: self.epoch,
                });
            }
            rest = rest.get_mut(written.chunks..).unwrap_or_default();
        }
        Ok(())
    }

    /// While the peer owes an answer, whether anything gets to it at all. A frame may take longer than
    /// anybody would wait for an answer to it.
    async fn tell_what_gets_through(&self) -> Infallible {
        if self.class != Class::Data || !self.link.dialled {
            return pending().await;
        }
        let connection = &self.link.connection;
        let mut progress = Progress::of(connection);
        loop {
            tokio::time::sleep(LOOK).await;
            let owed = self.lane().unanswered_for();
            if owed.is_some_and(|long| long >= LOOK) && progress.goes_on(connection) {
                self.shared.emit(NetworkEvent::GetsThrough {
                    node: self.peer.node,
                    epoch: self.epoch,
                });
            }
        }
    }

    async fn read(&self, recv: &mut RecvStream) -> End {
        let (class, limits) = (self.class, self.shared.frame_limits);
        let mut frames = Assembler::new(class, self.link.dialled, limits);
        let mut order = Order::new(self.epoch);
        let mut events = Vec::new();
        let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
        loop {
            match read_some(recv, &mut chunks).await {
                Ok(read) => read.for_each(|chunk| frames.feed(chunk)),
                Err(end) => return end,
            }
            let parsed = self.parse(&mut frames, &mut order, &mut events).await;
            self.deliver(&mut events);
            if let Err(malformed) = parsed {
                return End::Malformed(malformed);
            }
        }
    }

    async fn parse(
        &self,
        frames: &mut Assembler,
        order: &mut Order,
        events: &mut Vec<NetworkEvent>,
    ) -> Result<(), Malformed> {
        while let Some(len) = frames.ready()? {
            let held = match (self.class, self.link.dialled) {
                (Class::Data | Class::Bulk, false) => match self.link.credits.try_take(len) {
                    Some(held) => held,
                    None => {
                        self.deliver(events);
                        self.link.credits.take(len).await
                    }
                },
                _ => Held::default(),
            };
            let Some(frame) = frames.next_frame()? else {
                break;
            };
            order.check(&frame.message)?;
            self.peer.tally.received(place(Kind::of(&frame.message)), 1);
            if self.link.dialled {
                self.lane().answered(&frame.message);
            }
            events.push(NetworkEvent::Message {
                from: self.link.peer,
                message: frame.message,
                entries: frame.entries,
                chunk: frame.chunk,
                held,
            });
        }
        Ok(())
    }

    fn deliver(&self, events: &mut Vec<NetworkEvent>) {
        if !events.is_empty() {
            let count = events.len() as u64;
            self.link.frames_in.fetch_add(count, Ordering::Relaxed);
            (self.shared.sink)(events);
            events.clear();
        }
    }
}

/// Hands to quinn what it takes; gives up on a peer that makes no room.
pub(super) async fn write_some(
    connection: &Connection,
    send: &mut SendStream,
    rest: &mut [Bytes],
) -> Result<Written, End> {
    let mut writing = pin!(send.write_chunks(rest));
    let mut progress = None;
    loop {
        let patience = if progress.is_none() { QUICK } else { STALL };
        match tokio::time::timeout(patience, &mut writing).await {
            Ok(Ok(written)) => return Ok(written),
            Ok(Err(WriteError::ConnectionLost(error))) => return Err(End::Lost(error)),
            Ok(Err(_)) => return Err(End::Stream("stopped by the peer")),
            Err(_) => {
                let known = progress.get_or_insert_with(|| Progress::of(connection));
                if patience == STALL && !known.goes_on(connection) {
                    return Err(End::Stalled);
                }
            }
        }
    }
}

/// The chunks that are here, once there are some.
pub(super) async fn read_some<'a>(
    recv: &mut RecvStream,
    chunks: &'a mut [Bytes],
) -> Result<impl Iterator<Item = Bytes> + use<'a>, End> {
    let read = match recv.read_chunks(chunks).await {
        Ok(Some(read)) => read,
        Ok(None) => return Err(End::Stream("finished by the peer")),
        Err(ReadError::ConnectionLost(error)) => return Err(End::Lost(error)),
        Err(_) => return Err(End::Stream("reset by the peer")),
    };
    Ok(chunks.iter_mut().take(read).map(std::mem::take))
}

/// Appends are numbered without a gap within an epoch, heartbeats rise (a newer one may have taken
/// an older one's place); both name the epoch of their stream (hazard B5).
struct Order {
    epoch: u64,
    last: Option<u64>,
}

impl Order {
    fn new(epoch: u64) -> Self {
        Self { epoch, last: None }
    }

    fn check(&mut self, message: &Message) -> Result<(), Malformed> {
        let (epoch, seq, gapless) = match message {
            Message::Append(m) => (m.epoch, m.seq, true),
            Message::Heartbeat(m) => (m.epoch, m.seq, false),
            // Replies name the epoch of the stream that they come back on.
            Message::AppendAck(m) => return self.same(m.epoch),
            Message::HeartbeatReply(m) => return self.same(m.epoch),
            _ => return Ok(()),
        };
        self.same(epoch)?;
        let fits = match self.last {
            None => true,
            Some(last) if gapless => Some(seq) == last.checked_add(1),
            Some(last) => seq > last,
        };
        self.last = Some(seq);
        if fits { Ok(()) } else { Err(Malformed::Order) }
    }

    fn same(&self, epoch: u64) -> Result<(), Malformed> {
        if epoch == self.epoch {
            Ok(())
        } else {
            Err(Malformed::Order)
        }
    }
}

/// Registers a link while it lives.
pub(super) struct Registered<'a> {
    shared: &'a Shared,
    pub(super) link: Arc<Link>,
}

impl<'a> Registered<'a> {
    pub(super) fn new(shared: &'a Shared, link: Arc<Link>) -> Self {
        shared.add_link(&link);
        Self { shared, link }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.remove_link(&self.link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{AppendEntries, Heartbeat};
    use crate::types::LogId;

    fn append(epoch: u64, seq: u64) -> Message {
        Message::Append(AppendEntries {
            term: 1,
            epoch,
            seq,
            prev: LogId::default(),
            commit: 0,
            sent_at: 0,
            count: 0,
        })
    }

    fn heartbeat(epoch: u64, seq: u64) -> Message {
        Message::Heartbeat(Heartbeat {
            term: 1,
            epoch,
            seq,
            commit: 0,
            sent_at: 0,
            read_id: 0,
            digest_index: 0,
            digest: 0,
        })
    }

    #[test]
    fn b5_appends_come_without_a_gap_and_heartbeats_in_order() {
        let mut order = Order::new(7);
        assert_eq!(order.check(&append(7, 3)), Ok(()), "any first number");
        assert_eq!(order.check(&append(7, 4)), Ok(()));
        assert_eq!(order.check(&append(8, 5)), Err(Malformed::Order));
        assert_eq!(order.check(&append(7, 6)), Err(Malformed::Order), "gap");
        let mut order = Order::new(7);
        assert_eq!(order.check(&heartbeat(7, 3)), Ok(()));
        assert_eq!(order.check(&heartbeat(7, 9)), Ok(()));
        assert_eq!(order.check(&heartbeat(7, 9)), Err(Malformed::Order));
        assert_eq!(order.check(&heartbeat(6, 10)), Err(Malformed::Order));
        let mut order = Order::new(7);
        assert_eq!(order.check(&append(7, u64::MAX)), Ok(()));
        assert_eq!(order.check(&append(7, 0)), Err(Malformed::Order));
    }
}

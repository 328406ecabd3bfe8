//! Cuts a stream's chunks, whose edges fall anywhere, into frames without joining them.

use bytes::Bytes;

use super::chunks::Chunks;
#[cfg(any(test, feature = "sim"))]
use super::frame::encode_into;
use super::frame::{Head, MAX_FIXED};
use super::{FrameLimits, HEADER, Malformed};
use crate::core::{Class, Message};
use crate::entry::EntryBatch;
use crate::types::LogId;

/// One whole, checked frame.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) entries: EntryBatch,
    /// The bytes beside a `SnapshotChunk`.
    pub(crate) chunk: Vec<Bytes>,
}

/// What the other end of a stream makes of a message: for a network that is simulated.
///
/// # Errors
/// What a transport would close the stream for.
#[cfg(any(test, feature = "sim"))]
pub(crate) fn carry(message: &Message, body: &[Bytes]) -> Result<Received, Malformed> {
    let mut head = bytes::BytesMut::new();
    encode_into(message, body.iter().map(Bytes::len).sum(), &mut head);
    let limits = FrameLimits::default();
    let mut assembler = Assembler::new(message.class(), message.is_reply(), limits);
    assembler.feed(head.freeze());
    body.iter().for_each(|chunk| assembler.feed(chunk.clone()));
    let received = assembler.next_frame()?;
    received.ok_or(Malformed::Field("the frame is not whole"))
}

/// Gathers chunks until a frame is whole. It keeps the chunks of one frame (at most) and what came
/// after it in the same read.
#[derive(Debug)]
pub(crate) struct Assembler {
    class: Class,
    replies: bool,
    limits: FrameLimits,
    chunks: Chunks,
    head: Option<Head>,
    body: Option<(Message, usize)>,
}

impl Assembler {
    /// For a stream of `class` that brings `replies`, or else requests.
    pub(crate) fn new(class: Class, replies: bool, limits: FrameLimits) -> Self {
        Self {
            class,
            replies,
            limits,
            chunks: Chunks::default(),
            head: None,
            body: None,
        }
    }

    /// Takes the next chunk of the stream.
    pub(crate) fn feed(&mut self, chunk: Bytes) {
        self.chunks.feed(chunk);
    }

    /// Bytes gathered and not yet given out.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.chunks.len()
    }

    /// Body bytes of the next frame once they are known and all here: what
    /// [`Assembler::next_frame`] will hand out.
    pub(crate) fn ready(&mut self) -> Result<Option<usize>, Malformed> {
        self.advance()?;
        Ok(self
            .body
            .map(|(_, len)| len)
            .filter(|&len| len <= self.chunks.len()))
    }

    /// The next frame, if all of it is here.
    ///
    /// # Errors
    /// The first thing wrong with it; nothing of the stream may be used afterwards.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Received>, Malformed> {
        self.advance()?;
        let Some((message, len)) = self.body.filter(|&(_, len)| len <= self.chunks.len()) else {
            return Ok(None);
        };
        let chunks = self.chunks.take(len);
        self.body = None;
        if let Message::SnapshotChunk(_) = &message {
            return Ok(Some(Received {
                message,
                entries: EntryBatch::default(),
                chunk: chunks,
            }));
        }
        let entries = match &message {
            Message::Append(append) => {
                EntryBatch::verify(chunks, append.prev, append.count, self.limits.entry)?
            }
            Message::Found(_) => {
                EntryBatch::verify(chunks, LogId::default(), 1, self.limits.entry)?
            }
            _ => EntryBatch::default(),
        };
        Ok(Some(Received {
            message,
            entries,
            chunk: Vec::new(),
        }))
    }

    /// Parses header and fixed part as far as the bytes go.
    fn advance(&mut self) -> Result<(), Malformed> {
        if self.body.is_some() {
            return Ok(());
        }
        let head = match self.head {
            Some(head) => head,
            None => {
                let mut bytes = [0; HEADER];
                if !self.chunks.copy(&mut bytes) {
                    return Ok(());
                }
                *self
                    .head
                    .insert(Head::decode(&bytes, self.class, self.replies)?)
            }
        };
        let mut scratch = [0; MAX_FIXED];
        let Some(fixed) = scratch.get_mut(..head.kind.fixed_len()) else {
            return Err(Malformed::Field("the fixed part is too long"));
        };
        if !self.chunks.copy(fixed) {
            return Ok(());
        }
        let message = head.message(fixed, &self.limits)?;
        self.head = None;
        self.body = Some((message, head.body_len));
        Ok(())
    }
}

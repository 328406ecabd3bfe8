//! Frames by themselves, as a stream writes and reads them. For benchmarks, which ask what a frame costs
//! without a connection; hidden, and only there for them.

use bytes::{Bytes, BytesMut};

use super::{Assembler, FrameLimits, Malformed, encode_into};
use crate::core::Message;

/// Writes what stands before the body of a frame, which `body_len` bytes will follow.
pub fn encode(message: &Message, body_len: usize, out: &mut BytesMut) {
    encode_into(message, body_len, out);
}

/// Reads the frames of a stream that brings such messages.
#[derive(Debug)]
pub struct Decoder(Assembler);

impl Decoder {
    /// For the stream that this message comes by.
    pub fn of(message: &Message) -> Self {
        let limits = FrameLimits::default();
        Self(Assembler::new(message.class(), message.is_reply(), limits))
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, chunk: Bytes) {
        self.0.feed(chunk);
    }

    /// The next frame, checked, and the bytes of its body, if all of it is here.
    ///
    /// # Errors
    /// What a transport would close the stream for.
    pub fn next_frame(&mut self) -> Result<Option<(Message, usize)>, String> {
        let frame = self
            .0
            .next_frame()
            .map_err(|error: Malformed| error.to_string())?;
        Ok(frame.map(|frame| {
            let bodies = frame.entries.chunks().iter().chain(&frame.chunk);
            (frame.message, bodies.map(Bytes::len).sum())
        }))
    }
}

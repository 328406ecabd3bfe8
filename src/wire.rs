//! What peers write on a stream, byte by byte: frames, the hello, the close codes.
//!
//! Every decoder here is total: any bytes give a value or an error, never a panic, and nothing is
//! reserved beyond the limits before it was checked. `docs/wire-format.md` draws the layouts.

mod assemble;
mod chunks;
mod code;
mod forward;
#[cfg(test)]
mod forward_tests;
mod frame;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod fuzz_tests;
mod header;
mod hello;
#[doc(hidden)]
pub mod raw;
#[cfg(test)]
mod tests;

pub(crate) use assemble::Assembler;
#[cfg(any(test, feature = "sim"))]
pub(crate) use assemble::{Received, carry};
pub(crate) use code::{CloseCode, Redial, SLOW_RETRY};
pub(crate) use forward::{ForwardAssembler, ForwardFrame, ForwardRequest, encode_reply};
pub(crate) use frame::{Kind, MAX_FIXED, encode_into};
pub(crate) use hello::{HELLO_FIXED, HELLO_MAX, Hello, HelloError, addresses_fit};

use crate::config::limits;
use crate::entry::FrameError;
use crate::types::LogIndex;

/// Bytes before the fixed part of every frame.
pub(crate) const HEADER: usize = 16;

/// The only protocol version so far.
pub(crate) const PROTOCOL: u16 = 1;

/// No index on the wire is above this, so that arithmetic on indices cannot overflow.
pub(crate) const MAX_INDEX: LogIndex = 1 << 62;

/// What a receiver takes. Both sides send within the smaller of their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameLimits {
    /// Largest body, bytes.
    pub(crate) body: usize,
    /// Largest entry payload, bytes.
    pub(crate) entry: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self {
            body: limits::MAX_FRAME_BODY,
            entry: limits::MAX_ENTRY,
        }
    }
}

/// What is wrong with a frame. Closes the connection with [`Malformed::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("{0}")]
    Field(&'static str),
    #[error("a body of {len} bytes or its count is over the limit of {limit}")]
    TooLarge { len: usize, limit: usize },
    #[error("unknown kind {0:#04x}")]
    UnknownKind(u8),
    #[error("kind {0:#04x} does not belong on this stream")]
    WrongStream(u8),
    #[error("reserved bytes are not zero")]
    Reserved,
    #[error("sequence number or epoch out of order")]
    Order,
    #[error("entry {0} has a wrong checksum")]
    Checksum(LogIndex),
    #[error("the entries are not valid: {0}")]
    Entries(FrameError),
}

impl Malformed {
    pub(crate) fn code(&self) -> CloseCode {
        match self {
            Self::Field(_) | Self::Entries(_) => CloseCode::Malformed,
            Self::TooLarge { .. } => CloseCode::TooLarge,
            Self::UnknownKind(_) => CloseCode::UnknownKind,
            Self::WrongStream(_) => CloseCode::WrongStream,
            Self::Reserved => CloseCode::Reserved,
            Self::Order => CloseCode::OutOfOrder,
            Self::Checksum(_) => CloseCode::EntryChecksum,
        }
    }
}

impl From<FrameError> for Malformed {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge { len, limit } => Self::TooLarge { len, limit },
            FrameError::Checksum { index } => Self::Checksum(index),
            FrameError::Reserved => Self::Reserved,
            other => Self::Entries(other),
        }
    }
}

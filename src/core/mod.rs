//! The protocol as a pure state machine.
#![forbid(unsafe_code)]

mod message;

pub use message::*;

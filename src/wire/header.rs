//! What all frames have in common: the header, and what a field may hold.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{HEADER, MAX_INDEX, Malformed};
use crate::types::{LogIndex, MAX_TERM, Term};

/// The fixed part of a frame as it is on the wire.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub(super) struct $name { $(pub(super) $field: $type,)* }
        // Multiples of 8 keep the entry frames of a body on their grid.
        const _: () = assert!(size_of::<$name>() == $size && $size % 8 == 0);
    };
}
pub(super) use part;

part!(HeaderPart, 16 {
    kind: u8,
    flags: u8,
    fixed_len: U16,
    body_len: U32,
    term: U64,
});

const _: () = assert!(size_of::<HeaderPart>() == HEADER);

/// A proposal passed on, and what became of it: the kinds of the forward class.
pub(super) const FORWARD: u8 = 0x3c;
/// See [`FORWARD`].
pub(super) const FORWARD_REPLY: u8 = 0x3d;

pub(super) fn is_forward(kind: u8) -> bool {
    matches!(kind, FORWARD | FORWARD_REPLY)
}

pub(super) fn part_of<T: FromBytes + Unaligned>(fixed: &[u8]) -> Result<T, Malformed> {
    T::read_from_bytes(fixed).map_err(|_| Malformed::Field("the fixed part is cut off"))
}

pub(super) fn zero(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.iter().any(|&byte| byte != 0) {
        return Err(Malformed::Reserved);
    }
    Ok(())
}

pub(super) fn term(raw: U64) -> Result<Term, Malformed> {
    match raw.get() {
        term if term <= MAX_TERM => Ok(term),
        _ => Err(Malformed::Field("a term over 48 bits")),
    }
}

pub(super) fn index(raw: U64) -> Result<LogIndex, Malformed> {
    match raw.get() {
        index if index <= MAX_INDEX => Ok(index),
        _ => Err(Malformed::Field("an index out of range")),
    }
}

/// Offsets in files have the range of indices.
pub(super) fn offset(raw: U64) -> Result<u64, Malformed> {
    match raw.get() {
        offset if offset <= MAX_INDEX => Ok(offset),
        _ => Err(Malformed::Field("an offset out of range")),
    }
}

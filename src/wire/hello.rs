//! The first bytes of a connection, both ways.
//!
//! The first 16 bytes never change, so that any version can parse any other.

use bytes::{BufMut, Bytes, BytesMut};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::code::CloseCode;
use crate::network::{LinkClass, LocalFacts};
use crate::types::{ClusterId, Incarnation, NodeId};

/// Bytes before the tail.
pub(crate) const HELLO_FIXED: usize = 128;
/// Bytes at most, tail included.
pub(crate) const HELLO_MAX: usize = 512;
/// Bytes of genesis and meta_seq, which begin the tail.
const TAIL_FIXED: usize = 24;
const MAGIC: [u8; 8] = *b"cnvyraft";
const FLAG_BLANK: u8 = 1;
const FLAG_REPAIRING: u8 = 2;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    hello_len: U16,
    proto_min: U16,
    proto_max: U16,
    class: u8,
    flags: u8,
    feature_supported: U32,
    feature_required: U32,
    cluster: [u8; 16],
    node: U64,
    incarnation: [u8; 16],
    to_node: U64,
    to_incarnation: [u8; 16],
    epoch: U64,
    max_frame_body: U32,
    max_entry: U32,
    max_inflight: U32,
    heartbeat_ms: U32,
    wall_ms: U64,
    election_min_ms: U32,
    zero: U32,
}

const _: () = assert!(size_of::<Raw>() == HELLO_FIXED);

/// What both sides say first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) proto_min: u16,
    pub(crate) proto_max: u16,
    pub(crate) class: LinkClass,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) to_node: NodeId,
    /// None where the dialer does not know it yet.
    pub(crate) to_incarnation: Incarnation,
    /// Epoch of the connection's first stream; later streams count on from it.
    pub(crate) epoch: u64,
    pub(crate) max_frame_body: u32,
    pub(crate) max_entry: u32,
    pub(crate) max_inflight: u32,
    pub(crate) heartbeat_ms: u32,
    pub(crate) wall_ms: u64,
    pub(crate) election_min_ms: u32,
    pub(crate) facts: LocalFacts,
}

/// Why bytes are not a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("it does not begin with the magic bytes")]
    Magic,
    #[error("its length is out of range")]
    Length,
    #[error("class {0} is unknown")]
    Class(u8),
    #[error("unknown flags or reserved bytes are set")]
    Reserved,
    #[error("its protocol range is empty")]
    Versions,
    #[error("an address in it is not UTF-8 or cut off")]
    Address,
}

impl HelloError {
    pub(crate) const fn code(self) -> CloseCode {
        CloseCode::BadHello
    }
}

impl Hello {
    /// How long the whole hello is, read from its first [`HELLO_FIXED`] bytes.
    pub(crate) fn length(fixed: &[u8; HELLO_FIXED]) -> Result<usize, HelloError> {
        let raw: Raw = zerocopy::transmute!(*fixed);
        if raw.magic != MAGIC {
            return Err(HelloError::Magic);
        }
        let len = usize::from(raw.hello_len.get());
        if !(HELLO_FIXED..=HELLO_MAX).contains(&len) {
            return Err(HelloError::Length);
        }
        Ok(len)
    }

    /// Parses a whole hello of exactly the length that [`Hello::length`] gave.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let (raw, tail) = Raw::read_from_prefix(bytes).map_err(|_| HelloError::Length)?;
        if raw.magic != MAGIC {
            return Err(HelloError::Magic);
        }
        if usize::from(raw.hello_len.get()) != bytes.len() || bytes.len() > HELLO_MAX {
            return Err(HelloError::Length);
        }
        if raw.proto_min.get() > raw.proto_max.get() {
            return Err(HelloError::Versions);
        }
        let class = LinkClass::ALL
            .into_iter()
            .find(|&class| class as u8 == raw.class)
            .ok_or(HelloError::Class(raw.class))?;
        if raw.flags & !(FLAG_BLANK | FLAG_REPAIRING) != 0 || raw.zero.get() != 0 {
            return Err(HelloError::Reserved);
        }
        Ok(Self {
            proto_min: raw.proto_min.get(),
            proto_max: raw.proto_max.get(),
            class,
            cluster: ClusterId(raw.cluster),
            node: raw.node.get(),
            incarnation: Incarnation(raw.incarnation),
            to_node: raw.to_node.get(),
            to_incarnation: Incarnation(raw.to_incarnation),
            epoch: raw.epoch.get(),
            max_frame_body: raw.max_frame_body.get(),
            max_entry: raw.max_entry.get(),
            max_inflight: raw.max_inflight.get(),
            heartbeat_ms: raw.heartbeat_ms.get(),
            wall_ms: raw.wall_ms.get(),
            election_min_ms: raw.election_min_ms.get(),
            facts: LocalFacts {
                knows_level: raw.feature_supported.get(),
                needs_level: raw.feature_required.get(),
                ..decode_tail(tail, raw.flags)?
            },
        })
    }

    /// The bytes of it. Addresses must have been checked by [`addresses_fit`]; longer ones are
    /// left out rather than cut.
    pub(crate) fn encode(&self) -> Bytes {
        let facts = &self.facts;
        let (peer, client) = if addresses_fit(facts) {
            (facts.peer_address.as_str(), facts.client_endpoint.as_str())
        } else {
            ("", "")
        };
        let len = HELLO_FIXED + TAIL_FIXED + 4 + peer.len() + client.len();
        let mut flags = if facts.blank { FLAG_BLANK } else { 0 };
        flags |= if facts.repairing { FLAG_REPAIRING } else { 0 };
        let raw = Raw {
            magic: MAGIC,
            hello_len: U16::new(len as u16),
            proto_min: U16::new(self.proto_min),
            proto_max: U16::new(self.proto_max),
            class: self.class as u8,
            flags,
            feature_supported: U32::new(facts.knows_level),
            feature_required: U32::new(facts.needs_level),
            cluster: self.cluster.0,
            node: U64::new(self.node),
            incarnation: self.incarnation.0,
            to_node: U64::new(self.to_node),
            to_incarnation: self.to_incarnation.0,
            epoch: U64::new(self.epoch),
            max_frame_body: U32::new(self.max_frame_body),
            max_entry: U32::new(self.max_entry),
            max_inflight: U32::new(self.max_inflight),
            heartbeat_ms: U32::new(self.heartbeat_ms),
            wall_ms: U64::new(self.wall_ms),
            election_min_ms: U32::new(self.election_min_ms),
            zero: U32::ZERO,
        };
        let mut out = BytesMut::with_capacity(len);
        out.put_slice(raw.as_bytes());
        out.put_slice(&facts.genesis.0);
        out.put_u64_le(facts.meta_seq);
        for text in [peer, client] {
            out.put_u16_le(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
        out.freeze()
    }
}

/// Whether both addresses fit a hello.
pub(crate) fn addresses_fit(facts: &LocalFacts) -> bool {
    let room = HELLO_MAX - HELLO_FIXED - TAIL_FIXED - 4;
    facts.peer_address.len() + facts.client_endpoint.len() <= room
}

fn decode_tail(mut tail: &[u8], flags: u8) -> Result<LocalFacts, HelloError> {
    let Some((fixed, rest)) = tail.split_first_chunk::<TAIL_FIXED>() else {
        return Err(HelloError::Length);
    };
    let (genesis, meta_seq) = fixed.split_at(16);
    let mut facts = LocalFacts {
        blank: flags & FLAG_BLANK != 0,
        repairing: flags & FLAG_REPAIRING != 0,
        ..LocalFacts::default()
    };
    facts.genesis.0.copy_from_slice(genesis);
    facts.meta_seq = U64::read_from_bytes(meta_seq).map_or(0, U64::get);
    tail = rest;
    facts.peer_address = take_text(&mut tail)?;
    facts.client_endpoint = take_text(&mut tail)?;
    Ok(facts)
}

fn take_text(tail: &mut &[u8]) -> Result<String, HelloError> {
    let (len, rest) = U16::read_from_prefix(tail).map_err(|_| HelloError::Address)?;
    let (text, rest) = rest
        .split_at_checked(usize::from(len.get()))
        .ok_or(HelloError::Address)?;
    *tail = rest;
    let text = std::str::from_utf8(text).map_err(|_| HelloError::Address)?;
    Ok(text.to_owned())
}

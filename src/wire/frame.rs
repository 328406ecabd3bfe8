//! Frame headers and fixed parts of the kinds of message.

use bytes::{BufMut, BytesMut};
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{HeaderPart, index, is_forward, offset, part, part_of, term, zero};
use super::{FrameLimits, HEADER, Malformed};
use crate::config::limits::{MAX_FRAME_ENTRIES, MAX_SNAPSHOT_CHUNK};
use crate::core::{
    AppendAck, AppendEntries, AppendStatus, Class, Found, FoundReply, FoundStatus, Heartbeat,
    HeartbeatReply, Message, ReadIndex, ReadIndexReply, ReplicaState, SnapshotAck, SnapshotChunk,
    SnapshotOffer, SnapshotStatus, TimeoutNow, TimeoutNowReply, VoteReason, VoteReply, VoteRequest,
};
use crate::types::{Incarnation, LogId, Term};

/// The largest fixed part, bytes.
pub(crate) const MAX_FIXED: usize = size_of::<HeartbeatReplyPart>();

/// What a frame of the core's messages is. The numbers are those on the wire; those of forwarded
/// proposals are in [`super::forward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Append = 0x10,
    AppendAck = 0x11,
    PreVote = 0x20,
    PreVoteReply = 0x21,
    Vote = 0x22,
    VoteReply = 0x23,
    Heartbeat = 0x30,
    HeartbeatReply = 0x31,
    ReadIndex = 0x32,
    ReadIndexReply = 0x33,
    TimeoutNow = 0x38,
    TimeoutNowReply = 0x39,
    Found = 0x3a,
    FoundReply = 0x3b,
    SnapshotOffer = 0x40,
    SnapshotChunk = 0x41,
    SnapshotAck = 0x42,
}

impl Kind {
    pub(crate) const ALL: [Self; 17] = [
        Self::Append,
        Self::AppendAck,
        Self::PreVote,
        Self::PreVoteReply,
        Self::Vote,
        Self::VoteReply,
        Self::Heartbeat,
        Self::HeartbeatReply,
        Self::ReadIndex,
        Self::ReadIndexReply,
        Self::TimeoutNow,
        Self::TimeoutNowReply,
        Self::Found,
        Self::FoundReply,
        Self::SnapshotOffer,
        Self::SnapshotChunk,
        Self::SnapshotAck,
    ];

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == number)
    }

    pub(crate) const fn of(message: &Message) -> Self {
        match message {
            Message::Append(_) => Self::Append,
            Message::AppendAck(_) => Self::AppendAck,
            Message::PreVote(_) => Self::PreVote,
            Message::PreVoteReply(_) => Self::PreVoteReply,
            Message::Vote(_) => Self::Vote,
            Message::VoteReply(_) => Self::VoteReply,
            Message::Heartbeat(_) => Self::Heartbeat,
            Message::HeartbeatReply(_) => Self::HeartbeatReply,
            Message::ReadIndex(_) => Self::ReadIndex,
            Message::ReadIndexReply(_) => Self::ReadIndexReply,
            Message::TimeoutNow(_) => Self::TimeoutNow,
            Message::TimeoutNowReply(_) => Self::TimeoutNowReply,
            Message::Found(_) => Self::Found,
            Message::FoundReply(_) => Self::FoundReply,
            Message::SnapshotOffer(_) => Self::SnapshotOffer,
            Message::SnapshotChunk(_) => Self::SnapshotChunk,
            Message::SnapshotAck(_) => Self::SnapshotAck,
        }
    }

    /// Its name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::AppendAck => "append_ack",
            Self::PreVote => "pre_vote",
            Self::PreVoteReply => "pre_vote_reply",
            Self::Vote => "vote",
            Self::VoteReply => "vote_reply",
            Self::Heartbeat => "heartbeat",
            Self::HeartbeatReply => "heartbeat_reply",
            Self::ReadIndex => "read_index",
            Self::ReadIndexReply => "read_index_reply",
            Self::TimeoutNow => "timeout_now",
            Self::TimeoutNowReply => "timeout_now_reply",
            Self::Found => "found",
            Self::FoundReply => "found_reply",
            Self::SnapshotOffer => "snapshot_offer",
            Self::SnapshotChunk => "snapshot_chunk",
            Self::SnapshotAck => "snapshot_ack",
        }
    }

    const fn class(self) -> Class {
        match self {
            Self::Append | Self::AppendAck => Class::Data,
            Self::SnapshotOffer | Self::SnapshotChunk | Self::SnapshotAck => Class::Bulk,
            _ => Class::Control,
        }
    }

    const fn is_reply(self) -> bool {
        match self {
            Self::SnapshotOffer | Self::SnapshotChunk => false,
            Self::SnapshotAck => true,
            other => other as u8 & 1 == 1,
        }
    }

    pub(crate) const fn fixed_len(self) -> usize {
        match self {
            Self::Append => size_of::<AppendPart>(),
            Self::AppendAck => size_of::<AppendAckPart>(),
            Self::PreVote | Self::Vote => size_of::<VotePart>(),
            Self::PreVoteReply | Self::VoteReply => size_of::<VoteReplyPart>(),
            Self::Heartbeat => size_of::<HeartbeatPart>(),
            Self::HeartbeatReply => size_of::<HeartbeatReplyPart>(),
            Self::ReadIndex => size_of::<ReadIndexPart>(),
            Self::ReadIndexReply => size_of::<ReadIndexReplyPart>(),
            Self::TimeoutNow => size_of::<TimeoutNowPart>(),
            Self::TimeoutNowReply => size_of::<TimeoutNowReplyPart>(),
            Self::Found => size_of::<FoundPart>(),
            Self::FoundReply => size_of::<FoundReplyPart>(),
            Self::SnapshotOffer => size_of::<OfferPart>(),
            Self::SnapshotChunk => size_of::<ChunkPart>(),
            Self::SnapshotAck => size_of::<SnapshotAckPart>(),
        }
    }

    const fn has_body(self) -> bool {
        matches!(self, Self::Append | Self::Found | Self::SnapshotChunk)
    }
}

part!(AppendPart, 56 {
    epoch: U64,
    seq: U64,
    prev_index: U64,
    prev_term: U64,
    commit: U64,
    sent_at: U64,
    count: U32,
    zero: U32,
});
part!(AppendAckPart, 72 {
    incarnation: [u8; 16],
    epoch: U64,
    seq: U64,
    match_index: U64,
    conflict_index: U64,
    conflict_term: U64,
    sent_at: U64,
    status: u8,
    state: u8,
    zero: [u8; 6],
});
part!(VotePart, 48 {
    incarnation: [u8; 16],
    round: U64,
    last_index: U64,
    last_term: U64,
    campaign: u8,
    zero: [u8; 7],
});
part!(VoteReplyPart, 32 {
    incarnation: [u8; 16],
    round: U64,
    granted: u8,
    reason: u8,
    state: u8,
    zero: [u8; 5],
});
part!(HeartbeatPart, 64 {
    epoch: U64,
    seq: U64,
    commit: U64,
    sent_at: U64,
    read_id: U64,
    digest_index: U64,
    digest: [u8; 16],
});
part!(HeartbeatReplyPart, 88 {
    incarnation: [u8; 16],
    epoch: U64,
    seq: U64,
    sent_at: U64,
    read_id: U64,
    applied: U64,
    digest_index: U64,
    digest: [u8; 16],
    election_timeout_min_ms: U32,
    state: u8,
    zero: [u8; 3],
});
part!(ReadIndexPart, 24 {
    incarnation: [u8; 16],
    id: U64,
});
part!(ReadIndexReplyPart, 24 {
    id: U64,
    index: U64,
    status: u8,
    zero: [u8; 7],
});
part!(TimeoutNowPart, 32 {
    target: [u8; 16],
    last_index: U64,
    last_term: U64,
});
part!(TimeoutNowReplyPart, 24 {
    incarnation: [u8; 16],
    accepted: u8,
    zero: [u8; 7],
});
part!(FoundPart, 16 { founder: [u8; 16], });
part!(FoundReplyPart, 24 {
    incarnation: [u8; 16],
    status: u8,
    zero: [u8; 7],
});
part!(OfferPart, 80 {
    id: U128,
    last_index: U64,
    last_term: U64,
    len: U64,
    hash: [u8; 32],
    chunk: U32,
    format: U32,
});
part!(ChunkPart, 32 {
    id: U128,
    offset: U64,
    crc: U32,
    zero: U32,
});
part!(SnapshotAckPart, 48 {
    incarnation: [u8; 16],
    id: U128,
    next_offset: U64,
    status: u8,
    zero: [u8; 7],
});

/// A frame's header, checked as far as it can be without the fixed part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) body_len: usize,
    term: Term,
}

impl Head {
    /// Checks kind, stream, fixed length and flags, in this order.
    ///
    /// `replies`: whether this stream brings replies (the one that this node dialled) or requests.
    pub(crate) fn decode(
        bytes: &[u8; HEADER],
        class: Class,
        replies: bool,
    ) -> Result<Self, Malformed> {
        let raw: HeaderPart = zerocopy::transmute!(*bytes);
        let kind = match Kind::from_number(raw.kind) {
            Some(kind) => kind,
            None if is_forward(raw.kind) => return Err(Malformed::WrongStream(raw.kind)),
            None => return Err(Malformed::UnknownKind(raw.kind)),
        };
        if kind.class() != class || kind.is_reply() != replies {
            return Err(Malformed::WrongStream(raw.kind));
        }
        if usize::from(raw.fixed_len.get()) != kind.fixed_len() {
            return Err(Malformed::Field("fixed_len is not that of the kind"));
        }
        if raw.flags != 0 {
            return Err(Malformed::Reserved);
        }
        Ok(Self {
            kind,
            body_len: raw.body_len.get() as usize,
            term: term(raw.term)?,
        })
    }

    /// Checks the fixed part and then the length of the body, which the caller may gather next.
    pub(crate) fn message(&self, fixed: &[u8], limits: &FrameLimits) -> Result<Message, Malformed> {
        let message = self.fixed(fixed)?;
        if !self.kind.has_body() && self.body_len != 0 {
            return Err(Malformed::Field("a body where the kind has none"));
        }
        if self.body_len > limits.body {
            let (len, limit) = (self.body_len, limits.body);
            return Err(Malformed::TooLarge { len, limit });
        }
        if self.kind == Kind::SnapshotChunk {
            let (len, limit) = (self.body_len, MAX_SNAPSHOT_CHUNK);
            return match len {
                0 => Err(Malformed::Field("a chunk without bytes")),
                _ if len > limit => Err(Malformed::TooLarge { len, limit }),
                _ => Ok(message),
            };
        }
        if let Message::Append(append) = &message {
            if append.count > MAX_FRAME_ENTRIES {
                let (len, limit) = (append.count as usize, MAX_FRAME_ENTRIES as usize);
                return Err(Malformed::TooLarge { len, limit });
            }
            if (append.count == 0) != (self.body_len == 0) {
                return Err(Malformed::Field("the count does not fit the body"));
            }
        }
        Ok(message)
    }

    fn fixed(&self, fixed: &[u8]) -> Result<Message, Malformed> {
        let term = self.term;
        Ok(match self.kind {
            Kind::Append => Message::Append(append(term, part_of(fixed)?)?),
            Kind::AppendAck => Message::AppendAck(append_ack(term, part_of(fixed)?)?),
            Kind::PreVote => Message::PreVote(vote(term, part_of(fixed)?)?),
            Kind::Vote => Message::Vote(vote(term, part_of(fixed)?)?),
            Kind::PreVoteReply => Message::PreVoteReply(vote_reply(term, part_of(fixed)?)?),
            Kind::VoteReply => Message::VoteReply(vote_reply(term, part_of(fixed)?)?),
            Kind::Heartbeat => Message::Heartbeat(heartbeat(term, part_of(fixed)?)?),
            Kind::HeartbeatReply => {
                Message::HeartbeatReply(heartbeat_reply(term, part_of(fixed)?)?)
            }
            Kind::ReadIndex => Message::ReadIndex(read_index(term, part_of(fixed)?)),
            Kind::ReadIndexReply => {
                Message::ReadIndexReply(read_index_reply(term, part_of(fixed)?)?)
            }
            Kind::TimeoutNow => Message::TimeoutNow(timeout_now(term, part_of(fixed)?)?),
            Kind::TimeoutNowReply => {
                Message::TimeoutNowReply(timeout_now_reply(term, part_of(fixed)?)?)
            }
            Kind::Found => {
                let raw: FoundPart = part_of(fixed)?;
                let founder = Incarnation(raw.founder);
                Message::Found(Found { term, founder })
            }
            Kind::FoundReply => Message::FoundReply(found_reply(term, part_of(fixed)?)?),
            Kind::SnapshotOffer => Message::SnapshotOffer(offer(term, part_of(fixed)?)?),
            Kind::SnapshotChunk => Message::SnapshotChunk(chunk(term, part_of(fixed)?)?),
            Kind::SnapshotAck => Message::SnapshotAck(snapshot_ack(term, part_of(fixed)?)?),
        })
    }
}

fn log_id(term_: U64, index_: U64) -> Result<LogId, Malformed> {
    Ok(LogId::new(term(term_)?, index(index_)?))
}

fn flag(byte: u8) -> Result<bool, Malformed> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Field("a flag that is neither 0 nor 1")),
    }
}

fn state(byte: u8) -> Result<ReplicaState, Malformed> {
    match byte {
        0 => Ok(ReplicaState::Member),
        1 => Ok(ReplicaState::Blank),
        2 => Ok(ReplicaState::Repairing),
        3 => Ok(ReplicaState::Quarantined),
        _ => Err(Malformed::Field("an unknown state")),
    }
}

fn append(term: Term, raw: AppendPart) -> Result<AppendEntries, Malformed> {
    zero(raw.zero.as_bytes())?;
    Ok(AppendEntries {
        term,
        epoch: raw.epoch.get(),
        seq: raw.seq.get(),
        prev: log_id(raw.prev_term, raw.prev_index)?,
        commit: index(raw.commit)?,
        sent_at: raw.sent_at.get(),
        count: raw.count.get(),
    })
}

fn append_ack(term: Term, raw: AppendAckPart) -> Result<AppendAck, Malformed> {
    zero(&raw.zero)?;
    let status = match raw.status {
        0 => AppendStatus::Matched,
        1 => AppendStatus::Conflict,
        2 => AppendStatus::StaleTerm,
        3 => AppendStatus::Busy,
        _ => return Err(Malformed::Field("an unknown append status")),
    };
    Ok(AppendAck {
        term,
        incarnation: Incarnation(raw.incarnation),
        epoch: raw.epoch.get(),
        seq: raw.seq.get(),
        match_index: index(raw.match_index)?,
        conflict: log_id(raw.conflict_term, raw.conflict_index)?,
        sent_at: raw.sent_at.get(),
        status,
        state: state(raw.state)?,
    })
}

fn vote(term: Term, raw: VotePart) -> Result<VoteRequest, Malformed> {
    zero(&raw.zero)?;
    Ok(VoteRequest {
        term,
        incarnation: Incarnation(raw.incarnation),
        round: raw.round.get(),
        last: log_id(raw.last_term, raw.last_index)?,
        transfer: flag(raw.campaign)?,
    })
}

fn vote_reply(term: Term, raw: VoteReplyPart) -> Result<VoteReply, Malformed> {
    zero(&raw.zero)?;
    let reason = match raw.reason {
        0 => VoteReason::Granted,
        1 => VoteReason::StaleTerm,
        2 => VoteReason::AlreadyVoted,
        3 => VoteReason::LogBehind,
        4 => VoteReason::Sticky,
        5 => VoteReason::NoVoter,
        _ => return Err(Malformed::Field("an unknown vote reason")),
    };
    let granted = flag(raw.granted)?;
    Ok(VoteReply {
        term,
        incarnation: Incarnation(raw.incarnation),
        round: raw.round.get(),
        granted,
        reason,
        state: state(raw.state)?,
    })
}

fn heartbeat(term: Term, raw: HeartbeatPart) -> Result<Heartbeat, Malformed> {
    Ok(Heartbeat {
        term,
        epoch: raw.epoch.get(),
        seq: raw.seq.get(),
        commit: index(raw.commit)?,
        sent_at: raw.sent_at.get(),
        read_id: raw.read_id.get(),
        digest_index: index(raw.digest_index)?,
        digest: u128::from_le_bytes(raw.digest),
    })
}

fn heartbeat_reply(term: Term, raw: HeartbeatReplyPart) -> Result<HeartbeatReply, Malformed> {
    zero(&raw.zero)?;
    Ok(HeartbeatReply {
        term,
        incarnation: Incarnation(raw.incarnation),
        epoch: raw.epoch.get(),
        seq: raw.seq.get(),
        sent_at: raw.sent_at.get(),
        read_id: raw.read_id.get(),
        applied: index(raw.applied)?,
        digest_index: index(raw.digest_index)?,
        digest: u128::from_le_bytes(raw.digest),
        election_timeout_min_ms: raw.election_timeout_min_ms.get(),
        state: state(raw.state)?,
    })
}

fn read_index(term: Term, raw: ReadIndexPart) -> ReadIndex {
    ReadIndex {
        term,
        incarnation: Incarnation(raw.incarnation),
        id: raw.id.get(),
    }
}

fn read_index_reply(term: Term, raw: ReadIndexReplyPart) -> Result<ReadIndexReply, Malformed> {
    zero(&raw.zero)?;
    let reflects = index(raw.index)?;
    let index = match (raw.status, reflects) {
        (0, index) => Some(index),
        (1, 0) => None,
        (1, _) => return Err(Malformed::Field("an index in a refusal")),
        _ => return Err(Malformed::Field("an unknown read status")),
    };
    Ok(ReadIndexReply {
        term,
        id: raw.id.get(),
        index,
    })
}

fn timeout_now(term: Term, raw: TimeoutNowPart) -> Result<TimeoutNow, Malformed> {
    Ok(TimeoutNow {
        term,
        target: Incarnation(raw.target),
        last: log_id(raw.last_term, raw.last_index)?,
    })
}

fn timeout_now_reply(term: Term, raw: TimeoutNowReplyPart) -> Result<TimeoutNowReply, Malformed> {
    zero(&raw.zero)?;
    Ok(TimeoutNowReply {
        term,
        incarnation: Incarnation(raw.incarnation),
        accepted: flag(raw.accepted)?,
    })
}

fn found_reply(term: Term, raw: FoundReplyPart) -> Result<FoundReply, Malformed> {
    zero(&raw.zero)?;
    let status = match raw.status {
        0 => FoundStatus::Stored,
        1 => FoundStatus::Refused,
        _ => return Err(Malformed::Field("an unknown founding status")),
    };
    Ok(FoundReply {
        term,
        incarnation: Incarnation(raw.incarnation),
        status,
    })
}

fn offer(term: Term, raw: OfferPart) -> Result<SnapshotOffer, Malformed> {
    let chunk = raw.chunk.get();
    if chunk == 0 || chunk as usize > MAX_SNAPSHOT_CHUNK {
        return Err(Malformed::Field("a length of chunks out of range"));
    }
    if raw.hash.get(..16) != Some(raw.id.as_bytes()) {
        return Err(Malformed::Field("an id that is not half of the hash"));
    }
    Ok(SnapshotOffer {
        term,
        id: raw.id.get(),
        last: log_id(raw.last_term, raw.last_index)?,
        len: offset(raw.len)?,
        hash: raw.hash,
        chunk,
        format: raw.format.get(),
    })
}

fn chunk(term: Term, raw: ChunkPart) -> Result<SnapshotChunk, Malformed> {
    zero(raw.zero.as_bytes())?;
    Ok(SnapshotChunk {
        term,
        id: raw.id.get(),
        offset: offset(raw.offset)?,
        crc: raw.crc.get(),
    })
}

fn snapshot_ack(term: Term, raw: SnapshotAckPart) -> Result<SnapshotAck, Malformed> {
    zero(&raw.zero)?;
    let status = match raw.status {
        0 => SnapshotStatus::Receiving,
        1 => SnapshotStatus::Installing,
        2 => SnapshotStatus::Installed,
        3 => SnapshotStatus::Busy,
        4 => SnapshotStatus::Damaged,
        5 => SnapshotStatus::Refused,
        6 => SnapshotStatus::StaleTerm,
        _ => return Err(Malformed::Field("an unknown snapshot status")),
    };
    Ok(SnapshotAck {
        term,
        incarnation: Incarnation(raw.incarnation),
        id: raw.id.get(),
        next_offset: offset(raw.next_offset)?,
        status,
    })
}

/// Writes the header and fixed part of `message`, which `body_len` bytes will follow.
pub(crate) fn encode_into(message: &Message, body_len: usize, out: &mut BytesMut) {
    let kind = Kind::of(message);
    let header = HeaderPart {
        kind: kind as u8,
        flags: 0,
        fixed_len: U16::new(kind.fixed_len() as u16),
        body_len: U32::new(body_len as u32),
        term: U64::new(message.term()),
    };
    out.reserve(HEADER + kind.fixed_len());
    out.put_slice(header.as_bytes());
    match message {
        Message::Append(m) => out.put_slice(append_part(m).as_bytes()),
        Message::AppendAck(m) => out.put_slice(append_ack_part(m).as_bytes()),
        Message::PreVote(m) | Message::Vote(m) => out.put_slice(vote_part(m).as_bytes()),
        Message::PreVoteReply(m) | Message::VoteReply(m) => {
            out.put_slice(vote_reply_part(m).as_bytes());
        }
        Message::Heartbeat(m) => out.put_slice(heartbeat_part(m).as_bytes()),
        Message::HeartbeatReply(m) => out.put_slice(heartbeat_reply_part(m).as_bytes()),
        Message::ReadIndex(m) => out.put_slice(read_index_part(m).as_bytes()),
        Message::ReadIndexReply(m) => out.put_slice(read_index_reply_part(m).as_bytes()),
        Message::TimeoutNow(m) => out.put_slice(timeout_now_part(m).as_bytes()),
        Message::TimeoutNowReply(m) => out.put_slice(timeout_now_reply_part(m).as_bytes()),
        Message::Found(m) => out.put_slice(&m.founder.0),
        Message::FoundReply(m) => {
            let (incarnation, status) = (m.incarnation.0, m.status as u8);
            let zero = [0; 7];
            let part = FoundReplyPart {
                incarnation,
                status,
                zero,
            };
            out.put_slice(part.as_bytes());
        }
        Message::SnapshotOffer(m) => out.put_slice(offer_part(m).as_bytes()),
        Message::SnapshotChunk(m) => out.put_slice(chunk_part(m).as_bytes()),
        Message::SnapshotAck(m) => out.put_slice(snapshot_ack_part(m).as_bytes()),
    }
}

fn append_part(m: &AppendEntries) -> AppendPart {
    AppendPart {
        epoch: U64::new(m.epoch),
        seq: U64::new(m.seq),
        prev_index: U64::new(m.prev.index),
        prev_term: U64::new(m.prev.term),
        commit: U64::new(m.commit),
        sent_at: U64::new(m.sent_at),
        count: U32::new(m.count),
        zero: U32::ZERO,
    }
}

fn append_ack_part(m: &AppendAck) -> AppendAckPart {
    AppendAckPart {
        incarnation: m.incarnation.0,
        epoch: U64::new(m.epoch),
        seq: U64::new(m.seq),
        match_index: U64::new(m.match_index),
        conflict_index: U64::new(m.conflict.index),
        conflict_term: U64::new(m.conflict.term),
        sent_at: U64::new(m.sent_at),
        status: m.status as u8,
        state: m.state as u8,
        zero: [0; 6],
    }
}

fn vote_part(m: &VoteRequest) -> VotePart {
    VotePart {
        incarnation: m.incarnation.0,
        round: U64::new(m.round),
        last_index: U64::new(m.last.index),
        last_term: U64::new(m.last.term),
        campaign: m.transfer.into(),
        zero: [0; 7],
    }
}

fn vote_reply_part(m: &VoteReply) -> VoteReplyPart {
    VoteReplyPart {
        incarnation: m.incarnation.0,
        round: U64::new(m.round),
        granted: m.granted.into(),
        reason: m.reason as u8,
        state: m.state as u8,
        zero: [0; 5],
    }
}

fn heartbeat_part(m: &Heartbeat) -> HeartbeatPart {
    HeartbeatPart {
        epoch: U64::new(m.epoch),
        seq: U64::new(m.seq),
        commit: U64::new(m.commit),
        sent_at: U64::new(m.sent_at),
        read_id: U64::new(m.read_id),
        digest_index: U64::new(m.digest_index),
        digest: m.digest.to_le_bytes(),
    }
}

fn heartbeat_reply_part(m: &HeartbeatReply) -> HeartbeatReplyPart {
    HeartbeatReplyPart {
        incarnation: m.incarnation.0,
        epoch: U64::new(m.epoch),
        seq: U64::new(m.seq),
        sent_at: U64::new(m.sent_at),
        read_id: U64::new(m.read_id),
        applied: U64::new(m.applied),
        digest_index: U64::new(m.digest_index),
        digest: m.digest.to_le_bytes(),
        election_timeout_min_ms: U32::new(m.election_timeout_min_ms),
        state: m.state as u8,
        zero: [0; 3],
    }
}

fn read_index_part(m: &ReadIndex) -> ReadIndexPart {
    ReadIndexPart {
        incarnation: m.incarnation.0,
        id: U64::new(m.id),
    }
}

fn read_index_reply_part(m: &ReadIndexReply) -> ReadIndexReplyPart {
    ReadIndexReplyPart {
        id: U64::new(m.id),
        index: U64::new(m.index.unwrap_or_default()),
        status: m.index.is_none().into(),
        zero: [0; 7],
    }
}

fn timeout_now_part(m: &TimeoutNow) -> TimeoutNowPart {
    TimeoutNowPart {
        target: m.target.0,
        last_index: U64::new(m.last.index),
        last_term: U64::new(m.last.term),
    }
}

fn timeout_now_reply_part(m: &TimeoutNowReply) -> TimeoutNowReplyPart {
    TimeoutNowReplyPart {
        incarnation: m.incarnation.0,
        accepted: m.accepted.into(),
        zero: [0; 7],
    }
}

fn offer_part(m: &SnapshotOffer) -> OfferPart {
    OfferPart {
        id: U128::new(m.id),
        last_index: U64::new(m.last.index),
        last_term: U64::new(m.last.term),
        len: U64::new(m.len),
        hash: m.hash,
        chunk: U32::new(m.chunk),
        format: U32::new(m.format),
    }
}

fn chunk_part(m: &SnapshotChunk) -> ChunkPart {
    ChunkPart {
        id: U128::new(m.id),
        offset: U64::new(m.offset),
        crc: U32::new(m.crc),
        zero: U32::ZERO,
    }
}

fn snapshot_ack_part(m: &SnapshotAck) -> SnapshotAckPart {
    SnapshotAckPart {
        incarnation: m.incarnation.0,
        id: U128::new(m.id),
        next_offset: U64::new(m.next_offset),
        status: m.status as u8,
        zero: [0; 7],
    }
}

//! The frames of the forward class: proposals passed on, and what became of them. The core knows
//! nothing of them.

use bytes::{BufMut, Bytes, BytesMut};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunks::Chunks;
use super::header::{
    FORWARD, FORWARD_REPLY, HeaderPart, index, is_forward, part, part_of, term, zero,
};
use super::{FrameLimits, HEADER, Kind, Malformed};
use crate::network::{ForwardOutcome, InLine};
use crate::types::{EntryKind, LogIndex, Term};

part!(RequestPart, 32 {
    id: U64,
    line: U64,
    place: U64,
    deadline_ms: U32,
    entry_kind: u8,
    zero: [u8; 3],
});
part!(ReplyPart, 24 {
    id: U64,
    index: U64,
    status: u8,
    certainty: u8,
    zero: [u8; 6],
});

/// Bytes of a text that is told at most.
const TEXT: usize = 1 << 10;

/// A proposal passed on, without the payload that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForwardRequest {
    pub(crate) term: Term,
    /// Chosen by the asker, rising on a stream.
    pub(crate) id: u64,
    pub(crate) kind: EntryKind,
    pub(crate) deadline_ms: u32,
    pub(crate) line: Option<InLine>,
}

/// One whole, checked frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ForwardFrame {
    Request(ForwardRequest, Bytes),
    Reply(u64, ForwardOutcome),
}

impl ForwardRequest {
    /// The frame's head; `payload_len` bytes follow.
    pub(crate) fn encode(&self, payload_len: usize, out: &mut BytesMut) {
        let (line, place) = self.line.map_or((0, 0), |it| (it.number, it.place));
        let part = RequestPart {
            id: U64::new(self.id),
            line: U64::new(line),
            place: U64::new(place),
            deadline_ms: U32::new(self.deadline_ms),
            entry_kind: self.kind as u8,
            zero: [0; 3],
        };
        encode_header(FORWARD, self.term, size_of_val(&part), payload_len, out);
        out.put_slice(part.as_bytes());
    }
}

fn encode_header(kind: u8, term: Term, fixed: usize, body: usize, out: &mut BytesMut) {
    let header = HeaderPart {
        kind,
        flags: 0,
        fixed_len: U16::new(fixed as u16),
        body_len: U32::new(body as u32),
        term: U64::new(term),
    };
    out.reserve(HEADER + fixed);
    out.put_slice(header.as_bytes());
}

/// Statuses as on the wire.
mod status {
    pub(super) const APPLIED: u8 = 0;
    pub(super) const NOT_LEADER: u8 = 1;
    pub(super) const OVERLOADED: u8 = 2;
    pub(super) const INVALID: u8 = 3;
    pub(super) const UNKNOWN: u8 = 4;
    pub(super) const DEADLINE: u8 = 5;
    pub(super) const SHUTTING_DOWN: u8 = 6;
    pub(super) const FAILED: u8 = 7;
    pub(super) const SESSION_EXPIRED: u8 = 8;
    pub(super) const SESSION_STALE: u8 = 9;
    pub(super) const SESSION_FULL: u8 = 10;
    pub(super) const ANSWER_NOT_KEPT: u8 = 11;
    pub(super) const OVERTAKING: u8 = 12;
}

/// Whether the proposal may have taken effect: 0 certainly not, 1 nobody knows, 2 it did. It follows
/// from the status, so that a reader who knows only this byte knows enough.
const fn certainty(of: u8) -> u8 {
    match of {
        status::APPLIED | status::ANSWER_NOT_KEPT => 2,
        status::UNKNOWN => 1,
        _ => 0,
    }
}

/// The frame that answers request `id`. A response over the limit of bodies is not told.
pub(crate) fn encode_reply(id: u64, outcome: &ForwardOutcome, limits: &FrameLimits) -> Bytes {
    let mut body = BytesMut::new();
    let (status, index, term) = encode_outcome(outcome, limits, &mut body);
    let part = ReplyPart {
        id: U64::new(id),
        index: U64::new(index),
        status,
        certainty: certainty(status),
        zero: [0; 6],
    };
    let mut out = BytesMut::with_capacity(HEADER + size_of_val(&part) + body.len());
    encode_header(
        FORWARD_REPLY,
        term,
        size_of_val(&part),
        body.len(),
        &mut out,
    );
    out.put_slice(part.as_bytes());
    out.put_slice(&body);
    out.freeze()
}

/// Status, index and term; the body goes to `body`.
fn encode_outcome(
    outcome: &ForwardOutcome,
    limits: &FrameLimits,
    body: &mut BytesMut,
) -> (u8, LogIndex, Term) {
    use ForwardOutcome as Of;
    match outcome {
        Of::Applied { response, .. } if response.len() > limits.body => {
            (status::ANSWER_NOT_KEPT, 0, 0)
        }
        Of::Applied {
            index,
            term,
            response,
        } => {
            body.put_slice(response);
            (status::APPLIED, *index, *term)
        }
        Of::NotLeader {
            leader,
            term,
            endpoint,
        } => {
            body.put_u64_le(*leader);
            body.put_slice(short(endpoint).as_bytes());
            (status::NOT_LEADER, 0, *term)
        }
        Of::Overloaded { retry_after_ms } => {
            body.put_u64_le(*retry_after_ms);
            (status::OVERLOADED, 0, 0)
        }
        Of::Invalid { field, why } => {
            let (field, why) = (short(field), short(why));
            body.put_u16_le(field.len() as u16);
            body.put_slice(field.as_bytes());
            body.put_slice(why.as_bytes());
            (status::INVALID, 0, 0)
        }
        Of::Unknown { index, term } => (status::UNKNOWN, *index, *term),
        Of::Deadline => (status::DEADLINE, 0, 0),
        Of::ShuttingDown => (status::SHUTTING_DOWN, 0, 0),
        Of::Failed(why) => {
            body.put_slice(short(why).as_bytes());
            (status::FAILED, 0, 0)
        }
        Of::SessionExpired => (status::SESSION_EXPIRED, 0, 0),
        Of::SessionStale { floor } => {
            body.put_u64_le(*floor);
            (status::SESSION_STALE, 0, 0)
        }
        Of::SessionFull { floor, window } => {
            body.put_u64_le(*floor);
            body.put_u64_le(*window);
            (status::SESSION_FULL, 0, 0)
        }
        Of::AnswerNotKept => (status::ANSWER_NOT_KEPT, 0, 0),
        Of::Overtaking => (status::OVERTAKING, 0, 0),
    }
}

/// As much of a text as is told.
fn short(text: &str) -> &str {
    let end = text.floor_char_boundary(TEXT);
    text.get(..end).unwrap_or_default()
}

/// A reply without its body.
#[derive(Clone, Copy, Debug)]
struct ReplyHead {
    id: u64,
    index: LogIndex,
    term: Term,
    status: u8,
}

#[derive(Clone, Copy, Debug)]
enum Fixed {
    Request(ForwardRequest),
    Reply(ReplyHead),
}

/// Gathers the chunks of a forward stream until a frame is whole.
#[derive(Debug)]
pub(crate) struct ForwardAssembler {
    replies: bool,
    limits: FrameLimits,
    chunks: Chunks,
    /// Lengths of the fixed part and the body, and the term.
    head: Option<(usize, usize, Term)>,
    fixed: Option<(Fixed, usize)>,
}

impl ForwardAssembler {
    /// For a stream that brings `replies`, or else requests.
    pub(crate) fn new(replies: bool, limits: FrameLimits) -> Self {
        Self {
            replies,
            limits,
            chunks: Chunks::default(),
            head: None,
            fixed: None,
        }
    }

    /// Takes the next chunk of the stream.
    pub(crate) fn feed(&mut self, chunk: Bytes) {
        self.chunks.feed(chunk);
    }

    /// The next frame, if all of it is here. Its payload is a copy: it outlives the datagrams.
    ///
    /// # Errors
    /// The first thing wrong with it; nothing of the stream may be used afterwards.
    pub(crate) fn next_frame(&mut self) -> Result<Option<ForwardFrame>, Malformed> {
        if self.fixed.is_none() {
            self.advance()?;
        }
        let Some((fixed, len)) = self.fixed.filter(|&(_, len)| len <= self.chunks.len()) else {
            return Ok(None);
        };
        self.fixed = None;
        let body = Bytes::from(self.chunks.take(len).concat());
        Ok(Some(match fixed {
            Fixed::Request(request) => ForwardFrame::Request(request, body),
            Fixed::Reply(head) => ForwardFrame::Reply(head.id, outcome(head, body)?),
        }))
    }

    fn advance(&mut self) -> Result<(), Malformed> {
        let (fixed_len, body_len, term) = match self.head {
            Some(head) => head,
            None => {
                let mut bytes = [0; HEADER];
                if !self.chunks.copy(&mut bytes) {
                    return Ok(());
                }
                *self.head.insert(self.header(&bytes)?)
            }
        };
        let mut scratch = [0; size_of::<RequestPart>()];
        let Some(bytes) = scratch.get_mut(..fixed_len) else {
            return Err(Malformed::Field("the fixed part is too long"));
        };
        if !self.chunks.copy(bytes) {
            return Ok(());
        }
        let (fixed, limit) = if self.replies {
            (
                Fixed::Reply(reply(term, part_of(bytes)?)?),
                self.limits.body,
            )
        } else {
            let request = request(term, part_of(bytes)?)?;
            (Fixed::Request(request), self.limits.entry)
        };
        if body_len > limit {
            let len = body_len;
            return Err(Malformed::TooLarge { len, limit });
        }
        self.head = None;
        self.fixed = Some((fixed, body_len));
        Ok(())
    }

    /// Checks kind, stream, fixed length and flags, in this order.
    fn header(&self, bytes: &[u8; HEADER]) -> Result<(usize, usize, Term), Malformed> {
        let raw: HeaderPart = zerocopy::transmute!(*bytes);
        let (kind, len) = if self.replies {
            (FORWARD_REPLY, size_of::<ReplyPart>())
        } else {
            (FORWARD, size_of::<RequestPart>())
        };
        if raw.kind != kind {
            let known = is_forward(raw.kind) || Kind::from_number(raw.kind).is_some();
            return Err(match known {
                true => Malformed::WrongStream(raw.kind),
                false => Malformed::UnknownKind(raw.kind),
            });
        }
        if usize::from(raw.fixed_len.get()) != len {
            return Err(Malformed::Field("fixed_len is not that of the kind"));
        }
        if raw.flags != 0 {
            return Err(Malformed::Reserved);
        }
        Ok((len, raw.body_len.get() as usize, term(raw.term)?))
    }
}

fn request(term: Term, raw: RequestPart) -> Result<ForwardRequest, Malformed> {
    zero(&raw.zero)?;
    let kind = match EntryKind::from_u8(raw.entry_kind) {
        Some(kind @ (EntryKind::Command | EntryKind::System)) => kind,
        _ => return Err(Malformed::Field("a kind of entry that nobody proposes")),
    };
    let line = match (raw.line.get(), raw.place.get()) {
        (0, 0) => None,
        (0, _) => return Err(Malformed::Field("a place in no line")),
        (number, place) => Some(InLine { number, place }),
    };
    Ok(ForwardRequest {
        term,
        id: raw.id.get(),
        kind,
        deadline_ms: raw.deadline_ms.get(),
        line,
    })
}

fn reply(term: Term, raw: ReplyPart) -> Result<ReplyHead, Malformed> {
    zero(&raw.zero)?;
    let (status, index) = (raw.status, index(raw.index)?);
    if status > status::OVERTAKING {
        return Err(Malformed::Field("an unknown status of a proposal"));
    }
    if raw.certainty != certainty(status) {
        return Err(Malformed::Field("a certainty that does not fit the status"));
    }
    if index != 0 && !matches!(status, status::APPLIED | status::UNKNOWN) {
        return Err(Malformed::Field("an index in a refusal"));
    }
    let has_term = status <= status::NOT_LEADER || status == status::UNKNOWN;
    if term != 0 && !has_term {
        return Err(Malformed::Field("a term in a refusal"));
    }
    Ok(ReplyHead {
        id: raw.id.get(),
        index,
        term,
        status,
    })
}

fn outcome(head: ReplyHead, body: Bytes) -> Result<ForwardOutcome, Malformed> {
    use ForwardOutcome as Of;
    let ReplyHead { index, term, .. } = head;
    let mut rest = body.as_ref();
    let outcome = match head.status {
        status::APPLIED => {
            let response = body;
            return Ok(Of::Applied {
                index,
                term,
                response,
            });
        }
        status::NOT_LEADER => Of::NotLeader {
            leader: number(&mut rest)?,
            term,
            endpoint: text(&mut rest)?,
        },
        status::OVERLOADED => Of::Overloaded {
            retry_after_ms: number(&mut rest)?,
        },
        status::INVALID => {
            let (len, tail) = U16::read_from_prefix(rest).map_err(|_| SHORT)?;
            let (mut field, mut why) = tail.split_at_checked(len.get().into()).ok_or(SHORT)?;
            rest = &[];
            Of::Invalid {
                field: text(&mut field)?,
                why: text(&mut why)?,
            }
        }
        status::UNKNOWN => Of::Unknown { index, term },
        status::DEADLINE => Of::Deadline,
        status::SHUTTING_DOWN => Of::ShuttingDown,
        status::FAILED => Of::Failed(text(&mut rest)?),
        status::SESSION_EXPIRED => Of::SessionExpired,
        status::SESSION_STALE => Of::SessionStale {
            floor: number(&mut rest)?,
        },
        status::SESSION_FULL => Of::SessionFull {
            floor: number(&mut rest)?,
            window: number(&mut rest)?,
        },
        status::ANSWER_NOT_KEPT => Of::AnswerNotKept,
        _ => Of::Overtaking,
    };
    match rest.is_empty() {
        true => Ok(outcome),
        false => Err(Malformed::Field("more in a reply than its status has")),
    }
}

const SHORT: Malformed = Malformed::Field("a reply is cut short");

fn number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let (number, tail) = U64::read_from_prefix(rest).map_err(|_| SHORT)?;
    *rest = tail;
    Ok(number.get())
}

/// All that is left, which must be a text of the length that is told at most.
fn text(rest: &mut &[u8]) -> Result<String, Malformed> {
    let text = std::mem::take(rest);
    match std::str::from_utf8(text) {
        Ok(text) if text.len() <= TEXT => Ok(text.to_owned()),
        _ => Err(Malformed::Field("a text is too long or not UTF-8")),
    }
}

use bytes::{Bytes, BytesMut};

use super::*;
use crate::core::{
    AppendAck, AppendEntries, AppendStatus, Class, Found, FoundReply, FoundStatus, Heartbeat,
    HeartbeatReply, Message, ReadIndex, ReadIndexReply, ReplicaState, SnapshotAck, SnapshotChunk,
    SnapshotOffer, SnapshotStatus, TimeoutNow, TimeoutNowReply, VoteReason, VoteReply, VoteRequest,
};
use crate::entry::frame as entry_frame;
use crate::network::{LinkClass, LocalFacts};
use crate::types::{ClusterId, EntryKind, Incarnation, LogId, MAX_TERM};

fn id(byte: u8) -> Incarnation {
    Incarnation([byte; 16])
}

fn vote() -> VoteRequest {
    VoteRequest {
        term: 5,
        incarnation: id(0xa1),
        round: 6,
        last: LogId::new(4, 7),
        transfer: true,
    }
}

fn vote_reply() -> VoteReply {
    VoteReply {
        term: 5,
        incarnation: id(0xa2),
        round: 6,
        granted: false,
        reason: VoteReason::LogBehind,
        state: ReplicaState::Blank,
    }
}

/// One message of each kind with all fields different.
pub(super) fn samples() -> Vec<Message> {
    let mut samples = vec![
        Message::Append(AppendEntries {
            term: 0x0102_0304_0506,
            epoch: 0x11,
            seq: 0x12,
            prev: LogId::new(0x13, 0x14),
            commit: 0x15,
            sent_at: 0x16,
            count: 2,
        }),
        Message::AppendAck(AppendAck {
            term: 9,
            incarnation: id(0xb1),
            epoch: 0x21,
            seq: 0x22,
            match_index: 0x23,
            conflict: LogId::new(0x24, 0x25),
            sent_at: 0x26,
            status: AppendStatus::Busy,
            state: ReplicaState::Repairing,
        }),
        Message::PreVote(vote()),
        Message::PreVoteReply(vote_reply()),
        Message::Vote(vote()),
        Message::VoteReply(vote_reply()),
        Message::Heartbeat(Heartbeat {
            term: 9,
            epoch: 0x31,
            seq: 0x32,
            commit: 0x33,
            sent_at: 0x34,
            read_id: 0x35,
            digest_index: 0x36,
            digest: 0x37,
        }),
        Message::HeartbeatReply(HeartbeatReply {
            term: 9,
            incarnation: id(0xb2),
            epoch: 0x41,
            seq: 0x42,
            sent_at: 0x43,
            read_id: 0x44,
            applied: 0x45,
            digest_index: 0x46,
            digest: 0x47,
            election_timeout_min_ms: 150,
            state: ReplicaState::Member,
        }),
        Message::Found(Found {
            term: 1,
            founder: id(0xb3),
        }),
        Message::FoundReply(FoundReply {
            term: 1,
            incarnation: id(0xb4),
            status: FoundStatus::Refused,
        }),
    ];
    samples.splice(8..8, reads_and_hand_overs());
    samples.extend(snapshots());
    samples
}

fn snapshots() -> [Message; 3] {
    let mut hash = [0xc1; 32];
    hash[16..].fill(0xc2);
    let id = u128::from_le_bytes([0xc1; 16]);
    [
        Message::SnapshotOffer(SnapshotOffer {
            term: 9,
            id,
            last: LogId::new(0x61, 0x62),
            len: 0x63,
            hash,
            chunk: 0x200,
            format: 0x64,
        }),
        Message::SnapshotChunk(SnapshotChunk {
            term: 9,
            id,
            offset: 0x65,
            crc: 0x66,
        }),
        Message::SnapshotAck(SnapshotAck {
            term: 9,
            incarnation: self::id(0xb8),
            id,
            next_offset: 0x67,
            status: SnapshotStatus::Damaged,
        }),
    ]
}

fn reads_and_hand_overs() -> [Message; 4] {
    [
        Message::ReadIndex(ReadIndex {
            term: 9,
            incarnation: id(0xb5),
            id: 0x51,
        }),
        Message::ReadIndexReply(ReadIndexReply {
            term: 9,
            id: 0x52,
            index: Some(0x53),
        }),
        Message::TimeoutNow(TimeoutNow {
            term: 9,
            target: id(0xb6),
            last: LogId::new(0x54, 0x55),
        }),
        Message::TimeoutNowReply(TimeoutNowReply {
            term: 9,
            incarnation: id(0xb7),
            accepted: true,
        }),
    ]
}

/// The entries that travel with a message.
fn body(message: &Message) -> Bytes {
    let entry = |index, term, size: usize| {
        entry_frame(
            LogId::new(term, index),
            EntryKind::Command,
            77,
            &vec![5; size],
        )
    };
    match message {
        Message::Append(m) => {
            let first = entry(m.prev.index + 1, m.prev.term, 21);
            let second = entry(m.prev.index + 2, m.prev.term + 1, 0);
            [first, second].concat().into()
        }
        Message::Found(_) => entry(1, 1, 9),
        Message::SnapshotChunk(_) => Bytes::from_static(b"a piece of a state"),
        _ => Bytes::new(),
    }
}

pub(super) fn bytes_of(message: &Message) -> Bytes {
    let body = body(message);
    let mut out = BytesMut::new();
    encode_into(message, body.len(), &mut out);
    out.extend_from_slice(&body);
    out.freeze()
}

fn assembler(message: &Message) -> Assembler {
    Assembler::new(message.class(), message.is_reply(), FrameLimits::default())
}

/// Decodes one frame given in pieces.
fn decode(message: &Message, pieces: &[Bytes]) -> Result<Option<Received>, Malformed> {
    let mut frames = assembler(message);
    for piece in pieces {
        frames.feed(piece.clone());
    }
    frames.next_frame()
}

#[test]
fn every_kind_comes_back_wherever_it_is_cut() {
    for message in samples() {
        let all = bytes_of(&message);
        for cut in 0..=all.len() {
            let mut frames = assembler(&message);
            frames.feed(all.slice(..cut));
            let early = frames.next_frame().expect("valid so far");
            assert_eq!(early.is_some(), cut == all.len());
            frames.feed(all.slice(cut..));
            let frame = early.or_else(|| frames.next_frame().expect("valid"));
            let frame = frame.expect("whole");
            assert_eq!(frame.message, message);
            let beside = [frame.entries.chunks().concat(), frame.chunk.concat()];
            assert_eq!(beside.concat(), body(&message));
            assert_eq!(frames.buffered(), 0);
        }
    }
}

#[test]
fn many_frames_in_bytes_of_one() {
    let message = samples()[0];
    let mut frames = assembler(&message);
    let all = bytes_of(&message);
    let (mut got, total) = (0, 3);
    for byte in all.iter().cycle().take(total * all.len()) {
        frames.feed(Bytes::copy_from_slice(&[*byte]));
        while let Some(frame) = frames.next_frame().expect("valid") {
            assert_eq!(frame.message, message);
            got += 1;
        }
    }
    assert_eq!(got, total);
}

/// Bytes of version 1, pinned: a change here is a new protocol version.
#[test]
fn golden_frames() {
    let hex = |bytes: &[u8]| {
        let text = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.chunks(8).map(text).collect::<Vec<String>>().join(" ")
    };
    let a1 = "a1a1a1a1a1a1a1a1 a1a1a1a1a1a1a1a1";
    let a2 = a1.replace("a1", "a2");
    let (c1, c2) = (a1.replace("a1", "c1"), a1.replace("a1", "c2"));
    let vote = format!(
        "0500000000000000 {a1} 0600000000000000 0700000000000000 0400000000000000 0100000000000000"
    );
    let reply = format!("0500000000000000 {a2} 0600000000000000 0003010000000000");
    let expected = [
        "1000380058000000 0605040302010000 1100000000000000 1200000000000000 1400000000000000 \
         1300000000000000 1500000000000000 1600000000000000 0200000000000000"
            .to_owned(),
        "1100480000000000 0900000000000000 b1b1b1b1b1b1b1b1 b1b1b1b1b1b1b1b1 2100000000000000 \
         2200000000000000 2300000000000000 2500000000000000 2400000000000000 2600000000000000 \
         0302000000000000"
            .to_owned(),
        format!("2000300000000000 {vote}"),
        format!("2100200000000000 {reply}"),
        format!("2200300000000000 {vote}"),
        format!("2300200000000000 {reply}"),
        "3000400000000000 0900000000000000 3100000000000000 3200000000000000 3300000000000000 \
         3400000000000000 3500000000000000 3600000000000000 3700000000000000 0000000000000000"
            .to_owned(),
        "3100580000000000 0900000000000000 b2b2b2b2b2b2b2b2 b2b2b2b2b2b2b2b2 4100000000000000 \
         4200000000000000 4300000000000000 4400000000000000 4500000000000000 4600000000000000 \
         4700000000000000 0000000000000000 9600000000000000"
            .to_owned(),
        "3200180000000000 0900000000000000 b5b5b5b5b5b5b5b5 b5b5b5b5b5b5b5b5 5100000000000000"
            .to_owned(),
        "3300180000000000 0900000000000000 5200000000000000 5300000000000000 0000000000000000"
            .to_owned(),
        "3800200000000000 0900000000000000 b6b6b6b6b6b6b6b6 b6b6b6b6b6b6b6b6 5500000000000000 \
         5400000000000000"
            .to_owned(),
        "3900180000000000 0900000000000000 b7b7b7b7b7b7b7b7 b7b7b7b7b7b7b7b7 0100000000000000"
            .to_owned(),
        "3a00100030000000 0100000000000000 b3b3b3b3b3b3b3b3 b3b3b3b3b3b3b3b3".to_owned(),
        "3b00180000000000 0100000000000000 b4b4b4b4b4b4b4b4 b4b4b4b4b4b4b4b4 0100000000000000"
            .to_owned(),
        format!(
            "4000500000000000 0900000000000000 {c1} 6200000000000000 6100000000000000 \
             6300000000000000 {c1} {c2} 0002000064000000"
        ),
        format!("4100200012000000 0900000000000000 {c1} 6500000000000000 6600000000000000"),
        format!(
            "4200300000000000 0900000000000000 b8b8b8b8b8b8b8b8 b8b8b8b8b8b8b8b8 {c1} \
             6700000000000000 0400000000000000"
        ),
    ];
    for (message, expected) in samples().iter().zip(expected) {
        let mut out = BytesMut::new();
        encode_into(message, body(message).len(), &mut out);
        assert_eq!(hex(&out), expected, "{message:?}");
    }
}

/// What no header may say.
fn bad_headers() -> Vec<(usize, u8, Malformed)> {
    let field = Malformed::Field;
    vec![
        (0, 0x00, Malformed::UnknownKind(0x00)),
        (0, 0x34, Malformed::UnknownKind(0x34)),
        (0, 0xff, Malformed::UnknownKind(0xff)),
        (1, 1, Malformed::Reserved),
        (1, 0x80, Malformed::Reserved),
        (2, 0, field("fixed_len is not that of the kind")),
        (3, 1, field("fixed_len is not that of the kind")),
        (14, 1, field("a term over 48 bits")),
        (15, 0x80, field("a term over 48 bits")),
    ]
}

/// Where each kind has fields that not every value may stand in: offset in the frame, a bad value,
/// and what it must be called.
fn bad_fields(message: &Message) -> Vec<(usize, u8, Malformed)> {
    let field = Malformed::Field;
    let mut bad = bad_headers();
    let wide_index = field("an index out of range");
    let wide_term = field("a term over 48 bits");
    let state = field("an unknown state");
    let flag = field("a flag that is neither 0 nor 1");
    let zeros = |range: std::ops::Range<usize>| range.map(|at| (at, 1, Malformed::Reserved));
    match message {
        Message::Append(_) => {
            bad.extend([
                (39, 0x80, wide_index),
                (46, 1, wide_term),
                (55, 0x80, wide_index),
            ]);
            bad.extend(zeros(68..72));
        }
        Message::AppendAck(_) => {
            bad.extend([
                (55, 0x80, wide_index),
                (63, 0x80, wide_index),
                (70, 1, wide_term),
            ]);
            bad.extend([(80, 4, field("an unknown append status")), (81, 4, state)]);
            bad.extend(zeros(82..88));
        }
        Message::PreVote(_) | Message::Vote(_) => {
            bad.extend([(47, 0x80, wide_index), (54, 1, wide_term), (56, 2, flag)]);
            bad.extend(zeros(57..64));
        }
        Message::PreVoteReply(_) | Message::VoteReply(_) => {
            bad.extend([(40, 2, flag), (41, 6, field("an unknown vote reason"))]);
            bad.push((42, 4, state));
            bad.extend(zeros(43..48));
        }
        Message::Heartbeat(_) => bad.push((39, 0x80, wide_index)),
        Message::HeartbeatReply(_) => {
            bad.extend([
                (71, 0x80, wide_index),
                (79, 0x80, wide_index),
                (100, 4, state),
            ]);
            bad.extend(zeros(101..104));
        }
        Message::ReadIndex(_) | Message::Found(_) => {}
        Message::ReadIndexReply(_) => {
            bad.extend([
                (31, 0x80, wide_index),
                (32, 1, field("an index in a refusal")),
                (32, 2, field("an unknown read status")),
            ]);
            bad.extend(zeros(33..40));
        }
        Message::TimeoutNow(_) => bad.extend([(39, 0x80, wide_index), (46, 1, wide_term)]),
        Message::TimeoutNowReply(_) => {
            bad.push((32, 2, flag));
            bad.extend(zeros(33..40));
        }
        Message::FoundReply(_) => {
            bad.push((32, 2, field("an unknown founding status")));
            bad.extend(zeros(33..40));
        }
        Message::SnapshotOffer(_) | Message::SnapshotChunk(_) | Message::SnapshotAck(_) => {
            bad.extend(bad_snapshot_fields(message));
        }
    }
    bad
}

fn bad_snapshot_fields(message: &Message) -> Vec<(usize, u8, Malformed)> {
    let field = Malformed::Field;
    let wide_offset = field("an offset out of range");
    let zeros = |range: std::ops::Range<usize>| range.map(|at| (at, 1, Malformed::Reserved));
    match message {
        Message::SnapshotOffer(_) => vec![
            (16, 0, field("an id that is not half of the hash")),
            (39, 0x80, field("an index out of range")),
            (46, 1, field("a term over 48 bits")),
            (55, 0x80, wide_offset),
            (56, 0, field("an id that is not half of the hash")),
            (89, 0, field("a length of chunks out of range")),
            (90, 0x10, field("a length of chunks out of range")),
        ],
        Message::SnapshotChunk(_) => [(39, 0x80, wide_offset)]
            .into_iter()
            .chain(zeros(44..48))
            .collect(),
        _ => [
            (55, 0x80, wide_offset),
            (56, 7, field("an unknown snapshot status")),
        ]
        .into_iter()
        .chain(zeros(57..64))
        .collect(),
    }
}

#[test]
fn i4_malformed_every_field() {
    for message in samples() {
        let good = bytes_of(&message);
        for (at, value, expected) in bad_fields(&message) {
            let mut bytes = good.to_vec();
            bytes[at] = value;
            let error = decode(&message, &[bytes.into()]).expect_err("refused");
            assert_eq!(error, expected, "{message:?} byte {at} = {value:#x}");
            assert!((0x20..=0x26).contains(&error.code().number()));
        }
    }
}

#[test]
fn i5_lengths_are_refused_before_the_body_is_gathered() {
    for message in samples() {
        let mut bytes = bytes_of(&message).to_vec();
        let whole_head = bytes.len() - body(&message).len();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes.truncate(whole_head);
        let error = decode(&message, &[bytes.into()]).expect_err("refused");
        match message {
            Message::Append(_) | Message::Found(_) | Message::SnapshotChunk(_) => {
                assert_eq!(error.code(), CloseCode::TooLarge);
            }
            _ => assert_eq!(error.code(), CloseCode::Malformed),
        }
    }
}

#[test]
fn i5_body_limit_is_exact() {
    let message = samples()[0];
    let len = body(&message).len();
    for (limit, fits) in [(len - 1, false), (len, true), (len + 1, true)] {
        let limits = FrameLimits {
            body: limit,
            ..FrameLimits::default()
        };
        let mut frames = Assembler::new(Class::Data, false, limits);
        frames.feed(bytes_of(&message));
        assert_eq!(frames.next_frame().is_ok(), fits);
    }
}

#[test]
fn counts_must_fit_the_body() {
    let Message::Append(good) = samples()[0] else {
        panic!("the first sample is an append")
    };
    for (count, expected) in [
        (0, CloseCode::Malformed),
        (1, CloseCode::Malformed),
        (3, CloseCode::Malformed),
        (
            crate::config::limits::MAX_FRAME_ENTRIES + 1,
            CloseCode::TooLarge,
        ),
        (u32::MAX, CloseCode::TooLarge),
    ] {
        let message = Message::Append(AppendEntries { count, ..good });
        let mut out = BytesMut::new();
        let body = body(&Message::Append(good));
        encode_into(&message, body.len(), &mut out);
        out.extend_from_slice(&body);
        let error = decode(&message, &[out.freeze()]).expect_err("refused");
        assert_eq!(error.code(), expected, "count {count}");
    }
    let empty = Message::Append(AppendEntries { count: 0, ..good });
    let mut out = BytesMut::new();
    encode_into(&empty, 0, &mut out);
    let probe = decode(&empty, &[out.freeze()]).expect("valid");
    assert!(probe.expect("whole").entries.is_empty());
}

#[test]
fn b12_a_damaged_entry_is_called_that() {
    let message = samples()[0];
    let good = bytes_of(&message);
    let mut bytes = good.to_vec();
    let first_payload = HEADER + 56 + 32;
    bytes[first_payload] ^= 1;
    let error = decode(&message, &[bytes.into()]).expect_err("refused");
    assert_eq!(error.code(), CloseCode::EntryChecksum);
}

#[test]
fn requests_and_replies_keep_to_their_streams_and_classes() {
    for message in samples() {
        let all = bytes_of(&message);
        for class in [Class::Control, Class::Data, Class::Bulk] {
            for replies in [false, true] {
                let mut frames = Assembler::new(class, replies, FrameLimits::default());
                frames.feed(all.clone());
                let right = class == message.class() && replies == message.is_reply();
                match frames.next_frame() {
                    Ok(_) => assert!(right),
                    Err(error) => {
                        assert!(!right);
                        assert_eq!(error.code(), CloseCode::WrongStream);
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_numbers_do_not_overflow() {
    let message = Message::Append(AppendEntries {
        term: MAX_TERM,
        epoch: u64::MAX,
        seq: u64::MAX,
        prev: LogId::new(MAX_TERM, MAX_INDEX),
        commit: MAX_INDEX,
        sent_at: u64::MAX,
        count: 1,
    });
    let body = entry_frame(LogId::new(MAX_TERM, MAX_INDEX + 1), EntryKind::Noop, 0, b"");
    let mut out = BytesMut::new();
    encode_into(&message, body.len(), &mut out);
    out.extend_from_slice(&body);
    let frame = decode(&message, &[out.freeze()]).expect("valid");
    assert_eq!(frame.expect("whole").message, message);
}

/// A small generator, so that failures repeat.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn i4_mutated_and_random_frames_never_panic() {
    let mut rng = Rng(42);
    let samples = samples();
    for round in 0..20_000 {
        let message = &samples[rng.below(samples.len())];
        let mut bytes = if round % 4 == 0 {
            (0..rng.below(300)).map(|_| rng.below(256) as u8).collect()
        } else {
            bytes_of(message).to_vec()
        };
        for _ in 0..1 + rng.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = rng.below(bytes.len());
            match rng.below(3) {
                0 => bytes[at] = rng.below(256) as u8,
                1 => bytes[at] ^= 1 << rng.below(8),
                _ => bytes.truncate(at),
            }
        }
        let bytes = Bytes::from(bytes);
        let whole = decode(message, std::slice::from_ref(&bytes));
        let cut = rng.below(bytes.len() + 1);
        let parts = decode(message, &[bytes.slice(..cut), bytes.slice(cut..)]);
        match (whole, parts) {
            (Ok(whole), Ok(parts)) => assert_eq!(whole.is_some(), parts.is_some()),
            (Err(whole), Err(parts)) => assert_eq!(whole, parts),
            other => panic!("the edges of chunks changed the outcome: {other:?}"),
        }
    }
}

pub(super) fn hello() -> Hello {
    Hello {
        proto_min: 1,
        proto_max: 3,
        class: LinkClass::Data,
        cluster: ClusterId([6; 16]),
        node: 7,
        incarnation: id(8),
        to_node: 9,
        to_incarnation: id(10),
        epoch: 11,
        max_frame_body: 12,
        max_entry: 13,
        max_inflight: 14,
        heartbeat_ms: 15,
        wall_ms: 16,
        election_min_ms: 17,
        facts: LocalFacts {
            blank: true,
            repairing: true,
            genesis: id(18),
            knows_level: 4,
            needs_level: 5,
            meta_seq: 19,
            peer_address: "a:1".to_owned(),
            client_endpoint: "https://b:2".to_owned(),
        },
    }
}

#[test]
fn hello_is_pinned_and_comes_back() {
    let bytes = hello().encode();
    assert_eq!(Hello::decode(&bytes), Ok(hello()));
    let fixed = bytes.first_chunk().expect("long enough");
    assert_eq!(Hello::length(fixed), Ok(bytes.len()));
    assert_eq!(bytes.len(), 128 + 24 + 2 + 3 + 2 + 11);
    assert_eq!(&bytes[..16], b"cnvyraft\xaa\x00\x01\x00\x03\x00\x01\x03");
    let at = |from: usize, len: usize| bytes[from..from + len].to_vec();
    assert_eq!(at(16, 8), [4, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(at(24, 16), [6; 16]);
    assert_eq!(at(40, 8), 7u64.to_le_bytes());
    assert_eq!(at(48, 16), [8; 16]);
    assert_eq!(at(64, 8), 9u64.to_le_bytes());
    assert_eq!(at(72, 16), [10; 16]);
    assert_eq!(at(88, 8), 11u64.to_le_bytes());
    assert_eq!(
        at(96, 16),
        [12, 0, 0, 0, 13, 0, 0, 0, 14, 0, 0, 0, 15, 0, 0, 0]
    );
    assert_eq!(at(112, 8), 16u64.to_le_bytes());
    assert_eq!(at(120, 8), [17, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(at(128, 16), [18; 16]);
    assert_eq!(at(144, 8), 19u64.to_le_bytes());
    assert_eq!(at(152, 5), *b"\x03\x00a:1");
    assert_eq!(at(157, 13), *b"\x0b\x00https://b:2");
}

#[test]
fn hello_tail_of_a_newer_version_is_ignored() {
    let mut bytes = hello().encode().to_vec();
    bytes.extend_from_slice(b"something new");
    let len = bytes.len() as u16;
    bytes[8..10].copy_from_slice(&len.to_le_bytes());
    assert_eq!(Hello::decode(&bytes), Ok(hello()));
}

#[test]
fn i4_malformed_hellos_are_refused() {
    let good = hello().encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        Hello::decode(&bytes)
    };
    assert_eq!(with(0, b'X'), Err(HelloError::Magic));
    assert_eq!(with(8, 0xab), Err(HelloError::Length));
    assert_eq!(with(10, 9), Err(HelloError::Versions));
    assert_eq!(with(14, 7), Err(HelloError::Class(7)));
    assert_eq!(with(15, 4), Err(HelloError::Reserved));
    assert_eq!(with(124, 1), Err(HelloError::Reserved));
    assert_eq!(with(153, 0xff), Err(HelloError::Address));
    assert_eq!(with(154, 0xff), Err(HelloError::Address));
    for cut in 0..good.len() {
        let mut bytes = good[..cut].to_vec();
        Hello::decode(&bytes).expect_err("cut off");
        if cut >= 10 {
            bytes[8..10].copy_from_slice(&(cut as u16).to_le_bytes());
            Hello::decode(&bytes).expect_err("cut off, and it says so");
        }
    }
    let mut fixed = *good.first_chunk::<HELLO_FIXED>().expect("long enough");
    for (len, fine) in [
        (0, false),
        (127, false),
        (128, true),
        (512, true),
        (513, false),
    ] {
        fixed[8..10].copy_from_slice(&u16::to_le_bytes(len));
        assert_eq!(Hello::length(&fixed).is_ok(), fine, "{len}");
    }
}

#[test]
fn hello_addresses_are_whole_or_left_out() {
    let mut long = hello();
    long.facts.peer_address = "x".repeat(400);
    assert!(!addresses_fit(&long.facts));
    let decoded = Hello::decode(&long.encode()).expect("valid");
    assert_eq!(decoded.facts.peer_address, "");
    let mut most = hello();
    most.facts.peer_address = "x".repeat(HELLO_MAX - 128 - 24 - 4 - 11);
    assert!(addresses_fit(&most.facts));
    assert_eq!(most.encode().len(), HELLO_MAX);
    assert_eq!(Hello::decode(&most.encode()), Ok(most));
}

#[test]
fn i4_random_hellos_never_panic() {
    let mut rng = Rng(7);
    for _ in 0..20_000 {
        let mut bytes = hello().encode().to_vec();
        for _ in 0..1 + rng.below(6) {
            let at = rng.below(bytes.len());
            bytes[at] = rng.below(256) as u8;
        }
        if let Some(fixed) = bytes.first_chunk() {
            let _ = Hello::length(fixed);
        }
        if let Ok(hello) = Hello::decode(&bytes) {
            let _ = Hello::decode(&hello.encode()).expect("what was decoded encodes");
        }
    }
}

#[test]
fn close_codes_are_pinned() {
    for code in CloseCode::ALL {
        assert_eq!(CloseCode::from_number(code.number().into()), Some(*code));
        assert!(code.name().len() < 200);
    }
    let numbers: Vec<u8> = CloseCode::ALL.iter().map(|code| code.number()).collect();
    let expected = [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
        0x1a, 0x1b, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26,
    ];
    assert_eq!(numbers, expected);
    assert_eq!(CloseCode::from_number(0x19), None);
    assert_eq!(CloseCode::from_number(u64::MAX), None);
}

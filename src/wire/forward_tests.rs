use bytes::{Bytes, BytesMut};

use super::*;
use crate::core::{Class, Heartbeat, Message};
use crate::network::ForwardOutcome as Of;
use crate::types::EntryKind;

fn request() -> ForwardRequest {
    ForwardRequest {
        term: 9,
        id: 0x71,
        kind: EntryKind::Command,
        deadline_ms: 0x72,
        line: Some(crate::network::InLine {
            number: 0x74,
            place: 0x75,
        }),
    }
}

fn request_bytes(request: ForwardRequest, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    request.encode(payload.len(), &mut out);
    out.extend_from_slice(payload);
    out.freeze()
}

/// One of each, with all fields different.
fn outcomes() -> Vec<Of> {
    let (index, term) = (0x81, 0x82);
    let (floor, window) = (0x83, 0x84);
    vec![
        Of::Applied {
            index,
            term,
            response: Bytes::from_static(b"response"),
        },
        Of::NotLeader {
            leader: 0x85,
            term,
            endpoint: "https://b:2".to_owned(),
        },
        Of::Overloaded {
            retry_after_ms: 0x86,
        },
        Of::Invalid {
            field: "command".to_owned(),
            why: "too odd".to_owned(),
        },
        Of::Unknown { index, term },
        Of::Deadline,
        Of::ShuttingDown,
        Of::Failed("the disk".to_owned()),
        Of::SessionExpired,
        Of::SessionStale { floor },
        Of::SessionFull { floor, window },
        Of::AnswerNotKept,
        Of::Overtaking,
    ]
}

fn reply_bytes(outcome: &Of) -> Bytes {
    encode_reply(0x73, outcome, &FrameLimits::default())
}

/// All frames, and whether they are replies.
pub(super) fn samples() -> Vec<(bool, Bytes, ForwardFrame)> {
    let payload = Bytes::from_static(b"a command");
    let request = (
        false,
        request_bytes(request(), &payload),
        ForwardFrame::Request(request(), payload),
    );
    let replies = outcomes().into_iter().map(|outcome| {
        let bytes = reply_bytes(&outcome);
        (true, bytes, ForwardFrame::Reply(0x73, outcome))
    });
    std::iter::once(request).chain(replies).collect()
}

fn decode(replies: bool, bytes: impl Into<Bytes>) -> Result<Option<ForwardFrame>, Malformed> {
    let mut frames = ForwardAssembler::new(replies, FrameLimits::default());
    frames.feed(bytes.into());
    frames.next_frame()
}

#[test]
fn every_frame_comes_back_wherever_it_is_cut() {
    for (replies, bytes, expected) in samples() {
        for cut in 0..=bytes.len() {
            let mut frames = ForwardAssembler::new(replies, FrameLimits::default());
            frames.feed(bytes.slice(..cut));
            let early = frames.next_frame().expect("valid so far");
            assert_eq!(early.is_some(), cut == bytes.len());
            frames.feed(bytes.slice(cut..));
            let frame = early.or_else(|| frames.next_frame().expect("valid"));
            assert_eq!(frame.as_ref(), Some(&expected));
            assert_eq!(frames.next_frame(), Ok(None), "nothing is left");
        }
    }
}

/// Bytes of version 1, pinned: a change here is a new protocol version.
#[test]
fn golden_forward_frames() {
    let hex = |bytes: &[u8]| {
        let text = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.chunks(8).map(text).collect::<Vec<String>>().join(" ")
    };
    let expected = [
        "3c00200009000000 0900000000000000 7100000000000000 7400000000000000 7500000000000000 \
         7200000001000000 6120636f6d6d616e 64",
        "3d00180008000000 8200000000000000 7300000000000000 8100000000000000 0002000000000000 \
         726573706f6e7365",
        "3d00180013000000 8200000000000000 7300000000000000 0000000000000000 0100000000000000 \
         8500000000000000 68747470733a2f2f 623a32",
        "3d00180008000000 0000000000000000 7300000000000000 0000000000000000 0200000000000000 \
         8600000000000000",
        "3d00180010000000 0000000000000000 7300000000000000 0000000000000000 0300000000000000 \
         0700636f6d6d616e 64746f6f206f6464",
        "3d00180000000000 8200000000000000 7300000000000000 8100000000000000 0401000000000000",
        "3d00180000000000 0000000000000000 7300000000000000 0000000000000000 0500000000000000",
        "3d00180000000000 0000000000000000 7300000000000000 0000000000000000 0600000000000000",
        "3d00180008000000 0000000000000000 7300000000000000 0000000000000000 0700000000000000 \
         746865206469736b",
        "3d00180000000000 0000000000000000 7300000000000000 0000000000000000 0800000000000000",
        "3d00180008000000 0000000000000000 7300000000000000 0000000000000000 0900000000000000 \
         8300000000000000",
        "3d00180010000000 0000000000000000 7300000000000000 0000000000000000 0a00000000000000 \
         8300000000000000 8400000000000000",
        "3d00180000000000 0000000000000000 7300000000000000 0000000000000000 0b02000000000000",
        "3d00180000000000 0000000000000000 7300000000000000 0000000000000000 0c00000000000000",
    ];
    let samples = samples();
    assert_eq!(samples.len(), expected.len());
    for ((_, bytes, frame), expected) in samples.iter().zip(expected) {
        assert_eq!(hex(bytes), expected, "{frame:?}");
    }
}

#[test]
fn i4_malformed_every_field_of_forwards() {
    let field = Malformed::Field;
    let kind = field("a kind of entry that nobody proposes");
    let good = request_bytes(request(), b"a command");
    for (at, value, expected) in [
        (0, 0x00, Malformed::UnknownKind(0)),
        (0, 0x34, Malformed::UnknownKind(0x34)),
        (0, 0x3d, Malformed::WrongStream(0x3d)),
        (0, 0x10, Malformed::WrongStream(0x10)),
        (1, 1, Malformed::Reserved),
        (2, 24, field("fixed_len is not that of the kind")),
        (3, 1, field("fixed_len is not that of the kind")),
        (14, 1, field("a term over 48 bits")),
        (24, 0, field("a place in no line")),
        (44, 0, kind),
        (44, 2, kind),
        (44, 4, kind),
        (44, 0xff, kind),
        (45, 1, Malformed::Reserved),
        (47, 0x80, Malformed::Reserved),
    ] {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        assert_eq!(
            decode(false, bytes),
            Err(expected),
            "byte {at} = {value:#x}"
        );
    }
}

#[test]
fn i4_malformed_every_field_of_replies_to_forwards() {
    let field = Malformed::Field;
    let status = field("an unknown status of a proposal");
    let certainty = field("a certainty that does not fit the status");
    let more = field("more in a reply than its status has");
    for (nth, outcome) in outcomes().iter().enumerate() {
        let good = reply_bytes(outcome);
        let with = |at: usize, value: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = value;
            decode(true, bytes)
        };
        assert_eq!(with(0, 0x3c), Err(Malformed::WrongStream(0x3c)));
        assert_eq!(with(1, 1), Err(Malformed::Reserved));
        assert_eq!(with(15, 0x80), Err(field("a term over 48 bits")));
        assert_eq!(with(31, 0x80), Err(field("an index out of range")));
        assert_eq!(with(32, 13), Err(status));
        assert_eq!(with(32, 0xff), Err(status));
        for other in (0..=3).filter(|other| *other != good[33]) {
            assert_eq!(with(33, other), Err(certainty), "{outcome:?}");
        }
        for at in 34..40 {
            assert_eq!(with(at, 1), Err(Malformed::Reserved));
        }
        let has_index = matches!(outcome, Of::Applied { .. } | Of::Unknown { .. });
        if !has_index {
            assert_eq!(with(24, 1), Err(field("an index in a refusal")));
            if !matches!(outcome, Of::NotLeader { .. }) {
                assert_eq!(with(8, 1), Err(field("a term in a refusal")));
            }
        }
        // A body that is one byte longer, with its length.
        let mut longer = good.to_vec();
        longer.push(b'x');
        longer[4] += 1;
        let told = decode(true, longer);
        let open = [0, 1, 3, 7].contains(&nth);
        match open {
            true => drop(told.expect("a text or a response may be longer")),
            false => assert_eq!(told, Err(more), "{outcome:?}"),
        }
        // And every shorter one.
        for less in 1..=good.len() - 40 {
            let mut shorter = good[..good.len() - less].to_vec();
            shorter[4] -= less as u8;
            let told = decode(true, shorter);
            if !open {
                assert_eq!(told, Err(field("a reply is cut short")), "{outcome:?}");
            }
        }
    }
}

#[test]
fn i4_texts_of_replies_are_utf8_and_short() {
    let bad = Malformed::Field("a text is too long or not UTF-8");
    let good = reply_bytes(&Of::Failed("the disk".to_owned()));
    let mut bytes = good.to_vec();
    bytes[40] = 0xff;
    assert_eq!(decode(true, bytes), Err(bad));
    let mut long = good[..40].to_vec();
    long.extend(vec![b'x'; 1025]);
    long[4..8].copy_from_slice(&1025u32.to_le_bytes());
    assert_eq!(decode(true, long.clone()), Err(bad));
    long.pop();
    long[4..8].copy_from_slice(&1024u32.to_le_bytes());
    decode(true, long).expect("of the length that is told at most");
    // What is too long is told as far as it goes, and never cut within a letter.
    let told = decode(true, reply_bytes(&Of::Failed("ä".repeat(1000)))).expect("valid");
    let expected = Of::Failed("ä".repeat(512));
    assert_eq!(told, Some(ForwardFrame::Reply(0x73, expected)));
}

#[test]
fn i5_lengths_of_forwards_are_refused_before_the_body_is_gathered() {
    let limits = FrameLimits::default();
    let with = |replies: bool, good: &Bytes, len: usize| {
        let fixed = if replies { 40 } else { 48 };
        let mut bytes = good[..fixed].to_vec();
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        decode(replies, bytes)
    };
    let asked = request_bytes(request(), b"a command");
    let told = reply_bytes(&outcomes()[0]);
    for (replies, good, limit) in [(false, asked, limits.entry), (true, told, limits.body)] {
        assert_eq!(with(replies, &good, limit), Ok(None), "it may come");
        for len in [limit + 1, u32::MAX as usize] {
            let error = Malformed::TooLarge { len, limit };
            assert_eq!(with(replies, &good, len), Err(error));
        }
    }
}

#[test]
fn a_response_over_the_limit_is_not_told() {
    let limits = FrameLimits {
        body: 8,
        ..FrameLimits::default()
    };
    let with = |response: &'static [u8]| {
        let outcome = Of::Applied {
            index: 1,
            term: 1,
            response: Bytes::from_static(response),
        };
        decode(true, encode_reply(1, &outcome, &limits))
    };
    let not_kept = Ok(Some(ForwardFrame::Reply(1, Of::AnswerNotKept)));
    assert_eq!(with(b"123456789"), not_kept);
    assert_ne!(with(b"12345678"), not_kept);
}

#[test]
fn forwards_keep_to_their_class() {
    let forwards = [request_bytes(request(), b""), reply_bytes(&Of::Deadline)];
    for bytes in &forwards {
        for class in [Class::Control, Class::Data, Class::Bulk] {
            for replies in [false, true] {
                let mut frames = Assembler::new(class, replies, FrameLimits::default());
                frames.feed(bytes.clone());
                let error = frames.next_frame().expect_err("not of this class");
                assert_eq!(error.code(), CloseCode::WrongStream);
            }
        }
    }
    let mut heartbeat = BytesMut::new();
    let message = Message::Heartbeat(Heartbeat {
        term: 1,
        epoch: 1,
        seq: 1,
        commit: 0,
        sent_at: 0,
        read_id: 0,
        digest_index: 0,
        digest: 0,
    });
    encode_into(&message, 0, &mut heartbeat);
    let told = decode(false, heartbeat.freeze());
    assert_eq!(told, Err(Malformed::WrongStream(0x30)));
}

//! The bytes of format version 1. If one of these fails, the format has changed: a new version is
//! needed, and the old one must still be read.

use zerocopy::IntoBytes;

use crate::types::{ClusterId, HardState, Incarnation, LogId, ReplicaId};
use crate::wal::layout::{
    BatchFacts, BatchHeader, BatchKind, HintRecord, Lsn, MetaSlot, Record, SegmentHeader,
    SegmentStart,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("in range")
}

#[test]
fn meta_slot() {
    let mut slot = MetaSlot::fresh(Incarnation([1; 16]), ClusterId([2; 16]), 3);
    slot.seq = 4.into();
    slot.set_hard_state(HardState {
        term: 5,
        voted_for: ReplicaId::new(6, Incarnation([7; 16])),
    });
    slot.set_start(LogId::new(8, 9));
    slot.clean_end = 10.into();
    slot.secret = [11; 16];
    slot.genesis = [12; 16];
    slot.election_timeout_ms = 13.into();
    slot.reset_key = [14; 32];
    let bytes = slot.to_bytes();
    assert_eq!(at::<8>(&bytes, 0), *b"cnvrMETA");
    assert_eq!(at::<4>(&bytes, 12), [1, 0, 0, 0]);
    let numbers = [
        (48, 3),
        (56, 4),
        (64, 5),
        (72, 6),
        (96, 9),
        (104, 8),
        (112, 1),
        (152, 10),
    ];
    for (offset, number) in numbers {
        assert_eq!(
            at::<8>(&bytes, offset),
            u64::to_le_bytes(number),
            "at {offset}"
        );
    }
    for (offset, byte) in [(16, 1), (32, 2), (80, 7), (160, 11), (176, 12)] {
        assert_eq!(at::<16>(&bytes, offset), [byte; 16], "at {offset}");
    }
    assert_eq!(at::<4>(&bytes, 192), [13, 0, 0, 0]);
    assert_eq!(at::<32>(&bytes, 208), [14; 32]);
    assert_eq!(
        at::<4>(&bytes, 8),
        crc32fast::hash(&bytes[12..256]).to_le_bytes()
    );
    assert!(bytes[256..].iter().all(|&byte| byte == 0));
    assert!(matches!(MetaSlot::parse(&bytes), Record::Valid(_)));
    let mut newer = bytes;
    newer[12] = 2;
    let crc = crc32fast::hash(&newer[12..256]).to_le_bytes();
    newer[8..12].copy_from_slice(&crc);
    assert!(matches!(MetaSlot::parse(&newer), Record::Newer(2)));
}

#[test]
fn segment_header() {
    let header = SegmentHeader::new(&SegmentStart {
        reset: true,
        unit: 4096,
        log_id: [1; 16],
        seq: 2,
        size: 3,
        first_batch_seq: 4,
        prev_segment: 5,
        prev_end: Lsn::new(5, 6),
        prev_last: LogId::new(7, 8),
        prev_batch_crc: 9,
        synced_upto: Lsn::new(1, 10),
    });
    let expected = concat!(
        "636e76725345474d",
        "XXXXXXXX",
        "0100",
        "0100",
        "00100000",
        "00000000",
        "01010101010101010101010101010101",
        "0200000000000000",
        "0300000000000000",
        "0900000000000000",
        "0400000000000000",
        "0500000000000000",
        "0600000005000000",
        "0800000000000000",
        "0700000000000000",
        "09000000",
        "00000000",
        "0a00000001000000",
        "0000000000000000"
    );
    let crc = crc32fast::hash(&header.as_bytes()[12..]).to_le_bytes();
    assert_eq!(
        hex(header.as_bytes()),
        expected.replace("XXXXXXXX", &hex(&crc))
    );
}

#[test]
fn batch_header() {
    let facts = BatchFacts {
        batch_seq: 1,
        synced_upto: Lsn::new(2, 3),
        first_index: 4,
        commit_hint: 5,
        body_len: 6,
        entry_count: 7,
        body_crc: 8,
        kind: BatchKind::Seal,
        truncates: true,
    };
    let (place, secret) = (Lsn::new(9, 8192), [10; 16]);
    let header = BatchHeader::seal(&facts, place, &secret);
    let expected = concat!(
        "636e7642",
        "XXXXXXXX",
        "0900000000000000",
        "0100000000000000",
        "0300000002000000",
        "0400000000000000",
        "0500000000000000",
        "06000000",
        "07000000",
        "08000000",
        "02",
        "01",
        "0000"
    );
    let mut sealed = secret.to_vec();
    sealed.extend_from_slice(&place.0.to_le_bytes());
    sealed.extend_from_slice(&header.as_bytes()[8..]);
    let crc = crc32fast::hash(&sealed).to_le_bytes();
    assert_eq!(
        hex(header.as_bytes()),
        expected.replace("XXXXXXXX", &hex(&crc))
    );
    // Of this log and for this place only.
    assert!(BatchHeader::parse(header.as_bytes(), place, &secret).is_some());
    assert!(BatchHeader::parse(header.as_bytes(), Lsn::new(9, 4096), &secret).is_none());
    assert!(BatchHeader::parse(header.as_bytes(), Lsn::new(8, 8192), &secret).is_none());
    assert!(BatchHeader::parse(header.as_bytes(), place, &[11; 16]).is_none());
}

#[test]
fn hint() {
    let bytes = HintRecord::new([1; 16], Lsn::new(2, 3), 4, true).to_bytes();
    let expected = concat!(
        "636e767248494e54",
        "XXXXXXXX",
        "0100",
        "0100",
        "01010101010101010101010101010101",
        "0300000002000000",
        "0400000000000000",
        "00000000000000000000000000000000"
    );
    let crc = crc32fast::hash(&bytes[12..64]).to_le_bytes();
    assert_eq!(hex(&bytes[..64]), expected.replace("XXXXXXXX", &hex(&crc)));
    assert!(
        HintRecord::parse(&bytes, &[2; 16]).is_none(),
        "another log's"
    );
}

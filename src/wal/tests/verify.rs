//! `verify` says what opening would do, and changes nothing.

use super::harness::*;
use crate::wal::memory::Random;
use crate::wal::{Crash, LogEnd, MemoryDisk, OpenError, verify};

/// A log over several segments.
fn image(rounds: usize, clean: bool) -> Image {
    let disk = MemoryDisk::new();
    let mut rig = try_open(&disk, tiny()).expect("opens");
    for _ in 0..rounds {
        rig.append_durably(3, &[1500, 40]);
    }
    if clean {
        rig.log.close().expect("closes");
    } else {
        drop(rig);
    }
    disk.crash(Crash::PowerCut);
    disk.image()
}

/// What `verify` says must be what opening does, on the same bytes; and it changes none of them.
fn same_as_opening(image: &Image, what: &str) -> bool {
    let disk = MemoryDisk::from_image(image);
    let said = verify(&disk, false);
    assert_eq!(&disk.image(), image, "{what}: changed");
    match (said, try_open(&disk, tiny())) {
        (Ok(verified), Ok(rig)) => {
            assert_eq!(verified.last, rig.log.last(), "{what}");
            assert_eq!(verified.start, rig.log.snapshot(), "{what}");
            assert_eq!(verified.hard_state, rig.log.hard_state(), "{what}");
            assert_eq!(verified.incarnation, rig.log.incarnation(), "{what}");
            true
        }
        (Err(said), Err(done)) => {
            assert_eq!(said.to_string(), done.to_string(), "{what}");
            false
        }
        (Err(OpenError::NoLog { .. }), Ok(_)) => false,
        (said, done) => panic!("{what}: {said:?}, but opening: {:?}", done.err()),
    }
}

#[test]
fn a_clean_log_and_an_unclean_one_are_told_apart() {
    let clean = verify(&MemoryDisk::from_image(&image(60, true)), false).expect("opens");
    assert_eq!(clean.end, LogEnd::Clean);
    assert_eq!((clean.last.index, clean.node), (120, 3));
    assert!(clean.segments.len() > 2, "{:?}", clean.segments);
    let ranges: Vec<_> = clean.segments.iter().filter_map(|it| it.range).collect();
    assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (1, 120));
    assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
    let unclean = verify(&MemoryDisk::from_image(&image(60, false)), false).expect("opens");
    let (torn_bytes, torn) = (0, None);
    assert_eq!(unclean.end, LogEnd::Unclean { torn_bytes, torn });
    let empty = verify(&MemoryDisk::new(), false).expect_err("nothing there");
    assert!(matches!(empty, OpenError::NoLog { .. }), "{empty}");
}

#[test]
fn a_torn_tail_is_measured() {
    let disk = MemoryDisk::from_image(&image(4, false));
    disk.crash(Crash::PowerCut);
    let mut image = disk.image();
    let name = image
        .keys()
        .find(|name| name.starts_with("seg-"))
        .expect("one");
    let name = name.clone();
    // The last of four batches of one unit each: its body, while its header stays.
    let at = 8192 + 3 * 4096;
    image.get_mut(&name).expect("there")[at + 64..at + 512].fill(0);
    let disk = MemoryDisk::from_image(&image);
    disk.crash(Crash::PowerCut);
    let verified = verify(&disk, false).expect("opens");
    assert_eq!(verified.last.index, 6);
    let LogEnd::Unclean { torn_bytes, torn } = verified.end else {
        panic!("not clean");
    };
    assert_eq!(torn_bytes, 4096);
    assert!(torn.is_some());
}

#[test]
fn verify_and_opening_agree_on_damaged_and_on_arbitrary_bytes() {
    let image = image(40, false);
    let names: Vec<String> = image.keys().cloned().collect();
    let mut random = Random(7);
    let (mut opens, mut refused) = (0, 0);
    for round in 0..400 {
        let mut damaged = image.clone();
        let name = &names[random.below(names.len() as u64) as usize];
        match round % 8 {
            0 => _ = damaged.remove(name),
            1 => {
                let bytes = damaged.get_mut(name).expect("there");
                bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            }
            _ => {
                let bytes = damaged.get_mut(name).expect("there");
                let at = random.below(bytes.len().max(1) as u64) as usize;
                let len = random.below(300) as usize;
                for byte in bytes.iter_mut().skip(at).take(len) {
                    *byte = random.next() as u8;
                }
            }
        }
        match same_as_opening(&damaged, &format!("round {round}, {name}")) {
            true => opens += 1,
            false => refused += 1,
        }
    }
    assert!(opens > 20 && refused > 100, "{opens} {refused}");
}

#[test]
fn a_log_in_use_is_never_called_damaged() {
    let disk = MemoryDisk::new();
    let mut rig = try_open(&disk, tiny()).expect("opens");
    for round in 0..120 {
        rig.append(3, &[1500, 40]);
        if round % 3 == 0 {
            rig.settle();
        }
        if round == 80 {
            rig.log
                .compact(crate::types::LogId::new(3, 60))
                .expect("compacts");
            rig.settle();
        }
        let verified = verify(&disk, false).expect("in use, not damaged");
        assert!(verified.last.index <= rig.log.last().index);
        assert!(
            verified.last.index >= rig.log.durable(),
            "what is durable is seen"
        );
    }
}

#[test]
fn a_segment_that_says_it_follows_itself_is_refused() {
    use crate::wal::layout::{Lsn, SegmentHeader, SegmentStart};
    use zerocopy::IntoBytes;
    let mut image = image(4, false);
    let name = image
        .keys()
        .find(|name| name.starts_with("seg-"))
        .expect("one");
    let (name, seq) = (
        name.clone(),
        crate::wal::layout::parse_name(name, "seg-").expect("number"),
    );
    let bytes = image.get_mut(&name).expect("there");
    let header = SegmentHeader::new(&SegmentStart {
        reset: false,
        unit: 4096,
        log_id: bytes[24..40].try_into().expect("16 bytes"),
        seq,
        size: bytes.len() as u64,
        first_batch_seq: 1,
        prev_segment: seq,
        prev_end: Lsn::default(),
        prev_last: crate::types::LogId::new(3, 5),
        prev_batch_crc: 0,
        synced_upto: Lsn::default(),
    });
    bytes[..128].copy_from_slice(header.as_bytes());
    assert!(!same_as_opening(&image, "a circle"));
}

use std::sync::Arc;

use super::*;
use crate::wal::MemoryDisk;

struct Text(Vec<u8>);

impl Frozen for Text {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        // In pieces that are no chunks.
        self.0
            .chunks(777)
            .try_for_each(|piece| out.write_all(piece))
    }
}

fn head() -> SnapshotHead {
    SnapshotHead {
        cluster: ClusterId([1; 16]),
        genesis: Incarnation([2; 16]),
        last: LogId::new(3, 4),
        time_us: 5,
        digest: 6,
        session_bytes: 0,
        configuration: (7, vec![8; 9]),
    }
}

fn written(disk: &Arc<MemoryDisk>, state: &[u8]) -> SnapshotSum {
    let state = Box::new(Text(state.to_vec()));
    write(&**disk, "a", &head(), state, &mut |_| Ok(())).expect("written")
}

fn read(disk: &Arc<MemoryDisk>) -> Result<(SnapshotHead, Vec<u8>), String> {
    let mut file = SnapshotFile::open(disk, "a")?;
    let mut state = Vec::new();
    file.read_to_end(&mut state)
        .map_err(|error| error.to_string())?;
    if !file.is_read() {
        return Err("bytes follow".to_owned());
    }
    Ok((file.head, state))
}

#[test]
fn a_state_of_any_length_comes_back_with_its_head() {
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
        let disk = Arc::new(MemoryDisk::new());
        let state: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let whole = written(&disk, &state);
        assert_eq!(read(&disk).expect("whole"), (head(), state), "{len}");
        assert_eq!(sum(&*disk, "a").expect("read"), whole);
        assert_eq!(whole.len, disk.size("a").expect("there"));
    }
}

/// Bytes of version 1, pinned: a change here is a new version of the format.
#[test]
fn golden_replica_snapshot() {
    let disk = Arc::new(MemoryDisk::new());
    written(&disk, b"state");
    let image = disk.image();
    let hex: String = image["a"]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let head = "636e767972657073010000008000000001010101010101010101010101010101\
                0202020202020202020202020202020204000000000000000300000000000000\
                0500000000000000060000000000000000000000000000000700000000000000\
                01000000";
    assert!(hex.starts_with(head), "{hex}");
    assert!(
        hex[208..].starts_with("0100000009000000080808080808080808"),
        "{hex}"
    );
    assert!(hex[256..].starts_with("05000000"), "{hex}");
    assert_eq!(hex.len() / 2, 128 + 8 + 5 + 8);
}

/// Sessions add their section and nothing else.
#[test]
fn f4_golden_section_of_sessions() {
    let disk = Arc::new(MemoryDisk::new());
    let head = SnapshotHead {
        session_bytes: 3,
        ..head()
    };
    let state = Box::new(Text(b"one, two".to_vec()));
    write(&*disk, "a", &head, state, &mut |_| Ok(())).expect("written");
    assert_eq!(read(&disk).expect("whole"), (head, b"one, two".to_vec()));
    let image = disk.image();
    let section = [2, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(image["a"][12], 144, "bytes of the head");
    assert_eq!(image["a"][96], 2, "sections");
    assert_eq!(image["a"][128..144], section);
}

#[test]
fn d3_every_damaged_byte_is_noticed_before_anything_behind_it_is_given_out() {
    let disk = Arc::new(MemoryDisk::new());
    let state = vec![7; 300];
    written(&disk, &state);
    let image = disk.image();
    let len = image["a"].len();
    for at in 0..len {
        let mut damaged = image.clone();
        damaged.get_mut("a").expect("there")[at] ^= 0x10;
        let damaged = Arc::new(MemoryDisk::from_image(&damaged));
        assert!(read(&damaged).is_err(), "byte {at}");
    }
    for cut in 0..len {
        let mut short = image.clone();
        short.get_mut("a").expect("there").truncate(cut);
        assert!(
            read(&Arc::new(MemoryDisk::from_image(&short))).is_err(),
            "cut {cut}"
        );
    }
    let mut long = image.clone();
    long.get_mut("a").expect("there").push(0);
    assert!(read(&Arc::new(MemoryDisk::from_image(&long))).is_err());
}

#[test]
fn a_version_or_section_of_a_newer_release_is_refused_by_name() {
    let disk = Arc::new(MemoryDisk::new());
    written(&disk, b"state");
    let mut newer = disk.image();
    newer.get_mut("a").expect("there")[8] = 2;
    let why = read(&Arc::new(MemoryDisk::from_image(&newer))).expect_err("refused");
    assert_eq!(why, "its format version is 2, this program reads 1");
    let mut bytes = head().encode();
    bytes[FIXED] = 9;
    let crc = crc_of(&bytes);
    bytes[CRC_AT..FIXED].copy_from_slice(&crc.to_le_bytes());
    let why = SnapshotHead::decode(&bytes).expect_err("refused");
    assert_eq!(
        why,
        "it has a section of kind 9, which this release cannot read"
    );
}

#[test]
fn arbitrary_bytes_are_refused_without_a_panic() {
    let mut state = 1_u64;
    for len in 0..600 {
        let mut bytes: Vec<u8> = (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        if len > 16 && len % 2 == 0 {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&REPLICA_FORMAT.to_le_bytes());
        }
        let image = [("a".to_owned(), bytes)].into();
        assert!(
            read(&Arc::new(MemoryDisk::from_image(&image))).is_err(),
            "{len}"
        );
    }
}

#[test]
fn a_writer_that_is_stopped_leaves_an_error() {
    let disk = Arc::new(MemoryDisk::new());
    let state = Box::new(Text(vec![1; 4 * CHUNK]));
    let mut pieces = 0;
    let stopped = write(&*disk, "a", &head(), state, &mut move |_| {
        pieces += 1;
        if pieces < 3 {
            Ok(())
        } else {
            Err(io::Error::other("the node stops"))
        }
    });
    assert_eq!(stopped.expect_err("stopped").to_string(), "the node stops");
}

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::backup::Job;
use crate::state_machine::Frozen;
use crate::types::{ClusterId, LogId};

struct Bytes(Vec<u8>);

impl Frozen for Bytes {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        // In pieces, as a state machine writes.
        self.0
            .chunks(1000)
            .try_for_each(|piece| out.write_all(piece))
    }
}

struct Fails(io::ErrorKind);

impl Frozen for Fails {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"half")?;
        Err(self.0.into())
    }
}

fn info(index: u64) -> SnapshotInfo {
    SnapshotInfo {
        cluster: ClusterId([7; 16]),
        applied: LogId::new(3, index),
        time_us: 1_767_225_600_000_000,
        digest: u128::MAX - 5,
        sidecars: 36,
        groups: 10,
        feature_level: 1,
    }
}

fn id(text: &str) -> SnapshotId {
    text.parse().expect("id")
}

fn job() -> Job {
    Job::at_rate(1 << 30)
}

fn store() -> (tempfile::TempDir, SnapshotStore) {
    let dir = tempfile::tempdir().expect("directory");
    let store =
        SnapshotStore::open(dir.path().join("backups"), BackupLimits::default()).expect("store");
    (dir, store)
}

fn files(store: &SnapshotStore) -> Vec<String> {
    let mut names = store.names().expect("names");
    names.sort();
    names
}

#[test]
fn what_is_written_is_read_back() {
    let (_dir, store) = store();
    let body: Vec<u8> = (0..700_000u32).map(|n| (n * 7) as u8).collect();
    let listed = store
        .create(
            &id("a"),
            Box::new(Bytes(body.clone())),
            Compression::None,
            &job(),
            |written| {
                let mut read_back = Vec::new();
                written.read_to_end(&mut read_back).expect("read back");
                assert_eq!(read_back, body);
                Ok(info(9))
            },
        )
        .expect("create");
    let size = listed.size;
    assert_eq!(size, (HEAD_LEN + body.len()) as u64);
    let mut reader = store.read(&id("a")).expect("read");
    assert_eq!((reader.size(), reader.info()), (size, &info(9)));

    let mut whole = Vec::new();
    while (whole.len() as u64) < size {
        whole.extend(reader.chunk(whole.len() as u64, BUFFER).expect("chunk"));
    }
    let digest = ring::digest::digest(&SHA256, &whole);
    assert_eq!(digest.as_ref(), reader.sha256());
    assert!(reader.chunk(size + 1, 10).expect("beyond").is_empty());
    assert_eq!(whole[HEAD_LEN..], body);

    let mode = fs::metadata(store.path(&id("a"), SUFFIX)).expect("metadata");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
}

#[test]
fn names_are_never_overwritten_and_lists_are_sorted() {
    let (_dir, store) = store();
    for (name, index) in [("b", 2), ("a", 1), ("a.1", 3)] {
        let state = Box::new(Bytes(vec![1; 10]));
        store
            .create(&id(name), state, Compression::None, &job(), |_| {
                Ok(info(index))
            })
            .expect("create");
    }
    let again = store.create(
        &id("a"),
        Box::new(Bytes(vec![])),
        Compression::None,
        &job(),
        |_| Ok(info(8)),
    );
    assert!(matches!(again, Err(SnapshotError::Exists(_))));
    let list = store.list().expect("list");
    let names: Vec<_> = list
        .whole
        .iter()
        .map(|listed| (listed.id.as_str(), listed.info.applied.index))
        .collect();
    assert_eq!(names, [("a", 1), ("a.1", 3), ("b", 2)]);
    assert!(list.damaged.is_empty());

    store.delete(&id("a")).expect("delete");
    assert!(matches!(
        store.delete(&id("a")),
        Err(SnapshotError::NotFound(_))
    ));
    assert_eq!(files(&store), ["a.1.snapshot", "b.snapshot"]);
}

#[test]
fn a_failed_write_leaves_nothing_and_names_a_full_disk() {
    let (_dir, store) = store();
    let full = Fails(io::ErrorKind::StorageFull);
    assert!(matches!(
        store.create(&id("a"), Box::new(full), Compression::None, &job(), |_| Ok(
            info(1)
        )),
        Err(SnapshotError::Full { .. })
    ));
    let broken = Fails(io::ErrorKind::Other);
    assert!(matches!(
        store.create(
            &id("a"),
            Box::new(broken),
            Compression::None,
            &job(),
            |_| Ok(info(1))
        ),
        Err(SnapshotError::Io { .. })
    ));
    let wrong = store.create(
        &id("a"),
        Box::new(Bytes(vec![1])),
        Compression::None,
        &job(),
        |_| Err("digest".into()),
    );
    assert!(matches!(wrong, Err(SnapshotError::Damaged { .. })));
    assert!(files(&store).is_empty());
}

#[test]
fn leftovers_of_a_crash_are_removed_at_the_next_start() {
    let (_dir, store) = store();
    fs::write(store.path(&id("a"), PARTIAL), b"half").expect("write");
    SnapshotStore::open(&store.dir, store.limits).expect("open");
    assert!(files(&store).is_empty());
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let (_dir, store) = store();
    let state = Box::new(Bytes(vec![42; 64]));
    store
        .create(&id("a"), state, Compression::None, &job(), |_| Ok(info(1)))
        .expect("create");
    let path = store.path(&id("a"), SUFFIX);
    let good = fs::read(&path).expect("read");
    let damaged = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("write");
        matches!(store.read(&id("a")), Err(SnapshotError::Damaged { .. }))
    };
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(damaged(&bad), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(damaged(&good[..len]), "cut to {len}");
    }
    let longer = [good.as_slice(), b"x"].concat();
    assert!(damaged(&longer));
    assert!(!damaged(&good));
}

#[test]
fn i7_a_symbolic_link_is_not_followed() {
    let (dir, store) = store();
    let state = Box::new(Bytes(vec![42; 64]));
    store
        .create(&id("a"), state, Compression::None, &job(), |_| Ok(info(1)))
        .expect("create");
    let outside = dir.path().join("outside");
    fs::rename(store.path(&id("a"), SUFFIX), &outside).expect("move");
    std::os::unix::fs::symlink(&outside, store.path(&id("a"), SUFFIX)).expect("link");
    assert!(store.read(&id("a")).is_err());
    let list = store.list().expect("list");
    assert_eq!((list.whole.len(), list.damaged.len()), (0, 1));
}

use std::fs;
use std::path::Path;

use super::super::SnapshotInfo;
use super::super::pack::Compression;
use super::super::store::SUFFIX;
use super::*;
use crate::state_machine::{ApplyContext, RouterCommand, RouterStateMachine, StateMachine};
use crate::types::{ClusterId, LogId};

const LIMITS: BackupLimits = BackupLimits {
    max_bytes: 8 << 20,
    max_ratio: 256,
    bytes_per_second: 1 << 30,
    keep_uploads: Duration::from_secs(60),
};

fn id(text: &str) -> SnapshotId {
    text.parse().expect("id")
}

fn store(limits: BackupLimits) -> (tempfile::TempDir, SnapshotStore) {
    let dir = tempfile::tempdir().expect("directory");
    let store = SnapshotStore::open(dir.path().join("backups"), limits).expect("store");
    (dir, store)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("backups")).expect("names");
    let names = entries.map(|entry| entry.expect("entry").file_name().into_string());
    let mut names: Vec<_> = names.map(|name| name.expect("UTF-8")).collect();
    names.sort();
    names
}

/// The bytes of a backup of a state that does not compress, and that state's digest.
fn backup(seed: u32) -> (Vec<u8>, u128) {
    let (dir, store) = store(LIMITS);
    let mut machine = RouterStateMachine::new();
    let mut random = seed;
    let config = (0..900_000).map(|_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    });
    let command = RouterCommand::CreatePipeline {
        pipeline_id: "p".to_owned(),
        name: String::new(),
        config: config.collect(),
    };
    let context = ApplyContext {
        index: 1,
        term: 1,
        time_us: 1,
    };
    machine.apply(&context, command);
    let info = SnapshotInfo {
        cluster: ClusterId([7; 16]),
        applied: LogId::new(3, 9),
        time_us: 1,
        digest: machine.digest(),
        sidecars: 0,
        groups: 0,
        feature_level: 1,
    };
    let job = Job::at_rate(1 << 30);
    store
        .create(&id("a"), machine.freeze(), Compression::None, &job, |_| {
            Ok(info)
        })
        .expect("made");
    let bytes = fs::read(dir.path().join("backups").join(format!("a{SUFFIX}")));
    (bytes.expect("file"), machine.digest())
}

fn sum(bytes: &[u8]) -> Sum {
    let hash = ring::digest::digest(&SHA256, bytes);
    Sum {
        len: bytes.len() as u64,
        sha256: hash.as_ref().try_into().expect("32 bytes"),
    }
}

/// Gives what it has in pieces of all sizes, and breaks off behind it.
struct Breaking<'a>(&'a [u8], usize);

impl Read for Breaking<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 * 7 % 65_537 + 1;
        let now = self.0.len().min(out.len()).min(self.1);
        if now == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (piece, rest) = self.0.split_at(now);
        out[..now].copy_from_slice(piece);
        self.0 = rest;
        Ok(now)
    }
}

fn sent(
    store: &SnapshotStore,
    name: &str,
    (from, piece): (usize, &[u8]),
    whole: &[u8],
) -> Result<u128, SnapshotError> {
    let mut all = piece;
    let mut breaking = Breaking(piece, 1);
    let input: &mut dyn Read = match from + piece.len() < whole.len() {
        true => &mut breaking,
        false => &mut all,
    };
    let machine = RouterStateMachine::new();
    let job = Job::at_rate(1 << 30);
    let taken = store.receive(&id(name), (from as u64, input), sum(whole), &job, machine);
    taken.map(|(_, verified)| verified.machine.digest())
}

fn breaks_off(store: &SnapshotStore, name: &str, to: usize, whole: &[u8]) {
    let broken = sent(store, name, (0, &whole[..to]), whole);
    assert!(
        matches!(broken, Err(SnapshotError::Cancelled(_))),
        "{broken:?}"
    );
}

#[test]
fn an_upload_that_breaks_off_anywhere_goes_on_to_the_same_state() {
    let (whole, digest) = backup(1);
    let (dir, store) = store(LIMITS);
    let end = whole.len();
    for cuts in [
        vec![1],
        vec![119, 120, 121],
        vec![BUFFER - 1, BUFFER, BUFFER + 1],
        vec![end / 3, end / 2, end - 1],
    ] {
        let mut at = 0;
        for cut in &cuts {
            let broken = sent(&store, "a", (at, &whole[at..*cut]), &whole);
            assert!(matches!(broken, Err(SnapshotError::Cancelled(_))));
            at = *cut;
            let known = store.upload(&id("a")).expect("kept");
            assert_eq!((known.received, known.sum), (at as u64, sum(&whole)));
            assert!(!known.under_way && known.finished.is_none());
        }
        let taken = sent(&store, "a", (at, &whole[at..]), &whole);
        assert_eq!(taken.expect("whole"), digest, "{cuts:?}");
        assert_eq!(names(dir.path()), ["a.snapshot"]);
        let finished = store.upload(&id("a")).expect("remembered").finished;
        assert_eq!(finished.expect("it ended").size, end as u64);
        store.delete(&id("a")).expect("deleted");
        assert_eq!(store.upload(&id("a")), None);
    }
}

#[test]
fn an_upload_that_is_given_up_while_it_is_checked_goes_on_with_nothing_more() {
    let (whole, digest) = backup(1);
    let (dir, store) = store(LIMITS);
    let job = Job::at_rate(1 << 30);
    /// The caller goes away with the last byte.
    struct Leaving<'a>(&'a [u8], Option<super::super::CancelOnDrop>);
    impl Read for Leaving<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let got = self.0.read(out)?;
            if got == 0 {
                self.1 = None;
            }
            Ok(got)
        }
    }
    let mut leaving = Leaving(&whole, Some(job.cancel_on_drop()));
    let machine = RouterStateMachine::new();
    let ended = store.receive(&id("a"), (0, &mut leaving), sum(&whole), &job, machine);
    assert!(matches!(ended, Err(SnapshotError::Cancelled(_))));
    let known = store.upload(&id("a")).expect("kept");
    assert_eq!(known.received, whole.len() as u64);
    let taken = sent(&store, "a", (whole.len(), &[]), &whole);
    assert_eq!(taken.expect("whole"), digest);
    assert_eq!(names(dir.path()), ["a.snapshot"]);
}

#[test]
fn two_files_are_never_mixed() {
    let ((whole, digest), (other, other_digest)) = (backup(1), backup(2));
    let (dir, store) = store(LIMITS);
    let half = whole.len() / 2;
    let refused = |name: &str, from: usize, file: &[u8]| {
        let refused = sent(&store, name, (from, &file[from..]), file);
        matches!(refused, Err(SnapshotError::NotGoneOn { .. }))
    };
    assert!(refused("a", half, &whole), "nothing is kept");
    breaks_off(&store, "a", half, &whole);
    assert!(refused("b", half, &whole), "of another name");
    assert!(refused("a", half, &other), "another file");
    assert!(refused("a", half - 1, &whole), "some of it is there");
    assert!(refused("a", half + 1, &whole), "something is missing");
    // What was refused took nothing away.
    let taken = sent(&store, "a", (half, &whole[half..]), &whole);
    assert_eq!(taken.expect("whole"), digest);
    store.delete(&id("a")).expect("deleted");

    // Another file that begins at 0 takes the place of what is kept.
    breaks_off(&store, "a", half, &whole);
    breaks_off(&store, "a", 1000, &other);
    assert!(refused("a", half, &whole), "it gave way");
    let taken = sent(&store, "a", (1000, &other[1000..]), &other);
    assert_eq!(taken.expect("whole"), other_digest);
    store.delete(&id("a")).expect("deleted");

    // The right place in the wrong bytes: the sum is over the whole.
    breaks_off(&store, "a", half, &whole);
    let taken = sent(&store, "a", (half, &other[half..]), &whole);
    assert!(matches!(taken, Err(SnapshotError::Damaged { .. })));
    assert_eq!(names(dir.path()), [""; 0], "and what is damaged is gone");

    // Somebody else wrote to the file.
    breaks_off(&store, "a", half, &whole);
    fs::write(dir.path().join("backups/a.partial"), b"x").expect("written");
    assert!(refused("a", half, &whole), "it is not what came");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn what_is_kept_is_bounded_in_number_bytes_and_time() {
    let (whole, _) = backup(1);
    let (dir, few) = store(LIMITS);
    for name in ["a", "b", "c", "d", "e"] {
        breaks_off(&few, name, 1000, &whole);
    }
    let kept = ["b.partial", "c.partial", "d.partial", "e.partial"];
    assert_eq!(names(dir.path()), kept, "the first gave way");
    few.delete(&id("c")).expect("it is given up");
    assert_eq!(names(dir.path()).len(), 3);
    // A backup made here takes the place of what is kept under its name.
    let taken = sent(&few, "b", (0, &whole), &whole);
    assert!(taken.is_ok(), "{taken:?}");
    assert_eq!(names(dir.path()), ["b.snapshot", "d.partial", "e.partial"]);
    drop(few);
    assert_eq!(names(dir.path()), ["b.snapshot"], "it goes with its store");

    let (dir, small) = store(BackupLimits {
        max_bytes: 1_000_000,
        ..LIMITS
    });
    breaks_off(&small, "a", 400_000, &whole);
    breaks_off(&small, "b", 400_000, &whole);
    assert_eq!(names(dir.path()).len(), 2);
    breaks_off(&small, "c", 400_000, &whole);
    assert_eq!(names(dir.path()), ["b.partial", "c.partial"]);

    let (dir, brief) = store(BackupLimits {
        keep_uploads: Duration::from_millis(1),
        ..LIMITS
    });
    breaks_off(&brief, "a", 1000, &whole);
    std::thread::sleep(Duration::from_millis(5));
    brief.forget_old_uploads();
    assert_eq!(names(dir.path()), [""; 0]);

    let (dir, never) = store(BackupLimits {
        keep_uploads: Duration::ZERO,
        ..LIMITS
    });
    breaks_off(&never, "a", 1000, &whole);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn what_a_crash_left_of_an_upload_is_gone_at_the_next_start() {
    let (whole, _) = backup(1);
    let (dir, first) = store(LIMITS);
    breaks_off(&first, "a", 1000, &whole);
    assert_eq!(names(dir.path()), ["a.partial"]);
    // The process is no more, and nobody removed anything.
    std::mem::forget(first);
    let again = SnapshotStore::open(dir.path().join("backups"), LIMITS).expect("store");
    assert_eq!(names(dir.path()), [""; 0]);
    assert_eq!(again.upload(&id("a")), None);
}

#[test]
fn one_at_a_time_under_one_name() {
    let (whole, _) = backup(1);
    let (dir, store) = store(LIMITS);
    /// Looks at the store while it gives its bytes.
    struct Looking<'a>(&'a SnapshotStore, &'a [u8], &'a [u8]);
    impl Read for Looking<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let known = self.0.upload(&id("a")).expect("known");
            assert!(known.under_way);
            for from in [0, 1000] {
                let second = sent(self.0, "a", (from, &self.2[from..]), self.2);
                assert!(
                    matches!(second, Err(SnapshotError::Exists(_))),
                    "{second:?}"
                );
            }
            self.1.read(out)
        }
    }
    let mut input = Looking(&store, &whole, &whole);
    let (job, machine) = (Job::at_rate(1 << 30), RouterStateMachine::new());
    let taken = store.receive(&id("a"), (0, &mut input), sum(&whole), &job, machine);
    assert!(taken.is_ok(), "{taken:?}");
    assert_eq!(names(dir.path()), ["a.snapshot"]);
    for number in 0..=FINISHED {
        let name = format!("n-{number}");
        sent(&store, &name, (0, &whole), &whole).expect("taken");
    }
    assert_eq!(store.upload(&id("a")), None, "so many are remembered");
    assert!(store.upload(&id("n-1")).is_some());
}

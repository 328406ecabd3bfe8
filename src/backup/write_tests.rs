use super::super::pack;
use super::*;
use crate::state_machine::{ApplyContext, RouterCommand, RouterStateMachine};
use crate::types::{ClusterId, LogId};

const LIMITS: BackupLimits = BackupLimits {
    max_bytes: 64 << 20,
    max_ratio: 256,
    bytes_per_second: 1 << 30,
    keep_uploads: std::time::Duration::from_secs(60),
};

fn id(text: &str) -> SnapshotId {
    text.parse().expect("id")
}

fn job() -> Job {
    Job::at_rate(1 << 30)
}

fn store() -> (tempfile::TempDir, SnapshotStore) {
    let dir = tempfile::tempdir().expect("directory");
    let store = SnapshotStore::open(dir.path().join("backups"), LIMITS).expect("store");
    (dir, store)
}

fn files(store: &SnapshotStore) -> usize {
    fs::read_dir(store.path(&id("a"), "").parent().expect("directory"))
        .expect("names")
        .count()
}

/// With so many bytes that compress by nothing, or by a lot.
fn machine(bytes: u32, random: bool) -> RouterStateMachine {
    let mut machine = RouterStateMachine::new();
    let mut seed = 1_u32;
    let config = (0..bytes).map(|_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if random { (seed >> 24) as u8 } else { 0 }
    });
    let config: Vec<u8> = config.collect();
    for (index, piece) in config.chunks(1 << 20).enumerate() {
        let context = ApplyContext {
            index: index as u64 + 1,
            term: 1,
            time_us: 1,
        };
        let command = RouterCommand::CreatePipeline {
            pipeline_id: format!("p-{index}"),
            name: String::new(),
            config: piece.to_vec(),
        };
        machine.apply(&context, command);
    }
    machine
}

fn made(store: &SnapshotStore, name: &str, state: &RouterStateMachine, how: Compression) -> Listed {
    let info = SnapshotInfo {
        cluster: ClusterId([7; 16]),
        applied: LogId::new(3, 9),
        time_us: 1,
        digest: state.digest(),
        sidecars: 0,
        groups: 0,
        feature_level: 1,
    };
    store
        .create(&id(name), state.freeze(), how, &job(), |_| Ok(info))
        .expect("made")
}

fn bytes(store: &SnapshotStore, name: &str) -> Vec<u8> {
    fs::read(store.path(&id(name), SUFFIX)).expect("file")
}

fn sum(bytes: &[u8]) -> Sum {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    Sum {
        len: bytes.len() as u64,
        sha256: hash.as_ref().try_into().expect("32 bytes"),
    }
}

fn sent(store: &SnapshotStore, name: &str, bytes: &[u8]) -> Result<Listed, SnapshotError> {
    let input = &mut &*bytes;
    let taken = store.receive(
        &id(name),
        (0, input),
        sum(bytes),
        &job(),
        RouterStateMachine::new(),
    );
    taken.map(|(listed, _)| listed)
}

#[test]
fn every_compression_is_read_back() {
    let (_dir, store) = store();
    let state = machine(300_000, false);
    let mut sizes = Vec::new();
    for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let name = how.to_string();
        let listed = made(&store, &name, &state, how);
        assert_eq!(listed.compression, how);
        let again = store.verify(&id(&name), RouterStateMachine::new());
        assert_eq!(again.expect("whole").machine.digest(), state.digest());
        assert_eq!(listed.size, bytes(&store, &name).len() as u64);
        sizes.push(listed.size);
    }
    assert!(sizes[1] < sizes[0] / 10 && sizes[2] < sizes[0] / 10);
    assert_eq!(files(&store), 3);
}

#[test]
fn a_state_that_shrinks_too_much_stays_as_it_is() {
    let (_dir, store) = store();
    let state = machine(16 << 20, false);
    let listed = made(&store, "a", &state, Compression::Zstd);
    assert_eq!(listed.compression, Compression::None);
    assert!(store.verify(&id("a"), RouterStateMachine::new()).is_ok());
    assert_eq!(files(&store), 1);
}

#[test]
fn what_comes_is_kept_as_it_was_before_somebody_compressed_it() {
    let (_dir, store) = store();
    let state = machine(300_000, true);
    made(&store, "here", &state, Compression::Zstd);
    let plain = bytes(&store, "here");
    for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut wrapped = Vec::new();
        pack::compress(how, &mut &*plain, &mut wrapped).expect("wrapped");
        let name = format!("there-{how}");
        let listed = sent(&store, &name, &wrapped).expect("taken");
        assert_eq!(listed.info.digest, state.digest());
        assert_eq!(bytes(&store, &name), plain);
    }
    let again = sent(&store, "here", &plain);
    assert!(matches!(again, Err(SnapshotError::Exists(_))), "{again:?}");
    assert_eq!(files(&store), 4);
}

#[test]
fn what_is_damaged_or_too_large_leaves_nothing() {
    let (_dir, store) = store();
    made(&store, "a", &machine(3000, true), Compression::Zstd);
    let whole = bytes(&store, "a");
    store.delete(&id("a")).expect("deleted");
    let damaged = |bytes: &[u8]| {
        let refused = sent(&store, "a", bytes);
        matches!(refused, Err(SnapshotError::Damaged { .. }))
    };
    for at in (0..whole.len()).filter(|at| *at < HEAD_LEN || at % 13 == 0) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        assert!(damaged(&flipped), "byte {at}");
    }
    for len in (0..whole.len()).step_by(31) {
        assert!(damaged(&whole[..len]), "cut to {len}");
    }
    assert!(damaged(&[whole.as_slice(), b"x"].concat()));
    let mut bomb = Vec::new();
    pack::compress(Compression::Zstd, &mut &*vec![0; 32 << 20], &mut bomb).expect("packed");
    let refused = sent(&store, "a", &bomb);
    assert!(
        matches!(refused, Err(SnapshotError::TooLarge { .. })),
        "{refused:?}"
    );
    assert_eq!(files(&store), 0);
    assert!(sent(&store, "a", &whole).is_ok());
}

#[test]
fn a_bomb_within_a_snapshot_is_refused_by_its_own_head_and_by_what_comes_of_it() {
    let (_dir, store) = store();
    let mut packed = Vec::new();
    pack::compress(Compression::Zstd, &mut &*vec![0; 32 << 20], &mut packed).expect("packed");
    for state_len in [32 << 20, 1000] {
        let info = SnapshotInfo {
            cluster: ClusterId([7; 16]),
            applied: LogId::new(3, 9),
            time_us: 1,
            digest: 1,
            sidecars: 0,
            groups: 0,
            feature_level: 1,
        };
        let body = Body {
            compression: Compression::Zstd,
            len: packed.len() as u64,
            state_len,
            crc: crc32fast::hash(&packed),
        };
        let file = [Head::seal(&info, &body).as_bytes(), &packed].concat();
        let refused = sent(&store, "a", &file).expect_err("refused");
        let by_its_head = matches!(refused, SnapshotError::TooLarge { .. });
        assert_eq!(by_its_head, state_len > 1000, "{refused}");
    }
    assert_eq!(files(&store), 0);
}

#[test]
fn a_cancelled_job_leaves_nothing() {
    let (_dir, store) = store();
    let state = machine(3000, true);
    let job = job();
    drop(job.cancel_on_drop());
    let how = Compression::Zstd;
    let ended = store.create(&id("a"), state.freeze(), how, &job, |_| {
        Err("never asked".into())
    });
    assert!(
        matches!(ended, Err(SnapshotError::Cancelled(_))),
        "{ended:?}"
    );
    assert_eq!(files(&store), 0);
}

#[test]
fn a_newer_cluster_s_state_is_refused() {
    let (_dir, store) = store();
    let state = machine(10, true);
    let info = SnapshotInfo {
        cluster: ClusterId([7; 16]),
        applied: LogId::new(3, 9),
        time_us: 1,
        digest: state.digest(),
        sidecars: 0,
        groups: 0,
        feature_level: 999,
    };
    let how = Compression::None;
    store
        .create(&id("a"), state.freeze(), how, &job(), |_| Ok(info))
        .expect("made");
    let refused = store.verify(&id("a"), RouterStateMachine::new());
    let why = refused.expect_err("refused").to_string();
    assert!(why.contains("feature level 999"), "{why}");
}

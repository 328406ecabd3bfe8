//! What integration tests share: taking turns where real time counts, and saying what is missing.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod bed;
pub(crate) mod counters;
pub(crate) mod small_disk;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

/// Held by a test that measures or waits in real time (elections, processes, sockets). At most one
/// such test runs at a time on this target directory, whichever runner started it and however many
/// threads or processes that has; dropping the guard lets the next one go on.
#[must_use = "the turn ends when the guard is dropped"]
pub(crate) struct RealTimeTurn {
    _lock: File,
}

/// Waits for the turn of a real-time test.
///
/// The lock is advisory and belongs to the open file, so threads of one process exclude each other
/// as well, and a killed test lets go of it.
pub(crate) fn real_time_turn() -> RealTimeTurn {
    turn_at(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// The same with a lock in `dir`.
pub(crate) fn turn_at(dir: &Path) -> RealTimeTurn {
    fs::create_dir_all(dir).expect("the target directory can be written");
    let lock = File::create(dir.join("real-time-turn.lock")).expect("the lock file can be made");
    lock.lock().expect("the lock file can be locked");
    RealTimeTurn { _lock: lock }
}

/// Whether a test can go on: it prints `skipped: needs ...` and the test should return if not.
///
/// On CI everything that a test may need is expected to be there, so there a skip fails.
pub(crate) fn needs(what: &str, there: bool) -> bool {
    if !there {
        let on_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!on_ci, "skipped: needs {what}, and CI must have it");
        println!("skipped: needs {what}");
    }
    there
}

/// Whether `program` is found in `PATH`.
pub(crate) fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The files of a directory, by name.
pub(crate) fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("directory").map(|entry| {
        let entry = entry.expect("entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, fs::read(entry.path()).expect("readable"))
    });
    entries.collect()
}

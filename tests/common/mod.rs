//! What integration tests share: taking turns where real time counts, and saying what is missing.
#![allow(dead_code, reason = "each test binary uses a part of it")]

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

fn turn_at(dir: &Path) -> RealTimeTurn {
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

#[cfg(test)]
mod tests {
    use super::{real_time_turn, turn_at};
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    #[test]
    fn turns_of_threads_do_not_overlap() {
        // A folder of its own: this must not wait behind the real tests.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("turns_of_threads");
        let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _turn = turn_at(&dir);
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_turn_can_be_had_again_after_it_was_given_back() {
        drop(real_time_turn());
        drop(real_time_turn());
    }
}

//! The turns that real-time tests take (`tests/common`) keep them apart.

mod common;

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
                let _turn = common::turn_at(&dir);
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
    drop(common::real_time_turn());
    drop(common::real_time_turn());
}

#[test]
fn a_shell_is_found_and_nonsense_is_not() {
    assert!(common::has_program("sh"));
    assert!(!common::has_program("no-such-program-anywhere"));
}

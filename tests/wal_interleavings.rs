//! Every interleaving, and every value that a weak memory may show, of what threads of the log share:
//! the marks of published bytes, and the lanes that run syncs. It is the log's own code, compiled
//! here with loom's primitives in place of the standard ones.

mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread;
}

#[allow(dead_code, reason = "the log uses all of it")]
#[path = "../src/wal/lanes.rs"]
mod lanes;
#[allow(dead_code, reason = "the log uses all of it")]
#[path = "../src/wal/published.rs"]
mod published;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use lanes::Worker;
use published::Published;
use sync::{AtomicUsize, Mutex, Ordering};

/// Cells of a batch header.
const HEADER: usize = 2;
const CELLS: usize = 4;

/// Memory without any order of its own: only the marks can make a store visible.
struct Memory {
    marks: Published,
    cells: [AtomicUsize; CELLS],
}

impl Memory {
    fn new() -> Arc<Self> {
        let memory = Self {
            marks: Published::nothing(),
            cells: std::array::from_fn(|_| AtomicUsize::new(0)),
        };
        memory.marks.begin(0, 0);
        Arc::new(memory)
    }

    fn store(&self, at: usize, value: usize) {
        self.cells[at].store(value, Ordering::Relaxed);
    }

    fn assert_final(&self, range: Range<usize>) {
        for at in range {
            let found = self.cells[at].load(Ordering::Relaxed);
            assert_eq!(found, at + 100, "cell {at}");
        }
    }

    /// A batch as the log's writer makes one: header opened, a frame, the header closed.
    fn write_batch(&self) {
        self.store(0, 1);
        self.marks.open(0);
        self.marks.publish(HEADER);
        for at in HEADER..CELLS {
            self.store(at, at + 100);
            self.marks.publish(at + 1);
        }
        for at in (0..HEADER).rev() {
            self.store(at, at + 100);
        }
        self.marks.close(CELLS);
    }
}

#[test]
fn what_is_shown_to_readers_is_stored_and_stays() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = Arc::clone(&memory);
        let writer = thread::spawn(move || theirs.write_batch());
        for range in [2..3, 2..4, 0..4] {
            if memory.marks.shows(&range, HEADER) {
                memory.assert_final(range);
            }
        }
        writer.join().expect("no panic");
        assert!(memory.marks.shows(&(0..CELLS), HEADER));
    });
}

#[test]
fn what_is_called_final_is_stored_and_stays() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = Arc::clone(&memory);
        let writer = thread::spawn(move || theirs.write_batch());
        if memory.marks.is_final(&(0..CELLS)) {
            memory.assert_final(0..CELLS);
        }
        writer.join().expect("no panic");
    });
}

/// A sync runs on its lane after everything that was stored before it was submitted, and what it
/// tells comes back.
#[test]
fn a_lane_sees_what_was_stored_before_it_was_asked() {
    loom::model(|| {
        let memory = Memory::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (theirs, sink) = (Arc::clone(&memory), Arc::clone(&told));
        let run = move |upto: usize| {
            theirs.assert_final(HEADER..upto);
            sink.lock().expect("lock").push(upto);
        };
        let mut lane = Worker::spawn("lane", true, run).expect("a thread");
        for at in HEADER..CELLS {
            memory.store(at, at + 100);
            lane.submit(Duration::ZERO, at + 1);
        }
        lane.stop();
        assert_eq!(
            *told.lock().expect("lock"),
            [3, 4],
            "in order, none is lost"
        );
    });
}

/// The other lanes drop what has not begun, and end all the same.
#[test]
fn a_lane_that_need_not_finish_ends() {
    loom::model(|| {
        let done = Arc::new(AtomicUsize::new(0));
        let theirs = Arc::clone(&done);
        let run = move |_: ()| _ = theirs.fetch_add(1, Ordering::Relaxed);
        let mut lane = Worker::spawn("lane", false, run).expect("a thread");
        lane.submit(Duration::ZERO, ());
        lane.stop();
        assert!(done.load(Ordering::Relaxed) <= 1);
    });
}

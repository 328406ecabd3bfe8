//! Which bytes of a mapping readers may look at, and which are final. Knows nothing of the memory.
//!
//! One writer moves these marks, through its own `&mut`; any number of readers look at them. What
//! makes it sound is the order: a byte is stored before the mark that shows it is raised (Release),
//! and a reader sees the mark (Acquire) before it looks at the byte.

use std::ops::Range;

use super::sync::{AtomicBool, AtomicUsize, Ordering};

const NO_HOLE: usize = usize::MAX;

/// The marks of one mapping.
#[derive(Debug)]
pub(crate) struct Published {
    /// Where published bytes begin; before it stand the segment header's copies.
    data: AtomicUsize,
    /// Where published bytes end. Never falls.
    readable: AtomicUsize,
    /// Start of the open batch's header, which lies below `readable` but is still to be written.
    hole: AtomicUsize,
    /// Below this nothing (the segment header aside) is ever stored again.
    closed: AtomicUsize,
    /// Whether the segment header is final too.
    head_final: AtomicBool,
}

impl Published {
    pub(crate) fn nothing() -> Self {
        Self {
            data: AtomicUsize::new(0),
            readable: AtomicUsize::new(0),
            hole: AtomicUsize::new(NO_HOLE),
            closed: AtomicUsize::new(0),
            head_final: AtomicBool::new(false),
        }
    }

    /// Bytes from `data` to `end` are published and final.
    pub(crate) fn begin(&self, data: usize, end: usize) {
        self.data.store(data, Ordering::Relaxed);
        self.closed.store(end, Ordering::Release);
        self.readable.store(end, Ordering::Release);
    }

    /// Where data begin; for the writer.
    pub(crate) fn data(&self) -> usize {
        self.data.load(Ordering::Relaxed)
    }

    /// Whether all bytes of a range may be read. Once true, true for ever.
    pub(crate) fn shows(&self, range: &Range<usize>, header: usize) -> bool {
        // `readable` before `hole`: a header that opened below this `readable` is then seen.
        let end = self.readable.load(Ordering::Acquire);
        let hole = self.hole.load(Ordering::Acquire);
        let clear =
            hole == NO_HOLE || range.end <= hole || range.start >= hole.saturating_add(header);
        let published = range.start >= self.data.load(Ordering::Relaxed) && range.end <= end;
        published && clear && range.start <= range.end
    }

    /// Whether nothing in a range is ever stored again.
    pub(crate) fn is_final(&self, range: &Range<usize>) -> bool {
        let closed = self.closed.load(Ordering::Acquire);
        let head = self.head_final.load(Ordering::Acquire);
        range.end <= closed && (head || range.start >= self.data.load(Ordering::Relaxed))
    }

    /// A header is open at `at`: below what is published, not to be read.
    pub(crate) fn open(&self, at: usize) {
        self.hole.store(at, Ordering::Release);
    }

    /// Where the open header is; for the writer.
    pub(crate) fn opened(&self) -> Option<usize> {
        let hole = self.hole.load(Ordering::Relaxed);
        (hole != NO_HOLE).then_some(hole)
    }

    /// Everything below `end` was stored.
    #[inline]
    pub(crate) fn publish(&self, end: usize) {
        self.readable.store(end, Ordering::Release);
    }

    /// The open header was stored, and nothing below `end` will be again.
    pub(crate) fn close(&self, end: usize) {
        self.publish(end);
        self.hole.store(NO_HOLE, Ordering::Release);
        self.closed.store(end, Ordering::Release);
    }

    /// The segment header was stored.
    pub(crate) fn set_head_final(&self) {
        self.head_final.store(true, Ordering::Release);
    }

    /// Whether it was; for the writer.
    pub(crate) fn head_is_final(&self) -> bool {
        self.head_final.load(Ordering::Relaxed)
    }

    /// Nobody can store any more: all of it is final, published or not.
    pub(crate) fn end(&self, len: usize) {
        self.set_head_final();
        self.closed.store(len, Ordering::Release);
    }
}

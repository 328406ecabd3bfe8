//! The only file with `unsafe`: memory that one writer fills while others read what it published.
//!
//! The rules that make it sound, all enforced here and at run time:
//! * there is at most one [`Writer`] of a mapping, ever, and its methods take `&mut self`;
//! * readers see only `data..readable` without the open batch's header (`hole`); the writer never
//!   stores into that range again, and everything in it was stored before `readable` was raised;
//! * the writer stores through raw pointers, so that no `&mut [u8]` ever overlaps a reader's slice.
//!
//! Outside of the language's reach stays what the directory's lock file is for: another process
//! that changes a mapped file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

use super::layout::BATCH_HEADER;
use super::published::Published;
use crate::entry::{FRAME_HEADER, frame_len};

/// A mapped file, or memory that stands for one. Opaque: only the log writes to it, and readers
/// get at published bytes through the log.
#[derive(Debug)]
pub struct Mapping {
    raw: MmapRaw,
    marks: Published,
    writer_taken: AtomicBool,
    /// Runs that were handed out and are still held.
    runs: AtomicUsize,
    /// Pages below this were made writable, in this life or an earlier one.
    touched: AtomicUsize,
}

impl Mapping {
    /// Zeroed memory of `len` bytes, for media without files.
    ///
    /// # Errors
    /// If the operating system has no memory to give.
    pub fn anonymous(len: usize) -> io::Result<Arc<Self>> {
        Ok(Self::new(MmapRaw::from(MmapMut::map_anon(len)?), 0))
    }

    /// The whole of `file`, readable and writable: what is stored is in the file.
    ///
    /// # Errors
    /// What `mmap` returns.
    pub fn of_file(file: &File) -> io::Result<Arc<Self>> {
        Ok(Self::new(MmapRaw::map_raw(file)?, 0))
    }

    /// The whole of `file`, readable, and writable as the process's own copy of each page that is
    /// stored to: what is stored has to be written to the file.
    ///
    /// # Errors
    /// What `mmap` returns.
    pub fn copy_of_file(file: &File) -> io::Result<Arc<Self>> {
        // SAFETY: the file is written by this process alone (the directory's lock file), never made
        // shorter, and nothing is written to it but what was stored here before.
        let copy = unsafe { MmapOptions::new().map_copy(file)? };
        Ok(Self::new(MmapRaw::from(copy), 0))
    }

    /// The same memory for a new life of its file, with nothing published, as if it had been
    /// mapped anew. To hold it alone is proof that no reader, writer or job is left who could see
    /// the next life's bytes.
    ///
    /// # Errors
    /// The mapping as it is, if anybody else still holds it.
    pub(crate) fn renew(self: Arc<Self>) -> Result<Arc<Self>, Arc<Self>> {
        let Self { raw, touched, .. } = Arc::try_unwrap(self)?;
        Ok(Self::new(raw, touched.into_inner()))
    }

    fn new(raw: MmapRaw, touched: usize) -> Arc<Self> {
        Arc::new(Self {
            raw,
            marks: Published::nothing(),
            writer_taken: AtomicBool::new(false),
            runs: AtomicUsize::new(0),
            touched: AtomicUsize::new(touched),
        })
    }

    /// Bytes of the mapping.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// The writer, for the first who asks. Bytes from `data` to `end` count as published.
    pub(crate) fn writer(self: &Arc<Self>, data: usize, end: usize) -> Option<Writer> {
        if end > self.len() || data > end || self.writer_taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.marks.begin(data, end);
        Some(Writer {
            map: Arc::clone(self),
            readable: end,
        })
    }

    /// Fills a mapping that nothing was published of yet; only before its writer is taken.
    pub(crate) fn filler(self: &Arc<Self>) -> Option<Filler> {
        let taken = self.writer_taken.swap(true, Ordering::AcqRel);
        (!taken).then(|| Filler(Arc::clone(self)))
    }

    /// Published bytes; `None` if part of the range is not.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        if !self.marks.shows(&range, BATCH_HEADER) {
            return None;
        }
        // SAFETY: the range lies within the mapping (`readable` never exceeds its length), which
        // lives as long as `self`. The writer stores only at or above `readable`, in the hole, or
        // below `data`; the range touches none of them, now or later, since `readable` never
        // falls and a new hole opens above it. Its bytes were stored before the Release store
        // that the Acquire load above saw.
        Some(unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(range.start), range.len()) })
    }

    /// Published bytes that keep the mapping alive: no copy.
    pub(crate) fn run(self: &Arc<Self>, range: Range<usize>) -> Option<Bytes> {
        self.bytes(range.clone())?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        Some(Bytes::from_owner(Run {
            map: Arc::clone(self),
            range,
        }))
    }

    /// Whether someone still holds bytes of this mapping.
    pub(crate) fn is_read(&self) -> bool {
        self.runs.load(Ordering::Acquire) > 0
    }

    /// Where data begin, behind the segment header's two copies.
    pub(crate) fn data(&self) -> usize {
        self.marks.data()
    }

    /// Bytes to which nothing is ever stored again; `None` if to some it may be, or no writer was
    /// ever taken.
    pub(crate) fn final_bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        let is_final = self.marks.is_final(&range) && self.writer_taken.load(Ordering::Acquire);
        if !is_final || range.start > range.end {
            return None;
        }
        // SAFETY: the range lies within the mapping (`closed` never exceeds its length), which
        // lives as long as `self`. Nothing is stored below `closed` any more, nor below `data` once
        // `head_final` is set; what was stored happened before the Release stores that the Acquire
        // loads above saw.
        Some(unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(range.start), range.len()) })
    }

    /// Stores bytes. Private: the caller is the only one who stores (`&mut` of the writer or the
    /// filler, of which there is one) and has checked that no reader looks there.
    #[inline]
    fn store(&self, at: usize, bytes: &[u8]) {
        let fits = at
            .checked_add(bytes.len())
            .is_some_and(|end| end <= self.len());
        assert!(fits, "store outside of the mapping");
        // SAFETY: within the mapping, as was just checked. No other thread stores or reads there,
        // as the callers see to. `bytes` cannot overlap: no slice of the mapping covers memory
        // that is still to be stored to.
        unsafe {
            let to = self.raw.as_mut_ptr().add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// `msync` of a range.
    pub(crate) fn flush(&self, range: Range<usize>) -> io::Result<()> {
        self.raw.flush_range(range.start, range.len())
    }

    /// Makes a range's pages present and writable.
    pub(crate) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        let advice = Advice::PopulateWrite;
        self.raw.advise_range(advice, range.start, range.len())?;
        if range.start <= self.touched.load(Ordering::Relaxed) {
            self.touched.fetch_max(range.end, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether all pages below `end` were made writable once. A page of the process's own stays so,
    /// and one of a RAM file system; one of a disk's file is protected when it is written back.
    pub(crate) fn was_populated(&self, end: usize) -> bool {
        end <= self.touched.load(Ordering::Relaxed)
    }
}

/// A run of published bytes.
struct Run {
    map: Arc<Mapping>,
    range: Range<usize>,
}

impl Drop for Run {
    fn drop(&mut self) {
        // Release: what a reader did with the bytes comes before their file is used again.
        self.map.runs.fetch_sub(1, Ordering::Release);
    }
}

impl AsRef<[u8]> for Run {
    fn as_ref(&self) -> &[u8] {
        // Published once is published for ever: `run` has checked the same range.
        self.map.bytes(self.range.clone()).unwrap_or_default()
    }
}

/// Puts the first bytes into memory that stands for a file, before its writer is taken.
pub(crate) struct Filler(Arc<Mapping>);

impl Filler {
    /// # Panics
    /// If the place is outside of the mapping.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0.store(at, bytes);
    }

    /// Lets the writer be taken.
    pub(crate) fn finish(self) {
        self.0.writer_taken.store(false, Ordering::Release);
    }
}

/// The one who writes to a mapping.
#[derive(Debug)]
pub(crate) struct Writer {
    map: Arc<Mapping>,
    readable: usize,
}

impl Writer {
    pub(crate) fn map(&self) -> &Arc<Mapping> {
        &self.map
    }

    /// Stores `bytes` at `at`, above everything published.
    ///
    /// # Panics
    /// If the place is published or outside: the check is what makes this sound.
    #[inline]
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at >= self.readable, "store over published bytes");
        self.map.store(at, bytes);
    }

    /// Stores a frame at `at`, above everything published: its header, the payload, and zeros up to
    /// a multiple of 8. One check for the three of them.
    ///
    /// # Panics
    /// If the place is published or outside.
    #[inline]
    pub(crate) fn put_frame(&mut self, at: usize, header: &[u8; FRAME_HEADER], payload: &[u8]) {
        let len = frame_len(payload.len());
        let fits = at.checked_add(len).is_some_and(|end| end <= self.map.len());
        assert!(at >= self.readable && fits, "frame over published bytes");
        // SAFETY: the frame lies within the mapping and above what is published, as was just
        // checked, so nobody reads there, and `&mut self` of the only writer excludes other stores.
        // A payload that is no multiple of 8 ends within the frame's last 8 bytes, which lie behind
        // its header. Neither source can overlap memory that is still to be stored to.
        unsafe {
            let to = self.map.raw.as_mut_ptr().add(at);
            std::ptr::copy_nonoverlapping(header.as_ptr(), to, FRAME_HEADER);
            if !payload.len().is_multiple_of(8) {
                to.add(len - 8).cast::<[u8; 8]>().write([0; 8]);
            }
            let body = to.add(FRAME_HEADER);
            std::ptr::copy_nonoverlapping(payload.as_ptr(), body, payload.len());
        }
    }

    /// Stores both copies of the segment header, below the data, once.
    ///
    /// # Panics
    /// If that was done before or does not fit.
    pub(crate) fn put_head(&mut self, copy_at: usize, header: &[u8]) {
        let data = self.map.marks.data();
        let fits = header.len() <= copy_at && copy_at + header.len() <= data;
        assert!(
            fits && !self.head_is_final(),
            "segment header written twice"
        );
        self.map.store(0, header);
        self.map.store(copy_at, header);
        self.set_head_final();
    }

    pub(crate) fn set_head_final(&mut self) {
        self.map.marks.set_head_final();
    }

    fn head_is_final(&self) -> bool {
        self.map.marks.head_is_final()
    }

    /// Opens a batch at `at`: its header's first 8 bytes become zero, so that an open batch can be
    /// told from a closed one after the process was killed.
    pub(crate) fn open_header(&mut self, at: usize) {
        assert!(at.is_multiple_of(8), "batch header not aligned");
        self.put(at, &[0; 8]);
        let end = at + BATCH_HEADER;
        assert!(end <= self.map.len(), "batch header outside");
        self.map.marks.open(at);
        self.publish(end);
    }

    /// Shows everything below `end` to readers.
    #[inline]
    pub(crate) fn publish(&mut self, end: usize) {
        assert!(
            end >= self.readable && end <= self.map.len(),
            "publishing backwards"
        );
        self.readable = end;
        self.map.marks.publish(end);
    }

    /// Closes the open batch; nothing below `end` is stored again. The first 8 bytes go last, as
    /// one store, so that a header is never seen half closed by who finds the page cache.
    pub(crate) fn close_header(&mut self, header: &[u8; BATCH_HEADER], end: usize) {
        assert!(end >= self.readable, "publishing backwards");
        let at = self.map.marks.opened().expect("a batch is open");
        let (first, rest) = header.split_at(8);
        let mut magic = [0; 8];
        magic.copy_from_slice(first);
        self.map.store(at + 8, rest);
        // SAFETY: `open_header` has checked that the hole lies within the mapping and is 8-aligned
        // (mappings begin at a page). Readers leave the hole out; `&mut self` of the only writer
        // excludes other stores.
        unsafe {
            let to = self.map.raw.as_mut_ptr().add(at);
            AtomicU64::from_ptr(to.cast()).store(u64::from_ne_bytes(magic), Ordering::Release);
        }
        assert!(end <= self.map.len(), "publishing outside");
        self.readable = end;
        self.map.marks.close(end);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.map.marks.end(self.map.len());
    }
}

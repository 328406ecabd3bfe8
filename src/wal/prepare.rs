//! Segments and pages made ready ahead of the append position.
//!
//! The thread that appends must never wait for the disk, and a first store into a clean page can
//! sleep while the kernel throttles writers. So it appends only where this file has been before.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::LogFailure;
use super::layout::{pool_name, segment_name};
use super::log::LogStorage;
use super::map::Mapping;
use super::medium::{Event, Files, Lane, Medium, MediumEvent};

/// How long to wait before a preparation that met a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// A segment that nothing has been written to.
pub(crate) struct Prepared {
    pub(crate) seq: u64,
    pub(crate) name: String,
    pub(crate) map: Arc<Mapping>,
    pub(crate) warm: u32,
    pub(crate) recycled: bool,
}

/// Pages of a segment that can be written without a fault.
pub(crate) struct Warmed {
    pub(crate) seq: u64,
    pub(crate) upto: u32,
}

/// A free segment file.
#[derive(Clone, Debug)]
pub(crate) struct Free {
    pub(crate) name: String,
    /// Its mapping, where that was kept.
    pub(crate) map: Option<Arc<Mapping>>,
}

impl Free {
    pub(crate) fn unmapped(name: String) -> Self {
        Self { name, map: None }
    }
}

/// What a preparation needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) seq: u64,
    pub(crate) size: u64,
    /// A free file of that size.
    pub(crate) reuse: Option<Free>,
    /// How many bytes to make writable at once.
    pub(crate) window: usize,
}

/// Makes a segment file: zeros written and synced, or a free file; its name durable; mapped. Its
/// header is written only when the segment before it is sealed and synced.
pub(crate) fn prepare<F: Files>(files: &F, order: &Order) -> io::Result<Prepared> {
    let name = segment_name(order.seq);
    let free = match &order.reuse {
        Some(free) => free.clone(),
        None => {
            let fresh = pool_name(order.seq);
            files.allocate(&fresh, order.size)?;
            Free::unmapped(fresh)
        }
    };
    files.rename(&free.name, &name)?;
    files.sync_dir()?;
    // A mapping is of the file, whatever its name.
    let map = match free.map {
        Some(map) => map,
        None => files.map(&name)?,
    };
    let warm = order.window.min(map.len());
    // Only a matter of speed: where the kernel cannot, the first store faults instead.
    let _ = files.warm(&map, 0..warm);
    Ok(Prepared {
        seq: order.seq,
        name,
        map,
        warm: warm as u32,
        recycled: order.reuse.is_some(),
    })
}

/// Whether an error means that room on the disk is all that is missing.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl<M: Medium> LogStorage<M> {
    /// Has the next segment made, if that is not under way.
    pub(super) fn order_segment(&mut self, delay: Duration) {
        if self.next.is_some() || self.order.is_some() || self.poison.is_some() {
            return;
        }
        let reuse = self.pool.pop();
        let order = Order {
            seq: self.take_segment_seq(),
            size: self.options.segment_bytes,
            reuse,
            window: self.options.ready_window_bytes,
        };
        self.order = Some(order.clone());
        self.submit_order(order, delay);
    }

    fn submit_order(&mut self, order: Order, delay: Duration) {
        let files = Arc::clone(&self.files);
        let task = move || MediumEvent(Event::Prepared(prepare(&*files, &order)));
        self.medium.submit(Lane::Prepare, delay, Box::new(task));
    }

    pub(super) fn prepared(&mut self, result: io::Result<Prepared>) -> Result<(), LogFailure> {
        let order = self.order.take();
        match result {
            Ok(prepared) => {
                self.disk_full = false;
                self.counters.segments_prepared += 1;
                self.counters.segments_recycled += u64::from(prepared.recycled);
                self.next = Some(prepared);
                Ok(())
            }
            Err(error) if is_full(&error) => {
                if !self.disk_full {
                    tracing::warn!(%error, place = self.files.place(), "disk full: no new segment");
                }
                self.disk_full = true;
                self.counters.disk_full += 1;
                // Nothing was written under this number, so it is good for another try.
                if let Some(mut order) = order {
                    order.reuse = order.reuse.or_else(|| self.pool.pop());
                    self.order = Some(order.clone());
                    self.submit_order(order, FULL_RETRY);
                }
                Ok(())
            }
            Err(error) => Err(self.fail(format!("preparing a segment: {error}"))),
        }
    }

    /// Keeps `ready_window_bytes` ahead of the append position writable.
    pub(super) fn order_pages(&mut self) {
        let window = self.options.ready_window_bytes;
        let enough = self.options.usable(window, self.files.unit()) / 2;
        let Some(tail) = self.tails.back_mut() else {
            return;
        };
        let ahead = tail.warm.saturating_sub(tail.at) as usize;
        let ready = self.options.usable(ahead, tail.unit);
        if tail.warming || tail.warm >= tail.size || ready >= enough {
            return;
        }
        tail.warming = true;
        let (from, seq) = (tail.warm.max(tail.at), tail.seq);
        let upto = tail.at.saturating_add(window as u32).min(tail.size);
        let map = Arc::clone(tail.writer.map());
        let files = Arc::clone(&self.files);
        let task = move || {
            let _ = files.warm(&map, from as usize..upto as usize);
            MediumEvent(Event::Warmed(Warmed { seq, upto }))
        };
        self.medium
            .submit(Lane::Warm, Duration::ZERO, Box::new(task));
    }

    pub(super) fn warmed(&mut self, done: &Warmed) {
        if let Some(tail) = self.tails.iter_mut().find(|tail| tail.seq == done.seq) {
            tail.warming = false;
            tail.warm = tail.warm.max(done.upto);
        }
    }
}

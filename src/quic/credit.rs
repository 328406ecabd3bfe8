//! Bounds what a peer's appends may occupy between the transport and the core.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::lane::lock;
use super::limits::{UNREAD_BYTES, UNREAD_FRAMES};
use crate::network::Held;

/// Room for appends of one peer that the core has not dealt with.
#[derive(Debug, Default)]
pub(super) struct Credits {
    used: Mutex<Used>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    frames: usize,
    reader_waits: bool,
}

/// Gives the room back when dropped.
struct Room {
    credits: Arc<Credits>,
    bytes: usize,
}

impl Credits {
    /// Room for a frame of `bytes`, if there is; an only frame always fits.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let mut used = lock(&self.used);
        let fits = used.bytes + bytes <= UNREAD_BYTES && used.frames < UNREAD_FRAMES;
        if used.frames > 0 && !fits {
            used.reader_waits = true;
            return None;
        }
        used.bytes += bytes;
        used.frames += 1;
        let credits = Arc::clone(self);
        Some(Held::new(Room { credits, bytes }))
    }

    /// Waits for room.
    pub(super) async fn take(self: &Arc<Self>, bytes: usize) -> Held {
        loop {
            if let Some(held) = self.try_take(bytes) {
                return held;
            }
            self.freed.notified().await;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut used = lock(&self.credits.used);
        used.bytes -= self.bytes;
        used.frames -= 1;
        let wake = std::mem::take(&mut used.reader_waits);
        drop(used);
        if wake {
            self.credits.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_only_frame_fits_and_the_bound_holds() {
        let credits = Arc::new(Credits::default());
        let big = credits.try_take(10 * UNREAD_BYTES).expect("alone");
        assert!(credits.try_take(1).is_none());
        drop(big);
        let held: Vec<_> = (0..UNREAD_FRAMES)
            .map(|_| credits.try_take(1).expect("room"))
            .collect();
        assert!(credits.try_take(1).is_none());
        drop(held);
        assert!(credits.try_take(UNREAD_BYTES).is_some());
    }

    #[test]
    fn a_reader_that_waits_is_woken() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let credits = Arc::new(Credits::default());
            let first = credits.take(UNREAD_BYTES).await;
            let thread = std::thread::spawn(move || drop(first));
            credits.take(UNREAD_BYTES).await;
            thread.join().expect("joined");
        });
    }
}

//! Work on backups: held to a rate, and ended when nobody waits for it any more.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A cancelled job ends within this time.
const SLICE: Duration = Duration::from_millis(20);

/// One rate for all jobs of a node, so that they leave disk and network to the log.
#[derive(Debug)]
struct Gate {
    bytes_per_second: u64,
    next: Mutex<Instant>,
}

/// One piece of work on a backup.
#[derive(Clone, Debug)]
pub struct Job {
    gate: Arc<Gate>,
    cancelled: Arc<AtomicBool>,
}

impl Job {
    /// The first job at a rate of so many bytes a second.
    pub fn at_rate(bytes_per_second: u64) -> Self {
        Self {
            gate: Arc::new(Gate {
                bytes_per_second: bytes_per_second.max(1),
                next: Mutex::new(Instant::now()),
            }),
            cancelled: Arc::default(),
        }
    }

    /// Another job, which shares the rate of this one.
    pub fn another(&self) -> Self {
        Self {
            gate: Arc::clone(&self.gate),
            cancelled: Arc::default(),
        }
    }

    /// Ends the job when the result is dropped.
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(Arc::clone(&self.cancelled))
    }

    /// Waits until so many more bytes may go.
    ///
    /// # Errors
    /// If the job was cancelled.
    pub fn step(&self, bytes: usize) -> io::Result<()> {
        let until = {
            let mut next = self
                .gate
                .next
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let begins = (*next).max(Instant::now());
            let nanos = u128::from(bytes as u64) * 1_000_000_000;
            let nanos = nanos / u128::from(self.gate.bytes_per_second);
            *next = begins + Duration::from_nanos(nanos.min(u128::from(u64::MAX)) as u64);
            begins
        };
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(cancelled());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

pub(super) fn cancelled() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "nobody waits for it any more",
    )
}

/// Whoever waits for a job; see [`Job::cancel_on_drop`].
#[derive(Debug)]
pub struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_jobs_together_are_held_to_the_rate() {
        let one = Job::at_rate(1_000_000);
        let two = one.another();
        let began = Instant::now();
        for _ in 0..5 {
            one.step(20_000).expect("goes on");
            two.step(20_000).expect("goes on");
        }
        // The last of ten has to wait for nine.
        assert!(began.elapsed() >= Duration::from_millis(175));
    }

    #[test]
    fn a_cancelled_job_ends_however_long_it_would_have_to_wait() {
        let job = Job::at_rate(1);
        job.step(3600).expect("the first goes at once");
        drop(job.cancel_on_drop());
        let began = Instant::now();
        let ended = job.step(1).expect_err("cancelled");
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionAborted);
        assert!(began.elapsed() < Duration::from_secs(5));
        // Another one shares the rate and not the end.
        assert!(!job.another().cancelled.load(Ordering::Relaxed));
    }
}

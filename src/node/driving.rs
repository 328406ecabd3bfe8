//! Where the driver runs: as a task of the network's runtime, so that what comes from a peer and what
//! goes to one changes no thread, or on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::applier::ApplyJob;
use super::driver::{Driver, Now};
use super::inbox::Lanes;
use super::shared::Shared;
use super::shell::Snapshotters;
use crate::error::ProposeError;
use crate::network::RaftNetwork;
use crate::state_machine::StateMachine;
use crate::types::Micros;
use crate::wal::Medium;

/// How long a clean shutdown waits for proposals under way.
const DRAIN: Micros = 1_000_000;
/// The driver looks at its clock at least this often.
const LONGEST_SLEEP: Micros = 1_000_000;

const PANICKED: &str = "the driver panicked, which it never should: what was acknowledged is in the log; \
                        restart the node, and report what it wrote to standard error";

/// Runs the driver until it is asked to stop, in `runtime` or else on a thread. In any case it begins and
/// ends on a thread: opening and closing take a while.
pub(super) fn start_driver<S: StateMachine, M: Medium, N: RaftNetwork>(
    driver: impl FnOnce() -> Driver<S, M, N> + Send + 'static,
    shared: Arc<Shared<S>>,
    jobs: mpsc::Sender<ApplyJob<S>>,
    snapshotters: Snapshotters,
    runtime: Option<Handle>,
) -> std::io::Result<()> {
    let name = format!("raft-{}-driver", shared.me.node);
    std::thread::Builder::new().name(name).spawn(move || {
        let turns = Turns::new(driver(), Arc::clone(&shared));
        // A panic was reported by its hook.
        let driver = match runtime {
            Some(runtime) => {
                let task = runtime.spawn(turns.run_as_task());
                runtime.block_on(task).ok()
            }
            None => catch_unwind(AssertUnwindSafe(|| turns.run())).ok(),
        };
        end(driver, &shared, snapshotters, &jobs);
    })?;
    Ok(())
}

/// Everybody who waits is answered, the log is closed, and the other threads end. Without a driver: it
/// panicked.
fn end<S: StateMachine, M: Medium, N: RaftNetwork>(
    driver: Option<Driver<S, M, N>>,
    shared: &Shared<S>,
    snapshotters: Snapshotters,
    jobs: &mpsc::Sender<ApplyJob<S>>,
) {
    if driver.is_none() {
        shared.brief().failure = Some(PANICKED.to_owned());
        shared.goes_down();
        // What became of these, nobody knows.
        shared.waiters.abandon_above(0);
    }
    // Closing the log takes a while, and what came in since the last look would wait for ever
    // (hazard F5).
    for submission in shared.inbox.close() {
        submission.waiter.answer(Err(ProposeError::ShuttingDown));
    }
    snapshotters.stop.store(true, Ordering::Relaxed);
    if let Some(Err(error)) = driver.map(Driver::close) {
        tracing::error!(node = shared.me.node, %error, "the log did not close cleanly");
    }
    // They hold the directory: whoever opens it next must find it free.
    for thread in snapshotters.threads {
        let _ = thread.join();
    }
    let _ = jobs.send(ApplyJob::Stop);
}

/// The driver's turns, one after the other.
struct Turns<S: StateMachine, M: Medium, N: RaftNetwork> {
    driver: Driver<S, M, N>,
    shared: Arc<Shared<S>>,
    lanes: Lanes<S::Response>,
    stop_at: Micros,
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Turns<S, M, N> {
    fn new(driver: Driver<S, M, N>, shared: Arc<Shared<S>>) -> Self {
        Self {
            driver,
            shared,
            lanes: Lanes::default(),
            stop_at: Micros::MAX,
        }
    }

    /// Handles what came in. How long the next turn may wait for more; none: there is none.
    fn turn(&mut self) -> Option<Duration> {
        self.shared.inbox.take(&mut self.lanes);
        let now = Now::read(&self.shared.clock);
        let deadline = self.driver.burst(now, &mut self.lanes);
        self.shared.end_turn();
        if self.driver.stopping() {
            self.stop_at = self.stop_at.min(now.mono + DRAIN);
            let done = self.shared.waiters.is_empty() && !self.driver.is_handing_over();
            if done || now.mono >= self.stop_at {
                return None;
            }
        }
        let deadline = deadline.min(self.stop_at);
        let left = deadline.saturating_sub(self.shared.clock.now());
        Some(Duration::from_micros(left.min(LONGEST_SLEEP)))
    }

    fn run(mut self) -> Driver<S, M, N> {
        self.shared.inbox.attach();
        while let Some(sleep) = self.turn() {
            if !sleep.is_zero() {
                self.shared.inbox.wait(sleep);
            }
        }
        self.driver
    }

    async fn run_as_task(mut self) -> Driver<S, M, N> {
        self.shared.inbox.attach_task().await;
        let mut timer = pin!(sleep_until(Instant::now()));
        while let Some(sleep) = self.turn() {
            let deadline = Instant::now() + sleep;
            // One that is early ends a wait for nothing; that is cheaper than to set it at every turn.
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            if !sleep.is_zero() {
                self.shared.inbox.arrival(timer.as_mut()).await;
            }
            // The network's tasks have their turn, however much comes in.
            tokio::task::yield_now().await;
        }
        self.driver
    }
}

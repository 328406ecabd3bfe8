//! Threads and clocks around the driver and the applier.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::applier::{Applier, ApplyJob};
use super::driver::{Driver, Now};
use super::inbox::{Lanes, Request};
use super::shared::{Clock, Shared};
use crate::error::ProposeError;
use crate::network::RaftNetwork;
use crate::state_machine::StateMachine;
use crate::types::Micros;
use crate::wal::Medium;

/// How long a clean shutdown waits for proposals under way.
const DRAIN: Micros = 1_000_000;
/// The driver looks at its clock at least this often.
const LONGEST_SLEEP: Micros = 1_000_000;

impl Now {
    pub(super) fn read(clock: &Clock) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            mono: clock.now(),
            wall: wall.as_micros() as Micros,
        }
    }
}

/// Runs the applier until the driver says stop; then says that the node has stopped.
pub(super) fn start_applier<S: StateMachine>(
    machine: S,
    shared: Arc<Shared<S>>,
    jobs: mpsc::Receiver<ApplyJob<S>>,
) -> std::io::Result<()> {
    let name = format!("raft-{}-apply", shared.me.node);
    let mut applier = Applier::new(machine, Arc::clone(&shared));
    std::thread::Builder::new().name(name).spawn(move || {
        for job in jobs {
            if matches!(job, ApplyJob::Stop) {
                break;
            }
            if let Err(reason) = applier.run(job) {
                let fail = Request::Fail(reason);
                shared.inbox.put(|lanes| lanes.requests.push(fail));
            }
        }
        shared.stopped.send_replace(true);
    })?;
    Ok(())
}

/// Runs the driver until it is asked to stop.
pub(super) fn start_driver<S: StateMachine, M: Medium, N: RaftNetwork>(
    driver: impl FnOnce() -> Driver<S, M, N> + Send + 'static,
    shared: Arc<Shared<S>>,
    jobs: mpsc::Sender<ApplyJob<S>>,
) -> std::io::Result<()> {
    let name = format!("raft-{}-driver", shared.me.node);
    std::thread::Builder::new().name(name).spawn(move || {
        shared.inbox.attach();
        let mut driver = driver();
        run(&mut driver, &shared);
        // Closing the log takes a while, and what came in since the last look would wait for ever
        // (hazard F5).
        for submission in shared.inbox.close() {
            submission.waiter.answer(Err(ProposeError::ShuttingDown));
        }
        if let Err(error) = driver.close() {
            tracing::error!(node = shared.me.node, %error, "the log did not close cleanly");
        }
        let _ = jobs.send(ApplyJob::Stop);
    })?;
    Ok(())
}

fn run<S: StateMachine, M: Medium, N: RaftNetwork>(
    driver: &mut Driver<S, M, N>,
    shared: &Shared<S>,
) {
    let mut lanes = Lanes::default();
    let mut stop_at = Micros::MAX;
    loop {
        shared.inbox.take(&mut lanes);
        let now = Now::read(&shared.clock);
        let deadline = driver.burst(now, &mut lanes);
        if driver.stopping() {
            stop_at = stop_at.min(now.mono + DRAIN);
            let done = shared.waiters.is_empty() && !driver.is_handing_over();
            if done || now.mono >= stop_at {
                return;
            }
        }
        let sleep = deadline
            .min(stop_at)
            .saturating_sub(shared.clock.now())
            .min(LONGEST_SLEEP);
        if sleep > 0 {
            shared.inbox.wait(Duration::from_micros(sleep));
        }
    }
}

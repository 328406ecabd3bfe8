//! Threads and clocks around the driver and the applier.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::applier::{Applier, ApplyJob};
use super::driver::{Driver, Now, SnapshotSink};
use super::inbox::{Lanes, Request};
use super::shared::{Clock, Shared};
use super::snapshotter::{SnapshotJob, Snapshotter};
use crate::error::ProposeError;
use crate::network::RaftNetwork;
use crate::snapshot::{Pace, SnapshotFolder, SnapshotOptions};
use crate::state_machine::StateMachine;
use crate::types::Micros;
use crate::wal::{Files, Medium};

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
    shared: Arc<Shared<S>>,
    jobs: mpsc::Receiver<ApplyJob<S>>,
) -> std::io::Result<()> {
    let name = format!("raft-{}-apply", shared.me.node);
    let mut applier = Applier::new(Arc::clone(&shared));
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

/// The threads that read and write snapshots. They end when the driver, which gives them work, is
/// gone.
pub(super) struct Snapshotters {
    threads: Vec<JoinHandle<()>>,
    /// Do not write a state to its end.
    stop: Arc<AtomicBool>,
}

/// Two threads, since a peer that waits for a chunk must not wait for the writing of a whole state.
pub(super) fn start_snapshotters<S: StateMachine, F: Files>(
    folder: &SnapshotFolder<F>,
    options: &SnapshotOptions,
    shared: &Arc<Shared<S>>,
) -> std::io::Result<(SnapshotSink, Snapshotters)> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let mut start = |what: &str, pace: Box<Pace>| {
        let (jobs, queue) = mpsc::channel();
        let (mut snapshotter, shared) =
            (Snapshotter::new(folder.clone(), pace), Arc::clone(shared));
        let name = format!("raft-{}-{what}", shared.me.node);
        let run = move || {
            for job in queue {
                snapshotter.push(job);
                while !snapshotter.is_idle() {
                    if let Some(event) = snapshotter.step() {
                        shared.inbox.put(|lanes| lanes.snapshots.push(event));
                    }
                }
            }
        };
        threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        Ok::<_, std::io::Error>(jobs)
    };
    let writing = start("snapshot", pace(options.write_bytes_per_second, &stop))?;
    let transfer = start("transfer", Box::new(|_| Ok(())))?;
    let sink = Box::new(move |job: SnapshotJob| {
        let to = if job.is_transfer() {
            &transfer
        } else {
            &writing
        };
        drop(to.send(job));
    });
    Ok((sink, Snapshotters { threads, stop }))
}

/// Holds a writer to a rate, so that it leaves the disk to the log, and ends it on shutdown.
fn pace(bytes_per_second: u64, stop: &Arc<AtomicBool>) -> Box<Pace> {
    let stop = Arc::clone(stop);
    let mut next = Instant::now();
    Box::new(move |bytes| {
        if stop.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the node stops"));
        }
        let now = Instant::now();
        std::thread::sleep(next.saturating_duration_since(now));
        let nanos = bytes as u64 * 1_000_000_000 / bytes_per_second.max(1);
        next = next.max(now) + Duration::from_nanos(nanos);
        Ok(())
    })
}

/// Runs the driver until it is asked to stop.
pub(super) fn start_driver<S: StateMachine, M: Medium, N: RaftNetwork>(
    driver: impl FnOnce() -> Driver<S, M, N> + Send + 'static,
    shared: Arc<Shared<S>>,
    jobs: mpsc::Sender<ApplyJob<S>>,
    snapshotters: Snapshotters,
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
        snapshotters.stop.store(true, Ordering::Relaxed);
        if let Err(error) = driver.close() {
            tracing::error!(node = shared.me.node, %error, "the log did not close cleanly");
        }
        // They hold the directory: whoever opens it next must find it free.
        for thread in snapshotters.threads {
            let _ = thread.join();
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

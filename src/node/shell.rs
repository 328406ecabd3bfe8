//! Clocks, and the threads beside the driver's: the applier's, and those for snapshots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::applier::{Applier, ApplyJob};
use super::driver::{Now, SnapshotSink};
use super::inbox::Request;
use super::shared::{Clock, Shared};
use super::snapshotter::{SnapshotJob, Snapshotter};
use crate::snapshot::{Pace, SnapshotFolder, SnapshotOptions};
use crate::state_machine::StateMachine;
use crate::types::Micros;
use crate::wal::Files;

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
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Do not write a state to its end.
    pub(super) stop: Arc<AtomicBool>,
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

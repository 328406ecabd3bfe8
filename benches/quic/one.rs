//! One proposal at a time, beside what it cannot do without: one sync of its medium and one round trip of
//! QUIC, each measured by itself, in turns within one run.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conveyor_raft::quic::certs::GeneratedCerts;
use tokio::runtime::Runtime;

use crate::Bed as _;
use crate::common::bed::Bed;
use crate::common::log::short;
use crate::common::medium::{Medium, media};
use crate::floors::{Floor, FloorBed, Settings};
use crate::{MTUS, certificates};

const ROUNDS: usize = 15;
/// What each side does in a round.
const COUNT: u64 = 100;
const PAGE: usize = 4096;
const PAGES: u64 = 1024;

/// A file whose blocks are all there, of which one page after the other is written and synced.
struct Pages {
    file: File,
    next: u64,
}

impl Pages {
    fn new(folder: &Path) -> Self {
        let file = tempfile::tempfile_in(folder).expect("a file");
        let all = vec![0x5a; PAGE * PAGES as usize];
        file.write_all_at(&all, 0).expect("written");
        file.sync_all().expect("synced");
        Self { file, next: 0 }
    }

    fn sync(&mut self) -> Duration {
        let start = Instant::now();
        let at = self.next % PAGES * PAGE as u64;
        let page = [self.next as u8; PAGE];
        self.file.write_all_at(&page, at).expect("written");
        self.file.sync_data().expect("synced");
        self.next += 1;
        start.elapsed()
    }
}

/// From a task, as a server has its proposals.
fn proposals(runtime: &Runtime, bed: &Bed, count: u64) -> Vec<Duration> {
    let load = Arc::clone(&bed.load);
    let proposed = runtime.spawn(async move {
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            load.propose(&load.sources[0]).await;
            times.push(start.elapsed());
        }
        times
    });
    runtime.block_on(proposed).expect("no task fails")
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn print_on(runtime: &Runtime, medium: &Medium, certs: &Arc<GeneratedCerts>) {
    let [_, mtu] = MTUS;
    let mut quinn = FloorBed::start(Floor::Quinn(Settings::ours(mtu)), certs);
    let mut pages = Pages::new(&medium.folder());
    let bed = runtime.block_on(Bed::start(medium, 3, 1));
    let (mut syncs, mut trips, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = if short() { 1 } else { ROUNDS };
    // The first round is for what is new and cold.
    for round in 0..=rounds {
        let synced: Vec<_> = (0..COUNT).map(|_| pages.sync()).collect();
        let went = quinn.ping(COUNT);
        let proposed = proposals(runtime, &bed, COUNT);
        if round > 0 {
            syncs.extend(synced);
            trips.extend(went);
            whole.extend(proposed);
        }
    }
    runtime.block_on(bed.finish());
    let [sync, trip, one] = [&mut syncs, &mut trips, &mut whole].map(|it| median(it));
    let floor = sync + trip;
    println!(
        "{:<4} one proposal p50 {one:>7.1} us, one sync {sync:>7.1} + one round trip {trip:>5.1} = {floor:>7.1}, difference {:>6.1}",
        medium.name,
        one - floor,
    );
}

pub(crate) fn print() {
    let runtime = Runtime::new().expect("a runtime");
    let certs = certificates();
    for medium in media() {
        print_on(&runtime, &medium, &certs);
    }
}

//! The log alone: appends, reads and opening, beside the raw work they cannot do without.
//!
//! `wal_append/mem/N`: unsynced, on the RAM file system, groups of entries of N bytes (64; of the
//! largest 8). `wal_append/sync/N`: the same on the disk, each group synced before the next is
//! written. An element is an entry. What ends in `_floor` is the raw work: copy and checksum in
//! memory; one write and `fdatasync` to blocks the file has already; or write and checksum. After
//! all, or alone with `-- ratios`, the sides take turns and their ratios are printed.

mod common;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::log::{FileFloor, Group, MemoryFloor, OwnLog, SIZES, Side, options, run, short};
use common::medium::media;
use common::ratios;
use conveyor_raft::entry::entries;
use conveyor_raft::wal::{LogOptions, SyncPolicy};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use tempfile::TempDir;

const UNSYNCED: SyncPolicy = SyncPolicy::UnsafeNoSync;

/// Makes a side.
type Make = fn(ram: &Path, disk: &Path) -> Box<dyn Side>;

const APPENDS: [(&str, Make); 9] = [
    ("mem", |ram, _| Box::new(OwnLog::new(ram, UNSYNCED))),
    ("mem_floor", |_, _| Box::new(MemoryFloor::new())),
    ("sync", |_, disk| {
        Box::new(OwnLog::new(disk, SyncPolicy::Sync))
    }),
    ("sync_piped", |_, disk| {
        Box::new(OwnLog::new(disk, SyncPolicy::Sync).piped())
    }),
    ("sync_inline", |_, disk| {
        Box::new(OwnLog::inline(disk, SyncPolicy::Sync))
    }),
    ("sync_mapped", |_, disk| Box::new(OwnLog::mapped(disk))),
    ("sync_floor", |_, disk| Box::new(FileFloor::new(disk, true))),
    ("disk", |_, disk| Box::new(OwnLog::new(disk, UNSYNCED))),
    ("disk_floor", |_, disk| {
        Box::new(FileFloor::new(disk, false))
    }),
];

fn wal_append(criterion: &mut Criterion) {
    let [ram, disk] = media().map(|medium| medium.folder());
    let mut group = criterion.benchmark_group("wal_append");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    for size in SIZES {
        let batch = Group::new(size);
        group.throughput(Throughput::Elements(batch.len() as u64));
        for (name, make) in APPENDS {
            // Made by the first sample, so that a list or a filter makes nothing.
            let mut side = None;
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                let side = side.get_or_insert_with(|| make(&ram, &disk));
                bencher.iter_custom(|count| run(&mut **side, &batch, count).wall);
            });
        }
    }
    group.finish();
}

/// A log that was filled and closed, and how it is opened.
struct Filled {
    dir: TempDir,
    last: u64,
    /// Bytes of payload.
    bytes: u64,
}

impl Filled {
    fn new(folder: &Path, size: usize, bytes: u64) -> Self {
        let dir = tempfile::tempdir_in(folder).expect("a folder");
        let group = Group::new(size);
        let mut own = OwnLog::open(dir.path(), options(UNSYNCED)).without_compaction();
        let mut written = 0;
        while written < bytes {
            own.append(&group);
            written += group.bytes.len() as u64;
        }
        let last = own.log.last().index;
        own.close();
        Self {
            dir,
            last,
            bytes: written,
        }
    }

    fn open(&self, hot_bytes: u64) -> OwnLog {
        let options = LogOptions {
            hot_bytes,
            ..options(SyncPolicy::Sync)
        };
        OwnLog::open(self.dir.path(), options)
    }

    fn files(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.dir.path()).expect("readable");
        let paths = found.map(|it| it.expect("an entry").path());
        paths.filter(|path| path.is_file()).collect()
    }

    /// Reads every file from end to end.
    fn read_raw(&self) -> u64 {
        let mut piece = vec![0; 1 << 20];
        let mut sum = 0;
        for path in self.files() {
            let mut file = File::open(path).expect("opens");
            loop {
                let len = file.read(&mut piece).expect("reads");
                if len == 0 {
                    break;
                }
                sum += len as u64;
            }
        }
        sum
    }

    /// Puts the files out of the page cache.
    fn evict(&self) {
        for path in self.files() {
            let file = File::open(path).expect("opens");
            file.sync_all().expect("synced");
            let advice = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&file, 0, None, advice).expect("advised");
        }
    }
}

/// Every entry of a log once, in runs of up to 1 MiB, its header looked at.
fn read_all(own: &OwnLog, last: u64) {
    let mut next = own.log.first_index();
    while next <= last {
        let found = own.log.read(next, last, 1 << 20).expect("readable");
        for run in found.runs {
            for entry in entries(run) {
                std::hint::black_box(entry.expect("whole").payload.len());
            }
        }
        next = found.last + 1;
    }
}

fn wal_read(criterion: &mut Criterion) {
    let [_, disk] = media().map(|medium| medium.folder());
    let mut group = criterion.benchmark_group("wal_read");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    let bytes = if short() { 1 << 20 } else { 96 << 20 };
    for size in SIZES {
        for (name, hot_bytes) in [("hot", u64::MAX), ("cold", 0)] {
            let mut bed = None;
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                let (filled, own) = bed.get_or_insert_with(|| {
                    let filled = Filled::new(&disk, size, bytes);
                    let own = filled.open(hot_bytes);
                    (filled, own)
                });
                bencher.iter(|| read_all(own, filled.last));
            });
        }
    }
    group.finish();
}

/// 1 GiB of entries of 1 KiB.
fn wal_open(criterion: &mut Criterion) {
    let [_, disk] = media().map(|medium| medium.folder());
    let mut group = criterion.benchmark_group("wal_open");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    let bytes = if short() { 16 << 20 } else { 1 << 30 };
    let mut bed = None;
    for name in ["1GiB", "1GiB_floor"] {
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(name, |bencher| {
            let filled = bed.get_or_insert_with(|| Filled::new(&disk, 1024, bytes));
            bencher.iter_custom(|count| {
                (0..count)
                    .map(|_| match name {
                        "1GiB" => time_open(filled),
                        _ => time_raw(filled),
                    })
                    .sum()
            });
        });
    }
    group.finish();
}

/// Opening alone: dropping what was opened, and the threads with it, is not counted.
fn time_open(filled: &Filled) -> Duration {
    let start = Instant::now();
    let own = filled.open(LogOptions::default().hot_bytes);
    let took = start.elapsed();
    assert_eq!(own.log.last().index, filled.last);
    own.close();
    took
}

fn time_raw(filled: &Filled) -> Duration {
    let start = Instant::now();
    assert!(filled.read_raw() >= filled.bytes);
    start.elapsed()
}

/// Goals are ratios; here every side meets the same disturbances.
fn print_ratios() {
    let [ram, disk] = media().map(|medium| medium.folder());
    for size in SIZES {
        let group = Group::new(size);
        for title in ["mem", "sync", "disk"] {
            let belongs = |name: &str| name.split('_').next() == Some(title);
            let chosen = APPENDS.iter().filter(|(name, _)| belongs(name));
            let sides = chosen.map(|(name, make)| ratios::Named {
                name: (*name).to_owned(),
                side: make(&ram, &disk),
            });
            ratios::compare(title, &group, &mut sides.collect::<Vec<_>>());
        }
    }
    print_growth(&ram);
    print_opens(&disk);
}

/// What an entry costs as the log grows to a hundred million entries, its front dropped on the way.
fn print_growth(ram: &Path) {
    let group = Group::new(128);
    let mut own = OwnLog::new(ram, UNSYNCED);
    for million in 1..=100 {
        let took = run(&mut own, &group, 1_000_000 / group.len() as u64);
        if million > 10 && million % 10 > 0 {
            continue;
        }
        println!(
            "million {million}: {:.1} ns/entry, cpu {:.1} ns/entry, index {} bytes",
            took.wall.as_nanos() as f64 / 1e6,
            took.cpu.as_nanos() as f64 / 1e6,
            own.log.index_memory(),
        );
    }
}

fn print_opens(disk: &Path) {
    for size in [128, 1024] {
        let filled = Filled::new(disk, size, 1 << 30);
        for (state, rounds) in [("cold", 5), ("warm", 9)] {
            let mut times = [Vec::new(), Vec::new()];
            filled.read_raw();
            for _ in 0..rounds {
                for (nth, time) in [time_open, time_raw].into_iter().enumerate() {
                    if state == "cold" {
                        filled.evict();
                    }
                    times[nth].push(time(&filled).as_secs_f64());
                }
            }
            let [open, raw] = times.map(ratios::quartiles);
            println!(
                "open 1 GiB of {size} B, {state}: {:.3} s ({:.3} to {:.3}), raw read {:.3} s ({:.3} to {:.3}), raw/open {:.2}",
                open[1],
                open[0],
                open[2],
                raw[1],
                raw[0],
                raw[2],
                raw[1] / open[1],
            );
        }
        let own = filled.open(LogOptions::default().hot_bytes);
        let per_million = own.log.index_memory() as f64 * 1e6 / filled.last as f64;
        println!("index of {size} B entries: {per_million:.0} bytes per million entries");
    }
}

criterion_group!(benches, wal_append, wal_read, wal_open);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    if ratios::wanted() {
        print_ratios();
    }
}

//! The transport alone: two of them on loopback, mutual TLS and every check on, beside what they
//! cannot do without.
//!
//! `quic_stream/<MTU>/<side>/N`: appends of N bytes of entries; `quic_ping`: a heartbeat and its
//! reply; `quic_pipeline/<side>/N`: appends of one 128-byte command, N under way, each acknowledged;
//! `quic_ping_under_bulk`: pings while the bulk class sends without a pause. The sides: `ours`;
//! `quinn`, a raw stream with the same settings, socket, certificates and MTU; `tls`, over TCP;
//! `tcp`. After all, or alone with `-- ratios`, the sides take turns and their ratios are printed. With
//! `-- knobs` bare quinn streams take turns that differ from ours in one setting each; with `-- one` one
//! proposal at a time is measured beside a sync and a round trip. `-- work` is what
//! `benches/quic/cost` counts.

#[path = "../common/mod.rs"]
mod common;
mod floors;
mod knobs;
mod one;
mod ours;
#[path = "../../tests/quic_common/mod.rs"]
mod quic_common;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use common::ratios::{self, quartiles};
use conveyor_raft::quic::certs::{self, GeneratedCerts};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use floors::{Floor, FloorBed, Settings};
use ours::Ours;

pub(crate) const WAIT: Duration = Duration::from_secs(30);
const SIZES: [usize; 3] = [16 << 10, 64 << 10, 1 << 20];
const WINDOWS: [u64; 3] = [1, 8, 64];
/// Ethernet's, and the loopback interface's.
const MTUS: [u16; 2] = [1452, 65_500];
/// How long each side works in a round.
const SLICE: Duration = Duration::from_millis(60);
const ROUNDS: usize = 25;

/// Counts what arrived, and tells whoever waits for a certain amount.
pub(crate) struct Meter {
    got: AtomicU64,
    wanted: AtomicU64,
    done: Mutex<Sender<()>>,
    is_done: Mutex<Receiver<()>>,
}

impl Default for Meter {
    fn default() -> Self {
        let (done, is_done) = channel();
        Self {
            got: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            done: Mutex::new(done),
            is_done: Mutex::new(is_done),
        }
    }
}

impl Meter {
    /// Nothing is under way.
    pub(crate) fn expect(&self, more: u64) {
        let got = self.got.load(Ordering::SeqCst);
        self.wanted.store(got + more, Ordering::SeqCst);
    }

    pub(crate) fn add(&self, count: u64) {
        let got = self.got.fetch_add(count, Ordering::SeqCst) + count;
        if got == self.wanted.load(Ordering::SeqCst) {
            let _ = self.done.lock().expect("no panic").send(());
        }
    }

    pub(crate) fn wait(&self) {
        let is_done = self.is_done.lock().expect("no panic");
        is_done.recv_timeout(WAIT).expect("all arrives");
    }
}

/// Two ends of one kind.
pub(crate) trait Bed {
    /// Sends so many frames and waits until all have arrived.
    fn stream(&mut self, size: usize, frames: u64);
    /// One question after another, and how long each took.
    fn ping(&mut self, count: u64) -> Vec<Duration>;
    /// Small appends, so many under way, until so many are acknowledged.
    fn pipeline(&mut self, window: u64, count: u64);
}

pub(crate) type Named = (&'static str, Box<dyn Bed>);

/// The sides, after so much traffic that the MTU is found.
fn beds(certs: &Arc<GeneratedCerts>, mtu: u16) -> Vec<Named> {
    let mut ours = Ours::start(certs, mtu);
    let end = Instant::now() + WAIT;
    while ours.mtu() < mtu {
        ours.stream(64 << 10, 256);
        assert!(Instant::now() < end, "the MTU is {}", ours.mtu());
    }
    let floor = |floor| -> Box<dyn Bed> {
        let mut bed = FloorBed::start(floor, certs);
        bed.stream(64 << 10, 1024);
        Box::new(bed)
    };
    vec![
        ("quinn", floor(Floor::Quinn(Settings::ours(mtu)))),
        ("ours", Box::new(ours)),
        ("tls", floor(Floor::Tls)),
        ("tcp", floor(Floor::Tcp)),
    ]
}

pub(crate) fn certificates() -> Arc<GeneratedCerts> {
    Arc::new(certs::generate("bench", &[1, 2], &[]).expect("certificates"))
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn quic_stream(criterion: &mut Criterion) {
    let certs = certificates();
    for mtu in MTUS {
        let mut group = criterion.benchmark_group(format!("quic_stream/{mtu}"));
        group.warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(1));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        for (name, mut bed) in beds(&certs, mtu) {
            for size in SIZES {
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    bencher.iter_custom(|frames| timed(|| bed.stream(size, frames)));
                });
            }
        }
        group.finish();
    }
}

fn quic_ping_and_pipeline(criterion: &mut Criterion) {
    let certs = certificates();
    for (name, mut bed) in beds(&certs, MTUS[0]) {
        let mut group = criterion.benchmark_group("quic_ping");
        group
            .measurement_time(Duration::from_secs(1))
            .sample_size(10);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| timed(|| drop(bed.ping(count))));
        });
        group.finish();
        let mut group = criterion.benchmark_group("quic_pipeline");
        group
            .measurement_time(Duration::from_secs(1))
            .sample_size(10);
        for window in WINDOWS {
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(name, window), |bencher| {
                bencher.iter_custom(|count| timed(|| bed.pipeline(window, count)));
            });
        }
        group.finish();
    }
}

fn quic_ping_under_bulk(criterion: &mut Criterion) {
    let mut ours = Ours::start(&certificates(), MTUS[0]);
    let load = ours.load();
    let mut group = criterion.benchmark_group("quic_ping_under_bulk");
    group
        .measurement_time(Duration::from_secs(1))
        .sample_size(10);
    group.bench_function("ours", |bencher| {
        bencher.iter_custom(|count| timed(|| drop(ours.ping(count))));
    });
    group.finish();
    load.end();
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets the sides take turns; for each, what one unit took (a MiB, a ping, an ack) and how many
/// times as fast as the first side it was: by the clock, then in processor time of both ends.
pub(crate) fn compare(
    title: &str,
    units: f64,
    beds: &mut [Named],
    work: impl Fn(&mut dyn Bed, u64),
) {
    let counts: Vec<u64> = beds
        .iter_mut()
        .map(|(_, bed)| {
            let took = timed(|| work(&mut **bed, 64));
            (SLICE.as_nanos() * 64 / took.as_nanos().max(1)).max(4) as u64
        })
        .collect();
    let mut times = vec![[Vec::new(), Vec::new()]; beds.len()];
    for round in 0..ROUNDS {
        for nth in 0..beds.len() {
            // No side always comes after the same one.
            let nth = (nth + round) % beds.len();
            let cpu = cpu_time();
            let wall = timed(|| work(&mut *beds[nth].1, counts[nth]));
            let cpu = cpu_time() - cpu;
            let units = counts[nth] as f64 * units;
            times[nth][0].push(wall.as_secs_f64() * 1e6 / units);
            times[nth][1].push(cpu.as_secs_f64() * 1e6 / units);
        }
    }
    let width = beds.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for ((name, _), [walls, cpus]) in beds.iter().zip(&times) {
        let [wall, cpu] = [line(walls, &times[0][0]), line(cpus, &times[0][1])];
        println!("{title:<24} {name:<width$} {wall}   cpu {cpu}");
    }
}

fn line(of_side: &[f64], of_first: &[f64]) -> String {
    let [_, median, _] = quartiles(of_side.to_vec());
    let speeds = of_side.iter().zip(of_first).map(|(it, first)| first / it);
    let [low, ratio, high] = quartiles(speeds.collect());
    format!("{median:>8.1} us {ratio:.2} ({low:.2} to {high:.2})")
}

fn print_ratios() {
    let certs = certificates();
    for mtu in MTUS {
        let mut beds = beds(&certs, mtu);
        for size in SIZES {
            let mib = size as f64 / f64::from(1 << 20);
            let title = format!("stream {mtu} {size}, per MiB");
            compare(&title, mib, &mut beds, |bed, count| bed.stream(size, count));
        }
        if mtu == MTUS[0] {
            compare("ping", 1.0, &mut beds, |bed, count| drop(bed.ping(count)));
            for window in WINDOWS {
                let title = format!("pipeline {window}, per ack");
                compare(&title, 1.0, &mut beds, |bed, count| {
                    bed.pipeline(window, count)
                });
            }
        }
    }
    for mtu in MTUS {
        let mut ours = Ours::start(&certs, mtu);
        print_pings(&format!("ping alone, {mtu}"), ours.ping(5000));
        let load = ours.load();
        let times = ours.ping(5000);
        print_pings(&format!("ping under bulk, {mtu}"), times);
        println!("bulk beside it: {:.0} MiB/s", load.end());
    }
}

fn print_pings(title: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let (half, most, last) = (at(0.5), at(0.99), at(1.0));
    println!("{title}: p50 {half:?}, p99 {most:?}, longest {last:?}");
}

criterion_group!(
    benches,
    quic_stream,
    quic_ping_and_pipeline,
    quic_ping_under_bulk
);

/// Sends so many frames of one size on one side, after as much as finds the MTU whatever comes then: the
/// difference of two runs is the cost of the frames between.
fn work(mtu: &str, side: &str, size: &str, frames: &str) {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (certs, mtu) = (certificates(), number(mtu) as u16);
    let mut bed: Box<dyn Bed> = match side {
        "ours" => Box::new(Ours::start(&certs, mtu)),
        _ => Box::new(FloorBed::start(Floor::Quinn(Settings::ours(mtu)), &certs)),
    };
    bed.stream(64 << 10, 1024);
    bed.stream(number(size) as usize, number(frames));
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["knobs", ..] => return knobs::print(),
        ["one", ..] => return one::print(),
        ["work", mtu, side, size, frames, ..] => return work(mtu, side, size, frames),
        _ => {}
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    if ratios::wanted() {
        print_ratios();
    }
}

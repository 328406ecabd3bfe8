//! The results as lines and as a page.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::closed::Came;
use crate::common::medium::{Medium, file_system, raw_sync};
use crate::common::ratios::quartiles;

/// One side at one number of clients.
pub(crate) struct Row {
    pub(crate) side: &'static str,
    pub(crate) clients: usize,
    /// Medians over the rounds.
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// How many times as many the first side committed in the same round: quartiles.
    ahead: [f64; 3],
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let [_, middle, _] = quartiles(times.map(|time| time.as_secs_f64()).collect());
    Duration::from_secs_f64(middle)
}

impl Row {
    pub(crate) fn new(
        side: &'static str,
        clients: usize,
        of_side: &[Came],
        of_first: &[Came],
    ) -> Self {
        let rounds = of_side.iter().zip(of_first);
        let ahead = quartiles(
            rounds
                .map(|(it, first)| first.per_second / it.per_second)
                .collect(),
        );
        let [_, per_second, _] = quartiles(of_side.iter().map(|it| it.per_second).collect());
        Self {
            side,
            clients,
            per_second,
            p50: median(of_side.iter().map(|it| it.p50)),
            p99: median(of_side.iter().map(|it| it.p99)),
            ahead,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, ahead, high] = self.ahead;
        write!(
            f,
            "| {} | {} | {:.1} k/s | {:.0} µs | {:.0} µs | {ahead:.2} ({low:.2} to {high:.2}) |",
            self.clients,
            self.side,
            self.per_second / 1e3,
            self.p50.as_secs_f64() * 1e6,
            self.p99.as_secs_f64() * 1e6,
        )
    }
}

/// The machine, as it says itself.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |it| {
        it.trim_start_matches(['\t', ' ', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores of {model}, Linux {}, load {load}",
        kernel.trim()
    )
}

/// The whole page.
pub(crate) fn page(rows: &[Row], media: &[Medium; 2]) -> String {
    let mut page = String::from(
        "# Clusters beside each other\n\n\
         Written by `benches/peers/run cluster`. Three nodes, each client with one proposal of 128 bytes\n\
         outstanding; all sides in one run, in turns of half a second. The last column: how many times as many\n\
         commands conveyor-raft on the RAM file system committed in the same round (median, quartiles).\n\n\
         * conveyor-raft: mapped logs with sync on, QUIC with mutual TLS 1.3 at the loopback's MTU, the\n  \
         router's state machine. On the RAM file system sync calls are issued and the medium keeps nothing; only\n  \
         the disk's rows are durable. `counting`: the same with a state machine that only counts, as openraft's\n  \
         does here.\n\
         * openraft 0.10.0-alpha.37, as in its own minimal benchmark: a map in memory for a log, a call for a\n  \
         network, nothing encrypted, nothing encoded, a state machine that counts. `empty`: commands without bytes.\n\n",
    );
    // Writing to a string cannot fail.
    let _ = writeln!(page, "Machine: {}.", machine());
    for medium in media {
        let folder = medium.folder();
        let floor =
            raw_sync(&folder).map_or_else(|error| error.to_string(), |it| format!("{it:.1?}"));
        let kind = file_system(&folder);
        let _ = writeln!(
            page,
            "Raw 4 KiB write and sync, {} ({kind}): {floor}.",
            medium.name
        );
    }
    page.push_str(
        "\n| clients | side | commits | p50 | p99 | ours / it |\n|---|---|---|---|---|---|\n",
    );
    rows.iter().for_each(|row| {
        let _ = writeln!(page, "{row}");
    });
    page.push_str(
        "\n![commits per second by clients](cluster-throughput.svg)\n\n\
         ![median time of a proposal by commits per second](cluster-latency.svg)\n",
    );
    page
}

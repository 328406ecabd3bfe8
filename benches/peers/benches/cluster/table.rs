//! The results as lines and as a page.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::closed::Came;
use crate::common::medium::{Medium, file_system, raw_sync};
use crate::common::ratios::quartiles;
use crate::hashicorp;
use crate::sides::Others;

/// One side at one number of clients.
pub(crate) struct Row {
    pub(crate) side: &'static str,
    pub(crate) clients: usize,
    /// Medians over the rounds.
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// How many times as many ours committed, on the same medium and in the same round: quartiles.
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
        of_ours: &[Came],
    ) -> Self {
        let rounds = of_side.iter().zip(of_ours);
        let ahead = quartiles(
            rounds
                .map(|(it, ours)| ours.per_second / it.per_second)
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

/// What the machine and its media do by themselves.
pub(crate) struct Surroundings(Vec<String>);

impl Surroundings {
    pub(crate) fn look(media: &[Medium; 2]) -> Self {
        let mut lines = vec![machine()];
        for medium in media {
            let folder = medium.folder();
            let floor = raw_sync(&folder);
            let floor = floor.map_or_else(|error| error.to_string(), |it| format!("{it:.1?}"));
            let (name, kind) = (medium.name, file_system(&folder));
            lines.push(format!(
                "raw 4 KiB write and sync, {name} ({kind}): {floor}"
            ));
        }
        Self(lines)
    }
}

const METHOD: &str = "\
# Clusters beside each other

Written by `benches/peers/run cluster`. Three nodes on one machine; each client has one command of 128 bytes
outstanding; all sides in one run, in turns of a second, of which the last three quarters are counted. The last
column: how many times as many commands conveyor-raft with the router's state machine committed in the same round, on
the disk for what is on the disk, on the RAM file system for everything else (median, quartiles). On the RAM file
system sync calls are issued and the medium keeps nothing; only the disk's rows are durable.

| | replicates over | log | state machine | clients |
|---|---|---|---|---|
| conveyor-raft | QUIC with mutual TLS 1.3, at the loopback's MTU | mapped, synced | the router's; `counting`: counts | tasks in the process of the three nodes |
| openraft, by calls | calls, as in its own minimal benchmark | a map in memory | counts | the same |
| openraft, TCP | plain TCP, appends pipelined by `stream_append`, up to 1024 entries each | one file a node, filled beforehand, what waits is written and synced together; followers are sent entries while the leader syncs | counts | the same |
| hashicorp/raft | plain TCP, its transport; up to 1024 entries an append | in memory, or BoltDB behind a cache of 512 entries, synced | counts, by batch | goroutines in the process of the three nodes |
| etcd | plain TCP | its own, synced | its key-value store, each client puts a key of its own | gRPC without TLS to the leader, 16 connections, from another process |

Whatever is not named is at its default.

";

/// The whole page.
pub(crate) fn page(rows: &[Row], others: &Others, looks: [&Surroundings; 2]) -> String {
    let mut page = String::from(METHOD);
    let etcd = others.etcd.as_ref().map_or("left out", String::as_str);
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "Versions: openraft 0.10.0-alpha.37; etcd {etcd}; hashicorp/raft {}.\n",
        hashicorp::versions().as_deref().unwrap_or("left out"),
    );
    for line in others.skipped() {
        let _ = writeln!(page, "{line}.\n");
    }
    for (when, look) in ["Before", "After"].iter().zip(looks) {
        let _ = writeln!(page, "{when}: {}.\n", look.0.join("; "));
    }
    page.push_str(
        "| clients | side | commits | p50 | p99 | ours / it |\n|---|---|---|---|---|---|\n",
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

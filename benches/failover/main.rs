//! What a failure costs those who write: three processes over QUIC, on a real disk.
//!
//! * `kills`: the leader is killed (SIGKILL), again and again: time from there to the first new
//!   commit.
//! * `hand-overs`: leadership is handed over under load: the longest time between two commits.
//! * `slow follower`: one follower runs for 1 ms in 100: what commits cost, against all at speed.
//!
//! `CONVEYOR_FAILOVER_KILLS`, `CONVEYOR_FAILOVER_HAND_OVERS` and `CONVEYOR_FAILOVER_ROUNDS` say how
//! often (100, 50 and 10); `CONVEYOR_BENCH_DISK` chooses the folder.

#[path = "../common/mod.rs"]
mod common;
mod node;
mod parent;

use std::time::Duration;

use node::{HEARTBEAT_MS, TIMEOUT_MAX_MS, TIMEOUT_MIN_MS};
use parent::{Commit, Processes};

/// So often, unless the environment says otherwise.
fn times(variable: &str, default: usize) -> usize {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    if let Some(task) = node::task() {
        return node::run(task);
    }
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let [_, disk] = common::medium::media();
    println!(
        "election timeouts {TIMEOUT_MIN_MS} to {TIMEOUT_MAX_MS} ms, heartbeats every {HEARTBEAT_MS} ms"
    );
    let mut processes = Processes::start(&disk.folder());
    // `--test`: only to show that it works.
    let [many, some, few] = match common::log::short() {
        true => [3, 3, 1],
        false => [100, 50, 10],
    };
    kills(&mut processes, times("CONVEYOR_FAILOVER_KILLS", many));
    hand_overs(&mut processes, times("CONVEYOR_FAILOVER_HAND_OVERS", some));
    slow_follower(&mut processes, times("CONVEYOR_FAILOVER_ROUNDS", few));
}

fn kills(processes: &mut Processes, count: usize) {
    let mut times = Vec::new();
    for _ in 0..count {
        let leader = processes.settled();
        let killed = processes.kill(leader);
        let first = processes.commit_after(killed, Duration::from_secs(30));
        times.push(first.at - killed);
        processes.restart(leader);
    }
    let goal = 2 * TIMEOUT_MAX_MS * 1000;
    report("failover/kills: first new commit", &mut times, goal);
}

fn hand_overs(processes: &mut Processes, count: usize) {
    const AROUND: u64 = 400_000;
    let (mut gaps, mut stayed) = (Vec::new(), 0);
    for _ in 0..count {
        let leader = processes.settled();
        let asked = processes.hand_over(leader);
        let commits = processes.commits_until(asked + AROUND);
        stayed += usize::from(processes.settled() == leader);
        let mut times: Vec<_> = commits.iter().map(|commit| commit.at).collect();
        times.retain(|at| at + AROUND / 8 > asked);
        times.sort_unstable();
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        gaps.push(gap.expect("commits"));
    }
    println!("failover/hand-overs: {stayed} of {count} came to nothing");
    report(
        "failover/hand-overs: longest time without a commit",
        &mut gaps,
        50_000,
    );
}

fn slow_follower(processes: &mut Processes, rounds: usize) {
    const WINDOW: Duration = Duration::from_secs(1);
    let latency = |commits: Vec<Commit>| commits.into_iter().map(|commit| commit.took);
    let (mut even, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let leader = processes.settled();
        let until = parent::now() + WINDOW.as_micros() as u64;
        even.extend(latency(processes.commits_until(until)));
        let follower = leader % 3 + 1;
        slow.extend(latency(processes.while_slow(follower, WINDOW)));
    }
    report("failover/all at speed: latency", &mut even, 0);
    report("failover/slow follower: latency", &mut slow, 0);
    for (name, share) in [("median", 50), ("p99", 99)] {
        let (even, slow) = (percentile(&even, share), percentile(&slow, share));
        println!(
            "slow follower: {name} {:.2} times (goal 1.2)",
            slow as f64 / even as f64
        );
    }
}

/// Of sorted values.
fn percentile(sorted: &[u64], share: usize) -> u64 {
    sorted[(sorted.len() * share).div_ceil(100).max(1) - 1]
}

fn report(what: &str, times: &mut [u64], goal: u64) {
    assert!(!times.is_empty(), "{what}: nothing was measured");
    times.sort_unstable();
    let ms = |micros: u64| micros as f64 / 1000.0;
    let at = |share| ms(percentile(times, share));
    let (count, most) = (times.len(), ms(times[times.len() - 1]));
    println!(
        "{what}: median {:.2} ms, p90 {:.2}, p99 {:.2}, most {most:.2}; {count} times",
        at(50),
        at(90),
        at(99)
    );
    if goal > 0 {
        let over = times.iter().filter(|time| **time > goal).count();
        println!(
            "{what}: {over} of {count} over the goal of {:.0} ms",
            ms(goal)
        );
    }
}

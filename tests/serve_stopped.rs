//! A follower that stands still (SIGSTOP) under load: its leader neither waits for it nor keeps for it what
//! it cannot take, and it catches up when it goes on.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "serve_common/client.rs"]
mod client;
mod common;
mod serve_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Caller, Fate};
use conveyor_raft::RouterCommand;
use serve_common::{Running, Site};

const MIB: u64 = 1 << 20;
const CALLERS: u64 = 8;
/// Bytes of a command: in a second they are more than a queue to a peer may hold.
const COMMAND: usize = 16 << 10;
/// How long the rate is looked at before.
const BEFORE: Duration = Duration::from_secs(3);
/// What the leader may take more for a peer that takes nothing: what may be queued and under way to it,
/// and what an allocator does not give back.
const MORE: u64 = 48 * MIB;

/// `CONVEYOR_STOPPED_SECS`: how long it stands still, 8 s without it.
fn stopped_for() -> Duration {
    let set = std::env::var("CONVEYOR_STOPPED_SECS").ok();
    Duration::from_secs(set.map_or(8, |secs| secs.parse().expect("seconds")))
}

/// Callers that overwrite a pipeline each, so that the state does not grow.
struct Load {
    applied: Arc<AtomicU64>,
    last_index: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(site: &Site) -> Self {
        let (applied, last_index, stop) = Default::default();
        let mut load = Self {
            applied,
            last_index,
            stop,
            callers: Vec::new(),
        };
        for number in 0..CALLERS {
            let mut caller = Caller::new(site);
            let pipeline_id = format!("pipeline-{number}");
            let create = RouterCommand::CreatePipeline {
                pipeline_id: pipeline_id.clone(),
                name: String::new(),
                config: Vec::new(),
            };
            while matches!(caller.propose(create.clone()).await, Fate::Unknown) {}
            let (applied, last) = (Arc::clone(&load.applied), Arc::clone(&load.last_index));
            let stop = Arc::clone(&load.stop);
            load.callers.push(tokio::spawn(async move {
                for nth in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut config = vec![number as u8; COMMAND];
                    config[..8].copy_from_slice(&nth.to_le_bytes());
                    let command = RouterCommand::UpdatePipeline {
                        pipeline_id: pipeline_id.clone(),
                        config,
                        expected_version: None,
                    };
                    if let Fate::Applied(response) = caller.propose(command).await {
                        applied.fetch_add(1, Ordering::Relaxed);
                        last.fetch_max(response.index, Ordering::Relaxed);
                    }
                }
            }));
        }
        load
    }

    /// Commands applied a second while `time` passes; `look` is called now and then.
    async fn rate(&self, time: Duration, mut look: impl FnMut()) -> f64 {
        let (begun, before) = (Instant::now(), self.applied.load(Ordering::Relaxed));
        while begun.elapsed() < time {
            look();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let applied = self.applied.load(Ordering::Relaxed) - before;
        applied as f64 / begun.elapsed().as_secs_f64()
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("no panic");
        }
        self.last_index.load(Ordering::Relaxed)
    }
}

fn of(nodes: &[Running], id: u64) -> &Running {
    nodes.iter().find(|node| node.node == id).expect("runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_follower_that_stands_still_costs_its_leader_neither_memory_nor_commits() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let caller = Caller::new(&site);
    caller.reachable().await;
    let leads = caller.leader().await;
    let stands = (1..=3).find(|node| *node != leads).expect("another");
    let (leader, follower) = (of(&nodes, leads), of(&nodes, stands));
    let load = Load::start(&site).await;
    // The memory that load takes by itself is taken by now.
    let before = load.rate(BEFORE, || {}).await;
    let heap = leader.memory("RssAnon");
    follower.freeze();
    let (mut most, mut resident) = (0, 0);
    let during = load
        .rate(stopped_for(), || {
            most = most.max(leader.memory("RssAnon"));
            resident = resident.max(leader.memory("VmRSS"));
        })
        .await;
    follower.thaw();
    let after = load.rate(BEFORE, || {}).await;
    let last = load.end().await;
    println!(
        "commits/s before {before:.0}, during {during:.0}, after {after:.0}; heap {} MiB, at most {} MiB, \
         with the log {} MiB",
        heap / MIB,
        most / MIB,
        resident / MIB
    );
    assert!(most < heap + MORE, "{} MiB more", (most - heap) / MIB);
    assert!(during > before / 2.0, "{during} commits/s, {before} before");
    let passed = during * stopped_for().as_secs_f64() * COMMAND as f64;
    assert!(passed > MORE as f64, "the load is more than may be kept");
    // Everybody has everything, the one that stood still too.
    caller.agree(last).await;
    for node in nodes {
        let id = node.node;
        assert!(node.terminate().success(), "node {id}: {}", site.log(id));
    }
}

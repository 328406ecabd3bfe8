//! What the benchmarks share: where they write, and a real cluster in one process.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use conveyor_raft::quic::certs;
use conveyor_raft::{
    Cluster, LogIndex, NodeId, NodeStatus, RaftConfig, RaftNode, RouterStateMachine,
};
use tempfile::TempDir;

/// A folder to measure on.
pub(crate) struct Medium {
    pub(crate) name: &'static str,
    variable: &'static str,
    default: PathBuf,
}

/// The RAM file system and the disk: `CONVEYOR_BENCH_RAM` (default `/dev/shm`) and
/// `CONVEYOR_BENCH_DISK` (default below the target folder).
pub(crate) fn media() -> [Medium; 2] {
    let disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    [
        Medium {
            name: "ram",
            variable: "CONVEYOR_BENCH_RAM",
            default: "/dev/shm".into(),
        },
        Medium {
            name: "disk",
            variable: "CONVEYOR_BENCH_DISK",
            default: disk,
        },
    ]
}

impl Medium {
    /// The folder, after a look at its file system: a RAM figure from a disk, or the other way
    /// round, would be a lie.
    pub(crate) fn folder(&self) -> PathBuf {
        let set = std::env::var_os(self.variable).filter(|set| !set.is_empty());
        let folder = set.map_or_else(|| self.default.clone(), PathBuf::from);
        let kind = file_system(&folder);
        println!("{}: file system {kind}", self.name);
        let ram = kind == "tmpfs";
        assert_eq!(
            ram,
            self.name == "ram",
            "{} is on {kind}: set {} to a folder on {}",
            folder.display(),
            self.variable,
            if self.name == "ram" {
                "tmpfs"
            } else {
                "a disk"
            },
        );
        folder
    }
}

impl Medium {
    /// Prints what the medium alone takes for one 4 KiB write and its sync, to stand beside every
    /// figure.
    pub(crate) fn print_floor(&self) {
        match raw_sync(&self.folder()) {
            Ok(time) => println!("{}: raw 4 KiB write and sync, median {time:?}", self.name),
            Err(error) => println!("{}: raw write and sync not measured: {error}", self.name),
        }
    }
}

/// Median over writes to blocks that the file has already, as in a log whose segments are filled
/// beforehand.
fn raw_sync(folder: &Path) -> std::io::Result<Duration> {
    const PAGES: u64 = 64;
    let file = tempfile::tempfile_in(folder)?;
    let page = [0x5a; 4096];
    (0..PAGES).try_for_each(|nth| file.write_all_at(&page, nth * 4096))?;
    file.sync_all()?;
    let mut times = Vec::new();
    for nth in 0..PAGES {
        let start = Instant::now();
        file.write_all_at(&page, nth * 4096)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn file_system(folder: &Path) -> &'static str {
    let stat = rustix::fs::statfs(folder)
        .unwrap_or_else(|error| panic!("{}: {error}; make the folder first", folder.display()));
    match stat.f_type as u64 {
        0x0102_1994 => "tmpfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        _ => "another file system",
    }
}

/// Three nodes with everything real: mapped logs, QUIC with mutual TLS, the router's state machine.
pub(crate) struct BenchCluster {
    pub(crate) nodes: Vec<RaftNode>,
    _dir: TempDir,
}

/// Addresses that were free a moment ago; held until the last is found, so that they differ.
pub(crate) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let bind = |_| UdpSocket::bind(("127.0.0.1", 0)).expect("a UDP port");
    let sockets: Vec<UdpSocket> = (0..count).map(bind).collect();
    let address = |socket: &UdpSocket| socket.local_addr().expect("its address");
    sockets.iter().map(address).collect()
}

/// A node's figures are published now and then, not with every write.
async fn status_with_syncs(node: &RaftNode) -> NodeStatus {
    let start = Instant::now();
    loop {
        let status = node.status();
        if status.syncs > 0 {
            return status;
        }
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "node {} never synced",
            node.id()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl BenchCluster {
    pub(crate) async fn start(folder: &Path, size: u64) -> Self {
        let dir = tempfile::tempdir_in(folder).expect("a folder");
        let ids: Vec<NodeId> = (1..=size).collect();
        let certificates = certs::generate("bench", &ids, &[]).expect("certificates");
        let addresses = free_addresses(ids.len());
        let mut nodes = Vec::new();
        for (id, listen) in ids.iter().zip(&addresses) {
            let members = ids
                .iter()
                .copied()
                .zip(addresses.iter().map(ToString::to_string));
            let credentials = certificates.credentials(*id).expect("credentials");
            let data = dir.path().join(format!("node-{id}"));
            let peers = if size == 1 {
                Cluster::single(data, credentials)
            } else {
                Cluster::new(data, credentials, *listen, members)
            };
            // A shared machine may hold a process up for longer than the default patience; an
            // election in the middle of a measurement would be the machine's, not ours.
            let config = RaftConfig {
                node_id: *id,
                election_timeout_min_ms: 1000,
                election_timeout_max_ms: 2000,
                heartbeat_interval_ms: 100,
            };
            let node = RaftNode::new(config, RouterStateMachine::new(), peers).await;
            nodes.push(node.expect("the node starts"));
        }
        let cluster = Self { nodes, _dir: dir };
        cluster.leader().await;
        cluster
    }

    pub(crate) async fn leader(&self) -> RaftNode {
        let start = Instant::now();
        loop {
            if let Some(leader) = self.nodes.iter().find(|node| node.is_leader()) {
                return leader.clone();
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "no leader within 30 s"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the cluster after a look at what it did: every node ends at entry `last` with the
    /// offsets of `sources` sources and the same state, everything was synced, and what went
    /// between the nodes was mutual TLS 1.3.
    pub(crate) async fn verify_and_stop(self, last: LogIndex, sources: usize) {
        let mut digests = Vec::new();
        for node in &self.nodes {
            let applied = node.wait_applied(last, Duration::from_secs(30)).await;
            let applied = applied.expect("every node applies everything");
            assert_eq!(applied.id.index, last, "node {}", node.id());
            let offsets = applied.view.checkpoints.source_offsets.len();
            assert_eq!(offsets, sources, "node {}", node.id());
            digests.push(applied.digest);
            let status = status_with_syncs(node).await;
            assert_eq!(status.failure, None);
            let links = node.transport_stats();
            assert!(self.nodes.len() == 1 || !links.is_empty());
            assert!(links.iter().all(|link| link.mutual_tls13));
            assert!(links.iter().all(|link| link.datagrams_sent > 0));
            let mtu: Vec<u16> = links.iter().map(|link| link.mtu).collect();
            println!("node {}: {} syncs, MTU {mtu:?}", node.id(), status.syncs);
        }
        assert!(
            digests.iter().all(|digest| *digest == digests[0]),
            "{digests:?}"
        );
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

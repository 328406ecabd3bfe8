//! What is measured: each side under the name that it has in the results.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::closed::{Came, Propose, run};
use crate::common::bed::{Bed, Load};
use crate::common::medium::Medium;
use crate::counting::Counting;
use crate::etcd::{self, Etcd};
use crate::hashicorp::{self, Hashicorp};
use crate::openraft_cluster::OpenraftCluster;

/// Bytes of a command.
const PAYLOAD: usize = 128;

impl Propose for Load {
    async fn propose(&self, client: usize) {
        Load::propose(self, &self.sources[client]).await;
    }
}

/// Openraft, and how many proposals it answered.
pub(crate) struct Openraft {
    cluster: OpenraftCluster,
    answered: AtomicU64,
}

impl Openraft {
    /// Over TCP with its logs on that medium, or in memory.
    async fn start(servers: &Runtime, medium: Option<&Medium>) -> Arc<Self> {
        let payload = Bytes::from(vec![0x5a; PAYLOAD]);
        let folder = medium.map(|it| tempfile::tempdir_in(it.folder()).expect("a folder"));
        let started = servers.spawn(async {
            match folder {
                Some(folder) => OpenraftCluster::over_tcp(payload, folder).await,
                None => OpenraftCluster::in_memory(payload).await,
            }
        });
        let cluster = started.await.expect("openraft starts");
        let answered = AtomicU64::new(0);
        Arc::new(Self { cluster, answered })
    }
}

impl Propose for Openraft {
    async fn propose(&self, _: usize) {
        self.cluster.propose().await;
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// The others that are on this machine, or why not.
pub(crate) struct Others {
    pub(crate) hashicorp: Result<OsString, &'static str>,
    /// Its version.
    pub(crate) etcd: Result<String, &'static str>,
}

impl Others {
    pub(crate) fn look() -> Self {
        Self {
            hashicorp: hashicorp::program(),
            etcd: etcd::version(),
        }
    }

    /// A line for each that is left out.
    pub(crate) fn skipped(&self) -> Vec<String> {
        let hashicorp = self
            .hashicorp
            .as_ref()
            .err()
            .map(|it| ("hashicorp/raft", it));
        let etcd = self.etcd.as_ref().err().map(|it| ("etcd", it));
        let all = [hashicorp, etcd].into_iter().flatten();
        all.map(|(name, why)| format!("{name} skipped: {why}"))
            .collect()
    }
}

/// A cluster that runs.
enum Cluster {
    Ours(Box<Bed>),
    Counting(Arc<Counting>),
    Openraft(Arc<Openraft>),
    Hashicorp(Hashicorp),
    Etcd(Arc<Etcd>),
}

/// One side.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    /// Whether it writes to the disk.
    pub(crate) disk: bool,
    cluster: Cluster,
}

impl Side {
    pub(crate) async fn run(&mut self, clients: usize) -> Came {
        match &mut self.cluster {
            Cluster::Ours(bed) => run(&bed.load, clients).await,
            Cluster::Counting(cluster) => run(cluster, clients).await,
            Cluster::Openraft(cluster) => run(cluster, clients).await,
            Cluster::Hashicorp(cluster) => cluster.run(),
            Cluster::Etcd(cluster) => run(cluster, clients).await,
        }
    }

    /// Fails unless every node has everything that was answered.
    pub(crate) async fn finish(self) {
        const ENDED: &str = "every task has ended";
        match self.cluster {
            Cluster::Ours(bed) => bed.finish().await,
            Cluster::Counting(it) => Arc::into_inner(it).expect(ENDED).finish().await,
            Cluster::Openraft(it) => {
                let it = Arc::into_inner(it).expect(ENDED);
                it.cluster.verify_and_stop(it.answered.into_inner()).await;
            }
            Cluster::Hashicorp(it) => it.finish(),
            Cluster::Etcd(it) => Arc::into_inner(it).expect(ENDED).finish().await,
        }
    }
}

/// All sides; of ours with the router's state machine the RAM file system comes first, then the disk.
pub(crate) async fn start(
    servers: &Runtime,
    [ram, disk]: &[Medium; 2],
    others: &Others,
    clients: usize,
) -> Vec<Side> {
    let mut sides = Vec::new();
    let mut add = |name, disk, cluster| {
        sides.push(Side {
            name,
            disk,
            cluster,
        })
    };
    let ours = async |medium| Cluster::Ours(Box::new(Bed::start(medium, 3, clients).await));
    add("conveyor-raft, RAM file system", false, ours(ram).await);
    add("conveyor-raft, disk", true, ours(disk).await);
    let counting = async |medium| Cluster::Counting(Arc::new(Counting::start(medium).await));
    add(
        "conveyor-raft counting, RAM file system",
        false,
        counting(ram).await,
    );
    add("conveyor-raft counting, disk", true, counting(disk).await);
    let openraft = async |medium| Cluster::Openraft(Openraft::start(servers, medium).await);
    add("openraft, in memory, by calls", false, openraft(None).await);
    add(
        "openraft, TCP, RAM file system",
        false,
        openraft(Some(ram)).await,
    );
    add("openraft, TCP, disk", true, openraft(Some(disk)).await);
    if let Ok(program) = &others.hashicorp {
        let hashicorp = |medium| Cluster::Hashicorp(Hashicorp::start(program, medium, clients));
        add("hashicorp/raft, TCP, in memory", false, hashicorp(None));
        add(
            "hashicorp/raft, TCP, BoltDB on disk",
            true,
            hashicorp(Some(disk)),
        );
    }
    if others.etcd.is_ok() {
        let etcd = async |medium| Cluster::Etcd(Arc::new(Etcd::start(medium).await));
        add("etcd, RAM file system", false, etcd(ram).await);
        add("etcd, disk", true, etcd(disk).await);
    }
    sides
}

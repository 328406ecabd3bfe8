//! Putting a node together: the log, the transport, the core, the driver and its threads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::applier::ApplyJob;
use super::begin::{Begin, begin};
use super::driver::{Driver, Parts, SnapshotParts};
use super::driving::start_driver;
use super::handle::RaftNode;
use super::inbox::Inbox;
use super::replica_state::ReplicaState;
use super::shared::{Clock, Shared};
use super::shell::{start_applier, start_snapshotters};
use crate::config::{Cluster, RaftConfig, limits};
use crate::core::{FEATURES, FoundingList, RaftCore, Settings};
use crate::error::StartError;
use crate::network::{EventSink, LocalFacts, NetworkEvent, PeerAddress, RaftNetwork};
use crate::quic::{RaftTransport, TransportError, TransportObserver, TransportOptions};
use crate::snapshot::{SnapshotFolder, SnapshotOptions};
use crate::state_machine::{RouterStateMachine, StateMachine};
use crate::types::{ClusterId, Incarnation, ReplicaId};
use crate::wal::{LogIdentity, LogOptions, LogStorage, MappedDir, Medium};

/// A network, where it listens, and who tells its figures.
type Bound<N> = (N, SocketAddr, TransportObserver);

/// Sets up a node beyond what [`RaftConfig`] says. Begins with [`RaftNode::builder`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    config: RaftConfig,
    log: LogOptions,
    lease_drift_ppm: Option<u32>,
    snapshots: SnapshotOptions,
    digest_every: u64,
    auto_join: bool,
    separate_driver: bool,
}

impl NodeBuilder {
    /// Options of the log: segment size, sync policy and so on.
    pub fn log(mut self, options: LogOptions) -> Self {
        self.log = options;
        self
    }

    /// When snapshots are taken, how much of the log is kept behind them, and at which rates they are
    /// written and sent.
    pub fn snapshots(mut self, options: SnapshotOptions) -> Self {
        self.snapshots = options;
        self
    }

    /// Lets [`ReadConsistency::Lease`](super::ReadConsistency::Lease) rest on leases (off by
    /// default): a leader that heard from a quorum within an election timeout reads without asking.
    /// `drift_ppm` bounds, in millionths, how much faster one member's clock may run than
    /// another's; 1000 (0.1 %) is generous for machines whose clocks are disciplined. Beyond it,
    /// lease reads can be stale; nothing else depends on it.
    ///
    /// Set it on every member or on none: each tells the others how long it refuses votes.
    pub fn lease_reads(mut self, drift_ppm: u32) -> Self {
        self.lease_drift_ppm = Some(drift_ppm);
        self
    }

    /// At every index that this divides the members compare digests of their states; one whose state
    /// is not that of the majority stops and says so. 65,536 by default, at least 1.
    ///
    /// Set it to the same on every member: what only some of them know is not compared.
    pub fn digest_every(mut self, entries: u64) -> Self {
        self.digest_every = entries.max(1);
        self
    }

    /// While it leads, this node adds by itself, as a learner, whoever waits to be added
    /// ([`RaftNode::waiting_nodes`]): one a second, and none while members change. Off by default. It is the
    /// leader's setting that counts, so set it to the same on every member.
    ///
    /// Who has a peer certificate of this cluster then gets a copy of the state. Nobody is replaced, nobody
    /// votes by it, and a number that was removed is not added again.
    pub fn auto_join(mut self, wanted: bool) -> Self {
        self.auto_join = wanted;
        self
    }

    /// Gives the driver, which is where core, log and network meet, a thread of its own beside the
    /// network's, instead of running it there. Off by default: without the four changes of thread on a
    /// command's way there are 1.2 to 1.4 times as many commands a second while few are under way
    /// (`docs/performance.md`, on two cores). With many cores, and so many commands that the one thread is
    /// busy all the time, two may do more.
    pub fn separate_driver(mut self, wanted: bool) -> Self {
        self.separate_driver = wanted;
        self
    }

    /// Opens the log, binds the peer listener and starts the node.
    ///
    /// Recovery reads the log; the future waits for it without blocking its runtime. The node then
    /// finds its peers by itself: [`RaftNode::status`] says how far it is.
    ///
    /// # Errors
    /// If a setting, the directory, the credentials or the listener cannot work; the text says
    /// what to do, and nothing on disk was damaged.
    pub async fn start<S: StateMachine>(
        self,
        state_machine: S,
        cluster: Cluster,
    ) -> Result<RaftNode<S>, StartError> {
        self.start_over(state_machine, cluster, |options, sink| {
            let transport = RaftTransport::bind(options, sink)?;
            let (address, observer) = (transport.local_addr(), transport.observer());
            Ok((transport, address, observer))
        })
        .await
    }

    /// As [`start`](Self::start), over a network that the caller makes of what the node's transport would
    /// be made of: tests put a network in memory under it, or another one in its place. With the address
    /// that it listens on, and a transport's observer for the figures.
    #[doc(hidden)]
    pub async fn start_over<S: StateMachine, N: RaftNetwork>(
        self,
        state_machine: S,
        cluster: Cluster,
        bind: impl FnOnce(TransportOptions, EventSink) -> Result<Bound<N>, TransportError>
        + Send
        + 'static,
    ) -> Result<RaftNode<S>, StartError> {
        self.config.validate()?;
        self.snapshots.validate()?;
        cluster.validate(self.config.node_id)?;
        let (done, result) = tokio::sync::oneshot::channel();
        let start = move || {
            let _ = done.send(start_blocking(self, state_machine, cluster, bind));
        };
        let name = "raft-start".to_owned();
        std::thread::Builder::new()
            .name(name)
            .spawn(start)
            .map_err(StartError::Thread)?;
        result.await.unwrap_or_else(|_| {
            Err(StartError::Storage(
                "opening the node ended without a result".to_owned(),
            ))
        })
    }
}

impl RaftNode<RouterStateMachine> {
    /// Options beyond [`RaftConfig`].
    pub fn builder(config: RaftConfig) -> NodeBuilder {
        NodeBuilder {
            config,
            log: LogOptions::default(),
            lease_drift_ppm: None,
            snapshots: SnapshotOptions::default(),
            digest_every: limits::DIGEST_EVERY,
            auto_join: false,
            separate_driver: false,
        }
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// Opens and starts a node with the default options; see [`NodeBuilder::start`].
    ///
    /// # Errors
    /// As [`NodeBuilder::start`].
    pub async fn new(
        config: RaftConfig,
        state_machine: S,
        peers: Cluster,
    ) -> Result<Self, StartError> {
        RaftNode::builder(config).start(state_machine, peers).await
    }
}

fn start_blocking<S: StateMachine, N: RaftNetwork>(
    builder: NodeBuilder,
    machine: S,
    cluster: Cluster,
    bind: impl FnOnce(TransportOptions, EventSink) -> Result<Bound<N>, TransportError>,
) -> Result<RaftNode<S>, StartError> {
    let NodeBuilder {
        config,
        log: mut options,
        lease_drift_ppm,
        snapshots,
        digest_every,
        auto_join,
        separate_driver,
    } = builder;
    options.election_timeout_min_ms = config.election_timeout_min_ms as u32;
    let inbox = Arc::new(Inbox::default());
    let log = open_log(&config, &cluster, options, Arc::clone(&inbox))?;
    let mut state = ReplicaState::new(machine);
    let begin = begin(&log, &mut state, cluster.credentials.cluster(), FEATURES.1);
    let begin = begin.map_err(StartError::Storage)?;
    let facts = begin.facts(
        log.meta_seq(),
        cluster.advertised(),
        cluster.client_endpoint.clone(),
    );
    let sink = {
        let inbox = Arc::clone(&inbox);
        Arc::new(move |events: &mut Vec<NetworkEvent>| {
            inbox.put(|lanes| lanes.network.append(events));
        })
    };
    let transport = TransportOptions {
        listen: cluster.listen,
        credentials: cluster.credentials.clone(),
        incarnation: log.incarnation(),
        facts: facts.clone(),
        reset_key: log.reset_key(),
        idle_timeout: idle_timeout(&config),
        election_timeout_min_ms: config.election_timeout_min_ms,
        heartbeat_interval_ms: config.heartbeat_interval_ms,
        seed: seed(ReplicaId::new(config.node_id, log.incarnation())),
        mtu: None,
        strict_expiry: cluster.strict_expiry,
    };
    let (network, listening, observer) =
        bind(transport, sink).map_err(|error| StartError::Transport(error.to_string()))?;
    let placement = Placement {
        cluster,
        facts,
        listening,
        begin,
        snapshots,
        digest_every,
        auto_join,
        separate_driver,
    };
    let settings = Settings {
        lease_drift_ppm,
        ..settings(&config, ReplicaId::new(config.node_id, log.incarnation()))
    };
    let (shared, jobs) = launch(settings, state, log, network, inbox, placement)?;
    Ok(RaftNode::from_parts(shared, jobs, observer))
}

/// A dead peer is found after three election timeouts; elections never wait for it.
fn idle_timeout(config: &RaftConfig) -> Duration {
    let timeout = Duration::from_millis(3 * config.election_timeout_max_ms);
    timeout.clamp(Duration::from_millis(500), Duration::from_secs(10))
}

fn open_log<R: Send + 'static>(
    config: &RaftConfig,
    cluster: &Cluster,
    options: LogOptions,
    inbox: Arc<Inbox<R>>,
) -> Result<LogStorage<MappedDir>, StartError> {
    let storage = |error: crate::wal::OpenError| StartError::Storage(error.to_string());
    let sink = Arc::new(move |event| inbox.put(|lanes| lanes.log.push(event)));
    let medium = MappedDir::open(&cluster.data_dir, sink, &options).map_err(storage)?;
    let identity = LogIdentity {
        cluster: cluster.credentials.cluster(),
        node: config.node_id,
    };
    LogStorage::open(medium, identity, options).map_err(storage)
}

/// Where a node stands among the others.
struct Placement {
    cluster: Cluster,
    facts: LocalFacts,
    listening: SocketAddr,
    begin: Begin,
    snapshots: SnapshotOptions,
    digest_every: u64,
    auto_join: bool,
    separate_driver: bool,
}

type Launched<S> = (Arc<Shared<S>>, mpsc::Sender<ApplyJob<S>>);

fn launch<S: StateMachine, M: Medium, N: RaftNetwork>(
    settings: Settings,
    state: ReplicaState<S>,
    log: LogStorage<M>,
    network: N,
    inbox: Arc<Inbox<S::Response>>,
    placement: Placement,
) -> Result<Launched<S>, StartError> {
    let Placement {
        cluster,
        mut facts,
        listening,
        begin,
        snapshots: options,
        digest_every,
        auto_join,
        separate_driver,
    } = placement;
    if facts.peer_address.is_empty() {
        facts.peer_address = listening.to_string();
    }
    let me = ReplicaId::new(cluster.credentials.node(), log.incarnation());
    let listed = cluster.listed();
    let clock = Clock::start();
    let list = cluster.founding(&listed, &facts);
    let core = RaftCore::new(me, settings, begin.recovered, list, clock.now());
    let cluster_id: ClusterId = cluster.credentials.cluster();
    let mut shared = Shared::new(me, cluster_id, listening, clock, inbox, state, begin.at);
    shared.digests.every = digest_every;
    let shared = Arc::new(shared);
    let (jobs, queue) = mpsc::channel();
    let apply = {
        let jobs = jobs.clone();
        // The applier outlives the driver: it stops when told to.
        Box::new(move |job| drop(jobs.send(job)))
    };
    start_applier(Arc::clone(&shared), queue).map_err(StartError::Thread)?;
    let folder = SnapshotFolder::new(log.files());
    let (snapshot_jobs, snapshotters) =
        start_snapshotters(&folder, &options, &shared).map_err(StartError::Thread)?;
    let runtime = network.runtime().filter(|_| !separate_driver);
    let parts = Parts {
        core,
        log,
        network,
        apply,
        shared: Arc::clone(&shared),
        facts,
        listed,
        snapshots: SnapshotParts {
            options,
            stored: begin.stored,
            jobs: snapshot_jobs,
        },
        auto_join,
    };
    start_driver(
        move || Driver::new(parts),
        Arc::clone(&shared),
        jobs.clone(),
        snapshotters,
        runtime,
    )
    .map_err(StartError::Thread)?;
    Ok((shared, jobs))
}

/// Differs for every life of every node, so that timeouts do not run in step.
fn seed(me: ReplicaId) -> u64 {
    let Incarnation(bytes) = me.incarnation;
    bytes
        .iter()
        .fold(me.node, |seed, byte| seed.rotate_left(8) ^ u64::from(*byte))
}

pub(crate) fn settings(config: &RaftConfig, me: ReplicaId) -> Settings {
    Settings {
        election_timeout_min: config.election_timeout_min_ms * 1000,
        election_timeout_max: config.election_timeout_max_ms * 1000,
        heartbeat_interval: config.heartbeat_interval_ms * 1000,
        max_inflight_bytes: limits::MAX_INFLIGHT,
        max_inflight_appends: limits::MAX_INFLIGHT_APPENDS,
        max_append_bytes: limits::MAX_APPEND,
        lease_drift_ppm: None,
        seed: seed(me),
    }
}

impl Cluster {
    fn validate(&self, node: u64) -> Result<(), StartError> {
        let config = |key, why: String| Err(crate::config::ConfigError::new(key, why).into());
        if self.credentials.node() != node {
            return config(
                "node_id",
                format!(
                    "the certificate is for node {}, not {node}: use that node's certificate",
                    self.credentials.node()
                ),
            );
        }
        let others = self
            .members
            .iter()
            .filter(|member| member.node != node)
            .count();
        if self.single && others > 0 {
            return config(
                "peers",
                "a single node has no peers: name them or drop single".into(),
            );
        }
        if !self.single && !self.joins && others == 0 {
            return config(
                "peers",
                "no other member is named; a cluster of one is founded only on the explicit word \
                 (Cluster::single, or single = true under [peers]), and a node that is to be added \
                 to a cluster says so too (Cluster::joining, or join = true)"
                    .into(),
            );
        }
        let mut nodes: Vec<_> = self.members.iter().map(|member| member.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() != self.members.len() || nodes.first() == Some(&0) {
            return config("peers", "a node id is 0 or named twice".into());
        }
        if self.data_dir == PathBuf::new() {
            return config("data_dir", "must name a directory".into());
        }
        Ok(())
    }

    /// The others, as far as the configuration names them.
    fn listed(&self) -> Vec<PeerAddress> {
        let me = self.credentials.node();
        let others = self.members.iter().filter(|member| member.node != me);
        let address = others.map(|member| PeerAddress {
            node: member.node,
            incarnation: None,
            address: member.address.clone(),
        });
        address.collect()
    }

    fn founding(&self, listed: &[PeerAddress], facts: &LocalFacts) -> FoundingList {
        FoundingList {
            // Who joins founds nothing, whoever else is blank.
            others: match self.joins {
                true => Vec::new(),
                false => listed.iter().map(|peer| peer.node).collect(),
            },
            single: self.single,
            peer_address: facts.peer_address.clone(),
            client_endpoint: facts.client_endpoint.clone(),
        }
    }

    /// The address that others dial; empty while only the listener will know it.
    fn advertised(&self) -> String {
        match &self.advertise {
            Some(address) => address.clone(),
            None if self.listen.port() == 0 || self.listen.ip().is_unspecified() => String::new(),
            None => self.listen.to_string(),
        }
    }
}

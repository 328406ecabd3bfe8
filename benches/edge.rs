//! Commands per second through the client edge: gRPC and TLS in front of a real three-node cluster
//! in one process, on the RAM file system; to be read beside `cluster_commit/ram`, which has the same
//! cluster and commands without an edge.
//!
//! `edge_propose/{unary,batch,stream}/N`, N commands of 128 bytes under way on one connection:
//! * `unary`: N tasks, each with one call of `Propose` outstanding;
//! * `batch`: one call of `ProposeBatch` with N commands after the other;
//! * `stream`: N tasks, each with one `Client::propose` outstanding; they share the client's stream.
//!
//! An element is a command that returned applied.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::BenchCluster;
use common::load::{FIRST_OFFSET, command, source};
use common::medium::{Medium, media};
use conveyor_raft::client::{Client, ClientOptions};
use conveyor_raft::grpc::{Edge, EdgeIdentity, EdgeOptions, EdgeSecurity, connect, serve};
use conveyor_raft::proto::propose_outcome::Outcome;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{ProposeBatchRequest, ProposeRequest, ProposeResponse};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::quic::certs::{GeneratedCerts, PemPair};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::Channel;

const UNDER_WAY: [usize; 3] = [1, 64, 1024];

#[derive(Clone, Copy, Debug)]
enum Way {
    Unary,
    Batch,
    Stream,
}

/// A cluster with an edge at its leader, and a caller of it.
struct Bed {
    cluster: BenchCluster,
    edge: Edge,
    load: Arc<Load>,
}

struct Load {
    router: RouterClient<Channel>,
    client: Client,
    sources: Vec<String>,
    next_offset: AtomicU64,
    last: AtomicU64,
}

impl Bed {
    async fn start(medium: &Medium, under_way: usize) -> Self {
        let cluster = BenchCluster::start(&medium.folder(), 3).await;
        let leader = cluster.leader().await;
        let certs = &cluster.certificates;
        let own = &certs.nodes[leader.id() as usize - 1].edge;
        let options = EdgeOptions::new(EdgeSecurity::Tls(identity(certs, own)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let edge = serve(leader, options, listener).await.expect("the edge");
        let endpoint = format!("https://{}", edge.address());
        let caller = certs.ca.issue_client(ClientRole::Writer, "bench");
        let caller = identity(certs, &caller.expect("a certificate"));
        let channel = connect(&endpoint, Some(&caller)).await.expect("a channel");
        let client = Client::new(ClientOptions::new([endpoint], Some(caller)));
        let load = Arc::new(Load {
            router: RouterClient::new(channel),
            client: client.expect("a client"),
            sources: (0..under_way).map(source).collect(),
            next_offset: AtomicU64::new(FIRST_OFFSET),
            last: AtomicU64::new(0),
        });
        // Every source is known, and every way connected, before the clock starts.
        load.batch(under_way).await;
        for source in &load.sources {
            load.one(Way::Stream, source).await;
        }
        Self {
            cluster,
            edge,
            load,
        }
    }

    /// `count` commands.
    async fn run(&self, way: Way, count: u64) -> Duration {
        let start = Instant::now();
        match way {
            Way::Batch => self.load.batches(count).await,
            Way::Unary | Way::Stream => self.tasks(way, count).await,
        }
        start.elapsed()
    }

    async fn tasks(&self, way: Way, count: u64) {
        let left = Arc::new(AtomicU64::new(count));
        let mut tasks = JoinSet::new();
        for nth in 0..self.load.sources.len() {
            let (load, left) = (Arc::clone(&self.load), Arc::clone(&left));
            tasks.spawn(async move {
                let take = || {
                    let less = |left: u64| left.checked_sub(1);
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                };
                while take().is_ok() {
                    load.one(way, &load.sources[nth]).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no task fails");
        }
    }

    async fn finish(self) {
        let (last, sources) = (&self.load.last, self.load.sources.len());
        let last = last.load(Ordering::Relaxed);
        self.edge.shutdown().await;
        self.cluster.verify_and_stop(last, sources).await;
    }
}

impl Load {
    fn offset(&self) -> u64 {
        self.next_offset.fetch_add(1, Ordering::Relaxed)
    }

    fn note(&self, response: &ProposeResponse) {
        assert!(!response.unchanged && !response.duplicate, "{response:?}");
        self.last.fetch_max(response.index, Ordering::Relaxed);
    }

    async fn one(&self, way: Way, source: &str) {
        let command = command(source.to_owned(), self.offset());
        let response = match way {
            Way::Stream => self.client.propose(command).await.expect("applied"),
            Way::Unary | Way::Batch => {
                let request = ProposeRequest {
                    command: Some(command.into()),
                    ..ProposeRequest::default()
                };
                let answer = self.router.clone().propose(request).await;
                answer.expect("applied").into_inner()
            }
        };
        self.note(&response);
    }

    async fn batches(&self, mut count: u64) {
        while count > 0 {
            let items = count.min(self.sources.len() as u64);
            self.batch(items as usize).await;
            count -= items;
        }
    }

    async fn batch(&self, items: usize) {
        let sources = self.sources.iter().take(items);
        let commands = sources.map(|source| command(source.clone(), self.offset()).into());
        let request = ProposeBatchRequest {
            commands: commands.collect(),
            ..ProposeBatchRequest::default()
        };
        let answer = self.router.clone().propose_batch(request).await;
        for outcome in answer.expect("a batch").into_inner().outcomes {
            match outcome.outcome {
                Some(Outcome::Response(response)) => self.note(&response),
                outcome => panic!("{outcome:?}"),
            }
        }
    }
}

fn identity(certs: &GeneratedCerts, pair: &PemPair) -> EdgeIdentity {
    let ca = &certs.ca;
    EdgeIdentity::from_pem(&ca.client_ca().cert, &pair.cert, &pair.key, ca.client_crl())
        .expect("an identity")
}

fn edge_propose(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("edge_propose");
    group
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(8));
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(1));
    let media = media();
    let Some(medium) = media.iter().find(|medium| medium.name == "ram") else {
        println!("no RAM file system here");
        return;
    };
    for under_way in UNDER_WAY {
        // Started by the first sample, so that a list or a filter starts nothing.
        let mut bed = None;
        for (name, way) in [
            ("unary", Way::Unary),
            ("batch", Way::Batch),
            ("stream", Way::Stream),
        ] {
            let id = BenchmarkId::new(name, under_way);
            group.bench_function(id, |bencher| {
                let bed =
                    bed.get_or_insert_with(|| runtime.block_on(Bed::start(medium, under_way)));
                bencher.iter_custom(|count| runtime.block_on(bed.run(way, count)));
            });
        }
        if let Some(bed) = bed {
            runtime.block_on(bed.finish());
        }
    }
    group.finish();
}

criterion_group!(benches, edge_propose);
criterion_main!(benches);

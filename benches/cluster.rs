//! Committed commands per second of a real three-node cluster in one process.
//!
//! `cluster_commit/{ram,disk}/N`: N tasks, each with exactly one `propose` of a 128-byte command
//! outstanding; no batch call, no barrier. An element is a proposal that returned applied. On the
//! RAM file system every sync call is issued but the medium keeps nothing: the whole software path,
//! not durability.

mod common;

use std::time::{Duration, Instant};

use common::{BenchCluster, media};
use conveyor_raft::state_machine::Outcome;
use conveyor_raft::{RaftNode, RouterCommand};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const CLIENTS: [u64; 3] = [1, 64, 1024];
/// Bytes of a command as it stands in the log, envelope included.
const COMMAND: usize = 128;

/// One client: proposes `count` commands one after the other.
async fn client(leader: RaftNode, source: String, from: u64, count: u64) {
    for offset in from..from + count {
        let command = RouterCommand::CommitSourceOffset {
            source_id: source.clone(),
            partition: 0,
            offset,
            rewind: false,
        };
        let response = leader.propose(command).await.expect("applied");
        assert!(
            matches!(response.outcome, Outcome::Applied(_)),
            "{response:?}"
        );
    }
}

/// A source id that makes the encoded command [`COMMAND`] bytes long.
fn source(client: u64) -> String {
    match RouterCommand::sized(client, u64::MAX, COMMAND) {
        RouterCommand::CommitSourceOffset { source_id, .. } => source_id,
        other => panic!("not an offset: {other:?}"),
    }
}

fn cluster_commit(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("cluster_commit");
    group
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(8));
    group.sample_size(20);
    for medium in media() {
        for clients in CLIENTS {
            group.throughput(Throughput::Elements(clients));
            let id = BenchmarkId::new(medium.name, clients);
            group.bench_function(id, |bencher| {
                let cluster = runtime.block_on(BenchCluster::start(&medium.folder(), 3));
                let leader = runtime.block_on(cluster.leader());
                let sources: Vec<String> = (0..clients).map(source).collect();
                let mut next = 1;
                bencher.iter_custom(|rounds| {
                    let start = Instant::now();
                    runtime.block_on(async {
                        let clients = sources.iter().map(|source| {
                            let work = client(leader.clone(), source.clone(), next, rounds);
                            tokio::spawn(work)
                        });
                        for client in clients.collect::<Vec<_>>() {
                            client.await.expect("a client");
                        }
                    });
                    next += rounds;
                    start.elapsed()
                });
                let state = runtime.block_on(leader.state());
                let offsets = &state.checkpoints.source_offsets;
                assert_eq!(
                    offsets.len() as u64,
                    clients,
                    "every client's source is there"
                );
                runtime.block_on(cluster.verify_and_stop());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, cluster_commit);
criterion_main!(benches);

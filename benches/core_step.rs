//! The protocol alone: [`RaftCore`], without log, network, clock or thread. Its peers are played by the
//! bench, at no cost to the figures but that of making their answers.
//!
//! `core_step/<batch>/<what>/<nodes>`, what a leader of 3, 5 and 7 nodes takes for commands that come so many
//! at a time:
//! * `propose`: the proposal, its write, an append to every follower, and that the write is durable;
//! * `ack`: every follower's ack, the commit, and that the commands are applied.
//!
//! `core_step/<batch>/append`: what a follower takes for an append of so many entries, its write, the ack, and
//! that the write is durable. An element is a command.

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::log::short;
use conveyor_raft::RaftCore;
use conveyor_raft::config::limits;
use conveyor_raft::core::{
    AppendAck, AppendEntries, AppendStatus, Class, Configuration, EntrySummary, FoundingList,
    Input, MemberInfo, Message, Output, PeerHello, Recovered, ReplicaState, Settings, VoteReason,
    VoteReply, VoteRequest,
};
use conveyor_raft::types::{HardState, Incarnation, LogId, LogIndex, Micros, NodeId, ReplicaId};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const NODES: [u64; 3] = [3, 5, 7];
const BATCHES: [u32; 2] = [1, 64];
/// What an entry takes in an append.
const ENTRY_BYTES: usize = 160;
/// Epoch of every stream.
const EPOCH: u64 = 1;
/// Virtual time from one batch to the next, microseconds.
const STEP: Micros = 10;

fn replica(node: NodeId) -> ReplicaId {
    ReplicaId::new(node, Incarnation([node as u8; 16]))
}

/// As a node is set up by default.
fn settings() -> Settings {
    Settings {
        election_timeout_min: 150_000,
        election_timeout_max: 300_000,
        heartbeat_interval: 50_000,
        max_inflight_bytes: limits::MAX_INFLIGHT,
        max_inflight_appends: limits::MAX_INFLIGHT_APPENDS,
        max_append_bytes: limits::MAX_APPEND,
        lease_drift_ppm: None,
        seed: 7,
    }
}

/// One core, and what came out of it.
struct Driven {
    core: RaftCore,
    now: Micros,
    out: Vec<Output>,
}

impl Driven {
    /// Of a cluster whose log holds its configuration and nothing else. The last node founded it.
    fn new(node: NodeId, nodes: u64) -> Self {
        let member = |node| MemberInfo {
            replica: replica(node),
            peer_address: format!("node-{node}"),
            ..MemberInfo::default()
        };
        let configuration = Configuration {
            incoming: (1..=nodes).map(member).collect(),
            feature_level: MemberInfo::default().features.1,
            ..Configuration::default()
        };
        let first = LogId::new(1, 1);
        let recovered = Recovered {
            // Beyond the founding's term: it is complete.
            hard_state: HardState {
                term: 2,
                voted_for: ReplicaId::default(),
            },
            genesis: replica(nodes).incarnation,
            last: first,
            terms: vec![first],
            configurations: vec![(1, Arc::new(configuration))],
            ..Recovered::default()
        };
        let list = FoundingList::default();
        let core = RaftCore::new(replica(node), settings(), recovered, list, 0);
        let (now, out) = (0, Vec::new());
        Self { core, now, out }
    }

    fn step(&mut self, input: Input) {
        self.core.step(self.now, input, &mut self.out);
    }

    fn hears(&mut self, from: NodeId, message: Message) {
        self.step(Input::Message {
            from: replica(from),
            message,
            entries: EntrySummary::default(),
        });
    }
}

/// A leader whose followers take and acknowledge everything.
struct Leader {
    driven: Driven,
    acks: Vec<(NodeId, AppendAck)>,
    committed: LogIndex,
}

impl Leader {
    fn elected(nodes: u64) -> Self {
        let mut leader = Self {
            driven: Driven::new(1, nodes),
            acks: Vec::new(),
            committed: 0,
        };
        for node in 2..=nodes {
            for class in [Class::Control, Class::Data] {
                leader.driven.step(Input::PeerUp {
                    peer: replica(node),
                    class,
                    epoch: EPOCH,
                    hello: PeerHello {
                        genesis: replica(nodes).incarnation,
                        ..PeerHello::default()
                    },
                });
            }
        }
        // A pre-vote and a vote; more would be a fault of the bench.
        for _ in 0..3 {
            if leader.driven.core.is_leader() {
                break;
            }
            leader.driven.now = leader.driven.core.deadline();
            leader.driven.step(Input::Tick);
            leader.carry_out();
        }
        assert!(leader.driven.core.is_leader());
        // The entry that opens the term is committed, and every follower's log known.
        for _ in 0..4 {
            leader.propose(1);
            leader.acknowledge();
        }
        leader
    }

    /// Does what the core wants done, and what that leads to.
    fn carry_out(&mut self) {
        while !self.driven.out.is_empty() {
            for output in std::mem::take(&mut self.driven.out) {
                match output {
                    Output::Persist(write) => self.driven.step(Input::Durable { id: write.id }),
                    Output::Send { to, message, .. } => self.answer(to, &message),
                    Output::Replicate {
                        to, append, last, ..
                    } => self.replicate(to, &append, last),
                    Output::Commit { index } => self.committed = index,
                    _ => {}
                }
            }
        }
    }

    fn answer(&mut self, from: NodeId, message: &Message) {
        let granted = |request: &VoteRequest| VoteReply {
            term: request.term,
            incarnation: replica(from).incarnation,
            round: request.round,
            granted: true,
            reason: VoteReason::Granted,
            state: ReplicaState::Member,
        };
        match message {
            Message::PreVote(request) => {
                let reply = Message::PreVoteReply(granted(request));
                self.driven.hears(from, reply);
            }
            Message::Vote(request) => {
                let reply = Message::VoteReply(granted(request));
                self.driven.hears(from, reply);
            }
            _ => {}
        }
    }

    fn replicate(&mut self, to: NodeId, append: &AppendEntries, last: LogIndex) {
        let bytes = (last - append.prev.index) as usize * ENTRY_BYTES;
        self.driven.step(Input::Replicated {
            to,
            seq: append.seq,
            sent: Some((last, bytes)),
        });
        let ack = AppendAck {
            term: append.term,
            incarnation: replica(to).incarnation,
            epoch: append.epoch,
            seq: append.seq,
            match_index: last,
            conflict: LogId::default(),
            sent_at: append.sent_at,
            status: AppendStatus::Matched,
            state: ReplicaState::Member,
        };
        self.acks.push((to, ack));
    }

    fn propose(&mut self, count: u32) {
        self.driven.now += STEP;
        self.driven.step(Input::Propose { count });
        self.driven.step(Input::Settle);
        self.carry_out();
        self.driven.step(Input::Settle);
        self.carry_out();
    }

    fn acknowledge(&mut self) {
        self.driven.now += STEP;
        for (from, ack) in std::mem::take(&mut self.acks) {
            self.driven.hears(from, Message::AppendAck(ack));
        }
        self.driven.step(Input::Settle);
        self.carry_out();
        let index = self.committed;
        self.driven.step(Input::Applied { index });
    }

    /// The time of so many batches, with their acks or without them.
    fn run(&mut self, batch: u32, batches: u64) -> [Duration; 2] {
        let (before, mut took) = (self.committed, [Duration::ZERO; 2]);
        for _ in 0..batches {
            let start = Instant::now();
            self.propose(batch);
            let proposed = Instant::now();
            self.acknowledge();
            took[0] += proposed - start;
            took[1] += proposed.elapsed();
        }
        let committed = self.committed - before;
        assert_eq!(committed, batches * u64::from(batch), "all are committed");
        took
    }
}

/// Follows node 2, which leads in term 3.
struct Follower {
    driven: Driven,
    prev: LogId,
    seq: u64,
    acked: u64,
}

impl Follower {
    fn new() -> Self {
        let mut driven = Driven::new(1, 3);
        driven.now = 1_000_000;
        Self {
            driven,
            prev: LogId::new(1, 1),
            seq: 0,
            acked: 0,
        }
    }

    fn append(&mut self, count: u32) {
        self.driven.now += STEP;
        let append = AppendEntries {
            term: 3,
            epoch: EPOCH,
            seq: self.seq,
            prev: self.prev,
            commit: self.prev.index,
            sent_at: self.driven.now,
            count,
        };
        let first = self.prev.index + 1;
        self.driven.step(Input::Message {
            from: replica(2),
            message: Message::Append(append),
            entries: EntrySummary {
                first,
                count,
                terms: vec![LogId::new(3, first)],
                configurations: Vec::new(),
                fits: true,
            },
        });
        self.driven.step(Input::Settle);
        for output in std::mem::take(&mut self.driven.out) {
            match output {
                Output::Persist(write) => self.driven.step(Input::Durable { id: write.id }),
                Output::Send {
                    message: Message::AppendAck(ack),
                    ..
                } => self.acked = ack.match_index,
                _ => {}
            }
        }
        black_box(self.driven.out.drain(..).count());
        self.seq += 1;
        self.prev = LogId::new(3, self.prev.index + u64::from(count));
        assert_eq!(self.acked, self.prev.index);
    }
}

fn core_step(criterion: &mut Criterion) {
    for batch in BATCHES {
        let mut group = criterion.benchmark_group(format!("core_step/{batch}"));
        if !short() {
            group
                .warm_up_time(Duration::from_millis(500))
                .measurement_time(Duration::from_secs(2));
        }
        group.throughput(Throughput::Elements(batch.into()));
        for nodes in NODES {
            for (nth, what) in ["propose", "ack"].into_iter().enumerate() {
                let mut leader = Leader::elected(nodes);
                group.bench_function(BenchmarkId::new(what, nodes), |bencher| {
                    bencher.iter_custom(|batches| leader.run(batch, batches)[nth]);
                });
            }
        }
        let mut follower = Follower::new();
        group.bench_function("append", |bencher| {
            bencher.iter(|| follower.append(batch));
        });
        group.finish();
    }
}

criterion_group!(benches, core_step);
criterion_main!(benches);

//! What a frame between peers costs by itself, by kind: `wire/encode/<kind>` writes its header and fixed part,
//! behind which a body is sent as it is; `wire/decode/<kind>` reads it as a stream does, which for entries
//! includes their checksums. Bytes are those of the whole frame. A pre-vote is laid out as a vote.
//!
//! Before, it prints the heap allocations that each takes.

mod common;

use std::alloc::System;
use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::log::short;
use conveyor_raft::core::{
    AppendAck, AppendEntries, AppendStatus, Found, FoundReply, FoundStatus, Heartbeat,
    HeartbeatReply, Message, ReadIndex, ReadIndexReply, ReplicaState, SnapshotAck, SnapshotChunk,
    SnapshotOffer, SnapshotStatus, TimeoutNow, TimeoutNowReply, VoteReason, VoteReply, VoteRequest,
};
use conveyor_raft::entry::frame;
use conveyor_raft::types::{EntryKind, Incarnation, LogId};
use conveyor_raft::wire::raw::{Decoder, encode};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TERM: u64 = 9;
const ME: Incarnation = Incarnation([3; 16]);
const PREV: LogId = LogId { term: 9, index: 7 };
const CHUNK: usize = 256 << 10;
/// Frames over which allocations are counted.
const COUNTED: usize = 1000;

/// A frame of one kind.
struct Sample {
    kind: &'static str,
    message: Message,
    body: Bytes,
}

impl Sample {
    fn bare(kind: &'static str, message: Message) -> Self {
        let body = Bytes::new();
        Self {
            kind,
            message,
            body,
        }
    }

    /// So many entries with payloads of `size` bytes.
    fn append(kind: &'static str, count: u32, size: usize) -> Self {
        let entries = (1..=u64::from(count)).map(|nth| {
            let id = LogId::new(TERM, PREV.index + nth);
            frame(id, EntryKind::Command, 1, &vec![nth as u8; size])
        });
        let body = entries.collect::<Vec<_>>().concat().into();
        let message = Message::Append(AppendEntries {
            term: TERM,
            epoch: 1,
            seq: 2,
            prev: PREV,
            commit: PREV.index,
            sent_at: 3,
            count,
        });
        Self {
            kind,
            message,
            body,
        }
    }

    fn chunk() -> Self {
        let body = Bytes::from(vec![7; CHUNK]);
        let message = Message::SnapshotChunk(SnapshotChunk {
            term: TERM,
            id: 1,
            offset: 0,
            crc: crc32fast::hash(&body),
        });
        Self {
            kind: "snapshot_chunk/256KiB",
            message,
            body,
        }
    }

    fn found() -> Self {
        let first = LogId::new(1, 1);
        Self {
            kind: "found",
            message: Message::Found(Found {
                term: 1,
                founder: ME,
            }),
            body: frame(first, EntryKind::Configuration, 1, &[7; 300]),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        out.clear();
        encode(&self.message, self.body.len(), out);
    }

    /// The frame as it comes in, in one piece.
    fn bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.extend_from_slice(&self.body);
        out.freeze()
    }

    fn decode(&self, decoder: &mut Decoder, bytes: &Bytes) {
        decoder.feed(bytes.clone());
        let frame = decoder.next_frame().expect("the frame is good");
        assert_eq!(frame, Some((self.message, self.body.len())));
    }
}

fn data_and_control() -> Vec<Sample> {
    vec![
        Sample::append("append/64x128B", 64, 128),
        Sample::append("append/64KiB", 1, 64 << 10),
        Sample::bare(
            "append_ack",
            Message::AppendAck(AppendAck {
                term: TERM,
                incarnation: ME,
                epoch: 1,
                seq: 2,
                match_index: 71,
                conflict: LogId::default(),
                sent_at: 3,
                status: AppendStatus::Matched,
                state: ReplicaState::Member,
            }),
        ),
        Sample::bare(
            "heartbeat",
            Message::Heartbeat(Heartbeat {
                term: TERM,
                epoch: 1,
                seq: 2,
                commit: 7,
                sent_at: 3,
                read_id: 4,
                digest_index: 5,
                digest: 6,
            }),
        ),
        Sample::bare(
            "heartbeat_reply",
            Message::HeartbeatReply(HeartbeatReply {
                term: TERM,
                incarnation: ME,
                epoch: 1,
                seq: 2,
                sent_at: 3,
                read_id: 4,
                applied: 7,
                digest_index: 5,
                digest: 6,
                election_timeout_min_ms: 150,
                state: ReplicaState::Member,
            }),
        ),
        Sample::bare(
            "read_index",
            Message::ReadIndex(ReadIndex {
                term: TERM,
                incarnation: ME,
                id: 4,
            }),
        ),
        Sample::bare(
            "read_index_reply",
            Message::ReadIndexReply(ReadIndexReply {
                term: TERM,
                id: 4,
                index: Some(7),
            }),
        ),
    ]
}

fn votes_and_snapshots() -> Vec<Sample> {
    let (term, incarnation) = (TERM, ME);
    let vote = VoteRequest {
        term,
        incarnation,
        round: 1,
        last: PREV,
        transfer: false,
    };
    let reply = VoteReply {
        term,
        incarnation,
        round: 1,
        granted: true,
        reason: VoteReason::Granted,
        state: ReplicaState::Member,
    };
    let urge = TimeoutNow {
        term,
        target: incarnation,
        last: PREV,
    };
    let urged = TimeoutNowReply {
        term,
        incarnation,
        accepted: true,
    };
    let founded = FoundReply {
        term,
        incarnation,
        status: FoundStatus::Stored,
    };
    let offer = SnapshotOffer {
        term,
        id: u128::from_le_bytes([7; 16]),
        last: PREV,
        len: 1 << 30,
        hash: [7; 32],
        chunk: CHUNK as u32,
        format: 1,
    };
    let ack = SnapshotAck {
        term,
        incarnation,
        id: 1,
        next_offset: 4096,
        status: SnapshotStatus::Receiving,
    };
    vec![
        Sample::bare("vote", Message::Vote(vote)),
        Sample::bare("vote_reply", Message::VoteReply(reply)),
        Sample::bare("timeout_now", Message::TimeoutNow(urge)),
        Sample::bare("timeout_now_reply", Message::TimeoutNowReply(urged)),
        Sample::found(),
        Sample::bare("found_reply", Message::FoundReply(founded)),
        Sample::bare("snapshot_offer", Message::SnapshotOffer(offer)),
        Sample::chunk(),
        Sample::bare("snapshot_ack", Message::SnapshotAck(ack)),
    ]
}

/// Allocations of one call, on average.
fn allocations(mut work: impl FnMut()) -> f64 {
    let count = || {
        let stats = ALLOCATOR.stats();
        stats.allocations + stats.reallocations
    };
    // What is kept from one frame to the next is there.
    work();
    let before = count();
    (0..COUNTED).for_each(|_| work());
    (count() - before) as f64 / COUNTED as f64
}

fn print_allocations(samples: &[Sample]) {
    println!("{:>24} {:>8} {:>8}", "allocations", "encode", "decode");
    for sample in samples {
        let mut out = BytesMut::new();
        let encode = allocations(|| sample.encode(&mut out));
        let (mut decoder, bytes) = (Decoder::of(&sample.message), sample.bytes());
        let decode = allocations(|| sample.decode(&mut decoder, &bytes));
        println!("{:>24} {encode:>8.3} {decode:>8.3}", sample.kind);
    }
}

fn wire(criterion: &mut Criterion) {
    let mut samples = data_and_control();
    samples.extend(votes_and_snapshots());
    print_allocations(&samples);
    for way in ["encode", "decode"] {
        let mut group = criterion.benchmark_group(format!("wire/{way}"));
        if !short() {
            group
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1));
        }
        for sample in &samples {
            let bytes = sample.bytes();
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(sample.kind, |bencher| match way {
                "encode" => {
                    let mut out = BytesMut::new();
                    bencher.iter(|| {
                        sample.encode(&mut out);
                        black_box(&out);
                    });
                }
                _ => {
                    let mut decoder = Decoder::of(&sample.message);
                    bencher.iter(|| sample.decode(&mut decoder, &bytes));
                }
            });
        }
        group.finish();
    }
}

criterion_group!(benches, wire);
criterion_main!(benches);

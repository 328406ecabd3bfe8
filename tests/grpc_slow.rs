//! Callers that do not read what they asked for: what the node and its edge keep for them is bounded,
//! measured as the memory of this process, others go on meanwhile, and whoever reads again is told how to
//! go on.
#![cfg(feature = "grpc")]

mod common;
mod grpc_common;

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{Client, ClientOptions, WatchNews, Watcher};
use conveyor_raft::node::WatchOptions;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::watch_response::Told;
use conveyor_raft::proto::{
    GetStateRequest, SummaryRequest, WatchEnd, WatchEndReason, WatchRequest, WatchResponse,
};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, identity};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

const MIB: usize = 1 << 20;
/// So large is each record.
const RECORD: usize = MIB / 4;
/// The changes that a node keeps for all watchers together.
const HISTORY: usize = 64 * MIB;
/// What one caller that does not read may cost: windows of its connection, messages on their way there
/// at both ends, which are both in this process, and one that is being made.
const EACH: usize = 8 * MIB;
const SLOW: usize = 8;
/// Changes made before a watcher that reads is told of them: 2 MiB, where 4 would be too many.
const AHEAD: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated now.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// A node with `records` records.
async fn with_records(records: usize) -> One {
    let one = One::start().await;
    for nth in 0..records {
        let create = RouterCommand::CreatePipeline {
            pipeline_id: format!("p-{nth}"),
            name: String::new(),
            config: vec![b'x'; RECORD],
        };
        one.node.propose(create).await.expect("applied");
    }
    one
}

/// Changes one record after the other, so many bytes of them. Returns how many, and the last index.
async fn change(one: &One, bytes: usize) -> (usize, u64) {
    change_with(one, bytes, None).await
}

/// The same, no faster than a watcher is told that counts what it was told.
async fn change_with(one: &One, bytes: usize, told: Option<&AtomicUsize>) -> (usize, u64) {
    let before = told.map_or(0, |told| told.load(Ordering::Relaxed));
    let (count, mut last) = (bytes / RECORD, 0);
    for nth in 0..count {
        if let Some(told) = told {
            until_told(told, before + nth.saturating_sub(AHEAD)).await;
        }
        let mut config = vec![b'x'; RECORD];
        // Never what it was before, which would be no change.
        config[..8].copy_from_slice(&last.max(one.node.applied_index()).to_be_bytes());
        let update = RouterCommand::UpdatePipeline {
            pipeline_id: format!("p-{}", nth % 4),
            config,
            expected_version: None,
        };
        last = one.node.propose(update).await.expect("applied").index;
    }
    if let Some(told) = told {
        until_told(told, before + count).await;
    }
    (count, last)
}

async fn until_told(told: &AtomicUsize, count: usize) {
    let begun = Instant::now();
    while told.load(Ordering::Relaxed) < count {
        assert!(begun.elapsed() < PATIENCE, "who reads is told everything");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

type Answers = Streaming<WatchResponse>;

async fn watch(channel: &Channel, from: Option<u64>) -> Answers {
    let request = WatchRequest {
        from,
        ..WatchRequest::default()
    };
    let mut router = RouterClient::new(channel.clone());
    let answers = router.watch(request).await.expect("a watch");
    answers.into_inner()
}

async fn next(answers: &mut Answers) -> Told {
    let message = tokio::time::timeout(PATIENCE, answers.message()).await;
    let message = message.expect("in time").expect("it goes on");
    message.and_then(|it| it.told).expect("a word")
}

/// Reads the state as it is.
async fn read_state(answers: &mut Answers) {
    loop {
        match next(answers).await {
            Told::State(part) if part.complete => return,
            Told::State(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Reads changes, one record each, until `last` or until it is ended. Returns how many came.
async fn read_changes(answers: &mut Answers, last: u64) -> (usize, Option<WatchEnd>) {
    let (mut count, mut before) = (0, 0);
    while before < last {
        match next(answers).await {
            Told::Changes(changes) => {
                for entry in changes.entries {
                    assert!(entry.index > before, "in order, each once");
                    before = entry.index;
                    count += entry.changes.len();
                }
            }
            Told::Progress(_) => {}
            Told::End(end) => return (count, Some(end)),
            other => panic!("{other:?}"),
        }
    }
    (count, None)
}

/// Reads until it is ended, and counts the changes.
async fn read_all(answers: &mut Answers, told: &AtomicUsize) -> WatchEnd {
    loop {
        match next(answers).await {
            Told::Changes(changes) => {
                let count = changes.entries.iter().map(|entry| entry.changes.len());
                told.fetch_add(count.sum(), Ordering::Relaxed);
            }
            Told::Progress(_) => {}
            Told::End(end) => return end,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h3_watchers_that_do_not_read_cost_little_and_are_told_where_to_go_on() {
    let _turn = common::real_time_turn();
    let one = with_records(4).await;
    // What is kept for all is full: from here on it does not grow.
    change(&one, HISTORY + 8 * MIB).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let channel = one.channel(ClientRole::Reader).await;
        let mut answers = watch(&channel, None).await;
        read_state(&mut answers).await;
        slow.push((channel, answers));
    }
    let reader = one.channel(ClientRole::Reader).await;
    let mut brisk = watch(&reader, None).await;
    read_state(&mut brisk).await;
    let told = Arc::new(AtomicUsize::new(0));
    let brisk = tokio::spawn({
        let told = Arc::clone(&told);
        async move { read_all(&mut brisk, &told).await }
    });

    let before = allocated();
    let (count, last) = change_with(&one, 40 * MIB, Some(&told)).await;
    let grown = allocated().saturating_sub(before);
    println!("{SLOW} watchers that do not read cost {} KiB", grown >> 10);
    assert!(grown < SLOW * EACH, "{} KiB", grown >> 10);
    let mut router = RouterClient::new(reader.clone());
    let summary = router.summary(SummaryRequest::default()).await;
    assert!(summary.expect("others go on").into_inner().index >= last);

    // Read again, some were told all along; then comes the end, and from there on the rest.
    for (channel, mut answers) in slow {
        let (first, end) = read_changes(&mut answers, last).await;
        let end = end.expect("4 MiB and more waited for it");
        assert_eq!(end.reason(), WatchEndReason::Behind);
        let ended = tokio::time::timeout(PATIENCE, answers.message()).await;
        assert_eq!(ended.expect("in time").expect("well"), None);
        assert!(end.resume_from.is_some());
        let mut answers = watch(&channel, end.resume_from).await;
        let (rest, end) = read_changes(&mut answers, last).await;
        assert_eq!((first + rest, end), (count, None));
    }

    // Whoever sleeps for so long that it is not there any more reads the state anew.
    let own = one.channel(ClientRole::Reader).await;
    let mut late = watch(&own, None).await;
    read_state(&mut late).await;
    change_with(&one, HISTORY + 16 * MIB, Some(&told)).await;
    let (_, end) = read_changes(&mut late, u64::MAX).await;
    let request = WatchRequest {
        from: end.expect("behind").resume_from,
        ..WatchRequest::default()
    };
    let refused = router.watch(request).await;
    assert_eq!(refused.expect_err("gone").code(), Code::OutOfRange);
    let mut anew = watch(&reader, None).await;
    read_state(&mut anew).await;
    let (count, last) = change_with(&one, MIB, Some(&told)).await;
    assert_eq!(read_changes(&mut anew, last).await, (count, None));

    let all = (40 * MIB + HISTORY + 16 * MIB + MIB) / RECORD;
    one.edge.shutdown().await;
    let end = brisk.await.expect("joined");
    assert_eq!(end.reason(), WatchEndReason::Closing);
    assert_eq!(told.load(Ordering::Relaxed), all);
    one.node.shutdown().await;
}

/// The next change of a watcher of the Rust client, which goes on by itself.
async fn changed(watcher: &mut Watcher) -> (u64, usize) {
    loop {
        let news = tokio::time::timeout(PATIENCE, watcher.next()).await;
        match news.expect("in time").expect("it goes on") {
            WatchNews::Changes(entry) => return (entry.index, entry.changes.len()),
            WatchNews::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h3_slow_watchers_of_the_client_cost_little_and_miss_nothing() {
    let _turn = common::real_time_turn();
    let one = with_records(4).await;
    change(&one, HISTORY + 8 * MIB).await;
    let pair = one.certs.ca.issue_client(ClientRole::Reader, "slow");
    let identity = identity(&one.certs, &pair.expect("client"));
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let options = ClientOptions::new([one.endpoint()], Some(identity.clone()));
        let client = Client::new(options).expect("a client");
        let mut watcher = client.watch(WatchOptions::default());
        loop {
            let news = watcher.next().await.expect("the state");
            if matches!(news, WatchNews::State { complete: true, .. }) {
                break;
            }
        }
        slow.push((client, watcher));
    }
    let before = allocated();
    let (count, last) = change(&one, 40 * MIB).await;
    let grown = allocated().saturating_sub(before);
    println!("{SLOW} of the client cost {} KiB", grown >> 10);
    assert!(grown < SLOW * EACH, "{} KiB", grown >> 10);
    for (client, mut watcher) in slow {
        client
            .summary(conveyor_raft::node::ReadConsistency::Local)
            .await
            .expect("it holds up no other call");
        let (mut told, mut before) = (0, 0);
        while before < last {
            let (index, changes) = changed(&mut watcher).await;
            assert!(index > before, "in order, each once");
            (told, before) = (told + changes, index);
        }
        assert_eq!(told, count);
    }
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h3_readers_of_a_state_that_take_their_time_cost_little_and_get_all_of_one_index() {
    const RECORDS: usize = 128;
    let _turn = common::real_time_turn();
    let one = with_records(RECORDS).await;
    let at = one.node.applied_index();
    let before = allocated();
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let channel = one.channel(ClientRole::Reader).await;
        let mut router = RouterClient::new(channel.clone());
        let parts = router.get_state(GetStateRequest::default()).await;
        slow.push((channel, parts.expect("a state").into_inner()));
    }
    // Until as much is on its way as ever is.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = allocated().saturating_sub(before);
    println!("{SLOW} readers of a state cost {} KiB", grown >> 10);
    assert!(grown < SLOW * EACH, "{} KiB", grown >> 10);
    let create = RouterCommand::CreatePipeline {
        pipeline_id: "behind".into(),
        name: String::new(),
        config: Vec::new(),
    };
    one.node.propose(create).await.expect("others go on");
    for (_channel, mut parts) in slow {
        let mut records = 0;
        while let Some(part) = parts.message().await.expect("it goes on") {
            assert_eq!(part.index, at, "all of one index");
            records += part.records.len();
        }
        assert_eq!(records, RECORDS);
    }
    one.stop().await;
}

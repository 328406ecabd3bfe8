//! Backups that are sent to a node over connections that break.
#![cfg(feature = "grpc")]

#[path = "common/cutting.rs"]
mod cutting;
mod grpc_common;
#[path = "common/noise.rs"]
mod noise;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{ClientError, UploadOptions, upload_backup};
use conveyor_raft::grpc::{connect, detail};
use conveyor_raft::proto::backup_client::BackupClient;
use conveyor_raft::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetUploadRequest, GetUploadResponse, Invalid,
    SnapshotChunk, SnapshotMetadata,
};
use conveyor_raft::quic::ClientRole;
use cutting::Cutting;
use grpc_common::{One, identity, propose};
use noise::noise;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

const CHUNK: usize = 256 << 10;
const MIB: u64 = 1 << 20;

/// A backup of six MiB that do not compress, made by a node; and its file.
async fn backup_of(one: &One) -> (SnapshotMetadata, PathBuf) {
    let mut router = one.router(ClientRole::Writer).await;
    for n in 0..6 {
        let command = RouterCommand::CreatePipeline {
            pipeline_id: format!("p-{n}"),
            name: String::new(),
            config: noise(n + 1, MIB as usize),
        };
        propose(&mut router, command).await.expect("applied");
    }
    let create = CreateSnapshotRequest {
        snapshot_id: "made".into(),
        compression: "none".into(),
    };
    let made = operator(one).await.create_snapshot(create).await;
    let file = one.dir.path().join("backups/made.snapshot");
    (made.expect("made").into_inner(), file)
}

async fn operator(one: &One) -> BackupClient<Channel> {
    BackupClient::new(one.channel(ClientRole::Operator).await)
}

async fn through(one: &One, way: &Cutting) -> Channel {
    let operator = identity(&one.certs, &one.certs.operator);
    let endpoint = format!("https://{}", way.at);
    connect(&endpoint, Some(&operator)).await.expect("channel")
}

async fn known(backup: &mut BackupClient<Channel>, id: &str) -> GetUploadResponse {
    let snapshot_id = id.to_owned();
    let known = backup.get_upload(GetUploadRequest { snapshot_id }).await;
    known.expect("answered").into_inner()
}

fn files(one: &One) -> Vec<String> {
    let entries = fs::read_dir(one.dir.path().join("backups")).expect("directory");
    let names = entries.map(|entry| entry.expect("entry").file_name().into_string());
    let mut names: Vec<_> = names.map(|name| name.expect("UTF-8")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_upload_goes_on_over_connections_that_break() {
    let (one, two) = (One::start().await, One::start().await);
    let (made, file) = backup_of(&one).await;
    // Nothing of the second two thirds would arrive if each try began anew.
    let cuts = vec![2 * MIB + 5000, 100, 2 * MIB, MIB];
    let breaks = cuts.len() as u64;
    let way = Cutting::before(two.edge.local_addr().expect("over TCP"), cuts).await;
    let furthest = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&furthest);
    let options = UploadOptions {
        progress: Some(Arc::new(move |at, size| {
            assert!(at <= size);
            told.fetch_max(at, Ordering::Relaxed);
        })),
        ..UploadOptions::default()
    };
    let channel = through(&two, &way).await;
    let taken = upload_backup(channel.clone(), &file, "a", options).await;
    let taken = taken.expect("taken");
    assert_eq!(taken.digest, made.digest);
    assert_eq!(
        (taken.size_bytes, taken.commit_index),
        (made.size_bytes, made.commit_index)
    );
    assert_eq!(furthest.load(Ordering::Relaxed), made.size_bytes);
    assert!(way.connections() > breaks, "{}", way.connections());
    // What was sent twice is what was on its way when a connection broke.
    let carried = way.carried();
    assert!(carried < made.size_bytes + 3 * MIB, "{carried}");
    assert_eq!(files(&two), ["a.snapshot"]);
    let there = two.dir.path().join("backups/a.snapshot");
    assert_eq!(
        fs::read(there).expect("file"),
        fs::read(&file).expect("file")
    );
    // The same name once more is taken.
    let again = upload_backup(channel, &file, "a", UploadOptions::default()).await;
    let Err(ClientError::Refused(status)) = again else {
        panic!("{again:?}");
    };
    assert_eq!(status.code(), Code::AlreadyExists);
    // Unless this very call may have put it there: its connection breaks before it learns what became
    // of it, and the node remembers that this file came to its end under this name.
    let way = Cutting::before(two.edge.local_addr().expect("over TCP"), vec![20_000]).await;
    let channel = through(&two, &way).await;
    let lost = upload_backup(channel, &file, "a", UploadOptions::default()).await;
    assert_eq!(lost.expect("it is there"), taken);
    assert!(way.carried() < MIB, "nothing was sent again");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn an_upload_that_gets_no_further_ends_and_another_call_goes_on() {
    let (one, two) = (One::start().await, One::start().await);
    let (made, file) = backup_of(&one).await;
    // Enough for the handshake and the question where to go on.
    let cuts = [vec![2 * MIB], vec![20_000; 400]].concat();
    let way = Cutting::before(two.edge.local_addr().expect("over TCP"), cuts).await;
    let channel = through(&two, &way).await;
    let options = UploadOptions {
        patience: Duration::from_secs(2),
        ..UploadOptions::default()
    };
    let begun = Instant::now();
    let ended = upload_backup(channel, &file, "a", options).await;
    assert!(
        matches!(ended, Err(ClientError::Deadline { .. })),
        "{ended:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
    let mut backup = operator(&two).await;
    let begun = Instant::now();
    let kept = loop {
        let kept = known(&mut backup, "a").await;
        if !kept.under_way {
            break kept;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it has seen the end"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(kept.received >= MIB, "{}", kept.received);
    assert_eq!(kept.total_size, made.size_bytes);
    let straight = Cutting::before(two.edge.local_addr().expect("over TCP"), vec![]).await;
    let channel = through(&two, &straight).await;
    let taken = upload_backup(channel, &file, "a", UploadOptions::default()).await;
    assert_eq!(taken.expect("taken").digest, made.digest);
    let rest = made.size_bytes - kept.received;
    let carried = straight.carried();
    assert!(carried < rest + MIB / 2, "{carried} for {rest}");
    one.stop().await;
    two.stop().await;
}

fn chunk(id: &str, file: &[u8], at: usize, sum_of: &[u8]) -> SnapshotChunk {
    let data = &file[at..file.len().min(at + CHUNK)];
    let sha256 = ring::digest::digest(&ring::digest::SHA256, sum_of);
    SnapshotChunk {
        snapshot_id: id.into(),
        offset: at as u64,
        data: data.to_vec(),
        crc32: crc32fast::hash(data),
        is_last: at + data.len() == file.len(),
        total_size: sum_of.len() as u64,
        sha256: sha256.as_ref().to_vec(),
    }
}

/// Sends one piece and goes away once the node has it.
async fn begin(backup: &mut BackupClient<Channel>, first: SnapshotChunk) {
    let id = first.snapshot_id.clone();
    let (send, chunks) = mpsc::channel(4);
    send.send(first).await.expect("sent");
    let mut calling = backup.clone();
    let call = tokio::spawn(async move {
        let chunks = ReceiverStream::new(chunks);
        calling.upload_snapshot(chunks).await.map(drop)
    });
    let begun = Instant::now();
    let mut gone = false;
    loop {
        let known = known(backup, &id).await;
        if known.under_way && !gone {
            // It takes what has come to it before it sees that nobody is there any more.
            tokio::time::sleep(Duration::from_millis(100)).await;
            call.abort();
            gone = true;
        }
        if gone && !known.under_way {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{known:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn goes_on(backup: &mut BackupClient<Channel>, first: SnapshotChunk) -> Status {
    let sent = backup.upload_snapshot(tokio_stream::iter([first])).await;
    sent.map(drop).expect_err("refused")
}

#[tokio::test]
async fn who_goes_on_at_the_wrong_place_or_with_another_file_is_refused() {
    let one = One::start().await;
    let (_, file) = backup_of(&one).await;
    let file = fs::read(file).expect("file");
    let mut other = file.clone();
    other[5 << 20] ^= 1;
    let mut backup = operator(&one).await;
    assert_eq!(known(&mut backup, "a").await, GetUploadResponse::default());
    let wrong = async |backup: &mut BackupClient<Channel>, first, why: &str| {
        let status = goes_on(backup, first).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let invalid: Invalid = detail(&status).expect("detail");
        assert_eq!(invalid.field, "offset");
        assert!(status.message().contains(why), "{status:?}");
    };
    wrong(&mut backup, chunk("a", &file, CHUNK, &file), "begin at 0").await;
    begin(&mut backup, chunk("a", &file, 0, &file)).await;
    let kept = known(&mut backup, "a").await;
    assert_eq!(kept.received, CHUNK as u64, "{kept:?}");
    let far = chunk("a", &file, 2 * CHUNK, &file);
    wrong(&mut backup, far, "262144 bytes").await;
    let foreign = chunk("a", &file, CHUNK, &other);
    wrong(&mut backup, foreign, "another file").await;
    assert_eq!(known(&mut backup, "a").await, kept, "it is still there");
    assert_eq!(files(&one), ["a.partial", "made.snapshot"]);

    // From 0 on another file takes its place.
    begin(&mut backup, chunk("a", &other, 0, &other)).await;
    let after = known(&mut backup, "a").await;
    assert_eq!(after.received, CHUNK as u64);
    assert_ne!(after.sha256, kept.sha256);
    let stale = chunk("a", &file, CHUNK, &file);
    wrong(&mut backup, stale, "another file").await;
    let snapshot_id = "a".to_owned();
    let given_up = backup.delete_snapshot(DeleteSnapshotRequest { snapshot_id });
    given_up.await.expect("given up");
    assert_eq!(files(&one), ["made.snapshot"]);
    one.stop().await;
}

#[tokio::test]
async fn what_is_kept_of_an_upload_goes_by_age_without_anybody_asking() {
    let one = One::start_with(|options| {
        if let Some(backup) = &mut options.backup {
            backup.limits.keep_uploads = Duration::from_secs(1);
        }
    })
    .await;
    let (_, file) = backup_of(&one).await;
    let file = fs::read(file).expect("file");
    let mut backup = operator(&one).await;
    begin(&mut backup, chunk("a", &file, 0, &file)).await;
    let begun = Instant::now();
    while files(&one) != ["made.snapshot"] {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            files(&one)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    one.stop().await;
}

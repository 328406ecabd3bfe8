//! Backups through gRPC.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::fs;
use std::time::{Duration, Instant};

use conveyor_raft::backup::{BackupLimits, verify};
use conveyor_raft::grpc::detail;
use conveyor_raft::proto::backup_client::BackupClient;
use conveyor_raft::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetStateMetadataRequest, ListSnapshotsRequest,
    Overloaded, SnapshotChunk, StreamSnapshotRequest,
};
use conveyor_raft::quic::ClientRole;
use conveyor_raft::{RouterCommand, RouterStateMachine, StateMachine};
use grpc_common::{One, propose, sidecar};
use tonic::Code;
use tonic::transport::Channel;

async fn client(one: &One) -> BackupClient<Channel> {
    BackupClient::new(one.channel(ClientRole::Operator).await)
}

fn create(id: &str) -> CreateSnapshotRequest {
    CreateSnapshotRequest {
        snapshot_id: id.into(),
        compression: "none".into(),
    }
}

fn fetch(id: &str, offset: u64) -> StreamSnapshotRequest {
    StreamSnapshotRequest {
        snapshot_id: id.into(),
        offset,
    }
}

async fn chunks(
    client: &mut BackupClient<Channel>,
    request: StreamSnapshotRequest,
) -> Vec<SnapshotChunk> {
    let mut stream = client
        .stream_snapshot(request)
        .await
        .expect("stream")
        .into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.message().await.expect("chunk") {
        assert!(chunk.data.len() <= 256 << 10);
        assert_eq!(chunk.crc32, crc32fast::hash(&chunk.data));
        chunks.push(chunk);
    }
    chunks
}

fn joined(chunks: &[SnapshotChunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.data.clone()).collect()
}

/// A state of more than one chunk.
async fn fill(one: &One) {
    let mut router = one.router(ClientRole::Writer).await;
    propose(&mut router, sidecar("shop/a"))
        .await
        .expect("applied");
    for n in 0..3 {
        let command = RouterCommand::CreatePipeline {
            pipeline_id: format!("p-{n}"),
            name: String::new(),
            config: vec![n; 200 << 10],
        };
        propose(&mut router, command).await.expect("applied");
    }
}

#[tokio::test]
async fn a_backup_holds_the_state_and_can_be_restored() {
    let one = One::start().await;
    fill(&one).await;
    let mut client = client(&one).await;
    let now = client.get_state_metadata(GetStateMetadataRequest {}).await;
    let now = now.expect("metadata").into_inner();
    assert_eq!((now.sidecar_count, now.group_count), (1, 0));

    let made = client
        .create_snapshot(create("nightly-1"))
        .await
        .expect("made")
        .into_inner();
    assert_eq!(
        (made.commit_index, &made.digest),
        (now.commit_index, &now.digest)
    );
    assert_eq!((made.sidecar_count, &made.cluster_id), (1, &now.cluster_id));

    let got = chunks(&mut client, fetch("nightly-1", 0)).await;
    assert!(got.len() > 1);
    assert_eq!(got[0].total_size, made.size_bytes);
    let last = got.iter().map(|chunk| chunk.is_last).collect::<Vec<_>>();
    assert!(last.ends_with(&[true]) && !last[..last.len() - 1].contains(&true));
    let file = joined(&got);
    assert_eq!(file.len() as u64, made.size_bytes);
    let sha256 = ring::digest::digest(&ring::digest::SHA256, &file);
    assert_eq!(got[0].sha256, sha256.as_ref());

    let scratch = RouterStateMachine::new();
    let restored = verify(&mut file.as_slice(), scratch, BackupLimits::default());
    let digest = restored.expect("restored").machine.digest();
    assert_eq!(format!("{digest:032x}"), made.digest);

    // From an offset on, as after a broken connection; and from the very end.
    let half = file.len() as u64 / 2;
    assert_eq!(
        joined(&chunks(&mut client, fetch("nightly-1", half)).await),
        file[half as usize..]
    );
    let end = chunks(&mut client, fetch("nightly-1", file.len() as u64)).await;
    assert!(end.len() == 1 && end[0].is_last && end[0].data.is_empty());
    let beyond = client
        .stream_snapshot(fetch("nightly-1", file.len() as u64 + 1))
        .await;
    assert_eq!(beyond.expect_err("beyond").code(), Code::InvalidArgument);
    one.stop().await;
}

#[tokio::test]
async fn lists_are_sorted_and_names_are_kept() {
    let one = One::start().await;
    let mut client = client(&one).await;
    for id in ["b", "a"] {
        client.create_snapshot(create(id)).await.expect("made");
    }
    let by_server = client
        .create_snapshot(create(""))
        .await
        .expect("made")
        .into_inner();
    let taken = client.create_snapshot(create("a")).await;
    assert_eq!(taken.expect_err("taken").code(), Code::AlreadyExists);

    let list = client
        .list_snapshots(ListSnapshotsRequest {})
        .await
        .expect("list")
        .into_inner();
    let names: Vec<_> = list
        .snapshots
        .iter()
        .map(|it| it.snapshot_id.as_str())
        .collect();
    assert_eq!(names, ["a", by_server.snapshot_id.as_str(), "b"]);
    assert!(
        list.snapshots
            .iter()
            .all(|it| it.commit_index > 0 && it.term > 0)
    );

    let delete = |id: &str| DeleteSnapshotRequest {
        snapshot_id: id.into(),
    };
    client.delete_snapshot(delete("a")).await.expect("deleted");
    let again = client.delete_snapshot(delete("a")).await;
    assert_eq!(again.expect_err("gone").code(), Code::NotFound);
    let gone = client.stream_snapshot(fetch("a", 0)).await;
    assert_eq!(gone.expect_err("gone").code(), Code::NotFound);
    one.stop().await;
}

#[tokio::test]
async fn i7_names_that_are_paths_touch_nothing() {
    let one = One::start().await;
    let mut client = client(&one).await;
    let outside = one.dir.path().join("outside.snapshot");
    fs::write(&outside, "mine").expect("write");
    for id in [
        "../outside",
        "/etc/passwd",
        "a/b",
        "..",
        "a\0",
        "A",
        ".x",
        "a..b",
    ] {
        let codes = [
            client
                .create_snapshot(create(id))
                .await
                .err()
                .map(|status| status.code()),
            client
                .stream_snapshot(fetch(id, 0))
                .await
                .err()
                .map(|status| status.code()),
            client
                .delete_snapshot(DeleteSnapshotRequest {
                    snapshot_id: id.into(),
                })
                .await
                .err()
                .map(|status| status.code()),
        ];
        assert_eq!(codes, [Some(Code::InvalidArgument); 3], "{id:?}");
    }
    assert_eq!(fs::read_to_string(&outside).expect("still there"), "mine");
    assert_eq!(
        fs::read_dir(one.dir.path().join("backups"))
            .expect("list")
            .count(),
        0
    );
    one.stop().await;
}

#[tokio::test]
async fn a_damaged_backup_is_named_and_never_sent() {
    let one = One::start().await;
    fill(&one).await;
    let mut client = client(&one).await;
    client.create_snapshot(create("a")).await.expect("made");
    let path = one.dir.path().join("backups/a.snapshot");
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).expect("write");
    let refused = client
        .stream_snapshot(fetch("a", 0))
        .await
        .expect_err("damaged");
    assert_eq!(refused.code(), Code::DataLoss);
    fs::write(&path, &bytes[..middle]).expect("write");
    let list = client
        .list_snapshots(ListSnapshotsRequest {})
        .await
        .expect("list")
        .into_inner();
    assert_eq!((list.snapshots.len(), list.damaged.len()), (0, 1));
    one.stop().await;
}

/// Each that is being sent holds a file open and chunks in memory: the ninth waits until one is through, and
/// is told so.
#[tokio::test]
async fn h1_nine_downloads_at_a_time_are_one_too_many() {
    let one = One::start().await;
    let mut router = one.router(ClientRole::Writer).await;
    // More than a connection takes ahead of who does not read.
    for n in 0..24 {
        let command = RouterCommand::CreatePipeline {
            pipeline_id: format!("p-{n}"),
            name: String::new(),
            config: vec![n; 1 << 20],
        };
        propose(&mut router, command).await.expect("applied");
    }
    let mut caller = client(&one).await;
    let made = caller.create_snapshot(create("large")).await.expect("made");
    assert!(made.into_inner().size_bytes > 24 << 20);
    let mut held = Vec::new();
    for _ in 0..8 {
        // One connection each, none of which is read from.
        let mut caller = client(&one).await;
        let stream = caller.stream_snapshot(fetch("large", 0)).await;
        held.push((caller, stream.expect("sent").into_inner()));
    }
    let ninth = caller.stream_snapshot(fetch("large", 0)).await;
    let status = ninth.expect_err("too many");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let overloaded: Overloaded = detail(&status).expect("detail");
    assert!(overloaded.retry_after_ms > 0, "{overloaded:?}");
    // One that is read to its end, or let go of, gives its place back.
    drop(held.pop());
    let until = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match caller.stream_snapshot(fetch("large", 0)).await {
            Ok(stream) => break stream.into_inner(),
            Err(_) => assert!(Instant::now() < until, "no place"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut bytes = 0;
    while let Some(chunk) = stream.message().await.expect("chunk") {
        bytes += chunk.data.len();
    }
    assert!(bytes > 24 << 20);
    one.stop().await;
}

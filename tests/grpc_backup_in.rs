//! Backups through gRPC that come from elsewhere, that are bounded, and that are given up.
#![cfg(feature = "grpc")]

mod grpc_common;
#[path = "common/noise.rs"]
mod noise;

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::backup::{Automatic, BackupLimits};
use conveyor_raft::grpc::{EdgeOptions, detail};
use conveyor_raft::proto::backup_client::BackupClient;
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetStateMetadataRequest, GetUploadRequest,
    Invalid, ListSnapshotsRequest, OpenSessionRequest, Overloaded, RestoreSnapshotRequest,
    SnapshotChunk, StatusRequest, StreamSnapshotRequest, TriggerSnapshotRequest,
};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, certificates, propose, sidecar};
use noise::noise;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

const CHUNK: usize = 256 << 10;

async fn client(one: &One) -> BackupClient<Channel> {
    BackupClient::new(one.channel(ClientRole::Operator).await)
}

fn create(id: &str, compression: &str) -> CreateSnapshotRequest {
    CreateSnapshotRequest {
        snapshot_id: id.into(),
        compression: compression.into(),
    }
}

fn restore(id: &str, validate_only: bool, target: &str) -> RestoreSnapshotRequest {
    RestoreSnapshotRequest {
        snapshot_id: id.into(),
        validate_only,
        target_cluster_id: target.into(),
    }
}

/// A state of some hundred kilobytes that do not compress.
async fn fill(one: &One) {
    let mut router = one.router(ClientRole::Writer).await;
    propose(&mut router, sidecar("shop/a"))
        .await
        .expect("applied");
    for n in 0..3 {
        let command = RouterCommand::CreatePipeline {
            pipeline_id: format!("p-{n}"),
            name: String::new(),
            config: noise(n + 1, 200 << 10),
        };
        propose(&mut router, command).await.expect("applied");
    }
}

async fn fetched(client: &mut BackupClient<Channel>, id: &str) -> Vec<u8> {
    let request = StreamSnapshotRequest {
        snapshot_id: id.into(),
        offset: 0,
    };
    let stream = client.stream_snapshot(request).await.expect("stream");
    let (mut stream, mut bytes) = (stream.into_inner(), Vec::new());
    while let Some(chunk) = stream.message().await.expect("chunk") {
        bytes.extend(chunk.data);
    }
    bytes
}

fn chunks(id: &str, bytes: &[u8]) -> Vec<SnapshotChunk> {
    let sha256 = ring::digest::digest(&ring::digest::SHA256, bytes);
    let last = bytes.len().div_ceil(CHUNK).max(1) - 1;
    let mut chunks: Vec<_> = (0..=last)
        .map(|n| {
            let data = &bytes[n * CHUNK..bytes.len().min((n + 1) * CHUNK)];
            SnapshotChunk {
                snapshot_id: id.into(),
                offset: (n * CHUNK) as u64,
                data: data.to_vec(),
                crc32: crc32fast::hash(data),
                is_last: n == last,
                ..SnapshotChunk::default()
            }
        })
        .collect();
    chunks[0].total_size = bytes.len() as u64;
    chunks[0].sha256 = sha256.as_ref().to_vec();
    chunks
}

async fn send(
    client: &mut BackupClient<Channel>,
    chunks: Vec<SnapshotChunk>,
) -> Result<conveyor_raft::proto::SnapshotMetadata, Status> {
    let answer = client.upload_snapshot(tokio_stream::iter(chunks)).await;
    answer.map(Response::into_inner)
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn files(one: &One) -> Vec<String> {
    let entries = fs::read_dir(one.dir.path().join("backups")).expect("directory");
    let names = entries.map(|entry| entry.expect("entry").file_name().into_string());
    let mut names: Vec<_> = names.map(|name| name.expect("UTF-8")).collect();
    names.sort();
    names
}

/// Within a few seconds.
async fn settles(one: &One, expected: &[&str]) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while files(one) != expected {
        assert!(Instant::now() < give_up, "{:?}", files(one));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn every_call_needs_an_operator() {
    let one = One::start().await;
    for role in [ClientRole::Reader, ClientRole::Writer] {
        let channel = one.channel(role).await;
        let mut client = BackupClient::new(channel.clone());
        let codes = [
            code(client.get_state_metadata(GetStateMetadataRequest {}).await),
            code(client.create_snapshot(create("a", "")).await),
            code(client.list_snapshots(ListSnapshotsRequest {}).await),
            code(
                client
                    .stream_snapshot(StreamSnapshotRequest::default())
                    .await,
            ),
            code(
                client
                    .delete_snapshot(DeleteSnapshotRequest::default())
                    .await,
            ),
            code(send(&mut client, chunks("a", b"x")).await),
            code(client.restore_snapshot(restore("a", true, "")).await),
            code(client.get_upload(GetUploadRequest::default()).await),
            code(
                ClusterClient::new(channel)
                    .trigger_snapshot(TriggerSnapshotRequest {})
                    .await,
            ),
        ];
        assert_eq!(codes, [Code::PermissionDenied; 9], "{role:?}");
    }
    assert!(files(&one).is_empty());
    one.stop().await;
}

#[tokio::test]
async fn a_fetched_backup_is_taken_by_another_cluster_compressed_or_not() {
    let (one, two) = (One::start().await, One::start().await);
    fill(&one).await;
    let (mut here, mut there) = (client(&one).await, client(&two).await);
    for compression in ["none", "gzip", "zstd"] {
        let made = here.create_snapshot(create(compression, compression)).await;
        let made = made.expect("made").into_inner();
        assert_eq!(made.compression, compression);
        let file = fetched(&mut here, compression).await;
        let taken = send(&mut there, chunks(compression, &file))
            .await
            .expect("taken");
        assert_eq!(taken, made);
        assert_eq!(fetched(&mut there, compression).await, file);

        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&file).expect("packed");
        let packed = packed.finish().expect("packed");
        let id = format!("{compression}.gz");
        send(&mut there, chunks(&id, &packed)).await.expect("taken");
        assert_eq!(fetched(&mut there, &id).await, file);
    }
    let checked = there.restore_snapshot(restore("zstd", true, "")).await;
    let checked = checked.expect("whole").into_inner();
    assert!(!checked.restored);
    assert_eq!((checked.service_count, checked.pipeline_count), (0, 3));
    assert_eq!(checked.snapshot.expect("metadata").sidecar_count, 1);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn what_is_not_a_backup_is_refused_and_leaves_nothing() {
    let one = One::start().await;
    fill(&one).await;
    let mut client = client(&one).await;
    client
        .create_snapshot(create("made", "zstd"))
        .await
        .expect("made");
    let file = fetched(&mut client, "made").await;
    let good = || chunks("a", &file);
    assert!(good().len() > 2);
    let changed = |change: &dyn Fn(&mut Vec<SnapshotChunk>)| {
        let mut chunks = good();
        change(&mut chunks);
        chunks
    };
    let flipped = |at: usize| {
        let mut bytes = file.clone();
        bytes[at] ^= 4;
        chunks("a", &bytes)
    };
    let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 3).expect("packed");
    let tries = [
        (Code::InvalidArgument, vec![]),
        (Code::InvalidArgument, chunks("../a", &file)),
        (Code::InvalidArgument, chunks("a\0", &file)),
        (Code::InvalidArgument, chunks("/etc/a", &file)),
        (Code::InvalidArgument, chunks("", &file)),
        (Code::InvalidArgument, changed(&|all| all[0].sha256.clear())),
        (Code::InvalidArgument, changed(&|all| all[1].offset += 1)),
        (
            Code::InvalidArgument,
            changed(&|all| all[1].snapshot_id = "b".into()),
        ),
        (
            Code::InvalidArgument,
            changed(&|all| {
                let more = all[1].data.clone();
                all[0].data.extend(more);
                all[0].crc32 = crc32fast::hash(&all[0].data);
            }),
        ),
        (Code::DataLoss, changed(&|all| all[1].data[7] ^= 1)),
        (Code::DataLoss, changed(&|all| all[0].sha256[3] ^= 1)),
        (Code::DataLoss, changed(&|all| all[0].total_size += 1)),
        (Code::DataLoss, changed(&|all| all[0].total_size -= 1)),
        (Code::DataLoss, flipped(3)),
        (Code::DataLoss, flipped(40)),
        (Code::DataLoss, flipped(file.len() / 2)),
        (Code::DataLoss, chunks("a", &file[..file.len() - 1])),
        (Code::DataLoss, chunks("a", b"")),
        (Code::ResourceExhausted, chunks("a", &bomb)),
        (
            Code::ResourceExhausted,
            changed(&|all| all[0].total_size = 1 << 50),
        ),
        (Code::AlreadyExists, chunks("made", &file)),
    ];
    for (number, (expected, chunks)) in tries.into_iter().enumerate() {
        let refused = send(&mut client, chunks).await.expect_err("refused");
        assert_eq!(refused.code(), expected, "try {number}: {refused}");
        settles(&one, &["made.snapshot"]).await;
    }
    // What ends too early may have broken off: it can be gone on with, and takes no name.
    let short = send(&mut client, changed(&|all| all.truncate(2))).await;
    assert_eq!(code(short), Code::InvalidArgument);
    settles(&one, &["a.partial", "made.snapshot"]).await;
    // Before the rest of the file has come.
    let early = send(&mut client, changed(&|all| all[1].data[7] ^= 1)).await;
    let why = early.expect_err("damaged").message().to_owned();
    assert!(why.contains("the chunk at 262144"), "{why}");
    assert_eq!(code(send(&mut client, good()).await), Code::Ok);
    one.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_place_back_and_leaves_what_it_can_go_on_from() {
    let one = One::start().await;
    fill(&one).await;
    let mut client = client(&one).await;
    client
        .create_snapshot(create("made", "none"))
        .await
        .expect("made");
    let file = fetched(&mut client, "made").await;
    // Two that send a little and no more.
    let mut idle = Vec::new();
    for id in ["a", "b"] {
        let (send, chunks_of) = mpsc::channel(4);
        send.send(chunks(id, &file)[0].clone()).await.expect("sent");
        let mut client = client.clone();
        let call = tokio::spawn(async move {
            client
                .upload_snapshot(ReceiverStream::new(chunks_of))
                .await
                .map(drop)
        });
        idle.push((send, call));
    }
    settles(&one, &["a.partial", "b.partial", "made.snapshot"]).await;
    let refused = client
        .create_snapshot(create("c", ""))
        .await
        .expect_err("no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let budget: Overloaded = detail(&refused).expect("detail");
    assert!(budget.retry_after_ms > 0);
    for (_, call) in &idle {
        call.abort();
    }
    let give_up = Instant::now() + Duration::from_secs(20);
    while code(client.create_snapshot(create("c", "")).await) != Code::Ok {
        assert!(Instant::now() < give_up, "no place was given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What they sent is there for them, or for nobody if they say so.
    for snapshot_id in ["a", "b"].map(str::to_owned) {
        let known = GetUploadRequest {
            snapshot_id: snapshot_id.clone(),
        };
        loop {
            let known = client.get_upload(known.clone()).await;
            if !known.expect("answered").into_inner().under_way {
                break;
            }
            assert!(Instant::now() < give_up, "it has seen the end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let given_up = client.delete_snapshot(DeleteSnapshotRequest { snapshot_id });
        given_up.await.expect("given up");
    }
    settles(&one, &["c.snapshot", "made.snapshot"]).await;
    one.stop().await;
}

fn limited(change: impl Fn(&mut BackupLimits)) -> impl FnOnce(&mut EdgeOptions) {
    move |options| {
        if let Some(backup) = &mut options.backup {
            change(&mut backup.limits);
        }
    }
}

#[tokio::test]
async fn a_backup_is_no_faster_than_its_rate_and_ends_with_its_caller() {
    let one = One::start_with(limited(|limits| limits.bytes_per_second = 1 << 20)).await;
    fill(&one).await;
    let mut client = client(&one).await;
    let began = Instant::now();
    client
        .create_snapshot(create("a", "none"))
        .await
        .expect("made");
    // 600 KiB; the first piece goes at once.
    assert!(
        began.elapsed() > Duration::from_millis(250),
        "{:?}",
        began.elapsed()
    );
    let mut given_up = tonic::Request::new(create("b", "none"));
    given_up.set_timeout(Duration::from_millis(100));
    assert_ne!(code(client.create_snapshot(given_up).await), Code::Ok);
    settles(&one, &["a.snapshot"]).await;
    one.stop().await;
}

#[tokio::test]
async fn what_is_larger_than_the_limit_is_refused_also_when_it_is_made() {
    let one = One::start_with(limited(|limits| limits.max_bytes = 100_000)).await;
    let mut client = client(&one).await;
    client
        .create_snapshot(create("small", "none"))
        .await
        .expect("made");
    fill(&one).await;
    for compression in ["none", "zstd"] {
        let refused = client.create_snapshot(create("a", compression)).await;
        assert_eq!(code(refused), Code::ResourceExhausted);
    }
    let refused = client.create_snapshot(create("a", "lzma")).await;
    let status = refused.expect_err("unknown");
    let invalid: Invalid = detail(&status).expect("detail");
    assert_eq!(invalid.field, "compression");
    assert_eq!(files(&one), ["small.snapshot"]);
    one.stop().await;
}

#[tokio::test]
async fn a_member_keeps_its_state_whatever_is_restored() {
    let one = One::start().await;
    fill(&one).await;
    let own = one.certs.ca.cluster().to_string();
    let mut client = client(&one).await;
    client.create_snapshot(create("a", "")).await.expect("made");
    let digest = one.node.digest().await;
    for (expected, request) in [
        (Code::NotFound, restore("b", true, "")),
        (Code::InvalidArgument, restore("../a", true, "")),
        (Code::InvalidArgument, restore("a", false, "")),
        (Code::InvalidArgument, restore("a", false, &own[..31])),
        (
            Code::InvalidArgument,
            restore("a", false, &certificates().ca.cluster().to_string()),
        ),
        (Code::FailedPrecondition, restore("a", false, &own)),
    ] {
        assert_eq!(
            code(client.restore_snapshot(request.clone()).await),
            expected,
            "{request:?}"
        );
    }
    let refused = client.restore_snapshot(restore("a", false, &own)).await;
    let why = refused.expect_err("a member").message().to_owned();
    assert!(why.contains("belongs to a cluster"), "{why}");
    let path = one.dir.path().join("backups/a.snapshot");
    let mut bytes = fs::read(&path).expect("file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("written");
    let damaged = client.restore_snapshot(restore("a", true, "")).await;
    assert_eq!(code(damaged), Code::DataLoss);
    assert_eq!(one.node.digest().await, digest);
    one.stop().await;
}

#[tokio::test]
async fn a_node_makes_backups_by_itself_and_keeps_the_newest() {
    let automatic = Automatic {
        every: Duration::from_millis(300),
        keep: 2,
    };
    let one = One::start_with(|options| {
        if let Some(backup) = &mut options.backup {
            backup.automatic = Some(automatic);
        }
    })
    .await;
    let mut client = client(&one).await;
    client
        .create_snapshot(create("named", ""))
        .await
        .expect("made");
    let mut router = one.router(ClientRole::Writer).await;
    let give_up = Instant::now() + Duration::from_secs(30);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0.. {
        propose(&mut router, sidecar(&format!("shop/{number}")))
            .await
            .expect("applied");
        let files = files(&one)
            .into_iter()
            .filter(|name| name.ends_with(".snapshot"));
        let files: Vec<_> = files.collect();
        assert!(files.contains(&"named.snapshot".to_owned()), "{files:?}");
        assert!(files.len() <= 4, "{files:?}");
        seen.extend(files);
        if seen.len() >= 6 {
            break;
        }
        assert!(Instant::now() < give_up, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    one.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_taken_when_an_operator_says_so() {
    let one = One::start().await;
    fill(&one).await;
    let mut cluster = ClusterClient::new(one.channel(ClientRole::Operator).await);
    assert!(one.node.status().snapshot.is_none());
    let before = one.node.applied_index();
    let taken = cluster.trigger_snapshot(TriggerSnapshotRequest {}).await;
    let taken = taken.expect("taken").into_inner();
    assert!(taken.index >= before && taken.term > 0);
    assert_eq!(
        one.node.status().snapshot.map(|last| last.index),
        Some(taken.index)
    );
    // Nothing new: the same one.
    let again = cluster.trigger_snapshot(TriggerSnapshotRequest {}).await;
    assert_eq!(again.expect("there").into_inner().index, taken.index);
    assert_eq!(one.node.status().snapshots.taken, 1);
    assert!(cluster.status(StatusRequest {}).await.is_ok());
    one.stop().await;
}

#[tokio::test]
async fn a_session_changes_nothing_that_a_backup_holds() {
    let one = One::start().await;
    let mut client = client(&one).await;
    let mut router = one.router(ClientRole::Writer).await;
    let open = router.open_session(OpenSessionRequest::default()).await;
    open.expect("a session");
    let now = client.get_state_metadata(GetStateMetadataRequest {}).await;
    let now = now.expect("metadata").into_inner();
    let made = client.create_snapshot(create("a", "")).await;
    let made = made.expect("made").into_inner();
    assert_eq!(
        (now.commit_index, now.digest),
        (made.commit_index, made.digest)
    );
    one.stop().await;
}

//! The service `Backup`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::node::RaftNode;
use crate::proto::backup_server::Backup;
use crate::proto::{
    CreateSnapshotRequest, DamagedSnapshot, DeleteSnapshotRequest, DeleteSnapshotResponse,
    GetStateMetadataRequest, ListSnapshotsRequest, ListSnapshotsResponse, SnapshotChunk,
    SnapshotMetadata, StateMetadata, StreamSnapshotRequest,
};
use crate::snapshot::{
    FORMAT_VERSION, Listed, SnapshotError, SnapshotId, SnapshotInfo, SnapshotReader, SnapshotStore,
};
use crate::state_machine::{RouterState, RouterStateMachine, StateMachine};
use crate::types::{LogIndex, Micros};

use super::authorize::Roles;
use super::cluster::FEATURE_LEVEL;
use super::identity::Role;
use super::status::{invalid, wait};

/// Largest piece of a file in one message, bytes.
const CHUNK: usize = 256 << 10;
/// Pieces read ahead of a client that takes its time.
const AHEAD: usize = 2;

/// Backups of a node's state, one file per snapshot in a directory of that node.
///
/// Serves `conveyor.raft.v1.Backup`; every call needs the role operator.
#[derive(Clone)]
pub struct BackupServiceImpl {
    node: RaftNode,
    store: Arc<SnapshotStore>,
    roles: Roles,
}

impl std::fmt::Debug for BackupServiceImpl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupServiceImpl")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl BackupServiceImpl {
    /// Backups of `node`'s state in `dir`, which is made if needed.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn new(node: RaftNode, dir: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        Ok(Self {
            node,
            store: Arc::new(SnapshotStore::open(dir)?),
            roles: Roles::default(),
        })
    }

    pub(super) fn with_roles(self, roles: Roles) -> Self {
        Self { roles, ..self }
    }

    /// Writes the state at the applied index to a new snapshot, and returns once it is on disk.
    ///
    /// # Errors
    /// If the node has stopped, the name is taken, or the disk refuses.
    pub async fn create(&self, id: Option<SnapshotId>) -> Result<Listed, Status> {
        let cut = self.node.freeze().await.map_err(|error| wait(&error))?;
        let id = match id {
            Some(id) => id,
            None => name_for(cut.id.index, cut.time_us)?,
        };
        let (store, cluster) = (self.store.clone(), self.node.status().cluster);
        let (applied, time_us, digest) = (cut.id, cut.time_us, cut.digest);
        let check = move |written: &mut dyn io::Read| {
            let view = restored(written, digest)?;
            Ok(SnapshotInfo {
                cluster,
                applied,
                time_us,
                digest,
                sidecars: view.sidecars.len() as u64,
                groups: view.groups.len() as u64,
            })
        };
        let made = blocking(move || store.create(&id, cut.frozen, check)).await?;
        tracing::info!(snapshot = %made.id, index = applied.index, size = made.size, "snapshot made");
        Ok(made)
    }
}

/// The state in a snapshot, if it is the one that was to be written.
fn restored(written: &mut dyn io::Read, digest: u128) -> Result<Arc<RouterState>, String> {
    let mut scratch = RouterStateMachine::new();
    scratch
        .restore(written)
        .map_err(|error| error.to_string())?;
    match scratch.digest() == digest {
        true => Ok(scratch.view()),
        false => Err("what was written is not the state that was frozen".to_owned()),
    }
}

/// A name that sorts by age and says what is in the file.
fn name_for(index: LogIndex, time_us: Micros) -> Result<SnapshotId, Status> {
    format!("at-{:015}-index-{index}", time_us / 1000)
        .parse()
        .map_err(|error: crate::snapshot::SnapshotIdError| Status::internal(error.to_string()))
}

fn parse_id(text: &str) -> Result<SnapshotId, Status> {
    text.parse()
        .map_err(|error: crate::snapshot::SnapshotIdError| {
            invalid("snapshot_id", error.to_string())
        })
}

#[tonic::async_trait]
impl Backup for BackupServiceImpl {
    async fn get_state_metadata(
        &self,
        request: Request<GetStateMetadataRequest>,
    ) -> Result<Response<StateMetadata>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let applied = self.node.applied();
        Ok(Response::new(StateMetadata {
            commit_index: applied.id.index,
            term: applied.id.term,
            timestamp: applied.time_us / 1000,
            sidecar_count: applied.view.sidecars.len() as u64,
            group_count: applied.view.groups.len() as u64,
            state_format: FORMAT_VERSION,
            feature_level: FEATURE_LEVEL,
            digest: format!("{:032x}", applied.digest),
            cluster_id: self.node.status().cluster.to_string(),
        }))
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<SnapshotMetadata>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let id = match request.into_inner().snapshot_id.as_str() {
            "" => None,
            text => Some(parse_id(text)?),
        };
        let made = self.create(id).await?;
        Ok(Response::new(metadata(made)))
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let store = self.store.clone();
        let list = blocking(move || store.list()).await?;
        let damaged = list.damaged.into_iter().map(|damaged| DamagedSnapshot {
            snapshot_id: damaged.id.to_string(),
            why: damaged.why,
        });
        Ok(Response::new(ListSnapshotsResponse {
            snapshots: list.whole.into_iter().map(metadata).collect(),
            damaged: damaged.collect(),
        }))
    }

    type StreamSnapshotStream = ReceiverStream<Result<SnapshotChunk, Status>>;

    async fn stream_snapshot(
        &self,
        request: Request<StreamSnapshotRequest>,
    ) -> Result<Response<Self::StreamSnapshotStream>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let request = request.into_inner();
        let id = parse_id(&request.snapshot_id)?;
        let (store, name) = (self.store.clone(), id.clone());
        let reader = blocking(move || store.read(&name)).await?;
        if request.offset > reader.size() {
            let why = format!("is beyond the end, the file has {} bytes", reader.size());
            return Err(invalid("offset", why));
        }
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || stream(&id, reader, request.offset, &send));
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let id = parse_id(&request.into_inner().snapshot_id)?;
        let (store, name) = (self.store.clone(), id.clone());
        blocking(move || store.delete(&name)).await?;
        tracing::info!(snapshot = %id, "snapshot deleted");
        Ok(Response::new(DeleteSnapshotResponse {}))
    }
}

fn metadata(listed: Listed) -> SnapshotMetadata {
    SnapshotMetadata {
        snapshot_id: listed.id.to_string(),
        size_bytes: listed.size,
        commit_index: listed.info.applied.index,
        term: listed.info.applied.term,
        timestamp: listed.info.time_us / 1000,
        sidecar_count: listed.info.sidecars,
        group_count: listed.info.groups,
        state_format: FORMAT_VERSION,
        feature_level: FEATURE_LEVEL,
        digest: format!("{:032x}", listed.info.digest),
        cluster_id: listed.info.cluster.to_string(),
    }
}

/// Sends the file from `offset` until its end or until nobody listens any more.
fn stream(
    id: &SnapshotId,
    mut reader: SnapshotReader,
    offset: u64,
    send: &mpsc::Sender<Result<SnapshotChunk, Status>>,
) {
    let (size, mut at) = (reader.size(), offset);
    loop {
        let chunk = reader.chunk(at, CHUNK).and_then(|data| {
            // A file that became shorter under us would make an endless stream of nothing.
            match data.is_empty() && at < size {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(data),
            }
        });
        let chunk = chunk.map(|data| SnapshotChunk {
            snapshot_id: id.to_string(),
            offset: at,
            crc32: crc32fast::hash(&data),
            is_last: at + data.len() as u64 >= size,
            total_size: if at == offset { size } else { 0 },
            sha256: if at == offset {
                reader.sha256().to_vec()
            } else {
                Vec::new()
            },
            data,
        });
        let (len, last) = match &chunk {
            Ok(chunk) => (chunk.data.len() as u64, chunk.is_last),
            Err(_) => (0, true),
        };
        let message = chunk.map_err(|error| Status::data_loss(format!("snapshot {id}: {error}")));
        if send.blocking_send(message).is_err() || last {
            return;
        }
        at += len;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| status(&error)),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

fn status(error: &SnapshotError) -> Status {
    let text = error.to_string();
    match error {
        SnapshotError::NotFound(_) => Status::not_found(text),
        SnapshotError::Exists(_) => Status::already_exists(text),
        SnapshotError::Damaged { .. } => Status::data_loss(text),
        SnapshotError::Full { .. } => Status::resource_exhausted(text),
        SnapshotError::Io { .. } => {
            // The client learns that it failed; paths and causes are for the log.
            tracing::error!(error = %text, "backup failed");
            Status::internal("the backup directory cannot be used; the node's log says why")
        }
    }
}

//! The service `Backup`.
//!
//! Every call needs the role operator, and those that change something leave a line in the log that says
//! who asked. The work itself is done on threads that may block, at one rate for all of it, and ends when
//! the caller goes away.

mod automatic;
mod options;
mod restore;
mod status;
mod transfer;

use std::io;
use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::backup::{
    Automatic, Compression, FORMAT_VERSION, Job, Listed, SnapshotError, SnapshotId, SnapshotInfo,
    SnapshotStore, Waiting,
};
use crate::node::RaftNode;
use crate::proto::backup_server::Backup;
use crate::proto::{
    CreateSnapshotRequest, DamagedSnapshot, DeleteSnapshotRequest, DeleteSnapshotResponse,
    GetStateMetadataRequest, GetUploadRequest, GetUploadResponse, ListSnapshotsRequest,
    ListSnapshotsResponse, RestoreSnapshotRequest, RestoreSnapshotResponse, SnapshotChunk,
    SnapshotMetadata, StateMetadata, StreamSnapshotRequest,
};
use crate::state_machine::{RouterState, RouterStateMachine, StateMachine};
use crate::types::ReplicaId;

use super::authorize::Roles;
use super::identity::Role;
use super::status::{invalid, overloaded, wait};

pub use options::BackupOptions;
use status::{blocking, explain, parse_id};

/// Snapshots that are made, taken in or restored at a time; each holds a state in memory.
const JOBS: usize = 2;
/// Snapshots that are sent at a time.
const SENDINGS: usize = 8;
const RETRY_MS: u64 = 1000;

/// Backups of a node's state, one file per snapshot in a directory of that node.
///
/// Serves `conveyor.raft.v1.Backup`; every call needs the role operator.
#[derive(Clone)]
pub struct BackupServiceImpl {
    node: RaftNode,
    store: Arc<SnapshotStore>,
    roles: Roles,
    /// The first of all jobs, which has their rate.
    job: Job,
    jobs: Arc<Semaphore>,
    sendings: Arc<Semaphore>,
    automatic: Option<Automatic>,
    waiting: Option<Waiting>,
    restored: watch::Sender<Option<ReplicaId>>,
}

impl std::fmt::Debug for BackupServiceImpl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupServiceImpl")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl BackupServiceImpl {
    /// Backups of `node`'s state in a directory, which is made if needed.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn new(node: RaftNode, options: BackupOptions) -> Result<Self, SnapshotError> {
        let store = SnapshotStore::open(options.dir, options.limits)?;
        Ok(Self {
            node,
            store: Arc::new(store),
            roles: Roles::default(),
            job: Job::at_rate(options.limits.bytes_per_second),
            jobs: Arc::new(Semaphore::new(JOBS)),
            sendings: Arc::new(Semaphore::new(SENDINGS)),
            automatic: options.automatic,
            waiting: options.waiting,
            restored: watch::Sender::new(None),
        })
    }

    pub(super) fn with_roles(self, roles: Roles) -> Self {
        Self { roles, ..self }
    }

    /// Who this node became by a restore, once it has.
    pub(super) fn restored(&self) -> watch::Receiver<Option<ReplicaId>> {
        self.restored.subscribe()
    }

    /// Writes the state at the applied index to a new snapshot, and returns once it is on disk. On any
    /// node; the node goes on meanwhile. If the result is dropped before, nothing is left behind.
    ///
    /// # Errors
    /// If the node has stopped, the name is taken, or the disk refuses.
    pub async fn create(
        &self,
        id: Option<SnapshotId>,
        compression: Compression,
    ) -> Result<Listed, Status> {
        let _permit = permit(&self.jobs, "the number of backups at a time")?;
        let job = self.job.another();
        let _waits = job.cancel_on_drop();
        let feature_level = self.node.status().feature_level;
        let cut = self.node.freeze().await.map_err(|error| wait(&error))?;
        let id = match id {
            Some(id) => id,
            None => status::name_for(cut.id.index, cut.time_us)?,
        };
        let (store, cluster) = (self.store.clone(), self.node.status().cluster);
        let (applied, time_us, digest) = (cut.id, cut.time_us, cut.digest);
        let check = move |written: &mut dyn io::Read| {
            let view = read_back(written, digest)?;
            Ok(SnapshotInfo {
                cluster,
                applied,
                time_us,
                digest,
                sidecars: view.sidecars.len() as u64,
                groups: view.groups.len() as u64,
                feature_level,
            })
        };
        let made =
            blocking(move || store.create(&id, cut.frozen, compression, &job, check)).await?;
        tracing::info!(snapshot = %made.id, index = applied.index, size = made.size, "snapshot made");
        Ok(made)
    }

    /// The caller's name, if it is an operator.
    fn operator<T>(&self, request: &Request<T>) -> Result<String, Status> {
        self.roles.require(request, Role::Operator)?;
        Ok(super::authorize::name_of(request))
    }
}

/// The state in a snapshot, if it is the one that was to be written.
fn read_back(written: &mut dyn io::Read, digest: u128) -> Result<Arc<RouterState>, String> {
    let mut scratch = RouterStateMachine::new();
    scratch
        .restore(written)
        .map_err(|error| error.to_string())?;
    match scratch.digest() == digest {
        true => Ok(scratch.view()),
        false => Err("what was written is not the state that was frozen".to_owned()),
    }
}

fn permit<'a>(slots: &'a Semaphore, budget: &str) -> Result<SemaphorePermit<'a>, Status> {
    slots
        .try_acquire()
        .map_err(|_| overloaded(budget, RETRY_MS))
}

#[tonic::async_trait]
impl Backup for BackupServiceImpl {
    async fn get_state_metadata(
        &self,
        request: Request<GetStateMetadataRequest>,
    ) -> Result<Response<StateMetadata>, Status> {
        self.operator(&request)?;
        // Of the state alone, as a snapshot has it: clients' sessions are not in it.
        let cut = self.node.freeze().await.map_err(|error| wait(&error))?;
        let view = self.node.applied().view.clone();
        Ok(Response::new(StateMetadata {
            commit_index: cut.id.index,
            term: cut.id.term,
            timestamp: cut.time_us / 1000,
            sidecar_count: view.sidecars.len() as u64,
            group_count: view.groups.len() as u64,
            state_format: FORMAT_VERSION,
            feature_level: self.node.status().feature_level,
            digest: format!("{:032x}", cut.digest),
            cluster_id: self.node.status().cluster.to_string(),
        }))
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<SnapshotMetadata>, Status> {
        let caller = self.operator(&request)?;
        let request = request.into_inner();
        let id = match request.snapshot_id.as_str() {
            "" => None,
            text => Some(parse_id(text)?),
        };
        let compression = match request.compression.as_str() {
            "" => Compression::Zstd,
            text => text
                .parse()
                .map_err(|_| invalid("compression", "must be none, gzip or zstd"))?,
        };
        tracing::info!(
            caller,
            snapshot = request.snapshot_id,
            "audit: CreateSnapshot"
        );
        let made = self.create(id, compression).await?;
        Ok(Response::new(metadata(made)))
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.operator(&request)?;
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
        let caller = self.operator(&request)?;
        let request = request.into_inner();
        let id = parse_id(&request.snapshot_id)?;
        let permit = self.sendings.clone().try_acquire_owned();
        let permit =
            permit.map_err(|_| overloaded("the number of snapshots sent at a time", RETRY_MS))?;
        let (store, name) = (self.store.clone(), id.clone());
        let reader = blocking(move || store.read(&name)).await?;
        if request.offset > reader.size() {
            let why = format!("is beyond the end, the file has {} bytes", reader.size());
            return Err(invalid("offset", why));
        }
        tracing::info!(caller, snapshot = %id, offset = request.offset, "audit: StreamSnapshot");
        let (send, receive) = mpsc::channel(transfer::AHEAD);
        let job = self.job.another();
        tokio::spawn(async move {
            transfer::send(id, reader, request.offset, job, send).await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let caller = self.operator(&request)?;
        let id = parse_id(&request.into_inner().snapshot_id)?;
        tracing::info!(caller, snapshot = %id, "audit: DeleteSnapshot");
        let store = self.store.clone();
        blocking(move || store.delete(&id)).await?;
        Ok(Response::new(DeleteSnapshotResponse {}))
    }

    async fn upload_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotMetadata>, Status> {
        let caller = self.operator(&request)?;
        let _permit = permit(&self.jobs, "the number of backups at a time")?;
        let taken = self.take(request.into_inner(), &caller).await?;
        Ok(Response::new(metadata(taken)))
    }

    async fn get_upload(
        &self,
        request: Request<GetUploadRequest>,
    ) -> Result<Response<GetUploadResponse>, Status> {
        self.operator(&request)?;
        let id = parse_id(&request.into_inner().snapshot_id)?;
        let store = self.store.clone();
        let known = blocking(move || Ok(store.upload(&id))).await?;
        let known = known.map(|upload| GetUploadResponse {
            received: upload.received,
            total_size: upload.sum.len,
            sha256: upload.sum.sha256.to_vec(),
            under_way: upload.under_way,
            finished: upload.finished.map(metadata),
        });
        Ok(Response::new(known.unwrap_or_default()))
    }

    async fn restore_snapshot(
        &self,
        request: Request<RestoreSnapshotRequest>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        let caller = self.operator(&request)?;
        let _permit = permit(&self.jobs, "the number of backups at a time")?;
        let answer = self.restore(request.into_inner(), &caller).await?;
        Ok(Response::new(answer))
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
        feature_level: listed.info.feature_level,
        digest: format!("{:032x}", listed.info.digest),
        cluster_id: listed.info.cluster.to_string(),
        compression: listed.compression.to_string(),
    }
}

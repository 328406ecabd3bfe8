//! Files of backups on their way to a node, over connections that break.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ClientError;
use crate::grpc::detail;
use crate::proto::backup_client::BackupClient;
use crate::proto::{
    GetUploadRequest, GetUploadResponse, Overloaded, SnapshotChunk, SnapshotMetadata,
};

/// Bytes of the file in one message: what a node takes at most.
const CHUNK: usize = 256 << 10;
/// Pieces read ahead of the network.
const AHEAD: usize = 4;
/// Pause after the first try that broke off; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A node that does not say where to go on for so long is asked again.
const ASKING: Duration = Duration::from_secs(10);

/// Settings of [`upload_backup`].
#[derive(Clone)]
pub struct UploadOptions {
    /// How long tries may go on of which none gets further than the one before. Default two minutes.
    ///
    /// A node may take up to a minute to see that a connection is gone, and lets nobody go on before.
    pub patience: Duration,
    /// Is told how many bytes were given to the network, and how many there are; after a try that broke
    /// off it begins again where the node is. Must not block.
    pub progress: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(120),
            progress: None,
        }
    }
}

impl fmt::Debug for UploadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadOptions")
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// Brings the file of a backup to a node, as `id` there; where the connection breaks, goes on from what
/// the node has. The node checks the whole before it answers. Needs the role operator.
///
/// # Errors
/// [`ClientError::Refused`] if the node refuses the file, the name or the caller;
/// [`ClientError::Deadline`] if the tries get no further; [`ClientError::Invalid`] if the file cannot be
/// read.
pub async fn upload_backup(
    node: Channel,
    file: impl Into<PathBuf>,
    id: &str,
    options: UploadOptions,
) -> Result<SnapshotMetadata, ClientError> {
    let file: PathBuf = file.into();
    let path = file.clone();
    let summed = tokio::task::spawn_blocking(move || sum(&path)).await;
    let (size, sha256) = unreadable(&file, summed)?;
    let mut upload = Uploading {
        backup: BackupClient::new(node),
        source: Arc::new(Source {
            file,
            id: id.to_owned(),
            size,
            sha256,
            progress: options.progress,
        }),
        patience: options.patience,
        tried: false,
        furthest: 0,
        since: Instant::now(),
        pause: FIRST_PAUSE,
    };
    loop {
        if let Some(taken) = upload.step().await? {
            return Ok(taken);
        }
    }
}

fn unreadable<T>(
    file: &Path,
    result: Result<io::Result<T>, tokio::task::JoinError>,
) -> Result<T, ClientError> {
    let result = result.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|error| ClientError::Invalid {
        field: "file".to_owned(),
        why: format!("{}: {error}", file.display()),
    })
}

fn sum(path: &Path) -> io::Result<(u64, Vec<u8>)> {
    let mut file = File::open(path)?;
    let (mut hash, mut size) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok((size, hash.finish().as_ref().to_vec()));
        }
        hash.update(buffer.get(..got).unwrap_or_default());
        size += got as u64;
    }
}

struct Uploading {
    backup: BackupClient<Channel>,
    source: Arc<Source>,
    patience: Duration,
    /// A try of this call broke off.
    tried: bool,
    /// How far the node was, and since when it is no further.
    furthest: u64,
    since: Instant,
    pause: Duration,
}

impl Uploading {
    /// One try; nothing if it broke off and there is to be another.
    async fn step(&mut self) -> Result<Option<SnapshotMetadata>, ClientError> {
        let known = match self.known().await {
            Ok(known) => known,
            Err(status) => return self.broke_off(&status, false).await,
        };
        let source = Arc::clone(&self.source);
        let same = known.total_size == source.size && known.sha256 == source.sha256;
        let ended = known.finished.is_some();
        if let Some(finished) = known.finished.filter(|_| same && self.tried) {
            return Ok(Some(finished));
        }
        if known.under_way {
            let busy = Status::unavailable("another upload of this name is under way");
            return self.broke_off(&busy, false).await;
        }
        // One that an earlier call ended holds its name: the node says so to who begins anew.
        let from = match same && !ended && known.received <= source.size {
            true => known.received,
            false => 0,
        };
        if from > self.furthest {
            (self.furthest, self.since) = (from, Instant::now());
            self.pause = FIRST_PAUSE;
        }
        match self.send(from).await? {
            Ok(taken) => Ok(Some(taken)),
            Err(status) => {
                self.tried = true;
                self.broke_off(&status, from > 0).await
            }
        }
    }

    /// What the node knows of the upload. One of a release that keeps none begins anew each time.
    async fn known(&mut self) -> Result<GetUploadResponse, Status> {
        let snapshot_id = self.source.id.clone();
        let asked = self.backup.get_upload(GetUploadRequest { snapshot_id });
        match tokio::time::timeout(ASKING, asked).await {
            Ok(Ok(known)) => Ok(known.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(Default::default()),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::unavailable("the node does not answer")),
        }
    }

    /// Sends what is left. An error of the file ends everything; that of the node may not.
    async fn send(&mut self, from: u64) -> Result<Result<SnapshotMetadata, Status>, ClientError> {
        let (send, chunks) = mpsc::channel(AHEAD);
        let source = Arc::clone(&self.source);
        let reading = tokio::task::spawn_blocking(move || source.read(from, &send));
        let taken = self.backup.upload_snapshot(ReceiverStream::new(chunks));
        let taken = taken.await.map(tonic::Response::into_inner);
        // If the file could not be read the node was told too little, and that is not the reason.
        unreadable(&self.source.file, reading.await)?;
        Ok(taken)
    }

    /// Waits before the next try, if there is to be one.
    async fn broke_off(
        &mut self,
        status: &Status,
        went_on: bool,
    ) -> Result<Option<SnapshotMetadata>, ClientError> {
        let overloaded = detail::<Overloaded>(status);
        let again = match status.code() {
            Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::DeadlineExceeded => true,
            Code::ResourceExhausted => overloaded.is_some(),
            // What was kept is gone: the node was started anew, or had no more room for it.
            Code::InvalidArgument => went_on,
            _ => false,
        };
        if !again {
            return Err(ClientError::Refused(Box::new(status.clone())));
        }
        if self.since.elapsed() >= self.patience {
            return Err(ClientError::Deadline {
                why: format!("{:?}: {}", status.code(), status.message()),
            });
        }
        let asked = overloaded.map_or(0, |overloaded| overloaded.retry_after_ms);
        tokio::time::sleep(self.pause.max(Duration::from_millis(asked))).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(None)
    }
}

struct Source {
    file: PathBuf,
    id: String,
    size: u64,
    sha256: Vec<u8>,
    progress: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
}

impl Source {
    /// Reads the file from `from` on, until its end or until nobody takes more.
    fn read(&self, from: u64, send: &mpsc::Sender<SnapshotChunk>) -> io::Result<()> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(from))?;
        let mut at = from;
        loop {
            let mut data = Vec::with_capacity(CHUNK);
            (&mut file).take(CHUNK as u64).read_to_end(&mut data)?;
            let next = at + data.len() as u64;
            if data.is_empty() && next < self.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let first = at == from;
            let chunk = SnapshotChunk {
                snapshot_id: self.id.clone(),
                offset: at,
                crc32: crc32fast::hash(&data),
                is_last: next >= self.size,
                total_size: if first { self.size } else { 0 },
                sha256: if first {
                    self.sha256.clone()
                } else {
                    Vec::new()
                },
                data,
            };
            let last = chunk.is_last;
            // An error means that the call has ended, and says why itself.
            if send.blocking_send(chunk).is_err() {
                return Ok(());
            }
            at = next;
            if let Some(progress) = &self.progress {
                progress(at, self.size);
            }
            if last {
                return Ok(());
            }
        }
    }
}

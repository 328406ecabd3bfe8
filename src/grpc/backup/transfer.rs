//! Files of snapshots on their way out and in.

use std::io::{self, Read};
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::backup::{Job, Listed, SnapshotId, SnapshotReader, Sum};
use crate::proto::SnapshotChunk;
use crate::state_machine::RouterStateMachine;

use super::{BackupServiceImpl, blocking, invalid, parse_id};

/// Largest piece of a file in one message, bytes.
const CHUNK: usize = 256 << 10;
/// Pieces on their way between a disk and a client.
pub(super) const AHEAD: usize = 2;
/// A client that neither takes nor sends anything for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the file from `offset` until its end or until nobody listens any more.
pub(super) async fn send(
    id: SnapshotId,
    mut reader: SnapshotReader,
    offset: u64,
    job: Job,
    out: mpsc::Sender<Result<SnapshotChunk, Status>>,
) {
    let (size, sha256) = (reader.size(), reader.sha256());
    let mut at = offset;
    loop {
        let pace = job.another();
        let read = tokio::task::spawn_blocking(move || {
            let data = reader.chunk(at, CHUNK)?;
            pace.step(data.len())?;
            Ok::<_, io::Error>((reader, data))
        });
        let read = read
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        // A file that became shorter under us would make an endless stream of nothing.
        let read = read.and_then(|(reader, data)| match data.is_empty() && at < size {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok((reader, data)),
        });
        let (next, data) = match read {
            Ok(read) => read,
            Err(error) => {
                let lost = Status::data_loss(format!("snapshot {id}: {error}"));
                let _ = out.send_timeout(Err(lost), PATIENCE).await;
                return;
            }
        };
        reader = next;
        let first = at == offset;
        let len = data.len() as u64;
        let chunk = SnapshotChunk {
            snapshot_id: id.to_string(),
            offset: at,
            crc32: crc32fast::hash(&data),
            is_last: at + len >= size,
            total_size: if first { size } else { 0 },
            sha256: if first { sha256.to_vec() } else { Vec::new() },
            data,
        };
        let last = chunk.is_last;
        if out.send_timeout(Ok(chunk), PATIENCE).await.is_err() || last {
            return;
        }
        at += len;
    }
}

impl BackupServiceImpl {
    /// Takes a file in.
    pub(super) async fn take(
        &self,
        mut stream: Streaming<SnapshotChunk>,
        caller: &str,
    ) -> Result<Listed, Status> {
        let first = next(&mut stream).await?;
        let first = first.ok_or_else(|| invalid("chunk", "nothing was sent"))?;
        let id = parse_id(&first.snapshot_id)?;
        let sha256 = <[u8; 32]>::try_from(first.sha256.as_slice());
        let sha256 = sha256.map_err(|_| invalid("sha256", "the first chunk needs all 32 bytes"))?;
        let expected = Sum {
            len: first.total_size,
            sha256,
        };
        tracing::info!(caller, snapshot = %id, size = expected.len, "audit: UploadSnapshot");
        let from = first.offset;
        let (send, chunks) = mpsc::channel(AHEAD);
        let (store, job) = (self.store.clone(), self.job.another());
        let _waits = job.cancel_on_drop();
        let mut work = std::pin::pin!(blocking(move || {
            let mut arriving = Arriving::new(&id, from, chunks);
            let taken = store.receive(
                &id,
                (from, &mut arriving),
                expected,
                &job,
                RouterStateMachine::new(),
            );
            Ok(match arriving.wrong {
                Some(wrong) => Err(wrong),
                None => taken
                    .map(|(listed, _)| listed)
                    .map_err(|error| super::explain(&error)),
            })
        }));
        let forward = async move {
            let mut chunk = first;
            loop {
                let last = chunk.is_last;
                // An error means that the work has ended, and says why itself.
                if send.send(chunk).await.is_err() || last {
                    return Ok(());
                }
                // A stream that breaks looks like one that ends to tonic, or not, by how it breaks. Either
                // ends the work without a word, and what came is kept.
                match next(&mut stream).await? {
                    Some(more) => chunk = more,
                    None => return Err(invalid("chunk", "the stream ended before the last chunk")),
                }
            }
        };
        let broken = tokio::select! {
            biased;
            taken = &mut work => return taken?,
            forwarded = forward => forwarded.err(),
        };
        // Who is told that it failed may try again, or go on, at once: by then nobody works on it.
        let taken = work.await?;
        match (broken, taken) {
            // Cut off for want of more: what ended the stream is the reason. Any other the work had before.
            (Some(why), Err(cut)) if cut.code() == Code::Cancelled => Err(why),
            (_, taken) => taken,
        }
    }
}

async fn next(stream: &mut Streaming<SnapshotChunk>) -> Result<Option<SnapshotChunk>, Status> {
    match tokio::time::timeout(PATIENCE, stream.message()).await {
        Ok(message) => message,
        Err(_) => Err(Status::deadline_exceeded("no chunk came for a minute")),
    }
}

/// The bytes of a file that comes in chunks.
struct Arriving {
    id: String,
    chunks: mpsc::Receiver<SnapshotChunk>,
    /// Where the next one has to begin.
    at: u64,
    ended: bool,
    data: Vec<u8>,
    given: usize,
    /// What was wrong with a chunk.
    wrong: Option<Status>,
}

impl Arriving {
    fn new(id: &SnapshotId, at: u64, chunks: mpsc::Receiver<SnapshotChunk>) -> Self {
        Self {
            id: id.to_string(),
            chunks,
            at,
            ended: false,
            data: Vec::new(),
            given: 0,
            wrong: None,
        }
    }

    fn check(&self, chunk: &SnapshotChunk) -> Result<(), Status> {
        if chunk.snapshot_id != self.id && !chunk.snapshot_id.is_empty() {
            return Err(invalid(
                "snapshot_id",
                "is another one than the first chunk's",
            ));
        }
        if chunk.offset != self.at {
            let why = format!("is {}, and {} has to come next", chunk.offset, self.at);
            return Err(invalid("offset", why));
        }
        if chunk.data.len() > CHUNK {
            return Err(invalid("data", format!("is larger than {CHUNK} bytes")));
        }
        if chunk.crc32 != crc32fast::hash(&chunk.data) {
            let why = format!("the chunk at {} is not what its checksum says", self.at);
            return Err(Status::data_loss(why));
        }
        Ok(())
    }
}

impl Read for Arriving {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.data.len() && !self.ended {
            let Some(chunk) = self.chunks.blocking_recv() else {
                return Err(io::ErrorKind::ConnectionAborted.into());
            };
            if let Err(wrong) = self.check(&chunk) {
                self.wrong = Some(wrong);
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.at += chunk.data.len() as u64;
            self.ended = chunk.is_last;
            self.data = chunk.data;
            self.given = 0;
        }
        let rest = self.data.get(self.given..).unwrap_or_default();
        let now = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..now), rest.get(..now)) {
            to.copy_from_slice(from);
        }
        self.given += now;
        Ok(now)
    }
}

//! Backups between a node and a file.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conveyor_raft::client::{ClientError, UploadOptions, upload_backup};
use conveyor_raft::proto::StreamSnapshotRequest;
use conveyor_raft::proto::backup_client::BackupClient;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ring::digest::{Context as Hash, SHA256};
use tonic::transport::Channel;

use super::{answer, open, show};
use crate::cli::{BackupFetchArgs, BackupUploadArgs};
use crate::client::{Client, failure_of};
use crate::failure::{Context, Failure};
use crate::output::{count, say};

const CHUNK: usize = 256 << 10;

// ---- from a node ----

pub(super) async fn fetch(args: BackupFetchArgs) -> Result<(), Failure> {
    let (_, mut backup) = open(args.client).await?;
    let out = args
        .out
        .unwrap_or_else(|| format!("{}.snapshot", args.id).into());
    if out == Path::new("-") {
        let mut sink = Plain(io::stdout());
        let size = copy(&mut backup, &args.id, 0, Hash::new(&SHA256), &mut sink).await?;
        eprintln!("{} bytes of {}", count(size), args.id);
        return Ok(());
    }
    let exists = |path: &Path| Failure::new(format!("{} is there already", path.display()));
    if out.symlink_metadata().is_ok() {
        return Err(exists(&out));
    }
    let part = part_of(&out);
    let mut file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(&part)
        .context(part.display())?;
    let (mut hash, mut had) = (Hash::new(&SHA256), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = file.read(&mut buffer).context(part.display())?;
        if got == 0 {
            break;
        }
        hash.update(buffer.get(..got).unwrap_or_default());
        had += got as u64;
    }
    let size = copy(&mut backup, &args.id, had, hash, &mut Plain(&file)).await?;
    file.sync_all().context(part.display())?;
    // A link refuses to replace what came there meanwhile.
    fs::hard_link(&part, &out).context(out.display())?;
    fs::remove_file(&part).context(part.display())?;
    say!("{}: {} bytes of {}", out.display(), count(size), args.id);
    Ok(())
}

fn part_of(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Writes without keeping anything back.
struct Plain<W>(W);

impl<W: Write> Plain<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }
}

/// Appends what follows the `had` bytes that are there, whose hash is `hash`.
async fn copy<W: Write>(
    backup: &mut BackupClient<Channel>,
    id: &str,
    had: u64,
    mut hash: Hash,
    out: &mut Plain<W>,
) -> Result<u64, Failure> {
    let request = StreamSnapshotRequest {
        snapshot_id: id.to_owned(),
        offset: had,
    };
    let mut stream = answer(backup.stream_snapshot(request).await)?;
    let (mut at, mut expected, mut bar) = (had, None, None);
    while let Some(chunk) = stream
        .message()
        .await
        .map_err(|status| failure_of(&status))?
    {
        let bar = bar.get_or_insert_with(|| progress_bar(chunk.total_size));
        let expected = expected.get_or_insert_with(|| chunk.sha256.clone());
        if chunk.offset != at || chunk.crc32 != crc32fast::hash(&chunk.data) {
            return Err(Failure::new(format!(
                "{id}: the chunk at {at} came damaged: try again"
            )));
        }
        out.put(&chunk.data).context("cannot write")?;
        hash.update(&chunk.data);
        at += chunk.data.len() as u64;
        bar.set_position(at);
        if chunk.is_last {
            bar.finish_and_clear();
            return match hash.finish().as_ref() == expected.as_slice() {
                true => Ok(at),
                false => Err(Failure::new(format!(
                    "{id}: what was fetched is not what the node has: remove it and fetch it again"
                ))),
            };
        }
    }
    Err(Failure::new(format!(
        "{id}: the node ended before the last chunk: try again to go on"
    )))
}

// ---- to a node ----

pub(super) async fn upload(args: BackupUploadArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let node = client.any().await?;
    let bar = progress_bar(0);
    let shown = bar.clone();
    let options = UploadOptions {
        progress: Some(Arc::new(move |at, size| {
            shown.set_length(size);
            shown.set_position(at);
        })),
        ..UploadOptions::default()
    };
    let taken = upload_backup(node, args.file, &args.id, options).await;
    bar.finish_and_clear();
    let taken = taken.map_err(|error| match error {
        ClientError::Refused(status) => failure_of(&status),
        ClientError::Invalid { why, .. } => Failure::new(why),
        error => Failure::new(format!(
            "{}: {error}; the same command goes on from what the node has",
            args.id
        )),
    })?;
    show(&client, &taken)
}

fn progress_bar(size: u64) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(size), target);
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

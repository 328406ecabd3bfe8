//! `conveyor-raft backup`.

mod local;
mod transfer;

use conveyor_raft::proto::backup_client::BackupClient;
use conveyor_raft::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetStateMetadataRequest, ListSnapshotsRequest,
    RestoreSnapshotRequest, SnapshotMetadata,
};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::cli::{
    BackupArgs, BackupCleanupArgs, BackupCommand, BackupDescribeArgs, BackupRestoreNodeArgs,
    ClientArgs,
};
use crate::client::{Client, failure_of};
use crate::failure::Failure;
use crate::output::{self, count, say};

pub(crate) async fn run(args: BackupArgs) -> Result<(), Failure> {
    match args.command {
        BackupCommand::Create(args) => {
            let (client, mut backup) = open(args.client).await?;
            let request = CreateSnapshotRequest {
                snapshot_id: args.id,
                compression: args.compression.to_string(),
            };
            // No deadline, here and below: how long it takes is a matter of how much there is.
            let made = answer(backup.create_snapshot(request).await)?;
            show(&client, &made)
        }
        BackupCommand::List(args) => list(args.client).await,
        BackupCommand::Describe(args) => describe(args).await,
        BackupCommand::Fetch(args) => transfer::fetch(args).await,
        BackupCommand::Upload(args) => transfer::upload(args).await,
        BackupCommand::Verify(args) => local::verify(&args),
        BackupCommand::Restore(args) => local::restore(&args),
        BackupCommand::RestoreNode(args) => restore_node(args).await,
        BackupCommand::Delete(args) => {
            let (_, mut backup) = open(args.client).await?;
            delete(&mut backup, args.id).await
        }
        BackupCommand::Cleanup(args) => cleanup(args).await,
    }
}

async fn open(args: ClientArgs) -> Result<(Client, BackupClient<Channel>), Failure> {
    let client = Client::new(args)?;
    let backup = BackupClient::new(client.any().await?);
    Ok((client, backup))
}

fn answer<T>(result: Result<Response<T>, Status>) -> Result<T, Failure> {
    Ok(result.map_err(|status| failure_of(&status))?.into_inner())
}

fn show(client: &Client, snapshot: &SnapshotMetadata) -> Result<(), Failure> {
    if client.json {
        say!("{}", output::json(snapshot)?);
        return Ok(());
    }
    say!("{}", snapshot.snapshot_id);
    say!(
        "  size        {} bytes, {}",
        count(snapshot.size_bytes),
        snapshot.compression
    );
    say!("  entry       {}.{}", snapshot.term, snapshot.commit_index);
    say!("  log time    {} ms", snapshot.timestamp);
    say!("  digest      {}", snapshot.digest);
    say!("  cluster     {}", snapshot.cluster_id);
    say!("  sidecars    {}", count(snapshot.sidecar_count));
    say!("  groups      {}", count(snapshot.group_count));
    say!(
        "  format      {}, feature level {}",
        snapshot.state_format,
        snapshot.feature_level
    );
    Ok(())
}

async fn list(args: ClientArgs) -> Result<(), Failure> {
    let (client, mut backup) = open(args).await?;
    let list = answer(backup.list_snapshots(ListSnapshotsRequest {}).await)?;
    for snapshot in &list.snapshots {
        match client.json {
            true => say!("{}", output::json(snapshot)?),
            false => say!(
                "{}  {} bytes  entry {}.{}  {}",
                snapshot.snapshot_id,
                count(snapshot.size_bytes),
                snapshot.term,
                snapshot.commit_index,
                snapshot.digest
            ),
        }
    }
    for damaged in &list.damaged {
        eprintln!("{}: damaged: {}", damaged.snapshot_id, damaged.why);
    }
    match list.damaged.len() {
        0 => Ok(()),
        damaged => Err(Failure::new(format!("damaged files: {damaged}"))),
    }
}

async fn describe(args: BackupDescribeArgs) -> Result<(), Failure> {
    let (client, mut backup) = open(args.client).await?;
    let Some(id) = args.id else {
        let state = answer(backup.get_state_metadata(GetStateMetadataRequest {}).await)?;
        return show(
            &client,
            &SnapshotMetadata {
                snapshot_id: "the state now".to_owned(),
                size_bytes: 0,
                commit_index: state.commit_index,
                term: state.term,
                timestamp: state.timestamp,
                sidecar_count: state.sidecar_count,
                group_count: state.group_count,
                state_format: state.state_format,
                feature_level: state.feature_level,
                digest: state.digest,
                cluster_id: state.cluster_id,
                compression: "not written".to_owned(),
            },
        );
    };
    let list = answer(backup.list_snapshots(ListSnapshotsRequest {}).await)?;
    if let Some(damaged) = list.damaged.iter().find(|one| one.snapshot_id == id) {
        return Err(Failure::new(format!("{id} is damaged: {}", damaged.why)));
    }
    match list.snapshots.iter().find(|one| one.snapshot_id == id) {
        Some(snapshot) => show(&client, snapshot),
        None => Err(Failure::new(format!(
            "there is no backup {id} on this node"
        ))),
    }
}

async fn restore_node(args: BackupRestoreNodeArgs) -> Result<(), Failure> {
    let (client, mut backup) = open(args.client).await?;
    let request = RestoreSnapshotRequest {
        snapshot_id: args.id,
        validate_only: args.validate_only,
        target_cluster_id: args.cluster.unwrap_or_default(),
    };
    let done = answer(backup.restore_snapshot(request).await)?;
    if client.json {
        say!("{}", output::json(&done)?);
        return Ok(());
    }
    if let Some(snapshot) = &done.snapshot {
        show(&client, snapshot)?;
    }
    say!("  services    {}", count(done.service_count));
    say!("  pipelines   {}", count(done.pipeline_count));
    match done.restored {
        true => say!(
            "Restored. The node starts anew as the first member, incarnation {}; then add others \
             (`members add`).",
            done.incarnation
        ),
        false => say!("All checks passed. Nothing was changed."),
    }
    Ok(())
}

async fn delete(backup: &mut BackupClient<Channel>, id: String) -> Result<(), Failure> {
    let request = DeleteSnapshotRequest {
        snapshot_id: id.clone(),
    };
    answer(backup.delete_snapshot(request).await)?;
    say!("deleted {id}");
    Ok(())
}

async fn cleanup(args: BackupCleanupArgs) -> Result<(), Failure> {
    let (_, mut backup) = open(args.client).await?;
    let mut all = answer(backup.list_snapshots(ListSnapshotsRequest {}).await)?.snapshots;
    all.retain(|one| one.snapshot_id.starts_with(&args.prefix));
    for id in outdated(all, args.keep) {
        match args.dry_run {
            true => say!("would delete {id}"),
            false => delete(&mut backup, id).await?,
        }
    }
    Ok(())
}

/// All but the newest `keep`, by what they hold, the oldest first.
fn outdated(mut all: Vec<SnapshotMetadata>, keep: u64) -> Vec<String> {
    all.sort_by(|a, b| (a.commit_index, &a.snapshot_id).cmp(&(b.commit_index, &b.snapshot_id)));
    let old = all.len().saturating_sub(keep as usize);
    all.truncate(old);
    all.into_iter().map(|one| one.snapshot_id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let one = |id: &str, commit_index| SnapshotMetadata {
            snapshot_id: id.to_owned(),
            commit_index,
            ..SnapshotMetadata::default()
        };
        let all = vec![one("a", 9), one("b", 100), one("c", 10)];
        assert_eq!(outdated(all.clone(), 2), ["a"]);
        assert_eq!(outdated(all.clone(), 1), ["a", "c"]);
        assert!(outdated(all, 7).is_empty());
    }
}

//! Backups in files, without a cluster.

use std::path::Path;

use conveyor_raft::backup::{BackupLimits, Verified, verify_file};
use conveyor_raft::node::recover::NewCluster;
use conveyor_raft::quic::CredentialFiles;
use conveyor_raft::{Credentials, RouterStateMachine, StateMachine};
use serde::Serialize;

use crate::cli::{BackupRestoreArgs, BackupVerifyArgs};
use crate::failure::{Context, Failure};
use crate::output::{self, count, say};

type Backup = Verified<RouterStateMachine>;

/// What a file holds, for programs.
#[derive(Serialize)]
struct Facts {
    size_bytes: u64,
    compression: String,
    commit_index: u64,
    term: u64,
    timestamp: u64,
    digest: String,
    cluster_id: String,
    feature_level: u32,
    services: usize,
    sidecars: usize,
    pipelines: usize,
    groups: usize,
    /// Who the first member of the new cluster is.
    restored: Option<String>,
}

pub(super) fn verify(args: &BackupVerifyArgs) -> Result<(), Failure> {
    let backup = read(&args.file, args.max_bytes)?;
    tell(&args.file, &facts(&backup), args.json)?;
    if !args.json {
        say!("All checks passed.");
    }
    Ok(())
}

pub(super) fn restore(args: &BackupRestoreArgs) -> Result<(), Failure> {
    let backup = read(&args.file, args.max_bytes)?;
    let credentials = Credentials::load(&CredentialFiles::in_dir(&args.certs, args.node))?;
    let new = NewCluster {
        peer_address: Some(args.address.clone()),
        client_endpoint: Some(args.client_endpoint.clone()),
        ..NewCluster::new(credentials.cluster(), credentials.node())
    };
    let mut facts = facts(&backup);
    backup.check(&args.data_dir, &new)?;
    if args.dry_run {
        tell(&args.file, &facts, args.json)?;
        if !args.json {
            say!(
                "would make {}, node {} of the new cluster {}. Nothing was changed.",
                args.data_dir.display(),
                new.node,
                new.cluster
            );
        }
        return Ok(());
    }
    let me = backup.found(&args.data_dir, &new)?;
    facts.restored = Some(me.to_string());
    tell(&args.file, &facts, args.json)?;
    if !args.json {
        say!(
            "Restored. The first member of cluster {} is {me}. Start it with data_dir = {:?}, the new \
             certificates, no list and join = true under [peers]; then add other nodes (`members add`).",
            new.cluster,
            args.data_dir.display().to_string()
        );
    }
    Ok(())
}

fn read(file: &Path, max_bytes: u64) -> Result<Backup, Failure> {
    let limits = BackupLimits {
        max_bytes,
        ..BackupLimits::default()
    };
    verify_file(file, RouterStateMachine::new(), limits).context(file.display())
}

fn facts(backup: &Backup) -> Facts {
    let (info, view) = (&backup.info, backup.machine.view());
    Facts {
        size_bytes: backup.size,
        compression: backup.compression.to_string(),
        commit_index: info.applied.index,
        term: info.applied.term,
        timestamp: info.time_us / 1000,
        digest: format!("{:032x}", info.digest),
        cluster_id: info.cluster.to_string(),
        feature_level: info.feature_level,
        services: view.services.len(),
        sidecars: view.sidecars.len(),
        pipelines: view.pipelines.len(),
        groups: view.groups.len(),
        restored: None,
    }
}

fn tell(file: &Path, facts: &Facts, json: bool) -> Result<(), Failure> {
    if json {
        say!("{}", output::json(facts)?);
        return Ok(());
    }
    say!("{}", file.display());
    say!(
        "  size        {} bytes, {}",
        count(facts.size_bytes),
        facts.compression
    );
    say!("  entry       {}.{}", facts.term, facts.commit_index);
    say!("  log time    {} ms", facts.timestamp);
    say!("  digest      {}", facts.digest);
    say!("  cluster     {}", facts.cluster_id);
    for (what, number) in [
        ("services", facts.services),
        ("sidecars", facts.sidecars),
        ("pipelines", facts.pipelines),
        ("groups", facts.groups),
    ] {
        say!("  {what:<11} {}", count(number as u64));
    }
    Ok(())
}

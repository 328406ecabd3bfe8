//! The command line of whoever makes and restores backups.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use conveyor_raft::backup::Compression;

use super::ClientArgs;

/// Make, look at, fetch, check and restore backups of the state.
///
/// A backup is one file, checksummed, on the node that is asked, which has to have [backup] dir; a
/// follower will do. Fetch it, and keep it elsewhere. The first endpoint that answers is asked. Needs an
/// operator's certificate; verify and restore work on a file and need none.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub(crate) command: BackupCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    Create(BackupCreateArgs),
    List(BackupListArgs),
    Describe(BackupDescribeArgs),
    Fetch(BackupFetchArgs),
    Upload(BackupUploadArgs),
    Verify(BackupVerifyArgs),
    Restore(Box<BackupRestoreArgs>),
    RestoreNode(BackupRestoreNodeArgs),
    Delete(BackupDeleteArgs),
    Cleanup(BackupCleanupArgs),
}

/// Make a backup of the state as it is now on the node.
///
/// The node goes on meanwhile. The answer comes when the file is on disk and was read back. If the
/// command is interrupted before, nothing is left behind.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft backup create nightly-1 --endpoint https://10.0.0.2:50051 --certs certs"
)]
pub(crate) struct BackupCreateArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Its name: 1 to 128 of a-z, 0-9, '.', '_' and '-'; without it the node makes one
    #[arg(value_name = "ID", default_value = "", hide_default_value = true)]
    pub(crate) id: String,

    /// none, gzip or zstd
    #[arg(long, value_name = "HOW", default_value = "zstd")]
    pub(crate) compression: Compression,
}

/// List the backups of a node, sorted by name, and the files that only look like one.
#[derive(Debug, Args)]
pub(crate) struct BackupListArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Say all that is known of one backup; without a name, of one that would be made now.
#[derive(Debug, Args)]
pub(crate) struct BackupDescribeArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Its name
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// Copy a backup from the node to a file.
///
/// What was cut off is in FILE.part, and goes on from there. FILE appears when its hash is right.
/// Nothing is overwritten. `-` writes to standard output, for a pipe to wherever backups are kept; look
/// at the exit code then.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft backup fetch nightly-1 --out nightly-1.snapshot \
        --endpoint https://10.0.0.2:50051 --certs certs"
)]
pub(crate) struct BackupFetchArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Its name
    #[arg(value_name = "ID")]
    pub(crate) id: String,

    /// Where to; without it ID.snapshot
    #[arg(long, value_name = "FILE|-")]
    pub(crate) out: Option<PathBuf>,
}

/// Copy a backup from a file to a node.
///
/// The node checks everything before it keeps it. A file that was compressed whole, by gzip or zstd, is
/// taken too, and kept as it was before.
///
/// Where the connection breaks it goes on from what the node has, for as long as it gets further within two
/// minutes; the same command, run again within an hour, goes on too.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft backup upload nightly-1.snapshot --id nightly-1 \
        --endpoint https://10.0.0.2:50051 --certs certs"
)]
pub(crate) struct BackupUploadArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Its name there
    #[arg(long, value_name = "ID")]
    pub(crate) id: String,
}

/// Check a file by restoring it into a state that nobody uses.
///
/// Needs no cluster. The exit code is 0 only if the file can be restored.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  conveyor-raft backup verify nightly-1.snapshot"
)]
pub(crate) struct BackupVerifyArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Refuse what is larger, in bytes, compressed or not
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 30)]
    pub(crate) max_bytes: u64,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make the data directory of a new cluster out of a file.
///
/// The new cluster has one member, its own id, that of the new certificates, and begins with the state
/// of the backup. It is another cluster: members and clients of the old one cannot talk to it, and the
/// two never become one history. Start it with `join = true` and no list, then add other nodes.
/// Everything is checked before anything is made, and nothing is overwritten.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft certs init --dir new-certs --cluster shop-2 --node 1 --node 2 --node 3\n  \
        conveyor-raft backup restore nightly-1.snapshot --data-dir /var/lib/conveyor-raft \
        --certs new-certs --node 1 --address 10.0.0.1:50052 \
        --client-endpoint https://10.0.0.1:50051\n\
        All steps: docs/operations.md"
)]
pub(crate) struct BackupRestoreArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// The data directory to make; must not be there
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// The new cluster's certificates, as `certs init` made them: with node-N/, peer-ca.pem and
    /// peer-ca.crl
    #[arg(long, value_name = "CERTS")]
    pub(crate) certs: PathBuf,

    /// The number of the first member
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) node: u64,

    /// Where other nodes will reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: String,

    /// Where clients will reach it
    #[arg(long, value_name = "URL")]
    pub(crate) client_endpoint: String,

    /// Refuse what is larger, in bytes, compressed or not
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 30)]
    pub(crate) max_bytes: u64,

    /// Only check, and say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make a waiting node the first member of a new cluster, from a backup that it has.
///
/// The node runs with an empty directory, join = true and the new cluster's certificates; `upload`
/// brings the backup to it. It starts anew by itself. A node that belongs to a cluster refuses.
/// --validate-only works on any node: it restores into a state that nobody uses, and counts.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft backup restore-node nightly-1 --validate-only \
        --endpoint https://10.0.0.2:50051 --certs certs\n  \
        conveyor-raft backup restore-node nightly-1 --cluster 5d41402abc4b2a76b9719d911017c592 \
        --endpoint https://10.0.0.2:50051 --certs new-certs"
)]
pub(crate) struct BackupRestoreNodeArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Its name on the node
    #[arg(value_name = "ID")]
    pub(crate) id: String,

    /// The new cluster's id in full, as the node's `status` shows it: so that no wrong node is taken
    #[arg(long, value_name = "HEX", required_unless_present = "validate_only")]
    pub(crate) cluster: Option<String>,

    /// Only check
    #[arg(long, conflicts_with = "cluster")]
    pub(crate) validate_only: bool,
}

/// Delete a backup on a node.
#[derive(Debug, Args)]
pub(crate) struct BackupDeleteArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Its name
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Delete all backups of a node but the newest, by what they hold.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    conveyor-raft backup cleanup --keep 24 --dry-run --endpoint https://10.0.0.2:50051 --certs certs")]
pub(crate) struct BackupCleanupArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// How many to keep, at least 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep: u64,

    /// Only those whose names begin so
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) prefix: String,

    /// Only say which
    #[arg(long)]
    pub(crate) dry_run: bool,
}

//! The command line of whoever has lost the majority of a cluster.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

/// Make a new cluster out of one data directory, when the majority of the old one is lost for good.
///
/// THIS CAN LOSE ACKNOWLEDGED COMMANDS. Use it only if a majority of the members can never come back:
/// what those had acknowledged and this directory lacks is lost, and commands in its log that were
/// never committed, and whose proposers may have been told so, become part of the state. Of several
/// directories take the one with the highest term of the last entry, and of those the longest log: see
/// --dry-run.
///
/// The old directory is only read, under its lock, and never changed. NEWDIR gets the state of the
/// last entry, as the first member of another cluster: a new id, that of the new certificates, a new
/// incarnation, an empty log. Members of the old cluster cannot talk to it. Other nodes join with new
/// certificates and empty directories (`members add`).
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("decided").args(["yes", "dry_run"]).multiple(false))]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft recover /var/lib/conveyor-raft --dry-run\n  \
        conveyor-raft certs init --dir new-certs --cluster shop-2 --node 1 --node 2 --node 3\n  \
        conveyor-raft recover /var/lib/conveyor-raft --into /var/lib/conveyor-raft-2 \
        --certs new-certs\n\
        All steps: docs/operations.md"
)]
pub(crate) struct RecoverArgs {
    /// The data directory of a node that does not run, or a copy of it
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// The data directory to make; must not be there
    #[arg(long, value_name = "NEWDIR", required_unless_present = "dry_run")]
    pub(crate) into: Option<PathBuf>,

    /// The new cluster's certificates, as `certs init` made them: with node-N/, peer-ca.pem and
    /// peer-ca.crl
    #[arg(long, value_name = "CERTS", required_unless_present = "dry_run")]
    pub(crate) certs: Option<PathBuf>,

    /// The number of the first member; by default that of the old directory
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) node: Option<u64>,

    /// Where other nodes will reach it; by default as in the old cluster
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,

    /// Where clients will reach it; by default as in the old cluster
    #[arg(long, value_name = "URL")]
    pub(crate) client_endpoint: Option<String>,

    /// Only say what is there and what would be done
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,

    /// Print one object of JSON instead of text; asks nothing, so --yes or --dry-run is needed
    #[arg(long, requires = "decided")]
    pub(crate) json: bool,
}

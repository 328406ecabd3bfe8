//! `conveyor-raft watch`.

use clap::Args;

use super::ClientArgs;

/// Show what changes in a cluster's state, as it changes.
///
/// Without --from the state comes first, then each change. Any node can be asked; when it goes, the watch
/// goes on at another, without a loss. It runs until Ctrl-C. The exit code is 1 if no node has
/// all changes after --from any more: then watch without it.
///
/// Keys are /sidecars/ID, /services/ID, /pipelines/ID, /assignments/SIDECAR/PIPELINE, /locations/NAME/SIDECAR,
/// /groups/ID, /offsets/source/SOURCE/PARTITION, /offsets/group/GROUP/SOURCE/PARTITION,
/// /watermarks/SOURCE/PARTITION and /checkpoints/SERVICE; in an id, / is written %2F and % is written %25.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft watch --endpoint http://127.0.0.1:50051\n  \
        conveyor-raft watch --endpoint https://10.0.0.1:50051 --certs certs \
        --prefix /sidecars/shop%2F --prefix /pipelines/ --json"
)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// What the keys of the records begin with; may be given several times. Without it, all
    #[arg(long = "prefix", value_name = "PREFIX")]
    pub(crate) prefixes: Vec<String>,

    /// Changes after this index, without the state
    #[arg(long, value_name = "INDEX")]
    pub(crate) from: Option<u64>,

    /// Heartbeats and renewals of leases too
    #[arg(long)]
    pub(crate) renewals: bool,

    /// End once everything was shown that is there now
    #[arg(long)]
    pub(crate) once: bool,
}

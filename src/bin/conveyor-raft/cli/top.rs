//! `conveyor-raft top`.

use clap::Args;

use super::ClientArgs;

/// Watch how the nodes of a cluster are doing.
///
/// One line for each endpoint, again and again until Ctrl-C: role, term, how far its log and its state
/// are, how far behind the leader both are, how many entries it applies a second, and how long ago
/// the leader heard it. On a terminal each look takes the place of the one before; elsewhere they
/// come one after the other, with --json one array a line. With --once the exit code is 3 if a
/// node did not answer.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft top --endpoint http://127.0.0.1:50051,http://127.0.0.1:50061\n  \
        conveyor-raft top --config client.toml --once"
)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) every: u64,

    /// Look twice, for the rates, print once and end
    #[arg(long)]
    pub(crate) once: bool,
}

//! The command line of whoever looks after one node, or after this program.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ClientArgs, ServeArgs};

/// Ask whether a node is ready, or live, for probes.
///
/// Ready: a leader is known, what is committed gets applied, and neither a full disk nor an expired
/// certificate keeps the node from its work. Live: the node answers and its replica
/// has not failed; never a matter of the other nodes. The exit code is 3 if it is not. A reader's
/// certificate will do.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft health --live --endpoint https://localhost:50051 --certs certs"
)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Whether it should go on at all, not whether it should get calls
    #[arg(long)]
    pub(crate) live: bool,
}

/// Have a node give leadership up before it is stopped.
///
/// A node that follows is left alone. SIGTERM does the same by itself; this is for scripts that want to
/// know, such as a preStop hook, and returns when the node does not lead any more. --wait also waits
/// until it knows who does. The node goes on as a follower. Needs an operator's certificate.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft leave --wait --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct LeaveArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Wait, for --timeout at most, until another node leads and this one knows it
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Have a node take a snapshot of its state now.
///
/// Its log can then begin behind it. Nodes do this by themselves; it is for before a restart that is to
/// be quick. With several endpoints each is asked. A copy to keep elsewhere is what `backup` makes.
/// Needs an operator's certificate.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft snapshot --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Look at the settings of a node.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    Check(ConfigCheckArgs),
}

/// Check the settings of `serve` and print them, each with where it comes from.
///
/// Takes the same flags and variables as `serve`, reads the certificates, and starts nothing. The exit
/// code is 1 if `serve` would refuse them.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  conveyor-raft config check --config /etc/conveyor-raft.toml"
)]
pub(crate) struct ConfigCheckArgs {
    #[command(flatten)]
    pub(crate) settings: ServeArgs,

    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    conveyor-raft completions bash > /usr/share/bash-completion/completions/conveyor-raft")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// Print the manual page, or write one for each command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    conveyor-raft man | man -l -\n  \
    conveyor-raft man --dir /usr/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write conveyor-raft.1 and a page for each command to this directory, which must be there
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

//! The command line of whoever changes members.

use clap::{Args, Subcommand};

use super::ClientArgs;

/// Show and change who belongs to the cluster.
///
/// A change is taken by the leader, which is found by itself, and by one at a time; the command waits
/// until it is committed. Changes need an operator's certificate.
#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    #[command(subcommand)]
    pub(crate) command: MembersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MembersCommand {
    Show(MembersShowArgs),
    Add(MembersAddArgs),
    Remove(MembersRemoveArgs),
    Replace(MembersReplaceArgs),
    Promote(MembersPromoteArgs),
    Demote(MembersDemoteArgs),
    Update(MembersUpdateArgs),
    Skip(MembersSkipArgs),
}

/// Show who belongs to the cluster, and who waits to be added.
///
/// What is shown is what the leader knows, or the first node that answers if no leader is known. Nodes
/// that wait are those with an empty directory that are connected to a node that was asked: with
/// several endpoints, all are asked.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft members show --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct MembersShowArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Add a node to the cluster.
///
/// The node has to run, with an empty directory, join = true and a member in its list: it then waits,
/// and its incarnation and addresses are known. It receives the log first and votes as soon as it
/// has caught up; with --learner it does not until it is promoted.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft members add 4 --endpoint https://10.0.0.1:50051 --certs certs --wait\n  \
        conveyor-raft members add 5 --learner --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct MembersAddArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The node's number
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,

    /// It is not to vote
    #[arg(long, conflicts_with = "wait")]
    pub(crate) learner: bool,

    #[command(flatten)]
    pub(crate) new: NewMemberArgs,

    /// Wait until it votes, for --timeout at most
    #[arg(long)]
    pub(crate) wait: bool,

    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Remove a member, voter or learner, for good.
///
/// Its directory never comes back; the node may, with an empty one. Stop it when this has returned. If
/// it leads, it hands leadership over.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft members remove 1 --endpoint https://10.0.0.2:50051 --certs certs"
)]
pub(crate) struct MembersRemoveArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The member's number
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,

    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Put a new node in a voter's place.
///
/// For a voter that is lost, or whose directory is: the new node receives the log first, and takes the
/// place in one step as soon as it has caught up. Until then the old one votes, if it still can. The
/// new node has to run and wait as for `members add`.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft members replace 3 --endpoint https://10.0.0.1:50051 --certs certs --wait\n  \
        conveyor-raft members replace 3 --with 6 --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct MembersReplaceArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The number of the voter that goes
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,

    /// The new node's number; without it the same one, in another directory
    #[arg(long, value_name = "NODE")]
    pub(crate) with: Option<u64>,

    #[command(flatten)]
    pub(crate) new: NewMemberArgs,

    /// Wait until the new one votes, for --timeout at most
    #[arg(long)]
    pub(crate) wait: bool,

    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Let a learner vote as soon as it has caught up.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    conveyor-raft members promote 5 --endpoint https://10.0.0.1:50051 --certs certs --wait")]
pub(crate) struct MembersPromoteArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The learner's number
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,

    /// Wait until it votes, for --timeout at most
    #[arg(long)]
    pub(crate) wait: bool,

    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Let a voter go on as a learner.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    conveyor-raft members demote 3 --endpoint https://10.0.0.1:50051 --certs certs")]
pub(crate) struct MembersDemoteArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The voter's number
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,

    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Have every state machine skip a committed command that none of them can apply.
///
/// For an entry at which the state machines of a majority, the leader's included, have stopped: the
/// status shows it as "stopped at". It stays in the log and has no effect, on any node and for good.
/// Nodes that stopped there are to be restarted afterwards.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft members skip 4711 --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct MembersSkipArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The entry's index
    #[arg(value_name = "ENTRY")]
    pub(crate) entry: u64,

    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Give a member other addresses, or another election priority.
///
/// A leader hands over to a voter of a higher priority than its own once that one has been fit to
/// lead for ten election timeouts. Every member begins with priority 0.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft members update 2 --address 10.0.0.12:50052 \
        --endpoint https://10.0.0.1:50051 --certs certs\n  \
        conveyor-raft members update 2 --priority 10 \
        --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct MembersUpdateArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// The member's number
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,

    /// Where peers reach it from now on
    #[arg(
        long,
        value_name = "HOST:PORT",
        required_unless_present_any = ["client_endpoint", "priority"]
    )]
    pub(crate) address: Option<String>,

    /// Where clients reach it from now on
    #[arg(long, value_name = "URL")]
    pub(crate) client_endpoint: Option<String>,

    /// Its election priority from now on
    #[arg(long, value_name = "N")]
    pub(crate) priority: Option<u32>,

    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Who comes in, where it does not say so itself.
#[derive(Debug, Args)]
pub(crate) struct NewMemberArgs {
    /// The life of its directory, 32 hexadecimal digits, as its `status` shows. Without it, that of
    /// the node of this number that waits
    #[arg(long, value_name = "HEX", requires = "address")]
    pub(crate) incarnation: Option<String>,

    /// Where peers reach it; without it, what it says itself while it waits
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,

    /// Where clients reach it; without it, what it says itself while it waits
    #[arg(long, value_name = "URL")]
    pub(crate) client_endpoint: Option<String>,
}

/// When a change is to be refused.
#[derive(Debug, Args)]
pub(crate) struct ConditionArgs {
    /// Only if the members are still those of this index, as `members show` prints it
    #[arg(long, value_name = "INDEX")]
    pub(crate) expected: Option<u64>,
}

/// Hand leadership over to another voter.
///
/// The leader, which is found by itself, waits until the other has its whole log and lets it take over
/// at once; commands wait for that, and none is lost. Needs an operator's certificate. A leader that
/// is stopped by SIGTERM does the same by itself.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft transfer-leadership --to 2 --endpoint https://10.0.0.1:50051 --certs certs"
)]
pub(crate) struct TransferArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// To whom; without it the leader takes the voter that has most of its log
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
}

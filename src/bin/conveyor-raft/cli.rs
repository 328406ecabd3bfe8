//! The command line. The texts here are what a newcomer reads first.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod backup;
mod members;
mod node;
mod recover;
mod top;
mod watch;
pub(crate) use backup::*;
pub(crate) use members::*;
pub(crate) use node::*;
pub(crate) use recover::*;
pub(crate) use top::*;
pub(crate) use watch::*;

/// A replicated log and state machine for Conveyor's router cluster.
///
/// Several nodes keep one state: a command is applied once a majority has it on disk, and each
/// node applies the same commands in the same order. One node leads and takes the commands; if it
/// fails, the others elect another within a fraction of a second.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong command line; 3 nobody there who could, or not now, \
                  and nothing was done; 4 not allowed; 5 outcome unknown\n\n\
                  Try it: conveyor-raft dev --input examples/conveyor-day.ndjson\n\
                  Every command explains itself: conveyor-raft help COMMAND"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Which events to show on standard error: error, warn, info, debug, or by part, such as
    /// `warn,conveyor_raft::node=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "CONVEYOR_RAFT_LOG")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(DevArgs),
    Certs(CertsArgs),
    Serve(ServeArgs),
    Propose(ProposeArgs),
    State(StateArgs),
    Watch(WatchArgs),
    Status(StatusArgs),
    Top(TopArgs),
    Members(MembersArgs),
    #[command(visible_alias = "transfer")]
    TransferLeadership(TransferArgs),
    Health(HealthArgs),
    Leave(LeaveArgs),
    Snapshot(SnapshotArgs),
    Backup(BackupArgs),
    Wal(WalArgs),
    Recover(RecoverArgs),
    Config(ConfigArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Run a whole cluster in this process and feed it commands.
///
/// Starts full nodes, each with its own certificates, log on disk, QUIC endpoint for the other
/// nodes and gRPC port for clients, all on loopback; nothing is simulated. Every command of the
/// input is proposed to the leader, pipelined and in order. When all nodes have applied the last
/// one, figures and each node's digest are printed; digests that differ are a failure.
///
/// The input has one JSON command a line. Blank lines and lines starting with # are skipped. A
/// line that is no command is named with its number and what is wrong with it; the rest goes on,
/// and the exit code is 1. A command that the state machine rejects is no error: that, too, is
/// part of a day. A command whose outcome is unknown, because the leader was lost, is counted and
/// never sent again.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft dev --input examples/conveyor-day.ndjson\n  \
        conveyor-raft dev --dir /tmp/demo --input day.ndjson --exit\n  \
        echo '{\"RegisterSidecar\":{\"sidecar_id\":\"shop/a\",\"endpoint\":\"10.0.0.1:50053\"}}' \
        | conveyor-raft dev --input - --exit"
)]
pub(crate) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) nodes: u64,

    /// Where to keep certificates and logs. The same directory again goes on with what is there.
    /// Without it, a temporary directory is used and removed at exit
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Commands to propose, one JSON object a line; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(crate) input: Option<PathBuf>,

    /// End after the input instead of staying until Ctrl-C
    #[arg(long)]
    pub(crate) exit: bool,

    /// Print the figures as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make the certificates of a cluster.
#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    pub(crate) command: CertsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    Init(CertsInitArgs),
    Add(CertsAddArgs),
    Client(CertsClientArgs),
    Renew(CertsRenewArgs),
    Show(CertsShowArgs),
    Revoke(CertsRevokeArgs),
    Rotate(CertsRotateArgs),
}

/// Make the certificates of further nodes of a cluster.
///
/// For nodes that are to be added (see `members add`). The directory is the one that `certs init` made,
/// with the keys of both CAs. Nothing is ever overwritten.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft certs add --dir certs --node 4 --node 5 --host 10.0.0.4 --host 10.0.0.5"
)]
pub(crate) struct CertsAddArgs {
    /// What `certs init` made
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) dir: PathBuf,

    /// A node's number, at least 1; once for each node
    #[arg(long = "node", value_name = "ID", required = true)]
    pub(crate) nodes: Vec<u64>,

    /// A name or address under which clients reach the nodes, beside localhost, 127.0.0.1 and ::1
    #[arg(long = "host", value_name = "NAME|IP")]
    pub(crate) hosts: Vec<String>,

    #[command(flatten)]
    pub(crate) validity: Validity,

    /// Print what was made as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// How long a certificate is good.
#[derive(Debug, Args)]
pub(crate) struct Validity {
    /// For how many days the certificates are good, 3650 at most
    #[arg(long, value_name = "DAYS", default_value_t = conveyor_raft::quic::certs::LEAF_DAYS)]
    pub(crate) days: u32,
}

/// Make the certificate of a further client.
///
/// It is written to clients/NAME.pem and .key in the directory that `certs init` made, whose CA keys
/// are needed. A reader reads and asks for the status, a writer also proposes, an operator may do
/// everything. Nothing is ever overwritten.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft certs client shop-frontend --role writer --days 90 --dir certs"
)]
pub(crate) struct CertsClientArgs {
    /// The client's name: 1 to 63 lower-case letters, digits and hyphens
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// reader, writer or operator
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: String,

    /// What `certs init` made
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) validity: Validity,

    /// Print what was made as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Issue certificates anew, before they expire.
///
/// The new ones have new keys and the same names, and take the place of the old ones; the old keys
/// go to the directory old. A node takes its new ones up by itself once they are at their place. The old
/// certificates are good until they expire: revoke them by their serial number if a key was lost.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  conveyor-raft certs renew --node 1 --client operator --dir certs"
)]
pub(crate) struct CertsRenewArgs {
    /// A node, both of its certificates; may be given several times
    #[arg(long = "node", value_name = "ID", required_unless_present = "clients")]
    pub(crate) nodes: Vec<u64>,

    /// A client by its name; may be given several times
    #[arg(long = "client", value_name = "NAME")]
    pub(crate) clients: Vec<String>,

    /// What `certs init` made
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) validity: Validity,

    /// Print what was made as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show a directory's certificates: who, until when, serial number, fingerprint, mode of the key.
///
/// Needs no CA's key. The state says what is wrong with one: expired, not yet good, revoked, of a CA that is not
/// in the bundle, or with a key that others can read.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  conveyor-raft certs show --dir certs"
)]
pub(crate) struct CertsShowArgs {
    /// What `certs init` made
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) dir: PathBuf,

    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Revoke the certificates of a node or client before they expire.
///
/// Their serial numbers go on the revocation lists (peer-ca.crl, client-ca.crl), which then are to be copied
/// to every node: a running node takes a list up by itself, and closes the connections of whoever is on it.
/// Certificates that are on a list already change nothing.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    group = clap::ArgGroup::new("whom").required(true),
    after_help = "Examples:\n  \
        conveyor-raft certs revoke --node 3 --dir certs\n  \
        conveyor-raft certs revoke --client shop-frontend\n  \
        conveyor-raft certs revoke --serial 4f0c6a8d5e0f4a1b9c7d2e3f40516273"
)]
pub(crate) struct CertsRevokeArgs {
    /// A node, both of its certificates
    #[arg(long, value_name = "ID", group = "whom")]
    pub(crate) node: Option<u64>,

    /// A client by its name
    #[arg(long, value_name = "NAME", group = "whom")]
    pub(crate) client: Option<String>,

    /// A serial number, in hexadecimal as `certs show` prints it
    #[arg(long, value_name = "HEX", group = "whom")]
    pub(crate) serial: Option<String>,

    /// What `certs init` made
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) dir: PathBuf,

    /// Print what was done as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Move a cluster from its CAs to new ones, while it runs.
///
/// Without a step it says how far the directory is and what is to be done next. There are three steps, and the
/// files of each must be on every node before the next: trust makes two new CAs and has the bundles hold
/// the old and the new; issue makes every certificate anew, by the new CAs; retire has the bundles hold the new CAs
/// alone. A step out of turn is refused, one that was cut off is finished by calling it again. Old keys go to the
/// directory old.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft certs rotate --dir certs\n  \
        conveyor-raft certs rotate trust --dir certs"
)]
pub(crate) struct CertsRotateArgs {
    /// The step to take
    #[arg(value_name = "STEP")]
    pub(crate) step: Option<RotateStep>,

    /// What `certs init` made
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) validity: Validity,

    /// Print what was done, and how far the directory is, as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// A step from old CAs to new ones.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum RotateStep {
    /// Make new CAs, and trust both
    Trust,
    /// Issue every certificate anew, by the new CAs
    Issue,
    /// Trust the new CAs alone
    Retire,
}

/// Make a new cluster's id, its two CAs, and certificates for its nodes and an operator.
///
/// Peers and clients have a CA each, so that a client's certificate opens no node's peer port.
/// Copy node-N/, both *-ca.pem and *-ca.crl to the machine of node N. Keep the two CA keys off
/// the nodes: they are only needed to make further certificates (`certs add`). Keys are readable by their owner
/// only. Nothing is ever overwritten.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft certs init --dir certs --cluster shop --node 1 --node 2 --node 3 \
        --host 10.0.0.1 --host shop.example.org"
)]
pub(crate) struct CertsInitArgs {
    /// Where to write; made if needed
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) dir: PathBuf,

    /// The cluster's name, for people: 1 to 63 lower-case letters, digits and hyphens
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: String,

    /// A node's number, at least 1; once for each node
    #[arg(long = "node", value_name = "ID", required = true)]
    pub(crate) nodes: Vec<u64>,

    /// A name or address under which clients reach the nodes, beside localhost, 127.0.0.1 and ::1
    #[arg(long = "host", value_name = "NAME|IP")]
    pub(crate) hosts: Vec<String>,

    #[command(flatten)]
    pub(crate) validity: Validity,

    /// Print what was made as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run one node of a cluster.
///
/// The settings come from a TOML file; each can be overridden by a variable of the environment,
/// CONVEYOR_RAFT__SECTION__KEY, and some by a flag. An unknown key is an error. SIGTERM and Ctrl-C
/// close the node cleanly.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "A file for node 1 of three, with the certificates of `certs init`:\n\n  \
[node]\n  id = 1\n  data_dir = \"/var/lib/conveyor-raft\"\n\n  \
[peers]\n  listen = \"0.0.0.0:50052\"\n  advertise = \"10.0.0.1:50052\"\n  \
list = [{ id = 2, addr = \"10.0.0.2:50052\" }, { id = 3, addr = \"10.0.0.3:50052\" }]\n  \
ca = \"certs/peer-ca.pem\"\n  crl = \"certs/peer-ca.crl\"\n  \
cert = \"certs/node-1/peer.pem\"\n  key = \"certs/node-1/peer.key\"\n\n  \
[edge]\n  listen = \"0.0.0.0:50051\"\n  advertise = \"10.0.0.1:50051\"\n  \
client_ca = \"certs/client-ca.pem\"\n  crl = \"certs/client-ca.crl\"\n  \
cert = \"certs/node-1/edge.pem\"\n  key = \"certs/node-1/edge.key\"\n\n\
Paths in the file are relative to the file. All keys: docs/configuration.md"
)]
pub(crate) struct ServeArgs {
    /// The settings
    #[arg(long, value_name = "FILE", env = "CONVEYOR_RAFT_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// [node] id
    #[arg(long, value_name = "ID", env = "RAFT_NODE_ID")]
    pub(crate) node_id: Option<String>,

    /// [node] data_dir
    #[arg(long, value_name = "DIR", env = "DATA_DIR")]
    pub(crate) data_dir: Option<String>,

    /// [edge] listen
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen_addr: Option<String>,

    /// [peers] listen
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) raft_addr: Option<String>,

    /// [peers] list: another node as ID:HOST:PORT; repeated, or separated by commas
    #[arg(
        long,
        value_name = "ID:HOST:PORT",
        value_delimiter = ',',
        env = "RAFT_PEERS"
    )]
    pub(crate) peers: Vec<String>,
}

/// Where a cluster is and who asks.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Where a node takes calls: https://HOST:PORT, or http://HOST:PORT for a plain listener such
    /// as those of `dev`, or unix:PATH. Several, separated by commas, are tried in turn
    #[arg(
        long = "endpoint",
        value_name = "URL",
        value_delimiter = ',',
        required_unless_present = "config",
        env = "CONVEYOR_RAFT_ENDPOINT"
    )]
    pub(crate) endpoints: Vec<String>,

    /// The CA of clients and servers, PEM
    #[arg(long, value_name = "FILE", env = "CONVEYOR_RAFT_CA")]
    pub(crate) ca: Option<PathBuf>,

    /// The own certificate, PEM
    #[arg(long, value_name = "FILE", env = "CONVEYOR_RAFT_CERT")]
    pub(crate) cert: Option<PathBuf>,

    /// The own private key, PEM; readable by its owner only
    #[arg(long, value_name = "FILE", env = "CONVEYOR_RAFT_KEY")]
    pub(crate) key: Option<PathBuf>,

    /// Take --ca, --cert and --key from a directory that `certs init` made
    #[arg(long, value_name = "DIR", conflicts_with_all = ["ca", "cert", "key"])]
    pub(crate) certs: Option<PathBuf>,

    /// Settings for what the flags do not say, TOML: endpoints (a list), ca, cert, key. Paths are
    /// relative to the file
    #[arg(long, value_name = "FILE", env = "CONVEYOR_RAFT_CLIENT_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Give up on a call after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) timeout: u64,

    /// Print JSON, one object a line, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Send commands to a cluster.
///
/// Commands are JSON objects, given as arguments or, one a line, in a file. They are proposed in
/// their order, in a session; the leader is found by itself, and a command whose outcome got lost is
/// sent again until that is known, and applied once. The outcome of each is printed. A command that the
/// state machine rejects had no effect. The exit code is 1 if a line is no command, 3 if
/// nobody took one in time, and 5 if the outcome of one is unknown when the time is over.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft propose --endpoint http://127.0.0.1:50051 \
        '{\"RegisterSidecar\":{\"sidecar_id\":\"shop/a\",\"endpoint\":\"10.0.0.1:50053\"}}'\n  \
        conveyor-raft propose --endpoint https://10.0.0.1:50051 --certs certs --input day.ndjson"
)]
pub(crate) struct ProposeArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Commands, each a JSON object
    #[arg(
        value_name = "COMMAND",
        conflicts_with = "input",
        required_unless_present = "input"
    )]
    pub(crate) commands: Vec<String>,

    /// Commands, one a line; - reads standard input
    #[arg(long, visible_alias = "file", value_name = "FILE|-")]
    pub(crate) input: Option<PathBuf>,

    /// Where the leader cannot be reached: a node that does not lead passes the commands on
    #[arg(long)]
    pub(crate) forward: bool,
}

/// What a read reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Consistency {
    Local,
    Lease,
    Linearizable,
}

/// Show a cluster's state.
///
/// The state is that of the node that is asked, as far as it has applied commands, which may be a
/// little behind the leader. --at-least waits for an index, such as that of a command just
/// proposed, and --consistency linearizable for everything that was acknowledged before.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft state --endpoint http://127.0.0.1:50051\n  \
        conveyor-raft state --endpoint https://10.0.0.1:50051 --certs certs --full --json"
)]
pub(crate) struct StateArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Every record, not only how many there are
    #[arg(long)]
    pub(crate) full: bool,

    /// How new it has to be: what the node has (local), everything acknowledged before (linearizable), or the
    /// same by the leader's lease where the nodes have one
    #[arg(long, value_enum, default_value_t = Consistency::Local, conflicts_with = "at_least")]
    pub(crate) consistency: Consistency,

    /// Wait until this index is applied on the node
    #[arg(
        long,
        value_name = "INDEX",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) at_least: u64,
}

/// Show how a node sees itself and the others.
///
/// Role, term, leader, how far its log, disk and state are, and, on the leader, how far the other
/// nodes are. With several endpoints, each is asked. The JSON form has the figures of --links too.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  \
        conveyor-raft status --endpoint http://127.0.0.1:50051,http://127.0.0.1:50061"
)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Also show each connection between nodes: how far it is, its figures, how earlier ones ended.
    #[arg(long)]
    pub(crate) links: bool,

    /// Ask every member, wherever it takes calls, instead of the endpoints: one of those says who they are
    #[arg(long)]
    pub(crate) all: bool,
}

/// Look at a node's log on disk, check it, repair it.
///
/// dump and verify only read: they take no lock, change no byte and map nothing, so they can be
/// used on the directory of a running node, on a copy and on what is damaged.
#[derive(Debug, Args)]
pub(crate) struct WalArgs {
    #[command(subcommand)]
    pub(crate) command: WalCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    Dump(WalDumpArgs),
    Verify(WalVerifyArgs),
    Repair(WalRepairArgs),
}

/// Show everything that the files of a log hold, as far as it can be read.
///
/// Term, vote and log start (never the directory's secrets), HINT, each segment's header, and each
/// batch with its entries. Where something is damaged it says so, and goes on with what is whole
/// behind it. Whether a log opens is what `verify` tells.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft wal dump /var/lib/conveyor-raft\n  \
        conveyor-raft wal dump /var/lib/conveyor-raft --from 100 --to 120 --payloads text"
)]
pub(crate) struct WalDumpArgs {
    /// The node's data directory, or a copy of it
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// Show entries from this index on
    #[arg(
        long,
        value_name = "INDEX",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) from: u64,

    /// Show entries up to this index
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) to: u64,

    /// Show the first bytes of each payload
    #[arg(long, value_name = "FORM")]
    pub(crate) payloads: Option<PayloadForm>,

    /// How many bytes of a payload to show
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub(crate) preview: usize,

    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// How payloads are shown.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum PayloadForm {
    /// Hexadecimal
    Hex,
    /// UTF-8; everything else and control characters as escapes
    Text,
}

/// Check whether a log would open.
///
/// Reads everything and checks what a starting node would check, without changing anything. The
/// exit code is 0 if the log would open, 1 if it would be refused, 2 for a wrong command line.
///
/// The log of a running node changes while it is read; a change under way is not taken for damage.
/// It is not closed, so it is called unclean.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  conveyor-raft wal verify /var/lib/conveyor-raft"
)]
pub(crate) struct WalVerifyArgs {
    /// The node's data directory, or a copy of it
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Keep the whole part of a log that is refused as corrupt.
///
/// Says what is kept and what is lost, and asks. What is removed stays in the directory under
/// names that begin with repair-; nothing is deleted. The replica keeps its identity, term and
/// vote, but has forgotten entries that it may have acknowledged. So META says from then on that
/// the log is under repair: the node starts with it, catches up with the leader that the others
/// elect without it, and votes and counts only after that. A majority of the others must be well.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        conveyor-raft wal repair /var/lib/conveyor-raft --dry-run\n  \
        conveyor-raft wal repair /var/lib/conveyor-raft --yes"
)]
pub(crate) struct WalRepairArgs {
    /// The data directory of a node that does not run
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

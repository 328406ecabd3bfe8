//! What goes into the core and what comes out of it.

use std::sync::Arc;

use super::change::Change;
use super::configuration::Configuration;
use super::hand_over::HandOverError;
use super::membership::ChangeError;
use super::message::{AppendEntries, Class, Message, SnapshotChunk, SnapshotOffer};
use super::snapshots::{SnapshotInput, SnapshotMark};
use crate::types::{
    HardState, Incarnation, LogId, LogIndex, Micros, NodeId, ReplicaId, Term, WriteId,
};

/// How the core is set up. All times in microseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A follower waits at least this long for a leader.
    pub election_timeout_min: Micros,
    /// And less than this.
    pub election_timeout_max: Micros,
    /// A leader says that it lives this often.
    pub heartbeat_interval: Micros,
    /// Append bytes on their way to one peer.
    pub max_inflight_bytes: usize,
    /// Appends on their way to one peer.
    pub max_inflight_appends: usize,
    /// Entry bytes in one append.
    pub max_append_bytes: usize,
    /// Whether reads may rest on leases, and then by how many millionths one clock may run faster
    /// than another (hazard A9).
    pub lease_drift_ppm: Option<u32>,
    /// Seed of the election timeouts. Different on every node, or votes split.
    pub seed: u64,
}

/// What the log held when the node opened it.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The longest election timeout that this replica told others in any earlier life.
    pub told_election_timeout: Micros,
    /// The cluster's founder; none while blank.
    pub genesis: Incarnation,
    /// The log starts after this entry.
    pub snapshot: LogId,
    /// The last entry.
    pub last: LogId,
    /// Runs of equal terms: term and first index.
    pub terms: Vec<LogId>,
    /// Configurations in the log, by index; the first may be the snapshot's.
    pub configurations: Vec<(LogIndex, Arc<Configuration>)>,
    /// The log lost entries and was repaired: up to where it must be whole before this replica
    /// counts again, 0.0 while that is not known.
    pub repairing: Option<LogId>,
    /// The snapshot that the state machine started from.
    pub stored: Option<SnapshotMark>,
}

/// The founding members, known before any configuration exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundingList {
    /// Numbers of the *other* first members.
    pub others: Vec<NodeId>,
    /// The explicit word that a cluster of one may be founded.
    pub single: bool,
    /// Where peers reach this node.
    pub peer_address: String,
    /// Where clients reach this node.
    pub client_endpoint: String,
}

/// What a peer's hello said that the core needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerHello {
    /// The peer holds no configuration.
    pub blank: bool,
    /// The peer's log is under repair.
    pub repairing: bool,
    /// Its cluster's founder.
    pub genesis: Incarnation,
    /// The highest feature level that its release knows.
    pub knows_level: u32,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_endpoint: String,
}

/// What the core needs to know of the entries beside a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySummary {
    /// Index of the first entry.
    pub first: LogIndex,
    /// How many.
    pub count: u32,
    /// Runs of equal terms: term and first index.
    pub terms: Vec<LogId>,
    /// Configurations among them.
    pub configurations: Vec<(LogIndex, Arc<Configuration>)>,
    /// Whether the log has room for them at the moment.
    pub fits: bool,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed; due whenever [`RaftCore::deadline`](super::RaftCore::deadline) says so.
    Tick,
    /// A message came in.
    Message {
        /// Who sent it, by its connection.
        from: ReplicaId,
        /// What it says.
        message: Message,
        /// The entries beside it.
        entries: EntrySummary,
    },
    /// A stream to a peer is ready.
    PeerUp {
        /// Who answered.
        peer: ReplicaId,
        /// Which class.
        class: Class,
        /// The stream's epoch.
        epoch: u64,
        /// What its hello said.
        hello: PeerHello,
    },
    /// A stream to a peer is gone.
    PeerDown {
        /// Whose.
        node: NodeId,
        /// Which class.
        class: Class,
        /// Which epoch.
        epoch: u64,
    },
    /// After a send was refused: there is room again.
    Writable {
        /// To whom.
        node: NodeId,
        /// In which epoch.
        epoch: u64,
    },
    /// What is sent on the data stream to a peer gets there, though no answer has come for a while.
    GetsThrough {
        /// To whom.
        node: NodeId,
        /// In which epoch.
        epoch: u64,
    },
    /// Clients propose `count` commands. Only for a leader, see
    /// [`RaftCore::is_leader`](super::RaftCore::is_leader).
    Propose {
        /// How many.
        count: u32,
    },
    /// What the driver made of an [`Output::Replicate`].
    Replicated {
        /// To whom.
        to: NodeId,
        /// Its `seq`.
        seq: u64,
        /// How far it got, and how many bytes; `None`: nothing was taken.
        sent: Option<(LogIndex, usize)>,
    },
    /// This write and all before it are durable.
    Durable {
        /// The newest durable write.
        id: WriteId,
    },
    /// Somebody here wants to read what reflects everything acknowledged so far; answered by
    /// [`Output::ReadReady`], or not at all: then ask again, as another attempt.
    Read {
        /// Number of the attempt, never used before: not by an earlier life of the process either.
        id: u64,
    },
    /// Hand leadership over: to this member, or to the one that has most of the log.
    HandOver {
        /// To whom.
        to: Option<NodeId>,
    },
    /// Change the members.
    Change {
        /// Only if the configuration in force is the one at this index.
        expected: Option<LogIndex>,
        /// What, all in one step.
        changes: Vec<Change>,
    },
    /// The oldest write has waited for the disk for an election timeout, or waits no more.
    DiskStalls(bool),
    /// The log has no room even for the entries that the core makes itself (a disk is full, or the
    /// next segment is not ready), or has it again. Comes before the input that it matters to.
    NoRoom(bool),
    /// Something about snapshots.
    Snapshot(SnapshotInput),
    /// The state machine has applied this far.
    Applied {
        /// Index.
        index: LogIndex,
    },
    /// The state machine's state had this digest when it had applied this far.
    Digest {
        /// Index.
        index: LogIndex,
        /// The digest.
        digest: u128,
    },
    /// All that came in one burst is in; decide what follows from it as a whole.
    Settle,
    /// The state machine cannot apply this entry; the log is sound.
    Quarantine {
        /// Index.
        index: LogIndex,
    },
    /// The log or the state machine failed: promise nothing any more.
    Fail {
        /// Why.
        reason: String,
    },
}

/// Where the entries of a [`Persist`] come from.
#[derive(Clone, Debug)]
pub enum AppendSource {
    /// None.
    None,
    /// The commands of the [`Input::Propose`] being handled.
    Proposals {
        /// Index of the first.
        first: LogIndex,
        /// How many.
        count: u32,
    },
    /// Those beside the message being handled, from this index on.
    Message {
        /// First index to append.
        from: LogIndex,
    },
    /// The empty entry that opens a term (Raft paper, section 8).
    Noop {
        /// Its index.
        index: LogIndex,
    },
    /// A configuration.
    Configuration {
        /// Its index.
        index: LogIndex,
        /// What it says.
        configuration: Arc<Configuration>,
    },
}

/// A write for the log. Order: hard state and genesis, truncation, entries.
#[derive(Clone, Debug)]
pub struct Persist {
    /// Its number; rises by one.
    pub id: WriteId,
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// The founder, when it becomes known.
    pub genesis: Option<Incarnation>,
    /// Drop this entry and all after it first.
    pub truncate_from: Option<LogIndex>,
    /// Term of entries that this node makes itself.
    pub term: Term,
    /// Then append these.
    pub append: AppendSource,
}

/// Something to do, in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Hand a write to the log.
    Persist(Persist),
    /// Send a message without entries, at once or, which is the durability contract, once the
    /// write `after` is durable.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// Not before this write is durable.
        after: Option<WriteId>,
    },
    /// Send entries `prev + 1 ..= last`, as many as fit `max_bytes` but at least one if there is
    /// one, and report with [`Input::Replicated`] before any other input.
    Replicate {
        /// To whom.
        to: NodeId,
        /// The message; `count` is for the sender to fill in.
        append: AppendEntries,
        /// Last entry to send.
        last: LogIndex,
        /// Room in the window.
        max_bytes: usize,
    },
    /// Send entry 1 beside a [`Message::Found`].
    SendFirstEntry {
        /// To whom.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Entries up to here are committed and may be applied.
    Commit {
        /// Index.
        index: LogIndex,
    },
    /// Once the state machine has applied this far, it reflects everything that was acknowledged
    /// before the read was asked for; so it does for all that were asked for earlier.
    ReadReady {
        /// Of which [`Input::Read`].
        id: u64,
        /// What to have applied.
        index: LogIndex,
    },
    /// Offer this snapshot to a peer, over its bulk connection.
    OfferSnapshot {
        /// To whom.
        to: NodeId,
        /// Which.
        mark: SnapshotMark,
    },
    /// A peer has all of a snapshot up to `offset`: send what follows.
    SendChunks {
        /// To whom.
        to: NodeId,
        /// Which.
        id: u128,
        /// From where on.
        offset: u64,
    },
    /// A peer says that what it received of this snapshot has another hash.
    CheckSnapshot {
        /// Which.
        mark: SnapshotMark,
    },
    /// Take an offer; what came of it goes to [`SnapshotInput::Took`].
    TakeOffer {
        /// From whom.
        from: ReplicaId,
        /// The offer.
        offer: SnapshotOffer,
    },
    /// Take the chunk beside the message being handled, likewise.
    TakeChunk {
        /// From whom.
        from: ReplicaId,
        /// The chunk.
        chunk: SnapshotChunk,
    },
    /// Restore the state machine from a snapshot that was received; nothing else is applied until
    /// [`SnapshotInput::Restored`] says how it went.
    Restore {
        /// Which.
        mark: SnapshotMark,
    },
    /// The state machine stands at a snapshot: let the log begin after it, as write `id`.
    Install {
        /// Number of the write.
        id: WriteId,
        /// The snapshot's last entry.
        last: LogId,
    },
    /// As write `id`, keep the floor of the repair under way, or end it.
    Repair {
        /// Number of the write.
        id: WriteId,
        /// The floor; none: the log is whole again.
        floor: Option<LogId>,
    },
    /// Something to tell others.
    Event(Event),
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This node leads from now on.
    BecameLeader {
        /// The term.
        term: Term,
    },
    /// It leads no more: proposals appended and not committed have an unknown outcome.
    SteppedDown {
        /// The term it led.
        term: Term,
        /// Why.
        why: &'static str,
    },
    /// Leadership was not handed over; this node goes on as it was.
    HandOverFailed {
        /// Why.
        why: HandOverError,
    },
    /// The members were not changed.
    ChangeRefused {
        /// Why.
        why: ChangeError,
    },
    /// Entries from here on were dropped from the log.
    Truncated {
        /// First index dropped.
        from: LogIndex,
    },
    /// Another configuration is in force.
    Configured {
        /// Its index.
        index: LogIndex,
        /// What it says.
        configuration: Arc<Configuration>,
    },
    /// The state here is not that of a quorum: this replica stops.
    Diverged {
        /// Where that was seen.
        index: LogIndex,
        /// Digest of the state here.
        own: u128,
        /// And of the quorum's.
        agreed: u128,
    },
    /// The members' states differ, and no quorum of them says which is right.
    StatesDiffer {
        /// Where that was seen.
        index: LogIndex,
        /// The digests that are known.
        digests: Vec<(NodeId, u128)>,
    },
    /// An operator has to do something; the text says what.
    Advice(String),
    /// This replica must stop: going on would break a promise.
    Fatal(String),
}

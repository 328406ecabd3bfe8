//! What peers say to each other. The bytes of each message are in `wire.rs`; entries travel beside
//! a message, never inside it.

use crate::types::{Incarnation, LogId, LogIndex, Micros, Term};

/// What kind of member the sender of a reply is, as of sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ReplicaState {
    /// Part of a cluster.
    #[default]
    Member = 0,
    /// Holds no configuration yet.
    Blank = 1,
    /// Recovering a damaged log from its peers; its word does not count.
    Repairing = 2,
}

/// Asks a follower to append the entries beside it (Raft paper, figure 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// Epoch of the data stream.
    pub epoch: u64,
    /// +1 for every append of this epoch.
    pub seq: u64,
    /// The entry before the first one sent.
    pub prev: LogId,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// The sender's monotonic clock, echoed.
    pub sent_at: Micros,
    /// How many entries come with it; 0 probes.
    pub count: u32,
}

/// How a follower took an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AppendStatus {
    /// The log equals the leader's up to `match_index`, durably.
    Matched = 0,
    /// `prev` is not in the log; `conflict` says where to try next.
    Conflict = 1,
    /// The sender's term is over (the header has the newer one).
    StaleTerm = 2,
    /// Not taken for want of room; ask again later.
    Busy = 3,
}

/// The answer to [`AppendEntries`], sent once what it promises is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendAck {
    /// The follower's term.
    pub term: Term,
    /// The follower's incarnation.
    pub incarnation: Incarnation,
    /// Epoch of the append answered.
    pub epoch: u64,
    /// Number of the append answered.
    pub seq: u64,
    /// Highest index known equal to the leader's log and durable.
    pub match_index: LogIndex,
    /// With `Conflict`: the follower's last index below `prev` that may match, and its term.
    pub conflict: LogId,
    /// Echo.
    pub sent_at: Micros,
    /// How it went.
    pub status: AppendStatus,
    /// What the follower is.
    pub state: ReplicaState,
}

/// Asks for a vote, or with pre-vote whether one would be given (thesis, section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// The term to lead; of a pre-vote, the one it would be.
    pub term: Term,
    /// The candidate's incarnation.
    pub incarnation: Incarnation,
    /// The candidate's election round; replies to an earlier one are void.
    pub round: u64,
    /// The candidate's last entry.
    pub last: LogId,
    /// A leadership transfer: a voter answers although it hears a leader.
    pub transfer: bool,
}

/// Why a vote was not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum VoteReason {
    /// It was given.
    #[default]
    Granted = 0,
    /// The candidate's term is over.
    StaleTerm = 1,
    /// Another candidate has it.
    AlreadyVoted = 2,
    /// The candidate's log is behind.
    LogBehind = 3,
    /// A leader is heard from, or this voter just started.
    Sticky = 4,
    /// This replica does not vote (blank of another founding, repairing, failed).
    NoVoter = 5,
}

/// The answer to [`VoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The voter's term (hazard A5: a rejection carries the higher one). For a granted pre-vote,
    /// the term asked about.
    pub term: Term,
    /// The voter's incarnation.
    pub incarnation: Incarnation,
    /// Echo.
    pub round: u64,
    /// Whether the vote is given.
    pub granted: bool,
    /// Why not.
    pub reason: VoteReason,
    /// What the voter is.
    pub state: ReplicaState,
}

/// Keeps followers from campaigning and tells them what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// Epoch of the control stream.
    pub epoch: u64,
    /// +1 for every heartbeat of this epoch.
    pub seq: u64,
    /// min(commit, the receiver's match): it may overtake the appends.
    pub commit: LogIndex,
    /// The sender's monotonic clock, echoed.
    pub sent_at: Micros,
    /// A read that wants a quorum's word; 0 = none.
    pub read_id: u64,
}

/// The answer to [`Heartbeat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The follower's term.
    pub term: Term,
    /// The follower's incarnation.
    pub incarnation: Incarnation,
    /// Echo.
    pub epoch: u64,
    /// Echo.
    pub seq: u64,
    /// Echo.
    pub sent_at: Micros,
    /// Echo.
    pub read_id: u64,
    /// How far the follower has applied.
    pub applied: LogIndex,
    /// Index of the last digest taken.
    pub digest_index: LogIndex,
    /// The state's digest there.
    pub digest: u128,
    /// The follower's smallest election timeout, for leases.
    pub election_timeout_min_ms: u32,
    /// What the follower is.
    pub state: ReplicaState,
}

/// Gives a blank node the cluster's first entry (which travels beside it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Term of entry 1.
    pub term: Term,
    /// The founder's incarnation, the cluster's genesis.
    pub founder: Incarnation,
}

/// How a node took [`Found`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FoundStatus {
    /// Entry 1 is stored durably.
    Stored = 0,
    /// This node already belongs to another founding.
    Refused = 1,
}

/// The answer to [`Found`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundReply {
    /// The sender's term.
    pub term: Term,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// How it went.
    pub status: FoundStatus,
}

/// Asks the leader which index a linearizable read has to reflect (thesis, section 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// The asker's term.
    pub term: Term,
    /// The asker's incarnation.
    pub incarnation: Incarnation,
    /// Number of the attempt; never used twice (hazard F2).
    pub id: u64,
}

/// The answer to [`ReadIndex`], once a quorum has confirmed the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndexReply {
    /// The answerer's term.
    pub term: Term,
    /// Echo.
    pub id: u64,
    /// What to have applied before the read; none if the asked does not lead in the asker's term.
    pub index: Option<LogIndex>,
}

/// Tells a follower to campaign at once: leadership is handed over to it (thesis, section 3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
    /// The life of the target that is meant.
    pub target: Incarnation,
    /// The leader's last entry, which the target must hold (hazard A12).
    pub last: LogId,
}

/// The answer to [`TimeoutNow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNowReply {
    /// The target's term, the new one if it campaigns.
    pub term: Term,
    /// The target's incarnation.
    pub incarnation: Incarnation,
    /// Whether it campaigns.
    pub accepted: bool,
}

/// One message between peers. Which class of connection carries it is in [`Message::class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Entries (data).
    Append(AppendEntries),
    /// Its answer (data).
    AppendAck(AppendAck),
    /// Would you vote for me? (control)
    PreVote(VoteRequest),
    /// Its answer (control).
    PreVoteReply(VoteReply),
    /// Vote for me (control).
    Vote(VoteRequest),
    /// Its answer (control).
    VoteReply(VoteReply),
    /// A leader lives (control).
    Heartbeat(Heartbeat),
    /// Its answer (control).
    HeartbeatReply(HeartbeatReply),
    /// Which index must a read reflect? (control)
    ReadIndex(ReadIndex),
    /// Its answer (control).
    ReadIndexReply(ReadIndexReply),
    /// Campaign now (control).
    TimeoutNow(TimeoutNow),
    /// Its answer (control).
    TimeoutNowReply(TimeoutNowReply),
    /// The first entry (control).
    Found(Found),
    /// Its answer (control).
    FoundReply(FoundReply),
}

/// The class of connection a message travels on; each is a QUIC connection of its own, so that
/// none delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Votes, heartbeats, reads, hand-overs, founding.
    Control = 0,
    /// Entries and their acks.
    Data = 1,
}

impl Message {
    /// The class of connection that carries it.
    pub const fn class(&self) -> Class {
        match self {
            Self::Append(_) | Self::AppendAck(_) => Class::Data,
            _ => Class::Control,
        }
    }

    /// Whether it answers a request: replies go back on the stream that the request came on.
    pub const fn is_reply(&self) -> bool {
        matches!(
            self,
            Self::AppendAck(_)
                | Self::PreVoteReply(_)
                | Self::VoteReply(_)
                | Self::HeartbeatReply(_)
                | Self::ReadIndexReply(_)
                | Self::TimeoutNowReply(_)
                | Self::FoundReply(_)
        )
    }

    /// The term in the message's header.
    pub const fn term(&self) -> Term {
        match self {
            Self::Append(m) => m.term,
            Self::AppendAck(m) => m.term,
            Self::PreVote(m) | Self::Vote(m) => m.term,
            Self::PreVoteReply(m) | Self::VoteReply(m) => m.term,
            Self::Heartbeat(m) => m.term,
            Self::HeartbeatReply(m) => m.term,
            Self::ReadIndex(m) => m.term,
            Self::ReadIndexReply(m) => m.term,
            Self::TimeoutNow(m) => m.term,
            Self::TimeoutNowReply(m) => m.term,
            Self::Found(m) => m.term,
            Self::FoundReply(m) => m.term,
        }
    }
}

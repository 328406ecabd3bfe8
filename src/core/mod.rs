//! The protocol as a pure state machine: [`RaftCore`].
//!
//! It has no clock, randomness, file or socket: time and the seed are arguments, and what it wants
//! done comes out as [`Output`]s, to be carried out in order. Its log is a list of terms; entries
//! stay with the driver.
//!
//! Sections cited are those of the Raft paper (extended version) unless the thesis is named.
#![forbid(unsafe_code)]

mod change;
mod configuration;
mod digests;
mod election;
mod features;
mod follower;
mod founding;
mod hand_over;
mod io;
mod leader;
mod membership;
mod message;
mod mute;
mod peer;
mod preference;
mod quarantine;
mod random;
mod reads;
mod repairing;
mod snapshots;
mod term_runs;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use change::Change;
pub use configuration::{Configuration, ConfigurationError, MemberInfo, Promotion};
pub use hand_over::HandOverError;
pub use io::{
    AppendSource, EntrySummary, Event, FoundingList, Input, Output, PeerHello, Persist, Recovered,
    Settings,
};
pub use membership::ChangeError;
pub use message::*;
pub use snapshots::{SnapshotInput, SnapshotMark};

use crate::types::{
    HardState, Incarnation, LogId, LogIndex, Micros, NodeId, ReplicaId, Term, WriteId,
};
use digests::Digests;
use election::Campaign;
pub(crate) use features::{FEATURES, is_beyond};
use founding::Founding;
use hand_over::HandOver;
use peer::Peer;
use random::Random;
use reads::Reads;
use repairing::Repairing;
use snapshots::Snapshots;
use term_runs::TermRuns;

/// What a node is at the moment (section 5.1; pre-candidate: thesis, section 9.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RaftRole {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it would win before it disturbs anyone.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// A leader's view of one peer, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerProgress {
    /// A data stream is up.
    pub connected: bool,
    /// The peer's log equals ours up to here, durably.
    pub match_index: LogIndex,
    /// Bytes on their way.
    pub inflight_bytes: usize,
    /// Last reply in this term.
    pub last_contact: Micros,
    /// It is sent the snapshot that ends with this entry.
    pub snapshot: Option<LogIndex>,
}

/// The protocol. See the module.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct RaftCore {
    me: ReplicaId,
    settings: Settings,
    random: Random,
    hard: HardState,
    genesis: Incarnation,
    log: TermRuns,
    /// Configurations in the log, oldest first; the last one is in force.
    configurations: Vec<(LogIndex, Arc<Configuration>)>,
    /// The other members of the configuration in force, kept beside it.
    others: Arc<[ReplicaId]>,
    role: RaftRole,
    leader: Option<NodeId>,
    campaign: Campaign,
    founding: Founding,
    peers: BTreeMap<NodeId, Peer>,
    reads: Reads,
    hand_over: HandOver,
    snapshots: Snapshots,
    digests: Digests,
    /// The log lost entries and was repaired: until it has them again this replica does not count.
    repairing: Option<Repairing>,
    commit: LogIndex,
    applied: LogIndex,
    /// Own entries known durable.
    durable: LogIndex,
    /// Equal to the current leader's log up to here, as checked in this term (hazard B8).
    verified: LogIndex,
    /// Writes handed out and not yet durable, with the last index each leaves.
    writes: VecDeque<(WriteId, LogIndex)>,
    next_write: WriteId,
    /// The write that makes the current term and vote durable, while it is not.
    term_write: Option<WriteId>,
    election_deadline: Micros,
    heartbeat_due: Micros,
    /// Votes are refused until then, since a leader lives (or may, just after a start).
    sticky_until: Micros,
    /// The own disk has not answered for an election timeout: no time to lead.
    disk_stalls: bool,
    /// The log cannot take an entry of this node's own.
    no_room: bool,
    /// The state machine stopped at this entry.
    quarantined: Option<LogIndex>,
    /// Lowest and highest feature level of this release.
    features: (u32, u32),
    failed: bool,
}

impl RaftCore {
    /// A replica that starts at time `now` with what its log held.
    pub fn new(
        me: ReplicaId,
        settings: Settings,
        recovered: Recovered,
        founding: FoundingList,
        now: Micros,
    ) -> Self {
        let fresh = recovered.last.index == 0 && recovered.hard_state.term == 0;
        // What a snapshot stands for is committed.
        let applied = recovered
            .stored
            .map_or(recovered.snapshot.index, |mark| mark.last.index);
        let mut core = Self {
            me,
            random: Random::new(settings.seed),
            hard: recovered.hard_state,
            genesis: recovered.genesis,
            log: TermRuns::new(recovered.snapshot, recovered.last.index, recovered.terms),
            configurations: recovered.configurations,
            others: Arc::default(),
            role: RaftRole::Follower,
            leader: None,
            campaign: Campaign::default(),
            founding: Founding::new(founding),
            peers: BTreeMap::new(),
            reads: Reads::default(),
            hand_over: HandOver::default(),
            snapshots: Snapshots::new(recovered.stored),
            digests: Digests::default(),
            repairing: recovered.repairing.map(Repairing::new),
            commit: applied,
            applied,
            durable: recovered.last.index,
            verified: 0,
            writes: VecDeque::new(),
            next_write: 1,
            term_write: None,
            election_deadline: 0,
            heartbeat_due: 0,
            sticky_until: if fresh {
                0
            } else {
                now + settings
                    .election_timeout_max
                    .max(recovered.told_election_timeout)
            },
            disk_stalls: false,
            no_room: false,
            quarantined: None,
            features: FEATURES,
            failed: false,
            settings,
        };
        core.configuration_changed();
        core.restart_election_timer(now);
        core
    }

    /// Takes one input at time `now` and appends what is to be done to `out`.
    ///
    /// After a burst of inputs comes one [`Input::Settle`], which decides what follows from all of
    /// them: so batches form by themselves under load.
    pub fn step(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        if self.failed {
            return;
        }
        match input {
            Input::Tick => self.tick(now, out),
            Input::Message {
                from,
                message,
                entries,
            } => {
                self.receive(now, from, message, entries, out);
            }
            Input::PeerUp {
                peer,
                class,
                epoch,
                hello,
            } => {
                self.peers
                    .entry(peer.node)
                    .or_default()
                    .link_up(peer, class, epoch, hello);
                self.greet(now, peer, class, out);
            }
            Input::PeerDown { node, class, epoch } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.link_down(class, epoch);
                }
            }
            Input::Writable { node, epoch } => {
                if let Some(peer) = self.peers.get_mut(&node).filter(|p| p.data == Some(epoch)) {
                    peer.refused = false;
                }
            }
            Input::GetsThrough { node, epoch } => self.gets_through(now, node, epoch),
            Input::Propose { count } => self.propose(count, out),
            Input::Replicated { to, seq, sent } => self.replicated(now, to, seq, sent, out),
            Input::Durable { id } => self.written(now, id, out),
            Input::Read { id } => self.read(id, out),
            Input::HandOver { to } => self.begin_hand_over(now, to, out),
            Input::Change { expected, changes } => self.change(expected, &changes, out),
            Input::DiskStalls(stalls) => self.disk_stalls(now, stalls, out),
            Input::NoRoom(no_room) => self.no_room = no_room,
            Input::Snapshot(input) => self.on_snapshot_input(input, out),
            Input::Applied { index } => self.applied = self.applied.max(index),
            Input::Digest { index, digest } => self.note_digest(now, index, digest, out),
            Input::Settle => {
                self.settle_repair(out);
                self.settle(now, out);
            }
            Input::Quarantine { index } => self.quarantine(now, index),
            Input::Fail { reason } => self.fail(reason, out),
        }
    }

    /// When [`Input::Tick`] is due. Never, once the replica has failed: it would take no tick.
    pub fn deadline(&self) -> Micros {
        match self.role {
            _ if self.failed => Micros::MAX,
            RaftRole::Leader => self.leader_deadline(),
            _ if self.founding_in_progress() => self.heartbeat_due.min(self.election_deadline),
            _ => self.election_deadline,
        }
    }

    fn tick(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.tick_founding(now, out);
        match self.role {
            RaftRole::Leader => self.tick_leader(now, out),
            _ if now >= self.election_deadline => self.election_timeout(now, out),
            _ => {}
        }
    }

    fn receive(
        &mut self,
        now: Micros,
        from: ReplicaId,
        message: Message,
        entries: EntrySummary,
        out: &mut Vec<Output>,
    ) {
        match message {
            Message::Append(append) => self.on_append(now, from, append, entries, out),
            Message::AppendAck(ack) => self.on_append_ack(now, from, ack, out),
            Message::Heartbeat(heartbeat) => self.on_heartbeat(now, from, heartbeat, out),
            Message::HeartbeatReply(reply) => self.on_heartbeat_reply(now, from, reply, out),
            Message::ReadIndex(ask) => self.on_read_index(from, ask, out),
            Message::ReadIndexReply(reply) => self.on_read_index_reply(now, from, reply, out),
            Message::TimeoutNow(urge) => self.on_timeout_now(now, from, urge, out),
            Message::TimeoutNowReply(reply) => self.on_timeout_now_reply(now, from, reply, out),
            Message::PreVote(request) => self.on_pre_vote(now, from, request, out),
            Message::PreVoteReply(reply) => self.on_pre_vote_reply(now, from, reply, out),
            Message::Vote(request) => self.on_vote(now, from, request, out),
            Message::VoteReply(reply) => self.on_vote_reply(now, from, reply, out),
            Message::Found(found) => self.on_found(from, found, entries, out),
            Message::FoundReply(reply) => self.on_found_reply(now, from, reply, out),
            Message::SnapshotOffer(offer) => self.on_snapshot_offer(now, from, offer, out),
            Message::SnapshotChunk(chunk) => self.on_snapshot_chunk(now, from, chunk, out),
            Message::SnapshotAck(ack) => self.on_snapshot_ack(now, from, ack, out),
        }
    }

    /// A link came up: what waited for it goes out.
    fn greet(&mut self, now: Micros, peer: ReplicaId, class: Class, out: &mut Vec<Output>) {
        if class != Class::Control {
            return;
        }
        match self.role {
            RaftRole::PreCandidate | RaftRole::Candidate => self.ask_vote(peer.node, out),
            RaftRole::Leader => self.send_heartbeat(now, peer.node, out),
            RaftRole::Follower => self.greet_founding(now, peer, out),
        }
    }

    // ---- writes ----

    fn persist(&mut self, out: &mut Vec<Output>, write: impl FnOnce(&mut Persist)) -> WriteId {
        let mut persist = Persist {
            id: self.next_write,
            hard_state: None,
            genesis: None,
            truncate_from: None,
            term: self.hard.term,
            append: AppendSource::None,
        };
        write(&mut persist);
        self.next_write += 1;
        if persist.hard_state.is_some() {
            self.term_write = Some(persist.id);
        }
        self.writes.push_back((persist.id, self.log.last().index));
        let id = persist.id;
        out.push(Output::Persist(persist));
        id
    }

    fn written(&mut self, now: Micros, id: WriteId, out: &mut Vec<Output>) {
        while let Some(&(write, last)) = self.writes.front().filter(|(write, _)| *write <= id) {
            self.durable = self.durable.max(last);
            self.writes.pop_front();
            if self.term_write == Some(write) {
                self.term_write = None;
            }
        }
        self.repair_written(id);
        self.own_vote_durable(now, out);
        self.founded_durably(now, out);
    }

    /// The write after which everything up to `index` and the current term are durable.
    fn durability_of(&self, index: LogIndex) -> Option<WriteId> {
        let entries = if index <= self.durable {
            None
        } else {
            self.writes
                .iter()
                .find(|(_, last)| *last >= index)
                .map(|(id, _)| *id)
        };
        entries.max(self.term_write)
    }

    /// Drops `from` and all after it; completions of older writes no longer vouch for it (B6).
    fn truncate(&mut self, from: LogIndex, out: &mut Vec<Output>) {
        self.log.truncate(from);
        self.durable = self.durable.min(from - 1);
        for (_, last) in &mut self.writes {
            *last = (*last).min(from - 1);
        }
        let before = self.configurations.len();
        self.configurations.retain(|(index, _)| *index < from);
        self.configuration_changed();
        out.push(Output::Event(Event::Truncated { from }));
        if self.configurations.len() < before
            && let Some((index, configuration)) = self.configurations.last().cloned()
        {
            out.push(Output::Event(Event::Configured {
                index,
                configuration,
            }));
        }
    }

    fn adopt_configuration(
        &mut self,
        index: LogIndex,
        configuration: Arc<Configuration>,
        out: &mut Vec<Output>,
    ) {
        let before = self.others();
        self.configurations
            .push((index, Arc::clone(&configuration)));
        self.configuration_changed();
        if self.role == RaftRole::Leader {
            self.welcome(&before);
        }
        out.push(Output::Event(Event::Configured {
            index,
            configuration,
        }));
    }

    // ---- terms and failure ----

    /// Enters a newer term as a follower without a vote.
    fn enter_term(&mut self, now: Micros, term: Term, out: &mut Vec<Output>) {
        debug_assert!(term > self.hard.term);
        self.step_down(now, "a newer term", out);
        self.hard = HardState {
            term,
            voted_for: ReplicaId::default(),
        };
        self.leader = None;
        self.verified = 0;
        let hard = self.hard;
        self.persist(out, |write| write.hard_state = Some(hard));
    }

    /// Becomes a follower in the same term; the vote stays (hazard A2).
    fn step_down(&mut self, now: Micros, why: &'static str, out: &mut Vec<Output>) {
        if self.role == RaftRole::Leader {
            out.push(Output::Event(Event::SteppedDown {
                term: self.hard.term,
                why,
            }));
            self.leader = None;
            self.hand_over = HandOver::default();
            self.drop_reads(out);
        }
        if self.role != RaftRole::Follower {
            self.role = RaftRole::Follower;
            self.restart_election_timer(now);
        }
    }

    /// A leader whose disk hangs can only hold the others up: appends of its own become durable on
    /// a majority of others, but a disk like that seldom hangs alone (hazards B12, C10).
    fn disk_stalls(&mut self, now: Micros, stalls: bool, out: &mut Vec<Output>) {
        self.disk_stalls = stalls;
        if stalls && self.role == RaftRole::Leader {
            self.step_down(
                now,
                "its disk has not answered for an election timeout",
                out,
            );
        }
    }

    fn fail(&mut self, reason: String, out: &mut Vec<Output>) {
        if self.role == RaftRole::Leader {
            let why = "the replica failed";
            out.push(Output::Event(Event::SteppedDown {
                term: self.hard.term,
                why,
            }));
        }
        self.role = RaftRole::Follower;
        self.leader = None;
        self.failed = true;
        out.push(Output::Event(Event::Fatal(reason)));
    }

    fn restart_election_timer(&mut self, now: Micros) {
        let (min, max) = (
            self.settings.election_timeout_min,
            self.settings.election_timeout_max,
        );
        self.election_deadline = now + self.random.between(min, max) + self.quarantine_patience();
    }

    fn advance_commit(&mut self, to: LogIndex, out: &mut Vec<Output>) {
        if to > self.commit {
            self.commit = to;
            out.push(Output::Commit { index: to });
        }
    }

    // ---- what others may see ----

    /// Who this replica is.
    pub fn me(&self) -> ReplicaId {
        self.me
    }

    /// Its role.
    pub fn role(&self) -> RaftRole {
        self.role
    }

    /// Whether it leads, so that [`Input::Propose`] may follow.
    pub fn is_leader(&self) -> bool {
        self.role == RaftRole::Leader
    }

    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Term and vote.
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// The founder's incarnation; none while blank.
    pub fn genesis(&self) -> Incarnation {
        self.genesis
    }

    /// The last entry.
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// Term of the entry at `index`, if the log has it.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// Highest index that the state machine is known to have applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Highest index known committed.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// Highest own entry known durable.
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Whether the log was last said to have no room.
    pub(crate) fn has_no_room(&self) -> bool {
        self.no_room
    }

    /// A disk that keeps a write waiting for longer has stalled, microseconds.
    pub(crate) fn stall_limit(&self) -> Micros {
        self.settings.election_timeout_max
    }

    /// How often a leader says that it lives, microseconds.
    pub(crate) fn heartbeat_interval(&self) -> Micros {
        self.settings.heartbeat_interval
    }

    /// Whether it takes part no more.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// The configuration in force: the last one in the log, committed or not.
    pub fn configuration(&self) -> Option<&Arc<Configuration>> {
        self.configurations
            .last()
            .map(|(_, configuration)| configuration)
    }

    /// Index of the configuration in force; 0 while there is none.
    pub fn configured_at(&self) -> LogIndex {
        self.configurations.last().map_or(0, |(index, _)| *index)
    }

    /// All configurations in the log, by index.
    pub(crate) fn configurations(&self) -> &[(LogIndex, Arc<Configuration>)] {
        &self.configurations
    }

    /// Whether the log holds no configuration.
    pub fn is_blank(&self) -> bool {
        self.configurations.is_empty()
    }

    /// What is known of a peer.
    pub fn peer(&self, node: NodeId) -> Option<PeerProgress> {
        self.peers.get(&node).map(|peer| PeerProgress {
            connected: peer.data.is_some(),
            match_index: peer.match_index,
            inflight_bytes: peer.window.bytes(),
            last_contact: peer.last_contact,
            snapshot: peer.receives().map(|mark| mark.last.index),
        })
    }

    fn state(&self) -> ReplicaState {
        if self.is_repairing() {
            ReplicaState::Repairing
        } else if self.is_blank() {
            ReplicaState::Blank
        } else if self.quarantined.is_some() {
            ReplicaState::Quarantined
        } else {
            ReplicaState::Member
        }
    }

    /// The other members in force.
    fn others(&self) -> Arc<[ReplicaId]> {
        Arc::clone(&self.others)
    }

    fn configuration_changed(&mut self) {
        let members = self.configurations.last().map(|(_, configuration)| {
            let members = configuration.members().map(|member| member.replica);
            members.filter(|who| *who != self.me).collect()
        });
        self.others = members.unwrap_or_default();
        // Promises were made to the leader of another configuration (hazard A9).
        self.peers
            .values_mut()
            .for_each(|peer| peer.lease_until = 0);
    }

    /// What this leader knows of a peer in the life that a configuration names, for everything that
    /// is counted: another life of the same number counts for nobody (hazard E8), nor does who has
    /// lost entries (hazard C5).
    fn holder(&self, who: ReplicaId) -> Option<&Peer> {
        let peer = self.peers.get(&who.node);
        peer.filter(|peer| peer.answered == Some(who) && !peer.repairing)
    }

    fn votes(&self) -> bool {
        self.configuration()
            .is_some_and(|configuration| configuration.is_voter(self.me))
    }

    fn send(&self, to: NodeId, message: Message, after: Option<WriteId>, out: &mut Vec<Output>) {
        out.push(Output::Send { to, message, after });
    }
}

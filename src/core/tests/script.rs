//! One core and a hand that feeds it: for rules that need an exact order of inputs.

use std::sync::Arc;

use super::super::{
    AppendAck, AppendEntries, AppendStatus, Class, Configuration, EntrySummary, Event,
    FoundingList, Heartbeat, HeartbeatReply, Input, MemberInfo, Message, Output, PeerHello,
    Persist, RaftCore, ReplicaState, Settings, VoteReason, VoteReply, VoteRequest,
};
use super::bed::{T_MAX, incarnation, settings};
use super::disk::Image;
use crate::types::{HardState, LogId, LogIndex, Micros, NodeId, ReplicaId, Term, WriteId};

/// Node `node` in its first life.
/// So much later the next append may leave, whatever is under way.
pub(super) const PACED: Micros = 2_000;

pub(super) fn replica(node: NodeId) -> ReplicaId {
    ReplicaId::new(node, incarnation(node, 1))
}

/// The first `count` nodes as voters.
pub(super) fn voters(count: usize) -> Arc<Configuration> {
    let member = |node| MemberInfo {
        replica: replica(node),
        ..MemberInfo::default()
    };
    Arc::new(Configuration {
        incoming: (1..=count as NodeId).map(member).collect(),
        feature_level: 1,
        ..Configuration::default()
    })
}

/// A log with these terms, the first entry a configuration of `count` voters, in term `term`.
pub(super) fn image(count: usize, terms: &[Term], term: Term) -> Image {
    let mut image = Image {
        hard: HardState {
            term,
            voted_for: ReplicaId::default(),
        },
        genesis: incarnation(1, 1),
        configurations: vec![(1, voters(count))],
        ..Image::default()
    };
    for term in terms {
        image.push(*term, u64::MAX);
    }
    image
}

/// A core, and all that it has put out and was not looked at yet.
pub(super) struct Script {
    pub(super) core: RaftCore,
    pub(super) now: Micros,
    pub(super) out: Vec<Output>,
}

impl Script {
    /// Node `node` of `count`, with this log, long after its start.
    pub(super) fn new(node: NodeId, count: usize, terms: &[Term], term: Term) -> Self {
        Self::open(node, &image(count, terms, term))
    }

    pub(super) fn open(node: NodeId, image: &Image) -> Self {
        Self::with_settings(node, image, settings(node))
    }

    pub(super) fn with_settings(node: NodeId, image: &Image, settings: Settings) -> Self {
        let list = FoundingList::default();
        Self {
            core: RaftCore::new(replica(node), settings, image.recovered(), list, 0),
            now: T_MAX,
            out: Vec::new(),
        }
    }

    /// One input, and every append that follows from it is taken whole.
    pub(super) fn feed(&mut self, input: Input) {
        let mut at = self.out.len();
        self.core.step(self.now, input, &mut self.out);
        while at < self.out.len() {
            if let Output::Replicate {
                to, append, last, ..
            } = &mut self.out[at]
            {
                append.count = (*last - append.prev.index.min(*last)) as u32;
                let (to, seq) = (*to, append.seq);
                let sent = Some((append.prev.index + u64::from(append.count), 100));
                let input = Input::Replicated { to, seq, sent };
                self.core.step(self.now, input, &mut self.out);
            }
            at += 1;
        }
    }

    pub(super) fn tell(&mut self, from: NodeId, message: Message) {
        self.tell_as(replica(from), message);
    }

    pub(super) fn tell_as(&mut self, from: ReplicaId, message: Message) {
        self.tell_with(from, message, EntrySummary::default());
    }

    pub(super) fn tell_with(&mut self, from: ReplicaId, message: Message, entries: EntrySummary) {
        self.feed(Input::Message {
            from,
            message,
            entries,
        });
    }

    /// An append from `from` of entries with these terms after `prev`, in epoch 1.
    pub(super) fn append(
        &mut self,
        from: NodeId,
        term: Term,
        prev: LogId,
        terms: &[Term],
        commit: LogIndex,
    ) {
        let append = AppendEntries {
            term,
            epoch: 1,
            seq: 0,
            prev,
            commit,
            sent_at: self.now,
            count: terms.len() as u32,
        };
        let entries = summary(prev.index + 1, terms);
        self.tell_with(replica(from), Message::Append(append), entries);
    }

    pub(super) fn durable(&mut self, id: WriteId) {
        self.feed(Input::Durable { id });
    }

    pub(super) fn settle(&mut self) {
        self.feed(Input::Settle);
    }

    pub(super) fn connect(&mut self, peer: NodeId, epoch: u64) {
        for class in [Class::Control, Class::Data] {
            self.feed(Input::PeerUp {
                peer: replica(peer),
                class,
                epoch,
                hello: PeerHello::default(),
            });
        }
    }

    /// Lets the timer fire.
    pub(super) fn time_out(&mut self) {
        self.now = self.now.max(self.core.deadline());
        self.feed(Input::Tick);
        let next = self.core.deadline();
        assert!(next > self.now, "the timer fires for ever at {next}");
    }

    /// Through pre-vote to a candidate whose own vote is under way; returns that write.
    pub(super) fn campaign(&mut self, helper: NodeId) -> WriteId {
        self.time_out();
        let asked = self.last_request();
        self.tell(helper, Message::PreVoteReply(grant(helper, asked)));
        let writes = self.writes();
        writes.last().expect("the own vote is written").id
    }

    /// Wins with the help of one voter.
    pub(super) fn lead(&mut self, helper: NodeId) {
        let write = self.campaign(helper);
        self.durable(write);
        let asked = self.last_request();
        self.tell(helper, Message::VoteReply(grant(helper, asked)));
        assert!(self.core.is_leader(), "two of three are a quorum");
    }

    pub(super) fn writes(&self) -> Vec<Persist> {
        let write = |output: &Output| match output {
            Output::Persist(persist) => Some(persist.clone()),
            _ => None,
        };
        self.out.iter().filter_map(write).collect()
    }

    pub(super) fn sends(&self) -> Vec<(NodeId, Message, Option<WriteId>)> {
        let send = |output: &Output| match output {
            Output::Send { to, message, after } => Some((*to, *message, *after)),
            _ => None,
        };
        self.out.iter().filter_map(send).collect()
    }

    pub(super) fn appends_to(&self, node: NodeId) -> Vec<AppendEntries> {
        let append = |output: &Output| match output {
            Output::Replicate { to, append, .. } if *to == node => Some(*append),
            _ => None,
        };
        self.out.iter().filter_map(append).collect()
    }

    pub(super) fn events(&self) -> Vec<Event> {
        let event = |output: &Output| match output {
            Output::Event(event) => Some(event.clone()),
            _ => None,
        };
        self.out.iter().filter_map(event).collect()
    }

    /// The request of the round going on.
    pub(super) fn last_request(&self) -> VoteRequest {
        let request = |(_, message, _): &(NodeId, Message, Option<WriteId>)| match message {
            Message::PreVote(request) | Message::Vote(request) => Some(*request),
            _ => None,
        };
        let sends = self.sends();
        let last = sends.iter().rev().find_map(request);
        last.expect("someone was asked")
    }

    pub(super) fn last_vote_reply(&self) -> (VoteReply, Option<WriteId>) {
        match self.sends().last() {
            Some((_, Message::VoteReply(reply) | Message::PreVoteReply(reply), after)) => {
                (*reply, *after)
            }
            other => panic!("expected a vote reply, not {other:?}"),
        }
    }

    pub(super) fn last_ack(&self) -> (AppendAck, Option<WriteId>) {
        match self.sends().last() {
            Some((_, Message::AppendAck(ack), after)) => (*ack, *after),
            other => panic!("expected an ack, not {other:?}"),
        }
    }

    /// The log as terms.
    pub(super) fn terms(&self) -> Vec<Term> {
        let indexes = 1..=self.core.last().index;
        indexes.filter_map(|at| self.core.term_at(at)).collect()
    }
}

pub(super) fn summary(first: LogIndex, terms: &[Term]) -> EntrySummary {
    let mut runs: Vec<LogId> = Vec::new();
    for (term, index) in terms.iter().zip(first..) {
        if runs.last().is_none_or(|run| run.term != *term) {
            runs.push(LogId::new(*term, index));
        }
    }
    EntrySummary {
        first,
        count: terms.len() as u32,
        terms: runs,
        configurations: Vec::new(),
        fits: true,
    }
}

pub(super) fn grant(from: NodeId, asked: VoteRequest) -> VoteReply {
    VoteReply {
        term: asked.term,
        incarnation: incarnation(from, 1),
        round: asked.round,
        granted: true,
        reason: VoteReason::Granted,
        state: ReplicaState::Member,
    }
}

pub(super) fn reject(from: NodeId, asked: VoteRequest, term: Term) -> VoteReply {
    VoteReply {
        term,
        granted: false,
        reason: VoteReason::StaleTerm,
        ..grant(from, asked)
    }
}

pub(super) fn request(from: NodeId, term: Term, last: LogId) -> VoteRequest {
    VoteRequest {
        term,
        incarnation: incarnation(from, 1),
        round: 1,
        last,
        transfer: false,
    }
}

/// What a follower answers to this append.
pub(super) fn matched(from: NodeId, append: AppendEntries, index: LogIndex) -> AppendAck {
    AppendAck {
        term: append.term,
        incarnation: incarnation(from, 1),
        epoch: append.epoch,
        seq: append.seq,
        match_index: index,
        conflict: LogId::default(),
        sent_at: append.sent_at,
        status: AppendStatus::Matched,
        state: ReplicaState::Member,
    }
}

pub(super) fn heartbeat(term: Term, commit: LogIndex) -> Heartbeat {
    Heartbeat {
        term,
        epoch: 1,
        seq: 0,
        commit,
        sent_at: 0,
        read_id: 0,
        digest_index: 0,
        digest: 0,
    }
}

pub(super) fn beat_reply(from: NodeId, term: Term, epoch: u64) -> HeartbeatReply {
    HeartbeatReply {
        term,
        incarnation: incarnation(from, 1),
        epoch,
        seq: 0,
        sent_at: 0,
        read_id: 0,
        applied: 0,
        digest_index: 0,
        digest: 0,
        election_timeout_min_ms: 150,
        state: ReplicaState::Member,
    }
}

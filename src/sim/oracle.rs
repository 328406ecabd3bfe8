//! What somebody who sees every disk and every message knows, and the invariants that follow.
//!
//! * S1 election safety: one leader a term. S2 vote durability: one candidate a term and replica,
//!   across restarts; a leader has a durable quorum of votes.
//! * S4 log matching: the same index and term, the same history. S5 leader completeness.
//! * S6 what is committed never changes. S7 the commit rule, on what the disks hold. S8 what is
//!   committed outlives every crash.
//! * S9 terms, commit and applied never fall. S10 applied, commit and last are in order.
//! * S11 and S12 what is applied is committed, with equal digests at equal index.
//! * S13 one change of members at a time, over quorums that intersect.
//! * S17 what clients were told is true. S19 what is promised to a peer is durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::session_model::{SessionCounts, SessionModel};
use super::truth::{Image, Item};
use crate::core::{AppendStatus, Configuration, Message, ReplicaState};
use crate::snapshot::SnapshotHead;
use crate::types::{LogId, LogIndex, NodeId, ReplicaId, Term};

/// A committed entry.
#[derive(Clone, Copy, Debug)]
struct Committed {
    item: Item,
    /// The term in which it was first seen committed.
    in_term: Term,
    /// How many commands took effect up to here.
    place: u64,
}

/// Facts that outlive crashes.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    leaders: BTreeMap<Term, ReplicaId>,
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
    terms: BTreeMap<ReplicaId, Term>,
    cells: HashMap<(LogIndex, Term), u64>,
    committed: Vec<Committed>,
    digests: BTreeMap<LogIndex, u128>,
    /// By hash of the payload: which command it is.
    commands: HashMap<u64, u64>,
    /// By command: its place among the committed commands.
    places: HashMap<u64, u64>,
    /// Commands of which a client was told that they never will be applied.
    refused: HashMap<u64, String>,
    /// By hash of the payload: what no state machine can apply.
    poison: BTreeSet<u64>,
    /// The state machine proposes commands of its own.
    own_commands: bool,
    /// The last image of directories that are lost, and of logs before a repair that has not ended:
    /// what they promised stays promised. `None` if nobody knows what it was.
    graves: BTreeMap<ReplicaId, Option<Arc<Image>>>,
    /// Replicas whose state was made another one on purpose.
    diverged: BTreeSet<ReplicaId>,
    /// The newest configuration that is committed, and its index.
    governing: Option<(LogIndex, Arc<Configuration>)>,
    /// Every configuration that some replica knew as committed, by its index.
    configured: BTreeMap<LogIndex, Arc<Configuration>>,
    sessions: SessionModel,
}

/// What is durable at every replica; `None` where a lying disk makes it meaningless.
pub(crate) type Durable = BTreeMap<ReplicaId, Option<Arc<Image>>>;

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Oracle {
    pub(crate) fn new(own_commands: bool) -> Self {
        Self {
            own_commands,
            ..Self::default()
        }
    }

    pub(crate) fn committed(&self) -> LogIndex {
        self.committed.len() as LogIndex
    }

    pub(crate) fn session_counts(&self) -> SessionCounts {
        self.sessions.counts
    }

    /// By all that is committed.
    pub(crate) fn session_is_open(&self, session: LogIndex) -> bool {
        self.sessions.is_open(session)
    }

    pub(crate) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(crate) fn highest_term(&self) -> Term {
        self.leaders.last_key_value().map_or(0, |(term, _)| *term)
    }

    pub(crate) fn bury(&mut self, who: ReplicaId, image: Option<Arc<Image>>) {
        self.graves.entry(who).or_insert(image);
    }

    /// Its log was repaired: a term that only entries stood for may be forgotten with them.
    pub(crate) fn repaired(&mut self, who: ReplicaId, before: Option<Arc<Image>>) {
        self.terms.remove(&who);
        self.bury(who, before);
    }

    /// It has back what it promised, and counts again.
    pub(crate) fn unearth(&mut self, who: ReplicaId) {
        self.graves.remove(&who);
    }

    pub(crate) fn graves(&self) -> &BTreeMap<ReplicaId, Option<Arc<Image>>> {
        &self.graves
    }

    /// A founder crashed before its entry 1 was durable, so before anybody was given it: it may
    /// found anew, with another one.
    pub(crate) fn forgets_founding(&mut self) {
        self.cells.remove(&(1, 1));
    }

    /// A client is about to propose this.
    pub(crate) fn proposes(&mut self, id: u64, payload: &[u8]) -> Result<(), String> {
        let hash = xxhash_rust::xxh3::xxh3_64(payload);
        let before = self.commands.insert(hash, id);
        check(before.is_none(), || {
            format!("the workload encodes commands {before:?} and {id} alike")
        })
    }

    /// A command that no state machine can apply: the cluster will have to skip it.
    pub(crate) fn poisons(&mut self, payload: &[u8]) {
        self.poison.insert(xxhash_rust::xxh3::xxh3_64(payload));
    }

    /// S4, for an entry that a log holds.
    pub(crate) fn holds(
        &mut self,
        who: ReplicaId,
        at: LogIndex,
        item: &Item,
    ) -> Result<(), String> {
        let cell = *self.cells.entry((at, item.term)).or_insert(item.hash);
        check(cell == item.hash, || {
            format!("S4: {who} holds another history at {}.{at}", item.term)
        })
    }

    /// S2 and S9, for what was read back from a disk.
    pub(crate) fn durable(&mut self, who: ReplicaId, image: &Image) -> Result<(), String> {
        let hard = image.hard;
        let term = self.terms.entry(who).or_default();
        check(hard.term >= *term, || {
            format!("S9: {who} forgot term {term} and is back in {}", hard.term)
        })?;
        *term = hard.term;
        if hard.voted_for.node == 0 {
            return Ok(());
        }
        let vote = *self.votes.entry((who, hard.term)).or_insert(hard.voted_for);
        check(vote == hard.voted_for, || {
            format!(
                "S2: {who} voted for {vote} and {} in term {}",
                hard.voted_for, hard.term
            )
        })
    }

    /// S1, S2 and S5, for a leader seen in a term for the first time. Whether it was.
    pub(crate) fn leads(
        &mut self,
        who: ReplicaId,
        term: Term,
        hash_at: impl Fn(LogIndex) -> Option<u64>,
    ) -> Result<bool, String> {
        let fresh = !self.leaders.contains_key(&term);
        let leader = *self.leaders.entry(term).or_insert(who);
        check(leader == who, || {
            format!("S1: {leader} and {who} lead term {term}")
        })?;
        let older = self.committed.partition_point(|entry| entry.in_term < term);
        if let Some(entry) = older.checked_sub(1).and_then(|nth| self.committed.get(nth)) {
            check(hash_at(older as LogIndex) == Some(entry.item.hash), || {
                format!("S5: {who} leads term {term} without what was committed up to {older}")
            })?;
        }
        Ok(fresh)
    }

    /// S2: a leader's votes are on the disks of a quorum.
    pub(crate) fn elected(
        &mut self,
        who: ReplicaId,
        term: Term,
        configuration: &Arc<Configuration>,
        durable: &Durable,
    ) -> Result<(), String> {
        let voted = |voter: ReplicaId| match durable.get(&voter) {
            Some(Some(image)) => {
                let hard = image.hard;
                hard.term > term || hard.term == term && hard.voted_for == who
            }
            Some(None) => true,
            None => false,
        };
        check(configuration.is_voter(who), || {
            format!("{who} leads and is no voter")
        })?;
        check(configuration.is_quorum(voted), || {
            format!("S2: {who} leads term {term} without a durable quorum of votes")
        })
    }

    /// The newest configuration that is committed.
    pub(crate) fn governing(&self) -> Option<(LogIndex, Arc<Configuration>)> {
        self.governing.clone()
    }

    /// S13, for the configurations in a leader's log, which has committed up to `commit`: at most
    /// one is not committed, and any two quorums of neighbours have a replica in common.
    pub(crate) fn governs(
        &mut self,
        who: ReplicaId,
        commit: LogIndex,
        configurations: &[(LogIndex, Arc<Configuration>)],
    ) -> Result<(), String> {
        let open = configurations.iter().filter(|(index, _)| *index > commit);
        check(open.count() <= 1, || {
            format!("S13: {who} has more than one change under way")
        })?;
        for pair in configurations.windows(2) {
            let [(_, before), (index, after)] = pair else {
                continue;
            };
            let known = self.governing.as_ref().map_or(0, |(known, _)| *known);
            check(*index <= known || intersect(before, after), || {
                format!(
                    "S13: quorums of the configuration at {index} and before have nobody in common"
                )
            })?;
        }
        let newest = configurations
            .iter()
            .rev()
            .find(|(index, _)| *index <= commit);
        if let Some((index, newest)) = newest
            && self
                .governing
                .as_ref()
                .is_none_or(|(known, _)| known < index)
        {
            let level = |of: &Configuration| of.feature_level;
            let before = self
                .governing
                .as_ref()
                .map_or(0, |(_, before)| level(before));
            self.governing = Some((*index, Arc::clone(newest)));
            check(level(newest) >= before, || {
                format!("J2: the feature level falls from {before} at {index}")
            })?;
        }
        Ok(())
    }

    /// S18: a committed configuration is the same for everyone, from a log or from a snapshot.
    pub(crate) fn configured(
        &mut self,
        who: ReplicaId,
        at: LogIndex,
        configuration: &Arc<Configuration>,
    ) -> Result<(), String> {
        let known = self.configured.entry(at);
        let known = known.or_insert_with(|| Arc::clone(configuration));
        check(known == configuration, || {
            format!("S18: {who} has another configuration at {at}")
        })
    }

    /// S18: a snapshot says what the cluster had applied at its last entry, and who its members were.
    pub(crate) fn snapshot(&self, head: &SnapshotHead) -> Result<(), String> {
        let last = head.last;
        let term = self.item(last.index).map(|item| item.term);
        check(term == Some(last.term), || {
            format!("S18: a snapshot stands for {last}, which is not committed")
        })?;
        let digest = self.digests.get(&last.index);
        check(digest.is_none_or(|digest| *digest == head.digest), || {
            format!("S18: the snapshot of {last} has another digest than the cluster had")
        })?;
        let (index, payload) = &head.configuration;
        let newest = self.configured.range(..=last.index).next_back();
        let same = newest.is_none_or(|(at, known)| at == index && known.encode() == *payload);
        check(same, || {
            format!("S18: the snapshot of {last} has another configuration than the cluster had")
        })
    }

    /// The committed entries up to the start of a log.
    pub(crate) fn prefix(&self, start: LogId) -> Result<Vec<Item>, String> {
        let term = self.item(start.index).map(|item| item.term);
        check(term == Some(start.term), || {
            format!("S18: a log begins after {start}, which is not committed")
        })?;
        let front = self.committed.iter().take(start.index as usize);
        Ok(front.map(|entry| entry.item).collect())
    }

    /// S6, for an entry that a node commits.
    pub(crate) fn commits(
        &mut self,
        who: ReplicaId,
        term: Term,
        at: LogIndex,
        item: &Item,
    ) -> Result<(), String> {
        if let Some(known) = self.committed.get((at as usize).saturating_sub(1)) {
            return check(known.item.hash == item.hash, || {
                format!("S6: {who} commits another entry {at}")
            });
        }
        let last = self.committed.last();
        let fell = last.is_some_and(|last| item.time_us < last.item.time_us);
        check(!fell, || {
            format!("G1: entry {at} is of an earlier log time than the one before")
        })?;
        let mut place = last.map_or(0, |entry| entry.place);
        let takes_effect = self.sessions.commits(at, item.time_us, item.part);
        let applies = |command: &u64| takes_effect && !self.poison.contains(command);
        if let Some(command) = item.command.filter(applies) {
            place += 1;
            self.commits_command(command, at, place)?;
        }
        self.committed.push(Committed {
            item: *item,
            in_term: term,
            place,
        });
        Ok(())
    }

    fn commits_command(&mut self, command: u64, at: LogIndex, place: u64) -> Result<(), String> {
        let Some(&id) = self.commands.get(&command) else {
            if self.own_commands {
                return Ok(());
            }
            return Err(format!("S17: entry {at} is a command that nobody proposed"));
        };
        let told = self.refused.get(&id);
        check(told.is_none(), || {
            format!("S17: command {id} is committed at {at}, its client was told: {told:?}")
        })?;
        let before = self.places.insert(id, place);
        check(before.is_none(), || {
            format!("S17: command {id} takes effect a second time, at {at}")
        })
    }

    /// S7, first half: what a leader commits by counting is of its own term.
    pub(crate) fn commits_own_term(
        &self,
        who: ReplicaId,
        term: Term,
        at: LogIndex,
    ) -> Result<(), String> {
        let of = self.item(at).map(|item| item.term);
        check(of == Some(term), || {
            format!("S7: {who} commits {at} of term {of:?} in term {term}")
        })
    }

    /// S7, second half: it is on the disks of a quorum.
    pub(crate) fn commits_durably(
        &self,
        who: ReplicaId,
        at: LogIndex,
        configuration: &Configuration,
        durable: &Durable,
    ) -> Result<(), String> {
        let hash = self.item(at).map(|item| item.hash);
        let holds = |voter: ReplicaId| match durable.get(&voter) {
            Some(Some(image)) => image.chain.hash_at(at) == hash,
            Some(None) => true,
            None => false,
        };
        check(configuration.is_quorum(holds), || {
            format!("S7: {who} commits {at} and no quorum holds it durably")
        })
    }

    fn item(&self, at: LogIndex) -> Option<Item> {
        let entry = self.committed.get((at as usize).checked_sub(1)?)?;
        Some(entry.item)
    }

    /// S8: no quorum could be formed of replicas that lack what is committed. Those that are lost
    /// never vote again.
    pub(crate) fn survives(&self, durable: &Durable) -> Result<(), String> {
        let (Some((_, configuration)), Some(last)) = (&self.governing, self.committed.last())
        else {
            return Ok(());
        };
        let at = self.committed();
        let lacks = |voter: ReplicaId| {
            let lost = self.graves.contains_key(&voter);
            let image = durable.get(&voter).and_then(Option::as_ref);
            !lost && image.is_some_and(|image| image.chain.hash_at(at) != Some(last.item.hash))
        };
        check(!configuration.is_quorum(lacks), || {
            format!("S8: entry {at} is committed, and a quorum is left that lacks it")
        })
    }

    /// S10, S11 and S12, for what a node has applied.
    pub(crate) fn applied(
        &mut self,
        who: ReplicaId,
        at: LogIndex,
        digest: u128,
    ) -> Result<(), String> {
        check(at <= self.committed(), || {
            format!(
                "S10: {who} has applied {at}, {} is committed",
                self.committed()
            )
        })?;
        if self.diverged.contains(&who) {
            return Ok(());
        }
        let known = *self.digests.entry(at).or_insert(digest);
        check(known == digest, || {
            format!("S12: {who} has another digest at {at}")
        })
    }

    /// From now on, or no longer, the state of this replica is known to be another.
    pub(crate) fn diverges(&mut self, who: ReplicaId, diverges: bool) {
        if diverges {
            self.diverged.insert(who);
        } else {
            self.diverged.remove(&who);
        }
    }

    /// The place of a command among those of the log, if it is committed.
    pub(crate) fn place(&self, id: u64) -> Option<u64> {
        self.places.get(&id).copied()
    }

    /// How many commands of the committed log took effect up to `at`.
    pub(crate) fn place_at(&self, at: LogIndex) -> u64 {
        let last = (at as usize).min(self.committed.len()).checked_sub(1);
        let last = last.and_then(|nth| self.committed.get(nth));
        last.map_or(0, |entry| entry.place)
    }

    /// S17, for a command that a client was told about: its place among the commands.
    pub(crate) fn acked(&self, id: u64, floor: u64) -> Result<u64, String> {
        let Some(&place) = self.places.get(&id) else {
            return Err(format!(
                "S17: command {id} was answered and is not committed"
            ));
        };
        check(place > floor, || {
            format!(
                "S17: command {id} was proposed after number {floor} was answered, and is number \
                 {place}: the history is not linearizable"
            )
        })?;
        Ok(place)
    }

    /// S17, for a command that will certainly not be applied.
    pub(crate) fn refuses(&mut self, id: u64, why: String) -> Result<(), String> {
        let place = self.places.get(&id);
        check(place.is_none(), || {
            format!("S17: command {id} is committed and its client was told: {why}")
        })?;
        self.refused.insert(id, why);
        Ok(())
    }

    /// S19: what a message promises is on the sender's disk; a log under repair promises
    /// nothing.
    pub(crate) fn promises(
        &self,
        who: ReplicaId,
        to: NodeId,
        message: &Message,
        image: &Image,
    ) -> Result<(), String> {
        let hard = image.hard;
        check(!image.repairing || says_so(message), || {
            format!("S19: {who} counts while its log is under repair: {message:?}")
        })?;
        let term = match message {
            Message::PreVote(_) | Message::PreVoteReply(_) => return Ok(()),
            other => other.term(),
        };
        check(hard.term >= term, || {
            format!(
                "S19: {who} spoke in term {term}, its disk is in {}: {message:?}",
                hard.term
            )
        })?;
        match message {
            Message::VoteReply(reply) if reply.granted => {
                let kept = hard.term > term || hard.voted_for.node == to;
                check(kept, || {
                    format!("S19: {who} gave node {to} a vote that is not durable")
                })
            }
            Message::AppendAck(ack) if ack.status == AppendStatus::Matched => {
                // In a newer term it may be gone again, rightly.
                let kept = hard.term > term || image.chain.last() >= ack.match_index;
                check(kept, || {
                    let last = image.chain.last();
                    format!(
                        "S19: {who} acknowledged {}, durable is {last}",
                        ack.match_index
                    )
                })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a message is none that a replica with a log under repair must not send.
fn says_so(message: &Message) -> bool {
    let under_repair = |state| state == ReplicaState::Repairing;
    match message {
        Message::AppendAck(ack) => under_repair(ack.state),
        Message::HeartbeatReply(reply) => under_repair(reply.state),
        Message::VoteReply(reply) | Message::PreVoteReply(reply) => {
            !reply.granted && under_repair(reply.state)
        }
        Message::Vote(_) | Message::PreVote(_) => false,
        _ => true,
    }
}

/// Whether a message promises anything that has to be durable.
pub(crate) fn is_promise(message: &Message) -> bool {
    match message {
        Message::VoteReply(reply) => reply.granted,
        Message::AppendAck(ack) => ack.status == AppendStatus::Matched,
        Message::Vote(_) | Message::FoundReply(_) => true,
        _ => false,
    }
}

/// Whether every quorum of one configuration shares a replica with every quorum of the other.
fn intersect(one: &Configuration, other: &Configuration) -> bool {
    let mut all: Vec<_> = one
        .members()
        .chain(other.members())
        .map(|who| who.replica)
        .collect();
    all.sort_unstable();
    all.dedup();
    (0..1_u32 << all.len().min(16)).all(|chosen| {
        let is_in = |who: ReplicaId| {
            let at = all.iter().position(|known| *known == who);
            at.is_some_and(|at| chosen >> at & 1 == 1)
        };
        !(one.is_quorum(is_in) && other.is_quorum(|who| !is_in(who)))
    })
}

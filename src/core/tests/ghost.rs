//! What an observer who sees every disk knows, and the invariants that follow from it.
//!
//! The names S1..S19 are those of the list of invariants: election safety, vote durability,
//! leader append-only, log matching, leader completeness, committed immutable, the commit rule,
//! monotonic state, ack durability.

use std::collections::{BTreeMap, HashMap};

use super::super::{Configuration, RaftCore};
use super::disk::{Disk, Image, Item};
use crate::types::{Incarnation, LogIndex, ReplicaId, Term};

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    life: u64,
    term: Term,
    commit: LogIndex,
    durable_term: Term,
}

/// Facts that outlive crashes and wipes.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    leaders: BTreeMap<Term, ReplicaId>,
    /// The one history's name.
    genesis: Option<Incarnation>,
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
    cells: HashMap<(LogIndex, Term), u64>,
    /// By index: the hash and the term in which a leader committed it first.
    committed: Vec<(u64, Term)>,
    /// Length and hash of what a term's leader had when last seen.
    led: BTreeMap<Term, (LogIndex, u64)>,
    seen: BTreeMap<ReplicaId, Seen>,
    /// Last durable image of wiped replicas: what they promised stays promised.
    graves: BTreeMap<ReplicaId, Image>,
}

/// Durable images of all replicas that ever were.
pub(super) struct Durable<'a> {
    graves: &'a BTreeMap<ReplicaId, Image>,
    living: Vec<(ReplicaId, &'a Image)>,
}

impl Durable<'_> {
    fn of(&self, who: ReplicaId) -> Option<&Image> {
        let living = self.living.iter().find(|(replica, _)| *replica == who);
        living
            .map(|(_, image)| *image)
            .or_else(|| self.graves.get(&who))
    }
}

impl Ghost {
    pub(super) fn committed(&self) -> LogIndex {
        self.committed.len() as LogIndex
    }

    pub(super) fn elections(&self) -> usize {
        self.leaders.len()
    }

    pub(super) fn bury(&mut self, who: ReplicaId, image: &Image) {
        self.graves.insert(who, image.clone());
    }

    /// S4, at every append: equal index and term mean equal logs up to there.
    pub(super) fn appended(&mut self, who: ReplicaId, index: LogIndex, item: Item) {
        let cell = self.cells.entry((index, item.term)).or_insert(item.hash);
        assert_eq!(
            *cell, item.hash,
            "S4: {who} holds another history at {}.{index}",
            item.term
        );
    }

    /// S2 and S9, whenever something became durable.
    pub(super) fn became_durable(&mut self, who: ReplicaId, image: &Image) {
        let hard = image.hard;
        let seen = self.seen.entry(who).or_default();
        assert!(hard.term >= seen.durable_term, "S9: {who} forgot a term");
        seen.durable_term = hard.term;
        if hard.voted_for.node != 0 {
            let key = (who, hard.term);
            let vote = *self.votes.entry(key).or_insert(hard.voted_for);
            assert_eq!(
                vote, hard.voted_for,
                "S2: {who} voted twice in term {}",
                hard.term
            );
        }
    }

    /// S1, S2 and S5, at every election.
    pub(super) fn elected(
        &mut self,
        core: &RaftCore,
        disk: &Disk,
        others: &[(ReplicaId, &Disk)],
        configuration: &Configuration,
    ) {
        let (me, term) = (core.me(), core.term());
        let leader = *self.leaders.entry(term).or_insert(me);
        assert_eq!(leader, me, "S1: two leaders in term {term}");
        assert!(configuration.is_voter(me), "{me} leads and is no voter");
        let genesis = *self.genesis.get_or_insert(core.genesis());
        assert_eq!(genesis, core.genesis(), "E10: {me} leads another history");
        let hard = disk.durable.hard;
        assert!(
            hard.term == term && hard.voted_for == me,
            "A1: {me} leads term {term} and its own vote is not durable"
        );
        let durable = self.durable(others);
        let voted = |who| {
            durable.of(who).is_some_and(|image| {
                image.hard.term > term || image.hard.term == term && image.hard.voted_for == me
            })
        };
        assert!(
            configuration.is_quorum(voted),
            "S2: {me} leads term {term} without a durable quorum of votes"
        );
        for ((hash, commit_term), index) in self.committed.iter().zip(1..) {
            let has = disk.live.hash_at(index) == Some(*hash);
            assert!(
                has || *commit_term > term,
                "S5: {me} leads term {term} without committed entry {index}"
            );
        }
    }

    fn durable<'a>(&'a self, living: &[(ReplicaId, &'a Disk)]) -> Durable<'a> {
        let living = living.iter().map(|(who, disk)| (*who, &disk.durable));
        Durable {
            graves: &self.graves,
            living: living.collect(),
        }
    }

    /// S6 for everyone, S7 for a leader, S10.
    pub(super) fn commits(
        &mut self,
        core: &RaftCore,
        image: &Image,
        to: LogIndex,
        everyone: &[(ReplicaId, &Disk)],
    ) {
        let me = core.me();
        assert!(to <= image.last(), "S10: {me} commits {to} beyond its log");
        if core.is_leader() {
            self.check_commit_rule(core, image, to, everyone);
        }
        for index in 1..=to {
            let hash = image.hash_at(index).expect("within the log");
            match self.committed.get(index as usize - 1) {
                Some((known, _)) => {
                    assert_eq!(*known, hash, "S6: {me} commits another entry {index}");
                }
                None => self.committed.push((hash, core.term())),
            }
        }
    }

    fn check_commit_rule(
        &self,
        core: &RaftCore,
        image: &Image,
        to: LogIndex,
        everyone: &[(ReplicaId, &Disk)],
    ) {
        let me = core.me();
        let term = image.item(to).map(|item| item.term);
        assert_eq!(term, Some(core.term()), "S7: {me} commits an old term");
        let hash = image.hash_at(to);
        let durable = self.durable(everyone);
        let holds = |who| {
            durable
                .of(who)
                .is_some_and(|image| image.hash_at(to) == hash)
        };
        let configuration = core.configuration().expect("a leader has one");
        assert!(
            configuration.is_quorum(holds),
            "S7: {me} commits {to} and no quorum holds it durably"
        );
    }

    /// S3 and S9, after every event at a node.
    pub(super) fn observe(&mut self, core: &RaftCore, life: u64, image: &Image) {
        let (me, term) = (core.me(), core.term());
        let seen = self.seen.entry(me).or_default();
        if seen.life == life {
            assert!(core.commit() >= seen.commit, "S9: {me} uncommitted");
            assert!(term >= seen.term, "S9: {me} went back to term {term}");
        }
        assert_eq!(core.last().index, image.last(), "{me}: core and log differ");
        seen.life = life;
        seen.commit = core.commit();
        seen.term = term;
        if core.is_leader() {
            let last = image.last();
            let hash = image.hash_at(last).expect("the end");
            if let Some((index, before)) = self.led.insert(term, (last, hash)) {
                assert_eq!(
                    image.hash_at(index),
                    Some(before),
                    "S3: leader {me} changed its log"
                );
            }
        }
    }
}

//! Whether the replicas' states are equal, by their digests at some of the indexes (hazard G1).
//!
//! A reply to a heartbeat tells the newest digest of its sender; a leader compares those at equal
//! index with each other and with its own. What a quorum has is right, and goes with the next
//! heartbeats: whoever has another digest there, the leader itself included, has failed. So a
//! majority is never stopped by the word of a minority, whoever leads. Where no quorum has the same
//! digest nobody knows who is right: nobody stops, and the operator is told.

use std::collections::{BTreeMap, VecDeque};

use super::{Event, Output, RaftCore};
use crate::types::{LogIndex, Micros, NodeId, ReplicaId};

/// Digests at so many indexes are remembered: replicas that are further apart are not compared.
const KEPT: usize = 64;

/// Index and digest, oldest first.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Marks(VecDeque<(LogIndex, u128)>);

impl Marks {
    fn add(&mut self, index: LogIndex, digest: u128) {
        if index > self.newest().0 {
            self.0.push_back((index, digest));
            let surplus = self.0.len().saturating_sub(KEPT);
            self.0.drain(..surplus);
        }
    }

    fn at(&self, index: LogIndex) -> Option<u128> {
        let mut newest_first = self.0.iter().rev();
        newest_first.find(|mark| mark.0 == index).map(|mark| mark.1)
    }

    /// Zeroes if there is none.
    fn newest(&self) -> (LogIndex, u128) {
        self.0.back().copied().unwrap_or_default()
    }
}

/// A difference that no quorum decides.
#[derive(Clone, Copy, Debug)]
struct Open {
    index: LogIndex,
    since: Micros,
    told: bool,
}

/// What a replica knows of digests.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Digests {
    own: Marks,
    /// What a quorum has.
    agreed: Marks,
    /// As leader: what the others have.
    others: BTreeMap<LogIndex, BTreeMap<ReplicaId, u128>>,
    open: Option<Open>,
}

impl Digests {
    /// For a reply: the newest digest of the own state.
    pub(super) fn own(&self) -> (LogIndex, u128) {
        self.own.newest()
    }

    /// For a heartbeat: the newest that a quorum has.
    pub(super) fn agreed(&self) -> (LogIndex, u128) {
        self.agreed.newest()
    }

    /// Another state took the place of the one that they are of.
    pub(super) fn forget_own(&mut self) {
        self.own = Marks::default();
    }

    /// What others had in an earlier term says nothing of them now.
    pub(super) fn begin_term(&mut self) {
        self.others.clear();
        self.open = None;
    }

    /// Whether it is news.
    fn heard(&mut self, from: ReplicaId, index: LogIndex, digest: u128) -> bool {
        let at = self.others.entry(index).or_default();
        let news = at.insert(from, digest) != Some(digest);
        while self.others.len() > KEPT {
            self.others.pop_first();
        }
        news
    }
}

impl RaftCore {
    /// The own state has this digest at an index.
    pub(super) fn note_digest(
        &mut self,
        now: Micros,
        index: LogIndex,
        digest: u128,
        out: &mut Vec<Output>,
    ) {
        self.digests.own.add(index, digest);
        if self.is_leader() {
            self.decide_digest(now, index);
        }
        self.check_own_digest(index, out);
    }

    /// A leader tells what a quorum has.
    pub(super) fn on_agreed_digest(
        &mut self,
        index: LogIndex,
        digest: u128,
        out: &mut Vec<Output>,
    ) {
        self.digests.agreed.add(index, digest);
        self.check_own_digest(index, out);
    }

    /// A member tells what it has; this node leads.
    pub(super) fn on_member_digest(
        &mut self,
        now: Micros,
        from: ReplicaId,
        index: LogIndex,
        digest: u128,
        out: &mut Vec<Output>,
    ) {
        if index > 0 && self.digests.heard(from, index, digest) {
            self.decide_digest(now, index);
            self.check_own_digest(index, out);
        }
    }

    fn digest_of(&self, who: ReplicaId, index: LogIndex) -> Option<u128> {
        if who == self.me {
            self.digests.own.at(index)
        } else {
            self.digests.others.get(&index)?.get(&who).copied()
        }
    }

    /// Everybody's digest at `index`, as far as it is known here.
    fn digests_at(&self, index: LogIndex) -> Vec<(NodeId, u128)> {
        let members = self.configuration().into_iter().flat_map(|c| c.members());
        let known = members.filter_map(|member| {
            let digest = self.digest_of(member.replica, index)?;
            Some((member.replica.node, digest))
        });
        known.collect()
    }

    fn decide_digest(&mut self, now: Micros, index: LogIndex) {
        let Some(configuration) = self.configuration() else {
            return;
        };
        let known = self.digests_at(index);
        let right = known.iter().map(|(_, digest)| *digest).find(|digest| {
            configuration.is_quorum(|who| self.digest_of(who, index) == Some(*digest))
        });
        let differ = known.iter().any(|(_, digest)| *digest != known[0].1);
        match right {
            Some(digest) => {
                self.digests.agreed.add(index, digest);
                self.digests.open = self.digests.open.filter(|open| open.index > index);
            }
            None if differ && self.digests.open.is_none() => {
                self.digests.open = Some(Open {
                    index,
                    since: now,
                    told: false,
                });
            }
            None => {}
        }
    }

    /// Goes on no longer with a state that is not the quorum's.
    fn check_own_digest(&mut self, index: LogIndex, out: &mut Vec<Output>) {
        let (own, agreed) = (self.digests.own.at(index), self.digests.agreed.at(index));
        let (Some(own), Some(agreed)) = (own, agreed) else {
            return;
        };
        if own == agreed || self.failed {
            return;
        }
        out.push(Output::Event(Event::Diverged { index, own, agreed }));
        let text = format!(
            "the state of this replica at index {index} is not that of the quorum: its memory, its \
             disk or its program is not sound; move its directory away, start the node with an empty \
             one and let the leader `replace` it"
        );
        self.fail(text, out);
    }

    /// With each round of heartbeats: the word of those that have not answered yet may decide it.
    pub(super) fn tell_open_difference(&mut self, now: Micros, out: &mut Vec<Output>) {
        let patience = self.settings.election_timeout_max;
        let due = |open: &&mut Open| !open.told && now >= open.since + patience;
        let Some(open) = self.digests.open.as_mut().filter(due) else {
            return;
        };
        open.told = true;
        let index = open.index;
        let digests = self.digests_at(index);
        out.push(Output::Event(Event::StatesDiffer { index, digests }));
    }
}

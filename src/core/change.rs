//! What a change makes of a configuration; pure functions, for [`membership`](super::membership).

use super::configuration::{Configuration, MemberInfo, Promotion};
use crate::types::{LogIndex, MAX_CONFIGURATION, NodeId, ReplicaId};

/// One wish about who belongs to the cluster. Several go in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member that receives the log and does not vote.
    AddLearner(MemberInfo),
    /// A new member that votes as soon as it has caught up; a learner until then.
    AddVoter(MemberInfo),
    /// A learner is to vote as soon as it has caught up.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A member goes, voter or learner. Its directory never comes back.
    Remove(NodeId),
    /// A new member takes a voter's place as soon as it has caught up; it may have the same number
    /// in another life (hazard E8). Until then the old one votes, if it still can.
    Replace {
        /// Whose place.
        old: NodeId,
        /// Who takes it.
        new: MemberInfo,
    },
    /// A member has other addresses, or another election priority.
    Update(MemberInfo),
    /// No state machine is to apply this committed entry, at which those of a majority stopped
    /// (hazard G2).
    Skip(LogIndex),
}

/// Removed incarnations that are remembered; beyond, the oldest are forgotten. They are random
/// numbers of 128 bits, so none comes back but by a directory that was removed so long ago.
const MAX_TOMBSTONES: usize = 512;
/// Entries that can be skipped. None is ever forgotten: some log may still hold it.
const MAX_SKIPPED: usize = 256;

impl Configuration {
    /// This configuration, which is not joint, after some changes; not joint either.
    pub(super) fn after(&self, changes: &[Change]) -> Result<Self, &'static str> {
        let mut next = self.clone();
        for change in changes {
            match change {
                Change::AddLearner(new) => next.add(new)?,
                Change::AddVoter(new) => {
                    next.add(new)?;
                    next.promote(new.replica, ReplicaId::default());
                }
                Change::Promote(node) => {
                    let learner = find(&next.learners, *node).ok_or("there is no such learner")?;
                    // Of a number with two lives the new one takes the old one's place.
                    let place = find(&next.incoming, *node).unwrap_or_default();
                    next.promote(learner, place);
                }
                Change::Demote(node) => next.demote(*node)?,
                Change::Remove(node) => next.remove(*node)?,
                Change::Replace { old, new } => {
                    let old = find(&next.incoming, *old).ok_or("there is no such voter")?;
                    next.add_life(new)?;
                    next.promote(new.replica, old);
                }
                Change::Update(info) => next.update(info)?,
                Change::Skip(index) => next.skip(*index)?,
            }
        }
        next.check().map_err(|error| error.0)?;
        // It must fit into the log's reserve on the whole way, or a full disk could end in no leader
        // that may append it.
        let joint = Self {
            outgoing: next.incoming.clone(),
            ..next.clone()
        };
        if joint.encode().len() > MAX_CONFIGURATION {
            return Err(
                "too many members, or too long names: the configuration would be too large",
            );
        }
        // A leader goes on by itself: what it will make of this must be readable too (hazard E9).
        for promotion in &next.promotions {
            let then = next.promoted(promotion).check();
            then.map_err(|_| "a member of that number votes already; replace takes its place")?;
        }
        Ok(next)
    }

    /// With the learner of a promotion among the voters, in the place that it is to take.
    pub(super) fn promoted(&self, promotion: &Promotion) -> Self {
        let mut next = self.clone();
        next.promotions
            .retain(|other| other.learner != promotion.learner);
        let at = next
            .learners
            .iter()
            .position(|member| member.replica == promotion.learner);
        if let Some(at) = at {
            let member = next.learners.remove(at);
            next.bury(promotion.replaces);
            next.incoming.push(member);
            next.incoming.sort_unstable_by_key(|member| member.replica);
        }
        next
    }

    /// The way from here to `next`: joint if the voters differ (section 6), at once if not.
    pub(super) fn towards(&self, next: Self) -> Self {
        let same = self.incoming.len() == next.incoming.len()
            && next
                .incoming
                .iter()
                .all(|member| self.is_voter(member.replica));
        let outgoing = if same {
            Vec::new()
        } else {
            self.incoming.clone()
        };
        Self { outgoing, ..next }
    }

    /// The end of that way.
    pub(super) fn left_joint(&self) -> Self {
        Self {
            outgoing: Vec::new(),
            ..self.clone()
        }
    }

    fn add(&mut self, new: &MemberInfo) -> Result<(), &'static str> {
        if self.member(new.replica.node).is_some() {
            return Err("there is a member of that number already; replace takes its place");
        }
        self.add_life(new)
    }

    fn add_life(&mut self, new: &MemberInfo) -> Result<(), &'static str> {
        if self.tombstones.contains(&new.replica) {
            return Err("that directory was removed and never comes back; use an empty one");
        }
        if self.members().any(|member| member.replica == new.replica) {
            return Err("that directory is a member already");
        }
        // It could not go by the configuration that names it (hazard J2).
        if new.features.1 < self.feature_level {
            return Err("its release does not know the cluster's feature level; start a newer one");
        }
        self.learners.push(new.clone());
        Ok(())
    }

    fn promote(&mut self, learner: ReplicaId, replaces: ReplicaId) {
        self.promotions.retain(|other| other.learner != learner);
        self.promotions.push(Promotion { learner, replaces });
    }

    fn demote(&mut self, node: NodeId) -> Result<(), &'static str> {
        let at = self
            .incoming
            .iter()
            .position(|member| member.replica.node == node);
        let member = self.incoming.remove(at.ok_or("there is no such voter")?);
        self.forget_promotions_to(member.replica);
        self.learners.push(member);
        Ok(())
    }

    fn remove(&mut self, node: NodeId) -> Result<(), &'static str> {
        // Of a number with two lives the new one is still on its way in: it goes first.
        let life = find(&self.learners, node).or(find(&self.incoming, node));
        self.bury(life.ok_or("there is no such member")?);
        Ok(())
    }

    fn bury(&mut self, who: ReplicaId) {
        let before = self.incoming.len() + self.learners.len();
        self.incoming.retain(|member| member.replica != who);
        self.learners.retain(|member| member.replica != who);
        if self.incoming.len() + self.learners.len() < before {
            self.tombstones.push(who);
            let surplus = self.tombstones.len().saturating_sub(MAX_TOMBSTONES);
            self.tombstones.drain(..surplus);
        }
        self.promotions.retain(|other| other.learner != who);
        self.forget_promotions_to(who);
    }

    /// Nobody can take the place of who has none any more: the learner goes on as a learner.
    fn forget_promotions_to(&mut self, place: ReplicaId) {
        self.promotions.retain(|other| other.replaces != place);
    }

    fn skip(&mut self, index: LogIndex) -> Result<(), &'static str> {
        match self.skipped.binary_search(&index) {
            Ok(_) => Err("that entry is skipped already"),
            Err(_) if self.skipped.len() >= MAX_SKIPPED => Err("too many entries are skipped"),
            Err(at) => {
                self.skipped.insert(at, index);
                Ok(())
            }
        }
    }

    fn update(&mut self, info: &MemberInfo) -> Result<(), &'static str> {
        let mut all = self.incoming.iter_mut().chain(&mut self.learners);
        let member = all.find(|member| member.replica == info.replica);
        *member.ok_or("there is no such member in that life")? = info.clone();
        Ok(())
    }
}

fn find(members: &[MemberInfo], node: NodeId) -> Option<ReplicaId> {
    let mut all = members.iter().map(|member| member.replica);
    all.find(|replica| replica.node == node)
}

//! Members and their changes, as messages.

use std::sync::Arc;

use tonic::Status;

use crate::core::{Configuration, FEATURES, MemberInfo};
use crate::error::{ChangeError, HandOverError, LeaderHint};
use crate::node::{Change, RaftNode};
use crate::proto::member_change::Change as Wish;
use crate::proto::{
    self, ChangeRefused, HandOverRefused, Member, MemberChange, MembershipResponse, Standing,
};
use crate::types::{LogIndex, NodeId, ReplicaId};

use super::status::{self, Failure, invalid};

/// What a node knows of the members.
pub(super) fn membership(node: &RaftNode) -> MembershipResponse {
    let leader = node.status().leader;
    let described = |(index, it): (LogIndex, Arc<Configuration>)| describe(index, &it);
    let waiting = node.waiting_nodes();
    MembershipResponse {
        node_id: node.id(),
        leader_id: leader.node.unwrap_or_default(),
        leader_endpoint: leader.endpoint,
        in_force: node.membership().map(described),
        committed: node.committed_membership().map(described),
        waiting: waiting
            .iter()
            .map(|info| member(info, Standing::Waiting, 0))
            .collect(),
    }
}

fn describe(index: LogIndex, configuration: &Configuration) -> proto::Configuration {
    let voter = |info| member(info, Standing::Voter, 0);
    let learner = |info: &MemberInfo| {
        let mut promotions = configuration.promotions.iter();
        match promotions.find(|promotion| promotion.learner == info.replica) {
            Some(promotion) => member(info, Standing::Joining, promotion.replaces.node),
            None => member(info, Standing::Learner, 0),
        }
    };
    let voters = configuration.incoming.iter().map(voter);
    let removed = configuration.tombstones.iter().map(ReplicaId::to_string);
    proto::Configuration {
        index,
        members: voters
            .chain(configuration.learners.iter().map(learner))
            .collect(),
        old_voters: configuration.outgoing.iter().map(voter).collect(),
        removed: removed.collect(),
    }
}

fn member(info: &MemberInfo, standing: Standing, replaces: NodeId) -> Member {
    Member {
        node_id: info.replica.node,
        incarnation: info.replica.incarnation.to_string(),
        address: info.peer_address.clone(),
        client_endpoint: info.client_endpoint.clone(),
        standing: standing as i32,
        replaces,
        priority: info.priority,
    }
}

/// The changes of a request.
pub(super) fn changes(wishes: Vec<MemberChange>) -> Result<Vec<Change>, Status> {
    if wishes.is_empty() {
        return Err(invalid("changes", "say what is to change"));
    }
    wishes.into_iter().map(change).collect()
}

fn change(wish: MemberChange) -> Result<Change, Status> {
    let missing = || invalid("changes", "a change that says nothing");
    Ok(match wish.change.ok_or_else(missing)? {
        Wish::AddLearner(new) => Change::AddLearner(info(new)?),
        Wish::AddVoter(new) => Change::AddVoter(info(new)?),
        Wish::Promote(node) => Change::Promote(node),
        Wish::Demote(node) => Change::Demote(node),
        Wish::Remove(node) => Change::Remove(node),
        Wish::Replace(replace) => Change::Replace {
            old: replace.old,
            new: info(replace.new.ok_or_else(missing)?)?,
        },
        Wish::Update(info_of) => Change::Update(info(info_of)?),
    })
}

fn info(member: Member) -> Result<MemberInfo, Status> {
    let incarnation = member.incarnation.parse();
    let incarnation = incarnation.map_err(|_| {
        let why = "write the 32 hexadecimal digits that the node's status shows";
        invalid("incarnation", why)
    })?;
    let port = member.address.rsplit_once(':').map(|(_, port)| port);
    if port.is_none_or(|port| port.parse::<u16>().is_err()) {
        return Err(invalid("address", "write HOST:PORT of its peer listener"));
    }
    Ok(MemberInfo {
        replica: ReplicaId::new(member.node_id, incarnation),
        peer_address: member.address,
        client_endpoint: member.client_endpoint,
        features: FEATURES,
        priority: member.priority,
    })
}

/// Why members were not changed, and what to do about it.
pub(super) fn change_failed(error: ChangeError, leader: LeaderHint, late: bool) -> Status {
    match error {
        ChangeError::NotLeader => status::not_leader_now(leader),
        ChangeError::Busy | ChangeError::Changed { .. } => status::change_refused(&ChangeRefused {
            reason: match error {
                ChangeError::Busy => "Busy".to_owned(),
                _ => "Changed".to_owned(),
            },
            configuration_index: match error {
                ChangeError::Changed { now } => now,
                _ => 0,
            },
            certainty: proto::Certainty::NotApplied as i32,
        }),
        ChangeError::Invalid(why) => invalid("changes", why),
        ChangeError::Unknown => status::change_unknown(late),
        ChangeError::Stopped => Failure::stopping(&leader).into_status(),
    }
}

/// Why leadership was not handed over, and what to do about it.
pub(super) fn hand_over_failed(error: HandOverError, leader: LeaderHint) -> Status {
    let reason = match error {
        HandOverError::NotLeader => return status::not_leader_now(leader),
        HandOverError::Stopped => return Failure::stopping(&leader).into_status(),
        HandOverError::UnderWay => "UnderWay",
        HandOverError::NoTarget => "NoTarget",
        HandOverError::Refused => "Refused",
        HandOverError::TimedOut => "TimedOut",
    };
    let reason = reason.to_owned();
    status::hand_over_refused(&error.to_string(), &HandOverRefused { reason })
}

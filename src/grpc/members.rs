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
    let leader = node.leader();
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
        skipped: configuration.skipped.clone(),
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
        Wish::Skip(index) => Change::Skip(index),
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
        ChangeError::NoRoom => status::overloaded("the leader's disk", 1_000),
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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::core::Promotion;
    use crate::grpc::detail;
    use crate::proto::{NotLeader, OutcomeUnknown, ReplaceMember};
    use crate::types::Incarnation;

    fn named(node: NodeId) -> Member {
        Member {
            node_id: node,
            incarnation: Incarnation([node as u8; 16]).to_string(),
            address: format!("host-{node}:50052"),
            ..Member::default()
        }
    }

    fn leader() -> LeaderHint {
        LeaderHint {
            node: Some(2),
            endpoint: "https://10.0.0.2:50051".to_owned(),
            term: 7,
        }
    }

    #[test]
    fn every_failed_change_has_a_code_and_says_what_to_do() {
        let index = 9;
        for (error, late, code, todo) in [
            (
                ChangeError::NotLeader,
                false,
                Code::Unavailable,
                "ask https://10.0.0.2:50051",
            ),
            (
                ChangeError::Busy,
                false,
                Code::Unavailable,
                "try again in a moment",
            ),
            (
                ChangeError::NoRoom,
                false,
                Code::ResourceExhausted,
                "the leader's disk",
            ),
            (
                ChangeError::Changed { now: index },
                false,
                Code::Aborted,
                "at index 9; look at them",
            ),
            (
                ChangeError::Invalid("no voter"),
                false,
                Code::InvalidArgument,
                "no voter",
            ),
            (
                ChangeError::Unknown,
                false,
                Code::Unknown,
                "look at the members",
            ),
            (
                ChangeError::Unknown,
                true,
                Code::DeadlineExceeded,
                "look at the members",
            ),
            (
                ChangeError::Stopped,
                false,
                Code::Unavailable,
                "ask another one",
            ),
        ] {
            let status = change_failed(error, leader(), late);
            assert_eq!(status.code(), code, "{error:?}");
            assert!(status.message().contains(todo), "{}", status.message());
            let unknown = detail::<OutcomeUnknown>(&status).is_some();
            assert_eq!(unknown, error == ChangeError::Unknown);
        }
        let changed = change_failed(ChangeError::Changed { now: index }, leader(), false);
        let changed: ChangeRefused = detail(&changed).expect("detail");
        assert_eq!(
            (changed.reason.as_str(), changed.configuration_index),
            ("Changed", 9)
        );
    }

    #[test]
    fn every_failed_hand_over_has_a_code_and_says_what_to_do() {
        for (error, code, todo) in [
            (
                HandOverError::NotLeader,
                Code::Unavailable,
                "ask https://10.0.0.2:50051",
            ),
            (HandOverError::UnderWay, Code::Aborted, "who leads then"),
            (
                HandOverError::NoTarget,
                Code::FailedPrecondition,
                "name a voter",
            ),
            (
                HandOverError::Refused,
                Code::Aborted,
                "try again in a moment",
            ),
            (
                HandOverError::TimedOut,
                Code::Aborted,
                "try again in a moment",
            ),
            (HandOverError::Stopped, Code::Unavailable, "ask another one"),
        ] {
            let status = hand_over_failed(error, leader());
            assert_eq!(status.code(), code, "{error:?}");
            assert!(status.message().contains(todo), "{}", status.message());
            let hint = detail::<NotLeader>(&status).is_some();
            assert_eq!(hint, error == HandOverError::NotLeader);
        }
    }

    #[test]
    fn what_a_request_leaves_out_is_named() {
        let refusal = |wish: Option<Wish>| {
            let refused = changes(vec![MemberChange { change: wish }]);
            let status = refused.expect_err("refused");
            assert_eq!(status.code(), Code::InvalidArgument);
            status.message().to_owned()
        };
        let wrong = |change: fn(&mut Member)| {
            let mut member = named(4);
            change(&mut member);
            Some(Wish::AddVoter(member))
        };
        assert!(changes(Vec::new()).is_err());
        assert!(refusal(None).contains("says nothing"));
        let nobody = ReplaceMember { old: 3, new: None };
        assert!(refusal(Some(Wish::Replace(nobody))).contains("says nothing"));
        assert!(refusal(wrong(|it| it.incarnation.clear())).contains("incarnation"));
        for address in ["", "host", "host:port"] {
            let mut member = named(4);
            member.address = address.to_owned();
            assert!(refusal(Some(Wish::Update(member))).contains("HOST:PORT"));
        }
        let wish = Some(Wish::AddVoter(named(4)));
        let taken = changes(vec![MemberChange { change: wish }]).expect("whole");
        let [Change::AddVoter(info)] = &taken[..] else {
            panic!("{taken:?}");
        };
        assert_eq!((info.replica.node, info.features), (4, FEATURES));
        let wish = Some(Wish::Skip(7));
        let taken = changes(vec![MemberChange { change: wish }]).expect("whole");
        assert_eq!(taken, [Change::Skip(7)]);
    }

    #[test]
    fn everybody_is_shown_once_with_what_becomes_of_them() {
        let all = (1..=5).map(|node| info(named(node)).expect("whole"));
        let all: Vec<_> = all.collect();
        let configuration = Configuration {
            incoming: all[..2].to_vec(),
            outgoing: all[1..3].to_vec(),
            learners: all[3..].to_vec(),
            promotions: vec![Promotion {
                learner: all[4].replica,
                replaces: all[1].replica,
            }],
            tombstones: vec![all[0].replica],
            skipped: vec![5, 9],
            ..Configuration::default()
        };
        let shown = describe(7, &configuration);
        let standing = |member: &Member| (member.node_id, member.standing(), member.replaces);
        let members: Vec<_> = shown.members.iter().map(standing).collect();
        let expected = [
            (1, Standing::Voter, 0),
            (2, Standing::Voter, 0),
            (4, Standing::Learner, 0),
            (5, Standing::Joining, 2),
        ];
        assert_eq!(members, expected);
        assert_eq!(shown.old_voters.len(), 2);
        assert_eq!(shown.removed, [all[0].replica.to_string()]);
        assert_eq!(shown.skipped, [5, 9]);
    }
}

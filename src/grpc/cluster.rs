//! The service `Cluster`.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Request, Response, Status};

use crate::error::WaitError;
use crate::node::{ChangeOptions, NodeStatus, RaftNode, RaftRole};
use crate::proto::cluster_server::Cluster;
use crate::proto::{
    self, ChangeMembersRequest, ChangeMembersResponse, MembershipRequest, MembershipResponse,
    StatusRequest, StatusResponse, TransferLeadershipRequest, TransferLeadershipResponse,
    TriggerSnapshotRequest, TriggerSnapshotResponse,
};

use super::authorize::Roles;
use super::deadline::Deadline;
use super::identity::Role;
use super::{links, members};

pub(super) struct ClusterService {
    pub(super) node: RaftNode,
    pub(super) roles: Roles,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let applied = self.node.applied();
        let mut status = describe(self.node.status(), applied.time_us / 1000);
        // Digest and index must be of one moment: equal indexes must show equal digests.
        status.applied_index = applied.id.index;
        status.digest = format!("{:032x}", applied.digest);
        Ok(Response::new(status))
    }

    async fn membership(
        &self,
        request: Request<MembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        self.roles.require(&request, Role::Reader)?;
        Ok(Response::new(members::membership(&self.node)))
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let deadline = Deadline::of(&request);
        let asked = request.into_inner();
        let changes = members::changes(asked.changes)?;
        tracing::info!(?changes, "an operator changes the members");
        let options = ChangeOptions {
            expected: asked.expected_index,
            deadline: Some(deadline.left()),
        };
        match self.node.change_members(changes, options).await {
            Ok(index) => Ok(Response::new(ChangeMembersResponse { index })),
            Err(error) => Err(members::change_failed(
                error,
                self.node.leader(),
                deadline.passed(),
            )),
        }
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let to = Some(request.into_inner().to).filter(|to| *to != 0);
        let leads = self.node.is_leader();
        if let Some(leader_id) = to.filter(|to| leads && *to == self.node.id()) {
            return Ok(Response::new(TransferLeadershipResponse { leader_id }));
        }
        tracing::info!(?to, "an operator hands leadership over");
        match self.node.transfer_leadership(to).await {
            Ok(leader_id) => Ok(Response::new(TransferLeadershipResponse { leader_id })),
            Err(error) => {
                let leader = self.node.leader();
                Err(members::hand_over_failed(error, leader))
            }
        }
    }

    async fn trigger_snapshot(
        &self,
        request: Request<TriggerSnapshotRequest>,
    ) -> Result<Response<TriggerSnapshotResponse>, Status> {
        self.roles.require(&request, Role::Operator)?;
        let deadline = Deadline::of(&request);
        tracing::info!("an operator has a snapshot taken");
        let taken = self.node.take_snapshot(deadline.left()).await;
        let last = taken.map_err(|error| match error {
            WaitError::Deadline { .. } => Status::deadline_exceeded(
                "the snapshot was not written in time; it may still be: see the node's status",
            ),
            WaitError::Stopped => super::status::wait(&error),
        })?;
        Ok(Response::new(TriggerSnapshotResponse {
            index: last.index,
            term: last.term,
        }))
    }
}

fn describe(status: NodeStatus, log_time_ms: u64) -> StatusResponse {
    let role = match status.role {
        RaftRole::Follower => proto::Role::Follower,
        RaftRole::PreCandidate => proto::Role::PreCandidate,
        RaftRole::Candidate => proto::Role::Candidate,
        RaftRole::Leader => proto::Role::Leader,
    };
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64);
    StatusResponse {
        node_id: status.id.node,
        incarnation: status.id.incarnation.to_string(),
        cluster_id: status.cluster.to_string(),
        role: role as i32,
        term: status.term,
        leader_id: status.leader.node.unwrap_or_default(),
        leader_endpoint: status.leader.endpoint,
        last_index: status.last.index,
        last_term: status.last.term,
        durable_index: status.durable_index,
        commit_index: status.commit_index,
        applied_index: status.applied_index,
        log_time_ms,
        log_time_skew_ms: log_time_ms as i64 - now_ms,
        feature_level: status.feature_level,
        digest: String::new(),
        peers: status
            .peers
            .into_iter()
            .map(|peer| proto::PeerStatus {
                node_id: peer.node,
                address: peer.address,
                client_endpoint: peer.client_endpoint,
                connected: peer.connected,
                match_index: peer.match_index,
                last_contact_ms: peer.last_contact_ms,
                rtt_us: peer.transport.rtt().map(|rtt| rtt.as_micros() as u64),
                reconnects: peer.transport.reconnects(),
                links: links::links(&peer.transport),
                frames: links::frames(&peer.transport),
            })
            .collect(),
        advice: status.advice,
        failure: status.failure,
        stopping: status.stopping,
        log_start_index: status.log_start.index,
        snapshot_index: status.snapshot.map_or(0, |last| last.index),
        repairing: status.repairing,
        stopped_at_index: status.stopped_at,
        certificates: ends(status.certificates, now_ms / 1000),
        refusals: links::reasons(&status.refusals),
    }
}

fn ends(certificates: Vec<(String, u64)>, now: i64) -> Vec<proto::CertificateEnd> {
    let ends = certificates.into_iter();
    ends.map(|(name, end)| proto::CertificateEnd {
        name,
        days_left: (end as i64 - now).div_euclid(24 * 60 * 60),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LogId;

    #[test]
    fn what_an_operator_looks_for_is_in_the_status() {
        let sound = describe(NodeStatus::default(), 0);
        assert_eq!((sound.snapshot_index, sound.stopped_at_index), (0, None));
        assert!(!sound.repairing);
        let told = NodeStatus {
            log_start: LogId::new(2, 30),
            snapshot: Some(LogId::new(2, 40)),
            repairing: true,
            stopped_at: Some(41),
            feature_level: 3,
            ..NodeStatus::default()
        };
        let told = describe(told, 0);
        assert_eq!((told.log_start_index, told.snapshot_index), (30, 40));
        assert_eq!((told.repairing, told.stopped_at_index), (true, Some(41)));
        assert_eq!(told.feature_level, 3);
    }
}

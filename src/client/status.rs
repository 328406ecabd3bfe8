//! What all members of a cluster say of themselves, as one answer.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::Status;

use super::propose::request;
use super::{Client, ClientError};
use crate::proto::cluster_client::ClusterClient;
use crate::proto::{
    Configuration, Member, MembershipRequest, MembershipResponse, StatusRequest, StatusResponse,
};

/// What is known of a cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterStatus {
    /// Who belongs to it and who waits, as the node knew that was asked first.
    pub membership: MembershipResponse,
    /// Every member, by its number.
    pub nodes: Vec<MemberStatus>,
}

/// One member.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStatus {
    /// Its number.
    pub node_id: u64,
    /// Where it was asked; empty if nobody knows where it takes calls.
    pub endpoint: String,
    /// What it says of itself, or why it did not answer.
    pub status: Result<Box<StatusResponse>, String>,
}

impl Client {
    /// Asks a node who belongs to the cluster, and all of those at once how they are. One that is down does not
    /// hold the answer up for longer than half the deadline, and is in it with the reason.
    ///
    /// # Errors
    /// If none of the [endpoints](super::ClientOptions::endpoints) says who the members are.
    pub async fn status_of_all(&self) -> Result<ClusterStatus, ClientError> {
        let asked = self.at_any(|channel, patience| async move {
            let mut cluster = ClusterClient::new(channel);
            let members = cluster.membership(request(MembershipRequest {}, patience));
            Ok(members.await?.into_inner())
        });
        let membership = asked.await?;
        let patience = self.inner.deadline / 2;
        let mut asked = JoinSet::new();
        for member in members(&membership) {
            asked.spawn(self.clone().status_of(member, patience));
        }
        let mut nodes = asked.join_all().await;
        nodes.sort_by_key(|member| member.node_id);
        Ok(ClusterStatus { membership, nodes })
    }

    async fn status_of(self, member: Member, patience: Duration) -> MemberStatus {
        let endpoint = member.client_endpoint;
        let nodes = &self.inner.nodes;
        let ask = async {
            if endpoint.is_empty() {
                return Err("where it takes calls is not known".to_owned());
            }
            if !nodes.may_follow(&endpoint) {
                return Err("it takes calls without TLS, and this client has a certificate".into());
            }
            let mut cluster = ClusterClient::new(nodes.channel(&endpoint).await?);
            let asked = cluster.status(request(StatusRequest {}, patience)).await;
            let why = |status: Status| format!("{:?}: {}", status.code(), status.message());
            asked
                .map_err(why)
                .map(|answer| Box::new(answer.into_inner()))
        };
        let asked = tokio::time::timeout(patience, ask).await;
        let status = asked.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        if status.is_err() {
            nodes.forget(&endpoint);
        }
        MemberStatus {
            node_id: member.node_id,
            endpoint,
            status,
        }
    }
}

/// Those of the configuration in force.
fn members(view: &MembershipResponse) -> Vec<Member> {
    let in_force = view.in_force.as_ref();
    in_force.map_or_else(Vec::new, |Configuration { members, .. }| members.clone())
}

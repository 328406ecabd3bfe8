//! `conveyor-raft leave`.

use std::time::{Duration, Instant};

use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{StatusRequest, StatusResponse, TransferLeadershipRequest};
use tonic::transport::Channel;

use crate::cli::LeaveArgs;
use crate::client::{Client, failure_of, unread};
use crate::failure::Failure;
use crate::output::{self, say};

/// How often it is looked who leads.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) async fn run(args: LeaveArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let mut cluster = ClusterClient::new(client.any().await?);
    let before = status(&client, &mut cluster).await?;
    if before.leader_id == before.node_id {
        let request = client.request(TransferLeadershipRequest { to: 0 });
        let handed = cluster.transfer_leadership(request).await;
        handed.map_err(|status| failure_of(&status))?;
    }
    let give_up = Instant::now() + client.timeout();
    let now = loop {
        let now = status(&client, &mut cluster).await?;
        let leads = now.leader_id == now.node_id;
        if !leads && (now.leader_id != 0 || !args.wait) {
            break now;
        }
        if Instant::now() > give_up {
            return Err(Failure::new(format!(
                "node {} {}",
                now.node_id,
                if leads {
                    "leads again"
                } else {
                    "knows no other leader"
                }
            )));
        }
        tokio::time::sleep(LOOK).await;
    };
    match (client.json, now.leader_id) {
        (true, _) => say!("{}", output::json(&now)?),
        (false, 0) => say!("node {} does not lead", now.node_id),
        (false, leader) => say!("node {} does not lead, node {leader} does", now.node_id),
    }
    Ok(())
}

async fn status(
    client: &Client,
    cluster: &mut ClusterClient<Channel>,
) -> Result<StatusResponse, Failure> {
    let answer = cluster.status(client.request(StatusRequest {})).await;
    Ok(answer.map_err(|status| unread(&status))?.into_inner())
}

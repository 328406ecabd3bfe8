//! `conveyor-raft transfer-leadership`.

use conveyor_raft::proto::TransferLeadershipRequest;
use conveyor_raft::proto::cluster_client::ClusterClient;

use crate::cli::TransferArgs;
use crate::client::{Client, failure};
use crate::failure::Failure;
use crate::output::{self, say};

pub(crate) async fn run(args: TransferArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let request = TransferLeadershipRequest {
        to: args.to.unwrap_or_default(),
    };
    let answer = client.cluster.at_leader(async |channel| {
        let mut cluster = ClusterClient::new(channel);
        cluster.transfer_leadership(client.request(request)).await
    });
    let answer = answer.await.map_err(failure)?.into_inner();
    match client.json {
        true => say!("{}", output::json(&answer)?),
        false => say!("node {} leads", answer.leader_id),
    }
    Ok(())
}

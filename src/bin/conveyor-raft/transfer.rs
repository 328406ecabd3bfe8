//! `conveyor-raft transfer-leadership`.

use conveyor_raft::grpc::detail;
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{NotLeader, TransferLeadershipRequest};

use crate::cli::TransferArgs;
use crate::client::{Client, Leader, failure_of};
use crate::failure::Failure;
use crate::output::{self, say};

pub(crate) async fn run(args: TransferArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let mut leader = Leader::new(&client);
    let request = TransferLeadershipRequest {
        to: args.to.unwrap_or_default(),
    };
    let answer = loop {
        let mut cluster = ClusterClient::new(leader.channel().await?);
        match cluster.transfer_leadership(client.request(request)).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => match detail::<NotLeader>(&status) {
                Some(hint) => leader.refused(&hint).await?,
                None => return Err(failure_of(&status)),
            },
        }
    };
    match client.json {
        true => say!("{}", output::json(&answer)?),
        false => say!("node {} leads", answer.leader_id),
    }
    Ok(())
}

//! `conveyor-raft snapshot`.

use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{TriggerSnapshotRequest, TriggerSnapshotResponse};

use crate::cli::SnapshotArgs;
use crate::client::{Client, failure_of};
use crate::failure::Failure;
use crate::output::{self, say};

pub(crate) async fn run(args: SnapshotArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let mut failed = Vec::new();
    for endpoint in client.endpoints() {
        match ask(&client, endpoint).await {
            Ok(taken) if client.json => say!("{}", output::json(&taken)?),
            Ok(taken) => say!(
                "{endpoint}: snapshot of entry {}.{}",
                taken.term,
                taken.index
            ),
            Err(failure) => {
                eprintln!("{endpoint}: {failure}");
                failed.push(endpoint.as_str());
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "no snapshot at {}",
            failed.join(", ")
        ))),
    }
}

async fn ask(client: &Client, endpoint: &str) -> Result<TriggerSnapshotResponse, Failure> {
    let channel = client.channel(endpoint).await?;
    let answer = ClusterClient::new(channel)
        .trigger_snapshot(client.request(TriggerSnapshotRequest {}))
        .await;
    Ok(answer.map_err(|status| failure_of(&status))?.into_inner())
}

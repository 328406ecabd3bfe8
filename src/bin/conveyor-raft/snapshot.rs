//! `conveyor-raft snapshot`.

use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{TriggerSnapshotRequest, TriggerSnapshotResponse};

use crate::cli::SnapshotArgs;
use crate::client::{Client, failure_of};
use crate::failure::Failure;
use crate::output::say;

pub(crate) async fn run(args: SnapshotArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let ask = async |endpoint: &str| ask(&client, endpoint).await;
    let in_words = |endpoint: &str, taken: &TriggerSnapshotResponse| {
        let (term, index) = (taken.term, taken.index);
        say!("{endpoint}: snapshot of entry {term}.{index}");
        Ok(())
    };
    client.ask_each("snapshot", ask, in_words).await
}

async fn ask(client: &Client, endpoint: &str) -> Result<TriggerSnapshotResponse, Failure> {
    let channel = client.channel(endpoint).await?;
    let answer = ClusterClient::new(channel)
        .trigger_snapshot(client.request(TriggerSnapshotRequest {}))
        .await;
    Ok(answer.map_err(|status| failure_of(&status))?.into_inner())
}

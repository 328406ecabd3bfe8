//! `conveyor-raft health`.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cli::HealthArgs;
use crate::client::{Client, unread};
use crate::failure::{Exit, Failure};
use crate::output::say;

const LIVE: &str = "conveyor.raft.v1.Live";
const READY: &str = "conveyor.raft.v1.Router";

pub(crate) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let (service, word) = match args.live {
        true => (LIVE, "live"),
        false => (READY, "ready"),
    };
    let request = client.request(HealthCheckRequest {
        service: service.to_owned(),
    });
    let answer = HealthClient::new(client.any().await?).check(request).await;
    let answer = answer.map_err(|status| unread(&status))?.into_inner();
    if answer.status() != ServingStatus::Serving {
        return Err(Failure::new(format!("not {word}")).with(Exit::Unavailable));
    }
    match client.json {
        true => say!("{{\"{word}\":true}}"),
        false => say!("{word}"),
    }
    Ok(())
}

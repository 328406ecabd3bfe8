//! `conveyor-raft state`.

use std::io::{self, BufWriter, Write};

use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{GetStateRequest, SummaryRequest, SummaryResponse};

use crate::cli::StateArgs;
use crate::client::{Client, failure_of};
use crate::failure::Failure;
use crate::output::{self, say};

/// A part of the state may be one large record.
const MAX_PART: usize = 64 << 20;

pub(crate) async fn run(args: StateArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let mut router = RouterClient::new(client.any().await?).max_decoding_message_size(MAX_PART);
    if args.full {
        return full(&client, &mut router, args.at_least).await;
    }
    let request = SummaryRequest {
        at_least_index: args.at_least,
        ..SummaryRequest::default()
    };
    let answer = router.summary(client.request(request)).await;
    let summary = answer.map_err(|status| failure_of(&status))?.into_inner();
    match client.json {
        true => say!("{}", output::json(&summary)?),
        false => print(&summary),
    }
    Ok(())
}

async fn full(
    client: &Client,
    router: &mut RouterClient<tonic::transport::Channel>,
    at_least: u64,
) -> Result<(), Failure> {
    let request = GetStateRequest {
        at_least_index: at_least,
        ..GetStateRequest::default()
    };
    // No deadline: how long it takes is a matter of how much there is.
    let answer = router.get_state(request).await;
    let mut parts = answer.map_err(|status| failure_of(&status))?.into_inner();
    let mut out = BufWriter::new(io::stdout());
    let mut first = true;
    while let Some(part) = parts
        .message()
        .await
        .map_err(|status| failure_of(&status))?
    {
        if std::mem::take(&mut first) && !client.json {
            writeln!(out, "# state at index {}, term {}", part.index, part.term)?;
        }
        for record in &part.records {
            if let Some(record) = &record.record {
                writeln!(out, "{}", output::json(record)?)?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn print(summary: &SummaryResponse) {
    say!(
        "state at index {}, term {}",
        output::count(summary.index),
        summary.term
    );
    say!("  digest           {}", summary.digest);
    for (name, count) in &summary.counts {
        say!("  {name:<16} {}", output::count(*count));
    }
    say!("  rejected so far  {}", output::count(summary.rejections));
}

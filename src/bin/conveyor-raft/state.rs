//! `conveyor-raft state`.

use std::io::{self, BufWriter, Write};

use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{self, GetStateRequest, SummaryRequest, SummaryResponse};

use crate::cli::{Consistency, StateArgs};
use crate::client::{Client, unread};
use crate::failure::Failure;
use crate::output::{self, say};

/// A part of the state may be one large record.
const MAX_PART: usize = 64 << 20;

pub(crate) async fn run(args: StateArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let mut router = RouterClient::new(client.any().await?).max_decoding_message_size(MAX_PART);
    if args.full {
        return full(&client, &mut router, asked(args.at_least, args.consistency)).await;
    }
    let (at_least_index, consistency) = asked(args.at_least, args.consistency);
    let request = SummaryRequest {
        at_least_index,
        consistency: consistency as i32,
    };
    let answer = router.summary(client.request(request)).await;
    let summary = answer.map_err(|status| unread(&status))?.into_inner();
    match client.json {
        true => say!("{}", output::json(&summary)?),
        false => print(&summary),
    }
    Ok(())
}

fn asked(at_least: u64, consistency: Consistency) -> (u64, proto::Consistency) {
    let consistency = match (at_least, consistency) {
        (1.., _) => proto::Consistency::AtLeastIndex,
        (_, Consistency::Local) => proto::Consistency::Local,
        (_, Consistency::Lease) => proto::Consistency::Lease,
        (_, Consistency::Linearizable) => proto::Consistency::Linearizable,
    };
    (at_least, consistency)
}

async fn full(
    client: &Client,
    router: &mut RouterClient<tonic::transport::Channel>,
    (at_least_index, consistency): (u64, proto::Consistency),
) -> Result<(), Failure> {
    let request = GetStateRequest {
        at_least_index,
        consistency: consistency as i32,
    };
    // No deadline: how long it takes is a matter of how much there is.
    let answer = router.get_state(request).await;
    let mut parts = answer.map_err(|status| unread(&status))?.into_inner();
    let mut out = BufWriter::new(io::stdout());
    let mut first = true;
    while let Some(part) = parts.message().await.map_err(|status| unread(&status))? {
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

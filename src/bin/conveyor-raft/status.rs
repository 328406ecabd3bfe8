//! `conveyor-raft status`.

use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{PeerStatus, StatusRequest, StatusResponse};

use crate::cli::StatusArgs;
use crate::client::{Client, failure, unread};
use crate::failure::{Exit, Failure};
use crate::links;
use crate::output::{self, say};

pub(crate) async fn run(args: StatusArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    if args.all {
        return of_all(&client, args.links).await;
    }
    let ask = async |endpoint: &str| ask(&client, endpoint).await;
    let show = |endpoint: &str, status: &StatusResponse| print(endpoint, status, args.links);
    client.ask_each("status", ask, show).await
}

/// Every member; one that does not answer is a failure, after all others were shown.
async fn of_all(client: &Client, links: bool) -> Result<(), Failure> {
    let all = client.cluster.status_of_all().await.map_err(failure)?;
    let mut silent = Vec::new();
    for member in &all.nodes {
        match &member.status {
            Ok(status) if client.json => say!("{}", output::json(status)?),
            Ok(status) => print(&member.endpoint, status, links)?,
            Err(why) => {
                eprintln!("node {} at {}: {why}", member.node_id, member.endpoint);
                silent.push(member.node_id.to_string());
            }
        }
    }
    match silent.is_empty() {
        true => Ok(()),
        false => {
            let silent = silent.join(", ");
            Err(Failure::new(format!("no status from node {silent}")).with(Exit::Unavailable))
        }
    }
}

async fn ask(client: &Client, endpoint: &str) -> Result<StatusResponse, Failure> {
    let channel = client.channel(endpoint).await?;
    let answer = ClusterClient::new(channel)
        .status(client.request(StatusRequest {}))
        .await;
    Ok(answer.map_err(|status| unread(&status))?.into_inner())
}

fn connection(peer: &PeerStatus) -> String {
    let round_trip = peer.rtt_us.map(|us| format!(", round trip {us} µs"));
    let again = match peer.reconnects {
        0 => String::new(),
        times => format!(", connected again {times} times"),
    };
    round_trip.unwrap_or_default() + &again
}

fn print_peer(peer: &PeerStatus, links: bool) {
    let link = if peer.connected {
        "connected"
    } else {
        "not connected"
    };
    let contact = match peer.last_contact_ms {
        Some(ms) => format!(", heard {ms} ms ago, equal up to {}", peer.match_index),
        None => String::new(),
    };
    say!(
        "  peer {}      {} {link}{}{contact}",
        peer.node_id,
        peer.address,
        connection(peer)
    );
    if links {
        say!("{}", links::show(peer));
    }
}

fn print(endpoint: &str, status: &StatusResponse, links: bool) -> Result<(), Failure> {
    // The word for a role is that of the JSON form.
    let words = serde_json::to_value(status)?;
    let role = words
        .get("role")
        .and_then(|role| role.as_str())
        .unwrap_or("unknown");
    let leader = match (status.leader_id, status.leader_endpoint.as_str()) {
        (0, _) => "none known".to_owned(),
        (id, "") => format!("node {id}"),
        (id, endpoint) => format!("node {id} at {endpoint}"),
    };
    say!("node {} at {endpoint}", status.node_id);
    say!("  role        {role}, term {}", status.term);
    say!("  leader      {leader}");
    say!(
        "  last entry  {} (term {})",
        status.last_index,
        status.last_term
    );
    say!("  log start   {}", status.log_start_index);
    match status.snapshot_index {
        0 => say!("  snapshot    none"),
        index => say!("  snapshot    {index}"),
    }
    say!("  durable     {}", status.durable_index);
    say!("  committed   {}", status.commit_index);
    say!("  applied     {}", status.applied_index);
    say!("  digest      {}", status.digest);
    say!("  cluster     {}", status.cluster_id);
    say!("  incarnation {}", status.incarnation);
    for peer in &status.peers {
        print_peer(peer, links);
    }
    if !status.refusals.is_empty() {
        say!("  refused     {}", links::counted(&status.refusals));
    }
    for certificate in &status.certificates {
        let (name, days) = (&certificate.name, certificate.days_left);
        match days {
            0.. => say!("  certificate {name}: {days} days left"),
            _ => say!("  certificate {name}: expired"),
        }
    }
    if status.repairing {
        say!("  under repair: it neither votes nor counts until its log is whole again");
    }
    if let Some(index) = status.stopped_at_index {
        say!("  stopped at  {index}: the state machine cannot apply that entry");
    }
    if status.stopping {
        say!("  stopping");
    }
    for note in status.advice.iter().chain(&status.failure) {
        say!("  note        {note}");
    }
    Ok(())
}

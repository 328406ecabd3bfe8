//! `conveyor-raft top`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::{Role, StatusRequest, StatusResponse};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::cli::TopArgs;
use crate::client::{Client, unread};
use crate::failure::{Exit, Failure};
use crate::output::{self, say};

/// Puts what follows in the place of what is on a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) async fn run(args: TopArgs) -> Result<(), Failure> {
    let client = Arc::new(Client::new(args.client)?);
    let every = Duration::from_secs(args.every);
    let mut view = View::default();
    view.look(&client).await;
    let live = !args.once && !client.json && std::io::stdout().is_terminal();
    loop {
        if live {
            say!("{CLEAR}{}", view.table());
        }
        tokio::time::sleep(every).await;
        view.look(&client).await;
        if live {
            continue;
        }
        match client.json {
            true => say!("{}", output::json(&view.rows())?),
            false => say!("{}", view.table()),
        }
        if args.once {
            return view.complete();
        }
    }
}

/// What a node said of itself, and when.
struct Seen {
    status: StatusResponse,
    at: Instant,
}

/// A node, as asked last.
#[derive(Default)]
struct Node {
    channel: Option<Channel>,
    now: Option<Seen>,
    before: Option<Seen>,
    /// Why it did not answer the last time.
    silent: Option<String>,
}

/// Every endpoint that is asked.
#[derive(Default)]
struct View(BTreeMap<String, Node>);

/// What is shown of a node.
#[derive(Debug, Default, Serialize)]
struct Row {
    endpoint: String,
    node: u64,
    role: String,
    term: u64,
    last_index: u64,
    commit_index: u64,
    applied_index: u64,
    /// Entries of the leader's log that this one is not known to have; absent if nobody says.
    log_behind: Option<u64>,
    /// Entries that the cluster has committed and this node has not applied.
    not_applied: u64,
    /// Applied between the last two looks.
    applied_per_second: Option<f64>,
    snapshot_index: u64,
    /// Milliseconds since the leader heard it; absent if nobody says.
    heard_ms: Option<u64>,
    note: Option<String>,
}

impl View {
    /// Asks all of them at the same time.
    async fn look(&mut self, client: &Arc<Client>) {
        let mut asking = JoinSet::new();
        for endpoint in client.endpoints() {
            let channel = self.0.get(endpoint).and_then(|node| node.channel.clone());
            asking.spawn(ask(Arc::clone(client), endpoint.clone(), channel));
        }
        for (endpoint, answer) in asking.join_all().await {
            let node = self.0.entry(endpoint).or_default();
            match answer {
                Ok((channel, status)) => {
                    let at = Instant::now();
                    node.before = node.now.replace(Seen { status, at });
                    (node.channel, node.silent) = (Some(channel), None);
                }
                Err(failure) => {
                    let silent = Some(failure.to_string());
                    *node = Node {
                        silent,
                        ..Node::default()
                    };
                }
            }
        }
    }

    /// The leader of the highest term that one of them says it is.
    fn leader(&self) -> Option<&StatusResponse> {
        let seen = self.0.values().filter_map(|node| node.now.as_ref());
        let leaders = seen.filter(|seen| seen.status.role() == Role::Leader);
        let newest = leaders.max_by_key(|seen| seen.status.term);
        newest.map(|seen| &seen.status)
    }

    /// In the order of the nodes; those that are silent come first, to be seen.
    fn rows(&self) -> Vec<Row> {
        let leader = self.leader();
        let nodes = self.0.iter();
        let rows = nodes.map(|(endpoint, node)| row(endpoint, node, leader));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| row.node);
        rows
    }

    fn table(&self) -> String {
        let mut text = match self.leader() {
            Some(leader) => format!(
                "cluster {}, node {} leads in term {}\n\n",
                leader.cluster_id, leader.node_id, leader.term
            ),
            None => "no leader among those that were asked\n\n".to_owned(),
        };
        let titles = [
            "NODE",
            "ROLE",
            "TERM",
            "LAST",
            "COMMITTED",
            "APPLIED",
            "LOG BEHIND",
            "NOT APPLIED",
            "APPLIED/S",
            "SNAPSHOT",
            "HEARD MS",
            "ENDPOINT",
        ];
        let rows = self.rows();
        let cells: Vec<_> = rows.iter().map(Row::cells).collect();
        text += &output::table(titles, &cells);
        for row in &rows {
            if let Some(note) = &row.note {
                let _ = writeln!(text, "{}: {note}", row.endpoint);
            }
        }
        text
    }

    /// Whether all of them answered.
    fn complete(&self) -> Result<(), Failure> {
        let silent = self.0.iter().filter(|(_, node)| node.silent.is_some());
        let silent: Vec<_> = silent.map(|(endpoint, _)| endpoint.as_str()).collect();
        match silent.is_empty() {
            true => Ok(()),
            false => Err(
                Failure::new(format!("no answer from {}", silent.join(", ")))
                    .with(Exit::Unavailable),
            ),
        }
    }
}

async fn ask(
    client: Arc<Client>,
    endpoint: String,
    channel: Option<Channel>,
) -> (String, Result<(Channel, StatusResponse), Failure>) {
    let asking = async {
        let channel = match channel {
            Some(channel) => channel,
            None => client.channel(&endpoint).await?,
        };
        let asked = client.request(StatusRequest {});
        let status = ClusterClient::new(channel.clone()).status(asked).await;
        let status = status.map_err(|status| unread(&status))?;
        Ok((channel, status.into_inner()))
    };
    let answer = tokio::time::timeout(client.timeout(), asking).await;
    let late = |_| Err(Failure::new("does not answer in time").with(Exit::Unavailable));
    let answer = answer.unwrap_or_else(late);
    (endpoint, answer)
}

fn row(endpoint: &str, node: &Node, leader: Option<&StatusResponse>) -> Row {
    let endpoint = endpoint.to_owned();
    let Some(Seen { status, at }) = &node.now else {
        return Row {
            endpoint,
            role: "silent".to_owned(),
            note: node.silent.clone(),
            ..Row::default()
        };
    };
    let leads = leader.is_some_and(|leader| leader.node_id == status.node_id);
    let mut peers = leader.iter().flat_map(|leader| &leader.peers);
    let peer = peers.find(|peer| peer.node_id == status.node_id && !leads);
    let committed = leader.map_or(status.commit_index, |leader| leader.commit_index);
    let log_behind = leader.map(|leader| match peer {
        Some(peer) => leader.last_index.saturating_sub(peer.match_index),
        None => leader.last_index.saturating_sub(status.last_index),
    });
    let rate = node.before.as_ref().map(|before| {
        let entries = status
            .applied_index
            .saturating_sub(before.status.applied_index);
        entries as f64 / (*at - before.at).as_secs_f64()
    });
    let role = match status.role() {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Unspecified => "unknown",
    };
    let notes = [
        status.failure.clone(),
        status.advice.clone(),
        status.stopping.then(|| "stopping".to_owned()),
    ];
    Row {
        endpoint,
        node: status.node_id,
        role: role.to_owned(),
        term: status.term,
        last_index: status.last_index,
        commit_index: status.commit_index,
        applied_index: status.applied_index,
        log_behind,
        not_applied: committed.saturating_sub(status.applied_index),
        applied_per_second: rate,
        snapshot_index: status.snapshot_index,
        heard_ms: peer.and_then(|peer| peer.last_contact_ms),
        note: notes.into_iter().flatten().next(),
    }
}

impl Row {
    fn cells(&self) -> [String; 12] {
        let some = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), output::count);
        let known = self.node > 0;
        let number = |number: u64| some(known.then_some(number));
        [
            number(self.node),
            self.role.clone(),
            number(self.term),
            number(self.last_index),
            number(self.commit_index),
            number(self.applied_index),
            some(self.log_behind),
            number(self.not_applied),
            some(self.applied_per_second.map(|rate| rate.round() as u64)),
            number(self.snapshot_index),
            some(self.heard_ms),
            self.endpoint.clone(),
        ]
    }
}

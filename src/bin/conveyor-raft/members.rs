//! `conveyor-raft members`.

use std::time::{Duration, Instant};

use conveyor_raft::client::ClientError;
use conveyor_raft::grpc::detail;
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::member_change::Change;
use conveyor_raft::proto::{
    ChangeMembersRequest, ChangeRefused, Configuration, Member, MemberChange, MembershipRequest,
    MembershipResponse, ReplaceMember, Standing,
};

use crate::cli::{MembersArgs, MembersCommand, MembersUpdateArgs, NewMemberArgs};
use crate::client::{Client, failure, unread};
use crate::failure::Failure;
use crate::output::{self, say};

/// How often the members are looked at while somebody catches up.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(args: MembersArgs) -> Result<(), Failure> {
    match args.command {
        MembersCommand::Show(args) => show(&Client::new(args.client)?).await,
        MembersCommand::Add(args) => {
            let client = Client::new(args.client)?;
            let new = newcomer(&look(&client).await?, args.node, args.new)?;
            let awaited = args.wait.then(|| new.clone());
            let wish = match args.learner {
                true => Change::AddLearner(new),
                false => Change::AddVoter(new),
            };
            change(&client, wish, args.condition.expected, awaited).await
        }
        MembersCommand::Replace(args) => {
            let client = Client::new(args.client)?;
            let with = args.with.unwrap_or(args.node);
            let new = newcomer(&look(&client).await?, with, args.new)?;
            let awaited = args.wait.then(|| new.clone());
            let wish = Change::Replace(ReplaceMember {
                old: args.node,
                new: Some(new),
            });
            change(&client, wish, args.condition.expected, awaited).await
        }
        MembersCommand::Remove(args) => {
            let client = Client::new(args.client)?;
            let wish = Change::Remove(args.node);
            change(&client, wish, args.condition.expected, None).await
        }
        MembersCommand::Promote(args) => {
            let client = Client::new(args.client)?;
            let awaited = match args.wait {
                true => Some(member(&look(&client).await?, args.node)?),
                false => None,
            };
            let wish = Change::Promote(args.node);
            change(&client, wish, args.condition.expected, awaited).await
        }
        MembersCommand::Demote(args) => {
            let client = Client::new(args.client)?;
            let wish = Change::Demote(args.node);
            change(&client, wish, args.condition.expected, None).await
        }
        MembersCommand::Update(args) => update(args).await,
        MembersCommand::Skip(args) => {
            let client = Client::new(args.client)?;
            let wish = Change::Skip(args.entry);
            change(&client, wish, args.condition.expected, None).await
        }
    }
}

async fn update(args: MembersUpdateArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let before = member(&look(&client).await?, args.node)?;
    let wish = Change::Update(Member {
        address: args.address.unwrap_or(before.address),
        client_endpoint: args.client_endpoint.unwrap_or(before.client_endpoint),
        priority: args.priority.unwrap_or(before.priority),
        ..before
    });
    change(&client, wish, args.condition.expected, None).await
}

// ---- looking ----

async fn ask(client: &Client, endpoint: &str) -> Result<MembershipResponse, Failure> {
    let channel = client.channel(endpoint).await?;
    let request = client.request(MembershipRequest {});
    let answer = ClusterClient::new(channel).membership(request).await;
    Ok(answer.map_err(|status| unread(&status))?.into_inner())
}

/// What the leader knows, or else the first node that answers, with all who wait at any of them.
async fn look(client: &Client) -> Result<MembershipResponse, Failure> {
    let mut failure = Failure::new("no endpoint given");
    let mut answers: Vec<MembershipResponse> = Vec::new();
    for endpoint in client.endpoints() {
        match ask(client, endpoint).await {
            Ok(answer) => answers.push(answer),
            Err(why) => failure = why,
        }
    }
    let leads = |answer: &MembershipResponse| answer.leader_id == answer.node_id;
    if !answers.iter().any(leads)
        && let Some(hint) = answers.iter().find(|it| !it.leader_endpoint.is_empty())
        && let Ok(answer) = ask(client, &hint.leader_endpoint.clone()).await
    {
        answers.push(answer);
    }
    let at = answers.iter().position(leads).unwrap_or_default();
    if answers.is_empty() {
        return Err(failure);
    }
    let mut view = answers.swap_remove(at);
    for waiting in answers.into_iter().flat_map(|answer| answer.waiting) {
        if !is_listed(&view, &waiting) {
            view.waiting.push(waiting);
        }
    }
    view.waiting.sort_by_key(|waiting| waiting.node_id);
    Ok(view)
}

/// Whether this replica is a member by now, or is known to wait.
fn is_listed(view: &MembershipResponse, who: &Member) -> bool {
    let members = view.in_force.iter().flat_map(|it| &it.members);
    let mut all = members.chain(&view.waiting);
    all.any(|one| (one.node_id, &one.incarnation) == (who.node_id, &who.incarnation))
}

/// The member of this number; of two lives the one that comes.
fn member(view: &MembershipResponse, node: u64) -> Result<Member, Failure> {
    let members = view.in_force.iter().flat_map(|it| it.members.iter().rev());
    let mut wanted = members.filter(|member| member.node_id == node);
    let none = || Failure::new(format!("node {node} is no member; see `members show`"));
    wanted.next().cloned().ok_or_else(none)
}

/// Who is to come in: what it says of itself while it waits, unless the caller knows better.
fn newcomer(view: &MembershipResponse, node: u64, args: NewMemberArgs) -> Result<Member, Failure> {
    let waiting: Vec<_> = view
        .waiting
        .iter()
        .filter(|it| it.node_id == node)
        .collect();
    let itself = match (&args.incarnation, waiting.as_slice()) {
        (Some(incarnation), _) => Member {
            node_id: node,
            incarnation: incarnation.clone(),
            ..Member::default()
        },
        (None, [one]) => (*one).clone(),
        (None, []) => {
            return Err(Failure::new(format!(
                "node {node} does not wait at any node that was asked: start it with an empty \
                 directory, join = true and these members in its list; or say who it is with \
                 --incarnation and --address"
            )));
        }
        (None, _) => {
            return Err(Failure::new(format!(
                "several directories wait as node {node}: say which with --incarnation and \
                 --address, or stop all but one"
            )));
        }
    };
    Ok(Member {
        address: args.address.unwrap_or(itself.address),
        client_endpoint: args.client_endpoint.unwrap_or(itself.client_endpoint),
        ..itself
    })
}

async fn show(client: &Client) -> Result<(), Failure> {
    let view = look(client).await?;
    if client.json {
        say!("{}", output::json(&view)?);
        return Ok(());
    }
    match &view.in_force {
        Some(current) => print(&view, current),
        None => say!("node {} has no members yet", view.node_id),
    }
    for waiting in &view.waiting {
        say!("waits to be added");
        print_member(waiting, "");
    }
    Ok(())
}

fn print(view: &MembershipResponse, current: &Configuration) {
    let committed = view.committed.as_ref().map(|it| it.index);
    let state = match committed == Some(current.index) {
        true => "committed",
        false => "not committed yet",
    };
    say!("members at index {}, {state}", current.index);
    for member in &current.members {
        let leads = if member.node_id == view.leader_id {
            "leads"
        } else {
            ""
        };
        print_member(member, leads);
    }
    let removed: Vec<_> = current
        .old_voters
        .iter()
        .map(|old| old.node_id.to_string())
        .collect();
    if !removed.is_empty() {
        let old = removed.join(", ");
        say!("a change is under way: until it is through, the voters before decide too: {old}");
    }
    if !current.skipped.is_empty() {
        say!(
            "entries that no state machine applies: {:?}",
            current.skipped
        );
    }
}

fn print_member(member: &Member, note: &str) {
    let standing = match member.replaces {
        0 => member.standing().word().to_owned(),
        old => format!("joining for {old}"),
    };
    let priority = match member.priority {
        0 => String::new(),
        priority => format!("priority {priority} "),
    };
    let line = format!(
        "  node {:<4} {standing:<13} {} {} {} {priority}{note}",
        member.node_id, member.incarnation, member.address, member.client_endpoint
    );
    say!("{}", line.trim_end());
}

// ---- changing ----

/// Has the leader carry out one change, and waits until `awaited` votes.
async fn change(
    client: &Client,
    wish: Change,
    expected_index: Option<u64>,
    awaited: Option<Member>,
) -> Result<(), Failure> {
    let give_up = Instant::now() + client.timeout();
    let request = ChangeMembersRequest {
        changes: vec![MemberChange { change: Some(wish) }],
        expected_index,
    };
    let index = propose(client, &request, give_up).await?;
    if let Some(new) = &awaited {
        wait_until_it_votes(client, new, give_up).await?;
    }
    match (client.json, awaited) {
        (true, _) => say!("{}", serde_json::json!({ "index": index })),
        (false, None) => say!("changed at index {index}"),
        (false, Some(new)) => say!("changed at index {index}; node {} votes", new.node_id),
    }
    Ok(())
}

/// Sent again only where it certainly changed nothing.
async fn propose(
    client: &Client,
    request: &ChangeMembersRequest,
    give_up: Instant,
) -> Result<u64, Failure> {
    loop {
        let answer = client.cluster.at_leader(async |channel| {
            let mut cluster = ClusterClient::new(channel);
            let request = client.request(request.clone());
            cluster.change_members(request).await
        });
        let error = match answer.await {
            Ok(answer) => return Ok(answer.into_inner().index),
            Err(error) => error,
        };
        let busy = match &error {
            ClientError::Refused(status) => detail::<ChangeRefused>(status),
            _ => None,
        };
        if busy.is_some_and(|it| it.reason == "Busy") && Instant::now() < give_up {
            tokio::time::sleep(LOOK).await;
        } else {
            return Err(failure(error));
        }
    }
}

async fn wait_until_it_votes(
    client: &Client,
    new: &Member,
    give_up: Instant,
) -> Result<(), Failure> {
    loop {
        // A node that cannot be asked now may be later: the time decides.
        if let Ok(view) = look(client).await
            && let Some(committed) = &view.committed
            && committed.old_voters.is_empty()
            && committed.members.iter().any(|one| {
                one.standing() == Standing::Voter
                    && (one.node_id, &one.incarnation) == (new.node_id, &new.incarnation)
            })
        {
            return Ok(());
        }
        if Instant::now() >= give_up {
            return Err(Failure::new(format!(
                "node {} was added and does not vote yet: it catches up, and votes by itself; \
                 `members show` says when",
                new.node_id
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

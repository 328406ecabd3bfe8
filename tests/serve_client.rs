//! The Rust client against three real processes that are killed, moved off leadership, and cut off from
//! each other, again and again: what its sessions send is applied exactly once.
//!
//! `CONVEYOR_CLIENT_ROUNDS` says how often, 4 times without it.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod caller;
mod common;
mod serve_common;
#[path = "serve_common/wires.rs"]
mod wires;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caller::{Caller, library, operator};
use conveyor_raft::RouterCommand;
use conveyor_raft::client::{BATCH, Client, ClientError, ClientOptions, Session};
use conveyor_raft::grpc::connect;
use conveyor_raft::node::ReadConsistency;
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::propose_outcome::Outcome;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::state_record::Record;
use conveyor_raft::proto::{
    Certainty, ProposeItem, ProposeResponse, ProposeStreamRequest, TransferLeadershipRequest,
};
use serve_common::{PATIENCE, Running, Site};
use tokio::task::JoinSet;
use wires::Wires;

const WORKERS: u64 = 16;
/// Those that never send again what became of unknown outcome.
const FORGETFUL: u64 = 4;

fn rounds() -> u64 {
    let set = std::env::var("CONVEYOR_CLIENT_ROUNDS").ok();
    set.map_or(4, |rounds| rounds.parse().expect("a number"))
}

fn create(pipeline: &str) -> RouterCommand {
    RouterCommand::CreatePipeline {
        pipeline_id: pipeline.into(),
        name: String::new(),
        config: Vec::new(),
    }
}

/// Counts the pipeline's version up by one. No two are equal, so one that came twice would count
/// twice as soon as another came between.
fn count(pipeline: &str, unique: String) -> RouterCommand {
    RouterCommand::UpdatePipeline {
        pipeline_id: pipeline.into(),
        config: unique.into(),
        expected_version: None,
    }
}

fn version(response: &ProposeResponse) -> u64 {
    let answer = response.answer.as_ref().expect("an answer");
    answer.version.expect("a version")
}

struct Load {
    session: Session,
    stop: AtomicBool,
    /// Of those that go one by one.
    returned: AtomicU64,
    duplicates: AtomicU64,
    /// Times that a deadline came first.
    unknown: AtomicU64,
}

impl Load {
    fn note(&self, response: &ProposeResponse) -> u64 {
        let duplicate = u64::from(response.duplicate);
        self.duplicates.fetch_add(duplicate, Ordering::Relaxed);
        version(response)
    }

    /// One command after the other; returns the versions that they were answered with.
    async fn one_by_one(self: Arc<Self>, worker: u64) -> Vec<u64> {
        let mut versions = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let unique = format!("{worker}/{}", versions.len());
            let mut command = self.session.number(count("p", unique)).await.expect("room");
            let give_up = Instant::now() + PATIENCE;
            let response = loop {
                match command.send().await {
                    Ok(response) => break response,
                    // None or all of it: sent again with its number until that is known.
                    Err(ClientError::Unknown { .. } | ClientError::Deadline { .. }) => {
                        assert!(Instant::now() < give_up, "no outcome");
                        self.unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            versions.push(self.note(&response));
            self.returned.fetch_add(1, Ordering::Relaxed);
        }
        versions
    }

    /// The same without sending anything again: the versions, and how many outcomes stayed unknown.
    async fn forgetful(self: Arc<Self>, worker: u64) -> (Vec<u64>, u64) {
        let (mut versions, mut unknown) = (Vec::new(), 0);
        while !self.stop.load(Ordering::Relaxed) {
            let unique = format!("{worker}/{}", versions.len() as u64 + unknown);
            match self.session.propose(count("r", unique)).await {
                Ok(response) => versions.push(self.note(&response)),
                Err(error) if error.certainty() == Certainty::NotApplied => {}
                Err(ClientError::Unknown { .. }) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        }
        (versions, unknown)
    }

    /// Batches, of a session of their own.
    async fn batches(self: Arc<Self>, session: Session) -> Vec<u64> {
        let mut versions = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let first = versions.len();
            let commands = (first..first + BATCH).map(|n| count("q", n.to_string()));
            let results = session.propose_batch(commands.collect()).await;
            for result in results.expect("room") {
                let response = result.expect("the deadline is far");
                versions.push(self.note(&response));
            }
        }
        session.close().await.expect("closed");
        versions
    }

    async fn flows(&self) {
        let before = self.returned.load(Ordering::Relaxed);
        let give_up = Instant::now() + PATIENCE;
        while self.returned.load(Ordering::Relaxed) < before + 200 {
            assert!(Instant::now() < give_up, "nothing returns any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn transfer(client: &Client) -> Result<u64, ClientError> {
    let transferred = client.at_leader(|channel| async move {
        let mut cluster = ClusterClient::new(channel);
        let to = TransferLeadershipRequest { to: 0 };
        cluster.transfer_leadership(to).await
    });
    Ok(transferred.await?.into_inner().leader_id)
}

/// A majority that can talk to each other stays, and so do the calls; then nobody can, and they end
/// without an outcome until it is over. Returns who led last.
async fn partitions(site: &Site, wires: &Wires, load: &Load, round: u64) -> u64 {
    let caller = Caller::new(site);
    let leader = caller.leader().await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    let (alone, all) = ([leader], [1, 2, 3]);
    let what = match round % 4 {
        0 => {
            wires.cut(&alone, &others);
            wires.cut(&others, &alone);
            "alone"
        }
        1 => {
            wires.cut(&others, &alone);
            "deaf"
        }
        2 => {
            wires.cut(&alone, &others);
            "dumb"
        }
        _ => {
            let one = &others[(round / 4 % 2) as usize..][..1];
            wires.cut(&alone, one);
            wires.cut(one, &alone);
            "without one follower"
        }
    };
    load.flows().await;
    let last = caller.leader().await;
    wires.cut(&all, &all);
    let before = load.unknown.load(Ordering::Relaxed);
    let give_up = Instant::now() + PATIENCE;
    while load.unknown.load(Ordering::Relaxed) < before + WORKERS {
        assert!(Instant::now() < give_up, "calls return without a majority");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("node {leader} was {what}, then all were alone");
    last
}

/// What the last leader alone has is lost if it comes back later than another one leads.
async fn heal(
    site: &Site,
    nodes: &mut Vec<Running>,
    wires: &Wires,
    load: &Load,
    dies: Option<u64>,
) {
    if let Some(dies) = dies {
        kill(nodes, dies);
    }
    wires.heal();
    load.flows().await;
    nodes.extend(dies.map(|node| site.start(node)));
    load.flows().await;
}

fn kill(nodes: &mut Vec<Running>, node: u64) {
    let at = nodes.iter().position(|running| running.node == node);
    nodes.swap_remove(at.expect("runs")).kill();
}

async fn kill_and_transfer(site: &Site, nodes: &mut Vec<Running>, load: &Load, long: &Client) {
    let leader = Caller::new(site).leader().await;
    kill(nodes, leader);
    load.flows().await;
    nodes.push(site.start(leader));
    load.flows().await;
    // Whoever leads may refuse while the one that was killed is not back yet.
    match transfer(long).await {
        Ok(now) => println!("node {leader} killed; node {now} leads by transfer"),
        Err(why) => println!("node {leader} killed; not transferred: {why}"),
    }
    load.flows().await;
}

fn assert_counts_up_from_2(versions: &[u64]) {
    let expected: Vec<_> = (2..2 + versions.len() as u64).collect();
    assert_eq!(versions, expected);
}

async fn versions(client: &Client) -> (u64, [u64; 3]) {
    let state = client.state(ReadConsistency::Linearizable);
    let state = state.await.expect("read");
    let version_of = |id: &str| {
        let mut records = state.records.iter();
        let version = records.find_map(|record| match &record.record {
            Some(Record::Pipeline(it)) if it.pipeline_id == id => Some(it.version),
            _ => None,
        });
        version.expect("the pipeline")
    };
    (state.index, ["p", "q", "r"].map(version_of))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_what_a_session_sends_is_applied_once_over_kill_9_transfers_and_partitions() {
    let _turn = common::real_time_turn();
    let mut site = Site::new(3);
    let wires = Wires::between(&mut site).await;
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    // Short for single commands, so that some are left unknown and sent again by hand.
    let short = library(&site, Duration::from_millis(700));
    let long = library(&site, PATIENCE);
    let batches = long.open_session().await.expect("a session");
    for pipeline in ["p", "q", "r"] {
        batches.propose(create(pipeline)).await.expect("created");
    }
    let load = Arc::new(Load {
        session: short.open_session().await.expect("a session"),
        stop: AtomicBool::new(false),
        returned: AtomicU64::new(0),
        duplicates: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
    });
    let mut workers: JoinSet<Vec<u64>> = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(Arc::clone(&load).one_by_one(worker));
    }
    let mut forgetful: JoinSet<(Vec<u64>, u64)> = JoinSet::new();
    for worker in 0..FORGETFUL {
        forgetful.spawn(Arc::clone(&load).forgetful(worker));
    }
    let batches = tokio::spawn(Arc::clone(&load).batches(batches));

    let caller = Caller::new(&site);
    for round in 0..rounds() {
        load.flows().await;
        kill_and_transfer(&site, &mut nodes, &load, &long).await;
        let last = partitions(&site, &wires, &load, round).await;
        let dies = (round % 2 == 1).then_some(last);
        heal(&site, &mut nodes, &wires, &load, dies).await;
    }
    load.stop.store(true, Ordering::Relaxed);

    let mut one_by_one: Vec<u64> = workers.join_all().await.concat();
    one_by_one.sort_unstable();
    assert_counts_up_from_2(&one_by_one);
    let in_batches = batches.await.expect("ended");
    assert_counts_up_from_2(&in_batches);
    let (mut answered, mut unknown) = (Vec::new(), 0);
    for (versions, left) in forgetful.join_all().await {
        answered.extend(versions);
        unknown += left;
    }
    let sent_once = answered.len() as u64;
    answered.sort_unstable();
    answered.dedup();
    assert_eq!(answered.len() as u64, sent_once, "each its own");

    let (index, [p, q, r]) = versions(&long).await;
    assert_eq!(p, 1 + one_by_one.len() as u64, "as many as returned");
    assert_eq!(q, 1 + in_batches.len() as u64);
    // Each of those whose outcome nobody asked for again counts once or not at all.
    assert!(
        (1 + sent_once..=1 + sent_once + unknown).contains(&r),
        "{r} after {sent_once} calls and {unknown} of unknown outcome"
    );
    let (passed, lost) = wires.datagrams();
    println!(
        "{} calls and {} in batches, {} answered by an earlier try, {} times unknown; \
         {sent_once} calls not sent again and {unknown} unknown, of which {} were applied; \
         {passed} datagrams passed, {lost} lost",
        one_by_one.len(),
        in_batches.len(),
        load.duplicates.load(Ordering::Relaxed),
        load.unknown.load(Ordering::Relaxed),
        r - 1 - sent_once
    );
    assert!(lost > 0 && passed > lost, "the nodes talk over the wires");
    caller.agree(index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_finds_the_leader_and_says_when_there_is_none() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let caller = Caller::new(&site);
    let leader = caller.leader().await;
    let follower = (1..=3).find(|node| *node != leader).expect("another");

    // A follower takes nothing on a stream either, and leads the way.
    let identity = operator(&site);
    let channel = connect(&site.endpoint(follower), Some(&identity)).await;
    let mut router = RouterClient::new(channel.expect("reachable"));
    let give_up = Instant::now() + PATIENCE;
    let hint = loop {
        let items = vec![ProposeItem {
            id: 9,
            command: Some(RouterCommand::Noop.into()),
            ..ProposeItem::default()
        }];
        let request = tokio_stream::once(ProposeStreamRequest { items });
        let answers = router.propose_stream(request).await.expect("stream");
        let answer = answers.into_inner().message().await.expect("answer");
        let told = answer.expect("one").outcomes.remove(0);
        assert_eq!(told.id, 9);
        match told.outcome.and_then(|outcome| outcome.outcome) {
            Some(Outcome::NotLeader(hint)) if hint.leader_id != 0 => break hint,
            Some(Outcome::NotLeader(_)) => assert!(Instant::now() < give_up),
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        (hint.leader_id, hint.leader_endpoint, hint.certainty),
        (leader, site.endpoint(leader), Certainty::NotApplied as i32)
    );

    // One endpoint is enough, and thousands go at a time.
    let mut options = ClientOptions::new([site.endpoint(follower)], Some(identity));
    options.under_way = 1000;
    options.deadline = Duration::from_secs(20);
    let client = Client::new(options).expect("a client");
    let mut all = JoinSet::new();
    for n in 0..5000_u64 {
        let client = client.clone();
        all.spawn(async move {
            let source_id = format!("s-{n}");
            let offset = RouterCommand::CommitSourceOffset {
                source_id,
                partition: 0,
                offset: n,
                rewind: false,
            };
            client.propose(offset).await.expect("applied").index
        });
    }
    let mut indexes: Vec<u64> = all.join_all().await;
    indexes.sort_unstable();
    indexes.dedup();
    assert_eq!(indexes.len(), 5000);
    let last = indexes[4999];
    let summary = client.summary(ReadConsistency::AtLeast(last)).await;
    let summary = summary.expect("the follower answers");
    assert!(summary.index >= last);

    // Read at the follower, which hears of a commit later than who proposed.
    for round in 0..60 {
        let index = client
            .propose(RouterCommand::Noop)
            .await
            .expect("applied")
            .index;
        let consistency = match round % 3 {
            0 => ReadConsistency::Linearizable,
            1 => ReadConsistency::Lease,
            _ => ReadConsistency::AtLeast(index),
        };
        let summary = client.summary(consistency).await.expect("read");
        assert!(
            summary.index >= index,
            "{consistency:?} shows what was acknowledged"
        );
    }

    // Refused by the state machine: known, and nothing to send again.
    let renew = RouterCommand::RenewLease {
        service_id: "nobody".into(),
    };
    let refused = client.propose(renew).await.expect_err("refused");
    assert_eq!(refused.certainty(), Certainty::NoEffect);
    assert!(matches!(refused, ClientError::Rejected(_)), "{refused}");

    // Without a majority nothing is done, and the client does not claim to know more than it does.
    nodes.retain(|running| running.node == follower);
    let mut options = ClientOptions::new([site.endpoint(follower)], Some(operator(&site)));
    options.deadline = Duration::from_secs(1);
    let client = Client::new(options).expect("a client");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let alone = client
        .propose(RouterCommand::Noop)
        .await
        .expect_err("alone");
    assert_eq!(alone.certainty(), Certainty::NotApplied, "{alone}");
    assert!(matches!(alone, ClientError::Deadline { .. }), "{alone}");
    let read = client.summary(ReadConsistency::Linearizable).await;
    read.expect_err("nobody confirms");
    client.summary(ReadConsistency::Local).await.expect("local");
    assert!(begun.elapsed() < Duration::from_secs(4), "deadlines hold");
}

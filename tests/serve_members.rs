//! Processes join and leave a cluster through the command line while commands flow.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod client;
mod common;
#[path = "serve_common/history.rs"]
mod history;
mod serve_common;

use std::time::{Duration, Instant};

use client::Caller;
use history::History;
use serde_json::Value;
use serve_common::{PATIENCE, Running, Site, stderr, stdout};
use tokio::sync::watch;

/// Longest time between two answers. A change of leaders takes a third of a second at most; the rest
/// is for a machine that does much else.
const LONGEST_GAP: Duration = Duration::from_secs(3);

/// The program, as an operator would call it with some of the nodes.
struct Operator<'a> {
    site: &'a Site,
    nodes: Vec<u64>,
}

impl Operator<'_> {
    fn program(&self, args: &[&str]) -> std::process::Output {
        let endpoints: Vec<_> = self
            .nodes
            .iter()
            .map(|id| self.site.endpoint(*id))
            .collect();
        let certs = self.site.path("certs");
        let mut all = args.to_vec();
        let endpoints = endpoints.join(",");
        all.extend(["--endpoint", &endpoints, "--timeout", "30"]);
        all.extend(["--certs", certs.to_str().expect("UTF-8")]);
        tokio::task::block_in_place(|| serve_common::run(&all))
    }

    fn runs(&self, args: &[&str]) -> String {
        let output = self.program(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.program(args);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{args:?}: {}",
            stdout(&output)
        );
        stderr(&output)
    }

    fn members(&self) -> Value {
        let text = self.runs(&["members", "show", "--json"]);
        serde_json::from_str(&text).expect("JSON")
    }

    /// Until these are the voters, by a configuration that is committed.
    fn wait_for_voters(&self, expected: &[u64]) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let view = self.members();
            let members = view["committed"]["members"].as_array();
            let votes = |member: &&Value| member["standing"] == "voter";
            let voters = members.into_iter().flatten().filter(votes);
            let voters: Vec<_> = voters
                .filter_map(|member| member["node_id"].as_u64())
                .collect();
            if voters == expected {
                return;
            }
            assert!(Instant::now() < give_up, "{view}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The incarnation of a node that learns, by a configuration that is committed.
    fn learner(&self, node: u64) -> Option<String> {
        let view = self.members();
        let mut members = view["committed"]["members"].as_array()?.iter();
        let learns = |one: &&Value| one["node_id"] == node && one["standing"] == "learner";
        let found = members.find(learns)?;
        found["incarnation"].as_str().map(str::to_owned)
    }

    /// Until the node is seen by a member.
    fn wait_for(&self, node: u64) {
        let give_up = Instant::now() + PATIENCE;
        let waits = |view: &Value| {
            let waiting = view["waiting"].as_array().cloned().unwrap_or_default();
            waiting.iter().any(|one| one["node_id"] == node)
        };
        while !waits(&self.members()) {
            assert!(Instant::now() < give_up, "{}", self.site.log(node));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Proposes until told to stop; the longest time between two answers.
async fn load(mut caller: Caller, mut stop: watch::Receiver<bool>) -> (History, Duration) {
    let mut history = History::begin(&mut caller).await;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !*stop.borrow_and_update() {
        let before = history.acknowledged.len();
        history.send(&mut caller).await;
        if history.acknowledged.len() > before {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        // Enough to see every gap, and little to catch up with.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (history, longest)
}

/// In its status, whether it led or followed.
async fn says_that_it_was_removed(site: &Site, node: u64) {
    let give_up = Instant::now() + PATIENCE;
    let caller = Caller::new(site);
    loop {
        let status = caller.status(&site.endpoint(node)).await;
        let advice = status.and_then(|status| status.advice).unwrap_or_default();
        if advice.contains("was removed") {
            return;
        }
        assert!(Instant::now() < give_up, "node {node}: {advice:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn stop(nodes: &mut Vec<Running>, id: u64, site: &Site) {
    let at = nodes.iter().position(|running| running.node == id);
    let node = nodes.swap_remove(at.expect("runs"));
    let status = tokio::task::block_in_place(|| node.terminate());
    assert!(status.success(), "node {id}: {}", site.log(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_grow_to_five_and_shrink_to_three_others_under_load() {
    let _turn = common::real_time_turn();
    let site = Site::growing(3, 6);
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    Caller::new(&site).leader().await;
    let (told, stopped) = watch::channel(false);
    // A task of its own: the operator's programs block theirs.
    let commands = tokio::spawn(load(Caller::new(&site), stopped));
    let mut operator = Operator {
        site: &site,
        nodes: vec![1, 2, 3],
    };
    operator.wait_for_voters(&[1, 2, 3]);
    for (wrong, told) in [
        (
            &["add", "9"][..],
            "node 9 does not wait at any node that was asked",
        ),
        (
            &["remove", "9"],
            "InvalidArgument: changes: there is no such member",
        ),
        (&["update", "9", "--address", "a:1"], "node 9 is no member"),
        (
            &["skip", "1"],
            "InvalidArgument: changes: the leader's state machine has not stopped at that entry",
        ),
        (
            &["demote", "3", "--expected", "77"],
            "Aborted: the members have changed meanwhile, at index 1",
        ),
    ] {
        let said = operator.refused(&[&["members"], wrong].concat());
        assert!(said.contains(told), "{wrong:?}: {said}");
    }
    let shown = operator.runs(&["status"]);
    for line in ["  log start   0\n", "  snapshot    none\n"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    for id in [4, 5] {
        nodes.push(site.start(id));
        operator.wait_for(id);
        let id = id.to_string();
        operator.runs(&["members", "add", &id, "--wait"]);
    }
    operator.wait_for_voters(&[1, 2, 3, 4, 5]);

    operator.runs(&["members", "demote", "5"]);
    operator.wait_for_voters(&[1, 2, 3, 4]);
    operator.runs(&["members", "promote", "5", "--wait"]);
    let elsewhere = site.endpoint(5).replace("127.0.0.1", "localhost");
    operator.runs(&["members", "update", "5", "--client-endpoint", &elsewhere]);
    let shown = operator.runs(&["members", "show"]);
    assert!(
        shown.contains(&elsewhere) && shown.contains(" leads\n"),
        "{shown}"
    );

    operator.nodes = vec![3, 4, 5];
    for id in [1, 2] {
        // The one that leads too: each of them once.
        operator.runs(&["transfer-leadership", "--to", &id.to_string()]);
        operator.runs(&["members", "remove", &id.to_string()]);
        says_that_it_was_removed(&site, id).await;
        stop(&mut nodes, id, &site);
    }
    operator.wait_for_voters(&[3, 4, 5]);

    nodes.push(site.start(6));
    // Node 6 lists the first three, of which node 3 is left.
    operator.wait_for(6);
    operator.runs(&["members", "replace", "3", "--with", "6", "--wait"]);
    operator.nodes = vec![4, 5, 6];
    says_that_it_was_removed(&site, 3).await;
    stop(&mut nodes, 3, &site);
    operator.wait_for_voters(&[4, 5, 6]);
    told.send(true).expect("it still proposes");
    let (history, longest) = commands.await.expect("every command has its fate");
    println!(
        "{} commands answered, {longest:?} without an answer at most",
        history.acknowledged.len()
    );
    let mut caller = Caller::new(&site);
    caller.only(&site, &[4, 5, 6]);
    history.check_all(&site, &caller, 4..=6).await;
    assert!(longest < LONGEST_GAP, "{longest:?} without an answer");
    assert!(history.acknowledged.len() > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e10_nodes_that_wait_to_be_added_found_nothing() {
    let _turn = common::real_time_turn();
    let site = Site::waiting(2);
    let nodes: Vec<_> = (1..=2).map(|node| site.start(node)).collect();
    Caller::new(&site).reachable().await;
    let operator = Operator {
        site: &site,
        nodes: vec![1],
    };
    operator.wait_for(2);
    // They know of each other, and either would found a cluster at once if it were to.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let view = operator.members();
    assert_eq!(
        (&view["in_force"], &view["committed"]),
        (&Value::Null, &Value::Null)
    );
    let said = operator.runs(&["members", "show"]);
    assert!(said.contains("node 1 has no members yet"), "{said}");
    assert!(
        said.contains("waits to be added\n  node 2    waiting"),
        "{said}"
    );
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e8_a_node_that_lost_its_directory_takes_its_own_place_again() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let mut nodes: Vec<_> = (1..=3).map(|node| site.start(node)).collect();
    let mut caller = Caller::new(&site);
    let mut history = History::begin(&mut caller).await;
    history.send_many(&mut caller, 20).await;
    let lost = caller.leader().await;
    let at = nodes.iter().position(|running| running.node == lost);
    nodes.swap_remove(at.expect("runs")).kill();
    std::fs::remove_dir_all(site.path(&format!("data-{lost}"))).expect("its directory");
    history.send_many(&mut caller, 20).await;
    nodes.push(site.start(lost));
    let operator = Operator {
        site: &site,
        nodes: (1..=3).filter(|node| *node != lost).collect(),
    };
    operator.wait_for(lost);
    operator.runs(&["members", "replace", &lost.to_string(), "--wait"]);
    operator.wait_for_voters(&[1, 2, 3]);
    // It counts again: with another one gone, the two go on.
    let gone = nodes.iter().position(|running| running.node != lost);
    nodes.swap_remove(gone.expect("runs")).kill();
    history.send_many(&mut caller, 20).await;
    let left: Vec<_> = nodes.iter().map(|running| running.node).collect();
    caller.only(&site, &left);
    history.check_all(&site, &caller, left).await;
}

/// Has the next starts of these nodes add by themselves who waits.
fn let_join(site: &Site, nodes: &[u64]) {
    for node in nodes {
        let path = site.config(*node);
        let text = std::fs::read_to_string(&path).expect("settings");
        let text = text.replacen("[node]\n", "[node]\nauto_join = true\n", 1);
        std::fs::write(path, text).expect("settings");
    }
}

/// What is waited for before it is said that nothing happens: a leader looks once a second.
const NOTHING_HAPPENS: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_joins_by_itself_where_the_leader_lets_it_and_replaces_nobody() {
    let _turn = common::real_time_turn();
    let site = Site::growing(3, 4);
    let founders = [1, 2, 3];
    let mut nodes: Vec<_> = (1..=4).map(|node| site.start(node)).collect();
    let caller = Caller::new(&site);
    caller.leader().await;
    let operator = Operator {
        site: &site,
        nodes: founders.to_vec(),
    };
    operator.wait_for(4);
    tokio::time::sleep(NOTHING_HAPPENS).await;
    assert_eq!(operator.learner(4), None, "nobody said that it may");

    let_join(&site, &founders);
    for id in founders {
        stop(&mut nodes, id, &site);
        nodes.push(site.start(id));
    }
    let give_up = Instant::now() + PATIENCE;
    let joined = loop {
        // While the nodes start there may be none to ask.
        let shown = operator.program(&["members", "show"]);
        if let Some(joined) = shown
            .status
            .success()
            .then(|| operator.learner(4))
            .flatten()
        {
            break joined;
        }
        assert!(Instant::now() < give_up, "{}", site.log(4));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let leader = caller.leader().await;
    let said = site.log(leader);
    assert!(
        said.contains("a node that waited is added as a learner"),
        "{said}"
    );

    // It loses its directory: a member in another life is for the operator to take in.
    let at = nodes.iter().position(|running| running.node == 4);
    nodes.swap_remove(at.expect("runs")).kill();
    std::fs::remove_dir_all(site.path("data-4")).expect("its directory");
    nodes.push(site.start(4));
    tokio::time::sleep(NOTHING_HAPPENS).await;
    operator.wait_for(4);
    assert_eq!(operator.learner(4), Some(joined));

    // Nor does it come back by itself once it was removed; by the operator's word it does, and votes.
    operator.runs(&["members", "remove", "4"]);
    tokio::time::sleep(NOTHING_HAPPENS).await;
    assert_eq!(operator.learner(4), None);
    operator.runs(&["members", "add", "4", "--wait"]);
    operator.wait_for_voters(&[1, 2, 3, 4]);
}

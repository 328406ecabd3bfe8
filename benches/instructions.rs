//! Fixed work for callgrind: `instructions WORK COUNT` does something so many times, in one thread,
//! and prints how many elements that were. `benches/instructions` runs all of it.
//!
//! * `append/SIZE`: groups of entries of SIZE bytes into the log, unsynced, on the RAM file system. The
//!   lanes' work is done where it is handed over, and the segment is made ready as a whole before.
//! * `encode/KIND`: batches of router commands into their bytes.
//! * `apply/KIND`: batches of router commands from their bytes to their responses, the state shown to
//!   readers after each.
//! * `commit/NODES`: router commands through a whole cluster, 64 at a time: encoded, through the driver
//!   and the core into the leader's log, to the followers, verified and into theirs, acknowledged,
//!   committed, applied on every node and answered; on the RAM file system, without threads, the
//!   frames' headers, sockets and encryption.
//!
//! Without arguments each is done once, and their names are printed.

mod common;

use std::hint::black_box;

use common::log::{Group, Inline, OwnLog, Side, single_threaded_options};
use common::medium::media;
use common::router::{KINDS, Router, encode};
use conveyor_raft::sim::SteadyCluster;
use conveyor_raft::{RouterCommand as Command, RouterStateMachine};

const SIZES: [usize; 4] = [16, 128, 1024, 16384];
const NODES: [u64; 3] = [1, 3, 5];

// What is counted. Never inlined, so that callgrind can tell when it begins and ends.

#[inline(never)]
fn counted_appends(own: &mut dyn Side, group: &Group, groups: u64) {
    (0..groups).for_each(|_| own.append(group));
}

#[inline(never)]
fn counted_encodings(commands: &[Command]) {
    for command in commands {
        black_box(encode(command));
    }
}

#[inline(never)]
fn counted_applies(router: &mut Router, batches: &[Vec<Vec<u8>>]) {
    for batch in batches {
        black_box(router.apply(batch));
    }
}

fn append(size: usize, groups: u64) -> u64 {
    let [ram, _] = media();
    let mut own = OwnLog::single_threaded(&ram.folder());
    let group = Group::new(size);
    // Everything has been run once, the first batch included.
    (0..2).for_each(|_| own.append(&group));
    counted_appends(&mut own, &group, groups);
    groups * group.len() as u64
}

#[inline(never)]
fn counted_commits(
    cluster: &mut SteadyCluster<RouterStateMachine, Inline>,
    rounds: &[Vec<Command>],
) {
    for commands in rounds {
        let responses = cluster.commit(commands).expect("they are committed");
        assert_eq!(black_box(responses).len(), commands.len());
    }
}

fn encodings(kind: &str, batches: u64) -> u64 {
    let mut router = Router::new();
    let commands: Vec<_> = (0..batches * Router::BATCH)
        .map(|_| router.command(kind))
        .collect();
    counted_encodings(&commands);
    commands.len() as u64
}

fn applies(kind: &str, batches: u64) -> u64 {
    let mut router = Router::new();
    let batches: Vec<_> = (0..batches).map(|_| router.batch(kind)).collect();
    counted_applies(&mut router, &batches);
    batches.len() as u64 * Router::BATCH
}

/// Of the steady mixture; the fleet that it comes from is registered before.
fn commits(nodes: u64, rounds: u64) -> u64 {
    let [ram, _] = media();
    let dir = tempfile::tempdir_in(ram.folder()).expect("a folder");
    let options = single_threaded_options(64 << 20);
    let mut cluster =
        SteadyCluster::start(nodes, &options, RouterStateMachine::new, |node, sink| {
            let place = dir.path().join(node.to_string());
            Inline::open(&place, sink, &options)
        })
        .expect("a cluster");
    let mut router = Router::new();
    for commands in router.founding().chunks(Router::BATCH as usize) {
        cluster.commit(commands).expect("the fleet registers");
    }
    let mut round = || {
        (0..Router::BATCH)
            .map(|_| router.command("steady"))
            .collect()
    };
    let rounds: Vec<Vec<Command>> = (0..rounds).map(|_| round()).collect();
    counted_commits(&mut cluster, &rounds);
    cluster.settle().expect("the nodes are equal");
    rounds.len() as u64 * Router::BATCH
}

/// How many elements the work had; `None` if there is no such work.
fn work(name: &str, count: u64) -> Option<u64> {
    let (what, of) = name.split_once('/')?;
    let kind = KINDS.into_iter().find(|kind| *kind == of);
    Some(match what {
        "append" => append(of.parse().ok()?, count),
        "encode" => encodings(kind?, count),
        "apply" => applies(kind?, count),
        "commit" => commits(of.parse().ok()?, count),
        _ => return None,
    })
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if let [name, count] = &given[..]
        && let Ok(count) = count.parse()
        && let Some(elements) = work(name, count)
    {
        println!("{elements} elements");
        return;
    }
    let appends = SIZES.iter().map(|size| format!("append/{size}"));
    let encodings = ["encode/steady".to_owned()].into_iter();
    let applies = KINDS.iter().map(|kind| format!("apply/{kind}"));
    let commits = NODES.iter().map(|nodes| format!("commit/{nodes}"));
    for name in appends.chain(encodings).chain(applies).chain(commits) {
        assert!(work(&name, 1).is_some());
        println!("work {name}");
    }
}

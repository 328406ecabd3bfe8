//! What idle watchers and connected clients cost a node: memory of its process, and the rate at which it
//! commits. One real process, plain loopback, a cluster of one.
//!
//! `cargo bench --bench watchers`; prints a table.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{Client, ClientOptions, WatchNews, Watcher};
use conveyor_raft::grpc::connect;
use conveyor_raft::node::{ReadConsistency, WatchOptions};
use conveyor_raft::proto::SummaryRequest;
use conveyor_raft::proto::router_client::RouterClient;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;

const UNDER_WAY: u64 = 256;
const SPAN: Duration = Duration::from_secs(3);
const MANY: usize = 1000;

struct Node {
    child: Child,
    endpoint: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(dir: &Path) -> Node {
    let program = env!("CARGO_BIN_EXE_conveyor-raft");
    let certs = dir.join("certs");
    let made = Command::new(program)
        .args([
            "certs",
            "init",
            "--cluster",
            "bench",
            "--node",
            "1",
            "--dir",
        ])
        .arg(&certs)
        .stdout(Stdio::null())
        .status();
    assert!(made.expect("the program runs").success());
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let text = format!(
        "[node]\nid = 1\ndata_dir = \"data\"\n[peers]\nlisten = \"127.0.0.1:0\"\nsingle = true\n\
         ca = \"certs/peer-ca.pem\"\ncrl = \"certs/peer-ca.crl\"\n\
         cert = \"certs/node-1/peer.pem\"\nkey = \"certs/node-1/peer.key\"\n\
         [edge]\nlisten = \"127.0.0.1:{port}\"\nplaintext = \"loopback\"\n\
         [wal]\nallow_unsupported_fs = true\n"
    );
    let config = dir.join("node.toml");
    std::fs::write(&config, text).expect("settings");
    let child = Command::new(program)
        .args(["serve", "--log", "error", "--config"])
        .arg(&config)
        .spawn()
        .expect("the program runs");
    Node {
        child,
        endpoint: format!("http://127.0.0.1:{port}"),
    }
}

/// Resident memory, MiB.
fn memory(node: &Node) -> f64 {
    let path = format!("/proc/{}/status", node.child.id());
    let text = std::fs::read_to_string(path).expect("a process");
    let line = text.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<f64>().ok())
        .expect("a number")
        / 1024.0
}

/// Commands a second, the best of three spans: others use the machine too.
async fn rate(client: &Client, next: &mut u64) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..3 {
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..UNDER_WAY {
            let (client, first) = (client.clone(), *next);
            workers.spawn(async move {
                let mut count = 0;
                while begun.elapsed() < SPAN {
                    count += 1;
                    let command = RouterCommand::CommitSourceOffset {
                        source_id: format!("source-{worker}"),
                        partition: 0,
                        offset: first + count,
                        rewind: false,
                    };
                    client.propose(command).await.expect("applied");
                }
                count
            });
        }
        let counts = workers.join_all().await;
        best = best.max(counts.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64());
        *next += counts.iter().max().copied().unwrap_or_default();
    }
    best
}

fn client(node: &Node) -> Client {
    let mut options = ClientOptions::new([node.endpoint.clone()], None);
    options.deadline = Duration::from_secs(30);
    Client::new(options).expect("a client")
}

/// Watchers, each of a sidecar's assignments, by a few clients; each has been told that there are none.
async fn watchers(node: &Node, count: usize) -> JoinSet<Watcher> {
    let (told, mut ready) = tokio::sync::mpsc::channel(count);
    let mut tasks = JoinSet::new();
    let mut from = client(node);
    for number in 0..count {
        if number % 500 == 0 {
            from = client(node);
        }
        let options = WatchOptions {
            prefixes: vec![format!("/assignments/pod-{number}/")],
            ..WatchOptions::default()
        };
        let (mut watcher, told) = (from.watch(options), told.clone());
        tasks.spawn(async move {
            let news = watcher.next().await.expect("the state");
            assert!(matches!(news, WatchNews::State { complete: true, .. }));
            told.send(()).await.expect("waited for");
            loop {
                let news = watcher.next().await.expect("it goes on");
                assert!(matches!(news, WatchNews::Progress { .. }), "{news:?}");
            }
        });
    }
    for _ in 0..count {
        ready.recv().await.expect("told");
    }
    tasks
}

fn main() {
    // `cargo test --benches` only wants to see that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("more files");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let dir = tempfile::tempdir().expect("a folder");
    let node = start(dir.path());
    let caller = client(&node);
    let give_up = Instant::now() + Duration::from_secs(30);
    while caller.summary(ReadConsistency::Linearizable).await.is_err() {
        assert!(Instant::now() < give_up, "it does not start");
    }
    let mut next = 0;
    // The history for watchers and the allocator fill up first.
    for _ in 0..2 {
        rate(&caller, &mut next).await;
    }
    let base = (memory(&node), rate(&caller, &mut next).await);
    let show = |what: &str, memory: f64, rate: f64, count: usize| {
        let each = (memory - base.0) * 1024.0 / count as f64;
        println!(
            "{what}: {each:.1} KiB each, commits at {:.2} of the rate without",
            rate / base.1
        );
    };
    println!(
        "without: {:.0} MiB, {:.0} commands a second",
        base.0, base.1
    );

    let mut clients = Vec::new();
    for _ in 0..MANY {
        let channel = connect(&node.endpoint, None).await.expect("connected");
        let mut router = RouterClient::new(channel);
        router
            .summary(SummaryRequest::default())
            .await
            .expect("a summary");
        clients.push(router);
    }
    let held = memory(&node);
    show(
        "1,000 connected clients",
        held,
        rate(&caller, &mut next).await,
        MANY,
    );
    drop(clients);
    for count in [MANY, 10 * MANY] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let tasks = watchers(&node, count).await;
        let held = memory(&node);
        let what = format!("{count} idle watchers");
        show(&what, held, rate(&caller, &mut next).await, count);
        drop(tasks);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = rate(&caller, &mut next).await;
    println!(
        "without, again: {:.0} MiB, {:.2} of the rate before",
        memory(&node),
        again / base.1
    );
}

//! etcd: three processes with its defaults, and clients that put over gRPC, each a key of its own.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::transport::Channel;

use crate::closed::Propose;
use crate::common::medium::Medium;
use crate::etcd_client::{Client, PutRequest};

/// Connections that the clients share.
const CONNECTIONS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);
/// A key and its value are so long together.
const PAYLOAD: usize = 128;

/// Its version, or why it is left out.
pub(crate) fn version() -> Result<String, &'static str> {
    let missing = "needs etcd (Debian package etcd-server)";
    let asked = Command::new("etcd").arg("--version").output();
    let said = asked.map_err(|_| missing)?.stdout;
    let said = String::from_utf8_lossy(&said);
    let version = said.lines().find_map(|it| it.strip_prefix("etcd Version:"));
    version.map(|it| it.trim().to_owned()).ok_or(missing)
}

/// A process that ends with this value.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a node listens, for clients and for the other nodes.
#[derive(Clone)]
struct Place {
    name: String,
    clients: String,
    peers: String,
}

/// Ports that were free a moment ago; held until the last is found, so that they differ.
fn places() -> Vec<Place> {
    let bind = |_| TcpListener::bind(("127.0.0.1", 0)).expect("a TCP port");
    let held: Vec<TcpListener> = (0..6).map(bind).collect();
    let url = |it: &TcpListener| {
        let address: SocketAddr = it.local_addr().expect("its address");
        format!("http://{address}")
    };
    let pairs = held.chunks_exact(2).enumerate();
    let places = pairs.map(|(nth, pair)| Place {
        name: format!("node-{nth}"),
        clients: url(&pair[0]),
        peers: url(&pair[1]),
    });
    places.collect()
}

fn start_node(folder: &Path, place: &Place, members: &str) -> Node {
    let arguments = [
        ("--name", place.name.as_str()),
        ("--listen-client-urls", &place.clients),
        ("--advertise-client-urls", &place.clients),
        ("--listen-peer-urls", &place.peers),
        ("--initial-advertise-peer-urls", &place.peers),
        ("--initial-cluster", members),
        ("--initial-cluster-state", "new"),
        ("--log-level", "panic"),
        // As patient as the other sides: an election would be the machine's doing.
        ("--election-timeout", "2000"),
    ];
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder.join(&place.name));
    command.args(arguments.iter().flat_map(|(key, value)| [key, value]));
    // What is set for another etcd on this machine is not for these.
    let set = std::env::vars_os().map(|(name, _)| name);
    for name in set.filter(|it| is_etcds(it)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Node(command.stderr(Stdio::null()).spawn().expect("etcd starts"))
}

fn is_etcds(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("ETCD_")
}

/// The cluster, and how many puts it answered.
pub(crate) struct Etcd {
    members: Vec<Client>,
    /// To the leader.
    connections: Vec<Client>,
    answered: AtomicU64,
    // Processes end before their folder goes.
    _nodes: Vec<Node>,
    _folder: TempDir,
}

impl Etcd {
    pub(crate) async fn start(medium: &Medium) -> Self {
        let folder = tempfile::tempdir_in(medium.folder()).expect("a folder");
        let places = places();
        let members: Vec<String> = places
            .iter()
            .map(|it| format!("{}={}", it.name, it.peers))
            .collect();
        let start = |it| start_node(folder.path(), it, &members.join(","));
        let nodes = places.iter().map(start).collect();
        let (mut members, mut leader) = (Vec::new(), None);
        for place in &places {
            let (member, leads) = connect_when_led(&place.clients).await;
            members.push(member);
            leader = leader.or_else(|| leads.then(|| place.clients.clone()));
        }
        let leader = leader.expect("one of the nodes leads");
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(connect(&leader).await.expect("the leader listens"));
        }
        Self {
            members,
            connections,
            answered: AtomicU64::new(0),
            _nodes: nodes,
            _folder: folder,
        }
    }

    /// Every node has made every change that was answered, and no other.
    pub(crate) async fn finish(self) {
        // A new store is at revision 1.
        let expected = 1 + i64::try_from(self.answered.into_inner()).expect("a count");
        for member in &self.members {
            let start = Instant::now();
            let mut revision = 0;
            while revision != expected && start.elapsed() < PATIENCE {
                let status = member.status().await.expect("the node answers");
                revision = status.header.expect("a header").revision;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(revision, expected, "etcd: revisions and answers");
        }
    }
}

async fn connect(url: &str) -> Result<Client, tonic::transport::Error> {
    let endpoint = Channel::from_shared(url.to_owned()).expect("a URL");
    Ok(Client::new(endpoint.tcp_nodelay(true).connect().await?))
}

/// A connection once the node knows a leader, and whether it is that one.
async fn connect_when_led(url: &str) -> (Client, bool) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Ok(client) = connect(url).await
            && let Ok(status) = client.status().await
            && status.leader != 0
        {
            let own = status.header.expect("a header").member_id;
            return (client, own == status.leader);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("etcd at {url} knows no leader within {PATIENCE:?}");
}

impl Propose for Etcd {
    async fn propose(&self, client: usize) {
        let key = format!("client/{client:04}").into_bytes();
        let value = vec![0x5a; PAYLOAD - key.len()];
        let connection = &self.connections[client % self.connections.len()];
        let answer = connection.put(PutRequest { key, value }).await;
        answer.expect("the leader keeps leading and takes every put");
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

//! The network between the nodes of a site: every datagram from one to another passes here, and each
//! direction of each pair can be cut by itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::serve_common::Site;

/// More than any datagram.
const BUFFER: usize = 1 << 16;

/// Ends with its last owner, and the network with it.
pub(crate) struct Wires {
    cuts: Arc<Cuts>,
    _tasks: JoinSet<()>,
}

/// One of two nodes, from 1, and the other: what the first sends to the second.
type Link = (u64, u64);

struct Cuts {
    nodes: u64,
    /// By sender, then by receiver.
    cut: Vec<AtomicBool>,
    passed: AtomicU64,
    lost: AtomicU64,
}

impl Cuts {
    fn of(&self, (from, to): Link) -> &AtomicBool {
        &self.cut[((from - 1) * self.nodes + to - 1) as usize]
    }

    fn lets_pass(&self, link: Link) -> bool {
        let passes = !self.of(link).load(Ordering::Relaxed);
        let count = if passes { &self.passed } else { &self.lost };
        count.fetch_add(1, Ordering::Relaxed);
        passes
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

async fn socket() -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind(local(0)).await.expect("a port"))
}

impl Wires {
    /// Between all nodes of a site, none of which runs yet: from now on they find each other here.
    pub(crate) async fn between(site: &mut Site) -> Self {
        let nodes = site.ports.len() as u64;
        let cuts = Arc::new(Cuts {
            nodes,
            cut: (0..nodes * nodes).map(|_| AtomicBool::new(false)).collect(),
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        let mut fronts = Vec::new();
        for to in 1..=nodes {
            let front = socket().await;
            fronts.push(front.local_addr().expect("bound").port());
            let mut ways = Vec::new();
            for (from, (port, _)) in (1..).zip(&site.ports) {
                // Its own for each sender, so that answers are told apart.
                let way = socket().await;
                let receiver = local(site.ports[to as usize - 1].0);
                way.connect(receiver).await.expect("an address");
                let (front, back) = (Arc::clone(&front), Arc::clone(&way));
                tasks.spawn(answers(
                    Arc::clone(&cuts),
                    (to, from),
                    back,
                    front,
                    local(*port),
                ));
                ways.push((local(*port), way));
            }
            tasks.spawn(requests(Arc::clone(&cuts), to, front, ways));
        }
        site.found_at(fronts);
        Self {
            cuts,
            _tasks: tasks,
        }
    }

    /// What these nodes send to those is lost.
    pub(crate) fn cut(&self, from: &[u64], to: &[u64]) {
        for from in from {
            for to in to.iter().filter(|to| *to != from) {
                self.cuts.of((*from, *to)).store(true, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn heal(&self) {
        let all = self.cuts.cut.iter();
        all.for_each(|cut| cut.store(false, Ordering::Relaxed));
    }

    /// Datagrams that passed, and those that were lost in a cut.
    pub(crate) fn datagrams(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.cuts.passed), read(&self.cuts.lost))
    }
}

/// From whoever dials `to`. A node sends from the port that it listens at.
async fn requests(
    cuts: Arc<Cuts>,
    to: u64,
    front: Arc<UdpSocket>,
    ways: Vec<(SocketAddr, Arc<UdpSocket>)>,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        // An error tells of a datagram before that found nobody: the node was killed.
        let Ok((len, sender)) = front.recv_from(&mut buffer).await else {
            continue;
        };
        let from = ways.iter().position(|(port, _)| *port == sender);
        let from = from.expect("only nodes send here");
        if cuts.lets_pass((from as u64 + 1, to)) {
            let _ = ways[from].1.send(&buffer[..len]).await;
        }
    }
}

/// What a node that was dialed sends back.
async fn answers(
    cuts: Arc<Cuts>,
    link: Link,
    way: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    dialer: SocketAddr,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(len) = way.recv(&mut buffer).await else {
            continue;
        };
        if cuts.lets_pass(link) {
            let _ = front.send_to(&buffer[..len], dialer).await;
        }
    }
}

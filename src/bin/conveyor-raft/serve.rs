//! `conveyor-raft serve`: one node as a process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use conveyor_raft::backup::{Waiting, take_up};
use conveyor_raft::grpc::{Edge, EdgeFiles, serve};
use conveyor_raft::quic::CredentialFiles;
use conveyor_raft::wal::LogOptions;
use conveyor_raft::{Cluster, Credentials, RaftConfig, RaftNode, RouterStateMachine};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use toml::Value;

use crate::cli::ServeArgs;
use crate::config::{self, Config, Overrides, Plaintext};
use crate::edge;
use crate::failure::{Context, Failure};
use crate::logging;
use crate::metrics;
use crate::reload::{self, Files};

/// How often the node is asked whether it has failed.
const WATCH: Duration = Duration::from_millis(200);

/// Why the node is closed.
enum End {
    Asked(&'static str),
    /// A backup was restored: it starts anew, as the first member of a cluster.
    Restored,
}

pub(crate) async fn run(args: ServeArgs, filter: Option<String>) -> Result<(), Failure> {
    let config_file = args.config.clone();
    let config = config::load(config_file.as_deref(), std::env::vars_os(), flags(args)?)?;
    let filter = filter.as_deref().unwrap_or(&config.log.filter);
    logging::init(filter, config.log.format)?;
    // Installed before anything is open, so that an early SIGTERM closes cleanly too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let scraped = scraped(&config).await?;
    let files = files(&config);
    loop {
        if take_up(&config.node.data_dir, RouterStateMachine::new())? {
            tracing::info!("a restored directory is in the place of the blank one");
        }
        // Looked at before they are used: what changes meanwhile is taken up afterwards.
        let seen = files.look();
        let (node, edge) = start(&config, &files).await?;
        let scraped = scraped.clone().map(|(listener, figures)| {
            tokio::spawn(metrics::serve(
                listener,
                node.clone(),
                edge.probe(),
                figures,
            ))
        });
        let ended = tokio::select! {
            _ = terminate.recv() => Ok(End::Asked("SIGTERM")),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot wait for Ctrl-C")?;
                Ok(End::Asked("Ctrl-C"))
            }
            failure = failed(&node) => Err(failure),
            _ = edge.restored() => Ok(End::Restored),
            never = reload::run(&files, seen, &mut hangup, &node, &edge) => match never {},
        };
        if let Ok(End::Asked(why)) = &ended {
            tracing::info!(why, "closing");
            leave(&node).await;
        }
        // First the callers are let go, then the log is closed behind the last of them.
        edge.shutdown().await;
        node.shutdown().await;
        if let Some(scraped) = scraped {
            scraped.abort();
        }
        match ended? {
            End::Asked(_) => return Ok(()),
            End::Restored => {}
        }
    }
}

/// Callers that find this node gone find another that leads.
async fn leave(node: &RaftNode) {
    match node.leave().await {
        Ok(Some(to)) => tracing::info!(to, "another leads"),
        Ok(None) => {}
        Err(error) => tracing::info!(%error, "nobody else leads while this node closes"),
    }
}

/// Where figures are asked for, and what counts them: from before the node is started.
async fn scraped(config: &Config) -> Result<Option<(Arc<TcpListener>, PrometheusHandle)>, Failure> {
    let Some(address) = &config.metrics.listen else {
        return Ok(None);
    };
    let address = resolve("[metrics] listen", address).await?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.context(format!("[metrics] listen: cannot listen on {address}"))?;
    Ok(Some((Arc::new(listener), metrics::install()?)))
}

async fn start(config: &Config, files: &Files) -> Result<(RaftNode, Edge), Failure> {
    let id = node_id(config)?;
    let credentials = Credentials::load(&files.peers)?;
    let mut options = edge::options(config, files)?;
    let listener = edge::listen(&config.edge.listen).await?;
    let endpoint = edge::endpoint(config, &listener.address()?);
    if endpoint.is_empty() {
        tracing::warn!("clients cannot be told where this node is: set [edge] advertise");
    }
    let cluster = cluster(config, id, credentials)
        .await?
        .client_endpoint(&endpoint);
    let mut builder = RaftNode::builder(raft(config, id));
    if let Some(ppm) = config.raft.lease_drift_ppm {
        builder = builder.lease_reads(ppm);
    }
    let node = builder
        .log(log_options(config))
        .snapshots(config.snapshots.options())
        .auto_join(config.node.auto_join)
        .separate_driver(config.node.separate_driver)
        .start(RouterStateMachine::new(), cluster)
        .await?;
    if let Some(backup) = &mut options.backup {
        let listening = node.peer_address().to_string();
        backup.waiting = Some(Waiting {
            data_dir: config.node.data_dir.clone(),
            peer_address: config.peers.advertise.clone().unwrap_or(listening),
            client_endpoint: endpoint.clone(),
        });
    }
    let edge = serve(node.clone(), options, listener).await?;
    tracing::info!(
        node_id = id,
        cluster = %node.status().cluster,
        peers = %node.peer_address(),
        clients = %edge.address(),
        %endpoint,
        "node is up"
    );
    Ok((node, edge))
}

pub(crate) fn node_id(config: &Config) -> Result<u64, Failure> {
    let host = rustix::system::uname();
    let id = config.node.id.resolve(&host.nodename().to_string_lossy());
    id.map_err(Failure::new)
}

pub(crate) fn raft(config: &Config, node_id: u64) -> RaftConfig {
    RaftConfig {
        node_id,
        election_timeout_min_ms: config.raft.election_timeout_min_ms,
        election_timeout_max_ms: config.raft.election_timeout_max_ms,
        heartbeat_interval_ms: config.raft.heartbeat_interval_ms,
    }
}

fn log_options(config: &Config) -> LogOptions {
    let defaults = LogOptions::default();
    LogOptions {
        segment_bytes: config.wal.segment_bytes.unwrap_or(defaults.segment_bytes),
        allow_unsupported_fs: config.wal.allow_unsupported_fs,
        ..defaults
    }
}

pub(crate) async fn cluster(
    config: &Config,
    id: u64,
    credentials: Credentials,
) -> Result<Cluster, Failure> {
    let peers = &config.peers;
    let dir = &config.node.data_dir;
    let cluster = match (peers.single, peers.list.is_empty(), peers.join) {
        (true, true, false) => Cluster::single(dir, credentials),
        (true, ..) => {
            return Err(Failure::new(
                "[peers] single = true contradicts [peers] list and join: drop one of them",
            ));
        }
        (false, _, join) => {
            let listen = resolve("[peers] listen", &peers.listen).await?;
            let others = peers.list.iter().filter(|peer| peer.id != id);
            let members = others.map(|peer| (peer.id, peer.addr.clone()));
            match join {
                true => Cluster::joining(dir, credentials, listen, members),
                false => Cluster::new(dir, credentials, listen, members),
            }
        }
    };
    let cluster = cluster.strict_expiry(peers.strict_expiry);
    Ok(match &peers.advertise {
        Some(address) => cluster.advertise(address),
        None => cluster,
    })
}

/// Where the certificates are; those of the edge only if it has all that TLS needs.
pub(crate) fn files(config: &Config) -> Files {
    let (peers, edge) = (&config.peers, &config.edge);
    let tls = match (edge.plaintext, &edge.client_ca, &edge.cert, &edge.key) {
        (Plaintext::Off, Some(ca), Some(cert), Some(key)) => Some(EdgeFiles {
            ca: ca.clone(),
            cert: cert.clone(),
            key: key.clone(),
            crl: edge.crl.clone(),
        }),
        _ => None,
    };
    Files {
        peers: CredentialFiles {
            ca: peers.ca.clone(),
            cert: peers.cert.clone(),
            key: peers.key.clone(),
            crl: peers.crl.clone(),
        },
        edge: tls,
    }
}

pub(crate) async fn resolve(key: &str, address: &str) -> Result<SocketAddr, Failure> {
    let found = tokio::net::lookup_host(address).await;
    let mut found = found.context(format!("{key}: {address:?} is no HOST:PORT"))?;
    let none = || Failure::new(format!("{key}: {address:?} names no address"));
    found.next().ok_or_else(none)
}

/// Waits until the replica has failed for good.
async fn failed(node: &RaftNode) -> Failure {
    loop {
        if let Some(why) = node.status().failure {
            return Failure::new(format!("the replica has failed: {why}"));
        }
        tokio::time::sleep(WATCH).await;
    }
}

pub(crate) fn flags(args: ServeArgs) -> Result<Overrides, Failure> {
    let mut flags = Overrides::new();
    let mut text = |section, key, value: Option<String>| {
        flags.extend(value.map(|value| (section, key, Value::String(value))));
    };
    text("node", "id", args.node_id);
    text("node", "data_dir", args.data_dir);
    text("edge", "listen", args.listen_addr);
    text("peers", "listen", args.raft_addr);
    if !args.peers.is_empty() {
        let peers = args.peers.iter().map(|peer| parse_peer(peer));
        let peers = peers.collect::<Result<Vec<_>, _>>()?;
        flags.push(("peers", "list", Value::Array(peers)));
    }
    Ok(flags)
}

/// `ID:HOST:PORT`. One that does not parse is an error: a peer dropped in silence is another quorum.
fn parse_peer(text: &str) -> Result<Value, Failure> {
    let wrong = || Failure::new(format!("--peers {text:?}: write ID:HOST:PORT"));
    let (id, address) = text.split_once(':').ok_or_else(wrong)?;
    let id: i64 = id.parse().map_err(|_| wrong())?;
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port_is_one = port.parse::<u16>().is_ok();
    if id < 1 || host.is_empty() || !port_is_one {
        return Err(wrong());
    }
    let entry = [
        ("id".to_owned(), Value::Integer(id)),
        ("addr".to_owned(), Value::String(address.to_owned())),
    ];
    Ok(Value::Table(entry.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_does_not_parse_is_an_error() {
        for good in ["2:b:50052", "3:10.0.0.3:1", "4:[::1]:50052"] {
            assert!(parse_peer(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "b:50052",
            "2:b",
            "2::50052",
            "0:b:1",
            "x:b:1",
            "2:b:port",
            "2:b:99999",
        ] {
            assert!(parse_peer(bad).is_err(), "{bad}");
        }
    }
}

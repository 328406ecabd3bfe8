//! The server of the client edge.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::backup::SnapshotError;
use crate::node::RaftNode;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::backup_server::BackupServer;
use crate::proto::cluster_server::ClusterServer;
use crate::proto::router_server::RouterServer;
use crate::types::ReplicaId;

use super::accept::{self, Security};
use super::authorize::Roles;
use super::backup::{BackupOptions, BackupServiceImpl};
use super::cluster::ClusterService;
use super::figures::Figures;
use super::health::{self, Probe};
use super::identity::Role;
use super::listener::{EdgeAddress, EdgeListener};
use super::router::RouterService;
use super::tls::{EdgeIdentity, EdgeTlsError};
use super::trust::{EdgeReload, Trust};

const MAX_HEADER_LIST: u32 = 16 << 10;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that a client opened and reset before they were handled; above it, it is abuse.
const MAX_PENDING_RESETS: usize = 32;
/// How long calls under way may take to end once the edge closes.
const DRAIN: Duration = Duration::from_secs(3);

/// How the client edge is secured.
#[derive(Clone, Debug)]
pub enum EdgeSecurity {
    /// TLS 1.3; the client's certificate says who calls and with which role.
    Tls(EdgeIdentity),
    /// No TLS, on a loopback address only. Every program on this machine has the role `role`,
    /// [`Role::Writer`] at most.
    PlainLoopback {
        /// The role that every caller has.
        role: Role,
    },
    /// No TLS, on a unix socket only: programs of this process' user, and of root, have the role `role`.
    PlainUnix {
        /// The role that every caller has.
        role: Role,
    },
    /// No TLS, wherever it listens: **everyone who reaches the address has the role `role`**,
    /// [`Role::Writer`] at most, and everyone on the way reads along. It says so at each start. With the
    /// feature `insecure-edge` only.
    #[cfg(feature = "insecure-edge")]
    PlainAnywhere {
        /// The role that every caller has.
        role: Role,
    },
}

/// Bounds of the client edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeLimits {
    /// Largest message in, bytes. Default 4 MiB.
    pub max_message_bytes: usize,
    /// Connections at a time. Default 10,000.
    pub max_connections: usize,
    /// Calls under way on one connection. Default 1,024.
    pub max_streams: u32,
    /// Streams of proposals at a time, on all connections together. Default 4,096.
    pub max_propose_streams: usize,
    /// Watches at a time, on all connections together. Default 20,000.
    pub max_watches: usize,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            max_message_bytes: 4 << 20,
            max_connections: 10_000,
            max_streams: 1024,
            max_propose_streams: 4096,
            max_watches: 20_000,
        }
    }
}

/// Settings of the client edge.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// How it is secured.
    pub security: EdgeSecurity,
    /// Its bounds.
    pub limits: EdgeLimits,
    /// Lower roles than those of the certificates, by the client's name.
    pub roles: BTreeMap<String, Role>,
    /// Backups; without it the service `Backup` is not offered.
    pub backup: Option<BackupOptions>,
}

impl EdgeOptions {
    /// The defaults with this security.
    pub fn new(security: EdgeSecurity) -> Self {
        Self {
            security,
            limits: EdgeLimits::default(),
            roles: BTreeMap::new(),
            backup: None,
        }
    }
}

/// Why the client edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] EdgeTlsError),
    /// A plain listener that others than this machine could reach.
    #[error(
        "{0} is not a loopback address: without TLS the client edge listens on loopback only; \
         give it certificates or another address"
    )]
    PlainElsewhere(EdgeAddress),
    /// A role that a plain listener does not give.
    #[error("a plain listener gives the role writer at most, not {0}")]
    PlainRole(Role),
    /// TLS or a rule for TCP, and a unix socket.
    #[error("{0} is a unix socket, which is served without TLS and for this user only")]
    UnixElsewhere(EdgeAddress),
    /// A rule for a unix socket, and another listener.
    #[error(
        "{0} is no unix socket: without TLS, and with the role of a unix socket, nobody listens there"
    )]
    NoUnix(EdgeAddress),
    /// The directory of backups cannot be used.
    #[error("backups: {0}")]
    Backup(#[from] SnapshotError),
    /// The listener cannot be used.
    #[error("the listener of the client edge: {0}")]
    Listener(io::Error),
    /// The protos cannot be offered.
    #[error("reflection: {0}")]
    Reflection(String),
}

/// A running client edge. Dropping it closes it at once.
pub struct Edge {
    address: EdgeAddress,
    /// None without TLS.
    trust: Option<Arc<Trust>>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    /// Has the listener.
    accepting: JoinHandle<()>,
    helpers: Vec<AbortHandle>,
    /// Tells streams, which would go on for ever, that the edge closes.
    closing: watch::Sender<bool>,
    /// Who the node became by a restore. None without backups.
    restored: Option<watch::Receiver<Option<ReplicaId>>>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// Where it listens.
    pub fn address(&self) -> &EdgeAddress {
        &self.address
    }

    /// Where it listens, if that is over TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.address {
            EdgeAddress::Tcp(address) => Some(address),
            EdgeAddress::Unix(_) => None,
        }
    }

    /// Takes up other certificates (its own, the client CA or several, revocation lists) while it
    /// runs. Clients that connect afterwards meet the new ones; connections that stand go on unless
    /// their certificate is revoked now or leads to no CA of the new bundle. An expired one is no
    /// reason. Without TLS there is nothing to do.
    ///
    /// # Errors
    /// If the certificate is not that of this node's edge, or the parts do not go together; the old
    /// ones then stay in force.
    pub fn reload(&self, identity: &EdgeIdentity) -> Result<EdgeReload, EdgeTlsError> {
        match &self.trust {
            Some(trust) => trust.reload(identity),
            None => Ok(EdgeReload::default()),
        }
    }

    /// What probes are told, the state of this edge's certificate included.
    pub fn probe(&self) -> Probe {
        Probe::new(self.trust.clone())
    }

    /// Waits until a backup was restored on this blank node, and says which replica it is to be. Then shut
    /// both down, call [`take_up`](crate::backup::take_up), and start them anew.
    pub async fn restored(&self) -> ReplicaId {
        if let Some(mut restored) = self.restored.clone()
            && let Ok(me) = restored.wait_for(Option::is_some).await
            && let Some(me) = *me
        {
            return me;
        }
        std::future::pending().await
    }

    /// Takes no more calls, lets those under way end (3 s at most), and closes.
    pub async fn shutdown(mut self) {
        self.closing.send_replace(true);
        if let Some(stop) = self.stop.take() {
            // An error means that the server has ended already.
            let _ = stop.send(());
        }
        if tokio::time::timeout(DRAIN, &mut self.server).await.is_err() {
            tracing::info!("calls still under way are cut off");
        }
        // Only then is the address free for the next one, and a unix socket's file gone.
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.server.abort();
        self.accepting.abort();
        for helper in &self.helpers {
            helper.abort();
        }
    }
}

/// Serves the client edge of `node` on `listener`, until the result is shut down or dropped.
///
/// Runs on the tokio runtime of the caller. Where clients find this edge is for the caller to tell
/// the node ([`Cluster::client_endpoint`](crate::Cluster::client_endpoint)): only it knows names and port mappings.
///
/// # Errors
/// See [`EdgeError`]; the listener is then closed.
pub async fn serve(
    node: RaftNode,
    options: EdgeOptions,
    listener: impl Into<EdgeListener>,
) -> Result<Edge, EdgeError> {
    let listener = listener.into();
    let address = listener.address().map_err(EdgeError::Listener)?;
    let security = secure(&node, &options.security, &address)?;
    let trust = security.trust();
    let roles = Roles::new(options.roles);
    let limits = options.limits;

    let (ready, incoming) = accept::channel();
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| EdgeError::Reflection(error.to_string()))?;
    let readers = roles.clone();
    let reflection = InterceptedService::new(reflection, move |request: tonic::Request<()>| {
        readers.require(&request, Role::Reader).map(|_| request)
    });
    let backup = backup(&node, options.backup, &roles)?;
    let restored = backup.as_ref().map(BackupServiceImpl::restored);
    let cluster = ClusterService {
        node: node.clone(),
        roles: roles.clone(),
    };
    let (router, closing) = router(node.clone(), roles, limits);
    let routes = builder(limits)
        .layer(Figures::new(node.id()))
        .add_service(health)
        .add_service(reflection)
        .add_service(RouterServer::new(router).max_decoding_message_size(limits.max_message_bytes))
        .add_service(
            ClusterServer::new(cluster).max_decoding_message_size(limits.max_message_bytes),
        )
        .add_optional_service(backup.clone().map(|service| {
            BackupServer::new(service).max_decoding_message_size(limits.max_message_bytes)
        }));

    let accepting = accept::accept(listener, security, limits.max_connections, ready);
    let accepting = tokio::spawn(accepting);
    let reporting = tokio::spawn(health::report(node, Probe::new(trust.clone()), reporter));
    let mut helpers = background(trust.clone(), backup);
    helpers.push(reporting.abort_handle());
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(async move {
        let stopped = async {
            // An error means that the handle is gone, which is the same word.
            let _ = stopped.await;
        };
        let incoming = ReceiverStream::new(incoming);
        if let Err(error) = routes.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "the client edge ended");
        }
    });
    Ok(Edge {
        address,
        trust,
        stop: Some(stop),
        server,
        accepting,
        helpers,
        closing,
        restored,
    })
}

/// What goes on beside the calls.
fn background(trust: Option<Arc<Trust>>, backup: Option<BackupServiceImpl>) -> Vec<AbortHandle> {
    let trust = trust.map(|trust| tokio::spawn(async move { trust.watch_expiry().await }));
    let backup = backup.map(|backup| tokio::spawn(backup.run()));
    let running = trust.into_iter().chain(backup);
    running.map(|task| task.abort_handle()).collect()
}

fn backup(
    node: &RaftNode,
    options: Option<BackupOptions>,
    roles: &Roles,
) -> Result<Option<BackupServiceImpl>, EdgeError> {
    let Some(options) = options else {
        return Ok(None);
    };
    let service = BackupServiceImpl::new(node.clone(), options)?;
    Ok(Some(service.with_roles(roles.clone())))
}

/// The service, and what tells its streams that the edge closes.
fn router(
    node: RaftNode,
    roles: Roles,
    limits: EdgeLimits,
) -> (RouterService, watch::Sender<bool>) {
    let (closing, close) = watch::channel(false);
    let streams = limits.max_propose_streams.min(Semaphore::MAX_PERMITS);
    let watches = limits.max_watches.min(Semaphore::MAX_PERMITS);
    let router = RouterService {
        node,
        roles,
        streams: Arc::new(Semaphore::new(streams)),
        watches: Arc::new(Semaphore::new(watches)),
        pins: Arc::default(),
        closing: close,
    };
    (router, closing)
}

fn builder(limits: EdgeLimits) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.max_streams)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
}

fn secure(
    node: &RaftNode,
    security: &EdgeSecurity,
    address: &EdgeAddress,
) -> Result<Security, EdgeError> {
    let elsewhere = || address.clone();
    match (security, address) {
        (EdgeSecurity::Tls(identity), EdgeAddress::Tcp(_)) => {
            let trust = Trust::new(node.status().cluster, node.id(), identity)?;
            Ok(Security::Tls(Arc::new(trust)))
        }
        (EdgeSecurity::PlainUnix { role }, EdgeAddress::Unix(_)) => {
            Ok(Security::Plain { role: *role })
        }
        (EdgeSecurity::PlainUnix { .. }, _) => Err(EdgeError::NoUnix(elsewhere())),
        (_, EdgeAddress::Unix(_)) => Err(EdgeError::UnixElsewhere(elsewhere())),
        (EdgeSecurity::PlainLoopback { role }, EdgeAddress::Tcp(to)) => {
            let role = at_most_writer(*role)?;
            match to.ip().is_loopback() {
                true => Ok(Security::Plain { role }),
                false => Err(EdgeError::PlainElsewhere(elsewhere())),
            }
        }
        #[cfg(feature = "insecure-edge")]
        (EdgeSecurity::PlainAnywhere { role }, EdgeAddress::Tcp(to)) => {
            let role = at_most_writer(*role)?;
            tracing::warn!(
                address = %to,
                %role,
                "the client edge has no TLS: whoever reaches it has this role, and whoever is on the way reads along"
            );
            Ok(Security::Plain { role })
        }
    }
}

fn at_most_writer(role: Role) -> Result<Role, EdgeError> {
    match role > Role::Writer {
        true => Err(EdgeError::PlainRole(role)),
        false => Ok(role),
    }
}

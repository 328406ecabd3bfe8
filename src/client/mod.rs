//! The Rust client of a cluster: finds the leader and follows it, keeps many commands under way, and
//! sends again only what is safe to send again.
//!
//! ```no_run
//! use conveyor_raft::RouterCommand;
//! use conveyor_raft::client::{Client, ClientOptions};
//! use conveyor_raft::grpc::{EdgeFiles, EdgeIdentity};
//! use conveyor_raft::node::ReadConsistency;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = EdgeIdentity::load(&EdgeFiles {
//!     ca: "certs/client-ca.pem".into(),
//!     cert: "certs/clients/operator.pem".into(),
//!     key: "certs/clients/operator.key".into(),
//!     crl: None,
//! })?;
//! let endpoints = ["https://host-1:50051", "https://host-2:50051", "https://host-3:50051"];
//! let client = Client::new(ClientOptions::new(endpoints, Some(identity)))?;
//!
//! // Applied at most once: when nobody can say whether it was, the error says so.
//! let register = RouterCommand::register_service("mask-0", "transform", "10.0.1.5:8081");
//! let answer = client.propose(register).await?;
//!
//! // Applied exactly once: sent again until its outcome is known, at whichever node leads.
//! let session = client.open_session().await?;
//! session.propose(RouterCommand::Noop).await?;
//!
//! // Any node answers; none with less than was acknowledged before.
//! let summary = client.summary(ReadConsistency::Linearizable).await?;
//! assert!(summary.index >= answer.index);
//! # Ok(())
//! # }
//! ```
//!
//! # What is sent again
//! | what | when |
//! |---|---|
//! | any command | while it certainly never entered a log: the node did not lead, had no room, was not reached |
//! | a command of a [`Session`] | also when nobody can say what became of it |
//! | a read | always |
//! | a [watch](Client::watch) | from where it was, at another node |
//! | the file of a backup ([`upload_backup`]) | from where the node is with it |
//!
//! Everything ends with the deadline of [`ClientOptions`]. Calls are `&self` and a [`Client`] is cheap
//! to clone; it needs a tokio runtime and opens nothing before its first call.

mod error;
mod leader;
mod lists;
mod nodes;
mod pipe;
mod propose;
mod reads;
mod records;
mod session;
mod status;
mod upload;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use error::ClientError;
pub use lists::{Pages, ReadCall};
pub use reads::StateAt;
pub use session::{BATCH, Numbered, Session};
pub use status::{ClusterStatus, MemberStatus};
pub use upload::{UploadOptions, upload_backup};
pub use watch::{WatchFailure, WatchNews, Watcher};

use crate::grpc::{ConnectError, EdgeIdentity, check};
use leader::Leader;
use nodes::Nodes;

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where nodes take calls: `https://HOST:PORT`, or `http://HOST:PORT` and `unix:PATH` for plain listeners. One is
    /// enough to find the leader while it lives.
    pub endpoints: Vec<String>,
    /// The client's certificate, for `https`.
    pub identity: Option<EdgeIdentity>,
    /// How long a call may take, all tries together. Default 5 s; a node waits 60 s at most.
    pub deadline: Duration,
    /// Commands under way at a time; further calls wait for room. Default 4,096.
    pub under_way: usize,
    /// A [`Session`] without commands says so often that it is still wanted. Default 3 min, of the ten
    /// after which a quiet one expires; `None`: never.
    pub keep_sessions: Option<Duration>,
    /// Whether a node that is asked and does not lead passes commands on, instead of saying who leads:
    /// for clients that do not reach every node. Default no.
    pub forward: bool,
}

impl ClientOptions {
    /// The defaults, with these endpoints and this certificate.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        identity: Option<EdgeIdentity>,
    ) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            identity,
            deadline: Duration::from_secs(5),
            under_way: 4096,
            keep_sessions: Some(Duration::from_secs(180)),
            forward: false,
        }
    }
}

/// A client of one cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    deadline: Duration,
    keep_sessions: Option<Duration>,
    forward: bool,
    nodes: Arc<Nodes>,
    /// Connections of their own for watchers: one that does not read holds up no command.
    watched: Nodes,
    leader: Leader,
    /// Back-pressure: one permit for each command under way.
    room: Semaphore,
}

impl Client {
    /// A client of the cluster behind these endpoints. Connects with the first call.
    ///
    /// # Errors
    /// If an endpoint is none, there is none, or the certificate cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self, ConnectError> {
        let (identity, none) = (options.identity.as_ref(), String::new());
        let first = options.endpoints.first().unwrap_or(&none);
        check(first, identity)?;
        for endpoint in &options.endpoints {
            check(endpoint, identity)?;
        }
        let watched = Nodes::new(options.endpoints.clone(), options.identity.clone());
        let nodes = Arc::new(Nodes::new(options.endpoints, options.identity));
        Ok(Self {
            inner: Arc::new(Inner {
                deadline: options.deadline,
                keep_sessions: options.keep_sessions,
                forward: options.forward,
                leader: Leader::new(Arc::clone(&nodes), !options.forward),
                nodes,
                watched,
                room: Semaphore::new(options.under_way.clamp(1, Semaphore::MAX_PERMITS)),
            }),
        })
    }

    /// When a call that begins now has to end.
    fn until(&self) -> Instant {
        Instant::now() + self.inner.deadline
    }
}

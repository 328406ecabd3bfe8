//! What can be set, in one place: [`RaftConfig`] for the protocol's clock, one options struct per
//! part for the rest.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::quic::Credentials;
use crate::types::NodeId;

/// The protocol's own settings.
///
/// Across zones with 20 ms between nodes, 1000 / 2000 / 100 are figures to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// This node's number, at least 1.
    pub node_id: NodeId,
    /// A follower campaigns after hearing no leader for a time drawn from
    /// `election_timeout_min_ms..=election_timeout_max_ms`, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// See `election_timeout_min_ms`.
    pub election_timeout_max_ms: u64,
    /// How often a leader says that it lives, in milliseconds; at most a third of
    /// `election_timeout_min_ms`.
    pub heartbeat_interval_ms: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            node_id: 1,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
            heartbeat_interval_ms: 50,
        }
    }
}

/// Settings that contradict each other or are out of range; the text says which and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct ConfigError {
    /// The setting's name.
    pub key: &'static str,
    /// What is wrong with it and what would be right.
    pub why: String,
}

impl ConfigError {
    pub(crate) fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self {
            key,
            why: why.into(),
        }
    }
}

impl RaftConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// Names the first setting that cannot work, and what would.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let err = |key, why: String| Err(ConfigError::new(key, why));
        if self.node_id == 0 {
            return err("node_id", "must be at least 1; 0 means nobody".into());
        }
        if self.heartbeat_interval_ms == 0 {
            return err("heartbeat_interval_ms", "must be at least 1 ms".into());
        }
        if self.election_timeout_min_ms < 3 * self.heartbeat_interval_ms {
            return err(
                "election_timeout_min_ms",
                format!(
                    "must be at least three heartbeats, {} ms",
                    3 * self.heartbeat_interval_ms
                ),
            );
        }
        if self.election_timeout_max_ms <= self.election_timeout_min_ms {
            return err(
                "election_timeout_max_ms",
                "must be above election_timeout_min_ms, or votes split for ever".into(),
            );
        }
        if self.election_timeout_max_ms > 600_000 {
            return err(
                "election_timeout_max_ms",
                "must be at most 600000 ms".into(),
            );
        }
        Ok(())
    }
}

/// Another member, for the first contact; afterwards the replicated configuration's addresses win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// `host:port` of its peer listener.
    pub address: String,
}

/// Which cluster a node belongs to: where its data is, who it is, where it listens and who the
/// others are.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) data_dir: PathBuf,
    pub(crate) credentials: Credentials,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<String>,
    pub(crate) client_endpoint: String,
    pub(crate) members: Vec<Member>,
    pub(crate) single: bool,
    pub(crate) joins: bool,
    pub(crate) strict_expiry: bool,
}

impl Cluster {
    /// A member of a cluster of several.
    ///
    /// `members` lists the other first members by number and peer address; naming this node too is
    /// allowed. `listen` is the UDP address of the peer listener.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        credentials: Credentials,
        listen: SocketAddr,
        members: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Self {
        let members = members
            .into_iter()
            .map(|(node, address)| Member { node, address });
        Self {
            data_dir: data_dir.into(),
            credentials,
            listen,
            advertise: None,
            client_endpoint: String::new(),
            members: members.collect(),
            single: false,
            joins: false,
            strict_expiry: false,
        }
    }

    /// A node that joins a cluster which is there already: with an empty directory it waits until
    /// the members add it ([`RaftNode::change_members`](crate::RaftNode::change_members)), and
    /// never founds a cluster.
    ///
    /// `members` lists some that it tells of itself, so that they know whom they can add; it may
    /// be empty. With a directory that belongs to a member nothing differs from [`Cluster::new`].
    pub fn joining(
        data_dir: impl Into<PathBuf>,
        credentials: Credentials,
        listen: SocketAddr,
        members: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Self {
        Self {
            joins: true,
            ..Self::new(data_dir, credentials, listen, members)
        }
    }

    /// A cluster of one. This is the explicit word that founding alone needs: it never comes from
    /// a list that happens to be empty.
    pub fn single(data_dir: impl Into<PathBuf>, credentials: Credentials) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            single: true,
            ..Self::new(data_dir, credentials, listen, [])
        }
    }

    /// The address that others dial, where it differs from the listener's.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Whether a connection to another node is closed when that one's certificate expires (off by
    /// default: an expired certificate then opens no connection and cuts none).
    pub fn strict_expiry(mut self, strict: bool) -> Self {
        self.strict_expiry = strict;
        self
    }

    /// Where clients find this node; told to those who ask a follower.
    pub fn client_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.client_endpoint = endpoint.into();
        self
    }
}

/// Sizes that form one chain: command < entry < frame body < in flight. See `docs/limits.md`.
pub mod limits {
    /// Proposals under way to a leader that are passed on to it by one node, and that a leader takes from
    /// one node.
    pub const MAX_FORWARDS: usize = 256;
    /// Bytes of their payloads; an only one may be larger.
    pub const MAX_FORWARD_BYTES: usize = 4 << 20;
    /// Largest encoded command, bytes.
    pub const MAX_COMMAND: usize = 2 << 20;
    /// Largest entry payload, bytes: a command and its envelope.
    pub const MAX_ENTRY: usize = MAX_COMMAND + (64 << 10);
    /// Largest encoded configuration, bytes; while a change is joint, too.
    pub const MAX_CONFIGURATION: usize = crate::types::MAX_CONFIGURATION;
    /// Largest body of a peer frame, bytes.
    pub const MAX_FRAME_BODY: usize = 3 << 20;
    /// Largest body this node sends; one entry may exceed it.
    pub const MAX_APPEND: usize = 1 << 20;
    /// Most entries in a peer frame.
    pub const MAX_FRAME_ENTRIES: u32 = 16_384;
    /// Append bytes on their way to one peer.
    pub const MAX_INFLIGHT: usize = 4 << 20;
    /// Appends on their way to one peer.
    pub const MAX_INFLIGHT_APPENDS: usize = 64;
    /// Bytes of proposals appended and not yet committed; more are refused as overload.
    pub const MAX_UNCOMMITTED: usize = 64 << 20;
    /// Largest piece of a snapshot in a peer frame, bytes.
    pub const MAX_SNAPSHOT_CHUNK: usize = 256 << 10;
    /// Sessions of clients; while as many are open, no other is. Part of the replicated state's rules, as
    /// all of the next four are: equal on all nodes, or they part.
    pub const MAX_SESSIONS: usize = 100_000;
    /// How far a command's number may be above the lowest one that the client still waits for.
    pub const SESSION_WINDOW: u64 = 256;
    /// Bytes of answers that are kept for one session.
    pub const SESSION_ANSWER_BYTES: usize = 16 << 10;
    /// A session ends when it was quiet for longer, microseconds of log time with a leader.
    pub const SESSION_IDLE_US: u64 = 10 * 60 * 1_000_000;
    /// Members compare digests of their states at every index that this divides.
    pub const DIGEST_EVERY: u64 = 65_536;
    /// Bytes of changes that a node keeps for watchers that resume.
    pub const WATCH_HISTORY: usize = 64 << 20;
    /// Bytes of changes that may wait for one watcher; it ends beyond.
    pub const WATCH_BEHIND: usize = 4 << 20;
    /// Prefixes of one watcher.
    pub const WATCH_PREFIXES: usize = 64;
    /// Longest prefix, bytes; no key of the router's state is longer.
    pub const WATCH_PREFIX_BYTES: usize = 4096;
    /// Proposals waiting to be appended; more are refused as overload.
    pub const MAX_SUBMITTED: usize = 65_536;

    const _: () = assert!(MAX_COMMAND < MAX_ENTRY);
    const _: () = assert!(crate::entry::frame_len(MAX_ENTRY) < MAX_FRAME_BODY);
    const _: () = assert!(MAX_FRAME_BODY < MAX_INFLIGHT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_contradictions_are_named() {
        let ok = RaftConfig::default();
        assert_eq!(ok.validate(), Ok(()));
        let key = |config: RaftConfig| config.validate().expect_err("must be refused").key;
        assert_eq!(
            key(RaftConfig {
                node_id: 0,
                ..ok.clone()
            }),
            "node_id"
        );
        assert_eq!(
            key(RaftConfig {
                heartbeat_interval_ms: 0,
                ..ok.clone()
            }),
            "heartbeat_interval_ms"
        );
        assert_eq!(
            key(RaftConfig {
                heartbeat_interval_ms: 60,
                ..ok.clone()
            }),
            "election_timeout_min_ms"
        );
        assert_eq!(
            key(RaftConfig {
                election_timeout_max_ms: 150,
                ..ok
            }),
            "election_timeout_max_ms"
        );
    }
}

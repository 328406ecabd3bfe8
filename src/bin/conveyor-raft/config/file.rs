//! What can be set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conveyor_raft::backup::{Automatic, BackupLimits};
use conveyor_raft::grpc::BackupOptions;
use conveyor_raft::snapshot::SnapshotOptions;
use serde::{Deserialize, Serialize};

use crate::logging::Format;

/// All settings of a node. An unknown key is an error: a misspelt one would silently be a default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: Node,
    #[serde(default)]
    pub(crate) raft: Raft,
    pub(crate) peers: Peers,
    #[serde(default)]
    pub(crate) edge: Edge,
    #[serde(default)]
    pub(crate) wal: Wal,
    #[serde(default)]
    pub(crate) snapshots: Snapshots,
    #[serde(default)]
    pub(crate) backup: Backup,
    #[serde(default)]
    pub(crate) metrics: Metrics,
    #[serde(default)]
    pub(crate) log: Log,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) data_dir: PathBuf,
    /// While it leads, it adds by itself who waits to be added.
    #[serde(default)]
    pub(crate) auto_join: bool,
    /// The driver has a thread of its own beside the network's.
    #[serde(default)]
    pub(crate) separate_driver: bool,
}

/// A node's number, or `"ordinal+1"`: one more than the number at the end of the host name, as a
/// stateful set of Kubernetes gives them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "a number of at least 1, or \"ordinal+1\"")]
pub(crate) enum NodeId {
    Number(u64),
    Word(String),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Raft {
    pub(crate) election_timeout_min_ms: u64,
    pub(crate) election_timeout_max_ms: u64,
    pub(crate) heartbeat_interval_ms: u64,
    /// How much faster one clock may run than another, if reads may rest on leases.
    pub(crate) lease_drift_ppm: Option<u32>,
}

impl Default for Raft {
    fn default() -> Self {
        let config = conveyor_raft::config::RaftConfig::default();
        Self {
            election_timeout_min_ms: config.election_timeout_min_ms,
            election_timeout_max_ms: config.election_timeout_max_ms,
            heartbeat_interval_ms: config.heartbeat_interval_ms,
            lease_drift_ppm: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peers {
    #[serde(default = "default_peer_listen")]
    pub(crate) listen: String,
    pub(crate) advertise: Option<String>,
    /// Where the rest comes from that nobody sets.
    pub(crate) from: Option<From>,
    #[serde(default)]
    pub(crate) list: Vec<PeerEntry>,
    /// The explicit word that a cluster of one needs.
    #[serde(default)]
    pub(crate) single: bool,
    /// With an empty directory it waits to be added, and founds nothing.
    #[serde(default)]
    pub(crate) join: bool,
    /// Connections that stand end with the peer's certificate.
    #[serde(default)]
    pub(crate) strict_expiry: bool,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) crl: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// From what a stateful set tells its pods.
    Kubernetes,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerEntry {
    pub(crate) id: u64,
    pub(crate) addr: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Edge {
    pub(crate) listen: String,
    pub(crate) advertise: Option<String>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) crl: Option<PathBuf>,
    pub(crate) plaintext: Plaintext,
    pub(crate) plaintext_role: String,
    pub(crate) allow_plaintext_anywhere: bool,
    pub(crate) roles: BTreeMap<String, String>,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_connections: usize,
}

/// Whether the client edge goes without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Plaintext {
    /// Never.
    #[default]
    Off,
    /// On a loopback address.
    Loopback,
    /// On a unix socket.
    Unix,
}

impl Default for Edge {
    fn default() -> Self {
        let limits = conveyor_raft::grpc::EdgeLimits::default();
        Self {
            listen: "0.0.0.0:50051".to_owned(),
            advertise: None,
            client_ca: None,
            cert: None,
            key: None,
            crl: None,
            plaintext: Plaintext::Off,
            plaintext_role: "writer".to_owned(),
            allow_plaintext_anywhere: false,
            roles: BTreeMap::new(),
            max_message_bytes: limits.max_message_bytes,
            max_connections: limits.max_connections,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Wal {
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) allow_unsupported_fs: bool,
}

/// What of [`SnapshotOptions`] an operator may want to set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Snapshots {
    pub(crate) every_entries: u64,
    pub(crate) every_bytes: u64,
    pub(crate) times_last: u32,
    pub(crate) keep_tail_entries: u64,
    pub(crate) keep_tail_bytes: u64,
    pub(crate) keep_for_peers_entries: u64,
    pub(crate) write_bytes_per_second: u64,
    pub(crate) send_bytes_per_second: u64,
}

impl Default for Snapshots {
    fn default() -> Self {
        let options = SnapshotOptions::default();
        Self {
            every_entries: options.every_entries,
            every_bytes: options.every_bytes,
            times_last: options.times_last,
            keep_tail_entries: options.keep_tail_entries,
            keep_tail_bytes: options.keep_tail_bytes,
            keep_for_peers_entries: options.keep_for_peers_entries,
            write_bytes_per_second: options.write_bytes_per_second,
            send_bytes_per_second: options.send_bytes_per_second,
        }
    }
}

impl Snapshots {
    pub(crate) fn options(&self) -> SnapshotOptions {
        SnapshotOptions {
            every_entries: self.every_entries,
            every_bytes: self.every_bytes,
            times_last: self.times_last,
            keep_tail_entries: self.keep_tail_entries,
            keep_tail_bytes: self.keep_tail_bytes,
            keep_for_peers_entries: self.keep_for_peers_entries,
            write_bytes_per_second: self.write_bytes_per_second,
            send_bytes_per_second: self.send_bytes_per_second,
            ..SnapshotOptions::default()
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Backup {
    pub(crate) dir: Option<PathBuf>,
    /// The node makes one by itself so long after the one before.
    pub(crate) every_s: Option<u64>,
    /// So many of its own are kept.
    pub(crate) keep: usize,
    pub(crate) max_bytes: u64,
    pub(crate) max_ratio: u64,
    pub(crate) bytes_per_second: u64,
    /// What came of an upload that broke off is kept for so long.
    pub(crate) keep_uploads_s: u64,
}

impl Default for Backup {
    fn default() -> Self {
        let limits = BackupLimits::default();
        Self {
            dir: None,
            every_s: None,
            keep: 24,
            max_bytes: limits.max_bytes,
            max_ratio: limits.max_ratio,
            bytes_per_second: limits.bytes_per_second,
            keep_uploads_s: limits.keep_uploads.as_secs(),
        }
    }
}

impl Backup {
    /// None where no backups are kept.
    ///
    /// # Errors
    /// If the keys contradict each other, as a sentence.
    pub(crate) fn options(&self) -> Result<Option<BackupOptions>, String> {
        let every = self.every_s.map(Duration::from_secs);
        if every.is_some_and(|every| every.is_zero()) || self.keep == 0 {
            return Err("[backup] every_s and keep must be at least 1".to_owned());
        }
        match &self.dir {
            Some(dir) => Ok(Some(BackupOptions {
                limits: BackupLimits {
                    max_bytes: self.max_bytes,
                    max_ratio: self.max_ratio,
                    bytes_per_second: self.bytes_per_second,
                    keep_uploads: Duration::from_secs(self.keep_uploads_s),
                },
                automatic: every.map(|every| Automatic {
                    every,
                    keep: self.keep,
                }),
                ..BackupOptions::new(dir)
            })),
            None if every.is_some() => Err("[backup] every_s needs dir".to_owned()),
            None => Ok(None),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    /// None: not offered.
    pub(crate) listen: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) filter: String,
    pub(crate) format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: Format::Text,
        }
    }
}

/// What a unix socket to listen on begins with, and an endpoint there.
pub(crate) const UNIX: &str = "unix:";

fn default_peer_listen() -> String {
    "0.0.0.0:50052".to_owned()
}

impl Config {
    /// Makes relative paths relative to `base`, the directory of the file that named them, so that
    /// a node starts the same from any directory.
    pub(super) fn rebase(&mut self, base: &Path) {
        let required = [
            &mut self.node.data_dir,
            &mut self.peers.ca,
            &mut self.peers.cert,
            &mut self.peers.key,
            &mut self.peers.crl,
        ];
        let optional = [
            &mut self.edge.client_ca,
            &mut self.edge.cert,
            &mut self.edge.key,
            &mut self.edge.crl,
            &mut self.backup.dir,
        ];
        for path in required.into_iter().chain(optional.into_iter().flatten()) {
            *path = base.join(&*path);
        }
        if let Some(path) = self.edge.listen.strip_prefix(UNIX) {
            self.edge.listen = format!("{UNIX}{}", base.join(path).display());
        }
    }
}

impl NodeId {
    /// The number, where `host` is this machine's name.
    ///
    /// # Errors
    /// If there is none, as a sentence.
    pub(crate) fn resolve(&self, host: &str) -> Result<u64, String> {
        let number = match self {
            Self::Number(number) => Some(*number),
            Self::Word(word) if word == "ordinal+1" => {
                let ordinal = host.rsplit('-').next().and_then(|end| end.parse().ok());
                let id = ordinal.and_then(|ordinal: u64| ordinal.checked_add(1));
                return id.ok_or(format!(
                    "[node] id = \"ordinal+1\" needs a host name that ends in -NUMBER, \
                     this one is {host:?}"
                ));
            }
            Self::Word(word) => word.parse().ok(),
        };
        match number {
            Some(number) if number > 0 => Ok(number),
            _ => Err("[node] id must be a number of at least 1, or \"ordinal+1\"".to_owned()),
        }
    }
}

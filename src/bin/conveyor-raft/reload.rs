//! A running node takes up certificates, keys, CA bundles and revocation lists that changed.

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use conveyor_raft::grpc::{Edge, EdgeFiles, EdgeIdentity};
use conveyor_raft::quic::CredentialFiles;
use conveyor_raft::{Credentials, RaftNode};
use ring::digest::{SHA256, digest};
use tokio::signal::unix::Signal;

use crate::failure::Failure;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where the certificates of a node are.
pub(crate) struct Files {
    pub(crate) peers: CredentialFiles,
    /// None without TLS.
    pub(crate) edge: Option<EdgeFiles>,
}

/// What was in the files: they are few and small, so their contents tell what their times may not. No
/// key is kept here.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    peers: Vec<Content>,
    edge: Vec<Content>,
}

/// Mode, owner and SHA-256; none if the file cannot be read.
type Content = Option<(u32, u32, Vec<u8>)>;

impl Files {
    pub(crate) fn look(&self) -> Seen {
        let peers = &self.peers;
        let peers = [&peers.ca, &peers.cert, &peers.key, &peers.crl];
        let edge = self.edge.iter().flat_map(|edge| {
            let crl = edge.crl.as_ref();
            [&edge.ca, &edge.cert, &edge.key].into_iter().chain(crl)
        });
        Seen {
            peers: peers.map(|path| content(path)).into(),
            edge: edge.map(|path| content(path)).collect(),
        }
    }
}

fn content(path: &Path) -> Content {
    let bytes = std::fs::read(path).ok()?;
    let metadata = std::fs::metadata(path).ok()?;
    let hash = digest(&SHA256, &bytes).as_ref().to_vec();
    Some((metadata.mode(), metadata.uid(), hash))
}

/// Looks at the files every two seconds, and takes up what changed once it has stayed the same for
/// that long, so that a certificate is not read without its key. SIGHUP takes up everything at once.
pub(crate) async fn run(
    files: &Files,
    started_with: Seen,
    hangup: &mut Signal,
    node: &RaftNode,
    edge: &Edge,
) -> Infallible {
    let (mut taken, mut before) = (started_with.clone(), started_with);
    loop {
        let at_once = tokio::select! {
            () = tokio::time::sleep(LOOK) => false,
            _ = hangup.recv() => true,
        };
        let now = files.look();
        let settled = now == before;
        before = now.clone();
        if !at_once && !settled {
            continue;
        }
        if at_once || now.peers != taken.peers {
            told("peers", reload_peers(files, node));
        }
        if at_once || now.edge != taken.edge {
            told("clients", reload_edge(files, edge));
        }
        // One that cannot be used is complained of once.
        taken = now;
    }
}

fn told(of: &'static str, result: Result<(), Failure>) {
    if let Err(why) = result {
        tracing::error!(of, %why, "certificates refused: the old ones stay in force");
    }
}

fn reload_peers(files: &Files, node: &RaftNode) -> Result<(), Failure> {
    node.reload_credentials(Credentials::load(&files.peers)?)?;
    Ok(())
}

fn reload_edge(files: &Files, edge: &Edge) -> Result<(), Failure> {
    if let Some(files) = &files.edge {
        edge.reload(&EdgeIdentity::load(files)?)?;
    }
    Ok(())
}

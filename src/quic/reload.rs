//! Credentials taken up while the transport runs.
//!
//! A generation of credentials is immutable. A new one counts for every handshake that begins
//! after it, and every connection that stands is judged by it: what it still trusts goes on
//! undisturbed.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ServerConfig, TransportConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::credentials::Credentials;
use super::lane::lock;
use super::limits::{Side, Tuning, transport_config};
use super::refusals::{Reason, Who};
use super::shared::{Link, Shared};
use super::tls::{Fallen, validity};
use crate::types::{ClusterId, NodeId};
use crate::wire::CloseCode;

/// Why a transport did not take up credentials; those that it had stay in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// They are somebody else's.
    #[error(
        "the certificate is that of node {node} of cluster {cluster}, this is node {me}; the old \
         one stays in force. Give this node's own peer.pem"
    )]
    Other {
        /// Whose certificate it is.
        node: NodeId,
        /// In which cluster.
        cluster: ClusterId,
        /// Who this node is.
        me: NodeId,
    },
    /// The transport has ended.
    #[error("the transport has ended")]
    Stopped,
}

/// What became of the connections when credentials were taken up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// The number of the generation that is in force now; the first one is 1.
    pub generation: u64,
    /// Connections that go on.
    pub kept: usize,
    /// Connections closed because a revocation list names the peer's certificate.
    pub revoked: usize,
    /// Connections closed because the bundle does not trust the certificate that the peer showed
    /// when they began. It dials again at once, and is let in if it has a better one by now.
    pub untrusted: usize,
}

/// The generation of credentials in force.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) credentials: Credentials,
}

/// What incoming connections are met with.
pub(super) fn server_config(credentials: &Credentials, tuning: Tuning) -> ServerConfig {
    server_config_with(credentials, transport_config(Side::Accept, tuning))
}

/// The same with other settings.
pub(super) fn server_config_with(
    credentials: &Credentials,
    transport: TransportConfig,
) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(credentials.server());
    server
        .transport_config(Arc::new(transport))
        .migration(false)
        .max_incoming(64)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(1 << 20);
    server
}

/// What the other end showed when the connection began.
fn chain_of(link: &Link) -> Vec<CertificateDer<'static>> {
    let identity = link.connection.peer_identity();
    let chain = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.map(|chain| *chain).unwrap_or_default()
}

impl Shared {
    /// The number of the generation in force.
    pub(super) fn generation(&self) -> u64 {
        lock(&self.current).number
    }

    pub(super) fn reload(&self, new: Credentials) -> Result<ReloadReport, ReloadError> {
        let (cluster, node, me) = (new.cluster(), new.node(), self.me.node);
        if cluster != self.cluster || node != me {
            return Err(ReloadError::Other { node, cluster, me });
        }
        let mut report = ReloadReport::default();
        {
            let endpoint = lock(&self.endpoint);
            let endpoint = endpoint.as_ref().ok_or(ReloadError::Stopped)?;
            // In this order: whoever reads the new number meets dialers by the new rules.
            endpoint.set_server_config(Some(server_config(&new, self.tuning)));
            let mut current = lock(&self.current);
            current.number += 1;
            current.credentials = new;
            report.generation = current.number;
        }
        self.judge_all(&mut report);
        // Whoever waits after a refusal may be let in now.
        let peers: Vec<_> = lock(&self.peers).values().cloned().collect();
        peers.iter().for_each(|peer| peer.wake());
        self.reloaded.notify_one();
        tracing::info!(
            generation = report.generation,
            kept = report.kept,
            revoked = report.revoked,
            untrusted = report.untrusted,
            "credentials for peers taken up"
        );
        Ok(report)
    }

    fn judge_all(&self, report: &mut ReloadReport) {
        let links = lock(&self.links).clone();
        for link in links {
            match self.judge(&link) {
                Ok(()) => report.kept += 1,
                Err(Fallen::Revoked) => report.revoked += 1,
                Err(Fallen::Untrusted(_)) => report.untrusted += 1,
            }
        }
    }

    /// Where dates count for connections that stand: closes those whose certificate has expired, and says
    /// how long it is until the next one does.
    pub(super) fn cut_expired(&self, now: UnixTime) -> Option<Duration> {
        if !self.strict_expiry {
            return None;
        }
        self.judge_all(&mut ReloadReport::default());
        let links = lock(&self.links).clone();
        let chains = links.iter().map(|link| chain_of(link));
        let ends = chains.filter_map(|chain| Some(validity(chain.first()?)?.1.as_secs()));
        // The last second of a certificate is one of its own.
        let next = ends
            .map(|end| end + 1)
            .filter(|end| *end > now.as_secs())
            .min()?;
        Some(Duration::from_secs(next - now.as_secs()))
    }

    /// Judges a live connection by the credentials in force, and closes it if it falls.
    pub(super) fn judge(&self, link: &Link) -> Result<(), Fallen> {
        let credentials = lock(&self.current).credentials.clone();
        let (chain, strict) = (chain_of(link), self.strict_expiry);
        let judged = credentials.judge(&chain, link.peer.node, link.dialled, strict);
        let Err(fallen) = &judged else {
            return judged;
        };
        let (code, why) = match fallen {
            Fallen::Revoked => (CloseCode::Revoked, "its certificate was revoked"),
            // A new handshake shows whether it has another certificate by now.
            Fallen::Untrusted(why) => (CloseCode::Rotating, why.as_str()),
        };
        link.close(code);
        let who = match link.dialled {
            true => Who::Dialled(link.peer.node),
            false => Who::Node(link.peer.node),
        };
        let reason = Reason::Ours(code, why.to_owned());
        let at = link.connection.remote_address();
        if reason.is_refusal() {
            self.refusals.note(who, Some(at), &reason);
        } else {
            tracing::info!(%who, %at, %reason, "connection closed, to begin anew");
        }
        judged
    }
}

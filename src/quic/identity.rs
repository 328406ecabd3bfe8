//! Who a certificate speaks for: its URI name, in one canonical form.

use std::fmt;

use rustls_pki_types::CertificateDer;

use crate::types::{ClusterId, NodeId};

const SCHEME: &str = "conveyor-raft://";

/// What a client certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientRole {
    /// Reads only.
    Reader,
    /// Reads and proposes.
    Writer,
    /// Everything, membership and backups included.
    Operator,
}

impl ClientRole {
    /// The role's name in a certificate.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Operator => "operator",
        }
    }
}

impl std::str::FromStr for ClientRole {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match text {
            "reader" => Ok(Self::Reader),
            "writer" => Ok(Self::Writer),
            "operator" => Ok(Self::Operator),
            _ => Err(IdentityError::NotCanonical),
        }
    }
}

/// What the holder of a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A node, towards other nodes.
    Peer(NodeId),
    /// A node, towards clients. Never good as a client.
    Edge(NodeId),
    /// A client.
    Client(ClientRole, String),
}

/// Which cluster a certificate belongs to and what its holder is there.
///
/// Written as `conveyor-raft://<cluster id>/peer/<node id>`, `…/edge/<node id>` or
/// `…/client/<role>/<name>`, it is the only URI among the certificate's subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Which cluster.
    pub cluster: ClusterId,
    /// What the holder is in it.
    pub role: Role,
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// There is not exactly one URI name.
    #[error("the certificate has {0} URI names instead of one")]
    Uris(usize),
    /// The URI name is not one of the known forms, letter for letter.
    #[error("the certificate's URI name is not in canonical form")]
    NotCanonical,
    /// The DNS name that goes with the URI is missing.
    #[error("the certificate's URI and DNS names disagree")]
    DnsDiffers,
    /// It belongs to another cluster.
    #[error("the certificate belongs to cluster {0}")]
    OtherCluster(ClusterId),
    /// It is no peer's.
    #[error("the certificate is not a peer's")]
    NotPeer,
    /// It is another node's.
    #[error("the certificate is that of node {0}")]
    OtherNode(NodeId),
}

impl Identity {
    /// Reads the one URI name of a certificate. Says nothing about whether to trust it.
    ///
    /// # Errors
    /// If there is not exactly one, or it is not in canonical form.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let parsed =
            webpki::EndEntityCert::try_from(certificate).map_err(|_| IdentityError::Unreadable)?;
        let mut uris = parsed.valid_uri_names();
        let (first, more) = (uris.next(), uris.count());
        match first {
            Some(uri) if more == 0 => Self::parse(uri),
            Some(_) => Err(IdentityError::Uris(1 + more)),
            None => Err(IdentityError::Uris(0)),
        }
    }

    /// Parses a URI name.
    ///
    /// # Errors
    /// If it is not, letter for letter, what [`Identity`] prints.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let bad = IdentityError::NotCanonical;
        let rest = uri.strip_prefix(SCHEME).ok_or(bad.clone())?;
        let mut parts = rest.split('/');
        let (cluster, kind) = (parts.next(), parts.next());
        let cluster = cluster.and_then(|id| id.parse().ok()).ok_or(bad.clone())?;
        let mut part = || parts.next().ok_or(bad.clone());
        let role = match kind {
            Some("peer") => Role::Peer(node_id(part()?)?),
            Some("edge") => Role::Edge(node_id(part()?)?),
            Some("client") => {
                let role = part()?.parse()?;
                Role::Client(role, checked_name(part()?)?)
            }
            _ => return Err(bad),
        };
        let identity = Self { cluster, role };
        if parts.next().is_some() || identity.to_string() != uri {
            return Err(bad);
        }
        Ok(identity)
    }

    /// The node that a peer certificate of `cluster` speaks for.
    ///
    /// # Errors
    /// If it is not one, or if its DNS name is not that node's.
    pub fn peer_of(
        certificate: &CertificateDer<'_>,
        cluster: ClusterId,
    ) -> Result<NodeId, IdentityError> {
        let identity = Self::of_certificate(certificate)?;
        let Role::Peer(node) = identity.role else {
            return Err(IdentityError::NotPeer);
        };
        if identity.cluster != cluster {
            return Err(IdentityError::OtherCluster(identity.cluster));
        }
        let parsed =
            webpki::EndEntityCert::try_from(certificate).map_err(|_| IdentityError::Unreadable)?;
        let wanted = peer_dns_name(cluster, node);
        let mut names = parsed.valid_dns_names();
        if names.next() != Some(wanted.as_str()) || names.next().is_some() {
            return Err(IdentityError::DnsDiffers);
        }
        Ok(node)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/", self.cluster)?;
        match &self.role {
            Role::Peer(node) => write!(f, "peer/{node}"),
            Role::Edge(node) => write!(f, "edge/{node}"),
            Role::Client(role, name) => write!(f, "client/{}/{name}", role.name()),
        }
    }
}

/// The DNS name that a dialer expects of node `node`, so that the stock verifier checks that it
/// reached the node it meant. It is never resolved.
pub(crate) fn peer_dns_name(cluster: ClusterId, node: NodeId) -> String {
    format!("n{node}.{cluster}.peer.conveyor-raft.internal")
}

fn node_id(text: &str) -> Result<NodeId, IdentityError> {
    match text.parse() {
        Ok(node) if node > 0 => Ok(node),
        _ => Err(IdentityError::NotCanonical),
    }
}

/// A name of 1 to 63 lower-case letters, digits and hyphens.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

fn checked_name(name: &str) -> Result<String, IdentityError> {
    if !is_name(name) {
        return Err(IdentityError::NotCanonical);
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn canonical_names_parse_and_print_the_same() {
        for path in [
            "peer/1",
            "peer/18446744073709551615",
            "edge/7",
            "client/reader/a",
            "client/operator/ops-2",
        ] {
            let uri = format!("{SCHEME}{CLUSTER}/{path}");
            let identity = Identity::parse(&uri).expect("canonical");
            assert_eq!(identity.to_string(), uri);
        }
    }

    #[test]
    fn i2_everything_else_names_nobody() {
        for uri in [
            "".to_owned(),
            format!("conveyor-raft:/{CLUSTER}/peer/1"),
            format!("CONVEYOR-RAFT://{CLUSTER}/peer/1"),
            format!("{SCHEME}{}/peer/1", CLUSTER.to_uppercase()),
            format!("{SCHEME}{CLUSTER}0/peer/1"),
            format!("{SCHEME}{CLUSTER}/peer/0"),
            format!("{SCHEME}{CLUSTER}/peer/01"),
            format!("{SCHEME}{CLUSTER}/peer/+1"),
            format!("{SCHEME}{CLUSTER}/peer/1/"),
            format!("{SCHEME}{CLUSTER}/peer/1/x"),
            format!("{SCHEME}{CLUSTER}/peer/18446744073709551616"),
            format!("{SCHEME}{CLUSTER}/Peer/1"),
            format!("{SCHEME}{CLUSTER}/peer"),
            format!("{SCHEME}{CLUSTER}/client/admin/x"),
            format!("{SCHEME}{CLUSTER}/client/reader/X"),
            format!("{SCHEME}{CLUSTER}/client/reader/{}", "a".repeat(64)),
            format!("{SCHEME}{CLUSTER}/client/reader/"),
            format!("{SCHEME}{CLUSTER}/client/reader/a?b"),
            format!("{SCHEME}user@{CLUSTER}/peer/1"),
        ] {
            assert_eq!(
                Identity::parse(&uri),
                Err(IdentityError::NotCanonical),
                "{uri}"
            );
        }
    }
}

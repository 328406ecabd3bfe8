//! Makes a cluster's certificates: two private CAs, a peer and an edge certificate for each node,
//! and clients.
//!
//! `peer-ca` signs what nodes show each other, `client-ca` what clients show nodes and what nodes
//! show clients. Neither trusts the other, so a client's certificate opens no peer port.

mod files;
mod inspect;
mod revoke;
mod rotate;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, date_time_ymd,
};

pub use files::{CertsReport, InitOptions, add_client, add_nodes, init, renew};
pub use inspect::{CertificateInfo, show};
pub use revoke::{Revoke, RevokeReport, revoke};
pub use rotate::{Rotation, RotationStep, rotate, rotation};

use super::credentials::{Credentials, CredentialsError};
use super::identity::{ClientRole, Identity, Role, is_name, peer_dns_name};
use crate::types::{ClusterId, NodeId};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a CA is good.
const CA_LIFE: Duration = DAY.saturating_mul(3650);
/// How long a node's or client's certificate is good, in days.
pub const LEAF_DAYS: u32 = 365;
const LEAF_LIFE: Duration = DAY.saturating_mul(LEAF_DAYS);
/// Clocks differ: a certificate is good from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Why certificates could not be made; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A label or client name is not 1 to 63 lower-case letters, digits and hyphens.
    #[error("`{0}` is no name: use 1 to 63 lower-case letters, digits and hyphens")]
    Name(String),
    /// No node, node 0, or one twice.
    #[error("node ids must be at least 1 and given once each; got {0:?}")]
    Nodes(Vec<NodeId>),
    /// A host is neither an IP address nor a DNS name.
    #[error("`{0}` is neither an IP address nor a DNS name")]
    Host(String),
    /// A file is in the way.
    #[error("{} exists; nothing was written. Choose another directory", .0.display())]
    Exists(std::path::PathBuf),
    /// A file that `init` wrote cannot be read.
    #[error("cannot read {}: {source}; name the directory that `certs init` made, with the keys of both CAs", path.display())]
    Read {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not what `certs init` made; put the right file there", .0.display())]
    Content(std::path::PathBuf),
    /// A validity of no days, or of more than a CA has.
    #[error("a certificate is good for 1 to 3650 days, not {0}")]
    Days(u32),
    /// Nobody of that name has a certificate in the directory.
    #[error(
        "there is no certificate of {0} in the directory; `conveyor-raft certs show` lists all, and --serial takes any"
    )]
    Nobody(String),
    /// Not the serial number of a certificate.
    #[error(
        "`{0}` is no serial number: give up to 20 bytes in hexadecimal, as `conveyor-raft certs show` prints them"
    )]
    Serial(String),
    /// The certificate of a CA is on no list.
    #[error(
        "{0} is a CA: nothing revokes it. `conveyor-raft certs rotate` puts another in its place"
    )]
    RevokeCa(String),
    /// It is another step's turn.
    #[error("it is not this step's turn; `conveyor-raft certs rotate {0}` comes first")]
    Turn(&'static str),
    /// Certificates of the old CAs are left.
    #[error("still of the old CA: {}. `conveyor-raft certs rotate issue` makes them anew; remove those of nobody", list(.0))]
    Lagging(Vec<std::path::PathBuf>),
    /// The operating system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(std::io::Error),
    /// The certificate library refused.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

fn list(files: &[std::path::PathBuf]) -> String {
    let names: Vec<_> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    names.join(", ")
}

/// A certificate and its private key, PEM. Printing it never shows the key.
#[derive(Clone)]
pub struct PemPair {
    /// The certificate.
    pub cert: String,
    /// The private key.
    pub key: String,
}

impl fmt::Debug for PemPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemPair")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

/// What a node gets.
#[derive(Clone, Debug)]
pub struct NodeCerts {
    /// Which node.
    pub node: NodeId,
    /// Shown to other nodes.
    pub peer: PemPair,
    /// Shown to clients.
    pub edge: PemPair,
}

/// One CA: its certificate, its key and its revocation list.
struct Authority {
    pair: PemPair,
    crl: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Both CAs of a cluster, with their keys.
pub struct ClusterCa {
    cluster: ClusterId,
    label: String,
    peer: Authority,
    client: Authority,
    /// How long what it issues is good.
    life: Duration,
}

impl fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCa")
            .field("cluster", &self.cluster)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// Makes a new cluster id and its two CAs. `label` is for people: it stands in the CAs' names.
    ///
    /// # Errors
    /// If the label is not a name, or there are no random numbers.
    pub fn generate(label: &str) -> Result<Self, CertsError> {
        if !is_name(label) {
            return Err(CertsError::Name(label.to_owned()));
        }
        let cluster = ClusterId::random().map_err(CertsError::Random)?;
        Ok(Self {
            cluster,
            label: label.to_owned(),
            peer: Authority::generate(&format!("{label} peer CA"))?,
            client: Authority::generate(&format!("{label} client CA"))?,
            life: LEAF_LIFE,
        })
    }

    /// The CAs of a cluster that is there already, to make further certificates.
    ///
    /// # Errors
    /// If the certificates and keys do not belong together or are none.
    fn load(
        (cluster, label): (ClusterId, String),
        (peer, peer_crl): (PemPair, String),
        (client, client_crl): (PemPair, String),
    ) -> Result<Self, CertsError> {
        Ok(Self {
            cluster,
            label,
            peer: Authority::load(peer, peer_crl)?,
            client: Authority::load(client, client_crl)?,
            life: LEAF_LIFE,
        })
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The name given to [`ClusterCa::generate`].
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The CA of the peers and its key.
    pub fn peer_ca(&self) -> &PemPair {
        &self.peer.pair
    }

    /// The peer CA's revocation list, PEM.
    pub fn peer_crl(&self) -> &str {
        &self.peer.crl
    }

    /// The CA of clients and edges and its key.
    pub fn client_ca(&self) -> &PemPair {
        &self.client.pair
    }

    /// The client CA's revocation list, PEM.
    pub fn client_crl(&self) -> &str {
        &self.client.crl
    }

    /// What it issues from now on is good for so many days.
    ///
    /// # Errors
    /// If that is none, or more than the CA itself has from its beginning.
    pub fn days(mut self, days: u32) -> Result<Self, CertsError> {
        self.life = DAY.saturating_mul(days);
        match (DAY..=CA_LIFE).contains(&self.life) {
            true => Ok(self),
            false => Err(CertsError::Days(days)),
        }
    }

    /// Makes both certificates of a node. `hosts` are the DNS names and IP addresses by which
    /// clients reach its edge; none means this machine only.
    ///
    /// # Errors
    /// If the id is 0 or a host is malformed.
    pub fn issue_node(&self, node: NodeId, hosts: &[String]) -> Result<NodeCerts, CertsError> {
        if node == 0 {
            return Err(CertsError::Nodes(vec![node]));
        }
        let (peer, edge) = (self.issue_peer(node)?, self.issue_edge(node, hosts)?);
        Ok(NodeCerts { node, peer, edge })
    }

    fn issue_peer(&self, node: NodeId) -> Result<PemPair, CertsError> {
        let dns = SanType::DnsName(peer_dns_name(self.cluster, node).try_into()?);
        let names = vec![self.identity(Role::Peer(node))?, dns];
        let both = [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.peer
            .issue(&format!("node {node}"), names, &both, self.life)
    }

    fn issue_edge(&self, node: NodeId, hosts: &[String]) -> Result<PemPair, CertsError> {
        let mut names = vec![self.identity(Role::Edge(node))?];
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let hosts = if hosts.is_empty() { &local } else { hosts };
        for host in hosts {
            names.push(host_name(host)?);
        }
        let server = [ExtendedKeyUsagePurpose::ServerAuth];
        self.client
            .issue(&format!("node {node} edge"), names, &server, self.life)
    }

    /// Makes a client's certificate.
    ///
    /// # Errors
    /// If `name` is not a name.
    pub fn issue_client(&self, role: ClientRole, name: &str) -> Result<PemPair, CertsError> {
        if !is_name(name) {
            return Err(CertsError::Name(name.to_owned()));
        }
        let uri = self.identity(Role::Client(role, name.to_owned()))?;
        let client = [ExtendedKeyUsagePurpose::ClientAuth];
        self.client.issue(name, vec![uri], &client, self.life)
    }

    fn identity(&self, role: Role) -> Result<SanType, CertsError> {
        let cluster = self.cluster;
        let uri = Identity { cluster, role }.to_string();
        Ok(SanType::URI(uri.try_into()?))
    }
}

impl Authority {
    fn generate(name: &str) -> Result<Self, CertsError> {
        let key = KeyPair::generate()?;
        let mut params = dated(CA_LIFE)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let cert = params.self_signed(&key)?.pem();
        let pair = PemPair {
            cert,
            key: key.serialize_pem(),
        };
        let issuer = Issuer::new(params, key);
        let crl = empty_crl(&issuer)?;
        Ok(Self { pair, crl, issuer })
    }

    fn empty_crl(&self) -> Result<String, CertsError> {
        empty_crl(&self.issuer)
    }

    fn load(pair: PemPair, crl: String) -> Result<Self, CertsError> {
        let key = KeyPair::from_pem(&pair.key)?;
        let issuer = Issuer::from_ca_cert_pem(&pair.cert, key)?;
        Ok(Self { pair, crl, issuer })
    }

    fn issue(
        &self,
        name: &str,
        names: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
        life: Duration,
    ) -> Result<PemPair, CertsError> {
        let key = KeyPair::generate()?;
        let mut params = dated(life)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer)?.pem();
        let key = key.serialize_pem();
        Ok(PemPair { cert, key })
    }
}

/// Parameters with dates and an explicit random serial number, by which it can be revoked.
fn dated(life: Duration) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date_time_ymd(1970, 1, 1) + since_epoch().saturating_sub(BACKDATE);
    params.not_after = date_time_ymd(1970, 1, 1) + since_epoch() + life;
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

/// With any revocation list set, a CA without one has all its certificates refused: so every CA
/// has one from the start.
fn empty_crl(issuer: &Issuer<'_, KeyPair>) -> Result<String, CertsError> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(1970, 1, 1) + since_epoch().saturating_sub(BACKDATE),
        next_update: date_time_ymd(1970, 1, 1) + since_epoch() + LEAF_LIFE,
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.pem()?)
}

fn random_serial() -> Result<SerialNumber, CertsError> {
    let mut bytes = ClusterId::random().map_err(CertsError::Random)?.0;
    // A positive number of exactly 16 bytes (RFC 5280, section 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

fn host_name(host: &str) -> Result<SanType, CertsError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(CertsError::Host(host.to_owned()));
    }
    Ok(SanType::DnsName(host.try_into()?))
}

/// The certificates of a whole cluster, in memory.
#[derive(Debug)]
pub struct GeneratedCerts {
    /// The CAs.
    pub ca: ClusterCa,
    /// One per node.
    pub nodes: Vec<NodeCerts>,
    /// A client that may do everything.
    pub operator: PemPair,
}

/// Makes the certificates of a whole cluster in memory: the CAs, those of `nodes`, and an
/// operator's.
///
/// ```
/// let certs = conveyor_raft::quic::certs::generate("example", &[1, 2, 3], &[])?;
/// let credentials = certs.credentials(2)?;
/// assert_eq!(credentials.node(), 2);
/// assert_eq!(credentials.cluster(), certs.ca.cluster());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a name, node id or host is malformed.
pub fn generate(
    label: &str,
    nodes: &[NodeId],
    hosts: &[String],
) -> Result<GeneratedCerts, CertsError> {
    issue_all(ClusterCa::generate(label)?, nodes, hosts)
}

/// What a new cluster needs.
fn issue_all(
    ca: ClusterCa,
    nodes: &[NodeId],
    hosts: &[String],
) -> Result<GeneratedCerts, CertsError> {
    check_ids(nodes)?;
    let nodes = nodes
        .iter()
        .map(|&node| ca.issue_node(node, hosts))
        .collect::<Result<_, _>>()?;
    let operator = ca.issue_client(ClientRole::Operator, "operator")?;
    Ok(GeneratedCerts {
        ca,
        nodes,
        operator,
    })
}

fn check_ids(nodes: &[NodeId]) -> Result<(), CertsError> {
    let mut sorted = nodes.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    match sorted.len() == nodes.len() && sorted.first().is_some_and(|&node| node > 0) {
        true => Ok(()),
        false => Err(CertsError::Nodes(nodes.to_vec())),
    }
}

impl GeneratedCerts {
    /// The credentials of one of the nodes.
    ///
    /// # Errors
    /// If `node` was not among those generated.
    pub fn credentials(&self, node: NodeId) -> Result<Credentials, CredentialsError> {
        let found = self.nodes.iter().find(|certs| certs.node == node);
        let certs = found.ok_or(super::identity::IdentityError::OtherNode(node))?;
        Credentials::from_pem(
            self.ca.peer_ca().cert.as_bytes(),
            certs.peer.cert.as_bytes(),
            certs.peer.key.as_bytes(),
            self.ca.peer_crl().as_bytes(),
        )
    }
}

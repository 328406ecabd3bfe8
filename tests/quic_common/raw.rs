//! A peer made by hand from quinn and rustls, which can show any certificate and send any bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use conveyor_raft::quic::certs::PemPair;
use conveyor_raft::types::{ClusterId, Incarnation, NodeId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub const ALPN: &[u8] = b"conveyor-raft/1";
pub const DAY: u64 = 24 * 60 * 60;

/// Which extended key usages a certificate states.
pub use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

pub type Ca = Issuer<'static, KeyPair>;

pub fn ca_of(pair: &PemPair) -> Ca {
    let key = KeyPair::from_pem(&pair.key).expect("key");
    Issuer::from_ca_cert_pem(&pair.cert, key).expect("CA")
}

/// A certificate to be made.
pub struct Leaf {
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Days from now.
    pub valid: (i64, i64),
    pub serial: u64,
}

pub fn peer_uri(cluster: ClusterId, node: NodeId) -> String {
    format!("conveyor-raft://{cluster}/peer/{node}")
}

pub fn peer_name(cluster: ClusterId, node: NodeId) -> String {
    format!("n{node}.{cluster}.peer.conveyor-raft.internal")
}

impl Leaf {
    /// A good peer certificate.
    pub fn peer(cluster: ClusterId, node: NodeId) -> Self {
        Self {
            uris: vec![peer_uri(cluster, node)],
            dns: vec![peer_name(cluster, node)],
            usages: vec![ServerAuth, ClientAuth],
            valid: (-1, 30),
            serial: 77,
        }
    }

    fn params(&self) -> CertificateParams {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("clock")
            .as_secs() as i64;
        let at = |days: i64| {
            let seconds = now + days * DAY as i64;
            date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds as u64)
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        (params.not_before, params.not_after) = (at(self.valid.0), at(self.valid.1));
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.clone();
        for uri in &self.uris {
            let uri = uri.as_str().try_into().expect("ascii");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        for dns in &self.dns {
            let dns = dns.as_str().try_into().expect("ascii");
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        params
    }

    pub fn signed_by(&self, ca: &Ca) -> PemPair {
        Self::sign(&self.params(), ca)
    }

    /// One that is good for a few seconds.
    pub fn signed_for(&self, ca: &Ca, seconds: u64) -> PemPair {
        let mut params = self.params();
        // `not_before` is whole days ago.
        let days = Duration::from_secs(self.valid.0.unsigned_abs() * DAY);
        params.not_after = params.not_before + days + Duration::from_secs(seconds);
        Self::sign(&params, ca)
    }

    fn sign(params: &CertificateParams, ca: &Ca) -> PemPair {
        let key = KeyPair::generate().expect("key");
        let cert = params.signed_by(&key, ca).expect("signed");
        PemPair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn self_signed(&self) -> PemPair {
        let key = KeyPair::generate().expect("key");
        let mut params = self.params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).expect("signed");
        PemPair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A revocation list that names one serial number.
pub fn crl(ca: &Ca, revoked: u64) -> String {
    let then = date_time_ymd(2020, 1, 1);
    let params = CertificateRevocationListParams {
        this_update: then,
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(2u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(revoked),
            revocation_time: then,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(ca).expect("signed").pem().expect("pem")
}

pub fn roots(ca: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("CA");
    roots.add(ca).expect("CA");
    Arc::new(roots)
}

pub fn parts(pair: &PemPair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("certificate");
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("key");
    (vec![cert], key)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS settings of a hand-made dialer.
pub fn client_tls(ca: &str, pair: Option<&PemPair>) -> ClientConfig {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), provider())
        .build()
        .expect("verifier");
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("version")
        .with_webpki_verifier(verifier);
    let mut config = match pair {
        Some(pair) => {
            let (chain, key) = parts(pair);
            builder.with_client_auth_cert(chain, key).expect("key")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// TLS settings of a hand-made acceptor, which asks for a certificate of that CA.
pub fn server_tls(ca: &str, pair: &PemPair) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider())
        .build()
        .expect("verifier");
    let (chain, key) = parts(pair);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("version")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("key");
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime")
}

/// An endpoint that dials only.
pub fn client_endpoint() -> Endpoint {
    Endpoint::client(super::loopback()).expect("endpoint")
}

pub fn server_endpoint(tls: ServerConfig) -> Endpoint {
    let crypto = QuicServerConfig::try_from(tls).expect("suite");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    Endpoint::server(config, super::loopback()).expect("endpoint")
}

/// Dials `name` at `address`.
pub async fn connect(
    endpoint: &Endpoint,
    tls: ClientConfig,
    address: SocketAddr,
    name: &str,
) -> Result<Connection, ConnectionError> {
    let crypto = QuicClientConfig::try_from(tls).expect("suite");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    endpoint
        .connect_with(config, address, name)
        .expect("dialled")
        .await
}

/// What a hello says, with what matters to be set.
#[derive(Clone)]
pub struct RawHello {
    pub proto: (u16, u16),
    pub class: u8,
    pub feature_required: u32,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub to_node: NodeId,
    pub to_incarnation: Incarnation,
    pub epoch: u64,
    pub genesis: Incarnation,
    pub meta_seq: u64,
}

impl RawHello {
    pub fn new(cluster: ClusterId, node: NodeId, to_node: NodeId) -> Self {
        Self {
            proto: (1, 1),
            class: 1,
            feature_required: 1,
            cluster,
            node,
            incarnation: Incarnation([node as u8; 16]),
            to_node,
            to_incarnation: Incarnation::NONE,
            epoch: 1000,
            genesis: Incarnation::NONE,
            meta_seq: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"cnvyraft".to_vec();
        out.extend(156u16.to_le_bytes());
        out.extend(self.proto.0.to_le_bytes());
        out.extend(self.proto.1.to_le_bytes());
        out.extend([self.class, 0]);
        out.extend(1u32.to_le_bytes());
        out.extend(self.feature_required.to_le_bytes());
        out.extend(self.cluster.0);
        out.extend(self.node.to_le_bytes());
        out.extend(self.incarnation.0);
        out.extend(self.to_node.to_le_bytes());
        out.extend(self.to_incarnation.0);
        out.extend(self.epoch.to_le_bytes());
        out.extend((3u32 << 20).to_le_bytes());
        out.extend(((2u32 << 20) + (64 << 10)).to_le_bytes());
        out.extend((4u32 << 20).to_le_bytes());
        out.extend(50u32.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        out.extend(150u32.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        assert_eq!(out.len(), 128);
        out.extend(self.genesis.0);
        out.extend(self.meta_seq.to_le_bytes());
        out.extend([0; 4]);
        out
    }
}

/// Says hello on a new stream and waits for the answer, which is returned whole.
pub async fn greet(
    connection: &Connection,
    hello: &RawHello,
) -> Result<(SendStream, RecvStream, Vec<u8>), ConnectionError> {
    let (mut send, mut recv) = connection.open_bi().await?;
    if send.write_all(&hello.bytes()).await.is_err() {
        return Err(connection.closed().await);
    }
    let mut answer = vec![0; 128];
    if recv.read_exact(&mut answer).await.is_err() {
        return Err(connection.closed().await);
    }
    let len = usize::from(u16::from_le_bytes([answer[8], answer[9]]));
    answer.resize(len, 0);
    if recv.read_exact(&mut answer[128..]).await.is_err() {
        return Err(connection.closed().await);
    }
    Ok((send, recv, answer))
}

/// The application code with which the peer closed.
pub fn close_code(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

//! TLS 1.3 and nothing else, both sides verified, no early data, no resumption.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};

use super::credentials::CredentialsError;
use super::identity::{Identity, peer_dns_name};
use crate::types::{ClusterId, NodeId};

/// The one application protocol, with its version: a peer that offers another is refused.
pub(crate) const ALPN: &[u8] = b"conveyor-raft/1";

/// What time it is, for the dates of certificates: the system's clock unless a test has its own.
#[derive(Clone)]
pub(crate) struct Clock(pub(crate) Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    pub(crate) fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    pub(crate) fn now(&self) -> UnixTime {
        let since = (self.0)().duration_since(SystemTime::UNIX_EPOCH);
        UnixTime::since_unix_epoch(since.unwrap_or_default())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

/// What the TLS configurations are built from.
pub(crate) struct Trust {
    pub(crate) clock: Clock,
    pub(crate) cluster: ClusterId,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) crls: Vec<CertificateRevocationListDer<'static>>,
    pub(crate) key: Arc<CertifiedKey>,
}

/// Cipher suites in order of speed on this CPU. AES-128 must be among them: QUIC protects its
/// first packets with it.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    if !has_aes() {
        cipher_suites.insert(0, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
    }
    Arc::new(CryptoProvider {
        cipher_suites,
        ..ring::default_provider()
    })
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

impl Trust {
    /// The verifier of whoever dials: the stock one, then the name. It can only refuse more.
    pub(crate) fn client_verifier(&self) -> Result<Arc<PeerVerifier>, CredentialsError> {
        let roots = Arc::clone(&self.roots);
        let stock = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .with_crls(self.crls.iter().cloned())
            .build()
            .map_err(|error| CredentialsError::Trust(error.to_string()))?;
        Ok(Arc::new(PeerVerifier {
            stock,
            cluster: self.cluster,
        }))
    }

    /// The stock verifier of whoever is dialled.
    pub(crate) fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>, CredentialsError> {
        let roots = Arc::clone(&self.roots);
        WebPkiServerVerifier::builder_with_provider(roots, provider())
            .with_crls(self.crls.iter().cloned())
            .build()
            .map_err(|error| CredentialsError::Trust(error.to_string()))
    }

    pub(crate) fn server_config(
        &self,
        verifier: Arc<PeerVerifier>,
    ) -> Result<Arc<QuicServerConfig>, CredentialsError> {
        let clock = Arc::new(self.clock.clone());
        let mut config = rustls::ServerConfig::builder_with_details(provider(), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would repeat no certificate check (a revoked peer could return), and
        // early data could be replayed.
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let config = QuicServerConfig::try_from(config);
        Ok(Arc::new(config.map_err(|_| CredentialsError::Suite)?))
    }

    pub(crate) fn client_config(
        &self,
        verifier: Arc<WebPkiServerVerifier>,
    ) -> Result<Arc<QuicClientConfig>, CredentialsError> {
        let clock = Arc::new(self.clock.clone());
        let mut config = rustls::ClientConfig::builder_with_details(provider(), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_early_data = false;
        config.resumption = Resumption::disabled();
        // The name says which node of which cluster is meant; it stays out of the readable part.
        config.enable_sni = false;
        let config = QuicClientConfig::try_from(config);
        Ok(Arc::new(config.map_err(|_| CredentialsError::Suite)?))
    }
}

/// Why a connection that stands is not trusted any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fallen {
    /// A revocation list names its certificate.
    Revoked,
    /// Its certificate leads to no CA of the bundle any more, or names nobody. The holder may have
    /// a better one by now.
    Untrusted(String),
}

/// Judges the other end of connections that stand.
pub(crate) struct Verifiers {
    pub(crate) dialers: Arc<PeerVerifier>,
    pub(crate) dialled: Arc<WebPkiServerVerifier>,
}

impl Verifiers {
    /// What the handshake checked, but not the dates, unless those count too (`strict`): an expired
    /// certificate opens no connection and cuts none (hazard J3).
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        (node, dialled): (NodeId, bool),
        now: UnixTime,
        strict: bool,
    ) -> Result<(), Fallen> {
        let [leaf, intermediates @ ..] = chain else {
            return Err(Fallen::Untrusted("no certificate".to_owned()));
        };
        let verify = |at: UnixTime| {
            if !dialled {
                let checked = self.dialers.verify_client_cert(leaf, intermediates, at);
                return checked.map(drop);
            }
            let name = ServerName::try_from(peer_dns_name(self.dialers.cluster, node))
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            let checked = self
                .dialled
                .verify_server_cert(leaf, intermediates, &name, &[], at);
            checked.map(drop)
        };
        judge_without_dates(leaf, now, verify)?;
        match strict {
            true => verify(now).map_err(|error| Fallen::Untrusted(error.to_string())),
            false => Ok(()),
        }
    }
}

/// Runs `verify` as of now, and if only a date is against it, as of the certificate's first
/// moment, when whoever signed it could. Dates are looked at before revocation lists, so an
/// expired certificate would otherwise hide that it was revoked.
pub(crate) fn judge_without_dates(
    leaf: &CertificateDer<'_>,
    now: UnixTime,
    verify: impl Fn(UnixTime) -> Result<(), rustls::Error>,
) -> Result<(), Fallen> {
    let mut result = verify(now);
    if result.as_ref().is_err_and(is_date)
        && let Some((from, _)) = validity(leaf)
    {
        result = verify(from);
    }
    match result {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => Err(Fallen::Revoked),
        Err(error) => Err(Fallen::Untrusted(error.to_string())),
    }
}

fn is_date(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let rustls::Error::InvalidCertificate(error) = error else {
        return false;
    };
    matches!(
        error,
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
    )
}

/// From when until when a certificate is good.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<(UnixTime, UnixTime)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let unix = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    };
    let validity = parsed.validity();
    Some((unix(validity.not_before), unix(validity.not_after)))
}

/// When a revocation list was issued.
pub(crate) fn issued(list: &CertificateRevocationListDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = x509_parser::parse_x509_crl(list).ok()?;
    let seconds = u64::try_from(parsed.last_update().timestamp()).unwrap_or(0);
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

/// The stock client verifier, and after it the certificate's name: a peer of this cluster.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    stock: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.stock.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .stock
            .verify_client_cert(end_entity, intermediates, now)?;
        match Identity::peer_of(end_entity, self.cluster) {
            Ok(_) => Ok(verified),
            Err(error) => {
                let error = CertificateError::Other(OtherError(Arc::new(error)));
                Err(rustls::Error::InvalidCertificate(error))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.stock.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.stock.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.stock.supported_verify_schemes()
    }
}

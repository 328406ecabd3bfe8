//! TLS of the client edge: TLS 1.3 with ring on both ends, clients verified against the client CA.
//!
//! Set up here rather than through tonic, whose own TLS installs a process-wide crypto provider.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};

use super::identity::Subject;
use crate::types::{ClusterId, NodeId};

/// HTTP/2, the only protocol of gRPC.
const ALPN: &[u8] = b"h2";

/// Why certificates or keys cannot be used. Each text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EdgeTlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; make certificates with `conveyor-raft certs init`")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no valid {what} in PEM form: {why}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// Why it is none.
        why: String,
    },
    /// A key that others can read.
    #[error(
        "{path} can be read by others (mode {mode:04o}); \
         run `chmod 600 {path}` and consider the key known"
    )]
    KeyMode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Certificate, key and CA do not go together.
    #[error("the certificate, key and CA of the client edge do not go together: {0}")]
    Mismatch(String),
}

/// One end's certificate, its key and the CA that the other end must come from.
///
/// Used by servers (the CA signs clients) and by clients (the CA signs the edge's certificates):
/// it is the same client CA.
#[derive(Debug)]
pub struct EdgeIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Clone for EdgeIdentity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            ca: self.ca.clone(),
            crls: self.crls.clone(),
        }
    }
}

/// Where the PEM files of an [`EdgeIdentity`] are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeFiles {
    /// The client CA's certificates.
    pub ca: PathBuf,
    /// The own certificate, its chain after it.
    pub cert: PathBuf,
    /// The own private key; readable by its owner only.
    pub key: PathBuf,
    /// Revocation lists, one for each certificate of `ca`; without any nothing is revoked.
    pub crl: Option<PathBuf>,
}

impl EdgeIdentity {
    /// From certificates in memory.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        ca: Vec<CertificateDer<'static>>,
        crls: Vec<CertificateRevocationListDer<'static>>,
    ) -> Self {
        Self {
            chain,
            key,
            ca,
            crls,
        }
    }

    /// From PEM texts in memory.
    ///
    /// # Errors
    /// If one does not hold what it should; the error then names it in place of a file.
    pub fn from_pem(ca: &str, cert: &str, key: &str, crl: &str) -> Result<Self, EdgeTlsError> {
        let place = |name| Path::new(name);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| content(place("key"), "private key", error.to_string()))?;
        Ok(Self {
            chain: parse_all(cert.as_bytes(), place("certificate"), "certificate")?,
            key,
            ca: parse_all(ca.as_bytes(), place("CA"), "certificate")?,
            crls: parse_all(crl.as_bytes(), place("revocation list"), "revocation list")?,
        })
    }

    /// Reads the files.
    ///
    /// # Errors
    /// If one is missing, unreadable or not PEM, or if others than its owner can read the key.
    pub fn load(files: &EdgeFiles) -> Result<Self, EdgeTlsError> {
        check_mode(&files.key)?;
        let key_pem = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| {
            let why = error.to_string();
            content(&files.key, "private key", why)
        })?;
        let crls = match &files.crl {
            Some(path) => read_all(path, "revocation list")?,
            None => Vec::new(),
        };
        Ok(Self {
            chain: read_all(&files.cert, "certificate")?,
            key,
            ca: read_all(&files.ca, "certificate")?,
            crls,
        })
    }

    /// The certificate that the other end will see first.
    /// The revocation lists.
    pub(super) fn crls(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.crls
    }

    pub(super) fn end_entity(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// The certificates of the CA.
    pub(super) fn cas(&self) -> &[CertificateDer<'static>] {
        &self.ca
    }

    /// Checks what clients would check of this server's certificate: that it is the edge's of this
    /// node and that the CA bundle, which clients have too, accepts it.
    pub(super) fn check_own(&self, cluster: ClusterId, node: NodeId) -> Result<(), EdgeTlsError> {
        let [leaf, intermediates @ ..] = self.chain.as_slice() else {
            return Err(mismatch("there is no certificate"));
        };
        if Subject::of(leaf).map_err(mismatch)? != (Subject::Edge { cluster, node }) {
            return Err(mismatch(format!(
                "the certificate is not that of node {node}'s edge in cluster {cluster}"
            )));
        }
        let parsed = ParsedCertificate::try_from(leaf).map_err(mismatch)?;
        let algorithms = provider().signature_verification_algorithms.all;
        let (roots, now) = (self.roots()?, UnixTime::now());
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)
            .map_err(mismatch)
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, EdgeTlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.ca {
            roots.add(certificate.clone()).map_err(mismatch)?;
        }
        Ok(Arc::new(roots))
    }

    /// Verifies every certificate that a client shows. A client without one is let in for the
    /// health service only: probes carry none.
    pub(super) fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, EdgeTlsError> {
        WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .with_crls(self.crls.iter().cloned())
            .allow_unauthenticated()
            .build()
            .map_err(mismatch)
    }

    pub(super) fn server(
        &self,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Result<Arc<ServerConfig>, EdgeTlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(mismatch)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(mismatch)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the check of a certificate revoked since.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// A client that verifies the server and shows this certificate.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, EdgeTlsError> {
        let provider = provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots()?, provider.clone())
            .with_crls(self.crls.iter().cloned())
            .build()
            .map_err(mismatch)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(mismatch)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(mismatch)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn mismatch(error: impl std::fmt::Display) -> EdgeTlsError {
    EdgeTlsError::Mismatch(error.to_string())
}

fn content(path: &Path, what: &'static str, why: String) -> EdgeTlsError {
    EdgeTlsError::Content {
        path: path.to_owned(),
        what,
        why,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EdgeTlsError> {
    std::fs::read(path).map_err(|source| EdgeTlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_all<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, EdgeTlsError> {
    parse_all(&read(path)?, path, what)
}

fn parse_all<T: PemObject>(
    pem: &[u8],
    path: &Path,
    what: &'static str,
) -> Result<Vec<T>, EdgeTlsError> {
    let all: Result<Vec<T>, _> = T::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(content(path, what, "there is none in it".to_owned())),
        Err(error) => Err(content(path, what, error.to_string())),
    }
}

/// A key that others could read may already be theirs, so it is refused rather than used.
fn check_mode(path: &Path) -> Result<(), EdgeTlsError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path).map_err(|source| EdgeTlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(EdgeTlsError::KeyMode {
            path: path.to_owned(),
            mode,
        }),
    }
}

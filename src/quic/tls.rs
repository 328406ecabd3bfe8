//! TLS 1.3 and nothing else, both sides verified, no early data, no resumption.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::credentials::CredentialsError;
use super::identity::Identity;
use crate::types::ClusterId;

/// The one application protocol, with its version: a peer that offers another is refused.
pub(crate) const ALPN: &[u8] = b"conveyor-raft/1";

/// What the TLS configurations are built from.
pub(crate) struct Trust {
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

    pub(crate) fn server_config(&self) -> Result<Arc<QuicServerConfig>, CredentialsError> {
        let verifier = self.client_verifier()?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
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

    pub(crate) fn client_config(&self) -> Result<Arc<QuicClientConfig>, CredentialsError> {
        let roots = Arc::clone(&self.roots);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .with_crls(self.crls.iter().cloned())
            .build()
            .map_err(|error| CredentialsError::Trust(error.to_string()))?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
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

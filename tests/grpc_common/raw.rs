//! A caller that shows whatever certificate it likes, where the crate's own would refuse to.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use conveyor_raft::quic::certs::{GeneratedCerts, PemPair};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// A certificate with these URIs under the client CA of `certs`.
pub(crate) fn certificate(certs: &GeneratedCerts, uris: &[String]) -> PemPair {
    let ca = certs.ca.client_ca();
    let ca_key = KeyPair::from_pem(&ca.key).expect("key");
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, ca_key).expect("CA");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    let names = uris
        .iter()
        .map(|uri| SanType::URI(uri.as_str().try_into().expect("URI")));
    params.subject_alt_names = names.collect();
    let cert = params.signed_by(&key, &issuer).expect("certificate").pem();
    let key = key.serialize_pem();
    PemPair { cert, key }
}

/// A channel that shows `pair`, or nothing.
pub(crate) async fn channel(
    certs: &GeneratedCerts,
    pair: Option<&PemPair>,
    to: SocketAddr,
) -> Result<Channel, tonic::transport::Error> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(certs.ca.client_ca().cert.as_bytes()).expect("CA");
    roots.add(ca).expect("CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match pair {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("certificate");
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("key");
            config.with_client_auth_cert(vec![cert], key).expect("pair")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = Connector {
        config: Arc::new(config),
        to,
    };
    let endpoint: Endpoint = format!("https://{to}").parse().expect("endpoint");
    endpoint.connect_with_connector(connector).await
}

struct Connector {
    config: Arc<ClientConfig>,
    to: SocketAddr,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (config, to) = (Arc::clone(&self.config), self.to);
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            let name = ServerName::IpAddress(to.ip().into());
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

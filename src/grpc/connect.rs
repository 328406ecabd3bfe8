//! The caller's side: a channel to a node's client edge.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::identity::Subject;
use super::tls::{EdgeIdentity, EdgeTlsError};
use crate::types::ClusterId;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no channel to a node.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is not `https://HOST:PORT`, `http://HOST:PORT` or `unix:PATH`.
    #[error("{endpoint:?} is no endpoint; write https://HOST:PORT")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// TLS without a certificate.
    #[error("{endpoint} needs a client certificate: give --ca, --cert and --key")]
    NoIdentity {
        /// What was given.
        endpoint: String,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] EdgeTlsError),
    /// Nobody answers, or not the right one.
    #[error("cannot reach {endpoint}: {why}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        why: String,
    },
}

/// Connects to the client edge at `endpoint`: `https://HOST:PORT` with `identity`, which must name
/// a client of the server's cluster, or `http://HOST:PORT` for a plain listener, or `unix:PATH` for one
/// on a unix socket. Without a scheme, `https` is meant.
///
/// # Errors
/// See [`ConnectError`]. A certificate that the server refuses shows only in the first call: in
/// TLS 1.3 the server judges last.
pub async fn connect(
    endpoint: &str,
    identity: Option<&EdgeIdentity>,
) -> Result<Channel, ConnectError> {
    let (uri, way) = prepare(endpoint, identity)?;
    let settings = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let unreachable = |error: tonic::transport::Error| ConnectError::Unreachable {
        endpoint: endpoint.to_owned(),
        why: innermost(&error),
    };
    settings
        .connect_with_connector(Connector { way })
        .await
        .map_err(unreachable)
}

/// What can be known to be wrong before anybody is asked.
pub(crate) fn check(endpoint: &str, identity: Option<&EdgeIdentity>) -> Result<(), ConnectError> {
    prepare(endpoint, identity).map(drop)
}

fn prepare(endpoint: &str, identity: Option<&EdgeIdentity>) -> Result<(Uri, Way), ConnectError> {
    if let Some(path) = unix_path(endpoint) {
        // What calls name as the host; nobody is dialled by it.
        return Ok((Uri::from_static("http://localhost"), Way::Unix(path)));
    }
    let uri = parse_endpoint(endpoint)?;
    let way = match (uri.scheme_str(), identity) {
        (Some("https"), None) => {
            return Err(ConnectError::NoIdentity {
                endpoint: endpoint.to_owned(),
            });
        }
        (Some("https"), Some(identity)) => Way::Tls(Tls {
            config: identity.client()?,
            cluster: own_cluster(identity)?,
        }),
        _ => Way::Plain,
    };
    Ok((uri, way))
}

/// The path in `unix:PATH` or `unix:///PATH`.
fn unix_path(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix:")?;
    let path = match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return None,
        None => path,
    };
    (!path.is_empty()).then(|| path.into())
}

fn parse_endpoint(endpoint: &str) -> Result<Uri, ConnectError> {
    let text = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let refused = || ConnectError::Endpoint {
        endpoint: endpoint.to_owned(),
    };
    let uri: Uri = text.parse().map_err(|_| refused())?;
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let path = matches!(uri.path(), "" | "/") && uri.query().is_none();
    match scheme
        && path
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.port_u16().is_some()
    {
        true => Ok(uri),
        false => Err(refused()),
    }
}

fn own_cluster(identity: &EdgeIdentity) -> Result<ClusterId, EdgeTlsError> {
    let missing = || EdgeTlsError::Mismatch("there is no client certificate".to_owned());
    match Subject::of(identity.end_entity().ok_or_else(missing)?) {
        Ok(Subject::Client { cluster, .. }) => Ok(cluster),
        Ok(subject) => Err(EdgeTlsError::Mismatch(format!(
            "{subject} is no client's certificate"
        ))),
        Err(error) => Err(EdgeTlsError::Mismatch(error.to_string())),
    }
}

/// Tonic's texts only say "transport error"; what went wrong is at the end of the chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// A byte stream, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    cluster: ClusterId,
}

/// How a connection is made.
#[derive(Clone)]
enum Way {
    Plain,
    Tls(Tls),
    Unix(PathBuf),
}

#[derive(Clone)]
struct Connector {
    way: Way,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let way = self.way.clone();
        Box::pin(async move { dial(&uri, way).await.map(TokioIo::new) })
    }
}

async fn dial(uri: &Uri, way: Way) -> io::Result<Box<dyn Stream>> {
    let tls = match way {
        Way::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Way::Plain => None,
        Way::Tls(tls) => Some(tls),
    };
    let incomplete = || io::Error::other("the endpoint lacks a host or port");
    let host = uri.host().ok_or_else(incomplete)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().ok_or_else(incomplete)?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls.config).connect(name, stream).await?;
    check_server(&stream, tls.cluster)?;
    Ok(Box::new(stream))
}

/// The client CA also signs clients: only a certificate that says "server of this cluster" may
/// answer for one.
fn check_server(stream: &TlsStream<TcpStream>, cluster: ClusterId) -> io::Result<()> {
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or_else(|| io::Error::other("the server showed no certificate"))?;
    match Subject::of(certificate).map_err(io::Error::other)? {
        Subject::Edge {
            cluster: theirs, ..
        } if theirs == cluster => Ok(()),
        subject => Err(io::Error::other(format!(
            "{subject} does not name a server of cluster {cluster}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_with_a_port() {
        let scheme = |text: &str| parse_endpoint(text).map(|uri| uri.scheme_str() == Some("https"));
        assert!(matches!(scheme("127.0.0.1:50051"), Ok(true)));
        assert!(matches!(scheme("https://node-1:50051"), Ok(true)));
        assert!(matches!(scheme("http://[::1]:50051/"), Ok(false)));
        for wrong in [
            "",
            "node-1",
            "ftp://a:1",
            "https://a:1/path",
            "https://:1",
            "a b:1",
        ] {
            assert!(scheme(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_unix_socket_is_named_by_its_path() {
        let path = |endpoint| unix_path(endpoint).map(|path| path.display().to_string());
        assert_eq!(path("unix:/run/a.sock").as_deref(), Some("/run/a.sock"));
        assert_eq!(path("unix:///run/a.sock").as_deref(), Some("/run/a.sock"));
        assert_eq!(path("unix:a.sock").as_deref(), Some("a.sock"));
        for wrong in ["unix:", "unix://host/a", "https://unix:1", "/run/a.sock"] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
        assert!(prepare("unix:", None).is_err() && prepare("unix://host/a", None).is_err());
    }
}

//! What happens between a QUIC handshake and the first frame: names and hellos.

use std::future::Future;

use quinn::{Connection, ReadExactError, RecvStream, SendStream, WriteError};
use rustls_pki_types::CertificateDer;

use super::identity::{Identity, IdentityError};
use super::limits::HELLO_TIMEOUT;
use super::refusals::Reason;
use super::tls::ALPN;
use crate::types::{ClusterId, NodeId};
use crate::wire::{CloseCode, HELLO_FIXED, Hello, HelloError};

/// The node that the TLS identity of a connection names. TLS has verified the chain; this reads
/// the name, which the stock verifier of the dialer knows nothing of.
pub(super) fn peer_node(connection: &Connection, cluster: ClusterId) -> Result<NodeId, Reason> {
    let chain = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain.as_ref().and_then(|chain| chain.first());
    let leaf = leaf.ok_or(IdentityError::Unreadable)?;
    let protocol = connection
        .handshake_data()
        .and_then(|any| any.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
        .and_then(|data| data.protocol);
    if protocol.as_deref() != Some(ALPN) {
        return Err(Reason::Tls("another application protocol".to_owned()));
    }
    Ok(Identity::peer_of(leaf, cluster)?)
}

/// Gives up after the time that a handshake and the hellos may take together.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, Reason>>) -> Result<T, Reason> {
    match tokio::time::timeout(HELLO_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(Reason::Timeout),
    }
}

pub(super) async fn send_hello(send: &mut SendStream, hello: &Hello) -> Result<(), Reason> {
    match send.write_chunk(hello.encode()).await {
        Ok(()) => Ok(()),
        Err(WriteError::ConnectionLost(error)) => Err(error.into()),
        Err(error) => Err(Reason::Lost(error.to_string())),
    }
}

pub(super) async fn read_hello(recv: &mut RecvStream) -> Result<Hello, Reason> {
    let mut bytes = [0; crate::wire::HELLO_MAX];
    let Some((fixed, tail)) = bytes.split_first_chunk_mut::<HELLO_FIXED>() else {
        return Err(HelloError::Length.into());
    };
    read_exact(recv, fixed).await?;
    let len = Hello::length(fixed)?;
    let Some(tail) = tail.get_mut(..len - HELLO_FIXED) else {
        return Err(HelloError::Length.into());
    };
    read_exact(recv, tail).await?;
    Ok(Hello::decode(bytes.get(..len).unwrap_or_default())?)
}

async fn read_exact(recv: &mut RecvStream, out: &mut [u8]) -> Result<(), Reason> {
    match recv.read_exact(out).await {
        Ok(()) => Ok(()),
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => {
            Err(error.into())
        }
        Err(ReadExactError::FinishedEarly(_)) => {
            let why = "the stream ended within the hello".to_owned();
            Err(Reason::Ours(CloseCode::BadHello, why))
        }
        Err(error) => Err(Reason::Lost(error.to_string())),
    }
}

//! A bare quinn connection with the settings of [`RaftTransport`](super::RaftTransport): its
//! certificates and their verification, windows, MTU and socket. For benchmarks, which ask what the
//! transport adds to it, and tests that put the classes of messages on one connection; hidden, and only
//! there for them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Connection, Endpoint};

use super::TransportOptions;
use super::dial::client_config;
use super::identity::peer_dns_name;
use super::limits::widen;
use super::socket::SplitSocket;
use super::transport::{new_endpoint, payload, tuning};
use crate::network::LinkClass;
use crate::types::NodeId;

/// One end: it accepts and dials.
#[derive(Debug)]
pub struct RawEnd {
    options: TransportOptions,
    endpoint: Endpoint,
}

impl RawEnd {
    /// Listens. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn bind(options: TransportOptions) -> io::Result<Self> {
        let socket = UdpSocket::bind(options.listen)?;
        let socket = SplitSocket::new(socket, payload(&options))?;
        Self::over(options, socket)
    }

    /// The same over a socket that the caller has. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the endpoint cannot be set up.
    pub fn over(options: TransportOptions, socket: Arc<dyn AsyncUdpSocket>) -> io::Result<Self> {
        let endpoint = new_endpoint(&options, socket)?;
        Ok(Self { options, endpoint })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the socket has it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Dials a node and checks that it is that one.
    ///
    /// # Errors
    /// If it is not reached, or is somebody else.
    pub async fn dial(
        &self,
        to: SocketAddr,
        node: NodeId,
        class: LinkClass,
    ) -> io::Result<Connection> {
        let credentials = &self.options.credentials;
        let config = client_config(credentials.client(), class, tuning(&self.options));
        let name = peer_dns_name(credentials.cluster(), node);
        let dialled = self.endpoint.connect_with(config, to, &name);
        Ok(dialled.map_err(io::Error::other)?.await?)
    }

    /// The next peer, with the windows of that class.
    ///
    /// # Errors
    /// If its certificate is not good, or the endpoint has ended.
    pub async fn accept(&self, class: LinkClass) -> io::Result<Connection> {
        let incoming = self.endpoint.accept().await;
        let incoming = incoming.ok_or(io::ErrorKind::NotConnected)?;
        let connection = incoming.await?;
        widen(&connection, class);
        Ok(connection)
    }
}

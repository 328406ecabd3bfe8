//! A bare quinn connection with the settings of [`RaftTransport`](super::RaftTransport): its
//! certificates and their verification, windows, MTU and socket. For benchmarks, which ask what the
//! transport adds to it and what each setting is worth, and tests that put the classes of messages on one
//! connection; hidden, and only there for them. What is verified cannot be set.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Connection, Endpoint, Runtime as _, TokioRuntime, TransportConfig};

use super::TransportOptions;
use super::dial::client_config;
use super::identity::peer_dns_name;
use super::limits::{Side, transport_config, widen};
use super::reload::server_config_with;
use super::socket::SplitSocket;
use super::transport::{new_endpoint, payload, tuning};
use crate::network::LinkClass;
use crate::types::NodeId;

/// One end: it accepts and dials.
#[derive(Debug)]
pub struct RawEnd {
    options: TransportOptions,
    endpoint: Endpoint,
    adjust: Adjust,
}

/// Changes a setting.
pub type Adjust = fn(&mut TransportConfig);

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
        Ok(Self {
            options,
            endpoint,
            adjust: |_| {},
        })
    }

    /// Over quinn's own socket, whose buffers are the system's and which splits no batch. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn bind_plain(options: TransportOptions) -> io::Result<Self> {
        let socket = UdpSocket::bind(options.listen)?;
        Self::over(options, TokioRuntime.wrap_udp_socket(socket)?)
    }

    /// With settings changed, for connections dialled and accepted from now on.
    #[must_use]
    pub fn adjusted(mut self, adjust: Adjust) -> Self {
        let mut transport = transport_config(Side::Accept, tuning(&self.options));
        adjust(&mut transport);
        let server = server_config_with(&self.options.credentials, transport);
        self.endpoint.set_server_config(Some(server));
        self.adjust = adjust;
        self
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
        let mut transport = transport_config(Side::Dial(class), tuning(&self.options));
        (self.adjust)(&mut transport);
        let config = client_config(credentials.client(), transport);
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

    /// Tells the other ends of its connections that they are over, rather than let them find out.
    pub async fn close(&self) {
        self.endpoint.close(quinn::VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
    }
}

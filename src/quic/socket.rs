//! The UDP socket under quinn, with large batches of large datagrams made sendable.
//!
//! quinn hands up to ten datagrams to one system call without asking whether they fit the 64 KiB
//! that it can take. Above an MTU of 6550 the call then fails with EMSGSIZE, the error is swallowed,
//! and black-hole detection drops the MTU to 1200. Here such a batch is sent in parts.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use super::limits::SOCKET_BUFFER;

/// Most that one system call can send: 65 535 less the headers of IPv6 and UDP.
const MAX_BATCH: usize = 65_487;
/// What a receive buffer must hold, so that no batch that the kernel gathered is cut off.
const RECEIVE_BATCH: usize = 65_536;

#[derive(Debug)]
pub(super) struct SplitSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// Datagrams that one receive buffer must be able to hold.
    receive_segments: usize,
}

impl SplitSocket {
    /// Wraps a bound socket; `payload` is the largest datagram that will be received. Must be
    /// called within a tokio runtime.
    pub(super) fn new(socket: UdpSocket, payload: u16) -> io::Result<Arc<Self>> {
        enlarge_buffers(&socket)?;
        Ok(Arc::new(Self {
            inner: TokioRuntime.wrap_udp_socket(socket)?,
            receive_segments: RECEIVE_BATCH.div_ceil(usize::from(payload).max(1)),
        }))
    }
}

/// Small buffers lose packets when both ends share few cores. What the kernel refuses is not an
/// error: the transport works with what it has.
fn enlarge_buffers(socket: &UdpSocket) -> io::Result<()> {
    let state = UdpSocketState::new(socket.into())?;
    let _ = state.set_send_buffer_size(socket.into(), SOCKET_BUFFER);
    let _ = state.set_recv_buffer_size(socket.into(), SOCKET_BUFFER);
    let got = state.recv_buffer_size(socket.into())?;
    if got < SOCKET_BUFFER {
        tracing::debug!(
            got,
            wanted = SOCKET_BUFFER,
            "small UDP receive buffer; raise net.core.rmem_max for fewer lost packets"
        );
    }
    Ok(())
}

impl AsyncUdpSocket for SplitSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment) = transmit.segment_size else {
            return self.inner.try_send(transmit);
        };
        if transmit.contents.len() <= MAX_BATCH {
            return self.inner.try_send(transmit);
        }
        let per_call = (MAX_BATCH / segment.max(1)).max(1);
        let mut parts = transmit.contents.chunks(per_call * segment.max(1));
        let send = |contents: &[u8]| {
            self.inner.try_send(&Transmit {
                contents,
                segment_size: Some(segment).filter(|_| contents.len() > segment),
                ..transmit.clone()
            })
        };
        if let Some(first) = parts.next() {
            send(first)?;
        }
        for part in parts {
            // The first part is gone already, so the batch cannot be reported as not sent: the
            // rest counts as lost, which the protocol repairs.
            if send(part).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments().min(self.receive_segments)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

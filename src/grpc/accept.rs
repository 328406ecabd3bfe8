//! The listener of the client edge: accepts, shakes hands, and hands finished connections on.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::transport::server::Connected;

use super::connect::Stream;
use super::identity::{Caller, Role};
use super::listener::{Accepted, EdgeListener, is_own_user};
use super::trust::{Stay, Trust};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Finished handshakes that wait for the server to take them.
const BACKLOG: usize = 64;
/// After an accept that failed for want of resources, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are secured.
pub(super) enum Security {
    Tls(Arc<Trust>),
    Plain { role: Role },
}

impl Security {
    /// The certificates; none without TLS.
    pub(super) fn trust(&self) -> Option<Arc<Trust>> {
        match self {
            Self::Tls(trust) => Some(Arc::clone(trust)),
            Self::Plain { .. } => None,
        }
    }
}

/// One connection, with who is at its other end.
pub(super) struct EdgeIo {
    stream: Box<dyn Stream>,
    caller: Arc<Caller>,
    /// With TLS: it ends when its certificate is not accepted any more.
    stay: Option<Stay>,
    /// Held for as long as the connection lives: the count of connections is bounded.
    _permit: OwnedSemaphorePermit,
}

/// What a request knows of its connection.
#[derive(Clone, Debug)]
pub(super) struct ConnectInfo {
    pub(super) caller: Arc<Caller>,
}

impl Connected for EdgeIo {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        ConnectInfo {
            caller: self.caller.clone(),
        }
    }
}

/// Accepts until the receiver is dropped.
pub(super) async fn accept(
    listener: EdgeListener,
    security: Security,
    max_connections: usize,
    ready: mpsc::Sender<io::Result<EdgeIo>>,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let security = Arc::new(security);
    let refusals = Arc::new(Refusals::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                refusals.log(None, &format!("accepting failed: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let from = accepted.from();
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            refusals.log(
                from,
                "too many connections; raise [edge] max_connections if this is wanted",
            );
            continue;
        };
        let (security, refusals, ready) = (security.clone(), refusals.clone(), ready.clone());
        tokio::spawn(async move {
            match handshake(accepted, &security).await {
                Ok((stream, caller, stay)) => {
                    if let Caller::Nobody { why } = &caller {
                        refusals.log(from, why);
                    }
                    let io = EdgeIo {
                        stream,
                        caller: Arc::new(caller),
                        stay,
                        _permit: permit,
                    };
                    // The server has stopped if nobody takes it; the client sees the end.
                    let _ = ready.send(Ok(io)).await;
                }
                Err(why) => refusals.log(from, &why),
            }
        });
    }
}

/// A channel of the size that `accept` wants.
pub(super) fn channel() -> (
    mpsc::Sender<io::Result<EdgeIo>>,
    mpsc::Receiver<io::Result<EdgeIo>>,
) {
    mpsc::channel(BACKLOG)
}

async fn handshake(
    accepted: Accepted,
    security: &Security,
) -> Result<(Box<dyn Stream>, Caller, Option<Stay>), String> {
    let (stream, from) = match accepted {
        Accepted::Tcp(stream, from) => (stream, from),
        Accepted::Unix(stream) => {
            is_own_user(&stream)?;
            let Security::Plain { role } = *security else {
                return Err("TLS is not spoken on a unix socket".to_owned());
            };
            return Ok((Box::new(stream), Caller::Plain { role }, None));
        }
    };
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let trust = match security {
        Security::Plain { role } => {
            return Ok((Box::new(stream), Caller::Plain { role: *role }, None));
        }
        Security::Tls(trust) => trust,
    };
    let (generation, acceptor) = trust.acceptor();
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| format!("TLS: {error}"))?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Vec<_> = chain.iter().map(|der| der.clone().into_owned()).collect();
    let caller = match chain.first() {
        Some(certificate) => Caller::of_certificate(certificate, trust.cluster),
        // Not worth a line: health probes come like this every few seconds.
        None => Caller::Anonymous,
    };
    let stay = trust.admit(generation, chain, &caller, from)?;
    Ok((Box::new(tls), caller, Some(stay)))
}

/// Says once in a while who was refused and why, whatever the number of attempts.
#[derive(Default)]
struct Refusals {
    told: std::sync::Mutex<HashMap<Option<IpAddr>, (Instant, u64)>>,
}

const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);
const REFUSAL_SOURCES: usize = 1024;

impl Refusals {
    fn log(&self, from: Option<SocketAddr>, why: &str) {
        let Some(suppressed) = self.admit(from.map(|from| from.ip()), Instant::now()) else {
            return;
        };
        let from = from.map_or_else(|| "-".to_owned(), |from| from.to_string());
        tracing::info!(%from, why = %why.escape_debug(), suppressed, "client refused");
    }

    /// How many were kept quiet since the last line about this source; `None` keeps this one quiet.
    fn admit(&self, source: Option<IpAddr>, now: Instant) -> Option<u64> {
        // A poisoned lock means a panic elsewhere; logging is not the place to spread it.
        let mut told = self
            .told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((last, suppressed)) = told.get_mut(&source)
            && now.duration_since(*last) < REFUSAL_INTERVAL
        {
            *suppressed += 1;
            return None;
        }
        if told.len() >= REFUSAL_SOURCES {
            told.retain(|_, (last, _)| now.duration_since(*last) < REFUSAL_INTERVAL);
        }
        if told.len() >= REFUSAL_SOURCES {
            return None;
        }
        let before = told.insert(source, (now, 0));
        Some(before.map_or(0, |(_, suppressed)| suppressed))
    }
}

impl AsyncRead for EdgeIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The server always waits to read, so this is enough to end all that goes on.
        if let Some(stay) = &mut self.stay
            && stay.poll_cut(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for EdgeIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_once_in_a_while_and_counted() {
        let refusals = Refusals::default();
        let (start, source) = (Instant::now(), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(refusals.admit(source, start), Some(0));
        assert_eq!(refusals.admit(source, start), None);
        assert_eq!(refusals.admit(None, start), Some(0));
        assert_eq!(refusals.admit(source, start + REFUSAL_INTERVAL), Some(1));
    }

    #[test]
    fn i6_refusals_of_many_sources_take_bounded_memory() {
        let refusals = Refusals::default();
        let start = Instant::now();
        for n in 0..2 * REFUSAL_SOURCES as u32 {
            refusals.admit(Some(IpAddr::from(n.to_be_bytes())), start);
        }
        assert_eq!(refusals.told.lock().expect("lock").len(), REFUSAL_SOURCES);
    }
}

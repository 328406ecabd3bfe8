//! A way to a TCP listener that breaks after so many bytes. It carries some eight MiB a second: what is
//! on its way when it breaks is little then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) struct Cutting {
    pub(crate) at: SocketAddr,
    carried: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Cutting {
    /// The first connection breaks after `after[0]` bytes towards `to`, the next one after `after[1]`;
    /// those after the last do not.
    pub(crate) async fn before(to: SocketAddr, after: Vec<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let at = listener.local_addr().expect("bound");
        let (carried, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, number) = (Arc::clone(&carried), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            let mut after = after.into_iter();
            while let Ok((from, _)) = listener.accept().await {
                number.fetch_add(1, Ordering::Relaxed);
                let left = after.next().unwrap_or(u64::MAX);
                tokio::spawn(carry(from, to, left, Arc::clone(&count)));
            }
        });
        Self {
            at,
            carried,
            connections,
            accepting,
        }
    }

    /// Bytes that went to the listener.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Cutting {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(from: TcpStream, to: SocketAddr, mut left: u64, carried: Arc<AtomicU64>) {
    let Ok(to) = TcpStream::connect(to).await else {
        return;
    };
    let ((mut from_read, mut from_write), (mut to_read, mut to_write)) =
        (from.into_split(), to.into_split());
    let back = tokio::spawn(async move { tokio::io::copy(&mut to_read, &mut from_write).await });
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        match from_read.read(&mut buffer).await {
            Ok(got) if got > 0 => {
                let now = got.min(usize::try_from(left).unwrap_or(usize::MAX));
                if to_write.write_all(&buffer[..now]).await.is_err() {
                    break;
                }
                left -= now as u64;
                carried.fetch_add(now as u64, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            _ => break,
        }
    }
    back.abort();
}

//! What stands below: a raw quinn stream with our transport's settings, TLS over TCP, plain TCP.
//! Each end has a thread and a runtime of its own, as a transport has.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::network::LinkClass;
use conveyor_raft::quic::certs::GeneratedCerts;
use conveyor_raft::quic::raw::{Adjust, RawEnd};
use conveyor_raft::types::NodeId;
use quinn::{RecvStream, SendStream};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::ours::options;
use crate::quic_common::raw::{parts, roots};
use crate::{Bed, Meter};

/// About what an append of one command of 128 bytes, and what its ack has.
const REQUEST: usize = 256;
const REPLY: usize = 112;
const CHUNK: usize = 256 << 10;

#[derive(Clone, Copy)]
pub(crate) enum Floor {
    Quinn(Settings),
    Tls,
    Tcp,
}

/// How a bare quinn connection differs from ours.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) mtu: u16,
    /// Longest chunk that is handed over to be sent.
    pub(crate) chunk: usize,
    /// Chunks taken at a time; none: the bytes are copied out.
    pub(crate) read: usize,
    /// Over quinn's own socket.
    pub(crate) plain: bool,
    pub(crate) adjust: Adjust,
}

impl Settings {
    pub(crate) fn ours(mtu: u16) -> Self {
        Self {
            mtu,
            chunk: CHUNK,
            read: 32,
            plain: false,
            adjust: |_| {},
        }
    }

    fn end(&self, certs: &GeneratedCerts, id: NodeId) -> io::Result<RawEnd> {
        let options = options(certs, id, self.mtu);
        let end = match self.plain {
            true => RawEnd::bind_plain(options),
            false => RawEnd::bind(options),
        };
        Ok(end?.adjusted(self.adjust))
    }
}

/// One end of a connection.
enum Way {
    Quinn {
        send: SendStream,
        recv: RecvStream,
        end: Box<RawEnd>,
    },
    Stream(
        Box<dyn AsyncWrite + Send + Unpin>,
        Box<dyn AsyncRead + Send + Unpin>,
    ),
}

impl Way {
    fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Self::Stream(Box::new(write), Box::new(read)))
    }

    async fn write(&mut self, bytes: &Bytes) -> io::Result<()> {
        match self {
            Self::Quinn { send, .. } => Ok(send.write_chunk(bytes.clone()).await?),
            Self::Stream(write, _) => {
                write.write_all(bytes).await?;
                write.flush().await
            }
        }
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Quinn { recv, .. } => recv.read_exact(buffer).await.map_err(io::Error::other),
            Self::Stream(_, read) => read.read_exact(buffer).await.map(drop),
        }
    }

    /// Reads what is there; 0 is the end.
    async fn read_some(&mut self, chunks: &mut [Bytes], buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Quinn { recv, .. } if chunks.is_empty() => {
                Ok(recv.read(buffer).await?.unwrap_or(0))
            }
            Self::Quinn { recv, .. } => {
                let count = recv.read_chunks(chunks).await?.unwrap_or(0);
                Ok(chunks[..count].iter().map(Bytes::len).sum())
            }
            Self::Stream(_, read) => read.read(buffer).await,
        }
    }
}

/// Whether a connection is sent down without an answer, or each request is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Stream,
    Echo,
}

enum Job {
    Stream {
        size: usize,
        frames: u64,
        chunk: usize,
    },
    Echo {
        window: u64,
        count: u64,
        times: Sender<Vec<Duration>>,
    },
}

/// A connection with a thread at each end.
pub(crate) struct Wire {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    meter: Arc<Meter>,
    threads: Vec<JoinHandle<()>>,
}

fn thread<F: Future<Output = io::Result<()>>>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<()> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let ended = runtime.expect("a runtime").block_on(async { work().await });
        if let Err(error) = ended {
            eprintln!("a floor ended: {error}");
        }
    };
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).expect("a thread")
}

impl Wire {
    fn start(floor: Floor, with: Use, certs: &Arc<GeneratedCerts>) -> Self {
        let meter = Arc::new(Meter::default());
        let (jobs, mut todo) = mpsc::unbounded_channel();
        let (addresses, address) = channel();
        let server = {
            let (certs, meter) = (Arc::clone(certs), Arc::clone(&meter));
            thread("floor-server", move || async move {
                let way = accept(floor, &certs, addresses).await?;
                let read = match floor {
                    Floor::Quinn(settings) => settings.read,
                    _ => 0,
                };
                serve(way, with, read, &meter).await
            })
        };
        let client = {
            let certs = Arc::clone(certs);
            thread("floor-client", move || async move {
                let to = address.recv().map_err(io::Error::other)?;
                let mut way = dial(floor, &certs, to).await?;
                way.write(&Bytes::from_static(&[1])).await?;
                while let Some(job) = todo.recv().await {
                    work(&mut way, job).await?;
                }
                if let Way::Quinn { end, .. } = way {
                    end.close().await;
                }
                Ok(())
            })
        };
        Self {
            jobs: Some(jobs),
            meter,
            threads: vec![server, client],
        }
    }

    fn send(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("not ended");
        assert!(jobs.send(job).is_ok(), "the floor ended");
    }

    fn echo(&self, window: u64, count: u64) -> Vec<Duration> {
        let (times, done) = channel();
        self.send(Job::Echo {
            window,
            count,
            times,
        });
        done.recv().expect("the floor answers")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let client = self.threads.pop();
        client.map(JoinHandle::join);
        // The server sees the end of the connection.
        self.threads.pop().map(JoinHandle::join);
    }
}

async fn work(way: &mut Way, job: Job) -> io::Result<()> {
    match job {
        Job::Stream {
            size,
            frames,
            chunk,
        } => {
            let chunk = Bytes::from(vec![7; size.min(chunk)]);
            for _ in 0..frames * (size / chunk.len()) as u64 {
                way.write(&chunk).await?;
            }
        }
        Job::Echo {
            window,
            count,
            times,
        } => {
            let request = Bytes::from(vec![7; REQUEST]);
            let mut reply = [0; REPLY];
            let (mut asked, mut took) = (0, Vec::new());
            while asked < window.min(count) {
                way.write(&request).await?;
                asked += 1;
            }
            for _ in 0..count {
                let start = Instant::now();
                way.read_exact(&mut reply).await?;
                took.push(start.elapsed());
                if asked < count {
                    way.write(&request).await?;
                    asked += 1;
                }
            }
            let _ = times.send(took);
        }
    }
    Ok(())
}

async fn serve(mut way: Way, with: Use, read: usize, meter: &Meter) -> io::Result<()> {
    way.read_exact(&mut [0]).await?;
    let (mut chunks, mut buffer) = (vec![Bytes::new(); read], vec![0; CHUNK]);
    let (mut request, reply) = ([0; REQUEST], Bytes::from(vec![7; REPLY]));
    loop {
        if with == Use::Echo {
            if way.read_exact(&mut request).await.is_err() {
                return Ok(());
            }
            way.write(&reply).await?;
            continue;
        }
        match way.read_some(&mut chunks, &mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(bytes) => meter.add(bytes as u64),
        }
    }
}

async fn accept(
    floor: Floor,
    certs: &GeneratedCerts,
    addresses: Sender<SocketAddr>,
) -> io::Result<Way> {
    if let Floor::Quinn(settings) = floor {
        let end = settings.end(certs, 2)?;
        addresses
            .send(end.local_addr()?)
            .map_err(io::Error::other)?;
        let connection = end.accept(LinkClass::Data).await?;
        let (send, recv) = connection.accept_bi().await?;
        return Ok(Way::Quinn {
            send,
            recv,
            end: Box::new(end),
        });
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    addresses.send(address).map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    if matches!(floor, Floor::Tcp) {
        return Way::tcp(stream);
    }
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(Arc::new(server_tls(certs)));
    let (read, write) = tokio::io::split(acceptor.accept(stream).await?);
    Ok(Way::Stream(Box::new(write), Box::new(read)))
}

async fn dial(floor: Floor, certs: &GeneratedCerts, to: SocketAddr) -> io::Result<Way> {
    if let Floor::Quinn(settings) = floor {
        let end = settings.end(certs, 1)?;
        let connection = end.dial(to, 2, LinkClass::Data).await?;
        let (send, recv) = connection.open_bi().await?;
        return Ok(Way::Quinn {
            send,
            recv,
            end: Box::new(end),
        });
    }
    let stream = TcpStream::connect(to).await?;
    if matches!(floor, Floor::Tcp) {
        return Way::tcp(stream);
    }
    stream.set_nodelay(true)?;
    let name = format!("n2.{}.peer.conveyor-raft.internal", certs.ca.cluster());
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(client_tls(certs)));
    let (read, write) = tokio::io::split(connector.connect(name, stream).await?);
    Ok(Way::Stream(Box::new(write), Box::new(read)))
}

/// The transport's cipher.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    })
}

fn client_tls(certs: &GeneratedCerts) -> ClientConfig {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(&certs.ca.peer_ca().cert), provider());
    let (chain, key) = parts(&certs.nodes[0].peer);
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("version")
        .with_webpki_verifier(verifier.build().expect("verifier"))
        .with_client_auth_cert(chain, key)
        .expect("key")
}

fn server_tls(certs: &GeneratedCerts) -> ServerConfig {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(&certs.ca.peer_ca().cert), provider());
    let (chain, key) = parts(&certs.nodes[1].peer);
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("version")
        .with_client_cert_verifier(verifier.build().expect("verifier"))
        .with_single_cert(chain, key)
        .expect("key")
}

/// A floor: one connection to send down, one to ask on.
pub(crate) struct FloorBed {
    stream: Wire,
    echo: Wire,
    chunk: usize,
}

impl FloorBed {
    pub(crate) fn start(floor: Floor, certs: &Arc<GeneratedCerts>) -> Self {
        Self {
            stream: Wire::start(floor, Use::Stream, certs),
            echo: Wire::start(floor, Use::Echo, certs),
            chunk: match floor {
                Floor::Quinn(settings) => settings.chunk,
                _ => CHUNK,
            },
        }
    }
}

impl Bed for FloorBed {
    fn stream(&mut self, size: usize, frames: u64) {
        self.stream.meter.expect(size as u64 * frames);
        let chunk = self.chunk;
        self.stream.send(Job::Stream {
            size,
            frames,
            chunk,
        });
        self.stream.meter.wait();
    }

    fn ping(&mut self, count: u64) -> Vec<Duration> {
        self.echo.echo(1, count)
    }

    fn pipeline(&mut self, window: u64, count: u64) {
        self.echo.echo(window, count);
    }
}

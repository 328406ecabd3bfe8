//! A network in memory under quinn: loss, delay, reordering, repeats, a rate, a largest datagram and cuts,
//! seeded, each per directed link. It has no port that anything else could reach.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::Sleep;

/// What becomes of datagrams on the way from one address to another.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Of a thousand datagrams, so many are lost, and so many arrive twice.
    pub lost: u64,
    pub twice: u64,
    /// How long each is on its way, and how much longer it may be: later ones overtake it.
    pub delay: Duration,
    pub jitter: Duration,
    /// So many bytes a second get on their way, one datagram behind the other, and no more wait for that than
    /// take so long: later ones are lost. 0: any number.
    pub rate: u64,
    pub queue: Duration,
    /// Longer ones vanish.
    pub mtu: usize,
    pub cut: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            lost: 0,
            twice: 0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate: 0,
            queue: Duration::ZERO,
            mtu: usize::MAX,
            cut: false,
        }
    }
}

struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Inbox {
    /// By when it arrives, and in the order sent.
    coming: BTreeMap<(Instant, u64), Datagram>,
    waker: Option<Waker>,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Default)]
struct State {
    all: Link,
    links: HashMap<(SocketAddr, SocketAddr), Link>,
    inboxes: HashMap<SocketAddr, Inbox>,
    /// When a link with a rate has sent all that waits.
    sent_by: HashMap<(SocketAddr, SocketAddr), Instant>,
    random: u64,
    placed: u64,
    lost: u64,
}

impl State {
    /// SplitMix64.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let link = *self.links.get(&(from, to)).unwrap_or(&self.all);
        if link.cut || bytes.len() > link.mtu || self.random(1000) < link.lost {
            self.lost += 1;
            return;
        }
        let now = Instant::now();
        let mut leaves = now;
        if link.rate > 0 {
            let sent_by = self.sent_by.entry((from, to)).or_insert(now);
            leaves = (*sent_by).max(now);
            if leaves - now > link.queue {
                self.lost += 1;
                return;
            }
            leaves += Duration::from_secs_f64(bytes.len() as f64 / link.rate as f64);
            *sent_by = leaves;
        }
        let copies = 1 + u64::from(self.random(1000) < link.twice);
        for _ in 0..copies {
            let jitter = self.random(link.jitter.as_micros() as u64 + 1);
            let at = leaves + link.delay + Duration::from_micros(jitter);
            self.placed += 1;
            let key = (at, self.placed);
            let Some(inbox) = self.inboxes.get_mut(&to) else {
                return;
            };
            let bytes = bytes.to_vec();
            inbox.coming.insert(key, Datagram { from, bytes });
            if let Some(waker) = inbox.waker.take() {
                waker.wake();
            }
        }
    }
}

/// The network; clones are the same one.
#[derive(Clone, Default)]
pub struct MemNet(Arc<Mutex<State>>);

impl MemNet {
    pub fn new(seed: u64, all: Link) -> Self {
        let net = Self::default();
        net.lock().random = seed;
        net.lock().all = all;
        net
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// Of links that are not set by themselves.
    pub fn set_all(&self, link: Link) {
        self.lock().all = link;
    }

    pub fn set(&self, from: SocketAddr, to: SocketAddr, link: Link) {
        self.lock().links.insert((from, to), link);
    }

    /// Datagrams that it lost.
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    pub fn socket(&self, local: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        self.lock().inboxes.insert(local, Inbox::default());
        Arc::new(MemSocket {
            net: self.clone(),
            local,
        })
    }
}

struct MemSocket {
    net: MemNet,
    local: SocketAddr,
}

impl std::fmt::Debug for MemSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MemSocket").field(&self.local).finish()
    }
}

#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for MemSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut state = self.net.lock();
        for bytes in transmit.contents.chunks(segment.max(1)) {
            state.carry(self.local, transmit.destination, bytes);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.net.lock();
        let inbox = state.inboxes.get_mut(&self.local).expect("a socket's");
        loop {
            let mut count = 0;
            while count < bufs.len().min(meta.len()) {
                let due = inbox.coming.first_entry();
                let due = due.filter(|next| next.key().0 <= Instant::now());
                let Some(Datagram { from, bytes }) = due.map(|next| next.remove()) else {
                    break;
                };
                let len = bytes.len().min(bufs[count].len());
                bufs[count][..len].copy_from_slice(&bytes[..len]);
                meta[count] = RecvMeta {
                    addr: from,
                    len,
                    stride: len,
                    ecn: None,
                    dst_ip: None,
                };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            inbox.waker = Some(cx.waker().clone());
            let Some(((at, _), _)) = inbox.coming.first_key_value() else {
                return Poll::Pending;
            };
            let mut timer = Box::pin(tokio::time::sleep_until((*at).into()));
            if timer.as_mut().poll(cx).is_pending() {
                inbox.timer = Some(timer);
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

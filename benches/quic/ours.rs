//! Two transports on loopback, as two nodes have them. What a driver would send is sent from the
//! sink, so that no thread of a driver is in the figures, as none is in those of the floors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use conveyor_raft::core::{
    AppendEntries, Class, Heartbeat, HeartbeatReply, Message, ReplicaState, SnapshotChunk,
};
use conveyor_raft::entry::frame;
use conveyor_raft::network::{NetworkEvent, PeerAddress, RaftNetwork, SendOutcome};
use conveyor_raft::quic::certs::GeneratedCerts;
use conveyor_raft::quic::{RaftTransport, TransportOptions};
use conveyor_raft::types::{EntryKind, Incarnation, LogId, NodeId};

use crate::quic_common::ack;
use crate::{Bed, Meter, WAIT};

/// The entry before those that are sent, again and again: a transport does not know what it sent.
const PREV: LogId = LogId { term: 1, index: 7 };
const CHUNK: usize = 256 << 10;

pub(crate) fn options(certs: &GeneratedCerts, id: NodeId, mtu: u16) -> TransportOptions {
    let credentials = certs.credentials(id).expect("credentials");
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    TransportOptions {
        mtu: Some(mtu),
        idle_timeout: Duration::from_secs(10),
        ..TransportOptions::new(listen, credentials, Incarnation([id as u8; 16]))
    }
}

/// Entry frames of `size` bytes in all, of 1 KiB each, or one that has a command of `size` bytes.
fn entries(size: usize) -> (Bytes, u32) {
    let head = frame(PREV, EntryKind::Command, 1, &[]).len();
    let (count, payload) = if size < 1024 {
        (1, size)
    } else {
        (size / 1024, 1024 - head)
    };
    let mut all = Vec::new();
    for nth in 1..=count as u64 {
        let id = LogId::new(PREV.term, PREV.index + nth);
        all.extend(frame(id, EntryKind::Command, 1, &vec![nth as u8; payload]));
    }
    assert!(size < 1024 || all.len() == size, "{} bytes", all.len());
    (all.into(), count as u32)
}

/// What is asked again as soon as an answer comes.
#[derive(Default)]
struct Asking {
    class: Option<Class>,
    run: Option<(Bytes, u32)>,
    to_ask: u64,
    to_come: u64,
    asked: Option<Instant>,
    times: Vec<Duration>,
}

struct End {
    other: NodeId,
    transport: Mutex<Option<RaftTransport>>,
    epochs: Mutex<BTreeMap<Class, u64>>,
    answers: AtomicBool,
    /// Number of the last append, which are numbered without a gap, and of the last heartbeat.
    appends: AtomicU64,
    beats: AtomicU64,
    asking: Mutex<Asking>,
    meter: Arc<Meter>,
    writable: Mutex<Sender<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic")
}

impl End {
    fn start(
        certs: &GeneratedCerts,
        [id, other]: [NodeId; 2],
        mtu: u16,
        meter: Arc<Meter>,
    ) -> (Arc<Self>, Receiver<()>) {
        let (writable, is_writable) = channel();
        let end = Arc::new(Self {
            other,
            transport: Mutex::default(),
            epochs: Mutex::default(),
            answers: AtomicBool::new(false),
            appends: AtomicU64::new(0),
            beats: AtomicU64::new(0),
            asking: Mutex::default(),
            meter,
            writable: Mutex::new(writable),
        });
        let sink = {
            let end = Arc::clone(&end);
            move |batch: &mut Vec<NetworkEvent>| batch.drain(..).for_each(|event| end.take(event))
        };
        let transport = RaftTransport::bind(options(certs, id, mtu), Arc::new(sink));
        *lock(&end.transport) = Some(transport.expect("bound"));
        (end, is_writable)
    }

    fn send(&self, message: &Message, body: &[Bytes]) -> SendOutcome {
        let mut transport = lock(&self.transport);
        let transport = transport.as_mut().expect("not ended");
        transport.send(self.other, message, body)
    }

    fn epoch(&self, class: Class) -> u64 {
        let end = Instant::now() + WAIT;
        loop {
            if let Some(epoch) = lock(&self.epochs).get(&class) {
                return *epoch;
            }
            assert!(Instant::now() < end, "{class:?} is not up");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn append(&self, epoch: u64, count: u32) -> Message {
        let seq = self.appends.fetch_add(1, Ordering::Relaxed) + 1;
        Message::Append(AppendEntries {
            term: 1,
            epoch,
            seq,
            prev: PREV,
            commit: 0,
            sent_at: seq,
            count,
        })
    }

    fn beat(&self, epoch: u64) -> Message {
        Message::Heartbeat(Heartbeat {
            term: 1,
            epoch,
            seq: self.beats.fetch_add(1, Ordering::Relaxed) + 1,
            commit: 0,
            sent_at: 0,
            read_id: 0,
            digest_index: 0,
            digest: 0,
        })
    }

    fn ask(&self, asking: &mut Asking) {
        asking.to_ask -= 1;
        let class = asking.class.expect("asks on a class");
        let epoch = *lock(&self.epochs).get(&class).expect("is up");
        asking.asked = Some(Instant::now());
        let outcome = match &asking.run {
            Some((run, count)) => self.send(&self.append(epoch, *count), std::slice::from_ref(run)),
            None => self.send(&self.beat(epoch), &[]),
        };
        assert_eq!(outcome, SendOutcome::Sent);
    }

    fn answered(&self) {
        let mut asking = lock(&self.asking);
        if asking.to_come == 0 {
            return;
        }
        let took = asking.asked.map(|asked| asked.elapsed());
        asking.times.extend(took);
        asking.to_come -= 1;
        if asking.to_ask > 0 {
            self.ask(&mut asking);
        }
        if asking.to_come == 0 {
            self.meter.add(1);
        }
    }

    fn take(&self, event: NetworkEvent) {
        match event {
            NetworkEvent::Up { class, epoch, .. } => {
                lock(&self.epochs).insert(class, epoch);
            }
            NetworkEvent::Down { class, .. } => {
                lock(&self.epochs).remove(&class);
            }
            NetworkEvent::Writable { .. } => {
                let _ = lock(&self.writable).send(());
            }
            NetworkEvent::Message {
                message, entries, ..
            } => self.message(message, entries.chunks().iter().map(Bytes::len).sum()),
            _ => {}
        }
    }

    fn message(&self, message: Message, bytes: usize) {
        match message {
            Message::Append(append) if self.answers.load(Ordering::Relaxed) => {
                self.send(&ack(&append, Incarnation([2; 16])), &[]);
            }
            Message::Append(_) => self.meter.add(bytes as u64),
            Message::Heartbeat(beat) => {
                self.send(&reply(&beat), &[]);
            }
            Message::AppendAck(_) | Message::HeartbeatReply(_) => self.answered(),
            _ => {}
        }
    }
}

fn reply(to: &Heartbeat) -> Message {
    Message::HeartbeatReply(HeartbeatReply {
        term: to.term,
        incarnation: Incarnation([2; 16]),
        epoch: to.epoch,
        seq: to.seq,
        sent_at: to.sent_at,
        read_id: to.read_id,
        applied: 0,
        digest_index: 0,
        digest: 0,
        election_timeout_min_ms: 150,
        state: ReplicaState::Member,
    })
}

/// Node 1 asks and sends, node 2 receives and answers.
pub(crate) struct Ours {
    one: Arc<End>,
    two: Arc<End>,
    writable: Receiver<()>,
    meter: Arc<Meter>,
}

impl Ours {
    pub(crate) fn start(certs: &GeneratedCerts, mtu: u16) -> Self {
        let meter = Arc::new(Meter::default());
        let (one, writable) = End::start(certs, [1, 2], mtu, Arc::clone(&meter));
        let (two, _) = End::start(certs, [2, 1], mtu, Arc::clone(&meter));
        let address = |end: &End| {
            let transport = lock(&end.transport);
            transport.as_ref().expect("not ended").local_addr()
        };
        let to = PeerAddress {
            node: 2,
            incarnation: None,
            address: address(&two).to_string(),
        };
        let mut transport = lock(&one.transport);
        transport.as_mut().expect("not ended").set_peers(&[to]);
        drop(transport);
        one.epoch(Class::Control);
        one.epoch(Class::Data);
        Self {
            one,
            two,
            writable,
            meter,
        }
    }

    fn echo(
        &self,
        class: Class,
        run: Option<(Bytes, u32)>,
        window: u64,
        count: u64,
    ) -> Vec<Duration> {
        self.two.answers.store(true, Ordering::Relaxed);
        self.meter.expect(1);
        let mut asking = lock(&self.one.asking);
        *asking = Asking {
            class: Some(class),
            run,
            to_ask: count,
            to_come: count,
            ..Asking::default()
        };
        for _ in 0..window.min(count) {
            self.one.ask(&mut asking);
        }
        drop(asking);
        self.meter.wait();
        self.two.answers.store(false, Ordering::Relaxed);
        std::mem::take(&mut lock(&self.one.asking).times)
    }

    /// Keeps the bulk class busy without a pause, until dropped.
    pub(crate) fn load(&self) -> Load {
        let one = Arc::clone(&self.one);
        let want = |wanted| {
            let mut transport = lock(&one.transport);
            let transport = transport.as_mut().expect("not ended");
            transport.want_bulk(2, wanted);
        };
        want(true);
        one.epoch(Class::Bulk);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let one = Arc::clone(&self.one);
        let work = move || {
            let bytes = Bytes::from(vec![7; CHUNK]);
            let chunk = Message::SnapshotChunk(SnapshotChunk {
                term: 1,
                id: 9,
                offset: 0,
                crc: crc32fast::hash(&bytes),
            });
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                match one.send(&chunk, std::slice::from_ref(&bytes)) {
                    SendOutcome::Sent => sent += CHUNK as u64,
                    _ => std::thread::sleep(Duration::from_micros(100)),
                }
            }
            sent
        };
        Load::new(stop, work)
    }

    /// Largest datagram on the way of the data class.
    pub(crate) fn mtu(&self) -> u16 {
        let transport = lock(&self.one.transport);
        let stats = transport.as_ref().expect("not ended").stats();
        stats.iter().map(|link| link.mtu).max().unwrap_or(0)
    }
}

/// A thread that sends until this is dropped, and says how much it sent.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
    since: Instant,
}

impl Load {
    pub(crate) fn new(stop: Arc<AtomicBool>, work: impl FnOnce() -> u64 + Send + 'static) -> Self {
        Self {
            stop,
            thread: Some(std::thread::spawn(work)),
            since: Instant::now(),
        }
    }

    /// MiB per second.
    pub(crate) fn end(mut self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("ends once");
        let sent = thread.join().expect("no panic");
        sent as f64 / f64::from(1 << 20) / self.since.elapsed().as_secs_f64()
    }
}

impl Bed for Ours {
    fn stream(&mut self, size: usize, frames: u64) {
        let (run, count) = entries(size);
        let epoch = self.one.epoch(Class::Data);
        self.meter.expect(size as u64 * frames);
        for _ in 0..frames {
            let append = self.one.append(epoch, count);
            loop {
                match self.one.send(&append, std::slice::from_ref(&run)) {
                    SendOutcome::Sent => break,
                    SendOutcome::Full => self.writable.recv_timeout(WAIT).expect("room"),
                    SendOutcome::Down => panic!("the stream ended"),
                }
            }
        }
        self.meter.wait();
    }

    fn ping(&mut self, count: u64) -> Vec<Duration> {
        self.echo(Class::Control, None, 1, count)
    }

    fn pipeline(&mut self, window: u64, count: u64) {
        self.echo(Class::Data, Some(entries(128)), window, count);
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        for end in [&self.one, &self.two] {
            let transport = lock(&end.transport).take();
            drop(transport);
        }
    }
}

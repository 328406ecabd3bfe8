//! What must hold for any certificate, CA bundle and revocation list, and for an endpoint that is up,
//! whatever datagrams reach it. For fuzzers, and for tests on a fixed budget; hidden, and only there for
//! them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::certs::{GeneratedCerts, generate};
use super::credentials::Credentials;
use super::identity::Identity;
use super::lane::lock;
use super::tls::{Clock, provider};
use super::{RaftTransport, TransportOptions};
use crate::core::{Class, Heartbeat, Message};
use crate::network::{EventSink, NetworkEvent, PeerAddress, RaftNetwork, SendOutcome};
use crate::types::{Incarnation, NodeId};

/// Bytes of one edit: which part, where, and what is written there.
const EDIT: usize = 4;

/// The four files of a node, of a cluster made for this.
struct Files {
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    crl: CertificateRevocationListDer<'static>,
    pem: [String; 4],
    identity: Identity,
}

fn files() -> Result<&'static Files, String> {
    static FILES: OnceLock<Result<Files, String>> = OnceLock::new();
    FILES.get_or_init(make).as_ref().map_err(Clone::clone)
}

fn make() -> Result<Files, String> {
    let certs = generate("fuzz", &[1], &[]).map_err(|error| error.to_string())?;
    let node = certs.nodes.first().ok_or("no node")?;
    let (ca, crl) = (certs.ca.peer_ca(), certs.ca.peer_crl());
    let unread = |error: rustls_pki_types::pem::Error| error.to_string();
    let leaf = CertificateDer::from_pem_slice(node.peer.cert.as_bytes()).map_err(unread)?;
    Ok(Files {
        ca: CertificateDer::from_pem_slice(ca.cert.as_bytes()).map_err(unread)?,
        identity: Identity::of_certificate(&leaf).map_err(|error| error.to_string())?,
        leaf,
        key: PrivateKeyDer::from_pem_slice(node.peer.key.as_bytes()).map_err(unread)?,
        crl: CertificateRevocationListDer::from_pem_slice(crl.as_bytes()).map_err(unread)?,
        pem: [
            ca.cert.clone(),
            node.peer.cert.clone(),
            node.peer.key.clone(),
            crl.to_owned(),
        ],
    })
}

/// Any text as the URI name of a certificate: what is taken is what is printed.
///
/// # Errors
/// What does not hold.
pub fn uri(bytes: &[u8]) -> Result<(), String> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(());
    };
    match Identity::parse(text) {
        Ok(identity) if identity.to_string() != text => {
            Err(format!("{text:?} is taken as {identity}"))
        }
        _ => Ok(()),
    }
}

fn edited(original: &[u8], part: u8, edits: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let (edits, rest) = edits.as_chunks::<EDIT>();
    for [which, high, low, value] in edits {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % bytes.len().max(1);
        if *which % 4 == part
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte = *value;
        }
    }
    if let [which, less] = rest
        && *which % 4 == part
    {
        bytes.truncate(bytes.len().saturating_sub(1 + usize::from(*less)));
    }
    bytes
}

/// A node's files damaged as `bytes` say, within the PEM texts and below them: they are refused, or speak
/// for the same node. Nobody becomes another by damage.
///
/// # Errors
/// What does not hold.
pub fn trust(bytes: &[u8]) -> Result<(), String> {
    let files = files()?;
    let Some((&what, edits)) = bytes.split_first() else {
        return Ok(());
    };
    let taken = if what & 1 == 0 {
        let [ca, cert, key, crl] = &files.pem;
        let text = |text: &str, part| edited(text.as_bytes(), part, edits);
        let (ca, cert) = (text(ca, 0), text(cert, 1));
        Credentials::from_pem(&ca, &cert, &text(key, 2), &text(crl, 3))
    } else {
        let leaf = CertificateDer::from(edited(&files.leaf, 1, edits));
        let ca = CertificateDer::from(edited(&files.ca, 0, edits));
        let crl = CertificateRevocationListDer::from(edited(&files.crl, 3, edits));
        // What it says must be read without harm, trusted or not.
        let _ = Identity::of_certificate(&leaf);
        let key = files.key.clone_key();
        let Ok(key) = CertifiedKey::from_der(vec![leaf], key, &provider()) else {
            return Ok(());
        };
        Credentials::check(vec![ca], vec![crl], Arc::new(key), Clock::system())
    };
    let Ok(credentials) = taken else {
        return Ok(());
    };
    let same = credentials.cluster() == files.identity.cluster && credentials.node() == 1;
    match same {
        true => Ok(()),
        false => Err(format!("node {} of another name", credentials.node())),
    }
}

/// A node's endpoint that is up, a peer that is connected to it, and a socket that is nobody's.
struct Live {
    node: RaftTransport,
    peer: RaftTransport,
    /// Of the peer's control stream to the node.
    epoch: u64,
    seq: u64,
    beats: Receiver<u64>,
    /// That stream as it comes and goes.
    streams: Receiver<Option<u64>>,
    at: PeerAddress,
    stranger: UdpSocket,
    /// The first datagram of a dialer. Its keys follow from what is in it, so it is one for any acceptor.
    first: Vec<u8>,
}

/// Longer than a healthy link needs on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn live() -> Result<&'static Mutex<Live>, String> {
    static LIVE: OnceLock<Result<Mutex<Live>, String>> = OnceLock::new();
    let live = LIVE.get_or_init(|| Live::start().map(Mutex::new));
    live.as_ref().map_err(Clone::clone)
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

fn started(certs: &GeneratedCerts, id: NodeId, sink: EventSink) -> Result<RaftTransport, String> {
    let credentials = certs.credentials(id).map_err(text)?;
    let options = TransportOptions {
        idle_timeout: Duration::from_secs(10),
        ..TransportOptions::new(nowhere(), credentials, Incarnation([id as u8; 16]))
    };
    RaftTransport::bind(options, sink).map_err(text)
}

/// The numbers of the heartbeats that come.
fn beats() -> (EventSink, Receiver<u64>) {
    let (beat, beats) = channel();
    let beat = Mutex::new(beat);
    let sink = move |events: &mut Vec<NetworkEvent>| {
        for event in events.drain(..) {
            if let NetworkEvent::Message {
                message: Message::Heartbeat(came),
                ..
            } = event
            {
                let _ = lock(&beat).send(came.seq);
            }
        }
    };
    (Arc::new(sink), beats)
}

/// The epoch of the control stream when it comes up, none when it ends.
fn streams() -> (EventSink, Receiver<Option<u64>>) {
    let (stream, streams) = channel();
    let stream = Mutex::new(stream);
    let sink = move |events: &mut Vec<NetworkEvent>| {
        for event in events.drain(..) {
            let now = match event {
                NetworkEvent::Up {
                    class: Class::Control,
                    epoch,
                    ..
                } => Some(epoch),
                NetworkEvent::Down {
                    class: Class::Control,
                    ..
                } => None,
                _ => continue,
            };
            let _ = lock(&stream).send(now);
        }
    };
    (Arc::new(sink), streams)
}

impl Live {
    fn start() -> Result<Self, String> {
        let certs = generate("fuzz", &[1, 2], &[]).map_err(text)?;
        let ((of_node, beats), (of_peer, streams)) = (beats(), streams());
        let node = started(&certs, 1, of_node)?;
        let mut peer = started(&certs, 2, of_peer)?;
        let stranger = UdpSocket::bind(nowhere()).map_err(text)?;
        let own = stranger.local_addr().map_err(text)?;
        let at = |node, address: SocketAddr| PeerAddress {
            node,
            incarnation: None,
            address: address.to_string(),
        };
        let one = at(1, node.local_addr());
        peer.set_peers(&[one.clone(), at(3, own)]);
        let timeout = stranger.set_read_timeout(Some(PATIENCE));
        timeout.map_err(text)?;
        let mut first = vec![0; 2048];
        let len = stranger.recv(&mut first).map_err(text)?;
        first.truncate(len);
        peer.set_peers(std::slice::from_ref(&one));
        let up = streams.recv_timeout(PATIENCE);
        let epoch = up.map_err(text)?.ok_or("it is not up")?;
        Ok(Self {
            node,
            peer,
            epoch,
            seq: 0,
            beats,
            streams,
            at: one,
            stranger,
            first,
        })
    }

    /// The peer hangs up and dials again.
    fn dial_anew(&mut self) -> Result<(), String> {
        self.peer.set_peers(&[]);
        match self.streams.recv_timeout(PATIENCE) {
            Ok(None) => {}
            other => return Err(format!("{other:?} instead of the end of the link")),
        }
        self.peer.set_peers(std::slice::from_ref(&self.at));
        match self.streams.recv_timeout(PATIENCE) {
            Ok(Some(epoch)) => self.epoch = epoch,
            other => return Err(format!("{other:?} instead of a new link")),
        }
        Ok(())
    }

    /// The link that was there before still carries, and in order; now and then another takes its place.
    fn check(&mut self) -> Result<(), String> {
        if self.seq % 64 == 63 {
            self.dial_anew()?;
        }
        self.seq += 1;
        let beat = Message::Heartbeat(Heartbeat {
            term: 1,
            epoch: self.epoch,
            seq: self.seq,
            commit: 0,
            sent_at: 0,
            read_id: 0,
            digest_index: 0,
            digest: 0,
        });
        match self.peer.send(1, &beat, &[]) {
            SendOutcome::Sent => {}
            other => return Err(format!("the healthy link takes nothing: {other:?}")),
        }
        match self.beats.recv_timeout(PATIENCE) {
            Ok(seq) if seq == self.seq => Ok(()),
            other => Err(format!(
                "{other:?} came for {} on the healthy link",
                self.seq
            )),
        }
    }
}

fn nowhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Datagrams to the endpoint of a node that is up: what the bytes are, padded or not, and the first one of a
/// real dialer, whole, damaged or cut. It lives, who was connected stays so, and who dials gets in.
///
/// # Errors
/// What does not hold.
pub fn datagrams(bytes: &[u8]) -> Result<(), String> {
    let mut live = lock(live()?);
    let mut rest = bytes;
    while let [what, len, tail @ ..] = rest {
        let (piece, after) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = after;
        let mut datagram = match what & 1 {
            0 => piece.to_vec(),
            _ => edited(&live.first, (what >> 1) & 3, piece),
        };
        // Short ones are thrown away before anything is looked at.
        if what & 8 != 0 {
            datagram.resize(1200.max(datagram.len()), 0);
        }
        let sent = live.stranger.send_to(&datagram, live.node.local_addr());
        sent.map_err(|error| error.to_string())?;
    }
    live.check()
}

#[cfg(test)]
mod tests {
    use super::super::limits::HELLO_TIMEOUT;
    use super::super::shared::SplitMix;
    use super::*;

    fn runs(usual: u64) -> u64 {
        let set = std::env::var("CONVEYOR_FUZZ_RUNS").ok();
        set.and_then(|set| set.parse().ok()).unwrap_or(usual)
    }

    #[test]
    fn i4_arbitrary_uri_names() {
        let id = "0123456789abcdef0123456789abcdef";
        let good = ["peer/7", "edge/18446744073709551615", "client/writer/a-1"];
        let good = good.map(|role| format!("conveyor-raft://{id}/{role}"));
        let mut random = SplitMix(1);
        for name in &good {
            assert_eq!(Identity::parse(name).expect("good").to_string(), *name);
        }
        for _ in 0..runs(20_000) {
            let mut bytes = good[random.up_to(2) as usize].clone().into_bytes();
            for _ in 0..=random.up_to(2) {
                let at = random.up_to(bytes.len() as u64 - 1) as usize;
                let byte = b"0aA/-:7 f\0\xc3%"[random.up_to(11) as usize];
                match random.up_to(2) {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            uri(&bytes).unwrap_or_else(|why| panic!("{why}"));
        }
    }

    #[test]
    fn i4_damaged_certificates_bundles_and_revocation_lists() {
        trust(&[0]).expect("holds");
        trust(&[1]).expect("holds");
        let mut random = SplitMix(2);
        for _ in 0..runs(600) {
            let mut bytes = vec![random.next() as u8];
            for _ in 0..=random.up_to(2) {
                bytes.extend(&random.next().to_le_bytes()[..EDIT]);
            }
            if random.up_to(7) == 0 {
                bytes.extend(&random.next().to_le_bytes()[..2]);
            }
            trust(&bytes).unwrap_or_else(|why| panic!("{why}: {bytes:?}"));
        }
    }

    #[test]
    fn i4_datagrams_into_a_live_endpoint() {
        let mut random = SplitMix(3);
        for _ in 0..runs(400) {
            let mut bytes = Vec::new();
            for _ in 0..=random.up_to(7) {
                let len = random.up_to(24) as usize;
                bytes.extend([random.next() as u8, len as u8]);
                bytes.extend((0..len).map(|_| random.next() as u8));
                // A long header, or a short one, of QUIC's first version.
                if let Some(start) = bytes.len().checked_sub(len).filter(|_| len > 5) {
                    bytes[start] = [0xc3, 0x43, 0xe3, 0xf0][random.up_to(3) as usize];
                    bytes[start + 1..start + 5].copy_from_slice(&[0, 0, 0, 1]);
                }
            }
            datagrams(&bytes).unwrap_or_else(|why| panic!("{why}: {bytes:?}"));
        }
        // One that begins a handshake, and what comes of that after its time: nothing for others.
        datagrams(&[1, 0]).expect("holds");
        std::thread::sleep(HELLO_TIMEOUT + Duration::from_millis(500));
        let mut live = lock(live().expect("up"));
        live.dial_anew().expect("who dials gets in");
        live.check().expect("and is heard");
    }

    /// Whole, it is answered, or the other test shows nothing.
    #[test]
    fn the_datagram_that_is_damaged_is_good() {
        let soon = Some(Duration::from_millis(500));
        // Meanwhile its peer may still try, and what the other test began may not have ended.
        for _ in 0..40 {
            datagrams(&[1, 0]).expect("holds");
            let live = lock(live().expect("up"));
            live.stranger.set_read_timeout(soon).expect("a timeout");
            let mut answer = [0; 2048];
            while let Ok((len, from)) = live.stranger.recv_from(&mut answer) {
                // The first flight of a handshake, which fills a datagram.
                if from == live.node.local_addr() && len >= 1200 {
                    return;
                }
            }
        }
        panic!("a dialer's first datagram is not answered");
    }

    /// Undamaged they are taken, or the other test shows nothing.
    #[test]
    fn the_files_that_are_damaged_are_good() {
        let files = files().expect("made");
        let [ca, cert, key, crl] = &files.pem;
        let [ca, cert, key, crl] = [ca, cert, key, crl].map(|text| text.as_bytes());
        let whole = Credentials::from_pem(ca, cert, key, crl).expect("good");
        assert_eq!(whole.node(), 1);
        let key =
            CertifiedKey::from_der(vec![files.leaf.clone()], files.key.clone_key(), &provider());
        let (cas, crls) = (vec![files.ca.clone()], vec![files.crl.clone()]);
        let key = Arc::new(key.expect("good"));
        Credentials::check(cas, crls, key, Clock::system()).expect("good");
    }
}

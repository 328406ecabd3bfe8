//! The certificates of the client edge in force, and the connections that they let in.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::quic::expiry::{self, Expiry, LOOK};
use crate::quic::tls::{Fallen, judge_without_dates};
use crate::types::{ClusterId, NodeId};

use super::identity::Caller;
use super::tls::{EdgeIdentity, EdgeTlsError};

/// What became of the connections when the client edge took up other certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeReload {
    /// Connections that go on.
    pub kept: usize,
    /// Connections closed because the client's certificate is now revoked, or leads to no CA of the
    /// new bundle.
    pub closed: usize,
}

/// The certificates in force and the connections that hang on them.
pub(super) struct Trust {
    pub(super) cluster: ClusterId,
    node: NodeId,
    state: Mutex<State>,
    reloaded: Notify,
}

struct State {
    /// Of certificates; rises with each reload.
    generation: u64,
    acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
    ends: Vec<(String, UnixTime)>,
    lists: Vec<(String, UnixTime)>,
    next: u64,
    live: HashMap<u64, Live>,
}

/// A connection whose client showed a certificate.
struct Live {
    chain: Vec<CertificateDer<'static>>,
    name: String,
    from: SocketAddr,
    cut: oneshot::Sender<()>,
}

/// Held by a connection for as long as it lives.
pub(super) struct Stay {
    id: u64,
    trust: Arc<Trust>,
    cut: oneshot::Receiver<()>,
}

impl Trust {
    pub(super) fn new(
        cluster: ClusterId,
        node: NodeId,
        identity: &EdgeIdentity,
    ) -> Result<Self, EdgeTlsError> {
        let verifier = identity.verifier()?;
        Ok(Self {
            cluster,
            node,
            state: Mutex::new(State {
                generation: 1,
                acceptor: TlsAcceptor::from(identity.server(Arc::clone(&verifier))?),
                verifier,
                ends: ends(identity),
                lists: expiry::lists("client-ca", identity.crls()),
                next: 0,
                live: HashMap::new(),
            }),
            reloaded: Notify::new(),
        })
    }

    /// What the next handshake goes by, and the number of its generation.
    pub(super) fn acceptor(&self) -> (u64, TlsAcceptor) {
        let state = self.state();
        (state.generation, state.acceptor.clone())
    }

    /// Puts other certificates in force, and cuts the connections that they would not let in.
    pub(super) fn reload(&self, identity: &EdgeIdentity) -> Result<EdgeReload, EdgeTlsError> {
        identity.check_own(self.cluster, self.node)?;
        let verifier = identity.verifier()?;
        let acceptor = TlsAcceptor::from(identity.server(Arc::clone(&verifier))?);
        let mut state = self.state();
        state.generation += 1;
        (state.acceptor, state.verifier) = (acceptor, verifier);
        state.ends = ends(identity);
        state.lists = expiry::lists("client-ca", identity.crls());
        let judged = state.live.iter().filter_map(|(id, live)| {
            let fallen = judge(&*state.verifier, &live.chain).err()?;
            Some((*id, fallen))
        });
        let fallen: Vec<_> = judged.collect();
        let closed = fallen.len();
        for (id, why) in fallen {
            let Some(live) = state.live.remove(&id) else {
                continue;
            };
            let (name, from) = (live.name, live.from);
            tracing::warn!(%name, %from, why = word(&why), "client cut off");
            // Refused only if the connection has ended by itself.
            let _ = live.cut.send(());
        }
        let kept = state.live.len();
        drop(state);
        self.reloaded.notify_one();
        tracing::info!(kept, closed, "certificates of the client edge taken up");
        Ok(EdgeReload { kept, closed })
    }

    /// Remembers a connection whose handshake went by `generation`. An error says why it must not
    /// live: certificates taken up meanwhile judged only the connections that were known.
    pub(super) fn admit(
        self: &Arc<Self>,
        generation: u64,
        chain: Vec<CertificateDer<'static>>,
        caller: &Caller,
        from: SocketAddr,
    ) -> Result<Stay, String> {
        let mut state = self.state();
        if state.generation != generation {
            judge(&*state.verifier, &chain).map_err(|fallen| word(&fallen).to_owned())?;
        }
        let name = match caller {
            Caller::Client { name, .. } => name.clone(),
            _ => "nobody".to_owned(),
        };
        let id = state.next;
        state.next += 1;
        let (sender, cut) = oneshot::channel();
        let live = Live {
            chain,
            name,
            from,
            cut: sender,
        };
        state.live.insert(id, live);
        Ok(Stay {
            id,
            trust: Arc::clone(self),
            cut,
        })
    }

    /// Until when the own certificate is good, in Unix time.
    pub(super) fn own_end(&self) -> Option<u64> {
        let state = self.state();
        let own = state.ends.iter().find(|(name, _)| name == OWN);
        own.map(|(_, end)| end.as_secs())
    }

    /// Says when certificates come near their ends. Never returns.
    pub(super) async fn watch_expiry(&self) {
        let mut expiry = Expiry::default();
        loop {
            let (ends, lists) = {
                let state = self.state();
                (state.ends.clone(), state.lists.clone())
            };
            expiry.look(self.node, &ends, UnixTime::now());
            expiry::show_lists(self.node, &lists, UnixTime::now());
            wait(LOOK, &self.reloaded).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done in here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait(time: Duration, sooner: &Notify) {
    let _ = tokio::time::timeout(time, sooner.notified()).await;
}

impl Stay {
    /// Ready once the connection must end.
    pub(super) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let cut = std::pin::Pin::new(&mut self.cut);
        std::future::Future::poll(cut, cx).map(drop)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.trust.state().live.remove(&self.id);
    }
}

fn judge(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>]) -> Result<(), Fallen> {
    // One that showed no certificate has nothing to lose.
    let [leaf, intermediates @ ..] = chain else {
        return Ok(());
    };
    judge_without_dates(leaf, UnixTime::now(), |at| {
        let checked = verifier.verify_client_cert(leaf, intermediates, at);
        checked.map(drop)
    })
}

fn word(fallen: &Fallen) -> &str {
    match fallen {
        Fallen::Revoked => "its certificate was revoked",
        Fallen::Untrusted(why) => why,
    }
}

/// What the own certificate is called in figures.
const OWN: &str = "edge";

fn ends(identity: &EdgeIdentity) -> Vec<(String, UnixTime)> {
    let own = (OWN, identity.end_entity());
    expiry::ends(own, ("client-ca", identity.cas()))
}

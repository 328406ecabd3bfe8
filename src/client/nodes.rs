//! The nodes that a client knows of, and the channels to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tonic::transport::Channel;

use crate::grpc::{EdgeIdentity, connect};

/// A node that does not answer is not waited for longer: another one may lead.
const CONNECT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Nodes {
    endpoints: Vec<String>,
    identity: Option<EdgeIdentity>,
    channels: Mutex<HashMap<String, Channel>>,
    next: AtomicUsize,
}

impl Nodes {
    pub(super) fn new(endpoints: Vec<String>, identity: Option<EdgeIdentity>) -> Self {
        Self {
            endpoints,
            identity,
            channels: Mutex::default(),
            next: AtomicUsize::new(0),
        }
    }

    /// How many endpoints there are to try; at least 1.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.endpoints.len())
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// Another endpoint with each call, round and round.
    pub(super) fn next(&self) -> String {
        let nth = self.next.fetch_add(1, Ordering::Relaxed);
        let endpoint = self.endpoints.get(nth % self.endpoints.len().max(1));
        endpoint.cloned().unwrap_or_default()
    }

    /// Whether a node may be asked at an endpoint that another one named: a client with a certificate
    /// is not led to where none is asked for.
    pub(super) fn may_follow(&self, endpoint: &str) -> bool {
        !endpoint.is_empty() && (self.identity.is_none() || !is_plain(endpoint))
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<String, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel to `endpoint`: the one that is open, or else a new one.
    pub(super) async fn channel(&self, endpoint: &str) -> Result<Channel, String> {
        if let Some(channel) = self.channels().get(endpoint) {
            return Ok(channel.clone());
        }
        let opened = tokio::time::timeout(CONNECT, connect(endpoint, self.identity.as_ref()));
        let channel = match opened.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("{endpoint} does not answer")),
        };
        let key = endpoint.to_owned();
        self.channels().insert(key, channel.clone());
        Ok(channel)
    }

    /// The channel to `endpoint` is of no use any more.
    pub(super) fn forget(&self, endpoint: &str) {
        self.channels().remove(endpoint);
    }
}

/// Whether no certificate is asked for there.
fn is_plain(endpoint: &str) -> bool {
    endpoint.starts_with("http://") || endpoint.starts_with("unix:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quic::certs::generate;

    #[test]
    fn endpoints_take_turns() {
        let nodes = Nodes::new(vec!["a:1".into(), "b:1".into()], None);
        let asked: Vec<_> = (0..3).map(|_| nodes.next()).collect();
        assert_eq!(asked, ["a:1", "b:1", "a:1"]);
        assert_eq!(Nodes::new(Vec::new(), None).next(), "");
    }

    #[test]
    fn i8_who_has_a_certificate_is_not_led_to_a_plain_listener() {
        let certs = generate("test", &[1], &[]).expect("certificates");
        let pair = &certs.nodes[0].edge;
        let (ca, crl) = (&certs.ca.client_ca().cert, certs.ca.client_crl());
        let identity = EdgeIdentity::from_pem(ca, &pair.cert, &pair.key, crl).expect("identity");
        let nodes = Nodes::new(Vec::new(), Some(identity));
        assert!(nodes.may_follow("https://a:1") && nodes.may_follow("a:1"));
        assert!(!nodes.may_follow("http://a:1") && !nodes.may_follow(""));
        assert!(!nodes.may_follow("unix:/run/a.sock"));
        let plain = Nodes::new(Vec::new(), None);
        assert!(plain.may_follow("http://a:1") && plain.may_follow("unix:/run/a.sock"));
    }
}

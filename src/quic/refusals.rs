//! Connections that were not let in: counted by reason, logged without flooding the log.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use quinn::ConnectionError;

use super::identity::IdentityError;
use super::lane::lock;
use crate::types::NodeId;
use crate::wire::{CloseCode, HelloError, Malformed};

/// One line per reason and origin in this time.
const QUIET: Duration = Duration::from_secs(10);
/// Origins remembered; above, the oldest are forgotten, so a flood of addresses costs no memory.
const REMEMBERED: usize = 256;
/// TLS alerts travel as QUIC transport errors from here on (RFC 9001, section 4.8).
const CRYPTO: u64 = 0x100;

/// Who was refused: a node only if its certificate was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// A peer that this node dialled.
    Dialled(NodeId),
    /// A verified node that dialled this one.
    Node(NodeId),
    /// Whoever it was that dialled this node.
    Address(IpAddr),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled(node) => write!(f, "node {node}, dialled"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Address(address) => write!(f, "unknown at {address}"),
        }
    }
}

/// Why a connection did not come about, or ended.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Reason {
    /// This node closes with the code; the text has the details.
    #[error("{}: {}", .0.name(), .1)]
    Ours(CloseCode, String),
    /// The peer closed with the code.
    #[error("closed by the peer: {}", .0.name())]
    Theirs(CloseCode),
    /// The peer closed with a code that this version does not know.
    #[error("closed by the peer with unknown code {0:#x}")]
    TheirsUnknown(u64),
    /// This node refused the peer's certificate.
    #[error("certificate refused: {0}")]
    Certificate(String),
    /// The peer refused this node's certificate.
    #[error("the peer refused this node's certificate: {0}")]
    OwnCertificate(&'static str),
    /// TLS found nothing in common.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The address could not be used.
    #[error("cannot dial {0:?}: {1}")]
    Address(String, String),
    /// Nobody answered in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke.
    #[error("{0}")]
    Lost(String),
    /// The stream ended and the connection did not.
    #[error("{0}")]
    Stream(&'static str),
}

impl Reason {
    /// The name under which it is counted.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ours(code, _) | Self::Theirs(code) => code.name(),
            Self::TheirsUnknown(_) => "unknown close code",
            Self::Certificate(_) => "certificate refused",
            Self::OwnCertificate(_) => "own certificate refused",
            Self::Tls(_) => "tls",
            Self::Address(..) => "address",
            Self::Timeout => "timeout",
            Self::Lost(_) => "connection lost",
            Self::Stream(name) => name,
        }
    }

    /// Whether somebody was refused, rather than a connection lost.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Ours(code, _) | Self::Theirs(code) => !matches!(
                code,
                CloseCode::Shutdown | CloseCode::Replaced | CloseCode::Rotating
            ),
            Self::TheirsUnknown(_)
            | Self::Certificate(_)
            | Self::OwnCertificate(_)
            | Self::Tls(_) => true,
            Self::Address(..) | Self::Timeout | Self::Lost(_) | Self::Stream(_) => false,
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Ours(code, _) | Self::Theirs(code) => code.advice(),
            Self::TheirsUnknown(_) => "compare the versions of both nodes",
            Self::Certificate(_) => {
                "compare the peer's certificate, its dates and CA with this node's CA bundle; \
                 `conveyor-raft certs` makes new ones"
            }
            Self::OwnCertificate(_) => {
                "compare this node's certificate, its dates and CA with the peer's CA bundle"
            }
            Self::Tls(_) => "see that both run conveyor-raft and show a certificate",
            Self::Address(..) => "check the peer's address",
            Self::Timeout | Self::Lost(_) | Self::Stream(_) => "check the network",
        }
    }
}

impl From<IdentityError> for Reason {
    fn from(error: IdentityError) -> Self {
        Self::Certificate(error.to_string())
    }
}

impl From<HelloError> for Reason {
    fn from(error: HelloError) -> Self {
        Self::Ours(error.code(), error.to_string())
    }
}

impl From<Malformed> for Reason {
    fn from(error: Malformed) -> Self {
        Self::Ours(error.code(), error.to_string())
    }
}

impl From<ConnectionError> for Reason {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let number = close.error_code.into_inner();
                CloseCode::from_number(number).map_or(Self::TheirsUnknown(number), Self::Theirs)
            }
            ConnectionError::TransportError(error) => {
                match u64::from(error.code).checked_sub(CRYPTO) {
                    Some(alert) if alert_name(alert).is_some() => Self::Certificate(error.reason),
                    Some(_) => Self::Tls(error.reason),
                    None => Self::Lost(error.to_string()),
                }
            }
            ConnectionError::ConnectionClosed(close) => {
                match u64::from(close.error_code).checked_sub(CRYPTO) {
                    Some(alert) => match alert_name(alert) {
                        Some(name) => Self::OwnCertificate(name),
                        None => Self::Tls(format!("the peer sent alert {alert}")),
                    },
                    None => Self::Lost(format!("closed by the peer: {}", close.error_code)),
                }
            }
            ConnectionError::TimedOut => Self::Timeout,
            other => Self::Lost(other.to_string()),
        }
    }
}

/// The reason in one line of bounded length: parts of it may be words of somebody unknown.
fn printable(reason: &Reason) -> String {
    let text = reason.to_string();
    let plain = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(300).map(plain).collect()
}

/// The TLS alerts that are about a certificate (RFC 8446, section 6.2).
fn alert_name(alert: u64) -> Option<&'static str> {
    Some(match alert {
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "certificate revoked",
        45 => "certificate expired or not yet valid",
        46 => "certificate unknown, or not that of a peer of this cluster",
        48 => "unknown CA",
        49 => "access denied",
        51 => "signature wrong",
        116 => "certificate required",
        _ => return None,
    })
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<&'static str, u64>,
    recent: BTreeMap<(&'static str, Who), Recent>,
}

#[derive(Debug)]
struct Recent {
    logged: Instant,
    suppressed: u64,
}

impl Refusals {
    /// Counts a refusal, and logs it unless the same was logged just now.
    pub(super) fn note(&self, who: Who, at: Option<SocketAddr>, reason: &Reason) {
        let now = Instant::now();
        let Some(suppressed) = self.count(who, reason.name(), now) else {
            return;
        };
        tracing::warn!(
            %who,
            at = at.map(tracing::field::display),
            why = printable(reason),
            suppressed,
            "peer refused: {}",
            reason.advice()
        );
    }

    /// Counts; gives the number of lines left out since the last one if a line is due now.
    fn count(&self, who: Who, name: &'static str, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        *state.counts.entry(name).or_default() += 1;
        if let Some(recent) = state.recent.get_mut(&(name, who)) {
            if now.duration_since(recent.logged) < QUIET {
                recent.suppressed += 1;
                return None;
            }
            recent.logged = now;
            return Some(std::mem::take(&mut recent.suppressed));
        }
        if state.recent.len() >= REMEMBERED {
            let oldest = state.recent.iter().min_by_key(|(_, recent)| recent.logged);
            if let Some(key) = oldest.map(|(&key, _)| key) {
                state.recent.remove(&key);
            }
        }
        let fresh = Recent {
            logged: now,
            suppressed: 0,
        };
        state.recent.insert((name, who), fresh);
        Some(0)
    }

    /// How often each reason occurred.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        let state = lock(&self.state);
        state.counts.iter().map(|(&name, &n)| (name, n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_say_stays_on_one_short_line() {
        let reason = Reason::Tls(format!("a\nb\x1b[31m{}", "x".repeat(1000)));
        let text = printable(&reason);
        assert!(text.starts_with("TLS failed: a?b?[31mxx"), "{text}");
        assert_eq!(text.chars().count(), 300);
    }

    #[test]
    fn refusal_log_is_rate_limited() {
        let refusals = Refusals::default();
        let (start, who) = (Instant::now(), Who::Node(3));
        assert_eq!(refusals.count(who, "role", start), Some(0));
        for _ in 0..7 {
            assert_eq!(refusals.count(who, "role", start), None);
        }
        assert_eq!(refusals.count(Who::Node(4), "role", start), Some(0));
        assert_eq!(refusals.count(who, "revoked", start), Some(0));
        assert_eq!(refusals.count(who, "role", start + QUIET), Some(7));
        assert_eq!(refusals.counts(), [("revoked", 1), ("role", 10)]);
    }

    #[test]
    fn i6_a_flood_of_addresses_costs_bounded_memory() {
        let refusals = Refusals::default();
        for n in 0..10 * REMEMBERED as u32 {
            let who = Who::Address(IpAddr::from(n.to_be_bytes()));
            refusals.count(who, "tls", Instant::now());
        }
        assert_eq!(lock(&refusals.state).recent.len(), REMEMBERED);
    }
}

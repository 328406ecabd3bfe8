//! Peers over QUIC with mutual TLS 1.3: [`RaftTransport`] dials and sends, its
//! [`RaftTransportService`] accepts and receives.
//!
//! Per link and stream epoch a message arrives at most once, in order and unaltered. Nothing is
//! promised about delivery: what does not fit is refused, what is lost is asked for again by the
//! core. Who sent a message is what its connection's certificate says; no frame names a sender.
//! There is one constructor, and it takes [`Credentials`]: no way leads to a connection that does
//! not verify both sides.

mod accept;
pub mod certs;
mod credentials;
mod credit;
mod dial;
pub(crate) mod expiry;
mod figures;
mod forward;
mod forwarded;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod identity;
mod lane;
mod limits;
mod progress;
#[doc(hidden)]
pub mod raw;
mod refusals;
mod reload;
mod shared;
mod socket;
mod standing;
mod stream;
mod tally;
pub(crate) mod tls;
mod transport;

pub use accept::RaftTransportService;
pub use credentials::{CredentialFiles, Credentials, CredentialsError, check_key_file};
pub use identity::{ClientRole, Identity, IdentityError, Role};
pub use reload::{ReloadError, ReloadReport};
pub use standing::{DialledClass, FrameCount, PeerTransport, PeerTransportStats};
pub use tally::LinkState;
pub use transport::{RaftTransport, TransportError, TransportObserver, TransportOptions};

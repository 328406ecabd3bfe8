//! Peers over QUIC with mutual TLS 1.3.

pub mod certs;
mod credentials;
mod identity;
mod tls;

pub use credentials::{CredentialFiles, Credentials, CredentialsError, check_key_file};
pub use identity::{ClientRole, Identity, IdentityError, Role};

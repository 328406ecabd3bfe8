//! quic

/// Skeleton, replaced by the transport.
#[derive(Clone, Debug)]
pub struct Credentials;

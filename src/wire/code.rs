//! Application close codes: why a connection was closed, and what the dialer does then.

use std::time::Duration;

macro_rules! codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// Why a connection is closed. The numbers are those on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub(crate) enum CloseCode {
            $($name = $code,)*
        }

        impl CloseCode {
            /// The code with this number, if this version knows it.
            pub(crate) fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name that is sent as the reason and printed in the log.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

codes! {
    Shutdown = 0x00, "shutdown";
    Replaced = 0x01, "replaced";
    Rotating = 0x02, "rotating";
    Stalled = 0x03, "stalled";
    Overloaded = 0x04, "overloaded";
    HelloTimeout = 0x05, "hello timeout";
    BadHello = 0x10, "bad hello";
    NoCommonVersion = 0x11, "no common version";
    FeatureLevel = 0x12, "feature level too low";
    WrongCluster = 0x13, "wrong cluster or genesis";
    WrongDestination = 0x14, "wrong destination";
    HelloMismatch = 0x15, "hello differs from certificate";
    Role = 0x16, "role not allowed";
    RolledBack = 0x17, "rolled back";
    Removed = 0x18, "removed";
    SecondIncarnation = 0x1a, "second live incarnation";
    Revoked = 0x1b, "revoked";
    Malformed = 0x20, "malformed";
    TooLarge = 0x21, "too large";
    UnknownKind = 0x22, "unknown kind";
    WrongStream = 0x23, "kind not of this class";
    Reserved = 0x24, "reserved not zero";
    OutOfOrder = 0x25, "seq or epoch out of order";
    EntryChecksum = 0x26, "entry checksum";
}

/// When a dialer may try again after its connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redial {
    /// At once.
    Now,
    /// After the ordinary, jittered backoff (20 ms to 2 s).
    Backoff,
    /// After a fixed wait, with an alarm: nothing will change by itself soon.
    Slow(Duration),
    /// After a wait that doubles to a minute: the peer was sent something malformed.
    Long,
}

/// Wait of a dialer that was refused for what it is.
pub(crate) const SLOW_RETRY: Duration = Duration::from_secs(30);

/// Wait of a dialer whose node id is connected in another life.
const SECOND_LIFE_RETRY: Duration = Duration::from_secs(5);

impl CloseCode {
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    pub(crate) const fn redial(self) -> Redial {
        match self {
            Self::Rotating => Redial::Now,
            // `Replaced` is acted upon where it is received: the newer connection lives on, and
            // should it have died meanwhile the backoff finds out.
            Self::Shutdown
            | Self::Replaced
            | Self::Stalled
            | Self::Overloaded
            | Self::HelloTimeout => Redial::Backoff,
            Self::BadHello
            | Self::NoCommonVersion
            | Self::FeatureLevel
            | Self::WrongCluster
            | Self::WrongDestination
            | Self::HelloMismatch
            | Self::Role
            | Self::RolledBack
            | Self::Removed
            | Self::Revoked => Redial::Slow(SLOW_RETRY),
            // The first one may be dead already and only not yet missed.
            Self::SecondIncarnation => Redial::Slow(SECOND_LIFE_RETRY),
            Self::Malformed
            | Self::TooLarge
            | Self::UnknownKind
            | Self::WrongStream
            | Self::Reserved
            | Self::OutOfOrder
            | Self::EntryChecksum => Redial::Long,
        }
    }

    /// What an operator can do about a refusal.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::Shutdown | Self::Replaced | Self::Rotating => "nothing to do",
            Self::Stalled | Self::Overloaded | Self::HelloTimeout => {
                "check the load and the network of both nodes"
            }
            Self::BadHello | Self::NoCommonVersion | Self::FeatureLevel => {
                "run versions of conveyor-raft on both nodes that can talk to each other"
            }
            Self::WrongCluster => {
                "compare the cluster ids (certs/cluster.toml) and the history of both data \
                 directories; one of them belongs to another cluster"
            }
            Self::WrongDestination => {
                "check the peer addresses; if that node lost its data directory, use replace"
            }
            Self::HelloMismatch => "give the node the certificate that was issued for its id",
            Self::Role => "use the node's peer certificate (node-<id>/peer.pem)",
            Self::RolledBack => {
                "the data directory is an old copy: delete it and use replace for this node"
            }
            Self::Removed => "this node was removed from the cluster: delete its directory",
            Self::SecondIncarnation => {
                "two directories claim one node id: stop one of them, or use replace"
            }
            Self::Revoked => "issue a new certificate for this node",
            Self::Malformed
            | Self::TooLarge
            | Self::UnknownKind
            | Self::WrongStream
            | Self::Reserved
            | Self::OutOfOrder => "compare the versions of both nodes and report this as a bug",
            Self::EntryChecksum => {
                "the sender's log or memory may be damaged: check its disk and memory"
            }
        }
    }
}

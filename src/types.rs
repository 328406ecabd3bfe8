//! The words that every part shares: who, which term, which place in the log.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// A node's number, at least 1. Zero means "nobody" (a vote not given, no leader known).
pub type NodeId = u64;
/// A Raft term (Raft paper, section 5.1). At most 2^48 - 1, the width it has in an entry frame.
pub type Term = u64;
/// A place in the log. The first entry has index 1; zero is "before the log".
pub type LogIndex = u64;
/// Microseconds. Of the monotonic clock where a parameter is called `now`, of the leader's log
/// clock where it is called `time_us`.
pub type Micros = u64;

/// The largest term that an entry frame can carry (48 bits).
pub const MAX_TERM: Term = (1 << 48) - 1;

/// Largest encoded configuration, bytes: what the log keeps room for (`config::limits`).
pub(crate) const MAX_CONFIGURATION: usize = 32 << 10;

/// The position of an entry: its term and index.
///
/// The order is that of section 5.4.1 of the Raft paper: the later term is more up to date, and
/// within a term the larger index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that appended the entry.
    pub term: Term,
    /// Place in the log.
    pub index: LogIndex,
}

impl LogId {
    /// The position `index` in `term`.
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The value that means "none".
            pub const NONE: Self = Self([0; 16]);

            /// Whether this is the value that means "none".
            pub fn is_none(&self) -> bool {
                self.0 == [0; 16]
            }

            /// A fresh random value from the operating system.
            ///
            /// # Errors
            /// If the operating system has no random numbers to give.
            pub fn random() -> std::io::Result<Self> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let digits = text.as_bytes();
                if digits.len() != 32 {
                    return Err(ParseIdError);
                }
                let mut bytes = [0; 16];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

id128! {
    /// Which life of a replica: drawn at random when a data directory is created, so that a wiped
    /// directory under an old node id is a different voter.
    Incarnation
}

id128! {
    /// Which cluster: drawn at random by `certs init`, part of every certificate.
    ClusterId
}

fn hex_digit(digit: u8) -> Result<u8, ParseIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseIdError),
    }
}

/// An id that is not 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 lower-case hexadecimal digits")]
pub struct ParseIdError;

/// A voter, and every other member: a node id in one of its lives. Quorums, votes, acks and
/// configurations name both, so that a replica that lost its disk cannot speak for the one that
/// had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// The node's number.
    pub node: NodeId,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

impl ReplicaId {
    /// Node `node` in its life `incarnation`.
    pub const fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Self { node, incarnation }
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.incarnation)
    }
}

/// What must be durable before a vote counts (Raft paper, figure 2: persistent state).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Who got this replica's vote in that term; node 0 = nobody.
    pub voted_for: ReplicaId,
}

/// What an entry is for. The numbers are those of the entry frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// Opens a term (section 8 of the Raft paper); empty.
    Noop = 0,
    /// A command for the state machine.
    Command = 1,
    /// A cluster configuration; takes effect when appended.
    Configuration = 2,
    /// The crate's own: sessions, feature level, skip.
    System = 3,
}

impl EntryKind {
    /// The kind with this number in an entry frame, if there is one.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Noop),
            1 => Some(Self::Command),
            2 => Some(Self::Configuration),
            3 => Some(Self::System),
            _ => None,
        }
    }
}

/// One decoded log entry. The payload shares the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position.
    pub id: LogId,
    /// What the payload is.
    pub kind: EntryKind,
    /// The leader's log clock when it appended the entry; never decreases along the log.
    pub time_us: Micros,
    /// The bytes that the proposer gave, verbatim.
    pub payload: Bytes,
}

/// Number of one write handed to the log, rising by one. The completion of a write means that it
/// and every write before it are durable.
pub type WriteId = u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse_back() {
        let id = ClusterId::random().expect("random");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("AA".parse::<ClusterId>(), Err(ParseIdError));
        assert_eq!(
            "A".repeat(32).parse::<ClusterId>(),
            Err(ParseIdError),
            "upper case is not canonical"
        );
    }

    #[test]
    fn log_ids_order_by_term_first() {
        assert!(LogId::new(2, 1) > LogId::new(1, 9));
        assert!(LogId::new(2, 2) > LogId::new(2, 1));
    }
}

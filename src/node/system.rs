//! The crate's own entries: version, kind, and what the kind needs.
//!
//! ```text
//! off size field
//!   0    1 version, 1
//!   1    1 kind
//!   2      what the kind says; integers little-endian
//! ```
//! | kind | what | body |
//! |---|---|---|
//! | 1 | opens a session, whose number is the entry's index | |
//! | 2 | closes a session | its number, u64 |
//! | 3 | keeps a session that has nothing to send | its number, u64 |
//!
//! 4 to 9 are for sessions, too. Whoever meets a kind or version that it does not know must stop
//! there: to step over it would be to go on with another state than the others (hazard J2).

use bytes::Bytes;

use crate::types::LogIndex;

const VERSION: u8 = 1;
const OPEN_SESSION: u8 = 1;
const CLOSE_SESSION: u8 = 2;
const KEEP_SESSION: u8 = 3;

/// An entry of the crate's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SystemEntry {
    /// Opens a session.
    OpenSession,
    /// Closes one.
    CloseSession(LogIndex),
    /// Says that one is still wanted.
    KeepAlive(LogIndex),
}

impl SystemEntry {
    /// Its payload.
    pub(crate) fn encode(&self) -> Bytes {
        let mut payload = vec![VERSION];
        match self {
            Self::OpenSession => payload.push(OPEN_SESSION),
            Self::CloseSession(session) => {
                payload.push(CLOSE_SESSION);
                payload.extend_from_slice(&session.to_le_bytes());
            }
            Self::KeepAlive(session) => {
                payload.push(KEEP_SESSION);
                payload.extend_from_slice(&session.to_le_bytes());
            }
        }
        payload.into()
    }

    /// The entry in a payload.
    ///
    /// # Errors
    /// If this release does not know what it says.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, String> {
        let newer = |what: String| format!("{what}: written by a newer release");
        let Some(([version, kind], body)) = payload.split_first_chunk() else {
            return Err("an entry of the system's own is cut short".to_owned());
        };
        if *version != VERSION {
            return Err(newer(format!("a system entry of version {version}")));
        }
        match (*kind, <[u8; 8]>::try_from(body)) {
            (OPEN_SESSION, _) if body.is_empty() => Ok(Self::OpenSession),
            (CLOSE_SESSION, Ok(session)) => Ok(Self::CloseSession(u64::from_le_bytes(session))),
            (KEEP_SESSION, Ok(session)) => Ok(Self::KeepAlive(u64::from_le_bytes(session))),
            (OPEN_SESSION | CLOSE_SESSION | KEEP_SESSION, _) => Err(newer(format!(
                "a system entry of kind {kind} with more in it"
            ))),
            _ => Err(newer(format!("a system entry of kind {kind}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_entries_come_back_from_their_bytes() {
        for entry in [
            SystemEntry::OpenSession,
            SystemEntry::CloseSession(1 << 40),
            SystemEntry::KeepAlive(1 << 40),
        ] {
            assert_eq!(SystemEntry::decode(&entry.encode()), Ok(entry));
        }
        assert_eq!(SystemEntry::OpenSession.encode(), [1, 1].as_slice());
        let close = [1, 2, 7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(SystemEntry::CloseSession(7).encode(), close.as_slice());
        let keep = [1, 3, 7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(SystemEntry::KeepAlive(7).encode(), keep.as_slice());
    }

    #[test]
    fn j2_a_system_entry_of_a_newer_release_is_refused() {
        let unknown: [&[u8]; 7] = [
            &[2, 1],
            &[1, 0],
            &[1, 9],
            &[1, 255],
            &[1, 1, 0],
            &[1, 2, 7],
            &[1, 3, 7],
        ];
        for bad in unknown {
            let why = SystemEntry::decode(bad).expect_err("unknown");
            assert!(why.contains("newer release"), "{why}");
        }
        for short in [&[][..], &[1]] {
            let why = SystemEntry::decode(short).expect_err("nothing in it");
            assert!(why.contains("cut short"), "{why}");
        }
    }
}

//! The head of every command's payload: version and flags, and in a session whose command it is.
//!
//! ```text
//! off size field
//!   0    1 version, 1
//!   1    1 flags: 1 = in a session
//!   2   24 in a session: its number, the command's, and the floor; u64 each, little-endian
//!          the command
//! ```

use crate::state_machine::CommandError;
use crate::types::LogIndex;

/// Bytes before a command outside of sessions.
pub(crate) const LEN: usize = 2;
/// And those that a session adds.
pub(crate) const SESSION_LEN: usize = 24;
const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const IN_SESSION: u8 = 1;

/// Which command of which session something is (section 6.3 of the Raft thesis).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InSession {
    /// The session: the index of the entry that opened it.
    pub session: LogIndex,
    /// The command's number, from 1 on. A command that is sent again keeps its number; no other
    /// command of the session may ever have it.
    pub seq: u64,
    /// The client needs no answer to commands with lower numbers any more, and none of them takes
    /// effect from here on.
    pub floor: u64,
}

impl InSession {
    /// The command whose number is `count` above this one's, with the same floor.
    pub fn after(self, count: u64) -> Self {
        let seq = self.seq.saturating_add(count);
        Self { seq, ..self }
    }
}

/// Starts a payload; the command's bytes follow.
pub(crate) fn seal(session: Option<InSession>, out: &mut Vec<u8>) {
    match session {
        None => out.extend_from_slice(&[VERSION, PLAIN]),
        Some(at) => {
            out.extend_from_slice(&[VERSION, IN_SESSION]);
            for word in [at.session, at.seq, at.floor] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// Whose command a payload holds, and the command's bytes.
///
/// # Errors
/// If the payload was written by a newer version.
pub(crate) fn open(payload: &[u8]) -> Result<(Option<InSession>, &[u8]), CommandError> {
    let read = match payload.split_first_chunk::<LEN>() {
        Some(([VERSION, PLAIN], command)) => Some((None, command)),
        Some(([VERSION, IN_SESSION], rest)) => in_session(rest),
        _ => None,
    };
    read.ok_or_else(|| CommandError {
        field: "envelope".to_owned(),
        why: "unknown version or flags: written by a newer release".to_owned(),
    })
}

fn in_session(rest: &[u8]) -> Option<(Option<InSession>, &[u8])> {
    let (words, command) = rest.split_first_chunk::<SESSION_LEN>()?;
    let (words, _) = words.as_chunks::<8>();
    let [session, seq, floor] = words.try_into().ok()?;
    let at = InSession {
        session: u64::from_le_bytes(session),
        seq: u64::from_le_bytes(seq),
        floor: u64::from_le_bytes(floor),
    };
    Some((Some(at), command))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These bytes are in logs: whoever changes them makes another version.
    #[test]
    fn j2_golden_envelope() {
        let mut payload = Vec::new();
        seal(None, &mut payload);
        assert_eq!(payload, [1, 0]);
        assert_eq!(open(&[1, 0, 7, 8]), Ok((None, &[7, 8][..])));
        let at = InSession {
            session: 7,
            seq: 8,
            floor: 9,
        };
        let mut payload = Vec::new();
        seal(Some(at), &mut payload);
        let words = [7_u64, 8, 9].map(u64::to_le_bytes).concat();
        assert_eq!(payload, [&[1, 1][..], &words].concat());
    }

    #[test]
    fn an_envelope_opens_and_an_unknown_one_is_refused() {
        let mut payload = Vec::new();
        seal(None, &mut payload);
        assert_eq!(payload, [1, 0], "outside of sessions nothing is added");
        payload.extend_from_slice(b"command");
        assert_eq!(open(&payload), Ok((None, b"command".as_slice())));
        let at = InSession {
            session: 7,
            seq: 1 << 33,
            floor: 5,
        };
        let mut payload = Vec::new();
        seal(Some(at), &mut payload);
        assert_eq!(payload.len(), LEN + SESSION_LEN);
        assert_eq!(open(&payload), Ok((Some(at), b"".as_slice())));
        let short = &payload[..payload.len() - 1];
        for bad in [&b""[..], &[VERSION], &[2, 0, 1], &[VERSION, 2, 1], short] {
            open(bad).expect_err("unknown");
        }
    }
}

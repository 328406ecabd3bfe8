//! The head of every command's payload: version and flags, with room for a session.

use crate::state_machine::CommandError;

/// Bytes before the command.
pub(crate) const LEN: usize = 2;
const VERSION: u8 = 1;
/// No flag is known yet; a session's (client id, seq) will be announced here.
const FLAGS: u8 = 0;

/// Starts a payload; the command's bytes follow.
pub(crate) fn seal(out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, FLAGS]);
}

/// The command's bytes in a payload.
///
/// # Errors
/// If the payload was written by a newer version.
pub(crate) fn open(payload: &[u8]) -> Result<&[u8], CommandError> {
    match payload.split_first_chunk::<LEN>() {
        Some(([VERSION, FLAGS], command)) => Ok(command),
        _ => Err(CommandError {
            field: "envelope".to_owned(),
            why: "unknown version or flags: written by a newer release".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These bytes are in logs: whoever changes them makes another version.
    #[test]
    fn j2_golden_envelope() {
        let mut payload = Vec::new();
        seal(&mut payload);
        assert_eq!(payload, [1, 0]);
        assert_eq!(open(&[1, 0, 7, 8]), Ok(&[7, 8][..]));
    }

    #[test]
    fn an_envelope_opens_and_an_unknown_one_is_refused() {
        let mut payload = Vec::new();
        seal(&mut payload);
        payload.extend_from_slice(b"command");
        assert_eq!(open(&payload), Ok(b"command".as_slice()));
        for bad in [&b""[..], &[VERSION], &[2, 0, 1], &[VERSION, 1, 1]] {
            open(bad).expect_err("unknown");
        }
    }
}

//! The bytes of a command: its version, then protobuf. (The node puts an envelope of its own before
//! them, with room for a session.)
//!
//! ```text
//! off size field
//!   0    1 version of the encoding, 1
//!   1    1 flags, 0
//!   2      conveyor.raft.v1.RouterCommand
//! ```

use prost::Message;

use super::{RouterCommand, limits};
use crate::proto;
use crate::state_machine::CommandError;

const VERSION: u8 = 1;
pub(super) const ENVELOPE: usize = 2;

/// Appends the payload of `command` to `out`.
pub(crate) fn encode(command: &RouterCommand, out: &mut Vec<u8>) -> Result<(), CommandError> {
    command.validate()?;
    let message = proto::RouterCommand::from(command.clone());
    let len = message.encoded_len();
    if ENVELOPE + len > limits::MAX_COMMAND {
        return Err(CommandError {
            field: command.name().into(),
            why: format!(
                "is {len} bytes encoded, and the limit is {}; split it, or keep large data elsewhere and its address here",
                limits::MAX_COMMAND
            ),
        });
    }
    out.reserve(ENVELOPE + len);
    out.extend_from_slice(&[VERSION, 0]);
    message.encode(out).map_err(|cause| CommandError {
        field: command.name().into(),
        why: cause.to_string(),
    })
}

/// The command in `payload`.
pub(crate) fn decode(payload: &[u8]) -> Result<RouterCommand, CommandError> {
    let error = |field: &str, why: String| CommandError {
        field: field.into(),
        why,
    };
    let Some((&[version, flags], body)) = payload.split_first_chunk() else {
        return Err(error("payload", "ends inside its envelope".into()));
    };
    if version != VERSION {
        return Err(error(
            "version",
            format!("is {version}, and this release reads {VERSION}: upgrade this node"),
        ));
    }
    if flags != 0 {
        return Err(error(
            "flags",
            format!("are {flags:#04x}, which this release does not know: upgrade this node"),
        ));
    }
    let message = proto::RouterCommand::decode(body)
        .map_err(|cause| error("payload", format!("is no RouterCommand: {cause}")))?;
    message.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_checked() {
        let mut payload = Vec::new();
        encode(&RouterCommand::Noop, &mut payload).expect("encodes");
        assert_eq!(payload, [1, 0, 0x0a, 0]);
        assert_eq!(decode(&payload), Ok(RouterCommand::Noop));
        let field = |payload: &[u8]| decode(payload).expect_err("refused").field;
        assert_eq!(field(&[2, 0, 0x0a, 0]), "version");
        assert_eq!(field(&[1, 1, 0x0a, 0]), "flags");
        assert_eq!(field(&[1]), "payload");
        assert_eq!(field(&[1, 0, 0x0a, 9]), "payload");
        assert_eq!(field(&[1, 0]), "command", "a kind of a newer version");
    }

    #[test]
    fn sized_commands_have_their_size() {
        for bytes in [64, 100, 127, 128, 129, 130, 131, 200, 400] {
            for number in [0, 1, 127, 128, 1 << 20] {
                let mut payload = Vec::new();
                let command = RouterCommand::sized(number, 100, bytes);
                encode(&command, &mut payload).expect("encodes");
                let off = payload.len().abs_diff(bytes);
                assert!(off <= 1, "{bytes}: {}", payload.len());
                assert!(off == 0 || bytes != 128);
                assert_eq!(decode(&payload), Ok(command));
            }
        }
    }
}

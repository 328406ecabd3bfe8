//! The commands of the benchmarks that propose: 128 bytes each, and each is applied.

use conveyor_raft::state_machine::StateMachine as _;
use conveyor_raft::{RouterCommand, RouterStateMachine};

/// Bytes of a command as it stands in the log, envelope included.
const COMMAND: usize = 128;
/// From here on, offsets keep their encoded width for longer than any run takes.
pub(crate) const FIRST_OFFSET: u64 = 1 << 35;

pub(crate) fn command(source_id: String, offset: u64) -> RouterCommand {
    RouterCommand::CommitSourceOffset {
        source_id,
        partition: 1,
        offset,
        rewind: false,
    }
}

/// A source id that makes the task's commands exactly [`COMMAND`] bytes long.
pub(crate) fn source(task: usize) -> String {
    let padded = |len: usize| format!("bench/{task:04}/{}", "x".repeat(len));
    let size = |id: String| {
        let mut bytes = Vec::new();
        let encoded = RouterStateMachine::encode(&command(id, FIRST_OFFSET), &mut bytes);
        encoded.expect("the command is valid");
        bytes.len()
    };
    let len = (0..COMMAND).find(|len| size(padded(*len)) == COMMAND);
    padded(len.expect("an id can be padded to the byte"))
}

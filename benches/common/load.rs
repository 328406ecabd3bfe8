//! The commands of the benchmarks that propose: 128 bytes each unless said, and each is applied.
#![allow(dead_code, reason = "each bench uses a part of it")]

use conveyor_raft::state_machine::StateMachine as _;
use conveyor_raft::{RouterCommand, RouterState, RouterStateMachine};

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
    let size = |id: String| encoded(&command(id, FIRST_OFFSET));
    let len = (0..COMMAND).find(|len| size(padded(*len)) == COMMAND);
    padded(len.expect("an id can be padded to the byte"))
}

fn encoded(command: &RouterCommand) -> usize {
    let mut bytes = Vec::new();
    let encoded = RouterStateMachine::encode(command, &mut bytes);
    encoded.expect("the command is valid");
    bytes.len()
}

/// Commands of one size. Those that change a source's offset are as long as its id makes them; longer ones
/// give a pipeline another configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commands {
    /// 16 bytes: the shortest there are, of up to 256 sources.
    Short,
    /// [`COMMAND`] bytes.
    Usual,
    /// A configuration of so many bytes.
    Records(usize),
}

impl Commands {
    /// Of `size` bytes each.
    pub(crate) fn of(size: usize) -> Self {
        let commands = match size {
            16 => Self::Short,
            COMMAND => Self::Usual,
            _ => {
                let fits = |len: &usize| encoded(&update(source_of_record(0), *len, 0)) == size;
                let len = (size.saturating_sub(64)..size).find(fits);
                Self::Records(len.expect("a configuration can be padded to the byte"))
            }
        };
        let sample = commands.command(&commands.source(0), FIRST_OFFSET);
        assert_eq!(encoded(&sample), size);
        commands
    }

    /// What names the task's commands.
    pub(crate) fn source(self, task: usize) -> String {
        match self {
            Self::Short => format!("s{task:02x}"),
            Self::Usual => source(task),
            Self::Records(_) => source_of_record(task),
        }
    }

    /// What must be there before the first one.
    pub(crate) fn founding(self, source: &str) -> Option<RouterCommand> {
        let created = RouterCommand::CreatePipeline {
            pipeline_id: source.to_owned(),
            name: String::new(),
            config: Vec::new(),
        };
        matches!(self, Self::Records(_)).then_some(created)
    }

    pub(crate) fn command(self, source: &str, offset: u64) -> RouterCommand {
        match self {
            Self::Short => RouterCommand::CommitSourceOffset {
                source_id: source.to_owned(),
                partition: 0,
                offset,
                rewind: false,
            },
            Self::Usual => command(source.to_owned(), offset),
            Self::Records(len) => update(source.to_owned(), len, offset),
        }
    }

    /// Whether a state is that after commands of so many sources.
    pub(crate) fn check(self, view: &RouterState, sources: usize) {
        let found = match self {
            Self::Records(_) => view.pipelines.len(),
            _ => view.checkpoints.source_offsets.len(),
        };
        assert_eq!(found, sources);
    }
}

fn source_of_record(task: usize) -> String {
    format!("bench/{task:04}")
}

/// Gives a pipeline a configuration that it has not had yet.
fn update(pipeline_id: String, len: usize, number: u64) -> RouterCommand {
    let mut config = vec![7; len];
    config[..8].copy_from_slice(&number.to_le_bytes());
    RouterCommand::UpdatePipeline {
        pipeline_id,
        config,
        expected_version: None,
    }
}

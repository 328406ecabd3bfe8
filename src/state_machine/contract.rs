//! The [`StateMachine`] trait: what a replicated state machine must do, and what it may use.

use std::io;
use std::sync::Arc;

use super::changes::Changes;
use crate::types::{LogIndex, Micros, Term};

/// Where in the log `apply` stands. The only time and the only randomness it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// Index of the entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Its log time, microseconds since the Unix epoch by the leaders' clocks; never decreases.
    pub time_us: Micros,
}

impl ApplyContext {
    /// A number that is the same on every node and different for every entry.
    pub fn seed(&self) -> u64 {
        // SplitMix64's finaliser over (index, term).
        let mut z = self.index ^ self.term.rotate_left(40) ^ 0x9e37_79b9_7f4a_7c15;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A command that cannot be proposed, or bytes that are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct CommandError {
    /// What is wrong, by name.
    pub field: String,
    /// Why.
    pub why: String,
}

/// A snapshot that cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Reading it failed.
    #[error("the snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is damaged or of an unknown version.
    #[error("the snapshot is not valid: {0}")]
    Invalid(String),
}

/// A frozen state that can be written out while the live one goes on.
pub trait Frozen: Send + 'static {
    /// Writes the state; called once, on a thread of its own.
    ///
    /// # Errors
    /// Those of `out`.
    fn write(self: Box<Self>, out: &mut dyn io::Write) -> io::Result<()>;
}

/// Takes a record by its key and what writes its value; false once it takes no more. See
/// [`StateMachine::scan`].
pub type Found<'f> = dyn FnMut(&str, &mut dyn FnMut(&mut Vec<u8>)) -> bool + 'f;

/// What a response says became of its command, for figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// It was applied.
    Applied,
    /// Everything was already as it asks.
    Unchanged,
    /// The state machine refused it.
    Rejected,
}

/// A replicated state machine. Every node applies the same commands in the same order; the same
/// commands must give the same state, the same responses and the same digest everywhere. So
/// `apply` uses no clock, no randomness and no hash order but what [`ApplyContext`] gives it.
pub trait StateMachine: Send + 'static {
    /// What is proposed.
    type Command: Send + 'static;
    /// What a proposal returns. A refusal by the state machine is a response like any other.
    type Response: Send + 'static;
    /// What readers see.
    type View: Send + Sync + 'static;

    /// Appends the bytes of `command` to `out`, made once by the proposer and carried verbatim.
    ///
    /// # Errors
    /// If the command is not one that `apply` could take: its shape or size are wrong.
    fn encode(command: &Self::Command, out: &mut Vec<u8>) -> Result<(), CommandError>;

    /// The command in `payload`.
    ///
    /// # Errors
    /// If the bytes are no command of a version known here.
    fn decode(payload: &[u8]) -> Result<Self::Command, CommandError>;

    /// Applies one command. Cannot fail.
    fn apply(&mut self, context: &ApplyContext, command: Self::Command) -> Self::Response;

    /// Whether [`apply_and_tell`](Self::apply_and_tell) tells what it changes. Without it nobody can
    /// watch parts of this state.
    const TELLS_CHANGES: bool = false;

    /// [`apply`](Self::apply), which also tells which records it changes. What it does to the state,
    /// and its response, must not depend on whether anybody hears that.
    fn apply_and_tell(
        &mut self,
        context: &ApplyContext,
        command: Self::Command,
        _changes: &mut Changes,
    ) -> Self::Response {
        self.apply(context, command)
    }

    /// Calls `found` with the key of each record whose key begins with `prefix` and comes behind
    /// the key `after`, and with what writes its value, until `found` says false. In whatever order,
    /// but always in the same. For those who watch: they begin with the state as it is.
    fn scan(_view: &Self::View, _prefix: &str, _after: Option<&str>, _found: &mut Found<'_>) {}

    /// A response as bytes, to be remembered for a client that sends its command again in a session;
    /// the same on every node, and readable by later releases. Without them (`None`) a command that
    /// is sent again is still not applied again, but its answer is not there any more.
    fn encode_response(_response: &Self::Response) -> Option<Vec<u8>> {
        None
    }

    /// The response in bytes that [`encode_response`](Self::encode_response) gave.
    fn decode_response(_bytes: &[u8]) -> Option<Self::Response> {
        None
    }

    /// A response as bytes for the node that passed the command on to the leader; by default those that
    /// are remembered. Without them (`None`) that node only learns that the command was applied.
    fn response_to_peer(response: &Self::Response) -> Option<Vec<u8>> {
        Self::encode_response(response)
    }

    /// The response in bytes that [`response_to_peer`](Self::response_to_peer) gave.
    fn response_from_peer(bytes: &[u8]) -> Option<Self::Response> {
        Self::decode_response(bytes)
    }

    /// What commands are called in figures; few, and never anything that a client chose.
    const COMMANDS: &'static [&'static str] = &["command"];

    /// A command's place in [`COMMANDS`](Self::COMMANDS).
    fn command_kind(_command: &Self::Command) -> usize {
        0
    }

    /// What a response says, for figures.
    fn response_kind(_response: &Self::Response) -> ResponseKind {
        ResponseKind::Applied
    }

    /// A new leader's first entry reached the state machine. The gap of log time before it, during
    /// which nobody led, can be told from activity by this call only.
    fn begin_term(&mut self, _context: &ApplyContext) {}

    /// Asked once a second on the leader: a command that log time `time_us` makes due, such as the
    /// expiry of leases. `apply` decides again, so a late answer does no harm.
    fn due(&self, _time_us: Micros) -> Option<Self::Command> {
        None
    }

    /// The state as of now, in O(1), for readers that may keep it for ever.
    fn view(&self) -> Arc<Self::View>;

    /// The state as of now, in O(1), to be written out on another thread.
    fn freeze(&self) -> Box<dyn Frozen>;

    /// Replaces the state by what [`Frozen::write`] wrote.
    ///
    /// # Errors
    /// If the snapshot cannot be read or is not valid; the state is then unchanged.
    fn restore(&mut self, reader: &mut dyn io::Read) -> Result<(), RestoreError>;

    /// 128 bits that are equal on two nodes exactly when (but for chance) their states are.
    fn digest(&self) -> u128;
}

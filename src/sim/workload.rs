//! What is proposed, and to which state machine.

use std::sync::Arc;

use imbl::Vector;

use super::linear::{Answer, Observation};
use super::random::Random;
use crate::state_machine::{
    ApplyContext, CommandError, Frozen, RestoreError, RouterCommand, RouterStateMachine,
    StateMachine,
};

/// The commands of a simulation. Implement it to run your own state machine through the faults.
pub trait Workload {
    /// The state machine.
    type Machine: StateMachine;

    /// A fresh one, for a node that starts.
    fn machine(&self) -> Self::Machine;

    /// Command number `id`. Its encoding must differ from that of every other id: that is how the
    /// simulator tells commands apart in the log.
    fn command(&self, id: u64, random: &mut Random) -> <Self::Machine as StateMachine>::Command;

    /// Whether the state machine has commands of its own proposed, see [`StateMachine::due`]. Then
    /// a command in the log that no client proposed is no violation.
    fn proposes_by_itself(&self) -> bool {
        false
    }

    /// Makes the state another one, in its digest alone: what clients are answered stays right.
    /// Whether it did.
    fn spoil(&self, _machine: &mut Self::Machine) -> bool {
        false
    }

    /// Judges the response to command `id`, which is number `place` (from 1 on) of the commands in
    /// the log.
    ///
    /// # Errors
    /// What is wrong with it; the run fails then.
    fn check(
        &self,
        _id: u64,
        _place: u64,
        _response: &<Self::Machine as StateMachine>::Response,
    ) -> Result<(), String> {
        Ok(())
    }

    /// The command as what it does to one register, if it can be seen so. The history of all such
    /// commands is then judged: it must be linearizable. No other command may change a register.
    fn observes(&self, _command: &<Self::Machine as StateMachine>::Command) -> Option<Observation> {
        None
    }

    /// What the response to a command that [`observes`](Self::observes) knows says of its register.
    fn answers(&self, _response: &<Self::Machine as StateMachine>::Response) -> Answer {
        Answer::Done
    }

    /// What the state shows of a register. What nodes show to local readers is judged by it.
    fn shows(&self, _view: &<Self::Machine as StateMachine>::View, _key: u64) -> Option<u64> {
        None
    }

    /// The same command as number `id`, for a client that tries again what was refused or whose
    /// outcome it does not know. Without it clients give up. Only for commands that
    /// [`observes`](Self::observes) knows.
    fn again(
        &self,
        _id: u64,
        _command: &<Self::Machine as StateMachine>::Command,
    ) -> Option<<Self::Machine as StateMachine>::Command> {
        None
    }
}

/// A state machine that remembers the number of every command, and answers with how many it has.
/// A command lost, applied twice or in another order gives another answer or digest.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vector<u64>,
    digest: u128,
}

impl StateMachine for Ledger {
    type Command = u64;
    type Response = u64;
    type View = Vector<u64>;

    fn encode(command: &u64, out: &mut Vec<u8>) -> Result<(), CommandError> {
        out.extend_from_slice(&command.to_le_bytes());
        // Entries of different lengths, so that batches and segments end at different places.
        out.resize(out.len() + (*command % 7 * 90) as usize, *command as u8);
        Ok(())
    }

    fn decode(payload: &[u8]) -> Result<u64, CommandError> {
        let number = payload
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes));
        number.ok_or_else(|| CommandError {
            field: "command".to_owned(),
            why: "shorter than 8 bytes".to_owned(),
        })
    }

    fn apply(&mut self, context: &ApplyContext, command: u64) -> u64 {
        self.entries.push_back(command);
        let mix = u128::from(command) << 64 | u128::from(context.seed());
        self.digest = (self.digest ^ mix).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        self.entries.len() as u64
    }

    fn encode_response(response: &u64) -> Option<Vec<u8>> {
        Some(response.to_le_bytes().into())
    }

    fn decode_response(bytes: &[u8]) -> Option<u64> {
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    fn view(&self) -> Arc<Vector<u64>> {
        Arc::new(self.entries.clone())
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn restore(&mut self, reader: &mut dyn std::io::Read) -> Result<(), RestoreError> {
        let (digest, entries) = read_frozen(reader)?;
        self.digest = digest;
        self.entries = entries.into_iter().map(u64::from_le_bytes).collect();
        Ok(())
    }

    fn digest(&self) -> u128 {
        self.digest
    }
}

/// A digest, and behind it items of N bytes: how the machines here are frozen.
pub(super) fn read_frozen<const N: usize>(
    reader: &mut dyn std::io::Read,
) -> Result<(u128, Vec<[u8; N]>), RestoreError> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    let short = || RestoreError::Invalid("shorter than its digest".to_owned());
    let (digest, items) = bytes.split_first_chunk::<16>().ok_or_else(short)?;
    let (items, rest) = items.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(RestoreError::Invalid("ends within an item".to_owned()));
    }
    Ok((u128::from_le_bytes(*digest), items.to_vec()))
}

impl Frozen for Ledger {
    fn write(self: Box<Self>, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        out.write_all(&self.digest.to_le_bytes())?;
        self.entries
            .iter()
            .try_for_each(|entry| out.write_all(&entry.to_le_bytes()))
    }
}

/// Numbers for a [`Ledger`]; the response must be the command's place in the log, which is what
/// makes the history linearizable: whoever is answered before another asks has the lower place.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerWorkload;

impl Workload for LedgerWorkload {
    type Machine = Ledger;

    fn machine(&self) -> Ledger {
        Ledger::default()
    }

    fn command(&self, id: u64, _: &mut Random) -> u64 {
        id
    }

    fn spoil(&self, machine: &mut Ledger) -> bool {
        machine.digest ^= 1 << 77;
        true
    }

    fn check(&self, id: u64, place: u64, response: &u64) -> Result<(), String> {
        if *response == place {
            return Ok(());
        }
        Err(format!(
            "S17: command {id} is number {place} in the log and was answered as number {response}"
        ))
    }
}

/// Registrations, removals and offsets for the router's state machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouterWorkload;

impl Workload for RouterWorkload {
    type Machine = RouterStateMachine;

    fn machine(&self) -> RouterStateMachine {
        RouterStateMachine::new()
    }

    fn proposes_by_itself(&self) -> bool {
        true
    }

    fn command(&self, id: u64, random: &mut Random) -> RouterCommand {
        // The endpoint carries the number; few names, so that commands meet each other.
        let name = format!("mask-{}", random.below(20));
        let endpoint = format!(
            "10.0.{}.{}:{}",
            id >> 24 & 255,
            id >> 16 & 255,
            id & 0xffff | 1
        );
        RouterCommand::register_service(name, format!("type-{id}"), endpoint)
    }
}

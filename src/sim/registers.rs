//! A few registers that many clients contend for, so that histories say much.

use std::sync::Arc;

use imbl::OrdMap;

use super::linear::{Action, Answer, Observation};
use super::random::Random;
use super::workload::{Workload, read_frozen};
use crate::state_machine::{ApplyContext, CommandError, Frozen, RestoreError, StateMachine};

/// How many registers [`RegisterWorkload`] uses.
const KEYS: u64 = 5;

/// Something to do to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterCommand {
    /// Its number: two commands that do the same have different encodings.
    pub id: u64,
    /// Which register.
    pub key: u64,
    /// What to do.
    pub action: Action,
}

/// Registers that hold numbers, 0 at first.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    values: OrdMap<u64, u64>,
    /// Covers every command, so that one applied twice shows even if it changes no register.
    digest: u128,
}

const READ: u64 = 0;
const WRITE: u64 = 1;
const SWAP: u64 = 2;
const COMPARE_AND_SET: u64 = 3;

impl StateMachine for Registers {
    type Command = RegisterCommand;
    type Response = Answer;
    type View = OrdMap<u64, u64>;

    fn encode(command: &RegisterCommand, out: &mut Vec<u8>) -> Result<(), CommandError> {
        let (kind, first, second) = match command.action {
            Action::Read => (READ, 0, 0),
            Action::Write(new) => (WRITE, new, 0),
            Action::Swap(new) => (SWAP, new, 0),
            Action::CompareAndSet { expected, new } => (COMPARE_AND_SET, new, expected),
        };
        for word in [command.id, command.key, kind, first, second] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        // Entries of different lengths, so that batches and segments end at different places.
        out.resize(out.len() + (command.id % 7 * 90) as usize, command.id as u8);
        Ok(())
    }

    fn decode(payload: &[u8]) -> Result<RegisterCommand, CommandError> {
        let bad = |why: &str| CommandError {
            field: "command".to_owned(),
            why: why.to_owned(),
        };
        let words = payload.first_chunk::<40>();
        let words = words.ok_or_else(|| bad("shorter than 40 bytes"))?;
        let (words, _) = words.as_chunks::<8>();
        let [id, key, kind, new, expected] = *words else {
            return Err(bad("shorter than 40 bytes"));
        };
        let new = u64::from_le_bytes(new);
        let action = match u64::from_le_bytes(kind) {
            READ => Action::Read,
            WRITE => Action::Write(new),
            SWAP => Action::Swap(new),
            COMPARE_AND_SET => Action::CompareAndSet {
                expected: u64::from_le_bytes(expected),
                new,
            },
            _ => return Err(bad("of an unknown kind")),
        };
        Ok(RegisterCommand {
            id: u64::from_le_bytes(id),
            key: u64::from_le_bytes(key),
            action,
        })
    }

    fn apply(&mut self, context: &ApplyContext, command: RegisterCommand) -> Answer {
        let value = self.values.get(&command.key).copied().unwrap_or_default();
        let (next, answer) = command.action.apply(value);
        if next != value {
            self.values.insert(command.key, next);
        }
        let mix = u128::from(command.id ^ next.rotate_left(32)) << 64;
        let mix = mix | u128::from(context.seed() ^ command.key);
        self.digest = (self.digest ^ mix).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        answer
    }

    fn encode_response(answer: &Answer) -> Option<Vec<u8>> {
        let (kind, value) = match *answer {
            Answer::Done => (0, 0),
            Answer::Value(value) => (1, value),
            Answer::Set(set) => (2, u64::from(set)),
        };
        Some([&[kind], value.to_le_bytes().as_slice()].concat())
    }

    fn decode_response(bytes: &[u8]) -> Option<Answer> {
        let (kind, value) = bytes.split_first()?;
        let value = u64::from_le_bytes(value.try_into().ok()?);
        match kind {
            0 => Some(Answer::Done),
            1 => Some(Answer::Value(value)),
            2 => Some(Answer::Set(value == 1)),
            _ => None,
        }
    }

    fn view(&self) -> Arc<OrdMap<u64, u64>> {
        Arc::new(self.values.clone())
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn restore(&mut self, reader: &mut dyn std::io::Read) -> Result<(), RestoreError> {
        let (digest, pairs) = read_frozen(reader)?;
        self.digest = digest;
        let pairs = pairs.into_iter().map(u128::from_le_bytes);
        self.values = pairs
            .map(|pair| ((pair >> 64) as u64, pair as u64))
            .collect();
        Ok(())
    }

    fn digest(&self) -> u128 {
        self.digest
    }
}

impl Frozen for Registers {
    fn write(self: Box<Self>, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        out.write_all(&self.digest.to_le_bytes())?;
        self.values.iter().try_for_each(|(key, value)| {
            let pair = u128::from(*key) << 64 | u128::from(*value);
            out.write_all(&pair.to_le_bytes())
        })
    }
}

/// Reads, writes, swaps and compare-and-sets on a few [`Registers`] by several clients that try
/// again what failed. The history must be linearizable.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegisterWorkload;

impl Workload for RegisterWorkload {
    type Machine = Registers;

    fn machine(&self) -> Registers {
        Registers::default()
    }

    /// Command `id` is about register `id % 5` and sets it to `id`, so that one knows from a value
    /// who wrote it; a compare-and-set guesses one of the last ids of its register.
    fn command(&self, id: u64, random: &mut Random) -> RegisterCommand {
        let action = match random.below(100) {
            0..30 => Action::Read,
            30..60 => Action::Write(id),
            60..75 => Action::Swap(id),
            _ => Action::CompareAndSet {
                expected: id.saturating_sub(KEYS * (1 + random.below(4))),
                new: id,
            },
        };
        RegisterCommand {
            id,
            key: id % KEYS,
            action,
        }
    }

    fn again(&self, id: u64, command: &RegisterCommand) -> Option<RegisterCommand> {
        Some(RegisterCommand { id, ..*command })
    }

    fn observes(&self, command: &RegisterCommand) -> Option<Observation> {
        Some(Observation {
            key: command.key,
            action: command.action,
        })
    }

    fn answers(&self, response: &Answer) -> Answer {
        *response
    }

    fn shows(&self, view: &OrdMap<u64, u64>, key: u64) -> Option<u64> {
        Some(view.get(&key).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: ApplyContext = ApplyContext {
        index: 9,
        term: 2,
        time_us: 7,
    };

    #[test]
    fn commands_come_back_from_their_bytes() {
        let cas = Action::CompareAndSet {
            expected: 3,
            new: 5,
        };
        for action in [Action::Read, Action::Write(4), Action::Swap(u64::MAX), cas] {
            for id in [1, 13, u64::MAX] {
                let command = RegisterCommand { id, key: 2, action };
                let mut bytes = Vec::new();
                Registers::encode(&command, &mut bytes).expect("valid");
                assert_eq!(Registers::decode(&bytes), Ok(command));
                assert!(Registers::decode(&bytes[..39]).is_err());
                bytes[16] = 4;
                assert!(Registers::decode(&bytes).is_err());
            }
        }
    }

    #[test]
    fn registers_come_back_from_a_snapshot() {
        let mut registers = Registers::default();
        for id in 1..40 {
            let action = Action::Write(id << 40);
            registers.apply(
                &CONTEXT,
                RegisterCommand {
                    id,
                    key: id % 7,
                    action,
                },
            );
        }
        let mut bytes = Vec::new();
        registers.freeze().write(&mut bytes).expect("to memory");
        let mut restored = Registers::default();
        restored.restore(&mut bytes.as_slice()).expect("valid");
        assert_eq!(restored.view(), registers.view());
        assert_eq!(restored.digest(), registers.digest());
        assert!(restored.restore(&mut &bytes[..15]).is_err());
        assert!(restored.restore(&mut &bytes[..20]).is_err());
        assert_eq!(restored.view(), registers.view());
    }

    #[test]
    fn a_read_applied_twice_changes_the_digest() {
        let mut registers = Registers::default();
        let action = Action::Read;
        let read = RegisterCommand {
            id: 1,
            key: 1,
            action,
        };
        assert_eq!(registers.apply(&CONTEXT, read), Answer::Value(0));
        let once = registers.digest();
        assert_eq!(registers.apply(&CONTEXT, read), Answer::Value(0));
        assert_ne!(registers.digest(), once);
    }
}

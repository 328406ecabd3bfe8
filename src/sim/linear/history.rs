//! What clients did to registers and what they were told, in one order of events.

use std::collections::BTreeMap;
use std::fmt;

/// Something done to a register. A register holds 0 at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Asks for the value.
    Read,
    /// Replaces the value.
    Write(u64),
    /// Replaces the value and asks for the one before.
    Swap(u64),
    /// Replaces the value if it is the one expected, and asks whether it was.
    CompareAndSet {
        /// The value expected.
        expected: u64,
        /// The value to set.
        new: u64,
    },
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It took effect; nothing more is known.
    Done,
    /// The value: that of a read, or the one before a swap.
    Value(u64),
    /// Whether a compare-and-set set its value.
    Set(bool),
}

/// A command as what it does to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Which register.
    pub key: u64,
    /// What is done to it.
    pub action: Action,
}

impl Action {
    /// What it makes of a register that holds `value`, and what its client is told.
    pub fn apply(self, value: u64) -> (u64, Answer) {
        match self {
            Self::Read => (value, Answer::Value(value)),
            Self::Write(new) => (new, Answer::Done),
            Self::Swap(new) => (new, Answer::Value(value)),
            Self::CompareAndSet { expected, new } if value == expected => (new, Answer::Set(true)),
            Self::CompareAndSet { .. } => (value, Answer::Set(false)),
        }
    }

    /// What it makes of a register that holds `value`, if the answer may be given there.
    pub(super) fn answered(self, value: u64, answer: Answer) -> Option<u64> {
        let (next, right) = self.apply(value);
        (answer == Answer::Done || answer == right).then_some(next)
    }
}

/// How an operation ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It may take effect at any time after its invocation, or never.
    Unknown,
    /// It never takes effect.
    Refused,
    /// It took effect before the event at this position.
    Answered(Answer, usize),
}

/// One operation of a client on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    /// The number of its command.
    pub(super) id: u64,
    pub(super) client: u64,
    pub(super) key: u64,
    pub(super) action: Action,
    /// The position of its invocation in the order of events.
    pub(super) invoked: usize,
    pub(super) outcome: Outcome,
}

impl Operation {
    pub(super) fn answered_at(&self) -> Option<usize> {
        match self.outcome {
            Outcome::Answered(_, at) => Some(at),
            _ => None,
        }
    }

    /// Whether a linearization may have to hold it.
    fn counts(&self) -> bool {
        match self.outcome {
            Outcome::Answered(..) => true,
            Outcome::Unknown => self.action != Action::Read,
            Outcome::Refused => false,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id, client, key, ..
        } = self;
        write!(f, "{:>6} client {client} command {id}: ", self.invoked)?;
        match self.action {
            Action::Read => write!(f, "read key {key}")?,
            Action::Write(new) => write!(f, "write {new} to key {key}")?,
            Action::Swap(new) => write!(f, "swap {new} into key {key}")?,
            Action::CompareAndSet { expected, new } => {
                write!(f, "set key {key} from {expected} to {new}")?;
            }
        }
        match self.outcome {
            Outcome::Unknown => write!(f, ", outcome unknown"),
            Outcome::Refused => write!(f, ", not applied"),
            Outcome::Answered(answer, at) => match answer {
                Answer::Done => write!(f, ", done at {at}"),
                Answer::Value(value) => write!(f, ", told {value} at {at}"),
                Answer::Set(true) => write!(f, ", set at {at}"),
                Answer::Set(false) => write!(f, ", not set at {at}"),
            },
        }
    }
}

/// An event; its operation by number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Invoked(usize),
    Answered(usize),
}

/// Operations in the order of their invocations. An event's position in the order of all events is
/// its time: two events at one moment of virtual time still have an order.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(super) operations: Vec<Operation>,
    pub(super) events: Vec<Event>,
}

impl History {
    /// A client begins an operation by a command. The number of the operation, for what follows.
    pub(crate) fn invoke(&mut self, client: u64, id: u64, observed: Observation) -> usize {
        let nth = self.operations.len();
        self.operations.push(Operation {
            id,
            client,
            key: observed.key,
            action: observed.action,
            invoked: self.events.len(),
            outcome: Outcome::Unknown,
        });
        self.events.push(Event::Invoked(nth));
        nth
    }

    /// It took effect.
    pub(crate) fn answer(&mut self, nth: usize, answer: Answer) {
        let at = self.events.len();
        if let Some(operation) = self.operations.get_mut(nth) {
            operation.outcome = Outcome::Answered(answer, at);
            self.events.push(Event::Answered(nth));
        }
    }

    /// It never takes effect.
    pub(crate) fn refuse(&mut self, nth: usize) {
        if let Some(operation) = self.operations.get_mut(nth) {
            operation.outcome = Outcome::Refused;
        }
    }

    /// The key of one of the operations so far.
    pub(crate) fn some_key(&self, draw: u64) -> Option<u64> {
        let nth = draw.checked_rem(self.operations.len() as u64)?;
        self.operations.get(nth as usize).map(|one| one.key)
    }

    /// The operations that count, key by key.
    pub(super) fn by_key(&self) -> BTreeMap<u64, Vec<Operation>> {
        let mut keys: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
        for operation in self.operations.iter().filter(|one| one.counts()) {
            keys.entry(operation.key).or_default().push(*operation);
        }
        keys
    }
}

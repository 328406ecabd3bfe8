//! The state of a replica: the state machine, and beside it the sessions.

use std::io::{self, Read, Write};

use bytes::Bytes;

use super::envelope;
use super::sessions::{SessionLimits, Sessions, Verdict};
use super::system::SystemEntry;
use super::waiters::Outcome;
use crate::error::{ProposeError, SessionRefusal};
use crate::snapshot::SnapshotFile;
use crate::state_machine::{ApplyContext, Changes, Frozen, StateMachine};
use crate::types::{Entry, EntryKind, Micros};
use crate::wal::Files;

/// As many sessions are open as may be; one may expire at any moment.
const FULL: ProposeError = ProposeError::Overloaded {
    budget: "the room for sessions of clients",
    retry_after_ms: 1000,
};

/// See the module.
pub(crate) struct ReplicaState<S> {
    pub(crate) machine: S,
    pub(crate) sessions: Sessions,
    limits: SessionLimits,
}

impl<S: StateMachine> ReplicaState<S> {
    /// A new machine; nobody has a session.
    pub(crate) fn new(machine: S) -> Self {
        Self::with_limits(machine, SessionLimits::default())
    }

    /// The same with other bounds, which must be those of all nodes.
    pub(crate) fn with_limits(machine: S, limits: SessionLimits) -> Self {
        Self {
            machine,
            sessions: Sessions::new(limits),
            limits,
        }
    }

    /// Of both.
    pub(crate) fn digest(&self) -> u128 {
        self.machine.digest().wrapping_add(self.sessions.digest())
    }

    /// Applies one entry; `before_us` is the log time of the one before. What the one who waits for
    /// it is told; what it changed is told to `changes`.
    ///
    /// # Errors
    /// If this release cannot read the entry.
    pub(crate) fn apply(
        &mut self,
        entry: &Entry,
        before_us: Micros,
        changes: &mut Changes,
    ) -> Result<Outcome<S::Response>, String> {
        let context = ApplyContext {
            index: entry.id.index,
            term: entry.id.term,
            time_us: entry.time_us,
        };
        match entry.kind {
            EntryKind::Noop => {
                self.sessions
                    .begin_term(entry.time_us.saturating_sub(before_us));
                self.machine.begin_term(&context);
                Ok(Outcome::Done)
            }
            EntryKind::Command => self.command(&context, &entry.payload, changes),
            EntryKind::System => self.system(&context, &entry.payload),
            // Configurations are the core's.
            EntryKind::Configuration => Ok(Outcome::Done),
        }
    }

    fn system(
        &mut self,
        context: &ApplyContext,
        payload: &[u8],
    ) -> Result<Outcome<S::Response>, String> {
        let sessions = &mut self.sessions;
        let refusal = ProposeError::Session(SessionRefusal::Expired);
        let (done, refusal) = match SystemEntry::decode(payload)? {
            SystemEntry::OpenSession => (sessions.open(context.index, context.time_us), FULL),
            SystemEntry::CloseSession(session) => {
                (sessions.close(session, context.time_us), refusal)
            }
            SystemEntry::KeepAlive(session) => (sessions.keep(session, context.time_us), refusal),
        };
        Ok(if done {
            Outcome::Done
        } else {
            Outcome::Refused(refusal)
        })
    }

    fn command(
        &mut self,
        context: &ApplyContext,
        payload: &[u8],
        changes: &mut Changes,
    ) -> Result<Outcome<S::Response>, String> {
        let (session, command) = envelope::open(payload).map_err(|error| error.to_string())?;
        let Some(at) = session else {
            let response = self.apply_command(context, command, changes);
            return response.map(Outcome::Response);
        };
        match self.sessions.check(context.time_us, at) {
            Verdict::Apply => {
                let response = self.apply_command(context, command, changes)?;
                let answer = S::encode_response(&response).map(Bytes::from);
                self.sessions.remember(at, answer);
                Ok(Outcome::Response(response))
            }
            Verdict::Repeat(answer) => {
                let response = answer.and_then(|answer| S::decode_response(&answer));
                let not_kept = || refused(SessionRefusal::AnswerNotKept);
                Ok(response.map_or_else(not_kept, Outcome::Response))
            }
            Verdict::Refuse(why) => Ok(refused(why)),
        }
    }

    fn apply_command(
        &mut self,
        context: &ApplyContext,
        command: &[u8],
        changes: &mut Changes,
    ) -> Result<S::Response, String> {
        let command = S::decode(command).map_err(|error| error.to_string())?;
        changes.begin(context.index, context.time_us);
        let response = self.machine.apply_and_tell(context, command, changes);
        changes.end();
        Ok(response)
    }

    /// Puts the state of a snapshot in place of this one.
    ///
    /// # Errors
    /// Why not. `Ok(Err(_))`: and everything is as it was before.
    pub(crate) fn restore<F: Files>(
        &mut self,
        file: &mut SnapshotFile<F>,
    ) -> Result<Result<(), String>, String> {
        let (digest, len) = (file.head.digest, file.head.session_bytes);
        let mut table = Vec::new();
        let read = file.take(len).read_to_end(&mut table);
        let table = match read.map_err(|error| error.to_string()) {
            Ok(got) if got as u64 == len => Sessions::decode(self.limits, &table),
            Ok(_) => Err("it is cut short within its sessions".to_owned()),
            Err(why) => Err(why),
        };
        let table = match table {
            Ok(table) => table,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(error) = self.machine.restore(file) {
            return Ok(Err(error.to_string()));
        }
        self.sessions = table;
        let rest = io::copy(file, &mut io::sink()).map_err(|error| error.to_string())?;
        if rest > 0 || !file.is_read() {
            return Err("bytes are left over after its state".to_owned());
        }
        if self.digest() != digest {
            return Err("its state has another digest than it says".to_owned());
        }
        Ok(Ok(()))
    }
}

fn refused<R>(why: SessionRefusal) -> Outcome<R> {
    Outcome::Refused(ProposeError::Session(why))
}

/// A frozen machine with the sessions before it, as [`ReplicaState::restore`] reads them.
pub(crate) struct FrozenReplica {
    pub(crate) sessions: Sessions,
    pub(crate) machine: Box<dyn Frozen>,
}

impl Frozen for FrozenReplica {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.sessions.encode())?;
        self.machine.write(out)
    }
}

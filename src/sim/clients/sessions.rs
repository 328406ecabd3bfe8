//! Clients that send commands in sessions, and send them again: before an answer, after one, here
//! and at other nodes. Each command must be applied once at most, and every answer to it be the same.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::{Clients, Command, GRACE, HURRY, PATIENCE, Response};
use crate::error::{ProposeError, SessionRefusal};
use crate::node::envelope::InSession;
use crate::node::inbox::Submission;
use crate::node::shared::{Shared, encode};
use crate::node::system::SystemEntry;
use crate::node::waiters::{Reply, Waiter};
use crate::sim::linear::Answer;
use crate::sim::oracle::Oracle;
use crate::sim::random::Random;
use crate::sim::workload::Workload;
use crate::state_machine::StateMachine;
use crate::types::{EntryKind, LogIndex, Micros, NodeId};

/// More than there may be sessions, so that some are refused.
const CLIENTS: usize = 4;
/// One more than the window takes.
const OPEN_EACH: usize = 9;
/// Numbers of commands that no other client has.
const FIRST_ID: u64 = 1 << 40;
/// Clients of the history beyond the others.
const FIRST_CLIENT: u64 = 1_000;

/// Where somebody waits.
struct Place {
    node: NodeId,
    life: u64,
    /// By the clock of the process.
    deadline: Micros,
}

/// One try of a command.
struct Try<R> {
    place: Place,
    session: LogIndex,
    seq: u64,
    answer: oneshot::Receiver<Result<R, ProposeError>>,
}

struct Opening {
    place: Place,
    client: usize,
    answer: oneshot::Receiver<Result<LogIndex, ProposeError>>,
}

/// A command that may be sent again.
struct Sent<C> {
    id: u64,
    seq: u64,
    command: C,
    /// See `Open::floor`.
    seen: u64,
    operation: Option<usize>,
    /// The first answer, as bytes if the state machine has them.
    answered: Option<Option<Vec<u8>>>,
}

struct Client<C> {
    session: Option<LogIndex>,
    next: u64,
    sent: Vec<Sent<C>>,
    /// A try of a command that is over, still on its way: its number and payload.
    late: Option<(u64, Bytes)>,
    quiet_until: Micros,
}

/// See the module.
pub(crate) struct SessionClients<W: Workload> {
    clients: Vec<Client<Command<W>>>,
    tries: Vec<Try<Response<W>>>,
    opening: Vec<Opening>,
    random: Random,
    next_id: u64,
    /// Commands that were answered.
    pub(crate) acked: u64,
}

impl<W: Workload> SessionClients<W> {
    pub(super) fn new(seed: u64) -> Self {
        let client = || Client {
            session: None,
            next: 1,
            sent: Vec::new(),
            late: None,
            quiet_until: 0,
        };
        Self {
            clients: (0..CLIENTS).map(|_| client()).collect(),
            tries: Vec::new(),
            opening: Vec::new(),
            random: Random::named(seed, "sessions", 0),
            next_id: FIRST_ID,
            acked: 0,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.tries.len() + self.opening.len()
    }

    /// Where one of them does something now, if any does.
    pub(crate) fn draw(&mut self, nodes: u64, leader: Option<NodeId>) -> Option<NodeId> {
        let acts = self.random.chance(500) && self.waiting() < 50;
        let drawn = 1 + self.random.below(nodes);
        let to_anyone = self.random.chance(150);
        acts.then(|| leader.filter(|_| !to_anyone).unwrap_or(drawn))
    }

    fn put(
        &mut self,
        shared: &Arc<Shared<W::Machine>>,
        place: Place,
        (session, seq): (LogIndex, u64),
        payload: Bytes,
    ) {
        let (reply, answer) = oneshot::channel();
        let reply = reply.into();
        let deadline = place.deadline;
        shared.inbox.put(|lanes| {
            lanes.proposals.push(Submission {
                kind: EntryKind::Command,
                payload,
                waiter: Waiter::new(reply, deadline),
                forward: false,
            });
        });
        self.tries.push(Try {
            place,
            session,
            seq,
            answer,
        });
    }

    pub(super) fn died(&mut self, node: NodeId, life: u64) {
        let lives = |place: &Place| place.node != node || place.life != life;
        self.tries.retain(|one| lives(&one.place));
        self.opening.retain(|one| lives(&one.place));
    }
}

impl<W: Workload> Clients<W> {
    /// One of the clients with sessions does something at a process.
    pub(crate) fn act_in_session(
        &mut self,
        workload: &W,
        oracle: &mut Oracle,
        shared: &Arc<Shared<W::Machine>>,
        life: u64,
        (now, local): (Micros, Micros),
    ) -> Result<(), String> {
        self.meet(shared, life);
        let sessions = &mut self.sessions;
        let nth = sessions.random.below(CLIENTS as u64) as usize;
        let patience = if sessions.random.chance(600) {
            HURRY
        } else {
            PATIENCE
        };
        let place = Place {
            node: shared.me.node,
            life,
            deadline: local + patience,
        };
        let Some(client) = sessions.clients.get_mut(nth) else {
            return Ok(());
        };
        if client.quiet_until > now {
            return Ok(());
        }
        if sessions.random.chance(15) {
            client.quiet_until = now + sessions.random.below(4_000_000);
        }
        let Some(session) = client.session else {
            if !sessions.opening.iter().any(|one| one.client == nth) {
                let answer = put_system(shared, SystemEntry::OpenSession, place.deadline);
                sessions.opening.push(Opening {
                    place,
                    client: nth,
                    answer,
                });
            }
            return Ok(());
        };
        if sessions.random.chance(10) {
            // It leaves what is under way: nothing of it may take effect after this.
            let entry = SystemEntry::CloseSession(session);
            drop(put_system(shared, entry, place.deadline));
            client.leave();
            return Ok(());
        }
        if sessions.random.chance(30) {
            // A word that it is still there, and nothing else.
            let entry = SystemEntry::KeepAlive(session);
            drop(put_system(shared, entry, place.deadline));
            return Ok(());
        }
        if sessions.random.chance(100)
            && let Some((seq, payload)) = client.late.take()
        {
            sessions.put(shared, place, (session, seq), payload);
            return Ok(());
        }
        let sent = self.choose(nth, workload, oracle)?;
        self.send(nth, sent, shared, place)
    }

    /// What to send: something that was sent before, or something new. Its place in the list.
    fn choose(
        &mut self,
        nth: usize,
        workload: &W,
        oracle: &mut Oracle,
    ) -> Result<Option<usize>, String> {
        let sessions = &mut self.sessions;
        let random = &mut sessions.random;
        let Some(client) = sessions.clients.get_mut(nth) else {
            return Ok(None);
        };
        // What is answered, or is given up, may be forgotten from the front on.
        while let Some(front) = client.sent.first()
            && random.chance(if front.answered.is_some() { 500 } else { 20 })
        {
            let floor = front.seq;
            client.late = client.payload::<W>(front, floor)?;
            client.sent.remove(0);
        }
        let again = !client.sent.is_empty() && random.chance(450);
        if again || client.sent.len() >= OPEN_EACH {
            return Ok(Some(random.below(client.sent.len() as u64) as usize));
        }
        sessions.next_id += 1;
        let id = sessions.next_id;
        let command = workload.command(id, random);
        let mut bytes = Vec::new();
        let encoded = W::Machine::encode(&command, &mut bytes);
        encoded.map_err(|error| format!("the workload's command {id}: {error}"))?;
        oracle.proposes(id, &bytes)?;
        let observed = workload.observes(&command);
        let who = FIRST_CLIENT + nth as u64;
        let operation = observed.map(|observed| self.history.invoke(who, id, observed));
        client.sent.push(Sent {
            id,
            seq: client.next,
            command,
            seen: self.floor,
            operation,
            answered: None,
        });
        client.next += 1;
        Ok(Some(client.sent.len() - 1))
    }

    fn send(
        &mut self,
        nth: usize,
        sent: Option<usize>,
        shared: &Arc<Shared<W::Machine>>,
        place: Place,
    ) -> Result<(), String> {
        let client = self.sessions.clients.get(nth);
        let Some(client) = client else { return Ok(()) };
        let sent = sent.and_then(|sent| client.sent.get(sent));
        let (Some(session), Some(sent)) = (client.session, sent) else {
            return Ok(());
        };
        let floor = client.sent.first().map_or(sent.seq, |first| first.seq);
        if let Some((seq, payload)) = client.payload::<W>(sent, floor)? {
            self.sessions.put(shared, place, (session, seq), payload);
        }
        Ok(())
    }

    /// Takes the answers that a process has given to clients with sessions.
    pub(super) fn poll_sessions(
        &mut self,
        workload: &W,
        oracle: &Oracle,
        node: NodeId,
        local: Micros,
    ) -> Result<(), String> {
        let mut nth = 0;
        while let Some(one) = self.sessions.opening.get_mut(nth) {
            let Some(answer) = look(&one.place, &mut one.answer, node, local)? else {
                nth += 1;
                continue;
            };
            let client = self.sessions.opening.swap_remove(nth).client;
            if let (Ok(session), Some(client)) = (answer, self.sessions.clients.get_mut(client)) {
                client.session = Some(session);
            }
        }
        let mut nth = 0;
        while let Some(one) = self.sessions.tries.get_mut(nth) {
            let Some(answer) = look(&one.place, &mut one.answer, node, local)? else {
                nth += 1;
                continue;
            };
            let one = self.sessions.tries.swap_remove(nth);
            self.tried(workload, oracle, &one, answer)?;
        }
        Ok(())
    }

    fn tried(
        &mut self,
        workload: &W,
        oracle: &Oracle,
        one: &Try<Response<W>>,
        answer: Result<Response<W>, ProposeError>,
    ) -> Result<(), String> {
        let (session, seq) = (one.session, one.seq);
        let mut clients = self.sessions.clients.iter_mut();
        let Some(client) = clients.find(|client| client.session == Some(session)) else {
            // It has left the session.
            return Ok(());
        };
        let sent = client.sent.iter_mut().find(|sent| sent.seq == seq);
        let response = match told(answer, sent.is_some(), session, oracle)? {
            Told::Applied(response) => response,
            Told::Expired => {
                client.leave();
                return Ok(());
            }
            Told::Nothing => return Ok(()),
        };
        let Some(sent) = sent else { return Ok(()) };
        let place = oracle.acked(sent.id, sent.seen)?;
        let mut bytes = None;
        if let Some(response) = &response {
            workload.check(sent.id, place, response)?;
            bytes = W::Machine::encode_response(response);
        }
        match &sent.answered {
            Some(first) if *first != bytes && first.is_some() => {
                return Err(format!(
                    "S17: command {seq} of session {session} was answered twice, differently"
                ));
            }
            Some(_) => {}
            None => {
                let answer = response.as_ref().map(|one| workload.answers(one));
                if let Some(operation) = sent.operation {
                    self.history
                        .answer(operation, answer.unwrap_or(Answer::Done));
                }
                sent.answered = Some(bytes);
                self.sessions.acked += 1;
            }
        }
        self.reads.answered(one.place.node, one.place.life, place);
        self.floor = self.floor.max(place);
        Ok(())
    }
}

/// What a try's answer says of its command.
enum Told<R> {
    /// It was applied; the response, if it was kept.
    Applied(Option<R>),
    /// The session is over.
    Expired,
    /// Not enough.
    Nothing,
}

/// S17: a refusal by the session is true. `remembered`: its client may still send it again.
fn told<R>(
    answer: Result<R, ProposeError>,
    remembered: bool,
    session: LogIndex,
    oracle: &Oracle,
) -> Result<Told<R>, String> {
    let refusal = match answer {
        Ok(response) => return Ok(Told::Applied(Some(response))),
        Err(ProposeError::Session(refusal)) => refusal,
        Err(_) => return Ok(Told::Nothing),
    };
    match refusal {
        SessionRefusal::AnswerNotKept => Ok(Told::Applied(None)),
        SessionRefusal::Expired if oracle.session_is_open(session) => Err(format!(
            "S17: a client was told that session {session} has expired"
        )),
        SessionRefusal::Expired => Ok(Told::Expired),
        SessionRefusal::Stale { floor } if remembered => Err(format!(
            "S17: a command of session {session} is below its floor, {floor}; its client never \
             said so"
        )),
        SessionRefusal::Stale { .. } | SessionRefusal::TooFarAhead { .. } => Ok(Told::Nothing),
    }
}

impl<C> Client<C> {
    fn leave(&mut self) {
        self.session = None;
        self.next = 1;
        self.sent.clear();
        self.late = None;
    }

    /// A command's number, and its payload as long as there is a session.
    fn payload<W>(&self, sent: &Sent<C>, floor: u64) -> Result<Option<(u64, Bytes)>, String>
    where
        W: Workload,
        W::Machine: StateMachine<Command = C>,
    {
        let seq = sent.seq;
        let at = self.session.map(|session| InSession {
            session,
            seq,
            floor,
        });
        let Some(at) = at else { return Ok(None) };
        let payload = encode::<W::Machine>(Some(at), &sent.command);
        let payload = payload.map_err(|error| error.to_string())?;
        Ok(Some((seq, payload)))
    }
}

fn put_system<S: StateMachine>(
    shared: &Arc<Shared<S>>,
    entry: SystemEntry,
    deadline: Micros,
) -> oneshot::Receiver<Result<LogIndex, ProposeError>> {
    let (reply, answer) = oneshot::channel();
    let reply = Reply::System(reply);
    shared.inbox.put(|lanes| {
        lanes.proposals.push(Submission {
            kind: EntryKind::System,
            payload: entry.encode(),
            waiter: Waiter::new(reply, deadline),
            forward: false,
        });
    });
    answer
}

/// The answer, if there is one, of somebody who waits at this node.
fn look<T>(
    place: &Place,
    answer: &mut oneshot::Receiver<T>,
    node: NodeId,
    local: Micros,
) -> Result<Option<T>, String> {
    if place.node != node {
        return Ok(None);
    }
    match answer.try_recv() {
        Ok(answer) => Ok(Some(answer)),
        Err(TryRecvError::Empty) if local <= place.deadline + GRACE => Ok(None),
        Err(why) => Err(format!("S22: a client's try was never answered: {why}")),
    }
}

//! A stream of proposals: commands as they come, outcomes as they become known.
//!
//! What a stream holds is bounded on both sides: while much is under way nothing is read, so the
//! caller's sends wait; and what has an outcome counts as under way until the caller has taken it,
//! so a caller that does not read is not read from either.

use std::time::Duration;

use prost::Message;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use crate::error::ProposeError;
use crate::node::{Outcomes, Pipeline, Place, ProposeOptions, RaftNode};
use crate::proto::{
    ItemOutcome, ProposeItem, ProposeOutcome, ProposeStreamRequest, ProposeStreamResponse,
};
use crate::state_machine::RouterResponse;

use super::deadline;
use super::identity::Role;
use super::propose::{self, CommandError, command, in_session};
use super::router::MAX_BATCH;
use super::status::{Failure, invalid};

/// No message is read while so many commands, or bytes of commands, are under way.
const MAX_UNDER_WAY: usize = 4096;
const MAX_BYTES: usize = 8 << 20;
/// Messages made ahead of a caller that takes its time.
pub(super) const AHEAD: usize = 2;
/// Outcomes looked at in one go.
const AT_ONCE: usize = 1024;
/// Bytes after which a message of outcomes is sent.
const MESSAGE: usize = 256 << 10;

type Known = (u64, Result<RouterResponse, ProposeError>);

/// The server's side of one stream.
pub(super) struct Side {
    node: RaftNode,
    role: Role,
    /// Gone once nothing more is taken.
    pipeline: Option<Pipeline>,
    known: Outcomes,
    under_way: UnderWay,
    send: mpsc::Sender<Result<ProposeStreamResponse, Status>>,
    /// How the stream ends behind the last answer, unless well.
    end: Option<Status>,
}

/// Commands whose outcome the caller has not taken.
#[derive(Default)]
struct UnderWay {
    /// By ticket, which are counted here: the caller's name for it, and its size.
    commands: FxHashMap<u64, (u64, usize)>,
    bytes: usize,
    last: u64,
}

impl UnderWay {
    fn has_room(&self) -> bool {
        self.commands.len() < MAX_UNDER_WAY && self.bytes < MAX_BYTES
    }

    /// Returns its ticket.
    fn add(&mut self, id: u64, bytes: usize) -> u64 {
        self.last += 1;
        self.bytes += bytes;
        self.commands.insert(self.last, (id, bytes));
        self.last
    }

    /// Returns the caller's name for it.
    fn remove(&mut self, ticket: u64) -> Option<u64> {
        let (id, bytes) = self.commands.remove(&ticket)?;
        self.bytes -= bytes;
        Some(id)
    }
}

/// The caller is gone.
struct Gone;

impl Side {
    pub(super) fn new(
        node: RaftNode,
        role: Role,
        send: mpsc::Sender<Result<ProposeStreamResponse, Status>>,
    ) -> Self {
        let (pipeline, known) = node.pipeline();
        Self {
            node,
            role,
            pipeline: Some(pipeline),
            known,
            under_way: UnderWay::default(),
            send,
            end: None,
        }
    }

    /// Runs until the caller is gone, or has every answer and has closed its side, or the edge closes.
    pub(super) async fn run(
        mut self,
        mut incoming: Streaming<ProposeStreamRequest>,
        mut closing: watch::Receiver<bool>,
    ) {
        let mut known = Vec::new();
        loop {
            let open = self.pipeline.is_some();
            let room = self.under_way.has_room();
            let went = tokio::select! {
                // Answers first: they make room.
                biased;
                count = self.known.receive(&mut known, AT_ONCE) => match count {
                    0 => break,
                    _ => self.tell(&mut known).await,
                },
                () = closed(&mut closing), if open => {
                    let leader = self.node.leader();
                    self.stop(Some(Failure::stopping(&leader).into_status()));
                    Ok(())
                }
                message = incoming.message(), if open && room => match message {
                    Ok(Some(message)) => self.take(message).await,
                    Ok(None) => {
                        self.stop(None);
                        Ok(())
                    }
                    Err(status) => {
                        self.stop(Some(status));
                        Ok(())
                    }
                },
            };
            if let Err(Gone) = went {
                return;
            }
        }
        if let Some(end) = self.end {
            // Nobody listening is fine.
            let _ = self.send.send(Err(end)).await;
        }
    }

    /// Takes nothing more; what is under way is answered.
    fn stop(&mut self, end: Option<Status>) {
        self.pipeline = None;
        self.end = end;
    }

    async fn take(&mut self, message: ProposeStreamRequest) -> Result<(), Gone> {
        let count = message.items.len();
        if count > MAX_BATCH {
            let why = format!("are {count}, at most {MAX_BATCH} fit in a message");
            self.stop(Some(invalid("items", why)));
            return Ok(());
        }
        let mut refused = Vec::new();
        for item in message.items {
            let id = item.id;
            if let Err(error) = self.submit(item).await {
                let outcome = ProposeOutcome {
                    outcome: Some(error.item(0)),
                };
                refused.push(ItemOutcome {
                    id,
                    outcome: Some(outcome),
                });
            }
        }
        match refused.is_empty() {
            true => Ok(()),
            false => self.send(refused).await,
        }
    }

    async fn submit(&mut self, item: ProposeItem) -> Result<(), CommandError> {
        let Some(pipeline) = &self.pipeline else {
            return Ok(());
        };
        let bytes = item.encoded_len();
        let read = in_session(item.session)
            .and_then(|session| Ok((session, command(self.role, item.command)?)));
        let (session, command) = read.inspect_err(|_| {
            if !item.unordered {
                pipeline.break_off();
            }
        })?;
        let place = Place {
            ticket: self.under_way.add(item.id, bytes),
            session,
            unordered: item.unordered,
        };
        let options = ProposeOptions {
            deadline: Some(patience(item.timeout_ms)),
            forward: item.forward,
        };
        pipeline.submit_when_room(place, &command, options).await;
        Ok(())
    }

    /// Tells what is known, in messages of a bounded size.
    async fn tell(&mut self, known: &mut Vec<Known>) -> Result<(), Gone> {
        let (mut outcomes, mut bytes) = (Vec::with_capacity(known.len()), 0);
        for (ticket, result) in known.drain(..) {
            let Some(id) = self.under_way.remove(ticket) else {
                continue;
            };
            let outcome = ItemOutcome {
                id,
                outcome: Some(propose::outcome(&self.node, 0, result)),
            };
            bytes += outcome.encoded_len();
            outcomes.push(outcome);
            if bytes >= MESSAGE {
                self.send(std::mem::take(&mut outcomes)).await?;
                bytes = 0;
            }
        }
        match outcomes.is_empty() {
            true => Ok(()),
            false => self.send(outcomes).await,
        }
    }

    async fn send(&self, outcomes: Vec<ItemOutcome>) -> Result<(), Gone> {
        let message = ProposeStreamResponse { outcomes };
        self.send.send(Ok(message)).await.map_err(|_| Gone)
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the edge is gone, which is the same word.
    let _ = closing.wait_for(|closing| *closing).await;
}

fn patience(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => deadline::DEFAULT,
        asked => Duration::from_millis(asked.into()).min(deadline::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h3_what_is_under_way_is_bounded_in_number_and_bytes() {
        let mut under_way = UnderWay::default();
        let many: Vec<_> = (0..MAX_UNDER_WAY as u64)
            .map(|id| {
                assert!(under_way.has_room(), "for number {id}");
                under_way.add(id, 1)
            })
            .collect();
        assert!(!under_way.has_room());
        assert_eq!(under_way.remove(many[7]), Some(7));
        assert!(under_way.has_room());
        assert_eq!(under_way.remove(many[7]), None);
        let large = under_way.add(9, MAX_BYTES);
        under_way.remove(many[8]);
        assert!(!under_way.has_room());
        assert_eq!(under_way.remove(large), Some(9));
        assert!(under_way.has_room());
    }

    #[test]
    fn an_item_waits_5_s_unless_it_says_otherwise_and_60_s_at_most() {
        assert_eq!(patience(0), Duration::from_secs(5));
        assert_eq!(patience(20), Duration::from_millis(20));
        assert_eq!(patience(u32::MAX), Duration::from_secs(60));
    }
}

//! What goes to the peers and what comes from them.

use std::sync::Arc;

use bytes::Bytes;

use super::{Cause, Driver, Now};
use crate::config::limits;
use crate::core::{
    AppendEntries, Class, Configuration, EntrySummary, Input, Message, PeerHello, is_beyond,
};
use crate::entry::EntryBatch;
use crate::network::{NetworkEvent, RaftNetwork, SendOutcome};
use crate::node::trace;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, NodeId, ReplicaId};
use crate::wal::Medium;

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// What is refused for want of room, or has no way to go, is lost; the core's timers know.
    pub(super) fn send(&mut self, to: NodeId, message: &Message, body: &[Bytes]) {
        if matches!(message, Message::TimeoutNow(_)) {
            // From now on another may be elected although it hears this leader (hazard A9).
            self.shared.set_lease(None);
        }
        let _ = self.network.send(to, message, body);
    }

    pub(super) fn replicate(
        &mut self,
        now: Now,
        to: NodeId,
        mut append: AppendEntries,
        last: LogIndex,
        max_bytes: usize,
    ) {
        let first = append.prev.index + 1;
        let last = last.min(append.prev.index + u64::from(limits::MAX_FRAME_ENTRIES));
        let seq = append.seq;
        let read = if first <= last {
            Some(self.log.read(first, last, max_bytes))
        } else {
            None
        };
        let (runs, end, bytes) = match read {
            None => (Vec::new(), append.prev.index, 0),
            Some(Ok(read)) => (read.runs, read.last, read.bytes),
            Some(Err(error)) => {
                // A leader that cannot read its log must not lead (hazards B11, B12).
                return self.fail(now, format!("cannot read entries for node {to}: {error}"));
            }
        };
        append.count = (end - append.prev.index) as u32;
        let outcome = self.network.send(to, &Message::Append(append), &runs);
        let sent = (outcome == SendOutcome::Sent).then_some((end, bytes));
        self.core.step(
            now.mono,
            Input::Replicated { to, seq, sent },
            &mut self.scratch,
        );
        self.outputs.extend(self.scratch.drain(..));
    }

    pub(super) fn network_event(&mut self, now: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::Message {
                from,
                message,
                entries,
                chunk,
                ..
            } => {
                self.message(now, from, message, &entries, &chunk);
            }
            NetworkEvent::Up {
                peer,
                class,
                epoch,
                facts,
            } => {
                let hello = PeerHello {
                    blank: facts.facts.blank,
                    repairing: facts.facts.repairing,
                    genesis: facts.facts.genesis,
                    knows_level: facts.facts.knows_level,
                    peer_address: facts.facts.peer_address,
                    client_endpoint: facts.facts.client_endpoint,
                };
                self.step(
                    now,
                    Input::PeerUp {
                        peer,
                        class,
                        epoch,
                        hello,
                    },
                    Cause::Other,
                );
                if class == Class::Bulk {
                    self.bulk_is_up(peer.node);
                }
            }
            NetworkEvent::Down {
                node,
                class,
                epoch,
                reason,
            } => {
                tracing::debug!(node, ?class, epoch, reason, "a stream ended");
                self.step(now, Input::PeerDown { node, class, epoch }, Cause::Other);
            }
            NetworkEvent::Writable { node, epoch } => {
                self.step(now, Input::Writable { node, epoch }, Cause::Other);
            }
            NetworkEvent::GetsThrough { node, epoch } => {
                self.step(now, Input::GetsThrough { node, epoch }, Cause::Other);
            }
            NetworkEvent::Forward { from, forward } => self.passed_on(now, from, forward),
        }
    }

    pub(super) fn message(
        &mut self,
        now: Now,
        from: ReplicaId,
        message: Message,
        entries: &EntryBatch,
        chunk: &[Bytes],
    ) {
        let configurations = entries.configurations().iter().map(|entry| {
            Configuration::decode(&entry.payload).map(|read| (entry.id.index, Arc::new(read)))
        });
        let configurations: Vec<_> = match configurations.collect() {
            Ok(configurations) => configurations,
            Err(error) => {
                tracing::error!(%from, %error, "an entry was refused: written by a newer release?");
                return;
            }
        };
        let known = self.core.knows_level();
        let mut beyond = configurations.iter();
        if let Some(why) = beyond.find_map(|(_, read)| is_beyond(read, known)) {
            return self.step(now, Input::Fail { reason: why }, Cause::Other);
        }
        if let Message::AppendAck(ack) = &message {
            trace::acknowledged(self.shared.me.node, from, ack);
        }
        let summary = EntrySummary {
            first: entries.first(),
            count: entries.count(),
            terms: entries.terms().to_vec(),
            configurations,
            fits: entries.len() <= self.log.ready_bytes(),
        };
        let input = Input::Message {
            from,
            message,
            entries: summary,
        };
        let cause = match message {
            Message::SnapshotChunk(_) => Cause::Chunk(chunk),
            _ => Cause::Entries(entries),
        };
        self.step(now, input, cause);
    }

    pub(super) fn tell_facts(&mut self) {
        self.facts.repairing = self.core.is_repairing();
        self.facts.blank = self.core.is_blank() && !self.facts.repairing;
        self.facts.genesis = self.core.genesis();
        self.facts.knows_level = self.core.knows_level();
        self.facts.needs_level = self.core.feature_level();
        self.facts.meta_seq = self.log.meta_seq();
        self.network.set_local(&self.facts);
    }
}

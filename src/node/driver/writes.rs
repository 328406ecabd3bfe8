//! Writes for the log, and what follows once they are durable.

use bytes::Bytes;

use super::{Cause, Driver, Now};
use crate::core::{AppendSource, Input, Message, Persist};
use crate::entry::EntryBatch;
use crate::network::RaftNetwork;
use crate::node::events::NodeEvent;
use crate::state_machine::StateMachine;
use crate::types::{EntryKind, HardState, LogIndex, WriteId};
use crate::wal::{Append, Medium, MediumEvent, NewEntry, Write};

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    pub(super) fn persist(
        &mut self,
        now: Now,
        persist: Persist,
        cause: &mut Cause<'_, S::Response>,
    ) {
        let hard = persist.hard_state;
        if hard.is_some_and(|hard| hard.term > self.log.hard_state().term) {
            // What was promised in an older term is void now.
            let valid = |message: &Message| message.term() >= persist.term;
            self.deferred.retain(|(_, _, message)| valid(message));
        }
        let suffix = match (&persist.append, &cause) {
            (AppendSource::Message { from }, Cause::Entries(batch)) => {
                EntryBatch::clone(batch).suffix(*from)
            }
            _ => EntryBatch::default(),
        };
        let mut entries = std::mem::take(&mut self.entries);
        let first = self.own_entries(now, &persist, cause, &mut entries);
        let append = match first {
            Some(first) => Append::Entries {
                first,
                term: persist.term,
                entries: &entries,
            },
            None if suffix.is_empty() => Append::None,
            None => Append::Frames(&suffix),
        };
        if hard.is_some_and(|hard| self.stands_anew(hard)) {
            self.metrics.stands();
        }
        let written = self.log.write(Write {
            id: persist.id,
            now: now.mono,
            hard_state: hard,
            genesis: persist.genesis,
            truncate_from: persist.truncate_from,
            append,
        });
        entries.clear();
        self.entries = entries;
        self.trace_write(first, &suffix, persist.id);
        if let Err(error) = written {
            self.fail(now, error.to_string());
        }
        if persist.genesis.is_some() {
            self.founding_write = Some(persist.id);
        }
    }

    /// A vote for itself in a term that it has not voted in: that is what standing for election is.
    fn stands_anew(&self, hard: HardState) -> bool {
        hard.voted_for == self.shared.me && hard.term > self.log.hard_state().term
    }

    /// Entries are in the log, by this write, and not yet durable.
    fn trace_write(&mut self, first: Option<LogIndex>, suffix: &EntryBatch, write: WriteId) {
        match (first, suffix.terms().last()) {
            (Some(first), _) => self.traces.appended(&self.shared.waiters, first, write),
            (None, Some(run)) => {
                let at = (run.term, suffix.first(), suffix.last_index());
                self.traces.followed(self.shared.me.node, at, write);
            }
            (None, None) => {}
        }
    }

    /// The entries that this node makes itself, and the index of the first.
    pub(super) fn own_entries(
        &mut self,
        now: Now,
        persist: &Persist,
        cause: &mut Cause<'_, S::Response>,
        entries: &mut Vec<NewEntry>,
    ) -> Option<LogIndex> {
        let (index, kind, payload) = match &persist.append {
            AppendSource::None | AppendSource::Message { .. } => return None,
            AppendSource::Proposals { first, .. } => {
                self.take_proposals(now, *first, persist.term, entries, cause);
                return Some(*first);
            }
            AppendSource::Noop { index } => (*index, EntryKind::Noop, Bytes::new()),
            AppendSource::Configuration {
                index,
                configuration,
            } => {
                let payload = Bytes::from(configuration.encode());
                (*index, EntryKind::Configuration, payload)
            }
        };
        let time_us = match &persist.append {
            AppendSource::Configuration { index: 2.., .. } => self.log_time.at(now),
            _ => {
                // A log that is empty behind a snapshot does not hold the entry before.
                let last = self.log.last_time_us().max(self.snapshots.covered_us());
                self.log_time.begin_term(last, now)
            }
        };
        entries.push(NewEntry {
            kind,
            time_us,
            payload,
        });
        Some(index)
    }

    pub(super) fn log_event(&mut self, now: Now, event: MediumEvent) {
        let handled = self.log.handle(event);
        if let Some(took) = self.log.take_sync_time() {
            self.log_figures.synced(took);
        }
        match handled {
            Ok(Some(id)) => {
                // Peers remember the highest update counter they were told: it must not be taken
                // back by a crash.
                if self.founding_write.is_some_and(|write| write <= id) {
                    self.founding_write = None;
                    self.tell_facts();
                }
                self.traces.durable(id);
                self.step(now, Input::Durable { id }, Cause::Other);
                self.send_deferred(id);
                self.forget_old_snapshots(id);
            }
            Ok(None) => {}
            Err(error) => self.fail(now, error.to_string()),
        }
    }

    /// A disk that has not answered for an election timeout is told to the core, and when it has.
    pub(super) fn notice_stall(&mut self, now: Now) {
        let oldest = self.log.oldest_unsynced().unwrap_or(now.mono);
        let stalls = now.mono.saturating_sub(oldest) > self.core.stall_limit();
        if stalls != self.disk_stalls {
            self.disk_stalls = stalls;
            self.tell(match stalls {
                true => NodeEvent::DiskStalls,
                false => NodeEvent::DiskAnswers,
            });
            self.step(now, Input::DiskStalls(stalls), Cause::Other);
        }
    }

    pub(super) fn send_deferred(&mut self, durable: WriteId) {
        let mut deferred = std::mem::take(&mut self.deferred);
        deferred.retain(|(write, to, message)| {
            let ready = *write <= durable;
            if ready {
                self.send(*to, message, &[]);
            }
            !ready
        });
        self.deferred = deferred;
    }
}

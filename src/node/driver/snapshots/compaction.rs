//! The log lets go of what a snapshot stands for, but for a tail.

use std::collections::VecDeque;

use crate::core::{Input, SnapshotInput};
use crate::network::RaftNetwork;
use crate::node::driver::{Cause, Driver, Now};
use crate::state_machine::StateMachine;
use crate::types::{LogId, LogIndex, Micros};
use crate::wal::Medium;

/// Entries are counted in pieces of about so many bytes.
const PIECE: u64 = 64 << 10;
/// A peer that was silent for so many election timeouts holds nothing back.
const SILENCE: Micros = 10;

/// How many bytes of entries there are behind an index, roughly. Of those before the start of the
/// process nothing is known.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pieces: VecDeque<(LogIndex, u64)>,
}

impl Tail {
    pub(super) fn add(&mut self, last: LogIndex, bytes: u64) {
        match self.pieces.back_mut().filter(|piece| piece.1 < PIECE) {
            Some(piece) => *piece = (last, piece.1 + bytes),
            None => self.pieces.push_back((last, bytes)),
        }
    }

    /// From which index on the entries up to `end` take `bytes` at most.
    fn begins(&self, end: LogIndex, bytes: u64) -> LogIndex {
        let mut room = bytes;
        let older = self.pieces.iter().rev().skip_while(|piece| piece.0 > end);
        for (last, bytes) in older {
            if *bytes > room {
                return *last;
            }
            room -= bytes;
        }
        0
    }

    fn forget(&mut self, upto: LogIndex) {
        while self.pieces.pop_front_if(|piece| piece.0 <= upto).is_some() {}
    }

    pub(super) fn begin_anew(&mut self) {
        self.pieces.clear();
    }
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// Moves the log's start up. The tail behind the newest snapshot serves peers that are a little
    /// behind, and those that have just received a snapshot (hazard D6).
    pub(super) fn compact(&mut self, now: Now) {
        let Some(stored) = self.snapshots.stored else {
            return;
        };
        if self.failure.is_some() || self.core.is_installing() {
            return;
        }
        let options = &self.snapshots.options;
        let newest = stored.last.index;
        let by_bytes = self.snapshots.tail.begins(newest, options.keep_tail_bytes);
        let wanted = newest
            .saturating_sub(options.keep_tail_entries)
            .max(by_bytes);
        let least = newest.saturating_sub(options.keep_for_peers_entries);
        let wanted = wanted.min(self.needed_by_peers(now.mono).max(least));
        let start = self.core.log_start().index;
        // Each move is an update of META.
        if wanted < start + (options.keep_tail_entries / 8).max(1) {
            return;
        }
        let Some(term) = self.core.term_at(wanted) else {
            return;
        };
        let start = LogId::new(term, wanted);
        if let Err(error) = self.log.compact(start) {
            return self.fail(now, error.to_string());
        }
        self.snapshots.tail.forget(wanted);
        let compacted = SnapshotInput::Compacted(start);
        self.step(now, Input::Snapshot(compacted), Cause::Other);
    }

    /// The lowest index that a living peer still needs what follows of, if this node leads.
    fn needed_by_peers(&self, now: Micros) -> LogIndex {
        if !self.core.is_leader() {
            return LogIndex::MAX;
        }
        let patience = SILENCE * self.core.stall_limit();
        let members = self.core.configuration().into_iter();
        let nodes = members
            .flat_map(|c| c.members())
            .map(|member| member.replica.node);
        let peers = nodes.filter_map(|node| self.core.peer(node));
        let alive = peers.filter(|peer| peer.last_contact + patience > now);
        let needs = alive.map(|peer| peer.snapshot.unwrap_or(peer.match_index));
        needs.min().unwrap_or(LogIndex::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_an_index_are_known_by_the_piece() {
        let mut tail = Tail::default();
        (1..=10).for_each(|index| tail.add(index * 10, PIECE));
        assert_eq!(tail.begins(100, 3 * PIECE), 70);
        assert_eq!(tail.begins(80, PIECE + 1), 70);
        assert_eq!(tail.begins(100, 100 * PIECE), 0);
        tail.forget(50);
        assert_eq!(tail.begins(60, 100 * PIECE), 0, "nothing is known below");
        tail.add(101, 1);
        tail.add(102, 1);
        assert_eq!(tail.begins(102, PIECE + 1), 100, "small ones share a piece");
    }
}

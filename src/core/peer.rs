//! One peer as this node knows it: its streams, and as a leader how far it has the log.

use super::io::{PeerHello, Settings};
use super::message::{Class, ReplicaState};
use super::snapshots::SnapshotMark;
use super::window::{Inflight, Window};
use crate::types::{LogIndex, Micros, ReplicaId};

/// How a leader sends to a peer. Every state but `Replicate` ends by a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Where the logs agree is not known: one append at a time, sent again after `until`.
    Probe {
        /// The outstanding probe's number and when to give up on it.
        outstanding: Option<(u64, Micros)>,
    },
    /// The logs agree up to `next - 1` as far as sent: appends are pipelined.
    Replicate,
    /// What it needs is no longer in the log: it is sent a snapshot, and counts by its last match
    /// meanwhile (section 7).
    Snapshot {
        /// Which.
        mark: SnapshotMark,
        /// A sign of life moves this on; past it, the peer is probed again.
        until: Micros,
    },
}

/// A peer. The links outlive roles; the rest is a leader's and starts anew with each term.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) control: Option<u64>,
    pub(super) data: Option<u64>,
    /// Who answered on the newest link; may be another life than the configuration names.
    pub(super) answered: Option<ReplicaId>,
    pub(super) hello: PeerHello,
    /// Its log is under repair, as it said last: what it holds is tracked and counts for nothing.
    pub(super) repairing: bool,
    /// The next append's or heartbeat's number in its epoch.
    pub(super) data_seq: u64,
    pub(super) control_seq: u64,
    pub(super) match_index: LogIndex,
    pub(super) next: LogIndex,
    pub(super) progress: Progress,
    pub(super) window: Window,
    /// It did not answer in time: since the append of this number none carries entries.
    pub(super) bare: Option<u64>,
    /// The transport refused; wait until it says that there is room.
    pub(super) refused: bool,
    /// The newest round of reads whose heartbeat it answered in this term.
    pub(super) read_round: u64,
    /// It refuses votes until then, by this node's clock; 0 where nothing is promised.
    pub(super) lease_until: Micros,
    /// A learner that is to vote has to get this far, and since when.
    pub(super) round_goal: LogIndex,
    pub(super) round_began: Micros,
    /// Last reply of this term.
    pub(super) last_contact: Micros,
    /// What it was as of its last reply to a heartbeat of this term.
    pub(super) state: Option<ReplicaState>,
    /// Since when it has lacked entries and answered nothing but heartbeats (hazard B12).
    pub(super) owed_since: Option<Micros>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            control: None,
            data: None,
            answered: None,
            hello: PeerHello::default(),
            repairing: false,
            data_seq: 0,
            control_seq: 0,
            match_index: 0,
            next: 1,
            progress: Progress::Probe { outstanding: None },
            window: Window::default(),
            bare: None,
            refused: false,
            read_round: 0,
            lease_until: 0,
            round_goal: 0,
            round_began: 0,
            last_contact: 0,
            state: None,
            owed_since: None,
        }
    }
}

impl Peer {
    pub(super) fn link_up(&mut self, peer: ReplicaId, class: Class, epoch: u64, hello: PeerHello) {
        if self.answered.is_some_and(|before| before != peer) {
            // Another life has promised nothing of what this one did (hazard E8).
            self.start_term(self.next, 0);
            self.repairing = false;
        }
        if hello.repairing {
            self.says(ReplicaState::Repairing);
        }
        self.answered = Some(peer);
        self.hello = hello;
        match class {
            Class::Control => {
                self.control = Some(epoch);
                self.control_seq = 0;
            }
            Class::Data => {
                self.data = Some(epoch);
                self.data_seq = 0;
                if self.hello.repairing {
                    // It may have been repaired once more, and have lost what it told since the first time.
                    self.start_term(self.next, self.last_contact);
                }
                self.probe();
            }
            Class::Bulk => {}
        }
    }

    pub(super) fn link_down(&mut self, class: Class, epoch: u64) {
        match class {
            Class::Control if self.control == Some(epoch) => self.control = None,
            Class::Data if self.data == Some(epoch) => {
                self.data = None;
                self.probe();
            }
            _ => {}
        }
    }

    /// A new leader's view: nothing known, try just after its last entry (section 5.3).
    pub(super) fn start_term(&mut self, next: LogIndex, now: Micros) {
        self.match_index = 0;
        self.last_contact = now;
        self.state = None;
        self.owed_since = None;
        self.refused = false;
        self.read_round = 0;
        self.lease_until = 0;
        self.round_goal = 0;
        self.probe_at(next);
    }

    /// No answer came in time (hazard B9). What was sent may be lost, or on its way over a slow link, where
    /// the same entries once more would queue up behind it, and that again and again. So it is asked
    /// without entries how far it is; the answer follows all that is under way on the stream.
    pub(super) fn silent(&mut self) {
        if self.receives().is_some() {
            return self.probe();
        }
        if self.progress == Progress::Replicate {
            self.next = self.match_index + 1;
        }
        self.progress = Progress::Probe { outstanding: None };
        self.window.give_up();
        self.bare.get_or_insert(self.data_seq);
        self.refused = false;
    }

    /// Forget what was sent: after a lost epoch, or where nothing more can come of it.
    pub(super) fn probe(&mut self) {
        if self.progress == Progress::Replicate {
            self.next = self.match_index + 1;
        }
        self.probe_at(self.next);
        self.refused = false;
    }

    /// Nothing was taken: probe again, but not before `until`.
    pub(super) fn back_off(&mut self, until: Micros) {
        self.probe();
        self.progress = Progress::Probe {
            outstanding: Some((self.data_seq, until)),
        };
    }

    /// The logs differ at the last probe; try at `next`.
    pub(super) fn conflicted(&mut self, next: LogIndex) {
        self.probe_at(next);
    }

    fn probe_at(&mut self, next: LogIndex) {
        self.next = next;
        self.progress = Progress::Probe { outstanding: None };
        self.window.clear();
        self.bare = None;
    }

    /// An append up to `last` left, of a log that ends at `end`.
    pub(super) fn sent(
        &mut self,
        append: Inflight,
        (last, end): (LogIndex, LogIndex),
        retry_at: Micros,
    ) {
        match &mut self.progress {
            Progress::Probe { outstanding } => *outstanding = Some((append.seq, retry_at)),
            Progress::Replicate => self.next = last + 1,
            Progress::Snapshot { .. } => {}
        }
        self.window.sent(append, last < end);
    }

    pub(super) fn matched(&mut self, index: LogIndex) {
        self.match_index = self.match_index.max(index);
        self.next = self.next.max(self.match_index + 1);
        self.progress = Progress::Replicate;
        self.bare = None;
    }

    /// An append that was given up arrived after all: its answer is of this stream and term, so it is
    /// true. Entries leave again once an append without any is answered: then nothing older is under way.
    pub(super) fn matched_late(&mut self, seq: u64, index: LogIndex) {
        if !self.window.answered_late(seq) {
            return;
        }
        let probes = matches!(self.progress, Progress::Probe { .. });
        if probes && self.bare.is_some_and(|first| seq >= first) {
            return self.matched(index);
        }
        self.match_index = self.match_index.max(index);
        self.next = self.next.max(self.match_index + 1);
    }

    /// The snapshot that it is sent.
    pub(super) fn receives(&self) -> Option<SnapshotMark> {
        match self.progress {
            Progress::Snapshot { mark, .. } => Some(mark),
            _ => None,
        }
    }

    /// From when on the next entries may leave, and how many bytes of them; none if that waits for
    /// something else than time.
    pub(super) fn sends(&self, end: LogIndex, settings: &Settings) -> Option<(Micros, usize)> {
        let due = match self.progress {
            Progress::Probe { outstanding } => outstanding.is_none(),
            Progress::Snapshot { .. } => false,
            Progress::Replicate => self.next <= end,
        };
        let room = self.window.room(settings)?;
        (due && !self.refused).then_some((self.window.opens(), room))
    }

    /// When a probe or a window that got no answer is to be given up.
    pub(super) fn silence_ends(&self, patience: Micros) -> Option<Micros> {
        match self.progress {
            Progress::Probe { outstanding } => outstanding.map(|(_, until)| until),
            Progress::Snapshot { until, .. } => Some(until),
            Progress::Replicate => {
                let since = self.window.unanswered_since();
                since.map(|since| since + patience)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It may have dropped that since, as somebody else's follower.
    #[test]
    fn b3_a_new_term_forgets_what_a_peer_acknowledged_before() {
        let mut peer = Peer::default();
        peer.start_term(8, 1);
        peer.matched(7);
        assert_eq!((peer.match_index, peer.next), (7, 8));
        peer.start_term(12, 2);
        assert_eq!((peer.match_index, peer.next), (0, 12));
    }
}

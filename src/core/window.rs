//! How much a leader has on its way to one peer, and when it sends more.
//!
//! While an append is under way, what is proposed gathers for the next one. A pipeline that is always
//! deep sends it in many small pieces instead, each with its own frame, write and answer; one without
//! depth makes an entry wait for a whole round trip; and one that is only bounded sends in clumps, a
//! round trip apart. So an append waits for the answer to the one before it, but not for longer than a
//! pace that follows the time that answers take: what is near gets one at a time, what is far a
//! pipeline. What did not fit one append leaves with the next at once.

use std::collections::VecDeque;

use super::io::Settings;
use crate::types::Micros;

/// Entries wait for so long at most, in microseconds, while an append is under way,
const PACE: Micros = 2_000;
/// or for this part of the time that its answer takes, if that is longer.
const DEPTH: Micros = 16;
/// What one answer weighs in the mean is one in so many.
const SMOOTHING: Micros = 8;

/// An append that was sent and not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inflight {
    pub(super) seq: u64,
    pub(super) bytes: usize,
    pub(super) sent_at: Micros,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    appends: VecDeque<Inflight>,
    bytes: usize,
    /// The first and the last of those given up on this stream whose answer may still come.
    late: Option<(u64, u64)>,
    /// A moving mean of how long answers take; it outlives a window that is given up.
    answers_take: Micros,
    /// The last append could not take all that there was.
    cut: bool,
}

impl Window {
    /// Entry bytes under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes the next append may have; none while the window is full.
    pub(super) fn room(&self, settings: &Settings) -> Option<usize> {
        let room = settings.max_inflight_bytes.saturating_sub(self.bytes);
        (self.appends.len() < settings.max_inflight_appends && room > 0).then_some(room)
    }

    /// From when on the next append may leave, if there is room.
    pub(super) fn opens(&self) -> Micros {
        match self.appends.back() {
            Some(newest) if !self.cut => newest.sent_at + PACE.max(self.answers_take / DEPTH),
            _ => 0,
        }
    }

    /// An append left; `cut` says that not all fitted into it.
    pub(super) fn sent(&mut self, append: Inflight, cut: bool) {
        self.bytes += append.bytes;
        self.appends.push_back(append);
        self.cut = cut;
    }

    /// An answer frees everything up to `seq`. Whether any of it was under way.
    pub(super) fn answered(&mut self, now: Micros, seq: u64) -> bool {
        let mut newest = None;
        while let Some(oldest) = self.appends.front().filter(|oldest| oldest.seq <= seq) {
            self.bytes -= oldest.bytes;
            newest = self.appends.pop_front();
        }
        let Some(append) = newest else { return false };
        let took = now.saturating_sub(append.sent_at);
        self.answers_take = match self.answers_take {
            0 => took,
            mean => (mean * (SMOOTHING - 1) + took) / SMOOTHING,
        };
        true
    }

    /// What is under way counts no more, and no answer to it comes.
    pub(super) fn clear(&mut self) {
        self.appends.clear();
        (self.bytes, self.cut, self.late) = (0, false, None);
    }

    /// What is under way is not waited for any longer. It may arrive all the same.
    pub(super) fn give_up(&mut self) {
        let under_way = self.appends.front().zip(self.appends.back());
        let under_way = under_way.map(|(oldest, newest)| (oldest.seq, newest.seq));
        let late = match (self.late, under_way) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (before, now) => before.or(now),
        };
        self.clear();
        self.late = late;
    }

    /// An answer to one that was given up, as [`answered`](Self::answered).
    pub(super) fn answered_late(&mut self, seq: u64) -> bool {
        let Some((first, last)) = self.late else {
            return false;
        };
        let is = (first..=last).contains(&seq);
        if is {
            self.late = (seq < last).then_some((seq + 1, last));
        }
        is
    }

    /// Whether an answer to one that was given up may come, and up to which number.
    #[cfg(test)]
    pub(super) fn late(&self) -> Option<(u64, u64)> {
        self.late
    }

    /// Since when the oldest has had no answer.
    pub(super) fn unanswered_since(&self) -> Option<Micros> {
        self.appends.front().map(|oldest| oldest.sent_at)
    }

    /// What is under way, oldest first.
    #[cfg(test)]
    pub(super) fn appends(&self) -> impl Iterator<Item = &Inflight> {
        self.appends.iter()
    }
}

//! Election priorities: leadership goes to the voter that the operator prefers.
//!
//! Elections know nothing of it: whoever can lead soonest does, and safety rests on nothing new. A
//! leader that finds a voter of a higher priority fit to lead for a while hands over to it, as by
//! hand (thesis, section 3.10): so a preferred node that comes and goes moves leadership once in
//! that while at most.

use super::hand_over::HandOver;
use super::peer::{Peer, Progress};
use super::{Output, RaftCore};
use crate::types::{Micros, ReplicaId};

/// Longest election timeouts for which a voter must have been fit.
const SETTLED: Micros = 10;
/// After a failed attempt the next one waits twice as long, so many times.
const MOST_DOUBLINGS: u32 = 6;

/// Whom a leader would rather see lead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Preference {
    /// Who is fit, and since when.
    fit: Option<(ReplicaId, Micros)>,
    /// Attempts in this term. All failed, or this node would not lead.
    attempts: u32,
}

impl RaftCore {
    /// With every tick of a leader.
    pub(super) fn tick_preference(&mut self, now: Micros, out: &mut Vec<Output>) {
        let preferred = self.preferred(now);
        let HandOver { preference, .. } = &mut self.hand_over;
        let Some(who) = preferred else {
            preference.fit = None;
            return;
        };
        let since = match preference.fit {
            Some((before, since)) if before == who => since,
            _ => now,
        };
        preference.fit = Some((who, since));
        let wait = SETTLED * self.settings.election_timeout_max;
        if now - since >= wait << preference.attempts.min(MOST_DOUBLINGS) {
            preference.fit = None;
            preference.attempts += 1;
            self.begin_hand_over(now, Some(who.node), out);
        }
    }

    /// The voter of the highest priority above the own that answers and has what is committed, if
    /// nothing else is under way.
    fn preferred(&self, now: Micros) -> Option<ReplicaId> {
        let configuration = self.configuration()?;
        let voters = &configuration.incoming;
        let own = voters.iter().find(|voter| voter.replica == self.me)?;
        let preferred = voters.iter().filter(|voter| voter.priority > own.priority);
        let horizon = now.saturating_sub(self.settings.election_timeout_min);
        let fit = |peer: &&Peer| {
            peer.last_contact >= horizon
                && peer.progress == Progress::Replicate
                && peer.match_index >= self.commit
        };
        let fit = preferred.filter_map(|voter| {
            let peer = self.holder(voter.replica).filter(fit)?;
            Some((voter.priority, peer.match_index, voter.replica))
        });
        let (_, _, best) = fit.max()?;
        let quiet = self.settled_configuration().is_some() && !self.is_handing_over();
        quiet.then_some(best)
    }
}

//! Founding a cluster, unanimously and once.
//!
//! The lowest listed id creates entry 1, the configuration, once it holds a live hello from every
//! listed peer, all of them blank. It gives the entry to each, and campaigns only when **all** have
//! stored it durably: with a mere majority, a founder that froze, was recreated and came back would
//! begin a second history. The founder's incarnation names the history (its *genesis*).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::io::FoundingList;
use super::message::{Found, FoundReply, FoundStatus, Message};
use super::peer::Peer;
use super::{
    AppendSource, Configuration, EntrySummary, Event, MemberInfo, Output, RaftCore, RaftRole,
};
use crate::types::{HardState, LogId, Micros, NodeId, ReplicaId};

/// The term of entry 1. The founder's first campaign is for the next.
const FOUNDING_TERM: u64 = 1;

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Founding {
    list: FoundingList,
    /// Who has stored entry 1 durably, as the founder knows it.
    stored: BTreeSet<ReplicaId>,
    /// What was advised last: the same is not said again at every tick.
    advised: String,
}

impl Founding {
    pub(super) fn new(list: FoundingList) -> Self {
        Self {
            list,
            stored: BTreeSet::new(),
            advised: String::new(),
        }
    }
}

impl RaftCore {
    /// Nothing but entry 1 exists and no term has begun: the founder may still be handing it out.
    pub(super) fn founding_is_open(&self) -> bool {
        !self.is_blank()
            && self.log.last() == LogId::new(FOUNDING_TERM, 1)
            && self.hard.term == FOUNDING_TERM
    }

    pub(super) fn founding_in_progress(&self) -> bool {
        self.role == RaftRole::Follower
            && !self.is_repairing()
            && (self.founding_is_open() || self.is_blank())
            && self.is_lowest()
    }

    fn is_lowest(&self) -> bool {
        let list = &self.founding.list;
        let others = list.others.iter().all(|other| self.me.node < *other);
        others && (list.single || !list.others.is_empty())
    }

    pub(super) fn greet_founding(&mut self, now: Micros, peer: ReplicaId, out: &mut Vec<Output>) {
        if self.founding_in_progress() {
            self.go_on_founding(now, out);
        }
        self.advise_if_recreated(peer, out);
    }

    pub(super) fn tick_founding(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.founding_in_progress() && now >= self.heartbeat_due {
            self.go_on_founding(now, out);
        }
    }

    fn go_on_founding(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.heartbeat_due = now + self.settings.heartbeat_interval;
        if self.is_blank() {
            if !self.no_room {
                self.found_if_all_are_here(out);
            }
        } else {
            self.offer_to_all(now, out);
        }
    }

    /// Whoever has not answered is offered entry 1 again; the founder that restarted starts here.
    fn offer_to_all(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.durable >= 1 && self.genesis == self.me.incarnation {
            self.founding.stored.insert(self.me);
            self.others()
                .iter()
                .for_each(|member| self.offer_first_entry(*member, out));
            self.campaign_if_all_stored(now, out);
        }
    }

    /// Step 1: every listed peer is here and blank.
    fn found_if_all_are_here(&mut self, out: &mut Vec<Output>) {
        let Some(mut members) = self.blank_members(out) else {
            return;
        };
        if self.hard.term > FOUNDING_TERM {
            return self.advise_later_term(out);
        }
        members.push(MemberInfo {
            replica: self.me,
            peer_address: self.founding.list.peer_address.clone(),
            client_endpoint: self.founding.list.client_endpoint.clone(),
            features: self.features,
            priority: 0,
        });
        // Not all of them need be of the founder's release.
        let known = members.iter().map(|member| member.features.1);
        let level = known.min().unwrap_or(self.features.0);
        members.sort_by_key(|member| member.replica);
        let configuration = Arc::new(Configuration {
            incoming: members,
            feature_level: level,
            ..Configuration::default()
        });
        self.genesis = self.me.incarnation;
        self.hard = HardState {
            term: FOUNDING_TERM,
            voted_for: ReplicaId::default(),
        };
        self.log.append(FOUNDING_TERM, 1);
        let (hard, genesis) = (self.hard, self.genesis);
        let source = AppendSource::Configuration {
            index: 1,
            configuration: Arc::clone(&configuration),
        };
        self.persist(out, |write| {
            write.hard_state = Some(hard);
            write.genesis = Some(genesis);
            write.append = source;
        });
        self.adopt_configuration(1, configuration, out);
    }

    /// A candidate asked this blank node for a vote: a cluster existed then, and terms never fall.
    fn advise_later_term(&mut self, out: &mut Vec<Output>) {
        let text = format!(
            "this blank directory has already heard of term {}: a cluster exists, use replace to \
             bring this node in; or, if none does, delete this directory and start again",
            self.hard.term
        );
        self.advise(text, out);
    }

    /// A blank node waited for an election timeout, and a peer belongs to a cluster: most likely
    /// this directory was wiped (hazard E8).
    pub(super) fn advise_if_left_out(&mut self, out: &mut Vec<Output>) {
        let belongs = |peer: &&Peer| peer.control.is_some() && !peer.hello.blank;
        let member = self.peers.values().find(belongs);
        if self.is_blank()
            && let Some(member) = member.and_then(|peer| peer.answered)
        {
            self.advise_left_out(member.node, out);
        }
    }

    fn advise_left_out(&mut self, member: NodeId, out: &mut Vec<Output>) {
        let text = format!(
            "node {member} already belongs to a cluster and this directory is blank: add this node \
             to the members, or use replace if it was one in another life, or restore its \
             directory; if the cluster is only being founded at this moment, wait"
        );
        self.advise(text, out);
    }

    /// A voter refuses this replica for good.
    pub(super) fn advise_removed(&mut self, out: &mut Vec<Output>) {
        let text =
            "this node was removed from its cluster: stop it; to bring it back, start it with \
                    an empty directory and add it"
                .to_owned();
        self.advise(text, out);
    }

    pub(super) fn advise(&mut self, text: String, out: &mut Vec<Output>) {
        if self.founding.advised != text {
            self.founding.advised.clone_from(&text);
            out.push(Output::Event(Event::Advice(text)));
        }
    }

    fn blank_members(&mut self, out: &mut Vec<Output>) -> Option<Vec<MemberInfo>> {
        let mut members = Vec::new();
        let lowest = self.features.0;
        for node in &self.founding.list.others {
            let peer = self.peers.get(node).filter(|peer| peer.control.is_some())?;
            let replica = peer.answered?;
            if !peer.hello.blank {
                let node = *node;
                self.advise_left_out(node, out);
                return None;
            }
            members.push(MemberInfo {
                replica,
                peer_address: peer.hello.peer_address.clone(),
                client_endpoint: peer.hello.client_endpoint.clone(),
                features: (lowest, peer.hello.knows_level.max(lowest)),
                priority: 0,
            });
        }
        Some(members)
    }

    /// Step 2: the entry is durable here, so others may have it.
    pub(super) fn founded_durably(&mut self, now: Micros, out: &mut Vec<Output>) {
        let waits = self.founding_is_open() && !self.is_repairing();
        if waits && !self.founding.stored.contains(&self.me) {
            self.offer_to_all(now, out);
        }
    }

    fn offer_first_entry(&self, to: ReplicaId, out: &mut Vec<Output>) {
        if !self.founding.stored.contains(&to) {
            let found = Found {
                term: FOUNDING_TERM,
                founder: self.genesis,
            };
            out.push(Output::SendFirstEntry {
                to: to.node,
                message: Message::Found(found),
            });
        }
    }

    /// Step 3, at a peer: store it, once.
    pub(super) fn on_found(
        &mut self,
        from: ReplicaId,
        found: Found,
        entries: EntrySummary,
        out: &mut Vec<Output>,
    ) {
        let named = |configuration: &Configuration| {
            configuration.is_voter(self.me) && configuration.is_voter(from)
        };
        let first = entries
            .configurations
            .into_iter()
            .find(|(index, c)| *index == 1 && named(c));
        let ours = found.founder == from.incarnation && found.term == FOUNDING_TERM;
        if let Some((_, configuration)) = first
            && entries.fits
            && self.is_blank()
            && !self.is_repairing()
            && self.log.last().index == 0
            && self.hard.term <= FOUNDING_TERM
            && ours
        {
            self.store_first_entry(found, configuration, out);
        }
        let stored = !self.is_blank() && self.genesis == found.founder;
        let reply = FoundReply {
            term: self.hard.term,
            incarnation: self.me.incarnation,
            status: if stored {
                FoundStatus::Stored
            } else {
                FoundStatus::Refused
            },
        };
        self.send(
            from.node,
            Message::FoundReply(reply),
            self.durability_of(1),
            out,
        );
    }

    fn store_first_entry(
        &mut self,
        found: Found,
        configuration: Arc<Configuration>,
        out: &mut Vec<Output>,
    ) {
        self.genesis = found.founder;
        self.hard.term = FOUNDING_TERM;
        self.log.append(FOUNDING_TERM, 1);
        let (hard, genesis) = (self.hard, self.genesis);
        self.persist(out, |write| {
            write.hard_state = Some(hard);
            write.genesis = Some(genesis);
            write.append = AppendSource::Message { from: 1 };
        });
        self.adopt_configuration(1, configuration, out);
    }

    /// Step 4: all have stored it.
    pub(super) fn on_found_reply(
        &mut self,
        now: Micros,
        from: ReplicaId,
        reply: FoundReply,
        out: &mut Vec<Output>,
    ) {
        let open = self.founding_is_open() && !self.is_repairing();
        if !open || reply.incarnation != from.incarnation {
            return;
        }
        if reply.status == FoundStatus::Stored {
            self.founding.stored.insert(from);
            self.campaign_if_all_stored(now, out);
        } else {
            self.advise_incomplete(from.node, out);
        }
    }

    fn campaign_if_all_stored(&mut self, now: Micros, out: &mut Vec<Output>) {
        let all = self
            .others()
            .iter()
            .all(|member| self.founding.stored.contains(member));
        if all && self.founding.stored.contains(&self.me) && self.role == RaftRole::Follower {
            self.campaign_now(now, out);
        }
    }

    /// A member that came back in another life can never store this entry.
    fn advise_if_recreated(&mut self, peer: ReplicaId, out: &mut Vec<Output>) {
        let members = self.others();
        let named = members.iter().any(|member| member.node == peer.node);
        if !self.founding_is_open() || !named || members.contains(&peer) {
            return;
        }
        if self.genesis == self.me.incarnation {
            return self.advise_incomplete(peer.node, out);
        }
        // Only the founder knows that it never campaigned; others may have gone on without us.
        let text = format!(
            "node {} came back with another directory, and as far as this node knows the founding \
             was not complete: if no leader appears, and no member has entered term 2, delete all \
             directories and start again; otherwise use replace for that node",
            peer.node
        );
        self.advise(text, out);
    }

    fn advise_incomplete(&mut self, node: NodeId, out: &mut Vec<Output>) {
        let text = format!(
            "founding incomplete: node {node} is not the one that this founding named, and nothing \
             can have been committed: delete this directory and start again"
        );
        self.advise(text, out);
    }
}

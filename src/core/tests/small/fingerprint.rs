//! What makes two states the same: everything that decides what can happen from here on, and
//! nothing else. Write ids count from the oldest write under way; times, rounds and what a node
//! that does not lead remembers of peers are left out (see the page for why that is sound).
//!
//! A fingerprint is taken under each of the six renamings of the nodes; the smallest one stands for
//! all of them. Nodes and messages are summed, so that their order does not matter.

use super::super::super::peer::{Peer, Progress};
use super::super::super::{AppendStatus, Message, RaftRole};
use super::super::disk::{Image, Item, mix};
use super::super::net::Envelope;
use super::world::{Letter, NODES, Node, World, slot};
use crate::types::{HardState, NodeId, WriteId};

/// One value under each renaming; the first one is under the nodes' own names.
pub(super) type Prints = [u128; RENAMINGS.len()];

/// New number of the nodes 1, 2, 3; nobody stays nobody.
type Renaming = [NodeId; NODES + 1];

const RENAMINGS: [Renaming; 6] = [
    [0, 1, 2, 3],
    [0, 1, 3, 2],
    [0, 2, 1, 3],
    [0, 2, 3, 1],
    [0, 3, 1, 2],
    [0, 3, 2, 1],
];

/// Two independent running hashes.
#[derive(Clone, Copy)]
struct Print(u64, u64);

impl Print {
    fn new(kind: u64) -> Self {
        Self(mix(0x5eed, kind), mix(0xfeed, kind))
    }

    fn put(&mut self, value: u64) {
        self.0 = mix(self.0, value);
        self.1 = mix(self.1.rotate_left(17), value ^ 0xa5a5_5a5a_0f0f_f0f0);
    }

    fn all(&mut self, values: &[u64]) {
        self.put(values.len() as u64);
        values.iter().for_each(|value| self.put(*value));
    }

    fn end(self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

impl World {
    /// What this state is known by.
    pub(super) fn fingerprint(&self) -> u128 {
        let mut sums = self.rest();
        let useful = self.sent.iter().filter(|letter| self.matters(letter));
        let messages = useful.map(|letter| &letter.prints);
        for prints in self.prints.iter().chain(messages) {
            for (sum, print) in sums.iter_mut().zip(prints) {
                *sum = sum.wrapping_add(*print);
            }
        }
        sums.into_iter().min().unwrap_or(0)
    }

    /// Takes the prints of a node, if it changed.
    pub(super) fn reprint(&mut self, at: usize) {
        let node = &self.nodes[at];
        if self.prints[at][0] != of_node(node, RENAMINGS[0]) {
            self.prints[at] = RENAMINGS.map(|name| of_node(node, name));
        }
    }

    /// Whether this is still that state, for a step that uses nothing up.
    pub(super) fn is_still(&self, before: &Self) -> bool {
        self.prints == before.prints
            && self.sent.len() == before.sent.len()
            && self.leaders.len() == before.leaders.len()
            && self.committed.len() == before.committed.len()
    }

    /// What is used up and what the observer remembers.
    fn rest(&self) -> Prints {
        RENAMINGS.map(|name| {
            let mut print = Print::new(1);
            let used = &self.used;
            let counts = [used.proposals, used.step_downs, used.resends, used.timeouts];
            counts.iter().for_each(|count| print.put(u64::from(*count)));
            for (term, leader) in &self.leaders {
                print.all(&[*term, name[*leader as usize]]);
            }
            for (hash, term) in &self.committed {
                print.all(&[*hash, *term]);
            }
            let each = (0..NODES).map(|at| {
                let mut print = Print::new(2);
                let counts = [used.crashes[at], used.reconnects[at]].map(u64::from);
                print.all(&[name[at + 1], counts[0], counts[1]]);
                print.end()
            });
            each.fold(print.end(), u128::wrapping_add)
        })
    }

    /// Whether a message can still change anything. Those that cannot are delivered all the same,
    /// and must change nothing (S15).
    pub(super) fn matters(&self, letter: &Letter) -> bool {
        let node = &self.nodes[slot(letter.envelope.to)];
        let (core, from) = (&node.core, letter.envelope.from);
        let kept = node.disk.durable.hard;
        match &letter.envelope.message {
            Message::Append(append) => append.term >= kept.term,
            Message::Heartbeat(beat) => beat.term >= kept.term,
            Message::Vote(vote) => {
                let free = kept.voted_for.node == 0 || kept.voted_for == from;
                vote.term > kept.term || vote.term == kept.term && free
            }
            // Nobody is a candidate, or leads, in the same term twice.
            Message::VoteReply(reply) => {
                let asks = core.role() == RaftRole::Candidate && core.term() == reply.term;
                asks && !core.campaign.granted.contains(&from)
            }
            Message::AppendAck(ack) => {
                let peer = core.peers.get(&from.node);
                let waits = |peer: &Peer| {
                    let oldest = peer.window.appends().next();
                    let awaited = oldest.is_some_and(|sent| sent.seq <= ack.seq);
                    let late = peer.window.late();
                    let late = late.is_some_and(|(first, last)| (first..=last).contains(&ack.seq));
                    peer.data == Some(ack.epoch) && (awaited || late)
                };
                core.is_leader() && core.term() == ack.term && peer.is_some_and(waits)
            }
            _ => true,
        }
    }
}

fn of_node(node: &Node, name: Renaming) -> u128 {
    let core = &node.core;
    // Writes under way are 1, 2, ...; older ones are 0.
    let oldest = core.next_write - core.writes.len() as WriteId;
    let rank = |id: Option<WriteId>| id.map_or(0, |id| (id + 1).saturating_sub(oldest));
    let mut print = Print::new(3);
    print.all(&[
        name[node.id.node as usize],
        core.role() as u64,
        node.unsettled.into(),
    ]);
    print.all(&[
        core.commit(),
        core.durable(),
        core.verified,
        rank(core.term_write),
    ]);
    image(&mut print, &node.disk.live, name);
    image(&mut print, &node.disk.durable, name);
    for ((_, write), (_, last)) in node.disk.pending.iter().zip(&core.writes) {
        print.all(&[*last, write.truncate_from.unwrap_or(0)]);
        hard(&mut print, write.hard.unwrap_or_default(), name);
        items(&mut print, &write.items);
    }
    let mut sum = 0_u128;
    for one in &node.deferred {
        let mut waits = Print::new(7);
        waits.all(&[rank(Some(one.after)), one.vouches.unwrap_or(0)]);
        let message = of_envelope(&one.letter.envelope, name);
        waits.all(&[(message >> 64) as u64, message as u64]);
        sum = sum.wrapping_add(waits.end());
    }
    let campaign = &core.campaign;
    let asks = matches!(core.role(), RaftRole::Candidate | RaftRole::PreCandidate);
    if asks {
        print.put(rank(campaign.own_vote));
        if core.role() == RaftRole::PreCandidate {
            print.put(campaign.round);
        }
        for who in &campaign.granted {
            let mut grant = Print::new(4);
            grant.all(&[name[node.id.node as usize], name[who.node as usize]]);
            sum = sum.wrapping_add(grant.end());
        }
    }
    if core.is_leader() {
        for (other, peer) in &core.peers {
            let mut view = Print::new(5);
            view.all(&[name[node.id.node as usize], name[*other as usize]]);
            of_peer(&mut view, peer);
            sum = sum.wrapping_add(view.end());
        }
    }
    print.end().wrapping_add(sum)
}

fn of_peer(print: &mut Print, peer: &Peer) {
    let progress = match peer.progress {
        Progress::Replicate => 0,
        Progress::Probe { outstanding: None } => 1,
        Progress::Probe {
            outstanding: Some(_),
        } => 2,
        Progress::Snapshot { .. } => 3,
    };
    print.all(&[peer.match_index, peer.next, progress, peer.data_seq]);
    print.all(&[
        peer.data.unwrap_or(0),
        peer.control.unwrap_or(0),
        peer.refused.into(),
    ]);
    let (first, last) = peer.window.late().unwrap_or_default();
    print.all(&[first, last, peer.bare.map_or(0, |seq| seq + 1)]);
    let seqs = peer
        .window
        .appends()
        .flat_map(|sent| [sent.seq, sent.bytes as u64]);
    print.all(&seqs.collect::<Vec<_>>());
}

fn hard(print: &mut Print, hard: HardState, name: Renaming) {
    print.all(&[hard.term, name[hard.voted_for.node as usize]]);
}

fn image(print: &mut Print, image: &Image, name: Renaming) {
    hard(print, image.hard, name);
    items(print, &image.items);
}

/// A hash covers all before it.
fn items(print: &mut Print, items: &[Item]) {
    let last = items.last().map_or(0, |item| item.hash);
    print.all(&[items.len() as u64, last]);
}

/// The print under the nodes' own names.
pub(super) fn own(envelope: &Envelope) -> u128 {
    of_envelope(envelope, RENAMINGS[0])
}

pub(super) fn of_letter(envelope: &Envelope) -> Prints {
    RENAMINGS.map(|name| of_envelope(envelope, name))
}

fn of_envelope(envelope: &Envelope, name: Renaming) -> u128 {
    let mut print = Print::new(6);
    let message = &envelope.message;
    print.all(&[
        name[envelope.from.node as usize],
        name[envelope.to as usize],
        message.term(),
    ]);
    match message {
        Message::Append(m) => {
            print.all(&[
                1,
                m.epoch,
                m.seq,
                m.prev.term,
                m.prev.index,
                m.commit,
                m.count.into(),
            ]);
            items(&mut print, &envelope.items);
        }
        Message::AppendAck(m) => {
            let conflict = u64::from(m.status == AppendStatus::Conflict);
            print.all(&[2, m.epoch, m.seq, m.match_index, conflict]);
            print.all(&[m.conflict.term, m.conflict.index]);
        }
        Message::Heartbeat(m) => print.all(&[3, m.commit]),
        // A candidate has one round in a term.
        Message::Vote(m) => print.all(&[4, m.last.term, m.last.index]),
        Message::VoteReply(m) => print.all(&[5, m.granted.into()]),
        Message::PreVote(m) => print.all(&[6, m.round, m.last.term, m.last.index]),
        Message::PreVoteReply(m) => print.all(&[7, m.round, m.granted.into()]),
        Message::HeartbeatReply(_)
        | Message::ReadIndex(_)
        | Message::ReadIndexReply(_)
        | Message::TimeoutNow(_)
        | Message::TimeoutNowReply(_)
        | Message::Found(_)
        | Message::FoundReply(_)
        | Message::SnapshotOffer(_)
        | Message::SnapshotChunk(_)
        | Message::SnapshotAck(_) => print.put(8),
    }
    print.end()
}

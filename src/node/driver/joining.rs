//! Adding who waits to be added, where that was asked for: `auto_join`.
//!
//! A leader takes in whom an operator could take in by `add`, as a learner, one at a time. It never undoes
//! what an operator did: who is a member, in whatever life, is not replaced, and who was removed stays out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Cause, Driver, Now};
use crate::core::{Change, Configuration, Input, MemberInfo};
use crate::network::{LocalFacts, RaftNetwork};
use crate::node::events::NodeEvent;
use crate::node::members::described;
use crate::state_machine::StateMachine;
use crate::types::{Micros, ReplicaId};
use crate::wal::Medium;

/// How often a leader looks who waits.
const LOOK_INTERVAL: Micros = 1_000_000;
/// How long it lets be what it could not do.
const AFTER_REFUSAL: Micros = 30_000_000;

/// What a leader does about those who wait.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// It adds them.
    wanted: bool,
    /// When it looks again.
    next_look: Micros,
    /// Whom it left out, and why, as far as it was told.
    left_out: BTreeMap<ReplicaId, &'static str>,
}

impl Joining {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }
}

/// What is to become of one who waits.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Joins,
    /// Somebody has to see to it, who is told once.
    LeftOut(&'static str),
    /// It is a member, or it may be another one that does.
    Nothing,
}

impl<S: StateMachine, M: Medium, N: RaftNetwork> Driver<S, M, N> {
    /// Adds one of those who wait, if there is one and no change is under way.
    pub(super) fn see_to_joining(&mut self, now: Now) {
        if !self.joining.wanted || now.mono < self.joining.next_look || !self.core.is_leader() {
            return;
        }
        self.joining.next_look = now.mono + LOOK_INTERVAL;
        let ends = self.stopping || self.failure.is_some();
        if ends || self.change.is_some() || self.core.has_no_room() || !self.core.may_change() {
            return;
        }
        if let Some(new) = self.next_to_join() {
            self.add_by_itself(now, new);
        }
    }

    /// The lowest of those that may join. The others are told of.
    fn next_to_join(&mut self) -> Option<MemberInfo> {
        let current = self.core.configuration()?.clone();
        let waiting = self.network.blank_nodes();
        let still = |who: &ReplicaId| waiting.iter().any(|(other, _)| other == who);
        self.joining.left_out.retain(|who, _| still(who));
        let mut first = None;
        for (who, facts) in &waiting {
            match fate(&current, &waiting, *who, facts) {
                Fate::Joins => {
                    first = first.or_else(|| Some(described(*who, facts)));
                }
                Fate::LeftOut(why) => {
                    if self.joining.left_out.insert(*who, why) != Some(why) {
                        self.tell(NodeEvent::LeftOut { who: *who, why });
                    }
                }
                Fate::Nothing => {}
            }
        }
        first
    }

    fn add_by_itself(&mut self, now: Now, new: MemberInfo) {
        let before = self.core.configured_at();
        let (who, address) = (new.replica, new.peer_address.clone());
        let change = Input::Change {
            expected: Some(before),
            changes: vec![Change::AddLearner(new)],
        };
        self.step(now, change, Cause::Other);
        if self.core.configured_at() > before {
            self.tell(NodeEvent::AddedByItself { who, address });
        } else {
            // The event of the refusal said why.
            self.joining.next_look = now.mono + AFTER_REFUSAL;
        }
    }
}

fn fate(
    current: &Configuration,
    waiting: &[(ReplicaId, LocalFacts)],
    who: ReplicaId,
    facts: &LocalFacts,
) -> Fate {
    if current.member(who.node).is_some() {
        // Another life of a member: whether it takes that one's place is not for a machine to say.
        return Fate::Nothing;
    }
    let removed = |gone: &ReplicaId| gone.node == who.node;
    if current.tombstones.iter().any(removed) {
        return Fate::LeftOut("a node of that number was removed: `members add` takes it in");
    }
    let lives = waiting.iter().filter(|(other, _)| other.node == who.node);
    if lives.count() > 1 {
        // One of them is gone, and its connection has not noticed yet; or both are alive, which is wrong.
        return Fate::Nothing;
    }
    if !can_be_dialled(&facts.peer_address) {
        return Fate::LeftOut("it says no address that others can dial: set its `advertise`");
    }
    if current
        .members()
        .any(|one| one.peer_address == facts.peer_address)
    {
        return Fate::LeftOut("it says a member's address for its own: correct its `advertise`");
    }
    if facts.knows_level < current.feature_level {
        return Fate::LeftOut("its release does not know the cluster's feature level");
    }
    Fate::Joins
}

/// `HOST:PORT`, and not one that only a listener can have.
fn can_be_dialled(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let port = port.parse::<u16>().unwrap_or_default();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let ip: Option<IpAddr> = bare.unwrap_or(host).parse().ok();
    let nobody = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast();
    port != 0 && !host.is_empty() && !ip.is_some_and(nobody)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::FEATURES;
    use crate::types::Incarnation;

    fn life(node: u64, life: u8) -> ReplicaId {
        ReplicaId::new(node, Incarnation([life; 16]))
    }

    fn facts(address: &str) -> LocalFacts {
        LocalFacts {
            blank: true,
            knows_level: FEATURES.1,
            peer_address: address.to_owned(),
            ..LocalFacts::default()
        }
    }

    /// Node 1 votes, node 2 learns, node 3 was removed.
    fn current() -> Configuration {
        let member = |node| described(life(node, 1), &facts(&format!("host-{node}:1")));
        Configuration {
            incoming: vec![member(1)],
            learners: vec![member(2)],
            tombstones: vec![life(3, 1)],
            feature_level: FEATURES.1,
            ..Configuration::default()
        }
    }

    fn alone(who: ReplicaId, facts: LocalFacts) -> Fate {
        fate(&current(), &[(who, facts.clone())], who, &facts)
    }

    #[test]
    fn who_is_unknown_and_can_be_dialled_joins() {
        for address in ["host-4:1", "10.0.0.4:50052", "[2001:db8::4]:1"] {
            assert_eq!(alone(life(4, 1), facts(address)), Fate::Joins, "{address}");
        }
    }

    #[test]
    fn a_member_in_another_life_is_never_replaced() {
        for node in [1, 2] {
            assert_eq!(alone(life(node, 2), facts("host-9:1")), Fate::Nothing);
            assert_eq!(alone(life(node, 1), facts("host-9:1")), Fate::Nothing);
        }
    }

    #[test]
    fn a_number_that_was_removed_stays_out_in_every_life() {
        for one in [1, 2] {
            let fate = alone(life(3, one), facts("host-3:1"));
            assert!(matches!(fate, Fate::LeftOut(why) if why.contains("was removed")));
        }
    }

    #[test]
    fn of_two_lives_neither_joins() {
        let both = [
            (life(4, 1), facts("host-4:1")),
            (life(4, 2), facts("host-4:1")),
        ];
        for (who, said) in &both {
            assert_eq!(fate(&current(), &both, *who, said), Fate::Nothing);
        }
    }

    #[test]
    fn an_address_that_nobody_can_dial_or_that_is_taken_is_told_of() {
        for wrong in [
            "",
            "host-4",
            ":1",
            "host-4:",
            "host-4:0",
            "host-4:99999",
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "host-1:1",
            "host-2:1",
        ] {
            let fate = alone(life(4, 1), facts(wrong));
            assert!(
                matches!(fate, Fate::LeftOut(why) if why.contains("`advertise`")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_older_release_than_the_cluster_needs_is_told_of() {
        let mut old = facts("host-4:1");
        old.knows_level = FEATURES.1 - 1;
        let fate = alone(life(4, 1), old);
        assert!(matches!(fate, Fate::LeftOut(why) if why.contains("feature level")));
    }
}

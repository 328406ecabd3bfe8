//! Changes of members, as those who ask for them see it.

use tokio::sync::oneshot;

use super::bed::Bed;
use crate::core::{Change, MemberInfo};
use crate::error::ChangeError;
use crate::node::inbox::Request;
use crate::types::{LogIndex, NodeId};
use crate::wal::{Crash, MemoryDisk, SyncPolicy};

const SECOND: u64 = 1_000_000;

/// Three nodes and their leader.
fn led() -> (Bed, NodeId) {
    let mut bed = Bed::new(3, SyncPolicy::Sync);
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    let leader = bed.leader().expect("just seen");
    // Until its term has begun the leader changes nothing.
    bed.run(SECOND, |_| false);
    (bed, leader)
}

pub(super) fn change(
    bed: &mut Bed,
    at: NodeId,
    change: Change,
) -> Option<Result<LogIndex, ChangeError>> {
    let (reply, mut answer) = oneshot::channel();
    let request = Request::Change {
        expected: None,
        changes: vec![change],
        reply,
    };
    let inbox = &bed.node(at).shared.inbox;
    inbox.put(|lanes| lanes.requests.push(request));
    let mut outcome = None;
    bed.run(5 * SECOND, |_| {
        outcome = outcome.take().or_else(|| answer.try_recv().ok());
        outcome.is_some()
    });
    outcome
}

#[test]
fn e5_who_asks_for_the_removal_of_the_leader_hears_that_it_is_through() {
    let (mut bed, leader) = led();
    let through = change(&mut bed, leader, Change::Remove(leader));
    assert!(matches!(through, Some(Ok(_))), "{through:?}");
    let another = |bed: &Bed| bed.leader().is_some_and(|now| now != leader);
    assert!(bed.run(SECOND, another));
    let (_, committed) = bed
        .node(leader)
        .shared
        .brief()
        .committed
        .clone()
        .expect("one");
    assert_eq!(committed.members().count(), 2);
}

#[test]
fn leadership_goes_to_whom_the_operator_prefers_and_comes_back() {
    let (mut bed, leader) = led();
    let wanted = leader % 3 + 1;
    let (_, current) = bed
        .node(leader)
        .shared
        .brief()
        .committed
        .clone()
        .expect("one");
    let preferred = MemberInfo {
        priority: 5,
        ..current.member(wanted).expect("a member").clone()
    };
    let through = change(&mut bed, leader, Change::Update(preferred));
    assert!(matches!(through, Some(Ok(_))), "{through:?}");
    let leads = |bed: &Bed| bed.leader() == Some(wanted);
    assert!(
        !bed.run(SECOND, leads),
        "not before it has been fit for a while"
    );
    assert!(bed.run(4 * SECOND, leads));
    let term = bed.node(wanted).shared.brief().term;
    bed.run(20 * SECOND, |_| false);
    assert_eq!(
        bed.node(wanted).shared.brief().term,
        term,
        "and stays there"
    );

    bed.crash(wanted, Crash::PowerCut);
    let another = |bed: &Bed| bed.leader().is_some();
    assert!(bed.run(SECOND, another), "elections wait for nobody");
    bed.start(wanted);
    assert!(bed.run(6 * SECOND, leads), "it gets leadership back");
}

#[test]
fn advice_goes_with_what_it_was_about() {
    let (mut bed, leader) = led();
    let wiped = leader % 3 + 1;
    bed.crash(wiped, Crash::PowerCut);
    bed.disks[wiped as usize - 1] = MemoryDisk::new();
    bed.start(wiped);
    let advised = |bed: &Bed| bed.node(wiped).shared.brief().advice.is_some();
    assert!(bed.run(5 * SECOND, advised), "it waits, and says for what");
    let new = MemberInfo {
        replica: bed.node(wiped).shared.me,
        ..MemberInfo::default()
    };
    let replace = Change::Replace { old: wiped, new };
    let through = change(&mut bed, leader, replace);
    assert!(matches!(through, Some(Ok(_))), "{through:?}");
    let votes = |bed: &Bed| {
        let committed = bed.node(wiped).shared.brief().committed.clone();
        committed
            .is_some_and(|(_, it)| it.outgoing.is_empty() && it.is_voter(bed.node(wiped).shared.me))
    };
    assert!(bed.run(5 * SECOND, votes), "it votes again");
    assert_eq!(bed.node(wiped).shared.brief().advice, None);
}

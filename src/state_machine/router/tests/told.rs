//! What is told of changes, against the state that they make.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::*;
use crate::proto;
use crate::proto::watched_value::Value;
use crate::state_machine::{Cause, Change, StateKey};

type Mirror = BTreeMap<String, Vec<u8>>;

fn scanned(state: &RouterState, prefix: &str, piece: usize) -> Mirror {
    let (mut mirror, mut after) = (Mirror::new(), None);
    loop {
        let mut last = None;
        let mut count = 0;
        RouterStateMachine::scan(state, prefix, after.as_deref(), &mut |key, write| {
            let mut value = Vec::new();
            write(&mut value);
            assert!(
                mirror.insert(key.to_owned(), value).is_none(),
                "{key} twice"
            );
            last = Some(key.to_owned());
            count += 1;
            count < piece
        });
        if count < piece {
            return mirror;
        }
        after = last;
    }
}

/// The record without what renewals change.
fn without_lease(value: &[u8]) -> proto::WatchedValue {
    let mut value = proto::WatchedValue::decode(value).expect("a record");
    match value.value.as_mut().expect("a kind") {
        Value::Service(service) => service.lease = None,
        Value::Sidecar(sidecar) => (sidecar.lease, sidecar.timestamp) = (None, 0),
        _ => {}
    }
    value
}

fn bare(mirror: &Mirror) -> BTreeMap<&String, proto::WatchedValue> {
    let each = mirror.iter();
    each.map(|(key, value)| (key, without_lease(value)))
        .collect()
}

fn follow(mirror: &mut Mirror, change: &Change<'_>) {
    let before = mirror.get(change.key);
    match change.value {
        Some(value) => {
            let lease_only = before.is_some_and(|old| without_lease(old) == without_lease(value));
            assert_eq!(lease_only, change.cause == Cause::Renewal, "{change:?}");
            mirror.insert(change.key.to_owned(), value.to_owned());
        }
        None => assert!(mirror.remove(change.key).is_some(), "{change:?}"),
    }
}

#[test]
fn who_follows_what_is_told_has_the_state() {
    for seed in 30..36 {
        let mut random = Random(seed);
        let (mut machine, mut deaf) = (RouterStateMachine::new(), RouterStateMachine::new());
        let (mut all, mut without) = (Mirror::new(), Mirror::new());
        let mut told = BTreeSet::new();
        for index in 1..=1500 {
            let context = ApplyContext {
                index,
                term: 1,
                time_us: index * 300_000,
            };
            let due = machine.due(context.time_us).filter(|_| index % 10 == 0);
            let command = due.unwrap_or_else(|| random.command(machine.state()));
            let mut changes = Changes::heard(true);
            changes.begin(index, context.time_us);
            let response = machine.apply_and_tell(&context, command.clone(), &mut changes);
            changes.end();
            // Told or not, the state is the same.
            assert_eq!(response, deaf.apply(&context, command));
            assert_eq!(machine.digest(), deaf.digest());
            if matches!(response.outcome, Outcome::Rejected(_)) {
                assert!(
                    changes.is_empty(),
                    "{:?}",
                    changes.iter().collect::<Vec<_>>()
                );
            }
            let keys: BTreeSet<_> = changes.iter().map(|change| change.key).collect();
            assert_eq!(keys.len(), changes.len(), "a record twice");
            for change in changes.iter() {
                assert_eq!(
                    StateKey::parse(change.key)
                        .map(|key| key.to_string())
                        .as_deref(),
                    Some(change.key)
                );
                follow(&mut all, &change);
                if change.cause != Cause::Renewal {
                    follow(&mut without, &change);
                }
                told.insert(format!("{:?}", change.cause));
            }
            if index % 50 == 0 {
                let state = scanned(machine.state(), "/", usize::MAX);
                assert_eq!(all, state);
                assert_eq!(bare(&without), bare(&state));
                let restored = scanned(machine.state(), "/", 7);
                assert_eq!(restored, state, "in pieces");
            }
        }
        assert_eq!(told.len(), 4, "{told:?}");
    }
}

fn router(lines: &[&str]) -> (RouterStateMachine, u64) {
    let mut machine = RouterStateMachine::new();
    let mut index = 0;
    for line in lines {
        index += 1;
        told(&mut machine, index, line);
    }
    (machine, index)
}

fn told(machine: &mut RouterStateMachine, index: u64, line: &str) -> Vec<String> {
    let command = json::parse_line(line)
        .expect("parses")
        .expect("a command")
        .command;
    let context = ApplyContext {
        index,
        term: 1,
        time_us: index * 1_000_000,
    };
    let mut changes = Changes::heard(false);
    changes.begin(index, context.time_us);
    machine.apply_and_tell(&context, command, &mut changes);
    changes.end();
    let word = |change: Change<'_>| {
        let what = change.value.map_or("delete", |_| "put");
        format!("{:?} {what} {}", change.cause, change.key)
    };
    changes.iter().map(word).collect()
}

const SHOP: &[&str] = &[
    r#"{"RegisterSidecar":{"sidecar_id":"shop/a","endpoint":"a:1","services":[{"service_name":"orders","local_endpoint":"l:1"}],"lease_ms":30000}}"#,
    r#"{"RegisterSidecar":{"sidecar_id":"shop/b","endpoint":"b:1"}}"#,
    r#"{"RegisterService":{"service_id":"mask","service_type":"transform","endpoint":"a:2","sidecar_id":"shop/a"}}"#,
    r#"{"CreatePipeline":{"pipeline_id":"p"}}"#,
    r#"{"AssignPipeline":{"pipeline_id":"p","sidecar_id":"shop/a","stages":[{"stage_id":"orders","target":{"Local":{"endpoint":"l:1"}}}]}}"#,
    r#"{"AssignPipeline":{"pipeline_id":"p","sidecar_id":"shop/b","stages":[]}}"#,
    r#"{"JoinGroup":{"service_id":"mask","group_id":"g","stage_id":"s"}}"#,
];

#[test]
fn a_cascade_is_told_as_one() {
    let (mut machine, at) = router(SHOP);
    let gone = [
        "Cascade delete /assignments/shop%2Fa/p",
        "Cascade delete /locations/orders/shop%2Fa",
        "Cascade delete /services/mask",
        "Cascade put /groups/g",
    ];
    let mut by_command = told(
        &mut machine,
        at + 1,
        r#"{"DeregisterSidecar":{"sidecar_id":"shop/a"}}"#,
    );
    assert_eq!(by_command.remove(0), "Command delete /sidecars/shop%2Fa");
    by_command.sort();
    assert_eq!(by_command, gone);

    let (mut machine, at) = router(SHOP);
    let mut expired = told(
        &mut machine,
        at + 60,
        r#"{"ExpireLeases":{"sidecars":["shop/a"]}}"#,
    );
    assert_eq!(expired.remove(0), "Expired delete /sidecars/shop%2Fa");
    expired.sort();
    assert_eq!(expired, gone);

    let (mut machine, at) = router(SHOP);
    let deleted = told(
        &mut machine,
        at + 1,
        r#"{"DeletePipeline":{"pipeline_id":"p"}}"#,
    );
    assert_eq!(
        deleted,
        [
            "Command delete /pipelines/p",
            "Cascade delete /assignments/shop%2Fa/p",
            "Cascade delete /assignments/shop%2Fb/p"
        ]
    );
}

#[test]
fn heartbeats_tell_nothing_and_an_assignment_is_not_a_change_of_its_sidecar() {
    let (mut machine, at) = router(SHOP);
    let mut tell = |nth, line| told(&mut machine, at + nth, line);
    let nothing: [&str; 0] = [];
    assert_eq!(
        tell(1, r#"{"UpdateSidecarHeartbeat":{"sidecar_id":"shop/a"}}"#),
        nothing
    );
    assert_eq!(tell(2, r#"{"RenewLease":{"service_id":"mask"}}"#), nothing);
    // Said again: the lease is renewed.
    assert_eq!(tell(3, SHOP[0]), nothing);
    assert_eq!(tell(4, SHOP[2]), nothing);
    assert_eq!(
        tell(
            5,
            r#"{"UpdateSidecarHeartbeat":{"sidecar_id":"shop/a","health":{"mask":"degraded"}}}"#
        ),
        ["Command put /services/mask"]
    );
    assert_eq!(
        tell(
            6,
            r#"{"RevokePipeline":{"pipeline_id":"p","sidecar_id":"shop/a"}}"#
        ),
        ["Command delete /assignments/shop%2Fa/p"]
    );
    assert_eq!(
        tell(
            7,
            r#"{"CommitSourceOffset":{"source_id":"s/1","partition":3,"offset":9}}"#
        ),
        ["Command put /offsets/source/s%2F1/3"]
    );
    // A refusal changes nothing.
    assert_eq!(
        tell(
            8,
            r#"{"CommitSourceOffset":{"source_id":"s/1","partition":3,"offset":8}}"#
        ),
        nothing
    );
}

#[test]
fn a_prefix_reads_what_begins_with_it_in_pieces_of_any_size() {
    let mut lines: Vec<String> = SHOP.iter().map(ToString::to_string).collect();
    for id in [
        "shop", "shop/", "shop%", "shop-a", "shop/é", "s", "shop/a/b", "%2F",
    ] {
        lines.push(format!(r#"{{"RegisterSidecar":{{"sidecar_id":"{id}","endpoint":"x:1","services":["orders","{id}"]}}}}"#));
        lines.push(format!(
            r#"{{"AssignPipeline":{{"pipeline_id":"{id}","sidecar_id":"shop/a","stages":[]}}}}"#
        ));
        for partition in [0, 3, 11] {
            lines.push(format!(r#"{{"CommitSourceOffset":{{"source_id":"{id}","partition":{partition},"offset":1}}}}"#));
            lines.push(format!(r#"{{"AdvanceWatermark":{{"source_id":"{id}","partition":{partition},"position":1}}}}"#));
            lines.push(format!(r#"{{"CommitGroupOffset":{{"group_id":"g","source_id":"{id}","partition":{partition},"offset":1}}}}"#));
        }
        lines.push(format!(
            r#"{{"SaveServiceCheckpoint":{{"service_id":"{id}","checkpoint_id":"c"}}}}"#
        ));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (machine, _) = router(&lines);
    let state = machine.state();
    let all = scanned(state, "/", usize::MAX);
    assert!(all.len() > 100, "{}", all.len());
    let mut prefixes = BTreeSet::from(["".to_owned(), "/nothing/".to_owned()]);
    for key in all.keys() {
        let ends = key.char_indices().map(|(at, _)| at).chain([key.len()]);
        prefixes.extend(ends.map(|end| key[..end].to_owned()));
        prefixes.insert(format!("{key}/"));
    }
    for prefix in prefixes {
        let mut expected = all.clone();
        expected.retain(|key, _| key.starts_with(&prefix));
        for piece in [1, 3, usize::MAX] {
            let found = scanned(state, &prefix, piece);
            assert!(
                found == expected,
                "{prefix:?} in pieces of {piece}: {:?} for {:?}",
                found.keys(),
                expected.keys()
            );
        }
    }
}

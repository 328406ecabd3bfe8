//! What each command does, answers and refuses, and what it does the second time.

use std::collections::BTreeSet;

use super::support::Router;
use conveyor_raft::state_machine::{
    Answer, EventTime, Health, Id, Outcome, Rejection, RouterCommand, ServiceFilter,
    SidecarPipeline, StateMachine,
};

fn ids(names: &[&str]) -> Vec<Id> {
    names.iter().map(|name| Id::from(*name)).collect()
}

fn not_found(kind: &'static str, id: &str) -> Rejection {
    Rejection::NotFound {
        kind,
        id: id.into(),
    }
}

#[test]
fn one_line_of_each_command_runs_top_to_bottom() {
    let mut router = Router::new();
    let mut names = BTreeSet::new();
    for line in include_str!("lines.ndjson").lines() {
        let outcome = router.line(line);
        assert!(
            !matches!(outcome, Outcome::Rejected(_)),
            "{line}: {outcome:?}"
        );
        names.insert(line.split('"').nth(1).expect("a name").to_owned());
    }
    assert_eq!(names.len(), 25);
    let state = router.state();
    assert_eq!(
        state.services.len() + state.sidecars.len() + state.pipelines.len(),
        0
    );
    assert_eq!(state.groups["mask"].generation, 3);
    assert_eq!(
        state.source_offset("orders", 3).expect("there").offset,
        88_121
    );
    assert_eq!(
        state
            .group_offset("mask", "orders", 0)
            .expect("there")
            .offset,
        7
    );
}

const SIDECAR: &str = r#"{"RegisterSidecar":{"sidecar_id":"shop/a","endpoint":"a:1","services":[{"service_name":"orders","service_type":"source","local_endpoint":"l:1"},{"service_name":"lake","local_endpoint":"l:2"}]}}"#;

#[test]
fn services_are_registered_renewed_and_removed() {
    let mut router = Router::new();
    let line = r#"{"RegisterService":{"service_id":"s","service_type":"sink","endpoint":"e:1"}}"#;
    let registered = |lease_ms, revision, replaced| Answer::ServiceRegistered {
        lease_ms,
        revision,
        replaced,
    };
    assert_eq!(router.applied(line), registered(30_000, 1, false));
    let first = router.state().time_ms();
    assert_eq!(router.state().services["s"].service_name, "s");

    router.seconds_pass(5);
    let health =
        |word| format!(r#"{{"UpdateServiceHealth":{{"service_id":"s","health":"{word}"}}}}"#);
    let previous = |previous| Answer::Health { previous };
    assert_eq!(
        router.applied(&health("degraded")),
        previous(Health::Healthy)
    );
    assert_eq!(
        router.unchanged(&health("degraded")),
        previous(Health::Degraded)
    );

    // The same fields: lease and health are set anew all the same.
    assert_eq!(router.unchanged(line), registered(30_000, 4, true));
    let service = &router.state().services["s"];
    assert_eq!(service.health, Health::Healthy);
    assert_eq!(service.lease.last_heartbeat_ms, first + 5000);
    assert_eq!(router.unchanged(line), registered(30_000, 4, true));

    let other = line
        .replace("e:1", "e:2")
        .replace("\"endpoint\"", "\"lease_ms\":0,\"endpoint\"");
    assert_eq!(router.applied(&other), registered(0, 6, true));
    assert_eq!(router.state().services["s"].registered_at_ms, first);
    let renew = r#"{"RenewLease":{"service_id":"s"}}"#;
    let renewed = |lease_ms, expires_at_ms| Answer::LeaseRenewed {
        lease_ms,
        expires_at_ms,
    };
    assert_eq!(router.applied(renew), renewed(0, None));
    router.applied(line);
    assert_eq!(router.applied(renew), renewed(30_000, Some(first + 35_000)));

    let gone = r#"{"DeregisterService":{"service_id":"s"}}"#;
    let left = |groups: &[&str]| Answer::ServiceDeregistered {
        groups: ids(groups),
    };
    router.applied(r#"{"JoinGroup":{"service_id":"s","group_id":"g","stage_id":"x"}}"#);
    assert_eq!(router.applied(gone), left(&["g"]));
    assert_eq!(router.unchanged(gone), left(&[]));
    assert_eq!(router.state().groups["g"].generation, 2);
    assert_eq!(router.rejected(renew), not_found("service", "s"));
    assert_eq!(
        router.rejected(&health("healthy")),
        not_found("service", "s")
    );
    let bound = line.replace("\"endpoint\"", "\"sidecar_id\":\"none\",\"endpoint\"");
    assert_eq!(router.rejected(&bound), not_found("sidecar", "none"));
}

#[test]
fn pipelines_have_versions() {
    let mut router = Router::new();
    let version = |version| Answer::Pipeline { version };
    let create = r#"{"CreatePipeline":{"pipeline_id":"p","config":"one"}}"#;
    let update = |config, expected| {
        format!(
            r#"{{"UpdatePipeline":{{"pipeline_id":"p","config":"{config}","expected_version":{expected}}}}}"#
        )
    };
    let enable = r#"{"EnablePipeline":{"pipeline_id":"p"}}"#;
    let disable = r#"{"DisablePipeline":{"pipeline_id":"p"}}"#;
    let delete = r#"{"DeletePipeline":{"pipeline_id":"p"}}"#;
    for line in [&update("two", 1), enable, disable] {
        assert_eq!(router.rejected(line), not_found("pipeline", "p"));
    }
    assert_eq!(router.applied(create), version(1));
    assert_eq!(router.unchanged(create), version(1));
    let other = create.replace("one", "two");
    assert_eq!(
        router.rejected(&other),
        Rejection::AlreadyExists { version: 1 }
    );
    assert_eq!(router.applied(&update("two", 1)), version(2));
    assert_eq!(router.unchanged(&update("two", 1)), version(2), "a repeat");
    let mismatch = Rejection::VersionMismatch { current: 2 };
    assert_eq!(router.rejected(&update("three", 1)), mismatch);
    assert_eq!(router.applied(enable), version(2));
    assert_eq!(router.unchanged(enable), version(2));
    assert!(router.state().pipelines["p"].enabled);
    assert_eq!(router.applied(disable), version(2));
    assert_eq!(router.unchanged(disable), version(2));
    router.applied(SIDECAR);
    router
        .applied(r#"{"AssignPipeline":{"pipeline_id":"p","sidecar_id":"shop/a","stages":["x"]}}"#);
    let deleted = |sidecars: &[&str]| Answer::PipelineDeleted {
        sidecars: ids(sidecars),
    };
    assert_eq!(router.applied(delete), deleted(&["shop/a"]));
    assert_eq!(router.state().assignments("shop/a").count(), 0);
    assert_eq!(router.unchanged(delete), deleted(&[]));
}

#[test]
fn offsets_only_rise_unless_rewound() {
    let mut router = Router::new();
    let commit = |offset, more| {
        format!(
            r#"{{"CommitSourceOffset":{{"source_id":"s","partition":0,"offset":{offset}{more}}}}}"#
        )
    };
    let current = |current| Answer::Offset { current };
    assert_eq!(router.applied(&commit(5, "")), current(5));
    assert_eq!(router.unchanged(&commit(5, "")), current(5));
    assert_eq!(
        router.rejected(&commit(4, "")),
        Rejection::Behind { current: 5 }
    );
    assert_eq!(router.applied(&commit(4, ",\"rewind\":true")), current(4));
    assert_eq!(router.applied(&commit(6, "")), current(6));
    let offsets: Vec<_> = router.state().source_offsets("s", Some(1)).collect();
    assert!(offsets.is_empty(), "the filter filters");
}

#[test]
fn a_sources_watermark_is_that_of_its_slowest_partition() {
    let mut router = Router::new();
    let mut advance = |partition: u32, position: u64, seconds: Option<i64>| {
        let event_time = seconds.map(|seconds| EventTime { seconds, nanos: 0 });
        let command = RouterCommand::AdvanceWatermark {
            source_id: "s".into(),
            partition,
            position,
            event_time,
        };
        match router.apply(command) {
            Outcome::Applied(Answer::Watermark { own, global }) => {
                Ok((own.position, global.partition))
            }
            Outcome::Unchanged(Answer::Watermark { own, global }) => {
                Err(Some((own.position, global.partition)))
            }
            Outcome::Rejected(Rejection::Behind { .. }) => Err(None),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(advance(3, 10, Some(100)), Ok((10, 3)));
    assert_eq!(advance(1, 10, Some(50)), Ok((10, 1)));
    assert_eq!(
        advance(2, 10, Some(50)),
        Ok((10, 1)),
        "the least partition of equals"
    );
    assert_eq!(advance(4, 1, None), Ok((1, 4)), "none is the slowest");
    assert_eq!(advance(4, 0, Some(500)), Err(None), "behind by position");
    assert_eq!(advance(4, 1, Some(500)), Ok((1, 1)));
    assert_eq!(
        advance(1, 11, Some(40)),
        Ok((11, 1)),
        "event time stays at 50"
    );
    assert_eq!(advance(1, 11, Some(40)), Err(Some((11, 1))));
    assert_eq!(advance(1, 11, Some(60)), Ok((11, 2)));
    let global = router.state().global_watermark("s").expect("there");
    assert_eq!(global.event_time.expect("there").seconds, 50);
    // "ab" has a name that begins like "a".
    router.applied(r#"{"AdvanceWatermark":{"source_id":"ab","partition":0,"position":1}}"#);
    router.applied(r#"{"AdvanceWatermark":{"source_id":"a","partition":7,"position":1}}"#);
    let marks: Vec<_> = router.state().watermarks("a", None).collect();
    assert_eq!(marks.len(), 1);
    assert_eq!(marks[0].partition, 7);
    assert_eq!(
        router
            .state()
            .global_watermark("a")
            .map(|mark| mark.partition),
        Some(7)
    );
    assert_eq!(router.state().global_watermark("b"), None);
}

#[test]
fn plural_commands_list_what_is_behind() {
    let mut router = Router::new();
    router.applied(r#"{"ReportSource":{"source_id":"s","offsets":{"0":5,"1":6},"watermarks":{"0":{"position":5,"event_time":"1970-01-01T00:00:09Z"}}}}"#);
    let answer = router.applied(r#"{"ReportSource":{"source_id":"s","offsets":{"0":4,"1":7},"watermarks":{"0":{"position":4},"1":{"position":1,"event_time":"1970-01-01T00:00:10Z"}}}}"#);
    let Answer::SourceReported { behind, global } = answer else {
        panic!("{answer:?}");
    };
    let behind: Vec<_> = behind
        .iter()
        .map(|each| (each.partition, each.watermark, each.current))
        .collect();
    assert_eq!(behind, [(0, false, 5), (0, true, 5)]);
    assert_eq!(global.expect("there").partition, 0);
    router.unchanged(r#"{"ReportSource":{"source_id":"s","offsets":{"0":5,"1":7}}}"#);
    router.unchanged(r#"{"ReportSource":{"source_id":"s"}}"#);
}

#[test]
fn a_checkpoint_over_five_partitions_comes_back_with_five() {
    let mut router = Router::new();
    let line = r#"{"SaveServiceCheckpoint":{"service_id":"s","checkpoint_id":"c","data":"base64:AAEC","source_offsets":{"o":{"0":1,"1":2,"2":3,"3":4,"4":5}}}}"#;
    let saved = router.applied(line);
    assert_eq!(router.unchanged(line), saved);
    let checkpoint = &router.state().checkpoints.service_checkpoints["s"];
    assert_eq!(checkpoint.source_offsets["o"].len(), 5);
    assert_eq!(checkpoint.data, [0, 1, 2]);
    assert_eq!(
        router.state().source_offsets("o", None).count(),
        0,
        "not merged"
    );
    router.applied(&line.replace("\"c\"", "\"d\""));
    assert_eq!(router.state().checkpoints.service_checkpoints.len(), 1);
}

fn group_of_two(router: &mut Router) {
    for service in ["a", "b"] {
        router.applied(&format!(
            r#"{{"RegisterService":{{"service_id":"{service}","service_type":"transform","endpoint":"e"}}}}"#
        ));
        router.applied(&format!(
            r#"{{"JoinGroup":{{"service_id":"{service}","group_id":"g","stage_id":"x"}}}}"#
        ));
    }
}

fn commit(service: &str, generation: u64, offset: u64) -> String {
    format!(
        r#"{{"CommitGroupOffset":{{"group_id":"g","source_id":"s","partition":1,"offset":{offset},"service_id":"{service}","generation":{generation}}}}}"#
    )
}

const UNFENCED: &str =
    r#"{"CommitGroupOffset":{"group_id":"g","source_id":"s","partition":1,"offset":1}}"#;

#[test]
fn a_moved_partition_stops_its_former_owner_at_once() {
    let mut router = Router::new();
    assert_eq!(router.rejected(UNFENCED), not_found("group", "g"));
    group_of_two(&mut router);
    router.applied(UNFENCED);
    let assign = |to: &str, generation: u64| {
        format!(
            r#"{{"AssignPartitions":{{"group_id":"g","assignments":{{"{to}":[2,1]}},"generation":{generation}}}}}"#
        )
    };
    let generation = |generation| Answer::Generation { generation };
    let stale = |current| Rejection::StaleGeneration { current };
    assert_eq!(router.rejected(&assign("a", 2)), stale(2));
    assert_eq!(router.applied(&assign("a", 3)), generation(3));
    assert_eq!(router.unchanged(&assign("a", 3)), generation(3));
    assert_eq!(
        router.rejected(&assign("b", 3)),
        stale(3),
        "the second assigner"
    );
    let required = Rejection::FenceRequired { current: 3 };
    assert_eq!(router.rejected(UNFENCED), required);
    router.applied(&commit("a", 3, 10));
    router.unchanged(&commit("a", 3, 10));
    assert_eq!(
        router.rejected(&commit("a", 3, 9)),
        Rejection::Behind { current: 10 }
    );
    let owner = |owner: &str| Rejection::NotOwner {
        partition: 1,
        owner: Some(owner.into()),
    };
    assert_eq!(router.rejected(&commit("b", 3, 11)), owner("a"));
    // A join alone stops nobody.
    router.applied(
        r#"{"RegisterService":{"service_id":"c","service_type":"transform","endpoint":"e"}}"#,
    );
    let join = r#"{"JoinGroup":{"service_id":"c","group_id":"g","stage_id":"x"}}"#;
    let joined = Answer::GroupJoined {
        generation: 4,
        members: ids(&["a", "b", "c"]),
        partitions: Vec::new(),
    };
    assert_eq!(router.applied(join), joined);
    assert_eq!(router.unchanged(join), joined);
    router.applied(&commit("a", 3, 11));
    router.applied(&commit("a", 4, 12));
    router.applied(&assign("b", 5));
    assert_eq!(router.rejected(&commit("a", 3, 13)), stale(5));
    assert_eq!(router.rejected(&commit("a", 5, 13)), owner("b"));
    router.applied(&commit("b", 5, 13));
    assert_eq!(router.state().partition_owner("g", 1), Some(&Id::from("b")));
    // Who leaves frees its partitions.
    let leave = r#"{"LeaveGroup":{"service_id":"b","group_id":"g"}}"#;
    assert_eq!(router.applied(leave), generation(6));
    assert_eq!(router.unchanged(leave), generation(6));
    let nobody = Rejection::NotOwner {
        partition: 1,
        owner: None,
    };
    assert_eq!(router.rejected(&commit("b", 6, 14)), nobody);
    assert_eq!(
        router.rejected(&assign("b", 7)),
        Rejection::NotMember { id: "b".into() }
    );
}

#[test]
fn groups_refuse_what_does_not_fit() {
    let mut router = Router::new();
    let join = r#"{"JoinGroup":{"service_id":"a","group_id":"g","stage_id":"y"}}"#;
    assert_eq!(router.rejected(join), not_found("service", "a"));
    group_of_two(&mut router);
    let other_stage = Rejection::StageMismatch {
        current: "x".into(),
    };
    assert_eq!(router.rejected(join), other_stage);
    let twice =
        r#"{"AssignPartitions":{"group_id":"g","assignments":{"a":[1],"b":[1]},"generation":3}}"#;
    let duplicate = Rejection::Duplicate {
        kind: "partition",
        id: "1".into(),
    };
    assert_eq!(router.rejected(twice), duplicate);
    let nowhere = twice.replace("\"g\"", "\"h\"");
    assert_eq!(router.rejected(&nowhere), not_found("group", "h"));
    // Half a fence, past the edge's own check.
    let half = RouterCommand::CommitGroupOffset {
        group_id: "g".into(),
        source_id: "s".into(),
        partition: 0,
        offset: 0,
        service_id: Some("a".into()),
        generation: None,
        rewind: false,
    };
    let outcome = router.apply(half);
    assert!(
        matches!(outcome, Outcome::Rejected(Rejection::Invalid { ref field, .. }) if field == "generation"),
        "{outcome:?}"
    );
    router.applied(r#"{"LeaveGroup":{"service_id":"a","group_id":"g"}}"#);
    router.applied(r#"{"LeaveGroup":{"service_id":"b","group_id":"g"}}"#);
    assert_eq!(
        router.state().groups["g"].generation,
        4,
        "an empty group stays"
    );
    router.unchanged(r#"{"LeaveGroup":{"service_id":"b","group_id":"h"}}"#);
}

#[test]
fn one_fence_guards_all_of_a_plural_commit() {
    let mut router = Router::new();
    group_of_two(&mut router);
    router.applied(
        r#"{"AssignPartitions":{"group_id":"g","assignments":{"a":[0,1],"b":[2]},"generation":3}}"#,
    );
    let commit = |offsets: &str| {
        format!(
            r#"{{"CommitGroupOffsets":{{"group_id":"g","service_id":"a","generation":3,"offsets":{offsets}}}}}"#
        )
    };
    router.applied(&commit(r#"{"s":{"0":5,"1":5},"t":{"1":2}}"#));
    let rejection = router.rejected(&commit(r#"{"s":{"0":6,"2":6}}"#));
    assert!(matches!(
        rejection,
        Rejection::NotOwner { partition: 2, .. }
    ));
    let answer = router.applied(&commit(r#"{"s":{"0":4,"1":6}}"#));
    let Answer::GroupOffsets { behind } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((behind.len(), behind[0].current), (1, 5));
    router.unchanged(&commit(r#"{"s":{"0":4,"1":6}}"#));
    let all: Vec<_> = router
        .state()
        .group_offsets("g", None)
        .map(|(source, partition, offset)| (source.to_string(), partition, offset.offset))
        .collect();
    assert_eq!(
        all,
        [("s".into(), 0, 5), ("s".into(), 1, 6), ("t".into(), 1, 2)]
    );
    assert_eq!(router.state().group_offsets("g", Some("t")).count(), 1);
}

#[test]
fn sidecars_take_what_is_theirs_with_them() {
    let mut router = Router::new();
    router.applied(SIDECAR);
    router.applied(&SIDECAR.replace("shop/a", "shop/b"));
    let sidecar = &router.state().sidecars["shop/a"];
    assert_eq!((&*sidecar.namespace, &*sidecar.pod_name), ("shop", "a"));
    assert_eq!(sidecar.services[1].service_type, "unknown");
    router.applied(r#"{"RegisterService":{"service_id":"m","service_type":"transform","endpoint":"e","service_name":"mask","sidecar_id":"shop/a"}}"#);
    router.applied(r#"{"JoinGroup":{"service_id":"m","group_id":"g","stage_id":"x"}}"#);
    let assign = |sidecar: &str, target: &str| {
        format!(
            r#"{{"AssignPipeline":{{"pipeline_id":"p","sidecar_id":"{sidecar}","stages":[{{"stage_id":"1","target":{{"Remote":{{"sidecar_id":"{target}","endpoint":"e"}}}}}}]}}}}"#
        )
    };
    let assigned = |revision, unknown: &[&str]| Answer::PipelineAssigned {
        revision,
        unknown_targets: ids(unknown),
    };
    assert_eq!(
        router.applied(&assign("shop/a", "shop/c")),
        assigned(5, &["shop/c"])
    );
    assert_eq!(
        router.unchanged(&assign("shop/a", "shop/c")),
        assigned(5, &["shop/c"])
    );
    assert_eq!(
        router.applied(&assign("shop/b", "shop/a")),
        assigned(7, &[])
    );
    assert_eq!(
        router.rejected(&assign("shop/c", "x")),
        not_found("sidecar", "shop/c")
    );
    let gone = r#"{"DeregisterSidecar":{"sidecar_id":"shop/a"}}"#;
    let answer = Answer::SidecarDeregistered {
        services: ids(&["m"]),
        groups: ids(&["g"]),
        pipelines: ids(&["p"]),
        remote_users: vec![SidecarPipeline {
            sidecar_id: "shop/b".into(),
            pipeline_id: "p".into(),
        }],
    };
    assert_eq!(router.applied(gone), answer);
    router.unchanged(gone);
    assert_eq!(
        router.state().assignments("shop/b").count(),
        1,
        "reported, not rewritten"
    );
    assert!(router.state().services.is_empty());
    assert!(router.state().groups["g"].members.is_empty());
    let revoke = r#"{"RevokePipeline":{"pipeline_id":"p","sidecar_id":"shop/b"}}"#;
    assert_eq!(
        router.applied(revoke),
        Answer::PipelineRevoked { revision: 11 }
    );
    assert_eq!(
        router.unchanged(revoke),
        Answer::PipelineRevoked { revision: 11 }
    );
}

#[test]
fn two_sidecars_offer_the_same_name_and_one_leaves() {
    let mut router = Router::new();
    router.applied(SIDECAR);
    router.applied(&SIDECAR.replace("shop/a", "shop/b"));
    assert_eq!(router.state().locate("orders").len(), 2);
    router.applied(r#"{"DeregisterSidecar":{"sidecar_id":"shop/b"}}"#);
    let found = router.state().locate("orders");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].sidecar_id, Some(Id::from("shop/a")));
    router.applied(r#"{"DeregisterSidecar":{"sidecar_id":"shop/a"}}"#);
    assert!(router.state().service_locations.is_empty());
}

#[test]
fn a_new_registration_drops_only_what_it_cannot_run_any_more() {
    let mut router = Router::new();
    router.applied(SIDECAR);
    for (pipeline, endpoint) in [
        ("one", "l:1"),
        ("two", "l:2"),
        ("other", "l:9"),
        ("none", ""),
    ] {
        router.applied(&format!(r#"{{"AssignPipeline":{{"pipeline_id":"{pipeline}","sidecar_id":"shop/a","stages":[{{"stage_id":"1","target":{{"Local":{{"endpoint":"{endpoint}"}}}}}}]}}}}"#));
    }
    let before = router.state().sidecars["shop/a"].revision;
    router.seconds_pass(3);
    let Answer::SidecarRegistered {
        revision,
        assignments,
        ..
    } = router.unchanged(SIDECAR)
    else {
        panic!("answer");
    };
    assert_eq!((revision, assignments.len()), (before, 4));
    let lease = router.state().sidecars["shop/a"].lease;
    assert_eq!(lease.last_heartbeat_ms, router.state().time_ms(), "renewed");
    let answer = router.applied(&SIDECAR.replace("l:2", "l:3"));
    let Answer::SidecarRegistered {
        assignments,
        dropped,
        ..
    } = answer
    else {
        panic!("answer");
    };
    assert_eq!(assignments, ids(&["none", "one", "other"]));
    assert_eq!(dropped, ids(&["two"]));
    let twice =
        r#"{"AssignPipeline":{"pipeline_id":"p","sidecar_id":"shop/a","stages":["x","x"]}}"#;
    let duplicate = Rejection::Duplicate {
        kind: "stage",
        id: "x".into(),
    };
    assert_eq!(router.rejected(twice), duplicate);
}

#[test]
fn a_heartbeat_brings_health_by_name() {
    let mut router = Router::new();
    let beat = r#"{"UpdateSidecarHeartbeat":{"sidecar_id":"shop/a","timestamp":7,"health":{"orders":"degraded","mask":"unhealthy","nobody":"healthy"}}}"#;
    assert_eq!(router.rejected(beat), not_found("sidecar", "shop/a"));
    router.applied(SIDECAR);
    router.applied(r#"{"RegisterService":{"service_id":"m","service_type":"transform","endpoint":"e","service_name":"mask","sidecar_id":"shop/a"}}"#);
    router.seconds_pass(10);
    let Answer::Heartbeat { expires_at_ms, .. } = router.applied(beat) else {
        panic!("answer");
    };
    let state = router.state();
    assert_eq!(expires_at_ms, Some(state.time_ms() + 30_000));
    assert_eq!(state.sidecars["shop/a"].timestamp, 7);
    assert_eq!(
        state.sidecars["shop/a"].services[0].health,
        Health::Degraded
    );
    assert_eq!(state.services["m"].health, Health::Unhealthy);
    assert_eq!(state.services["m"].lease.last_heartbeat_ms, state.time_ms());
}

#[test]
fn services_are_listed_by_what_is_known_of_them() {
    let mut router = Router::new();
    for (id, kind, label) in [
        ("a", "source", "x"),
        ("b", "sink", "x"),
        ("c", "source", "y"),
    ] {
        router.applied(&format!(r#"{{"RegisterService":{{"service_id":"{id}","service_type":"{kind}","endpoint":"e","service_name":"n","labels":{{"team":"{label}"}},"group_id":"{label}"}}}}"#));
    }
    router.applied(r#"{"UpdateServiceHealth":{"service_id":"c","health":"unhealthy"}}"#);
    let list = |filter: ServiceFilter| -> String {
        let found = router.state().list_services(&filter);
        found
            .map(|service| service.service_id.to_string())
            .collect()
    };
    let none = ServiceFilter::default;
    assert_eq!(list(none()), "abc");
    let kind = Some("source".into());
    assert_eq!(
        list(ServiceFilter {
            service_type: kind.clone(),
            ..none()
        }),
        "ac"
    );
    assert_eq!(
        list(ServiceFilter {
            name: Some("n".into()),
            healthy_only: true,
            ..none()
        }),
        "ab"
    );
    let labels = [("team".to_owned(), "x".to_owned())].into();
    assert_eq!(
        list(ServiceFilter {
            labels,
            service_type: kind,
            ..none()
        }),
        "a"
    );
    assert_eq!(
        list(ServiceFilter {
            group_id: Some("y".into()),
            ..none()
        }),
        "c"
    );
    assert_eq!(
        list(ServiceFilter {
            name: Some("m".into()),
            ..none()
        }),
        ""
    );
}

#[test]
fn state_and_responses_print_as_json() {
    let mut router = Router::new();
    for line in include_str!("lines.ndjson").lines().take(19) {
        router.line(line);
    }
    let json = serde_json::to_value(router.state()).expect("prints");
    assert_eq!(
        json["sidecars"]["shop/orders-0"]["assignments"]["shop/orders"]["stages"][0]["stage_id"],
        "orders"
    );
    assert_eq!(json["services"]["shop/mask-0"]["lease_ms"], 30_000);
    assert_eq!(
        json["checkpoints"]["group_offsets"]["mask"]["orders"]["3"]["offset"],
        88_121
    );
    assert_eq!(
        json["checkpoints"]["watermarks"]["orders"]["3"]["event_time"]["seconds"],
        1_767_225_600
    );
    assert_eq!(
        json["checkpoints"]["service_checkpoints"]["shop/mask-0"]["data"],
        "\0\u{1}\u{2}"
    );
    assert_eq!(json["service_locations"]["orders"][0], "shop/orders-0");
    let digest = format!("{:032x}", router.machine.digest());
    assert_eq!(json["digest"], digest);
    let summary = serde_json::to_value(router.state().summary()).expect("prints");
    assert_eq!(
        (&summary["digest"], &summary["counts"]["groups"]),
        (&digest.into(), &1.into())
    );

    router.context.index += 1;
    let renewal = RouterCommand::RenewLease {
        service_id: "shop/mask-0".into(),
    };
    let response = router.machine.apply(&router.context, renewal);
    let json = serde_json::to_value(&response).expect("prints");
    assert_eq!(
        json["outcome"]["Applied"]["LeaseRenewed"]["lease_ms"],
        30_000
    );
    assert_eq!(json["index"], response.index);
    let answer = response.into_result().expect("applied");
    let message = conveyor_raft::proto::Answer::from(&answer);
    assert_eq!(message.lease_ms, Some(30_000));
    assert!(message.expires_at_ms.is_some());
}

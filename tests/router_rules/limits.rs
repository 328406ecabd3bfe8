//! What is over a limit is refused at the edge, and again when it is applied.

use std::collections::BTreeMap;

use conveyor_raft::state_machine::limits::{
    MAX_ASSIGNMENTS, MAX_CONFIG, MAX_ID, MAX_LABELS, MAX_LEASE_MS, MAX_PARTITIONS, MAX_STAGES,
};
use conveyor_raft::state_machine::{
    EventTime, Outcome, Rejection, RouterCommand, RouterStateMachine, StateMachine,
};

use super::support::Router;

fn service(change: impl FnOnce(&mut RouterCommand)) -> RouterCommand {
    let mut command = RouterCommand::register_service("s", "source", "e");
    change(&mut command);
    command
}

fn too_many_labels(command: &mut RouterCommand) {
    if let RouterCommand::RegisterService { labels, .. } = command {
        labels.extend((0..=MAX_LABELS).map(|number| (number.to_string(), String::new())));
    }
}

fn lease(ms: u32) -> RouterCommand {
    service(|command| {
        if let RouterCommand::RegisterService { lease_ms, .. } = command {
            *lease_ms = ms;
        }
    })
}

fn deregister(id: &str) -> RouterCommand {
    RouterCommand::deregister_service(id)
}

fn wrong_services() -> Vec<(RouterCommand, &'static str)> {
    vec![
        (deregister(""), "service_id"),
        (deregister(&"x".repeat(MAX_ID + 1)), "service_id"),
        (deregister("a\nb"), "service_id"),
        (deregister("a\u{85}b"), "service_id"),
        (
            RouterCommand::register_service("s", "Source", "e"),
            "service_type",
        ),
        (
            RouterCommand::register_service("s", "", "e"),
            "service_type",
        ),
        (service(too_many_labels), "labels"),
        (lease(999), "lease_ms"),
        (lease(MAX_LEASE_MS + 1), "lease_ms"),
    ]
}

fn wrong_others() -> Vec<(RouterCommand, &'static str)> {
    vec![
        (
            RouterCommand::CreatePipeline {
                pipeline_id: "p".into(),
                name: String::new(),
                config: vec![0; MAX_CONFIG + 1],
            },
            "config",
        ),
        (
            RouterCommand::assign_pipeline("p", "s", (0..=MAX_STAGES).map(|n| n.to_string())),
            "stages",
        ),
        (
            RouterCommand::AssignPartitions {
                group_id: "g".into(),
                assignments: BTreeMap::from([("a".into(), vec![0; MAX_PARTITIONS + 1])]),
                generation: 1,
            },
            "partitions",
        ),
        (
            RouterCommand::AdvanceWatermark {
                source_id: "s".into(),
                partition: 0,
                position: 0,
                event_time: Some(EventTime {
                    seconds: 0,
                    nanos: 1_000_000_000,
                }),
            },
            "event_time",
        ),
        (
            RouterCommand::UpdateServiceHealth {
                service_id: "s".into(),
                health: "fine".into(),
            },
            "health",
        ),
        (
            RouterCommand::ExpireLeases {
                sidecars: vec!["s".into(); 501],
                services: vec!["s".into(); 500],
            },
            "ids",
        ),
    ]
}

#[test]
fn shape_and_size_are_checked_twice() {
    let mut router = Router::new();
    for (command, expected) in wrong_services().into_iter().chain(wrong_others()) {
        let error = RouterStateMachine::encode(&command, &mut Vec::new()).expect_err("refused");
        assert_eq!(error.field, expected);
        match router.apply(command) {
            Outcome::Rejected(
                Rejection::Invalid { field, .. } | Rejection::LimitExceeded { which: field, .. },
            ) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    for legal in ["ns/pod:1", "ünï", &"x".repeat(MAX_ID)] {
        let command = deregister(legal);
        assert_eq!(command.validate(), Ok(()));
    }
    assert_eq!(lease(0).validate(), Ok(()));
    assert_eq!(lease(MAX_LEASE_MS).validate(), Ok(()));
}

#[test]
fn a_command_has_a_largest_encoding() {
    let offsets: BTreeMap<u32, u64> = (0..300_000).map(|number| (number, u64::MAX)).collect();
    let command = RouterCommand::ReportSource {
        source_id: "s".into(),
        offsets,
        watermarks: BTreeMap::new(),
    };
    let mut out = vec![7];
    let error = RouterStateMachine::encode(&command, &mut out).expect_err("refused");
    assert_eq!((error.field.as_str(), out.len()), ("ReportSource", 1));
}

#[test]
fn a_sidecar_has_room_for_so_many_assignments() {
    let mut router = Router::new();
    let none: [&str; 0] = [];
    router.apply(RouterCommand::register_sidecar("s", "e", none));
    let mut last = None;
    for number in 0..=MAX_ASSIGNMENTS {
        router.context.index += 1;
        let command = RouterCommand::assign_pipeline(number.to_string(), "s", ["x"]);
        last = Some(router.machine.apply(&router.context, command).outcome);
    }
    let expected = Rejection::LimitExceeded {
        which: "assignments".into(),
        limit: MAX_ASSIGNMENTS as u64,
    };
    assert_eq!(last, Some(Outcome::Rejected(expected)));
    assert_eq!(router.state().assignments("s").count(), MAX_ASSIGNMENTS);
    assert_eq!(router.machine.digest(), router.machine.recompute_digest());
}

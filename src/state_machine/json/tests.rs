use std::collections::BTreeMap;

use super::*;
use crate::state_machine::{EventTime, LocalService, StageAssignment};

fn command(line: &str) -> RouterCommand {
    parse_line(line)
        .expect("parses")
        .expect("a command")
        .command
}

fn error(line: &str) -> String {
    parse_line(line).expect_err("refused").to_string()
}

#[test]
fn blank_lines_and_comments_are_nothing() {
    for line in ["", "  \t", "# {\"Noop\":{}}", "  # x"] {
        assert_eq!(parse_line(line), Ok(None));
    }
    assert_eq!(command("\"Noop\""), RouterCommand::Noop);
    assert_eq!(command("{\"Noop\":{}}"), RouterCommand::Noop);
    assert_eq!(command("{\"Noop\":null}"), RouterCommand::Noop);
    let line = parse_line("{\"Noop\":{},\"at_ms\":\"600000\"}");
    assert_eq!(line.expect("parses").expect("line").at_ms, Some(600_000));
}

#[test]
fn errors_name_command_and_field() {
    let service = |more: &str| {
        error(&format!(
            "{{\"RegisterService\":{{\"service_id\":\"a\",\"service_type\":\"source\",\"endpoint\":\"e\"{more}}}}}"
        ))
    };
    assert_eq!(
        service(",\"lables\":{}"),
        "RegisterService: unknown field \"lables\" (did you mean \"labels\"?)"
    );
    assert_eq!(
        service(",\"zzz\":{}"),
        "RegisterService: unknown field \"zzz\""
    );
    assert_eq!(
        service(",\"lease_ms\":5"),
        "RegisterService: lease_ms: must be 0 (never expires) or 1000 to 604800000"
    );
    assert_eq!(
        service(",\"labels\":{\"a\":1}"),
        "RegisterService: labels: must be an object of strings"
    );
    assert_eq!(
        error("{\"RenewLease\":{}}"),
        "RenewLease: missing field \"service_id\""
    );
    assert_eq!(
        error("{\"RenewLease\":{\"service_idd\":\"a\"}}"),
        "RenewLease: unknown field \"service_idd\" (did you mean \"service_id\"?)"
    );
    assert_eq!(
        error("{\"RenewLeese\":{}}"),
        "unknown command \"RenewLeese\" (did you mean \"RenewLease\"?)"
    );
    let long = "x".repeat(513);
    assert_eq!(
        error(&format!("{{\"RenewLease\":{{\"service_id\":\"{long}\"}}}}")),
        "RenewLease: service_id: over the limit of 512"
    );
    assert_eq!(
        error(
            "{\"RegisterSidecar\":{\"sidecar_id\":\"s\",\"endpoint\":\"e\",\"services\":[{\"service_nam\":\"x\"}]}}"
        ),
        "RegisterSidecar: services[0]: unknown field \"service_nam\" (did you mean \"service_name\"?)"
    );
    assert_eq!(
        error(
            "{\"CommitSourceOffset\":{\"source_id\":\"s\",\"partition\":4294967296,\"offset\":1}}"
        ),
        "CommitSourceOffset: partition: must be a whole number from 0 to 4294967295"
    );
    assert_eq!(
        error("{\"UpdateServiceHealth\":{\"service_id\":\"s\",\"health\":\"fine\"}}"),
        "UpdateServiceHealth: health: must be healthy, degraded, unhealthy or unknown"
    );
    assert!(error("{\"RenewLease\":").starts_with("not a JSON value"));
    assert!(error("[]").starts_with("must be one command"));
    assert!(error("{\"Noop\":{},\"RenewLease\":{}}").starts_with("must be one command"));
    assert!(
        error("{\"AssignPartitions\":{\"group_id\":\"g\",\"generation\":1}}")
            .contains("assignments")
    );
}

#[test]
fn upstreams_spellings_are_aliases() {
    let plain = command(
        "{\"AssignPipeline\":{\"pipeline_id\":\"p\",\"sidecar_id\":\"s\",\"stages\":[\"a\"]}}",
    );
    let alias = command(
        "{\"AssignPipelineToSidecar\":{\"pipeline_id\":\"p\",\"sidecar_id\":\"s\",\"stage_assignments\":[{\"stage_id\":\"a\",\"target\":{\"Local\":{\"endpoint\":\"\"}}}]}}",
    );
    assert_eq!(plain, alias);
    assert_eq!(
        command("{\"RevokePipelineFromSidecar\":{\"pipeline_id\":\"p\",\"sidecar_id\":\"s\"}}"),
        RouterCommand::revoke_pipeline("p", "s")
    );
    let sidecar = command(
        "{\"RegisterSidecar\":{\"sidecar_id\":\"s\",\"endpoint\":\"e\",\"local_services\":[\"a\",{\"service_name\":\"b\",\"service_type\":\"SERVICE_TYPE_SOURCE\"}]}}",
    );
    let b = LocalService {
        service_type: "source".into(),
        ..LocalService::from("b")
    };
    let expected = RouterCommand::register_sidecar("s", "e", [LocalService::from("a"), b]);
    assert_eq!(sidecar, expected);
    assert!(
        error("{\"RegisterSidecar\":{\"sidecar_id\":\"s\",\"endpoint\":\"e\",\"services\":[],\"local_services\":[]}}")
            .contains("stated twice")
    );
    let checkpoint = |offsets: &str| {
        command(&format!(
            "{{\"SaveServiceCheckpoint\":{{\"service_id\":\"s\",\"checkpoint_id\":\"c\",\"source_offsets\":{offsets}}}}}"
        ))
    };
    assert_eq!(
        checkpoint("{\"a:b:3\":9,\"a:b:4\":\"10\"}"),
        checkpoint("{\"a:b\":{\"3\":9,\"4\":10}}")
    );
}

#[test]
fn bytes_numbers_and_times_have_several_forms() {
    let config = |form: &str| match command(&format!(
        "{{\"CreatePipeline\":{{\"pipeline_id\":\"p\",\"config\":{form}}}}}"
    )) {
        RouterCommand::CreatePipeline { config, .. } => config,
        other => panic!("{other:?}"),
    };
    assert_eq!(config("\"a: b\\n\""), b"a: b\n");
    assert_eq!(config("\"base64:AAEC\""), [0, 1, 2]);
    assert_eq!(config("[0,1,255]"), [0, 1, 255]);
    assert_eq!(config("{\"b\": [1, 2]}"), b"{\"b\":[1,2]}");
    assert!(
        error("{\"CreatePipeline\":{\"pipeline_id\":\"p\",\"config\":[256]}}").contains("config")
    );
    let time = |form: &str| match command(&format!(
        "{{\"AdvanceWatermark\":{{\"source_id\":\"s\",\"partition\":\"1\",\"position\":\"18446744073709551615\",\"event_time\":{form}}}}}"
    )) {
        RouterCommand::AdvanceWatermark {
            position: u64::MAX,
            event_time,
            ..
        } => event_time,
        other => panic!("{other:?}"),
    };
    let expected = EventTime {
        seconds: 1_767_225_600,
        nanos: 500_000_000,
    };
    assert_eq!(time("\"2026-01-01T00:00:00.5Z\""), Some(expected));
    assert_eq!(time("\"2026-01-01T01:00:00.5+01:00\""), Some(expected));
    assert_eq!(
        time("{\"seconds\":1767225600,\"nanos\":500000000}"),
        Some(expected)
    );
    let before = EventTime {
        seconds: -1,
        nanos: 250_000_000,
    };
    assert_eq!(time("\"1969-12-31T23:59:59.25Z\""), Some(before));
    assert_eq!(time("null"), None);
}

#[test]
fn printing_round_trips() {
    let all = [
        RouterCommand::Noop,
        RouterCommand::register_service("a", "source", "e"),
        RouterCommand::register_sidecar("s", "e", ["a", "b"]),
        RouterCommand::assign_pipeline(
            "p",
            "s",
            [StageAssignment {
                stage_id: "x".into(),
                target: super::super::StageTarget::Remote {
                    sidecar_id: "t".into(),
                    endpoint: "e".into(),
                },
            }],
        ),
        RouterCommand::CreatePipeline {
            pipeline_id: "p".into(),
            name: "n".into(),
            config: vec![0xff, 0],
        },
        RouterCommand::UpdatePipeline {
            pipeline_id: "p".into(),
            config: b"base64:AA==".to_vec(),
            expected_version: Some(u64::MAX),
        },
        RouterCommand::ReportSource {
            source_id: "s".into(),
            offsets: BTreeMap::from([(3, 4)]),
            watermarks: BTreeMap::from([(
                1,
                super::super::SourceWatermark {
                    position: 9,
                    event_time: Some(EventTime {
                        seconds: -5,
                        nanos: 7,
                    }),
                },
            )]),
        },
        RouterCommand::AssignPartitions {
            group_id: "g".into(),
            assignments: BTreeMap::from([("a".into(), vec![1, 2])]),
            generation: 2,
        },
        RouterCommand::CommitGroupOffset {
            group_id: "g".into(),
            source_id: "s".into(),
            partition: 1,
            offset: 2,
            service_id: Some("a".into()),
            generation: Some(3),
            rewind: true,
        },
    ];
    for original in all {
        let printed = serde_json::to_string(&original).expect("prints");
        assert_eq!(command(&printed), original, "{printed}");
        let line = Line {
            command: original,
            at_ms: Some(7),
        };
        let printed = serde_json::to_string(&line).expect("prints");
        assert_eq!(parse_line(&printed), Ok(Some(line)), "{printed}");
    }
}

use super::super::command::EventTime;
use super::*;

fn outcomes() -> Vec<Outcome> {
    let watermark = GlobalWatermark {
        partition: 3,
        position: u64::MAX,
        event_time: Some(EventTime {
            seconds: i64::MIN,
            nanos: 9,
        }),
    };
    let (id, kinds) = ("shop/\u{e9}\"".to_owned(), KINDS);
    let about = kinds.map(|kind| Rejection::NotFound {
        kind,
        id: id.clone(),
    });
    let mut all: Vec<_> = about.into_iter().map(Outcome::Rejected).collect();
    all.extend([
        Outcome::Applied(Answer::None),
        Outcome::Applied(Answer::Health {
            previous: Health::Degraded,
        }),
        Outcome::Unchanged(Answer::LeaseRenewed {
            lease_ms: 5,
            expires_at_ms: None,
        }),
        Outcome::Applied(Answer::Watermark {
            own: watermark,
            global: GlobalWatermark {
                event_time: None,
                ..watermark
            },
        }),
        Outcome::Applied(Answer::SidecarDeregistered {
            services: vec!["a".into()],
            groups: Vec::new(),
            pipelines: vec!["b".into(), "c".into()],
            remote_users: vec![SidecarPipeline {
                sidecar_id: "d".into(),
                pipeline_id: "e".into(),
            }],
        }),
        Outcome::Applied(Answer::SourceReported {
            behind: vec![Behind {
                source_id: "s".into(),
                partition: 1,
                watermark: true,
                current: 1 << 60,
            }],
            global: None,
        }),
        Outcome::Rejected(Rejection::NotOwner {
            partition: 1,
            owner: Some("me".into()),
        }),
        Outcome::Rejected(Rejection::Duplicate {
            kind: "stage",
            id: id.clone(),
        }),
    ]);
    all
}

#[test]
fn f4_remembered_responses_come_back_marked_as_duplicates() {
    for outcome in outcomes() {
        let first = RouterResponse {
            index: u64::MAX,
            term: 7,
            time_ms: 1_700_000_000_000,
            duplicate: false,
            outcome,
        };
        let bytes = first.to_remembered().expect("it can be kept");
        let again = RouterResponse::from_remembered(&bytes).expect("its own bytes");
        assert!(again.duplicate);
        assert_eq!(again.to_remembered(), Some(bytes.clone()));
        let duplicate = false;
        assert_eq!(RouterResponse { duplicate, ..again }, first);
        assert_eq!(RouterResponse::from_remembered(&bytes[1..]), None);
    }
    let newer = br#"{"index":1,"term":1,"time_ms":1,"duplicate":false,
        "outcome":{"Rejected":{"NotFound":{"kind":"moon","id":"x"}}}}"#;
    assert_eq!(RouterResponse::from_remembered(newer), None);
}

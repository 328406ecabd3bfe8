//! What a real process tells Prometheus and probes, and that the documents and examples name the same figures.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod caller;
mod common;
#[path = "serve_common/figures.rs"]
mod figures;
mod serve_common;

use std::collections::BTreeSet;
use std::net::TcpListener;

use caller::{Caller, Fate};
use conveyor_raft::RouterCommand;
use conveyor_raft::proto::{
    CloseSessionRequest, OpenSessionRequest, ProposeBatchRequest, ProposeRequest, SummaryRequest,
    WatchRequest,
};
use figures::{get, scraped, until, value};
use serve_common::Site;

const PREFIX: &str = "conveyor_raft_";

fn text(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).expect("a file of the repository")
}

/// The names of figures in a text; those of a histogram's parts are the histogram's.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let own = words.filter(|word| word.starts_with(PREFIX) && word.len() > PREFIX.len());
    let whole = own.map(|word| {
        let parts = ["_bucket", "_sum", "_count"];
        let cut = parts.iter().find_map(|part| word.strip_suffix(part));
        cut.unwrap_or(word).to_owned()
    });
    whole.collect()
}

/// One sidecar, a session, and a batch of two that do nothing and one that is refused.
fn assert_proposals_are_counted(port: u16) {
    let (_, figures) = get(port, "GET /metrics").expect("figures");
    let count = |command: &str, outcome: &str| {
        let series = format!(
            "conveyor_raft_proposals_total{{node=\"1\",command=\"{command}\",outcome=\"{outcome}\"}}"
        );
        value(&figures, &series)
    };
    assert_eq!(count("RegisterSidecar", "applied"), Some(1.0), "{figures}");
    assert_eq!(count("Noop", "applied"), Some(2.0));
    assert_eq!(count("RenewLease", "rejected"), Some(1.0));
    assert_eq!(count("RenewLease", "applied"), None);
    assert_eq!(count("OpenSession", "applied"), Some(1.0));
    let took = "conveyor_raft_propose_duration_seconds_count{node=\"1\"}";
    assert_eq!(value(&figures, took), Some(5.0));
    let batches = "conveyor_raft_batch_entries_count{node=\"1\"}";
    let entries = "conveyor_raft_batch_entries_sum{node=\"1\"}";
    assert_eq!(value(&figures, entries), Some(5.0));
    assert!(value(&figures, batches) <= Some(5.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_tells_its_figures_and_documents_and_examples_know_them_all() {
    let _turn = common::real_time_turn();
    let site = Site::new(1);
    let port = scraped(&site, 1);
    let node = site.start(1);
    let mut caller = Caller::new(&site);
    caller.leader().await;
    let command = RouterCommand::register_sidecar("a", "a:1", ["orders"]);
    let Fate::Applied(applied) = caller.propose(command).await else {
        panic!("unknown");
    };
    let mut router = caller.client(&site.endpoint(1)).await.expect("reachable");
    let read = SummaryRequest {
        at_least_index: applied.index,
        ..SummaryRequest::default()
    };
    router.summary(read).await.expect("a summary");
    let watch = router
        .watch(WatchRequest::default())
        .await
        .expect("a watch");
    until("ready", || {
        get(port, "GET /ready").filter(|(code, _)| *code == 200)
    });
    assert_eq!(get(port, "GET /live"), Some((200, "live\n".into())));
    assert_eq!(get(port, "POST /metrics").map(|it| it.0), Some(405));
    assert_eq!(get(port, "GET /else").map(|it| it.0), Some(404));

    let figures = until("the figures of now", || {
        let (code, figures) = get(port, "GET /metrics")?;
        assert_eq!(code, 200);
        let applied_index = value(&figures, "conveyor_raft_applied_index{")?;
        // The disk is looked at by a thread that has a segment to prepare first.
        let free = value(&figures, "conveyor_raft_log_disk_free_bytes{node=\"1\"}")?;
        let size = value(&figures, "conveyor_raft_log_disk_size_bytes{node=\"1\"}")?;
        assert!(0.0 < free && free <= size, "{free} of {size}");
        (applied_index >= applied.index as f64).then_some(figures)
    });
    assert_eq!(
        value(&figures, "conveyor_raft_is_leader{node=\"1\"}"),
        Some(1.0)
    );
    assert_eq!(
        value(&figures, "conveyor_raft_watchers{node=\"1\"}"),
        Some(1.0)
    );
    let sidecars = "conveyor_raft_state_entries{node=\"1\",section=\"sidecars\"}";
    assert_eq!(value(&figures, sidecars), Some(1.0));
    let reads = "conveyor_raft_reads_total{node=\"1\",consistency=\"at_least\"}";
    assert_eq!(value(&figures, reads), Some(1.0));
    let applies = "conveyor_raft_apply_duration_seconds_count{node=\"1\"}";
    assert!(value(&figures, applies) >= Some(1.0), "{figures}");
    assert!(
        figures.contains("conveyor_raft_apply_duration_seconds_bucket{node=\"1\",le=\"0.001\"}")
    );
    assert!(
        figures.contains("conveyor_raft_log_sync_duration_seconds_bucket{node=\"1\",le=\"0.001\"}")
    );
    let told_of = |series: &str| value(&figures, series);
    for (name, least) in [
        ("log_sync_duration_seconds_count", 1.0),
        ("elections_started_total", 1.0),
        ("log_segments", 1.0),
        ("feature_level", 0.0),
        ("proposals_queue_limit", 1.0),
        ("digest_mismatches_total", 0.0),
    ] {
        let now = told_of(&format!("{PREFIX}{name}{{node=\"1\"}}"));
        assert!(now >= Some(least), "{name}: {now:?}");
    }
    let proposes =
        "conveyor_raft_grpc_requests_total{node=\"1\",method=\"Router/Propose\",code=\"OK\"}";
    assert_eq!(told_of(proposes), Some(1.0));
    let took =
        "conveyor_raft_grpc_request_duration_seconds_count{node=\"1\",method=\"Router/Summary\"}";
    assert_eq!(told_of(took), Some(1.0));
    let sessions = "conveyor_raft_sessions{node=\"1\"}";
    assert_eq!(told_of(sessions), Some(0.0));
    let session = router.open_session(OpenSessionRequest::default()).await;
    let session = session.expect("a session").into_inner().session;
    let renew = RouterCommand::RenewLease {
        service_id: "nobody".into(),
    };
    let batch = ProposeBatchRequest {
        commands: vec![
            RouterCommand::Noop.into(),
            renew.into(),
            RouterCommand::Noop.into(),
        ],
        session: None,
        forward: false,
    };
    router.propose_batch(batch).await.expect("a batch");
    assert_proposals_are_counted(port);
    let nothing = router.propose(ProposeRequest::default()).await;
    assert_eq!(
        nothing.expect_err("no command").code(),
        tonic::Code::InvalidArgument
    );
    drop(watch);
    until("the watcher is gone", || {
        let (_, figures) = get(port, "GET /metrics")?;
        let refused = "conveyor_raft_grpc_requests_total{node=\"1\",method=\"Router/Propose\",code=\"INVALID_ARGUMENT\"}";
        let cancelled = "conveyor_raft_grpc_requests_total{node=\"1\",method=\"Router/Watch\",code=\"CANCELLED\"}";
        let now = |series: &str| value(&figures, series);
        let gone = now("conveyor_raft_watchers{node=\"1\"}") == Some(0.0);
        let ended = now(refused) == Some(1.0) && now(cancelled) == Some(1.0);
        (gone && ended && now(sessions) == Some(1.0)).then_some(())
    });
    let request = CloseSessionRequest {
        session,
        ..CloseSessionRequest::default()
    };
    router.close_session(request).await.expect("closed");
    until("the session is closed", || {
        let (_, figures) = get(port, "GET /metrics")?;
        (value(&figures, sessions) == Some(0.0)).then_some(())
    });

    let told = names(&figures);
    let documented = names(&text("docs/metrics.md"));
    assert!(told.len() > 30, "{told:?}");
    let unknown: Vec<_> = told.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/metrics.md: {unknown:?}");
    // A single node has no peers, and makes no backups unless it is told to.
    let of_others = |name: &str| {
        ["transport_", "backup_", "peer_"]
            .iter()
            .any(|part| name[PREFIX.len()..].starts_with(part))
    };
    let mut untold: Vec<_> = documented.difference(&told).collect();
    untold.retain(|name| !of_others(name));
    assert!(untold.is_empty(), "documented and not told: {untold:?}");
    for example in [
        "examples/deploy/alerts.yaml",
        "examples/deploy/grafana.json",
    ] {
        let used = names(&text(example));
        assert!(used.len() >= 8, "{example}: {used:?}");
        let mut unknown: Vec<_> = used.difference(&told).collect();
        unknown.retain(|name| !of_others(name) || !documented.contains(*name));
        assert!(unknown.is_empty(), "{example}: {unknown:?}");
    }
    serde_json::from_str::<serde_json::Value>(&text("examples/deploy/grafana.json")).expect("JSON");
    assert!(node.terminate().success());
    assert!(get(port, "GET /live").is_none(), "nobody listens any more");
}

#[test]
fn a_node_without_a_quorum_is_live_and_not_ready_and_a_port_in_use_is_named() {
    let _turn = common::real_time_turn();
    let site = Site::new(3);
    let port = scraped(&site, 1);
    let node = site.start(1);
    let live = until("live", || {
        get(port, "GET /live").filter(|(code, _)| *code == 200)
    });
    assert_eq!(live.1, "live\n");
    assert_eq!(get(port, "GET /ready"), Some((503, "not ready\n".into())));
    drop(node);
    let _held = TcpListener::bind(("127.0.0.1", port)).expect("free again");
    let said = site.refused(1);
    assert!(
        said.contains("[metrics] listen: cannot listen on"),
        "{said}"
    );
}

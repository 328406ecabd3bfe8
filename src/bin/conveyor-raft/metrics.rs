//! The plain HTTP listener for Prometheus and for probes: `/metrics`, `/live`, `/ready`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use conveyor_raft::RaftNode;
use conveyor_raft::grpc::Probe;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::failure::Failure;

/// How often probes look at the node, and histograms are put in order.
const LOOK: Duration = Duration::from_millis(250);
const UPKEEP: Duration = Duration::from_secs(5);
/// A connection that says nothing is closed after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time; a scraper and a few probes need no more.
const CONNECTIONS: usize = 64;

/// Seconds, from a tenth of a millisecond up.
const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
const ENTRIES: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0];

/// Collects what is counted from here on: to be called before the node is started.
pub(crate) fn install() -> Result<PrometheusHandle, Failure> {
    let builder = PrometheusBuilder::new();
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?;
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_entries".into()), &ENTRIES)?;
    Ok(builder.install_recorder()?)
}

/// What probes are told.
#[derive(Default)]
struct Probed {
    live: AtomicBool,
    ready: AtomicBool,
}

/// Serves until the task is dropped.
pub(crate) async fn serve(
    listener: Arc<TcpListener>,
    node: RaftNode,
    probe: Probe,
    figures: PrometheusHandle,
) {
    let probed = Arc::<Probed>::default();
    tokio::join!(
        look(&node, probe, &probed),
        upkeep(&figures),
        accept(&listener, &node, &figures, &probed)
    );
}

async fn look(node: &RaftNode, mut probe: Probe, probed: &Probed) {
    loop {
        let (live, ready) = probe.look(node, Instant::now());
        probed.live.store(live, Ordering::Relaxed);
        probed.ready.store(ready, Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}

async fn upkeep(figures: &PrometheusHandle) {
    loop {
        figures.run_upkeep();
        tokio::time::sleep(UPKEEP).await;
    }
}

async fn accept(
    listener: &TcpListener,
    node: &RaftNode,
    figures: &PrometheusHandle,
    probed: &Arc<Probed>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the listener for metrics");
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        let (node, figures, probed) = (node.clone(), figures.clone(), Arc::clone(probed));
        tokio::spawn(async move {
            let answers = service_fn(move |request: Request<Incoming>| {
                let response = answer(
                    request.method(),
                    request.uri().path(),
                    || {
                        show_state(&node);
                        figures.render()
                    },
                    &probed,
                );
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answers);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection for metrics");
            }
            drop(permit);
        });
    }
}

/// What nobody has to count while it changes is looked at when it is asked for.
fn show_state(node: &RaftNode) {
    let number = node.id().to_string();
    for (section, count) in node.applied().view.summary().counts {
        let section = section.to_owned();
        metrics::gauge!("conveyor_raft_state_entries", "node" => number.clone(), "section" => section)
            .set(count as f64);
    }
    metrics::gauge!("conveyor_raft_sessions", "node" => number.clone()).set(node.sessions() as f64);
    metrics::gauge!("conveyor_raft_watchers", "node" => number).set(node.watchers() as f64);
}

fn answer(
    method: &Method,
    path: &str,
    figures: impl FnOnce() -> String,
    probed: &Probed,
) -> Response<Full<Bytes>> {
    let (mut status, mut kind) = (StatusCode::OK, "text/plain; charset=utf-8");
    let probe = |yes: &AtomicBool, text: &str| match yes.load(Ordering::Relaxed) {
        true => (StatusCode::OK, format!("{text}\n")),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("not {text}\n")),
    };
    let known = ["/metrics", "/live", "/ready"].contains(&path);
    let text = match path {
        _ if known && *method != Method::GET && *method != Method::HEAD => {
            status = StatusCode::METHOD_NOT_ALLOWED;
            "GET or HEAD\n".to_owned()
        }
        "/metrics" => {
            kind = "text/plain; version=0.0.4; charset=utf-8";
            figures()
        }
        "/live" => {
            let (code, text) = probe(&probed.live, "live");
            status = code;
            text
        }
        "/ready" => {
            let (code, text) = probe(&probed.ready, "ready");
            status = code;
            text
        }
        _ => {
            status = StatusCode::NOT_FOUND;
            "/metrics, /live, /ready\n".to_owned()
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
    }
    response
}

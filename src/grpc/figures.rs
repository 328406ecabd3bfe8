//! Figures of the calls: a layer around all services.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};
use tower_layer::Layer;

use crate::types::NodeId;

const REQUESTS: &str = "conveyor_raft_grpc_requests_total";
const DURATION: &str = "conveyor_raft_grpc_request_duration_seconds";

/// The calls with a series of their own, by service. A caller chooses the path, so that what is not
/// here is counted as one.
const METHODS: [(&str, &[&str]); 5] = [
    (
        "conveyor.raft.v1.Router",
        &[
            "Propose",
            "ProposeBatch",
            "ProposeStream",
            "OpenSession",
            "KeepAlive",
            "CloseSession",
            "GetState",
            "Summary",
            "GetService",
            "ListServices",
            "GetPipeline",
            "ListPipelines",
            "GetSidecar",
            "ListSidecars",
            "GetAssignments",
            "LocateService",
            "GetGroup",
            "ListGroups",
            "PartitionOwner",
            "GetSourceOffsets",
            "GetGroupOffsets",
            "GetWatermarks",
            "GetServiceCheckpoint",
            "GetPipelineCheckpoints",
            "Watch",
        ],
    ),
    (
        "conveyor.raft.v1.Cluster",
        &[
            "Status",
            "Membership",
            "ChangeMembers",
            "TransferLeadership",
            "TriggerSnapshot",
        ],
    ),
    (
        "conveyor.raft.v1.Backup",
        &[
            "GetStateMetadata",
            "CreateSnapshot",
            "ListSnapshots",
            "StreamSnapshot",
            "DeleteSnapshot",
            "UploadSnapshot",
            "GetUpload",
            "RestoreSnapshot",
        ],
    ),
    ("grpc.health.v1.Health", &["Check", "Watch"]),
    (
        "grpc.reflection.v1.ServerReflection",
        &["ServerReflectionInfo"],
    ),
];

/// The codes of gRPC, at their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// One kind of call. A counter is registered with its first call: most codes never come.
struct Method {
    name: String,
    node: String,
    duration: Histogram,
    codes: [OnceLock<Counter>; CODES.len()],
}

impl Method {
    fn new(node: NodeId, name: String) -> Self {
        let node = node.to_string();
        Self {
            duration: histogram!(DURATION, "node" => node.clone(), "method" => name.clone()),
            codes: std::array::from_fn(|_| OnceLock::new()),
            name,
            node,
        }
    }

    fn count(&self, code: Code) {
        let nth = code as usize;
        let Some((counter, word)) = self.codes.get(nth).zip(CODES.get(nth)) else {
            return;
        };
        let make = || {
            let (node, name) = (self.node.clone(), self.name.clone());
            counter!(REQUESTS, "node" => node, "method" => name, "code" => *word)
        };
        counter.get_or_init(make).increment(1);
    }
}

/// Counts every call by method and code.
#[derive(Clone)]
pub(super) struct Figures(Arc<Vec<(String, Arc<Method>)>>);

impl Figures {
    pub(super) fn new(node: NodeId) -> Self {
        describe_counter!(REQUESTS, "calls that have ended, by method and code");
        describe_histogram!(DURATION, "seconds until the answer of a call began");
        let all = METHODS.iter().flat_map(|(service, methods)| {
            methods.iter().map(move |method| {
                let short = service.rsplit('.').next().unwrap_or(service);
                let counted = Method::new(node, format!("{short}/{method}"));
                (format!("/{service}/{method}"), Arc::new(counted))
            })
        });
        let other = (String::new(), Arc::new(Method::new(node, "other".into())));
        Self(Arc::new(all.chain([other]).collect()))
    }

    fn begin(&self, path: &str) -> Option<Call> {
        let named = self.0.iter().find(|(known, _)| known == path);
        let (_, method) = named.or(self.0.last())?;
        Some(Call {
            method: Arc::clone(method),
            begun: Instant::now(),
            ended: false,
        })
    }
}

/// A call under way. Dropped before its end is known, it was cancelled.
struct Call {
    method: Arc<Method>,
    begun: Instant,
    ended: bool,
}

impl Call {
    fn began_to_answer(&self) {
        let took = self.begun.elapsed();
        self.method.duration.record(took.as_secs_f64());
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            self.method.count(code);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

impl<S> Layer<S> for Figures {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting {
            inner,
            figures: self.clone(),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub(super) struct Counting<S> {
    inner: S,
    figures: Figures,
}

impl<S> Service<http::Request<Body>> for Counting<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.figures.begin(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let Some(mut call) = call else {
                return Ok(response);
            };
            call.began_to_answer();
            // An error without an answer is told in the head alone.
            if let Some(status) = Status::from_header_map(response.headers()) {
                call.end(status.code());
                return Ok(response);
            }
            Ok(response.map(|inner| Body::new(Answer { inner, call })))
        })
    }
}

/// The rest of an answer, at whose end the code is.
struct Answer {
    inner: Body,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            let status = Status::from_header_map(trailers);
            self.call
                .end(status.map_or(Code::Unknown, |status| status.code()));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_protos_is_counted_by_name() {
        let protos = [
            include_str!("../../proto/conveyor/raft/v1/router.proto"),
            include_str!("../../proto/conveyor/raft/v1/cluster.proto"),
            include_str!("../../proto/conveyor/raft/v1/backup.proto"),
        ];
        for (proto, (service, methods)) in protos.into_iter().zip(METHODS) {
            let lines = proto
                .lines()
                .filter_map(|line| line.trim().strip_prefix("rpc "));
            let named: Vec<_> = lines.filter_map(|line| line.split('(').next()).collect();
            let mut listed = methods.to_vec();
            listed.sort_unstable();
            let mut named_sorted = named;
            named_sorted.sort_unstable();
            assert_eq!(named_sorted, listed, "{service}");
        }
    }

    #[test]
    fn the_words_are_those_of_the_codes() {
        for (number, word) in (0..).zip(CODES) {
            let code = format!("{:?}", Code::from_i32(number)).to_uppercase();
            assert_eq!(word.replace('_', ""), code);
        }
    }
}

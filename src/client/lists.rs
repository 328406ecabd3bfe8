//! Lists, page by page from one node.

use std::future::Future;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::Client;
use super::error::ClientError;
use super::leader::is_final;
use super::propose::{GRACE, patience, pause, request};
use super::reads::asked;
use crate::node::ReadConsistency;
use crate::proto::router_client::RouterClient;
use crate::proto::{self, ListAnswer, ListRequest, PageRequest, ReadOptions, ReadRequest};

/// A request with the call that it is for. Not for implementing elsewhere.
pub trait ReadCall: ReadRequest {
    /// Makes the call.
    fn call(
        router: &mut RouterClient<Channel>,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! calls {
    ($($request:ident: $call:ident;)*) => {$(
        impl ReadCall for proto::$request {
            fn call(
                router: &mut RouterClient<Channel>,
                request: Request<Self>,
            ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send {
                router.$call(request)
            }
        }
    )*};
}

calls! {
    GetServiceRequest: get_service;
    GetPipelineRequest: get_pipeline;
    GetSidecarRequest: get_sidecar;
    GetGroupRequest: get_group;
    PartitionOwnerRequest: partition_owner;
    GetServiceCheckpointRequest: get_service_checkpoint;
    ListServicesRequest: list_services;
    ListPipelinesRequest: list_pipelines;
    ListSidecarsRequest: list_sidecars;
    GetAssignmentsRequest: get_assignments;
    LocateServiceRequest: locate_service;
    ListGroupsRequest: list_groups;
    GetSourceOffsetsRequest: get_source_offsets;
    GetGroupOffsetsRequest: get_group_offsets;
    GetWatermarksRequest: get_watermarks;
    GetPipelineCheckpointsRequest: get_pipeline_checkpoints;
}

/// As a message.
fn options(consistency: ReadConsistency) -> Option<ReadOptions> {
    let (consistency, at_least_index) = asked(consistency);
    Some(ReadOptions {
        at_least_index,
        consistency: consistency as i32,
    })
}

impl Client {
    /// One record, or what fits into one answer; from any node.
    pub(super) async fn read_one<Q: ReadCall>(
        &self,
        mut question: Q,
        consistency: ReadConsistency,
    ) -> Result<Q::Answer, ClientError> {
        *question.read() = options(consistency);
        let (answer, _) = self.ask(&question, self.until()).await?;
        Ok(answer)
    }

    async fn ask<Q: ReadCall>(
        &self,
        question: &Q,
        until: Instant,
    ) -> Result<(Q::Answer, String), ClientError> {
        self.at_one_of(until, |channel, patience| {
            let asked = request(question.clone(), patience);
            async move {
                let mut router = RouterClient::new(channel);
                Ok(Q::call(&mut router, asked).await?.into_inner())
            }
        })
        .await
    }
}

/// A list that is read in pages, all of one index and from one node.
///
/// The node keeps the state that the list is of for a minute after each page, and not for many lists at
/// a time; when it is gone, or the node is, [`next`](Self::next) fails with
/// [`ClientError::PagesGone`], and [`all`](Self::all) begins again.
#[derive(Clone, Debug)]
pub struct Pages<Q: ListRequest> {
    client: Client,
    request: Q,
    /// The node that gave the first page.
    endpoint: Option<String>,
    done: bool,
}

impl<Q: ReadCall + ListRequest> Pages<Q> {
    pub(super) fn new(client: &Client, mut request: Q, consistency: ReadConsistency) -> Self {
        *request.read() = options(consistency);
        Self {
            client: client.clone(),
            request,
            endpoint: None,
            done: false,
        }
    }

    /// Most records in a page; 100 unless said, 1,000 at most. A page also ends when it has 1 MiB.
    #[must_use]
    pub fn with_size(mut self, records: u32) -> Self {
        self.page().size = records;
        self
    }

    fn page(&mut self) -> &mut PageRequest {
        self.request.page().get_or_insert_default()
    }

    /// The next page; `None` after the last. The first may be empty.
    ///
    /// # Errors
    /// [`ClientError::PagesGone`] behind the first page; else if no node answered in time, or one
    /// refuses the call.
    pub async fn next(&mut self) -> Result<Option<Q::Answer>, ClientError> {
        let until = self.client.until();
        self.next_until(until).await
    }

    async fn next_until(&mut self, until: Instant) -> Result<Option<Q::Answer>, ClientError> {
        if self.done {
            return Ok(None);
        }
        let mut answer = match &self.endpoint {
            Some(endpoint) => self.go_on(endpoint, until).await?,
            None => {
                let (answer, endpoint) = self.client.ask(&self.request, until).await?;
                self.endpoint = Some(endpoint);
                answer
            }
        };
        let token = answer.next_page_token().clone();
        self.done = token.is_empty();
        self.page().token = token;
        Ok(Some(answer))
    }

    /// A page behind the first, which only the same node has.
    async fn go_on(&self, endpoint: &str, until: Instant) -> Result<Q::Answer, ClientError> {
        let gone = |why: &str| ClientError::PagesGone {
            why: why.to_owned(),
        };
        let nodes = &self.client.inner.nodes;
        let patience = patience(until, true);
        let tried = async {
            let channel = nodes.channel(endpoint).await.map_err(Status::unavailable)?;
            let asked = request(self.request.clone(), patience);
            Q::call(&mut RouterClient::new(channel), asked).await
        };
        match tokio::time::timeout(patience + GRACE, tried).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if is_final(&status) => Err(ClientError::Refused(Box::new(status))),
            Ok(Err(status)) => {
                if status.code() != Code::OutOfRange {
                    nodes.forget(endpoint);
                }
                Err(gone(status.message()))
            }
            Err(_) => Err(gone("the node does not answer")),
        }
    }

    /// All pages from here on in one answer, of one index. Where the list cannot be gone on with, it is
    /// begun again from its first page, until the client's deadline.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn all(mut self) -> Result<Q::Answer, ClientError> {
        let until = self.client.until();
        loop {
            match self.rest(until).await {
                Err(ClientError::PagesGone { .. }) if Instant::now() < until => {
                    (self.endpoint, self.done) = (None, false);
                    self.page().token.clear();
                    pause(until).await;
                }
                read => return read,
            }
        }
    }

    async fn rest(&mut self, until: Instant) -> Result<Q::Answer, ClientError> {
        let mut all = self.next_until(until).await?.unwrap_or_default();
        while let Some(page) = self.next_until(until).await? {
            all.append(page);
        }
        Ok(all)
    }
}

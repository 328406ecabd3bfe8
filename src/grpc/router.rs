//! The service `Router`.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::config::limits;
use crate::error::ProposeError;
use crate::node::{Place, ProposeOptions, RaftNode, ReadConsistency, ReadOptions};
use crate::proto::router_server::Router;
use crate::proto::{
    self, CloseSessionRequest, CloseSessionResponse, Consistency, GetStateRequest,
    KeepAliveRequest, KeepAliveResponse, ListAnswer, OpenSessionRequest, OpenSessionResponse,
    ProposeBatchRequest, ProposeBatchResponse, ProposeOutcome, ProposeRequest, ProposeResponse,
    ProposeStreamRequest, ProposeStreamResponse, ReadAnswer, ReadOptions as ReadOptionsMessage,
    StatePart, SummaryRequest, SummaryResponse, WatchRequest, WatchResponse,
};

use super::authorize::Roles;
use super::convert;
use super::deadline::Deadline;
use super::identity::Role;
use super::pages::{self, Page, Pins, State};
use super::propose::{self, CommandError, answer, command, in_session};
use super::reads::{self, List, Single};
use super::status::{Failure, invalid, overloaded, rejected, unread};
use super::stream::{AHEAD, Side};
use super::watch as watching;

/// Most commands in one batch, or in one message of a stream.
pub(super) const MAX_BATCH: usize = 4096;

pub(super) struct RouterService {
    pub(super) node: RaftNode,
    pub(super) roles: Roles,
    /// How many more streams of proposals there may be.
    pub(super) streams: Arc<Semaphore>,
    /// How many more watches there may be.
    pub(super) watches: Arc<Semaphore>,
    /// The states that lists are being read from.
    pub(super) pins: Arc<Pins>,
    /// Whether the edge closes.
    pub(super) closing: watch::Receiver<bool>,
}

impl RouterService {
    fn failure(&self, error: ProposeError, deadline: Deadline) -> Status {
        let leader = self.node.leader();
        Failure::new(error, &leader, deadline.passed()).into_status()
    }

    async fn read(
        &self,
        consistency: Consistency,
        index: u64,
        deadline: Deadline,
    ) -> Result<State, Status> {
        let options = ReadOptions {
            consistency: wanted(consistency, index)?,
            deadline: Some(deadline.left()),
        };
        let read = self.node.read_with(options).await;
        read.map_err(|error| unread(&error, &self.node.leader()))
    }

    async fn read_as(
        &self,
        read: Option<ReadOptionsMessage>,
        deadline: Deadline,
    ) -> Result<State, Status> {
        let read = read.unwrap_or_default();
        self.read(read.consistency(), read.at_least_index, deadline)
            .await
    }

    async fn single<Q: Single>(&self, request: Request<Q>) -> Result<Response<Q::Answer>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let deadline = Deadline::of(&request);
        let mut request = request.into_inner();
        let state = self.read_as(*request.read(), deadline).await?;
        let mut answer = request.answer(&state.view);
        *answer.at() = Some(reads::at(&state));
        Ok(Response::new(answer))
    }

    async fn list<Q: List>(&self, request: Request<Q>) -> Result<Response<Q::Answer>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let deadline = Deadline::of(&request);
        let mut request = request.into_inner();
        let token = pages::token(&mut request)?;
        let state = match &token {
            None => self.read_as(*request.read(), deadline).await?,
            Some(token) => self.pins.state(token.index, self.node.applied())?,
        };
        let mut page = Page::new(request.page().take(), token.as_ref());
        let mut answer = request.clone().answer(&state.view, &mut page);
        *answer.at() = Some(reads::at(&state));
        if let Some(next) = page.next(&request, state.id.index) {
            *answer.next_page_token() = next;
            self.pins.keep(state);
        }
        Ok(Response::new(answer))
    }

    /// Proposes in order, none after one that was not appended, and waits for all outcomes.
    async fn propose_all(
        &self,
        role: Role,
        request: ProposeBatchRequest,
        deadline: Deadline,
    ) -> Result<Vec<ProposeOutcome>, CommandError> {
        let first = in_session(request.session)?;
        let count = request.commands.len();
        let mut outcomes = vec![ProposeOutcome::default(); count];
        let (pipeline, mut results) = self.node.pipeline();
        for (item, message) in (0u32..).zip(request.commands) {
            match command(role, Some(message)) {
                Ok(command) => {
                    let place = Place {
                        ticket: item.into(),
                        session: first.map(|first| first.after(item.into())),
                        unordered: false,
                    };
                    let options = options(deadline, request.forward);
                    pipeline.submit_when_room(place, &command, options).await;
                }
                Err(error) => {
                    pipeline.break_off();
                    outcomes[item as usize].outcome = Some(error.item(item));
                }
            }
        }
        drop(pipeline);
        let mut known = Vec::with_capacity(count);
        while results.receive(&mut known, count.max(1)).await > 0 {
            for (item, result) in known.drain(..) {
                let outcome = propose::outcome(&self.node, item as u32, result);
                outcomes[item as usize] = outcome;
            }
        }
        Ok(outcomes)
    }
}

fn options(deadline: Deadline, forward: bool) -> ProposeOptions {
    ProposeOptions {
        deadline: Some(deadline.left()),
        forward,
    }
}

fn wanted(consistency: Consistency, index: u64) -> Result<ReadConsistency, Status> {
    match (consistency, index) {
        (Consistency::Unspecified, 0) | (Consistency::Local, 0) => Ok(ReadConsistency::Local),
        (Consistency::Unspecified | Consistency::AtLeastIndex, index) => {
            Ok(ReadConsistency::AtLeast(index))
        }
        (Consistency::Lease, 0) => Ok(ReadConsistency::Lease),
        (Consistency::Linearizable, 0) => Ok(ReadConsistency::Linearizable),
        _ => {
            let why = "goes with CONSISTENCY_AT_LEAST_INDEX only";
            Err(invalid("at_least_index", why))
        }
    }
}

#[tonic::async_trait]
impl Router for RouterService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let role = self.roles.require(&request, Role::Writer)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let at = in_session(request.session).map_err(CommandError::status)?;
        let command = command(role, request.command).map_err(CommandError::status)?;
        let options = options(deadline, request.forward);
        let proposed = match at {
            Some(at) => self.node.propose_in(at, command, options).await,
            None => self.node.propose_with(command, options).await,
        };
        let response = proposed.map_err(|error| self.failure(error, deadline))?;
        answer(response)
            .map(Response::new)
            .map_err(|refusal| rejected(&refusal))
    }

    async fn propose_batch(
        &self,
        request: Request<ProposeBatchRequest>,
    ) -> Result<Response<ProposeBatchResponse>, Status> {
        let role = self.roles.require(&request, Role::Writer)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let count = request.commands.len();
        if count > MAX_BATCH {
            let why = format!("are {count}, at most {MAX_BATCH} fit in a batch");
            return Err(invalid("commands", why));
        }
        let outcomes = self.propose_all(role, request, deadline).await;
        let outcomes = outcomes.map_err(CommandError::status)?;
        Ok(Response::new(ProposeBatchResponse { outcomes }))
    }

    type ProposeStreamStream = ReceiverStream<Result<ProposeStreamResponse, Status>>;

    async fn propose_stream(
        &self,
        request: Request<Streaming<ProposeStreamRequest>>,
    ) -> Result<Response<Self::ProposeStreamStream>, Status> {
        let role = self.roles.require(&request, Role::Writer)?;
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            return Err(overloaded("the count of proposal streams", 1000));
        };
        let (send, receive) = mpsc::channel(AHEAD);
        let side = Side::new(self.node.clone(), role, send);
        let closing = self.closing.clone();
        tokio::spawn(async move {
            side.run(request.into_inner(), closing).await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        self.roles.require(&request, Role::Writer)?;
        let deadline = Deadline::of(&request);
        let options = options(deadline, request.into_inner().forward);
        let opened = self.node.open_session(options).await;
        let session = opened.map_err(|error| self.failure(error, deadline))?;
        Ok(Response::new(OpenSessionResponse { session }))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        self.roles.require(&request, Role::Writer)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let options = options(deadline, request.forward);
        let kept = self.node.keep_session(request.session, options).await;
        kept.map_err(|error| self.failure(error, deadline))?;
        let idle_ms = limits::SESSION_IDLE_US / 1000;
        Ok(Response::new(KeepAliveResponse { idle_ms }))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        self.roles.require(&request, Role::Writer)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let options = options(deadline, request.forward);
        let closed = self.node.close_session(request.session, options).await;
        closed.map_err(|error| self.failure(error, deadline))?;
        Ok(Response::new(CloseSessionResponse {}))
    }

    type GetStateStream = ReceiverStream<Result<StatePart, Status>>;

    async fn get_state(
        &self,
        request: Request<GetStateRequest>,
    ) -> Result<Response<Self::GetStateStream>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let (consistency, index) = (request.consistency(), request.at_least_index);
        let state = self.read(consistency, index, deadline).await?;
        let (send, receive) = mpsc::channel(AHEAD);
        // Converting 100 MB of records would hold up the calls of everybody else.
        tokio::task::spawn_blocking(move || {
            convert::parts(&state, |part| send.blocking_send(Ok(part)).is_ok());
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn summary(
        &self,
        request: Request<SummaryRequest>,
    ) -> Result<Response<SummaryResponse>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let (consistency, index) = (request.consistency(), request.at_least_index);
        let state = self.read(consistency, index, deadline).await?;
        Ok(Response::new(convert::summary(&state)))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.roles.require(&request, Role::Reader)?;
        let Ok(permit) = Arc::clone(&self.watches).try_acquire_owned() else {
            return Err(overloaded("the count of watches", 1000));
        };
        let options = watching::options(request.into_inner());
        let watch = self.node.watch_with(options);
        let watch = watch.map_err(|error| watching::refused(&error))?;
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::spawn(watching::tell(watch, send, self.closing.clone(), permit));
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn get_service(
        &self,
        request: Request<proto::GetServiceRequest>,
    ) -> Result<Response<proto::GetServiceResponse>, Status> {
        self.single(request).await
    }

    async fn get_pipeline(
        &self,
        request: Request<proto::GetPipelineRequest>,
    ) -> Result<Response<proto::GetPipelineResponse>, Status> {
        self.single(request).await
    }

    async fn get_sidecar(
        &self,
        request: Request<proto::GetSidecarRequest>,
    ) -> Result<Response<proto::GetSidecarResponse>, Status> {
        self.single(request).await
    }

    async fn get_group(
        &self,
        request: Request<proto::GetGroupRequest>,
    ) -> Result<Response<proto::GetGroupResponse>, Status> {
        self.single(request).await
    }

    async fn partition_owner(
        &self,
        request: Request<proto::PartitionOwnerRequest>,
    ) -> Result<Response<proto::PartitionOwnerResponse>, Status> {
        self.single(request).await
    }

    async fn get_service_checkpoint(
        &self,
        request: Request<proto::GetServiceCheckpointRequest>,
    ) -> Result<Response<proto::GetServiceCheckpointResponse>, Status> {
        self.single(request).await
    }

    async fn list_services(
        &self,
        request: Request<proto::ListServicesRequest>,
    ) -> Result<Response<proto::ListServicesResponse>, Status> {
        self.list(request).await
    }

    async fn list_pipelines(
        &self,
        request: Request<proto::ListPipelinesRequest>,
    ) -> Result<Response<proto::ListPipelinesResponse>, Status> {
        self.list(request).await
    }

    async fn list_sidecars(
        &self,
        request: Request<proto::ListSidecarsRequest>,
    ) -> Result<Response<proto::ListSidecarsResponse>, Status> {
        self.list(request).await
    }

    async fn get_assignments(
        &self,
        request: Request<proto::GetAssignmentsRequest>,
    ) -> Result<Response<proto::GetAssignmentsResponse>, Status> {
        self.list(request).await
    }

    async fn locate_service(
        &self,
        request: Request<proto::LocateServiceRequest>,
    ) -> Result<Response<proto::LocateServiceResponse>, Status> {
        self.list(request).await
    }

    async fn list_groups(
        &self,
        request: Request<proto::ListGroupsRequest>,
    ) -> Result<Response<proto::ListGroupsResponse>, Status> {
        self.list(request).await
    }

    async fn get_source_offsets(
        &self,
        request: Request<proto::GetSourceOffsetsRequest>,
    ) -> Result<Response<proto::GetSourceOffsetsResponse>, Status> {
        self.list(request).await
    }

    async fn get_group_offsets(
        &self,
        request: Request<proto::GetGroupOffsetsRequest>,
    ) -> Result<Response<proto::GetGroupOffsetsResponse>, Status> {
        self.list(request).await
    }

    async fn get_watermarks(
        &self,
        request: Request<proto::GetWatermarksRequest>,
    ) -> Result<Response<proto::GetWatermarksResponse>, Status> {
        self.list(request).await
    }

    async fn get_pipeline_checkpoints(
        &self,
        request: Request<proto::GetPipelineCheckpointsRequest>,
    ) -> Result<Response<proto::GetPipelineCheckpointsResponse>, Status> {
        self.list(request).await
    }
}

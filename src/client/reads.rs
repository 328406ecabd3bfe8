//! Reads, spread over the nodes.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::Client;
use super::error::ClientError;
use super::leader::is_final;
use super::propose::{GRACE, patience, pause, request};
use crate::node::ReadConsistency;
use crate::proto::router_client::RouterClient;
use crate::proto::{Consistency, GetStateRequest, StateRecord, SummaryRequest, SummaryResponse};

/// The whole state at one index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateAt {
    /// The entry that it reflects.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its log time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// By section, in key order.
    pub records: Vec<StateRecord>,
}

/// Larger messages of a state are no messages of a node.
const MAX_PART: usize = 8 << 20;

impl Client {
    /// How much there is of everything, with the digest; from any node.
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn summary(
        &self,
        consistency: ReadConsistency,
    ) -> Result<SummaryResponse, ClientError> {
        let (consistency, at_least_index) = asked(consistency);
        self.at_any(|channel, patience| async move {
            let message = SummaryRequest {
                at_least_index,
                consistency: consistency as i32,
            };
            let mut router = RouterClient::new(channel);
            let answer = router.summary(request(message, patience)).await?;
            Ok(answer.into_inner())
        })
        .await
    }

    /// The whole state; from any node.
    ///
    /// # Errors
    /// If no node answered in time, or one refuses the call.
    pub async fn state(&self, consistency: ReadConsistency) -> Result<StateAt, ClientError> {
        let (consistency, at_least_index) = asked(consistency);
        self.at_any(|channel, patience| async move {
            let message = GetStateRequest {
                at_least_index,
                consistency: consistency as i32,
            };
            let mut router = RouterClient::new(channel).max_decoding_message_size(MAX_PART);
            let parts = router.get_state(request(message, patience)).await?;
            let (mut parts, mut state) = (parts.into_inner(), StateAt::default());
            while let Some(mut part) = parts.message().await? {
                (state.index, state.term, state.time_ms) = (part.index, part.term, part.time_ms);
                state.records.append(&mut part.records);
            }
            Ok(state)
        })
        .await
    }

    /// Asks one node after the other until one answers.
    pub(super) async fn at_any<T, F>(
        &self,
        call: impl Fn(Channel, Duration) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let asked = self.at_one_of(self.until(), call).await;
        asked.map(|(answer, _)| answer)
    }

    /// The same; also says which node answered.
    pub(super) async fn at_one_of<T, F>(
        &self,
        until: Instant,
        call: impl Fn(Channel, Duration) -> F,
    ) -> Result<(T, String), ClientError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let nodes = &self.inner.nodes;
        let mut why = String::new();
        while Instant::now() < until {
            let endpoint = nodes.next();
            let patience = patience(until, true);
            let tried = async {
                let channel = nodes.channel(&endpoint).await;
                call(channel.map_err(Status::unavailable)?, patience).await
            };
            match tokio::time::timeout(patience + GRACE, tried).await {
                Ok(Ok(answer)) => return Ok((answer, endpoint)),
                Ok(Err(status)) if is_final(&status) => {
                    return Err(ClientError::Refused(Box::new(status)));
                }
                Ok(Err(status)) => status.message().clone_into(&mut why),
                Err(_) => why = format!("{endpoint} does not answer"),
            }
            nodes.forget(&endpoint);
            pause(until).await;
        }
        Err(ClientError::Deadline { why })
    }
}

pub(super) fn asked(consistency: ReadConsistency) -> (Consistency, u64) {
    match consistency {
        ReadConsistency::Local => (Consistency::Local, 0),
        ReadConsistency::AtLeast(index) => (Consistency::AtLeastIndex, index),
        ReadConsistency::Lease => (Consistency::Lease, 0),
        ReadConsistency::Linearizable => (Consistency::Linearizable, 0),
    }
}

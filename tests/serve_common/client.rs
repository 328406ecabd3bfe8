//! A caller of a cluster of processes.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::{Duration, Instant};

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{Client, ClientOptions};
use conveyor_raft::grpc::{EdgeFiles, EdgeIdentity, connect, detail};
use conveyor_raft::proto::cluster_client::ClusterClient;
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{
    Certainty, NotLeader, OutcomeUnknown, ProposeRequest, ProposeResponse, StatusRequest,
    StatusResponse,
};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::serve_common::{PATIENCE, Site};

/// An operator's certificate.
pub(crate) fn operator(site: &Site) -> EdgeIdentity {
    let certs = site.path("certs");
    let files = EdgeFiles {
        ca: certs.join("client-ca.pem"),
        cert: certs.join("clients/operator.pem"),
        key: certs.join("clients/operator.key"),
        crl: Some(certs.join("client-ca.crl")),
    };
    EdgeIdentity::load(&files).expect("operator")
}

/// The crate's own client of all nodes.
pub(crate) fn library(site: &Site, deadline: Duration) -> Client {
    let endpoints = (1..=site.ports.len() as u64).map(|node| site.endpoint(node));
    let mut options = ClientOptions::new(endpoints, Some(operator(site)));
    options.deadline = deadline;
    Client::new(options).expect("a client")
}

/// What a caller knows of a command.
pub(crate) enum Fate {
    Applied(Box<ProposeResponse>),
    /// It may have been applied.
    Unknown,
}

/// Sends one command after the other to whoever leads, as a client should.
pub(crate) struct Caller {
    endpoints: Vec<String>,
    identity: EdgeIdentity,
    current: Option<RouterClient<Channel>>,
    hint: Option<String>,
    next: usize,
}

impl Caller {
    pub(crate) fn new(site: &Site) -> Self {
        Self {
            endpoints: (1..=site.ports.len() as u64)
                .map(|node| site.endpoint(node))
                .collect(),
            identity: operator(site),
            current: None,
            hint: None,
            next: 0,
        }
    }

    /// From now on it asks these nodes only.
    pub(crate) fn only(&mut self, site: &Site, nodes: &[u64]) {
        self.endpoints = nodes.iter().map(|node| site.endpoint(*node)).collect();
    }

    /// Proposes until the command is in a log, and never again after it may be.
    pub(crate) async fn propose(&mut self, command: RouterCommand) -> Fate {
        let give_up = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < give_up, "no leader took the command");
            let Some(mut router) = self.router().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let mut request = Request::new(ProposeRequest {
                command: Some(command.clone().into()),
                ..ProposeRequest::default()
            });
            request.set_timeout(Duration::from_secs(5));
            match router.propose(request).await {
                Ok(response) => return Fate::Applied(Box::new(response.into_inner())),
                Err(status) if self.may_retry(&status) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(_) => {
                    self.current = None;
                    return Fate::Unknown;
                }
            }
        }
    }

    /// Only what certainly never entered a log may be sent again.
    fn may_retry(&mut self, status: &Status) -> bool {
        if let Some(hint) = detail::<NotLeader>(status) {
            self.current = None;
            self.hint = Some(hint.leader_endpoint).filter(|endpoint| !endpoint.is_empty());
            return true;
        }
        if let Some(unknown) = detail::<OutcomeUnknown>(status) {
            assert_eq!(unknown.certainty(), Certainty::Unknown);
        }
        false
    }

    async fn router(&mut self) -> Option<RouterClient<Channel>> {
        if self.current.is_none() {
            let endpoint = self.hint.take().unwrap_or_else(|| {
                self.next += 1;
                self.endpoints[self.next % self.endpoints.len()].clone()
            });
            self.current = self.client(&endpoint).await;
        }
        self.current.clone()
    }

    pub(crate) async fn client(&self, endpoint: &str) -> Option<RouterClient<Channel>> {
        let channel = connect(endpoint, Some(&self.identity)).await.ok()?;
        Some(RouterClient::new(channel))
    }

    pub(crate) async fn status(&self, endpoint: &str) -> Option<StatusResponse> {
        let channel = connect(endpoint, Some(&self.identity)).await.ok()?;
        let mut request = Request::new(StatusRequest {});
        request.set_timeout(Duration::from_secs(2));
        let status = ClusterClient::new(channel).status(request).await;
        Some(status.ok()?.into_inner())
    }

    /// Waits until all nodes answer.
    pub(crate) async fn reachable(&self) {
        let give_up = Instant::now() + PATIENCE;
        for endpoint in &self.endpoints {
            while self.status(endpoint).await.is_none() {
                assert!(Instant::now() < give_up, "{endpoint} does not answer");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Who leads by its own account, once somebody does.
    pub(crate) async fn leader(&self) -> u64 {
        let give_up = Instant::now() + PATIENCE;
        loop {
            for endpoint in &self.endpoints {
                if let Some(status) = self.status(endpoint).await
                    && status.leader_id == status.node_id
                {
                    return status.node_id;
                }
            }
            assert!(Instant::now() < give_up, "nobody leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all nodes have applied `index` and stand at one index with one digest.
    pub(crate) async fn agree(&self, index: u64) -> StatusResponse {
        let give_up = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while Instant::now() < give_up {
            seen.clear();
            for endpoint in &self.endpoints {
                seen.extend(self.status(endpoint).await);
            }
            let all = seen.len() == self.endpoints.len();
            let same = seen
                .windows(2)
                .all(|two| two[0].applied_index == two[1].applied_index);
            if all && same && seen[0].applied_index >= index {
                let digests: Vec<_> = seen.iter().map(|status| &status.digest).collect();
                assert!(
                    digests.windows(2).all(|two| two[0] == two[1]),
                    "{digests:?}"
                );
                return seen.swap_remove(0);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the nodes did not come together: {seen:#?}");
    }
}

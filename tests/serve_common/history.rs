//! What a caller of a cluster of processes was answered, and whether the cluster still has it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;

use conveyor_raft::RouterCommand;
use conveyor_raft::proto::state_record::Record;
use conveyor_raft::proto::{GetStateRequest, ProposeResponse};
use conveyor_raft::state_machine::LocalService;

use crate::client::{Caller, Fate};
use crate::serve_common::Site;

const PIPELINE: &str = "counter";
/// Command `n`: even ones register a sidecar that no other does, odd ones change a pipeline, whose
/// version counts how often they did.
fn command(n: u64) -> RouterCommand {
    match n % 2 {
        0 => RouterCommand::register_sidecar(
            format!("sidecar-{n:05}"),
            "10.0.0.1:50053",
            Vec::<LocalService>::new(),
        ),
        _ => RouterCommand::UpdatePipeline {
            pipeline_id: PIPELINE.into(),
            config: n.to_le_bytes().into(),
            expected_version: None,
        },
    }
}

/// What was answered, and what was not.
#[derive(Default)]
pub(crate) struct History {
    next: u64,
    pub(crate) acknowledged: BTreeMap<u64, ProposeResponse>,
    unknown: Vec<u64>,
}

impl History {
    /// With the pipeline that the commands change.
    pub(crate) async fn begin(caller: &mut Caller) -> Self {
        let create = RouterCommand::CreatePipeline {
            pipeline_id: PIPELINE.into(),
            name: String::new(),
            config: Vec::new(),
        };
        // Made twice it is one; an outcome may be unknown while the nodes elect their first leader.
        for _ in 0..10 {
            if let Fate::Applied(_) = caller.propose(create.clone()).await {
                return Self::default();
            }
        }
        panic!("the pipeline cannot be made");
    }

    pub(crate) async fn send(&mut self, caller: &mut Caller) {
        let n = self.next;
        self.next += 1;
        match caller.propose(command(n)).await {
            Fate::Applied(response) => {
                assert!(!response.unchanged, "command {n} was applied before");
                self.acknowledged.insert(n, *response);
            }
            Fate::Unknown => self.unknown.push(n),
        }
    }

    pub(crate) async fn send_many(&mut self, caller: &mut Caller, count: u64) {
        for _ in 0..count {
            self.send(caller).await;
        }
    }

    /// Commands that may have been applied, or not.
    pub(crate) fn unknown(&self) -> usize {
        self.unknown.len()
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.acknowledged
            .values()
            .next_back()
            .map_or(0, |response| response.index)
    }

    /// All that the caller knows of agree, and each of these nodes has what was answered.
    pub(crate) async fn check_all(
        &self,
        site: &Site,
        caller: &Caller,
        nodes: impl IntoIterator<Item = u64>,
    ) {
        caller.agree(self.last_index()).await;
        for node in nodes {
            let (sidecars, version) = state(site, caller, node, self.last_index()).await;
            self.check(&sidecars, version);
        }
    }

    /// No acknowledged command is missing, none came twice or in another order.
    fn check(&self, sidecars: &BTreeMap<String, u64>, version: u64) {
        let acknowledged = self.acknowledged.values();
        let indexes: Vec<_> = acknowledged.map(|response| response.index).collect();
        assert!(
            indexes.is_sorted_by(|a, b| a < b),
            "order of indexes: {indexes:?}"
        );
        for (n, response) in self.acknowledged.iter().filter(|(n, _)| *n % 2 == 0) {
            let revision = sidecars.get(&format!("sidecar-{n:05}"));
            assert_eq!(
                revision,
                Some(&response.index),
                "command {n}: missing, or came twice"
            );
        }
        let known = |name: &str| {
            let n: u64 = name.trim_start_matches("sidecar-").parse().expect("number");
            self.acknowledged.contains_key(&n) || self.unknown.contains(&n)
        };
        assert!(
            sidecars.keys().all(|name| known(name)),
            "a sidecar nobody registered"
        );

        // Each change counts one up; those of unknown outcome did so once or never.
        let changes = |n: &&u64| **n % 2 == 1;
        let sure = self.acknowledged.keys().filter(changes).count() as u64;
        let unsure = self.unknown.iter().filter(changes).count() as u64;
        assert!(
            (1 + sure..=1 + sure + unsure).contains(&version),
            "version {version} after {sure} changes and {unsure} of unknown outcome"
        );
        let mut last = 1;
        for (n, response) in self.acknowledged.iter().filter(|(n, _)| *n % 2 == 1) {
            let version = response.answer.as_ref().and_then(|answer| answer.version);
            let version = version.expect("version");
            assert!(
                version > last,
                "command {n}: version {version} after {last}"
            );
            last = version;
        }
    }
}

/// The sidecars with their revisions, and the version of the pipeline, on one node.
async fn state(
    site: &Site,
    caller: &Caller,
    node: u64,
    index: u64,
) -> (BTreeMap<String, u64>, u64) {
    let mut router = caller
        .client(&site.endpoint(node))
        .await
        .expect("reachable");
    let request = GetStateRequest {
        at_least_index: index,
        ..GetStateRequest::default()
    };
    let mut parts = router.get_state(request).await.expect("state").into_inner();
    let (mut sidecars, mut version) = (BTreeMap::new(), 0);
    while let Some(part) = parts.message().await.expect("part") {
        for record in part.records {
            match record.record {
                Some(Record::Sidecar(sidecar)) => {
                    sidecars.insert(sidecar.sidecar_id, sidecar.revision);
                }
                Some(Record::Pipeline(pipeline)) => version = pipeline.version,
                _ => {}
            }
        }
    }
    (sidecars, version)
}

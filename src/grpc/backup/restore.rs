//! Restoring: a check into a state that nobody uses, or a blank node that becomes the first member of
//! another cluster.

use tonic::{Code, Status};

use crate::backup::{Listed, RestoreError, Verified, Waiting, restored_directory};
use crate::node::recover::{NewCluster, RecoverError};
use crate::proto::{RestoreSnapshotRequest, RestoreSnapshotResponse};
use crate::state_machine::{RouterStateMachine, StateMachine};

use super::{BackupServiceImpl, blocking, invalid, metadata, parse_id};

impl BackupServiceImpl {
    pub(super) async fn restore(
        &self,
        request: RestoreSnapshotRequest,
        caller: &str,
    ) -> Result<RestoreSnapshotResponse, Status> {
        let id = parse_id(&request.snapshot_id)?;
        let waiting = match request.validate_only {
            true => None,
            false => Some(self.target(&request.target_cluster_id)?),
        };
        let (store, name) = (self.store.clone(), id.clone());
        let verified = blocking(move || store.verify(&name, RouterStateMachine::new())).await?;
        let view = verified.machine.view();
        let mut answer = RestoreSnapshotResponse {
            snapshot: Some(metadata(Listed {
                id: id.clone(),
                size: verified.size,
                info: crate::backup::SnapshotInfo {
                    sidecars: view.sidecars.len() as u64,
                    groups: view.groups.len() as u64,
                    ..verified.info.clone()
                },
                compression: verified.compression,
            })),
            service_count: view.services.len() as u64,
            pipeline_count: view.pipelines.len() as u64,
            restored: false,
            incarnation: String::new(),
        };
        let Some(waiting) = waiting else {
            return Ok(answer);
        };
        tracing::info!(caller, snapshot = %id, "audit: RestoreSnapshot");
        let me = self.found(verified, waiting).await?;
        answer.restored = true;
        answer.incarnation = me.incarnation.to_string();
        tracing::info!(snapshot = %id, %me, "restored; the node starts anew as the first member");
        self.restored.send_replace(Some(me));
        Ok(answer)
    }

    /// Whether this node may become the first member of the cluster that the caller names.
    fn target(&self, cluster: &str) -> Result<Waiting, Status> {
        let own = self.node.status().cluster.to_string();
        if cluster != own {
            let why = format!("this node's certificates are for cluster {own}: name it in full");
            return Err(invalid("target_cluster_id", why));
        }
        let blank = self.node.membership().is_none() && self.node.status().last.index == 0;
        if !blank {
            return Err(Status::failed_precondition(
                "this node belongs to a cluster and keeps its state: restore on a node that waits with \
                 an empty directory and certificates of a new cluster, or offline, by \
                 `conveyor-raft backup restore`",
            ));
        }
        self.waiting.clone().ok_or_else(|| {
            Status::failed_precondition(
                "this program restores offline only, by `conveyor-raft backup restore`",
            )
        })
    }

    async fn found(
        &self,
        verified: Verified<RouterStateMachine>,
        waiting: Waiting,
    ) -> Result<crate::types::ReplicaId, Status> {
        let new = NewCluster {
            peer_address: Some(waiting.peer_address),
            client_endpoint: Some(waiting.client_endpoint),
            ..NewCluster::new(self.node.status().cluster, self.node.id())
        };
        let into = restored_directory(&waiting.data_dir);
        let made = tokio::task::spawn_blocking(move || verified.found(&into, &new)).await;
        let made = made.map_err(|error| Status::internal(error.to_string()))?;
        made.map_err(|error| refused(&error))
    }
}

fn refused(error: &RestoreError) -> Status {
    let code = match error {
        RestoreError::Found(RecoverError::SameCluster(_) | RecoverError::Member(_)) => {
            Code::FailedPrecondition
        }
        RestoreError::Found(RecoverError::Exists(_)) => {
            return Status::aborted(
                "a restore is under way already, or its result waits: restart the node",
            );
        }
        _ => {
            tracing::error!(%error, "restore failed");
            return Status::internal("the new directory cannot be made; the node's log says why");
        }
    };
    Status::new(code, error.to_string())
}

//! Backups that the node makes by itself.

use std::time::{Duration, SystemTime};

use metrics::{counter, gauge};
use tonic::Status;

use crate::backup::{Automatic, Compression};

use super::{BackupServiceImpl, blocking};

/// How often it is looked whether one is due, at least; more often where they are made more often.
const LOOK: Duration = Duration::from_secs(10);
/// And at most; the first look comes this long after the start.
const REST: Duration = Duration::from_millis(200);
const LAST_SUCCESS: &str = "conveyor_raft_backup_last_success_timestamp_seconds";
const FAILURES: &str = "conveyor_raft_backup_failures_total";

impl BackupServiceImpl {
    /// What is to be done without being asked, for ever.
    pub(in crate::grpc) async fn run(self) {
        tokio::join!(self.forget_uploads(), self.make_by_itself());
    }

    /// Uploads that broke off are kept no longer than is set.
    async fn forget_uploads(&self) {
        let look = self.store.limits().keep_uploads / 4;
        loop {
            tokio::time::sleep(look.clamp(REST, LOOK)).await;
            let store = self.store.clone();
            let _ = blocking(move || {
                store.forget_old_uploads();
                Ok(())
            })
            .await;
        }
    }

    /// Makes backups, if that is set.
    async fn make_by_itself(&self) {
        let Some(automatic) = self.automatic else {
            return;
        };
        let node = self.node.id().to_string();
        // Told from the start: an alert on what never came would not be one.
        let failures = counter!(FAILURES, "node" => node);
        failures.increment(0);
        let look = automatic.every.clamp(REST, LOOK);
        let mut rest = REST;
        loop {
            tokio::time::sleep(rest).await;
            rest = match self.make_if_due(automatic).await {
                Ok(wait) => wait.unwrap_or(look).clamp(REST, LOOK),
                Err(status) => {
                    failures.increment(1);
                    tracing::error!(
                        why = status.message(),
                        dir = %self.store.dir().display(),
                        again_in_s = look.as_secs_f64(),
                        "no backup was made by itself; see that the directory of [backup] is there, can be \
                         written and has room"
                    );
                    look
                }
            };
        }
    }

    /// When the next is due; none while there is nothing new to keep.
    async fn make_if_due(&self, automatic: Automatic) -> Result<Option<Duration>, Status> {
        let index = self.node.applied_index();
        let store = self.store.clone();
        let due = blocking(move || automatic.due(&store, index, SystemTime::now())).await?;
        match due {
            Some(wait) if wait.is_zero() => {}
            later => return Ok(later),
        }
        let applied = self.node.applied();
        let id = Automatic::name(applied.id.index, applied.time_us);
        let id = id.map_err(|error| Status::internal(error.to_string()))?;
        self.create(Some(id), Compression::Zstd).await?;
        if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            gauge!(LAST_SUCCESS, "node" => self.node.id().to_string()).set(now.as_secs() as f64);
        }
        let store = self.store.clone();
        let gone = blocking(move || automatic.prune(&store)).await?;
        for snapshot in gone {
            tracing::info!(%snapshot, "an old backup was removed");
        }
        Ok(Some(automatic.every))
    }
}
